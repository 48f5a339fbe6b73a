"""Raw DEFLATE streams (zip method 8) as bytes at an offset, inflated with a running limit."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from ckpttool.values.checkpoint import StorageRef
from ckpttool.values.errors import MalformedCheckpoint
from ckpttool.values.words import plural

# Compressed bytes read, and inflated bytes skipped, at a time.
_PIECE_NBYTES = 256 << 10


class Inflater:
    """The inflated bytes of a storage, forward only; ``position`` is the next of them."""

    def __init__(self, storage: StorageRef, pread_into: Callable[[str, int, memoryview], None]) -> None:
        self.storage = storage
        self.position = 0
        self._pread_into = pread_into
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
        self._next = storage.byte_offset
        self._end = storage.byte_offset + storage.span_nbytes

    def skip_to(self, offset: int) -> None:
        """Inflate and forget up to ``offset``.

        Raises:
            MalformedCheckpoint: the stream is damaged or ends before.
        """
        while self.position < offset:
            self._inflate_some(min(offset - self.position, _PIECE_NBYTES))

    def read_into(self, target: memoryview) -> None:
        """Fill ``target`` from where the stream stands.

        Raises:
            MalformedCheckpoint: the stream is damaged or ends before.
        """
        while len(target):
            data = self._inflate_some(len(target))
            target[: len(data)] = data
            target = target[len(data) :]

    def check_end(self) -> None:
        """Require that the stream ends here, with nothing left over on either side.

        Raises:
            MalformedCheckpoint: it inflates to more, or other bytes follow it.
        """
        if self._pull(1) or not self._zlib.eof or self._next != self._end or self._zlib.unused_data:
            raise self._malformed("the compressed data does not end where it should")

    def _inflate_some(self, limit: int) -> bytes:
        data = self._pull(limit)
        if not data:
            raise self._malformed("the compressed data ends too early")
        self.position += len(data)
        return data

    def _pull(self, limit: int) -> bytes:
        """Up to ``limit`` more bytes; none at the end of the stream."""
        while not self._zlib.eof:
            waiting = self._zlib.unconsumed_tail or self._feed()
            try:
                data = self._zlib.decompress(waiting, limit)
            except zlib.error as error:
                raise self._malformed(f"the compressed data is damaged ({error})") from None
            if data:
                return data
            if not waiting:  # nothing was held back either
                break
        return b""

    def _feed(self) -> bytes:
        buffer = bytearray(min(_PIECE_NBYTES, self._end - self._next))
        self._pread_into(self.storage.file, self._next, memoryview(buffer))
        self._next += len(buffer)
        return bytes(buffer)

    def _malformed(self, what: str) -> MalformedCheckpoint:
        return MalformedCheckpoint(
            what,
            name=self.storage.key,
            expected=plural(self.storage.nbytes, "byte"),
            actual=f"{self.position:,} before that",
            path=self.storage.file,
        )
