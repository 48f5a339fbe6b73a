"""Fixed position embeddings beside a learned `nn.Embedding`.

Both are tables that forward looks rows up in, and by dtype and shape a file cannot tell them apart.
`token.weight` is learned. `pe` is computed from a formula (Vaswani et al. 2017, section 3.5) and stays as it
is, so it is a buffer. It is persistent here, as in many tutorials: each checkpoint carries a table that the
constructor could have rebuilt, and a model with another `max_length` refuses to load it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


def sinusoidal_table(max_length: int, dim: int) -> Tensor:
    """Return the (max_length, dim) table: sine in the even columns, cosine in the odd ones."""
    position = torch.arange(max_length)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    table = torch.zeros(max_length, dim)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table


class TokenAndPosition(nn.Module):
    """Embed tokens, and add where they stand."""

    pe: Tensor

    def __init__(self, num_tokens: int, dim: int, max_length: int) -> None:
        super().__init__()
        self.token = nn.Embedding(num_tokens, dim)
        self.register_buffer("pe", sinusoidal_table(max_length, dim)[None])

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 (batch, length) to (batch, length, dim)."""
        embedded: Tensor = self.token(tokens)
        return embedded + self.pe[:, : tokens.shape[1]]


def build() -> TokenAndPosition:
    with seeded(3):
        return TokenAndPosition(num_tokens=32, dim=16, max_length=24)


def example_input() -> tuple[Tensor]:
    """Return int64 tokens of shape (2, 10)."""
    return (torch.arange(20).reshape(2, 10),)
