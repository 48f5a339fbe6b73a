"""What the first line counts: the weights once, copies by name, quantised weights by what they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.inspection import Copy, Inspection


def inspect(path: Path, made: Any, **asked: Any) -> Inspection:
    torch.save(made, path)
    return inspect_checkpoint(read_checkpoint(str(path)), **asked)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def counts(model: nn.Module) -> tuple[int, int, int, int]:
    """Entries and elements of parameters and of buffers, as torch counts them."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    elements = [sum(tensor.numel() for tensor in tensors) for tensors in (parameters, buffers)]
    return len(parameters), elements[0], len(buffers), elements[1]


def counted(found: Inspection) -> tuple[int, int, int, int]:
    weights = found.weights
    return weights.parameters, weights.parameter_numel, weights.buffers, weights.buffer_numel


def head(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["inspect", str(path)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema", "swa_model", "average_model_state"])
def test_an_averaged_copy_is_named_and_not_counted(tmp_path: Path, key: str, tied: bool) -> None:
    model, copy = network(), network()
    averaged = (model if tied else copy).state_dict()
    found = inspect(tmp_path / "c.pt", {"model": model.state_dict(), key: averaged, "epoch": 3})
    assert counted(found) == counts(model)
    assert found.weights.copies == (Copy((key,), True),)


def test_the_wrapper_of_averaged_weights_counts_once(tmp_path: Path) -> None:
    """A Lightning file: the weights, the optimizer, and an averaged copy in the state of a callback."""
    model = network()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    made = {
        "state_dict": model.state_dict(),
        "callbacks": {"StochasticWeightAveraging": {"average_model_state": averaged.state_dict()}},
        "optimizer_states": [torch.optim.Adam(model.parameters()).state_dict()],
        "pytorch-lightning_version": "2.5.0",
    }
    found = inspect(tmp_path / "c.ckpt", made)
    assert counted(found) == counts(model)
    place = ("callbacks", "StochasticWeightAveraging", "average_model_state")
    assert found.weights.copies == (Copy(place, True),)


def test_a_copy_of_another_name_is_seen_by_its_names_and_shapes(tmp_path: Path) -> None:
    model, copy, other = (
        network(),
        network(),
        nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)),
    )
    made = {"state_dict": model.state_dict(), "current_model_state": copy.state_dict()}
    assert inspect(tmp_path / "c.pt", made).weights.copies == (Copy(("current_model_state",), False),)
    made["current_model_state"] = other.state_dict()
    assert inspect(tmp_path / "d.pt", made).weights.copies == ()


def test_two_networks_are_both_counted_and_their_average_is_not(tmp_path: Path) -> None:
    first, second = network(), nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4))
    made = {
        "generator": first.state_dict(),
        "discriminator": second.state_dict(),
        "generator_ema": network().state_dict(),
    }
    found = inspect(tmp_path / "c.pt", made)
    assert found.weights_root is None
    assert counted(found) == tuple(map(sum, zip(counts(first), counts(second), strict=True)))
    assert found.weights.copies == (Copy(("generator_ema",), True),)


def test_only_an_average_is_the_weights(tmp_path: Path) -> None:
    model = network()
    found = inspect(tmp_path / "c.pt", {"model_ema": model.state_dict(), "epoch": 1})
    assert counted(found) == counts(model) and found.weights.copies == ()


def test_the_first_line_keeps_elements_and_tensors_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(1000, 8)
            self.norm = nn.BatchNorm1d(8)
            self.head = nn.Linear(8, 1000, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("odd_table", torch.zeros(3, dtype=torch.int32))

    torch.save(Tied().state_dict(), tmp_path / "c.pt")
    second = head(tmp_path / "c.pt", capsys, monkeypatch).splitlines()[1]
    assert second.startswith(
        "8,016 parameters in 4 tensors, 1 of them tied · 3 buffers (17 elements) · 1 unknown · "
    )


def test_a_copy_is_in_the_first_line_and_in_the_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    torch.save({"model": network().state_dict(), "model_ema": network().state_dict()}, path)
    assert "56 parameters in 6 tensors + averaged copy under model_ema · 3 buffers (13 elements)" in head(
        path, capsys, monkeypatch
    )
    assert main(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["weights"]["copies"] == [{"root": ["model_ema"], "averaged": True, "prefix": ""}]
    assert (document["weights"]["parameter_numel"], document["summary"]["parameter_numel"]) == (56, 112)


def test_the_counts_are_those_of_the_selection(tmp_path: Path) -> None:
    made = {"model": network().state_dict(), "model_ema": network().state_dict()}
    found = inspect(tmp_path / "c.pt", made, include=("0.*",))
    assert (found.weights.parameters, found.weights.parameter_numel, found.weights.buffers) == (2, 30, 0)
    found = inspect(tmp_path / "c.pt", made, root=("model_ema",))
    assert counted(found) == counts(network()) and found.weights.copies == ()
