"""Two convolutions that register weight and bias with `register_parameter`.

Its twin `conv_buffers` has the same names, shapes, dtypes, values and output. The two files that `torch.save`
makes of their state_dicts differ in no tensor: nothing in them says that this one can be trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sample_models.seeding import seeded


class ParameterConv(nn.Module):
    """A 3×3 convolution whose weight and bias are parameters."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.randn(out_channels, in_channels, 3, 3) * 0.1))
        self.register_parameter("bias", nn.Parameter(torch.randn(out_channels) * 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        return functional.conv2d(x, self.weight, self.bias, padding=1)


class ParameterConvPair(nn.Module):
    """Two of them, with a ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ParameterConv(3, 8)
        self.conv2 = ParameterConv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 3, height, width) to (batch, 4, height, width)."""
        y: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return y


def build() -> ParameterConvPair:
    with seeded(4):
        return ParameterConvPair()


def example_input() -> tuple[Tensor]:
    """Return x of shape (1, 3, 6, 6)."""
    return (torch.linspace(-1, 1, 108).reshape(1, 3, 6, 6),)
