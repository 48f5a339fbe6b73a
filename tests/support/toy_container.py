"""A container of the tests: ``TOY``, the length of a JSON header, the header, the bytes of the tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

from ckpttool.conversion.containers import ContainerKind
from ckpttool.conversion.layout import FileLayout, SegmentList
from ckpttool.conversion.placing import Item, Placing
from ckpttool.formats.base import Look
from ckpttool.values.checkpoint import Checkpoint, Entry, Root, StorageRef, TensorInfo, packed_stride
from ckpttool.values.conversion import ConversionPlan, Placed
from ckpttool.values.dtypes import BY_NAME

_HEAD = struct.Struct("<4sQ")


def place(plan: ConversionPlan, items: Sequence[Item], root: Root) -> ConversionPlan:
    placing = Placing()
    tensors = tuple(
        item.planned((), ".".join(map(str, (*item.root[len(root) :], item.name))), placing.pack(leaf))
        for item in items
        for leaf in item.leaves
    )
    return plan._replace(pieces=tuple(placing.pieces), tensors=tensors)


def lay_out(name: str, plan: ConversionPlan) -> FileLayout:
    header, segments = [], SegmentList()
    for tensor in plan.tensors:
        assert isinstance(tensor.value, Placed)
        header.append((tensor.name, tensor.value.dtype.name, tensor.value.shape))
    data = json.dumps(header).encode()
    segments.add_literal(_HEAD.pack(b"TOY\n", len(data)) + data)
    for tensor in plan.tensors:
        for placed in tensor.leaves:
            segments.add_piece(placed.piece, plan.pieces[placed.piece].nbytes)
    return segments.layout(name)


CONTAINER = ContainerKind("a toy", "toys", ".toy", place, lambda dtype, shape: False, lay_out)


def sniff(look: Look) -> bool:
    return look.head.startswith(b"TOY\n")


def read(look: Look) -> Checkpoint:
    source = look.source
    _, nbytes = _HEAD.unpack(source.read_at(0, _HEAD.size))
    offset = _HEAD.size + nbytes
    entries = []
    for name, dtype, shape in json.loads(source.read_at(_HEAD.size, nbytes)):
        info = TensorInfo(BY_NAME[dtype], tuple(shape), packed_stride(shape), 0, None)
        storage = StorageRef(source.name, name, offset, info.nbytes)
        entries.append(Entry((), name, info._replace(storage=storage)))
        offset += info.nbytes
    return Checkpoint(source.name, "toy", "", (source.version,), tuple(entries))
