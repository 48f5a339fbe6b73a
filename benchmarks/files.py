"""The files of one cell of the grid, all made from one model, by a process of its own.

    python -m benchmarks.files FOLDER NBYTES TENSORS NAME ...

A parent that imports torch would hand its memory to the peak of every child.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

MODEL = '''
import torch
from torch import nn

class Block(nn.Module):
    """Seven parameters and three buffers, none initialised at random: that would take longest of all."""

    def __init__(self, dim):
        super().__init__()
        def bare(bias):
            return nn.utils.skip_init(nn.Linear, dim, dim, bias=bias, device=torch.get_default_device())
        self.up, self.gate, self.down = bare(True), bare(False), bare(True)
        self.norm = nn.BatchNorm1d(dim)

def build(blocks, dim):
    model = nn.Module()
    model.layers = nn.ModuleList([Block(dim) for _ in range(blocks)])
    return model
'''
"""Written beside the files as ``bench_model.py``: the model that `verify` builds."""

TENSORS_PER_BLOCK = 10
MATRICES_PER_BLOCK, VECTORS_PER_BLOCK = 3, 4  # of the parameters
CHANGE = 1.001


def dimensions(nbytes: int, tensors: int) -> tuple[int, int]:
    """The number of blocks, and their width so that all float32 together come near ``nbytes``."""
    blocks = tensors // TENSORS_PER_BLOCK
    return blocks, max(1, int((nbytes / 4 / blocks / MATRICES_PER_BLOCK) ** 0.5))


def parameter_count(nbytes: int, tensors: int) -> int:
    """How many numbers of the model are parameters: without the buffers."""
    blocks, dim = dimensions(nbytes, tensors)
    return blocks * (MATRICES_PER_BLOCK * dim * dim + VECTORS_PER_BLOCK * dim)


def make_files(folder: Path, nbytes: int, tensors: int, names: list[str]) -> None:
    """Write ``bench_model.py`` and each of ``names``, which are keys of `MAKERS`."""
    import torch

    (folder / "bench_model.py").write_text(MODEL)
    sys.path.insert(0, str(folder))
    import bench_model  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model = bench_model.build(*dimensions(nbytes, tensors))
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1)  # no zeros: each must change when it is multiplied
    # `changed` works in place, so that no more than one model is in memory.
    for name in sorted(names, key=list(MAKERS).index):
        MAKERS[name](model.state_dict(), folder / name)


def _save(state: State, path: Path) -> None:
    import torch

    torch.save(state, path)


def _save_plain(state: State, path: Path) -> None:
    """A plain dict: without the ``_metadata`` that a state_dict carries, which one tool does not read."""
    _save(dict(state), path)


def _save_file(state: State, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, path, metadata={"format": "pt"})


def _save_renamed(state: State, path: Path) -> None:
    _save({f"{name.replace('layers', 'h')}_": value for name, value in state.items()}, path)


def _save_bfloat16(state: State, path: Path) -> None:
    cast = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    _save_file(cast, path)


def _save_one_changed(state: State, path: Path) -> None:
    value = next(reversed(state.values()))
    value.view(-1)[-1] += 1
    _save_file(state, path)
    value.view(-1)[-1] -= 1


def _save_half_changed(state: State, path: Path) -> None:
    changed = {name: value + 1 if index % 2 else value for index, (name, value) in enumerate(state.items())}
    _save_file(changed, path)


def _save_changed(state: State, path: Path) -> None:
    for value in state.values():
        value.add_(1) if not value.is_floating_point() else value.mul_(CHANGE)
    _save_file(state, path)


MAKERS: dict[str, Callable[[State, Path], None]] = {
    "model.pt": _save,
    "plain.pt": _save_plain,
    "a.safetensors": _save_file,
    "b.safetensors": _save_file,
    "bfloat16.safetensors": _save_bfloat16,
    "renamed.pt": _save_renamed,
    "one.safetensors": _save_one_changed,
    "half.safetensors": _save_half_changed,
    "changed.safetensors": _save_changed,
}
"""By file name. The last one changes the model."""


if __name__ == "__main__":
    make_files(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
