"""What every writer returns: a file as segments in order, each literal bytes or a piece of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Crcs = Mapping[int, int]
"""CRC-32 of each piece, by its position in the plan."""


class Segment(NamedTuple):
    """Bytes at ``offset`` of the file: ``literal``, or those of the piece at position ``piece``.

    ``late`` is true of a literal that holds checksums of pieces: they are known once those have passed.
    """

    offset: int
    nbytes: int
    literal: bytes = b""
    piece: int = -1
    late: bool = False


class FileLayout(NamedTuple):
    """A file of the destination.

    ``segments`` gives its parts one by one and from the start whenever it is called, with the CRCs of
    pieces that are known: they change late literals, but never a length. Segments follow each other
    without gaps and fill the file.
    """

    name: str
    nbytes: int
    segments: Callable[[Crcs], Iterable[Segment]]
    wants_crcs: bool = False


class SegmentList:
    """Segments of a file without checksums in the making, one after the other."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._nbytes = 0

    def add_literal(self, data: bytes) -> None:
        """Append bytes that are known, one at least."""
        self._segments.append(Segment(self._nbytes, len(data), data))
        self._nbytes += len(data)

    def add_piece(self, piece: int, nbytes: int) -> None:
        """Append a piece of the plan."""
        if nbytes:
            self._segments.append(Segment(self._nbytes, nbytes, piece=piece))
            self._nbytes += nbytes

    def layout(self, name: str) -> FileLayout:
        """The file that they are."""
        return FileLayout(name, self._nbytes, lambda _: self._segments)
