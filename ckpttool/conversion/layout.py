"""What every writer returns: a file as segments in order, each literal bytes or a piece of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

Crcs = Mapping[int, int]
"""CRC-32 of each piece, by its position in the plan."""


class Segment(NamedTuple):
    """Bytes at ``offset`` of the file: ``literal``, or those of the piece at position ``piece``."""

    offset: int
    nbytes: int
    literal: bytes = b""
    piece: int = -1


class FileLayout(NamedTuple):
    """A file of the destination. Segments follow each other without gaps and fill it.

    ``with_crcs``, if there is one, gives the segments once the CRCs of the pieces are known, one by one and
    from the start whenever it is called; it changes literals only, never their lengths.
    """

    name: str
    nbytes: int
    segments: Sequence[Segment]
    with_crcs: Callable[[Crcs], Iterable[Segment]] | None = None


class SegmentList:
    """Segments in the making, one after the other."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.nbytes = 0

    def add_literal(self, data: bytes) -> None:
        """Append bytes that are known."""
        if data:
            self.segments.append(Segment(self.nbytes, len(data), data))
            self.nbytes += len(data)

    def add_piece(self, piece: int, nbytes: int) -> None:
        """Append a piece of the plan."""
        if nbytes:
            self.segments.append(Segment(self.nbytes, nbytes, piece=piece))
            self.nbytes += nbytes
