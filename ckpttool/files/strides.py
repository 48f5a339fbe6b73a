"""Which elements a strided view touches, and how to copy them in order: pure, no file and no numpy.

Steps and offsets count items of 1, 2, 4 or 8 bytes. Copying is ``memoryview`` slice assignment:
one C loop a slice at 2 to 10 ns an item. For the strides that occur (transposed, channels_last,
sliced) that takes 2 to 6 times as long as numpy, and keeps numpy, 0.1 s to import and optional,
out of ``convert`` and ``diff``. Only many dimensions that are all tiny pay Python's price, about
0.5 us a slice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from ckpttool.values.checkpoint import ChunkedTensor, StoredRun, Strided, TensorInfo

# Reading across a gap costs its bytes, jumping over it a system call and a slice (about 3 us, in
# which the page cache gives some 8 KiB).
GAP_NBYTES = 8 << 10

# Measured per slice assignment and per item in it; they only choose the loop that runs in C.
_SLICE_NS, _ITEM_NS, _PACKED_ITEM_NS = 500.0, 2.0, 0.2

ITEM_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""``memoryview`` formats of unsigned integers by item size: copied as bits, whatever they mean."""


class Dim(NamedTuple):
    """One dimension of a copy: ``step`` in what is read, ``out`` in what is written."""

    size: int
    step: int
    out: int


class Window(NamedTuple):
    """A run of ``span`` items to read at ``start``, and where its items go."""

    start: int
    span: int
    out: int
    dims: list[Dim]


class Block(NamedTuple):
    """Consecutive elements of the result: ``numel`` of them, gathered from ``start`` on."""

    start: int
    numel: int
    dims: list[Dim]


def segments(tensor: Strided) -> list[StoredRun] | None:
    """The stored bytes that are the elements of ``tensor``, packed and in row-major order.

    None where nothing is stored so: other strides, a byte order or a sign to turn, a compressed storage,
    chunks that are not whole rows.
    """
    if isinstance(tensor, TensorInfo):
        storage, bits = tensor.storage, tensor.dtype.bits
        if storage is None or 0 in tensor.shape:
            return []
        start = tensor.storage_offset * bits
        if tensor.conj or tensor.neg or storage.big_endian or storage.compressed_nbytes is not None:
            return None
        if start % 8 or not tensor.is_contiguous or start // 8 + tensor.nbytes > storage.nbytes:
            return None
        return [StoredRun(storage, start // 8, tensor.nbytes)]
    found: list[StoredRun] = []
    for offsets, view in sorted(tensor.chunks, key=lambda chunk: chunk.offsets):
        if 0 in view.shape:
            continue
        inner = segments(view)
        if inner is None or any(offsets[1:]) or view.shape[1:] != tensor.shape[1:]:
            return None
        found += inner
    return found


def narrow(view: TensorInfo, start: Sequence[int], shape: tuple[int, ...]) -> TensorInfo:
    """The box of ``view`` that begins at ``start``."""
    skipped = sum(index * step for index, step in zip(start, view.stride, strict=True))
    return view._replace(shape=shape, storage_offset=view.storage_offset + skipped)


def iter_boxes(shape: tuple[int, ...], most: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(start, shape) of boxes of at most ``most`` elements that are ``shape`` in row-major order."""
    if not shape:
        yield (), ()
        return
    split = len(shape) - 1
    inner = 1
    while split > 0 and inner * shape[split] <= most:
        inner *= shape[split]
        split -= 1
    rows = max(1, min(shape[split], most // inner))
    rest = len(shape) - split - 1
    # Not itertools.product, which would make its ranges into tuples: an expanded dimension is as
    # large as a file says.
    for index in range(math.prod(shape[:split])):
        outer: tuple[int, ...] = ()
        for size in reversed(shape[:split]):
            index, position = divmod(index, size)
            outer = (position, *outer)
        for row in range(0, shape[split], rows):
            count = min(rows, shape[split] - row)
            yield (*outer, row, *(0,) * rest), (*(1,) * split, count, *shape[split + 1 :])


def merge_dims(shape: Iterable[int], stride: Iterable[int]) -> list[tuple[int, int]]:
    """(size, stride) of the same elements in the same order in as few dimensions as possible."""
    merged: list[tuple[int, int]] = []
    for size, step in zip(shape, stride, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == step * size:
            merged[-1] = (merged[-1][0] * size, step)
        else:
            merged.append((size, step))
    return merged


def stored_view(info: Strided) -> Strided:
    """The view of the same elements in the order of the storage, each stored element once.

    Exact for everything that torch's view operations make: permuted, sliced, expanded (stride 0)
    and unfolded (overlapping windows). A view whose strides overlap in no regular way, which only
    ``as_strided`` makes, becomes its whole span. What is in chunks stays as it is.
    """
    if 0 in info.shape or isinstance(info, ChunkedTensor):
        return info
    dims: list[tuple[int, int]] = []  # innermost first
    for step, size in sorted(zip(info.stride, info.shape, strict=True)):
        if size == 1 or step == 0:
            continue
        if dims:
            inner_size, inner_step = dims[-1]
            # Two progressions whose union is one: 0, 1, 2 and 2, 3, 4 and 4, 5, 6.
            if step % inner_step == 0 and step // inner_step <= inner_size:
                dims[-1] = (inner_size + (size - 1) * (step // inner_step), inner_step)
                continue
        dims.append((size, step))
    if any(step < _span(dims[:depth]) for depth, (_, step) in enumerate(dims)):
        dims = [(_span(dims), 1)]
    dims.reverse()
    return info._replace(shape=tuple(size for size, _ in dims), stride=tuple(step for _, step in dims))


def _span(dims: Iterable[tuple[int, int]]) -> int:
    return 1 + sum((size - 1) * step for size, step in dims)


def iter_blocks(dims: Sequence[tuple[int, int]], start: int, block: int) -> Iterator[Block]:
    """Cut a row-major walk over ``dims`` into blocks of at most ``block`` elements, lazily."""
    for index, shape in iter_boxes(tuple(size for size, _ in dims), block):
        packed: list[Dim] = []
        numel = 1
        for size, (_, step) in zip(reversed(shape), reversed(dims), strict=True):
            if size > 1:
                packed.append(Dim(size, step, numel))
                numel *= size
        yield Block(start + sum(at * step for at, (_, step) in zip(index, dims, strict=True)), numel, packed)


def iter_windows(block: Block, window: int, gap: int) -> Iterator[Window]:
    """Cut a block into runs to read, each of at most ``window`` items, with no gap above ``gap``."""
    near: list[Dim] = [dim for dim in block.dims if dim.step == 0]
    far: list[tuple[Dim, int]] = []  # and how many of its indices share a window
    span = 1
    for dim in sorted((dim for dim in block.dims if dim.step), key=lambda dim: dim.step):
        group = min(dim.size, (window - span) // dim.step + 1)
        if far or dim.step - span > gap:
            far.append((dim, 1))
        elif group < dim.size:
            far.append((dim, group))
        else:
            near.append(dim)
            span += (dim.size - 1) * dim.step
    far.reverse()
    for indices in itertools.product(*(range(0, dim.size, group) for dim, group in far)):
        start, out, dims, width = block.start, 0, near, span
        for index, (dim, group) in zip(indices, far, strict=True):
            start += index * dim.step
            out += index * dim.out
            if group > 1:
                count = min(group, dim.size - index)
                dims = [*near, Dim(count, dim.step, dim.out)]
                width = span + (count - 1) * dim.step
        yield Window(start, width, out, dims)


def copy_strided(target: memoryview, source: memoryview, item: int, start: int, dims: list[Dim]) -> None:
    """Copy the items of ``dims`` from the begin of ``source`` into ``target``, from item ``start`` on.

    Both are packed bytes; ``item`` is the item size.
    """
    numel = math.prod(dim.size for dim in dims)
    outer = list(dims) or [Dim(1, 1, 1)]
    inner = min(outer, key=lambda dim: _copy_ns(dim, numel))
    outer.remove(inner)
    size, step, out = inner
    read_span, write_span = (size - 1) * step + 1, (size - 1) * out + 1
    code = ITEM_FORMATS[item]
    into, items = target.cast(code), source.cast(code)
    for read, write in zip(
        _offsets([(dim.size, dim.step) for dim in outer], 0),
        _offsets([(dim.size, dim.out) for dim in outer], start),
        strict=True,
    ):
        if step:
            into[write : write + write_span : out] = items[read : read + read_span : step]
        else:
            into[write : write + write_span : out] = memoryview(bytes(items[read : read + 1]) * size).cast(
                code
            )


def _copy_ns(dim: Dim, numel: int) -> float:
    """About how long a copy takes whose C loop runs over ``dim``."""
    packed = dim.step <= 1 and dim.out == 1
    return numel / dim.size * _SLICE_NS + numel * (_PACKED_ITEM_NS if packed else _ITEM_NS)


def _offsets(dims: list[tuple[int, int]], start: int) -> Iterator[int]:
    """Offsets of all index tuples, last dimension fastest. No size exceeds a block's elements."""
    steps = [[index * step for index in range(size)] for size, step in dims]
    return map(sum, itertools.product([start], *steps))
