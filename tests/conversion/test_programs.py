"""What is made of a model that stands whole in a file is its state_dict, which strict loading takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model
from torch import nn

from tests.support.converting import convert
from tests.support.layouts import facts

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.linspace(0.1, 1, 4), persistent=False)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.inv_freq * self.scale


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.rotary = Rotary()
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.body[0].weight
        self.register_buffer("mask", torch.ones(4, dtype=torch.bool), persistent=False)
        self.offset = torch.full((4,), 3.0)  # neither a parameter nor a buffer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rotary(self.body(x))) * self.mask + self.offset


def pickled(model: Model, path: Path) -> None:
    torch.save(model, path)


def exported(model: Model, path: Path) -> None:
    torch.export.save(torch.export.export(model, (torch.ones(2, 4),)), path)


@pytest.mark.parametrize(
    "save", [pickled, pytest.param(exported, marks=pytest.mark.slow)], ids=lambda save: save.__name__
)
def test_a_model_is_converted_to_what_its_state_dict_holds(tmp_path: Path, save: object) -> None:
    assert callable(save)
    model = Model().eval()
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            tensor.fill_(number)
    source = tmp_path / "model.pt2"
    save(model, source)
    expected = model.state_dict()

    convert(source, tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert set(state) == set(expected)
    fresh = Model()
    fresh.load_state_dict(state, strict=True)
    assert {n: facts(t) for n, t in fresh.state_dict().items()} == {n: facts(t) for n, t in expected.items()}

    convert(source, tmp_path / "a.safetensors")
    fresh = Model()
    assert load_model(fresh, tmp_path / "a.safetensors", strict=True) == (set(), [])
    assert {n: facts(t) for n, t in fresh.state_dict().items()} == {n: facts(t) for n, t in expected.items()}

    convert(source, tmp_path / "all.pt", "--non-persistent")
    carried = set(torch.load(tmp_path / "all.pt", weights_only=True))
    assert {"rotary.inv_freq", "mask"} <= carried - set(expected)
