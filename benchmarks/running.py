"""Running the races: files are made for a cell, every contender takes its turn, the files go."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import JOBS, PYTHON, Contender, Job
from benchmarks.files import parameter_count
from benchmarks.measure import Cost, RunFailed, environment, last_line, package_root, run
from benchmarks.peers import Peer
from benchmarks.results import Cell, Race, Row

EVERYWHERE = (
    "inspect-pt",
    "inspect-safetensors",
    "convert-to-safetensors",
    "convert-to-pt",
    "diff-equal",
    "diff-changed",
)
SPARE_NBYTES = 1 << 30  # what a race may write besides: an output and a margin come on top of the files


@dataclass(frozen=True)
class Grid:
    """Sizes and numbers of tensors, ascending; which job runs where."""

    sizes: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def middle(self) -> Cell:
        """The cell in the middle: where jobs run that need not run everywhere."""
        return Cell(self.sizes[len(self.sizes) // 2], self.counts[len(self.counts) // 2])

    @property
    def headline(self) -> Cell:
        """The largest size in the middle number of tensors: where most peers take part."""
        return Cell(self.sizes[-1], self.middle.tensors)

    def cells(self) -> Iterator[Cell]:
        """Every cell, small ones first."""
        for nbytes in self.sizes:
            for tensors in self.counts:
                yield Cell(nbytes, tensors)

    def jobs(self, cell: Cell) -> list[str]:
        """The jobs of a cell."""
        jobs = [*EVERYWHERE]
        if cell.nbytes == self.sizes[0] or cell.tensors == self.middle.tensors:
            jobs.append("verify")
        if cell == self.middle:
            jobs += ["convert-more", "digest", "diff-more"]
        elif cell == Cell(self.sizes[0], self.counts[-1]):
            jobs.append("diff-more")
        return jobs

    def has_peers(self, job: str, cell: Cell) -> bool:
        """Whether other tools take part: they take long, so not everywhere."""
        if job.startswith("diff"):  # the slowest of all: one takes 40 s of processor time for a GiB
            return cell == self.middle
        return cell == self.headline or (job.startswith("inspect") and cell.nbytes == self.sizes[0])

    def build(self, cell: Cell, only: Sequence[str], peers: Iterable[Peer], root: Path | None) -> list[Job]:
        """The jobs of ``cell`` whose key starts with one of ``only``, with the peers that take part."""
        built = []
        for key in self.jobs(cell):
            if only and not key.startswith(tuple(only)):
                continue
            job = JOBS[key](cell)
            if root is not None and self.has_peers(key, cell):
                job.contenders.extend(found for peer in peers if (found := peer.contender(key, root)))
            built.append(job)
        return built


def run_cell(cell: Cell, jobs: list[Job], rounds: int, parent: Path | None, timeout: float) -> Iterator[Race]:
    """Make the files of ``cell``, run its races one after the other, remove the files."""
    with tempfile.TemporaryDirectory(prefix="ckpttool-bench-", dir=parent) as name:
        folder = Path(name)
        trouble = make_files(folder, cell, jobs)
        for job in jobs:
            race = start_race(job, cell)
            if trouble:
                for row in race.rows:
                    row.error = trouble
            else:
                run_race(race, job, folder, rounds, timeout)
            yield race


def files_of(jobs: Iterable[Job]) -> list[str]:
    """What has to be made for ``jobs``."""
    return sorted(
        {
            name
            for job in jobs
            for names in (job.files, *(contender.files for contender in job.contenders))
            for name in names
        }
    )


def make_files(folder: Path, cell: Cell, jobs: list[Job]) -> str:
    """Make all files of a cell in a process of its own; return what went wrong, or nothing."""
    names = files_of(jobs)
    need = cell.nbytes * (len(names) + 1) + SPARE_NBYTES
    if (free := shutil.disk_usage(folder).free) < need:
        return f"needs {need / 2**30:.1f} GiB of disk, {free / 2**30:.1f} are free"
    command = [PYTHON, "-m", "benchmarks.files", str(folder), str(cell.nbytes), str(cell.tensors), *names]
    made = subprocess.run(
        command, cwd=package_root(), env=environment(), capture_output=True, text=True, check=False
    )
    os.sync()
    return f"its files could not be made: {last_line(made.stderr)}" if made.returncode else ""


def start_race(job: Job, cell: Cell) -> Race:
    """A race without results."""
    rows = [Row(contender.name, contender.role) for contender in job.contenders]
    return Race(job.key, job.title, rows[0].name, cell, rows, job.budgets)


def run_race(race: Race, job: Job, folder: Path, rounds: int, timeout: float) -> None:
    """One turn for each that is not counted and in which answers are checked, then ``rounds`` that count.

    The order within a round changes: what ran before decides which memory the kernel has at hand.
    """
    pairs = list(zip(race.rows, job.contenders, strict=True))
    for row, contender in pairs:
        output = folder / "stdout" if contender.right else None
        with _failing(row), _outputs(folder, contender):
            _take_turn(contender, folder, timeout, output)
            row.wrong = judge_answer(contender, folder, race.cell, output)
    order = random.Random(0)
    for _ in range(rounds):
        for row, contender in order.sample(pairs, len(pairs)):
            if not row.error:
                with _failing(row), _outputs(folder, contender):
                    row.runs.append(_take_turn(contender, folder, timeout))


def _take_turn(contender: Contender, folder: Path, timeout: float, output: Path | None = None) -> Cost:
    return run(
        contender.command,
        folder,
        statuses=contender.statuses,
        terminal=contender.terminal,
        foreign=contender.role == "peer",
        output=output,
        timeout=timeout,
    )


@contextlib.contextmanager
def _failing(row: Row) -> Iterator[None]:
    """A command that fails fails alone."""
    try:
        yield
    except (RunFailed, OSError) as error:
        row.error = str(error)


@contextlib.contextmanager
def _outputs(folder: Path, contender: Contender) -> Iterator[None]:
    """Leave no output, and nothing for the disk to write while others run."""
    try:
        if contender.writes:
            os.sync()
        yield
    finally:
        for name in contender.writes:
            (folder / name).unlink(missing_ok=True)


def judge_answer(contender: Contender, folder: Path, cell: Cell, output: Path | None) -> str:
    """What is wrong with what ``contender`` printed into ``output`` or wrote, or nothing."""
    if contender.holds:
        command = [PYTHON, "-m", "benchmarks.check_tensors", contender.holds, contender.writes[0]]
        checked = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        if checked.returncode:
            return f"its output cannot be read: {last_line(checked.stderr)}"
        return checked.stdout.strip()
    if output is None:
        return ""
    parameters = parameter_count(cell.nbytes, cell.tensors)
    pattern = re.compile(contender.right.replace("{parameters}", rf"\b({parameters:,}|{parameters})\b"))
    with output.open(errors="replace") as lines:  # never all of them: our memory is the least peak of a child
        return "" if any(map(pattern.search, lines)) else contender.fault
