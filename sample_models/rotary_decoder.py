"""A small decoder with a non-persistent `inv_freq` in every layer, as language models have it.

`inv_freq` is rebuilt by the constructor and never saved. Build the model on `meta`, call `to_empty`, load
with `strict=True`: "All keys matched", and every `inv_freq` holds what was in that memory before. Older
library versions saved it, so the same name is "unexpected" in one checkpoint and "missing, as designed" in
the next.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sample_models.seeding import seeded


class RotaryEmbedding(nn.Module):
    """Angles by which query and key are turned (Su et al. 2021)."""

    inv_freq: Tensor

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        inv_freq = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (batch, heads, length, head_dim) by the position in the sequence."""
        angle = torch.outer(torch.arange(x.shape[2], device=x.device), self.inv_freq)
        cos, sin = torch.cos(angle), torch.sin(angle)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class SelfAttention(nn.Module):
    """Causal attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.rotary_emb = RotaryEmbedding(dim // num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, dim) to the same shape."""
        batch, length, dim = x.shape
        shape = (batch, length, self.num_heads, dim // self.num_heads)
        query = self.rotary_emb(self.q_proj(x).view(shape).transpose(1, 2))
        key = self.rotary_emb(self.k_proj(x).view(shape).transpose(1, 2))
        value = self.v_proj(x).view(shape).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        y: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, dim))
        return y


class DecoderLayer(nn.Module):
    """Attention and a gated perceptron, each behind a norm and beside a residual."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(dim)
        self.self_attn = SelfAttention(dim, num_heads)
        self.post_attention_layernorm = nn.RMSNorm(dim)
        self.gate_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.up_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.down_proj = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, dim) to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x))
        hidden = self.post_attention_layernorm(x)
        gated = functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)
        down: Tensor = self.down_proj(gated)
        return x + down


class RotaryDecoder(nn.Module):
    """Tokens in, logits out."""

    def __init__(self, num_tokens: int, dim: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(num_tokens, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.RMSNorm(dim)
        self.lm_head = nn.Linear(dim, num_tokens, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 (batch, length) to logits (batch, length, num_tokens)."""
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


def build(num_layers: int = 3) -> RotaryDecoder:
    with seeded(8):
        return RotaryDecoder(num_tokens=64, dim=32, num_layers=num_layers, num_heads=4)


def example_input() -> tuple[Tensor]:
    """Return int64 tokens of shape (2, 9)."""
    return (torch.arange(18).reshape(2, 9),)
