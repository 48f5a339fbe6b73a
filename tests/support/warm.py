"""A process that has made ready what takes seconds, and forks for each case.

A fork starts as the process was then, so that what a case does to modules, folder, environment or signals is
seen by no other. What is asked about imports, terminals or signals needs a process of its own: here torch is
there already, and the interpreter has read its environment.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]


class Warm:
    """Imports modules, and calls what is named as MODULE:FUNCTION, when the first case comes.

    A case is what would stand behind ``python``: ``-c CODE …`` or ``-m MODULE …``.
    """

    def __init__(self, *ready: str, **env: str) -> None:
        self._ready = ready
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def run(
        self,
        *arguments: object,
        stdin: str = "",
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a case; its status is negative for a signal, as in ``subprocess``."""
        command = [*map(str, arguments)]
        request = {
            "arguments": command,
            "cwd": os.fspath(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "umask": _umask(),
        }
        with _file(json.dumps(request)) as asked, _file(stdin) as given, _file() as out, _file() as err:
            channel = self._start()
            channel.settimeout(timeout)
            socket.send_fds(channel, [b"?"], [file.fileno() for file in (asked, given, out, err)])
            try:
                answer = channel.recv(16)
            except TimeoutError:
                self.close()
                raise subprocess.TimeoutExpired(command, timeout) from None
            if not answer:
                self.close()
                raise RuntimeError("the warm process ended")
            return subprocess.CompletedProcess(command, int(answer), _text(out), _text(err))

    def _start(self) -> socket.socket:
        if self._channel is None:
            self._channel, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.warm", str(theirs.fileno()), *self._ready],
                    cwd=ROOT,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        return self._channel

    def close(self) -> None:
        """End the process, and with it a case that goes on."""
        if self._channel is not None and self._process is not None:
            self._channel.close()
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._channel = self._process = None


def _file(text: str = "") -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - for the caller to close
    file.write(text.encode())
    file.seek(0)
    return file


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def serve(channel: socket.socket) -> None:
    """Fork for each case; returns in the fork, and where nobody asks any more."""
    while True:
        _, fds, _, _ = socket.recv_fds(channel, 1, 4)
        if not fds:
            return
        pid = os.fork()
        if not pid:
            channel.close()
            become(*fds)
        for fd in fds:
            os.close(fd)
        channel.sendall(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def become(asked: int, *streams: int) -> None:
    """Run the case, with everything as a process of its own would have it."""
    with open(asked, "rb") as file:
        request = json.load(file)
    for fd, stream in enumerate(streams):
        os.dup2(stream, fd)
        os.close(stream)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["env"])
    _end(request["arguments"])


def _end(arguments: Sequence[str]) -> None:
    """Run the case and leave with the status that the interpreter would give."""
    status: Any = 0
    try:
        _run(*arguments)
    except SystemExit as asked:
        status = asked.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((status or 0) & 0xFF)


def _run(how: str, what: str, *arguments: str) -> None:
    sys.path.insert(0, "" if how == "-c" else os.getcwd())
    sys.argv = [how, *arguments]
    if how == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


def main() -> None:
    """Make ready, then serve."""
    for name in sys.argv[2:]:
        module, _, function = name.partition(":")
        found = importlib.import_module(module)
        if function:
            getattr(found, function)()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel)


if __name__ == "__main__":
    main()
