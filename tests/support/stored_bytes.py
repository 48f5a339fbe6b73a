"""Bytes in a file, and how they are read."""

from __future__ import annotations

from pathlib import Path

from ckpttool.values.checkpoint import FileInfo

PREFIX = b"header!"  # an odd offset: storages of legacy files are not aligned
SUFFIX = b"what follows is not the tensor's"


def file_info(path: Path) -> FileInfo:
    status = path.stat()
    return FileInfo.of(str(path), status)
