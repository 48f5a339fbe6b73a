"""`get_extra_state`: a module that saves something that is no tensor.

It shows up as the key `vocabulary._extra_state` and may hold anything that pickles. It is neither parameter
nor buffer, safetensors has no place for it, and `strict=True` does miss it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class Vocabulary(nn.Module):
    """Map raw ids to dense ones; the table is a dict, not a tensor."""

    def __init__(self, raw_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.dense_id = {raw: dense for dense, raw in enumerate(raw_ids)}

    def get_extra_state(self) -> dict[str, Any]:
        return {"version": 1, "raw_ids": list(self.dense_id)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.dense_id = {raw: dense for dense, raw in enumerate(state["raw_ids"])}

    def forward(self, raw: Tensor) -> Tensor:
        """Map int64 raw ids to dense ids of the same shape."""
        flat = [self.dense_id[value] for value in raw.flatten().tolist()]
        return torch.tensor(flat, device=raw.device).reshape(raw.shape)


class EmbeddingByRawId(nn.Module):
    """A vocabulary in front of an embedding."""

    def __init__(self, raw_ids: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.vocabulary = Vocabulary(raw_ids)
        self.embedding = nn.Embedding(len(raw_ids), dim)

    def forward(self, raw: Tensor) -> Tensor:
        """Map int64 (batch,) of raw ids to (batch, dim)."""
        embedded: Tensor = self.embedding(self.vocabulary(raw))
        return embedded


def build() -> EmbeddingByRawId:
    with seeded(13):
        return EmbeddingByRawId(raw_ids=(17, 4, 1999, 23), dim=4)


def example_input() -> tuple[Tensor]:
    """Return int64 raw ids of shape (3,)."""
    return (torch.tensor([1999, 17, 23]),)
