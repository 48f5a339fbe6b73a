"""Checkpoints that are folders, told by the names in them."""

from __future__ import annotations

from typing import cast

from ckpttool.files.folder import list_folder
from ckpttool.formats.base import FolderFormat, Reading
from ckpttool.values.checkpoint import Checkpoint

# The module of each (a ``FolderFormat``), in the order in which they are asked; the last takes all else.
FOLDER_FORMATS: tuple[str, ...] = ("ckpttool.formats.folders.shards",)


def read_folder(path: str, reading: Reading) -> Checkpoint:
    """The checkpoint in a folder.

    Raises:
        UnknownFormat: no checkpoint, or several and nothing to tell which is meant.
        UnsupportedFeature: a layout that is recognised and not read.
        MalformedCheckpoint: a file is missing, leads out of the folder or is malformed.
        OSError: the folder cannot be listed or a file not opened.
    """
    from importlib import import_module

    from ckpttool.formats.validate import validate

    listing = list_folder(path)
    for module in FOLDER_FORMATS:
        format_ = cast(FolderFormat, import_module(module))
        if format_.sniff(listing):
            break
    checkpoint = format_.read(listing, reading)
    if not format_.proves_files:
        validate(checkpoint)
    return checkpoint
