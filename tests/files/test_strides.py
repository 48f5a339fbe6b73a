"""Geometry of views against plain enumeration: which stored elements a view touches, and in which order."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.files.strides import segments, stored_view
from ckpttool.values.checkpoint import StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME, DType

DTYPES = [BY_NAME[name] for name in ("uint8", "float32", "complex128")]


def info(shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: DType) -> TensorInfo:
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
    return TensorInfo(dtype, shape, stride, offset, StorageRef("f", "0", 0, max(last, 1) * dtype.nbytes))


def touched(view: TensorInfo) -> list[int]:
    """Places in the storage, in elements, in row-major order of the view."""
    ranges = [range(size) for size in view.shape]
    return [
        view.storage_offset + sum(index * step for index, step in zip(place, view.stride, strict=True))
        for place in itertools.product(*ranges)
    ]


dims = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4)
views = st.builds(
    lambda sizes, offset, dtype: info(tuple(s for s, _ in sizes), tuple(t for _, t in sizes), offset, dtype),
    dims,
    st.integers(0, 7),
    st.sampled_from(DTYPES),
)


@settings(max_examples=500)
@given(views)
def test_the_stored_view_has_each_touched_element_once_and_none_outside_the_span(view: TensorInfo) -> None:
    wanted = sorted(set(touched(view)))
    stored = stored_view(view)
    assert isinstance(stored, TensorInfo)
    got = touched(stored)
    assert got == sorted(set(got))
    if wanted:
        assert set(wanted) <= set(got)
        assert wanted[0] <= got[0] and got[-1] <= wanted[-1]


@settings(max_examples=200)
@given(views, st.integers(0, 4), st.integers(0, 20))
def test_a_dimension_of_one_changes_nothing_whatever_its_stride(
    view: TensorInfo, place: int, step: int
) -> None:
    shape, stride = list(view.shape), list(view.stride)
    shape.insert(place, 1)
    stride.insert(place, step)
    more = view._replace(shape=tuple(shape), stride=tuple(stride))
    if 0 not in view.shape:
        assert stored_view(more) == stored_view(view)
    assert segments(more) == segments(view)


@st.composite
def made_by_torch(draw: st.DrawFn) -> torch.Tensor:
    """A view that view operations make, of a tensor of places."""
    view = torch.arange(120).view(draw(st.sampled_from([(120,), (4, 30), (2, 3, 20), (5, 2, 3, 4)])))
    for _ in range(draw(st.integers(0, 4))):
        how = draw(st.sampled_from(["permute", "slice", "step", "expand", "unfold", "select"]))
        axis = draw(st.integers(0, view.dim() - 1)) if view.dim() else 0
        if not view.dim() or not view.numel():
            break
        if how == "permute":
            view = view.permute(draw(st.permutations(range(view.dim()))))
        elif how == "slice":
            start = draw(st.integers(0, view.shape[axis] - 1))
            view = view.narrow(axis, start, view.shape[axis] - start)
        elif how == "step":
            view = view[(slice(None),) * axis + (slice(None, None, draw(st.integers(1, 3))),)]
        elif how == "select" and view.dim() > 1:
            view = view.select(axis, 0)
        elif how == "expand" and view.numel() < 2000:
            view = view.unsqueeze(0).expand(3, *view.shape)
        elif how == "unfold" and view.shape[axis] > 2 and view.numel() < 2000:
            size = draw(st.integers(1, view.shape[axis]))
            view = view.unfold(axis, size, draw(st.integers(1, 3)))
    return view


@settings(max_examples=300)
@given(made_by_torch())
def test_of_views_without_windows_the_stored_view_is_exact(tensor: torch.Tensor) -> None:
    view = info(tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), BY_NAME["int64"])
    stored = stored_view(view)
    assert isinstance(stored, TensorInfo)
    got, wanted = touched(stored), sorted(set(tensor.flatten().tolist()))
    assert touched(view) == tensor.flatten().tolist()
    # Windows of a dimension that is strided itself are the one case where the span is taken.
    assert got == wanted or (len(wanted) < tensor.numel() and got == list(range(wanted[0], wanted[-1] + 1)))


@settings(max_examples=300)
@given(views)
def test_segments_are_the_elements_in_order_or_none(view: TensorInfo) -> None:
    runs = segments(view)
    expected = touched(view)
    if runs is None:
        assert expected != list(range(expected[0], expected[0] + len(expected)))
        return
    size = view.dtype.nbytes
    got = [at for run in runs for at in range(run.offset, run.offset + run.nbytes)]
    assert got == [place * size + byte for place in expected for byte in range(size)]


def test_numbers_below_a_byte_are_a_run_where_they_begin_on_one() -> None:
    for name, width in (("float6_e2m3fn", 6), ("float6_e3m2fn", 6)):
        storage = StorageRef("f", "0", 0, 8)
        for offset in range(12):
            runs = segments(TensorInfo(BY_NAME[name], (4,), (1,), offset, storage))
            start = offset * width
            assert (runs is not None) is (start % 8 == 0 and start // 8 + 3 <= 8)
            assert runs is None or runs == [(storage, start // 8, 3)]
