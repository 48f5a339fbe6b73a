"""A linear layer written from two `nn.Parameter`s.

Assigning an `nn.Parameter` to an attribute is all that it takes: `nn.Module.__setattr__` sees the type and
files it under `_parameters`. From there it is in `parameters()`, so that an optimizer trains it, and in
`state_dict()`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sample_models.seeding import seeded


class XavierLinear(nn.Module):
    """`y = x Wᵀ + b`, with W drawn by Glorot and Bengio's rule."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_features) to (batch, out_features)."""
        return functional.linear(x, self.weight, self.bias)


def build() -> XavierLinear:
    with seeded(1):
        return XavierLinear(in_features=8, out_features=4)


def example_input() -> tuple[Tensor]:
    """Return x of shape (3, 8)."""
    return (torch.linspace(-1, 1, 24).reshape(3, 8),)
