"""Ten things that people ask of a checkpoint first: one command in `--help` each, one screen of answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ckpttool.cli import main
from tests.support.documents import Terminal

_SCREEN = 40  # lines


class Task(NamedTuple):
    asks: str
    command: str
    answers: tuple[str, ...]
    status: int = 0


TASKS = (
    Task(
        "which layer has NaN?",
        "ckpttool inspect nan.pt --stats --fail-on nan",
        ("layers.1.self_attn.q_proj.weight: 1 of 4,096 values is NaN",),
        1,
    ),
    Task("what learning rate?", "ckpttool get last.ckpt hyper_parameters.lr", ("0.0003",)),
    Task(
        "is it quantised, and complete?",
        "ckpttool inspect gptq.safetensors",
        ("GPTQ 4-bit, group 128", "all modules complete"),
    ),
    Task("how big is it in memory?", "ckpttool inspect big.pt", ("to load as stored", "to train with Adam")),
    Task(
        "which block changed most?", "ckpttool diff base.pt tuned.pt --group-depth 3", ("model.layers.1",), 1
    ),
    Task("give me this tensor as .npy", "ckpttool get base.pt lm_head.weight -o head.npy", ()),
    Task(
        "what rank, targets and base has this adapter?",
        "ckpttool inspect adapter",
        ("rank 8", "alpha 16", "targets q_proj, v_proj", "base meta-llama/Llama-2-7b-hf"),
    ),
    Task(
        "what is in this Trainer folder?",
        "ckpttool inspect trainer",
        ("step 500", "epoch 1.25", "optimizer.pt", "rng_state.pth", "LlamaForCausalLM by config.json"),
    ),
    Task(
        "does CI stop on a typo?",
        "ckpttool inspect base.pt --include 'modl.*' --fail-on nan",
        ("no entry matches 'modl.*'", "did you mean 'model.*'"),
        2,
    ),
    Task(
        "what does unknown mean, and what can I do?",
        "ckpttool inspect odd.pt",
        ("2 unknown", "no evidence says what they are: --model or --source may"),
    ),
)


def llama(hidden: int = 64, vocabulary: int = 256) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state = {"model.embed_tokens.weight": weight(vocabulary, hidden)}
    for layer in range(2):
        path = f"model.layers.{layer}."
        state |= {f"{path}self_attn.{name}_proj.weight": weight(hidden, hidden) for name in "qkvo"}
        state |= {f"{path}mlp.{name}_proj.weight": weight(2 * hidden, hidden) for name in ("gate", "up")}
        state[f"{path}mlp.down_proj.weight"] = weight(hidden, 2 * hidden)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            state[f"{path}{norm}.weight"] = torch.ones(hidden)
    return state | {"model.norm.weight": torch.ones(hidden), "lm_head.weight": weight(vocabulary, hidden)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    base = llama()
    torch.save(base, folder / "base.pt")
    torch.save(llama(256, 4096), folder / "big.pt")
    moved = {name: tensor + 0.1 if "layers.1.mlp" in name else tensor for name, tensor in base.items()}
    torch.save(moved, folder / "tuned.pt")
    broken = base | {"model.layers.1.self_attn.q_proj.weight": torch.randn(64, 64)}
    broken["model.layers.1.self_attn.q_proj.weight"][3, 4] = float("nan")
    torch.save(broken, folder / "nan.pt")
    torch.save({"state_dict": base, "hyper_parameters": {"lr": 3e-4}, "epoch": 2}, folder / "last.ckpt")
    torch.save({"a.p": torch.randn(3), "blob": torch.randn(2)}, folder / "odd.pt")
    quantized = {}
    for layer in range(2):
        path = f"model.layers.{layer}.self_attn.q_proj."
        quantized[f"{path}qweight"] = torch.zeros(32, 256, dtype=torch.int32)
        quantized[f"{path}qzeros"] = torch.zeros(2, 32, dtype=torch.int32)
        quantized[f"{path}scales"] = torch.ones(2, 256, dtype=torch.float16)
        quantized[f"{path}g_idx"] = torch.arange(256, dtype=torch.int32) // 128
    save_file(quantized, folder / "gptq.safetensors", {"format": "pt"})
    adapter = {}
    for name in ("q_proj", "v_proj"):
        path = f"base_model.model.model.layers.0.self_attn.{name}."
        adapter |= {f"{path}lora_A.weight": torch.ones(8, 64), f"{path}lora_B.weight": torch.zeros(64, 8)}
    (folder / "adapter").mkdir()
    save_file(adapter, folder / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    config["base_model_name_or_path"] = "meta-llama/Llama-2-7b-hf"
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    trainer = folder / "trainer"
    trainer.mkdir()
    save_file(base, trainer / "model.safetensors", {"format": "pt"})
    model = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}
    (trainer / "config.json").write_text(json.dumps(model), "utf-8")
    state = {"global_step": 500, "epoch": 1.25, "best_metric": 0.81}
    (trainer / "trainer_state.json").write_text(json.dumps(state), "utf-8")
    torch.save({"state": {}, "param_groups": []}, trainer / "optimizer.pt")
    torch.save({"cpu": torch.zeros(3)}, trainer / "rng_state.pth")
    return folder


@pytest.mark.parametrize("task", TASKS, ids=[task.asks for task in TASKS])
def test_one_command_and_one_screen(task: Task, folder: Path, tmp_path: Path) -> None:
    status, printed = Terminal(folder, tmp_path).type(task.command)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    assert status == task.status, shown
    flat = " ".join(shown.split())
    for answer in task.answers:
        assert answer in flat, shown
    assert len(shown.splitlines()) <= _SCREEN


def test_the_tensor_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "head.npy"
    assert main(["get", str(folder / "base.pt"), "lm_head.weight", "-o", str(out)]) == 0
    assert np.array_equal(np.load(out), llama()["lm_head.weight"].numpy())


@pytest.mark.parametrize("command", ["inspect", "diff", "get"])
def test_its_options_are_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for task in TASKS:
        if task.command.split()[1] == command:
            for option in re.findall(r"(?<= )-{1,2}[a-z-]+", task.command):
                assert re.search(rf"{option}\b", text), option
