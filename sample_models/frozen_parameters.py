"""Parameters with `requires_grad=False` are parameters still.

They are in `parameters()`, and a later `requires_grad_(True)` on the whole model thaws them. A state_dict
does not store the flag, so a file cannot tell a frozen parameter from a trained one. `projection` is a random
constant: as a buffer it could not be thawed by accident.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class RandomFourierFeatures(nn.Module):
    """A frozen random projection, a frozen backbone layer, and a head that is trained."""

    def __init__(self, in_features: int, num_features: int, out_features: int) -> None:
        super().__init__()
        self.projection = nn.Parameter(torch.randn(num_features, in_features), requires_grad=False)
        self.backbone = nn.Linear(2 * num_features, 16).requires_grad_(False)
        self.head = nn.Linear(16, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_features) to (batch, out_features)."""
        angle = 2 * math.pi * nn.functional.linear(x, self.projection)
        features = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)
        y: Tensor = self.head(torch.relu(self.backbone(features)))
        return y


def build() -> RandomFourierFeatures:
    with seeded(10):
        return RandomFourierFeatures(in_features=2, num_features=8, out_features=3)


def example_input() -> tuple[Tensor]:
    """Return x of shape (6, 2)."""
    return (torch.linspace(0, 1, 12).reshape(6, 2),)
