"""Each system call of a conversion fails once, in every way that it can: see ``tests.support.faults``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ckpttool.files.staging import partial_path
from tests.support.converting import convert
from tests.support.faults import CHANGES, ROOM, Fault, Scenario, snapshot

STATE = {"a": torch.arange(600.0), "b": torch.arange(24).reshape(4, 6).t(), "c": torch.ones(300)}


class Case(NamedTuple):
    source: str
    target: str
    options: tuple[str, ...] = ()
    has_old: bool = True
    fewest: int = 150  # faults: what would make the harness blind makes them fewer


SHARDS = ("--max-shard-size", "1KB")
CASES = {
    "pt over safetensors": Case("a.pt", "b.safetensors", ("--force",)),
    "pt to new safetensors, unchecked": Case("a.pt", "b.safetensors", ("--no-check",), has_old=False),
    "safetensors over pt": Case("a.safetensors", "b.pt", ("--force",)),
    "cast over pt": Case("a.pt", "b.pt", ("--force", "--dtype", "bf16")),
    "several blocks": Case("big.pt", "b.pt", ("--force",)),
    "shards to one file": Case("in", "b.safetensors", ("--force",)),
    "new shards": Case("a.pt", "b", SHARDS, has_old=False),
    "shards over shards": Case("a.pt", "b", (*SHARDS, "--force")),
    "pt shards over shards, unchecked": Case(
        "a.safetensors", "b", (*SHARDS, "--force", "--no-check", "--to", "pt")
    ),
    "one file into a folder": Case("a.pt", "b", ("--force",)),
    "with a manifest": Case("a.pt", "b.safetensors", ("--force", "--manifest", "OUT/m.json")),
}
FAST = "pt over safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: thousands of runs that sync would wait for a disk for minutes."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ckpttool-faults-") as name:
        yield Path(name)


def prepare(folder: Path, case: Case) -> list[str]:
    """Make the source and the old target; the arguments of ``tests.support.faults``."""
    out = folder / "out"
    out.mkdir()
    options = [option.replace("OUT", str(out)) for option in case.options]
    torch.save(STATE, folder / "a.pt")
    if case.source == "big.pt":
        torch.save({"a": torch.arange(700_000.0), **STATE}, folder / "big.pt")
    elif case.source == "in":
        convert(folder / "a.pt", folder / "in", *SHARDS)
    elif case.source != "a.pt":
        convert(folder / "a.pt", folder / case.source)
    if case.has_old:
        torch.save({name: tensor + 1 for name, tensor in STATE.items()}, folder / "old.pt")
        if case.target == "b":
            (out / "b").mkdir()
            (out / "b" / "config.json").write_text("{}")
        plain = [option for option in options if option not in ("--dtype", "bf16")]
        convert(folder / "old.pt", out / case.target, *plain)
        assert len(list(out.iterdir())) == 1 + ("--manifest" in options)
    return [str(folder), case.source, case.target, *options]


@pytest.mark.parametrize(
    "name",
    [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_whatever_fails_the_target_is_old_or_new(folder: Path, name: str) -> None:
    case = CASES[name]
    arguments = prepare(folder, case)
    found = faults(*arguments)
    print(f"{name}: {sum(found['calls'].values())} calls, {found['faults']} faults, {found['killed']} kills")
    assert not found["wrong"]
    assert found["killed"] == found["changes"]
    assert found["faults"] >= case.fewest


def faults(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.faults", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


# -- the same by the kernel's own hand ----------------------------------------------------------------

# What the kernel calls what `os` calls otherwise.
KERNEL_NAMES = {
    "openat": "open", "pread64": "pread", "preadv2": "preadv", "pwrite64": "pwrite", "pwritev2": "pwritev",
    "fadvise64": "posix_fadvise", "renameat": "rename", "renameat2": "rename",
}  # fmt: skip
COMPARED = ("open", "pread", "preadv", "pwrite", "fsync", "ftruncate", "rename", "flock", "close")
RETRIED = ("pread", "preadv", "pwrite", "fsync", "ftruncate", "open", "flock")


def why_no_strace() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True, text=True)
    return f"strace cannot trace here: {done.stderr.strip()[-100:]}" if done.returncode else None


class Traced(Scenario):
    """A scenario whose runs are processes of their own, under strace."""

    def run(self, fault: Fault | None, command: list[str] | None = None) -> int:
        plain = [sys.executable, "-m", "ckpttool", *(command or self.command)]
        tracer: list[str] = []
        if fault is not None:
            act = "signal=SIGKILL" if fault.kind == "SIGKILL" else f"error={fault.kind}"
            injected = f"inject={fault.call}:{act}:when={fault.number}"
            tracer = [
                "strace",
                "-f",
                "-o",
                os.devnull,
                *self.paths(),
                "-e",
                f"trace={fault.call}",
                "-e",
                injected,
            ]
        with self.stderr.open("w") as stderr:
            return subprocess.run([*tracer, *plain], check=False, stderr=stderr, env=environment()).returncode

    def paths(self) -> list[str]:
        """What strace looks at: calls that touch the source, the target, its partial file or their folder."""
        names = [
            self.source,
            self.target,
            self.out,
            self.out / os.path.basename(partial_path(self.target.name)),
        ]
        return [part for name in names for part in ("-P", str(name))]

    def observe(self) -> list[str]:
        """The system calls of a run, by the kernel's names, in order."""
        log = self.out.parent / "strace.log"
        tracer = ["strace", "-f", "-o", str(log), *self.paths()]
        command = [*tracer, sys.executable, "-m", "ckpttool", *self.command]
        subprocess.run(command, check=True, env=environment())
        return re.findall(r"^\d+ +(\w+)\(", log.read_text("utf-8"), re.MULTILINE)


@pytest.mark.slow
def test_the_kernel_sees_no_other_calls_and_its_faults_end_alike(folder: Path) -> None:
    if (reason := why_no_strace()) is not None:
        pytest.skip(reason)
    arguments = prepare(folder, CASES[FAST])
    known = faults(*arguments)["calls"]
    scenario = Traced(folder, *arguments[1:3], arguments[3:])
    seen = Counter(scenario.observe())
    by_name: Counter[str] = Counter()
    for call, count in seen.items():
        by_name[KERNEL_NAMES.get(call, call)] += count
    assert {name: by_name[name] for name in COMPARED} == {name: known.get(name, 0) for name in COMPARED}
    scenario.new = snapshot(scenario.out)
    wrong, tried = [], 0
    for call, count in seen.items():
        name = KERNEL_NAMES.get(call, call)
        for kind in ("EINTR", "SIGKILL", "ENOSPC"):
            if name not in {"EINTR": RETRIED, "SIGKILL": CHANGES, "ENOSPC": ROOM}[kind]:
                continue
            for number in {1, count} if kind == "EINTR" else range(1, count + 1):
                scenario.reset(scenario.old)
                status = scenario.run(Fault(call, number, kind))
                tried += 1
                if problem := scenario.judge(Fault(call, number, kind), status):
                    wrong.append(f"{kind} at {call} {number} of {count}: {problem}")
    print(f"strace: {sum(seen.values())} calls, {tried} faults")
    assert not wrong
    assert scenario.killed >= 6
