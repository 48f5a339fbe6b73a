"""Pickles at the front of a file whose lengths are not written anywhere."""

from __future__ import annotations

from ckpttool.files.source import ByteSource
from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.globals import absorb_following, parse_within
from ckpttool.pickles.nodes import PickleCutOff, PickleTree
from ckpttool.values.checkpoint import Finding
from ckpttool.values.errors import LimitExceeded

_FIRST_WINDOW = 1 << 20
_GROWTH = 8
_MOST_BEHIND = 16 << 20  # bytes behind a pickle that are searched for more pickles


class PickleStream:
    """Reads one pickle after the other, with a window that grows only while a pickle needs it.

    ``position`` is where the next pickle (or what follows the last one) begins in ``source``.
    """

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        self.position = 0
        self._window = b""  # from the source's first byte, so that offsets in trees are absolute

    def next(self) -> PickleTree:
        """The tree of the pickle at ``position``; byte offsets in it count from the source's start.

        Raises:
            MalformedCheckpoint: the source ends inside the pickle, or the pickle is damaged.
            LimitExceeded: the pickle is larger than ``Limits.pickle_nbytes``.
        """
        size = self.source.size
        window_nbytes = max(_FIRST_WINDOW, len(self._window))
        while True:
            wanted = min(window_nbytes, self.limits.pickle_nbytes, size)
            if len(self._window) < wanted:
                self._window = self.source.read_at(0, wanted)
            try:
                tree = parse_within(self.limits, self._window, self.position)
            except PickleCutOff:
                if len(self._window) >= size:
                    raise
                if len(self._window) >= self.limits.pickle_nbytes:
                    raise LimitExceeded("size of a pickle", limit=self.limits.pickle_nbytes) from None
                window_nbytes *= _GROWTH
            else:
                self.position = tree.end
                return tree._replace(base=self.source.base, within="the file")

    def absorb_following(self, tree: PickleTree) -> tuple[Finding, ...]:
        """Add the globals of what stands behind the last pickle to ``tree``, and report it."""
        left = self.source.size - self.position
        behind = self.source.read_at(self.position, min(left, _MOST_BEHIND))
        return absorb_following(tree, behind, left, self.limits)


MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
