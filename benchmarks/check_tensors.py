"""Say how the tensors of two files differ, by bytes, or nothing: what a conversion must not change.

    python -m benchmarks.check_tensors SOURCE CONVERTED

A process of its own, and torch instead of ckpttool: a contender is no judge.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def read(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file by name."""
    if path.suffix == ".pt":
        loaded: dict[str, torch.Tensor] = torch.load(path, mmap=True, weights_only=True)
        return loaded
    return load_file(path)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> str:
    """What is first seen to differ."""
    if a.keys() != b.keys():
        return f"{len(a.keys() ^ b.keys())} tensors are in one file only"
    for name, x in a.items():
        y = b[name]
        if (x.dtype, x.shape) != (y.dtype, y.shape):
            return f"{name} has another dtype or shape"
        if not torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)):
            return f"{name} has other values"
    return ""


if __name__ == "__main__":
    print(difference(read(Path(sys.argv[1])), read(Path(sys.argv[2]))))
