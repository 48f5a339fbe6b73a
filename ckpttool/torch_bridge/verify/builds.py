"""What normal builds of a model give: the only truth about what a file does not hold."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ckpttool.torch_bridge.reference import named_state, non_persistent_names
from ckpttool.torch_bridge.tensors import byte_view, same_bytes
from ckpttool.torch_bridge.verify.casts import describe_values
from ckpttool.torch_bridge.verify.poison import is_plain
from ckpttool.values.verification import Fingerprint


class Builds:
    """Watches normal builds with different seeds: what they agree on is rebuilt, the rest is random.

    ``wanted`` are entries that the file lacks; non-persistent buffers are watched in any case.
    ``expected`` holds the non-persistent ones that both gave alike.
    """

    def __init__(self, wanted: frozenset[str]) -> None:
        self.wanted = wanted
        self.seen = 0
        self.expected: dict[str, torch.Tensor] = {}
        self.transient: frozenset[str] = frozenset()
        self._verdicts: dict[str, bool] = {}

    def watch(self, module: nn.Module) -> None:
        """Take down what a fresh build holds; two of them are enough."""
        if self.seen == 2:
            return
        transient = non_persistent_names(module)
        held = {
            name: tensor
            for name, tensor in {**named_state(module), **transient}.items()
            if (name in self.wanted or name in transient) and _has_values(tensor)
        }
        if not self.seen:
            self.expected = {name: tensor.detach().to("cpu", copy=True) for name, tensor in held.items()}
        else:
            self._verdicts = {
                name: same_bytes(tensor, held[name].cpu())
                for name, tensor in self.expected.items()
                if name in held
            }
            self.expected = {
                name: self.expected[name]
                for name, same in self._verdicts.items()
                if same and name in transient
            }
        self.transient |= frozenset(transient)
        self.seen += 1

    def agrees(self, name: str) -> bool | None:
        """Whether both builds gave the same bytes; None if one of them lacks the name."""
        return self._verdicts.get(name)

    def fingerprints(self) -> dict[str, Fingerprint]:
        """For ``--write-reference``: what each rebuilt buffer is."""
        return {
            name: Fingerprint(
                str(tensor.dtype).removeprefix("torch."),
                tuple(tensor.shape),
                hashlib.sha256(byte_view(tensor).numpy().data).hexdigest(),
                describe_values(tensor),
            )
            for name, tensor in sorted(self.expected.items())
        }


def _has_values(tensor: object) -> bool:
    return (
        isinstance(tensor, torch.Tensor) and not is_lazy(tensor) and not tensor.is_meta and is_plain(tensor)
    )
