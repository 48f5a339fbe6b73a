"""What normal builds of a model give: the only truth about what a file does not hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.analysis.verification import NotRestored
from ckpttool.torch_bridge.file_tensors import byte_view, same_bytes
from ckpttool.torch_bridge.loading import describe_values
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import named_state, non_persistent_names


class Builds(NamedTuple):
    """What normal builds give: ``first`` and ``second`` hold clones from builds with seeds 0 and 1."""

    first: dict[str, torch.Tensor]
    second: dict[str, torch.Tensor]
    transient: frozenset[str]  # names of non-persistent buffers

    def agrees(self, name: str) -> bool | None:
        """Whether both builds gave the same bytes; None if one of them lacks the name."""
        if name not in self.first or name not in self.second:
            return None
        return same_bytes(self.first[name], self.second[name])


def build_twice(source: ModelSource, wanted: set[str]) -> Builds:
    """Clones of the non-persistent buffers and of the entries ``wanted``, from seeds 0 and 1.

    Only the clones stay: one model at a time is in memory.
    """
    first, transient = _snapshot(source.build(seed=0), wanted)
    second, _ = _snapshot(source.build(seed=1), wanted)
    return Builds(first, second, transient)


def _snapshot(module: nn.Module, wanted: set[str]) -> tuple[dict[str, torch.Tensor], frozenset[str]]:
    """Clones of the tensors named, and the names of non-persistent buffers."""
    transient = non_persistent_names(module)
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in {**named_state(module), **transient}.items():
        if name not in wanted and name not in transient:
            continue
        if isinstance(tensor, torch.Tensor) and not is_lazy(tensor) and not tensor.is_meta:
            kept[name] = tensor.detach().clone()
    return kept, frozenset(transient)


def fingerprints(builds: Builds) -> dict[str, dict[str, Any]]:
    """For ``--write-reference``: dtype, shape, sha256 of the bytes and a summary of each rebuilt buffer."""
    found = {}
    for name in sorted(builds.transient):
        if builds.agrees(name):
            tensor = builds.first[name]
            found[name] = {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "sha256": _digest(tensor),
                "values": describe_values(tensor),
            }
    return found


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(bytes(byte_view(tensor.cpu()).tolist())).hexdigest()


def compare_fingerprints(reference: Mapping[str, Any], builds: Builds) -> list[NotRestored]:
    """Rebuilt buffers whose fingerprints are not those that were kept."""
    now = fingerprints(builds)
    found = []
    for name, expected in reference.items():
        actual = now.get(name)
        if actual is None:
            found.append(
                NotRestored(name, "changed", "not a rebuilt buffer of this model", str(expected["values"]))
            )
        elif any(actual[field] != expected.get(field) for field in ("dtype", "shape", "sha256")):
            holds = f"{actual['dtype']} {tuple(actual['shape'])} {actual['values']}"
            wanted = f"{expected.get('dtype')} {tuple(expected.get('shape', ()))} {expected.get('values')}"
            found.append(NotRestored(name, "changed", holds, wanted))
    found += [
        NotRestored(name, "changed", actual["values"], "no such buffer in the reference")
        for name, actual in now.items()
        if name not in reference
    ]
    return found
