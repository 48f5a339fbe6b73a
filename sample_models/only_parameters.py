"""A module with parameters and no buffer at all: what is in the file is the whole model.

For such a module, and only for such a one, "All keys matched" means that everything is restored.
`nn.LayerNorm` keeps no running statistics, so it belongs here, unlike `nn.BatchNorm1d`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class MultilayerPerceptron(nn.Module):
    """Two linear layers with a norm and a GELU between."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, dim) to (batch, dim)."""
        y: Tensor = self.down(nn.functional.gelu(self.norm(self.up(x))))
        return y


def build() -> MultilayerPerceptron:
    with seeded(5):
        return MultilayerPerceptron(dim=6, hidden_dim=12)


def example_input() -> tuple[Tensor]:
    """Return x of shape (2, 6)."""
    return (torch.linspace(-1, 1, 12).reshape(2, 6),)
