"""The part of a tensor that integers, slices and ``...`` name: a view again, and nothing is read. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex, TypeAlias

from ckpttool.files.strides import narrow
from ckpttool.values.checkpoint import Chunk, ChunkedTensor, Strided, TensorInfo
from ckpttool.values.errors import BadIndex
from ckpttool.values.words import cut, format_int, plural

_MOST_DIGITS = 18
_ITEM = re.compile(rf"[+-]?[0-9]{{1,{_MOST_DIGITS}}}")


class Taken(NamedTuple):
    """``length`` indices of a dimension from ``start`` on, each ``step``-th; ``kept`` as one."""

    start: int
    length: int
    step: int = 1
    kept: bool = True


Index: TypeAlias = tuple[object, ...]
"""What stands between the brackets: integers, slices, and one ``...`` at most."""


def parse_index(text: str) -> Index:
    """``0:4,-1,...`` as Python reads it between brackets.

    Raises:
        BadIndex: it is none.
    """
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
    items = [item.strip() for item in bare.split(",")]
    if len(items) > 1 and not items[-1]:
        items.pop()  # as in w[0,]
    return tuple(_parse_item(item) for item in items)


def _parse_item(text: str) -> object:
    if text == "...":
        return Ellipsis
    bounds = [bound.strip() for bound in text.split(":")]
    if len(bounds) > 3 or any(bound and not _ITEM.fullmatch(bound) for bound in bounds) or text == "":
        hint = "--slice takes what Python has between brackets: 0:4,1:3 or -1 or ...,::2"
        raise BadIndex(f"{cut(text)!r} is no index and no slice", hint=hint)
    if len(bounds) == 1:
        return int(text)
    return slice(*(int(bound) if bound else None for bound in bounds))


def select(tensor: Strided, index: object) -> Strided:
    """The elements of ``tensor[index]``, by basic indexing as numpy has it, with steps of 1 or more.

    Raises:
        BadIndex: it names nothing of the tensor, or is no basic index.
    """
    taken = _take_all(index if isinstance(index, tuple) else (index,), tensor.shape)
    if isinstance(tensor, TensorInfo):
        return _take_of_view(tensor, taken)
    chunks = []
    for offsets, view in tensor.chunks:
        inside = [_within(*item) for item in zip(taken, offsets, view.shape, strict=True)]
        if all(part.length for _, part in inside):
            there = tuple(at for (at, part) in inside if part.kept)
            chunks.append(Chunk(there, _take_of_view(view, [part for _, part in inside])))
    return ChunkedTensor(tensor.dtype, _shape(taken), tuple(chunks))


def _take_all(items: Index, shape: Sequence[int]) -> list[Taken]:
    """What is taken of each dimension."""
    dots = sum(item is Ellipsis for item in items)
    if dots > 1:
        raise BadIndex("an index has one ... at most")
    given = len(items) - dots
    if given > len(shape):
        raise BadIndex(f"too many indices: {given} for {plural(len(shape), 'dimension')}")
    at = next((position for position, item in enumerate(items) if item is Ellipsis), len(items))
    whole = [slice(None)] * (len(shape) - given)
    full = (*items[:at], *whole, *items[at + 1 :])
    return [_take(item, size, dim) for dim, (item, size) in enumerate(zip(full, shape, strict=True))]


def _take(item: object, size: int, dim: int) -> Taken:
    if isinstance(item, slice):
        start, stop, step = (_integer(bound) for bound in (item.start, item.stop, item.step))
        if step is not None and step < 1:
            raise BadIndex(f"a step of {format_int(step)}: slices take steps of 1 and more")
        # Not slice.indices and len(range), which stop at 2**63: a size is what a file says.
        first = _bound(0 if start is None else start, size)
        last = _bound(size if stop is None else stop, size)
        count = max(0, -(-(last - first) // (step or 1)))
        return Taken(first if count else 0, count, step or 1)
    index = _integer(item)
    if index is None:
        raise BadIndex("None is no index: a tensor takes integers, slices and ...")
    if not -size <= index < size:
        what = f"index {format_int(index)} is out of range for dimension {dim} of size {format_int(size)}"
        raise BadIndex(what)
    return Taken(index % size, 1, kept=False)


def _bound(value: int, size: int) -> int:
    """A bound of a slice within the dimension, as Python clamps it."""
    return max(0, value + size) if value < 0 else min(value, size)


def _integer(item: object) -> int | None:
    if item is None or (isinstance(item, SupportsIndex) and not isinstance(item, bool)):
        return None if item is None else operator.index(item)
    raise BadIndex(f"{cut(type(item).__name__)} is no index: a tensor takes integers, slices and ...")


def _shape(taken: Sequence[Taken]) -> tuple[int, ...]:
    return tuple(item.length for item in taken if item.kept)


def _take_of_view(view: TensorInfo, taken: Sequence[Taken]) -> TensorInfo:
    if any(not item.length for item in taken):  # it begins nowhere
        taken = [item._replace(start=0) for item in taken]
    moved = narrow(view, [item.start for item in taken], view.shape)
    stride = (item.step * step for item, step in zip(taken, view.stride, strict=True) if item.kept)
    return moved._replace(shape=_shape(taken), stride=tuple(stride))


def _within(taken: Taken, offset: int, size: int) -> tuple[int, Taken]:
    """Which of the indices that are taken of the whole a chunk from ``offset`` on has, and where in it."""
    start, count, step, kept = taken
    first = max(0, -(-(offset - start) // step))
    end = min(count, -(-(offset + size - start) // step))
    if end <= first:
        return 0, taken._replace(length=0)
    return first, Taken(start + first * step - offset, end - first, step, kept)
