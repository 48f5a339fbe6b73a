"""What names and shapes prove of a model: which architecture, how many blocks, how wide, which vocabulary.

Only structure counts: blocks that are numbered and alike, and the modules in them that belong together. What
fits no rule has no architecture here, but may still have blocks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeAlias

from ckpttool.values.words import plural

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]
"""Of the tensors of a state_dict, by name, without what wrappers put in front."""

# The modules of one attention, by that of its queries.
_SEPARATE = {
    "q_proj": ("k_proj", "v_proj"),
    "query": ("key", "value"),
    "q": ("k", "v"),
    "q_lin": ("k_lin", "v_lin"),
    "to_q": ("to_k", "to_v"),
    "wq": ("wk", "wv"),
    "query_proj": ("key_proj", "value_proj"),
}
_FUSED = frozenset(
    "qkv c_attn query_key_value qkv_proj Wqkv W_pack kv_a_proj_with_mqa in_proj_weight".split()
)
_CROSS = ("cross", "encdec", "encoder_attn", "multihead_attn", "attn2")  # in lower case
_GATED = tuple(
    map(
        frozenset,
        (
            ("gate_proj", "up_proj", "down_proj"),
            ("gate_up_proj", "down_proj"),
            ("w1", "w2", "w3"),
        ),
    )
)
_OUTPUTS = frozenset(("o_proj", "wo"))
_PATCHES = frozenset("conv_proj patchifier patch_projection".split())  # and what begins with patch_embed
_EMBEDDINGS = frozenset(
    """
    embed_tokens wte word_embeddings word_embedding shared tok_embeddings embed_in token_embedding
    token_embedding_table token_embd tokens_embed
    """.split()
)
_HEADS = frozenset(("lm_head", "embed_out"))
_LORA = frozenset(("lora_A", "lora_down"))
_CELLS = {4: "LSTM", 3: "GRU", 1: "recurrent"}  # torch/nn/modules/rnn.py: gates whose weights are stacked
_DOWN_UP = r"(?:^|\.)(down|up)(?:_?\d+|s\.\d+|_path\.\d+)\."
_GRAPH = (frozenset(("att_src", "att_dst")), frozenset(("lin_l", "lin_r")))  # of torch_geometric.nn
_SKIPS = ("0.weight", "weight", "conv.weight", "convolution.weight")  # of a 1×1 convolution around a block
_TIME = frozenset("time_embedding time_embed time_mlp t_embedder time_proj".split())
_FEW = 4  # attentions of a UNet's stages, not of a transformer


class Tower(NamedTuple):
    """Blocks that are numbered below one prefix: how many, how wide, and in how many stages (1: in none)."""

    prefix: str
    layers: int
    hidden: int | None
    stages: int = 1


class Structure(NamedTuple):
    """What names and shapes prove; ``architecture`` is in words, and empty where nothing proves one.

    ``embedding`` is the name that the ``vocabulary`` is the first size of. ``experts`` are those of each
    mixture, and ``expert_numel`` the elements of all. ``ranks`` and ``targets`` are of LoRA.
    """

    architecture: str = ""
    towers: tuple[Tower, ...] = ()
    vocabulary: int | None = None
    embedding: str = ""
    experts: int = 0
    expert_numel: int = 0
    ranks: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()


def is_adapter(found: Structure) -> bool:
    """Whether there is nothing but an adapter."""
    return bool(found.ranks) and not found.architecture and not found.towers


class _Series(NamedTuple):
    """What lies below one prefix and a number."""

    indices: set[str]
    parts: set[str]
    attentions: dict[str, Shape]  # those on itself: path of the module -> shape of what gives the queries
    crossed: list[str]


def find_structure(shapes: Shapes) -> Structure:
    """What ``shapes`` prove of a model. Work is linear in names."""
    series, parts = _group(shapes)
    ranks, targets = _find_lora(shapes)
    experts, expert_numel = _find_experts(shapes)
    lora = Structure(ranks=ranks, targets=targets)
    attentive = {prefix: item for prefix, item in series.items() if item.attentions}
    convolutions = [shape for name, shape in shapes.items() if _is_convolution(name, shape)]
    if ranks and all("lora_" in name for name in shapes):
        return lora
    if words := _of_stages(shapes, parts, convolutions):
        return lora._replace(architecture=words)
    vocabulary, embedding = _find_vocabulary(shapes)
    found = lora._replace(
        vocabulary=vocabulary, embedding=embedding, experts=experts, expert_numel=expert_numel
    )
    if attentive:
        return _of_attention(found, shapes, attentive, parts)
    blocks = max(series.items(), key=lambda item: len(item[1].indices), default=None)
    towers: tuple[Tower, ...] = ()
    if blocks is not None and len(blocks[1].indices) > 1:
        towers = (Tower(blocks[0], len(blocks[1].indices), _common_width(shapes, blocks[0])),)
    if "A_log" in parts and "conv1d" in parts:
        return found._replace(architecture="state-space model (Mamba-style)", towers=towers)
    if recurrent := _of_recurrence(shapes, convolutions):
        words, tower = recurrent
        return found._replace(architecture=words, towers=(tower,) if tower else ())
    if any(graph <= parts for graph in _GRAPH) or _is_gcn(shapes):
        return lora._replace(architecture="graph network", towers=towers)
    if len(convolutions) > 1:
        return lora._replace(architecture=_of_convolutions(shapes, convolutions))
    return found._replace(towers=towers)


def _group(shapes: Shapes) -> tuple[dict[str, _Series], set[str]]:
    """The names by what stands before their first number, and all parts of names."""
    series: dict[str, _Series] = {}
    everything: set[str] = set()
    seen: set[tuple[str, ...]] = set()
    for name, shape in shapes.items():
        parts = name.split(".")
        at = next((at for at, part in enumerate(parts) if part.isdecimal()), 0)
        if not at:
            everything.update(parts)
            continue
        prefix, rest = ".".join(parts[:at]), parts[at + 1 :]
        item = series.get(prefix)
        if item is None:
            item = series[prefix] = _Series(set(), set(), {}, [])
        item.indices.add(parts[at])
        if (key := (prefix, *rest)) not in seen:  # most blocks are alike
            seen.add(key)
            everything.update(parts)
            item.parts.update(rest)
        if (path := _attention(parts, shapes)) is None:
            continue
        if any(word in path.lower() for word in _CROSS):
            item.crossed.append(path)
        else:
            item.attentions.setdefault(path, shape)
    return series, everything


def _attention(parts: Sequence[str], shapes: Shapes) -> str | None:
    """The path of the attention whose queries a tensor gives, if it gives any."""
    if parts[-1] in _FUSED:  # nn.MultiheadAttention
        return ".".join(parts[:-1])
    role = parts[-2] if len(parts) > 1 else ""
    if parts[-1] not in ("weight", "qweight", "weight_packed", "B") or len(parts) < 3:
        return None
    above = ".".join(parts[:-2])
    if role in _FUSED:
        return above
    others = _SEPARATE.get(role, ())
    return above if others and all(f"{above}.{other}.{parts[-1]}" in shapes for other in others) else None


def _find_lora(shapes: Shapes) -> tuple[tuple[int, ...], tuple[str, ...]]:
    ranks: set[int] = set()
    targets: dict[str, None] = {}
    for name, shape in shapes.items():
        if "lora_" not in name or not shape:
            continue
        parts = name.split(".")
        at = next((at for at, part in enumerate(parts) if part in _LORA), 0)
        if at:
            ranks.add(shape[0])  # (rank, in_features), of a convolution (rank, in_channels, height, width)
            targets[parts[at - 1]] = None
    return tuple(sorted(ranks)), tuple(targets)


def _find_experts(shapes: Shapes) -> tuple[int, int]:
    """How many experts each mixture has, and how many elements all have together."""
    numbers: set[str] = set()
    most = numel = 0
    for name, shape in shapes.items():
        if "experts." not in name:
            continue
        parts = name.split(".")
        after = parts[parts.index("experts") + 1 :] if "experts" in parts else []
        if not after:
            continue
        if after[0].isdecimal():
            numbers.add(after[0])
        elif len(shape) > 2:  # all of them in one tensor
            most = max(most, shape[0])
        else:
            continue
        numel += _numel(shape)
    return max(most, len(numbers)), numel


def _numel(shape: Shape) -> int:
    numel = 1
    for size in shape:
        numel *= size
    return numel


def _find_vocabulary(shapes: Shapes) -> tuple[int | None, str]:
    head = ""
    for name, shape in shapes.items():
        if len(shape) == 2 and name.endswith("weight"):
            role = name.rpartition(".")[0].rpartition(".")[2]
            if role in _EMBEDDINGS:
                return shape[0], name
            if role in _HEADS:
                head = head or name
    return (shapes[head][0], head) if head else (None, "")


def _is_convolution(name: str, shape: Shape) -> bool:
    leaf = name.rpartition(".")[2]
    if leaf not in ("weight", "weight_v", "original1"):
        return False
    return len(shape) in (4, 5) or (len(shape) == 3 and "conv" in name)


# ----------------------------------------------------------------------------------------- transformers


def _of_attention(
    found: Structure, shapes: Shapes, attentive: Mapping[str, _Series], parts: AbstractSet[str]
) -> Structure:
    """Transformers: the towers, the widest first but an encoder before its decoder, and what they are."""
    towers = {prefix: _tower(prefix, item, shapes) for prefix, item in attentive.items()}
    ranked = sorted(towers, key=lambda prefix: -towers[prefix].layers * (towers[prefix].hidden or 1) ** 2)
    patches = next((name for name, shape in shapes.items() if _is_patches(name, shape)), "")
    main = ranked[0]
    encoder, decoder = (_side(ranked, word) for word in ("encoder", "decoder"))
    if encoder and decoder and attentive[decoder].crossed:
        style = "T5-style " if "EncDecAttention" in attentive[decoder].parts else ""
        words = f"{style}encoder-decoder" if style else "encoder-decoder transformer"
        return found._replace(architecture=words, towers=(towers[encoder], towers[decoder]))
    if "adaLN_modulation" in parts or "adaln_single" in parts or {"x_embedder", "t_embedder"} <= parts:
        return found._replace(architecture="diffusion transformer (DiT)", towers=(towers[main],))
    second = next(
        (
            prefix
            for prefix in ranked[1:]
            if prefix.partition(".")[0] != main.partition(".")[0] and towers[prefix].layers > 1
        ),
        None,
    )
    shown = [main] if second is None else [main, second]
    words = " and ".join(
        [
            _tower_words(
                prefix,
                attentive[prefix],
                towers[prefix],
                parts,
                bool(patches) and (second is None or patches.partition(".")[0] == prefix.partition(".")[0]),
                found.experts,
            )
            for prefix in shown
        ]
    )
    return found._replace(architecture=words, towers=tuple([towers[prefix] for prefix in shown]))


def _side(prefixes: Sequence[str], word: str) -> str:
    return next((prefix for prefix in prefixes if word in prefix.split(".")), "")


def _is_patches(name: str, shape: Shape) -> bool:
    return len(shape) in (4, 5) and any(
        part in _PATCHES or part.startswith("patch_embed") for part in name.split(".")
    )


def _tower(prefix: str, item: _Series, shapes: Shapes) -> Tower:
    path, shape = next(iter(item.attentions.items()))
    indices, blocks = len(item.indices), len(item.attentions)
    nested = blocks > indices and _number_of_numbers(path) > _number_of_numbers(prefix) + 1
    layers, stages = (blocks, indices) if nested else (indices, 1)
    return Tower(prefix, layers, None if nested else _width(path, shape, shapes), stages)


def _number_of_numbers(path: str) -> int:
    return sum(part.isdecimal() for part in path.split("."))


def _width(attention: str, shape: Shape, shapes: Shapes) -> int | None:
    """How many features a block takes: those of its norms, else the inputs of its queries."""
    parts = attention.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdecimal()), -1)
    block = "".join([f"{part}." for part in parts[: number + 1]])
    sizes: Counter[int] = Counter()
    for name in ("input_layernorm", "ln_1", "norm1", "layernorm_before", "ln1", "self_attn_layer_norm"):
        norm = shapes.get(f"{block}{name}.weight")
        if norm is not None and len(norm) == 1:
            sizes[norm[0]] += 1
    if sizes:
        return sizes.most_common(1)[0][0]
    if len(shape) == 2 and f"{attention}.q_proj.qweight" not in shapes:
        return shape[0] if f"{attention}.c_attn.weight" in shapes else shape[1]
    return None


def _common_width(shapes: Shapes, prefix: str) -> int | None:
    """The one size of all vectors of blocks, if they agree."""
    sizes = {shape[0] for name, shape in shapes.items() if len(shape) == 1 and name.startswith(f"{prefix}.")}
    return sizes.pop() if len(sizes) == 1 else None


def _tower_words(
    prefix: str, item: _Series, tower: Tower, parts: AbstractSet[str], patches: bool, experts: int
) -> str:
    inside = item.parts
    if patches:
        windows = "relative_position_bias_table" in inside and tower.stages > 1
        return "Swin-style vision transformer" if windows else "vision transformer"
    gated = any(names <= inside for names in _GATED)
    if gated and not _OUTPUTS.isdisjoint(inside):
        return "Llama-style mixture-of-experts decoder" if experts else "Llama-style decoder"
    if {"c_attn", "c_proj", "c_fc"} <= inside:
        return "GPT-2-style decoder"
    if {"query_key_value", "dense_h_to_4h"} <= inside:
        return "GPT-NeoX-style decoder"
    if {"query", "intermediate", "output", "dense"} <= inside and not item.crossed:
        return "BERT-style encoder"
    if {"q_lin", "lin1", "lin2"} <= inside:
        return "DistilBERT-style encoder"
    names = prefix.split(".")
    side = next((word for word in ("decoder", "encoder") if word in names), "")
    return f"transformer {side}".rstrip()


# ----------------------------------------------------------------------------------- all other networks


def _of_stages(shapes: Shapes, parts: AbstractSet[str], convolutions: Sequence[Shape]) -> str:
    """A UNet, or the autoencoder that has the same stages; "" for what is neither."""
    if len(convolutions) <= _FEW:
        return ""
    stages = {"down_blocks", "up_blocks"} <= parts or {"input_blocks", "output_blocks"} <= parts
    if not stages:
        sides = {found[1] for name in shapes if (found := re.search(_DOWN_UP, name))}
        stages = sides == {"down", "up"}
    if not stages:
        return ""
    if not _TIME.isdisjoint(parts):
        return "diffusion UNet"
    return "convolutional autoencoder" if {"encoder", "decoder"} <= parts else "UNet"


def _of_recurrence(shapes: Shapes, convolutions: Sequence[Shape]) -> tuple[str, Tower | None] | None:
    """What cell, by how many gates its weights stack, and the layers where all are of one network."""
    cells: dict[str, None] = {}
    networks: dict[str, set[str]] = {}
    widths: set[int] = set()
    reverse = False
    for name, shape in shapes.items():
        path, _, leaf = name.rpartition(".")
        layer = leaf[11:].removesuffix("_reverse")
        if not leaf.startswith("weight_hh_l") or not layer.isdecimal() or len(shape) != 2:
            continue
        inputs = shapes.get(f"{path}.bias_hh_{leaf[10:]}" if path else f"bias_hh_{leaf[10:]}", (shape[0],))
        if not shape[0] or not shape[1] or inputs != (shape[0],):
            continue
        projected = f"{name[: -len(leaf)]}weight_hr_{leaf[10:]}" in shapes  # which an LSTM alone can be
        gates = 4 if projected else shape[0] // shape[1] or 1
        cells[_CELLS.get(gates, "recurrent")] = None
        networks.setdefault(path, set()).add(layer)
        widths.add(shape[0] // gates)
        reverse = reverse or leaf.endswith("_reverse")
    if not cells:
        return None
    one = len(networks) == 1 and len(widths) == 1
    (path, layers), width = next(iter(networks.items())), max(widths)
    words = f"{'bidirectional ' if reverse else ''}{' and '.join(cells)} network"
    if convolutions:
        words += f", {plural(len(convolutions), 'convolution')}"
    return words, Tower(path, len(layers), width) if one else None


def _is_gcn(shapes: Shapes) -> bool:
    """Whether biases stand beside the Linear of a layer, and not in it: torch_geometric.nn.GCNConv."""
    layers = [name[: -len("lin.weight")] for name in shapes if name.endswith(".lin.weight")]
    return len(layers) > 1 and all(
        shapes.get(f"{at}bias") == shapes[f"{at}lin.weight"][:1] and f"{at}lin.bias" not in shapes
        for at in layers
    )


def _of_convolutions(shapes: Shapes, convolutions: Sequence[Shape]) -> str:
    convs = plural(len(convolutions), "convolution")
    deep = sum(shape[1] == 1 and shape[0] > 1 and max(shape[2:]) > 1 for shape in convolutions[1:])
    if _is_residual(shapes):
        return f"ResNet-style convolutional network, {convs}"
    depthwise = f" ({deep} depthwise)" if deep > 1 else ""
    return f"convolutional network, {convs}{depthwise}"


def _is_residual(shapes: Shapes) -> bool:
    """Whether numbered blocks have two convolutions and some a third of 1×1 around them."""
    for name, shape in shapes.items():
        block, middle, rest = name.rpartition(".downsample." if ".downsample." in name else ".shortcut.")
        if middle and rest in _SKIPS and shape[2:] == (1, 1):
            inside = {f"{block}.conv1.weight", f"{block}.conv2.weight"}
            layers = {f"{block}.layer.{at}.convolution.weight" for at in (0, 1)}
            if inside <= shapes.keys() or layers <= shapes.keys():
                return True
    return False
