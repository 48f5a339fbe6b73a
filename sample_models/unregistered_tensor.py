"""The mistake: tensors that the module holds, but does not own.

`self.offset = torch.randn(...)` is a plain attribute. It is in neither `_parameters` nor `_buffers`, so it is
not saved, not moved by `.to()`, and not cast by `.double()`. It works on one CPU, until a GPU or a checkpoint
comes in. So does a list of parameters (`nn.ParameterList` is needed) and an `nn.Parameter` that `.half()`
turned into a tensor. Load a trained one into a fresh one: "All keys matched", and other results.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class ForgottenTensors(nn.Module):
    """A linear layer with an offset, two gains and a shift that no one registered."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.offset = torch.randn(dim)
        self.gains = [nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))]
        self.shift = nn.Parameter(torch.zeros(dim)).half()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, dim) to (batch, dim)."""
        y: Tensor = self.linear(x + self.offset)
        for gain in self.gains:
            y = y * gain
        return y + self.shift


def build() -> ForgottenTensors:
    with seeded(15):
        return ForgottenTensors(dim=4)


def example_input() -> tuple[Tensor]:
    """Return x of shape (2, 4)."""
    return (torch.linspace(-1, 1, 8).reshape(2, 4),)
