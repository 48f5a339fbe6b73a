"""Averaged copies of the weights: what they are called, and that the bare model loads what is made of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import ckpttool


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def averaged() -> nn.Module:
    model = AveragedModel(net(), use_buffers=True)
    model.update_parameters(net())
    return model


@pytest.mark.parametrize("whole", [False, True], ids=["state_dict", "pickled module"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_bare_model_loads_an_averaged_model_strictly(whole: bool, suffix: str, tmp_path: Path) -> None:
    model = averaged()
    torch.save(model if whole else model.state_dict(), tmp_path / "swa.pt")
    found = ckpttool.open(tmp_path / "swa.pt")
    assert [group.averaged for group in found.inspection.groups] == ["AveragedModel"]
    (finding,) = [item for item in found.findings if item.code == "wrapper-prefix"]
    assert "AveragedModel" in finding.message and "DataParallel" not in finding.message
    target = tmp_path / f"bare.{suffix}"
    converted = found.convert(target, strip_prefix="auto")
    assert [(item.name, item.type_name) for item in converted.dropped] == [("n_averaged", "int64")]
    assert "AveragedModel" in converted.dropped[0].reason
    state = load_file(target) if suffix == "safetensors" else torch.load(target)
    bare = net()
    bare.load_state_dict(state, strict=True)
    assert torch.equal(bare[0].weight, model.module[0].weight)


@pytest.mark.parametrize(
    ("key", "make", "called"),
    [
        ("state_dict_ema", lambda: net().state_dict(), "EMA"),
        ("model_ema", lambda: averaged().state_dict(), "AveragedModel"),
        ("swa_state", lambda: net().state_dict(), "SWA"),
        ("second", lambda: averaged().state_dict(), "AveragedModel"),
        ("second", lambda: net().state_dict(), ""),
    ],
)
def test_a_copy_beside_the_weights_is_called_what_it_is(
    key: str, make: Any, called: str, tmp_path: Path
) -> None:
    torch.save({"model": net().state_dict(), key: make()}, tmp_path / "x.pt")
    groups = ckpttool.open(tmp_path / "x.pt").inspection.groups
    assert [(group.root, group.averaged) for group in groups] == [(("model",), ""), ((key,), called)]
    assert [group.role for group in groups] == ["weights", "ema" if called else "weights"]
