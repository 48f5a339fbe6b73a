"""``verify`` on a CUDA device: how much of the bus the comparison uses, and a whole run of several GB.

    python -m benchmarks.cuda [--gib 4] [--device cuda] [--folder DIR]

The plain copy that it is measured against is one pinned buffer to the device, again and again, in the
same process. The comparison has to read the file's pages as well, and fill pinned buffers with them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.tensors import FileTensors
from ckpttool.torch_bridge.verify.against_file import CHUNK_NBYTES, DeviceComparer
from ckpttool.values.checkpoint import Entry
from tests.conftest import why_no_cuda

ROUNDS = 5

MODEL = """
import torch
from torch import nn

class Stack(nn.Module):
    def __init__(self, dim, layers):
        super().__init__()
        make = lambda: nn.Parameter(torch.empty(dim, dim))
        self.weights = nn.ParameterList(make() for _ in range(layers))
        self.register_buffer("window", torch.arange(float(dim)), persistent=False)

def build(dim=8192, layers=16):
    return Stack(dim, layers)
"""


def plain_copy(device: torch.device) -> float:
    """10⁹ bytes a second of one pinned buffer copied to the device; the best of some rounds."""
    host = torch.empty(CHUNK_NBYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(CHUNK_NBYTES, dtype=torch.uint8, device=device)
    repeats = 32
    best = 0.0
    for _ in range(ROUNDS):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            there.copy_(host, non_blocking=True)
        torch.cuda.synchronize(device)
        best = max(best, repeats * CHUNK_NBYTES / (time.perf_counter() - started) / 1e9)
    return best


def comparison(path: Path, device: torch.device) -> float:
    """10⁹ bytes a second of the file compared with tensors on the device; the best of some rounds."""
    checkpoint = read_checkpoint(str(path))
    files = FileTensors(checkpoint)
    pairs: list[tuple[Entry, torch.Tensor, torch.Tensor]] = []
    for entry in checkpoint.entries:
        stored = files.tensor(entry)
        pairs.append((entry, stored, stored.to(device)))
    best = 0.0
    for _ in range(ROUNDS):
        comparer = DeviceComparer(device)
        for entry, stored, loaded in pairs:
            comparer.submit(str(entry.name), loaded, stored)
        different, seconds = comparer.finish()
        if different:
            raise SystemExit(f"not equal: {different[:3]}")
        best = max(best, comparer.nbytes / seconds / 1e9)
    return best


def main() -> int:
    """Print the table, or why there is none."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", help="where the checkpoint is made; default: the temporary folder")
    options = parser.parse_args()
    if reason := why_no_cuda():
        print(f"no benchmark: {reason}")
        return 0
    device = torch.device(options.device)
    dim = 8192
    layers = max(1, round(options.gib * 2**30 / (dim * dim * 4)))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "model.pt"
        state = {f"weights.{index}": torch.rand(dim, dim) for index in range(layers)}
        torch.save(state, path)
        (Path(folder) / "bench_model.py").write_text(MODEL)
        nbytes = sum(nn.Parameter(value).nbytes for value in state.values())
        del state
        plain = plain_copy(device)
        compared = comparison(path, device)
        torch.cuda.empty_cache()
        arguments = ["--model", f"{folder}/bench_model.py:build", "--model-arg", f"layers={layers}"]
        command = [sys.executable, "-m", "ckpttool", "verify", str(path), *arguments]
        command += ["--device", options.device, "--load", "copy", "--json"]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    [run] = json.loads(done.stdout)["runs"]
    print(f"{date.today()} · torch {torch.__version__} · {torch.cuda.get_device_name(device)}\n")
    print("| | |\n|---|---|")
    print(f"| checkpoint | {nbytes / 1e9:.2f} GB |")
    print(f"| plain pinned copy to the device | {plain:.1f} GB/s |")
    print(f"| comparison with the file | {compared:.1f} GB/s, {compared / plain:.2f} of it |")
    print(f"| verify --load copy, whole process | {wall:.1f} s, the run itself {run['seconds']:.1f} s |")
    print(f"| comparison within it | {run['gb_per_second']:.1f} GB/s |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
