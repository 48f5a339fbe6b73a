"""Averaged copies in the state_dict of what they copy: named, told what of, and not counted as weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.checkpoint import Kind
from ckpttool.values.inspection import Copy, Inspection


class LitEma(nn.Module):
    """As ldm/modules/ema.py of CompVis has it: a buffer for each parameter, by its name without dots."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.9999))
        self.register_buffer("num_updates", torch.tensor(0, dtype=torch.int))
        for name, parameter in model.named_parameters():
            self.register_buffer(name.replace(".", ""), parameter.detach().clone())


class ModelEma(nn.Module):
    """As timm/utils/model_ema.py has its second and third: a deep copy called ``module``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # 1.12 and 11.2 lose their dots to the same text; shapes tell them apart.
        self.blocks = nn.Sequential(*(nn.Linear(4, 4 + at) for at in range(13)))
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.ModuleDict(
            {"1": nn.ModuleDict({"12": nn.Linear(3, 2)}), "11": nn.ModuleDict({"2": nn.Linear(3, 5)})}
        )


class Trained(nn.Module):
    """What is saved: a network behind a wrapper, an average of it, and another part."""

    def __init__(self, average: type[nn.Module] | None, attribute: str = "model_ema") -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.diffusion_model = Network()
        if average is not None:
            setattr(self, attribute, average(self.model))
        self.first_stage = nn.Linear(7, 7)


def inspect(folder: Path, made: Any) -> Inspection:
    torch.save(made, folder / "m.pt")
    return inspect_checkpoint(read_checkpoint(str(folder / "m.pt")))


def counted(found: Inspection) -> tuple[int, int, int, int]:
    weights = found.weights
    return weights.parameters, weights.parameter_numel, weights.buffers, weights.buffer_numel


AVERAGES = [
    ("model_ema", LitEma),
    ("model_ema", ModelEma),
    ("ema", ModelEma),
    ("swa_model", torch.optim.swa_utils.AveragedModel),
    ("shadow", copy.deepcopy),
]


@pytest.mark.parametrize(("attribute", "average"), AVERAGES)
@pytest.mark.parametrize("inside", ["", "net."])
def test_an_average_in_one_state_dict_is_a_copy(
    tmp_path: Path, attribute: str, average: type[nn.Module], inside: str
) -> None:
    def prefixed(model: nn.Module) -> dict[str, torch.Tensor]:
        return {f"{inside}{name}": value for name, value in model.state_dict().items()}

    bare = inspect(tmp_path, prefixed(Trained(None)))
    model = Trained(average, attribute)
    found = inspect(tmp_path, prefixed(model))
    # Only what counts for the average, a few numbers, is there beside the weights.
    own = 0
    truth = {f"{inside}{name}" for name, _ in model.named_buffers()}
    for row in found.rows:
        name, known = str(row.entry.name), row.classification
        if not name.startswith(f"{inside}{attribute}."):
            assert known.averaged_of == ""
            continue
        last = name.removeprefix(f"{inside}{attribute}.")
        if last in ("decay", "num_updates", "n_averaged"):
            own += 1
            assert known.kind is Kind.PERSISTENT_BUFFER and known.averaged_of == ""
            continue
        assert known.kind is (Kind.PERSISTENT_BUFFER if name in truth else Kind.PARAMETER)
        original = known.averaged_of.removeprefix(f"{inside}model.")
        squashed = last if average is not LitEma else original.replace(".", "")
        assert squashed.removeprefix("module.") == (original if average is not LitEma else last)
        assert known.averaged_of.startswith(f"{inside}model.")
        assert known.note == f"averaged copy of {known.averaged_of}"
    parameters, numel, buffers, buffer_numel = counted(bare)
    assert counted(found) == (parameters, numel, buffers + own, buffer_numel + own)
    assert found.weights.weights_numel == bare.weights.weights_numel
    assert found.weights.copies == (Copy((), True, f"{inside}{attribute}."),)


def test_the_first_line_and_the_document_name_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.pt"
    torch.save(Trained(LitEma).state_dict(), path)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["inspect", str(path)]) == 0
    numel = sum(parameter.numel() for parameter in Trained(None).parameters())
    assert f"{numel} parameters in 34 tensors + averaged copy under model_ema.* · " in capsys.readouterr().out
    assert main(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    entries = {entry["name"]: entry for entry in document["entries"]}
    name = "model_ema.diffusion_modelblocks0weight"
    assert entries[name]["averaged_of"] == "model.diffusion_model.blocks.0.weight"
    assert "averaged_of" not in entries["model.diffusion_model.blocks.0.weight"]


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.update({"model_ema.diffusion_modelblocks0weight": torch.zeros(9, 9)}),
        lambda made: made.update({"model_ema.other": torch.zeros(2)}),
        lambda made: made.pop("model_ema.decay"),
        lambda made: made.pop("model.diffusion_model.blocks.3.weight"),
    ],
    ids=["shape", "more", "no decay", "no original"],
)
def test_what_is_no_copy_of_all_is_called_none(tmp_path: Path, change: Any) -> None:
    made = dict(Trained(LitEma).state_dict())
    change(made)
    found = inspect(tmp_path, made)
    assert found.weights.copies == ()
    assert not any(row.classification.averaged_of for row in found.rows)


def test_names_that_only_sound_alike_are_weights(tmp_path: Path) -> None:
    """Of vector quantisers, and of modules that have ``ema`` in a word."""
    made = {
        "schema.weight": torch.zeros(3, 3),
        "other.weight": torch.zeros(3, 3),
        "ema_encoder.conv.weight": torch.zeros(3, 3),
        "layers.0.swa.q.weight": torch.zeros(3, 3),
        "layers.0.attn.q.weight": torch.zeros(3, 3),
        "quantize.embedding.ema_count": torch.zeros(3),
        "quantize.embedding.ema_weight": torch.zeros(3, 3),
    }
    assert inspect(tmp_path, made).weights.copies == ()


@pytest.mark.parametrize("key", ["shadow_params", "ema"])
def test_lists_of_averaged_tensors_are_no_weights(tmp_path: Path, key: str) -> None:
    """``EMAModel`` of diffusers and ``ExponentialMovingAverage`` of torch_ema: a list by order."""
    model = Network()
    shadow = [parameter.detach().clone() for parameter in model.parameters()]
    made = {"model": model.state_dict(), "ema_state": {"decay": 0.99, "num_updates": 3, key: shadow}}
    found = inspect(tmp_path, made)
    alone = inspect(tmp_path, {"model": model.state_dict()})
    assert counted(found) == counted(alone)
