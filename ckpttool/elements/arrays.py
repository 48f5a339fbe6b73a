"""Packed little-endian elements -> numpy arrays of numbers; numpy comes in as an argument, never by import.

``elements.bits`` says what bits mean, this module does it for a million of them at once.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

from ckpttool.elements.bits import number_bits, number_table
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import UnsupportedFeature

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_CODES = {"float": "f", "int": "i", "uint": "u", "quantized": "i", "bits": "u", "complex": "c", "bool": "b"}


def import_numpy(what: str, instead: str) -> Any:
    """The module, which no one else imports.

    Raises:
        UnsupportedFeature: it is not installed; ``what`` needs it, ``instead`` does not.
    """
    try:
        import numpy
    except ImportError:
        raise UnsupportedFeature(f"{what} without numpy", hint=f"install numpy, or {instead}") from None
    _keep_freed_memory()
    return numpy


@functools.cache
def _keep_freed_memory() -> None:
    """Keep glibc from giving the arrays of each block back to the kernel, only to fault them in again.

    Its limits follow the largest block that was ever freed (``mallopt(3)``, M_MMAP_THRESHOLD). This one is
    never touched, so it costs no memory; without it a third of the time of casts and of statistics is page
    faults. Once only: from then on such a block would be cleared.
    """
    bytearray(16 << 20)


@functools.cache
def value_table(dtype: DType) -> Array:
    """``bits.number_table`` as float64."""
    import numpy as np

    return np.array(number_table(dtype), dtype=np.float64)


def bit_patterns(np: Any, dtype: DType, chunk: memoryview, count: int) -> Array:
    """The bits of ``count`` numbers as unsigned integers; those of complex128 as rows of two."""
    width = number_bits(dtype)
    if width < 8:  # what pads the last byte is no number
        bits = np.unpackbits(np.frombuffer(chunk, np.uint8), bitorder="little")
        fields = bits[: count * width].reshape(count, width)
        patterns: Array = np.packbits(fields, axis=1, bitorder="little")[:, 0]
        return patterns
    if width == 128:
        pairs: Array = np.frombuffer(chunk, "<u8").reshape(-1, 2)
        return pairs
    patterns = np.frombuffer(chunk, f"<u{width // 8}")
    return patterns


def to_numbers(np: Any, dtype: DType, chunk: memoryview, count: int) -> Array:
    """``count`` numbers in a numpy dtype that has them all; complex ones as pairs of floats."""
    if dtype.kind == "complex":
        values: Array = np.frombuffer(chunk, f"<f{dtype.nbytes // 2}")
        return values
    if dtype.name == "float16":
        values = np.frombuffer(chunk, "<f2")
    elif dtype.name == "bfloat16":
        values = _widen_bfloat16(np, chunk)
    elif number_bits(dtype) <= 16:
        values = value_table(dtype)[bit_patterns(np, dtype, chunk, count)]
    else:
        values = wide_numbers(np, dtype, chunk)
    return values


def _widen_bfloat16(np: Any, chunk: bytearray | memoryview) -> Array:
    """It is the upper half of a float32."""
    wide: Array = (np.frombuffer(chunk, "<u2").astype(np.uint32) << 16).view(np.float32)
    return wide


def absolute(np: Any, pairs: Array) -> Array:
    """The absolute values of complex numbers, which are pairs of floats."""
    lengths: Array = np.hypot(pairs[::2], pairs[1::2])
    return lengths


def wide_numbers(np: Any, dtype: DType, chunk: memoryview) -> Array:
    """Numbers of 32 or 64 bits in numpy's own dtype.

    Raises:
        UnsupportedFeature: it has none.
    """
    if dtype.code is None:
        raise UnsupportedFeature(f"{dtype.name} as numbers")
    values: Array = np.frombuffer(chunk, f"<{_CODES[dtype.kind]}{dtype.nbytes}")
    return values


def has_array(dtype: DType) -> bool:
    """Whether ``to_array`` can have one element for each of torch's."""
    if dtype.kind == "complex":
        return dtype.bits >= 64
    return dtype.kind in ("float", "int", "uint", "bool") and dtype.packed == 1 and dtype.bits % 8 == 0


def to_array(np: Any, dtype: DType, data: bytearray) -> Array:
    """All elements of a tensor: in numpy's own dtype, else in the narrowest that has all their numbers."""
    if dtype.code:
        own: Array = np.frombuffer(data, f"<{_CODES[dtype.kind]}{dtype.nbytes}")
        return own
    if dtype.name == "bfloat16":
        return _widen_bfloat16(np, data)
    with np.errstate(over="ignore"):
        narrower = (value_table(dtype).astype(width) for width in (np.float16, np.float32))
        table = next(made for made in narrower if np.array_equal(made, value_table(dtype), equal_nan=True))
    numbers: Array = table[np.frombuffer(data, np.uint8)]
    return numbers


def numpy_code(dtype: DType) -> str:
    """The dtype as numpy spells it, of those that it has: ``<f4``, ``|b1``."""
    order = "|<"[dtype.nbytes > 1]
    return f"{order}{_CODES[dtype.kind]}{dtype.nbytes}"


def npy_header(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """What stands before packed elements in a ``.npy`` (format 1.0 of ``numpy.lib.format``)."""
    text = f"{{'descr': '{numpy_code(dtype)}', 'fortran_order': False, 'shape': {shape}, }}"
    padded = text + " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode()
