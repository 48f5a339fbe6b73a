"""Checkpoints that no file holds: for what plans are made of, which is headers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpttool.conversion.plan import plan_conversion
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    ChunkedTensor,
    Classification,
    CompositeTensor,
    Container,
    Entry,
    Kind,
    Opaque,
    StorageRef,
    TensorInfo,
    Value,
    packed_stride,
)
from ckpttool.values.conversion import ConversionPlan, Options
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.inspection import Row

PATH = "a.pt"
CONTAINERS = {"dict", "OrderedDict", "list", "tuple", "set"}


class Object(dict[Any, Any]):
    """An object with its plain attributes."""

    def __init__(self, type_name: str, **attributes: Any) -> None:
        super().__init__(attributes)
        self.type_name = type_name


class Named(dict[Any, Any]):
    """A container of any type, as the reader names it."""

    def __init__(self, type_name: str, items: dict[Any, Any]) -> None:
        super().__init__(items)
        self.type_name = type_name


def tensor(key: str, *shape: int, dtype: str = "float32", **more: Any) -> TensorInfo:
    """Packed elements at the start of the storage ``key``, which has no other."""
    info = TensorInfo(BY_NAME[dtype], shape, packed_stride(shape), 0, None)
    return info._replace(storage=StorageRef(PATH, key, 0, info.nbytes), **more)


def checkpoint_of(tree: Any, **more: Any) -> Checkpoint:
    """The checkpoint of nested mappings and lists: tensors, entries, objects and plain values."""
    found: dict[type, list[Any]] = {Entry: [], Value: [], Opaque: [], Container: []}

    def walk(path: tuple[Any, ...], node: Any) -> None:
        if isinstance(node, Object):
            found[Opaque].append(Opaque(path[:-1], path[-1] if path else "", node.type_name, "x"))
            for key, inner in node.items():
                walk((*path, key), inner)
            return
        if isinstance(node, Named) or type(node).__name__ in CONTAINERS:
            kind = getattr(node, "type_name", type(node).__name__)
            found[Container].append(Container(path, kind, len(node)))
            for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
                walk((*path, key), inner)
            return
        at = {"root": path[:-1], "name": path[-1]}
        if isinstance(node, (TensorInfo, ChunkedTensor, CompositeTensor)):
            node = Entry(**at, value=node)
        elif isinstance(node, (Entry, Opaque)):
            node = node._replace(**at)
        else:
            node = Value(**at, value=node)
        found[type(node)].append(node)

    walk((), tree)
    entries, values, opaque, containers = map(tuple, found.values())
    checkpoint = Checkpoint(PATH, "torch-zip", "", (), entries, values, opaque, containers)
    return checkpoint._replace(**more)


def plan_in_memory(
    tree: Any, to: str, *, facts: Mapping[str, Any] | None = None, **options: Any
) -> ConversionPlan:
    """The plan for such a checkpoint; ``facts`` are further fields of it."""
    return plan_conversion(inspect_checkpoint(checkpoint_of(tree, **facts or {})), Options(to, **options))


def row(value: Any, kind: Kind = Kind.PARAMETER, name: str = "w", **more: Any) -> Row:
    """One classified entry."""
    return Row(Entry((), name, value, **more), Classification(kind, Basis.NAME))
