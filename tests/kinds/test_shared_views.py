"""Which views of one storage meet, against the sets of their bytes: never too few, exact where promised."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpttool.kinds import aliases
from ckpttool.kinds.aliases import Aliasing, find_aliases
from ckpttool.values.checkpoint import CompositeTensor, Entry, Part, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME
from tests.support.work import lines

NBYTES = 400


def stored(nbytes: int = NBYTES, key: str = "0", location: str | None = "cpu") -> StorageRef:
    return StorageRef("f.pt", key, 64, nbytes, location)


def view(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, dtype: str = "float32",
    storage: StorageRef | None = None,
) -> TensorInfo:  # fmt: skip
    return TensorInfo(BY_NAME[dtype], shape, stride, offset, storage or stored())


def run(start: int, end: int, step: int = 1, dtype: str = "float32") -> TensorInfo:
    """What ``flat[start:end:step]`` is."""
    return view((len(range(start, end, step)),), (step,), start, dtype)


def touched(info: TensorInfo) -> set[int]:
    """The bytes of its elements, one by one."""
    item = info.dtype.bits // 8
    found: set[int] = set()
    for index in product(*map(range, info.shape)):
        at = info.storage_offset + sum(i * step for i, step in zip(index, info.stride, strict=True))
        found.update(range(at * item, (at + 1) * item))
    return found


def find(*values: TensorInfo | CompositeTensor | None) -> Aliasing:
    return find_aliases([Entry((), str(index), value) for index, value in enumerate(values)])


def pairs(*values: TensorInfo | CompositeTensor) -> list[tuple[str, str]]:
    return [(str(a.name), str(b.name)) for a, b in find(*values).overlaps]


def composite(*values: TensorInfo) -> CompositeTensor:
    parts = tuple(Part(f"part {index}", value) for index, value in enumerate(values))
    return CompositeTensor("sparse_coo", "torch.Tensor", None, (9,), parts)


# -- two views ------------------------------------------------------------------------------------------


@st.composite
def any_view(draw: st.DrawFn) -> TensorInfo:
    """As ``as_strided`` makes them: strides repeat, cross and are 0."""
    shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    stride = tuple(draw(st.integers(0, 7)) for _ in shape)
    return view(
        shape, stride, draw(st.integers(0, 12)), draw(st.sampled_from(["int32", "float32", "int16", "uint8"]))
    )


@settings(max_examples=300)
@given(any_view(), any_view())
@example(view((3, 4), (1, 1)), run(4, 6))
@example(run(2, 4), run(8, 9, dtype="uint8"))
@example(run(4, 6), run(17, 18, dtype="uint8"))
@example(view((4,), (3,)), view((3,), (2,), 5))
def test_views_that_meet_are_found_however_they_step(a: TensorInfo, b: TensorInfo) -> None:
    meet = bool(touched(a) & touched(b))
    found = find(a, b)
    if not meet or a == b:
        assert [entry and entry.name for entry in found.tied_to] == [None, "0" if meet else None]
    else:
        assert pairs(a, b) == pairs(b, a) == [("0", "1")]


@st.composite
def split(draw: st.DrawFn) -> tuple[TensorInfo, TensorInfo]:
    """Two slices of a dense parent that differ along one dimension, as ``chunk`` and ``select`` make them.

    A dimension of 1 may have any stride, or be gone.
    """
    sizes, along = (3, 4, 5), draw(st.integers(0, 2))
    ranges = [sorted(draw(st.tuples(st.integers(0, size - 1), st.integers(1, size)))) for size in sizes]
    made = []
    for _ in range(2):
        ranges[along] = sorted(draw(st.tuples(*[st.integers(0, sizes[along])] * 2)))
        offset, shape, stride = 3, [], []
        for (start, end), step in zip(ranges, (20, 5, 1), strict=True):
            start = min(start, end - 1) if end else 0
            offset += start * step
            if end - start > 1 or draw(st.booleans()):
                shape.append(max(1, end - start))
                stride.append(step if end - start > 1 else draw(st.sampled_from([step, 0, 3, 7])))
        made.append(view(tuple(shape), tuple(stride), offset, draw(st.sampled_from(["int32", "float32"]))))
    return made[0], made[1]


@settings(max_examples=300)
@given(split())
def test_slices_of_one_parent_are_told_apart(both: tuple[TensorInfo, TensorInfo]) -> None:
    a, b = both
    meet = bool(touched(a) & touched(b)) and a != b
    assert pairs(a, b) == ([("0", "1")] if meet else [])


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_interleaved_runs_are_told_apart(step: int, first: int, second: int) -> None:
    a, b = run(first, 24, step), run(second, 24, step)
    assert pairs(a, b) == ([("0", "1")] if first != second and (first - second) % step == 0 else [])


# -- many views -----------------------------------------------------------------------------------------

runs = st.builds(
    lambda start, length: run(start, start + length), st.integers(0, 90), st.integers(0, 20)
).filter(lambda info: info.storage_offset + info.numel <= NBYTES // 4)


@settings(max_examples=300)
@given(st.lists(runs, min_size=1, max_size=14))
@example([run(0, 8), run(2, 4)])
@example([run(1, 6), run(3, 9)])
@example([run(0, 50), *(run(at, at + 1) for at in range(0, 50, 3))])
def test_of_packed_views_all_that_is_said_is_exact(values: list[TensorInfo]) -> None:
    found = find(*values)
    held = [touched(info) for info in values]
    unreferenced = NBYTES - len(set().union(*held))
    assert found.unreferenced_nbytes == unreferenced
    expected = [("0", unreferenced)] if unreferenced else []
    assert [(bloat.entry.name, bloat.unreferenced_nbytes) for bloat in found.bloated] == expected
    # Of each group of equal views one is looked at; it is in a pair if it meets any other one.
    met = {name for pair in pairs(*values) for name in pair}
    for index, info in enumerate(values):
        if values.index(info) == index:
            others = [bytes_ for other, bytes_ in zip(values, held, strict=True) if other != info]
            assert (str(index) in met) == any(held[index] & bytes_ for bytes_ in others), index
    for a, b in pairs(*values):
        assert int(a) < int(b) and held[int(a)] & held[int(b)]


@settings(max_examples=300)
@given(st.lists(any_view(), min_size=1, max_size=4))
def test_of_any_views_only_what_none_touches_is_unreferenced(values: list[TensorInfo]) -> None:
    left = NBYTES - len(set().union(*map(touched, values)))
    found = find(*values)
    assert 0 <= found.unreferenced_nbytes <= left or not any(value.numel for value in values)


def test_what_an_expanded_view_repeats_hides_nothing() -> None:
    """However many elements it has, it touches one of the storage's bytes; every other column is free."""
    column, row = view((5,), (10,)), view((1000, 3), (0, 1), 1)
    assert touched(row) == set(range(4, 16))
    assert find(column, row).unreferenced_nbytes == NBYTES - 5 * 4 - 3 * 4


def test_a_view_is_in_one_pair_as_the_later_one() -> None:
    """Later by where it starts; the name that stands first in the file is first."""
    assert pairs(run(0, 9), run(1, 9), run(2, 9)) == [("0", "1"), ("0", "2")]
    assert pairs(run(5, 9), run(0, 6)) == [("0", "1")]


def test_one_that_reaches_far_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared with all that follow, however many start in between, and so are those just before."""
    monkeypatch.setattr(aliases, "_COMPARED_VIEWS", 2)
    far = run(0, 60)
    many = [run(at, at + 1) for at in range(1, 40, 2)]
    assert pairs(far, *many) == [("0", str(index + 1)) for index in range(len(many))]
    # The furthest is even and misses what the other one meets, which stands first and ends earlier.
    assert pairs(run(0, 9, 2), run(1, 60, 2), run(4, 5)) == [("0", "2")]
    assert pairs(run(0, 9, 2), run(1, 60, 2), run(8, 9)) == [("0", "2")]


def test_views_without_end_cost_no_more_than_their_number() -> None:
    """Interleaved, so that all of them lie over each other and none meets another."""

    def work(count: int) -> int:
        values = [view((4,), (count,), start, storage=stored(16 * count)) for start in range(count)]
        entries = [Entry((), str(index), value) for index, value in enumerate(values)]
        return lines(lambda: find_aliases(entries))

    assert work(400) < 2.3 * work(200)


def test_all_but_bytes_beyond_the_tensors_is_no_bloat() -> None:
    for nbytes, spare in ((16, 0), (17, 1), (20, 4)):
        found = find(view((4,), (1,), storage=stored(nbytes)), view((2,), (1,), storage=stored(nbytes)))
        assert found.unreferenced_nbytes == spare
        assert [bloat.unreferenced_nbytes for bloat in found.bloated] == ([spare] if spare else [])


# -- ties -----------------------------------------------------------------------------------------------


def tied(*values: TensorInfo | CompositeTensor | None) -> list[object]:
    return [entry and entry.name for entry in find(*values).tied_to]


def test_a_tie_is_made_by_bytes_and_not_by_what_else_is_said_of_the_storage() -> None:
    here = view((4,), (1,))
    there = view((4,), (1,), storage=stored(location="cuda:0"))
    longer = view((4,), (1,), storage=stored(NBYTES + 4))
    assert tied(here, there, there, longer) == [None, "0", "0", "0"]
    assert (find(here, there, longer).storages, find(here, there).locations) == (1, (("cpu", 1),))
    for other in (
        view((4,), (1,), storage=stored(key="1")),
        here._replace(storage=stored()._replace(file="g.pt")),
        here._replace(storage=stored()._replace(byte_offset=128)),
    ):
        assert tied(here, other) == [None, None]
        assert find(here, other).storages == 2


def test_composites_are_tied_where_they_have_bytes_of_their_own() -> None:
    full, empty = view((3,), (1,)), view((0,), (1,))
    meta = full._replace(storage=None)
    for parts, same in (
        ((full, full), True), ((full, empty), True), ((empty, full), True), ((meta, full), True),
        ((empty, empty), False), ((meta, meta), False), ((meta, empty), False), ((), False),
    ):  # fmt: skip
        assert tied(composite(*parts), composite(*parts)) == [None, "0" if same else None], parts
    assert tied(None, None) == [None, None]


def test_a_composite_and_a_tensor_are_tied_neither_way() -> None:
    plain, other = run(0, 4), run(6, 9)
    assert tied(plain, composite(plain, other)) == [None, None]
    assert tied(composite(plain, other), plain) == [None, None]
    assert pairs(plain, composite(plain, other)) == []


def test_parts_of_one_composite_are_no_pair() -> None:
    assert pairs(composite(run(0, 4), run(2, 6))) == []
    assert pairs(composite(run(0, 4), run(2, 6)), run(5, 8)) == [("0", "1")]
