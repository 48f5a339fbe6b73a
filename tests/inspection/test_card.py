"""The card of a model: what names, shapes and the JSON beside them prove, and what they cannot."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckpttool
from ckpttool.api.opened import open_file
from ckpttool.cli import main
from ckpttool.inspection.structure import Structure, find_structure
from ckpttool.values.card import Card
from tests.support import model_shapes
from tests.support.model_shapes import Shapes, numel, write, write_json


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def transformer() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nn.Transformer(16, 2, 2, 3)


def tagger() -> nn.Module:
    return nn.ModuleDict({"embed": nn.Embedding(50, 8), "lstm": nn.LSTM(8, 16, 2, bidirectional=True)})


# The words, layers, width, vocabulary and experts that each must have.
FAMILIES: dict[str, tuple[Callable[[], Shapes], tuple[Any, ...]]] = {
    "Llama": (model_shapes.llama, ("Llama-style decoder", 32, 4096, 32000, None)),
    "Mixtral": (model_shapes.mixtral, ("Llama-style mixture-of-experts decoder", 4, 64, 500, 8)),
    "GPT-2": (model_shapes.gpt2, ("GPT-2-style decoder", 12, 768, 50257, None)),
    "BERT": (model_shapes.bert, ("BERT-style encoder", 12, 768, 30522, None)),
    "T5": (model_shapes.t5, ("T5-style encoder-decoder", (6, 4), (512, 512), 32128, None)),
    "ViT": (model_shapes.vit, ("vision transformer", 12, 192, None, None)),
    "Swin": (model_shapes.swin, ("Swin-style vision transformer", 12, None, None, None)),
    "ResNet-18": (
        model_shapes.resnet,
        ("ResNet-style convolutional network, 20 convolutions", None, None, None, None),
    ),
    "MobileNet": (
        model_shapes.mobilenet,
        ("convolutional network, 16 convolutions (5 depthwise)", None, None, None, None),
    ),
    "UNet": (model_shapes.unet, ("diffusion UNet", None, None, None, None)),
    "GCN": (model_shapes.graph, ("graph network", 3, 16, None, None)),
    "GPTQ": (model_shapes.gptq, ("Llama-style decoder", 4, 256, 1000, None)),
    "LoRA": (model_shapes.lora, (None, None, None, None, None)),
    "nn.Transformer": (
        lambda: shapes_of(transformer()),
        ("encoder-decoder transformer", (2, 3), (16, 16), None, None),
    ),
    "nn.LSTM": (lambda: shapes_of(tagger()), ("bidirectional LSTM network", 2, 16, None, None)),
    "projected": (lambda: shapes_of(nn.LSTM(8, 16, 3, proj_size=4)), ("LSTM network", 3, 16, None, None)),
    "nn.GRU": (lambda: shapes_of(nn.GRU(8, 16, bias=False)), ("GRU network", 1, 16, None, None)),
    "nn.RNN": (lambda: shapes_of(nn.RNN(8, 16)), ("recurrent network", 1, 16, None, None)),
}


def card_of(path: Path) -> Card:
    return open_file(str(path)).card


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_known_by_its_structure(family: str, tmp_path: Path) -> None:
    make, expected = FAMILIES[family]
    card = card_of(write(tmp_path, make()))
    names = ("architecture", "layers", "hidden_size", "vocabulary", "experts")
    assert tuple(map(card.value, names)) == expected
    assert {card.source(name) for name in names} <= {"", "names", "shapes", "names and shapes"} | {
        f"shape of {name}.weight"
        for name in ("model.embed_tokens", "wte", "bert.embeddings.word_embeddings", "shared")
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_are_all_of_the_weights(family: str, tmp_path: Path) -> None:
    shapes = FAMILIES[family][0]()
    path = write(tmp_path, shapes)
    card = card_of(path)
    assert sum(share.numel for share in card.shares) == numel(shapes)
    assert sum(share.nbytes for share in card.shares) == card.value("load_nbytes")
    assert card.value("load_nbytes") == sum(entry.nbytes or 0 for entry in ckpttool.open(path).entries)
    assert len({share.name for share in card.shares}) == len(card.shares) <= 17


def test_a_published_model_has_the_numbers_of_its_page(tmp_path: Path) -> None:
    card = card_of(write(tmp_path, model_shapes.llama(), "BF16"))
    assert card.value("parameters") == 6_738_415_616
    assert card.value("load_nbytes") == 2 * 6_738_415_616
    assert card.value("train_nbytes") == (4 + 4 + 8) * 6_738_415_616
    assert card.value("dtypes") == {"bfloat16": 2 * 6_738_415_616}
    assert card.shares[0].name == "model.layers.*.mlp" and card.shares[0].numel == 32 * 3 * 4096 * 11008


def renamed(shapes: Shapes, old: str, new: str) -> Shapes:
    return {name.replace(old, new): shape for name, shape in shapes.items()}


def small_llama() -> Shapes:
    return model_shapes.llama(2, 16, 32, 40)


@pytest.mark.parametrize(
    ("shapes", "layers"),
    [
        ({"a.weight": (3, 4)}, None),
        (renamed(small_llama(), "v_proj", "other"), 2),  # no attention without values
        (renamed(small_llama(), "q_proj", "zorp"), 2),
        ({f"blocks.{at}.linear.weight": (8, 8) for at in range(5)}, 5),
        ({f"stack.{at}.q_proj.weight": (8, 8) for at in range(2)}, 2),
        ({"conv.weight": (8, 3, 3, 3)}, None),  # one convolution makes no network of them
        ({"weight_hh_l0": (64, 0)}, None),
        ({"conv1.lin.weight": (8, 4), "conv1.lin.bias": (8,), "conv1.bias": (8,)}, None),
        ({}, None),
    ],
)
def test_what_nothing_proves_is_not_said(shapes: Shapes, layers: int | None) -> None:
    found = find_structure(shapes)
    assert found.architecture == ""
    assert [tower.layers for tower in found.towers] == ([] if layers is None else [layers])


def test_a_decoder_without_gates_is_only_a_transformer() -> None:
    shapes = {name: shape for name, shape in small_llama().items() if "gate_proj" not in name}
    assert find_structure(shapes).architecture == "transformer"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_wrappers_and_attributes_hide_nothing(prefix: str, tmp_path: Path) -> None:
    shapes = {f"{prefix}{name}": shape for name, shape in small_llama().items()}
    card = card_of(write(tmp_path, shapes))
    assert (card.value("architecture"), card.value("layers"), card.value("hidden_size")) == (
        "Llama-style decoder",
        2,
        16,
    )


def test_two_networks_are_both_named(tmp_path: Path) -> None:
    text = renamed(model_shapes.bert(3, 32, 64, 50), "bert.", "text.")
    image = {f"image.{name}": shape for name, shape in model_shapes.vit(2, 64).items()}
    card = card_of(write(tmp_path, {**text, **image}))
    assert card.value("architecture") == "vision transformer and BERT-style encoder"
    assert (card.value("layers"), card.value("hidden_size")) == ((2, 3), (64, 32))


def test_only_the_weights_of_a_training_checkpoint_count(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3, 9, 9)).sum().backward()
    optimizer.step()
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    made = {"model": model.state_dict(), "model_ema": averaged, "optimizer": optimizer.state_dict()}
    torch.save(made, tmp_path / "last.pt")
    card = card_of(tmp_path / "last.pt")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert card.value("architecture") == "convolutional network, 2 convolutions"
    assert card.value("parameters") == count and card.value("load_nbytes") == 4 * count
    stored = sum(value.nbytes for value in (*model.state_dict().values(), *averaged.values()))
    moments = sum(v.nbytes for state in optimizer.state_dict()["state"].values() for v in state.values())
    assert card.value("dtypes") == {"float32": stored + moments}


def test_tied_weights_count_once(tmp_path: Path) -> None:
    embedding = torch.zeros(50, 8)
    torch.save({"embed_tokens.weight": embedding, "lm_head.weight": embedding}, tmp_path / "m.pt")
    card = card_of(tmp_path / "m.pt")
    assert (card.value("parameters"), card.value("load_nbytes"), card.value("vocabulary")) == (400, 1600, 50)
    assert sum(share.numel for share in card.shares) == 400


# ------------------------------------------------------------------------------------------------ JSON beside


def test_a_mixture_of_experts_says_what_a_token_goes_through(tmp_path: Path) -> None:
    path = write(tmp_path, model_shapes.mixtral())
    assert card_of(path).value("active_parameters") is None  # no shape tells
    write_json(tmp_path, config={"num_local_experts": 8, "num_experts_per_tok": 2})
    card = card_of(path)
    assert (card.value("experts_active"), card.source("experts_active")) == (2, "config.json")
    # As a model of two experts has, with a router for eight.
    two = numel(model_shapes.mixtral(experts=2)) + 4 * (8 - 2) * 64
    assert (card.value("parameters"), card.value("active_parameters")) == (numel(model_shapes.mixtral()), two)


@pytest.mark.parametrize("active", [0, 9, -1, True, "2", 2.0, None, [2], 10**30])
def test_experts_that_cannot_be_active_are_not(active: object, tmp_path: Path) -> None:
    path = write(tmp_path, model_shapes.mixtral())
    write_json(tmp_path, config={"num_experts_per_tok": active})
    card = card_of(path)
    assert card.value("experts_active") is None and card.value("active_parameters") is None


def test_an_adapter_says_rank_alpha_targets_and_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, model_shapes.lora(3, 64, 8), name="adapter_model.safetensors")
    bare = card_of(path)
    assert (bare.value("adapter_rank"), bare.value("adapter_targets")) == (8, ("q_proj", "v_proj"))
    base = "https://me:secret@example.org/base?token=abc"
    write_json(
        tmp_path,
        adapter_config={"r": 8, "lora_alpha": 16, "base_model_name_or_path": base},
        config={"num_hidden_layers": 40, "hidden_size": 9},  # of the model that it adapts
    )
    card = card_of(path)
    assert (card.value("adapter_alpha"), card.source("adapter_alpha")) == (16, "adapter_config.json")
    assert card.value("adapter_base") == "https://example.org/base"
    opened = ckpttool.open(path)
    assert {finding.code for finding in opened.findings}.isdisjoint(("wrapper-prefix", "config-differs"))
    assert " · rank 8 · alpha 16 · targets q_proj, v_proj\nbase https://example.org/base · " in str(opened)
    assert main(["inspect", str(path), "--json"]) == 0
    assert "secret" not in capsys.readouterr().out


def test_a_config_says_nothing_of_what_is_no_model(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 40}
    write_json(tmp_path, config=config, generation_config={"temperature": 0.5})
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save(torch.get_rng_state(), tmp_path / "rng_state.pth")
    adapter = write(tmp_path, model_shapes.lora(1, 64, 8), name="adapter_model.safetensors")
    for path in (tmp_path / "optimizer.pt", tmp_path / "rng_state.pth", adapter):
        assert {fact.name for fact in card_of(path).facts if fact.source.endswith("config.json")} == set()
        assert differing(path) == []


def test_blocks_that_nothing_explains_contradict_no_config(tmp_path: Path) -> None:
    path = write(tmp_path, {f"blocks.{at}.linear.weight": (8, 8) for at in range(5)})
    write_json(tmp_path, config={"num_layers": 3})
    assert (card_of(path).value("layers"), differing(path)) == (5, [])


def test_ranks_that_differ_are_all_said(tmp_path: Path) -> None:
    shapes = {**model_shapes.lora(1, 64, 8), **renamed(model_shapes.lora(1, 64, 4), "q_proj", "o_proj")}
    assert card_of(write(tmp_path, shapes)).value("adapter_rank") == (4, 8)


def differing(path: Path) -> list[tuple[str, str]]:
    found = ckpttool.open(path).findings
    return [(item.severity, item.message) for item in found if item.code == "config-differs"]


RIGHT = {"num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 40, "torch_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("lie", "severity", "said"),
    [
        ({"num_hidden_layers": 3}, "warning", "config.json says 3 layers, the file has 2"),
        ({"hidden_size": 4096}, "warning", "config.json says 4,096 for hidden_size, the file has 16"),
        ({"vocab_size": 41}, "warning", "config.json says 41 for vocab_size, the file has 40"),
        ({"torch_dtype": "float32"}, "info", "config.json says float32, the file has bfloat16"),
        ({"torch_dtype": "x" * 9999}, "info", f"config.json says {'x' * 80}…, the file has bfloat16"),
    ],
)
def test_the_header_wins_over_a_config_that_lies(
    lie: dict[str, object], severity: str, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path, small_llama(), "BF16")
    bare = card_of(path)
    write_json(tmp_path, config=RIGHT)
    assert differing(path) == []
    write_json(tmp_path, config={**RIGHT, **lie})
    assert differing(path) == [(severity, f"{said}; the file is what counts")]
    card = card_of(path)
    for name in ("layers", "hidden_size", "vocabulary", "dtypes"):
        assert (card.value(name), card.source(name)) == (bare.value(name), bare.source(name))


def test_a_contradiction_decides_in_a_pipe_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, small_llama())
    write_json(tmp_path, config={"num_hidden_layers": 3})
    assert main(["inspect", str(path), "--fail-on", "findings"]) == 1
    assert "config.json says 3 layers" in capsys.readouterr().err


def test_a_rank_that_the_shapes_deny_is_a_finding(tmp_path: Path) -> None:
    path = write(tmp_path, model_shapes.lora(1, 64, 8))
    write_json(tmp_path, adapter_config={"r": 16})
    [(severity, said)] = differing(path)
    assert severity == "warning" and said.startswith("adapter_config.json says rank 16, the shapes say 8;")
    write_json(tmp_path, adapter_config={"r": 16, "rank_pattern": {"q_proj": 8}})
    assert differing(path) == []


@pytest.mark.parametrize("layers", [(6, 4), (7, 4), (6, 5)])
def test_both_sides_of_an_encoder_decoder_are_held_against_the_config(
    layers: tuple[int, int], tmp_path: Path
) -> None:
    path = write(tmp_path, model_shapes.t5())
    write_json(tmp_path, config={"num_layers": layers[0], "num_decoder_layers": layers[1], "d_model": 512})
    assert len(differing(path)) == (layers[0] != 6) + (layers[1] != 4)


def test_a_shard_or_a_selection_lacks_layers_and_contradicts_nothing(tmp_path: Path) -> None:
    shapes = small_llama()
    write_json(tmp_path, config=RIGHT)
    first = {name: shape for name, shape in shapes.items() if ".layers.1." not in name}
    path = write(tmp_path, first, "BF16", "model-00001-of-00002.safetensors")
    assert differing(path) == []
    assert differing(write(tmp_path, first, "BF16", "model.safetensors")) != []
    whole = write(tmp_path, shapes, "BF16", "model.safetensors")
    chosen = open_file(str(whole), exclude=("*layers.1.*",)).inspection
    assert [item for item in chosen.findings if item.code == "config-differs"] == []


def test_experts_of_one_shard_are_not_all(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in model_shapes.mixtral().items() if ".experts.7." not in name}
    write_json(tmp_path, config={"num_local_experts": 8})
    assert differing(write(tmp_path, shapes, name="model-00001-of-00002.safetensors")) == []
    [(_, said)] = differing(write(tmp_path, shapes))
    assert said.startswith("config.json says 8 experts, the file has 7")


def test_a_layer_that_predicts_more_tokens_is_no_contradiction(tmp_path: Path) -> None:
    path = write(tmp_path, small_llama(), "BF16")
    write_json(tmp_path, config={**RIGHT, "num_hidden_layers": 1, "num_nextn_predict_layers": 1})
    assert differing(path) == []


def test_widths_of_stages_and_of_two_networks_are_no_contradiction(tmp_path: Path) -> None:
    path = write(tmp_path, model_shapes.swin())
    write_json(tmp_path, config={"hidden_size": 768, "num_layers": 4, "num_hidden_layers": 4})
    assert differing(path) == []


def test_a_trainer_folder_says_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, small_llama())
    write_json(
        tmp_path, trainer_state={"global_step": 500, "epoch": 2.0, "best_metric": 0.91, "log_history": []}
    )
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth", "rng_state_x.pth"):
        (tmp_path / name).write_bytes(b"no pickle at all")  # nobody looks
    card = card_of(path)
    assert tuple(map(card.value, ("step", "epoch", "best_metric"))) == (500, 2.0, 0.91)
    assert card.value("trainer_files") == (
        "optimizer.pt",
        "scheduler.pt",
        "trainer_state.json",
        "rng_state_0.pth",
        "rng_state_1.pth",
    )
    shown = str(ckpttool.open(path))
    assert "\nTrainer · step 500 · epoch 2.0 · best metric 0.91 · optimizer.pt · scheduler.pt" in shown


_NESTED = "[" * 100_000
UNREAD = {
    "no JSON": ("{", "is not JSON"),
    "an array": ("[]", "no JSON object"),
    "empty": (" ", "is not JSON"),
    "deep": (_NESTED, "nesting"),
    "twice": ('{"vocab_size": 1, "vocab_size": 2}', "twice"),
    "NaN": ('{"vocab_size": NaN}', "NaN"),
    "huge": ('{"a": "' + "x" * (5 << 20) + '"}', "more than"),
    "long number": ('{"vocab_size": ' + "9" * 5000 + "}", "thousands of digits"),
    "surrogate": ('{"model_type": "\\ud800"}', "surrogate"),
}
BESIDE = ("config", "generation_config", "adapter_config", "trainer_state", "quantize_config")


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("case", UNREAD)
def test_json_that_cannot_be_read_is_said_and_changes_nothing(name: str, case: str, tmp_path: Path) -> None:
    path = write(tmp_path, small_llama())
    bare, findings = card_of(path), ckpttool.open(path).findings
    text, why = UNREAD[case]
    write_json(tmp_path, **{name: text})
    card = card_of(path)
    left = [fact for fact in card.facts if fact.name not in ("unread", "trainer_files")]
    assert (left, card.shares) == (list(bare.facts), bare.shares)
    assert card.source("unread") == f"{name}.json" and why in card.value("unread")
    assert ckpttool.open(path).findings == findings
    assert f"not read: {name}.json: " in str(ckpttool.open(path))


_EVIL = "\x1b[2J\u202e[red]\n"
HOSTILE: tuple[object, ...] = (
    {"architectures": [_EVIL * 999], "model_type": _EVIL, "torch_dtype": _EVIL},
    {"architectures": 3, "model_type": [], "torch_dtype": {}, "num_hidden_layers": "2", "hidden_size": True},
    {"num_hidden_layers": -1, "hidden_size": 1e308, "vocab_size": 10**400, "num_attention_heads": 10**4000},
    {
        "architectures": [],
        "num_hidden_layers": None,
        "quantization_config": [1],
        "dtype": "float32.__class__",
    },
    {"r": 10**4000, "lora_alpha": 10**4000, "base_model_name_or_path": _EVIL * 9999, "target_modules": 1e999},
    {"r": -3, "lora_alpha": "x", "base_model_name_or_path": {"a": 1}, "rank_pattern": 7},
    {"global_step": 10**4000, "epoch": 10**4000, "best_metric": 1e308},
    {"global_step": "x", "epoch": [], "best_metric": True},
    {"temperature": 10**4000, "top_p": _EVIL, "max_length": -1},
    {"bits": 10**4000, "group_size": _EVIL, "desc_act": 1},
    {
        "base_model_name_or_path": "../../etc/passwd",
        "_name_or_path": "/etc/passwd",
        "auto_map": {"AutoModel": "x.y"},
    },
)


@pytest.mark.parametrize("document", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("shapes", [small_llama, lambda: model_shapes.lora(1, 64, 8), model_shapes.gptq])
def test_hostile_json_is_inert(
    document: object, shapes: Callable[[], Shapes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, shapes())
    write_json(tmp_path, **dict.fromkeys(BESIDE, document))
    for width in (40, 100):
        lines = ["".join(span.text for span in line) for line in ckpttool.open(path)._iter_lines(width)]
        assert [line for line in lines if not line.isprintable()] == []
        assert len("\n".join(lines)) < 12_000
    assert main(["inspect", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii() and len(out) < 1_000_000
    card = json.loads(out)["card"]
    bare = open_file(str(write(tmp_path / "bare", shapes()))).card
    facts = {fact["name"]: fact["value"] for fact in card["facts"]}
    for name in ("architecture", "layers", "hidden_size", "vocabulary", "parameters", "load_nbytes"):
        assert facts.get(name) == bare.value(name)


def test_a_number_beyond_floats_in_json_is_infinite_and_shown(tmp_path: Path) -> None:
    path = write(tmp_path, small_llama())
    write_json(tmp_path, trainer_state='{"global_step": 1, "epoch": 1e999}')
    assert card_of(path).value("epoch") == float("inf")
    assert "step 1 · epoch inf" in str(ckpttool.open(path))
    facts: Any = ckpttool.open(path).to_dict()["card"]
    assert {"name": "epoch", "value": "Infinity", "source": "trainer_state.json"} in facts["facts"]


@pytest.mark.parametrize("name", BESIDE)
def test_only_regular_files_of_the_folder_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_text(json.dumps({"model_type": "x", "lora_alpha": 1, "global_step": 1}))
    folder = tmp_path / "model"
    path = write(folder, small_llama())
    beside = folder / f"{name}.json"
    for make in (
        lambda: beside.symlink_to(tmp_path / "outside.json"),
        lambda: beside.symlink_to("/dev/zero"),
        lambda: beside.symlink_to(beside),
        lambda: os.mkfifo(beside),
        beside.mkdir,
    ):
        make()
        card = card_of(path)
        assert card.source("unread") == f"{name}.json"
        assert {card.value(it) for it in ("model_type", "adapter_alpha", "step")} == {None}
        beside.rmdir() if beside.is_dir() and not beside.is_symlink() else beside.unlink()


def test_quantised_weights_are_complete_or_not(tmp_path: Path) -> None:
    shapes = model_shapes.gptq()
    path = write(tmp_path, shapes)
    card = card_of(path)
    assert card.value("quantization_complete") is True and card.value("train_nbytes") is None
    assert card.value("parameters") == numel(model_shapes.llama(4, 256, 512, 1000))
    assert "GPTQ 4-bit, group 128 · " in str(ckpttool.open(path)).replace("\n", " · ")
    del shapes["model.layers.0.mlp.up_proj.scales"]
    assert card_of(write(tmp_path, shapes)).value("quantization_complete") is False


def test_autogptq_says_the_order_in_a_file_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, model_shapes.gptq())
    write_json(tmp_path, quantize_config={"bits": 8, "group_size": 128, "desc_act": True})
    opened = ckpttool.open(path)
    assert {item.detail for item in opened.inspection.weights.quantized} == {"act-order"}
    said = [item.message for item in opened.findings if item.code == "quantized-config"]
    assert said == ["quantize_config.json says 8 bits, the shapes of the GPTQ modules say 4"]


def test_generation_is_said_in_the_document_alone(tmp_path: Path) -> None:
    path = write(tmp_path, small_llama())
    write_json(tmp_path, generation_config={"temperature": 0.6, "do_sample": True, "eos_token_id": [1]})
    card = card_of(path)
    assert (card.value("generation_temperature"), card.value("generation_do_sample")) == (0.6, True)
    assert "0.6" not in str(ckpttool.open(path))


# ------------------------------------------------------------------------------------------------------ views


def test_a_pipe_costs_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, small_llama())
    write_json(tmp_path, trainer_state={"global_step": 1}, generation_config={})

    def refuse(*_: object) -> None:
        raise AssertionError("a card was made")

    monkeypatch.setattr("ckpttool.inspection.card.make_card", refuse)
    assert main(["inspect", str(path)]) == 0
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more)
    )
    assert main(["inspect", str(path)]) == 0
    assert not [name for name in opened if name.endswith(".json")]


def test_a_model_has_a_card_too() -> None:
    card = ckpttool.open_model(lambda: nn.LSTM(8, 16, 2)).card
    assert (card.value("architecture"), card.value("layers")) == ("LSTM network", 2)


@pytest.mark.parametrize("part", ["a", "0", "layers.0.q_proj", "up1", "experts.0", "lora_A"])
def test_a_name_of_very_many_parts_costs_no_more_than_its_length(part: str, tmp_path: Path) -> None:
    """Ten times as long, and it would take a minute if each part cost the whole name again."""
    name = ".".join([part] * (500_000 // (len(part) + 1)))
    path = write(tmp_path, {f"{name}.weight": (2, 2), f"{name}.bias": (2,)})
    card = card_of(path)
    assert sum(share.numel for share in card.shares) == 6
    assert len("\n".join(str(ckpttool.open(path)).splitlines()[:6])) < 3000


def test_nothing_is_known_of_nothing() -> None:
    assert find_structure({}) == Structure()
    assert Card().value("layers") is None and Card().source("layers") == ""
