"""Shards and indexes in a folder, and how they read."""

import json
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ckpttool.files.local import Sources
from ckpttool.formats import folders
from ckpttool.formats.base import Limits, Look, Reading
from ckpttool.formats.folders import shards
from ckpttool.formats.safetensors import read as read_safetensors
from ckpttool.values.checkpoint import Checkpoint
from ckpttool.values.errors import CkptToolError

ReadFile = Callable[[Look], Checkpoint]
LIMITS = Limits()
INDEX = "model.safetensors.index.json"
TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.zeros(3),
    "b.weight": torch.ones(2, 2, dtype=torch.float16),
    "c.count": torch.tensor(7),
}


def read_file(look: Look) -> Checkpoint:
    return read_safetensors(look)


def read_folder(path: str, limits: Limits, read: ReadFile) -> Checkpoint:
    with closing(Sources()) as sources:
        return folders.read_folder(path, Reading(limits, sources, read))


def read_index(path: str, limits: Limits, read: ReadFile) -> Checkpoint:
    with closing(Sources()) as sources, sources.reading(path) as source:
        return shards.read_index(Look(source, limits), Reading(limits, sources, read))


def shard_name(number: int, total: int, stem: str = "model") -> str:
    return f"{stem}-{number:05d}-of-{total:05d}.safetensors"


def write_shards(folder: Path, parts: Iterable[Iterable[str]], **metadata: str) -> dict[str, str]:
    """Write TENSORS in parts, and return the weight_map."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [list(part) for part in parts]
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        name = shard_name(number, len(parts))
        tensors = {key: TENSORS.get(key, torch.zeros(1)) for key in part}
        safetensors.torch.save_file(tensors, folder / name, metadata={"format": "pt", **metadata})
        weight_map |= dict.fromkeys(part, name)
    return weight_map


def write_index(folder: Path, weight_map: object, metadata: object = None, name: str = INDEX) -> str:
    document = (
        {"weight_map": weight_map} if metadata is None else {"metadata": metadata, "weight_map": weight_map}
    )
    (folder / name).write_text(json.dumps(document))
    return str(folder / name)


def two_shards(parent: Path) -> Path:
    """A folder as save_pretrained leaves it: two shards, an index, a configuration."""
    folder = parent / "model"
    weight_map = write_shards(folder, [["a.weight", "a.bias"], ["b.weight", "c.count"]])
    total = sum(tensor.nbytes for tensor in TENSORS.values())
    write_index(folder, weight_map, {"total_size": total})
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def codes(checkpoint: Checkpoint) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.severity, finding.name) for finding in checkpoint.findings]


def refusal(
    path: Path | str, read: Callable[..., Checkpoint] = read_folder, limits: Limits = LIMITS
) -> CkptToolError:
    with pytest.raises(CkptToolError) as caught:
        read(str(path), limits, read_file)
    assert caught.value.path
    assert "\n" not in str(caught.value)
    return caught.value
