"""Lazy modules: parameters and buffers that have a name, but no shape until the first `forward`.

Before it they are `UninitializedParameter` and `UninitializedBuffer`; a state_dict of them is a file that
`weights_only=True` refuses. The first `forward` gives them their shapes, and draws their values from the
global random state at that moment, so `build()` cannot fix them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LazyClassifier(nn.Module):
    """Convolution, batch norm and linear layer, none of which knows how wide its input is."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.LazyConv2d(4, kernel_size=3)
        self.norm = nn.LazyBatchNorm2d()
        self.head = nn.LazyLinear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to (batch, num_classes)."""
        y: Tensor = self.head(torch.relu(self.norm(self.conv(x))).flatten(1))
        return y


def build() -> LazyClassifier:
    return LazyClassifier(num_classes=5)


def example_input() -> tuple[Tensor]:
    """Return x of shape (2, 3, 6, 6)."""
    return (torch.linspace(-1, 1, 216).reshape(2, 3, 6, 6),)
