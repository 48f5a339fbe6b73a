"""`inspect M`, and `inspect CKPT --model M`: exact kinds, what is missing, what is not the model's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sample_models
from ckpttool import cli
from ckpttool.findings.model import STALE
from ckpttool.formats import read_checkpoint
from ckpttool.inspection.apply_model import AS_DESIGNED, NOT_IN_MODEL, apply_model
from ckpttool.inspection.inspect import inspect_checkpoint, inspect_model
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.values.checkpoint import Basis, Kind, Presence
from ckpttool.values.inspection import Inspection, Row


class Net(nn.Module):
    """Two layers, a persistent counter, and a mask that no state_dict holds."""

    def __init__(self, *, tied: bool = False, count_dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.head = nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("count", torch.zeros((), dtype=count_dtype))
        self.register_buffer("mask", torch.ones(4, 4), persistent=False)


def inspected(stored: Any, model: nn.Module, tmp_path: Path, **options: Any) -> Inspection:
    path = tmp_path / "file.pt"
    torch.save(stored, path)
    return inspect_checkpoint(read_checkpoint(str(path)), model=describe_model(model, "net:Net"), **options)


def rows(inspection: Inspection) -> dict[str, Row]:
    return {str(row.entry.name): row for row in (*inspection.rows, *inspection.missing)}


def codes(inspection: Inspection, *, worst: str = "warning") -> dict[str, str]:
    """Findings about the model, by code, with their severity."""
    wanted = ("error", "warning")[: 1 if worst == "error" else 2]
    return {found.code: found.severity for found in inspection.findings if found.severity in wanted}


def message(inspection: Inspection, code: str) -> str:
    return next(found.message for found in inspection.findings if found.code == code)


# ---------------------------------------- a file that is right


@pytest.mark.parametrize("name", [name for name in sample_models.NAMES if name != "lazy_shapes"])
@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_every_sample_model_meets_its_own_file(name: str, container: str, tmp_path: Path) -> None:
    model = sample_models.load(name).build()
    state = model.state_dict()
    path = tmp_path / f"file.{container}"
    if container == "pt":
        torch.save(state, path)
    elif not all(isinstance(value, torch.Tensor) for value in state.values()):
        pytest.skip("safetensors cannot hold its extra state")
    else:
        save_file({key: value.clone().contiguous() for key, value in state.items()}, path)
    found = inspect_checkpoint(read_checkpoint(str(path)), model=describe_model(model, name))
    assert {row.classification.presence for row in found.rows} <= {Presence.PRESENT}
    assert {row.classification.basis for row in found.rows} <= {Basis.MODULE}
    tensors = {key for key, value in state.items() if isinstance(value, torch.Tensor)}
    assert {row.entry.name for row in found.rows} == tensors
    transient = [key for key, _ in model.named_buffers(remove_duplicate=False) if key not in state]
    assert [(row.entry.name, row.classification.note) for row in found.missing] == [
        (key, AS_DESIGNED) for key in transient
    ]
    assert not {"missing-entry", "unexpected-entry", "stale-buffer", "shape-differs", "dtype-differs"} & {
        finding.code for finding in found.findings
    }
    assert found.model is not None and found.model.matched == found.model.names


# ---------------------------------------- what is not right


def test_a_missing_parameter_is_an_error_and_a_missing_mask_is_not(tmp_path: Path) -> None:
    state = Net().state_dict()
    del state["blocks.1.weight"], state["count"]
    found = inspected(state, Net(), tmp_path)
    missing = {str(row.entry.name): row.classification for row in found.missing}
    assert {name: (said.kind, said.presence, said.exact) for name, said in missing.items()} == {
        "blocks.1.weight": (Kind.PARAMETER, Presence.MISSING, True),
        "count": (Kind.PERSISTENT_BUFFER, Presence.MISSING, True),
        "mask": (Kind.NON_PERSISTENT_BUFFER, Presence.MISSING, True),
    }
    assert codes(found) == {"missing-entry": "error"}
    sentences = [each.message for each in found.findings if each.code == "missing-entry"]
    assert [sentence.partition(" is not in the file")[0] for sentence in sentences] == [
        "1 persistent buffer of the model (count)",
        "1 parameter of the model (blocks.1.weight)",
    ]
    value = rows(found)["mask"].entry.tensor
    assert value is not None and (value.shape, value.storage) == ((4, 4), None)


def test_a_non_persistent_buffer_in_a_state_dict_is_stale(tmp_path: Path) -> None:
    found = inspected({**Net().state_dict(), "mask": torch.ones(4, 4)}, Net(), tmp_path)
    said = rows(found)["mask"].classification
    assert (said.kind, said.basis, said.presence, said.note) == (
        Kind.NON_PERSISTENT_BUFFER,
        Basis.MODULE,
        Presence.UNEXPECTED,
        STALE,
    )
    assert codes(found) == {"stale-buffer": "warning"}
    assert "stale: in the file, but this version of the model does not save such" in message(
        found, "stale-buffer"
    )
    assert not any(finding.code == "non-persistent-present" for finding in found.findings)


def test_what_the_model_does_not_know_is_unexpected_and_its_kind_stays_inferred(tmp_path: Path) -> None:
    state = {**Net().state_dict(), "norm.running_mean": torch.ones(2)}
    said = rows(inspected(state, Net(), tmp_path))["norm.running_mean"].classification
    assert (said.kind, said.presence, said.exact, said.note) == (
        Kind.PERSISTENT_BUFFER,
        Presence.UNEXPECTED,
        False,
        NOT_IN_MODEL,
    )


@pytest.mark.parametrize(
    ("stored", "severity"),
    [(torch.ones(3, 4), "error"), (torch.ones(4), "error"), (torch.ones(4, 4), None)],
)
def test_another_shape_cannot_be_loaded(stored: torch.Tensor, severity: str | None, tmp_path: Path) -> None:
    state = {**Net().state_dict(), "blocks.0.weight": stored}
    found = inspected(state, Net(), tmp_path)
    assert codes(found).get("shape-differs") == severity
    try:
        Net().load_state_dict(state)
    except RuntimeError:
        assert severity == "error"
    else:
        assert severity is None


def test_a_vector_for_a_scalar_loads_its_first_value_as_torch_does(tmp_path: Path) -> None:
    state = {**Net().state_dict(), "count": torch.tensor([7])}
    assert codes(inspected(state, Net(), tmp_path)) == {"shape-differs": "warning"}
    model = Net()
    model.load_state_dict(state)
    assert model.count.item() == 7


@pytest.mark.parametrize(
    ("stored", "declared", "severity"),
    [
        (torch.float32, torch.int64, "warning"),
        (torch.float32, torch.float16, "warning"),
        (torch.bfloat16, torch.float16, "warning"),
        (torch.int64, torch.float32, "warning"),
        (torch.float16, torch.float32, "info"),
        (torch.int32, torch.int64, "info"),
        (torch.int64, torch.int64, None),
    ],
)
def test_a_cast_that_may_lose_values_is_a_warning(
    stored: torch.dtype, declared: torch.dtype, severity: str | None, tmp_path: Path
) -> None:
    state = {**Net().state_dict(), "count": torch.zeros((), dtype=stored)}
    found = inspected(state, Net(count_dtype=declared), tmp_path)
    severities = [each.severity for each in found.findings if each.code == "dtype-differs"]
    assert severities == ([] if severity is None else [severity])


def test_a_missing_name_of_a_tied_parameter_is_a_warning(tmp_path: Path) -> None:
    state = Net(tied=True).state_dict()
    del state["head.weight"]
    found = inspected(state, Net(tied=True), tmp_path)
    assert rows(found)["head.weight"].classification.note == "tied to embed.weight, which is in the file"
    assert codes(found) == {"missing-tied": "warning"}
    del state["embed.weight"]
    assert codes(inspected(state, Net(tied=True), tmp_path))["missing-entry"] == "error"


class Renames(nn.Linear):
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if f"{prefix}old" in state_dict:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}old")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_a_module_that_loads_by_its_own_code_gives_no_false_alarm(tmp_path: Path) -> None:
    model = nn.Sequential(Renames(2, 2))
    state = {"0.old": torch.ones(2, 2), "0.bias": torch.ones(2)}
    assert model.load_state_dict(dict(state))
    assert codes(inspected(state, model, tmp_path), worst="error") == {}
    assert "the module loads by code of its own" in message(
        inspected(state, model, tmp_path), "missing-entry"
    )


def test_extra_state_that_is_no_tensor_counts_as_there(tmp_path: Path) -> None:
    model = sample_models.load("extra_state").build()
    state = model.state_dict()
    extra = [key for key in state if key.endswith("_extra_state")]
    assert extra and codes(inspected(state, model, tmp_path)) == {}
    for key in extra:
        del state[key]
    assert codes(inspected(state, model, tmp_path)) == {"missing-entry": "error"}


def test_a_string_that_a_hook_adds_counts_as_there(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model._register_state_dict_hook(lambda module, state, prefix, _: state.update({"format": "v2"}))
    state = model.state_dict()
    assert codes(inspected(state, model, tmp_path)) == {}
    del state["format"]
    assert codes(inspected(state, model, tmp_path)) == {"missing-entry": "warning"}


def test_a_file_of_another_model_is_one_finding_not_hundreds(tmp_path: Path) -> None:
    found = inspected({"a.x": torch.ones(2), "b.y": torch.ones(2)}, Net(), tmp_path)
    assert codes(found) == {"model-names": "error"}
    assert "none of the file's 2 names is" in message(found, "model-names")
    assert {row.classification.presence for row in found.rows} == {Presence.UNEXPECTED}


def test_a_model_without_entries_is_told(tmp_path: Path) -> None:
    assert "model-names" in codes(inspected({"a": torch.ones(2)}, nn.ReLU(), tmp_path))


# ---------------------------------------- names and places


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.module.", "model.", "base_model.model.", "net.encoder."]
)
def test_a_prefix_is_seen_through_and_said(prefix: str, tmp_path: Path) -> None:
    found = inspected({prefix + key: value for key, value in Net().state_dict().items()}, Net(), tmp_path)
    assert {row.classification.basis for row in found.rows} == {Basis.MODULE}
    assert "7 of 7 names match the model's, with " in message(found, "model-names")
    assert [row.entry.name for row in found.missing] == ["mask"]


@pytest.mark.parametrize(
    ("stored", "root"),
    [
        (lambda sd: {"epoch": 1, "state_dict": sd}, ("state_dict",)),
        (lambda sd: {"model": {"weights": sd}, "ema": {"decay": 0.9}}, ("model", "weights")),
        (lambda sd: {"gan": {"x.weight": torch.ones(2)}, "other": sd}, ("other",)),
        (
            lambda sd: {"state_dict": sd, "ema_state_dict": {k: v.clone() for k, v in sd.items()}},
            ("state_dict",),
        ),
    ],
)
def test_the_state_dict_is_found_by_its_names(
    stored: Callable[[Any], Any], root: tuple[str, ...], tmp_path: Path
) -> None:
    found = inspected(stored(Net().state_dict()), Net(), tmp_path)
    assert found.weights_root == root
    exact = [row for row in found.rows if row.classification.basis is Basis.MODULE]
    assert {row.entry.root for row in exact} == {root} and len(exact) == 7


def test_a_named_root_is_taken_though_another_is_as_good(tmp_path: Path) -> None:
    stored = {"state_dict": Net().state_dict(), "ema": Net().state_dict()}
    assert inspected(stored, Net(), tmp_path, root=("ema",)).weights_root == ("ema",)


def test_globs_select_what_is_shown_and_not_what_is_matched(tmp_path: Path) -> None:
    found = inspected(Net().state_dict(), Net(), tmp_path, include=["*mask", "*.weight"], exclude=["head*"])
    assert set(rows(found)) == {"embed.weight", "blocks.0.weight", "blocks.1.weight", "mask"}
    assert codes(found) == {}


# ---------------------------------------- containers that say themselves what is what


def test_a_pickled_module_may_hold_non_persistent_buffers(tmp_path: Path) -> None:
    model = sample_models.load("swin_window_attention").build()
    found = inspected(model, model, tmp_path)
    assert found.missing == () and codes(found).keys() <= {"weights-only-refuses"}
    assert {row.classification.presence for row in found.rows} == {Presence.PRESENT}
    assert found.title == "whole pickled module"


def test_a_kind_that_changed_since_the_module_was_pickled_is_told(tmp_path: Path) -> None:
    old = nn.Linear(2, 2)
    new = nn.Linear(2, 2)
    del new.bias
    new.register_buffer("bias", torch.zeros(2))
    found = inspected(old, new, tmp_path)
    assert rows(found)["bias"].classification.kind is Kind.PERSISTENT_BUFFER
    assert "bias was a parameter and is a persistent buffer" in message(found, "kind-differs")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_keeps_all_buffers(tmp_path: Path) -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("mask", torch.ones(2), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * self.mask

    path = tmp_path / "scripted.pt"
    torch.jit.trace(Scripted(), torch.ones(1, 2)).save(str(path))
    checkpoint = read_checkpoint(str(path))
    found = inspect_checkpoint(checkpoint, model=describe_model(Scripted(), "m"))
    assert found.title == "TorchScript module"
    assert rows(found)["mask"].classification[:3] == (
        Kind.NON_PERSISTENT_BUFFER,
        Basis.MODULE,
        Presence.PRESENT,
    )
    assert codes(found) == {}


# ---------------------------------------- the model


def test_a_model_is_shown_as_a_file_is(tmp_path: Path) -> None:
    found = inspect_model(describe_model(Net(tied=True), "net:Net"))
    kinds = {name: row.classification.kind for name, row in rows(found).items()}
    assert kinds["mask"] is Kind.NON_PERSISTENT_BUFFER and kinds["count"] is Kind.PERSISTENT_BUFFER
    assert found.summary.parameters == 6 and found.summary.parameter_numel == 6 * 4 + 2 * 20
    tied = rows(found)["head.weight"].tied_to
    assert tied is not None and tied.name == "embed.weight"
    assert all(row.entry.tensor is not None and row.entry.tensor.storage is None for row in found.rows)
    assert found.missing == () and found.title == "Net"


def test_a_model_with_nothing_in_a_rotary_module_is_not_said_to_miss_something() -> None:
    model = nn.ModuleDict({"rotary_emb": nn.Identity(), "fc": nn.Linear(2, 2)})
    assert inspect_model(describe_model(model, "m")).missing == ()


def test_what_a_model_leaves_open_is_said() -> None:
    model = nn.Sequential(nn.LazyLinear(2), nn.BatchNorm1d(2, affine=False), Renames(2, 2))
    found = {each.code: each.message for each in inspect_model(describe_model(model, "m")).findings}
    assert sum("0.weight, 0.bias" in sentence for sentence in found.values()) == 1
    assert "(0.weight, 0.bias)" in found["uninitialized"]
    assert "(1.weight, 1.bias)" in found["none-slot"]
    assert "2 (_load_from_state_dict)" in found["custom-load"]


@pytest.mark.parametrize("name", sample_models.NAMES)
@pytest.mark.parametrize("view", [["--json"], [], ["--quiet"], ["--include", "*"]])
def test_every_sample_model_can_be_shown(
    name: str, view: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", f"sample_models.{name}:build", *view]) == 0
    out = capsys.readouterr().out
    if view == ["--json"]:
        document = json.loads(out)
        model = sample_models.load(name).build()
        expected = {*model.state_dict(), *dict(model.named_buffers(remove_duplicate=False))}
        assert {entry["name"] for entry in document["entries"]} == expected
        assert all(entry["exact"] and entry["file"] is None for entry in document["entries"])
        assert document["model"]["class_name"].startswith(("sample_models.", "torch."))
        assert document["summary"]["locations"] == {}


def test_one_tensor_of_a_model_has_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "sample_models.linear_xavier:build", "--tensor", "weight"]) == 0
    assert "module (exact)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--stats"],
        ["--check"],
        ["--globals"],
        ["--fail-on", "nan"],
        ["--root", "x"],
        ["--model", "torch.nn:ReLU"],
    ],
)
def test_what_needs_a_file_is_refused_for_a_model(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", "sample_models.linear_xavier:build", *options]) == 2
    assert "a model is not a file" in capsys.readouterr().err


def test_many_roots_are_laid_against_a_model_in_bounded_time(tmp_path: Path) -> None:
    stored = {f"r{index}": {"embed.weight": torch.ones(1)} for index in range(2000)}
    path = tmp_path / "many.pt"
    torch.save(stored, path)
    applied = apply_model(read_checkpoint(str(path)), describe_model(Net(), "m"))
    assert applied.match.matched == 1
