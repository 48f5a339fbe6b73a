"""Noticing that a file is not what it was when it was opened, and saying which file an error is about.

Size, mtime and inode are compared. A file system that keeps times to a few milliseconds does not tell a
write of equal length within the same tick: nothing short of reading twice would.
"""

from __future__ import annotations

import os
import stat
from types import TracebackType

from ckpttool.checkpoint import FileInfo
from ckpttool.errors import MalformedCheckpoint


class naming:
    """Lets an ``OSError`` of a call that was given a descriptor name ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self._path


def check_path(file: FileInfo) -> None:
    """Hold what now has the file's name to what the file was.

    Raises:
        MalformedCheckpoint: it was written to, replaced or removed.
        OSError: as the file system says.
    """
    try:
        status = os.stat(file.path)
    except FileNotFoundError:
        raise MalformedCheckpoint("the file was removed while it was read", path=file.path) from None
    check_status(file, status)


def check_status(file: FileInfo, status: os.stat_result) -> None:
    """Hold a status to what the file was.

    Raises:
        MalformedCheckpoint: it is that of another file, or the file was written to.
    """
    now = FileInfo.of(file.path, status)
    if now == file:
        return
    if not stat.S_ISREG(status.st_mode):
        raise MalformedCheckpoint("the file was replaced by something else", path=file.path)
    if now.inode != file.inode:
        raise MalformedCheckpoint("the file was replaced by another while it was read", path=file.path)
    if now.nbytes == file.nbytes:
        raise MalformedCheckpoint("the file was written to while it was read", path=file.path)
    raise MalformedCheckpoint(
        "the file changed while it was read",
        expected=f"{file.nbytes:,} bytes",
        actual=f"{now.nbytes:,} bytes",
        path=file.path,
    )
