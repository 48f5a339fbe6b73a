"""What a tensor's values show about how they were made: some are computed, and no training leads to them.

A mask, a window, a blur kernel, evenly spaced numbers: how unlikely it is that learnt numbers agree as these
do is counted in bits, one for each halving of the chance, and 18 are asked for (1 in 260,000).

- What begins computed and is learnt moves by some 1/32 of its size: a number that has not moved is worth as
  many bits as its precision has beyond 5. In the 8-bit floats it may still be what it was: they say nothing.
- Numbers have the precision of the narrowest of bfloat16, half and float that has them all, for float32 may
  have been bfloat16; of float, in which most are made, where none has. What was evenly spaced in float32 is
  so within the rounding of bfloat16 once it is cast to that.
- That two numbers agree is worth no more than two numbers of the tensor are likely to differ: zeros of a
  pruned weight agree for nothing. It is worth 4 bits at most, for weights may be quantised to 16 levels.
- What weights begin as is no evidence, for some are left as they were: constants, multiples of an identity,
  a single 1 in each row. Nor is what is short, a scalar, or monotone.

numpy is imported by the first call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ckpttool.elements.arrays import has_array, import_numpy, to_array
from ckpttool.values.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MOST_NBYTES = 64 << 10

_FEWEST = 4
_LARGEST = 1e100  # squares of what is larger overflow
_ENOUGH_BITS = 18.0
_MOVED_BITS = 5
"""A number that is learnt moves by 2**-5 of its size."""

_MOST_AGREEMENT_BITS = 4
_MOST_MASK_BITS = 5
_MOST_SPACING_BITS = 8  # so that 5 of them must be evenly spaced
_MOST_RATIO_BITS = 12  # no quantisation makes a geometric series: 4 will do
"""What a number is worth at most, however precise it is."""

_PRECISIONS = (("bfloat16", 7, -126), ("float16", 10, -14), ("float32", 23, -126))
"""Bits of the mantissa, and the exponent of the smallest normal number; the narrowest first."""

_JUDGED = frozenset(("bfloat16", "float16", "float32", "float64"))

_ARITHMETIC = math.ldexp(8, -24)
"""How far a formula is from its result at most: 8 roundings of float32, of the largest number in it."""

_FIT = 1.5
"""Roundings that a number may be away from the line through all of them, which these have moved as well."""

_NEEDED = ("kinds from contents", "leave out --source")


class _Numbers(NamedTuple):
    """Finite numbers as float64, in row-major order. ``shape`` leaves out sizes of 1."""

    np: Any
    flat: Array
    shape: tuple[int, ...]
    mantissa: int  # bits, of the precision that the numbers have in truth
    lowest: int  # exponent of its smallest normal number
    own_mantissa: int  # bits, of their dtype, but no more than float32 has

    @property
    def rounding(self) -> Array:
        """How far each may be from what was rounded to it."""
        sizes = self.np.maximum(abs(self.flat), math.ldexp(1.0, self.lowest))
        errors: Array = sizes * math.ldexp(1.0, -self.mantissa - 1)
        return errors

    @property
    def apart(self) -> float:
        """How far two numbers may be apart that only arithmetic made differ."""
        return _ARITHMETIC * float(abs(self.flat).max())


def why_computed(dtype: DType, shape: Sequence[int], data: bytearray) -> str | None:
    """Why the numbers look computed and not learnt, in a few words: ``evenly spaced values``.

    None where they do not, are more than ``MOST_NBYTES`` or too few, are not all finite and below 1e100, or
    are no floats of 16 bits or more. ``data`` is packed and little-endian.

    Raises:
        UnsupportedFeature: numpy is not installed.
    """
    if dtype.name not in _JUDGED or math.prod(shape) < _FEWEST or len(data) > MOST_NBYTES:
        return None
    np = import_numpy(*_NEEDED)
    flat = to_array(np, dtype, data).astype(np.float64)
    if not abs(flat).max() < _LARGEST or (flat == flat[0]).all():
        return None
    numbers = _read(np, dtype, tuple([size for size in shape if size != 1]), flat)
    if ((flat == 0) | (flat == 1)).all():
        return "only 0 and 1" if _mask(numbers) >= _ENOUGH_BITS else None
    with np.errstate(all="ignore"):
        return next((phrase for phrase, rule in _RULES if rule(numbers) >= _ENOUGH_BITS), None)


def is_constant(dtype: DType, data: bytearray) -> bool:
    """Whether all elements are one number, or of a type that is not looked into.

    Raises:
        UnsupportedFeature: numpy is not installed.
    """
    if dtype.kind != "float" or not has_array(dtype):
        return True
    flat = to_array(import_numpy(*_NEEDED), dtype, data)
    return bool((flat == flat[:1]).all())


def _read(np: Any, dtype: DType, shape: tuple[int, ...], flat: Array) -> _Numbers:
    """The numbers with the precision that they have in truth."""
    fractions, exponents = np.frexp(flat)
    for name, mantissa, lowest in _PRECISIONS:
        # As many binary digits as the significand has there; a subnormal number has fewer.
        digits = np.ldexp(fractions, np.minimum(mantissa + 1, exponents - lowest + mantissa))
        if name == dtype.name or (digits == np.rint(digits)).all():
            break
    own = {name: bits for name, bits, _ in _PRECISIONS}.get(dtype.name, 23)
    return _Numbers(np, flat, shape, mantissa, lowest, own)


# --------------------------------------------------------------------- the rules: numbers -> bits of evidence


def _mask(numbers: _Numbers) -> float:
    """Of 0 and 1, unless each row, each column or the whole has but one 1, as an identity."""
    ones = numbers.flat == 1
    for table in (ones.reshape(numbers.shape[0], -1), ones.reshape(-1, numbers.shape[-1])):
        if any(table.shape[axis] > 1 and table.sum(axis=axis).max() <= 1 for axis in (0, 1)):
            return 0.0
    return float(ones.sum() * min(numbers.own_mantissa - _MOVED_BITS, _MOST_MASK_BITS))


def _sums_to_one(numbers: _Numbers) -> float:
    """Of what is nowhere negative and has a sum of 1, for how alike its sides are, or many equal ones."""
    if numbers.flat.min() < 0:
        return 0.0
    table, repeated = numbers.flat.reshape(numbers.shape), 0
    while table.ndim > 1 and (table == table[:1]).all():
        repeated += table.size - table[0].size
        table = table[0]
    kernel = numbers._replace(flat=table.reshape(-1), shape=table.shape)
    tolerance = float(kernel.rounding.sum()) + _ARITHMETIC
    if abs(float(kernel.flat.sum()) - 1) > tolerance:
        return 0.0
    of_sum = -math.log2(2 * tolerance) - _MOVED_BITS
    return of_sum + _sides(kernel) + repeated * _worth(kernel, kernel.flat)


def _sides(numbers: _Numbers) -> float:
    """Of what is the same from all sides."""
    np = numbers.np
    pairs = zip(np.indices(numbers.shape), numbers.shape, strict=True)
    places = np.stack([np.minimum(place, size - 1 - place) for place, size in pairs])
    if len(set(numbers.shape)) == 1:
        places = np.sort(places, axis=0)
    labels = np.ravel_multi_index(tuple(places), numbers.shape).reshape(-1)
    _, firsts, orbits = np.unique(labels, return_index=True, return_inverse=True)
    own = numbers.flat[firsts]
    if (abs(numbers.flat - own[orbits.reshape(-1)]) > numbers.apart).any():
        return 0.0
    return float(numbers.flat.size - own.size) * _worth(numbers, own)


def _mirrored(numbers: _Numbers) -> float:
    """Of a vector that is the same from both ends; a periodic window is so but for its first number."""
    for line in (numbers.flat, numbers.flat[1:]) if len(numbers.shape) == 1 else ():
        half = line[: line.size // 2]
        if (abs(half - line[::-1][: half.size]) <= numbers.apart).all():
            return float(half.size * _worth(numbers, half))
    return 0.0


def _symmetric(numbers: _Numbers) -> float:
    """Of a matrix that is its own transpose."""
    np = numbers.np
    if len(numbers.shape) != 2 or numbers.shape[0] != numbers.shape[1]:
        return 0.0
    matrix = numbers.flat.reshape(numbers.shape)
    if (abs(matrix - matrix.T) > numbers.apart).any():
        return 0.0
    upper = matrix[np.triu_indices(numbers.shape[0], 1)]
    return float(upper.size * _worth(numbers, upper))


def _whole(numbers: _Numbers) -> float:
    """Of whole numbers; each size counts once, for a weight may be quantised to few."""
    np = numbers.np
    sizes = np.unique(abs(numbers.flat[numbers.flat != 0]))
    if (sizes != np.rint(sizes)).any():
        return 0.0
    return float(np.maximum(numbers.mantissa - np.floor(np.log2(sizes)), 0).sum())


def _evenly_spaced(numbers: _Numbers) -> float:
    """Of a vector with equal steps."""
    largest = abs(numbers.flat).max()
    return _on_a_line(numbers, numbers.flat, numbers.rounding, largest, largest, _MOST_SPACING_BITS)


def _geometric(numbers: _Numbers) -> float:
    """Of a vector with equal ratios."""
    np = numbers.np
    if numbers.flat.min() * numbers.flat.max() <= 0:
        return 0.0
    powers = np.log(abs(numbers.flat))
    # An exponent that is rounded moves its power by as much as it is large.
    scale = 1 + 2 * np.maximum(abs(powers), abs(powers - powers[0])).max() / 8
    return _on_a_line(numbers, powers, numbers.rounding / abs(numbers.flat), scale, 1.0, _MOST_RATIO_BITS)


def _on_a_line(
    numbers: _Numbers, values: Array, rounding: Array, scale: float, size: float, most_bits: int
) -> float:
    """Of a vector whose ``values`` are on a line, each within its rounding.

    ``scale`` is that of the arithmetic, ``size`` that of what learning moves.
    """
    np = numbers.np
    if len(numbers.shape) != 1 or values[0] == values[-1]:
        return 0.0
    near = _FIT * rounding + _ARITHMETIC * scale
    weights = (near.min() / near) ** 2
    weights /= weights.sum()
    places = np.arange(values.size)
    places = places - (weights * places).sum()
    middle = (weights * values).sum()
    slope = (weights * places * values).sum() / (weights * places**2).sum()
    if not (abs(values - middle - slope * places) <= near).all():
        return 0.0
    room = min(abs(values[-1] - values[0]), math.ldexp(size, -_MOVED_BITS))
    bits = -np.log2(np.clip(2 * near / room, 2.0**-most_bits, 1))
    return float(bits.sum() - 2 * bits.max())  # two of them made the line


def _worth(numbers: _Numbers, values: Array) -> float:
    """Bits for an agreement of two numbers: how seldom two of ``values`` agree."""
    np = numbers.np
    ordered = np.sort(values)
    span = float(ordered[-1] - ordered[0]) if values.size else 0.0
    if not span:
        return 0.0
    after = np.searchsorted(ordered, ordered + numbers.apart, side="right")
    alike = float((after - np.arange(values.size) - 1).sum()) / math.comb(values.size, 2)
    # Two that move apart are one more bit farther.
    most_bits = min(_MOST_AGREEMENT_BITS, numbers.mantissa + 1 - _MOVED_BITS)
    chance = max(alike, numbers.apart / span, 2.0**-most_bits)
    return -math.log2(min(chance, 1.0))


_RULES: tuple[tuple[str, Callable[[_Numbers], float]], ...] = (
    ("non-negative, with a sum of 1", _sums_to_one),
    ("mirror-symmetric", _mirrored),
    ("a symmetric matrix", _symmetric),
    ("whole numbers", _whole),
    ("evenly spaced values", _evenly_spaced),
    ("a geometric series", _geometric),
)
