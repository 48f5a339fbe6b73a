"""Scanners of pickles and ckpttool on the hostile corpus: what each catches, misses, or breaks on.

    python -m benchmarks.scanners [--environment TOOL=PYTHON …] [--tool TOOL …] [--only TEXT] [--details FILE]

Builds every case of tests/hostile and the files of tests/formats/test_strange_but_legal.py, and
runs picklescan, fickling, modelscan and ``ckpttool inspect`` on each: in environments of their own (made here
unless one is named), without network, with limits of time and memory, and with a canary that tells if
anything in a file was executed. Prints the tables of docs/security.md; ``--details`` writes each outcome as
JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.tables import markdown_table
from compatibility.environments import ROOT, environment
from tests.hostile import cases

# Run as text: as a script it would put this folder, with its inspect.py, before the standard library.
CHILD = Path(__file__).with_name("scan_child.py").read_text("utf-8")
# fickling 0.1.12 imports typing_extensions below Python 3.12 and does not ask for it.
SCANNERS = {
    "picklescan": ("picklescan==1.0.5",),
    "fickling": ("fickling==0.1.12", "typing_extensions==4.16.0"),
    "modelscan": ("modelscan==0.8.8",),
}
TOOLS = (*SCANNERS, "ckpttool")
SECONDS = 10  # of processor time for a file; six times as much on the wall
MEMORY = 4 << 30  # address space
MUCH_MEMORY = 1 << 30  # resident: more is called a bomb that went off
CANARY = "hostile-canary"  # what the payloads of tests/hostile write into the current folder
# What no output may hold. Colours of a tool's own are taken out first.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RAW = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)

RUNS_CODE = ("calls, by every opcode", "calls of known gadgets", "calls in other places and containers")
RUNS_NOTHING = "odd names that run nothing by themselves"
LEGAL = "strange but legal"
# The extension registry is empty unless a program fills it, torch only looks a layout up, a code object is
# not called, and this persistent id is a text. Silence on these is no miss.
HARMLESS = {
    "gadget: EXT1",
    "gadget: EXT2",
    "gadget: EXT4",
    "gadget: a layout",
    "gadget: __reduce__ to a lambda's code",
    "PERSID in a zip",
}
FAMILIES = {
    "cases_containers": "zips, pickles and headers that lie or end early",
    "cases_tensors": "tensors that lie about their storage",
    "cases_paths": "special files, folders, indexes",
    "cases_text": "text that moves the cursor",
    "cases_bombs": "bombs of time and memory",
    "cases_found": "found by fuzzing",
}


class Outcome(NamedTuple):
    """What one tool made of one file."""

    case: str
    family: str
    tool: str
    verdict: str  # alarm, named, refused, passed; hang, memory, crash
    executed: bool
    raw: bool  # control characters on its output
    left: tuple[str, ...]  # files that it wrote into the current folder
    seconds: float
    peak_nbytes: int
    output: str


# -- the corpus -----------------------------------------------------------------------------------


def family_of(module: str, name: str) -> str:
    """The row of the table that a case belongs to."""
    if module != "cases_code":
        return FAMILIES.get(module, module)
    if name in HARMLESS:
        return RUNS_NOTHING
    kind = name.partition(":")[0]
    return RUNS_CODE[{"zip": 0, "gadget": 1}.get(kind, 2)]


def iter_corpus() -> Iterator[tuple[str, str, Callable[[Path], str]]]:
    """(family, name, what builds it in an empty folder)."""
    for module in sorted(name for name in vars(cases) if name.startswith("cases_")):
        for case in getattr(cases, module).CASES:
            yield family_of(module, case.name), case.name, case.build
    import warnings

    from tests.formats import test_strange_but_legal as legal

    warnings.simplefilter("ignore")  # torch's, about layouts that are in beta

    def writer(make: Callable[[], bytes]) -> Callable[[Path], str]:
        def build(folder: Path) -> str:
            path = folder / "legal.pt"
            path.write_bytes(make())
            return str(path)

        return build

    for name, make in legal.CONTAINERS.items():
        yield LEGAL, f"legal container: {name}", writer(make)
    for name, value in legal.STRUCTURES.items():
        yield LEGAL, f"legal structure: {name}", writer(lambda value=value: legal.saved(value))
    for name, (tensor, _, _) in legal.composites().items():
        yield LEGAL, f"legal tensor: {name}", writer(lambda tensor=tensor: legal.saved({"w": tensor}))


def build_corpus(folder: Path, only: str) -> list[dict[str, str]]:
    """Write every case into a folder of its own."""
    jobs = []
    for number, (family, name, build) in enumerate(iter_corpus()):
        if only in f"{family}: {name}":
            home = folder / str(number)
            home.mkdir(parents=True)
            jobs.append({"family": family, "name": name, "path": build(home)})
    return jobs


# -- running --------------------------------------------------------------------------------------


def network_can_be_cut() -> list[str] | None:
    """A command that runs another one without network, or None; tried, so that a silent failure is none."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    except OSError:
        return None
    return None if tried.returncode else command


def without_network() -> list[str]:
    """As ``network_can_be_cut``.

    Raises:
        SystemExit: it cannot.
    """
    command = network_can_be_cut()
    if command is None:
        sys.exit("unshare cannot cut the network here: run this where it can")
    return command


def run_tool(tool: str, python: str, jobs: Sequence[dict[str, str]], folder: Path) -> list[Outcome]:
    """Every case through one tool, each in a fresh folder."""
    canary = folder / "canary"
    canary.mkdir()
    code = f"open({CANARY!r}, 'w').close()\nclass Bomb: pass\n"
    (canary / "canary_module.py").write_text(code)
    asked = []
    for number, job in enumerate(jobs):
        home = folder / str(number)
        home.mkdir()
        asked.append({"name": job["name"], "path": job["path"], "home": str(home)})
    paths = [str(canary), *([str(ROOT)] if tool == "ckpttool" else [])]
    child = subprocess.run(
        [*without_network(), python, "-c", CHILD, tool, str(SECONDS), str(MEMORY)],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    answers = [json.loads(line) for line in child.stdout.splitlines()]
    assert [answer["name"] for answer in answers] == [job["name"] for job in jobs]
    return [
        Outcome(
            job["name"],
            job["family"],
            tool,
            judge(tool, answer),
            CANARY in answer["created"],
            RAW.search(COLOURS.sub("", answer["output"])) is not None,
            tuple(answer["created"]),
            answer["seconds"],
            answer["peak_nbytes"],
            answer["output"][-2000:],
        )
        for job, answer in zip(jobs, answers, strict=True)
    ]


def judge(tool: str, answer: dict[str, object]) -> str:
    """One word for what a tool did; see docs/security.md for what each word means of each tool."""
    status, output = answer["status"], str(answer["output"])
    if answer["late"]:
        return "hang"
    if "MemoryError" in output or int(str(answer["peak_nbytes"])) > MUCH_MEMORY:
        return "memory"
    if status == 99 or (isinstance(status, int) and status < 0) or "Traceback (most recent" in output:
        return "crash"
    return VERDICTS[tool](int(str(status)), output)


def _picklescan(status: int, output: str) -> str:
    """Exit 1: dangerous; 2: an error, though it may have found something before."""
    if status == 1 or "FOUND" in output:
        return "alarm"
    if status:
        return "refused"
    named = re.search(r"Suspicious globals: [1-9]|^(WARNING|ERROR)", output, re.MULTILINE)
    return "named" if named else "passed"


def _modelscan(status: int, output: str) -> str:
    """Exit 1: issues; 2: an error; 3: nothing that it could scan; 4: it does not know what to do."""
    if status == 1:
        return "alarm"
    if status:
        return "refused"
    return "named" if "--- Errors ---" in output else "passed"


def _fickling(status: int, output: str) -> str:
    """``scan_child.fickling``: 1 alarm, 2 refused."""
    return {0: "passed", 1: "alarm"}.get(status, "refused")


def _ckpttool(status: int, output: str) -> str:
    """Exit 1: any finding. It is an alarm if it is about what loading would import; others are named."""
    about_code = re.search(r"^dangerous\t|^unknown\t|weights_only=True: no", output, re.MULTILINE)
    return {0: "passed", 1: "alarm" if about_code else "named"}.get(status, "refused")


VERDICTS = {
    "picklescan": _picklescan,
    "modelscan": _modelscan,
    "fickling": _fickling,
    "ckpttool": _ckpttool,
    "unpickle": lambda status, output: "passed",
}


def prove_canary(folder: Path) -> None:
    """Unpickle one payload for real.

    Raises:
        SystemExit: the canary was silent, so nothing here would notice an execution.
    """
    jobs = [job for job in build_corpus(folder / "proof", "bare call alone") if job["family"] in RUNS_CODE]
    (folder / "proof-runs").mkdir()
    outcomes = run_tool("unpickle", sys.executable, jobs, folder / "proof-runs")
    if not jobs or not all(outcome.executed for outcome in outcomes):
        sys.exit("the canary does not sing: nothing here would tell if a scanner ran a payload")


# -- tables ---------------------------------------------------------------------------------------


def cell(outcomes: Sequence[Outcome], order: Sequence[str]) -> str:
    """``41 alarm, 2 passed`` in the order that is given."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return ", ".join(f"{counts[word]} {word}" for word in order if counts[word]) or "-"


def print_tables(outcomes: Sequence[Outcome]) -> None:
    """What runs code; what abuses its reader; what is legal."""
    order = ("alarm", "named", "refused", "passed", "hang", "memory", "crash")
    families = list(dict.fromkeys(outcome.family for outcome in outcomes))
    rows = []
    for family in [*RUNS_CODE, *(name for name in families if name not in RUNS_CODE)]:
        of_family = [outcome for outcome in outcomes if outcome.family == family]
        if of_family:
            size = len({outcome.case for outcome in of_family})
            cells = [cell([o for o in of_family if o.tool == tool], order) for tool in TOOLS]
            rows.append([family, str(size), *cells])
    print(markdown_table(["family", "files", *TOOLS], rows), "\n")
    rows = []
    for tool in TOOLS:
        mine = [outcome for outcome in outcomes if outcome.tool == tool]
        rows.append(
            [
                tool,
                str(sum(o.executed for o in mine)),
                str(sum(o.raw for o in mine)),
                str(sum(bool(o.left) for o in mine)),
                f"{max((o.seconds for o in mine), default=0):.1f} s",
                f"{max((o.peak_nbytes for o in mine), default=0) >> 20} MiB",
            ]
        )
    head = ["tool", "executed", "raw control characters", "left files behind", "slowest", "largest"]
    print(markdown_table(head, rows), "\n")
    for tool in TOOLS:
        missed = [
            o.case
            for o in outcomes
            if o.tool == tool and o.family in RUNS_CODE and o.verdict not in ("alarm", "refused")
        ]
        print(f"{tool}: {len(missed)} files that run code are neither an alarm nor refused: {missed}\n")


def main() -> int:
    """Build, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", action="append", default=[], metavar="TOOL=PYTHON")
    parser.add_argument("--tool", action="append", choices=TOOLS, help="only these; all by default")
    parser.add_argument("--only", default="", help="a part of 'family: case'")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--details", type=Path)
    options = parser.parse_args()
    pythons = dict(text.split("=", 1) for text in options.environment)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        prove_canary(folder)
        jobs = build_corpus(folder / "corpus", options.only)
        print(f"{len(jobs)} files\n", flush=True)
        for tool in options.tool or TOOLS:
            (folder / tool).mkdir()
            with contextlib.ExitStack() as stack:
                python = sys.executable if tool == "ckpttool" else pythons.get(tool)
                if python is None:
                    python = stack.enter_context(environment(folder, sys.executable, SCANNERS[tool]))
                outcomes += run_tool(tool, python, jobs, folder / tool)
            print(f"{tool} is done", file=sys.stderr, flush=True)
    print_tables(outcomes)
    if options.details:
        options.details.write_text(json.dumps([outcome._asdict() for outcome in outcomes], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
