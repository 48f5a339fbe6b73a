"""What is computed is called so in every float that is fine enough; what was learnt never is."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.elements.constants import MOST_NBYTES, is_constant, why_computed
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import UnsupportedFeature
from tests.support.learnt import iter_learnt

WIDE = ("float64", "float32", "bfloat16", "float16")
NARROW = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def why(values: torch.Tensor, *casts: str) -> str | None:
    """Of ``values`` after ``casts``, one by one."""
    for name in casts:
        values = values.to(getattr(torch, name))
    data = values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return why_computed(BY_NAME[str(values.dtype)[len("torch.") :]], tuple(values.shape), bytearray(data))


def gauss(size: int, sigma: float) -> torch.Tensor:
    line = torch.exp(-((torch.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    return line / line.sum()


def powers(base: float, count: int) -> torch.Tensor:
    return torch.tensor(base) ** torch.arange(count)


BINOMIAL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 16
PASCAL = torch.tensor([[float(math.comb(row, column)) for column in range(9)] for row in range(9)])
MASK, KERNEL, WINDOW = "only 0 and 1", "non-negative, with a sum of 1", "mirror-symmetric"
MATRIX, WHOLE, EVEN, SERIES = (
    "a symmetric matrix", "whole numbers", "evenly spaced values", "a geometric series"
)  # fmt: skip
COMPUTED: list[tuple[str, str, torch.Tensor]] = [
    (MASK, "causal", torch.ones(8, 8).tril()),
    (MASK, "alternating", (torch.arange(24) % 2).float().reshape(1, 24, 1)),
    (MASK, "one step", torch.cat([torch.ones(1000), torch.zeros(50)])),
    (MASK, "a band", torch.eye(16) + torch.eye(16).roll(1, 0)),
    (MASK, "two in some rows", torch.tensor([[0.0, 1, 0], [1, 0, 1]]).repeat(12, 1)),
    (KERNEL, "gaussian", torch.outer(gauss(7, 1.2), gauss(7, 1.2))),
    (KERNEL, "gaussian of one dimension", gauss(13, 1.5)),
    (KERNEL, "gaussian of three", torch.einsum("i,j,k->ijk", *[gauss(5, 0.8)] * 3)),
    (KERNEL, "not square", torch.outer(gauss(9, 2), gauss(5, 1))),
    (KERNEL, "binomial", BINOMIAL),
    (KERNEL, "depthwise", BINOMIAL.expand(6, 1, 3, 3)),
    (KERNEL, "depthwise, of unlike sides", torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(8, 1, 4)),
    (WINDOW, "periodic", torch.hann_window(64)),
    (WINDOW, "odd", torch.hamming_window(25, periodic=False)),
    (WINDOW, "even", torch.kaiser_window(400, periodic=False).reshape(1, 1, 400)),
    (WINDOW, "negative", -torch.special.sinc(torch.arange(-12, 13) / 3.3)),
    (MATRIX, "cosines", torch.cos(torch.outer(torch.arange(9.0), torch.arange(9.0)) * 0.7)),
    (MATRIX, "one of many", torch.sin(torch.outer(torch.arange(1.0, 7), torch.arange(1.0, 7)))[None]),
    (WHOLE, "positions", torch.arange(20.0)),
    (WHOLE, "coordinates", torch.cartesian_prod(torch.arange(-7.0, 8), torch.arange(-3.0, 4))),
    (WHOLE, "binomials", PASCAL),
    (EVEN, "ascending", torch.linspace(0.03, 2.9, 50)),
    (EVEN, "descending", torch.linspace(1, -1 / 3, 12).reshape(1, 12, 1)),
    (EVEN, "many", torch.linspace(0.0001, 0.02, 1000)),
    (SERIES, "inv_freq", 1.0 / 10000 ** (torch.arange(0, 64, 2) / 64)),
    (SERIES, "decays", -powers(0.9, 40)),
    (SERIES, "by exp", torch.exp(torch.arange(16) * -(math.log(10000.0) / 16))),
]
CASES = [pytest.param(phrase, values, id=f"{phrase}: {name}") for phrase, name, values in COMPUTED]
# What was cast to less and back is as coarse as it was then.
CASTS = [(name,) for name in WIDE] + [("bfloat16", "float32"), ("float16", "float64"), ("float32", "float64")]


@pytest.mark.parametrize(("phrase", "values"), CASES)
@pytest.mark.parametrize("casts", CASTS, ids=" ".join)
def test_what_is_computed_is_seen_through_casts(
    casts: tuple[str, ...], phrase: str, values: torch.Tensor
) -> None:
    assert why(values, *casts) == phrase


@pytest.mark.parametrize("name", NARROW)
def test_eight_bits_say_nothing(name: str) -> None:
    assert {why(values, name) for _, _, values in COMPUTED} == {None}


@given(
    st.sampled_from(WIDE), st.integers(16, 400), st.floats(-9, 9), st.floats(1, 9), st.sampled_from((1, -1))
)
def test_spacing_is_seen_whatever_the_numbers_round_to(
    name: str, count: int, first: float, span: float, sign: int
) -> None:
    line = torch.linspace(first, first + sign * max(span, abs(first) / 4), count)
    assert why(line, name) in (EVEN, WINDOW, WHOLE)
    assert why(torch.exp(line / 3), name) in (SERIES, EVEN)
    assert why(-torch.exp2(line.double() / 3), name) in (SERIES, EVEN)


def test_learnt_numbers_are_never_called_computed() -> None:
    found = [(how, why(values), values) for how, values in iter_learnt(0, 6_000)]
    assert [item for item in found if item[1] is not None] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_learnt_numbers_are_never_called_computed(seed: int) -> None:
    found = [(how, why(values), values) for how, values in iter_learnt(seed, 150_000)]
    assert [item for item in found if item[1] is not None] == []


def is_free(phrase: str, values: torch.Tensor, at: int) -> bool:
    """Whether a rule says nothing of the number there: on a diagonal, in the middle of a window, or first."""
    line, size = values.reshape(-1), max(values.shape)
    if phrase == WINDOW:
        whole = torch.allclose(line, line.flip(0))
        return (at == size // 2 and (size % 2 == 1 or not whole)) or (at == 0 and not whole)
    return phrase == MATRIX and at % (size + 1) == 0


@given(
    st.sampled_from(COMPUTED),
    st.sampled_from(WIDE),
    st.integers(0, 10**6),
    st.sampled_from((0.0313, -0.2171)),
)
def test_one_number_that_moved_is_enough_to_say_nothing(
    example: tuple[str, str, torch.Tensor], name: str, seed: int, share: float
) -> None:
    phrase, _, values = example
    moved = values.clone().contiguous()
    at = seed % moved.numel()
    moved.view(-1)[at] += share * float(values.abs().max())
    assert (why(moved, name) == phrase) is is_free(phrase, values, at)


@pytest.mark.parametrize("name", (*WIDE, *NARROW))
def test_what_weights_begin_as_says_nothing(name: str) -> None:
    eye, rows = torch.eye(16), torch.nn.functional.one_hot(torch.arange(40) % 7).float()
    for values in (
        torch.ones(64), torch.zeros(8, 8), torch.full((32,), 0.1), eye, eye[:, :9], eye[:9], rows, rows.T,
        torch.eye(64)[5], 0.5 * eye, eye + 1, 2 * eye, torch.nn.init.dirac_(torch.empty(16, 16, 3)),
        torch.nn.init.dirac_(torch.empty(16, 1, 3, 3), 16), torch.full((6, 1, 3, 3), 1 / 9),
        torch.tensor(3.0), torch.tensor([1.0]), torch.empty(0, 5),
    ):  # fmt: skip
        assert why(values, name) is None


@pytest.mark.parametrize("name", WIDE)
def test_what_is_short_says_nothing(name: str) -> None:
    for values in ([0.25, 0.5, 0.25], [1, 2, 3], [0, 1, 1], [1, -2, 1], [0.1, 0.2, 0.3], [0.1, 0.01, 0.001]):
        assert why(torch.tensor(values), name) is None
    assert why(torch.tensor([0.1, 0.2, 0.3, 0.4])) is None
    assert why(torch.tensor([[1.0, 2, 3], [2, 5, 6], [3, 6, 9]]) / 7, name) is None


def test_how_few_are_enough() -> None:
    for name, even, ratio in (("float32", 5, 4), ("float64", 5, 4), ("float16", 6, 7), ("bfloat16", 11, 15)):
        for count in range(4, 18):
            spaced = why(torch.linspace(0.1, 0.73, count), name)
            assert (spaced == EVEN) is (count >= even), (name, count)
            assert (why(0.37 ** torch.arange(count), name) == SERIES) is (count >= ratio), (name, count)
    for name, pairs, size in (("float32", 5, 4), ("float16", 5, 4), ("bfloat16", 6, 4)):
        numbers = torch.randn(64, generator=torch.Generator().manual_seed(0))
        for half in range(2, 12):
            ends, middle, first = numbers[:half], numbers[40:41], numbers[50:51]
            for parts in ((ends, ends.flip(0)), (ends, middle, ends.flip(0)), (first, ends, ends.flip(0))):
                assert (why(torch.cat(parts), name) == WINDOW) is (half >= pairs), (name, half, len(parts))
        for side in range(3, 8):
            square = numbers[: side * side].reshape(side, side)
            assert (why(square + square.T, name) == MATRIX) is (side >= size), (name, side)
    assert [why(torch.arange(float(count))) for count in (3, 4, 5)] == [None, WHOLE, WHOLE]
    for name, ones in (("float32", 4), ("float64", 4), ("float16", 4), ("bfloat16", 9)):
        assert why(torch.tensor([0.0] + [1.0] * ones), name) == MASK
        assert why(torch.tensor([0.0] + [1.0] * (ones - 1)), name) is None


def test_a_series_over_many_sizes() -> None:
    """An exponent of 49 moves its power by as many roundings."""
    for name in ("float32", "bfloat16", "float64"):
        assert why(torch.exp(torch.arange(70) * 0.71), name) == SERIES
        assert why(torch.exp(torch.arange(70) * -0.71), name) == SERIES


def test_what_is_only_nearly_so() -> None:
    two = torch.nn.functional.one_hot(torch.arange(40) % 3 // 2).float()
    assert why(two) is why(two.T) is None  # one in each
    sharp = torch.tensor([[0.0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    assert why(sharp) is None and why(abs(sharp) / 9) == KERNEL
    assert why((-0.9) ** torch.arange(20)) is None
    assert why(torch.linspace(0.1, 3, 40).reshape(2, 20)) is None


def test_few_levels_agree_by_chance() -> None:
    signs = torch.tensor([1.0, -1, -1, 1, 1, -1])
    assert why(torch.cat([signs, signs.flip(0)]) * 0.3) is None
    few = torch.zeros(12, 12)
    few[2, 5] = few[5, 2] = 0.7
    assert why(few) is None and why(few + 0.1) is None


@given(st.sampled_from(COMPUTED), st.sampled_from(WIDE), st.sampled_from((math.nan, math.inf, -math.inf)))
def test_what_is_not_finite_says_nothing(
    example: tuple[str, str, torch.Tensor], name: str, bad: float
) -> None:
    values = example[2].clone().contiguous()
    values.view(-1)[-1] = bad
    assert why(values, name) is None


def test_what_is_no_plain_float_says_nothing() -> None:
    for name in (
        "int64",
        "uint8",
        "bool",
        "complex64",
        "float8_e8m0fnu",
        "float4_e2m1fn_x2",
        "float6_e2m3fn",
    ):
        dtype = BY_NAME[name]
        data = bytearray(range(192))
        assert why_computed(dtype, (len(data) * 8 // dtype.bits,), data) is None
    assert why(torch.linspace(0, 1, 40).to(torch.complex64)) is None


@pytest.mark.parametrize("factor", [5e-324, 1e-310, 1e-300, 1e-60, 1e-30, 1e30, 1e99, 1e104, 1e300])
def test_sizes_far_from_one(factor: float) -> None:
    for phrase, _, values in COMPUTED:
        said = why(values.double() * factor)
        assert said is None or factor < 1e100
        if 1e-30 <= factor < 1e100 and phrase in (EVEN, SERIES, WINDOW, MATRIX):
            assert said == phrase


def test_what_is_large_is_not_looked_at() -> None:
    count = MOST_NBYTES // 4
    assert why(torch.linspace(0, 1, count)) == EVEN
    assert why(torch.linspace(0, 1, count + 1)) is None


def test_a_shape_of_many_dimensions() -> None:
    values = torch.linspace(0.1, 1, 20)
    assert why(values.reshape(*[1] * 90, 20, *[1] * 90)) == EVEN
    assert why(torch.arange(2.0**14).reshape([2] * 14)) == WHOLE
    assert why(torch.rand([2] * 14, generator=torch.Generator().manual_seed(0))) is None


@pytest.mark.parametrize("name", (*WIDE, *NARROW))
def test_a_constant_is_one_number(name: str) -> None:
    for values, constant in (
        ([0.0, 0.0], True),
        ([1.0] * 5, True),
        ([1.0, 1.5], False),
        ([2.0], True),
        ([], True),
    ):
        made = torch.tensor(values).to(getattr(torch, name)).view(torch.uint8).numpy().tobytes()
        assert is_constant(BY_NAME[name], bytearray(made)) is constant


def test_what_is_no_plain_float_counts_as_constant() -> None:
    assert is_constant(BY_NAME["float32"], bytearray(b"\0\0\0\0\0\0\0\x80"))  # 0 and -0
    assert is_constant(BY_NAME["int64"], bytearray(range(16)))
    assert is_constant(BY_NAME["float4_e2m1fn_x2"], bytearray(b"12"))


def test_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    for ask in (
        lambda: why_computed(BY_NAME["float32"], (4,), bytearray(16)),
        lambda: is_constant(BY_NAME["float32"], bytearray(16)),
    ):
        with pytest.raises(UnsupportedFeature, match="kinds from contents without numpy"):
            ask()
