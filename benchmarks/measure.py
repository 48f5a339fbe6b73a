"""Running a command and taking its cost: CPU seconds, wall seconds and peak memory of a child process."""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 900  # seconds; the slowest tool that was measured takes a tenth of it for 2 GiB
TERMINAL_SIZE = (40, 100)  # rows, columns
# What a shell may have set and most have not: each changes what starting or printing costs.
UNWANTED = (
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "PYTHONPATH",
    "CKPTTOOL_TRACEBACK",
    "NO_COLOR",
    "CI",
)


class Cost(NamedTuple):
    """Of one run: user + system CPU seconds, wall seconds, peak resident set in bytes."""

    cpu: float
    wall: float
    peak: float


class RunFailed(Exception):
    """A command that ended with a status it should not have, or not at all."""


def package_root() -> Path:
    """The folder that ``ckpttool`` is imported from."""
    spec = find_spec("ckpttool")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent.parent


def compile_package() -> None:
    """Write the package's bytecode, as pip does when it installs: no run may pay for compiling source."""
    if not compileall.compile_dir(package_root() / "ckpttool", quiet=1):
        raise SystemExit("the package does not compile")


def environment(*, foreign: bool = False) -> dict[str, str]:
    """What every child gets: this environment without `UNWANTED`, and ckpttool unless it is ``foreign``."""
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    path = {} if foreign else {"PYTHONPATH": str(package_root())}
    return {**kept, **path, "TERM": "xterm-256color"}


def last_line(errors: str) -> str:
    """What a command said last on stderr: of a traceback, the error."""
    return (errors.strip().splitlines() or ["nothing on stderr"])[-1].strip()


def run(
    command: Sequence[str],
    folder: Path,
    *,
    statuses: Sequence[int] = (0,),
    terminal: bool = False,
    foreign: bool = False,
    output: Path | None = None,
    errors: Path | None = None,
    timeout: float = TIMEOUT,
) -> Cost:
    """Run ``command`` in ``folder`` with what it prints thrown away, or kept in ``output`` and ``errors``.

    ``terminal`` gives it a pseudo-terminal of 100 columns, so that it draws what a person sees.

    Raises:
        RunFailed: it cannot be started, takes too long, or ends with none of ``statuses``.
    """
    with (
        (output or Path(os.devnull)).open("wb") as stdout,
        errors.open("w+b") if errors else tempfile.TemporaryFile() as stderr,
        _terminal() if terminal else contextlib.nullcontext(stdout.fileno()) as target,
    ):
        started = time.perf_counter()
        try:
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=environment(foreign=foreign),
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=stderr,
            )
        except OSError as error:
            raise RunFailed(str(error)) from error
        clock = threading.Timer(timeout, child.kill)
        clock.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except KeyboardInterrupt:
            child.kill()
            raise
        finally:
            wall = time.perf_counter() - started
            clock.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        said = last_line(stderr.read().decode(errors="replace"))
    if child.returncode not in statuses:
        late = f" after {timeout:.0f} s" if wall >= timeout else ""
        raise RunFailed(f"exit status {child.returncode}{late}: {said}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """A pseudo-terminal whose other end is read and forgotten."""
    master, slave = pty.openpty()
    rows, columns = TERMINAL_SIZE
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    reader = threading.Thread(target=_drain, args=(master,))
    reader.start()
    try:
        yield slave
    finally:
        os.close(slave)
        reader.join()
        os.close(master)


def _drain(master: int) -> None:
    """Read until the last process has closed the terminal, which Linux reports as EIO."""
    with contextlib.suppress(OSError):
        while os.read(master, 1 << 16):
            pass
