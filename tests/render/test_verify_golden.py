"""What `verify` shows, whole; in golden files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sample_models.same_bytes import save_legacy
from tests.support.goldens import CAPTIONER, check, show, state_dict

PLAIN = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def loud():
    print("a model that speaks")
    return build()
"""

FORGETFUL = """
import torch
from torch import nn


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.offset = torch.arange(3.0)

    def _load_from_state_dict(self, state, prefix, *rest):
        state.pop(prefix + "gain")


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_load_state_dict_post_hook(double)


def double(module, keys):
    module.weight.data *= 2


def build():
    return nn.ModuleDict({"scale": Scale(), "doubled": Doubled()})


def fails(size=3):
    raise ValueError(f"no model of size {size}")


def number():
    return 3
"""

CASES = {
    "right": ["ckpttool verify plain.safetensors --model plain.py:loud"],
    "right_where_told": [
        "ckpttool verify captioner.safetensors --model captioner.py:build",
        "ckpttool verify captioner.safetensors --model captioner.py:build --load copy --device cpu",
        "ckpttool verify tied.safetensors --model captioner.py:build --load copy",
        "ckpttool verify old.safetensors --model plain.py:build --load copy --load round-trip",
    ],
    "wrong": ["ckpttool verify other.safetensors --model captioner.py:build"],
    "not_restored": [
        "ckpttool verify deep.safetensors --model captioner.py:build --model-arg depth=12"
        " --load assign,to-empty",
    ],
    "not_filled": ["ckpttool verify forgetful.safetensors --model forgetful.py:build"],
    "names": [
        "ckpttool verify wrapped.safetensors --model plain.py:build --load copy",
        "ckpttool verify renamed.safetensors --model captioner.py:build --load copy",
    ],
    "casts": [
        "ckpttool verify fine.safetensors --model plain.py:build",
        "ckpttool verify fine.safetensors --model plain.py:build --allow-cast --load copy",
    ],
    "training": [
        "ckpttool verify training.ckpt --model plain.py:build",
        "ckpttool verify training.ckpt --model plain.py:build --root ema --load copy",
        "ckpttool verify flat.ckpt --model plain.py:build --load copy",
    ],
    "reference": [
        "ckpttool verify captioner.safetensors --model captioner.py:build --load copy"
        " --write-reference ref.json",
        "ckpttool verify captioner.safetensors --model captioner.py:build --load copy --reference ref.json",
        "ckpttool verify captioner.safetensors --model captioner.py:build --load copy --reference ref.json"
        " --model-arg step=3",
        "ckpttool verify captioner.safetensors --model captioner.py:build --reference ref.json"
        " --model-arg step=3 --quiet",
    ],
    "errors": [
        "ckpttool verify missing.safetensors --model plain.py:build",
        "ckpttool verify plain.safetensors --model plain.py:make",
        "ckpttool verify plain.safetensors --model missing.py:build",
        "ckpttool verify plain.safetensors --model forgetful.py:fails --model-arg size=5",
        "ckpttool verify plain.safetensors --model forgetful.py:number",
        "ckpttool verify plain.safetensors --model plain.py:build --device cuda",
        "ckpttool verify plain.safetensors --model plain.py:build --load sideways",
        "ckpttool verify plain.safetensors --model plain.py:build --root model",
        "ckpttool verify plain.safetensors --model plain.py:build --reference plain.py",
        "ckpttool verify two.ckpt --model plain.py:build",
    ],
}


def other() -> dict[str, torch.Tensor]:
    """The captioner's state_dict as another version of its code might have saved it."""
    state = {name: tensor.clone() for name, tensor in state_dict(depth=6).items()}
    for name in list(state):
        if name.startswith("blocks.") and name.endswith("norm.bias"):
            del state[name]
        elif name.startswith("blocks.5.proj"):
            state[name.replace("proj", "linear")] = state.pop(name)
    for index in range(4):
        state[f"blocks.{index}.positions"] = torch.arange(8)
    state["ema.decay"] = torch.tensor(0.5)
    state["embed.weight"] = torch.ones(20, 4)
    state["norm.num_batches_tracked"] = torch.tensor(2.875)
    del state["norm.running_mean"], state["head.weight"], state["blocks.2.proj.weight"]
    return state


def prepare(folder: Path) -> None:
    plain = state_dict(PLAIN, "build")
    captioner = {name: tensor.clone() for name, tensor in state_dict().items()}
    files = {
        "plain": plain,
        "captioner": captioner,
        "other": other(),
        "deep": {name: tensor.clone() for name, tensor in state_dict(depth=12).items()},
        "tied": {name: tensor for name, tensor in captioner.items() if name != "head.weight"},
        "old": {name: tensor for name, tensor in plain.items() if "tracked" not in name},
        "forgetful": {"scale.gain": torch.arange(3.0), "doubled.weight": torch.tensor([1.5, 2.5])},
        "wrapped": {f"module.{name}": tensor for name, tensor in plain.items()},
        "renamed": {name.replace("blocks.", "layers."): tensor for name, tensor in captioner.items()},
        "fine": {name: tensor.double() + 2**-40 for name, tensor in plain.items()},
    }
    for name, value in files.items():
        save_file(value, folder / f"{name}.safetensors")
    moments = {0: {"exp_avg": torch.ones(3, 4)}}
    ema = {name: tensor + 1 for name, tensor in plain.items()}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.001, "params": [0]}]}
    training = {"epoch": 7, "model": plain, "ema": ema, "optimizer": optimizer}
    save_legacy(training, folder / "training.ckpt")
    save_legacy({**plain, "epoch": 7}, folder / "flat.ckpt")
    save_legacy({"one": dict(plain), "other": ema}, folder / "two.ckpt")
    for name, source in (("captioner", CAPTIONER), ("plain", PLAIN), ("forgetful", FORGETFUL)):
        (folder / f"{name}.py").write_text(source, "utf-8")


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path, update_golden: bool) -> None:
    check(f"verify_{case}", show(CASES[case], prepare, tmp_path), update=update_golden)
