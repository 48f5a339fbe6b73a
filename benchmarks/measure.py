"""Running commands and taking their cost: CPU seconds, wall seconds and peak memory of a child."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    """Of one run: user + system CPU seconds, wall seconds, peak resident set in bytes."""

    cpu: float
    wall: float
    peak_nbytes: int


class Task(NamedTuple):
    """A command with a name for the table. It must exit with one of ``statuses``."""

    name: str
    command: Sequence[str]
    statuses: tuple[int, ...] = (0,)


def compile_package() -> None:
    """Write the package's bytecode, as pip does when it installs: no run may pay for compiling source."""
    import compileall
    from importlib.util import find_spec

    spec = find_spec("ckpttool")
    assert spec is not None and spec.submodule_search_locations
    if not all(compileall.compile_dir(folder, quiet=1) for folder in spec.submodule_search_locations):
        sys.exit("the package does not compile")


def run_once(task: Task) -> Cost:
    """Run a command with its output thrown away."""
    started = time.perf_counter()
    child = subprocess.Popen(task.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in task.statuses:
        sys.exit(
            f"{' '.join(task.command)} exits {child.returncode}: {errors.decode(errors='replace')[-800:]}"
        )
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)


def run_interleaved(tasks: Sequence[Task], rounds: int) -> dict[str, Cost]:
    """Medians over ``rounds``; the tasks take turns, so that a busy minute hits them all alike."""
    costs: dict[str, list[Cost]] = {task.name: [] for task in tasks}
    for task in tasks:
        run_once(task)  # warms the page cache
    for _ in range(rounds):
        for task in tasks:
            costs[task.name].append(run_once(task))
    return {name: Cost(*map(statistics.median, zip(*runs, strict=True))) for name, runs in costs.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    head = "| " + " | ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)) + " |"
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([head, rule, *lines])
