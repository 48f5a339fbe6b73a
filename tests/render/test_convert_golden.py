"""What `convert` shows and writes, whole; in golden files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sample_models.same_bytes import save
from tests.support.goldens import CAPTIONER, check, show, state_dict

CASES = {
    "tied": ["ckpttool convert captioner.pt captioner.safetensors"],
    "shared": [
        "ckpttool convert captioner.pt twice.safetensors --shared duplicate",
        "ckpttool convert views.pt views.safetensors",
        "ckpttool convert captioner.pt none.safetensors --shared fail",
    ],
    "training": [
        "ckpttool convert training.pt weights.safetensors",
        "ckpttool convert training.pt weights.pt --weights-only",
        "ckpttool convert training.pt all.safetensors --root ''",
        "ckpttool convert training.pt averaged.pt --prefer ema",
    ],
    "plan": ["ckpttool convert training.pt weights.safetensors --dry-run --drop 'optimizer*'"],
    "cast": [
        "ckpttool convert captioner.pt bf16.safetensors --dtype bf16 --keep-dtype '*norm*'",
        "ckpttool convert wide.pt fp16.pt --dtype fp16",
        "ckpttool convert captioner.pt fp8.safetensors --dtype fp8_e4m3 --model captioner.py:build",
    ],
    "shards": [
        "ckpttool convert captioner.pt shards/ --max-shard-size 400B",
        "ckpttool convert captioner.pt shards/",
        "ckpttool convert captioner.pt shards/ --force",
        "ckpttool convert training.pt parts/ --max-shard-size 200B --to pt --weights-only",
        "ckpttool convert parts one.safetensors",
    ],
    "there_and_back": [
        "ckpttool convert training.pt there.safetensors --root ''",
        "ckpttool convert there.safetensors back.pt",
        "ckpttool convert published.safetensors published.pt",
    ],
    "names": [
        "ckpttool convert wrapped.pt bare.safetensors --strip-prefix auto",
        "ckpttool convert captioner.pt renamed.pt"
        " --rename '^blocks\\.(\\d+)=>layers.\\1' --rename '^head=>lm_head' --add-prefix model",
    ],
    "selection": [
        "ckpttool convert captioner.pt some.safetensors --keep 'blocks.*' --drop '*.bias' --metadata by=me",
        "ckpttool convert published.safetensors lean.safetensors --drop-known-buffers --no-check"
        " --manifest lean.json",
        "ckpttool convert captioner.pt full.pt --model captioner.py:build --add-known-buffers --drop noise",
        "ckpttool convert odd.pt raw.safetensors --as-bytes",
        "ckpttool convert captioner.pt quiet.pt --quiet",
    ],
    "errors": [
        "ckpttool convert captioner.pt published.safetensors",
        "ckpttool convert captioner.pt captioner.pt --force",
        "ckpttool convert training.pt strict.safetensors --strict",
        "ckpttool convert gan.pt gan.safetensors",
        "ckpttool convert odd.pt odd.safetensors",
        "ckpttool convert captioner.pt same.safetensors --rename 'weight|bias=>x'",
        "ckpttool convert captioner.pt none.safetensors --keep nothing",
        "ckpttool convert captioner.pt captioner.weights",
        "ckpttool convert captioner.pt small.safetensors --max-shard-size many",
        "ckpttool convert missing.pt missing.safetensors",
        "ckpttool convert notes.pt notes.safetensors",
    ],
}


def wide() -> dict[str, torch.Tensor]:
    """Values that are too large, too small and too fine for two bytes."""
    values = torch.tensor([1.0, 1 + 2**-12, 2.0**17, -(2.0**20), 2.0**-30, 2.0**-20, 0.0, 3.0])
    return {
        "0.weight": values.reshape(2, 4),
        "0.bias": torch.tensor([1.5, -1.5]),
        "1.weight": torch.ones(2),
        "1.bias": torch.zeros(2),
        "1.running_mean": torch.tensor([2.0**18, 1.0]),
        "1.running_var": torch.tensor([1.0, 4.0]),
        "1.num_batches_tracked": torch.tensor(12),
    }


def training() -> dict[str, Any]:
    weights = state_dict(depth=1)
    shapes = [tuple(tensor.shape) for name, tensor in weights.items() if "running" not in name][:6]
    moments = {
        index: {
            "step": torch.tensor(3.0),
            "exp_avg": torch.full(shape, 0.25),
            "exp_avg_sq": torch.ones(shape),
        }
        for index, shape in enumerate(shapes)
    }
    groups = [{"lr": 0.001, "betas": (0.9, 0.999), "params": [*moments]}]
    return {
        "epoch": 7,
        "best": 0.0625,
        "state_dict": weights,
        "ema": {name: tensor.clone() for name, tensor in weights.items()},
        "optimizer": {"state": moments, "param_groups": groups},
        "scheduler": {"T_max": 20, "last_epoch": 7},
        "args": argparse.Namespace(lr=0.001),
    }


def prepare(folder: Path) -> None:
    state, whole = state_dict(), torch.arange(24.0)
    files = {
        "captioner": state,
        "training": training(),
        "wide": wide(),
        "views": {
            "all": whole,
            "first": whole[:4],
            "row": whole.reshape(4, 6)[1],
            "turned": whole.reshape(4, 6).T,
        },
        "wrapped": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        "odd": {"fine": torch.ones(2), "wave": torch.ones(2, dtype=torch.complex128)},
        "gan": {name: {"weight": torch.full((2, 2), number)} for number, name in enumerate(("one", "other"))},
        "notes": {"epoch": 7},
    }
    for name, value in files.items():
        save(value, folder / f"{name}.pt")
    published = {f"bert.{name}": tensor.clone() for name, tensor in state.items()}
    published["bert.embeddings.position_ids"] = torch.arange(8)[None]
    save_file(published, folder / "published.safetensors", metadata={"license": "MIT"})
    (folder / "captioner.py").write_text(CAPTIONER, "utf-8")


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path, update_golden: bool) -> None:
    check(f"convert_{case}", show(CASES[case], prepare, tmp_path), update=update_golden)
