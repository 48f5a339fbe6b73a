"""One module under two names.

`block` and `again` are the same `nn.Linear`. `named_parameters()` lists its tensors once, `state_dict()`
lists them under both names, and so does `named_parameters(remove_duplicate=False)`. Training moves both,
because there is one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class RecurrentDepth(nn.Module):
    """Apply the same layer and the same norm twice."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.again = self.block
        self.norm_again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, dim) to (batch, dim)."""
        x = torch.tanh(self.norm(self.block(x)))
        x = torch.tanh(self.norm_again(self.again(x)))
        return x


def build() -> RecurrentDepth:
    with seeded(16):
        return RecurrentDepth(dim=6)


def example_input() -> tuple[Tensor]:
    """Return x of shape (3, 6)."""
    return (torch.linspace(-1, 1, 18).reshape(3, 6),)
