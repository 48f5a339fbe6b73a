"""The cost of ``inspect`` as ratios to imports that it cannot do without, and to torch.load.

    python -m benchmarks.inspect [--rounds N] [--folder DIR]

Makes its files in DIR (a temporary folder by default; the large ones are sparse), runs every command
in turn, and prints a Markdown table of medians. Only ratios mean anything: machines are busy.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, Task, compile_package, run_interleaved, table

PYTHON = sys.executable
# As the console script does it: `python -m` would add what finding the module costs.
COMMAND = [PYTHON, "-c", "from ckpttool.cli import entry; entry()", "inspect"]
TYPER = "python -c 'import typer'"
RICH = "python -c 'import typer, rich.console, rich.table'"
TORCH = "torch.load(mmap=True) and a print"
# A terminal: `script` gives the command a pseudo-terminal, so that it draws its table.
ON_TERMINAL = ("script", "-qec")


def make_torch_files(folder: Path) -> None:
    """Small, large (sparse) and many-tensor files of torch.save.

    In a process of its own: what a parent has in memory counts in the peak of its children.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    small = {f"layers.{i}.{part}": torch.zeros(8, 8) for i in range(12) for part in ("weight", "bias")}
    many = {f"layers.{i // 8}.block.{i % 8}.weight": torch.zeros(3, 4) for i in range(20_000)}
    torch.save(small, folder / "small.pt")
    torch.save(many, folder / "many.pt")
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({f"layers.{i}.weight": torch.empty(1 << 28) for i in range(20)}, folder / "20 GiB.pt")


def make_files(folder: Path) -> dict[str, Path]:
    """All files by name, in both formats."""
    subprocess.run([PYTHON, "-m", "benchmarks.inspect", "--make", str(folder)], check=True)
    files = {name: folder / f"{name}.pt" for name in ("small", "many", "20 GiB")}
    small = [f"layers.{i}.{part}" for i in range(12) for part in ("weight", "bias")]
    many = [f"layers.{i // 8}.block.{i % 8}.weight" for i in range(20_000)]
    shapes: dict[str, tuple[int, ...]]
    for name, shapes in (
        ("small", dict.fromkeys(small, (8, 8))),
        ("many", dict.fromkeys(many, (3, 4))),
        ("100 GiB", {f"layers.{i}.weight": (1 << 28,) for i in range(100)}),
    ):
        path = files[f"{name} safetensors"] = folder / f"{name}.safetensors"
        write_sparse_safetensors(path, shapes)
    return files


def write_sparse_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A header and a hole."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        nbytes = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + offset)


def make_tasks(files: dict[str, Path]) -> list[Task]:
    """The floors first, then inspect in its three forms over every file."""
    load = (
        "import sys, torch; loaded = torch.load(sys.argv[1], mmap=True); "
        "print({name: (tensor.dtype, tensor.shape) for name, tensor in loaded.items()})"
    )
    tasks = [
        Task(TYPER, [PYTHON, "-c", "import typer"]),
        Task(RICH, [PYTHON, "-c", "import typer, rich.console, rich.table"]),
        Task(TORCH, [PYTHON, "-c", load, str(files["small"])]),
        Task(f"{TORCH}, many", [PYTHON, "-c", load, str(files["many"])]),
    ]
    for name, path in files.items():
        command = [*COMMAND, str(path)]
        tasks.append(Task(f"{name}, --json", [*command, "--json"]))
        quoted = " ".join(f"'{part}'" for part in command)
        tasks.append(Task(f"{name}, terminal", [*ON_TERMINAL, quoted, "/dev/null"]))
    return tasks


def rows(costs: dict[str, Cost]) -> list[list[str]]:
    """One row a command: CPU, wall, memory, and CPU as a ratio to the floors."""
    made = []
    for name, cost in costs.items():
        floor = costs[RICH if name.endswith("terminal") else TYPER]
        slow = costs[f"{TORCH}, many" if name.startswith("many") else TORCH]
        made.append(
            [
                name,
                f"{cost.cpu * 1000:.0f} ms",
                f"{cost.wall * 1000:.0f} ms",
                f"{cost.peak_nbytes / 2**20:.0f} MiB",
                f"{cost.cpu / floor.cpu:.2f}x",
                f"{slow.cpu / cost.cpu:.1f}x",
            ]
        )
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_torch_files(arguments.make)
        return
    compile_package()
    with tempfile.TemporaryDirectory() as scratch:
        files = make_files(arguments.folder or Path(scratch))
        costs = run_interleaved(make_tasks(files), arguments.rounds)
    print(f"Python {sys.version.split()[0]}, medians of {arguments.rounds} turns\n")
    header = ["command", "CPU", "wall", "peak RSS", "CPU / floor", "torch.load's CPU / its CPU"]
    print(table(header, rows(costs)))


if __name__ == "__main__":
    main()
