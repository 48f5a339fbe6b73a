"""What a folder holds by name, within bounds, and which of its files may be opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from ckpttool.values.words import shorten

_MAX_LISTED = 100_000  # names; a folder of images is not searched for a checkpoint


class Listing(NamedTuple):
    """Names in a folder, sorted; ``files`` is all that is not a folder (links count as what they lead to)."""

    path: str
    files: tuple[str, ...]
    folders: tuple[str, ...]

    def at(self, name: str) -> str:
        """The path of ``name`` in the folder."""
        return f"{self.path.rstrip('/')}/{name}"


def list_folder(path: str) -> Listing:
    """The names in a folder.

    Raises:
        LimitExceeded: there are more than a folder of checkpoints has.
        OSError: it cannot be listed.
    """
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(path) as iterator:
        for entry in iterator:
            (folders if _is_folder(entry) else files).append(entry.name)
            if len(files) + len(folders) > _MAX_LISTED:
                what, hint = "number of files in the folder", "name the checkpoint itself"
                raise LimitExceeded(what, limit=_MAX_LISTED, path=path, hint=hint)
    return Listing(path, tuple(sorted(files)), tuple(sorted(folders)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle, or where nobody may look
        return False


def resolve_member(folder: str, name: str, said_by: str) -> str:
    """The path of file ``name`` of ``folder``; ``said_by`` is the file that names it, for errors.

    Only plain names are followed, and a link only within the folder or, in a Hugging Face cache,
    from ``snapshots/REVISION`` to ``blobs``. Whether it is a regular file is asked when it is opened.

    Raises:
        MalformedCheckpoint: the name or the link leads out of the folder.
    """
    # A name of more than 255 bytes is one that no file system has.
    if name in ("", ".", "..") or any(char in name for char in "/\\\0") or len(os.fsencode(name)) > 255:
        what, expected = "a shard is not named by a plain file name", "a file of the same folder"
        raise MalformedCheckpoint(what, name=shorten(name), expected=expected, path=said_by)
    path = Listing(folder, (), ()).at(name)
    if Path(path).is_symlink():
        home, target = os.path.realpath(folder), os.path.realpath(path)
        cache, inside_cache, _ = home.rpartition("/snapshots/")
        if not target.startswith(home + "/") and not (
            inside_cache and target.rpartition("/")[0] == f"{cache}/blobs"
        ):
            raise MalformedCheckpoint(
                "a shard is a symbolic link that leaves the folder",
                name=name,
                actual=repr(target),
                path=said_by,
                hint="links are followed inside the folder and in a Hugging Face cache: copy the file here",
            )
    return path
