"""Casts among float64, float32, float16 and bfloat16 with numpy: torch's bits, without importing torch.

- float32 is the hub, as in torch (``c10/util/Half.h``, ``c10/util/BFloat16.h``): float64 becomes a 16-bit
  dtype in two roundings. Each is to nearest, ties to even.
- numpy has no bfloat16, and its float16 takes more than twice as long as integer arithmetic on whole arrays:
  half of the last place that stays is added, and carries into the exponent as rounding should.
- A NaN becomes quiet and keeps its sign and the upper bits of its payload, as F16C and SSE2 do it. In
  bfloat16 it is 0xFFFF, as from torch's AVX2 and AVX-512 code, and 0x7FC0 if it was float16, for which torch
  has no such code (``ATen/cpu/vec/vec256/vec256_bfloat16.h``, ``c10/util/BFloat16.h``). torch on other CPUs
  writes 0x7FC0 for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpttool.elements.arrays import import_numpy
from ckpttool.values.conversion import CastLoss
from ckpttool.values.dtypes import DType

if TYPE_CHECKING:
    from ckpttool.elements.arrays import Array

_CODES = {"float64": "<f8", "float32": "<f4", "float16": "<u2", "bfloat16": "<u2"}
CASTABLE = frozenset(_CODES)
"""torch's names of the dtypes that ``cast_floats`` knows, on either side."""

# Elements that are rounded and judged together: a handful of arrays of 256 KiB stay in the L2 cache.
_BLOCK = 1 << 16
_BFLOAT16_NAN, _BFLOAT16_NAN_OF_FLOAT16 = 0xFFFF, 0x7FC0
# Bits of float32: 2**-14 and 65520, between which float16 is normal and finite; both biases apart.
_HALF_NORMAL, _HALF_OVERFLOW, _REBIAS = 0x38800000, 0x477FF000, (127 - 15) << 23


def cast_floats(
    data: memoryview, before: DType, after: DType, *, judge: bool = True
) -> tuple[memoryview, CastLoss]:
    """``data`` as packed elements of ``after``; see ``conversion.execute.Caster``.

    Raises:
        UnsupportedFeature: numpy is not installed.
    """
    np = import_numpy("a cast", "leave --dtype out")
    source = np.frombuffer(data, _CODES[before.name])
    packed = bytearray(len(source) * after.nbytes)
    result = np.frombuffer(packed, _CODES[after.name])
    nan = _BFLOAT16_NAN_OF_FLOAT16 if before.name == "float16" else _BFLOAT16_NAN
    loss = CastLoss()
    with np.errstate(all="ignore"):
        for start in range(0, len(source), _BLOCK):
            exact = _widen(np, before.name, source[start : start + _BLOCK])
            found = _narrow(np, after.name, exact, result[start : start + _BLOCK], nan)
            if judge:
                loss = loss.joined(CastLoss(len(exact)) if found is exact else judge_cast(np, exact, found))
    return memoryview(packed), loss


def round_numbers(np: Any, dtype: DType, numbers: Array) -> Array:
    """Numbers as they are once they were cast to ``dtype``, in float32 or wider."""
    return _narrow(np, dtype.name, numbers, np.empty(len(numbers), _CODES[dtype.name]), _BFLOAT16_NAN)


def _widen(np: Any, name: str, values: Array) -> Array:
    """Elements as numbers: float64 stays, all else becomes float32."""
    if name == "bfloat16":
        wide: Array = values.astype("<u4")
        wide <<= 16
        return wide.view("<f4")
    return _widen_half(np, values) if name == "float16" else values


def _widen_half(np: Any, values: Array) -> Array:
    """float16 as float32: the exponent is shifted into place, and a product makes up for the other bias."""
    bits = values.view("<i2").astype("<i4")  # extends the sign
    bits <<= 13
    bits &= -0x70000001
    numbers: Array = bits.view("<f4")
    numbers *= 2.0**112
    if not (numbers.max() < 65536.0 and numbers.min() > -65536.0):
        odd = np.abs(numbers) >= 65536.0
        infinite = np.array(0x7F800000, "<i4")
        bits[odd] |= infinite
        bits[np.isnan(numbers)] |= 0x00400000
    return numbers


def _narrow(np: Any, name: str, exact: Array, result: Array, bfloat16_nan: int) -> Array:
    """Round numbers into ``result``; returns what it holds, or ``exact`` itself if nothing was lost."""
    if name == "float64":
        result[:] = exact
        return exact
    single = exact.astype("<f4", copy=False)
    if name == "float32":
        result[:] = single
        return single
    if name == "float16":
        return _round_half(np, single, result)
    return _round_bfloat16(np, single, result, bfloat16_nan)


def _round_bits(np: Any, values: Array, dropped: int) -> Array:
    """The bits of float32 ``values``, rounded so that the last ``dropped`` ones are zero."""
    bits = values.view("<u4")
    rounded: Array = bits >> dropped
    rounded &= 1
    rounded += bits
    rounded += (1 << (dropped - 1)) - 1
    rounded &= 0x100000000 - (1 << dropped)
    return rounded


def _round_bfloat16(np: Any, values: Array, result: Array, nan: int) -> Array:
    """Into bfloat16: the upper half of the bits."""
    rounded = _round_bits(np, values, 16)
    result[:] = rounded >> 16
    found: Array = rounded.view("<f4")
    if np.isnan(values.max(initial=0.0)):
        at = np.isnan(values)
        result[at] = nan
        found[at] = np.nan
    return found


def _round_half(np: Any, values: Array, result: Array) -> Array:
    """Into float16: normal numbers by their bits, the others one by one."""
    rounded = _round_bits(np, values, 13)
    bits = values.view("<u4")
    shifted = rounded - _REBIAS
    shifted >>= 13
    result[:] = shifted
    result &= 0x7FFF
    np.right_shift(bits, 16, out=shifted)
    signs = shifted.astype("<u2")
    signs &= 0x8000
    result |= signs
    np.bitwise_and(bits, 0x7FFFFFFF, out=shifted)
    shifted -= _HALF_NORMAL
    # By index, not by mask: of small weights one in some hundreds is subnormal in float16.
    odd = np.flatnonzero(shifted >= _HALF_OVERFLOW - _HALF_NORMAL)
    found: Array = rounded.view("<f4")
    if len(odd):
        halves = values[odd].astype("<f2")
        found[odd] = halves
        result[odd] = halves.view("<u2")
        nan = odd[np.isnan(halves)]
        result[nan] = (bits[nan] >> 16) & 0x8000 | 0x7E00 | (bits[nan] >> 13) & 0x03FF
    return found


def judge_cast(xp: Any, exact: Any, found: Any) -> CastLoss:
    """Compare two runs of numbers in one wide dtype: arrays or tensors of ``xp``, which is numpy or torch."""
    relative = found - exact
    relative /= exact
    worst = max(float(relative.max()), -float(relative.min()))
    # Without a zero, an infinity or NaN on either side, every relative error is a number below 1: done.
    if worst < 1.0:
        return CastLoss(len(exact), 0, 0, worst)
    overflow = xp.isfinite(exact) & ~xp.isfinite(found)
    underflow = (exact != 0) & (found == 0)
    # 0/0, and what is infinite or NaN on either side, is no relative error; what became 0 is counted apart.
    relative[~xp.isfinite(relative) | underflow] = 0.0
    return CastLoss(
        len(exact), int(overflow.sum()), int(underflow.sum()), float(xp.abs(relative, out=relative).max())
    )
