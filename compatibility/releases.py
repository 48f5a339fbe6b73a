"""``python -m compatibility.releases``: old torch releases, one fresh environment after the other.

    python -m compatibility.releases [1.4.0 …] [--python EXECUTABLE …] [--folder DIR]

Each release writes files (``in_torch.py write``), which must read as it says; ``convert`` makes a ``.pt``
and a safetensors file of each, and of the files of the torch that runs this, which must load there with the
same bytes. Prints Markdown for docs/compatibility.md with every failure by name, and exits 1 if there is one
that the age of the release does not explain. Downloads near 800 MB for a release up to 1.12, and 2.5 GB with
CUDA's libraries for a later one; an environment takes 2 to 6 GB of disk and is deleted after use.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tables import markdown_table
from ckpttool.cli import main as ckpttool
from compatibility.compare import Fact, file_differences, loaded_differences
from compatibility.environments import environment, find_interpreters

SCRIPT = str(Path(__file__).with_name("in_torch.py"))


class Release(NamedTuple):
    """A release of torch, the Python it ran on then, and what must be installed with it.

    Up to 1.12 the wheels carry all they need; later ones name CUDA's libraries, which pip adds.
    """

    torch: str
    python: str
    others: tuple[str, ...]


# The newest releases of numpy and safetensors for that Python and that torch.
RELEASES = (
    Release("1.4.0", "3.8", ("numpy==1.23.5", "safetensors==0.5.3")),
    Release("1.6.0", "3.8", ("numpy==1.23.5", "safetensors==0.5.3")),
    Release("1.12.1", "3.8", ("numpy==1.23.5", "safetensors==0.5.3")),
    Release("2.0.1", "3.10", ("numpy==1.26.4", "safetensors==0.8.0")),
    Release("2.5.1", "3.12", ("numpy==2.2.6", "safetensors==0.8.0")),
)

FIRST_ZIP = (1, 6)  # the first release that reads the zip of today
FIRST_SAFETENSORS = (1, 10)  # the first with torch.frombuffer, which safetensors calls
NEWER_THAN_SAFETENSORS = {
    "0.5.3": ("dtype_complex64", "conj_and_neg")
}  # dtypes of a header that it does not know
# They rebuild CSR tensors by a function of their own; what is written here is the form of 1.13 on.
CSR_OF_ITS_OWN = ((1, 9), (1, 10), (1, 11), (1, 12))


class Outcome(NamedTuple):
    """What became of one file on one way. ``words`` say what is wrong, or why there is nothing to judge."""

    way: str
    file: str
    status: str  # right, wrong, or not possible
    words: str = ""


READ = "its files read right"
OWN_PT = "its files by `convert` to .pt, loaded there"
OWN_SAFETENSORS = "its files by `convert` to safetensors, loaded there"
TODAY_PT = "today's files by `convert` to .pt, loaded there"
TODAY_SAFETENSORS = "today's files by `convert` to safetensors, loaded there"
WAYS = (READ, OWN_PT, OWN_SAFETENSORS, TODAY_PT, TODAY_SAFETENSORS)


def run_in(python: str, what: str, folder: Path) -> dict[str, Any]:
    """The facts that ``in_torch.py`` writes in an environment."""
    subprocess.run([python, SCRIPT, what, str(folder)], check=True)
    facts: dict[str, Any] = json.loads((folder / f"{what}.json").read_text("utf-8"))
    return facts


def convert(source: Path, destination: Path) -> dict[str, Any] | str:
    """Convert's own report, or why it refuses."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = ckpttool(["convert", str(source), str(destination), "--json"])
    if status:
        return err.getvalue().splitlines()[0].replace(f"{source}: ", "")
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def wanted_facts(facts: Sequence[Fact], report: Fact) -> dict[object, Fact]:
    """Facts of what ``convert`` says that it wrote, by the path that it has in the new file."""
    root, aliases = report["root"] or [], report["aliases"]
    dropped = [[*item["root"], item["name"]] for item in report["dropped"]]
    wanted: dict[object, Fact] = {}
    for fact in facts:
        path = fact["path"][len(root) :]
        if fact["path"] in dropped or fact["path"][: len(root)] != root:
            continue
        told = dict(fact)
        if report["format"] == "safetensors":
            told.pop(
                "tied_to", None
            )  # one name of each tie is a tensor there, the others stand in the header
            if path[0] in aliases:
                continue
        elif "tied_to" in told:
            told["tied_to"] = told["tied_to"][len(root) :]
        wanted[tuple(path)] = told
    return wanted


def convert_all(facts: Fact, source: Path, to: Path, suffix: str) -> dict[str, dict[object, Fact] | str]:
    """Convert every file: what each must hold then by its new name, or why it is refused."""
    to.mkdir()
    results: dict[str, dict[object, Fact] | str] = {}
    for file in facts["files"]:
        if "tensors" in file:
            name = file["file"].removesuffix(".pt") + suffix
            report = convert(source / file["file"], to / name)
            results[name] = report if isinstance(report, str) else wanted_facts(file["tensors"], report)
    return results


def judge_loaded(
    way: str, wanted: dict[str, dict[object, Fact] | str], loaded: Fact, unknown: set[str]
) -> Iterator[Outcome]:
    """An outcome for each file; ``unknown`` are the cases that this release has no way to hold."""
    found = {file["file"]: file for file in loaded["files"]}
    for name, want in wanted.items():
        if isinstance(want, str):
            yield Outcome(way, name, "not possible", f"convert: {want}")
        elif "cannot" in found[name]:
            lacking = case_of(name) in unknown
            yield Outcome(way, name, "not possible" if lacking else "wrong", found[name]["cannot"])
        else:
            wrong = loaded_differences(want, found[name]["tensors"])
            yield Outcome(way, name, "wrong" if wrong else "right", "; ".join(wrong[:3]))


def case_of(name: str) -> str:
    """``dtype_float32`` of ``dtype_float32_zip.pt``."""
    return re.sub(r"_(zip|legacy|experimental_zip|torchscript)\.\w+$", "", name)


def judge_release(python: str, folder: Path, today: Fact, today_folder: Path) -> tuple[Fact, list[Outcome]]:
    """Everything about one release, by its interpreter."""
    own = folder / "own"
    own.mkdir()
    facts = run_in(python, "write", own)
    outcomes = []
    for file in facts["files"]:
        if "tensors" in file:
            wrong = file_differences(own / file["file"], file["tensors"])
            outcomes.append(Outcome(READ, file["file"], "wrong" if wrong else "right", "; ".join(wrong[:3])))
    lacking = {case_of(file["file"]) for file in facts["files"] if "cannot" in file}
    # What torch's own file of today cannot bring there in any container, no file can.
    there = run_in(python, "load", today_folder)["files"]
    foreign = {case_of(file["file"]) for file in there}
    foreign -= {case_of(file["file"]) for file in there if "cannot" not in file}
    unread = set(NEWER_THAN_SAFETENSORS.get(facts["safetensors"], ()))
    for way, told, source, suffix, unknown in (
        (OWN_PT, facts, own, ".pt", lacking),
        (OWN_SAFETENSORS, facts, own, ".safetensors", lacking | unread),
        (TODAY_PT, today, today_folder, ".pt", lacking | foreign),
        (TODAY_SAFETENSORS, today, today_folder, ".safetensors", lacking | unread),
    ):
        to = folder / f"{WAYS.index(way)}"
        wanted = convert_all(told, source, to, suffix)
        outcomes += judge_loaded(way, wanted, run_in(python, "load", to), unknown)
    return facts, outcomes


def is_expected(release: Release, outcome: Outcome) -> bool:
    """Whether a failure is the release's own age, and no fault of the file."""
    version = tuple(int(part) for part in release.torch.split(".")[:2])
    if outcome.way in (OWN_PT, TODAY_PT):
        own_csr = (
            outcome.way == OWN_PT and case_of(outcome.file) == "sparse_csr" and version in CSR_OF_ITS_OWN
        )
        return version < FIRST_ZIP or own_csr
    return outcome.way != READ and version < FIRST_SAFETENSORS


def print_summary(done: Sequence[tuple[Release, Fact, list[Outcome]]]) -> None:
    """The table: right files of all that could be judged."""
    rows = []
    for _, facts, outcomes in done:
        cells = []
        for way in WAYS:
            judged = [o for o in outcomes if o.way == way and o.status != "not possible"]
            cells.append(f"{sum(o.status == 'right' for o in judged)} of {len(judged)}")
        rows.append([facts["torch"], facts["python"], facts["safetensors"] or "-", *cells])
    print(markdown_table(["torch", "Python", "safetensors", *WAYS], rows), "\n")


def print_exceptions(release: Release, facts: Fact, outcomes: Sequence[Outcome]) -> bool:
    """What is not right, equal words once; returns whether anything is that should not be."""
    bad = False
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for file in facts["files"]:
        if "cannot" in file:
            grouped.setdefault(("not written", "this torch cannot", ""), []).append(file["file"])
        elif "changed" in file:
            grouped.setdefault(("changed", file["changed"], ""), []).append(file["file"])
    for outcome in outcomes:
        if outcome.status != "right":
            bad = bad or (outcome.status == "wrong" and not is_expected(release, outcome))
            words = re.sub(r"'[^']*/|0x[0-9a-f]+", "'", outcome.words)[:300]
            grouped.setdefault((outcome.status, outcome.way, words), []).append(outcome.file)
    print(f"### torch {facts['torch']}\n")
    for (status, way, words), files in grouped.items():
        cases = ", ".join(sorted(set(map(case_of, files))))
        print(f"- {status}: {way}: {len(files)} ({cases}){': ' + words if words else ''}")
    print()
    return bad


def main() -> int:
    """Run the releases that are named, or all; 1 if a file is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="*", metavar="RELEASE")
    parser.add_argument("--python", action="append", default=[], metavar="EXECUTABLE")
    parser.add_argument("--folder", type=Path, help="where environments and files go (a temporary folder)")
    options = parser.parse_args()
    chosen = [release for release in RELEASES if release.torch in (options.releases or [release.torch])]
    interpreters = find_interpreters(options.python)
    done, bad = [], False
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "today").mkdir()
        today = run_in(sys.executable, "write", folder / "today")
        for release in chosen:
            python = interpreters.get(release.python)
            if python is None:
                print(f"torch {release.torch} is left out: no python{release.python} (--python names one)\n")
                bad = True
                continue
            home = folder / release.torch
            home.mkdir()
            with environment(home, python, [f"torch=={release.torch}", *release.others]) as inside:
                facts, outcomes = judge_release(inside, home, today, folder / "today")
            bad = print_exceptions(release, facts, outcomes) or bad
            done.append((release, facts, outcomes))
        print_summary(done)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
