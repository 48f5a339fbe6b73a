"""Tensors whose storages lie raw in files, for what reads elements without any container."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ckpttool.values.checkpoint import Chunk, ChunkedTensor, FileInfo, StorageRef, TensorInfo
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

    def chunked(
        self, whole: torch.Tensor, cuts: Sequence[Sequence[int]], lays: Iterable[str] = ()
    ) -> ChunkedTensor:
        """``whole`` cut at these places of each dimension; a chunk is packed, turned or at an offset."""
        edges = [
            itertools.pairwise([0, *places, size]) for places, size in zip(cuts, whole.shape, strict=True)
        ]
        chunks = []
        for box, lay in zip(
            itertools.product(*edges), itertools.chain(lays, itertools.repeat("")), strict=False
        ):
            part = whole[tuple(slice(low, high) for low, high in box)].clone()
            if lay == "turned":
                backwards = tuple(reversed(range(part.ndim)))
                part = part.permute(backwards).contiguous().permute(backwards)
            elif lay == "offset":
                part = torch.stack([part, part])[1]
            chunks.append(Chunk(tuple(low for low, _ in box), self.info(part)))
        return ChunkedTensor(chunks[0].value.dtype, tuple(whole.shape), tuple(chunks))
