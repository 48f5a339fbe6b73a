"""bfloat16 and float8 weights, with a scale that must stay float32.

The float8 weight and its scale are buffers: nothing can train them. `inv_freq`-like figures and scales lose
their meaning in bfloat16, which a `.bfloat16()` over the whole model ignores. numpy has neither dtype, and
`torch.equal` has no kernel for float8: equality is a matter of bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sample_models.seeding import seeded

# The largest finite value of float8_e4m3fn: S.1111.110 = 2**8 * 1.75.
FLOAT8_E4M3FN_MAX = 448.0


class Float8Linear(nn.Module):
    """A linear layer with one float32 scale for each row of a float8 weight."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        weight = torch.randn(out_features, in_features)
        scale = weight.abs().amax(dim=1, keepdim=True) / FLOAT8_E4M3FN_MAX
        self.register_buffer("weight", (weight / scale).to(torch.float8_e4m3fn))
        self.register_buffer("weight_scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (batch, in_features) to (batch, out_features)."""
        return functional.linear(x, self.weight.to(torch.float32) * self.weight_scale)


class MixedPrecision(nn.Module):
    """A bfloat16 layer, a float8 layer, and a float8_e5m2 gain."""

    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8, dtype=torch.bfloat16)
        self.quantized = Float8Linear(8, 4)
        self.register_buffer("gain", torch.ones(4).to(torch.float8_e5m2))

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 (batch, 6) to (batch, 4)."""
        y: Tensor = self.quantized(torch.relu(self.stem(x.to(torch.bfloat16))).float())
        return y * self.gain.float()


def build() -> MixedPrecision:
    with seeded(11):
        return MixedPrecision()


def example_input() -> tuple[Tensor]:
    """Return float32 x of shape (2, 6)."""
    return (torch.linspace(-1, 1, 12).reshape(2, 6),)
