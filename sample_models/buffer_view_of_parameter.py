"""A buffer that looks into the memory of a parameter.

`padding_row` is row 0 of `weight`, registered as a buffer. They share one storage: an update of the weight
shows in the buffer. A `.pt` file keeps that (one storage, two views); safetensors' `save_file` refuses it;
`.double()` makes two tensors of it, which drift apart from then on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class EmbeddingWithPaddingView(nn.Module):
    """An embedding that also hands out how far each vector is from the padding vector."""

    padding_row: Tensor

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tokens, dim))
        self.register_buffer("padding_row", self.weight.detach()[0])

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 (batch, length) to (batch, length, dim)."""
        return nn.functional.embedding(tokens, self.weight) - self.padding_row


def build() -> EmbeddingWithPaddingView:
    with seeded(17):
        return EmbeddingWithPaddingView(num_tokens=10, dim=4)


def example_input() -> tuple[Tensor]:
    """Return int64 tokens of shape (1, 5)."""
    return (torch.tensor([[3, 1, 4, 1, 5]]),)
