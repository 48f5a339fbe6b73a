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
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING, Any

from ckpttool.findings.globals import GlobalVerdict, judge_global
from ckpttool.findings.next_commands import next_commands
from ckpttool.findings.weights_only import plain_load, weights_only_verdict
from ckpttool.render.fields import TENSOR_FIELDS, EntryFields, row_fields, tensor_fields
from ckpttool.values.card import Card
from ckpttool.values.checkpoint import (
    Checkpoint,
    ChunkedTensor,
    CompositeTensor,
    GlobalRef,
    Key,
    OddKey,
    Plain,
    Root,
    Tensor,
    TensorInfo,
    parts,
)
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import LimitExceeded
from ckpttool.values.inspection import Inspection, Row
from ckpttool.values.source import SourceEvidence
from ckpttool.values.words import format_int

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number

INSPECT_SCHEMA = "ckpttool/inspect/1"

_MAX_ITEMS = 1_000_000  # of one nested list; shared lists can stand for more than the file holds
_ITEMS_AT_A_TIME = 1000  # of a list, written together
_MAX_BITS = 4096  # below sys.int_info.default_max_str_digits (4300 digits)

_OWN = ("name", "storage_offset", "byte_offset")  # in which entries of one sort differ, in their order
_MARK = "\0"  # in place of them: no field of a row but its own has this key and value

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(", ", ": ")).encode


class Written(list[str]):
    """Objects of a list that are JSON already."""


def dump(document: Mapping[str, object]) -> Iterator[str]:
    """Yield one document in pieces: a field per line, and an item per line in lists of objects."""
    separator = "{"
    for name, field in document.items():
        yield f"{separator}\n{_encode(name)}: "
        separator = ","
        if field and (isinstance(field, Written) or (isinstance(field, list) and isinstance(field[0], dict))):
            yield "[\n"
            for start in range(0, len(field), _ITEMS_AT_A_TIME):
                items = field[start : start + _ITEMS_AT_A_TIME]
                yield ",\n" if start else ""
                yield ",\n".join(items if isinstance(field, Written) else map(_encode, items))
            yield "\n]"
        else:
            yield _encode(field)
    yield "\n}\n"


def inspect_document(
    inspection: Inspection,
    extra: Mapping[int, dict[str, object]] | None = None,
    card: Card | None = None,
) -> dict[str, object]:
    """Return the document of ``inspect``; ``extra`` are further fields of the row at a position.

    Without a ``card`` it is made from the headers alone.
    """
    if card is None:
        from ckpttool.inspection.card import make_card

        card = make_card(inspection)
    checkpoint = inspection.checkpoint
    loads, why = weights_only_verdict(checkpoint)
    return {
        "schema": INSPECT_SCHEMA,
        "path": checkpoint.path,
        "format": checkpoint.format,
        "layout": checkpoint.layout,
        "title": inspection.title,
        "file_nbytes": checkpoint.file_nbytes,
        "files": [{"path": file.path, "nbytes": file.nbytes} for file in checkpoint.files],
        "weights_root": encode(inspection.weights_root),
        "ordered": checkpoint.ordered,
        "summary": _summary(inspection),
        "weights": encode(inspection.weights),
        "card": encode(card),
        "groups": encode(inspection.groups),
        "entries": _written_rows((*inspection.rows, *inspection.missing), extra or {}),
        "values": encode(checkpoint.values),
        "attributes": encode(checkpoint.attributes),
        "opaque": [
            {
                **place(item.root, item.name),
                "type": item.type_name,
                "summary": item.summary,
                **({"sha256": item.sha256} if item.sha256 else {}),
            }
            for item in checkpoint.opaque
        ],
        "metadata": dict(checkpoint.metadata),
        "weights_only": {"loads": loads, "why": why},
        "plain_load": _plain_load(checkpoint),
        "globals": [_global_object(item) for item in checkpoint.globals],
        "findings": encode(inspection.findings),
        "next": [{"command": item.command, "why": item.why} for item in next_commands(inspection)],
        **({} if inspection.model is None else {"model": inspection.model._asdict()}),
        **({"sources": encode(inspection.sources)} if inspection.sources else {}),
    }


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
    summary = inspection.summary
    bases = [{"kind": kind, "basis": basis, "entries": entries} for kind, basis, entries in summary.bases]
    named = {"dtypes": dict(summary.dtypes), "locations": dict(summary.locations), "bases": bases}
    return {**encode(summary), **named}


def _written_rows(rows: Sequence[Row], extra: Mapping[int, Mapping[str, object]]) -> Written:
    """Encode what rows say, once for all that differ in name and address only: most do of 20,000."""
    texts = Written()
    templates: dict[tuple[object, ...], str] = {}
    for position, row in enumerate(rows):
        root, name, value, requires_grad, _, subclass = row.entry
        special = row.tied_to is not None or subclass or position in extra
        if special or not isinstance(value, TensorInfo) or not isinstance(name, str):
            texts.append(_encode({**_row_object(row), **extra.get(position, {})}))
            continue
        dtype, shape, stride, offset, storage, conj, neg = value
        where = None if storage is None else (storage.location, storage.file)
        said = root, id(row.classification), requires_grad
        sort = said, dtype.name, shape, stride, where, conj, neg
        if sort not in templates:
            fields = _row_object(row) | dict.fromkeys(_OWN, _MARK)
            text = _encode(fields).replace("%", "%%")
            for field in _OWN:
                text = text.replace(f'"{field}": {_encode(_MARK)}', f'"{field}": %s')
            templates[sort] = text
        address = value.byte_offset
        own = quote(name), offset, "null" if address is None else address
        texts.append(templates[sort] % own)
    return texts


def _row_object(row: Row) -> dict[str, Any]:
    known = row_fields(row)
    fields = _sized(dict(zip(EntryFields._fields, known, strict=True)))
    root, name, kind, presence, basis = known[:5]
    fields["root"], fields["name"] = encode(root), encode(name)
    fields["kind"], fields["presence"], fields["basis"] = kind.value, presence.value, basis.value
    if row.tied_to is not None:
        fields["tied_to"] = place(row.tied_to.root, row.tied_to.name)
    if row.entry.subclass:
        fields["subclass"] = encode(row.entry.subclass)
    if row.classification.source is not None:
        fields["source"] = _source_object(row.classification.source)
    if row.classification.averaged_of:
        fields["averaged_of"] = encode(row.classification.averaged_of)
    if made_of := _made_of(row.entry.value):
        last = {name: fields.pop(name) for name in ("requires_grad", "tied_to")}
        fields |= made_of | last
    return fields


def _source_object(source: SourceEvidence) -> dict[str, Any]:
    return {
        "file": source.file or None,
        "line": source.line or None,
        "class": source.class_name or None,
        "how": source.how,
        "candidates": source.candidates,
    }


def _tensor_object(value: Tensor) -> dict[str, Any]:
    """Return dtype, shape, address; nulls where there is no single address."""
    return {**_sized(dict(zip(TENSOR_FIELDS, tensor_fields(value), strict=True))), **_made_of(value)}


def _sized(fields: dict[str, Any]) -> dict[str, Any]:
    # A shape with a zero in it passes every check of its bytes, however long its other sizes are.
    for name in ("shape", "stride"):
        if fields[name] and sum(fields[name]).bit_length() > _MAX_BITS:
            fields[name] = encode(fields[name])
    if (fields["numel"] or 0) >> (_MAX_BITS - 8):  # of elements of 32 bytes at most
        fields["numel"], fields["nbytes"] = _scalar(fields["numel"]), _scalar(fields["nbytes"])
    return fields


def _made_of(value: Tensor | None) -> dict[str, Any]:
    """Return what is said of some tensors only."""
    if isinstance(value, ChunkedTensor):
        chunks = [{"offsets": encode(offsets), **_tensor_object(view)} for offsets, view in value.chunks]
        return {"chunks": chunks}
    if isinstance(value, CompositeTensor):
        return {
            "layout": value.layout,
            "type": value.type_name,
            "details": {name: plain_value(detail) for name, detail in value.details},
            "parts": [{"name": name, **_tensor_object(part)} for name, part in parts(value)],
        }
    return {"conj": value.conj, "neg": value.neg} if value is not None and (value.conj or value.neg) else {}


def place(root: Root, name: Key) -> dict[str, Any]:
    """Return where an entry stands; keys that are neither strings nor ints are their text."""
    return {"root": encode(root), "name": encode(name)}


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
    if value is None or type(value) in (str, bool):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        if isinstance(value, (OddKey, DType)):
            return value[0]
        fields = getattr(value, "_fields", None)
        if fields is not None:
            return {name: encode(item) for name, item in zip(fields, value, strict=True)}
        # Nested lists of a file are plain: how deep they nest is its choice.
        nested = value and any(hasattr(item, "_fields") for item in value)
        return [encode(item) for item in value] if nested else plain_value(value)
    return _scalar(value) if not isinstance(value, Mapping) else {k: encode(v) for k, v in value.items()}


def numbers(values: Sequence[Number]) -> list[object]:
    """Return elements of a tensor; a complex one is a pair of its real and imaginary part."""
    return [
        [_scalar(value.real), _scalar(value.imag)] if isinstance(value, complex) else _scalar(value)
        for value in values
    ]


def _global_object(item: GlobalRef) -> dict[str, object]:
    _, verdict, reason = judge_global(item)
    fields = encode(item)
    places, _ = fields.pop("places"), fields.pop("arities")
    return {**fields, "verdict": verdict.value, "reason": reason, "places": places}
