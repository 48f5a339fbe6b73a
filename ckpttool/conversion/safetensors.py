"""Writes safetensors: the header that ``save_file`` of safetensors 0.8.0 writes, byte for byte.

- u64 little-endian length, compact JSON with ``__metadata__`` first, spaces to a multiple of 8, data.
- Tensors by dtype (``DType.rank``, widest alignment first: ``Dtype`` derives Ord from its declaration), then
  by the bytes of the name: every tensor lies aligned to its element size. Keys of an entry: dtype, shape,
  data_offsets.
- ``__metadata__`` is sorted by key (``save_file`` writes it in the order of a hash map, so that equal
  calls give different files); what the container has no place for goes there (``formats.carried``).
- Text is UTF-8, unescaped but for what JSON demands.

Source: ``safetensors/src/tensor.rs`` (``prepare``, ``Dtype``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ckpttool.conversion.containers import ContainerKind
from ckpttool.conversion.layout import FileLayout, SegmentList
from ckpttool.conversion.placing import Item, Placing, Wanted, as_bytes, overlapping
from ckpttool.formats.carried import (
    PREFIX,
    carry_json,
    carry_order,
    carry_values,
    carry_versions,
    encode_path,
)
from ckpttool.values.checkpoint import Root
from ckpttool.values.conversion import WRITABLE_CONTAINERS, ConversionPlan, Placed
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import CkptToolError, LimitExceeded
from ckpttool.values.words import plural, some

Named = tuple[str, Root, Item, Wanted]
"""Flat name, the path that it stands for, and the tensor, which is of one piece here."""


def lacks_dtype(dtype: DType, shape: tuple[int, ...]) -> bool:
    """Whether the format has no such dtype: only the bytes can be kept.

    A 0-dimensional tensor of packed numbers has no last size to count them in.
    """
    return dtype.safetensors is None or (dtype.packed > 1 and not shape)


def place(plan: ConversionPlan, items: Sequence[Item], root: Root) -> ConversionPlan:
    """A piece for each tensor but those that are tied to an earlier one; all else as strings.

    Raises:
        CkptToolError: two names are equal, or one cannot stand in a header.
    """
    named = _name_flat(items, root, plan.source.path)
    own = _foreign_metadata(plan)
    placing = Placing()
    ties = plan.options.shared == "alias"
    aliases, notes = _tie(named, own) if ties else ({}, [])
    apart = [entry for entry in named if entry[0] not in aliases]
    if ties:
        notes += _note_overlaps(apart)
    tensors = []
    for name, _, item, wanted in apart:
        placed = placing.pack(wanted)
        if lacks_dtype(placed.dtype, placed.shape):
            placed = as_bytes(placed, placing)
        tensors.append(item.planned((), name, placed))
    return plan._replace(
        pieces=tuple(placing.pieces),
        tensors=tuple(tensors),
        aliases=aliases,
        listed=aliases,
        metadata={**own, **aliases, **_carry(plan, named, root)},
        notes=tuple(notes),
    )


def _tie(named: Sequence[Named], metadata: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The names of tensors that are written under an earlier one, by that; and which cannot be, in words."""
    first: dict[object, str] = {}
    aliases: dict[str, str] = {}
    notes = []
    for name, _, _, wanted in named:
        kept = first.setdefault(wanted.view, name)
        if kept == name:
            continue
        if name in metadata or name.startswith(PREFIX):
            notes.append(f"{name!r} is written apart: __metadata__ has another use for that name")
        else:
            aliases[name] = kept
    return aliases, notes


def _name_flat(items: Sequence[Item], root: Root, path: str) -> list[Named]:
    """Flat names, in the order of ``items``."""
    seen = set()
    named = []
    for item in items:
        keys = (*item.root[len(root) :], item.name)
        name = ".".join(map(str, keys))
        if name in seen:
            raise CkptToolError(f"two tensors would both be called {name!r}", path=path)
        seen.add(name)
        _check_name(name, path)
        (wanted,) = item.leaves
        named.append((name, keys, item, wanted))
    return named


def _foreign_metadata(plan: ConversionPlan) -> dict[str, str]:
    """``__metadata__`` of the source and what was asked for; an index's total is about its own shards."""
    sharded = len(plan.source.files) > 1
    kept = {key: text for key, text in plan.source.metadata.items() if not (sharded and key == "total_size")}
    return {**kept, **dict(plan.options.metadata), "format": "pt"}


def _carry(plan: ConversionPlan, named: Sequence[Named], root: Root) -> dict[str, str]:
    """Everything around the tensors, as strings under keys of our own."""
    carried: dict[str, object] = {
        "root": encode_path(root),
        "paths": {name: encode_path(path) for name, path, _, _ in named if path != (name,)},
        "lists": _unusual_containers(plan, named),
        "objects": [
            [encode_path((*item.root, item.name)), item.type_name, item.summary] for item in plan.objects
        ],
        "parameters": [name for name, _, item, _ in named if item.is_parameter],
        "as_bytes": {
            name: {"dtype": info.dtype.name, "shape": list(info.shape)}
            for name, _, item, _ in named
            if (info := item.row.entry.strided) is not None
            and lacks_dtype(item.cast or info.dtype, info.shape)
        },
    }
    metadata = {key: carry_json(value) for key, value in carried.items() if value}
    if plan.values:
        metadata["values"] = carry_values(plan.values)
    if plan.module_versions:
        metadata["module_versions"] = carry_versions(plan.module_versions, plan.module_extras)
    if plan.source.ordered:
        metadata["order"] = carry_order([name for name, *_ in named])
    return {PREFIX + key: text for key, text in metadata.items()}


def _note_overlaps(named: Sequence[Named]) -> list[str]:
    """Unequal views of the same bytes are written apart: say so, for they were one memory."""
    groups = overlapping([wanted for *_, wanted in named])
    if not groups:
        return []
    names = [named[position][0] for position in groups[0]]
    more = f" (and {plural(len(groups) - 1, 'more group')})" if len(groups) > 1 else ""
    return [f"views with bytes in common are written apart: {some(names, repr)}{more}"]


def _check_name(name: str, path: str) -> None:
    """Names are UTF-8 in the header, and one is reserved."""
    if name == "__metadata__":
        raise CkptToolError("safetensors reserves the name '__metadata__'", path=path)
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise CkptToolError(
                f"safetensors cannot hold the name {name!r}: it is not Unicode text",
                path=path,
                hint="--rename 'REGEX=>REPL' gives it another one",
            ) from None


def _unusual_containers(plan: ConversionPlan, named: Sequence[Named]) -> list[list[object]]:
    """Containers that are not what they would be made: a mapping of tensors an OrderedDict, others a dict.

    What nothing stands in would not be made.
    """
    filled = [(), *(value.root for value in plan.values), *(item.path[:-1] for item in plan.containers)]
    made = dict.fromkeys(filled, "dict") | {item.root: "OrderedDict" for _, _, item, _ in named}
    if [name for name, *_ in named] == [""]:
        del made[()]  # would be a bare tensor
    return [
        [encode_path(container.path), container.type_name]
        for container in plan.containers
        if container.type_name in WRITABLE_CONTAINERS and container.type_name != made.get(container.path)
    ]


MAX_HEADER_NBYTES = 100_000_000  # MAX_HEADER_SIZE of the library
_ALIGNMENT = 8

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def lay_out(name: str, plan: ConversionPlan) -> FileLayout:
    """A file called ``name`` that holds what ``plan`` does.

    Raises:
        LimitExceeded: the header would be longer than readers accept.
    """
    rows = []
    for tensor in plan.tensors:
        placed = tensor.value
        if isinstance(placed, Placed):  # the plan refuses all else
            rows.append((-placed.dtype.rank, str(tensor.name).encode(), placed))
    rows.sort()  # no two have one name
    segments = SegmentList()
    segments.add_literal(_header(plan, rows))
    for _, _, placed in rows:
        segments.add_piece(placed.piece, plan.pieces[placed.piece].nbytes)
    return segments.layout(name)


def _header(plan: ConversionPlan, rows: Sequence[tuple[int, bytes, Placed]]) -> bytes:
    """Its length in front of it."""
    out = bytearray(8)
    out += f'{{"__metadata__":{_encode(dict(sorted(plan.metadata.items())))},'.encode()
    offset = 0
    for _, encoded, placed in rows:
        shape = list(placed.shape)
        if placed.dtype.packed > 1:
            shape[-1] *= placed.dtype.packed
        end = offset + plan.pieces[placed.piece].nbytes
        out += (
            f'{_encode(encoded.decode())}:{{"dtype":"{placed.dtype.safetensors}","shape":{_encode(shape)},'
            f'"data_offsets":[{offset},{end}]}},'
        ).encode()
        offset = end
    out[-1:] = b"}"
    out += b" " * (-len(out) % _ALIGNMENT)
    nbytes = len(out) - 8
    if nbytes > MAX_HEADER_NBYTES:
        raise LimitExceeded("length of the safetensors header", limit=MAX_HEADER_NBYTES, actual=nbytes)
    out[:8] = nbytes.to_bytes(8, "little")
    return bytes(out)


CONTAINER = ContainerKind("safetensors", "model", ".safetensors", place, lacks_dtype, lay_out, describes=True)
