"""Tensors of a checkpoint as torch tensors: views of the file where it can be mapped, else copies.

Mapping is private and lazy, so that a model of N bytes is verified in about N bytes of memory: the
file's pages belong to the page cache. Equal storages of the file are equal storages here, so ties
arrive at ``load_state_dict`` as ties.
"""

from __future__ import annotations

from typing import Any

import torch

from ckpttool.checkpoint import Checkpoint, CompositeTensor, Entry, StorageRef, TensorInfo
from ckpttool.errors import UnsupportedFeature
from ckpttool.tensor_bytes import TensorReader


class FileTensors:
    """Gives ``torch.Tensor``s for entries of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._maps: dict[str, torch.UntypedStorage] = {}
        self._storages: dict[tuple[str, str], torch.UntypedStorage] = {}
        self._loaded: Any = None

    def tensor(self, entry: Entry) -> torch.Tensor:
        """The entry's tensor, on CPU.

        Raises:
            UnsupportedFeature: torch has no such dtype, or the file holds no data for it.
        """
        value = entry.value
        if isinstance(value, CompositeTensor):
            return self._composite(entry, value)
        if value is None or value.storage is None or value.storage.location == "meta":
            raise UnsupportedFeature(f"entry {str(entry.name)!r} has no data in the file")
        dtype = torch_dtype(value)
        ref = value.storage
        if value.numel == 0:
            return torch.empty(value.shape, dtype=dtype)
        if ref.compressed_nbytes is not None or ref.big_endian:
            return self._copy(value, dtype)
        tensor = torch.empty(0, dtype=dtype)
        tensor.set_(self._storage(ref), value.storage_offset, value.shape, value.stride)
        if value.conj:
            tensor = tensor.conj()
        return torch._neg_view(tensor) if value.neg else tensor

    def _storage(self, ref: StorageRef) -> torch.UntypedStorage:
        """The bytes of a storage as a view of the mapped file."""
        known = self._storages.get((ref.file, ref.key))
        if known is None:
            whole = self._maps.get(ref.file)
            if whole is None:
                nbytes = next(file.nbytes for file in self.checkpoint.files if file.path == ref.file)
                mapped: Any = torch.UntypedStorage.from_file(ref.file, False, nbytes)
                whole = self._maps[ref.file] = mapped
            part: Any = whole[ref.byte_offset : ref.byte_offset + ref.nbytes]
            known = self._storages[ref.file, ref.key] = part
        return known

    def _copy(self, info: TensorInfo, dtype: torch.dtype) -> torch.Tensor:
        """A contiguous copy of what cannot be mapped: inflated or byte-swapped on the way."""
        tensor = torch.empty(info.shape, dtype=dtype)
        target = byte_view(tensor)
        position = 0
        with TensorReader(self.checkpoint.files) as reader:
            for chunk in reader.iter_chunks(info):
                target[position : position + len(chunk)] = torch.frombuffer(chunk, dtype=torch.uint8)
                position += len(chunk)
        return tensor

    def _composite(self, entry: Entry, value: CompositeTensor) -> torch.Tensor:
        """Quantized, sparse and nested tensors, which torch's own loader (it runs nothing) puts together."""
        if value.layout == "uninitialized":
            raise UnsupportedFeature(
                f"entry {str(entry.name)!r} is an uninitialised tensor of a lazy module: it has no values",
                hint="run one forward pass before saving, so that the lazy modules know their shapes",
            )
        if self.checkpoint.format not in ("torch_zip", "torch_legacy"):
            raise UnsupportedFeature(f"entry {str(entry.name)!r} is a {value.layout} tensor")
        if self._loaded is None:
            self._loaded = torch.load(self.checkpoint.path, map_location="cpu", weights_only=True)
        found = self._loaded
        for key in (*entry.root, entry.name):
            found = found[key]
        if not isinstance(found, torch.Tensor):
            raise UnsupportedFeature(f"entry {str(entry.name)!r} is a {value.layout} tensor")
        return found


def torch_dtype(info: TensorInfo) -> torch.dtype:
    """``torch.float32`` for the dtype table's ``float32``.

    Raises:
        UnsupportedFeature: this torch has no such dtype.
    """
    dtype = getattr(torch, info.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedFeature(f"torch {torch.__version__} has no dtype {info.dtype.name}")
    return dtype


def byte_view(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of a tensor as flat uint8, in row-major order; a view if it is contiguous."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors on one device have equal shapes, dtypes and bytes (NaN equals itself, 0 != -0)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    left, right = byte_view(a), byte_view(b)
    # Eight bytes at a time where both can be seen so: three times as fast.
    if left.numel() % 8 == 0 and left.storage_offset() % 8 == 0 and right.storage_offset() % 8 == 0:
        left, right = left.view(torch.int64), right.view(torch.int64)
    return torch.equal(left, right)


class DeviceComparer:
    """Compares tensors on a device with tensors of the file, which come over in pinned chunks.

    Two pinned buffers alternate: while one is on its way, the next is filled. ``nbytes`` counts
    what was brought over.
    """

    def __init__(self, device: torch.device, chunk_nbytes: int = 64 << 20) -> None:
        self.device = device
        self.chunk_nbytes = chunk_nbytes
        self.nbytes = 0
        pinned = device.type == "cuda"
        self._host = [torch.empty(chunk_nbytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._there = [torch.empty(chunk_nbytes, dtype=torch.uint8, device=device) for _ in range(2)]
        self._free: list[Any] = [None, None]

    def equal(self, loaded: torch.Tensor, expected: torch.Tensor) -> bool:
        """Whether ``loaded`` (on the device) has the bytes of ``expected`` (on the CPU)."""
        if loaded.shape != expected.shape or loaded.dtype != expected.dtype:
            return False
        on_device, on_host = byte_view(loaded), byte_view(expected)
        same = torch.ones((), dtype=torch.bool, device=self.device)
        for number, start in enumerate(range(0, on_host.numel(), self.chunk_nbytes)):
            piece = on_host[start : start + self.chunk_nbytes]
            slot = number % 2
            if self._free[slot] is not None:
                self._free[slot].synchronize()
            self._host[slot][: piece.numel()].copy_(piece)
            there = self._there[slot][: piece.numel()]
            there.copy_(self._host[slot][: piece.numel()], non_blocking=True)
            same &= (there == on_device[start : start + piece.numel()]).all()
            if self.device.type == "cuda":
                self._free[slot] = torch.cuda.current_stream(self.device).record_event()
            self.nbytes += piece.numel()
        return bool(same)
