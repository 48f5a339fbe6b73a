"""How many small faults the tests see: python -m tools.mutants [--sample N [--skip M]] [MODULE...].

Each fault of ``tools.mutations`` is put into a copy of the sources, below build/mutants, and the tests
that run its line are run until one fails. One process collects all tests once and tries each fault in a
fork of itself, where the code of one function is replaced; what runs at import is imported anew there.
Results are kept: a fault is tried again when its module has changed, or when it survived and a test has.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import pytest

from tools.distributions import ROOT, git
from tools.mutant_runner import ARGUMENTS, COPY, LOG, Runner, Source, digest
from tools.mutations import Mutant, find_mutants

EQUIVALENT = ROOT / "tools" / "equivalent_mutants.tsv"
"""Faults that change nothing that anybody could see: identifier, place, change, why, apart by tabs."""

MODULES = """
    formats.validate formats.zip_records formats.safetensors formats.torch_zip formats.torch_archive
    formats.torch_legacy formats.pickled pickles files.streams files.staging files.tensor_bytes files.strides
    files.local conversion.placing conversion.plan conversion.layout conversion.safetensors conversion.pt
    conversion.execute comparison.compare elements.sums kinds names.match torch_bridge.verify.judge
    torch_bridge.verify.builds
    """.split()
ROOMS = """
    api commands comparison conversion elements files formats inspection kinds names pickles torch_bridge
    values
    """.split()


def copy_sources(asked: Iterable[str]) -> dict[str, Source]:
    """Bring the copy up to date; the modules whose lines are of interest. Times of files are kept."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").rstrip("\0").split("\0")
    names = [name for name in names if (ROOT / name).is_file()]
    for path in set(COPY.rglob("*.py")) - {COPY / name for name in names}:
        path.unlink()
    for name in names:
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, COPY / name)
    found = {}
    for name in dict.fromkeys([*MODULES, *asked]):
        where = COPY / "ckpttool" / name.replace(".", "/")
        for path in sorted(where.rglob("*.py")) if where.is_dir() else [where.with_suffix(".py")]:
            text = path.read_text("utf-8")
            module = ".".join(path.relative_to(COPY / "ckpttool").with_suffix("").parts)
            found[module] = Source(path, text, ast.parse(text), digest(text))
    return found


def report(mutants: Iterable[Mutant], verdicts: dict[str, str]) -> str:
    """A table by module; the score is what was killed of what is not equivalent."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        for row in (mutant.module, "all"):
            counts[row][verdicts.get(mutant.ident, "equivalent")] += 1
    words = ["killed", "survived", "not run", "equivalent"]
    lines = [f"| module | faults | {' | '.join(words)} | score |", "|---" * 7 + "|"]
    for row, count in counts.items():
        score = 100 * count["killed"] / max(1, count.total() - count["equivalent"])
        cells = [row, count.total(), *(count[word] for word in words), f"{score:.0f} %"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy, find, try, report; 1 if a fault was not seen."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants")
    parser.add_argument("modules", nargs="*", help="modules or rooms of ckpttool, as formats.validate")
    parser.add_argument("--sample", type=int, metavar="N", help="try N faults, the same ones in each run")
    parser.add_argument("--skip", type=int, metavar="M", default=0, help="leave out the first M of them")
    parser.add_argument("--tests", action="append", metavar="PATH", help="these tests (default: all rooms)")
    options = parser.parse_args(arguments)
    sources = copy_sources(options.modules)
    os.chdir(COPY)
    sys.path.insert(0, str(COPY))
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    wanted = tuple(f"{name}." for name in options.modules or MODULES)
    found = [
        find_mutants(name, *source[:3]) for name, source in sources.items() if f"{name}.".startswith(wanted)
    ]
    mutants = sorted(mutant for some in found for mutant in some)[options.skip :][: options.sample]
    mutants.sort(key=lambda mutant: (mutant.module, mutant.line))
    equivalent = {line.partition("\t")[0] for line in EQUIVALENT.read_text("utf-8").splitlines()}
    # pytest and the tests print into a file; what is seen is what this tool says.
    talk, log = os.fdopen(os.dup(1), "w"), os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    runner = Runner([mutant for mutant in mutants if mutant.ident not in equivalent], sources, talk)
    tests = options.tests or [f"tests/{room}" for room in ROOMS]
    if status := pytest.main([*ARGUMENTS, *tests], plugins=[runner]):
        talk.write(LOG.read_text("utf-8"))
        return int(status)
    print(report(mutants, runner.verdicts), file=talk, flush=True)
    return int(any(verdict != "killed" for verdict in runner.verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
