"""Names and shapes of published families of models, as their libraries have them, from a config's numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

from tests.support.headers import pack

Shapes = dict[str, tuple[int, ...]]

_NBYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}


def write(folder: Path, shapes: Shapes, tag: str = "F32", name: str = "model.safetensors") -> Path:
    """A file of safetensors with these shapes and no bytes on the disk; GPTQ's integers are integers."""
    header, place = {}, 0
    for key, shape in shapes.items():
        dtype = "I32" if key.endswith(("qweight", "qzeros", "g_idx")) else tag
        end = place + prod(shape) * _NBYTES[dtype]
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        place = end
    folder.mkdir(exist_ok=True)
    with open(folder / name, "wb") as file:
        file.write(pack({"__metadata__": {"format": "pt"}, **header}))
        file.truncate(file.tell() + place)
    return folder / name


def write_json(folder: Path, **documents: object) -> None:
    """``config={…}`` becomes config.json; a text is written as it is."""
    for name, document in documents.items():
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / f"{name}.json").write_text(text, "utf-8")


def linear(name: str, out: int, inputs: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, inputs), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def conv(name: str, out: int, inputs: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (out, inputs, side, side)}


def batch_norm(name: str, size: int) -> Shapes:
    return {**norm(name, size), f"{name}.running_mean": (size,), f"{name}.running_var": (size,)}


def llama(layers: int = 32, hidden: int = 4096, inner: int = 11008, words: int = 32000) -> Shapes:
    made: Shapes = {"model.embed_tokens.weight": (words, hidden)}
    for at in (f"model.layers.{layer}" for layer in range(layers)):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            made |= linear(f"{at}.self_attn.{part}", hidden, hidden, False)
        for part in ("gate_proj", "up_proj"):
            made |= linear(f"{at}.mlp.{part}", inner, hidden, False)
        made |= linear(f"{at}.mlp.down_proj", hidden, inner, False)
        made |= {f"{at}.{part}.weight": (hidden,) for part in ("input_layernorm", "post_attention_layernorm")}
    return made | {"model.norm.weight": (hidden,), "lm_head.weight": (words, hidden)}


def mixtral(
    layers: int = 4, hidden: int = 64, inner: int = 128, words: int = 500, experts: int = 8
) -> Shapes:
    made = {name: shape for name, shape in llama(layers, hidden, inner, words).items() if ".mlp." not in name}
    for at in (f"model.layers.{layer}.block_sparse_moe" for layer in range(layers)):
        made |= linear(f"{at}.gate", experts, hidden, False)
        for expert in range(experts):
            made |= linear(f"{at}.experts.{expert}.w1", inner, hidden, False)
            made |= linear(f"{at}.experts.{expert}.w2", hidden, inner, False)
            made |= linear(f"{at}.experts.{expert}.w3", inner, hidden, False)
    return made


def gpt2(layers: int = 12, hidden: int = 768, words: int = 50257) -> Shapes:
    """Its Conv1D keeps weights as (in, out)."""
    made: Shapes = {"wte.weight": (words, hidden), "wpe.weight": (1024, hidden)}
    for at in (f"h.{layer}" for layer in range(layers)):
        made |= norm(f"{at}.ln_1", hidden) | norm(f"{at}.ln_2", hidden)
        for part, inputs, out in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            made |= {f"{at}.{part}.weight": (inputs, out), f"{at}.{part}.bias": (out,)}
    return made | norm("ln_f", hidden)


def bert_layer(at: str, hidden: int, inner: int) -> Shapes:
    made: Shapes = {}
    for part in ("query", "key", "value"):
        made |= linear(f"{at}.attention.self.{part}", hidden, hidden)
    made |= linear(f"{at}.attention.output.dense", hidden, hidden)
    made |= linear(f"{at}.intermediate.dense", inner, hidden) | linear(f"{at}.output.dense", hidden, inner)
    return made | norm(f"{at}.attention.output.LayerNorm", hidden) | norm(f"{at}.output.LayerNorm", hidden)


def bert(layers: int = 12, hidden: int = 768, inner: int = 3072, words: int = 30522) -> Shapes:
    at = "bert.embeddings"
    made: Shapes = {
        f"{at}.word_embeddings.weight": (words, hidden),
        f"{at}.position_embeddings.weight": (512, hidden),
        f"{at}.token_type_embeddings.weight": (2, hidden),
        **norm(f"{at}.LayerNorm", hidden),
    }
    for layer in range(layers):
        made |= bert_layer(f"bert.encoder.layer.{layer}", hidden, inner)
    return made | linear("bert.pooler.dense", hidden, hidden)


def t5(
    encoder: int = 6, decoder: int = 4, hidden: int = 512, inner: int = 2048, words: int = 32128
) -> Shapes:
    made: Shapes = {"shared.weight": (words, hidden)}
    for side, layers in (("encoder", encoder), ("decoder", decoder)):
        for block in (f"{side}.block.{layer}.layer" for layer in range(layers)):
            kinds = ("SelfAttention", "EncDecAttention")[: 2 if side == "decoder" else 1]
            for at, kind in enumerate(kinds):
                for part in "qkvo":
                    made |= linear(f"{block}.{at}.{kind}.{part}", hidden, hidden, False)
                made |= {f"{block}.{at}.layer_norm.weight": (hidden,)}
            made |= linear(f"{block}.{len(kinds)}.DenseReluDense.wi", inner, hidden, False)
            made |= linear(f"{block}.{len(kinds)}.DenseReluDense.wo", hidden, inner, False)
        made |= {f"{side}.final_layer_norm.weight": (hidden,)}
    return made


def vit(layers: int = 12, hidden: int = 192) -> Shapes:
    """As timm has it."""
    made: Shapes = {"cls_token": (1, 1, hidden), "pos_embed": (1, 197, hidden)}
    made |= conv("patch_embed.proj", hidden, 3, 16) | {"patch_embed.proj.bias": (hidden,)}
    for at in (f"blocks.{layer}" for layer in range(layers)):
        made |= norm(f"{at}.norm1", hidden) | norm(f"{at}.norm2", hidden)
        made |= linear(f"{at}.attn.qkv", 3 * hidden, hidden) | linear(f"{at}.attn.proj", hidden, hidden)
        made |= linear(f"{at}.mlp.fc1", 4 * hidden, hidden) | linear(f"{at}.mlp.fc2", hidden, 4 * hidden)
    return made | norm("norm", hidden) | linear("head", 1000, hidden)


def swin(depths: tuple[int, ...] = (2, 2, 6, 2), width: int = 96) -> Shapes:
    """As timm has it: the width doubles from stage to stage."""
    made = conv("patch_embed.proj", width, 3, 4) | norm("patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        size = width << stage
        for at in (f"layers.{stage}.blocks.{block}" for block in range(depth)):
            made |= norm(f"{at}.norm1", size) | norm(f"{at}.norm2", size)
            made |= {f"{at}.attn.relative_position_bias_table": (169, 3 << stage)}
            made |= linear(f"{at}.attn.qkv", 3 * size, size) | linear(f"{at}.attn.proj", size, size)
            made |= linear(f"{at}.mlp.fc1", 4 * size, size) | linear(f"{at}.mlp.fc2", size, 4 * size)
    return made | linear("head.fc", 1000, width << (len(depths) - 1))


def resnet(depths: tuple[int, ...] = (2, 2, 2, 2), width: int = 64) -> Shapes:
    """As torchvision has it, of basic blocks."""
    made = conv("conv1", width, 3, 7) | batch_norm("bn1", width)
    inputs = width
    for stage, depth in enumerate(depths):
        out = width << stage
        for at in (f"layer{stage + 1}.{block}" for block in range(depth)):
            made |= conv(f"{at}.conv1", out, inputs) | batch_norm(f"{at}.bn1", out)
            made |= conv(f"{at}.conv2", out, out) | batch_norm(f"{at}.bn2", out)
            if inputs != out:
                made |= conv(f"{at}.downsample.0", out, inputs, 1) | batch_norm(f"{at}.downsample.1", out)
            inputs = out
    return made | linear("fc", 1000, inputs)


def mobilenet(blocks: int = 5, width: int = 16) -> Shapes:
    """As torchvision has its MobileNetV2: expand, one filter a channel, project."""
    made = conv("features.0.0", width, 3) | batch_norm("features.0.1", width)
    for at in (f"features.{block}.conv" for block in range(1, blocks + 1)):
        made |= conv(f"{at}.0.0", 6 * width, width, 1) | batch_norm(f"{at}.0.1", 6 * width)
        made |= conv(f"{at}.1.0", 6 * width, 1) | batch_norm(f"{at}.1.1", 6 * width)
        made |= conv(f"{at}.2", width, 6 * width, 1) | batch_norm(f"{at}.3", width)
    return made | linear("classifier.1", 1000, width)


def unet(width: int = 32) -> Shapes:
    """As diffusers has it, with one resnet and one attention a stage."""
    made = conv("conv_in", width, 4) | conv("conv_out", 4, width)
    made |= linear("time_embedding.linear_1", 4 * width, width)
    for side in ("down_blocks", "up_blocks"):
        for at in (f"{side}.{stage}" for stage in range(2)):
            made |= conv(f"{at}.resnets.0.conv1", width, width) | conv(f"{at}.resnets.0.conv2", width, width)
            made |= linear(f"{at}.resnets.0.time_emb_proj", width, 4 * width)
            for kind in ("attn1", "attn2"):
                block = f"{at}.attentions.0.transformer_blocks.0.{kind}"
                for part in ("to_q", "to_k", "to_v", "to_out.0"):
                    made |= linear(f"{block}.{part}", width, width, False)
    return made


def graph(layers: int = 3, width: int = 16) -> Shapes:
    """GCN as torch_geometric has it: the bias stands beside the Linear."""
    return {
        name: shape
        for at in (f"convs.{layer}" for layer in range(layers))
        for name, shape in ((f"{at}.bias", (width,)), (f"{at}.lin.weight", (width, width)))
    }


def lora(
    layers: int = 32, hidden: int = 4096, rank: int = 8, targets: tuple[str, ...] = ("q_proj", "v_proj")
) -> Shapes:
    """As PEFT saves an adapter."""
    made: Shapes = {}
    for layer in range(layers):
        for target in targets:
            at = f"base_model.model.model.layers.{layer}.self_attn.{target}"
            made |= {f"{at}.lora_A.weight": (rank, hidden), f"{at}.lora_B.weight": (hidden, rank)}
    return made


def gptq(layers: int = 4, hidden: int = 256, inner: int = 512, words: int = 1000) -> Shapes:
    """``llama`` in 4 bits, as AutoGPTQ saves it: its group is 128."""
    made: Shapes = {}
    for name, shape in llama(layers, hidden, inner, words).items():
        if "_proj." not in name:
            made[name] = shape
            continue
        at, (out, inputs) = name.removesuffix(".weight"), shape
        made |= {
            f"{at}.qweight": (inputs // 8, out),
            f"{at}.qzeros": (inputs // 128, out // 8),
            f"{at}.scales": (inputs // 128, out),
            f"{at}.g_idx": (inputs,),
        }
    return made


def numel(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(prod(shape) for shape in shapes.values())
