"""Fingerprints of buffers that no file holds, as ``verify --write-reference`` keeps them.

A rebuilt buffer follows from the model's configuration. Its digest, kept beside the checkpoint,
tells later that somebody changed the configuration (a rope base, a window size) although every
entry of the file still loads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ckpttool.formats.base import DEFAULT_LIMITS
from ckpttool.formats.strict_json import parse_json
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from ckpttool.values.verification import Fingerprint, NotRestored

SCHEMA = "ckpttool/reference/1"


def reference_text(model: str, fingerprints: Mapping[str, Fingerprint]) -> str:
    """The content of a reference file: JSON, one buffer a line, sorted by name."""
    head = f'{{\n"schema": {json.dumps(SCHEMA)},\n"model": {json.dumps(model)},\n"buffers": {{'
    lines = [
        f"{json.dumps(name)}: {json.dumps(fingerprint._asdict())}"
        for name, fingerprint in sorted(fingerprints.items())
    ]
    return head + ("\n" + ",\n".join(lines) + "\n" if lines else "") + "}\n}\n"


def parse_reference(data: bytes, path: str) -> dict[str, Fingerprint]:
    """The fingerprints in a reference file.

    Raises:
        MalformedCheckpoint: it is not what ``reference_text`` writes.
    """
    hint = "--write-reference FILE makes one"
    try:
        document: Any = parse_json(data, "reference", DEFAULT_LIMITS, path)
    except (MalformedCheckpoint, LimitExceeded):
        raise MalformedCheckpoint("not a reference file: no JSON", path=path, hint=hint) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MalformedCheckpoint(f"not a reference file: no schema {SCHEMA}", path=path, hint=hint)
    buffers = document.get("buffers")
    if not isinstance(buffers, dict):
        raise MalformedCheckpoint("a reference file without buffers", path=path, hint=hint)
    return {name: _parse_one(name, fields, path) for name, fields in buffers.items()}


def _parse_one(name: str, fields: Any, path: str) -> Fingerprint:
    fields = fields if isinstance(fields, dict) else {}
    dtype, shape = fields.get("dtype"), fields.get("shape")
    sha256, values = fields.get("sha256"), fields.get("values")
    texts = isinstance(dtype, str) and isinstance(sha256, str) and isinstance(values, str)
    if not texts or not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise MalformedCheckpoint("a fingerprint is not complete", name=name, path=path)
    return Fingerprint(dtype, tuple(shape), sha256, values)


def compare_fingerprints(
    reference: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]
) -> Iterator[NotRestored]:
    """Buffers that are not what they were when the reference was written."""
    for name, expected in reference.items():
        actual = now.get(name)
        if actual is None:
            yield NotRestored(name, "changed", "no such rebuilt buffer in the model", str(expected))
        elif actual[:3] != expected[:3]:
            yield NotRestored(name, "changed", str(actual), str(expected))
    for name, actual in now.items():
        if name not in reference:
            yield NotRestored(name, "changed", str(actual), "no such buffer in the reference")
