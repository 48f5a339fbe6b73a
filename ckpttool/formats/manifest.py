"""The manifest that ``convert`` writes, read as a checkpoint without bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpttool.elements.digests import MANIFEST_SCHEMA, NamedDigest, digest_set
from ckpttool.files.source import ByteSource
from ckpttool.formats.base import Limits
from ckpttool.formats.strict_json import JSON_SPACE, parse_json
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    Key,
    Kind,
    OddKey,
    Tensor,
    TensorInfo,
    packed_stride,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint

_HEX_DIGITS = frozenset("0123456789abcdef")


def is_manifest(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a manifest."""
    return head.lstrip(JSON_SPACE).startswith(b"{") and MANIFEST_SCHEMA.encode() in head


def read_manifest(source: ByteSource, limits: Limits) -> Checkpoint:
    """Tensors without bytes, and their digests by path: what ``manifest_document`` gave.

    Raises:
        CkptToolError: it is not that, or beyond ``limits``.
    """
    if source.size > limits.header_nbytes:
        raise LimitExceeded("length of the manifest", limit=limits.header_nbytes, actual=source.size)
    document = parse_json(source.read_at(0, source.size), "manifest", limits, source.name)
    if not isinstance(document, dict) or document.get("schema") != MANIFEST_SCHEMA:
        raise MalformedCheckpoint("not a manifest", expected=f"schema {MANIFEST_SCHEMA}")
    entries = document.get("entries")
    if not isinstance(entries, list):
        raise MalformedCheckpoint("the manifest has no list of entries")
    tensors = [_parse_entry(entry, position) for position, entry in enumerate(entries)]
    digests = {(*item.root, item.name): item.sha256 for item in tensors}
    if len(digests) < len(tensors):
        raise MalformedCheckpoint("a name stands twice in the manifest")
    found = digest_set(tensors)
    claimed = document.get("digest")
    if isinstance(claimed, dict) and claimed.get("all", found.all) != found.all:
        raise MalformedCheckpoint(
            "the manifest is not what was written: its digest is not that of its entries",
            expected=str(claimed.get("all"))[:64],
            actual=found.all,
        )
    return Checkpoint(
        source.name, "manifest", "", (), tuple(map(_entry_of, tensors)), ordered=False, digests=digests
    )


def _entry_of(item: NamedDigest) -> Entry:
    value: Tensor = CompositeTensor("made of parts", "", item.dtype, item.shape, ())
    if item.dtype is not None and item.shape is not None:
        value = TensorInfo(item.dtype, item.shape, packed_stride(item.shape), 0, None)
    return Entry(item.root, item.name, value, declared=Classification(item.kind, Basis.NONE))


def _parse_entry(entry: object, position: int) -> NamedDigest:
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    root, sha256, shape = fields.get("root"), fields.get("sha256"), fields.get("shape")
    kind = next((kind for kind in Kind if kind.value == fields.get("kind")), Kind.UNKNOWN)
    dtype = fields.get("dtype")
    known = BY_NAME.get(dtype) if isinstance(dtype, str) else None
    keys = [_parse_key(key) for key in (*root, fields.get("name"))] if isinstance(root, list) else [None]
    if (
        None in keys
        or not (isinstance(sha256, str) and len(sha256) == 64 and _HEX_DIGITS.issuperset(sha256))
        or (known is None and dtype is not None)
        or not (shape is None or (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)))
    ):
        raise MalformedCheckpoint(f"entry {position} of the manifest is malformed")
    *above, name = [key for key in keys if key is not None]
    return NamedDigest(tuple(above), name, kind, known, None if shape is None else tuple(shape), sha256)


def _parse_key(key: object) -> Key | None:
    if isinstance(key, dict) and isinstance(key.get("key"), str):
        return OddKey(key["key"], False)
    return key if isinstance(key, str) or type(key) is int else None
