"""What the tests of ``verify`` share: save what a test made, load it into a model, look at one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.accelerator import accelerator
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.verify.verify import VerifyOptions, verify
from ckpttool.values.checkpoint import Root
from ckpttool.values.verification import Run, Verification

ACCELERATOR = accelerator() or "cuda"
DEVICES = ["cpu", pytest.param(ACCELERATOR, marks=pytest.mark.cuda)]
"""Parameters of a test whose body is the same on both; conftest skips what is not here with the reason."""

Build = Callable[[], nn.Module]


def source(build: Callable[..., Any], **arguments: Any) -> ModelSource:
    return ModelSource("test:build", build, arguments)


def check_file(
    path: Path, build: Build, *, device: str = "cpu", load: str = "", root: Root = (), **options: Any
) -> Verification:
    """Verify a file; ``load`` names the ways that decide, separated by commas."""
    loads = tuple(load.split(",")) if load else ()
    return verify(read_checkpoint(str(path)), root, source(build), VerifyOptions((device,), loads, **options))


def check(state: Any, build: Build, folder: Path, **options: Any) -> Verification:
    """Save ``state`` with torch.save and verify it."""
    path = folder / "state.pt"
    torch.save(state, path)
    return check_file(path, build, **options)


def the_run(result: Verification, load: str = "copy") -> Run:
    """The one run of this way."""
    [run] = [run for run in result.runs if run.load == load]
    return run


def names(items: Any) -> list[str]:
    return [item.name for item in items]


def complaints(run: Run) -> Mapping[str, Any]:
    """Every list of a run that says that something is wrong, by field."""
    fields = (
        "missing", "unexpected", "mismatched", "lossy", "not_restored", "unfilled", "wrong", "untied",
        "unmoved", "errors", "uncompared",
    )  # fmt: skip
    return {name: value for name in fields if (value := getattr(run, name))}
