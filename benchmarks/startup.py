"""What starting costs: the imports of each way to start, summed by package, beside what none can do without.

    python -m benchmarks.startup [--rounds N] [--docs DIR]

CPU is the median of runs as they are. Times of single imports are the least under ``-X importtime``, which
goes by the clock: what else runs on the machine only adds. With --docs the tables go into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders import CKPTTOOL, PT, PYTHON, A
from benchmarks.measure import compile_package, environment, package_root, run
from benchmarks.report import PAGE, replace_between
from benchmarks.tables import markdown_table, ratio_text

ROUNDS = 9
LISTED_MODULES = 12
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)$")
PACKAGES = ("ckpttool", "typer", "rich")
OTHERS = "the rest"  # the standard library; a few tenths of a millisecond are hooks of the environment


class Start(NamedTuple):
    """One way to start Python; ``floor`` names the one that it cannot be cheaper than."""

    name: str
    arguments: tuple[str, ...]
    floor: str
    terminal: bool = False


TYPER, RICH = "import typer", "import typer, rich"
STARTS = (
    Start(TYPER, ("-c", "import typer"), TYPER),
    Start(RICH, ("-c", "import typer, rich.console, rich.table"), RICH),
    Start("--help", (*CKPTTOOL[1:], "--help"), TYPER),
    Start("inspect --help", (*CKPTTOOL[1:], "inspect", "--help"), TYPER),
    Start("inspect .safetensors, piped", (*CKPTTOOL[1:], "inspect", A), TYPER),
    Start("inspect .pt, piped", (*CKPTTOOL[1:], "inspect", PT), TYPER),
    Start("inspect .pt, terminal", (*CKPTTOOL[1:], "inspect", PT), RICH, terminal=True),
)

Imports = dict[str, float]
"""Seconds that the execution of each module took, without what it imports."""


def parse_importtime(text: str) -> Imports:
    """The modules that ``-X importtime`` lists."""
    found: Imports = {}
    for line in text.splitlines():
        if match := LINE.match(line):
            found[match[2]] = found.get(match[2], 0.0) + int(match[1]) / 1e6
    return found


def package_of(module: str) -> str:
    """The package to count ``module`` under: one of `PACKAGES`, or the rest."""
    package = module.partition(".")[0]
    return package if package in PACKAGES else OTHERS


def by_package(imports: Imports) -> dict[str, float]:
    """Seconds of each package."""
    sums: dict[str, float] = defaultdict(float)
    for module, seconds in imports.items():
        sums[package_of(module)] += seconds
    return dict(sums)


class Found(NamedTuple):
    """Of one way to start: CPU seconds, and the least that each module's import took."""

    cpu: float
    imports: Imports


def measure(folder: Path, rounds: int) -> dict[str, Found]:
    """Start each way in turn, ``rounds`` times."""
    cpu: dict[str, list[float]] = {start.name: [] for start in STARTS}
    imports: dict[str, list[Imports]] = {start.name: [] for start in STARTS}
    errors = folder / "importtime"
    for turn in range(rounds + 1):
        for start in STARTS:
            cost = run((PYTHON, *start.arguments), folder, terminal=start.terminal)
            timed = (PYTHON, "-X", "importtime", *start.arguments)
            run(timed, folder, terminal=start.terminal, errors=errors)
            if turn:  # the first one warms the page cache
                cpu[start.name].append(cost.cpu)
                imports[start.name].append(parse_importtime(errors.read_text("utf-8")))
    return {name: Found(statistics.median(cpu[name]), _least(imports[name])) for name in cpu}


def _least(runs: list[Imports]) -> Imports:
    return {module: min(run[module] for run in runs if module in run) for module in runs[0]}


def cost_table(found: dict[str, Found]) -> str:
    """One row for each way to start: CPU, the ratio to its floor, and its imports by package."""
    rows = []
    for start in STARTS:
        cpu, imports = found[start.name]
        sums = by_package(imports)
        times = [f"{sums[package] * 1000:.1f}" if package in sums else "" for package in (*PACKAGES, OTHERS)]
        ratio = (
            "" if start.name == start.floor else f"{ratio_text(cpu / found[start.floor].cpu)} × {start.floor}"
        )
        rows.append([start.name, f"{cpu * 1000:.0f}", ratio, str(len(imports)), *times])
    return markdown_table(["ms", "CPU", "", "modules", *PACKAGES, OTHERS], rows)


def module_table(found: dict[str, Found]) -> str:
    """The dearest modules that a floor does not import, for each way to start that needs them."""
    starts = [start for start in STARTS if start.name != start.floor]
    rows: dict[str, list[str]] = {}
    extra = {
        start.name: {
            module: seconds
            for module, seconds in found[start.name].imports.items()
            if module not in found[start.floor].imports
        }
        for start in starts
    }
    dearest: dict[str, float] = defaultdict(float)
    for imports in extra.values():
        for module, seconds in imports.items():
            dearest[module] = max(dearest[module], seconds)
    for module in sorted(dearest, key=lambda module: -dearest[module])[:LISTED_MODULES]:
        rows[f"`{module}`"] = [
            f"{extra[start.name][module] * 1000:.1f}" if module in extra[start.name] else ""
            for start in starts
        ]
    total = [f"{sum(extra[start.name].values()) * 1000:.1f}" for start in starts]
    header = ["ms above the floor", *(start.name for start in starts)]
    return markdown_table(
        header, [*([name, *cells] for name, cells in rows.items()), ["all of them", *total]]
    )


def main(argv: list[str] | None = None) -> int:
    """Measure, then print or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args(argv)
    compile_package()
    with tempfile.TemporaryDirectory(prefix="ckpttool-bench-") as name:
        make = [PYTHON, "-m", "benchmarks.files", name, "100000", "20", PT, A]
        subprocess.run(make, cwd=package_root(), env=environment(), check=True)
        found = measure(Path(name), options.rounds)
    text = f"{cost_table(found)}\n\n{module_table(found)}"
    if options.docs is None:
        print(text)
    else:
        page = options.docs / PAGE
        page.write_text(
            replace_between(page.read_text("utf-8"), "startup", "benchmarks.startup", text), "utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
