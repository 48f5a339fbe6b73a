"""A digest of what a numpy array in a pickle holds: its type, shape, order and bytes, or the objects in it.

Nothing is built: the digest is of the calls that would make the array, with their arguments and states, so
two arrays have one digest if they were pickled alike. One that holds a tensor has none.
"""

from __future__ import annotations

import hashlib

from ckpttool.pickles.nodes import Call, DictNode, Global, Node, SetNode

_MOST_STEPS = 1_000_000  # nodes that are looked at, in all arrays of a file
_MOST_DEPTH = 40
_LONG = 64  # bytes or characters; longer ones are digested once, however often they are shared


class ContentDigests:
    """Digests of arrays of one file; what they share is digested once."""

    def __init__(self) -> None:
        self.steps = 0
        self.long: dict[int, str] = {}  # digests of long text and bytes, by identity

    def of(self, call: Call) -> str:
        """The SHA-256 of ``call`` as hexadecimal digits; empty where it cannot be told."""
        text: list[str] = []
        if not self._write(call, text, 0):
            return ""
        return hashlib.sha256("\n".join(text).encode("utf-8", "surrogatepass")).hexdigest()

    def _write(self, node: Node, text: list[str], depth: int) -> bool:
        self.steps += 1
        if self.steps > _MOST_STEPS or depth > _MOST_DEPTH:
            return False
        if isinstance(node, (bytes, str)):
            text.append(f"{type(node).__name__} {repr(node) if len(node) <= _LONG else self._long(node)}")
            return True
        if node is None or isinstance(node, (bool, int, float)):
            text.append(f"{type(node).__name__} {node!r}")
            return True
        if isinstance(node, Global):
            text.append(f"global {node.full_name!r}")
            return True
        if isinstance(node, Call):
            held = (node.function, node.args, node.states, node.appended, node.items)
        elif isinstance(node, (list, tuple)):
            held = tuple(node)
        elif isinstance(node, (DictNode, SetNode)):
            held = tuple(node.items)
        else:
            return False
        text.append(f"{type(node).__name__} of {len(held)}")
        return all(self._write(item, text, depth + 1) for item in held)

    def _long(self, node: bytes | str) -> str:
        known = self.long.get(id(node))
        if known is None:
            raw = node if isinstance(node, bytes) else node.encode("utf-8", "surrogatepass")
            known = self.long[id(node)] = hashlib.sha256(raw).hexdigest()
        return known
