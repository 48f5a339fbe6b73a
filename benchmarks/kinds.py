"""How well kinds are told apart from files alone, over every architecture of the installed libraries.

    python -m benchmarks.kinds [--library NAME ...] [--match TEXT] [--files FOLDER] ...

Each model is built on the meta device in a process of its own, written as a sparse ``.pt`` and a
sparse ``.safetensors``, read back with ``read_checkpoint`` and classified; the truth comes from its
modules. A third of the families (by a hash of their name) and one whole library were kept out
while the rules were tuned, and are reported apart. A model that does not build is counted and
named. The tables are those of docs/kinds.md; an ``unknown`` counts as not right.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.architectures import LIBRARIES, Architecture, Truth, iter_architectures
from benchmarks.children import Failed, run_children
from benchmarks.kinds_files import BATCH_NORM_BUFFERS, CONTAINERS, folder_of, truth_in
from ckpttool.formats import FORMATS, read_checkpoint
from ckpttool.kinds.classify import classify
from ckpttool.kinds.known_names import load_name_table
from ckpttool.values.checkpoint import Checkpoint

HELD_OUT_LIBRARIES = frozenset({"diffusers"})
HELD_OUT_ONE_IN = 3


def is_held_out(architecture: Architecture) -> bool:
    """Whether the rules were never tuned on this architecture: the same answer on every machine."""
    if architecture.library == "torch.nn":
        return False
    family = zlib.crc32(architecture.family.encode())
    return architecture.library in HELD_OUT_LIBRARIES or family % HELD_OUT_ONE_IN == 0


# --------------------------------------------------------------------------------------------- scores


class Score(NamedTuple):
    """Counts for one model or many. ``other`` are persistent buffers that are not of a batch norm."""

    models: int = 0
    models_with_buffers: int = 0
    models_right: int = 0  # of those with buffers: every entry right
    entries: int = 0
    right: int = 0
    unknown: int = 0
    parameters: int = 0
    parameters_as_buffers: int = 0
    other: int = 0
    other_right: int = 0
    exact: int = 0
    exact_wrong: int = 0
    absent: int = 0  # non-persistent buffers
    named_missing: int = 0
    named_missing_right: int = 0
    milliseconds: float = 0.0

    def plus(self, more: Score) -> Score:
        return Score(*(a + b for a, b in zip(self, more, strict=True)))


class Result(NamedTuple):
    """A score by container, what was mistaken, and how often each basis was claimed.

    ``mistakes`` are (container, last parts of the name, truth, said); ``claims`` (basis, kind, right).
    """

    scores: dict[str, Score]
    mistakes: list[tuple[str, str, str, str]]
    claims: list[tuple[str, str, bool]]


def score_checkpoint(
    checkpoint: Checkpoint, truth: Truth
) -> tuple[Score, list[tuple[str, str, str]], list[tuple[str, str, bool]]]:
    """Compare what ``classify`` says of ``checkpoint`` with the truth about the model in it."""
    start = time.process_time()
    kinds = classify(checkpoint)
    milliseconds = (time.process_time() - start) * 1000
    mistakes = []
    claims = []
    counts: Counter[str] = Counter()
    for entry, said in zip(checkpoint.entries, kinds.classifications, strict=True):
        kind = truth.kinds.get(str(entry.name))
        if kind is None:
            continue
        right = said.kind.value == kind
        claims.append((said.basis.value, said.kind.value, right))
        last = str(entry.name).rpartition(".")[2]
        is_buffer = kind != "parameter"
        is_other = is_buffer and last not in BATCH_NORM_BUFFERS
        counts.update(
            entries=1,
            right=right,
            unknown=said.kind.value == "unknown",
            parameters=not is_buffer,
            parameters_as_buffers=not is_buffer and said.kind.value == "persistent_buffer",
            other=is_other,
            other_right=is_other and right,
            exact=said.exact,
            exact_wrong=said.exact and not right,
        )
        if not right:
            parts = ".".join("#" if part.isdecimal() else part for part in str(entry.name).split(".")[-2:])
            mistakes.append((parts, kind, said.kind.value))
    missing = {str(entry.name) for entry in kinds.missing}
    has_buffers = any(kind != "parameter" for kind in truth.kinds.values())
    score = Score(
        models=1,
        models_with_buffers=int(has_buffers),
        models_right=int(has_buffers and not mistakes),
        absent=len(truth.non_persistent),
        named_missing=len(missing),
        named_missing_right=len(missing.intersection(truth.non_persistent)),
        milliseconds=milliseconds,
        **counts,
    )
    return score, mistakes, claims


def measure(architecture: Architecture, folder: Path) -> Result:
    """Classify one architecture's files, built into ``folder`` unless an earlier run left them there."""
    truth = truth_in(architecture, folder)
    scores = {}
    mistakes = []
    claims: list[tuple[str, str, bool]] = []
    for container in CONTAINERS:
        path = folder / f"model.{container}"
        if not path.exists():  # a dtype that the container has not
            continue
        checkpoint = read_checkpoint(str(path))
        scores[container], wrong, said = score_checkpoint(checkpoint, truth)
        claims.extend(said)
        mistakes.extend((container, *item) for item in wrong)
    return Result(scores, mistakes, claims)


class Failure(NamedTuple):
    """An architecture that was not measured, and why."""

    architecture: Architecture
    reason: str


def run(
    architectures: Iterator[Architecture], files: Path, jobs: int, time_limit: int
) -> Iterator[tuple[Architecture, Result | Failure]]:
    """Measure every architecture, ``jobs`` at a time."""
    tasks = ((each, functools.partial(measure, each, folder_of(each, files))) for each in architectures)
    for architecture, answer in run_children(tasks, jobs, time_limit):
        if isinstance(answer, Failed):
            yield architecture, Failure(architecture, answer.reason)
            continue
        scores = {name: Score(*values) for name, values in answer[0].items()}
        mistakes, claims = ([tuple(item) for item in items] for items in answer[1:])
        yield architecture, Result(scores, mistakes, claims)


# --------------------------------------------------------------------------------------------- report


def _share(part: int, whole: int) -> str:
    return f"{part / whole * 100:.3f} %" if whole else "-"


_HEADINGS = (
    "| library | container | models | entries | right | unknown | other buffers | of them right "
    "| models with buffers | fully right | parameters called buffers |"
)


def _row(library: str, container: str, score: Score) -> str:
    cells = (
        library,
        container,
        f"{score.models:,}",
        f"{score.entries:,}",
        _share(score.right, score.entries),
        _share(score.unknown, score.entries),
        f"{score.other:,}",
        _share(score.other_right, score.other),
        f"{score.models_with_buffers:,}",
        _share(score.models_right, score.models_with_buffers),
        f"{score.parameters_as_buffers} of {score.parameters:,}",
    )
    return f"| {' | '.join(cells)} |"


def print_report(
    scores: dict[tuple[bool, str, str], Score],
    mistakes: dict[bool, Counter[tuple[str, ...]]],
    claims: Counter[tuple[str, str, bool]],
    failures: Sequence[Failure],
) -> None:
    """Print the tables of docs/kinds.md."""
    versions = []
    for package in ("torch", *sorted({library for _, library, _ in scores} - {"torch.nn"})):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    print(f"{time.strftime('%Y-%m-%d')}, {', '.join(versions)}")
    for held_out in (False, True):
        print(f"\n### {'Held out' if held_out else 'Tuned on'}\n\n{_HEADINGS}\n{'|---' * 11}|")
        totals = dict.fromkeys(CONTAINERS, Score())
        for (held, library, container), score in sorted(scores.items()):
            if held == held_out:
                print(_row(library, container, score))
                totals[container] = totals[container].plus(score)
        for container, score in totals.items():
            print(_row("**all**", container, score))
        print("\nMost frequent mistakes (entries; container, name, truth, said):\n")
        for (container, name, truth, said), count in mistakes[held_out].most_common(25):
            print(f"- {count} {container} `{name}`: {truth}, said {said}")
    print("\n### By basis, both containers\n\n| basis | said | entries | wrong |\n|---|---|---|---|")
    for basis, kind in sorted({(basis, kind) for basis, kind, _ in claims}):
        right, wrong = claims[basis, kind, True], claims[basis, kind, False]
        print(f"| {basis} | {kind} | {right + wrong:,} | {wrong if kind != 'unknown' else '-'} |")
    whole = dict.fromkeys(CONTAINERS, Score())
    for (_, _, container), score in scores.items():
        whole[container] = whole[container].plus(score)
    pt = whole["pt"]
    print(f"\nclaims marked exact: {pt.exact}, wrong: {pt.exact_wrong}")
    print(
        f"missing buffers named from `_metadata`: {pt.named_missing:,}, right {pt.named_missing_right:,}, "
        f"of {pt.absent:,} non-persistent buffers"
    )
    for container, score in whole.items():
        print(f"{container}: {score.milliseconds / max(1, score.entries) * 1000:.2f} µs an entry")
    print(f"\nnot measured: {len(failures)}\n")
    for reason, count in Counter((f.architecture.library, f.reason[:70]) for f in failures).most_common(20):
        print(f"- {count} {reason[0]}: {reason[1]}")
    for failure in failures:
        architecture = failure.architecture
        print(f"{architecture.library} {architecture.name}: {failure.reason}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", action="append", choices=sorted(LIBRARIES))
    parser.add_argument("--match", default="", help="only architectures whose name contains this")
    parser.add_argument("--limit", type=int, default=0, help="at most this many architectures")
    parser.add_argument("--one-in", type=int, default=1, help="a fixed sample of one architecture in N")
    parser.add_argument("--files", type=Path, help="keep the files here, and use those of an earlier run")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--time-limit", type=int, default=60, help="seconds for one architecture")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = [
        architecture
        for architecture in iter_architectures(tuple(arguments.library or LIBRARIES))
        if arguments.match in architecture.name
        and zlib.crc32(architecture.name.encode()) % arguments.one_in == 0
    ]
    found = found[: arguments.limit or None]
    scores: dict[tuple[bool, str, str], Score] = {}
    mistakes: dict[bool, Counter[tuple[str, ...]]] = {False: Counter(), True: Counter()}
    claims: Counter[tuple[str, str, bool]] = Counter()
    failures = []
    load_name_table()  # once, before the children, so that their times are those of a second file
    for module in FORMATS:
        import_module(module)
    temporary = tempfile.TemporaryDirectory()
    files = arguments.files or Path(temporary.name)
    results = run(iter(found), files, arguments.jobs, arguments.time_limit)
    for done, (architecture, result) in enumerate(results, 1):
        if done % 100 == 0:
            print(f"{done} of {len(found)}", file=sys.stderr, flush=True)
        if isinstance(result, Failure):
            failures.append(result)
            continue
        held_out = is_held_out(architecture)
        for container, score in result.scores.items():
            key = (held_out, architecture.library, container)
            scores[key] = scores.get(key, Score()).plus(score)
        mistakes[held_out].update(result.mistakes)
        claims.update(result.claims)
    temporary.cleanup()
    print_report(scores, mistakes, claims, failures)


if __name__ == "__main__":
    main()
