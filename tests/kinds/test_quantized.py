"""Quantised modules as their libraries store them: how many weights there are, and whether any is incomplete.

Each layer is made from (out, in) by the packing that its library documents; that it stands for out * in
weights is what is asked of the code.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.values.inspection import Inspection

F8 = torch.float8_e4m3fn
Layer = dict[str, torch.Tensor]
Make = Callable[[int, int], Layer]


def zeros(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def ints(*shape: int) -> torch.Tensor:
    return zeros(*shape, dtype=torch.int32)


def raw(*shape: int) -> torch.Tensor:
    return zeros(*shape, dtype=torch.uint8)


def gptq(out: int, inputs: int, bits: int = 4, group: int = 128) -> Layer:
    groups = math.ceil(inputs / group) if group > 0 else 1
    return {
        "qweight": ints(inputs * bits // 32, out),
        "qzeros": ints(groups, out * bits // 32),
        "scales": zeros(groups, out),
        "g_idx": ints(inputs),
        "bias": zeros(out),
    }


def awq(out: int, inputs: int, group: int = 128) -> Layer:
    groups = inputs // group
    return {"qweight": ints(inputs, out // 8), "qzeros": ints(groups, out // 8), "scales": zeros(groups, out)}


def awq_gemv(out: int, inputs: int, group: int = 128) -> Layer:
    width = -(-(inputs // group) // 8)
    return {
        "qweight": ints(out, inputs // 8),
        "qzeros": ints(out, width),
        "scales": zeros(out, width * 8),
    }


def awq_fast(out: int, inputs: int, group: int = 128) -> Layer:
    padded = -(-(inputs // group) // 8) * 8
    return {
        "qweight": zeros(out // 4, inputs, dtype=torch.int16),
        "scales": zeros(padded, out),
        "scaled_zeros": zeros(padded, out),
    }


def marlin(out: int, inputs: int) -> Layer:
    return {
        "B": ints(inputs // 16, out * 2),
        "s": zeros(inputs // 128, out),
        "workspace": ints(out // 128 * 16),
    }


def bnb4(out: int, inputs: int, kind: str = "nf4", nested: bool = True) -> Layer:
    blocks = out * inputs // 64
    made = {
        "weight": raw(out * inputs // 2, 1),
        "weight.absmax": raw(blocks) if nested else zeros(blocks, dtype=torch.float32),
        "weight.quant_map": zeros(16, dtype=torch.float32),
        f"weight.quant_state.bitsandbytes__{kind}": raw(80),
    }
    if nested:
        made["weight.nested_absmax"] = zeros(math.ceil(blocks / 256), dtype=torch.float32)
        made["weight.nested_quant_map"] = zeros(256, dtype=torch.float32)
    return made


def bnb8(out: int, inputs: int) -> Layer:
    return {
        "weight": zeros(out, inputs, dtype=torch.int8),
        "SCB": zeros(out, dtype=torch.float32),
        "weight_format": raw(),
    }


def packed(out: int, inputs: int, bits: int = 4, group: int = 128, symmetric: bool = True) -> Layer:
    groups = inputs // group
    made = {
        "weight_packed": ints(out, -(-inputs * bits // 32)),
        "weight_scale": zeros(out, groups),
        "weight_shape": zeros(2, dtype=torch.int64),
    }
    return made if symmetric else {**made, "weight_zero_point": ints(out * bits // 32, groups)}


def int8(out: int, inputs: int) -> Layer:
    return {"weight": zeros(out, inputs, dtype=torch.int8), "weight_scale": zeros(out, 1)}


def fp8(out: int, inputs: int, *scale: int) -> Layer:
    return {"weight": torch.zeros(out, inputs, dtype=F8), "weight_scale": zeros(*scale, dtype=torch.float32)}


def fp8_blocks(out: int, inputs: int) -> Layer:
    blocks = zeros(math.ceil(out / 128), math.ceil(inputs / 128), dtype=torch.float32)
    return {"weight": torch.zeros(out, inputs, dtype=F8), "weight_scale_inv": blocks}


def nvfp4(out: int, inputs: int) -> Layer:
    return {
        "weight_packed": raw(out, inputs // 2),
        "weight_scale": torch.zeros(out, inputs // 16, dtype=F8),
        "weight_global_scale": zeros(1, dtype=torch.float32),
    }


def nvfp4_modelopt(out: int, inputs: int) -> Layer:
    return {
        "weight": raw(out, inputs // 2),
        "weight_scale": torch.zeros(out, inputs // 16, dtype=F8),
        "weight_scale_2": zeros(dtype=torch.float32),
        "input_scale": zeros(dtype=torch.float32),
    }


def hqq(out: int, inputs: int, group: int = 64) -> Layer:
    rows = out * inputs // group
    return {"W_q": raw(rows // 2, group), "scale": zeros(rows, 1), "zero": zeros(rows, 1)}


def quanto4(out: int, inputs: int) -> Layer:
    groups = out * inputs // 128
    return {
        "weight._data._data": raw(groups // 2, 128),
        "weight._scale": zeros(groups, 1),
        "weight._shift": zeros(groups, 1),
    }


LAYERS: dict[str, tuple[Make, tuple[str, int, int | None, str]]] = {
    "gptq": (gptq, ("GPTQ", 4, 128, "")),
    "gptq 3-bit": (lambda o, i: gptq(o, i, 3), ("GPTQ", 3, 128, "")),
    "gptq 8-bit, one group": (lambda o, i: gptq(o, i, 8, -1), ("GPTQ", 8, None, "")),
    "gptq of a square": (lambda o, i: gptq(i, i, 4, 32), ("GPTQ", 4, 32, "")),
    "gptq, older": (lambda o, i: {k: v for k, v in gptq(o, i).items() if k != "g_idx"}, ("GPTQ", 4, 128, "")),
    "awq": (awq, ("AWQ", 4, 128, "")),
    "awq, group 64": (lambda o, i: awq(o, i, 64), ("AWQ", 4, 64, "")),
    "awq gemv": (awq_gemv, ("AWQ", 4, 128, "GEMV")),
    "awq gemv fast": (awq_fast, ("AWQ", 4, 128, "GEMV fast")),
    "marlin": (marlin, ("Marlin", 4, 128, "")),
    "bitsandbytes nf4": (bnb4, ("bitsandbytes", 4, 64, "NF4")),
    "bitsandbytes fp4": (lambda o, i: bnb4(o, i, "fp4", False), ("bitsandbytes", 4, 64, "FP4")),
    "bitsandbytes int8": (bnb8, ("bitsandbytes", 8, None, "per channel")),
    "pack-quantized, asymmetric": (
        lambda o, i: packed(o, i, symmetric=False),
        ("compressed-tensors", 4, 128, ""),
    ),
    "pack-quantized 8-bit": (
        lambda o, i: packed(o, i, 8, symmetric=False),
        ("compressed-tensors", 8, 128, ""),
    ),
    "int-quantized": (int8, ("int8", 8, None, "per channel")),
    "float-quantized": (lambda o, i: fp8(o, i, o, 1), ("FP8", 8, None, "per channel")),
    "fp8 of one scale": (lambda o, i: fp8(o, i), ("FP8", 8, None, "per tensor")),
    "fp8 of blocks": (fp8_blocks, ("FP8", 8, None, "blocks of 128×128")),
    "nvfp4": (nvfp4, ("NVFP4", 4, 16, "")),
    "nvfp4 of modelopt": (nvfp4_modelopt, ("NVFP4", 4, 16, "")),
    "eetq": (
        lambda o, i: {"weight": zeros(i, o, dtype=torch.int8), "weight_scales": zeros(o)},
        ("EETQ", 8, None, "per channel"),
    ),
    "bitnet": (
        lambda o, i: {"weight": raw(o // 4, i), "weight_scale": zeros(1)},
        ("BitNet", 2, None, "ternary"),
    ),
    "hqq": (hqq, ("HQQ", 4, 64, "")),
    "quanto qint8": (
        lambda o, i: {"weight._data": zeros(o, i, dtype=torch.int8), "weight._scale": zeros(o, 1)},
        ("quanto", 8, None, "per channel"),
    ),
    "quanto qint4": (quanto4, ("quanto", 4, 128, "")),
}  # fmt: skip

OUT, INPUTS = 512, 1024


def model(make: Make, layers: int = 4) -> Layer:
    made = {"embed.weight": zeros(100, 16), "lm_head.weight": zeros(100, 16)}
    for layer in range(layers):
        made[f"layers.{layer}.norm.weight"] = zeros(INPUTS)
        made |= {f"layers.{layer}.proj.{name}": value for name, value in make(OUT, INPUTS).items()}
    return made


def inspect(folder: Path, made: Layer) -> Inspection:
    save_file(made, folder / "m.safetensors", {"format": "pt"})
    return inspect_checkpoint(read_checkpoint(str(folder / "m.safetensors")))


def faults(found: Inspection) -> list[tuple[str, str, str]]:
    codes = ("quantized-incomplete", "quantized-extra")
    return [(item.code, item.severity, item.name) for item in found.findings if item.code in codes]


@pytest.mark.parametrize("name", LAYERS)
def test_the_weights_of_a_scheme_are_counted_and_its_modules_are_whole(tmp_path: Path, name: str) -> None:
    make, (scheme, bits, group, detail) = LAYERS[name]
    found = inspect(tmp_path, model(make))
    each = INPUTS * INPUTS if "square" in name else OUT * INPUTS
    assert found.weights.quantized == ((scheme, bits, group, detail, 4, 4 * each),)
    plain = 2 * 1600 + 4 * INPUTS + (4 * len(make(OUT, INPUTS).get("bias", ())))
    assert found.weights.weights_numel == 4 * each + plain
    stored = sum(value.numel() for value in model(make).values())
    assert found.weights.stored_numel == stored
    assert faults(found) == []


@pytest.mark.parametrize(
    ("name", "member"),
    [
        (name, member)
        for name, (make, _) in LAYERS.items()
        for member in make(OUT, INPUTS)
        if member not in ("bias", "workspace", "input_scale", "weight_format")
        and name != "gptq, older"
        and member not in ("scaled_zeros", "weight_zero_point")
    ],
)
def test_a_member_that_is_gone_from_one_module_is_a_finding(tmp_path: Path, name: str, member: str) -> None:
    made = model(LAYERS[name][0])
    del made[f"layers.2.proj.{member}"]
    found = inspect(tmp_path, made)
    lost = [item for item in faults(found) if item[0] == "quantized-incomplete"]
    uniform = ("g_idx", "weight.nested_absmax", "weight.nested_quant_map")
    rest = LAYERS[name][0](OUT, INPUTS).keys() - {member}
    if member == "weight" and rest <= {"weight_scale", "weight_scales", "weight_scale_2", "input_scale"}:
        assert len(lost) <= 1  # nothing says that a module was there, but for a lone scale
    else:
        assert lost == [
            ("quantized-incomplete", "warning" if member in uniform else "error", "layers.2.proj")
        ]


def test_a_weight_beside_the_packed_one_is_a_finding(tmp_path: Path) -> None:
    made = model(gptq)
    made["layers.1.proj.weight"] = zeros(OUT, INPUTS)
    assert faults(inspect(tmp_path, made)) == [("quantized-extra", "warning", "layers.1.proj")]


def test_experts_of_gpt_oss(tmp_path: Path) -> None:
    experts, out, inputs = 4, 64, 96
    made = {
        "mlp.experts.gate_up_proj_blocks": raw(experts, out, inputs // 32, 16),
        "mlp.experts.gate_up_proj_scales": raw(experts, out, inputs // 32),
        "mlp.experts.gate_up_proj_bias": zeros(experts, out),
        "mlp.experts.down_proj_blocks": raw(experts, inputs, out // 32, 16),
        "mlp.experts.down_proj_scales": raw(experts, inputs, out // 32),
        "norm.weight": zeros(inputs),
    }
    found = inspect(tmp_path, made)
    assert found.weights.quantized == (("MXFP4", 4, 32, "", 2, 2 * experts * out * inputs),)
    assert faults(found) == []
    del made["mlp.experts.down_proj_scales"]
    assert faults(inspect(tmp_path, made)) == [("quantized-incomplete", "error", "mlp.experts.down_proj")]


def test_fused_experts_with_a_scale_of_their_own(tmp_path: Path) -> None:
    made = {
        "experts.gate_up_proj": torch.zeros(4, 256, 384, dtype=F8),
        "experts.gate_up_proj_scale_inv": zeros(4, 2, 3, dtype=torch.float32),
        "norm.weight": zeros(8),
    }
    found = inspect(tmp_path, made)
    assert found.weights.quantized == (("FP8", 8, None, "blocks of 128×128", 1, 4 * 256 * 384),)


def test_a_plain_model_is_not_called_quantised(tmp_path: Path) -> None:
    made = {
        "conv.weight": zeros(4, 4),
        "conv.weight_scale": zeros(4),
        "quantizer.scale": zeros(1),
        "quantizer.zero": zeros(1),
        "loss.scales": zeros(3),
        "codes.blocks": raw(4, 16),
        "bytes.weight": raw(4, 4),
        "ssm.B": zeros(4, 4),
    }
    found = inspect(tmp_path, made)
    assert found.weights.quantized == () and faults(found) == []


def test_a_seven_billion_model_says_so(tmp_path: Path) -> None:
    """The shapes of a Llama of 7 B in GPTQ, on the meta device: only the header is looked at."""
    from ckpttool.inspection.card import make_card
    from ckpttool.render.inspection_head import iter_head
    from tests.support.headers import pack

    hidden, inner, vocabulary = 4096, 11008, 32000
    header: dict[str, object] = {}
    place = 0

    def add(name: str, tag: str, shape: tuple[int, ...], nbytes: int) -> None:
        nonlocal place
        end = place + math.prod(shape) * nbytes
        header[name] = {"dtype": tag, "shape": list(shape), "data_offsets": [place, end]}
        place = end

    add("model.embed_tokens.weight", "F16", (vocabulary, hidden), 2)
    add("lm_head.weight", "F16", (vocabulary, hidden), 2)
    for layer in range(32):
        for name in ("input_layernorm", "post_attention_layernorm"):
            add(f"model.layers.{layer}.{name}.weight", "F16", (hidden,), 2)
        sizes = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (hidden, hidden))
        sizes |= {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
        for name, (out, inputs) in sizes.items():
            at = f"model.layers.{layer}.mlp.{name}"
            add(f"{at}.qweight", "I32", (inputs // 8, out), 4)
            add(f"{at}.qzeros", "I32", (inputs // 128, out // 8), 4)
            add(f"{at}.scales", "F16", (inputs // 128, out), 2)
            add(f"{at}.g_idx", "I32", (inputs,), 4)
    add("model.norm.weight", "F16", (hidden,), 2)
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.write(pack(header))
        file.truncate(file.tell() + place)  # a hole: no disk is used
    found = inspect_checkpoint(read_checkpoint(str(path)))
    assert found.weights.weights_numel == 6_738_415_616  # as the model's own page counts it
    lines = ["".join(span.text for span in line) for line in iter_head(found, 200, (), make_card(found))]
    assert lines[1].startswith(
        "Llama-style decoder · about 6.74 B weights · 32 layers × 4096 · vocabulary 32,000 · "
        "GPTQ 4-bit, group 128 · "
    )


def test_a_tensor_subclass_of_torchao_counts_as_what_it_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickled wrapper subclass as torchao has them: int8 data and a scale inside, bfloat16 outside."""
    module = types.ModuleType("torchao.quantization.made_up")

    class Int8Tensor(torch.Tensor):
        data_: torch.Tensor
        scale: torch.Tensor

        @staticmethod
        def __new__(cls, data: torch.Tensor, scale: torch.Tensor) -> Int8Tensor:  # type: ignore[no-untyped-def]
            made = torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=torch.bfloat16)
            made.data_, made.scale = data, scale
            return made

        @classmethod
        def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return args[0]

    Int8Tensor.__module__, Int8Tensor.__qualname__ = module.__name__, "Int8Tensor"
    module.Int8Tensor = Int8Tensor  # type: ignore[attr-defined]
    for name in ("torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weight = Int8Tensor(torch.zeros(64, 32, dtype=torch.int8), torch.zeros(64))
    torch.save({"proj.weight": weight, "norm.weight": torch.zeros(64)}, tmp_path / "m.pt")
    found = inspect_checkpoint(read_checkpoint(str(tmp_path / "m.pt")))
    assert found.weights.quantized == (("torchao", 8, None, "", 1, 64 * 32),)
    assert found.weights.weights_numel == 64 * 32 + 64
