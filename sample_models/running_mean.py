"""One buffer that must be saved, and one that must not.

`mean` is what the module learned by counting: lose it and the model is another one, so it is persistent.
`window` is a constant of the constructor's arguments: `persistent=False` keeps it out of `state_dict()`,
while `.to()` still moves it. The price: `load_state_dict` cannot restore it, and `strict=True` does not miss
it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpectrumCentering(nn.Module):
    """Take the windowed magnitude spectrum, and subtract its running mean."""

    mean: Tensor
    window: Tensor

    def __init__(self, frame_length: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(frame_length // 2 + 1))
        self.register_buffer("window", torch.hann_window(frame_length), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frame_length) to (batch, frame_length // 2 + 1)."""
        spectrum: Tensor = torch.fft.rfft(x * self.window).abs()
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(spectrum.mean(dim=0), self.momentum)
        return spectrum - self.mean


def build() -> SpectrumCentering:
    return SpectrumCentering(frame_length=16)


def example_input() -> tuple[Tensor]:
    """Return x of shape (3, 16)."""
    return (torch.sin(torch.arange(48.0)).reshape(3, 16),)
