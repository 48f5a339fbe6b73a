"""Casts of packed elements, as torch itself rounds them, with what each cast loses."""

from __future__ import annotations

import torch

from ckpttool.values.conversion import CastLoss
from ckpttool.values.dtypes import DType

# Elements that are judged together: input, output and differences stay in the L2 cache.
_BLOCK = 1 << 16


def cast_elements(data: memoryview, before: DType, after: DType) -> tuple[memoryview, CastLoss]:
    """``data`` as packed elements of ``after``, rounded to nearest even; see ``execute.Caster``."""
    source = torch.frombuffer(data, dtype=getattr(torch, before.name))
    packed = bytearray(source.numel() * after.nbytes)
    result = torch.frombuffer(packed, dtype=getattr(torch, after.name))
    loss = CastLoss()
    # Blocks this small cost more to hand out to threads than to do: up to 20 times on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for start in range(0, source.numel(), _BLOCK):
            values, rounded = source[start : start + _BLOCK], result[start : start + _BLOCK]
            rounded.copy_(values)
            loss = loss.joined(_judge(values, rounded))
    finally:
        torch.set_num_threads(threads)
    return memoryview(packed), loss


def _judge(values: torch.Tensor, rounded: torch.Tensor) -> CastLoss:
    """Compare two runs of numbers in the wider of float32 and their own dtype."""
    wide = torch.float64 if torch.float64 in (values.dtype, rounded.dtype) else torch.float32
    exact, found = values.to(wide), rounded.to(wide)
    magnitude = exact.abs()
    relative = (found - exact).abs_().div_(magnitude)
    worst = relative.max().item() if relative.numel() else 0.0
    # Without a zero, an infinity or NaN on either side, every relative error is a number below 1: done.
    if worst < 1.0:
        return CastLoss(exact.numel(), 0, 0, worst)
    overflow = exact.isfinite() & ~found.isfinite()
    underflow = (exact != 0) & (found == 0)
    # 0/0, and what is infinite or NaN on either side, is no relative error; what became 0 is counted apart.
    relative.masked_fill_(~relative.isfinite() | underflow, 0.0)
    return CastLoss(
        exact.numel(),
        int(overflow.sum().item()),
        int(underflow.sum().item()),
        relative.max().item(),
    )
