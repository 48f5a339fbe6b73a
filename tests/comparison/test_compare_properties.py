"""Two sides that lie in their files in different ways, of one dtype or two, held against torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.comparison.compare import Outcome
from ckpttool.elements.sums import BLOCK_NUMEL, Tolerance
from ckpttool.values.difference import Numbers
from tests.support.compared import Files, bits_of, check

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTS = (torch.int64, torch.int16, torch.uint8, torch.bool)
COMPLEX = (torch.complex64, torch.complex128)
SPECIALS = (math.nan, math.inf, -math.inf, 0.0, -0.0)

# Small ones of every form, and some that are longer than one block of the sums.
SHAPES = st.sampled_from([(), (1,), (7,), (3, 5), (2, 3, 4), (0,), (3, 0)])
LONG = st.sampled_from([(BLOCK_NUMEL + 1,), (3, BLOCK_NUMEL // 2), (2 * BLOCK_NUMEL + 5,), (257, 131)])


def _packed(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous()


def _turned(values: torch.Tensor) -> torch.Tensor:
    """Column-major."""
    backwards = tuple(reversed(range(values.ndim)))
    return values.permute(backwards).contiguous().permute(backwards)


def _every_third(values: torch.Tensor) -> torch.Tensor:
    wide = torch.empty((*values.shape, 3), dtype=values.dtype)
    wide[..., 1] = values
    return wide[..., 1]


LAYS = (_packed, _turned, _every_third)


def lay(values: torch.Tensor, how: Callable[[torch.Tensor], torch.Tensor], offset: int) -> torch.Tensor:
    """The same values as a view that begins ``offset`` elements further into its storage."""
    made = how(values)
    storage = torch.empty(0, dtype=values.dtype).set_(made.untyped_storage())
    room = torch.zeros(offset + len(storage) + 1, dtype=values.dtype)
    room[offset : offset + len(storage)] = storage
    return room.as_strided(made.shape, made.stride(), offset + made.storage_offset())


@st.composite
def sides(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors of one shape that are equal in most elements, each laid in its own way."""
    shape = draw(st.one_of(SHAPES, LONG))
    first, second = draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))
    if draw(st.booleans()):
        second = first
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    a = (torch.randn(shape, generator=generator, dtype=torch.float64) * 9).to(first)
    if first.is_complex:
        a = torch.complex(*(torch.randn(shape, generator=generator) for _ in range(2))).to(first)
    b = a.to(second)
    for side in (a, b):
        if side.numel():
            for _ in range(draw(st.integers(0, 3))):
                place = draw(st.integers(0, side.numel() - 1))
                takes_all = side.is_floating_point() or side.is_complex()
                side.view(-1)[place] = draw(st.sampled_from(SPECIALS if takes_all else (0, 1)))
    lays = st.tuples(st.sampled_from(LAYS), st.integers(0, 5))
    return lay(a, *draw(lays)), lay(b, *draw(lays))


def check_outcome(outcome: Outcome, a: torch.Tensor, b: torch.Tensor) -> None:
    if a.dtype is b.dtype and bytes(bits_of(a).numpy()) == bytes(bits_of(b).numpy()):
        assert outcome == Outcome(True)
        return
    assert outcome.equal is False
    if not a.numel():
        assert (outcome.numbers, outcome.note) == (None, "no elements")
        return
    check(outcome.numbers, a, b)
    check_nonfinite(outcome.numbers, a, b)


def check_nonfinite(numbers: Numbers | None, a: torch.Tensor, b: torch.Tensor) -> None:
    assert numbers is not None
    nan_a, nan_b, inf_a, inf_b = a.isnan(), b.isnan(), a.isinf() & ~a.isnan(), b.isinf() & ~b.isnan()
    assert numbers.nan_appeared == int((nan_b & ~nan_a).sum())
    assert numbers.nan_gone == int((nan_a & ~nan_b).sum())
    assert numbers.inf_appeared == int((inf_b & ~inf_a).sum())
    assert numbers.inf_gone == int((inf_a & ~inf_b).sum())
    if a.is_complex() or b.is_complex():
        return
    assert numbers.inf_flipped == int((inf_a & inf_b & (a.double() != b.double())).sum())
    x, y = a.double().flatten(), b.double().flatten()
    same = (x == y) | (x.isnan() & y.isnan())
    furthest = (x - y)[~same].abs().max().item() if not same.all() else 0.0  # NaN wins
    if numbers.beyond is None:
        assert math.isfinite(furthest)
    else:
        assert repr(numbers.beyond) == repr(furthest)


@pytest.mark.parametrize("dtypes", [FLOATS, INTS, COMPLEX], ids=["floats", "integers", "complex"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_neither_offset_nor_stride_nor_length_changes_a_number(
    tmp_path_factory: pytest.TempPathFactory, dtypes: tuple[torch.dtype, ...], data: st.DataObject
) -> None:
    a, b = data.draw(sides(dtypes))
    check_outcome(Files(tmp_path_factory.mktemp("f")).one(a, b), a, b)


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 5),
    st.lists(st.sampled_from(["row", "column", "both", "neither"]), min_size=2, max_size=2),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_both_sides_repeat_counts_once(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, times: int, how: list[str], equal: bool
) -> None:
    """Views of (times, rows, columns) that both repeat the first dimension, and others as they like."""

    def expand(kind: str, base: torch.Tensor) -> torch.Tensor:
        cut = {"row": base[:1], "column": base[:, :1], "both": base[:1, :1], "neither": base}[kind]
        return cut.expand(rows, columns).expand(times, rows, columns)

    base = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    if equal:
        base = torch.full_like(base, 2.5)
    a, b = (expand(kind, base.clone()) for kind in how)
    outcome = Files(tmp_path_factory.mktemp("f")).one(a, b)
    assert outcome.equal is torch.equal(a, b)
    if outcome.numbers is not None:
        for dim in reversed(range(3)):
            if a.stride(dim) == b.stride(dim) == 0:
                a, b = a.select(dim, 0), b.select(dim, 0)
        assert outcome.numbers.numel == a.numel()
        assert outcome.numbers.changed == int((a != b).sum())
        assert outcome.numbers.max_abs == (a - b).abs().max().item()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 4)])
@pytest.mark.parametrize("second", [torch.float32, torch.bfloat16, torch.int64, torch.complex64])
def test_empty_tensors_are_equal_if_their_dtypes_are(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], second: torch.dtype
) -> None:
    files = Files(tmp_path_factory.mktemp("f"))
    outcome = files.one(torch.empty(shape), torch.empty(shape, dtype=second))
    assert outcome == (Outcome(True) if second is torch.float32 else Outcome(False, note="no elements"))


# ---------------------------------------------------------------------------------------------- tolerances

# Quarters: their sums and products are exact in every dtype here, and so is the oracle, in fractions.
QUARTERS = st.integers(-20, 20).map(lambda n: n / 4)
ATOLS = st.integers(1, 24).map(lambda n: n / 4)


@given(st.lists(st.tuples(QUARTERS, QUARTERS), min_size=1, max_size=12), ATOLS, st.sampled_from([0.0, 0.5]))
@settings(max_examples=60, deadline=None)
def test_a_difference_that_is_exactly_the_tolerance_is_inside(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[float, float]], atol: float, rtol: float
) -> None:
    a, b = (torch.tensor(column) for column in zip(*pairs, strict=True))
    outcome = Files(tmp_path_factory.mktemp("f")).one(a, b, Tolerance(atol, rtol))
    exact = [(Fraction(x), Fraction(y)) for x, y in pairs]
    outside = sum(abs(x - y) > Fraction(atol) + Fraction(rtol) * max(abs(x), abs(y)) for x, y in exact)
    if outcome.numbers is None:  # equal bytes
        assert outcome.equal is True and not outside
    else:
        assert outcome.numbers.outside == outside


@given(
    st.lists(st.tuples(QUARTERS, QUARTERS, QUARTERS, QUARTERS), min_size=1, max_size=12),
    ATOLS,
    st.sampled_from(COMPLEX),
    st.sampled_from([*COMPLEX, torch.float32]),
)
@settings(max_examples=60, deadline=None)
def test_complex_numbers_are_as_far_apart_as_their_points(
    tmp_path_factory: pytest.TempPathFactory,
    points: list[tuple[float, float, float, float]],
    atol: float,
    first: torch.dtype,
    second: torch.dtype,
) -> None:
    a = torch.tensor([complex(x, y) for x, y, _, _ in points], dtype=first)
    b = torch.tensor([complex(x, y if second.is_complex else 0) for _, _, x, y in points])
    b = b.to(second) if second.is_complex else b.real.to(second)
    outside = 0
    for (x, y, u, v), other in zip(points, b.tolist(), strict=True):
        v = v if isinstance(other, complex) else 0
        outside += (Fraction(x) - Fraction(u)) ** 2 + (Fraction(y) - Fraction(v)) ** 2 > Fraction(atol) ** 2
    for one, two in ((a, b), (b, a)):
        outcome = Files(tmp_path_factory.mktemp("f")).one(one, two, Tolerance(atol))
        if outcome.numbers is None:
            assert outcome.equal is True and not outside
        else:
            assert outcome.numbers.outside == outside


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_no_tolerance_takes_in_what_is_not_finite_on_one_side_only(
    tmp_path_factory: pytest.TempPathFactory, special: float, dtype: torch.dtype
) -> None:
    files = Files(tmp_path_factory.mktemp("f"))
    a = torch.tensor([1.0, special, special, 2.0], dtype=dtype)
    b = torch.tensor([1.5, special, 3.0, special], dtype=dtype)
    for one, two in ((a, b), (b, a)):
        numbers = files.one(one, two, Tolerance(atol=1e30, rtol=1.0)).numbers
        assert numbers is not None and (numbers.outside, numbers.finite) == (2, 1)
        assert numbers.beyond is not None
