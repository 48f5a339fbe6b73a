"""The budgets of copying and of many tensors, each with its measure and a verdict, by the least of many runs.

    python -m benchmarks.budgets [--rounds N] [--only copy|cast|many|one] [--dir DIR] [--gib 2]

``python -m benchmarks`` takes the median of a few pairs, and tells what a user meets. A budget is about what
the code costs, which other processes and the kernel's memory only add to: here the least of many runs in
random order is judged, and all of them are printed, sorted, as a kernel that is slow in one run of three
shows only there.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders import (
    MANY,
    OUT_PT,
    OUT_SAFETENSORS,
    PT,
    RICH,
    TYPER,
    A,
    Contender,
    copies,
    copy_budgets,
    ours,
    python,
)
from benchmarks.files import MAKERS
from benchmarks.machine import describe_machine
from benchmarks.measure import Cost, compile_package, environment, package_root, run
from benchmarks.results import Budget, Cell
from benchmarks.tables import budget_text, cell_text, nbytes_text

ROUNDS = 9
MIB = 1 << 20
# What `import typer` takes where the budgets in seconds were set: they are held as multiples of it.
TYPER_SECONDS = 0.045


class Group(NamedTuple):
    """Contenders that run in turn in one folder, and what is asked of them."""

    key: str
    cell: Cell
    files: tuple[str, ...]
    contenders: list[Contender]
    budgets: list[Budget]


def least(costs: Sequence[Cost], metric: str) -> float:
    """The least of all runs; of memory the most."""
    values = [float(getattr(cost, metric)) for cost in costs]
    return max(values) if metric == "peak" else min(values)


def allowed(budget: Budget, costs: dict[str, list[Cost]]) -> float:
    """Seconds or bytes, by the least that the other took."""
    unit = least(costs[budget.against], budget.metric) if budget.against else 1
    return budget.at_most * unit + budget.plus


def conversions(cell: Cell) -> Group:
    """Both ways, with and without the check."""
    contenders, budgets = copies(A), []
    for source, target, short in ((PT, OUT_SAFETENSORS, "to safetensors"), (A, OUT_PT, "to .pt")):
        for options, how in ((("--no-check",), "--no-check"), ((), "checked")):
            name = f"convert {short}, {how}"
            command = ("convert", source, target, "--quiet", *options)
            contenders.append(ours(name, *command, writes=(target,)))
            budgets += [*copy_budgets(name, check=not options), Budget(name, "peak", "", 64 * MIB)]
    return Group("copy", cell, (PT, A), contenders, budgets)


def casts(cell: Cell) -> Group:
    """Beside the plain conversion of the same file."""
    plain, cast = "convert, checked", "convert --dtype bf16, checked"
    command = ("convert", PT, OUT_SAFETENSORS, "--quiet")
    contenders = [
        ours(plain, *command, writes=(OUT_SAFETENSORS,)),
        ours(cast, *command, "--dtype", "bf16", writes=(OUT_SAFETENSORS,)),
    ]
    budgets = [Budget(cast, metric, plain, 2.0) for metric in ("cpu", "wall")]
    return Group("cast", cell, (PT,), contenders, budgets)


def many_tensors(cell: Cell) -> Group:
    """What each name costs."""
    contenders, budgets = [python(TYPER, "import typer")], []
    for path, seconds in ((PT, 0.40), (A, 0.25)):
        name = f"inspect {path} --json"
        contenders.append(ours(name, "inspect", path, "--json"))
        budgets.append(Budget(name, "cpu", TYPER, seconds / TYPER_SECONDS))
    for source, target in ((PT, OUT_SAFETENSORS), (A, OUT_PT)):
        name = f"convert {source}"
        contenders.append(ours(name, "convert", source, target, "--quiet", writes=(target,)))
        budgets.append(Budget(name, "cpu", TYPER, 1.2 / TYPER_SECONDS))
        budgets.append(Budget(name, "peak", "", 64 * MIB))
    return Group("many", cell, (PT, A), contenders, budgets)


def one_path(cell: Cell) -> Group:
    """The least that an inspect costs, in every output, beside the imports that it needs."""
    contenders = [python(TYPER, "import typer"), python(RICH, "import typer, rich.console, rich.table")]
    budgets = []
    for path in (PT, A):
        for how, options, floor in (
            ("piped", (), TYPER),
            ("--json", ("--json",), TYPER),
            ("drawn", (), RICH),
        ):
            name = f"inspect {path}, {how}"
            contenders.append(ours(name, "inspect", path, *options, terminal=how == "drawn"))
            budgets.append(Budget(name, "cpu", floor, 1.5))
    return Group("one", cell, (PT, A), contenders, budgets)


def groups(gib: float) -> list[Group]:
    """All of them, in the order in which they run."""
    nbytes = int(gib * (1 << 30))
    return [
        one_path(Cell(MIB, 20)),
        many_tensors(Cell(64 * MIB, MANY)),
        conversions(Cell(nbytes, 100)),
        conversions(Cell(nbytes, 1_000)),
        casts(Cell(nbytes, 1_000)),
    ]


def measure(group: Group, folder: Path, rounds: int) -> dict[str, list[Cost]]:
    """Every contender once that does not count, then ``rounds`` times, in random order."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in group.contenders}
    for turn in range(rounds + 1):
        for contender in random.sample(group.contenders, len(group.contenders)):
            os.sync()  # nothing is left to write for those who run next
            cost = run(contender.command, folder, terminal=contender.terminal)
            for name in contender.writes:
                (folder / name).unlink(missing_ok=True)
            if turn:
                costs[contender.name].append(cost)
    return costs


def report(group: Group, costs: dict[str, list[Cost]]) -> tuple[str, int]:
    """A line for each budget, then all runs of each contender; and how many budgets were missed."""
    lines, missed = [f"{group.key} · {cell_text(group.cell)}", ""], 0
    for budget in group.budgets:
        found, most = least(costs[budget.contender], budget.metric), allowed(budget, costs)
        shown = nbytes_text if budget.metric == "peak" else "{:.3f} s".format
        verdict = "met" if found <= most else f"missed by {found / most - 1:.0%}"
        missed += found > most
        asked = f"{budget.contender}: {budget_text(budget)}"
        lines.append(f"  {verdict:<14} {asked:<76} {shown(found)} of {shown(most)}")
    lines.append("")
    for contender in group.contenders:
        runs = costs[contender.name]
        for metric in ("cpu", "wall"):
            times = " ".join(f"{time:.3f}" for time in sorted(getattr(cost, metric) for cost in runs))
            lines.append(f"  {contender.name:<34} {metric:<4} {times}")
    return "\n".join(lines), missed


def main(argv: list[str] | None = None) -> int:
    """Make the files of each group, measure, print; 1 if a budget was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m benchmarks.budgets",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", action="append", choices=("copy", "cast", "many", "one"))
    parser.add_argument("--dir", type=Path, help="where files are made: 7 GB of room (default: $TMPDIR)")
    parser.add_argument("--gib", type=float, default=2, help="size of what is copied (default 2)")
    options = parser.parse_args(argv)
    compile_package()
    print(", ".join(f"{name} {value}" for name, value in describe_machine(options.dir).items()))
    missed = 0
    for group in groups(options.gib):
        if options.only and group.key not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="ckpttool-budgets-", dir=options.dir) as name:
            size, tensors = group.cell.nbytes, group.cell.tensors
            names = sorted(group.files, key=list(MAKERS).index)
            make = [sys.executable, "-m", "benchmarks.files", name, str(size), str(tensors), *names]
            subprocess.run(make, cwd=package_root(), env=environment(), check=True)
            text, more = report(group, measure(group, Path(name), options.rounds))
        missed += more
        print(f"\n{text}", flush=True)
    print(f"\n{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
