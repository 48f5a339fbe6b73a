"""Statistics against torch's own, computed in float64 over the same values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.elements.bits import number_bits, number_table, parse_small_float
from ckpttool.elements.stats import BINS, SAMPLE_NUMEL, EntryStats, iter_stats, iter_value_findings
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import CompositeTensor, Entry, Part, Tensor
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint
from tests.support.raw_storages import RawStorages

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

FLOATS = [name for name, dtype in BY_NAME.items() if dtype.kind == "float" and hasattr(torch, name)]
FLOATS.remove("float4_e2m1fn_x2")  # torch cannot convert it
INTS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]
COMPLEX = ["complex32", "complex64", "complex128"]


class Files(RawStorages):
    """Entries that view raw storages, and their statistics."""

    def stats(self, *values: Tensor | None) -> list[EntryStats]:
        entries = [Entry((), f"t{i}", value) for i, value in enumerate(values)]
        with TensorReader(self.files) as reader:
            return list(iter_stats(entries, reader))

    def one(self, tensor: torch.Tensor, dtype: str | None = None) -> EntryStats:
        (stats,) = self.stats(self.info(tensor, dtype))
        return stats


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def check(stats: EntryStats, values: torch.Tensor, integers: torch.Tensor | None = None) -> None:
    """Compare with torch over ``values`` in float64; ``integers`` are the same, exact."""
    values = values.flatten()
    finite = values[values.isfinite()]
    assert stats.numel == len(values)
    assert stats.nan == int(values.isnan().sum())
    assert stats.posinf == int((values == math.inf).sum())
    assert stats.neginf == int((values == -math.inf).sum())
    assert stats.zero == int((values == 0).sum())
    assert stats.finite == len(finite)
    if not len(finite):
        assert (stats.minimum, stats.maximum, stats.mean, stats.std) == (None,) * 4
        assert stats.histogram == ()
        return
    if integers is None:
        assert (stats.minimum, stats.maximum) == (finite.min().item(), finite.max().item())
    else:
        exact = integers.flatten().tolist()
        assert (stats.minimum, stats.maximum) == (int(min(exact)), int(max(exact)))
        assert type(stats.minimum) is type(stats.maximum) is int
    # Exactly rounded sums: torch's own have an error of theirs.
    exact_values = finite.tolist()
    mean = math.fsum(exact_values) / len(exact_values)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in exact_values) / len(exact_values))
    largest = float(finite.abs().max())
    assert stats.mean == pytest.approx(mean, rel=1e-12, abs=1e-13 * largest)
    assert stats.std == pytest.approx(std, rel=1e-9, abs=1e-13 * largest)
    if stats.minimum == stats.maximum:
        assert stats.histogram == () and stats.std == 0
    else:
        assert len(stats.histogram) == BINS and sum(stats.histogram) == stats.histogram_numel


def check_histogram(stats: EntryStats, values: torch.Tensor) -> None:
    low, high = stats.minimum, stats.maximum
    assert isinstance(low, float) and isinstance(high, float)
    exact = torch.histc(values[values.isfinite()], BINS, low, high)
    assert stats.histogram_numel == stats.finite
    # A value on the border of two bins may be rounded to either side.
    assert (torch.tensor(stats.histogram) - exact).abs().sum() <= 0.001 * stats.finite + 2


@pytest.mark.parametrize("numel", [1, 2, 1000, 200_000])
@pytest.mark.parametrize("name", FLOATS)
def test_floats(files: Files, name: str, numel: int) -> None:
    tensor = (torch.randn(numel, generator=torch.Generator().manual_seed(1)) * 3 + 1).to(getattr(torch, name))
    check(files.one(tensor), tensor.double())


@pytest.mark.parametrize("name", [n for n in FLOATS if BY_NAME[n].bits <= 16])
@pytest.mark.parametrize("repeat", [1, 500])
def test_every_bit_pattern_of_small_floats(files: Files, name: str, repeat: int) -> None:
    bits = BY_NAME[name].bits
    patterns = torch.arange(1 << bits).repeat(max(1, repeat >> (bits - 8)))
    tensor = patterns.to(torch.uint8 if bits == 8 else torch.uint16).view(getattr(torch, name))
    check(files.one(tensor), tensor.double())


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("numel", [3, 300_000, pytest.param(1_500_001, marks=pytest.mark.slow)])
def test_integers_are_exact(files: Files, name: str, numel: int) -> None:
    dtype = BY_NAME[name]
    raw = torch.randint(
        0, 256, (numel * dtype.nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    tensor = (raw & 1).bool() if name == "bool" else raw.view(getattr(torch, name))
    check(files.one(tensor), tensor.double(), integers=tensor)


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_by_absolute_value(files: Files, name: str) -> None:
    part = {"complex32": torch.float16, "complex64": torch.float32, "complex128": torch.float64}[name]
    tensor = torch.view_as_complex(torch.randn(200, 2).to(part))
    stats = files.one(tensor.t() if tensor.dim() > 1 else tensor)
    assert stats.note == "absolute values"
    wide = tensor.to(torch.complex128)
    check(stats, torch.hypot(wide.real, wide.imag))


@settings(max_examples=200)
@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=40),
    name=st.sampled_from(["float32", "float64", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fnuz"]),
)
def test_any_floats_with_nan_and_inf(
    values: list[float], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensor = torch.tensor(values).to(getattr(torch, name))
    check(Files(tmp_path_factory.getbasetemp()).one(tensor), tensor.double())


def test_values_that_float64_sums_badly(files: Files) -> None:
    offset = 1e9 + torch.randn(600_000, dtype=torch.float64)
    check(files.one(offset), offset)
    rising = torch.arange(600_000, dtype=torch.float32)
    check(files.one(rising), rising.double())
    extreme = files.one(torch.tensor([-1.7e308, 1.7e308, 0.0], dtype=torch.float64))
    assert (extreme.minimum, extreme.maximum, extreme.mean) == (-1.7e308, 1.7e308, 0.0)
    assert extreme.histogram[0] == extreme.histogram[-1] == 1 and sum(extreme.histogram) == 3
    tiny = files.one(torch.tensor([0.0, 5e-324], dtype=torch.float64))
    assert sum(tiny.histogram) == 2


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float64"])
def test_nonfinite_values_between_many_finite_ones(files: Files, name: str) -> None:
    tensor = torch.randn(700_000, generator=torch.Generator().manual_seed(3)).to(getattr(torch, name))
    tensor[5::1001] = math.nan
    tensor[7::2003] = math.inf
    tensor[300_000:600_000] = -math.inf
    tensor[11::97] = -0.0
    stats = files.one(tensor)
    check(stats, tensor.double())
    assert stats.inf == stats.posinf + stats.neginf > 290_000


@pytest.mark.parametrize("name", ["float32", "float16", "float8_e4m3fn"])
def test_histogram_is_exact_up_to_the_sample(files: Files, name: str) -> None:
    tensor = torch.randn(SAMPLE_NUMEL - 1, generator=torch.Generator().manual_seed(4)).to(
        getattr(torch, name)
    )
    check_histogram(files.one(tensor), tensor.double())


def test_histogram_of_a_large_tensor_is_a_fair_sample(files: Files) -> None:
    # Each column of a matrix with its own distribution: an even step of a power of two would see one.
    tensor = torch.randn(2048, 1024, generator=torch.Generator().manual_seed(5)) + torch.arange(1024) / 100
    stats = files.one(tensor)
    assert SAMPLE_NUMEL * 0.8 < stats.histogram_numel <= SAMPLE_NUMEL
    assert isinstance(stats.minimum, float) and isinstance(stats.maximum, float)
    exact = torch.histc(tensor.double(), BINS, stats.minimum, stats.maximum) / tensor.numel()
    assert (torch.tensor(stats.histogram) / stats.histogram_numel - exact).abs().max() < 0.01


def test_packed_and_quantized(files: Files) -> None:
    raw = torch.randint(0, 256, (1001,), dtype=torch.uint8)
    nibbles = torch.stack([raw & 15, raw >> 4], dim=1).flatten()
    table = torch.tensor(number_table(BY_NAME["float4_e2m1fn_x2"]), dtype=torch.float64)
    check(files.one(raw, "float4_e2m1fn_x2"), table[nibbles.long()])

    info = files.info(raw, "quint4x2")._replace(shape=(2001,))  # the last nibble is padding
    (stats,) = files.stats(info)
    check(stats, nibbles[:2001].double(), integers=nibbles[:2001])
    assert stats.note == "the stored integers"
    check(files.one(raw, "qint8"), raw.view(torch.int8).double(), integers=raw.view(torch.int8))
    wide = torch.tensor([-(2**31), 2**31 - 1, 0], dtype=torch.int32)
    check(files.one(wide, "qint32"), wide.double(), integers=wide)

    info = files.info(raw[:999], "float6_e3m2fn")._replace(shape=(1331,))  # 7986 of 7992 bits
    (stats,) = files.stats(info)
    word = int.from_bytes(bytes(raw[:999].tolist()), "little")
    table = torch.tensor(number_table(BY_NAME["float6_e3m2fn"]), dtype=torch.float64)
    check(stats, table[[word >> (6 * i) & 63 for i in range(1331)]])


def test_views_count_each_stored_value_once(files: Files) -> None:
    base = torch.randn(40, 30)
    check(files.one(base.t()[3:7]), base.t()[3:7].double())
    check(files.one(base[:, :1].expand(40, 10**12)), base[:, :1].double())
    check(files.one(base.flatten().unfold(0, 5, 1)), base.double())


def test_tied_tensors_are_read_once(files: Files) -> None:
    info = files.info(torch.randn(10, 10))
    transposed = info._replace(stride=(1, 10))
    part = info._replace(shape=(5, 10))
    first, second, third, fourth = files.stats(info, info, transposed, part)
    assert first.tied_to is None and fourth.tied_to is None
    assert second.tied_to is first.entry and third.tied_to is first.entry
    assert second.entry.name == "t1" and second[2:-1] == first[2:-1] == third[2:-1]


def test_what_has_no_values_says_so(files: Files) -> None:
    empty = files.info(torch.empty(0, 3))
    meta = empty._replace(storage=None, shape=(2, 3), stride=(3, 1))
    strided = files.info(torch.zeros(4, dtype=torch.uint8), "quint4x2")._replace(shape=(2,), stride=(3,))
    results = files.stats(empty, meta, strided, None)
    assert [stats.numel for stats in results] == [0, 0, 0]
    assert not results[0].note
    assert "meta device" in results[1].note
    assert "not packed" in results[2].note
    assert not any(stats.all_zero or stats.constant for stats in results)


def test_parts_of_composite_tensors_are_named(files: Files) -> None:
    inner = CompositeTensor("subclass", "b.B", None, None, (Part("x", files.info(torch.ones(3))),))
    outer = CompositeTensor(
        "subclass",
        "a.A",
        None,
        None,
        (Part("_local_tensor", inner), Part("scale", files.info(torch.ones(1)))),
    )
    assert [(s.part, s.numel) for s in files.stats(outer)] == [("_local_tensor.x", 3), ("scale", 1)]


def test_a_damaged_file_is_an_error_not_a_number(files: Files) -> None:
    info = files.info(torch.ones(3))
    with pytest.raises(MalformedCheckpoint):
        files.stats(info._replace(shape=(4,)))


def test_flags(files: Files) -> None:
    assert files.one(torch.full((9,), 0.1)).constant
    assert files.one(torch.full((9,), 0.1)).std == 0
    assert not files.one(torch.tensor([1.0])).constant
    assert not files.one(torch.tensor([1.0, 1.0, math.nan])).constant
    zeros = files.one(torch.tensor([0.0, -0.0]))
    assert zeros.all_zero and zeros.zero == zeros.numel == 2
    mask = files.one(torch.full((7, 7), -math.inf).triu(1))
    assert mask.is_mask and "attention mask" in mask.note
    assert not files.one(torch.full((7,), -math.inf) + torch.tensor([0.0] * 6 + [math.nan])).is_mask


def test_findings_for_fail_on(files: Files) -> None:
    def severities(tensor: torch.Tensor, *fail_on: str) -> dict[str, str]:
        return {f.code: f.severity for f in iter_value_findings(files.one(tensor), fail_on)}

    bad = torch.tensor([math.nan, math.inf, 1.0])
    assert severities(bad) == {"value_nan": "warning", "value_inf": "warning"}
    assert severities(bad, "nan") == {"value_nan": "error", "value_inf": "warning"}
    assert severities(bad, "inf", "nan") == {"value_nan": "error", "value_inf": "error"}
    assert severities(torch.zeros(3)) == {"value_zero": "info"}
    assert severities(torch.zeros(3), "zero") == {"value_zero": "error"}
    assert severities(torch.ones(3), "nan", "inf", "zero") == {}
    assert severities(torch.full((3, 3), -math.inf).triu(1), "inf") == {"value_mask": "info"}
    assert severities(torch.tensor([-math.inf, 0.0, 1.0]), "inf") == {"value_inf": "error"}
    (finding,) = iter_value_findings(files.one(torch.zeros(1200)), ())
    assert (finding.name, finding.message) == ("t0", "all 1,200 values are zero")


@pytest.mark.parametrize("name", [n for n in BY_NAME if parse_small_float(n)])
def test_small_floats_rise_with_their_pattern(name: str) -> None:
    """Holds for every format with a sign, whatever it does with the last patterns."""
    layout = parse_small_float(name)
    assert layout is not None and layout.bits == number_bits(BY_NAME[name])
    half = 1 << (layout.bits - 1) if layout.suffix != "fnu" else 256
    values = [value for value in number_table(BY_NAME[name])[:half] if value == value]
    assert values == sorted(set(values))
    # Largest finite values as the OCP specifications give them.
    largest = {"e2m1": 6.0, "e2m3": 7.5, "e3m2": 28.0, "e4m3": 448.0, "e5m2": 57344.0, "e8m0": 2.0**127}
    expected = 240.0 if name == "float8_e4m3fnuz" else largest[name.split("_")[1][:4]]
    assert max(v for v in values if not math.isinf(v)) == expected


def test_a_saved_checkpoint_from_end_to_end(tmp_path: Path) -> None:
    tensors = {
        "weight": torch.randn(64, 32).t(),
        "half": torch.randn(300).half(),
        "eight": torch.randn(300).to(torch.float8_e5m2),
        "steps": torch.tensor(7),
        "mask": torch.full((5, 5), -math.inf).triu(1),
    }
    torch.save(tensors | {"tied": tensors["weight"]}, tmp_path / "m.pt")
    checkpoint = read_checkpoint(str(tmp_path / "m.pt"))
    with TensorReader(checkpoint.files) as reader:
        results = {str(stats.entry.name): stats for stats in iter_stats(checkpoint.entries, reader)}
    tied = results.pop("tied")
    assert tied.tied_to is not None and tied.tied_to.name == "weight"
    assert results.keys() == tensors.keys()
    for name, stats in results.items():
        whole = tensors[name] if tensors[name].dtype == torch.int64 else None
        check(stats, tensors[name].double(), integers=whole)
    assert results["mask"].is_mask
