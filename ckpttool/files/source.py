"""Random access to bytes, whatever holds them."""

from __future__ import annotations

from typing import Protocol

from ckpttool.values.checkpoint import FileInfo
from ckpttool.values.errors import MalformedCheckpoint


class ByteSource(Protocol):
    """Random access to bytes: a file, a range of a file, later a remote object."""

    @property
    def name(self) -> str:
        """The file that holds the bytes, for messages and ``StorageRef.file``."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    @property
    def base(self) -> int:
        """Where byte 0 of this source lies in the file ``name``."""

    @property
    def version(self) -> FileInfo:
        """What the file was when it was opened, and must be as long as it is read."""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes from ``offset``.

        Raises:
            MalformedCheckpoint: the range leaves the source.
        """

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``offset`` on.

        Raises:
            MalformedCheckpoint: the source ends before.
        """


class RangeSource:
    """Bytes ``offset`` to ``offset + size`` of another source, e.g. a zip inside a zip."""

    def __init__(self, parent: ByteSource, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > parent.size:
            raise MalformedCheckpoint("a range lies outside the file", byte_offset=offset, path=parent.name)
        self._parent = parent
        self._offset = offset
        self.name, self.version = parent.name, parent.version
        self.size = size
        self.base = parent.base + offset

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """See ``ByteSource.read_at``."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise MalformedCheckpoint("a range lies outside its container", byte_offset=self.base + offset)
        return self._parent.read_at(self._offset + offset, nbytes)

    def read_into(self, offset: int, target: memoryview) -> None:
        """See ``ByteSource.read_into``."""
        target[:] = self.read_at(offset, len(target))
