"""The cost of ``diff`` as ratios to ``cmp``, to reading both files through numpy, and to ``inspect``.

    python -m benchmarks.diff [--rounds N] [--folder DIR] [--mebibytes N]

Makes its files in DIR (a temporary folder by default; six times the size of one), runs every command in
turn, and prints a Markdown table of medians. Only ratios mean anything: machines are busy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, Task, compile_package, run_interleaved, table

PYTHON = sys.executable
# As the console script does it: `python -m` would add what finding the module costs.
COMMAND = [PYTHON, "-c", "from ckpttool.cli import entry; entry()"]
READ_BOTH = "import sys, numpy\nfor path in sys.argv[1:]: numpy.fromfile(path, dtype=numpy.float32)"
# The same without the page faults of an array as large as the file.
READ_RUNS = """
import sys, numpy
for path in sys.argv[1:]:
    with open(path, "rb", buffering=0) as file:
        while len(numpy.fromfile(file, dtype=numpy.float32, count=1 << 18)): pass
"""

CMP = "cmp, equal"
NUMPY = "numpy.fromfile of both"
RUNS = "numpy.fromfile of both, in runs of 1 MiB"
INSPECT_MANY = "inspect, 20,000 tensors"
INSPECT = "inspect"
SHA256 = "sha256sum"


def make_files(folder: Path, mebibytes: int) -> None:
    """Files of 32 tensors and of 20,000; in a process of its own, as its memory counts in its children."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    rows = mebibytes * 8  # of 1024 float32, in 32 tensors
    base = {f"layers.{i}.weight": torch.randn(rows, 1024, generator=generator) for i in range(32)}
    save_file(base, folder / "a.safetensors")
    save_file(base, folder / "b.safetensors")
    torch.save(base, folder / "a.pt")
    base["layers.31.weight"].view(-1)[-1] += 1
    save_file(base, folder / "last.safetensors")
    for value in base.values():
        value *= 1.001
    save_file(base, folder / "changed.safetensors")
    save_file({name: value.bfloat16() for name, value in base.items()}, folder / "bfloat16.safetensors")
    many = {
        f"layers.{i // 8}.block.{i % 8}.weight": torch.randn(3, 4, generator=generator) for i in range(20_000)
    }
    torch.save(many, folder / "many.pt")
    torch.save({name: value.clone() for name, value in many.items()}, folder / "many_equal.pt")
    half = {name: value + 1 if place % 2 else value for place, (name, value) in enumerate(many.items())}
    torch.save(half, folder / "many_changed.pt")
    renamed = {name.replace("layers", "h").replace("block", "part"): value for name, value in many.items()}
    torch.save(renamed, folder / "many_renamed.pt")


def make_tasks(folder: Path) -> list[tuple[Task, str]]:
    """Every command with the name of the one that it is measured against."""

    def diff(name: str, a: str, b: str, against: str, *options: str, status: int = 0) -> tuple[Task, str]:
        command = [*COMMAND, "diff", str(folder / a), str(folder / b), *options]
        return Task(name, command, (status,)), against

    paths = {
        name: str(folder / name)
        for name in ("a.safetensors", "b.safetensors", "changed.safetensors", "many.pt")
    }
    return [
        (Task(CMP, ["cmp", paths["a.safetensors"], paths["b.safetensors"]]), CMP),
        diff("diff, equal", "a.safetensors", "b.safetensors", CMP),
        diff("diff, equal, .pt and .safetensors", "a.pt", "b.safetensors", CMP),
        (Task(NUMPY, [PYTHON, "-c", READ_BOTH, paths["a.safetensors"], paths["changed.safetensors"]]), NUMPY),
        (
            Task(RUNS, [PYTHON, "-c", READ_RUNS, paths["a.safetensors"], paths["changed.safetensors"]]),
            NUMPY,
        ),
        diff("diff, all changed", "a.safetensors", "changed.safetensors", NUMPY, status=1),
        diff("diff, last element changed", "a.safetensors", "last.safetensors", NUMPY, status=1),
        diff("diff, float32 and bfloat16", "a.safetensors", "bfloat16.safetensors", NUMPY, status=1),
        (Task(INSPECT, [*COMMAND, "inspect", paths["a.safetensors"]]), INSPECT),
        diff("diff --headers", "a.safetensors", "b.safetensors", INSPECT, "--headers"),
        (Task(INSPECT_MANY, [*COMMAND, "inspect", paths["many.pt"]]), INSPECT_MANY),
        diff("diff --headers, 20,000 tensors", "many.pt", "many_changed.pt", INSPECT_MANY, "--headers"),
        diff("diff, 20,000 equal", "many.pt", "many_equal.pt", INSPECT_MANY),
        diff("diff, 20,000, half changed", "many.pt", "many_changed.pt", INSPECT_MANY, status=1),
        diff("diff, 20,000 renamed", "many.pt", "many_renamed.pt", INSPECT_MANY, status=1),
        (Task(SHA256, ["sha256sum", paths["a.safetensors"]]), SHA256),
        (Task("inspect --digest", [*COMMAND, "inspect", paths["a.safetensors"], "--digest"]), SHA256),
    ]


def rows(costs: dict[str, Cost], tasks: list[tuple[Task, str]]) -> list[list[str]]:
    """One row a command: wall, CPU, memory, and both times as ratios."""
    made = []
    for task, against in tasks:
        cost, floor = costs[task.name], costs[against]
        made.append(
            [
                task.name,
                f"{cost.wall:.2f} s",
                f"{cost.cpu:.2f} s",
                f"{cost.peak_nbytes / 2**20:.0f} MiB",
                "" if task.name == against else f"{cost.wall / floor.wall:.2f}x {against}",
                "" if task.name == against else f"{cost.cpu / floor.cpu:.2f}x",
            ]
        )
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of one file")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    compile_package()
    if arguments.make:
        make_files(arguments.make, arguments.mebibytes)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        command = [
            PYTHON,
            "-m",
            "benchmarks.diff",
            "--make",
            str(folder),
            "--mebibytes",
            str(arguments.mebibytes),
        ]
        subprocess.run(command, check=True)
        tasks = make_tasks(folder)
        costs = run_interleaved([task for task, _ in tasks], arguments.rounds)
    print(
        f"Python {sys.version.split()[0]}, files of {arguments.mebibytes} MiB, "
        f"medians of {arguments.rounds} turns\n"
    )
    print(table(["command", "wall", "CPU", "peak RSS", "wall / floor", "CPU / floor"], rows(costs, tasks)))


if __name__ == "__main__":
    main()
