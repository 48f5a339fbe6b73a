"""Tensors as a file has them, read without the code under test."""

from __future__ import annotations

import torch

from ckpttool.values.checkpoint import TensorInfo


def elements(info: TensorInfo) -> torch.Tensor:
    """The tensor that an address gives."""
    assert info.storage is not None
    with open(info.storage.file, "rb") as file:
        file.seek(info.storage.byte_offset)
        raw = file.read(info.storage.nbytes)
    assert len(raw) == info.storage.nbytes
    dtype = getattr(torch, info.dtype.name)
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return flat.as_strided(info.shape, info.stride, info.storage_offset)


def raw_bytes(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
