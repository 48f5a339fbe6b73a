"""Statistics of tensor values: one pass, constant memory, exact counts.

What is examined are *stored values*: every element of the storage that a tensor views, once
(``strides.stored_view``). An expanded tensor of a petabyte is the one number that it repeats;
a tied tensor is read once and its numbers are repeated.

- Numbers of 16 bits or fewer (half, bfloat16, every fp8, fp4, int8, bool ...): in tensors with
  many elements their bit patterns are counted, and everything follows exactly from the counts and
  the table of ``elements.bits``. Others are looked up in that table and go on as float64.
- Wider numbers: blocks that fit in the L2 cache, each with its own mean and sum of squared
  deviations in float64, joined as Chan, Golub and LeVeque do (1979): no cancellation when the
  mean is large against the spread. Sums of float64 beyond 1.8e308 give inf, as in torch.
- ``mean`` and ``std`` are over finite values; ``std`` is that of the population (correction 0).
- The histogram has 16 equal bins from the smallest to the largest finite value. It is exact where
  patterns are counted and up to ``SAMPLE_NUMEL`` values; beyond that it is of evenly spaced
  values, ``histogram_numel`` of them: the range is only known at the end of the pass.
- Complex numbers are examined by their absolute value, quantized ones as the integers that are
  stored; ``note`` says so.

numpy is imported by the first call.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ckpttool.elements.arrays import absolute, bit_patterns, import_numpy, value_table, wide_numbers
from ckpttool.elements.bits import number_bits
from ckpttool.files.strides import stored_view
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import Entry, Finding, Strided, parts
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import UnsupportedFeature
from ckpttool.values.words import agree, plural

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BINS = 16
# A histogram of 65,536 evenly spaced values is within 0.2 % of the whole in every bin (1 sigma).
SAMPLE_NUMEL = 1 << 16
# 1 MiB of float32, its float64 copy and the deviations stay in an L2 cache or near it; fastest of
# 64 KiB to 8 MiB.
_BLOCK_NBYTES = 1 << 20
# From here on 16-bit patterns are counted: about as fast as looking the values up, and exact.
_COUNTED_NUMEL = SAMPLE_NUMEL
_NOTES = {"complex": "absolute values", "quantized": "the stored integers", "bits": "bit patterns"}
_MASK_NOTE = "nothing but 0 and -inf: an attention mask"


class EntryStats(NamedTuple):
    """What the values of one tensor are like.

    ``part`` names the piece of a composite tensor, outermost first, "" for a plain one. ``numel``
    counts the values that were examined; 0 with a ``note`` where none could be. ``minimum`` and
    ``maximum`` are over finite values, ints for integer dtypes; None where there are no such values.
    The histogram is empty where there is nothing to spread: fewer than two different finite values.
    ``tied_to`` is the earlier entry whose numbers these are.
    """

    entry: Entry
    part: str
    numel: int
    minimum: int | float | None = None
    maximum: int | float | None = None
    mean: float | None = None
    std: float | None = None
    zero: int = 0
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    histogram: tuple[int, ...] = ()
    histogram_numel: int = 0
    note: str = ""
    tied_to: Entry | None = None

    @property
    def finite(self) -> int:
        """Number of values that are neither NaN nor infinite."""
        return self.numel - self.nan - self.posinf - self.neginf

    @property
    def inf(self) -> int:
        """Number of infinities of either sign."""
        return self.posinf + self.neginf

    @property
    def all_zero(self) -> bool:
        """True when there are values and each is zero."""
        return 0 < self.numel == self.zero

    @property
    def constant(self) -> bool:
        """True when there are two values or more, all finite and equal."""
        return 1 < self.numel == self.finite and self.minimum == self.maximum

    @property
    def is_mask(self) -> bool:
        """True for an additive attention mask: nothing but 0 and -inf."""
        return self.neginf > 0 and self.zero + self.neginf == self.numel


def iter_stats(entries: Iterable[Entry], reader: TensorReader) -> Iterator[EntryStats]:
    """Statistics of each present tensor in turn; one result a part for composite tensors.

    A tensor that has no bytes or cannot be read (meta device) gives a result with ``numel`` 0 and
    a ``note``; entries that are missing from the file give none.

    Raises:
        MalformedCheckpoint: a file changed since its header was read, or is damaged.
        UnsupportedFeature: numpy is not installed.
    """
    numpy = import_numpy("statistics", "leave out --stats and --fail-on")
    seen: dict[Strided, EntryStats] = {}
    for entry in entries:
        for part, info in parts(entry.value):
            view = stored_view(info)
            known = seen.get(view)
            if known is None:
                known = seen[view] = _examine(numpy, entry, part, view, reader)
                yield known
            else:
                yield known._replace(entry=entry, part=part, tied_to=known.entry)


def iter_value_findings(stats: EntryStats, fail_on: Iterable[str]) -> Iterator[Finding]:
    """What ``--fail-on nan,inf,zero`` finds in ``stats``: errors for what was asked, else warnings.

    -inf in a tensor of nothing but 0 and -inf is how attention masks are written: it is an
    ``info`` and never an error. All-zero tensors are common (biases, fresh optimizer states), so
    without being asked for they are an ``info`` too.
    """
    asked = frozenset(fail_on)
    name = str(stats.entry.name) + (f" ({stats.part})" if stats.part else "")

    def finding(code: str, default: str, message: str) -> Finding:
        return Finding(f"value_{code}", "error" if code in asked else default, name, message)

    if stats.nan:
        yield finding("nan", "warning", _said(stats, stats.nan, "NaN"))
    if stats.is_mask:
        yield Finding("value_mask", "info", name, f"{stats.neginf:,} -inf among zeros: an attention mask")
    elif stats.inf:
        both = f"infinite ({stats.posinf:,} +inf, {stats.neginf:,} -inf)"
        what = "+inf" if not stats.neginf else both if stats.posinf else "-inf"
        yield finding("inf", "warning", _said(stats, stats.inf, what))
    if stats.all_zero:
        yield finding("zero", "info", _said(stats, stats.zero, agree(stats.numel, "0", "zero")))


def _said(stats: EntryStats, count: int, what: str) -> str:
    """``1 of 4 values is NaN``, ``all 4 values are NaN``, ``the only value is NaN``."""
    if stats.numel == 1:
        return f"the only value is {what}"
    if count == stats.numel:
        return f"all {plural(count, 'value')} are {what}"
    return f"{count:,} of {plural(stats.numel, 'value')} {agree(count, 'is', 'are')} {what}"


def _examine(np: Any, entry: Entry, part: str, view: Strided, reader: TensorReader) -> EntryStats:
    """Read the stored values of ``view`` once."""
    numel = view.numel * view.dtype.packed
    wide = number_bits(view.dtype) > (16 if numel >= _COUNTED_NUMEL else 8)
    values = (_Moments if wide or view.dtype.kind == "complex" else _Counts)(np, view.dtype, numel)
    try:
        with np.errstate(all="ignore"):
            for chunk in reader.iter_chunks(view, chunk_nbytes=_BLOCK_NBYTES):
                values.add(chunk)
            found = values.result()
    except UnsupportedFeature as error:
        return EntryStats(entry, part, 0, note=error.feature)
    stats = EntryStats(entry, part, numel, note=_NOTES.get(view.dtype.kind, ""))._replace(**found)
    return stats._replace(note=_MASK_NOTE) if stats.is_mask else stats


class _Counts:
    """How often each bit pattern of at most 16 bits occurs."""

    def __init__(self, np: Any, dtype: DType, numel: int) -> None:
        self._np = np
        self._dtype = dtype
        self._width = number_bits(dtype)
        self._left = numel
        self._counts = np.zeros(1 << self._width, dtype=np.int64)

    def add(self, chunk: memoryview) -> None:
        """Count the patterns of ``chunk``."""
        np = self._np
        if self._width < 8:  # what pads the last byte is no number
            numbers = min(self._left, len(chunk) * 8 // self._width)
            self._left -= numbers
            patterns = bit_patterns(np, self._dtype, chunk, numbers)
        elif self._width == 8 and len(chunk) == _BLOCK_NBYTES:  # two at a time take half as long
            pairs = np.bincount(np.frombuffer(chunk, "<u2"), minlength=1 << 16).reshape(256, 256)
            self._counts += pairs.sum(axis=0) + pairs.sum(axis=1)
            return
        else:
            patterns = np.frombuffer(chunk, f"<u{self._width // 8}")
        self._counts += np.bincount(patterns, minlength=1 << self._width)

    def result(self) -> dict[str, Any]:
        """Fields of ``EntryStats``."""
        np, counts = self._np, self._counts
        table = value_table(self._dtype)
        used = np.flatnonzero((counts > 0) & np.isfinite(table))
        values, weights = table[used], counts[used]
        found = {
            "zero": int(counts[table == 0].sum()),
            "nan": int(counts[np.isnan(table)].sum()),
            "posinf": int(counts[table == np.inf].sum()),
            "neginf": int(counts[table == -np.inf].sum()),
        }
        if not len(used):
            return found
        low, high = float(values.min()), float(values.max())
        finite = int(weights.sum())
        mean = float(values @ weights) / finite
        variance = float(np.square(values - mean) @ weights) / finite
        return found | _summary(np, self._dtype, low, high, mean, variance, values, weights)


class _Moments:
    """Count, mean, squared deviations, extremes and a sample of wider numbers."""

    def __init__(self, np: Any, dtype: DType, numel: int) -> None:
        self._np = np
        self._dtype = dtype
        self._finite = self._zero = self._nan = self._posinf = self._neginf = 0
        self._mean = self._squares = 0.0
        self._low: Any = math.inf
        self._high: Any = -math.inf
        self._sample: list[Array] = []
        self._sample_step = _sample_step(numel)
        self._sample_next = 0
        self._scratch = np.empty(min(numel, _BLOCK_NBYTES // dtype.nbytes))

    def add(self, chunk: memoryview) -> None:
        """Take in the values of ``chunk``."""
        np = self._np
        values = self._decode(chunk)
        self._sample.append(values[self._sample_next :: self._sample_step].astype(np.float64))
        self._sample_next = (self._sample_next - len(values)) % self._sample_step
        low, high = values.min(), values.max()  # either is NaN if any value is
        if values.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
            values = self._take_out_nonfinite(values)
            if not len(values):
                return
            low, high = values.min(), values.max()
        if low <= 0 <= high:
            self._zero += int(np.count_nonzero(values == 0))
        self._low, self._high = min(self._low, low.item()), max(self._high, high.item())
        self._join(values)

    def result(self) -> dict[str, Any]:
        """Fields of ``EntryStats``."""
        np = self._np
        special = {"zero": self._zero, "nan": self._nan, "posinf": self._posinf, "neginf": self._neginf}
        if not self._finite:
            return special
        sample = np.concatenate(self._sample)
        sample = sample[np.isfinite(sample)]
        variance = self._squares / self._finite
        return special | _summary(np, self._dtype, self._low, self._high, self._mean, variance, sample, None)

    def _decode(self, chunk: memoryview) -> Array:
        np, dtype = self._np, self._dtype
        if dtype.kind == "complex":
            halves = np.frombuffer(chunk, f"<f{dtype.nbytes // 2}")
            values: Array = absolute(np, halves.astype(np.float64))
        elif dtype.nbytes == 2:
            values = value_table(dtype)[np.frombuffer(chunk, "<u2")]
        else:
            values = wide_numbers(np, dtype, chunk)
        return values

    def _take_out_nonfinite(self, values: Array) -> Array:
        np = self._np
        self._nan += int(np.count_nonzero(np.isnan(values)))
        self._posinf += int(np.count_nonzero(values == np.inf))
        self._neginf += int(np.count_nonzero(values == -np.inf))
        finite: Array = values[np.isfinite(values)]
        return finite

    def _join(self, values: Array) -> None:
        deviations = self._scratch[: len(values)]
        deviations[...] = values
        mean = float(deviations.mean())
        deviations -= mean
        # Not a BLAS dot: its threads cost more than they give on a busy machine, and vary the sum.
        squares = float(self._np.einsum("i,i->", deviations, deviations))
        total = self._finite + len(values)
        delta = mean - self._mean
        self._squares += squares + delta * delta * self._finite * len(values) / total
        self._mean += delta * len(values) / total
        self._finite = total


def _summary(
    np: Any,
    dtype: DType,
    low: int | float,
    high: int | float,
    mean: float,
    variance: float,
    values: Array,
    weights: Array | None,
) -> dict[str, Any]:
    """The fields of ``EntryStats`` that both accumulators share; ``weights`` None counts each once."""
    found: dict[str, Any] = {
        "minimum": int(low) if dtype.is_whole else low,
        "maximum": int(high) if dtype.is_whole else high,
        "mean": float(low) if low == high else mean,
        "std": 0.0 if low == high else math.sqrt(variance),
    }
    if low != high and len(values):
        # Halved, so that the distance of two float64 does not overflow.
        share = (values / 2 - low / 2) / (high / 2 - low / 2)
        bins = np.clip((share * BINS).astype(np.int64), 0, BINS - 1)
        counts = np.bincount(bins, weights=weights, minlength=BINS)
        found["histogram"] = tuple(int(count) for count in counts)
        found["histogram_numel"] = sum(found["histogram"])
    return found


def _sample_step(numel: int) -> int:
    """Distance of sampled values: without a factor 2, 3, 5 or 7, lest it stays in few columns."""
    step = max(1, -(-numel // SAMPLE_NUMEL))
    while math.gcd(step, 2 * 3 * 5 * 7) > 1:
        step += 1
    return step
