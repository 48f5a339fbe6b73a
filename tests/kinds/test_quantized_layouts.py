"""Files of layouts that quantising libraries were seen to write, with all that lies beside the weights.

How the shapes of each tell its weights is in ``test_quantization_schemes``; here are whole files, what their
config adds, and what the first line says of them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpttool.api.opened import open_file
from ckpttool.inspection.card import make_card
from ckpttool.render.inspection_head import iter_head
from ckpttool.values.inspection import Inspection

F8, F16, F32 = torch.float8_e4m3fn, torch.float16, torch.float32
I8, I16, I32, U8 = torch.int8, torch.int16, torch.int32, torch.uint8
Layer = dict[str, torch.Tensor]


def t(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def inspect(folder: Path, *layers: Layer, config: object = None) -> Inspection:
    made = {f"{at}.{name}": value for at, layer in enumerate(layers) for name, value in layer.items()}
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    found = open_file(str(folder / "model.safetensors")).inspection
    assert not [item for item in found.findings if item.code.startswith("quantized")]
    return found


def packed(out: int, inputs: int, bits: int, groups: int) -> Layer:
    """compressed-tensors packs without gaps, and rounds each row up to a whole int32."""
    return {
        "weight_packed": t(I32, out, math.ceil(inputs * bits / 32)),
        "weight_scale": t(F16, out, groups),
        "weight_shape": torch.tensor([out, inputs]),
    }


def test_compressed_tensors_without_zero_points_do_not_say_their_bits(tmp_path: Path) -> None:
    out, inputs = 256, 384
    found = inspect(tmp_path, packed(out, inputs, 4, 3), {"bias": t(F32, out)})
    assert found.weights.quantized == (("compressed-tensors", None, None, "", 1, None),)
    assert found.weights.weights_numel == out
    head = "\n".join(
        "".join(span.text for span in line) for line in iter_head(found, 200, (), make_card(found))
    )
    assert "256 other weights · compressed-tensors (1 module of unknown bits) · " in head


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 128, None])
def test_a_config_says_the_bits_of_compressed_tensors(tmp_path: Path, bits: int, group: int | None) -> None:
    groups = 384 // group if group else 1
    config = {"config_groups": {"group_0": {"weights": {"num_bits": bits}}}}
    found = inspect(tmp_path, packed(256, 384, bits, groups), config=config)
    assert found.weights.quantized == (("compressed-tensors", bits, group, "", 1, 256 * 384),)
    assert found.weights.weights_numel == 256 * 384


def test_two_widths_in_one_config_tell_nothing(tmp_path: Path) -> None:
    groups = {f"group_{bits}": {"weights": {"num_bits": bits}} for bits in (4, 8)}
    found = inspect(tmp_path, packed(256, 384, 4, 3), config={"config_groups": groups})
    assert found.weights.quantized == (("compressed-tensors", None, None, "", 1, None),)


def hqq(out: int, inputs: int, bits: int, group: int, axis: int, view: torch.dtype | None = None) -> Layer:
    groups = out * inputs // group
    rows, columns = (groups, group) if axis else (group, groups)
    stored = t(I32, math.ceil(rows / 10), columns) if bits == 3 else t(U8, rows * bits // 8, columns)
    scale = (groups, 1) if axis else (1, groups)
    return {
        "W_q": stored if view is None else stored.view(view),
        "nbits": torch.tensor(bits, dtype=I32),
        "shape": torch.tensor([out, inputs]),
        "packing": t(U8, 9),
        "scale": t(F16, *scale),
        "zero": t(F16, *scale),
    }


@pytest.mark.parametrize(("bits", "group"), [(1, 32), (3, 64), (4, 384), (8, 64)])
def test_hqq_says_its_bits_where_each_row_has_a_scale(tmp_path: Path, bits: int, group: int) -> None:
    for view in (None, torch.bfloat16):
        found = inspect(tmp_path, hqq(256, 384, bits, group, 1, view))
        assert found.weights.quantized == (("HQQ", bits, group, "", 1, 256 * 384),)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_hqq_by_columns_says_its_bits_in_a_config_alone(tmp_path: Path, bits: int) -> None:
    layer = hqq(256, 384, bits, 64, 0)
    assert inspect(tmp_path, layer).weights.quantized == (("HQQ", None, None, "", 1, None),)
    config = {
        "quant_method": "hqq",
        "quant_config": {"weight_quant_params": {"nbits": bits, "group_size": 64}},
    }
    told = inspect(tmp_path, layer, config=config).weights.quantized
    assert told == (("HQQ", bits, 64, "", 1, 256 * 384),)


def test_hqq_of_three_bits_by_columns_leaves_its_size_open(tmp_path: Path) -> None:
    found = inspect(tmp_path, hqq(256, 384, 3, 64, 0))
    assert found.weights.quantized == (("HQQ", 3, None, "", 1, None),)
    head = "\n".join(
        "".join(span.text for span in line) for line in iter_head(found, 200, (), make_card(found))
    )
    assert "HQQ 3-bit (1 module of unknown size)" in head


def test_quanto_by_columns_says_its_bits_in_a_config_alone(tmp_path: Path) -> None:
    groups = 256 * 384 // 128
    layer = {
        "weight._data._data": t(U8, 64, groups),
        "weight._scale": t(F32, 1, groups),
        "weight._shift": t(F32, 1, groups),
    }
    assert inspect(tmp_path, layer).weights.quantized == (("quanto", None, None, "", 1, None),)
    told = inspect(tmp_path, layer, config={"quant_method": "quanto", "weights": "int4"}).weights.quantized
    assert told == (("quanto", 4, 128, "", 1, 256 * 384),)


TORCHAO: dict[str, tuple[Layer, int, int | None]] = {
    "Int8Tensor": (
        {
            "_weight_qdata": t(I8, 256, 384),
            "_weight_scale": t(F32, 256, 1),
            "_weight_zero_point": t(I8, 256, 1),
        },
        8,
        None,
    ),
    "Int8Tensor of a square": ({"_weight_qdata": t(I8, 64, 64), "_weight_scale": t(F32, 64, 1)}, 8, None),
    "IntxUnpackedToInt8Tensor": ({"_weight_qdata": t(I8, 256, 384), "_weight_scale": t(F16, 256, 12)}, 8, 32),
    "Int4Tensor": (
        {
            "_weight_qdata": t(I8, 256, 192),
            "_weight_scale": t(F16, 3, 256),
            "_weight_zero_point": t(F16, 3, 256),
        },
        4,
        128,
    ),
    "Int4PlainInt32Tensor": ({"_weight_qdata": t(I32, 256, 48), "_weight_scale": t(F16, 3, 256)}, 4, 128),
    "Int4TilePackedTo4dTensor": (
        {"_weight_qdata": t(I32, 32, 3, 32, 4), "_weight_scale_and_zero": t(F16, 3, 256, 2)},
        4,
        128,
    ),
    "Float8Tensor": ({"_weight_qdata": t(F8, 256, 384), "_weight_scale": t(F32, 256, 1)}, 8, None),
    "Float8Tensor of one scale": ({"_weight_qdata": t(F8, 256, 384), "_weight_scale": t(F32, 1, 1)}, 8, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHAO)
def test_flattened_subclasses_of_torchao(tmp_path: Path, name: str) -> None:
    layer, bits, group = TORCHAO[name]
    weights = 64 * 64 if "square" in name else 256 * 384
    assert inspect(tmp_path, layer).weights.quantized == (("torchao", bits, group, "", 1, weights),)


@pytest.mark.parametrize("name", TORCHAO)
def test_a_member_of_torchao_that_is_gone_is_a_finding(tmp_path: Path, name: str) -> None:
    layer, _, _ = TORCHAO[name]
    for lost in (member for member in layer if member != "_weight_zero_point"):
        made = {f"{at}.{member}": value.clone() for at in range(3) for member, value in layer.items()}
        del made[f"1.{lost}"]
        save_file(made, tmp_path / "m.safetensors", {"format": "pt"})
        found = open_file(str(tmp_path / "m.safetensors")).inspection.findings
        assert [(item.code, item.name) for item in found if item.code.startswith("quantized")] == [
            ("quantized-incomplete", "1")
        ]


@pytest.mark.parametrize(
    "layer",
    [
        {"weight_packed": t(U8, 8, 8)},
        {"weight_packed": t(I32, 8, 8)},
        {"qweight": t(I32, 8, 8)},
        {"weight_qdata": t(I8, 8, 8)},
        {"weight._data": t(I8, 8, 8)},
        {"W_q": t(F16, 64, 64), "W_k": t(F16, 64, 64), "scale": t(F16, 1), "zero": t(F16, 1)},
        {"weight": t(U8, 8, 8), "scale": t(F32, 8)},
        {"weight": t(I32, 8, 8), "weight_scale": t(F32, 8)},
    ],
    ids=lambda layer: "+".join(layer),
)
def test_integers_alone_are_no_quantised_weight(tmp_path: Path, layer: Layer) -> None:
    assert inspect(tmp_path, layer).weights.quantized == ()
