"""Objects to save, each with something that ``inspect`` names a command for, or just not; and their files."""

from __future__ import annotations

import argparse
import fractions
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.testing._internal.two_tensor import TwoTensor

from sample_models.same_bytes import save_legacy


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


class Extra(nn.Linear):
    def get_extra_state(self) -> object:
        return fractions.Fraction(1, 3)


class Subclassed(torch.Tensor):
    pass


def averaged() -> object:
    return {"state_dict": cnn().state_dict(), "state_dict_ema": AveragedModel(cnn()).state_dict()}


def adapter() -> object:
    model = "base_model.model.model.layers"
    return {f"{model}.{i}.q_proj.lora_{part}.weight": torch.ones(4, 8) for i in range(2) for part in "AB"}


def trained() -> object:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optim": optimizer.state_dict(), "epoch": 3}


def overlapping() -> object:
    whole = torch.arange(16.0).reshape(4, 4)
    return {"a.weight": whole, "b.weight": whole[:2], "c.weight": whole}


def scripted() -> bytes:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    path = folder / f"ckpttool-scripted-{os.getpid()}.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    content = path.read_bytes()
    path.unlink()
    return content


MADE: dict[str, Callable[[], object]] = {
    "plain": lambda: cnn().state_dict(),
    "wrapped": lambda: torch.compile(nn.DataParallel(cnn())).state_dict(),
    "wrapped in a branch": lambda: {"model": nn.DataParallel(cnn()).state_dict(), "epoch": 1},
    "wrapped in the other branch": averaged,
    "averaged module": lambda: AveragedModel(cnn()),
    "whole module": cnn,
    "objects": lambda: {"model": cnn().state_dict(), "args": argparse.Namespace(lr=1e-3)},
    "trained": trained,
    "bloat": lambda: {"a.weight": torch.zeros(1000, 1000)[:10], "b.weight": torch.zeros(3)},
    "tied": lambda: dict.fromkeys(("a.weight", "b.weight"), torch.ones(4, 4)),
    "overlapping": overlapping,
    "overlapping among objects": lambda: {"x": argparse.Namespace(), **overlapping()},  # type: ignore[dict-item]
    "transposed": lambda: {"a.weight": torch.ones(2, 3).t(), "b.weight": torch.ones(2)},
    "transposed and sparse": lambda: {"a.weight": torch.ones(2, 3).t(), "b.weight": torch.eye(3).to_sparse()},
    "expanded far": lambda: {"a.weight": torch.zeros(1).expand(1 << 40), "b.weight": torch.zeros(3)},
    "conjugate": lambda: {"a.weight": torch.ones(2, dtype=torch.complex64).conj()},
    "complex128": lambda: {"a.weight": torch.ones(2, dtype=torch.complex128)},
    "quantized": lambda: {"a.weight": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
    "meta": lambda: nn.Linear(2, 2, device="meta").state_dict(),
    "lazy": lambda: nn.LazyLinear(3).state_dict(),
    "weight norm": lambda: weight_norm(nn.Linear(2, 2)).state_dict(),
    "extra state": lambda: Extra(2, 2).state_dict(),
    "extra state alone": lambda: {"_extra_state": torch.zeros(3, dtype=torch.uint8)},
    "adapter": adapter,
    "known buffers": lambda: {"rotary_emb.inv_freq": torch.ones(4), "q_proj.weight": torch.ones(4, 4)},
    "two trees": lambda: {"": {"w": torch.zeros(2)}, "a.b": {"w": torch.ones(3)}},
    "keys that are alike": lambda: {"0": torch.zeros(2), 0: torch.ones(3), "x": argparse.Namespace()},
    "reserved name": lambda: {"__metadata__": torch.zeros(2), "x": argparse.Namespace()},
    "no Unicode": lambda: {"a\ud800": torch.zeros(2), "x": argparse.Namespace()},
    "dashes": lambda: {"--root": {"module.w": torch.zeros(2)}, "b": {"w": torch.zeros(3)}, "c": object},
    "as_subclass": lambda: {"a.weight": torch.ones(3).as_subclass(Subclassed), "b.weight": torch.ones(2)},
    "two tensors": lambda: {"a.weight": TwoTensor(torch.zeros(3), torch.ones(3)), "b.weight": torch.ones(2)},
    "jagged": lambda: {
        "x": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
    },
    "list": lambda: [torch.ones(2), torch.ones(2).t(), argparse.Namespace()],
    "one tensor": lambda: torch.ones(3, 2).t(),
    "script": scripted,
}
"""What leads to each finding that asks for a command, and what must lead to none."""


def write_made(value: object, path: Path, *, legacy: bool = False) -> None:
    """Write what torch saves of ``value``; bytes are a file already. What the old layout lacks is skipped."""
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif legacy:
        try:
            save_legacy(value, path)
        except (RuntimeError, NotImplementedError) as error:  # not all of it existed then
            pytest.skip(str(error))
    else:
        torch.save(value, path)
