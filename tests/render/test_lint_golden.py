"""What `lint` shows, whole; in golden files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.goldens import check, show

MODELS = """
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4, bias=False)
        self.cos = torch.ones(4)


class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.heads = [nn.Linear(4, 2), nn.BatchNorm1d(2)]
        self.gains = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
        self.scaled = nn.Parameter(torch.ones(3)) * 2
        self.register_buffer("positions", torch.arange(512))
        self.register_buffer("mean", nn.Parameter(torch.zeros(3)))
        self.register_buffer("center", None)
        self.register_buffer("ids", torch.arange(5).expand(4, -1))
        self.register_buffer("head", torch.zeros(4096)[:16])
        self.register_buffer("projection", torch.rand(4, 2), persistent=False)


class Caches(nn.Module):
    def __init__(self, size=4):
        super().__init__()
        self.proj = nn.Linear(size, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.table = torch.arange(3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("last", None)

    def forward(self, x):
        self.seen = self.seen + 1
        self.last = x.detach().clone()
        self.mask = torch.ones(x.shape)
        return self.norm(self.proj(x)) * self.frozen


def clean(size=4):
    return nn.Sequential(nn.Linear(size, 3), nn.BatchNorm1d(3))


def tied():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    return model


def nothing():
    return nn.Identity()


def fails():
    raise ValueError("no configuration")
"""

ROTARY = """
import torch
from torch import nn


class Rotary(nn.Module):
    def __init__(self, dim, base=10000):
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / base ** (torch.arange(0, dim, 2) / dim))
        self.register_buffer("positions_of_every_token_in_the_longest_sequence", torch.arange(dim))
        self.register_buffer("cached", torch.zeros(dim), persistent=False)

    def forward(self, x):
        if self.cached.shape[0] < x.shape[0]:
            self.register_buffer("cached", x)
        return x
"""

CASES = {
    "findings": ["ckpttool lint models.py:Forgetful"],
    "clean": [
        "ckpttool lint models.py:clean",
        "ckpttool lint models.py:clean --example-input 2,4",
        "ckpttool lint models.py:nothing",
        "ckpttool lint models.py:Caches --quiet",
    ],
    "notes": ["ckpttool lint models.py:tied --example-input 1,3:int64"],
    "forward": ["ckpttool lint models.py:Caches --example-input 4,4"],
    "proof": [
        "ckpttool lint models.py:Caches --prove --example-input 4x5 --model-arg size=5",
        "ckpttool lint models.py:Forgetful --prove",
    ],
    "source": [
        "ckpttool lint --source models.py --source ./rotary",
        "ckpttool lint --source ./rotary:Rotary",
        "ckpttool lint --source models.py:Layer --quiet",
    ],
    "source_errors": [
        "ckpttool lint",
        "ckpttool lint models.py:clean --source models.py",
        "ckpttool lint --source models.py --prove",
        "ckpttool lint --source models.py:Lair",
        "ckpttool lint --source nosuchpackage",
        "ckpttool lint --source ./missing",
    ],
    "errors": [
        "ckpttool lint models.py:fails",
        "ckpttool lint models.py:clear",
        "ckpttool lint missing.py:build",
        "ckpttool lint models.py",
        "ckpttool lint models.py:clean --example-input 2,x",
        "ckpttool lint models.py:clean --model-arg size",
    ],
}


def prepare(folder: Path) -> None:
    (folder / "models.py").write_text(MODELS, "utf-8")
    (folder / "rotary").mkdir()
    (folder / "rotary" / "__init__.py").write_text("", "utf-8")
    (folder / "rotary" / "a_module_of_a_long_name.py").write_text(ROTARY, "utf-8")
    (folder / "rotary" / "broken.py").write_text("class Broken(", "utf-8")


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path, update_golden: bool) -> None:
    text = re.sub(r'(?<="parsed_ms":)( ?)\d+', r"\1MS", show(CASES[case], prepare, tmp_path))
    check(f"lint_{case}", text, update=update_golden)
