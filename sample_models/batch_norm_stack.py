"""A stack of real `nn.BatchNorm2d`s, one of them without statistics and one without scale and shift.

Per full layer: two parameters, three buffers, and a version number 2 in `state_dict()._metadata`. Drop
`_metadata` (`dict(sd)`, safetensors) and a file without `num_batches_tracked` loads silently, as if it were
older than torch 0.4.1. `track_running_stats=False` and `affine=False` leave slots that hold None: no key, and
no tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class ConvNormStack(nn.Module):
    """Three convolutions, each with another kind of batch norm after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8, affine=False)
        self.conv3 = nn.Conv2d(8, 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 3, height, width) to (batch, 4, height, width)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return x


def build() -> ConvNormStack:
    with seeded(7):
        return ConvNormStack()


def example_input() -> tuple[Tensor]:
    """Return x of shape (2, 3, 5, 5)."""
    return (torch.linspace(-2, 2, 150).reshape(2, 3, 5, 5),)
