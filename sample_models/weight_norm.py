"""Weight norm as a parametrization: the saved names are not the attribute that forward uses.

`linear.weight` is computed on each access from `parametrizations.weight.original0` (the norms) and
`.original1` (the directions), and is neither parameter nor buffer. Spectral norm adds buffers: the vectors
`_u` and `_v` of its power iteration, which are persistent and change in every training step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sample_models.seeding import seeded


class NormedPair(nn.Module):
    """A weight-normed layer, then a spectral-normed one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(6, 8))
        self.second = parametrizations.spectral_norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 6) to (batch, 3)."""
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


def build() -> NormedPair:
    with seeded(14):
        return NormedPair()


def example_input() -> tuple[Tensor]:
    """Return x of shape (2, 6)."""
    return (torch.linspace(-1, 1, 12).reshape(2, 6),)
