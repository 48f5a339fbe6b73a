"""A model before anything is loaded: what its normal builds agree on, and poison in its tensors.

Builds are the only truth about what a file does not hold. Poison is what no checkpoint holds, so
that a survivor is proof: floats become NaN with all bits set (a NaN in every IEEE, bfloat16 and
float8 format), integers the byte 0x5A throughout, bools the negation of what they should hold.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from ckpttool.torch_bridge.reference import named_state, non_persistent_names
from ckpttool.torch_bridge.tensors import byte_view, has_bytes, has_values, same_bytes, type_name
from ckpttool.torch_bridge.verify.casts import describe_values
from ckpttool.values.verification import Fingerprint

_FLOAT_BYTE = 0xFF
_INT_BYTE = 0x5A  # in every byte of an integer: 0x5a5a… is no index, count or offset of a real model


class Builds:
    """Watches normal builds with different seeds: what they agree on is rebuilt, the rest is random.

    ``wanted`` are entries that the file lacks; all non-persistent buffers are watched with them.
    ``expected`` holds the non-persistent ones that both gave alike.
    """

    def __init__(self, wanted: frozenset[str]) -> None:
        self.wanted = wanted
        self.seen = 0
        self.expected: dict[str, torch.Tensor] = {}
        self.transient: frozenset[str] = frozenset()
        self._verdicts: dict[str, bool] = {}

    def watch(self, module: nn.Module) -> None:
        """Take down what a fresh build holds, if the file lacks anything; two of them are enough."""
        if self.seen == 2 or not self.wanted:
            return
        transient = non_persistent_names(module)
        held = {
            name: tensor
            for name, tensor in {**named_state(module), **transient}.items()
            if (name in self.wanted or name in transient) and has_values(tensor)
        }
        if not self.seen:
            self.expected = {name: tensor.detach().to("cpu", copy=True) for name, tensor in held.items()}
        else:
            self._verdicts = {
                name: same_bytes(tensor, held[name].cpu())
                for name, tensor in self.expected.items()
                if name in held
            }
            alike = [name for name, same in self._verdicts.items() if same and name in transient]
            self.expected = {name: self.expected[name] for name in alike}
        self.transient |= frozenset(transient)
        self.seen += 1

    def agrees(self, name: str) -> bool | None:
        """Whether both builds gave the same bytes; None if one of them lacks the name."""
        return self._verdicts.get(name)

    def fingerprints(self) -> dict[str, Fingerprint]:
        """For ``--write-reference``: what each rebuilt buffer is."""
        return {
            name: Fingerprint(
                type_name(tensor.dtype),
                tuple(tensor.shape),
                hashlib.sha256(byte_view(tensor).numpy().data).hexdigest(),
                describe_values(tensor),
            )
            for name, tensor in sorted(self.expected.items())
        }


class Poison:
    """Fills tensors, and tells afterwards which of them nothing has filled since."""

    def __init__(self) -> None:
        self._bools: dict[str, torch.Tensor] = {}

    def fill(self, tensors: Mapping[str, object], stored: Mapping[str, object] | None = None) -> None:
        """Poison tensors in place; ``stored`` is what each should hold in the end, as far as it is known.

        Meta and uninitialised ones hold nothing to poison, and one that is expanded over one
        element cannot be written: torch refuses to load it, too.
        """
        named = {name: tensor for name, tensor in tensors.items() if has_bytes(tensor)}
        with torch.no_grad():
            for name, tensor in named.items():
                _fill_one(tensor, (stored or {}).get(name))
            # When all are filled: tied ones have what the last of them was given.
            bools = {name: tensor for name, tensor in named.items() if tensor.dtype is torch.bool}
            self._bools = {name: tensor.detach().clone() for name, tensor in bools.items()}

    def survives(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether the tensor holds nothing but poison."""
        if not has_bytes(tensor):
            return False
        if tensor.dtype is torch.bool:
            filled = self._bools.get(name)
            return filled is not None and same_bytes(tensor.cpu(), filled.cpu())
        return bool((byte_view(tensor) == _poison_byte(tensor)).all())


def _fill_one(tensor: torch.Tensor, stored: object) -> None:
    if tensor.dtype is torch.bool:
        like = tensor
        if isinstance(stored, torch.Tensor) and stored.dtype is torch.bool:
            like = stored if stored.shape == tensor.shape else tensor
        _try_copy(tensor, like.logical_not())
    elif tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
        byte_view(tensor).fill_(_poison_byte(tensor))
    else:
        raw = torch.full((tensor.numel() * tensor.element_size(),), _poison_byte(tensor)).byte()
        _try_copy(tensor, raw.view(tensor.dtype).reshape(tensor.shape))


def _poison_byte(tensor: torch.Tensor) -> int:
    return _FLOAT_BYTE if tensor.is_floating_point() or tensor.is_complex() else _INT_BYTE


def _try_copy(target: torch.Tensor, source: torch.Tensor) -> None:
    with contextlib.suppress(RuntimeError):  # elements that overlap in memory
        target.copy_(source)
