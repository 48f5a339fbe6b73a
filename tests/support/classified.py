"""Checkpoints made by hand or of a module, without a file, and the kinds that they are given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ckpttool.kinds.classify import classify
from ckpttool.values.checkpoint import Checkpoint, Classification, Entry, Kind, Root, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME

PARAMETER = Kind.PARAMETER
BUFFER = Kind.PERSISTENT_BUFFER
UNKNOWN = Kind.UNKNOWN


def entry(
    name: Any, dtype: str = "float32", shape: tuple[int, ...] = (4,), root: Any = (), **more: Any
) -> Entry:
    storage = StorageRef("f", f"{root}{name}", 0, 1 << 40)
    return Entry(root, name, TensorInfo(BY_NAME[dtype], shape, (1,) * len(shape), 0, storage), **more)


def checkpoint(entries: Iterable[Entry], **more: Any) -> Checkpoint:
    return Checkpoint("x", "torch_zip", "", (), tuple(entries), **more)


def by_root(entries: Iterable[Entry]) -> dict[Root, list[int]]:
    """Positions of the entries of each state_dict."""
    found: dict[Root, list[int]] = {}
    for at, item in enumerate(entries):
        found.setdefault(item.root, []).append(at)
    return found


def by_name(source: Checkpoint) -> dict[Any, Classification]:
    kinds = classify(source)
    assert len(kinds.classifications) == len(source.entries)
    return {item.name: said for item, said in zip(source.entries, kinds.classifications, strict=True)}


def kind_of(source: Checkpoint) -> dict[Any, Kind]:
    return {name: said.kind for name, said in by_name(source).items()}


class Registers(nn.Module):
    """Parameters (p=...) then buffers (b=...), as torch writes them."""

    def __init__(
        self, p: dict[str, torch.Tensor] | None = None, b: dict[str, torch.Tensor] | None = None
    ) -> None:
        super().__init__()
        for name, value in (p or {}).items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
        for name, value in (b or {}).items():
            self.register_buffer(name, value)


def frozen_batch_norm(size: int = 4) -> nn.Module:
    names = ("weight", "bias", "running_mean", "running_var")
    return Registers(b={name: torch.zeros(size) for name in names})


def float_() -> torch.Tensor:
    return torch.zeros(3)
