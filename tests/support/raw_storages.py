"""Tensors whose storages lie raw in files, for what reads elements without any container."""

from __future__ import annotations

from pathlib import Path

import torch

from ckpttool.values.checkpoint import FileInfo, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME


class RawStorages:
    """Raw storages in files, each tensor in one of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[FileInfo] = []

    def info(self, tensor: torch.Tensor, dtype: str | None = None) -> TensorInfo:
        path = self.folder / f"{len(self.files)}.bin"
        path.write_bytes(bytes(torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()))
        status = path.stat()
        self.files.append(FileInfo.of(str(path), status))
        return TensorInfo(
            BY_NAME[dtype or str(tensor.dtype).removeprefix("torch.")],
            tuple(tensor.shape),
            tuple(tensor.stride()),
            tensor.storage_offset(),
            StorageRef(str(path), "0", 0, status.st_size),
            tensor.is_conj(),
            tensor.is_neg(),
        )
