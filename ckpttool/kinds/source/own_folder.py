"""The user's own cache folder: files in it are taken, and left, by nobody else and through no link."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator

from ckpttool.kinds.source.files import read_file

_MOST_FILES = 64  # the ones written longest ago go
_NOT_FOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NOT_FOLLOWED
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | _NOT_FOLLOWED


def cache_folder() -> str | None:
    """Where caches lie; None where there is no home for them, or none is wanted."""
    if os.environ.get("CKPTTOOL_NO_CACHE"):
        return None
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "ckpttool", "source") if os.path.isabs(base) else None


def read_own(path: str, name: str, most: int) -> bytes:
    """A file of the folder, which nobody else may have written.

    Raises:
        OSError: there is none, or it is not the user's own, or it has more than ``most`` bytes.
    """
    with _opened(path) as folder:
        data, status = read_file(name, most, _NOT_FOLLOWED, folder)
    if not _is_own(status):
        raise OSError("not the user's own file")
    return data


def write_own(path: str, name: str, data: bytes) -> None:
    """Give a file of the folder new content, all of it or none; the oldest of many files go.

    Raises:
        OSError: it cannot be written, or the folder is not the user's own.
    """
    for folder in (os.path.dirname(path), path):  # each is the last of its path, which alone gets the mode
        os.makedirs(folder, 0o700, exist_ok=True)
    partial = f".{name}-{os.getpid()}-{time.time_ns():x}"
    with _opened(path) as opened:
        with open(os.open(partial, _WRITE, 0o600, dir_fd=opened), "wb") as file:
            try:
                file.write(data)
                file.flush()
                os.replace(partial, name, src_dir_fd=opened, dst_dir_fd=opened)
            except BaseException:
                os.unlink(partial, dir_fd=opened)
                raise
        for old in sorted(os.listdir(opened), key=lambda name: _written(name, opened))[:-_MOST_FILES]:
            os.unlink(old, dir_fd=opened)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor of the folder, if it, and the one above, are no links and nobody else's."""
    above = os.lstat(os.path.dirname(path))
    folder = os.open(path, _READ)
    try:
        if not stat.S_ISDIR(above.st_mode) or not _is_own(above) or not _is_own(os.fstat(folder)):
            raise OSError("not the user's own folder")
        yield folder
    finally:
        os.close(folder)


def _is_own(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _written(name: str, folder: int) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
