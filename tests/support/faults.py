"""Every system call of a conversion, found by running it once, and then failed one at a time.

    python -m tests.support.faults SCENARIO.json

A process that has everything imported forks once for each fault, so that a fault costs milliseconds. The
calls are those that Python code can make by ``os`` and ``fcntl``, in every thread: each is counted by its
name, and the k-th call of a name is the one that fails. What is held after each fault:

- the target is the old one, or what a run without faults writes, byte for byte; or none, where none was;
- nothing else is left beside it, unless the process was killed, or could not remove it and says so;
- the source is as it was;
- the status is 2 and stderr one sentence that names a file; a call that was merely cut short is made again.

A run that was killed leaves a target that is old, new or unreadable (a folder between two renames), and
the next run for the same target succeeds.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import inspect
import json
import os
import posix
import re
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.quick import make_quick

Act = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

# Functions of `posix` that ask the kernel for nothing, or that end, start or wait for processes.
_NO_FILE_CALLS = frozenset(
    {"fspath", "getpid", "getppid", "kill", "killpg", "fork", "forkpty", "waitpid", "wait4", "_exit", "abort",
     "strerror", "umask", "cpu_count", "sched_yield", "times", "urandom", "get_terminal_size", "isatty",
     "register_at_fork", "waitstatus_to_exitcode", "getuid", "geteuid", "getgid", "getegid", "getcwd"}
)  # fmt: skip
_READS = frozenset({"pread", "preadv", "read", "readv"})
_WRITES = frozenset({"pwrite", "pwritev", "write", "writev"})
_COPIES = frozenset({"copy_file_range", "sendfile", "splice"})  # one that fails may be done by other means
_SYNCS = frozenset({"fsync", "fdatasync"})
_NAMES = frozenset({"open", "rename", "replace", "link", "mkdir", "rmdir", "unlink", "remove"})
_BLOCKS = {"ioctl"}  # how staging asks for them
ROOM = _WRITES | _COPIES | _SYNCS | _BLOCKS | {"ftruncate", "mkdir"}
# A failure of any of these must be told.
_TELLING = _READS | _WRITES | _SYNCS | _BLOCKS | {"ftruncate", "rename", "replace", "mkdir", "open"}
CHANGES = _WRITES | _COPIES | _SYNCS | _NAMES | _BLOCKS | {"ftruncate", "fchmod"}
_ERROR = re.compile(r"error: [^\n]+\n(hint:  [^\n]+\n)?")


class Fault(NamedTuple):
    """What happens at the ``number``-th call of ``call``."""

    call: str
    number: int
    kind: str


class Injector:
    """Stands between Python code and the kernel: counts calls by name, and acts at one of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.fault: Fault | None = None
        self.met = False
        self._lock = threading.Lock()

    def install(self) -> None:
        """Put wrappers in place of the functions; for good, so in a process of its own."""
        for name, real in vars(posix).items():
            if inspect.isbuiltin(real) and name not in _NO_FILE_CALLS and getattr(os, name, None) is real:
                setattr(os, name, self._wrap(name, real))
        fcntl.flock = self._wrap("flock", fcntl.flock)
        fcntl.ioctl = self._wrap("ioctl", fcntl.ioctl)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.counts[name] += 1
                hit = self.fault is not None and self.fault[:2] == (name, self.counts[name])
                self.met = self.met or hit
            if hit:
                assert self.fault is not None
                return act(self.fault, real, arguments, options)
            if self.met and self.fault is not None:
                if self.fault.kind == "EIO, then no unlink" and name in ("unlink", "remove", "rmdir"):
                    raise failure(errno.EACCES, arguments)
                if self.fault.kind == "end of file" and name == self.fault.call:
                    return act(self.fault, real, arguments, options)
            return real(*arguments, **options)

        return call


def act(fault: Fault, real: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Do what the fault says in place of the call."""
    what, _, after = fault.kind.partition(", ")
    if what in signal.Signals.__members__:
        result = real(*arguments, **options) if after else None
        os.kill(os.getpid(), signal.Signals[what])
        return result if after else real(*arguments, **options)
    if what == "short":
        return cut_short(fault.call, real, arguments)
    if what == "end of file":
        return b"" if fault.call in ("pread", "read") else 0
    if fault.call == "close":  # the descriptor is gone, whatever close says
        real(*arguments)
    raise failure(getattr(errno, what), arguments)


def failure(number: int, arguments: tuple[Any, ...]) -> OSError:
    """What ``os`` raises: with the path, where the call was given one."""
    path = os.fspath(arguments[0]) if isinstance(arguments[0], (str, os.PathLike)) else None
    return OSError(number, os.strerror(number), path)


def cut_short(call: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The call with about half of the bytes, and at least one."""

    def half(nbytes: int) -> int:
        return max(1, nbytes // 2)

    fd, what, *rest = arguments
    if call in ("pwrite", "write"):
        return real(fd, memoryview(what)[: half(len(what))], *rest)
    if call in ("preadv", "pwritev", "readv", "writev"):
        first = memoryview(what[0])
        return real(fd, [first[: half(len(first))]], *rest)
    if call in ("pread", "read"):
        return real(fd, half(what), *rest)
    if call == "sendfile":
        return real(fd, what, rest[0], half(rest[1]))
    return real(fd, what, half(rest[0]), *rest[1:])  # copy_file_range, splice


def kinds_of(call: str) -> Iterator[str]:
    """What may happen at a call of this name."""
    yield "EIO"
    if call in CHANGES:  # killed before any other call, a run leaves what it leaves before the next of these
        yield "SIGKILL"
        yield "SIGINT"
        yield "SIGHUP, after"
    if call not in _READS:
        yield "SIGTERM"
        yield "SIGTERM, after"
    if call in ROOM:
        yield "ENOSPC"
    if call in _WRITES | _BLOCKS:
        yield "EDQUOT"
    if call in _BLOCKS:
        yield "EINTR"
        yield "EOPNOTSUPP"
        yield "ENOTTY"
    if call in _NAMES:
        yield "EROFS"
    if call in _READS | _WRITES | _COPIES:
        yield "short"
    if call in _READS:
        yield "end of file"
    if call == "flock":
        yield "ENOLCK"
        yield "EWOULDBLOCK"
    if call in _TELLING - _READS:
        yield "EIO, then no unlink"


class Scenario:
    """A conversion in a folder of its own, and what its target may be afterwards."""

    def __init__(self, folder: Path, source: str, target: str, options: list[str]) -> None:
        self.source, self.out = folder / source, folder / "out"
        self.target = self.out / target
        self.command = ["convert", str(self.source), str(self.target), "--quiet", *options]
        self.stderr = folder / "stderr"
        self.before = snapshot(self.source)
        self.old = snapshot(self.out)
        self.new: dict[str, Any] = {}
        self.killed = 0

    def reset(self, state: dict[str, Any]) -> None:
        """Make the folder of the target what it was."""
        shutil.rmtree(self.out)
        self.out.mkdir()
        for name, kept in state.items():
            path = self.out / name
            if kept is None:
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(kept[0])

    def contents(self) -> dict[str, bytes | None]:
        """What lies beside and at the target, by name; folders are None."""
        return _bytes_of(snapshot(self.out))

    def judge(self, fault: Fault, status: int) -> str:
        """What is wrong after a fault; "" if nothing is."""
        said, now = self.stderr.read_text("utf-8"), self.contents()
        old, new = _bytes_of(self.old), _bytes_of(self.new)
        if snapshot(self.source) != self.before:
            return "the source is not what it was"
        if status == -signal.SIGKILL:
            self.killed += 1
            return self._judge_killed(now, old, new)
        if fault.kind == "EIO, then no unlink" or fault.call in ("unlink", "rmdir", "listdir"):
            left = [name for name in now if "partial" in name]
            if left and not all(os.path.basename(name.split("/")[0]) in said for name in left):
                return f"leaves {left} and does not say so: {said}"
            now = {name: kept for name, kept in now.items() if name not in left}
        if fault.call in ("flock", "stat", "fstat") and status == 2:
            # Until its lock is held, the partial file may be that of another run.
            now = {name: kept for name, kept in now.items() if "partial" not in name or kept}
        # Of two files that are written one after the other, the first may be done.
        if now not in (old, new, {**old, self.target.name: new[self.target.name]}):
            return f"leaves {sorted(set(now) ^ set(old)) or 'other bytes'}"
        if status == 0 and now != new:
            return "says that it is done"
        return _judge_words(fault, status, said, (str(self.out.parent), *map(os.path.basename, new)))

    def _judge_killed(self, now: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> str:
        """Whether what a killed run left is old, new or refused, and is cleaned up by the next run."""
        rest = {name: kept for name, kept in now.items() if "partial" not in name}
        if rest not in (old, new, {**old, self.target.name: new[self.target.name]}):
            if not self.target.is_dir():
                return f"killed, it leaves {sorted(set(rest) ^ set(old)) or 'other bytes'}"
            if (mixed := self._judge_folder(rest, old, new)) != "":
                return mixed
        if now == rest and rest in (old, new):
            return ""
        status = self.run(None, [*self.command, "--force"])
        if status or self.contents() != new:
            return f"the next run ends with {status}: {self.stderr.read_text('utf-8')}"
        return ""

    def _judge_folder(self, rest: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> str:
        """A folder that was cut off between two renames: never files of two runs that read as one."""
        shards = {name: kept for name, kept in rest.items() if kept is not None and "index" not in name}
        whole = [
            {name: kept for name, kept in state.items() if kept and "index" not in name}
            for state in (old, new)
        ]
        if shards in whole:  # only the index is not there
            return "" if not any("index" in name for name in rest) else "an index of other files"
        if self.run(None, ["inspect", str(self.target), "--quiet"]) != 2:
            return f"a mixture that can be read: {sorted(rest)}"
        return ""

    def run(self, fault: Fault | None, command: list[str] | None = None) -> int:
        """Run the command in a fork; its status, negative for a signal."""
        pid = os.fork()
        if not pid:
            os._exit(self._run_here(fault, command or self.command))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _run_here(self, fault: Fault | None, command: list[str]) -> int:
        from ckpttool.cli import main

        sys.stderr = self.stderr.open("w")
        INJECTOR.counts.clear()
        INJECTOR.fault = fault
        status = main(command)
        INJECTOR.fault = None
        sys.stderr.close()
        return status


def _judge_words(fault: Fault, status: int, said: str, places: tuple[str, ...]) -> str:
    """Whether status and sentence fit the fault; one of ``places`` must be named."""
    what = fault.kind.partition(",")[0]
    if what in signal.Signals.__members__:
        if status == 0 or (status, said) == (130, "interrupted\n"):
            return ""
        # Before the first byte is written, and after the last, a signal ends the process as it always does.
        return "" if status == -signal.Signals[what] else f"ends with {status}: {said}"
    if what in ("short", "EINTR", "ENOLCK", "EOPNOTSUPP", "ENOTTY"):
        return "" if status == 0 and not said else f"ends with {status}: {said}"
    if status == 0:
        return f"{fault.call} fails and nothing is said" if fault.call in _TELLING else said
    if status != 2 or not _ERROR.fullmatch(said):
        return f"ends with {status}: {said}"
    expected = {"end of file": "", "EWOULDBLOCK": "another ckpttool"}
    if fault.call in _BLOCKS:  # a full disk is told as one that was found too small before
        expected["ENOSPC"] = "not enough space: needs"
    reason = expected.get(what, os.strerror(getattr(errno, what, 0)).lower())
    # os.path takes a stat that fails for a name that is not there, and what follows is said instead.
    if reason not in said and fault.call not in ("stat", "lstat"):
        return f"does not say {reason!r}: {said}"
    return "" if any(place in said for place in places) else f"names no file: {said}"


def snapshot(place: Path) -> dict[str, Any]:
    """Bytes, mode and times of a file, or of all files in a folder by name; folders are None."""
    paths = sorted(place.rglob("*")) if place.is_dir() else [place]
    found: dict[str, Any] = {}
    for path in paths:
        status = path.lstat()
        name = path.relative_to(place).as_posix() if path != place else ""
        kept = path.read_bytes() if path.is_file() else None
        found[name] = None if kept is None else (kept, status.st_mtime_ns, status.st_ino, status.st_mode)
    return found


def _bytes_of(state: dict[str, Any]) -> dict[str, bytes | None]:
    return {name: None if kept is None else kept[0] for name, kept in state.items()}


INJECTOR = Injector()


def survey(scenario: Scenario) -> dict[str, Any]:
    """Run once without a fault, then once for each fault at each call."""
    from ckpttool.cli import main

    make_quick()
    if main(scenario.command):  # here, not in a fork: everything is imported after this
        sys.exit("the conversion fails without any fault")
    scenario.new = snapshot(scenario.out)
    scenario.reset(scenario.old)
    INJECTOR.install()
    INJECTOR.counts.clear()
    if main(scenario.command):
        sys.exit("the conversion fails when it is watched")
    calls = dict(INJECTOR.counts)
    gc.freeze()  # what is never collected is never copied by a fork
    faults = [
        Fault(call, number + 1, kind)
        for call, count in calls.items()
        for number in range(count)
        for kind in kinds_of(call)
    ]
    wrong = []
    for fault in faults:
        scenario.reset(scenario.old)
        status = scenario.run(fault)
        if problem := scenario.judge(fault, status):
            wrong.append(f"{fault.kind} at {fault.call} {fault.number} of {calls[fault.call]}: {problem}")
    scenario.reset(scenario.old)
    changes = sum(count for call, count in calls.items() if call in CHANGES)
    return {
        "calls": calls, "changes": changes, "faults": len(faults), "killed": scenario.killed, "wrong": wrong
    }  # fmt: skip


if __name__ == "__main__":
    folder, source, target, *options = sys.argv[1:]
    print(json.dumps(survey(Scenario(Path(folder), source, target, options))))
