"""``verify``: hooks that take part in loading, and the files and models that can be loaded."""

from __future__ import annotations

import copy
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.verify.verify import LOADS
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, ModelImportFailed
from sample_models.same_bytes import save_legacy
from tests.support.verified_models import Plain, Tied, on_devices
from tests.support.verifying import check, check_file, complaints, names, the_run

# --------------------------------------------------------------------------------------------------- 6. hooks


@on_devices
def test_old_weight_norm_loads_through_torchs_own_hook(device: str, tmp_path: Path) -> None:
    state = torch.nn.utils.weight_norm(nn.Linear(3, 2)).state_dict()
    assert {"weight_g", "weight_v"} <= set(state)
    build = lambda: parametrizations.weight_norm(nn.Linear(3, 2))  # noqa: E731
    result = check(state, build, tmp_path, device=device, load="copy")
    run = the_run(result)
    assert (run.ok, complaints(run)) == (True, {})
    assert set(run.hooked) == {"parametrizations.weight.original0", "parametrizations.weight.original1"}
    assert (run.matched, run.total) == (3, 3)


@pytest.mark.parametrize("with_metadata", [True, False])
def test_batch_norm_without_num_batches_tracked(with_metadata: bool, tmp_path: Path) -> None:
    state = nn.Sequential(nn.BatchNorm1d(3)).state_dict()
    del state["0.num_batches_tracked"]
    given = state if with_metadata else OrderedDict(state.items())
    result = check(given, lambda: nn.Sequential(nn.BatchNorm1d(3)), tmp_path)
    run = the_run(result)
    assert result.ok is not with_metadata
    if with_metadata:  # version 2 of the module must have it: torch says that it is missing
        assert names(run.missing) == ["0.num_batches_tracked"]
        return
    assert (run.kept, complaints(run)) == (("0.num_batches_tracked",), {})
    # After to_empty it is what the memory held, and strict loading is content all the same.
    assert the_run(result, "to-empty").unfilled == ("0.num_batches_tracked",)


def test_assigning_does_not_leak_into_the_next_load(tmp_path: Path) -> None:
    # torch writes assign=True into the _metadata that it is given, so that a second load assigns too.
    result = check(Plain().state_dict(), Plain, tmp_path, load="copy,assign,to-empty")
    again = check(Plain().state_dict(), Plain, tmp_path, load="copy")
    assert the_run(again).ok
    assert [run.load for run in result.runs] == ["copy", "assign", "to-empty"]
    assert names(the_run(result, "to-empty").not_restored) == ["table"]


class Counting(nn.Module):
    """Keeps plain Python state, also a list and a tuple, beside its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.state: Any = None

    def get_extra_state(self) -> Any:
        return {"steps": 3, "words": ["a", "b"], "sizes": (1, 2), "mean": torch.ones(2), "deep": {"x": [0.5]}}

    def set_extra_state(self, state: Any) -> None:
        self.state = state
        assert state["words"] == ["a", "b"]
        assert state["sizes"] == (1, 2)
        assert state["deep"] == {"x": [0.5]}
        assert torch.equal(state["mean"], torch.ones(2))


def test_extra_state_reaches_the_model_as_it_was_saved(tmp_path: Path) -> None:
    result = check(Counting().state_dict(), Counting, tmp_path)
    assert (the_run(result).ok, complaints(the_run(result))) == (True, {})
    assert "_extra_state" in the_run(result, "round-trip").note


def test_extra_state_that_only_running_the_file_could_build_is_not_held_against_it(tmp_path: Path) -> None:
    class Opaque(Counting):
        def get_extra_state(self) -> Any:
            return copy.copy(zipfile.ZipInfo("x"))

        def set_extra_state(self, state: Any) -> None:
            raise AssertionError

    result = check(Opaque().state_dict(), Opaque, tmp_path, load="copy")
    assert result.ok
    assert any("ZipInfo" in note for note in result.notes)


# ---------------------------------------------------------------------------------------------------- sources


def _deflate(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item), zipfile.ZIP_DEFLATED)


@on_devices
@pytest.mark.parametrize(
    "container", ["zip", "legacy", "deflate", "safetensors", "whole", "training", "shards"]
)
def test_every_container_loads(container: str, device: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].weight.data = torch.rand(3, 2).t()
    state, path, root = model.state_dict(), tmp_path / "file.pt", ()
    build = lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))  # noqa: E731
    if container == "safetensors":
        path = tmp_path / "file.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    elif container == "shards":
        path = tmp_path
        parts = {"a.safetensors": list(state)[:3], "b.safetensors": list(state)[3:]}
        for file, keys in parts.items():
            save_file({key: state[key].contiguous() for key in keys}, tmp_path / file)
        weight_map = {key: file for file, keys in parts.items() for key in keys}
        (tmp_path / "model.safetensors.index.json").write_text(
            __import__("json").dumps({"metadata": {}, "weight_map": weight_map})
        )
    elif container == "deflate":
        torch.save(state, tmp_path / "plain.pt")
        _deflate(tmp_path / "plain.pt", path)
    elif container == "whole":
        torch.save(model, path)
    elif container == "training":
        torch.save({"epoch": 3, "model": {"state_dict": state}, "lr": 0.1}, path)
        root = ("model", "state_dict")
    else:
        save = torch.save if container == "zip" else save_legacy
        save(state, path)
    result = check_file(path, build, device=device, root=root, load=",".join(LOADS))
    assert result.ok, [complaints(run) for run in result.runs]
    assert all((run.matched, run.total) == (7, 7) for run in result.runs)


def test_ties_of_a_compressed_file_stay_ties(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "plain.pt")
    _deflate(tmp_path / "plain.pt", tmp_path / "small.pt")
    assert the_run(check_file(tmp_path / "small.pt", Tied), "assign").ok


def test_a_file_that_changed_since_its_header_is_not_mapped(tmp_path: Path) -> None:
    from ckpttool.torch_bridge.tensors import FileTensors

    path = tmp_path / "state.pt"
    torch.save({"x": torch.rand(4)}, path)
    checkpoint = read_checkpoint(str(path))
    with path.open("r+b") as file:
        file.truncate(64)
    with pytest.raises(MalformedCheckpoint, match="changed"):
        FileTensors(checkpoint).tensor(checkpoint.entries[0])


def test_an_uninitialised_tensor_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(CkptToolError, match="uninitialised tensor of a lazy module"):
        check(nn.LazyLinear(2).state_dict(), lambda: nn.Linear(2, 2), tmp_path)


def test_a_lazy_model_takes_its_shapes_from_the_file(tmp_path: Path) -> None:
    result = check(nn.Linear(3, 2).state_dict(), lambda: nn.LazyLinear(2), tmp_path, load="copy")
    assert (result.ok, complaints(the_run(result))) == (True, {})


def test_a_constructor_that_needs_values_is_built_on_the_cpu_and_said(tmp_path: Path) -> None:
    class Needy(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.norm = float(self.weight.detach().abs().sum().item())

    result = check(nn.Linear(2, 2).state_dict(), Needy, tmp_path)
    assert result.ok
    assert any("does not run on meta" in note for note in result.notes)
    assert [run.ok for run in result.runs] == [True, None, None, True]


def test_a_constructor_that_fails_is_an_error(tmp_path: Path) -> None:
    def build() -> nn.Module:
        raise ValueError("no configuration")

    with pytest.raises(ModelImportFailed, match="no configuration"):
        check(nn.Linear(2, 2).state_dict(), build, tmp_path)


def test_no_room_for_the_round_trip_is_said_and_decides_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckpttool.torch_bridge.verify import loading

    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda _folder: usage)
    result = check(Plain().state_dict(), Plain, tmp_path)
    assert result.ok
    assert the_run(result, "round-trip").ok is None
    assert "bytes free" in the_run(result, "round-trip").note
    assert not check(Plain().state_dict(), Plain, tmp_path, load="round-trip").ok


class Untransforms(nn.Module):
    """Reads its own state before it loads, as botorch's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("trained", torch.tensor(True))

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        if not self.trained or self.fc.weight.isnan().any():
            raise RuntimeError("call it on data first")
        return super().load_state_dict(*arguments, **options)


class Forgets(Untransforms):
    def load_state_dict(self, state: Any, *arguments: Any, **options: Any) -> Any:
        return super().load_state_dict({**state, "fc.bias": torch.zeros(2)}, *arguments, **options)


def test_loading_code_that_reads_what_the_model_holds_is_not_given_poison(tmp_path: Path) -> None:
    state = nn.Module.state_dict(Untransforms())
    result = check(state, Untransforms, tmp_path)
    run = the_run(result)
    assert run.ok and not complaints(run)
    assert run.note.startswith("loaded into a build without poison")
    assert the_run(result, "round-trip").ok
    wrong = the_run(check({**state, "fc.bias": torch.ones(2)}, Forgets, tmp_path))
    assert names(wrong.wrong) == ["fc.bias"]


def test_a_load_that_raises_without_poison_too_is_wrong(tmp_path: Path) -> None:
    class Never(Untransforms):
        def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
            raise RuntimeError("never")

    run = the_run(check(nn.Module.state_dict(Never()), Never, tmp_path, load="copy"))
    assert run.errors == ("never",)
    assert not run.ok
    assert not run.note
