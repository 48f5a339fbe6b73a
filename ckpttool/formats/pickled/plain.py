"""Leaves of an inert tree that are shown as they are: scalars, strings, and lists of them."""

from __future__ import annotations

from ckpttool.formats.pickled.python_objects import plain_of_call, without_type_tag
from ckpttool.pickles.nodes import Call, Node
from ckpttool.values.checkpoint import Plain, PlainList

SMALL_VALUE = 4  # values of at most as many scalars are not asked whether they are shared
_TEXT_PIECE = 64  # characters that count as one scalar
_MAX_PLAIN_DEPTH = 4  # a list of lists of numbers is one value; deeper ones are containers
_MAX_NESTED_SCALARS = 10_000  # numbers in one nested list
_MAX_FLAT_SCALARS = 12_000_000  # in a flat one: as many as a pickle has opcodes; more only by sharing text


class PlainReader:
    """Scalars, strings and (nested) lists of them as values.

    Results for nested lists are kept by identity, with their expanded size: lists that share their
    items ("billion laughs") are judged once each, and refused when they would print as too much.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], tuple[Plain, int]] = {}  # by identity and depth

    def read(self, node: Node) -> tuple[Plain, bool]:
        """(value, True) if ``node`` is plain, else (None, False)."""
        if node is None or isinstance(node, (bool, int, float, str)):
            return node, True
        plain, size = self.sized(node, 0)
        return plain, size >= 0

    def sized(self, node: Node, depth: int) -> tuple[Plain, int]:
        """(value, number of scalars in it), or (None, -1). Long text counts as several scalars."""
        if node is None or isinstance(node, (bool, int, float)):
            return node, 1
        if isinstance(node, (str, bytes)):
            return node, 1 + len(node) // _TEXT_PIECE
        if isinstance(node, Call):
            untagged = without_type_tag(node)
            if untagged is not node and depth < _MAX_PLAIN_DEPTH:
                return self.sized(untagged, depth + 1)
            return self.of_call(node)
        if not isinstance(node, (list, tuple)) or depth >= _MAX_PLAIN_DEPTH:
            return None, -1
        # By depth, too: what is too deep here may stand higher elsewhere.
        known = self.known.get((id(node), depth))
        if known is None:
            known, nested = self.of_list(node, depth)
            if nested or len(node) > SMALL_VALUE:
                self.known[id(node), depth] = known
        return known

    def of_list(self, node: Node, depth: int) -> tuple[tuple[Plain, int], bool]:
        """``sized`` of a list or tuple, and whether a list stands in it."""
        items, total, nested = [], 0, False
        for item in node:
            plain, size = self.sized(item, depth + 1)
            if size < 0:
                return (None, -1), nested
            items.append(plain)
            total += size
            nested = nested or isinstance(plain, tuple)
            if total > (_MAX_NESTED_SCALARS if nested else _MAX_FLAT_SCALARS):
                return (None, -1), nested
        plain_items: Plain = PlainList(items) if isinstance(node, list) else tuple(items)
        return (plain_items, total), nested

    def of_call(self, node: Call) -> tuple[Plain, int]:
        """``sized`` of a call that stands for a plain value; kept, because it makes a new one."""
        known = self.known.get((id(node), 0))
        if known is None:
            plain, is_plain = plain_of_call(node)
            if not is_plain:
                return None, -1
            known = plain, 1 + len(plain) // _TEXT_PIECE if isinstance(plain, (bytes, tuple)) else 1
            self.known[id(node), 0] = known
        return known
