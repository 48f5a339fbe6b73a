"""Tensors of a module that are not where they should be after ``.to(device)`` or a build on meta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ckpttool.torch_bridge.accelerator import indexed
from ckpttool.torch_bridge.lint.scan import iter_strays
from ckpttool.torch_bridge.reference import iter_filled
from ckpttool.torch_bridge.tensors import NamedTensors, has_values, is_plain, is_tensor
from ckpttool.values.model import ModelSpec
from ckpttool.values.verification import NORMAL_BUILDS


def unmoved(module: nn.Module, device: str) -> list[str]:
    """Registered tensors and plain attributes that are not on ``device``.

    Not counted: scalars on the CPU, which mix with tensors of any device, and what old-style
    weight_norm, spectral_norm and prune compute before each forward.
    """
    wanted = indexed(torch.device(device))
    found = [slot.full_name for slot in iter_filled(module) if slot.tensor.device != wanted]
    found += [
        name
        for name, tensor in _attributes(module)
        if tensor.device != wanted and not (tensor.ndim == 0 and tensor.device.type == "cpu")
    ]
    return list(dict.fromkeys(found))


def misplaced(module: nn.Module, device: str, load: str) -> list[str]:
    """Tensors that are not on the device, or that a build on meta left without data for good."""
    if load not in NORMAL_BUILDS:
        return left_on_meta(module)
    return unmoved(module, device) if device != "cpu" else []


def left_on_meta(module: nn.Module) -> list[str]:
    """Plain attributes that a build on meta left without data: no way of loading ever fills them."""
    return [name for name, tensor in _attributes(module) if tensor.is_meta]


def _attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in plain attributes, in lists and dicts too, that are not registered anywhere."""
    for stray in iter_strays(module):
        if is_tensor(stray.value) and not (stray.computed or stray.registered):
            yield stray.name, stray.value


def tie_groups(spec: ModelSpec) -> list[tuple[str, ...]]:
    """Names of the model's entries that share memory: one tensor, or views that overlap."""
    by_storage: dict[str, list[tuple[int, int, str]]] = {}
    for entry in spec.checkpoint.entries:
        info = entry.tensor
        if info is not None and info.storage is not None and info.numel:
            by_storage.setdefault(info.storage.key, []).append((*info.byte_span, str(entry.name)))
    groups: list[list[str]] = []
    for spans in by_storage.values():
        end = -1
        for start, stop, name in sorted(spans):
            if start >= end:
                groups.append([])
            groups[-1].append(name)
            end = max(end, stop)
    return [tuple(names) for names in groups if len(names) > 1]


def share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors that hold data view one storage."""
    both = has_values(a) and has_values(b)
    return both and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def find_untied(groups: Sequence[tuple[str, ...]], held: NamedTensors) -> list[tuple[str, ...]]:
    """Groups of the model as built of which not all members share memory any more."""
    found = []
    for group in groups:
        there = [held[name] for name in group if name in held and is_plain(held[name])]
        if len(there) > 1 and not all(share_memory(there[0], other) for other in there[1:]):
            found.append(group)
    return found
