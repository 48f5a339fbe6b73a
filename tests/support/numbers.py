"""Numbers as bits: what each pattern of each dtype means, by torch and by plain integers."""

from __future__ import annotations

import math
import struct
import warnings

import torch
from hypothesis import strategies as st

from ckpttool.values.dtypes import BY_NAME, DType

Number = bool | int | float | complex

FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
HALVES = {32: torch.float16, 64: torch.float32, 128: torch.float64}
NICE = (0, 1, 2, 3, -1, -2, 0.5, 4.0, math.nan, math.inf, -math.inf)


def microscaling(exponent: int, mantissa: int) -> list[float]:
    """OCP MX 1.0, section 5.3: no infinity, no NaN."""
    bias, found = (1 << (exponent - 1)) - 1, []
    for pattern in range(1 << (exponent + mantissa)):
        high, low = pattern >> mantissa, pattern & ((1 << mantissa) - 1)
        scale = max(high, 1) - bias
        found.append(((high > 0) + low / (1 << mantissa)) * 2.0**scale)
    return found


TABLES = {
    name: positive + [-number for number in positive]
    for name, positive in {
        "float4_e2m1fn_x2": FP4,
        "float6_e2m3fn": microscaling(2, 3),
        "float6_e3m2fn": microscaling(3, 2),
    }.items()
}
"""Of those that torch cannot convert."""


def width_of(dtype: DType) -> int:
    return dtype.bits // dtype.packed


def pack(width: int, patterns: list[int]) -> bytes:
    """Patterns one behind the other, the first in the lowest bits."""
    whole = sum(pattern << at * width for at, pattern in enumerate(patterns))
    return whole.to_bytes((len(patterns) * width + 7) // 8, "little")


def is_signed(dtype: DType) -> bool:
    return dtype.name.startswith(("int", "qint"))


def meaning(dtype: DType, patterns: list[int]) -> list[Number]:
    """The number of each pattern; quantized ones are the integers that are stored."""
    if not patterns:
        return []
    if dtype.name in TABLES:
        return [TABLES[dtype.name][pattern] for pattern in patterns]
    width = width_of(dtype)
    if dtype.kind == "bool":
        return [pattern != 0 for pattern in patterns]
    if dtype.is_whole:
        half = 1 << (width - 1) if is_signed(dtype) else 1 << width
        return [pattern if pattern < half else pattern - (1 << width) for pattern in patterns]
    raw = torch.frombuffer(bytearray(pack(width, patterns)), dtype=torch.uint8)
    if dtype.kind == "complex":
        halves = raw.view(HALVES[dtype.bits]).double().tolist()
        return [complex(*pair) for pair in zip(halves[::2], halves[1::2], strict=True)]
    return list(raw.view(getattr(torch, dtype.name)).double().tolist())


def pattern_of(dtype: DType, number: float) -> int | None:
    """The bits of a number that the dtype has; None if it has not."""
    width = width_of(dtype)
    if dtype.name in TABLES:
        table = TABLES[dtype.name]
        return table.index(number) if number in table else None
    if dtype.kind == "complex":
        real = pattern_of(
            {32: BY_NAME["float16"], 64: BY_NAME["float32"], 128: BY_NAME["float64"]}[width], number
        )
        return real
    if dtype.is_whole:
        if not math.isfinite(number) or number != int(number):
            return None
        pattern = int(number) & ((1 << width) - 1)
        return pattern if meaning(dtype, [pattern]) == [number] else None
    made = torch.tensor([number], dtype=torch.float64).to(getattr(torch, dtype.name))
    pattern = int.from_bytes(bytes(made.view(torch.uint8).tolist()), "little")
    found = meaning(dtype, [pattern])[0]
    return pattern if repr(float(found.real)) == repr(float(number)) else None


def nice_patterns(dtype: DType) -> dict[str, int]:
    """Bits of small numbers and of those that are not finite, by number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {str(float(number)): pattern_of(dtype, number) for number in NICE}
    return {name: pattern for name, pattern in found.items() if pattern is not None}


FLOATS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


def pattern_strategy(dtype: DType) -> st.SearchStrategy[int]:
    """Any bits, and often those of small numbers, of NaN and of infinities."""
    width = width_of(dtype)
    if dtype.kind == "complex":
        half = pattern_strategy(BY_NAME[FLOATS[dtype.name]])
        return st.builds(lambda real, imag: real | imag << width // 2, half, half)
    some = [st.sampled_from(sorted(nice_patterns(dtype).values())), st.integers(0, (1 << width) - 1)]
    if dtype.name == "float64":  # of any bits most have a square beyond all numbers
        doubles = st.floats(-1e6, 1e6).map(lambda number: struct.unpack("<Q", struct.pack("<d", number))[0])
        some.insert(0, doubles)
    return st.one_of(some)
