"""Window attention as in Swin: a learned table, and the index into it, which is not saved.

`relative_position_bias_table` is a parameter. `relative_position_index` says which row of it belongs to which
pair of pixels; it follows from the window size alone, so it is `persistent=False`, as in timm (torchvision
saves it). The same goes for `attn_mask`, which exists only in blocks that shift their windows: elsewhere the
slot is None. After `to_empty` the index holds garbage, and the first `forward` fails with an index out of
range, or does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.seeding import seeded


def relative_position_index(window: int) -> Tensor:
    """Return int64 (window², window²): for each pair of pixels, the row of the table with their bias."""
    axis = torch.arange(window)
    rows, columns = (plane.flatten() for plane in torch.meshgrid(axis, axis, indexing="ij"))
    d_row = rows[:, None] - rows[None, :] + window - 1
    d_column = columns[:, None] - columns[None, :] + window - 1
    return d_row * (2 * window - 1) + d_column


def split_windows(x: Tensor, window: int) -> Tensor:
    """Map (batch, height, width, dim) to (batch * windows, window², dim)."""
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window, window, width // window, window, dim)
    return x.transpose(2, 3).reshape(-1, window * window, dim)


def join_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Map (batch * windows, window², dim) back to (batch, height, width, dim)."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


def shifted_window_mask(size: int, window: int, shift: int) -> Tensor:
    """Return (windows, window², window²): 0 within a region, -100 across what the shift joined."""
    axis = torch.arange(size)
    region = (axis >= size - window).long() + (axis >= size - shift).long()
    regions = (3 * region[:, None] + region[None, :])[None, :, :, None]
    flat = split_windows(regions, window).squeeze(-1)
    return torch.where(flat[:, :, None] == flat[:, None, :], 0.0, -100.0)


class WindowAttention(nn.Module):
    """Attention within each window, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (batch * windows, pixels, dim) to the same shape."""
        count, pixels, dim = x.shape
        qkv = self.qkv(x).view(count, pixels, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        score = query @ key.transpose(-2, -1) * (dim // self.num_heads) ** -0.5
        score = score + self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            windows = mask.shape[0]
            score = score.view(count // windows, windows, self.num_heads, pixels, pixels) + mask[:, None]
            score = score.view(count, self.num_heads, pixels, pixels)
        y: Tensor = self.proj((score.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, pixels, dim))
        return y


class SwinBlock(nn.Module):
    """Window attention, shifted or not, behind a norm and beside a residual."""

    attn_mask: Tensor | None

    def __init__(self, dim: int, size: int, window: int, shift: int, num_heads: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads)
        mask = shifted_window_mask(size, window, shift) if shift else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, size, size, dim) to the same shape."""
        _, height, width, _ = x.shape
        shifted = torch.roll(self.norm(x), (-self.shift, -self.shift), dims=(1, 2))
        mixed = self.attn(split_windows(shifted, self.window), self.attn_mask)
        return x + torch.roll(
            join_windows(mixed, self.window, height, width), (self.shift, self.shift), (1, 2)
        )


class TinySwin(nn.Module):
    """Patch embedding, one block without shift and one with, and a head."""

    def __init__(self, dim: int, size: int, window: int, num_heads: int, num_classes: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=2, stride=2)
        self.blocks = nn.Sequential(
            SwinBlock(dim, size // 2, window, 0, num_heads),
            SwinBlock(dim, size // 2, window, window // 2, num_heads),
        )
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 3, size, size) to (batch, num_classes)."""
        x = self.blocks(self.patch_embed(x).permute(0, 2, 3, 1))
        y: Tensor = self.head(x.mean(dim=(1, 2)))
        return y


def build() -> TinySwin:
    with seeded(18):
        return TinySwin(dim=16, size=16, window=4, num_heads=2, num_classes=10)


def example_input() -> tuple[Tensor]:
    """Return x of shape (1, 3, 16, 16)."""
    return (torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16),)
