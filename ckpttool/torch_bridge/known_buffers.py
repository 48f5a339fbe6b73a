"""Values of the buffers that a file leaves out and a live model rebuilds."""

from __future__ import annotations

from collections.abc import Collection

import torch

from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import non_persistent_names


def save_buffers(source: ModelSource, names: Collection[str], path: str) -> None:
    """Build the model on CPU and save those of its non-persistent buffers that ``names`` asks for.

    Raises:
        ModelImportFailed: the factory fails.
        OSError: ``path`` cannot be written.
    """
    buffers = non_persistent_names(source.build(device="cpu"))
    torch.save({name: buffers[name].detach() for name in buffers if name in names}, path)
