"""One file per finding, written by torch, and a clean one that has none."""

from __future__ import annotations

import collections
import fractions
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Finding,
    GlobalRef,
    Kind,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME

ROOT = Path(__file__).parents[2]


def findings(tmp_path: Path, value: object) -> dict[str, Finding]:
    path = tmp_path / "x.pt"
    torch.save(value, path)
    found = inspect_checkpoint(read_checkpoint(str(path))).findings
    assert len({f.code for f in found}) == len(found), "one sentence per cause"
    for finding in found:
        assert finding.severity in ("error", "warning", "info")
        assert "\n" not in finding.message
        assert not finding.message.endswith(".")
        assert len(finding.message) < 600
    return {finding.code: finding for finding in found}


def by_hand(checkpoint: Checkpoint) -> dict[str, Finding]:
    return {finding.code: finding for finding in inspect_checkpoint(checkpoint).findings}


def entry(name: str, location: str = "cpu", big_endian: bool = False, basis: Basis = Basis.NONE) -> Entry:
    storage = StorageRef("f", name, 0, 8, location, big_endian)
    tensor = TensorInfo(BY_NAME["float32"], (2,), (1,), 0, storage)
    return Entry((), name, tensor, None, Classification(Kind.PARAMETER, basis))


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_a_plain_state_dict_has_none(tmp_path: Path) -> None:
    assert findings(tmp_path, cnn().state_dict()) == {}
    assert findings(tmp_path, {"state_dict": cnn().state_dict(), "epoch": 3, "loss": 0.1}) == {}


def test_a_storage_larger_than_its_tensors(tmp_path: Path) -> None:
    found = findings(tmp_path, {"a.weight": torch.zeros(1000, 1000)[:10], "b.weight": torch.zeros(3)})
    assert list(found) == ["storage-bloat"]
    finding = found["storage-bloat"]
    assert (finding.severity, finding.name) == ("warning", "a.weight")
    assert finding.message.startswith("3,960,000 of 4,000,012 bytes in 1 storage belong to no tensor")
    # A few bytes are no finding.
    assert findings(tmp_path, {"a.weight": torch.zeros(1000)[:995]}) == {}


def test_shared_bytes(tmp_path: Path) -> None:
    weight = torch.zeros(4, 4)
    found = findings(
        tmp_path, {"a.weight": weight, "b.weight": weight, "c.weight": weight[:2], "d.weight": weight}
    )
    assert list(found) == ["tied", "overlapping-views"]
    assert "2 entries" in found["tied"].message
    assert "b.weight = a.weight, d.weight = a.weight" in found["tied"].message
    assert "a.weight and c.weight" in found["overlapping-views"].message


def test_layouts(tmp_path: Path) -> None:
    z = torch.zeros(3, dtype=torch.complex64)
    found = findings(tmp_path, {"a.weight": torch.zeros(2, 3).t(), "b": z.conj()})
    assert list(found) == ["non-contiguous", "conj-neg-bit"]
    assert found["non-contiguous"].name == "a.weight"
    swapped = by_hand(Checkpoint("f", "", "", (), (entry("a.weight", big_endian=True),)))
    assert list(swapped) == ["big-endian"]


def test_wrapper_prefixes(tmp_path: Path) -> None:
    found = findings(tmp_path, torch.compile(nn.DataParallel(cnn())).state_dict())
    assert list(found) == ["wrapper-prefix"]
    message = found["wrapper-prefix"].message
    assert message.startswith("_orig_mod.module. (torch.compile around DataParallel or Distrib")
    assert "is in front of 7 of 7 names" in message
    # What the sentence says to type does what it says.
    sd = torch.compile(nn.DataParallel(cnn())).state_dict()
    command = message.split("`")[1]
    exec(command, {"torch": torch, "sd": sd})
    cnn().load_state_dict(sd)


def test_no_weights_in_the_file(tmp_path: Path) -> None:
    shapes = {f"l.{i}.weight": torch.zeros(0) for i in range(5)}
    found = findings(tmp_path, {"module": {**shapes, "norm.weight": torch.zeros(3)}})
    assert list(found) == ["zero3-placeholders"]
    assert found["zero3-placeholders"].severity == "error"
    assert "5 entries" in found["zero3-placeholders"].message
    assert findings(tmp_path, {"a.weight": torch.zeros(3), "b.weight": torch.zeros(0)}) == {}
    with torch.device("meta"):
        meta = cnn().state_dict()
    assert [code for code, f in findings(tmp_path, meta).items() if f.severity == "error"] == ["meta-tensors"]


@pytest.mark.filterwarnings("ignore")
def test_lazy_parameters(tmp_path: Path) -> None:
    found = findings(tmp_path, nn.LazyLinear(3).state_dict())
    assert "uninitialized" in found
    assert "2 entries (weight, bias)" in found["uninitialized"].message


def test_batch_norms_that_lack_something(tmp_path: Path) -> None:
    bare = nn.Sequential(collections.OrderedDict(bn1=nn.BatchNorm2d(4, track_running_stats=False)))
    assert list(findings(tmp_path, bare.state_dict())) == ["batch-norm-no-statistics"]
    instance = nn.Sequential(collections.OrderedDict(norm=nn.InstanceNorm2d(4, affine=True)))
    assert findings(tmp_path, instance.state_dict()) == {}
    state = cnn().state_dict()
    del state["1.num_batches_tracked"]
    found = findings(tmp_path, state)
    assert list(found) == ["batch-norm-no-counter"]
    assert found["batch-norm-no-counter"].name == "1.running_mean"
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        cnn().load_state_dict(state)  # what the sentence warns of
    state._metadata["1"]["version"] = 1  # type: ignore[attr-defined]
    assert findings(tmp_path, state) == {}
    cnn().load_state_dict(state)


def test_dtypes_and_kinds(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    found = findings(tmp_path, model.state_dict())
    assert list(found) == ["mixed-dtypes"]
    assert "2 float32, 2 float16" in found["mixed-dtypes"].message
    # A buffer of another dtype is as it should be.
    assert findings(tmp_path, cnn().half().state_dict()) == {}


@pytest.mark.filterwarnings("ignore")
def test_non_persistent_buffers_in_a_pickled_module(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    module.register_buffer("mask", torch.ones(2), persistent=False)
    found = findings(tmp_path, module)
    assert list(found) == ["weights-only-refuses", "non-persistent-present"]
    assert found["non-persistent-present"].message.startswith("1 entry (mask) is non-persistent")


class Extra(nn.Linear):
    def get_extra_state(self) -> object:
        return fractions.Fraction(1, 3)


def test_extra_state(tmp_path: Path) -> None:
    found = findings(tmp_path, Extra(2, 2).state_dict())
    assert list(found) == ["weights-only-refuses", "extra-state-object"]
    assert "_extra_state (fractions.Fraction)" in found["extra-state-object"].message


def test_parametrized_weights(tmp_path: Path) -> None:
    found = findings(tmp_path, spectral_norm(nn.Linear(2, 2)).state_dict())
    assert list(found) == ["parametrized"]
    assert found["parametrized"].name == "parametrizations.weight.original"
    found = findings(tmp_path, weight_norm(nn.Linear(2, 2)).state_dict())
    assert list(found) == ["weight-norm"]
    assert found["weight-norm"].name == "parametrizations.weight.original0"


def test_packed_weights(tmp_path: Path) -> None:
    packed = {"l.qweight": torch.zeros(2, 2, dtype=torch.int32), "l.scales": torch.zeros(2)}
    found = findings(tmp_path, packed)
    assert list(found) == ["packed-weights"]
    assert "1 entry (l.qweight)" in found["packed-weights"].message


def test_hostile_names_and_sizes_give_few_and_short_sentences() -> None:
    names = [f"{'module.' * i}w" for i in range(1, 300)]
    entries = [entry(name) for name in names]
    assert len(inspect_checkpoint(Checkpoint("f", "", "", (), tuple(entries))).findings) <= 3
    huge = 10**1200
    info = TensorInfo(BY_NAME["float32"], (huge,) * 5, (0,) * 5, 0, StorageRef("f", "0", 0, 4, "cpu"))
    state = Classification(Kind.OPTIMIZER_STATE, Basis.OPTIMIZER)
    both = (
        Entry(("optimizer",), "exp_avg", info, None, state),
        Entry(("model",), "a.weight", info._replace(shape=(1,), stride=(1,))),
    )
    found = by_hand(Checkpoint("f", "", "", (), both))
    assert "optimizer-outweighs" in found
    assert all(len(f.message) < 600 for f in found.values())


def test_devices() -> None:
    found = by_hand(Checkpoint("f", "", "", (), (entry("a.weight", "cuda:5"), entry("b.weight"))))
    assert list(found) == ["device-tags"]
    assert "1 storage was saved on cuda:5; without that device" in found["device-tags"].message
    assert by_hand(Checkpoint("f", "", "", (), (entry("a.weight"),))) == {}


def test_an_optimizer_larger_than_the_weights(tmp_path: Path) -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    found = findings(tmp_path, {"model": model.state_dict(), "optim": optimizer.state_dict()})
    assert list(found) == ["optimizer-outweighs"]


def test_values_that_are_not_numbers(tmp_path: Path) -> None:
    found = findings(tmp_path, {"model": cnn().state_dict(), "best": {"loss": float("nan")}})
    assert list(found) == ["nan-value"]
    assert "best.loss is nan" in found["nan-value"].message
    assert findings(tmp_path, {"model": cnn().state_dict(), "best": float("inf")}) == {}


def test_globals_that_are_refused_or_run_code() -> None:
    def found(*refs: tuple[str, str]) -> dict[str, Finding]:
        globals_ = tuple(GlobalRef(module, name, True) for module, name in refs)
        return by_hand(Checkpoint("f", "", "", (), (entry("a.weight"),), globals=globals_))

    assert found(("torch._utils", "_rebuild_tensor_v2")) == {}
    assert list(found(("omegaconf", "DictConfig"))) == ["weights-only-refuses"]
    hostile = found(("posix", "system"))
    assert {code: f.severity for code, f in hostile.items()} == {
        "dangerous-globals": "error",
        "weights-only-refuses": "warning",
    }
    assert "posix.system (starts programs)" in hostile["dangerous-globals"].message


def test_archives_of_other_loaders() -> None:
    script = Checkpoint("f", "", "", (), (entry("a.weight", basis=Basis.TORCHSCRIPT),))
    assert list(by_hand(script)) == ["torchscript"]
    export = Checkpoint("f", "", "", (), (entry("a.weight", basis=Basis.EXPORT),))
    assert list(by_hand(export)) == ["exported-program"]


def test_what_the_reader_found_comes_first() -> None:
    own = Finding("x", "warning", "", "what the reader said")
    checkpoint = Checkpoint("f", "", "", (), (entry("a.weight", "cuda"),), findings=(own,))
    assert [f.code for f in inspect_checkpoint(checkpoint).findings] == ["x", "device-tags"]


def test_a_long_name_is_cut_in_the_sentence_and_whole_in_the_field() -> None:
    name = "a" * 10_000 + ".weight"
    first = entry(name)
    meta = first._replace(value=TensorInfo(BY_NAME["float32"], (2,), (1,), 0, None))
    found = by_hand(Checkpoint("f", "", "", (), (meta,)))["meta-tensors"]
    assert found.name == name
    assert len(found.message) < 300


def test_every_code_is_documented_and_every_documented_code_is_in_use() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ckpttool").rglob("*.py"))
    pages = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("findings.md", "diff.md"))
    codes = set(re.findall(r'(?:Finding|about)\(\s*"([a-z0-9_-]+)"', source))
    assert len(codes) >= 40
    documented = set(re.findall(r"^\| `([a-z0-9_-]+)` \| (?:error|warning|info)", pages, re.MULTILINE))
    assert codes <= documented
    values = {f"value_{what}" for what in ("nan", "inf", "zero")}  # put together in stats
    assert [code for code in sorted(documented - values) if f'"{code}"' not in source] == []
