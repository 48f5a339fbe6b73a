"""The twin of `conv_parameters`: the same two convolutions, with `register_buffer` for weight and bias.

It computes the same, and saves the same names and bytes. But `parameters()` is empty: an optimizer refuses
it, and `loss.backward()` raises, because nothing requires a gradient. Frozen detectors (FrozenBatchNorm2d)
and quantized linears are built this way, which is why `weight` in a file does not mean parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sample_models.seeding import seeded


class BufferConv(nn.Module):
    """A 3×3 convolution whose weight and bias are buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(out_channels, in_channels, 3, 3) * 0.1)
        self.register_buffer("bias", torch.randn(out_channels) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, height, width) to (batch, out_channels, height, width)."""
        return functional.conv2d(x, self.weight, self.bias, padding=1)


class BufferConvPair(nn.Module):
    """Two of them, with a ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BufferConv(3, 8)
        self.conv2 = BufferConv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 3, height, width) to (batch, 4, height, width)."""
        y: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return y


def build() -> BufferConvPair:
    with seeded(4):
        return BufferConvPair()


def example_input() -> tuple[Tensor]:
    """Return x of shape (1, 3, 6, 6)."""
    return (torch.linspace(-1, 1, 108).reshape(1, 3, 6, 6),)
