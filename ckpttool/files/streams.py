"""Bytes in order of offset through one buffer: into a file, and once more against what the file holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from ckpttool.values.errors import MalformedCheckpoint

# Read, summed and compared while it is in the L2 cache; more made no system call cheaper.
BLOCK_NBYTES = 512 << 10
# Of a write of 1 MiB and more Linux asks the page cache for folios that large, and looking for them can take
# five times as long as the copy (ext4 on 6.18); it never does for what is far below.
WRITE_NBYTES = 256 << 10
# Written back while the rest is still being copied: fsync at the end then has nothing left to wait for.
_WRITE_BACK_NBYTES = 8 << 20


class Stream:
    """Bytes in order of offset, collected in one buffer that ``_take`` gets whenever it is full."""

    def __init__(self) -> None:
        self._buffer = bytearray(BLOCK_NBYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._offset = 0

    def room(self, nbytes: int) -> memoryview:
        """Up to ``nbytes`` of the buffer, now part of the stream, for the caller to fill at once."""
        if self._filled == len(self._buffer):
            self.flush()
        start = self._filled
        self._filled = min(len(self._buffer), start + nbytes)
        return self._view[start : self._filled]

    def append(self, data: bytes | memoryview) -> None:
        """Append a copy of ``data``."""
        rest = memoryview(data)
        while rest:
            room = self.room(len(rest))
            room[:] = rest[: len(room)]
            rest = rest[len(room) :]

    def flush(self) -> None:
        """Hand over what was collected."""
        if self._filled:
            self._take(self._view[: self._filled], self._offset)
            self._offset += self._filled
            self._filled = 0

    def _take(self, data: memoryview, offset: int) -> None:
        raise NotImplementedError


class Writer(Stream):
    """Writes the stream to a file."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._started = 0  # up to where write-back has begun

    def _take(self, data: memoryview, offset: int) -> None:
        write_at(self._fd, data, offset)
        end = offset + len(data)
        if end - self._started >= _WRITE_BACK_NBYTES and hasattr(os, "posix_fadvise"):
            # Linux starts to write dirty pages out here, and keeps them: only clean ones go (mm/fadvise.c).
            with contextlib.suppress(OSError):  # advice
                os.posix_fadvise(self._fd, self._started, end - self._started, os.POSIX_FADV_DONTNEED)
            self._started = end


class Checker(Stream):
    """Compares the stream with a file."""

    def __init__(self, fd: int, name: str, hash_bytes: Callable[[bytearray], None] | None) -> None:
        super().__init__()
        self._fd = fd
        self._name = name
        self._hash = hash_bytes
        self._actual = bytearray(BLOCK_NBYTES)

    def read_all(self, nbytes: int) -> None:
        """Hash the file without comparing it."""
        for offset in range(0, nbytes, BLOCK_NBYTES):
            self._read(min(BLOCK_NBYTES, nbytes - offset), offset)

    def _take(self, data: memoryview, offset: int) -> None:
        # bytearray == memoryview is memcmp; memoryview == memoryview compares item by item, 40 times slower.
        if self._read(len(data), offset) != data:
            raise MalformedCheckpoint(
                "what was written reads back otherwise: the source changed, or a disk is failing",
                name=self._name,
                byte_offset=offset,
            )

    def _read(self, nbytes: int, offset: int) -> bytearray:
        actual = self._actual if nbytes == len(self._actual) else bytearray(nbytes)
        view = memoryview(actual)
        while view:
            got = os.preadv(self._fd, [view], offset)
            if not got:
                raise MalformedCheckpoint("the file that was written is cut short", name=self._name)
            view = view[got:]
            offset += got
        if self._hash is not None:
            self._hash(actual)
        return actual


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data``, ``WRITE_NBYTES`` at a time; a write may be short.

    Raises:
        OSError: as the file system says.
    """
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest[:WRITE_NBYTES], offset)
        rest = rest[written:]
        offset += written


Crc32 = Callable[[bytes | bytearray | memoryview, int], int]


def load_crc32() -> Crc32:
    """CRC-32 of the fastest library that is installed: ``isal_zlib.crc32`` if there is one, else zlib's.

    zlib does 1 to 6 GB/s, depending on the zlib it was built with; ``isal`` (Intel's library) does 10 GB/s
    and more. It is installed where it has wheels: CPython on x86-64 and arm64. Both give the same numbers.
    """
    try:
        from isal.isal_zlib import crc32 as fast  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from zlib import crc32

        return crc32
    found: Crc32 = fast
    return found
