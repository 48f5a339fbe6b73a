"""``verify`` on the CPU against torch.load(mmap) + load_state_dict, as whole processes of one run.

    python -m benchmarks.verify [--gib 0.75] [--rounds 3]

Both build the same model. It has no random initialisation (``torch.empty``), which would take longer
than all the rest and flatter the ratio; with ``--init`` it has that of ``nn.Linear``. Peak memory is sampled
from ``/proc``: anonymous pages, which the system must keep, apart from mapped pages of the file,
which it may drop.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import compile_package

LAYERS = 24

MODEL = '''
import os
import torch
from torch import nn

class Layer(nn.Module):
    """Weights of a transformer's layer, a buffer that is saved and one that is not."""

    def __init__(self, dim):
        super().__init__()
        make = nn.Linear if os.environ.get("BENCH_INIT") else bare
        self.qkv, self.up = make(dim, 3 * dim), make(dim, 4 * dim)
        self.out, self.down = make(dim, dim), make(4 * dim, dim)
        self.register_buffer("scale", torch.ones(dim))

def bare(inputs, outputs):
    return nn.utils.skip_init(nn.Linear, inputs, outputs, device=torch.get_default_device())

def build(dim=1024, layers=24):
    return nn.Sequential(*[Layer(dim) for _ in range(layers)])
'''

BASELINE = """
import sys, torch
sys.path.insert(0, sys.argv[2])
import bench_model
model = bench_model.build(dim=int(sys.argv[3]))
model.load_state_dict(torch.load(sys.argv[1], map_location="cpu", mmap=True, weights_only=True), strict=True)
"""


class Cost(NamedTuple):
    """Of one process: seconds by the clock and of CPU, and peak bytes."""

    wall: float
    cpu: float
    anonymous: int
    resident: int


def measure(command: list[str], env: dict[str, str]) -> Cost:
    """Run ``command`` to its end; its status must be 0."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = [0, 0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    status = process.wait()
    wall = time.perf_counter() - started
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, *peak)


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    """Sample the memory of the process every 5 ms."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        fields = dict(
            line.split(":", 1) for line in status.splitlines() if line.startswith(("RssAnon", "VmRSS"))
        )
        for index, name in enumerate(("RssAnon", "VmRSS")):
            peak[index] = max(peak[index], int(fields.get(name, "0 kB").split()[0]) * 1024)
        time.sleep(0.005)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gib", type=float, default=0.75)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--init", action="store_true", help="with torch's random initialisation")
    options = parser.parse_args()
    compile_package()
    dim = int((options.gib * 2**30 / (LAYERS * 12 * 4)) ** 0.5)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench_model.py").write_text(MODEL)
        path = f"{folder}/model.pt"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.getcwd()])}
        if options.init:
            env["BENCH_INIT"] = "1"
        make = f"import torch, bench_model; torch.save(bench_model.build(dim={dim}).state_dict(), {path!r})"
        subprocess.run([sys.executable, "-c", make], env={**env, "BENCH_INIT": "1"}, check=True)
        verify = [sys.executable, "-m", "ckpttool", "verify", path, "--model", "bench_model:build"]
        verify += ["--model-arg", f"dim={dim}", "--device", "cpu", "--json"]
        runs = {
            "torch.load(mmap) + load_state_dict": [sys.executable, "-c", BASELINE, path, folder, str(dim)],
            "verify --load copy": [*verify, "--load", "copy"],
            "verify, all four ways": verify,
        }
        costs: dict[str, list[Cost]] = {name: [] for name in runs}
        for _ in range(options.rounds + 1):  # the first one warms the page cache
            for name, command in runs.items():
                costs[name].append(measure(command, env))
        size = os.path.getsize(path)
    report(size, {name: found[1:] for name, found in costs.items()})
    return 0


def report(size: int, costs: dict[str, list[Cost]]) -> None:
    """The best round of each, and its ratio to the first."""
    best = {
        name: Cost(*(min(column) for column in zip(*found, strict=True))) for name, found in costs.items()
    }
    base = next(iter(best.values()))
    print(f"| {size / 2**30:.2f} GiB | wall s | CPU s | wall | CPU | anonymous peak | resident peak |")
    print("|---|---|---|---|---|---|---|")
    for name, cost in best.items():
        print(
            f"| {name} | {cost.wall:.2f} | {cost.cpu:.2f} | {cost.wall / base.wall:.2f}x "
            f"| {cost.cpu / base.cpu:.2f}x | {cost.anonymous / size:.2f}x | {cost.resident / size:.2f}x |"
        )


if __name__ == "__main__":
    sys.exit(main())
