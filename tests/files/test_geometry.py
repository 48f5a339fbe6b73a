"""Boxes, blocks, windows and copies of strided views against plain enumeration and numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.files.strides import (
    Block,
    Dim,
    Window,
    _copy_ns,
    copy_strided,
    iter_blocks,
    iter_boxes,
    iter_windows,
    merge_dims,
    segments,
)
from ckpttool.values.checkpoint import Chunk, ChunkedTensor, StorageRef, StoredRun, TensorInfo
from ckpttool.values.dtypes import BY_NAME

SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)
DIMS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 30)), max_size=4)
CODES = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def walk(dims: list[tuple[int, int]], start: int = 0) -> list[int]:
    """Places in row-major order."""
    steps = [[index * step for index in range(size)] for size, step in dims]
    return [start + sum(place) for place in itertools.product(*steps)]


# -- boxes ----------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(SHAPES, st.integers(1, 40))
def test_boxes_are_the_elements_in_their_order_and_as_large_as_they_may_be(
    shape: tuple[int, ...], most: int
) -> None:
    found = []
    for start, box in iter_boxes(shape, most):
        found += list(itertools.product(*(range(a, a + n) for a, n in zip(start, box, strict=True))))
        numel = math.prod(box)
        assert numel <= most
        # The outermost dimension of which it has more than one, or could have: one more would be too much.
        for axis, (at, size) in enumerate(zip(start, box, strict=True)):
            if at + size < shape[axis]:
                assert numel // size * (size + 1) > most or box[axis + 1 :] != shape[axis + 1 :]
    assert found == list(itertools.product(*map(range, shape)))


def test_boxes_of_known_shapes() -> None:
    assert list(iter_boxes((), 1)) == [((), ())]
    assert list(iter_boxes((2, 3), 6)) == [((0, 0), (2, 3))]
    assert list(iter_boxes((2, 3), 5)) == [((0, 0), (1, 3)), ((1, 0), (1, 3))]
    assert list(iter_boxes((3, 2), 4)) == [((0, 0), (2, 2)), ((2, 0), (1, 2))]
    assert list(iter_boxes((2, 3), 2)) == [
        ((0, 0), (1, 2)), ((0, 2), (1, 1)), ((1, 0), (1, 2)), ((1, 2), (1, 1)),
    ]  # fmt: skip
    assert list(iter_boxes((2, 2), 0)) == [((a, b), (1, 1)) for a in (0, 1) for b in (0, 1)]
    huge = iter_boxes((10**15, 10**15, 3), 2)
    assert list(itertools.islice(huge, 3)) == [
        ((0, 0, 0), (1, 1, 2)),
        ((0, 0, 2), (1, 1, 1)),
        ((0, 1, 0), (1, 1, 2)),
    ]


# -- blocks and windows ---------------------------------------------------------------------------------


@settings(max_examples=200)
@given(DIMS, st.integers(0, 9), st.integers(1, 40))
def test_blocks_are_the_walk_cut_into_pieces(dims: list[tuple[int, int]], start: int, most: int) -> None:
    found: list[int] = []
    for block in iter_blocks(dims, start, most):
        assert 0 < block.numel <= most and all(dim.size > 1 for dim in block.dims)
        places = {}
        for out, place in zip(
            walk([(dim.size, dim.out) for dim in block.dims]),
            walk([(dim.size, dim.step) for dim in block.dims], block.start),
            strict=True,
        ):
            places[out] = place
        assert sorted(places) == list(range(block.numel))
        found += [places[out] for out in range(block.numel)]
    assert found == walk(dims, start)


def made_block(dims: list[tuple[int, int]], start: int) -> Block:
    (block,) = iter_blocks(dims, start, 10**6)
    return block


@settings(max_examples=200)
@given(DIMS, st.integers(0, 9), st.integers(1, 60), st.integers(0, 20), st.booleans())
def test_windows_hold_each_element_once_and_no_gap_that_is_too_wide(
    dims: list[tuple[int, int]], start: int, most: int, gap: int, apart: bool
) -> None:
    if apart:  # each dimension steps over all of the next ones
        span, spread = 1, []
        for size, step in reversed(dims):
            spread.append((size, span + step))
            span += (size - 1) * (span + step)
        dims = spread[::-1]
    block = made_block(dims, start)
    found: dict[int, int] = {}
    for window in iter_windows(block, most, gap):
        outs = walk([(dim.size, dim.out) for dim in window.dims], window.out)
        places = walk([(dim.size, dim.step) for dim in window.dims], window.start)
        assert not found.keys() & set(outs) and len(set(outs)) == len(outs)
        found.update(zip(outs, places, strict=True))
        assert window.span <= most
        assert (min(places), max(places)) == (window.start, window.start + window.span - 1)
        if apart:
            touched = sorted(set(places))
            assert all(b - a - 1 <= gap for a, b in itertools.pairwise(touched))
    assert [found[out] for out in sorted(found)] == walk(dims, start)
    assert sorted(found) == list(range(block.numel))


ROWS = [(4, 1000), (3, 100), (5, 1)]


@pytest.mark.parametrize(
    ("most", "gap", "count", "spans"),
    [
        (1, 10**6, 60, {1}),  # one by one
        (3, 10**6, 24, {3, 2}),
        (4, 10**6, 24, {4, 1}),
        (5, 10**6, 12, {5}),
        (104, 10**6, 12, {5}),
        (105, 10**6, 8, {105, 5}),  # two rows, and the third
        (105, 95, 8, {105, 5}),
        (105, 94, 12, {5}),
        (204, 95, 8, {105, 5}),
        (205, 95, 4, {205}),
        (205, 94, 12, {5}),
        (1204, 10**6, 4, {205}),
        (1205, 10**6, 2, {1205}),
        (1205, 795, 2, {1205}),
        (1205, 794, 4, {205}),
        (2205, 795, 2, {2205, 205}),
        (3205, 795, 1, {3205}),
        (3204, 795, 2, {2205, 205}),
    ],
)
def test_rows_are_read_together_as_far_as_window_and_gap_let_them(
    most: int, gap: int, count: int, spans: set[int]
) -> None:
    windows = list(iter_windows(made_block(ROWS, 7), most, gap))
    assert len(windows) == count and {window.span for window in windows} == spans
    assert [window.start for window in windows] == sorted(window.start for window in windows)
    assert windows[0].start == 7


def test_a_window_of_what_is_repeated_is_one_item() -> None:
    block = made_block([(1000, 0), (3, 0)], 5)
    assert [(w.start, w.span, w.out) for w in iter_windows(block, 1, 0)] == [(5, 1, 0)]
    assert made_block([], 5) == Block(5, 1, [])
    assert list(iter_windows(Block(5, 1, []), 1, 0)) == [Window(5, 1, 0, [])]


# -- copies ---------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), max_size=4),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 5),
    st.data(),
)
def test_a_copy_is_what_numpy_makes_of_the_same_strides(
    dims: list[tuple[int, int]], item: int, out: int, data: st.DataObject
) -> None:
    sizes = [size for size, _ in dims]
    order = data.draw(st.permutations(range(len(dims))))
    # Somewhere in a larger array, so that what lies beside it shows.
    into, step = [0] * len(dims), data.draw(st.integers(1, 3))
    for axis in order:
        into[axis] = step
        step *= sizes[axis] + data.draw(st.integers(0, 1))
    span = 1 + sum((size - 1) * step for size, step in dims)
    source = np.random.default_rng(0).integers(1, 255, span * item, dtype=np.uint8).view(CODES[item])
    room = out + 1 + sum((size - 1) * step for size, step in zip(sizes, into, strict=True)) + 3
    target = np.zeros(room, CODES[item])
    wanted = target.copy()
    as_strided = np.lib.stride_tricks.as_strided
    as_strided(wanted[out:], sizes, [step * item for step in into])[...] = as_strided(
        source, sizes, [step * item for _, step in dims]
    )
    copied = [Dim(size, step, to) for (size, step), to in zip(dims, into, strict=True)]
    copy_strided(memoryview(target).cast("B"), memoryview(source).cast("B"), item, out, copied)
    assert target.tolist() == wanted.tolist()
    assert copied == [Dim(size, step, to) for (size, step), to in zip(dims, into, strict=True)]


def test_a_copy_loops_in_c_over_the_dimension_that_is_cheapest() -> None:
    # 500 ns a slice, 2 ns an item, 0.2 ns where both sides are packed or one item is repeated.
    for dim, numel, nanoseconds in (
        (Dim(10, 1, 1), 1000, 50_200), (Dim(10, 0, 1), 1000, 50_200), (Dim(10, 2, 1), 1000, 52_000),
        (Dim(10, 1, 2), 1000, 52_000), (Dim(10, 0, 2), 1000, 52_000), (Dim(1000, 7, 3), 1000, 2_500),
        (Dim(4, 1, 1), 6, 751.2),
    ):  # fmt: skip
        assert _copy_ns(dim, numel) == pytest.approx(nanoseconds, rel=1e-12)


@pytest.mark.parametrize("long", [0, 1, 2])
def test_a_copy_makes_as_few_slices_as_it_can(monkeypatch: pytest.MonkeyPatch, long: int) -> None:
    sizes = [2, 3, 4]
    sizes[long] = 500
    dims, step, out = [], 1, 1
    for size in sizes:
        dims.append(Dim(size, 3 * step, 2 * out))
        step, out = step * size, out * size
    slices: list[slice] = []

    class Watched:
        """A typed view that keeps where it was written to."""

        def __init__(self, view: memoryview) -> None:
            self.view = view

        def cast(self, code: str) -> Watched:
            return Watched(self.view.cast(code))  # type: ignore[call-overload]

        def __setitem__(self, place: slice, value: memoryview) -> None:
            slices.append(place)
            self.view[place] = value

    copy_strided(
        Watched(memoryview(bytearray(2 * out))),  # type: ignore[arg-type]
        memoryview(bytearray(3 * step)),
        1,
        0,
        dims,
    )
    assert len(slices) == math.prod(sizes) // 500


# -- dimensions and runs --------------------------------------------------------------------------------


@settings(max_examples=200)
@given(DIMS)
def test_merged_dimensions_are_the_same_walk_and_no_two_of_them_are_one(dims: list[tuple[int, int]]) -> None:
    merged = merge_dims([size for size, _ in dims], [step for _, step in dims])
    assert walk(merged) == walk(dims)
    assert all(size > 1 for size, _ in merged)
    assert all(outer != size * step for (_, outer), (size, step) in itertools.pairwise(merged))


FLOAT = BY_NAME["float32"]


def view(*, storage: StorageRef | None = StorageRef("f", "0", 100, 64), **changes: object) -> TensorInfo:
    made = TensorInfo(FLOAT, (2, 3), (3, 1), 1, storage)
    return made._replace(**changes)  # type: ignore[arg-type]


def test_a_run_is_what_lies_as_it_is() -> None:
    storage = view().storage
    assert storage is not None
    run = [StoredRun(storage, 4, 24)]
    assert segments(view()) == run
    assert segments(view(storage_offset=10)) == [StoredRun(storage, 40, 24)]  # up to its last byte
    assert segments(view(storage_offset=11)) is None  # and beyond
    for nothing in (view(storage=None), view(shape=(2, 0)), view(storage=None, conj=True)):
        assert segments(nothing) == []
    for turned in (
        view(conj=True),
        view(neg=True),
        view(storage=storage._replace(big_endian=True)),
        view(storage=storage._replace(compressed_nbytes=9)),
        view(stride=(1, 2)),
    ):
        assert segments(turned) is None


def test_the_runs_of_chunks_are_their_rows_in_order() -> None:
    def chunk(row: int, rows: int, column: int = 0, columns: int = 3, at: int = 0) -> Chunk:
        piece = view(shape=(rows, columns), stride=(columns, 1), storage_offset=at)
        return Chunk((row, column), piece)

    storage = view().storage
    assert storage is not None

    def runs(*chunks: Chunk) -> list[StoredRun] | None:
        return segments(ChunkedTensor(FLOAT, (3, 3), chunks))

    whole = [StoredRun(storage, 12, 12), StoredRun(storage, 24, 24)]
    assert runs(chunk(0, 1, at=3), chunk(1, 2, at=6)) == whole
    assert runs(chunk(1, 2, at=6), chunk(2, 0), chunk(0, 1, at=3)) == whole
    assert runs() == []
    assert runs(chunk(0, 3, 0, 2), chunk(0, 3, 2, 1)) is None
    assert runs(chunk(0, 3, 1, 3)) is None
    assert runs(Chunk((0, 0), view(shape=(3, 3), stride=(1, 3)))) is None
