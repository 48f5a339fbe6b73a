"""Values that a cast changed, and numbers in the fewest digits that tell them apart."""

from __future__ import annotations

import warnings

import torch

from ckpttool.torch_bridge.tensors import type_name
from ckpttool.values.verification import Lossy

_CHUNK = 1 << 22  # elements
_TWO_63 = 2.0**63
_SIGN_BIT = -(1 << 63)


def find_loss(name: str, stored: torch.Tensor, loaded: torch.Tensor) -> Lossy | None:
    """The first value that the cast from the file's dtype to the model's changed, or None.

    Numbers are compared exactly. NaN equals NaN; -0.0 and 0.0 are equal numbers, as a cast to an
    integer cannot keep the sign.
    """
    flat_stored, flat_loaded = stored.reshape(-1), loaded.detach().cpu().reshape(-1)
    changed, first = 0, -1
    for start in range(0, flat_stored.numel(), _CHUNK):
        old = flat_stored[start : start + _CHUNK]
        new = flat_loaded[start : start + _CHUNK]
        differs = _differs(old, new)
        count = int(differs.sum())
        if count and first < 0:
            first = start + int(differs.byte().argmax())
        changed += count
    if not changed:
        return None
    return Lossy(
        name,
        type_name(stored.dtype),
        type_name(loaded.dtype),
        changed,
        first,
        number_text(flat_stored[first]),
        number_text(flat_loaded[first]),
    )


def _differs(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Element by element: whether two tensors of any dtypes hold different numbers."""
    if old.is_complex() or new.is_complex():
        wide_old, wide_new = _parts(old), _parts(new)
        return _real_differs(wide_old[0], wide_new[0]) | _real_differs(wide_old[1], wide_new[1])
    return _real_differs(old, new)


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary part."""
    if tensor.is_complex():
        wide = tensor.to(torch.complex128)
        return wide.real, wide.imag
    return tensor, torch.zeros(tensor.shape, dtype=torch.float64)


def _real_differs(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    if old.is_floating_point() and new.is_floating_point():
        wide_old, wide_new = old.to(torch.float64), new.to(torch.float64)
        return (wide_old != wide_new) & ~(wide_old.isnan() & wide_new.isnan())
    if old.is_floating_point():
        old, new = new, old
    bits, beyond = _integer(old)
    if not new.is_floating_point():
        other_bits, other_beyond = _integer(new)
        return (bits != other_bits) | (beyond != other_beyond)
    # A float against an integer, without rounding either: it is an integer of 64 bits, or it differs.
    wide = new.to(torch.float64)
    high = (wide >= _TWO_63) & (wide < 2 * _TWO_63)  # where only an unsigned integer can be
    fits = high | ((wide >= -_TWO_63) & (wide < _TWO_63))
    back = torch.where(fits, torch.where(high, wide - _TWO_63, wide), 0.0)
    back_bits = torch.where(high, back.to(torch.int64) ^ _SIGN_BIT, back.to(torch.int64))
    return ~fits | (high != beyond) | (back_bits != bits) | (back != back.trunc())


def _integer(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bits of an integer or bool as int64, and whether the number is 2**63 or more."""
    if tensor.dtype is torch.uint64:
        bits = tensor.contiguous().view(torch.int64)
        return bits, bits < 0
    bits = tensor.to(torch.int64)
    return bits, torch.zeros(bits.shape, dtype=torch.bool)


def number_text(value: torch.Tensor) -> str:
    """One element in the fewest digits that give it back: ``2.87`` for the float32 nearest to it."""
    item = value.item()
    if not value.is_floating_point() or item != item or abs(item) == float("inf"):
        return str(item)
    if item == int(item) and abs(item) < 1e16:
        return str(int(item)) if item or not str(item).startswith("-") else "-0"
    texts = (f"{item:.{digits}g}" for digits in range(1, 18))  # 17 tell any two float64 apart
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return next(
            text
            for text in texts
            if torch.tensor(float(text), dtype=torch.float64).to(value.dtype).item() == item
        )


def describe_values(tensor: torch.Tensor) -> str:
    """What a tensor holds, in a few words: ``0..168`` or ``NaN``."""
    if tensor.is_meta:
        return "no data (meta)"
    if tensor.numel() == 0:
        return "nothing (empty)"
    flat = tensor.detach().cpu().reshape(-1)
    if flat.is_complex():
        flat = flat.abs()
    if flat.dtype is torch.bool:
        return f"{int(flat.sum())} of {flat.numel()} true"
    wide = flat.to(torch.float64 if flat.is_floating_point() else torch.int64)
    nan = wide.isnan()
    if bool(nan.all()):
        return "NaN"
    edges = (wide[~nan].min().item(), wide[~nan].max().item())
    low, high = (f"{edge:.6g}" if isinstance(edge, float) else str(edge) for edge in edges)
    suffix = f" and {int(nan.sum())} NaN" if bool(nan.any()) else ""
    return (low if low == high else f"{low}..{high}") + suffix
