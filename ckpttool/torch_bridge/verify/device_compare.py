"""Tensors on a device against those of the file, which come over in pinned chunks.

The comparison runs on the device: what has to cross the bus is the file, once, and not both. Two
pinned buffers alternate; while one is on its way, the next is filled. Nothing waits for an answer
before the end, so that many small tensors cost no more than few large ones.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from ckpttool.torch_bridge.tensors import byte_view, wide_views

CHUNK_NBYTES = 64 << 20


class DeviceComparer:
    """Compares tensors of one device; ``nbytes`` and ``seconds`` say what was brought over, and how fast."""

    def __init__(self, device: torch.device, chunk_nbytes: int = CHUNK_NBYTES) -> None:
        self.device = device
        self.nbytes = 0
        self._chunk_nbytes = chunk_nbytes
        self._is_cuda = device.type == "cuda"
        self._host = [
            torch.empty(chunk_nbytes, dtype=torch.uint8, pin_memory=self._is_cuda) for _ in range(2)
        ]
        self._there = [torch.empty(chunk_nbytes, dtype=torch.uint8, device=device) for _ in range(2)]
        self._arrived: list[Any] = [None, None]
        self._slot = 0
        self._answers: dict[str, torch.Tensor] = {}
        self._started = time.perf_counter()

    def submit(self, name: str, loaded: torch.Tensor, expected: torch.Tensor) -> None:
        """Begin to compare ``loaded`` (on the device) with ``expected`` (on the CPU) byte by byte."""
        if loaded.shape != expected.shape or loaded.dtype != expected.dtype:
            self._answers[name] = torch.zeros((), dtype=torch.bool, device=self.device)
            return
        on_device, on_host = byte_view(loaded), byte_view(expected)
        same = torch.ones((), dtype=torch.bool, device=self.device)
        for start in range(0, on_host.numel(), self._chunk_nbytes):
            piece = on_host[start : start + self._chunk_nbytes]
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
        there.copy_(host, non_blocking=True)
        if self._is_cuda:
            self._arrived[slot] = torch.cuda.current_stream(self.device).record_event()
        return there

    def finish(self) -> tuple[list[str], float]:
        """Names of the tensors that differ, and the seconds since the comparer was made."""
        names = list(self._answers)
        flags = torch.stack(list(self._answers.values())).cpu().tolist() if names else []
        return [name for name, same in zip(names, flags, strict=True) if not same], (
            time.perf_counter() - self._started
        )
