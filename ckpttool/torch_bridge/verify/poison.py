"""Poison: every tensor holds what no checkpoint holds before a load, so that a survivor is proof.

Floats become NaN with all bits set (a NaN in every IEEE, bfloat16 and float8 format), integers the
byte 0x5A throughout, bools the negation of what the file has for them.
"""

from __future__ import annotations

import torch
from torch.nn.parameter import is_lazy

from ckpttool.torch_bridge.tensors import byte_view, same_bytes

_FLOAT_BYTE = 0xFF
_INT_BYTE = 0x5A  # in every byte of an integer: 0x5a5a… is no index, count or offset of a real model


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's bytes are its own: no wrapper subclass, no sparse or quantized layout."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_nested
        and not hasattr(type(tensor), "__tensor_flatten__")
    )


class Poison:
    """Fills tensors, and tells afterwards which of them nothing has filled since."""

    def __init__(self) -> None:
        self._bools: dict[str, torch.Tensor] = {}

    def fill(self, name: str, tensor: torch.Tensor, stored: object = None) -> None:
        """Poison one tensor in place; ``stored`` is what the file has for it.

        Meta and uninitialised ones hold nothing to poison, and one that is expanded over one
        element cannot be written: torch refuses to load it, too.
        """
        if not _can_hold(tensor):
            return
        with torch.no_grad():
            if tensor.dtype is torch.bool:
                known = isinstance(stored, torch.Tensor) and stored.dtype is torch.bool
                like = stored if known and stored.shape == tensor.shape else tensor  # type: ignore[attr-defined]
                _try_copy(tensor, like.logical_not())  # type: ignore[attr-defined]
                self._bools[name] = tensor.detach().clone()
            elif tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
                byte_view(tensor).fill_(_poison_byte(tensor))
            else:
                raw = torch.full((tensor.numel() * tensor.element_size(),), _poison_byte(tensor)).byte()
                _try_copy(tensor, raw.view(tensor.dtype).reshape(tensor.shape))

    def survives(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether the tensor holds nothing but poison."""
        if not _can_hold(tensor):
            return False
        if tensor.dtype is torch.bool:
            filled = self._bools.get(name)
            return filled is not None and same_bytes(tensor.cpu(), filled.cpu())
        return bool((byte_view(tensor) == _poison_byte(tensor)).all())


def _can_hold(tensor: torch.Tensor) -> bool:
    return not (is_lazy(tensor) or tensor.is_meta or tensor.numel() == 0) and is_plain(tensor)


def _poison_byte(tensor: torch.Tensor) -> int:
    return _FLOAT_BYTE if tensor.is_floating_point() or tensor.is_complex() else _INT_BYTE


def _try_copy(target: torch.Tensor, source: torch.Tensor) -> None:
    try:
        target.copy_(source)
    except RuntimeError:  # elements that overlap in memory
        return
