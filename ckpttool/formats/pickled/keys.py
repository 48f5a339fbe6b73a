"""Keys of mappings in a pickle -> steps of a path."""

from __future__ import annotations

from collections.abc import Iterable

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.budget import WalkBudget
from ckpttool.formats.pickled.nodes import summarize, type_name
from ckpttool.formats.pickled.plain import PlainReader
from ckpttool.pickles.nodes import Node
from ckpttool.values.checkpoint import Key, OddKey
from ckpttool.values.errors import LimitExceeded

_LONG_KEY = 256  # longer keys are counted: their paths are written out for every entry below them
_MAX_KEY_SCALARS = 100  # a tuple that is a key is written out up to here


class KeyReader:
    """Makes keys of one pickle; two odd ones stay two."""

    def __init__(self, plain: PlainReader, budget: WalkBudget, limits: Limits) -> None:
        self._plain = plain
        self._budget = budget
        self._limits = limits
        self._odd_keys = 0

    def children(self, items: Iterable[tuple[Node, Node]]) -> list[tuple[Key, Node]]:
        """Children of a mapping; a repeated key replaces the value in place, as in a dict."""
        children: dict[Key, Node] = {}
        longest = self._limits.name_nbytes
        for key, value in items:
            if type(key) is not str:
                key = self.key(key)
            elif len(key) > _LONG_KEY:
                if len(key) > longest:
                    raise LimitExceeded("length of a key", limit=longest, actual=len(key))
                self._budget.has_long_keys = True
                self._budget.count_text(len(key))
            children[key] = value
        return list(children.items())

    def key(self, node: Node) -> Key:
        """A mapping key that is not a str, as a step of a path."""
        if type(node) is int:
            return node
        plain, size = self._plain.sized(node, 0)
        if 0 <= size <= _MAX_KEY_SCALARS and not isinstance(plain, str):
            return OddKey(repr(plain), literal=True)
        # Two keys of one class must stay two keys.
        self._odd_keys += 1
        return OddKey(f"<{type_name(node)} {summarize(node)} #{self._odd_keys}>", literal=False)

    def text(self, node: Node) -> str:
        """A module or parameter name as text."""
        return node if type(node) is str else str(self.key(node))
