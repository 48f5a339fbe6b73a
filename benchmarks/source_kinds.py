"""How much the source of its package tells of the kinds in a file, over files whose kinds are known.

    python -m benchmarks.source_kinds FOLDER [--library NAME ...] [--mistakes FILE]
    python -m benchmarks.source_kinds FOLDER --wrong-package
    python -m benchmarks.source_kinds FOLDER --time

FOLDER is what ``python -m benchmarks.kinds_files`` built; the libraries must be importable, so that their
source is found, but none is imported. Each file is classified without source, with that of its package, and
with its class named; so is the copy whose parameters were moved, as if trained. ``--wrong-package`` asks the
source of another library, which should say nothing. ``--time`` gives CPU seconds, those of the child that
parses among them. An ``unknown`` counts as not right, and as not wrong.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.architectures import Truth
from benchmarks.children import Failed, run_children
from benchmarks.kinds_files import CONTAINERS, is_other_buffer, read_truth
from benchmarks.packages import HELD_OUT_SOURCES


class Way(NamedTuple):
    """One way to ask: of which of the files, and what source."""

    name: str
    stem: str
    source: str  # "", "package" or "class"


WAYS = (
    Way("without source", "model", ""),
    Way("package", "model", "package"),
    Way("class named", "model", "class"),
    Way("trained, without source", "trained", ""),
    Way("trained, package", "trained", "package"),
)


def source_of(truth: Truth, way: Way) -> tuple[str, ...]:
    """What ``--source`` is given. A class from elsewhere, as torch's Sequential, is not named."""
    if not way.source:
        return ()
    if way.source == "class" and truth.root_class.startswith(f"{truth.package}."):
        return (f"{truth.package}:{truth.root_class.rpartition('.')[2]}",)
    return (truth.package,)


def score(path: str, truth: Truth, source: tuple[str, ...]) -> tuple[Counter[str], list[list[str]]]:
    """Compare what is said of the file at ``path`` with the truth, and list what is not right.

    The counts: entries, right, wrong, parameters, called_buffers (parameters that are), other (buffers that
    are not of a batch norm), other_right, complete (every entry right, in a file with buffers), absent
    (non-persistent buffers that exist), missing and possible (said) with ``_right``, and ``class``, ``leaf``
    and ``contents`` (entries with such evidence) with ``_wrong``, root, root_right.
    """
    from ckpttool.api.opened import open_file

    inspection = open_file(path, source=source).inspection if source else open_file(path).inspection
    counts: Counter[str] = Counter(files=1, absent=len(truth.non_persistent))
    mistakes = []
    for row in inspection.rows:
        name = str(row.entry.name)
        kind = truth.kinds.get(name)
        if kind is None:
            continue
        said = row.classification.kind.value
        evidence = getattr(row.classification, "source", None)
        right = said == kind
        wrong = not right and said != "unknown"
        other = is_other_buffer(name, kind)
        counts.update(entries=1, right=right, wrong=wrong, parameters=kind == "parameter")
        counts.update(called_buffers=kind == "parameter" and wrong, other=other, other_right=other and right)
        basis = row.classification.basis.value
        how = evidence.how if evidence is not None and basis == "source" else basis
        if how in ("class", "leaf", "contents"):
            counts.update({how: 1, f"{how}_wrong": wrong})
        if not right:
            where = f"{evidence.file}:{evidence.line} {evidence.class_name}" if evidence else ""
            mistakes.append([name, kind, said, basis, how, where])
    has_buffers = any(kind != "parameter" for kind in truth.kinds.values())
    counts.update(with_buffers=has_buffers, complete=has_buffers and not mistakes)
    for row in inspection.missing:
        name = str(row.entry.name)
        presence = row.classification.presence.value
        right = name in truth.non_persistent
        counts.update({presence: 1, f"{presence}_right": right})
        if not right:
            mistakes.append([name, "no such buffer", presence, row.classification.basis.value, "", ""])
    said_missing = {str(row.entry.name) for row in inspection.missing}
    unsaid = [name for name in truth.non_persistent if name not in said_missing]
    mistakes += [[name, "non-persistent", "not said", "", "", ""] for name in unsaid]
    roots = {used.root for used in getattr(inspection, "sources", ()) if used.root}
    counts.update(root=bool(roots), root_right=truth.root_class in roots)
    return +counts, mistakes


def measure(folder: Path, other: str) -> list[tuple[str, str, dict[str, int], list[list[str]]]]:
    """(way, container, counts, mistakes) of each file of one model; with ``other``, by that package alone."""
    truth = read_truth(folder)
    ways: Iterable[Way] = WAYS
    if other:
        ways = (Way("without source", "model", ""), Way("wrong package", "model", "package"))
        truth = truth._replace(package=other)
    found = []
    for way in ways:
        for container in CONTAINERS:
            path = folder / f"{way.stem}.{container}"
            if path.exists():
                counts, mistakes = score(str(path), truth, source_of(truth, way))
                found.append((way.name, container, dict(counts), mistakes))
    return found


# --------------------------------------------------------------------------------------------- report


def _of(part: int, whole: int) -> str:
    return f"{part / whole * 100:.2f} %" if whole else "-"


_HEADINGS = (
    "library | asked | files | entries | right | wrong | other buffers | right | called buffers "
    "| missing said | right | exist | possible said | right | all right, of those with buffers "
    "| class | wrong | leaf | wrong | contents | wrong | root named | right"
)


def _row(library: str, way: str, counts: Counter[str]) -> str:
    c = counts
    cells: list[object] = [library, way, c["files"], c["entries"], _of(c["right"], c["entries"]), c["wrong"]]
    cells += [c["other"], _of(c["other_right"], c["other"]), f"{c['called_buffers']} of {c['parameters']}"]
    cells += [c["missing"], c["missing_right"], c["absent"], c["possible"], c["possible_right"]]
    cells += [f"{c['complete']} of {c['with_buffers']}"]
    cells += [c[key] for how in ("class", "leaf", "contents") for key in (how, f"{how}_wrong")]
    cells += [c["root"], c["root_right"]]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def print_report(scores: dict[tuple[str, str, str], Counter[str]]) -> None:
    """Print a table by library, and the sums, held out apart; ``scores`` by library, way and container."""
    for held_out in (False, True):
        chosen = {key: value for key, value in scores.items() if (key[0] in HELD_OUT_SOURCES) == held_out}
        if not chosen:
            continue
        print(f"\n### {'Held out' if held_out else 'Open'}\n\n| {_HEADINGS} |")
        print("|---" * (_HEADINGS.count("|") + 1) + "|")
        libraries: dict[tuple[str, str], Counter[str]] = {}
        sums: dict[tuple[str, str], Counter[str]] = {}
        for (library, way, container), counts in chosen.items():
            libraries.setdefault((library, way), Counter()).update(counts)
            sums.setdefault((way, container), Counter()).update(counts)
        for library, way in sorted(libraries, key=lambda key: key[0]):
            print(_row(library, way, libraries[library, way]))
        for way, container in sums:
            print(_row(f"**all** {container}", way, sums[way, container]))


# ----------------------------------------------------------------------------------------------- time

_OPEN = "import sys; from ckpttool.api.opened import open_file; open_file({}).inspection"


def _cpu(path: Path, source: tuple[str, ...], cache: str) -> float:
    """CPU seconds of a fresh interpreter that inspects the file, and of its children."""
    arguments = f"sys.argv[1], source={source!r}" if source else "sys.argv[1]"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    subprocess.run([sys.executable, "-c", _OPEN.format(arguments), str(path)], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_times(files: Path, library: str, way: Way, one_in: int) -> None:
    """Print the seconds of a sample of ``library``'s models beyond those that it takes without source."""
    times: list[tuple[float, float, str]] = []
    for folder in sorted(path.parent for path in (files / library).glob("*/*/truth.json")):
        if zlib.crc32(folder.name.encode()) % one_in:
            continue
        path = folder / "model.safetensors"
        with tempfile.TemporaryDirectory() as cache:
            source = source_of(read_truth(folder), way)
            without = min(_cpu(path, (), cache) for _ in range(2))
            cold = _cpu(path, source, cache) - without
            warm = min(_cpu(path, source, cache) for _ in range(2)) - without
            times.append((cold, warm, folder.name))
    if not times:
        return
    print(f"{library}, {way.name}, {len(times)} models, CPU seconds beyond those without source:")
    for label, column in (("cold", 0), ("warm", 1)):
        values = sorted(item[column] for item in times)
        worst = max(times, key=lambda item: item[column])[2]
        mean = sum(values) / len(values)
        print(
            f"  {label}: mean {mean:.2f}, median {values[len(values) // 2]:.2f}, "
            f"most {values[-1]:.2f} ({worst})"
        )


# ----------------------------------------------------------------------------------------------- main


def _tasks(folders: Sequence[Path], libraries: Sequence[str], wrong_package: bool) -> Iterator[Any]:
    for folder in folders:
        library = folder.parent.parent.name
        other = libraries[(libraries.index(library) + 1) % len(libraries)] if wrong_package else ""
        yield folder, functools.partial(measure, folder, other)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, metavar="FOLDER")
    parser.add_argument("--library", action="append")
    parser.add_argument("--one-in", type=int, default=1, help="a fixed sample of one model in N")
    parser.add_argument("--mistakes", type=Path, help="write each entry that is not right here")
    parser.add_argument("--wrong-package", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--time-limit", type=int, default=600, help="seconds for one model")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.time:
        print_times(arguments.files, "transformers", WAYS[2], 12)
        print_times(arguments.files, "timm", WAYS[1], 24)
        return
    every = sorted(path.parent for path in arguments.files.glob("*/*/*/truth.json"))
    libraries = sorted({folder.parent.parent.name for folder in every})
    folders = [
        folder
        for folder in every
        if folder.parent.parent.name in (arguments.library or libraries)
        and zlib.crc32(folder.name.encode()) % arguments.one_in == 0
    ]
    scores: dict[tuple[str, str, str], Counter[str]] = {}
    mistakes = arguments.mistakes.open("w") if arguments.mistakes else None
    tasks = _tasks(folders, libraries, arguments.wrong_package)
    failed: Counter[str] = Counter()
    for done, (folder, answer) in enumerate(run_children(tasks, arguments.jobs, arguments.time_limit), 1):
        library = folder.parent.parent.name
        if done % 100 == 0:
            print(f"{done} of {len(folders)}", file=sys.stderr, flush=True)
        if isinstance(answer, Failed):
            failed[library] += 1
            print(folder, answer.reason, file=sys.stderr, flush=True)
            continue
        for way, container, counts, wrong in answer:
            scores.setdefault((library, way, container), Counter()).update(counts)
            for item in wrong if mistakes else ():
                print(library, folder.name, way, container, *item, sep="\t", file=mistakes)
    versions = [f"{library} {_version(library)}" for library in libraries]
    print(f"{time.strftime('%Y-%m-%d')}, {', '.join(versions)}")
    print_report(scores)
    print(f"\nnot measured: {sum(failed.values())} {dict(failed) or ''}")


def _version(library: str) -> str:
    names = metadata.packages_distributions().get(library, ())
    return metadata.version(names[0]) if names else ""


if __name__ == "__main__":
    main()
