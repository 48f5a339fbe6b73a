"""Reads hostile files under watch, in a process of its own: ``python -m tests.hostile.child < jobs.json``.

Standard input is ``{"memory": bytes, "seconds": n, "canary": folder, "jobs": [{"name", "path", "read",
"runs"}]}``: ``read`` says whether the reader itself is asked, ``runs`` are pairs of arguments for the
command line and whether a terminal listens. One JSON line per job goes to standard output: what the reader
raised, and per command line its status and its two streams. An audit hook records every event that reading
a file has no business to raise.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tests.hostile import pickles as op
from tests.hostile.containers import safetensors, torch_zip

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
_MODES = ([], ["--json"], ["--globals"], ["--check"])


class TooSlow(BaseException):
    """The time limit; not an Exception, so that no handler takes it for one of its own."""


class Terminal(io.TextIOWrapper):
    """A captured stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Watch:
    """The audit hook: what happened while ``active``.

    Typer evaluates the annotations of a command each time, so what is compiled and executed for harmless
    files (``learning``) is known, and only that: code objects compare by what they do.
    """

    def __init__(self) -> None:
        self.active = False
        self.learning = False
        self.known: set[object] = set()
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.learning and event in ("compile", "exec"):
            self.known.add(args[0])
        if not self.active:
            return
        if event == "open":
            path, _mode, flags = args
            bad = bool(flags & _WRITES) if isinstance(flags, int) else True
        else:
            path = args[0] if args else ""
            bad = event == "import" or event.startswith(_FORBIDDEN)
            bad = bad or (event in ("exec", "compile") and path not in self.known)
        if bad:
            self.seen.append(f"{event}: {path!s:.200}")


def warm_up(watch: Watch) -> None:
    """Import everything of ours, and run each view once, so that later imports are a file's doing."""
    import ckpttool

    for found in pkgutil.walk_packages(ckpttool.__path__, "ckpttool."):
        if not found.name.startswith(("ckpttool.torch_bridge", "ckpttool.__main__")):
            __import__(found.name)
    b"a".decode("raw-unicode-escape")  # the one codec that a pickle may ask for
    sys.addaudithook(watch)
    watch.learning = True
    with tempfile.TemporaryDirectory() as folder:
        samples = {
            "a.pt": torch_zip(op.dump({"w": op.tensor(), "x": op.call("a:b"), "n": 1})),
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
    watch.learning = False


def run_main(argv: list[str], *, terminal: bool) -> dict[str, object]:
    """One command line, with its streams captured as bytes."""
    from ckpttool.cli import main

    wrapper = Terminal if terminal else io.TextIOWrapper
    streams = [wrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        status: object = main(argv)
    out, err = (stream.buffer.getvalue().decode("utf-8") for stream in streams)  # type: ignore[attr-defined]
    return {
        "status": status,
        "out": out if len(out) < 200_000 else out[:100_000] + out[-100_000:],
        "err": err[:100_000],
        "out_chars": len(out),
    }


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
    from ckpttool.errors import CkptToolError
    from ckpttool.formats import read_checkpoint

    try:
        checkpoint = read_checkpoint(path)
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


def run(job: dict[str, Any], watch: Watch, seconds: float) -> dict[str, object]:
    """One file through the reader and through every command line."""
    result: dict[str, object] = {"name": job["name"], "events": []}
    if job["read"]:
        with watched(watch, seconds, result):
            result["read"] = read(job["path"])
    runs: list[dict[str, object]] = []
    for argv, terminal in job["runs"]:
        done: dict[str, object] = {"argv": argv, "terminal": terminal}
        with watched(watch, seconds, done):
            done.update(run_main([*argv, job["path"]], terminal=terminal))
        runs.append(done)
    result["runs"] = runs
    return result


def main() -> None:
    """Run all jobs of standard input."""
    request = json.load(sys.stdin)
    os.environ["CKPTTOOL_TRACEBACK"] = "1"
    # A module that betrays itself when it is imported: a file may name it.
    sys.path.append(request["canary"])
    watch = Watch()
    warm_up(watch)
    resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
    stdout = sys.stdout
    for job in request["jobs"]:
        stdout.write(json.dumps(run(job, watch, request["seconds"])) + "\n")
        stdout.flush()


if __name__ == "__main__":
    main()
