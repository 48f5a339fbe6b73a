"""Batch norm written from `nn.Parameter` and `nn.Buffer`: what learns, and what counts.

Scale and shift are learned by gradient, so they are parameters. The running statistics are updated by
assignment inside `forward` and never see a gradient, so they are buffers: saved, loaded and moved with the
model, and not in `parameters()`. `nn.Buffer` (torch 2.5) is only a way to call `register_buffer`; after
`.double()` the tensor is plain again, so the type proves nothing. `_buffers` does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BatchNormByHand(nn.Module):
    """Normalise each channel of (batch, channels, ...)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.running_mean = nn.Buffer(torch.zeros(num_features))
        self.running_var = nn.Buffer(torch.ones(num_features))
        self.num_batches_tracked = nn.Buffer(torch.tensor(0, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, length) to the same shape."""
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean = x.mean(dim=(0, 2))
            var = x.var(dim=(0, 2), unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(x.var(dim=(0, 2), unbiased=True), self.momentum)
                self.num_batches_tracked += 1
        normal = (x - mean[:, None]) * torch.rsqrt(var[:, None] + self.eps)
        return normal * self.weight[:, None] + self.bias[:, None]


def build() -> BatchNormByHand:
    return BatchNormByHand(num_features=6)


def example_input() -> tuple[Tensor]:
    """Return x of shape (4, 6, 5)."""
    return (torch.linspace(-3, 3, 120).reshape(4, 6, 5),)
