"""Mutations of a JSON document that keep most of it JSON: pairs stay pairs, so a key may occur twice."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.hostile.mutate_bytes import edge_integer, mutate_bytes

TEXTS = (
    "",
    "F32",
    "F64",
    "BF16",
    "BOOL",
    "F4",
    "F8_E8M0",
    "C64",
    "f32",
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "weight_map",
    "format",
    "pt",
    "ckpttool.aliases",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "../model.safetensors",
    "/etc/passwd",
    "a\0b",
    "[red]\x1b[2J\n\u202e",
    "x" * 300,
)

# What no value of Python's json stands for, or what would be written otherwise.
RAW = (
    "1e999",
    "-0",
    "-0.0",
    "1.0",
    "1E2",
    "0x10",
    "01",
    "NaN",
    "Infinity",
    '"\\ud800"',
    '"\\u0000"',
    '"w\\u0065ight"',
    '"\t"',
    "9" * 400,
    "9" * 5000,
    "[" * 600 + "]" * 600,
    '{"a":' * 600 + "0" + "}" * 600,
    "[" * 100_000,
    "[],",
    "",
)


class Pairs(list[tuple[str, Any]]):
    """An object as its pairs, in order."""


class Raw(str):
    """Text that is written as it is."""


def parse(data: bytes) -> Any:
    """The document with ``Pairs`` for objects.

    Raises:
        ValueError: not JSON (RecursionError: nested too deep).
    """
    return json.loads(data.decode("utf-8", "strict"), object_pairs_hook=Pairs)


def write(node: Any) -> str:
    """The text of a document."""
    if isinstance(node, Raw):
        return node
    if isinstance(node, Pairs):
        return "{" + ",".join(f"{write(key)}:{write(value)}" for key, value in node) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(write, node)) + "]"
    return json.dumps(node, ensure_ascii=False)


def _collect(node: Any, found: list[list[Any]]) -> None:
    """Every object and array of the document that is not empty."""
    if isinstance(node, list):
        if node:
            found.append(node)
        for item in node:
            _collect(item[1] if isinstance(node, Pairs) else item, found)


def _scalar(rnd: Random, old: Any) -> Any:
    if type(old) is str and old[:1] in ("{", "[") and rnd.randrange(4):
        return mutate_json(old.encode(), rnd).decode(
            "utf-8", "replace"
        )  # JSON in a string, as convert keeps it
    kind = rnd.randrange(6)
    if kind < 2:
        return edge_integer(rnd, old if type(old) is int else 0)
    if kind == 2:
        return rnd.choice(TEXTS)
    if kind == 3:
        return Raw(rnd.choice(RAW))
    return rnd.choice((None, True, False, 0.5, [], Pairs(), [0], [[0]], Pairs([("a", 0)])))


def mutate_json(data: bytes, rnd: Random) -> bytes:
    """One change of the document in ``data``, or of its bytes where it is none."""
    try:
        return write(_change(parse(data), rnd)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return mutate_bytes(data, rnd)


def _change(document: Any, rnd: Random) -> Any:
    """The document with one item of an object or array changed."""
    containers: list[list[Any]] = []
    _collect(document, containers)
    if not containers:
        return _scalar(rnd, document)
    target = rnd.choice(containers)
    at = rnd.randrange(len(target))
    key, old = target[at] if isinstance(target, Pairs) else (None, target[at])
    kind = rnd.randrange(7)
    if kind == 0:
        del target[at]
        return document
    if kind == 1:
        target.insert(rnd.randrange(len(target) + 1), target[at])
        return document
    if kind == 2:
        other = rnd.randrange(len(target))
        target[at], target[other] = target[other], target[at]
        return document
    if kind == 3 and key is not None:
        key = rnd.choice(TEXTS) if rnd.randrange(2) else Raw(rnd.choice(RAW))
        value = old
    elif kind == 4:
        source = rnd.choice(containers)
        other_item = rnd.choice(source)
        # By its text, so that nothing comes to hold itself.
        value = Raw(write(other_item[1] if isinstance(source, Pairs) else other_item))
    else:
        value = _scalar(rnd, old)
    target[at] = value if key is None else (key, value)
    return document
