"""`ckpttool convert` against cp, torch and safetensors: CPU seconds, wall seconds and memory, as ratios.

    python -m benchmarks.convert [--gib 2] [--folder DIR] [--rounds 5] [--sparse-gib 0]

Every contender runs in a process of its own, all of them once a round, in turn; the table has the
best CPU and the best wall time of the rounds. Sources are read once before each run, so that they are in
the page cache. `cp + fsync` is what the file costs when it must be on disk, as ckpttool's must.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Cost, Task, compile_package, run_once, table

TENSOR_NUMEL = 1 << 20  # float32: 4 MiB each
CKPTTOOL = [sys.executable, "-m", "ckpttool"]
TO_SAFETENSORS = (
    "import sys, torch; from safetensors.torch import save_file; "
    "save_file(torch.load(sys.argv[1], weights_only=True{}), sys.argv[2])"
)
TO_PT = (
    "import sys, torch; from safetensors.torch import load_file; "
    "torch.save(load_file(sys.argv[1]), sys.argv[2])"
)
CAST = (
    "import sys, torch; from safetensors.torch import save_file; "
    "save_file({k: v.bfloat16() for k, v in torch.load(sys.argv[1], weights_only=True, mmap=True).items()}, "
    "sys.argv[2])"
)


class Job(NamedTuple):
    name: str
    command: list[str]
    source: Path
    output: Path


def measure(job: Job) -> Cost:
    """Run once, with the source in the page cache and no output there."""
    job.output.unlink(missing_ok=True)
    warm(job.source)
    cost = run_once(Task(job.name, job.command))
    job.output.unlink()
    return cost


def warm(path: Path) -> None:
    if path.stat().st_blocks * 512 < path.stat().st_size // 2:
        return  # a sparse file
    buffer = bytearray(8 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def write_sources(folder: Path, gib: float) -> None:
    """One model of 4 MiB tensors in both containers, and 20,000 small tensors."""
    import torch
    from safetensors.torch import save_file

    count = max(1, int(gib * (1 << 30)) // (4 * TENSOR_NUMEL))
    state = {f"layers.{i}.weight": torch.randn(1024, TENSOR_NUMEL // 1024) for i in range(count)}
    torch.save(state, folder / "a.pt")
    save_file(state, folder / "a.safetensors", metadata={"format": "pt"})
    torch.save({f"m.{i}.weight": torch.randn(8, 8) for i in range(20_000)}, folder / "many.pt")


def write_sparse(path: Path, gib: int) -> None:
    """A `.pt` of many GiB that takes no room."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({f"l.{i}.weight": torch.empty(1 << 28, dtype=torch.float32) for i in range(gib)}, path)


def jobs(folder: Path) -> list[Job]:
    pt, safetensors, many = folder / "a.pt", folder / "a.safetensors", folder / "many.pt"
    to_st, to_pt = folder / "out.safetensors", folder / "out.pt"

    def ours(source: Path, output: Path, *options: str) -> list[str]:
        return [*CKPTTOOL, "convert", str(source), str(output), "--quiet", *options]

    def python(code: str, source: Path, output: Path) -> list[str]:
        return [sys.executable, "-c", code, str(source), str(output)]

    out = folder / "out.cp"
    return [
        Job("cp", ["cp", str(pt), str(out)], pt, out),
        Job("cp + fsync", ["sh", "-c", f"cp '{pt}' '{out}' && sync '{out}'"], pt, out),
        Job("pt to safetensors, --no-check", ours(pt, to_st, "--no-check"), pt, to_st),
        Job("pt to safetensors", ours(pt, to_st), pt, to_st),
        Job(
            "pt to safetensors, --manifest",
            ours(pt, to_st, "--manifest", str(folder / "m"), "--force"),
            pt,
            to_st,
        ),
        Job("safetensors to pt, --no-check", ours(safetensors, to_pt, "--no-check"), safetensors, to_pt),
        Job("safetensors to pt", ours(safetensors, to_pt), safetensors, to_pt),
        Job(
            "pt to safetensors, --dtype bf16 --no-check",
            ours(pt, to_st, "--dtype", "bf16", "--no-check"),
            pt,
            to_st,
        ),
        Job("save_file(torch.load)", python(TO_SAFETENSORS.format(""), pt, to_st), pt, to_st),
        Job(
            "save_file(torch.load(mmap))", python(TO_SAFETENSORS.format(", mmap=True"), pt, to_st), pt, to_st
        ),
        Job("torch.save(load_file)", python(TO_PT, safetensors, to_pt), safetensors, to_pt),
        Job("save_file(torch.load(mmap) to bf16)", python(CAST, pt, to_st), pt, to_st),
        Job(
            "inspect, 20,000 tensors",
            ["sh", "-c", f"{' '.join(CKPTTOOL)} inspect '{many}' --json > '{out}'"],
            many,
            out,
        ),
        Job("convert, 20,000 tensors", ours(many, to_st), many, to_st),
    ]


def report(costs: dict[str, list[Cost]]) -> str:
    """The best of the rounds: what else runs on the machine only ever adds."""
    cp = costs["cp"]
    cp_cpu, cp_wall = min(cost.cpu for cost in cp), min(cost.wall for cost in cp)
    rows = []
    for name, runs in costs.items():
        cpu, wall = min(cost.cpu for cost in runs), min(cost.wall for cost in runs)
        peak = min(cost.peak_nbytes for cost in runs) >> 20
        comparable = "20,000" not in name and "sparse" not in name
        ratios = [f"{cpu / cp_cpu:.2f}", f"{wall / cp_wall:.2f}"] if comparable else ["", ""]
        rows.append([name, f"{cpu:.2f}", ratios[0], f"{wall:.2f}", ratios[1], str(peak)])
    return table(["", "CPU s", "x cp", "wall s", "x cp", "peak MiB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder")
    parser.add_argument("--write-into", help=argparse.SUPPRESS)
    parser.add_argument("--sparse-gib", type=int, default=0)
    options = parser.parse_args()
    compile_package()
    if options.write_into:
        write_sources(Path(options.write_into), options.gib)
        if options.sparse_gib:
            write_sparse(Path(options.write_into) / "sparse.pt", options.sparse_gib)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        # By a child: the peak of a process counts what its parent held when it forked.
        subprocess.run(
            [sys.executable, "-m", "benchmarks.convert", *sys.argv[1:], "--write-into", name], check=True
        )
        todo = jobs(folder)
        costs: dict[str, list[Cost]] = {job.name: [] for job in todo}
        order = random.Random(0)
        for _ in range(options.rounds):
            # What ran before decides which memory the kernel has at hand: never the same neighbour twice.
            for job in order.sample(todo, len(todo)):
                costs[job.name].append(measure(job))
        if options.sparse_gib:
            sparse, output = folder / "sparse.pt", folder / "sparse.safetensors"
            command = [*CKPTTOOL, "convert", str(sparse), str(output), "--quiet", "--no-check"]
            costs[f"{options.sparse_gib} GiB, sparse source, --no-check"] = [
                measure(Job("sparse", command, sparse, output))
            ]
        print(report(costs))
    os.sync()


if __name__ == "__main__":
    main()
