"""What a config.json beside quantised weights adds, and what it cannot do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckpttool.api.opened import open_file
from ckpttool.values.inspection import Inspection

OUT, INPUTS = 256, 512


def gptq() -> dict[str, torch.Tensor]:
    int32 = torch.int32
    return {
        "proj.qweight": torch.zeros(INPUTS // 8, OUT, dtype=int32),
        "proj.qzeros": torch.zeros(4, OUT // 8, dtype=int32),
        "proj.scales": torch.zeros(4, OUT),
        "proj.g_idx": torch.zeros(INPUTS, dtype=int32),
    }


def packed(bits: int) -> dict[str, torch.Tensor]:
    """One scale for each row: no shape tells how many weights are in an int32."""
    return {
        "proj.weight_packed": torch.zeros(OUT, INPUTS * bits // 32, dtype=torch.int32),
        "proj.weight_scale": torch.zeros(OUT, 1),
        "proj.weight_shape": torch.zeros(2, dtype=torch.int64),
    }


def inspect(folder: Path, made: dict[str, torch.Tensor], config: object = None) -> Inspection:
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    if config is not None:
        text = config if isinstance(config, str) else json.dumps({"quantization_config": config})
        (folder / "config.json").write_text(text)
    return open_file(str(folder / "model.safetensors")).inspection


def test_act_order_is_in_no_shape_and_in_the_config(tmp_path: Path) -> None:
    assert inspect(tmp_path, gptq()).weights.quantized[0].detail == ""
    config = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}
    found = inspect(tmp_path, gptq(), config)
    assert found.weights.quantized == (("GPTQ", 4, 128, "act-order", 1, OUT * INPUTS),)
    assert not [item for item in found.findings if item.code == "quantized-config"]
    assert inspect(tmp_path, gptq(), {**config, "desc_act": False}).weights.quantized[0].detail == ""


@pytest.mark.parametrize("bits", [True, "8", [8], 8.0, 0, 9, None])
def test_bits_that_are_no_number_of_bits_say_nothing(tmp_path: Path, bits: object) -> None:
    found = inspect(tmp_path, gptq(), {"quant_method": "gptq", "bits": bits})
    assert found.weights.quantized[0].bits == 4
    assert not [item for item in found.findings if item.code == "quantized-config"]


def test_a_config_that_contradicts_the_shapes_is_a_finding(tmp_path: Path) -> None:
    found = inspect(tmp_path, gptq(), {"quant_method": "gptq", "bits": 8})
    (finding,) = [item for item in found.findings if item.code == "quantized-config"]
    assert finding.message == "config.json says 8 bits, the shapes of the GPTQ modules say 4"
    assert found.weights.weights_numel == OUT * INPUTS


@pytest.mark.parametrize("bits", [4, 8])
def test_the_bits_of_packed_weights_are_those_of_the_config(tmp_path: Path, bits: int) -> None:
    weights = {"num_bits": bits, "type": "int", "strategy": "channel", "actorder": None}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    found = inspect(tmp_path, packed(bits), config)
    assert found.weights.quantized == (("compressed-tensors", bits, None, "", 1, OUT * INPUTS),)
    assert found.weights.weights_numel == OUT * INPUTS


_SAYS_NOTHING = (
    "",
    "[]",
    "{",
    '{"quantization_config": 3}',
    '{"quantization_config": {"config_groups": [1]}}',
    '{"quantization_config": {"bits": "x", "desc_act": [], "config_groups": {"a": {"weights": 1}}}}',
    '{"quantization_config": {"config_groups": {"a": {"weights": {"num_bits": [4]}}}}}',
    "[" * 100_000,
    "{}" + " " * (2 << 20),
)


@pytest.mark.parametrize("config", _SAYS_NOTHING, ids=range(len(_SAYS_NOTHING)))
def test_a_config_that_says_nothing_changes_nothing(tmp_path: Path, config: Any) -> None:
    bare = inspect(tmp_path, gptq())
    found = inspect(tmp_path, gptq(), config or " ")
    assert (found.weights, found.findings) == (bare.weights, bare.findings)


def test_only_a_regular_file_of_the_folder_is_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps({"quantization_config": {"bits": 4, "desc_act": True}}))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").symlink_to(outside)
    assert inspect(folder, gptq()).weights.quantized[0].detail == ""
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert inspect(folder, gptq()).weights.quantized[0].detail == ""
