"""``verify``: tied parameters, and tensors that stay behind when a model moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from ckpttool.torch_bridge.verify.placement import left_on_meta, unmoved
from ckpttool.torch_bridge.verify.verify import choose_devices
from ckpttool.values.errors import DeviceUnavailable
from tests.support.verified_models import Plain, Tied, on_devices
from tests.support.verifying import ACCELERATOR, check, check_file, the_run


@on_devices
def test_two_values_for_one_tied_parameter_are_wrong(device: str, tmp_path: Path) -> None:
    state = {"embed.weight": torch.rand(4, 2), "head.weight": torch.rand(4, 2)}
    result = check(state, Tied, tmp_path, device=device, load="copy")
    [wrong] = the_run(result).wrong
    assert wrong.name == "embed.weight"
    assert "tied to head.weight" in wrong.reason
    assert "the last one loaded won" in wrong.reason


@on_devices
def test_one_value_for_a_tied_parameter_is_right(device: str, tmp_path: Path) -> None:
    result = check(Tied().state_dict(), Tied, tmp_path, device=device)
    assert the_run(result).ok
    assert {run.load: bool(run.untied) for run in result.runs} == {
        "copy": False, "assign": False, "to-empty": True, "round-trip": False,
    }  # fmt: skip
    separate = {key: value.clone() for key, value in Tied().state_dict().items()}
    untied = check(separate, Tied, tmp_path, device=device)
    assert the_run(untied).ok
    assert the_run(untied, "assign").untied == (("embed.weight", "head.weight"),)


def test_a_tie_of_which_safetensors_keeps_one_name_is_filled(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "tied.safetensors"))
    result = check_file(tmp_path / "tied.safetensors", Tied)
    assert result.ok
    [missing] = the_run(result).missing
    assert missing.becomes == "tied"
    assert all(run.hooked == () for run in result.runs)
    assert the_run(result, "assign").ok is False
    assert any("tied to an entry that it has" in text for text in result.suggestions)


class Stray(nn.Module):
    """Plain attributes: a tensor, a list of one, a scalar, and a list with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.offset = torch.ones(2)
        self.cache = [torch.ones(3)]
        self.step = torch.tensor(0.5)
        self.aliases = [self.fc.weight]


def test_tensors_that_do_not_move_are_named() -> None:
    model = Stray().to("meta")
    # The move to meta makes new parameters: what held an old one is stale.
    assert unmoved(model, "meta") == ["offset", "cache[0]", "aliases[0]"]
    assert unmoved(Stray(), "meta")[:2] == ["fc.weight", "fc.bias"]
    assert unmoved(Plain().to("meta"), "meta") == []
    with torch.device("meta"):
        assert left_on_meta(Stray()) == ["offset", "cache[0]", "step"]


def test_old_weight_norm_computes_its_weight_before_each_forward() -> None:
    assert unmoved(torch.nn.utils.weight_norm(nn.Linear(2, 2)).to("meta"), "meta") == []


@pytest.mark.cuda
def test_a_plain_attribute_stays_behind_on_a_device(tmp_path: Path) -> None:
    result = check(nn.Module.state_dict(Stray()), Stray, tmp_path, device=ACCELERATOR, load="copy")
    assert not result.ok
    assert the_run(result).unmoved == ("offset", "cache[0]")


@pytest.mark.cuda
def test_figures_of_a_run_on_a_device_are_told(tmp_path: Path) -> None:
    result = check(
        nn.Linear(256, 256).state_dict(), lambda: nn.Linear(256, 256), tmp_path, device=ACCELERATOR
    )
    assert result.ok
    assert (the_run(result).gb_per_second or 0) > 0


def test_what_a_build_on_meta_leaves_without_data_is_named(tmp_path: Path) -> None:
    result = check(Stray().state_dict(), Stray, tmp_path)
    assert the_run(result).ok
    assert the_run(result, "to-empty").unmoved == ("offset", "cache[0]", "step", "aliases[0]")


@pytest.mark.parametrize("device", ["tpu9", "meta", "cuda:99", "mps", ""])
def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(device: str) -> None:
    with pytest.raises(DeviceUnavailable):
        choose_devices([device])
