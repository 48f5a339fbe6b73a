"""Elements of tensors as text: the fewest digits that name them among all numbers of their dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

from ckpttool.elements.bits import Number, parse_small_float
from ckpttool.values.dtypes import DType

# Bits of the mantissa, and digits that survive any rounding to it and back.
_MANTISSAS = {
    "float32": (23, 6),
    "complex64": (23, 6),
    "float16": (10, 3),
    "complex32": (10, 3),
    "bfloat16": (7, 2),
}
_MOST_DIGITS = 9  # enough for float32


def number_text(dtype: DType) -> Callable[[Number], str]:
    """How elements of ``dtype`` are written: ``0.1``, ``-3``, ``True``, ``1.0-2.5j``, ``nan``."""
    write = _float_text(dtype)

    def text(value: Number) -> str:
        if isinstance(value, complex):
            imaginary = write(value.imag)
            return f"{write(value.real)}{'' if imaginary.startswith('-') else '+'}{imaginary}j"
        return write(value) if isinstance(value, float) else str(value)

    return text


def number_json(dtype: DType) -> Callable[[Number], str]:
    """The same as JSON: what it cannot say is a string, a complex number is a pair."""
    write = _float_text(dtype)

    def text(value: Number) -> str:
        if isinstance(value, complex):
            return f"[{text(value.real)}, {text(value.imag)}]"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        if math.isfinite(value):
            return write(value)
        return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'

    return text


def _float_text(dtype: DType) -> Callable[[float], str]:
    if dtype.name in ("float64", "complex128"):
        return repr
    small = parse_small_float(dtype.name)
    mantissa, fewest = (small.mantissa_bits, 1) if small else _MANTISSAS.get(dtype.name, (52, _MOST_DIGITS))

    def text(value: float) -> str:
        if not math.isfinite(value):
            return repr(value)
        # Half of the way to the nearest neighbour: below a power of two they lie twice as close.
        fraction, exponent = math.frexp(value)
        room = math.ldexp(1.0, exponent - mantissa - (3 if abs(fraction) == 0.5 else 2))
        for digits in range(fewest, _MOST_DIGITS):
            found = f"{value:.{digits}g}"
            if abs(float(found) - value) < room:
                break
        else:
            found = f"{value:.{_MOST_DIGITS}g}"
        return f"{found}.0" if found.lstrip("-").isdigit() else found

    return text
