"""`register_buffer(name, None)` and `register_parameter(name, None)`: a slot that holds nothing yet.

An empty slot has no key in `state_dict()`. Fill it once, by the first `forward` in training here, and it is
saved like any other; but a fresh model, whose slot is empty, then calls the key "Unexpected". The flag
`persistent` of an empty slot is remembered.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class CenterAtFirstSight(nn.Module):
    """A linear layer that subtracts the mean of the first training batch that it ever saw."""

    center: Tensor | None
    last_input: Tensor | None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.register_parameter("bias", None)
        self.register_buffer("center", None)
        self.register_buffer("last_input", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_features) to (batch, out_features)."""
        if self.training and self.center is None:
            self.center = x.detach().mean(dim=0)
        self.last_input = x.detach()
        return nn.functional.linear(x if self.center is None else x - self.center, self.weight)


def build() -> CenterAtFirstSight:
    with seeded(9):
        return CenterAtFirstSight(in_features=5, out_features=2)


def example_input() -> tuple[Tensor]:
    """Return x of shape (4, 5)."""
    return (torch.linspace(0, 1, 20).reshape(4, 5),)
