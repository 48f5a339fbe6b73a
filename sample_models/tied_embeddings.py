"""One matrix under two names: the output layer reuses the embedding.

`named_parameters()` lists it once, `state_dict()` twice. A `.pt` file stores the bytes once and both names;
in safetensors one of the names has to go. Loading with `assign=True` from two separate tensors unties the
model without a word, and from then on training moves them apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class TiedLanguageModel(nn.Module):
    """Embedding, one mixing layer, and logits by the embedding again."""

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(num_tokens, dim)
        self.mix = nn.Linear(dim, dim)
        self.lm_head = nn.Linear(dim, num_tokens, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 (batch, length) to logits (batch, length, num_tokens)."""
        logits: Tensor = self.lm_head(torch.tanh(self.mix(self.embed_tokens(tokens))))
        return logits


def build() -> TiedLanguageModel:
    with seeded(6):
        return TiedLanguageModel(num_tokens=40, dim=8)


def example_input() -> tuple[Tensor]:
    """Return int64 tokens of shape (2, 7)."""
    return (torch.arange(14).reshape(2, 7),)
