"""Statistics of numbers of every dtype, in blocks so small that each tensor has several, against a loop."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.elements import stats as module
from ckpttool.elements.stats import EntryStats, iter_stats, iter_value_findings
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import CompositeTensor, Entry, Finding, Part, Strided
from ckpttool.values.dtypes import BY_NAME, DType
from tests.support.numbers import meaning, pack, pattern_strategy, width_of
from tests.support.raw_storages import RawStorages

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
BLOCK_NBYTES, SAMPLE_NUMEL, BINS = 16, 11, 16
NOTES = {"complex": "absolute values", "quantized": "the stored integers", "bits": "bit patterns"}
MASK = "nothing but 0 and -inf: an attention mask"
PATTERNS = {name: pattern_strategy(dtype) for name, dtype in BY_NAME.items()}


def coprime_step(numel: int) -> int:
    """The least step that leaves no more than a sample, without a factor 2, 3, 5 or 7."""
    return next(
        step
        for step in itertools.count(1)
        if step * SAMPLE_NUMEL >= numel and all(step % prime for prime in (2, 3, 5, 7))
    )


def naive(dtype: DType, numbers: list[Any]) -> dict[str, Any]:
    """The fields of ``EntryStats`` but for its names."""
    values: list[Any] = [abs(number) if dtype.kind == "complex" else number for number in numbers]
    finite = [value for value in values if math.isfinite(value)]
    found: dict[str, Any] = {
        "numel": len(values),
        "zero": sum(value == 0 for value in values),
        "nan": sum(math.isnan(value) for value in values),
        "posinf": sum(value == math.inf for value in values),
        "neginf": sum(value == -math.inf for value in values),
        "minimum": None, "maximum": None, "mean": None, "std": None, "histogram": (), "histogram_numel": 0,
        "note": NOTES.get(dtype.kind, ""),
    }  # fmt: skip
    if found["neginf"] and found["neginf"] + found["zero"] == len(values):
        found["note"] = MASK
    if not finite:
        return found
    number = int if dtype.is_whole else float
    low, high = number(min(finite)), number(max(finite))
    mean = math.fsum(finite) / len(finite)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in finite) / len(finite))
    found |= {"minimum": low, "maximum": high, "mean": mean, "std": std}
    width = width_of(dtype)
    counted = dtype.kind != "complex" and (width <= 8 or (width <= 16 and len(values) >= SAMPLE_NUMEL))
    sample = values if counted else values[:: coprime_step(len(values))]
    sample = [value for value in sample if math.isfinite(value)]
    if low != high and sample:
        found |= {
            "histogram": [bins_of(value, low, high) for value in sample],
            "histogram_numel": len(sample),
        }
    return found


def bins_of(value: Any, low: Any, high: Any) -> tuple[int, int]:
    """The first and the last bin that a value may be counted in: rounding moves it across a border."""
    share = (Fraction(value) - Fraction(low)) / (Fraction(high) - Fraction(low)) * BINS
    is_short = all(float(8 * number).is_integer() and abs(number) < 1e6 for number in (value, low, high))
    width = Fraction(0) if is_short else Fraction(1, 10**9)
    first, last = (min(BINS - 1, max(0, math.floor(share + by))) for by in (-width, width))
    return first, last


def check_histogram(found: tuple[int, ...], bins: list[tuple[int, int]]) -> None:
    """Up to each bin there are as many as must be, and no more than may be."""
    assert (len(found), sum(found)) == ((BINS, len(bins)) if bins else (0, 0))
    for number, counted in enumerate(itertools.accumulate(found)):
        least, most = (sum(pair[which] <= number for pair in bins) for which in (1, 0))
        assert least <= counted <= most


@st.composite
def tensors(draw: st.DrawFn, dtype: DType) -> tuple[DType, list[int]]:
    """Bits of the numbers of a tensor; of a packed dtype those of whole elements."""
    some = draw(st.lists(PATTERNS[dtype.name], min_size=1, max_size=4))
    size = draw(st.sampled_from([0, 1, 2, 10, 11, 12, 33, 40, 70]))
    choose = st.one_of(st.sampled_from(some), PATTERNS[dtype.name])
    return dtype, draw(st.lists(choose, min_size=size * dtype.packed, max_size=size * dtype.packed))


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=12)
@given(data=st.data())
def test_every_field_is_what_a_loop_finds(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    dtype, bits = data.draw(tensors(BY_NAME[name]))
    files = RawStorages(tmp_path_factory.mktemp("stats"))
    raw = torch.tensor(list(pack(width_of(dtype), bits)), dtype=torch.uint8)
    numel = len(bits) // dtype.packed
    view = files.info(raw)._replace(dtype=dtype, shape=(numel,), stride=(1,))
    numbers = meaning(dtype, bits)
    try:
        wanted = naive(dtype, numbers)
    except OverflowError:  # sums beyond float64 are told by other tests
        return
    found = stats_of(files, view)._asdict()
    assert found.pop("entry") == Entry((), "t0", view) and found.pop("part") == ""
    assert found.pop("tied_to") is None
    largest = max((abs(value) for value in (wanted["minimum"] or 0, wanted["maximum"] or 0)), default=0)
    if wanted["minimum"] == wanted["maximum"] is not None:
        assert (found["mean"], found["std"]) == (found["minimum"], 0.0)  # nothing is rounded
    for name in ("mean", "std"):
        if wanted[name] is not None:
            assert found[name] == pytest.approx(wanted[name], rel=1e-9, abs=1e-13 * largest + 1e-300), name
            del wanted[name], found[name]
    check_histogram(found.pop("histogram"), list(wanted.pop("histogram")))
    if dtype.kind == "complex" and wanted["minimum"] is not None:  # the length of two floats
        for name in ("minimum", "maximum"):
            assert found.pop(name) == pytest.approx(wanted.pop(name), rel=1e-15)
    assert found == wanted
    assert [type(found.get(name)) for name in wanted] == [type(value) for value in wanted.values()]


def stats_of(files: RawStorages, view: Strided) -> EntryStats:
    with pytest.MonkeyPatch.context() as patch, TensorReader(files.files) as reader:
        for name, value in (("_BLOCK_NBYTES", BLOCK_NBYTES), ("SAMPLE_NUMEL", SAMPLE_NUMEL),
                            ("_COUNTED_NUMEL", SAMPLE_NUMEL)):  # fmt: skip
            patch.setattr(module, name, value)
        (found,) = iter_stats([Entry((), "t0", view)], reader)
    return found


# -- what is said of them ---------------------------------------------------------------------------------

VALUES = (0.0, 1.0, math.nan, math.inf, -math.inf)


def sentence(count: int, numel: int, what: str) -> str:
    if numel == 1:
        return f"the only value is {what}"
    if count == numel:
        return f"all {numel:,} values are {what}"
    return f"{count:,} of {numel:,} values {'is' if count == 1 else 'are'} {what}"


def findings(values: tuple[float, ...], name: str, fail_on: tuple[str, ...]) -> list[Finding]:
    numel = len(values)
    nan = sum(map(math.isnan, values))
    plus, minus, zero = (values.count(value) for value in (math.inf, -math.inf, 0.0))
    found = []
    if nan:
        severity = "error" if "nan" in fail_on else "warning"
        found.append(Finding("value_nan", severity, name, sentence(nan, numel, "NaN")))
    if minus and minus + zero == numel:
        found.append(Finding("value_mask", "info", name, f"{minus} -inf among zeros: an attention mask"))
    elif plus or minus:
        severity = "error" if "inf" in fail_on else "warning"
        what = f"infinite ({plus} +inf, {minus} -inf)" if plus and minus else "+inf" if plus else "-inf"
        found.append(Finding("value_inf", severity, name, sentence(plus + minus, numel, what)))
    if zero == numel:
        severity = "error" if "zero" in fail_on else "info"
        found.append(
            Finding("value_zero", severity, name, sentence(zero, numel, "0" if numel == 1 else "zero"))
        )
    return found


@pytest.mark.parametrize("numel", [1, 2, 3])
def test_every_small_tensor_is_described(tmp_path: Path, numel: int) -> None:
    assert (module.BINS, module.SAMPLE_NUMEL, module._COUNTED_NUMEL) == (BINS, 65_536, 65_536)
    files = RawStorages(tmp_path)
    every = list(itertools.product(VALUES, repeat=numel))
    whole = files.info(torch.tensor(every, dtype=torch.float32))
    views = [
        whole._replace(shape=(numel,), stride=(1,), storage_offset=numel * at) for at in range(len(every))
    ]
    entries = [Entry((), f"t{at}", view) for at, view in enumerate(views)]
    with TensorReader(files.files) as reader:
        results = list(iter_stats(entries, reader))
    for at, (values, stats) in enumerate(zip(every, results, strict=True)):
        finite = [value for value in values if math.isfinite(value)]
        assert (stats.finite, stats.inf) == (len(finite), values.count(math.inf) + values.count(-math.inf))
        assert stats.all_zero is (set(values) == {0.0})
        assert stats.constant is (numel > 1 and len(finite) == numel and len(set(finite)) == 1)
        assert stats.is_mask is (-math.inf in values and set(values) <= {0.0, -math.inf})
        for fail_on in ((), ("nan",), ("inf",), ("zero",), ("nan", "inf", "zero")):
            assert list(iter_value_findings(stats, fail_on)) == findings(values, f"t{at}", fail_on)
            part = stats._replace(part="scale")
            assert list(iter_value_findings(part, fail_on)) == findings(values, f"t{at} (scale)", fail_on)


def test_counts_of_many_values_are_grouped_in_threes() -> None:
    stats = EntryStats(Entry((), "t", None), "", 5000, nan=2000, posinf=1000, neginf=1234, zero=766)
    assert [finding.message for finding in iter_value_findings(stats, ())] == [
        "2,000 of 5,000 values are NaN",
        "2,234 of 5,000 values are infinite (1,000 +inf, 1,234 -inf)",
    ]
    mask = stats._replace(nan=0, posinf=0, zero=3766)
    assert [finding.message for finding in iter_value_findings(mask, ())] == [
        "1,234 -inf among zeros: an attention mask"
    ]


def test_what_is_tied_or_cannot_be_read_keeps_its_names(tmp_path: Path) -> None:
    files = RawStorages(tmp_path)
    view = files.info(torch.tensor([1.0, 2.0]))
    meta = view._replace(storage=None)
    value = CompositeTensor(
        "subclass", "a.A", None, None, (Part("x", view), Part("y", view), Part("z", meta))
    )
    first, second = Entry((), "a", value), Entry((), "b", view)
    with TensorReader(files.files) as reader:
        found = list(iter_stats([first, Entry((), "gone", None), second], reader))
    x = found[0]
    assert (x.entry, x.part, x.tied_to, x.mean) == (first, "x", None, 1.5)
    assert found[1] == x._replace(part="y", tied_to=first)
    nothing = (0, None, None, None, None, 0, 0, 0, 0, (), 0)
    assert found[2] == (first, "z", *nothing, "a tensor on the meta device has no bytes", None)
    assert found[3] == x._replace(entry=second, part="", tied_to=first)
    assert len(found) == 4
