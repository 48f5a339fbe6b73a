"""A pickle as a tree that two writers can be held against: Python's unpickler, which here builds nothing.

A mapping has its tensors in their order, and all else by key: so far a conversion keeps the order.
"""

from __future__ import annotations

import io
import pickle
from functools import partial
from typing import Any

from ckpttool.conversion.layout import FileLayout


class Call(dict[Any, Any]):
    """What a call of a global would make: the name, the arguments, and all that is put into it."""

    def __init__(self, name: str, *arguments: Any) -> None:
        super().__init__()
        self.name, self.arguments = name, arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Bytes may be keys. weights_only takes them in the first form alone.
        values = {("_codecs", "encode"): str.encode, ("__builtin__", "bytes"): bytes}
        return values.get((module, name)) or partial(Call, f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return Call("persistent", *pid)


def pickle_of(layout: FileLayout) -> bytes:
    """The pickle of a ``.pt`` that is laid out and not written: it is in the first segment."""
    first = next(iter(layout.segments({}))).literal
    start, name = first.index(b"\x80\x02"), b"archive/data.pkl"
    assert first[30 : 30 + len(name)] == name
    return first[start : first.rindex(b".") + 1]


def tree_of(data: bytes) -> Any:
    """Lists of a word and what belongs to it; numbers with their type and sign."""
    return _plain(_Unpickler(io.BytesIO(data)).load())


def _plain(value: Any) -> Any:
    if isinstance(value, Call):
        if value.name == "torch.Size":  # torch takes a tuple as well
            return _plain(tuple(value.arguments[0]))
        return ["call", value.name, _plain(value.arguments), _items(value), _plain(value.state)]
    if isinstance(value, partial):
        return ["global", *value.args]
    if isinstance(value, dict):
        return ["dict", _items(value)]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(_plain, value)]
    return [type(value).__name__, repr(value)]


def _items(mapping: dict[Any, Any]) -> list[list[Any]]:
    return sorted(([_plain(key), _plain(inner)] for key, inner in mapping.items()), key=_rank)


def _rank(item: list[Any]) -> str:
    key, (word, *rest) = item
    return "" if word == "call" and rest[0].startswith("torch._utils.") else repr(key)
