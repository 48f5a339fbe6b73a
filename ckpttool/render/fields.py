"""The fields of an entry as values, by the names of the JSON document; every view chooses from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ckpttool.values.checkpoint import Basis, Key, Kind, Presence, Root, Tensor, TensorInfo, views_of
from ckpttool.values.inspection import Row
from ckpttool.values.words import format_int


class EntryFields(NamedTuple):
    """What is known of a row; None where it does not say, there is no tensor, or no single address."""

    root: Root
    name: Key
    kind: Kind
    presence: Presence
    basis: Basis
    exact: bool
    note: str
    dtype: str | None
    shape: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    storage_offset: int | None
    numel: int | None
    nbytes: int | None
    location: str | None
    file: str | None
    byte_offset: int | None
    requires_grad: bool | None
    tied_to: tuple[Root, Key] | None


TENSOR_FIELDS = EntryFields._fields[EntryFields._fields.index("dtype") : -2]
"""Those of ``tensor_fields``."""


def entry_fields(row: Row) -> EntryFields:
    """Return what is known of a row."""
    return EntryFields._make(row_fields(row))


def row_fields(row: Row) -> tuple[Any, ...]:
    """Return the values of ``entry_fields`` without their names, for who names them otherwise."""
    (root, name, value, requires_grad, *_), what, tied_to = row
    kind, basis, presence, note = what[:4]
    tied = None if tied_to is None else (tied_to.root, tied_to.name)
    return root, name, kind, presence, basis, what.exact, note, *tensor_fields(value), requires_grad, tied


def tensor_fields(value: Tensor | None) -> tuple[Any, ...]:
    """Return dtype, shape and address; of what lies in several places the first file."""
    if value is None:
        return (None,) * len(TENSOR_FIELDS)
    if isinstance(value, TensorInfo):
        dtype, shape, stride, offset, storage, _, _ = value
        numel = math.prod(shape)
        where = (None, None) if storage is None else (storage.location, storage.file)
        nbytes = (numel * dtype.bits + 7) // 8
        return dtype.name, shape, stride, offset, numel, nbytes, *where, value.byte_offset
    storage = next((view.storage for view in views_of(value) if view.storage is not None), None)
    where = (None, None) if storage is None else (storage.location, storage.file)
    name = None if value.dtype is None else value.dtype.name
    return name, value.shape, None, None, value.numel, value.nbytes, *where, None


def dtype_name(value: Tensor) -> str:
    """Return the name of the dtype; ``?`` where the whole has none."""
    return "?" if value.dtype is None else value.dtype.name


def format_sizes(shape: Sequence[int] | None, unsaid: str = "-") -> str:
    """Return a shape for programs: ``[94,64]``, ``[]``."""
    return unsaid if shape is None else f"[{','.join(map(format_int, shape))}]"
