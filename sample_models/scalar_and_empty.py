"""Tensors at the edge: 0-dim, no elements, bool, int64, complex.

A 0-dim tensor has one element and the shape `()`; an empty one has shape `(0, 8)`, no bytes, and is still a
key that must come back. Shape `(1,)` loads into `()` without an error, so shapes have to be compared, not
tried.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


class PromptedContrast(nn.Module):
    """Cosine similarity to class vectors, times a learned temperature, after no prompt tokens at all."""

    steps: Tensor
    is_fitted: Tensor
    no_history: Tensor
    phase: Tensor

    def __init__(self, num_classes: int, dim: int, num_prompts: int = 0) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.prompts = nn.Parameter(torch.zeros(num_prompts, dim))
        self.classes = nn.Parameter(torch.randn(num_classes, dim))
        self.register_buffer("steps", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("is_fitted", torch.tensor(False))
        self.register_buffer("no_history", torch.zeros(0))
        self.register_buffer("phase", torch.ones(dim, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, dim) to (num_prompts + batch, num_classes)."""
        x = torch.cat([self.prompts, x]) * self.phase.real
        x = nn.functional.normalize(x, dim=-1)
        return self.logit_scale.exp() * x @ nn.functional.normalize(self.classes, dim=-1).T


def build() -> PromptedContrast:
    with seeded(12):
        return PromptedContrast(num_classes=3, dim=8)


def example_input() -> tuple[Tensor]:
    """Return x of shape (2, 8)."""
    return (torch.linspace(-1, 1, 16).reshape(2, 8),)
