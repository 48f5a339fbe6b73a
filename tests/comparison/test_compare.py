"""Every number of a comparison against torch's own, computed in float64 over the same values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.comparison import compare
from ckpttool.comparison.compare import Outcome
from ckpttool.elements.sums import Tolerance
from ckpttool.values.checkpoint import CompositeTensor, Part
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from tests.support.compared import Files, bits_of, check, values

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"]
INTS = ["int8", "uint8", "int16", "int32", "int64", "bool"]
COMPLEX = ["complex64", "complex128"]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("name", [*FLOATS, *INTS, *COMPLEX])
@pytest.mark.parametrize("numel", [1, 7, 40_000])
def test_numbers_of_one_dtype(files: Files, name: str, numel: int) -> None:
    a, b = values(name, numel, 1), values(name, numel, 2)
    outcome = files.one(a, b)
    if torch.equal(bits_of(a), bits_of(b)):
        assert outcome == Outcome(True)
    else:
        assert outcome.equal is False
        check(outcome.numbers, a, b)
    assert files.one(a, a.clone()) == Outcome(True)


@pytest.mark.parametrize("first", [*FLOATS, "int32", "bool", "complex64"])
@pytest.mark.parametrize("second", ["float32", "bfloat16", "int64", "complex128"])
def test_numbers_across_dtypes(files: Files, first: str, second: str) -> None:
    if first == second:
        return
    a, b = values(first, 1000, 1), values(second, 1000, 2)
    outcome = files.one(a, b)
    assert outcome.equal is False
    x, y = (t.to(torch.complex128) if a.is_complex() or b.is_complex() else t for t in (a, b))
    check(outcome.numbers, x, y)


@pytest.mark.parametrize("wide_name", ["float64", "float32"])
@pytest.mark.parametrize("narrow", ["float32", "float16", "bfloat16"])
def test_what_is_rounded_and_nothing_else_is_said_so(files: Files, wide_name: str, narrow: str) -> None:
    if wide_name == narrow:
        return
    a = values(wide_name, 5000, 1) * 1e-6
    a[:4] = torch.tensor([math.nan, math.inf, 1e9, 0.0])
    b = a.to(getattr(torch, narrow))
    there, back = files.one(a, b).numbers, files.one(b, a).numbers
    assert there is not None and back is not None
    assert there.unrounded == back.unrounded == 0
    b[17] += 1
    other = files.one(a, b).numbers
    assert other is not None and other.unrounded == 1


def test_nan_and_infinities_are_counted_and_not_added_up(files: Files) -> None:
    nan, inf = math.nan, math.inf
    a = torch.tensor([1.0, nan, nan, 2.0, inf, -inf, 3.0, 4.0, inf])
    b = torch.tensor([nan, 1.0, nan, inf, 2.0, inf, 3.5, 4.0, inf])
    numbers = files.one(a, b).numbers
    assert numbers is not None
    assert (numbers.nan_appeared, numbers.nan_gone) == (1, 1)
    assert (numbers.inf_appeared, numbers.inf_gone) == (1, 1)
    assert (numbers.changed, numbers.finite, numbers.max_abs) == (6, 2, 0.5)


def test_a_tensor_that_became_all_nan_has_changed(files: Files) -> None:
    outcome = files.one(torch.ones(10), torch.full((10,), math.nan))
    assert outcome.equal is False and outcome.numbers is not None
    assert (outcome.numbers.changed, outcome.numbers.nan_appeared, outcome.numbers.max_abs) == (10, 10, None)


def test_bits_decide_what_is_equal(files: Files) -> None:
    nan = torch.tensor([math.nan])
    other_nan = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert files.one(nan, nan.clone()).equal is True
    assert files.one(nan, other_nan).equal is False
    zeros = files.one(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert zeros.equal is False and zeros.numbers is not None
    assert (zeros.numbers.changed, zeros.numbers.max_abs, zeros.numbers.rel_l2) == (1, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64])
def test_integers_beyond_float64_are_exact(files: Files, dtype: torch.dtype) -> None:
    low = -(2**63) if dtype is torch.int64 else 0
    high = 2**63 - 1 if dtype is torch.int64 else 2**64 - 1
    a = torch.tensor([low, 5, 2**53], dtype=dtype)
    b = torch.tensor([high, 5, 2**53 + 1], dtype=dtype)
    assert files.one(a, b).numbers.max_abs == high - low == 2**64 - 1  # type: ignore[union-attr]
    near = files.one(b[1:].clone(), a[1:].clone(), Tolerance(atol=0.5)).numbers
    assert near is not None and (near.max_abs, near.outside) == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_ulp_counts_representable_values(files: Files, dtype: torch.dtype) -> None:
    a = torch.tensor([1.0, -1.0, 0.0, 100.0, math.inf], dtype=dtype)
    b = a.clone()
    for _ in range(3):
        b[:2] = torch.nextafter(b[:2], torch.full((2,), 9.0, dtype=dtype))
    b[2] = -0.0
    for limit, outside in ((0, 2), (2, 2), (3, 0)):
        numbers = files.one(a, b, Tolerance(ulp=limit)).numbers
        assert numbers is not None and (numbers.max_ulp, numbers.outside) == (3, outside)
    extremes = torch.tensor([torch.finfo(dtype).max], dtype=dtype)
    numbers = files.one(extremes, -extremes, Tolerance(ulp=0)).numbers
    largest = {2: 0x7BFF if dtype is torch.float16 else 0x7F7F, 4: 0x7F7FFFFF, 8: 0x7FEFFFFFFFFFFFFF}
    assert numbers is not None and numbers.max_ulp == 2 * largest[dtype.itemsize]


@given(
    st.lists(st.tuples(*[st.floats(width=32)] * 2), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.1, 10.0]),
    st.sampled_from([0.0, 1e-3, 0.5]),
)
@settings(max_examples=60)
def test_tolerance_is_symmetric_and_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[float, float]], atol: float, rtol: float
) -> None:
    files = Files(tmp_path_factory.mktemp("t"))
    a, b = (torch.tensor(column) for column in zip(*pairs, strict=True))
    tolerance = Tolerance(atol, rtol)
    there, back = files.one(a, b, tolerance), files.one(b, a, tolerance)
    assert there.equal == back.equal
    if there.numbers is None or back.numbers is None or not tolerance.is_asked:
        return
    outside = 0
    for x, y in zip(a.double().tolist(), b.double().tolist(), strict=True):
        same = x == y or (math.isnan(x) and math.isnan(y))
        near = math.isfinite(x - y) and abs(x - y) <= atol + rtol * max(abs(x), abs(y))
        outside += not (same or near)
    assert there.numbers.outside == back.numbers.outside == outside


VIEWS = {
    "transposed": lambda t: t.t(),
    "sliced": lambda t: t[1::2, 2:],
    "column": lambda t: t[:, 3],
    "expanded": lambda t: t[:1].expand(5, -1),
    "unfolded": lambda t: t.flatten().unfold(0, 4, 2),
    "packed": lambda t: t,
}


@pytest.mark.parametrize("first", VIEWS)
def test_strides_do_not_matter(files: Files, first: str) -> None:
    base = torch.randn(40, 30)
    a = VIEWS[first](base)
    b = a.contiguous().clone()
    assert files.one(a, b).equal is True
    assert files.one(a, VIEWS[first](base.clone())).equal is True
    b.view(-1)[b.numel() // 2] += 1
    outcome = files.one(a, b)
    assert outcome.equal is False
    check(outcome.numbers, a, b)


def test_what_lies_between_the_elements_of_a_view_does_not_count(files: Files) -> None:
    base = torch.arange(20.0)
    for shape, stride in (((2, 3), (3, 2)), ((4, 3), (5, 2)), ((3, 4), (2, 2))):
        touched = torch.arange(20).as_strided(shape, stride).flatten().tolist()
        for place in range(20):
            other = base.clone()
            other[place] += 1
            outcome = files.one(base.as_strided(shape, stride), other.as_strided(shape, stride))
            assert outcome.equal is (place not in touched)
            if outcome.numbers is not None and len(set(touched)) == len(touched):
                assert outcome.numbers.changed == 1


def test_lazy_conj_and_neg_are_resolved(files: Files) -> None:
    a = torch.randn(50, dtype=torch.complex64)
    assert files.one(a.conj(), a.conj().resolve_conj().clone()).equal is True
    assert files.one(a.conj(), a.clone()).equal is False
    negative = torch._neg_view(a.real.contiguous())
    assert files.one(negative, -a.real.contiguous()).equal is True


def test_big_endian_is_the_same_numbers(files: Files, tmp_path: Path) -> None:
    a = torch.randn(100)
    swapped = bytes(a.view(torch.uint8).reshape(-1, 4).flip(1).flatten().numpy())
    info = files.info(torch.frombuffer(bytearray(swapped), dtype=torch.float32))
    assert info.storage is not None
    big = info._replace(storage=info.storage._replace(big_endian=True))
    (outcome,) = files.compare((files.info(a), big))
    assert outcome.equal is True


def test_petabytes_that_are_one_number(files: Files) -> None:
    huge = torch.tensor([1.5]).expand(1 << 25, 1 << 25)
    same, other = (
        files.info(huge),
        files.info(torch.tensor([2.5]).expand(1 << 25, 1 << 25)),
    )
    outcomes = files.compare((same, files.info(torch.tensor([1.5]).expand(1 << 25, 1 << 25))), (same, other))
    assert outcomes[0].equal is True
    assert outcomes[1].equal is False and outcomes[1].numbers is not None
    assert (outcomes[1].numbers.max_abs, outcomes[1].numbers.numel) == (1.0, 1)


def test_views_that_expand_differently_are_refused_not_walked(files: Files) -> None:
    row = files.info(torch.randn(1, 1 << 13).expand(1 << 25, 1 << 13))
    column = row._replace(stride=(1, 0))
    with pytest.raises(LimitExceeded, match="expand"):
        files.compare((row, column))


@pytest.mark.parametrize("position", [0, 1, 65_535, 65_536, 300_000, 999_999])
def test_a_flipped_byte_is_found_wherever_spans_and_threads_cut(
    files: Files, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 1 << 18)
    monkeypatch.setattr(compare, "_THREADED_NBYTES", 1)
    monkeypatch.setattr(compare, "_BLOCK_NBYTES", 1 << 16)
    a = torch.randn(250_000)
    b = a.clone()
    b.view(torch.uint8)[position] ^= 1
    assert files.one(a, a.clone()).equal is True
    outcome = files.one(a, b)
    assert outcome.equal is False and outcome.numbers is not None
    assert (outcome.numbers.changed, outcome.numbers.numel) == (1, 250_000)
    check(outcome.numbers, a, b)


def test_threads_do_not_change_the_sum(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 1 << 16)
    a, b = torch.randn(200_000), torch.randn(200_000)
    alone = files.one(a, b).numbers
    monkeypatch.setattr(compare, "_THREADED_NBYTES", 1)
    assert all(files.one(a, b).numbers == alone for _ in range(3))


def test_an_error_of_one_thread_is_the_error(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_THREADED_NBYTES", 1)
    pair = files.info(torch.randn(1000)), files.info(torch.randn(1000))
    Path(files.files[1].path).write_bytes(b"short")
    with pytest.raises(MalformedCheckpoint, match="changed"):
        files.compare(pair)


def test_parts_are_compared_and_named(files: Files) -> None:
    def sparse(indices: torch.Tensor, data: torch.Tensor) -> CompositeTensor:
        parts = (Part("indices", files.info(indices)), Part("values", files.info(data)))
        return CompositeTensor(
            "sparse_coo", "torch._utils._rebuild_sparse_tensor", BY_NAME["float32"], (9,), parts
        )

    indices, data = torch.tensor([[1, 4]]), torch.tensor([1.0, 2.0])
    same, moved = sparse(indices, data), sparse(indices, data + 1)
    other = same._replace(details=(("is_coalesced", True),))
    outcomes = files.compare((same, sparse(indices, data)), (same, moved), (same, other))
    assert [outcome.equal for outcome in outcomes] == [True, False, False]
    assert outcomes[1].note == "other values"


def test_packed_numbers_below_a_byte(files: Files) -> None:
    a = torch.arange(16, dtype=torch.uint8)
    infos = [files.info(t)._replace(dtype=BY_NAME["float4_e2m1fn_x2"]) for t in (a, a.clone(), a ^ 0x10)]
    outcomes = files.compare((infos[0], infos[1]), (infos[0], infos[2]))
    assert outcomes[0].equal is True
    assert outcomes[1].numbers is not None
    assert (outcomes[1].numbers.numel, outcomes[1].numbers.changed) == (32, 16)


def test_a_tensor_without_values_is_not_called_equal_to_one_that_has_some(files: Files) -> None:
    full = files.info(torch.ones(3))
    meta = full._replace(storage=None)
    outcomes = files.compare((full, meta), (meta, full), (meta, meta))
    assert [outcome.equal for outcome in outcomes] == [False, False, None]
