"""``make cuda``: what only a machine with an accelerator can tell, in one command, for docs/cuda.md.

    python -m benchmarks.cuda [--gib 4 16] [--seconds 480] [--folder DIR] [--rehearse]

Runs the tests that need a device, then measures for each size, in this one run: the comparison with the
file against a plain copy of one pinned buffer to the device, again and again; and ``verify --load copy``
against torch.load, load_state_dict and .to(device), each a process of its own, in turn. What there was no
time, memory or disk for is named. A rehearsal does the same on the CPU, small: it says nothing of a device.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.accelerator import accelerator, pinned, synchronize
from ckpttool.torch_bridge.tensors import FileTensors
from ckpttool.torch_bridge.verify.against_file import CHUNK_NBYTES, DeviceComparer

ROUNDS = 3
REPEATS = 32  # chunks in one round of the plain copy
SPARE = 1.2  # of what a model takes in memory and on disk
ROOT = Path(__file__).parents[1]
COMPARISON_GOAL, VERIFY_GOAL = 0.8, 1.3

MODEL = """
import torch
from torch import nn

class Stack(nn.Module):
    def __init__(self, dim, layers):
        super().__init__()
        make = lambda: nn.Parameter(torch.empty(dim, dim))
        self.weights = nn.ParameterList(make() for _ in range(layers))
        self.register_buffer("window", torch.arange(float(dim)), persistent=False)

def build(dim, layers):
    return Stack(dim, layers)
"""

PLAIN_LOAD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from bench_model import build
model = build(int(sys.argv[4]), int(sys.argv[5]))
model.load_state_dict(torch.load(sys.argv[2], map_location="cpu", weights_only=True))
model.to(sys.argv[3])
next(model.parameters()).sum().item()
"""


class OutOfTime(Exception):
    """The next step would not be over in time."""


class Clock:
    """What is left of the time for all."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds

    def left(self, needed: float = 0.0) -> float:
        """Seconds that are left, more than ``needed``."""
        left = self.ends - time.monotonic()
        if left <= needed:
            raise OutOfTime(f"{max(left, 0):.0f} s were left, and it needs about {needed:.0f} s")
        return left


class Row(NamedTuple):
    """One line of the table; ``met`` is None where there is no goal, or no device to hold to it."""

    what: str
    value: str
    met: bool | None = None


def run(command: Sequence[str], clock: Clock) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process and its seconds; it is ended when the time is over."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=clock.left(), cwd=ROOT, env=environment
        )
    except subprocess.TimeoutExpired:
        raise OutOfTime("it was ended before it was over") from None
    return done, time.perf_counter() - started


def run_tests(clock: Clock) -> tuple[Row, bool]:
    """The tests that need a device: the last line that pytest prints, and whether none failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    command.append("tests/torch_bridge")  # tests/conftest.py lets no such test stand elsewhere
    done, seconds = run(command, clock)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode not in (0, 5):
        print(done.stdout[-4000:], done.stderr[-2000:], sep="\n", file=sys.stderr)
    said = f"{lines[-1] if lines else 'no output'} ({seconds:.0f} s)"
    return Row("tests that need a device", said), done.returncode in (0, 5)


def plain_copy(device: torch.device, clock: Clock) -> float:
    """10⁹ bytes a second of one pinned buffer copied to the device; the best of some rounds."""
    host = pinned(CHUNK_NBYTES, device)
    overlaps = host is not None
    source = torch.empty(CHUNK_NBYTES, dtype=torch.uint8) if host is None else host
    there = torch.empty(CHUNK_NBYTES, dtype=torch.uint8, device=device)
    best = 0.0
    for _ in range(ROUNDS):
        clock.left()
        synchronize(device)
        started = time.perf_counter()
        for _ in range(REPEATS):
            there.copy_(source, non_blocking=overlaps)
        synchronize(device)
        best = max(best, REPEATS * CHUNK_NBYTES / (time.perf_counter() - started) / 1e9)
    return best


def comparison(path: Path, device: torch.device, clock: Clock) -> float:
    """10⁹ bytes a second of the file compared with tensors on the device; the best of some rounds."""
    checkpoint = read_checkpoint(str(path))
    files = FileTensors(checkpoint)
    pairs = []
    for entry in checkpoint.entries:
        stored = files.tensor(entry)
        pairs.append((str(entry.name), stored, stored.to(device)))
    best = 0.0
    for _ in range(ROUNDS):
        clock.left()
        comparer = DeviceComparer(device)
        for name, stored, loaded in pairs:
            comparer.submit(name, loaded, stored)
        different, seconds = comparer.finish()
        if different:
            raise SystemExit(f"not equal: {different[:3]}")
        best = max(best, comparer.nbytes / seconds / 1e9)
    return best


def measure(gib: float, device: torch.device, folder: str, clock: Clock, *, held: bool) -> list[Row]:
    """The lines of one size; ``held``: it counts whether the goals are met."""
    dim = 8192 if gib >= 1 else 512
    layers = max(1, round(gib * 2**30 / (dim * dim * 4)))
    nbytes = layers * dim * dim * 4
    free = shutil.disk_usage(folder).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if free < nbytes * SPARE or memory < 2 * nbytes * SPARE:
        what = f"{free / 2**30:.0f} GiB of disk and {memory / 2**30:.0f} GiB of memory are not enough"
        raise OutOfTime(what)
    path = Path(folder) / "model.pt"
    base = torch.rand(dim, dim)
    torch.save({f"weights.{index}": base + index for index in range(layers)}, path)
    (Path(folder) / "bench_model.py").write_text(MODEL)
    clock.left()
    plain = plain_copy(device, clock)
    compared = comparison(path, device, clock)
    sizes = [str(dim), str(layers)]
    load = [sys.executable, "-c", PLAIN_LOAD, folder, str(path), str(device), *sizes]
    model = ["--model", f"{folder}/bench_model.py:build", "--model-arg", f"dim={dim}"]
    model += ["--model-arg", f"layers={layers}", "--device", str(device), "--load", "copy", "--json"]
    verify = [sys.executable, "-m", "ckpttool", "verify", str(path), *model]
    walls: dict[str, list[float]] = {"load": [], "verify": []}
    document = {}
    for _ in range(2):
        for name, command in (("load", load), ("verify", verify)):
            done, seconds = run(command, clock)
            if done.returncode:
                raise SystemExit(f"{name} fails: {done.stderr}")
            walls[name].append(seconds)
            document = json.loads(done.stdout) if name == "verify" else document
    [ran] = document["runs"]
    share, ratio = compared / plain, min(walls["verify"]) / min(walls["load"])
    within = f", comparing at {ran['gb_per_second']:.1f} GB/s" if ran["gb_per_second"] else ""
    return [
        Row(f"**{nbytes / 2**30:.3g} GiB**: plain copy to the device", f"{plain:.1f} GB/s"),
        Row(
            f"comparison with the file (goal: {COMPARISON_GOAL} of it)",
            f"{compared:.1f} GB/s, {share:.2f} of it",
            share >= COMPARISON_GOAL if held else None,
        ),
        Row("torch.load, load_state_dict, .to(device): a process", f"{min(walls['load']):.1f} s"),
        Row(
            f"`verify --load copy`: a process (goal: {VERIFY_GOAL} of it)",
            f"{min(walls['verify']):.1f} s, {ratio:.2f} of it{within}",
            ratio <= VERIFY_GOAL if held else None,
        ),
    ]


def device_name(device: torch.device) -> str:
    """What its maker calls it."""
    module = getattr(torch, device.type, None)
    name = getattr(module, "get_device_name", None)
    return str(name(device)) if name is not None else device.type


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and what was left out; 1 where a test failed or a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, nargs="+", help="sizes of the checkpoint; default: 4 16")
    parser.add_argument("--seconds", type=float, default=480, help="for all of it")
    parser.add_argument("--folder", help="where the checkpoint is made; default: the temporary folder")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, small")
    options = parser.parse_args(argv)
    here = accelerator()
    if here is None and not options.rehearse:
        print(f"nothing to measure: torch {torch.__version__} finds no accelerator (--rehearse: on the CPU)")
        return 2
    clock = Clock(options.seconds)
    device = torch.device("cpu" if options.rehearse else str(here))
    sizes = options.gib or ([0.02, 0.05] if options.rehearse else [4, 16])
    if options.rehearse:
        print("A rehearsal on the CPU: it shows that the script runs, and says nothing about a device.\n")
    rows, left_out, good = [], [], True
    try:
        row, good = run_tests(clock)
        rows.append(row)
    except OutOfTime as error:
        left_out.append(f"the tests: {error}")
    took = 0.0  # seconds for each GiB, of the last size
    for gib in sizes:
        started = time.monotonic()
        try:
            clock.left(took * gib)
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                rows += measure(gib, device, folder, clock, held=not options.rehearse)
        except (OutOfTime, torch.OutOfMemoryError) as error:
            left_out.append(f"{gib:g} GiB: {str(error).splitlines()[0]}")
        took = (time.monotonic() - started) / gib
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"{date.today()} · torch {torch.__version__} · Python {python} · {device_name(device)}\n")
    print("| | | |\n|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.value} | {'' if row.met is None else 'met' if row.met else 'missed'} |")
    for what in left_out:
        print(f"\nLeft out: {what}")
    return int(not good or any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
