"""Shared bytes, against torch's own storages."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckpttool.kinds.aliases import Aliasing, find_aliases
from ckpttool.values.checkpoint import CompositeTensor, Entry, Part, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME, parse_torch_name


def entries_of(tensors: dict[str, torch.Tensor]) -> list[Entry]:
    """What a reader would return for these tensors: one storage ref per torch storage."""
    refs: dict[int, StorageRef] = {}
    end = 0
    entries = []
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage._cdata not in refs:
            refs[storage._cdata] = StorageRef("f.pt", str(len(refs)), end, storage.nbytes(), "cpu")
            end += storage.nbytes()
        dtype = parse_torch_name(str(tensor.dtype))
        assert dtype is not None
        info = TensorInfo(
            dtype,
            tuple(tensor.shape),
            tuple(tensor.stride()),
            tensor.storage_offset(),
            refs[storage._cdata],
            tensor.is_conj(),
            tensor.is_neg(),
        )
        entries.append(Entry((), name, info))
    return entries


def analyse(**tensors: torch.Tensor) -> Aliasing:
    return find_aliases(entries_of(tensors))


def names(pairs: Aliasing) -> set[tuple[str, str]]:
    return {(str(a.name), str(b.name)) for a, b in pairs.overlaps}


def ties(aliasing: Aliasing) -> list[str | None]:
    return [None if entry is None else str(entry.name) for entry in aliasing.tied_to]


def test_the_first_of_equal_views_is_what_the_others_are_tied_to() -> None:
    weight = torch.zeros(4, 3)
    found = analyse(a=weight, b=torch.zeros(4, 3), c=weight, d=weight.view(4, 3))
    assert ties(found) == [None, None, "a", "a"]
    assert (found.storages, found.storage_nbytes, found.unreferenced_nbytes) == (2, 96, 0)
    assert found.overlaps == ()


def test_a_view_that_differs_in_any_way_is_an_overlap_and_not_a_tie() -> None:
    weight = torch.zeros(4, 4)
    for other in (weight.t(), weight.view(16), weight[1:], weight.view(torch.int32), weight[:, :3]):
        found = analyse(a=weight, b=other)
        assert ties(found) == [None, None]
        assert names(found) == {("a", "b")}
    z = torch.zeros(3, dtype=torch.complex64)
    assert names(analyse(a=z, b=z.conj())) == {("a", "b")}


def test_disjoint_views_of_one_flat_storage_do_not_overlap() -> None:
    flat = torch.zeros(12)
    assert analyse(a=flat[:4], b=flat[4:8], c=flat[8:]).overlaps == ()
    fused = torch.zeros(5, 12)
    q, k, v = fused.chunk(3, dim=1)
    found = analyse(q=q, k=k, v=v)
    assert (found.overlaps, found.unreferenced_nbytes) == ((), 0)
    assert analyse(a=fused[:, 0], b=fused[:, 1]).overlaps == ()
    assert analyse(a=flat[::2], b=flat[1::2]).overlaps == ()


def test_bytes_that_no_tensor_refers_to() -> None:
    big = torch.zeros(1000)
    found = analyse(small=big[10:20])
    assert (found.storage_nbytes, found.unreferenced_nbytes) == (4000, 3960)
    assert [(str(b.entry.name), b.unreferenced_nbytes) for b in found.bloated] == [("small", 3960)]
    assert analyse(a=big[:500], b=big[400:]).unreferenced_nbytes == 0
    assert analyse(a=torch.zeros(10, 10)[:, 0]).unreferenced_nbytes == 4 * 90
    assert analyse(a=torch.zeros(2, 1).expand(2, 50)).unreferenced_nbytes == 0


def test_tensors_without_elements_share_nothing() -> None:
    empty, big = torch.zeros(0), torch.zeros(4)
    found = analyse(a=empty, b=empty, c=big[:0], d=big)
    assert ties(found) == [None] * 4
    assert (found.storages, found.overlaps) == (1, ())
    meta = TensorInfo(BY_NAME["float32"], (2,), (1,), 0, None)
    assert find_aliases([Entry((), "a", meta), Entry((), "b", meta)]).tied_to == (None, None)


def test_composites_are_tied_when_all_their_parts_are() -> None:
    [values, indices, other] = [e.value for e in entries_of({n: torch.zeros(3) for n in "abc"})]
    assert values is not None and indices is not None and other is not None

    def sparse(first: object, second: object) -> CompositeTensor:
        parts = (Part("indices", first), Part("values", second))  # type: ignore[arg-type]
        return CompositeTensor("sparse_coo", "torch._utils._rebuild_sparse_tensor", None, (9,), parts)

    found = find_aliases(
        [
            Entry((), "a", sparse(indices, values)),
            Entry((), "b", sparse(indices, other)),
            Entry((), "c", sparse(indices, values)),
            Entry((), "d", values),
        ]
    )
    assert ties(found) == [None, None, "a", None]
    assert found.storages == 3


def test_a_part_of_something_takes_no_tie_from_two_whole_tensors() -> None:
    """A sparse tensor stands before two names of its values: these two are one tensor."""
    [values, indices] = entries_of({n: torch.zeros(3) for n in "ab"})
    sparse = CompositeTensor(
        "sparse_coo", "", None, (9,), (Part("i", indices.value), Part("v", values.value))
    )  # type: ignore[arg-type]
    whole = Entry((), "s", sparse)
    for order in ([whole, values, values, indices], [values, whole, values, indices]):
        found = find_aliases(order)
        assert ties(found) == [None, None, "a", None] and found.overlaps == ()
        assert (found.storages, found.unreferenced_nbytes, found.bloated) == (2, 0, ())


def test_one_tensor_twice_in_another_meets_itself_and_nobody_else() -> None:
    [values] = entries_of({"a": torch.zeros(3)})
    twice = CompositeTensor(
        "subclass", "m.Two", None, (3,), (Part("x", values.value), Part("y", values.value))
    )  # type: ignore[arg-type]
    found = find_aliases([Entry((), "t", twice), values, Entry((), "u", twice)])
    assert (ties(found), found.overlaps, found.unreferenced_nbytes) == ([None, None, "t"], (), 0)


def test_devices_are_counted_by_storage() -> None:
    entries = entries_of({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(3)})
    moved = [
        e._replace(value=e.tensor._replace(storage=e.tensor.storage._replace(location="cuda:7")))
        for e in entries[:2]
        if e.tensor and e.tensor.storage
    ]
    assert find_aliases([*moved, moved[0], entries[2]]).locations == (("cuda:7", 2), ("cpu", 1))


views = st.builds(
    lambda offset, shape, transpose, step: (offset, shape, transpose, step),
    st.integers(0, 12),
    st.lists(st.integers(0, 4), max_size=2).map(tuple),
    st.booleans(),
    st.integers(1, 3),
)


@given(st.lists(st.tuples(st.integers(0, 2), views), max_size=9))
def test_agrees_with_torch(picks: list[tuple[int, tuple[int, tuple[int, ...], bool, int]]]) -> None:
    bases = [torch.arange(i * 100, i * 100 + 40, dtype=torch.int32) for i in range(3)]
    tensors: dict[str, torch.Tensor] = {}
    for i, (base, (offset, shape, transpose, step)) in enumerate(picks):
        flat = bases[base][offset::step]
        size = 1
        for n in shape:
            size *= n
        if size > flat.numel():
            continue
        view = flat[:size].reshape(shape) if step == 1 else flat[:size].unflatten(0, shape or (1,))
        tensors[str(i)] = view.t() if transpose and view.dim() == 2 else view
    found = find_aliases(entries_of(tensors))

    used = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    assert (found.storages, found.storage_nbytes) == (len(used), sum(used.values()))
    # All values of all bases differ, so what a tensor holds says which elements it views.
    held = {name: set(t.flatten().tolist()) for name, t in tensors.items()}
    everything: set[int] = set().union(*held.values())
    assert found.unreferenced_nbytes <= found.storage_nbytes - 4 * len(everything)
    for a, b in names(found):
        assert held[a] & held[b]
    first_of: dict[object, str] = {}
    for (name, t), tied in zip(tensors.items(), ties(found), strict=True):
        view = (t.data_ptr(), t.shape, t.stride())
        first = first_of.setdefault(view, name) if t.numel() else name
        assert tied == (None if first == name else first)
    # What meets something else and is tied to nothing stands in a pair.
    paired = {name for pair in names(found) for name in pair}
    packed = {n for n, t in tensors.items() if t.is_contiguous() and t.numel()}
    for name, tied in zip(tensors, ties(found), strict=True):
        if tied is None and name in packed:
            others = [o for o in packed if o != name and held[o] & held[name] and held[o] != held[name]]
            assert not others or name in paired


# -- which views meet ---------------------------------------------------------------------------------------


def touched(view: TensorInfo) -> set[int]:
    """The elements of a storage that a view has, each by itself."""
    places = [range(size) for size in view.shape]
    steps = [sum(map(operator.mul, at, view.stride)) for at in itertools.product(*places)]
    return {view.storage_offset + step for step in steps}


FLAT = StorageRef("f.pt", "0", 0, 4000, "cpu")


def view(shape: Sequence[int], stride: Sequence[int], offset: int = 0, dtype: str = "int32") -> TensorInfo:
    return TensorInfo(BY_NAME[dtype], tuple(shape), tuple(stride), offset, FLAT)


def meet(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two views are said to have elements in common."""
    first, second = Entry((), "a", a), Entry((), "b", b)
    found = find_aliases([first, second])
    assert found.overlaps in ((), ((first, second),))
    turned = find_aliases([second, first])
    assert turned.overlaps == tuple((right, left) for left, right in found.overlaps)
    assert (turned.unreferenced_nbytes, turned.storages) == (found.unreferenced_nbytes, 1)
    return bool(found.overlaps)


dims = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 7)), max_size=3)
strided = st.builds(
    lambda dims, offset: view([size for size, _ in dims], [step for _, step in dims], offset),
    dims,
    st.integers(0, 12),
)


@settings(max_examples=200)
@example(view((2, 5), (4, 1)), view((1,), (1,), 8))
@example(view((2, 4), (4, 1)), view((1,), (1,), 8))
@example(view((3,), (2,)), view((3,), (2,), 1))
@example(view((3, 1), (2, 9)), view((3,), (2,), 1))
@example(view((2, 3), (3, 1)), view((2, 2), (3, 1), 2))
@given(strided, strided)
def test_no_two_views_that_meet_are_called_apart(a: TensorInfo, b: TensorInfo) -> None:
    if a == b:
        assert find_aliases([Entry((), "a", a), Entry((), "b", b)]).overlaps == ()
        return
    common = touched(a) & touched(b)
    assert meet(a, b) or not common
    found = find_aliases([Entry((), "a", a), Entry((), "b", b)])
    assert found.unreferenced_nbytes <= 4000 - 4 * len(touched(a) | touched(b))
    if all(len(touched(item)) == max(touched(item)) - min(touched(item)) + 1 for item in (a, b)):
        assert found.unreferenced_nbytes == 4000 - 4 * len(
            touched(a) | touched(b)
        )  # exact for what is packed
        assert meet(a, b) == bool(common)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[TensorInfo, TensorInfo]:
    """Two boxes of one dense tensor of up to three dimensions, the second nowhere before the first."""
    parent = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    strides = [math.prod(parent[dim + 1 :]) for dim in range(len(parent))]
    starts, made = [0] * len(parent), []
    for _ in range(2):
        starts = [draw(st.integers(start, size - 1)) for start, size in zip(starts, parent, strict=True)]
        shape = [draw(st.integers(1, size - start)) for start, size in zip(starts, parent, strict=True)]
        turn = draw(st.sampled_from([1, -1]))
        made.append(view(shape[::turn], strides[::turn], sum(map(operator.mul, starts, strides))))
    return made[0], made[1]


@given(boxes())
def test_of_boxes_of_one_tensor_it_is_known_exactly(pair: tuple[TensorInfo, TensorInfo]) -> None:
    a, b = pair
    if a != b:
        assert meet(a, b) == bool(touched(a) & touched(b))


def test_views_of_other_widths_meet_where_their_bytes_may() -> None:
    """Bytes 0 to 7 of each 16, and bytes 8 to 15: of unlike dtypes, their spans alone are known."""
    even, odd = view((4,), (4,), 0, "int32"), view((4,), (4,), 2, "int32")
    assert not meet(even, odd)
    assert not meet(even, odd._replace(dtype=BY_NAME["float32"]))
    assert meet(even, view((4,), (2,), 1, "int64"))
    assert meet(view((4,), (2,), 0, "int32"), view((1,), (1,), 1, "int64"))  # bytes 8 to 11
    assert not meet(view((4,), (1,), 0, "int16"), view((4,), (1,), 1, "int64"))
    assert meet(view((5,), (1,), 0, "int16"), view((4,), (1,), 1, "int64"))


@pytest.mark.parametrize(("between", "found"), [(0, True), (6, True), (7, False), (20, False)])
def test_so_many_earlier_views_are_compared_and_the_one_that_reaches_furthest(
    between: int, found: bool
) -> None:
    """``old`` and ``new`` have element 99 in common; ``far`` reaches further than both, over even ones."""
    far, old, new = view((100,), (2,), 2), view((100,), (1,)), view((1,), (1,), 99)
    others = [view((1,), (1,), at) for at in range(3, 3 + between)]
    entries = [Entry((), str(at), item) for at, item in enumerate([old, far, *others, new])]
    assert ((entries[0], entries[-1]) in find_aliases(entries).overlaps) is found
    furthest = [Entry((), "far", view((250,), (1,))), *entries[1:]]
    assert (furthest[0], furthest[-1]) in find_aliases(furthest).overlaps
