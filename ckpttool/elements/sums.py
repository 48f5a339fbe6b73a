"""What two runs of elements have between them: differences added up in float64, block by block.

numpy comes in as an argument. A ``Sums`` belongs to one thread and is used again and again: its scratch
memory is all that a comparison needs besides the chunks that are read.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ckpttool.elements.arrays import absolute, bit_patterns, to_numbers
from ckpttool.values.difference import Numbers, join_numbers
from ckpttool.values.dtypes import DType

BLOCK_NUMEL = 1 << 15
"""Elements of a block: three float64 copies take 768 KiB, twice that for complex numbers."""


class Tolerance(NamedTuple):
    """What still counts as the same: ``|a - b| <= atol + rtol * max(|a|, |b|)``, or ``ulp`` steps apart."""

    atol: float = 0.0
    rtol: float = 0.0
    ulp: int | None = None

    @property
    def is_asked(self) -> bool:
        """Whether anything but equality is allowed."""
        return self.atol > 0 or self.rtol > 0 or self.ulp is not None


class Sums:
    """Adds up what two runs of elements have between them. One a thread, used again and again."""

    def __init__(self, np: Any, tolerance: Tolerance) -> None:
        self._np = np
        self._tolerance = tolerance
        self._scratch = np.empty((3, 2 * BLOCK_NUMEL))

    def begin(self, a: DType, b: DType) -> None:
        """Start a run of elements of these dtypes."""
        self._a, self._b = a, b
        self._parts: list[Numbers] = []
        self._pairs = (a.kind == "complex") + (b.kind == "complex")
        same = a is b
        self._ordered = same and a.kind == "float" and a.packed == 1 and a.bits in (8, 16, 32, 64)
        self._exact = same and a.bits == 64 and a.kind in ("int", "uint")
        self._narrow = None if same else _narrower(a, b)

    def add(self, chunk_a: memoryview, chunk_b: memoryview, numel: int) -> None:
        """Take in two chunks of the same elements."""
        np = self._np
        count = numel * self._a.packed
        raw_a = to_numbers(np, self._a, chunk_a, count)
        raw_b = to_numbers(np, self._b, chunk_b, count)
        a, b, delta = (self._scratch[row, : max(len(raw_a), len(raw_b))] for row in range(3))
        if self._pairs == 1:  # a real number beside complex ones has an imaginary part of 0
            for raw, into in ((raw_a, a), (raw_b, b)):
                if len(raw) == count:
                    into[::2], into[1::2] = raw, 0
                else:
                    into[...] = raw
        else:
            a[...], b[...] = raw_a, raw_b
        np.subtract(a, b, out=delta)
        changed = self._changed(chunk_a, chunk_b, a, b, count)
        part = self._finite_sums(a, b, delta)
        if part is None:
            part = self._sums_around_nonfinite(a, b, count)
        distance = _exact_distance(np, raw_a, raw_b) if self._exact else None
        if distance is not None and count:
            part = part._replace(max_abs=int(distance.max()))
        part = part._replace(numel=count, changed=int(np.count_nonzero(changed)))
        if self._tolerance.is_asked:
            part = self._with_tolerance(part, chunk_a, chunk_b, a, b, distance)
        if self._narrow is not None:
            part = part._replace(unrounded=self._unrounded(self._narrow, raw_a, raw_b))
        self._parts.append(part)

    def result(self) -> Numbers:
        """The numbers of everything since ``begin``."""
        joined = join_numbers(self._parts)
        if self._a.is_whole and self._b.is_whole and joined.max_abs is not None:
            joined = joined._replace(max_abs=int(joined.max_abs))
        return joined

    def _changed(self, chunk_a: memoryview, chunk_b: memoryview, a: Any, b: Any, count: int) -> Any:
        """Which elements changed: by bits, across dtypes by value."""
        np = self._np
        if self._a is self._b:
            bits_a = bit_patterns(np, self._a, chunk_a, count)
            bits_b = bit_patterns(np, self._b, chunk_b, count)
            differs = bits_a != bits_b
            return differs.any(axis=1) if differs.ndim == 2 else differs
        differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
        return differs.reshape(-1, 2).any(axis=1) if self._pairs else differs

    def _finite_sums(self, a: Any, b: Any, delta: Any) -> Numbers | None:
        """Sums over elements that are all finite; None if one is not."""
        np = self._np
        # Not a BLAS dot: its threads cost more than they give on a busy machine, and vary the sum.
        squares = float(np.einsum("i,i->", delta, delta))
        if not math.isfinite(squares) and not np.isfinite(delta).all():
            return None
        a_squares, b_squares = float(np.einsum("i,i->", a, a)), float(np.einsum("i,i->", b, b))
        dot = float(np.einsum("i,i->", a, b))
        if self._pairs:
            delta = absolute(np, delta)
        else:
            np.abs(delta, out=delta)
        if not len(delta):
            return Numbers()
        return Numbers(
            finite=len(delta),
            max_abs=float(delta.max()),
            sum_abs=float(delta.sum()),
            delta_squares=squares,
            a_squares=a_squares,
            b_squares=b_squares,
            dot=dot,
        )

    def _sums_around_nonfinite(self, a: Any, b: Any, count: int) -> Numbers:
        np = self._np
        rows = (a.reshape(count, -1), b.reshape(count, -1))
        finite = np.isfinite(rows[0]).all(axis=1) & np.isfinite(rows[1]).all(axis=1)
        nan_a, nan_b = (np.isnan(side).any(axis=1) for side in rows)
        inf_a, inf_b = (
            np.isinf(side).any(axis=1) & ~nan for side, nan in zip(rows, (nan_a, nan_b), strict=True)
        )
        other = ((rows[0] != rows[1]) & (np.isinf(rows[0]) | np.isinf(rows[1]))).any(axis=1)
        kept_a, kept_b = rows[0][finite].ravel(), rows[1][finite].ravel()
        delta = kept_a - kept_b
        part = self._finite_sums(kept_a, kept_b, delta)
        if part is None:  # finite numbers whose difference overflows
            part = Numbers(finite=int(finite.sum()), max_abs=math.inf, delta_squares=math.inf)
        return part._replace(
            nan_appeared=int(np.count_nonzero(nan_b & ~nan_a)),
            nan_gone=int(np.count_nonzero(nan_a & ~nan_b)),
            inf_appeared=int(np.count_nonzero(inf_b & ~inf_a)),
            inf_gone=int(np.count_nonzero(inf_a & ~inf_b)),
            inf_flipped=int(np.count_nonzero(inf_a & inf_b & other)),
        )

    def _with_tolerance(
        self, part: Numbers, chunk_a: memoryview, chunk_b: memoryview, a: Any, b: Any, exact: Any
    ) -> Numbers:
        """Count elements that are too far apart; equal infinities and two NaN are not."""
        np, (atol, rtol, ulp) = self._np, self._tolerance
        count = part.numel
        delta = a - b
        inside = (a == b) | (np.isnan(a) & np.isnan(b))
        if self._pairs:
            inside = inside.reshape(count, 2).all(axis=1)
            sizes = [absolute(np, side) for side in (a, b)]
            distance = absolute(np, delta)
        else:
            sizes, distance = [np.abs(a), np.abs(b)], np.abs(delta)
        if exact is not None:
            inside, distance = exact == 0, exact
        inside |= np.isfinite(distance) & (distance <= atol + rtol * np.maximum(*sizes))
        if ulp is not None and self._ordered:
            steps = _steps_apart(
                np, self._a, *(bit_patterns(np, self._a, chunk, count) for chunk in (chunk_a, chunk_b))
            )
            finite = np.isfinite(a) & np.isfinite(b)
            inside |= finite & (steps <= ulp)
            furthest = int(steps[finite].max()) if finite.any() else None
            part = part._replace(max_ulp=furthest)
        return part._replace(outside=int(np.count_nonzero(~inside)))

    def _unrounded(self, narrower: DType, raw_a: Any, raw_b: Any) -> int:
        """How many of the narrower side are not the wider side's, rounded to nearest."""
        from ckpttool.elements.casts import round_numbers

        np = self._np
        wide, narrow = (raw_a, raw_b) if narrower is self._b else (raw_b, raw_a)
        rounded = round_numbers(np, narrower, wide)
        return int(np.count_nonzero((rounded != narrow) & ~(np.isnan(rounded) & np.isnan(narrow))))


def _narrower(a: DType, b: DType) -> DType | None:
    """The one of two floating dtypes that the other is usually rounded to."""
    if a.bits == b.bits:
        return None
    from ckpttool.elements.casts import CASTABLE

    if not {a.name, b.name} <= CASTABLE:
        return None
    return a if a.bits < b.bits else b


def _exact_distance(np: Any, a: Any, b: Any) -> Any:
    """How far apart 64-bit integers are; that may need all 64 bits."""
    first, second = a.view(np.uint64), b.view(np.uint64)
    return np.where(a > b, first - second, second - first)


def _steps_apart(np: Any, dtype: DType, a: Any, b: Any) -> Any:
    """How many representable values lie from ``a`` to ``b``; both zeros are one value."""
    if dtype.name.endswith("fnu"):  # no sign
        return np.abs(a.astype(np.int64) - b.astype(np.int64)).view(np.uint64)
    top = 1 << (dtype.bits - 1)
    ordered = []
    for bits in (a, b):
        size = (bits & (top - 1)).astype(np.int64)
        ordered.append(np.where(bits & top, -size, size))
    first, second = ordered
    return np.where(first > second, first - second, second - first).view(np.uint64)
