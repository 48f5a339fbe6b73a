"""Tensors of a module that are not where they should be after ``.to(device)`` or a build on meta."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ckpttool.torch_bridge.lint_scan import iter_strays
from ckpttool.torch_bridge.reference import iter_registered


def unmoved(module: nn.Module, device: str) -> list[str]:
    """Registered tensors and plain attributes that are not on ``device``.

    Not counted: scalars on the CPU, which mix with tensors of any device, and what old-style
    weight_norm, spectral_norm and prune compute before each forward.
    """
    wanted = torch.device(device)
    if wanted == torch.device("cuda"):  # without an index: the current one
        wanted = torch.device(f"cuda:{torch.cuda.current_device()}")
    found = [
        slot.full_name
        for slot in iter_registered(module)
        if slot.tensor is not None and slot.tensor.device != wanted
    ]
    found += [
        name
        for name, tensor in _attributes(module)
        if tensor.device != wanted and not (tensor.ndim == 0 and tensor.device.type == "cpu")
    ]
    return list(dict.fromkeys(found))


def left_on_meta(module: nn.Module) -> list[str]:
    """Plain attributes that a build on meta left without data: no way of loading ever fills them."""
    return [name for name, tensor in _attributes(module) if tensor.is_meta]


def _attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in plain attributes, in lists and dicts too, that are not registered anywhere."""
    registered = {id(slot.tensor) for slot in iter_registered(module)}
    for stray in iter_strays(module):
        tensor = stray.value
        if isinstance(tensor, torch.Tensor) and not stray.computed and id(tensor) not in registered:
            yield stray.name, tensor
