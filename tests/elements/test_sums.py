"""Sums over two runs of any two dtypes, held against a loop over Python's own numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.elements.sums import Sums, Tolerance
from ckpttool.values.difference import Numbers
from ckpttool.values.dtypes import BY_NAME, DType
from tests.support.numbers import meaning, nice_patterns, pack, pattern_strategy, width_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]
CASTABLE = ("float64", "float32", "float16", "bfloat16")
PATTERNS = {name: pattern_strategy(dtype) for name, dtype in BY_NAME.items()}
NICE = {name: nice_patterns(dtype) for name, dtype in BY_NAME.items()}


class Run(NamedTuple):
    """Elements of two dtypes, as bits; what is added at a time, and what still counts as the same."""

    a: DType
    b: DType
    bits: list[tuple[int, int]]
    cuts: list[int]
    tolerance: Tolerance


def rounded(number: float, dtype: DType) -> float:
    return float(torch.tensor([number], dtype=torch.float64).to(getattr(torch, dtype.name)).double())


@st.composite
def runs(draw: st.DrawFn, a: DType, b: DType) -> Run:
    common = sorted(NICE[a.name].keys() & NICE[b.name].keys())
    bits = []
    for _ in range(draw(st.integers(0, 5)) * a.packed):
        x, y = draw(PATTERNS[a.name]), draw(PATTERNS[b.name])
        how = draw(st.sampled_from(["any", "equal", "near", "rounded"]))
        if how == "equal" and common:
            name = draw(st.sampled_from(common))
            x, y = NICE[a.name][name], NICE[b.name][name]
        elif how == "near" and a is b:
            y = (x + draw(st.integers(0, 2))) % (1 << width_of(a))
        elif how == "rounded" and a is not b and {a.name, b.name} <= set(CASTABLE):
            rounded_to = torch.tensor(meaning(a, [x])).double().to(getattr(torch, b.name))
            y = int.from_bytes(bytes(rounded_to.view(torch.uint8).tolist()), "little")
        bits.append((x, y))
    numel = len(bits) // a.packed
    cuts = sorted(draw(st.lists(st.integers(0, numel), max_size=2)))
    sizes = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    ulp = draw(st.sampled_from([None, 0, 1, 2]))
    return Run(a, b, bits, cuts, Tolerance(draw(sizes), draw(st.sampled_from([0.0, 0.5])), ulp))


def sums(run: Run) -> Numbers:
    """What is to be tested."""
    made = Sums(np, run.tolerance)
    made.begin(BY_NAME["float32"], BY_NAME["int8"])  # what was begun before is forgotten
    made.add(memoryview(bytes(8)), memoryview(bytes(2)), 2)
    made.begin(run.a, run.b)
    numel = len(run.bits) // run.a.packed
    for start, end in zip([0, *run.cuts], [*run.cuts, numel], strict=True):
        part = run.bits[start * run.a.packed : end * run.a.packed]
        chunks = (pack(width_of(dtype), [pair[side] for pair in part]) for side, dtype in enumerate(run[:2]))
        made.add(*map(memoryview, chunks), end - start)
    return made.result()


def is_nan(number: Any) -> bool:
    return math.isnan(number.real) or math.isnan(number.imag)


def is_finite(number: Any) -> bool:
    return math.isfinite(number.real) and math.isfinite(number.imag)


def is_inf(number: Any) -> bool:
    return not is_nan(number) and not is_finite(number)


def ordinal(pattern: int, dtype: DType) -> int:
    """Numbers in their order; both zeros are one."""
    if dtype.name == "float8_e8m0fnu":
        return pattern
    top = 1 << (dtype.bits - 1)
    return -(pattern - top) if pattern >= top else pattern


def same_component(x: float, y: float) -> bool:
    return x == y or (math.isnan(x) and math.isnan(y))


def naive(run: Run) -> dict[str, Any]:
    """Every field of ``Numbers``, by its description."""
    a, b, tolerance = run.a, run.b, run.tolerance
    raw = list(zip(meaning(a, [x for x, _ in run.bits]), meaning(b, [y for _, y in run.bits]), strict=True))
    real = not (a.kind == "complex" or b.kind == "complex")
    exact = a is b and a.bits == 64 and a.kind in ("int", "uint")
    wide: list[tuple[Any, Any]] = [(float(x), float(y)) if real else (complex(x), complex(y)) for x, y in raw]
    finite = [(x, y) for x, y in wide if is_finite(x) and is_finite(y)]
    is_ordered = a is b and a.kind == "float" and a.packed == 1 and a.bits in (8, 16, 32, 64)
    changed = outside = 0
    steps = []
    for (x, y), (plain_x, plain_y), (p, q) in zip(wide, raw, run.bits, strict=True):
        same = same_component(x.real, y.real) and same_component(x.imag, y.imag)
        changed += (p != q) if a is b else not same
        distance = abs(plain_x - plain_y) if exact else abs(x - y)
        inside = plain_x == plain_y if exact else same
        if exact or math.isfinite(distance):
            inside |= distance <= tolerance.atol + tolerance.rtol * max(abs(x), abs(y))
        if is_ordered and is_finite(x) and is_finite(y):
            steps.append(abs(ordinal(p, a) - ordinal(q, a)))
            inside |= tolerance.ulp is not None and steps[-1] <= tolerance.ulp
        outside += not inside
    largest = max((abs(x - y) for x, y in finite), default=None)
    if exact and raw:
        largest = max(abs(x - y) for x, y in raw)
    elif largest is not None and a.is_whole and b.is_whole:
        largest = int(largest)
    unrounded = None
    if a.bits != b.bits and {a.name, b.name} <= set(CASTABLE):
        narrow = min(a, b, key=lambda dtype: dtype.bits)
        pairs = [(y, x) if narrow is b else (x, y) for x, y in wide]  # the narrower one first
        unrounded = sum(not same_component(rounded(wider, narrow), number) for number, wider in pairs)
    asked = tolerance.atol > 0 or tolerance.rtol > 0 or tolerance.ulp is not None
    return {
        "numel": len(raw),
        "changed": changed,
        "finite": len(finite),
        "max_abs": largest,
        "sum_abs": math.fsum(abs(x - y) for x, y in finite),
        "delta_squares": math.fsum(abs(x - y) ** 2 for x, y in finite),
        "a_squares": math.fsum(abs(x) ** 2 for x, _ in finite),
        "b_squares": math.fsum(abs(y) ** 2 for _, y in finite),
        "dot": math.fsum(x.real * y.real + x.imag * y.imag for x, y in finite),
        "nan_appeared": sum(is_nan(y) and not is_nan(x) for x, y in wide),
        "nan_gone": sum(is_nan(x) and not is_nan(y) for x, y in wide),
        "inf_appeared": sum(is_inf(y) and not is_inf(x) for x, y in wide),
        "inf_gone": sum(is_inf(x) and not is_inf(y) for x, y in wide),
        "inf_flipped": sum(is_inf(x) and is_inf(y) and flipped(x, y) for x, y in wide),
        "outside": outside if asked else None,
        "max_ulp": max(steps) if tolerance.ulp is not None and steps else None,
        "unrounded": unrounded,
    }


def flipped(x: Any, y: Any) -> bool:
    parts = ((x.real, y.real), (x.imag, y.imag))
    return any(p != q and (math.isinf(p) or math.isinf(q)) for p, q in parts)


def check(run: Run) -> None:
    try:
        wanted = naive(run)
    except OverflowError:  # beyond float64: see below
        return
    found = sums(run)._asdict()
    # Products of either sign may cancel, up to the rounding of the largest.
    largest = {"dot": math.sqrt(wanted["a_squares"]) * math.sqrt(wanted["b_squares"])}
    for name, number in wanted.items():
        if isinstance(number, float) and (name != "max_abs" or isinstance(found[name], float)):
            nearly = 1e-300 + 1e-12 * largest.get(name, 0.0)
            assert found[name] == pytest.approx(number, rel=1e-12, abs=nearly), name
        else:
            assert found[name] == number and type(found[name]) is type(number), name
    assert found.keys() == wanted.keys()


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=15)
@given(data=st.data())
def test_what_two_runs_of_one_dtype_have_between_them(name: str, data: st.DataObject) -> None:
    check(data.draw(runs(BY_NAME[name], BY_NAME[name])))


GROUPS = {
    "floats": CASTABLE,
    "small floats": ("float32", "float8_e4m3fn", "float8_e8m0fnu", "float16", "float6_e2m3fn"),
    "integers": ("int64", "uint64", "int32", "uint8", "bool", "qint32", "quint4x2", "bits16"),
    "whole and not": ("int64", "float32", "bool", "bfloat16", "qint8", "float64"),
    "complex and real": ("complex64", "float64", "complex128", "int16", "complex32", "bfloat16"),
    "wide": ("float64", "complex64", "int64", "uint64"),  # 64 bits, and nothing in common
    "packed": ("float4_e2m1fn_x2",),
}


@pytest.mark.parametrize("group", GROUPS)
@settings(max_examples=40)
@given(data=st.data())
def test_what_two_runs_of_two_dtypes_have_between_them(group: str, data: st.DataObject) -> None:
    a, b = (BY_NAME[data.draw(st.sampled_from(GROUPS[group]))] for _ in range(2))
    check(data.draw(runs(a, b)))


SPECIAL = {
    "float32": "1.0 -1.0 inf -inf nan 0.0 0.5",
    "complex64": "1.0 inf -inf nan",
    "float16": "inf nan -inf 2.0",
}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(atol=1.0), Tolerance(rtol=0.5, ulp=1)])
def test_every_pair_of_special_numbers(name: str, tolerance: Tolerance) -> None:
    dtype = BY_NAME[name]
    bits = [NICE[name][number] for number in SPECIAL[name].split()]
    if dtype.kind == "complex":
        bits = [real | imag << 32 for real, imag in itertools.product(bits, repeat=2)]
    pairs = list(itertools.product(bits, repeat=2))
    check(Run(dtype, dtype, pairs, [1, len(pairs) // 2], tolerance))
    for pair in pairs:
        check(Run(dtype, dtype, [pair], [], tolerance))


def of_doubles(a: list[float], b: list[float], tolerance: Tolerance = Tolerance()) -> Numbers:
    made = Sums(np, tolerance)
    made.begin(BY_NAME["float64"], BY_NAME["float64"])
    made.add(*(memoryview(np.array(side)).cast("B") for side in (a, b)), len(a))
    return made.result()


def test_sums_beyond_the_largest_number_are_infinite_and_no_nan() -> None:
    inf, huge, half = math.inf, 1e200, 1.5e308
    assert of_doubles([huge], [0.0]) == Numbers(1, 1, 1, huge, huge, inf, inf, 0.0, 0.0)
    assert of_doubles([huge, inf, 1.0], [0.0, inf, 3.0]) == Numbers(3, 2, 2, huge, huge, inf, inf, 9.0, 3.0)
    # Where the difference itself overflows, nothing is known but that.
    assert of_doubles([half], [-half]) == Numbers(1, 1, 1, inf, 0.0, inf)
    assert of_doubles([half, inf], [-half, 2.0]) == Numbers(2, 2, 1, inf, 0.0, inf, inf_gone=1)
    found = of_doubles([half, 5.0], [-half, 5.0], Tolerance(atol=1e308, rtol=1e308))
    assert found == Numbers(2, 1, 2, inf, 0.0, inf, outside=1)


def test_a_tolerance_is_asked_for_if_any_of_it_is() -> None:
    assert not Tolerance().is_asked and not Tolerance(0.0, 0.0, None).is_asked
    assert Tolerance(atol=0.1).is_asked and Tolerance(rtol=0.1).is_asked and Tolerance(ulp=0).is_asked
    assert of_doubles([1.0], [1.0]).outside is None
    assert of_doubles([1.0], [1.0], Tolerance(ulp=0)).outside == 0


def test_the_memory_of_a_comparison_is_what_is_said() -> None:
    assert Sums(np, Tolerance())._scratch.nbytes == 2 * (768 << 10)
