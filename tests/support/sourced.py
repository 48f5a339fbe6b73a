"""A small package as source, files of its models, and packages that are only there to be found."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

MARK = "WAS_RUN"
"""What a file of the source leaves in its folder when it is run."""

BLOCKS = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, causal):
        super().__init__()
        self.gate = nn.Parameter(torch.ones(width))
        self.register_buffer("table", torch.arange(width).float())
        self.register_buffer("steps", torch.arange(width), persistent=False)
        if causal:
            self.register_buffer("mask", torch.ones(width), persistent=False)


class Net(nn.Module):
    def __init__(self, width=4, depth=3, causal=True):
        super().__init__()
        self.embed = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width, causal) for _ in range(depth))
        if causal:
            self.extra = nn.Parameter(torch.ones(width))
        else:
            self.register_buffer("extra", torch.ones(width))
"""

OTHER = """
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.ones(4))
"""

BUFFERS = frozenset(f"blocks.{n}.table" for n in range(3))
STEPS = frozenset(f"blocks.{n}.steps" for n in range(3))
MASKS = frozenset(f"blocks.{n}.mask" for n in range(3))


def net_state() -> dict[str, torch.Tensor]:
    """What a Net saves."""
    names = [name for n in range(3) for name in (f"blocks.{n}.gate", f"blocks.{n}.table")]
    state = {"embed.weight": torch.arange(64.0).reshape(16, 4) / 64}
    state |= {name: torch.tensor([0.25, 0.5, -3.0, 1.125]) + n for n, name in enumerate(names)}
    return state | {"extra": torch.tensor([0.1, -0.2, 0.3, 0.7])}


def write_source(folder: Path, files: dict[str, str]) -> None:
    """Write files that leave a mark if they are run."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mark = f"\n__import__('pathlib').Path({str(folder / MARK)!r}).touch()\n"
        (folder / name).write_text(text + mark, "utf-8")


def write_tiny(folder: Path) -> None:
    """The packages ``tiny``, of a Net, and ``other``; ``net.safetensors`` and ``net.pt``."""
    write_source(folder, {"tiny/__init__.py": "", "tiny/blocks.py": BLOCKS, "other/__init__.py": OTHER})
    save_file(net_state(), folder / "net.safetensors", {"format": "pt"})
    torch.save(net_state(), folder / "net.pt")
