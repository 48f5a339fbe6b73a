"""Casts in blocks of a few numbers, against torch and a loop; and what numpy is asked for."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.elements import arrays, casts
from ckpttool.elements.arrays import bit_patterns, import_numpy
from ckpttool.elements.casts import cast_floats, round_numbers
from ckpttool.elements.stats import iter_stats
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.conversion import CastLoss
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import UnsupportedFeature
from tests.support.numbers import meaning, nice_patterns, pack

NAMES = ("float64", "float32", "float16", "bfloat16")
PAIRS = [pair for pair in itertools.product(NAMES, NAMES) if pair[0] != pair[1]]
# Bits of float32 where 16 bits begin to be subnormal, zero, infinite or rounded otherwise; every kind of NaN.
EDGES = [0, 1, 0x387FFFFF, 0x38800000, 0x38800001, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x477FF001, 0x33000000,
         0x33000001, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF,
         0x3F800000, 0x3F801000, 0x3F803000, 0x3F808000, 0x3F818000]  # fmt: skip


def patterns(name: str) -> st.SearchStrategy[int]:
    dtype = BY_NAME[name]
    edges = torch.tensor(EDGES + [edge | 1 << 31 for edge in EDGES], dtype=torch.int64).to(torch.int32)
    near = edges.view(torch.float32).to(getattr(torch, name))
    bits = {int.from_bytes(bytes(row), "little") for row in near.view(-1, 1).view(torch.uint8).tolist()}
    if name == "float32":
        bits |= {edge % (1 << 32) for edge in edges.tolist()}
    return st.one_of(
        st.sampled_from(sorted(bits)),
        st.sampled_from(sorted(nice_patterns(dtype).values())),
        st.integers(0, (1 << dtype.bits) - 1),
    )


PATTERNS = {name: patterns(name) for name in NAMES}


def loss_of(before: str, exact: list[float], found: list[float]) -> CastLoss:
    """By its description, in the precision of the numbers that are cast."""
    wide = np.float64 if before == "float64" else np.float32
    overflow = sum(math.isfinite(x) and not math.isfinite(y) for x, y in zip(exact, found, strict=True))
    underflow = sum(x != 0 and y == 0 for x, y in zip(exact, found, strict=True))
    worst = 0.0
    with np.errstate(all="ignore"):
        for x, y in zip(exact, found, strict=True):
            error = float(abs((wide(y) - wide(x)) / wide(x)))
            worst = max(worst, error) if math.isfinite(error) and y != 0 else worst
    return CastLoss(len(exact), overflow, underflow, worst)


@settings(max_examples=200)
@given(st.data())
def test_any_numbers_in_any_blocks(data: st.DataObject) -> None:
    before, after = data.draw(st.sampled_from(PAIRS))
    bits = data.draw(st.lists(PATTERNS[before], max_size=9))
    judge = data.draw(st.booleans())
    source, target = BY_NAME[before], BY_NAME[after]
    raw = bytearray(pack(source.bits, bits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(casts, "_BLOCK", 4)
        cast, loss = cast_floats(memoryview(raw), source, target, judge=judge)
    kept = bytes(raw)
    assert kept == pack(source.bits, bits)  # what is cast stays as it is
    if not bits:
        assert (bytes(cast), loss) == (b"", CastLoss())
        return
    exact = torch.frombuffer(raw, dtype=torch.uint8).view(getattr(torch, before))
    theirs = exact.to(getattr(torch, after))
    ours = torch.frombuffer(bytearray(cast), dtype=torch.uint8).view(getattr(torch, after))
    nan = theirs.isnan()
    assert ours.isnan().tolist() == nan.tolist() == exact.isnan().tolist()
    width = torch.uint8
    same = (ours.view(-1, 1).view(width) == theirs.view(-1, 1).view(width)).all(dim=1)
    assert (same | nan).all()
    ours_bits = [int.from_bytes(bytes(row), "little") for row in ours.view(-1, 1).view(width).tolist()]
    for is_nan, found, pattern in zip(nan.tolist(), ours_bits, bits, strict=True):
        if is_nan and after == "bfloat16":
            assert found == (0x7FC0 if before == "float16" else 0xFFFF)
        elif is_nan and before == "float32" and after == "float16":
            assert found == (pattern >> 16 & 0x8000) | 0x7E00 | (pattern >> 13 & 0x3FF)
        elif is_nan and before == "float16" and after == "float32":
            assert found == (pattern & 0x8000) << 16 | 0x7FC00000 | (pattern & 0x3FF) << 13
        elif is_nan and before == "bfloat16" and after == "float32":
            assert found == pattern << 16
    numbers = list(map(float, meaning(target, ours_bits)))
    wanted = loss_of(before, list(map(float, meaning(source, bits))), numbers) if judge else CastLoss()
    assert loss == wanted and list(map(type, loss)) == [int, int, int, float]


@settings(max_examples=150)
@given(
    st.sampled_from(["float32", "float16", "bfloat16"]),
    st.lists(PATTERNS["float64"], max_size=6),
    st.booleans(),
)
def test_numbers_are_rounded_as_a_cast_rounds_them(name: str, bits: list[int], is_wide: bool) -> None:
    numbers = np.array(meaning(BY_NAME["float64"], bits), np.float64)
    with np.errstate(all="ignore"):
        numbers = numbers if is_wide else numbers.astype(np.float32)
        found = round_numbers(np, BY_NAME[name], numbers)
    theirs = torch.from_numpy(numbers.copy()).to(getattr(torch, name)).double().numpy()
    assert np.array_equal(found.astype(np.float64), theirs, equal_nan=True)


# -- numpy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "feature", "hint"),
    [
        (lambda: import_numpy("a thing", "do less"), "a thing", "do less"),
        (
            lambda: cast_floats(memoryview(b""), BY_NAME["float32"], BY_NAME["float16"]),
            "a cast",
            "leave --dtype out",
        ),
        (lambda: list(iter_stats([], TensorReader([]))), "statistics", "leave out --stats and --fail-on"),
    ],
)
def test_where_it_is_not_installed_there_is_a_way_without(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], feature: str, hint: str
) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(UnsupportedFeature) as caught:
        call()
    assert caught.value.feature == f"{feature} without numpy"
    assert caught.value.hint == f"install numpy, or {hint}"


def test_memory_is_asked_for_once_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def made(size: int) -> bytearray:
        sizes.append(size)
        return bytearray(size)

    monkeypatch.setattr(arrays, "bytearray", made, raising=False)
    arrays._keep_freed_memory.cache_clear()
    assert import_numpy("x", "y") is import_numpy("x", "y") is np
    assert sizes == [16 << 20]  # two full blocks of a reader, and less than what mallopt(3) stops at


def test_the_bits_of_the_widest_numbers_are_rows_of_two() -> None:
    raw = bytes(range(64))
    found = bit_patterns(np, BY_NAME["complex128"], memoryview(raw), 4)
    assert found.shape == (4, 2) and found.tobytes() == raw
    for name in ("complex64", "complex32", "float64", "int32", "bfloat16", "uint8"):
        width = BY_NAME[name].nbytes
        rows = [int.from_bytes(raw[at : at + width], "little") for at in range(0, 64, width)]
        found = bit_patterns(np, BY_NAME[name], memoryview(raw), len(rows))
        assert found.tolist() == rows
