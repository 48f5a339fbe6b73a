"""Assignment, `register_parameter` and `register_buffer`, side by side.

`self.weight = nn.Parameter(t)` and `self.register_parameter("bias", nn.Parameter(t))` do the same. For a
buffer, assignment alone is not enough: `self.mean = t` with a plain tensor registers nothing,
`register_buffer` does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sample_models.seeding import seeded


class StandardizedLinear(nn.Module):
    """A linear layer that first brings its input to mean 0 and deviation 1, by given figures."""

    bias: nn.Parameter
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, mean.numel()))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 3) to (batch, out_features)."""
        return functional.linear((x - self.mean) / self.std, self.weight, self.bias)


def build() -> StandardizedLinear:
    with seeded(2):
        return StandardizedLinear(
            mean=torch.tensor([0.485, 0.456, 0.406]), std=torch.tensor([0.229, 0.224, 0.225]), out_features=5
        )


def example_input() -> tuple[Tensor]:
    """Return x of shape (2, 3)."""
    return (torch.linspace(0, 1, 6).reshape(2, 3),)
