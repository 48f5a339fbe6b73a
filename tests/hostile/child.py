"""Runs commands on hostile files under watch: ``main()`` in a fork of a process that has called ``warm_up``.

Standard input is ``{"memory", "seconds", "canary", "good", "scratch", "apart", "jobs": [{"name", "path",
"read", "runs"}]}``: ``read`` says whether the reader itself is asked, ``runs`` are pairs of a command
line and whether a terminal listens. In a command line ``@path`` is the job's file, ``@good`` a sound one, and
``@out.SUFFIX`` a file in a new folder below ``scratch``. One JSON line per job goes to standard output: what
the reader raised, and per command line its status, its two streams and what it left in that folder.

An audit hook records every event that a command has no business to raise; only ``convert`` may write, and
only in its own folder. ``memory`` bytes of address space may be added to what the process has after warm-up
(with torch, if that was ``warm_up_verify``), and the size of the file. ``apart`` forks for each command line,
so that the peak of each is its own.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile import pickles as op
from tests.hostile.containers import safetensors, torch_zip
from tests.support.quick import make_quick

_FORBIDDEN = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.putenv",
    "os.startfile",
    "pty.",
    "shutil.",
    "socket.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "ctypes.",
    "pickle.",
    "marshal.",
    "code.",
    "webbrowser.",
    "builtins.input",
    "builtins.breakpoint",
    "sys.set",
    "signal.pthread_kill",
    "tempfile.",
    "glob.",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What convert does beside its destination; the first argument, or the first two, are paths.
_STAGING = {"open": 1, "os.rename": 2, "os.remove": 1, "os.truncate": 1, "os.chmod": 1}
_MODES = ([], ["--json"], ["--globals"], ["--check"])
# The smallest of the sample models; it is trusted, and names the only code that may run.
MODEL = "sample_models.linear_xavier:build"


class TooSlow(BaseException):
    """The time limit; not an Exception, so that no handler takes it for one of its own."""


class Terminal(io.TextIOWrapper):
    """A captured stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Sink(io.BufferedIOBase):
    """What was written: its beginning and its end. All of 200 MB would count as the memory of the command."""

    KEPT = 100_000

    def __init__(self) -> None:
        self.nbytes = 0
        self._head, self._tail = bytearray(), bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        room = self.KEPT - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self.KEPT:
            del self._tail[: -self.KEPT]
        self.nbytes += len(data)
        return len(data)

    def text(self) -> str:
        """The text, without what was dropped in between; what is kept must be UTF-8."""
        if self.nbytes == len(self._head) + len(self._tail):
            return (self._head + self._tail).decode("utf-8")
        rest = self._tail.lstrip(bytes(range(0x80, 0xC0)))  # the end of a character that was cut
        return codecs.getincrementaldecoder("utf-8")().decode(bytes(self._head)) + rest.decode("utf-8")


class Watch:
    """The audit hook: what happened while ``active``.

    Typer evaluates the annotations of a command, and an optional library that is not installed is looked for
    each time: what is compiled, executed and imported for harmless files (``learning``) is known, and only
    that. Code objects compare by what they do.
    """

    def __init__(self) -> None:
        self.active = False
        self.learning = False
        self.folder: str | None = None  # where the command may write
        self.known: set[object] = set()
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.learning and event in ("compile", "exec", "import"):
            self.known.add(args[0])
        if not self.active:
            return
        if event in _STAGING and self.folder is not None and self.is_staging(args[: _STAGING[event]]):
            return
        if event == "open":
            path, _mode, flags = args
            bad = bool(flags & _WRITES) if isinstance(flags, int) else True
        else:
            path = args[0] if args else ""
            learned = event in ("import", "exec", "compile")
            bad = path not in self.known if learned else event.startswith(_FORBIDDEN)
        if bad:
            self.seen.append(f"{event}: {path!s:.200}")

    def is_staging(self, paths: tuple[Any, ...]) -> bool:
        """Whether all paths, or open files, lie in the folder where the command may write."""
        assert self.folder is not None
        for path in paths:
            if isinstance(path, int):  # an open file: whatever opened it was watched
                continue
            if os.path.dirname(os.path.abspath(os.fsdecode(path))) != self.folder:
                return False
        return True


WATCH = Watch()


def warm_up() -> None:
    """Import everything but torch, and run each command once, so that later imports are a file's doing."""
    _warm_up(WATCH, with_torch=False)


def warm_up_verify() -> None:
    """Also import torch, and run ``verify``."""
    _warm_up(WATCH, with_torch=True)


def _warm_up(watch: Watch, *, with_torch: bool) -> None:
    import ckpttool

    make_quick()
    os.environ["CKPTTOOL_TRACEBACK"] = "1"
    for found in pkgutil.walk_packages(ckpttool.__path__, "ckpttool."):
        if found.name != "ckpttool.__main__" and (with_torch or "torch_bridge" not in found.name):
            __import__(found.name)

    b"a".decode("raw-unicode-escape")  # the one codec that a pickle may ask for
    sys.addaudithook(watch)
    watch.learning = True
    with tempfile.TemporaryDirectory() as folder:
        samples = {
            # Widths of wide characters and numbers of diff are in modules that are imported late.
            "a.pt": torch_zip(op.dump({"w": op.tensor(), "鍵": op.tensor(), "x": op.call("a:b"), "n": 1})),
            "other.pt": torch_zip(op.dump({"w": op.tensor()}), {"0": b"\0\0\x80?" * 4}),
            "bad.pt": torch_zip(b"N"),
            "b.safetensors": safetensors({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x"),
            "c.txt": b"text",
        }
        for name, content in samples.items():
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.write(content)
            for mode in _MODES:
                run_main(["inspect", *mode, path], terminal=False)
                run_main(["inspect", *mode, path], terminal=True)
            run_main(["inspect", "--root", "none", path], terminal=False)
            run_main(["inspect", "--values", path], terminal=False)
            run_main(["git-textconv", path], terminal=False)
            run_main(["get", path, "no such name"], terminal=False)
            run_main(["get", path, "w"], terminal=False)
            for other in ("a.pt", "b.safetensors", "other.pt"):
                run_main(["diff", path, os.path.join(folder, other)], terminal=False)
            for suffix in (".pt", ".safetensors"):
                run_main(["convert", path, os.path.join(folder, f"out-{name}{suffix}")], terminal=False)
        if with_torch:
            _warm_up_verify(folder, list(samples))
    watch.learning = False


def _warm_up_verify(folder: str, samples: list[str]) -> None:
    """Let torch import what it puts off: for a model that loads, and for every sort of tensor."""
    import torch

    from sample_models.linear_xavier import build

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(build().state_dict(), os.path.join(folder, "right.pt"))
        dense = torch.ones(2, 2)
        tensors = {
            "sparse": dense.to_sparse(),
            "csr": dense.to_sparse_csr(),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "quantized": torch.quantize_per_tensor(dense, 0.5, 0, torch.qint8),
            "subclass": torch.nn.Parameter(dense),
            "conj": torch.ones(2, dtype=torch.complex64).conj(),
        }
        for name, tensor in tensors.items():
            torch.save({"w": tensor}, os.path.join(folder, f"{name}.pt"))
    for name in (*samples, "right.pt", *(f"{name}.pt" for name in tensors)):
        run_main(["verify", os.path.join(folder, name), "--model", MODEL], terminal=False)


# CPython keeps frames in chunks of 16 KiB, and gives one back when the call that began it ends: just below a
# full chunk each of a million calls costs an mmap and a munmap. A frame of 40,000 variables has a chunk of
# its own, with room for all that it calls.
_MANY = "; ".join(f"x{number} = 0" for number in range(40_000))
exec(f"def with_room(call):\n    if call is None:\n        {_MANY}\n    return call()")


def run_main(argv: list[str], *, terminal: bool) -> dict[str, object]:
    """One command line, with its streams captured as bytes."""
    from ckpttool.cli import main

    wrapper = Terminal if terminal else io.TextIOWrapper
    sinks = Sink(), Sink()
    streams = [wrapper(sink, encoding="utf-8", write_through=True) for sink in sinks]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        status: object = with_room(lambda: main(argv))  # type: ignore[name-defined]  # noqa: F821
    return {"status": status, "out": sinks[0].text(), "err": sinks[1].text()}


@contextlib.contextmanager
def watched(watch: Watch, seconds: float, result: dict[str, object]) -> Iterator[None]:
    """Limit the time of a block, and keep what escapes from it."""

    def too_slow(*_: object) -> None:
        raise TooSlow

    # Processor time, so that a busy machine fails nothing; and in case of a wait, time on the wall.
    signal.signal(signal.SIGPROF, too_slow)
    signal.signal(signal.SIGALRM, too_slow)
    watch.seen = []
    watch.active = True
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
    try:
        yield
    except TooSlow:
        result["escaped"] = f"TooSlow: more than {seconds} s"
    except BaseException as error:  # noqa: BLE001 - whatever escapes is what the parent asks about
        result["escaped"] = f"{type(error).__name__}: {error!s:.300}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        watch.active = False
        result["events"] = watch.seen[:10]


def read(path: str) -> dict[str, object]:
    """What the reader itself makes of a file."""
    from ckpttool.formats import read_checkpoint
    from ckpttool.values.errors import CkptToolError

    try:
        checkpoint = with_room(lambda: read_checkpoint(path))  # type: ignore[name-defined]  # noqa: F821
    except (CkptToolError, OSError) as error:
        return {"error": str(error)[:5000], "type": type(error).__name__}
    return {
        "format": checkpoint.format,
        "entries": len(checkpoint.entries),
        "names": [str(entry.name)[:100] for entry in checkpoint.entries[:20]],
        "globals": [f"{ref.module}.{ref.name}"[:300] for ref in checkpoint.globals[:100]],
        "called": [f"{ref.module}.{ref.name}"[:300] for ref in checkpoint.globals[:100] if ref.called],
        "findings": [finding.code for finding in checkpoint.findings],
    }


def read_under_watch(path: str, watch: Watch, seconds: float) -> dict[str, object]:
    """What the reader itself makes of a file, and what it did meanwhile."""
    result: dict[str, object] = {}
    with watched(watch, seconds, result):
        result["read"] = read(path)
    return result


def run_command(
    argv: list[str], terminal: bool, request: dict[str, Any], job: dict[str, Any], watch: Watch
) -> dict[str, object]:
    """One command line, with what it left in the folder where it may write."""
    folder = tempfile.mkdtemp(dir=request["scratch"])
    places = {"@path": job["path"], "@good": request["good"]}
    line = [os.path.join(folder, arg[1:]) if arg.startswith("@out") else places.get(arg, arg) for arg in argv]
    done: dict[str, object] = {"argv": argv, "terminal": terminal}
    output = next((real for arg, real in zip(argv, line, strict=True) if arg.startswith("@out")), None)
    watch.folder = None if output is None else folder
    before = _peak_nbytes()
    with watched(watch, request["seconds"], done):
        done.update(run_main(line, terminal=terminal))
    done["peak"] = _peak_nbytes() - before
    watch.folder = None
    done["left"] = sorted(os.listdir(folder))
    if output is not None and os.path.exists(output):
        done["output"] = read(output)
        # What could be carried over is the same: the second run sees names and bytes.
        done["output_diff"] = run_main(["diff", job["path"], output], terminal=False)["status"]
    shutil.rmtree(folder)
    return done


def _peak_nbytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def in_fork(act: Callable[[], dict[str, object]]) -> dict[str, object]:
    """The result of ``act`` in a forked process: its memory and its peak are its own."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        with os.fdopen(send, "w") as pipe:
            json.dump(act(), pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"escaped": f"died with wait status {status}"}


def run(job: dict[str, Any], request: dict[str, Any], watch: Watch) -> dict[str, object]:
    """One file through the reader and through every command line."""
    limit = request["memory"] + _address_space()
    if os.path.isfile(job["path"]):
        limit += os.path.getsize(job["path"])

    def limited(act: Callable[[], dict[str, object]]) -> Callable[[], dict[str, object]]:
        def with_limit() -> dict[str, object]:
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            return act()

        return with_limit

    execute: Callable[[Callable[[], dict[str, object]]], dict[str, object]]
    execute = in_fork if request["apart"] else (lambda act: act())
    result: dict[str, object] = {"name": job["name"], "events": []}
    if job["read"]:
        result |= execute(limited(lambda: read_under_watch(job["path"], watch, request["seconds"])))
    result["runs"] = [
        execute(limited(lambda argv=argv, on=terminal: run_command(argv, on, request, job, watch)))  # type: ignore[misc]
        for argv, terminal in job["runs"]
    ]
    return result


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def main() -> None:
    """Run all jobs of standard input."""
    request = json.load(sys.stdin)
    # A module that betrays itself when it is imported: a file may name it.
    sys.path.append(request["canary"])
    stdout = sys.stdout
    for job in request["jobs"]:
        stdout.write(json.dumps(run(job, request, WATCH)) + "\n")
        stdout.flush()
