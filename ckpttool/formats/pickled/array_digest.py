"""A digest of what a numpy array in a pickle holds: its type, shape, order and bytes, or the objects in it.

Nothing is built: the digest is of the calls that would make the array, with their arguments and states, so
two arrays have one digest if they were pickled alike, by whichever of the protocols 2 to 4. One that holds a
tensor has none.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from ckpttool.formats.pickled.plain import encoded_text, plain_of_call
from ckpttool.pickles.nodes import Call, DictNode, Global, Node, SetNode

_MOST_STEPS = 1_000_000  # nodes that are looked at, in all arrays of a file
_MOST_DEPTH = 40
# What numpy 2 calls otherwise, and means the same by (numpy/_core/).
_RENAMED = {f"numpy._core.{name}": f"numpy.core.{name}" for name in ("multiarray", "numeric")}
_LONG = 64  # bytes or characters; longer ones are digested once, however often they are shared


class ContentDigests:
    """Digests of arrays of one file; what they share is digested once."""

    def __init__(self) -> None:
        self.steps = 0
        self.long: dict[int, str] = {}  # digests of long text and bytes, by identity
        self.calls: dict[int, str] = {}  # what is told of calls, by the identity of what they encode

    def of(self, call: Call) -> str:
        """The SHA-256 of ``call`` as hexadecimal digits; empty where it cannot be told."""
        digest = sha256()
        return digest.hexdigest() if self._write(call, digest, 0) else ""

    def _write(self, node: Node, digest: Any, depth: int) -> bool:
        self.steps += 1
        if self.steps > _MOST_STEPS or depth > _MOST_DEPTH:
            return False
        if isinstance(node, (bytes, str)):
            return self._put(digest, f"{'bytes' if isinstance(node, bytes) else 'str'} {self._text(node)}")
        if isinstance(node, Call) and (told := self._bytes(node)):
            return self._put(digest, told)
        if node is None or isinstance(node, (bool, int, float)):
            return self._put(digest, f"{type(node).__name__} {node!r}")
        if isinstance(node, Global):
            module = _RENAMED.get(node.module, node.module)
            return self._put(digest, f"global {self._text(module)} {self._text(node.name)}")
        if isinstance(node, Call):
            held = (node.function, node.args, node.states, node.appended, node.items)
        elif isinstance(node, (list, tuple)):
            held = tuple(node)
        elif isinstance(node, (DictNode, SetNode)):
            held = tuple(node.items)
        else:
            return False
        self._put(digest, f"{type(node).__name__} of {len(held)}")
        return all(self._write(item, digest, depth + 1) for item in held)

    def _put(self, digest: Any, text: str) -> bool:
        self.steps += len(text) // _LONG  # an int may have a thousand digits
        digest.update(f"{text}\n".encode())
        return True

    def _text(self, node: bytes | str) -> str:
        if len(node) <= _LONG:
            return repr(node)
        if id(node) not in self.long:
            self.long[id(node)] = _short(node)
        return self.long[id(node)]

    def _bytes(self, call: Call) -> str:
        """What is told of bytes, which protocol 2 has as a call that makes them; empty of other calls."""
        text = encoded_text(call)
        known = id(call if text is None else text)  # many calls may share it
        if known not in self.calls:
            made, _ = plain_of_call(call)
            self.calls[known] = f"bytes {_short(made)}" if isinstance(made, bytes) else ""
        return self.calls[known]


def _short(text: bytes | str) -> str:
    """A short text itself, of a long one a digest."""
    if len(text) <= _LONG:
        return repr(text)
    return sha256(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).hexdigest()
