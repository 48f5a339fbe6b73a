"""Results as JSON documents: the contract of ``docs/json.md``, one builder per value.

Everything is ASCII: the encoder escapes control characters, bidi controls and lone surrogates.
What JSON cannot say is a string: ``"NaN"``, ``"Infinity"``, ``"-Infinity"``, bytes and integers
beyond the digits that Python converts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from ckpttool.findings.globals import GlobalVerdict, judge_global
from ckpttool.findings.next_commands import next_commands
from ckpttool.findings.weights_only import plain_load, weights_only_verdict
from ckpttool.values.checkpoint import (
    Checkpoint,
    ChunkedTensor,
    GlobalRef,
    Key,
    OddKey,
    Opaque,
    Plain,
    Root,
    Tensor,
    TensorInfo,
    parts,
    views_of,
)
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import LimitExceeded
from ckpttool.values.inspection import Inspection, Row
from ckpttool.values.words import format_int

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number

INSPECT_SCHEMA = "ckpttool/inspect/1"

_MAX_ITEMS = 1_000_000  # of one nested list; shared lists can stand for more than the file holds
_ITEMS_AT_A_TIME = 1000  # of a list, written together
_MAX_BITS = 4096  # below sys.int_info.default_max_str_digits (4300 digits)

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(", ", ": ")).encode


def dump(document: Mapping[str, object]) -> Iterator[str]:
    """Yield one document in pieces: a field per line, and an item per line in lists of objects."""
    separator = "{"
    for name, field in document.items():
        yield f"{separator}\n{_encode(name)}: "
        separator = ","
        if isinstance(field, list) and field and isinstance(field[0], dict):
            yield "[\n"
            for start in range(0, len(field), _ITEMS_AT_A_TIME):
                yield ",\n" if start else ""
                yield ",\n".join(map(_encode, field[start : start + _ITEMS_AT_A_TIME]))
            yield "\n]"
        else:
            yield _encode(field)
    yield "\n}\n"


def inspect_document(
    inspection: Inspection, extra: Mapping[int, Mapping[str, object]] | None = None
) -> dict[str, object]:
    """Return the document of ``inspect``; ``extra`` are further fields of the row at a position."""
    checkpoint = inspection.checkpoint
    root = inspection.weights_root
    return {
        "schema": INSPECT_SCHEMA,
        "path": checkpoint.path,
        "format": checkpoint.format,
        "layout": checkpoint.layout,
        "title": inspection.title,
        "file_nbytes": checkpoint.file_nbytes,
        "files": [{"path": file.path, "nbytes": file.nbytes} for file in checkpoint.files],
        "weights_root": None if root is None else root_keys(root),
        "ordered": checkpoint.ordered,
        "summary": _summary(inspection),
        "groups": [
            {**_numbers(group._asdict()), "root": root_keys(group.root)} for group in inspection.groups
        ],
        "entries": _rows((*inspection.rows, *inspection.missing), extra or {}),
        "values": encode(checkpoint.values),
        "opaque": [opaque_object(opaque) for opaque in checkpoint.opaque],
        "metadata": dict(checkpoint.metadata),
        "weights_only": _weights_only(checkpoint),
        "plain_load": _plain_load(checkpoint),
        "globals": [global_object(item) for item in checkpoint.globals],
        "findings": encode(inspection.findings),
        "next": [{"command": item.command, "why": item.why} for item in next_commands(inspection)],
        **({} if inspection.model is None else {"model": inspection.model._asdict()}),
    }


def _weights_only(checkpoint: Checkpoint) -> dict[str, object]:
    loads, why = weights_only_verdict(checkpoint)
    return {"loads": loads, "why": why}


def _plain_load(checkpoint: Checkpoint) -> dict[str, object]:
    def use(item: GlobalVerdict) -> dict[str, object]:
        name = f"{item.ref.module}.{item.ref.name}"
        return {"global": name, "verdict": item.verdict.value, "places": list(item.ref.places)}

    calls, imports = plain_load(checkpoint)
    return {
        "calls": [{**use(item), "calls": item.ref.calls} for item in calls],
        "imports": [use(item) for item in imports],
    }


def _summary(inspection: Inspection) -> dict[str, object]:
    fields = _numbers(inspection.summary._asdict())
    fields["dtypes"] = dict(fields["dtypes"])
    fields["locations"] = dict(fields["locations"])
    fields["bases"] = [
        {"kind": kind, "basis": basis, "entries": entries} for kind, basis, entries in fields["bases"]
    ]
    return fields


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _scalar(field) if isinstance(field, int) else field for name, field in fields.items()}


def _rows(rows: Sequence[Row], extra: Mapping[int, Mapping[str, object]]) -> list[dict[str, Any]]:
    roots: dict[Root, list[str | int]] = {}
    result = []
    for position, (entry, classification, tied_to) in enumerate(rows):
        root = roots.get(entry.root)
        if root is None:
            root = roots[entry.root] = root_keys(entry.root)
        item: dict[str, Any] = {
            "root": root,
            "name": key_value(entry.name),
            "kind": classification.kind.value,
            "presence": classification.presence.value,
            "basis": classification.basis.value,
            "exact": classification.exact,
            "note": classification.note,
            **tensor_object(entry.value),
            "requires_grad": entry.requires_grad,
            "tied_to": None
            if tied_to is None
            else {"root": root_keys(tied_to.root), "name": key_value(tied_to.name)},
        }
        if position in extra:
            item.update(extra[position])
        result.append(item)
    return result


def tensor_object(value: Tensor | None) -> dict[str, Any]:
    """Return dtype, shape, address; nulls where there is no tensor or no single address."""
    if isinstance(value, TensorInfo):
        return _strided(value)
    nothing = {"stride": None, "storage_offset": None}
    nowhere: dict[str, Any] = {"location": None, "file": None, "byte_offset": None}
    if value is None:
        return {"dtype": None, "shape": None, **nothing, "numel": None, "nbytes": None, **nowhere}
    first = next((view.storage for view in views_of(value) if view.storage is not None), None)
    if first is not None:
        nowhere = {"location": first.location, "file": first.file, "byte_offset": None}
    fields = {
        "dtype": None if value.dtype is None else value.dtype.name,
        "shape": None if value.shape is None else _ints(value.shape),
        **nothing,
        "numel": _scalar(value.numel),
        "nbytes": _scalar(value.nbytes),
        **nowhere,
    }
    if isinstance(value, ChunkedTensor):
        fields["chunks"] = [{"offsets": _ints(offsets), **_strided(view)} for offsets, view in value.chunks]
        return fields
    return fields | {
        "layout": value.layout,
        "type": value.type_name,
        "details": {name: plain_value(detail) for name, detail in value.details},
        "parts": [{"name": name, **tensor_object(part)} for name, part in parts(value)],
    }


def _strided(info: TensorInfo) -> dict[str, Any]:
    storage = info.storage
    numel = math.prod(info.shape)
    fields: dict[str, Any] = {
        "dtype": info.dtype.name,
        "shape": _ints(info.shape),
        "stride": _ints(info.stride),
        "storage_offset": info.storage_offset,
        "numel": _scalar(numel),
        "nbytes": _scalar((numel * info.dtype.bits + 7) // 8),
        "location": None,
        "file": None,
        "byte_offset": None,
    }
    if storage is not None:
        fields["location"] = storage.location
        fields["file"] = storage.file
        fields["byte_offset"] = info.byte_offset
    if info.conj or info.neg:
        fields["conj"], fields["neg"] = info.conj, info.neg
    return fields


def _ints(values: tuple[int, ...]) -> Sequence[object]:
    # A shape with a zero in it passes every check of its bytes, however long its other sizes are.
    return values if sum(values).bit_length() <= _MAX_BITS else [_scalar(value) for value in values]


def key_value(key: Key) -> str | int:
    """Return a key as JSON has it: strings and ints are themselves, other keys their text."""
    if isinstance(key, str):
        return key
    return key.text if isinstance(key, OddKey) else _scalar(key)


def root_keys(root: Root) -> list[str | int]:
    """Return a root as a list of keys."""
    return [key_value(key) for key in root]


def plain_value(value: Plain) -> object:
    """Return a plain value with what JSON cannot say as strings; tuples are lists.

    Raises:
        LimitExceeded: a list stands for more than a million items.
    """
    if not isinstance(value, tuple):
        return _scalar(value)
    result: list[object] = []
    stack: list[tuple[tuple[Plain, ...], list[object]]] = [(value, result)]
    items = 0
    while stack:
        source, target = stack.pop()
        items += len(source)
        if items > _MAX_ITEMS:
            raise LimitExceeded("the number of items in one list", limit=_MAX_ITEMS, actual=items)
        for item in source:
            if isinstance(item, tuple):
                inner: list[object] = []
                target.append(inner)
                stack.append((item, inner))
            else:
                target.append(_scalar(item))
    return result


def _scalar(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return repr(value)
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return format_int(value)
    return value


def encode(value: object) -> Any:
    """A result as JSON has it: named tuples as objects, odd keys and dtypes by their text, tuples as lists.

    Raises:
        LimitExceeded: as ``plain_value``.
    """
    if isinstance(value, OddKey | DType):
        return value[0]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        if fields is not None:
            return {name: encode(item) for name, item in zip(fields, value, strict=True)}
        # Nested lists of a file are plain: how deep they nest is its choice.
        nested = any(hasattr(item, "_fields") for item in value)
        return [encode(item) for item in value] if nested else plain_value(value)
    return _scalar(value) if not isinstance(value, Mapping) else {k: encode(v) for k, v in value.items()}


def numbers(values: Sequence[Number]) -> list[object]:
    """Return elements of a tensor; a complex one is a pair of its real and imaginary part."""
    return [
        [_scalar(value.real), _scalar(value.imag)] if isinstance(value, complex) else _scalar(value)
        for value in values
    ]


def opaque_object(opaque: Opaque) -> dict[str, object]:
    """Return an item of ``opaque``."""
    return {
        "root": root_keys(opaque.root),
        "name": key_value(opaque.name),
        "type": opaque.type_name,
        "summary": opaque.summary,
    }


def global_object(item: GlobalRef) -> dict[str, object]:
    """Return an item of ``globals``."""
    judged = judge_global(item)
    return {
        "module": item.module,
        "name": item.name,
        "called": item.called,
        "calls": item.calls,
        "verdict": judged.verdict.value,
        "reason": judged.reason,
        "places": list(item.places),
    }
