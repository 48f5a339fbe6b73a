"""What the bits of an element mean: the one place where a dtype's bytes become Python numbers.

Standard library only, so that ``--tensor`` needs neither torch nor numpy; ``stats`` makes its
lookup tables from the same functions. Input is packed and little-endian, as ``tensor_bytes``
gives it.

A small float is decoded from its name, which says all there is to know (the naming of ml_dtypes
that torch follows, ``c10/util/Float8_*.h``; OCP 8-bit floating point 1.0; OCP microscaling 1.0):

- ``eXmY``: X exponent and Y mantissa bits under one sign bit; bias ``2**(X-1) - 1``; exponent
  field 0 is subnormal.
- no suffix: the highest exponent field is infinity (mantissa 0) and NaN, as in IEEE 754.
- ``fn``, 8 bits: finite, NaN where all exponent and mantissa bits are set. Below 8 bits
  (``e2m1fn``, ``e2m3fn``, ``e3m2fn``): finite, and no NaN either.
- ``fnuz``: finite, unsigned zero; the pattern of -0.0 is the only NaN; bias one higher.
- ``e8m0fnu``: unsigned powers of two, no zero; 0xff is NaN.

Numbers narrower than a byte are packed from the least significant bit on: the first number of a
byte is its low bits (torch's ``float4_e2m1fn_x2`` and ``quint4x2``; safetensors' F6 types).
"""

from __future__ import annotations

import functools
import re
import struct
from itertools import islice
from typing import NamedTuple, TypeAlias

from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import Strided
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import UnsupportedFeature

Number: TypeAlias = bool | int | float | complex

_SMALL_FLOAT = re.compile(r"float\d+_e(\d)m(\d)(fnuz|fnu|fn)?(?:_x2)?")


class SmallFloat(NamedTuple):
    """A float of 8 bits or fewer; ``suffix`` is ``""``, ``fn``, ``fnuz`` or ``fnu``."""

    exponent_bits: int
    mantissa_bits: int
    suffix: str

    @property
    def bits(self) -> int:
        """Width of one number, sign included where there is one."""
        return self.exponent_bits + self.mantissa_bits + (self.suffix != "fnu")

    def decode(self, pattern: int) -> float:
        """The number that a bit pattern stands for."""
        mantissa = pattern & ((1 << self.mantissa_bits) - 1)
        top_exponent = (1 << self.exponent_bits) - 1
        exponent = (pattern >> self.mantissa_bits) & top_exponent
        negative = pattern >> (self.bits - 1) and self.suffix != "fnu"
        bias = (1 << (self.exponent_bits - 1)) - 1 + (self.suffix == "fnuz")
        if self._is_nan(pattern):
            return float("nan")
        if self.suffix == "" and exponent == top_exponent:
            magnitude = float("inf")
        elif self.suffix == "fnu":
            magnitude = 2.0 ** (exponent - bias)
        elif exponent == 0:
            magnitude = mantissa * 2.0 ** (1 - bias - self.mantissa_bits)
        else:
            magnitude = ((1 << self.mantissa_bits) + mantissa) * 2.0 ** (exponent - bias - self.mantissa_bits)
        return -magnitude if negative else magnitude

    def _is_nan(self, pattern: int) -> bool:
        without_sign = pattern & ((1 << (self.exponent_bits + self.mantissa_bits)) - 1)
        if self.suffix == "":  # above the pattern of infinity
            return without_sign > ((1 << self.exponent_bits) - 1) << self.mantissa_bits
        if self.suffix == "fnuz":
            return pattern == 1 << (self.bits - 1)
        return self.bits == 8 and without_sign == (1 << (self.exponent_bits + self.mantissa_bits)) - 1


def parse_small_float(name: str) -> SmallFloat | None:
    """The layout of a float of 8 bits or fewer, from torch's name for it; None for any other dtype."""
    match = _SMALL_FLOAT.fullmatch(name)
    return SmallFloat(int(match[1]), int(match[2]), match[3] or "") if match else None


def number_bits(dtype: DType) -> int:
    """Bits of one number: of an element, or of each of those that are packed in one."""
    return dtype.bits // dtype.packed


@functools.cache
def number_table(dtype: DType) -> tuple[Number, ...]:
    """The number that each bit pattern stands for, for dtypes whose numbers take 16 bits or fewer.

    Raises:
        UnsupportedFeature: nobody told what they mean.
    """
    width = number_bits(dtype)
    if width > 8:
        return tuple(decode_numbers(dtype, struct.pack("<65536H", *range(1 << 16))))
    if dtype.code:
        return tuple(decode_numbers(dtype, bytes(range(256))))
    small = parse_small_float(dtype.name)
    if small is not None:
        return tuple(small.decode(pattern) for pattern in range(1 << width))
    if dtype.kind == "float":
        raise UnsupportedFeature(f"{dtype.name} as numbers")
    return tuple(range(1 << width))


def decode_numbers(dtype: DType, data: bytes | bytearray | memoryview) -> list[Number]:
    """The numbers of packed little-endian elements, in order, as Python's bool, int, float, complex.

    Quantized elements are the integers that they are stored as: scale and zero point lie beside them. Of a
    bool any byte but 0 is true, as torch and C have it.

    Raises:
        UnsupportedFeature: nobody told what they mean.
    """
    width, code = number_bits(dtype), dtype.code
    if code is None and width <= 8:
        table = number_table(dtype)
        return [table[pattern] for pattern in _split_bits(data, width)]
    if dtype.name == "bfloat16":  # the upper half of a float32
        wide = bytearray(2 * len(data))
        wide[2::4] = bytes(data[0::2])
        wide[3::4] = bytes(data[1::2])
        data, code = wide, "f"
    if code is None:
        raise UnsupportedFeature(f"{dtype.name} as numbers")
    numbers: tuple[Number, ...] = struct.unpack(f"<{len(data) // struct.calcsize(f'<{code}')}{code}", data)
    if dtype.kind == "complex":
        return [complex(re, im) for re, im in zip(numbers[::2], numbers[1::2], strict=True)]
    return list(numbers)


def _split_bits(data: bytes | bytearray | memoryview, width: int) -> list[int]:
    """Bit fields of ``width``, least significant first; 3 bytes are whole fields of 2, 4, 6 and 8."""
    mask = (1 << width) - 1
    fields: list[int] = []
    for start in range(0, len(data), 3):
        group = bytes(data[start : start + 3])
        word = int.from_bytes(group, "little")
        fields += [(word >> shift) & mask for shift in range(0, len(group) * 8 - width + 1, width)]
    return fields


def first_values(reader: TensorReader, info: Strided, count: int) -> list[Number]:
    """The first ``count`` numbers in row-major order (all, if there are fewer).

    Packed dtypes give each number; quantized ones their integers.

    Raises:
        CkptToolError: as ``TensorReader.iter_chunks``.
    """
    wanted = max(0, min(count, info.numel * info.dtype.packed))
    nbytes = (wanted * number_bits(info.dtype) + 7) // 8
    # Chunks hold whole elements, of 6 bits in groups of 3 bytes: 2 more give the group that is begun.
    for chunk in islice(reader.iter_chunks(info, chunk_nbytes=nbytes + 2), 1):
        return decode_numbers(info.dtype, chunk)[:wanted]
    return []
