"""Loaded tensors against those of the file, by bytes: on the CPU, or on the device where they are.

On a device, what has to cross the bus is the file, once, and not both. Two pinned buffers alternate;
while one is on its way, the next is filled. Nothing waits for an answer before the end, so that many
small tensors cost no more than few large ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ckpttool.torch_bridge.accelerator import pinned, record_event
from ckpttool.torch_bridge.tensors import (
    NamedTensors,
    byte_view,
    is_lazy,
    is_plain,
    same_bytes,
    type_name,
    wide_views,
)
from ckpttool.torch_bridge.verify.builds import Poison
from ckpttool.torch_bridge.verify.casts import find_loss
from ckpttool.values.verification import Lossy

CHUNK_NBYTES = 64 << 20


class Comparison:
    """Loaded tensors against ``state``, the file's, sorted by what became of them.

    ``wrong`` says why, and "" where the two tensors alone do not tell. ``gb_per_second`` is the speed
    of what was compared on a device.
    """

    def __init__(self, loaded: NamedTensors, state: Mapping[str, Any], poison: Poison, device: str) -> None:
        self.loaded = loaded
        self.state = state
        self.poison = poison
        self.lossy: list[Lossy] = []
        self.cast: list[str] = []
        self.wrong: dict[str, str] = {}
        self.unfilled: list[str] = []
        self.uncompared: list[str] = []
        self.gb_per_second: float | None = None
        self._device = torch.device(device)
        self._comparer = DeviceComparer(self._device) if self._device.type != "cpu" else None

    def run(self, names: Iterable[str]) -> None:
        """Compare the entries of these names, and wait for what is under way on a device."""
        for name in names:
            self._compare(name, self.loaded[name], self.state[name])
        if self._comparer is not None:
            different, seconds = self._comparer.finish()
            for name in different:
                self._differs(name)
            if self._comparer.nbytes:
                self.gb_per_second = self._comparer.nbytes / seconds / 1e9

    def _compare(self, name: str, tensor: torch.Tensor, stored: torch.Tensor) -> None:
        """Compare one tensor, or begin to where it is on a device."""
        if tensor.is_meta:
            self.wrong[name] = "still on meta: no data was loaded"
        elif is_lazy(tensor):
            self.wrong[name] = "still uninitialised: no data was loaded"
        elif not (is_plain(tensor) and is_plain(stored)):
            self._compare_parts(name, tensor, stored)
        elif tensor.shape != stored.shape and not tensor.numel() == stored.numel() == 1:
            self._differs(name)
        elif tensor.dtype != stored.dtype:
            loss = find_loss(name, stored, tensor)
            if loss is None:
                self.cast.append(name)
            elif self.poison.survives(name, tensor):
                self.unfilled.append(name)
            else:
                self.lossy.append(loss)
        else:
            stored = stored.reshape(tensor.shape)  # torch takes shape [1] for [] since 0.4.1
            if self._comparer is not None and tensor.device.type == self._device.type:
                self._comparer.submit(name, tensor, stored)
            elif not same_bytes(tensor.cpu(), stored):
                self._differs(name)

    def _differs(self, name: str) -> None:
        if self.poison.survives(name, self.loaded[name]):
            self.unfilled.append(name)
        else:
            self.wrong[name] = ""

    def _compare_parts(self, name: str, tensor: torch.Tensor, stored: torch.Tensor) -> None:
        """Sparse and quantized tensors by the tensors that they are made of."""
        left, right = _components(tensor.detach().cpu()), _components(stored)
        if left is None or right is None:
            self.uncompared.append(name)
        elif len(left) != len(right) or not all(map(same_bytes, left, right)):
            layout = "quantized" if stored.is_quantized else type_name(stored.layout)
            self.wrong[name] = f"its {layout} parts are not the file's"


def _components(tensor: torch.Tensor) -> Sequence[torch.Tensor] | None:
    """Strided tensors that say the same; None for layouts and subclasses that are not taken apart here."""
    if is_plain(tensor):
        return [tensor]
    if tensor.layout is torch.sparse_coo:
        whole = tensor.coalesce()
        return [whole.indices(), whole.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.is_quantized and tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale_and_zero = torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)
        return [tensor.int_repr(), scale_and_zero]
    if tensor.is_quantized:
        scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
        return [tensor.int_repr(), scales, zeros, torch.tensor(tensor.q_per_channel_axis())]
    return None


class DeviceComparer:
    """Compares tensors of one device; ``nbytes`` and ``seconds`` say what was brought over, and how fast."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.nbytes = 0
        buffers = [pinned(CHUNK_NBYTES, device) for _ in range(2)]
        # From memory that is not pinned a copy must be over before the buffer is filled again.
        self._overlaps = None not in buffers
        self._host = [torch.empty(CHUNK_NBYTES, dtype=torch.uint8) if b is None else b for b in buffers]
        self._there = [torch.empty(CHUNK_NBYTES, dtype=torch.uint8, device=device) for _ in range(2)]
        self._arrived: list[Any] = [None, None]
        self._slot = 0
        self._answers: dict[str, torch.Tensor] = {}
        self._started = time.perf_counter()

    def submit(self, name: str, loaded: torch.Tensor, expected: torch.Tensor) -> None:
        """Begin to compare ``loaded`` (on the device) with ``expected`` (on the CPU, alike) byte by byte."""
        on_device, on_host = byte_view(loaded), byte_view(expected)
        same = torch.ones((), dtype=torch.bool, device=self.device)
        for start in range(0, on_host.numel(), CHUNK_NBYTES):
            piece = on_host[start : start + CHUNK_NBYTES]
            there = self._bring(piece)
            left, right = wide_views(there, on_device[start : start + piece.numel()])
            same &= (left == right).all()
            self.nbytes += piece.numel()
        self._answers[name] = same

    def _bring(self, piece: torch.Tensor) -> torch.Tensor:
        """Copy one chunk over by way of the pinned buffer whose last copy is the longest ago."""
        slot = self._slot
        self._slot = 1 - slot
        arrived = self._arrived[slot]
        if arrived is not None:
            arrived.synchronize()
        host = self._host[slot][: piece.numel()]
        host.copy_(piece)
        there = self._there[slot][: piece.numel()]
        there.copy_(host, non_blocking=self._overlaps)
        if self._overlaps:
            self._arrived[slot] = record_event(self.device)
        return there

    def finish(self) -> tuple[list[str], float]:
        """Names of the tensors that differ, and the seconds since the comparer was made."""
        names = list(self._answers)
        flags = torch.stack(list(self._answers.values())).cpu().tolist() if names else []
        different = [name for name, same in zip(names, flags, strict=True) if not same]
        return different, time.perf_counter() - self._started
