"""Ten kinds of model as files of shapes only: the names that their libraries give, and no byte of data."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

Names = Iterator[tuple[str, str, tuple[int, ...]]]  # name, tag of safetensors, shape

_BITS = {"F32": 32, "BF16": 16, "F16": 16, "I64": 64, "I32": 32}


def write_shapes(path: Path, names: Names) -> None:
    """Write a file of safetensors that holds ``names``; its data is a hole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tag, shape in names:
        size = _BITS[tag] // 8
        for length in shape:
            size *= length
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + end)


def _linear(name: str, rows: int, columns: int, tag: str = "F32", *, bias: bool = True) -> Names:
    yield f"{name}.weight", tag, (rows, columns)
    if bias:
        yield f"{name}.bias", tag, (rows,)


def _norm(name: str, width: int) -> Names:
    yield f"{name}.weight", "F32", (width,)
    yield f"{name}.bias", "F32", (width,)


def _batch_norm(name: str, width: int) -> Names:
    yield from _norm(name, width)
    yield f"{name}.running_mean", "F32", (width,)
    yield f"{name}.running_var", "F32", (width,)
    yield f"{name}.num_batches_tracked", "I64", ()


def _conv(name: str, rows: int, columns: int, size: int, *, bias: bool = False) -> Names:
    yield f"{name}.weight", "F32", (rows, columns, size, size)
    if bias:
        yield f"{name}.bias", "F32", (rows,)


def llama(layers: int = 32, width: int = 4096, inner: int = 11008, words: int = 32000) -> Names:
    """``transformers``: LlamaForCausalLM."""
    yield "model.embed_tokens.weight", "BF16", (words, width)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", "BF16", (width,)
        for part, shape in (("down", (width, inner)), ("gate", (inner, width)), ("up", (inner, width))):
            yield f"{at}.mlp.{part}_proj.weight", "BF16", shape
        yield f"{at}.post_attention_layernorm.weight", "BF16", (width,)
        for part in "kqvo":
            yield f"{at}.self_attn.{part}_proj.weight", "BF16", (width, width)
    yield "model.norm.weight", "BF16", (width,)
    yield "lm_head.weight", "BF16", (words, width)


def gpt2(layers: int = 12, width: int = 768) -> Names:
    """``transformers``: GPT2Model, whose attn.bias is a mask."""
    yield "wte.weight", "F32", (50257, width)
    yield "wpe.weight", "F32", (1024, width)
    for layer in range(layers):
        at = f"h.{layer}"
        yield from _norm(f"{at}.ln_1", width)
        yield f"{at}.attn.bias", "F32", (1, 1, 1024, 1024)
        for part, shape in (
            ("attn.c_attn", (width, 3 * width)), ("attn.c_proj", (width, width)),
            ("mlp.c_fc", (width, 4 * width)), ("mlp.c_proj", (4 * width, width)),
        ):  # fmt: skip
            yield f"{at}.{part}.weight", "F32", shape
            yield f"{at}.{part}.bias", "F32", shape[1:]
        yield from _norm(f"{at}.ln_2", width)
    yield from _norm("ln_f", width)


def vit(layers: int = 12, width: int = 768) -> Names:
    """``timm``: vit_base_patch16_224."""
    yield "cls_token", "F32", (1, 1, width)
    yield "pos_embed", "F32", (1, 197, width)
    yield from _conv("patch_embed.proj", width, 3, 16, bias=True)
    for layer in range(layers):
        at = f"blocks.{layer}"
        yield from _norm(f"{at}.norm1", width)
        yield from _linear(f"{at}.attn.qkv", 3 * width, width)
        yield from _linear(f"{at}.attn.proj", width, width)
        yield from _norm(f"{at}.norm2", width)
        yield from _linear(f"{at}.mlp.fc1", 4 * width, width)
        yield from _linear(f"{at}.mlp.fc2", width, 4 * width)
    yield from _norm("norm", width)
    yield from _linear("head", 1000, width)


def resnet(blocks: tuple[int, ...] = (3, 4, 6, 3)) -> Names:
    """``torchvision``: resnet50."""
    yield from _conv("conv1", 64, 3, 7)
    yield from _batch_norm("bn1", 64)
    before = 64
    for stage, count in enumerate(blocks, 1):
        width = 32 << stage
        for block in range(count):
            at = f"layer{stage}.{block}"
            for number, (rows, columns, size) in enumerate(
                ((width, before, 1), (width, width, 3), (4 * width, width, 1)), 1
            ):
                yield from _conv(f"{at}.conv{number}", rows, columns, size)
                yield from _batch_norm(f"{at}.bn{number}", rows)
            if not block:
                yield from _conv(f"{at}.downsample.0", 4 * width, before, 1)
                yield from _batch_norm(f"{at}.downsample.1", 4 * width)
            before = 4 * width
    yield from _linear("fc", 1000, before)


def mobilenet() -> Names:
    """``torchvision``: mobilenet_v2."""
    yield from _conv("features.0.0", 32, 3, 3)
    yield from _batch_norm("features.0.1", 32)
    at, before = 1, 32
    for expand, width, count in (
        (1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1),
    ):  # fmt: skip
        for _ in range(count):
            inner, place = before * expand, 0
            if expand > 1:
                yield from _conv(f"features.{at}.conv.0.0", inner, before, 1)
                yield from _batch_norm(f"features.{at}.conv.0.1", inner)
                place = 1
            yield from _conv(f"features.{at}.conv.{place}.0", inner, 1, 3)
            yield from _batch_norm(f"features.{at}.conv.{place}.1", inner)
            yield from _conv(f"features.{at}.conv.{place + 1}", width, inner, 1)
            yield from _batch_norm(f"features.{at}.conv.{place + 2}", width)
            at, before = at + 1, width
    yield from _conv(f"features.{at}.0", 1280, before, 1)
    yield from _batch_norm(f"features.{at}.1", 1280)
    yield from _linear("classifier.1", 1000, 1280)


_PATHS = ((0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 1), (1, 1, 0), (1, 1, 2), (1, 2, 1), (2, 0, 2), (2, 1, 1),
          (2, 2, 0), (2, 2, 2))  # fmt: skip


def equivariant(layers: int = 5) -> Names:
    """``sevenn``: SevenNet, with the Wigner 3j symbols that e3nn compiles into each convolution."""
    yield "edge_embedding.basis_function.coeffs", "F32", (8,)
    yield "onehot_to_feature_x.linear.weight", "F32", (89 * 128,)
    for layer in range(layers):
        inner = 128 if not layer else 480
        yield f"{layer}_self_connection_intro.fc_tensor_product.weight", "F32", (inner * 89,)
        yield f"{layer}_self_interaction_1.linear.weight", "F32", (inner * 128,)
        yield f"{layer}_convolution.denominator", "F32", ()
        for left, right, out in _PATHS if layer else _PATHS[:3]:
            shape = (2 * left + 1, 2 * right + 1, 2 * out + 1)
            core = f"{layer}_convolution.convolution._compiled_main_left_right"
            yield f"{core}._w3j_{left}_{right}_{out}", "F32", shape
        paths = 11 if layer else 3
        yield f"{layer}_convolution.weight_nn.layer0.weight", "F32", (8, 64)
        yield f"{layer}_convolution.weight_nn.layer1.weight", "F32", (64, 64)
        yield f"{layer}_convolution.weight_nn.layer2.weight", "F32", (64, 64 * paths)
        yield f"{layer}_self_interaction_2.linear.weight", "F32", (inner * 224,)
        yield f"{layer}_equivariant_gate.gate.mul._w3j_1_0_1", "F32", (3, 1, 3)
        yield f"{layer}_equivariant_gate.gate.mul._w3j_2_0_2", "F32", (5, 1, 5)
    yield "reduce_input_to_hidden.linear.weight", "F32", (8192,)
    yield "reduce_hidden_to_energy.linear.weight", "F32", (64,)
    yield "rescale_atomic_energy.shift", "F32", (89,)
    yield "rescale_atomic_energy.scale", "F32", (89,)


def unet() -> Names:
    """``diffusers``: UNet2DConditionModel, its down and up blocks."""
    widths = (320, 640, 1280, 1280)
    yield from _conv("conv_in", 320, 4, 3, bias=True)
    yield from _linear("time_embedding.linear_1", 1280, 320)
    yield from _linear("time_embedding.linear_2", 1280, 1280)
    for side, order, count in (("down", widths, 2), ("up", widths[::-1], 3)):
        for stage, width in enumerate(order):
            at = f"{side}_blocks.{stage}"
            for block in range(count):
                if (stage < 3) if side == "down" else stage:
                    inner = f"{at}.attentions.{block}"
                    yield from _norm(f"{inner}.norm", width)
                    yield from _conv(f"{inner}.proj_in", width, width, 1, bias=True)
                    for part, columns in (("attn1", width), ("attn2", 768)):
                        yield from _linear(
                            f"{inner}.transformer_blocks.0.{part}.to_q", width, width, bias=False
                        )
                        for key in "kv":
                            name = f"{inner}.transformer_blocks.0.{part}.to_{key}"
                            yield from _linear(name, width, columns, bias=False)
                        yield from _linear(f"{inner}.transformer_blocks.0.{part}.to_out.0", width, width)
                    for number in "123":
                        yield from _norm(f"{inner}.transformer_blocks.0.norm{number}", width)
                    yield from _linear(f"{inner}.transformer_blocks.0.ff.net.0.proj", 8 * width, width)
                    yield from _linear(f"{inner}.transformer_blocks.0.ff.net.2", width, 4 * width)
                    yield from _conv(f"{inner}.proj_out", width, width, 1, bias=True)
                inner = f"{at}.resnets.{block}"
                yield from _norm(f"{inner}.norm1", width)
                yield from _conv(f"{inner}.conv1", width, width, 3, bias=True)
                yield from _linear(f"{inner}.time_emb_proj", width, 1280)
                yield from _norm(f"{inner}.norm2", width)
                yield from _conv(f"{inner}.conv2", width, width, 3, bias=True)
    yield from _norm("conv_norm_out", 320)
    yield from _conv("conv_out", 4, 320, 3, bias=True)


def lora(layers: int = 32, width: int = 4096, rank: int = 16) -> Names:
    """``peft``: an adapter of a decoder's attention."""
    for layer in range(layers):
        for part in ("q_proj", "v_proj"):
            at = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            yield f"{at}.lora_A.weight", "F32", (rank, width)
            yield f"{at}.lora_B.weight", "F32", (width, rank)


def gptq(layers: int = 32, width: int = 4096, inner: int = 11008) -> Names:
    """A decoder quantised to four bits by GPTQ, in groups of 128."""
    for name, tag, shape in llama(layers, width, inner):
        if not name.endswith("_proj.weight"):
            yield name, "F16" if tag == "BF16" else tag, shape
            continue
        at, (rows, columns) = name.removesuffix(".weight"), shape
        yield f"{at}.g_idx", "I32", (columns,)
        yield f"{at}.qweight", "I32", (columns // 8, rows)
        yield f"{at}.qzeros", "I32", (columns // 128, rows // 8)
        yield f"{at}.scales", "F16", (columns // 128, rows)


ARCHITECTURES: dict[str, Callable[[], Names]] = {
    "llama": llama, "gpt2": gpt2, "vit": vit, "resnet": resnet, "mobilenet": mobilenet,
    "equivariant": equivariant, "unet": unet, "lora": lora, "gptq": gptq,
}  # fmt: skip
"""All but a training checkpoint, which is a pickle."""
