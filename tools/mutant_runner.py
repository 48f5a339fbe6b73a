"""A plugin of pytest that tries faults in the place of running the tests."""

from __future__ import annotations

import ast
import contextlib
import gc
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TextIO

import pytest

from tools.distributions import ROOT
from tools.mutations import Mutant, mutate

BUILD = ROOT / "build" / "mutants"
COPY, RESULTS, LINES, LOG = (BUILD / name for name in ("copy", "results.json", "lines.json", "pytest.log"))
ARGUMENTS = ["-q", "--tb=no", "-p", "no:cacheprovider", f"--basetemp={BUILD / 'tmp'}",
             "-m", "not slow and not fuzz and not cuda and not real"]  # fmt: skip
BUDGET_S = 40.0  # what the tests of one fault took in all when their lines were learnt, which is slow
BATCH = 200  # tests whose lines are learnt in one process, and kept
MOST_BYTES = 6 << 30
UNSEEN, SEEN, RUNAWAY = 0, 1, 9


class Source(NamedTuple):
    """A module in the copy."""

    path: Path
    text: str
    tree: ast.Module
    digest: str


class Test(NamedTuple):
    """What a test took, and the lines that it ran in this process, by module."""

    seconds: float
    lines: dict[str, list[int]]


def in_fork(work: Callable[[], int], limit_s: float) -> int:
    """What ``work`` returned in a process of its own, or RUNAWAY; whatever it started ends with it."""
    if not (child := os.fork()):
        os.setpgid(0, 0)
        outcome = SEEN
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
            outcome = work()
        finally:
            os._exit(outcome)
    end, status = time.monotonic() + limit_s, None
    while status is None and time.monotonic() < end:
        time.sleep(0.004)
        pid, code = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(code) if pid else None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return RUNAWAY if status is None else status


class Runner:
    """The plugin: collects as pytest does, then runs what each fault needs."""

    def __init__(self, mutants: list[Mutant], sources: dict[str, Source], talk: TextIO) -> None:
        self.mutants, self.sources, self.talk = mutants, sources, talk
        self.items: dict[str, pytest.Item] = {}
        self.tests: dict[str, Test] = {}
        self.functions: defaultdict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
        self.verdicts: dict[str, str] = {}
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember that a test failed."""
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn which test runs which line, then try the faults."""
        self.items = {item.nodeid: item for item in session.items}
        digests = {name: digest((COPY / name).read_text("utf-8")) for name in set(map(file_of, self.items))}
        for function in gc.get_objects():
            if type(function) is FunctionType:
                self.functions[key_of(function.__code__)].append(function)
        gc.freeze()
        self.learn(digests)
        known = read(RESULTS)
        for number, mutant in enumerate(self.mutants, 1):
            chosen, source = self.choose(mutant), self.sources[mutant.module].digest
            tried = digest(*sorted(digests[name] for name in set(map(file_of, chosen))))
            verdict, on, by = known.get(mutant.ident, ("", "", ""))
            if on != source or (verdict != "killed" and by != tried):
                verdict = self.try_one(mutant, chosen)
                known[mutant.ident] = (verdict, source, tried)
            self.verdicts[mutant.ident] = verdict
            if verdict != "killed":
                place = f"{mutant.module}:{mutant.line} {mutant.place}"
                print(verdict, mutant.ident, place, mutant.change, sep="\t", file=self.talk, flush=True)
            if number % 50 == 0 or number == len(self.mutants):
                write(RESULTS, known)
        return True

    def run(self, names: Iterable[str]) -> bool:
        """Run tests in this process until one fails; whether one did."""
        self.failed = False
        chosen = [self.items[name] for name in names]
        for item, after in zip(chosen, [*chosen[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self.failed:
                return True
        return False

    def learn(self, digests: dict[str, str]) -> None:
        """Run each test whose module is new or has changed, and keep which lines it ran."""
        version = digest(*(source.digest for source in self.sources.values()))
        known = read(LINES)
        valid = {
            name: test
            for name, (on, by, *test) in known.items()
            if (on, by) == (version, digests.get(file_of(name)))
        }
        names = [name for name in self.items if name not in valid]
        for start in range(0, len(names), BATCH):
            print(f"lines of {len(names) - start} tests to learn", file=self.talk, flush=True)
            batch = names[start : start + BATCH]
            if in_fork(partial(self.watch, batch), 3600) != UNSEEN:
                raise SystemExit("the tests do not run")
            fresh = read(LINES.with_suffix(".batch"))
            valid |= fresh
            known |= {name: (version, digests[file_of(name)], *test) for name, test in fresh.items()}
            write(LINES, known)
        self.tests = {name: Test(*valid[name]) for name in self.items if name in valid}

    def watch(self, names: Iterable[str]) -> int:
        """Run tests under coverage. One that fails without a fault sees nothing."""
        import coverage

        paths = [str(source.path) for source in self.sources.values()]
        watched = coverage.Coverage(data_file=None, config_file=False, include=paths)
        watched.set_option("run:core", "ctrace")
        found = {}
        with watched.collect():
            for name in names:
                watched.switch_context(name)
                start = time.monotonic()
                if self.run([name]):
                    print(f"fails without a fault: {name}", file=self.talk, flush=True)
                found[name] = Test(time.monotonic() - start if not self.failed else 0, {})
        for module, source in self.sources.items():
            for line, contexts in watched.get_data().contexts_by_lineno(str(source.path)).items():
                for name in filter(None, contexts):
                    found[name].lines.setdefault(module, []).append(line)
        write(LINES.with_suffix(".batch"), {name: test for name, test in found.items() if test.seconds})
        return UNSEEN

    def choose(self, mutant: Mutant) -> list[str]:
        """The tests that run its line: those of its room, the quickest first, as far as time goes."""
        met = set(mutant.lines) if mutant.function[0] else None  # else it runs at import
        room = f"/{mutant.module.partition('.')[0]}/"
        chosen = []
        for name, test in self.tests.items():
            ran = test.lines.get(mutant.module, ())
            if ran and (met is None or not met.isdisjoint(ran)):
                chosen.append((room not in name, test.seconds, name))
        spent = 0.0
        within: list[str] = []
        for _, seconds, name in sorted(chosen):
            if not within or spent + seconds <= BUDGET_S:
                within.append(name)
                spent += seconds
        # Quick files first; the tests of one share what its fixtures make.
        return sorted(within, key=lambda name: (self.tests[name].seconds > 0.3, file_of(name)))

    def try_one(self, mutant: Mutant, chosen: list[str]) -> str:
        """Whether a test fails, or runs away, with this fault."""
        if not chosen:
            return "not run"
        path, text, tree, _ = self.sources[mutant.module]
        tree, status = mutate(mutant, tree), path.stat()
        path.write_text(ast.unparse(tree), "utf-8")  # for what is imported anew, and for other processes
        try:
            limit_s = 5 + 3 * sum(self.tests[name].seconds for name in chosen)
            outcome = in_fork(partial(self.suffer, mutant, path, tree, chosen), limit_s)
        finally:
            path.write_text(text, "utf-8")
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return "survived" if outcome == UNSEEN else "killed"

    def suffer(self, mutant: Mutant, path: Path, tree: ast.Module, chosen: list[str]) -> int:
        """Put the fault into this process and run the tests."""
        key = (str(path), *mutant.function)
        codes = [code for code in codes_of(compile(tree, str(path), "exec")) if key_of(code) == key]
        if len(codes) == 1 and self.functions[key]:
            for code in codes_of(codes[0]):  # also of what an outer function made at import
                for function in self.functions[key_of(code)]:
                    function.__code__ = code
            return SEEN if self.run(chosen) else UNSEEN
        for name in [name for name in sys.modules if name.partition(".")[0] in ("ckpttool", "tests")]:
            del sys.modules[name]
        files = sorted(set(map(file_of, chosen)))
        return UNSEEN if pytest.main([*ARGUMENTS, "-x", *files], plugins=[Only(chosen)]) == 0 else SEEN


class Only(NamedTuple):
    """A plugin of pytest that runs some tests of the files that are named."""

    names: Sequence[str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the others out."""
        items[:] = [item for item in items if item.nodeid in self.names]


def file_of(test: str) -> str:
    """The file that a test stands in."""
    return test.partition("::")[0]


def key_of(code: CodeType) -> tuple[str, str, int]:
    """What tells a function from others."""
    return code.co_filename, code.co_name, code.co_firstlineno


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """The code of every function below."""
    yield code
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from codes_of(item)


def digest(*texts: str) -> str:
    """What is equal for equal texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def read(path: Path) -> dict[str, Any]:
    """What was written, if anything was."""
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def write(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    path.with_suffix(".new").write_text(json.dumps(value), "utf-8")
    path.with_suffix(".new").replace(path)
