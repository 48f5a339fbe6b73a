"""The process that parses source (``child``), as seen from the one that asks it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import IO, Any

from ckpttool.values.errors import CkptToolError

_START = "import sys; sys.path.append(sys.argv[1]); from ckpttool.kinds.source.child import main; main()"
_ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))  # where this package lies
_SECONDS_TO_START = 60.0
_MOST_ANSWER_NBYTES = 4 * 2**20
_DEBUG_HINT = "CKPTTOOL_TRACEBACK=1 shows what it says"


class Child:
    """A process that parses, and a thread that reads what it says: not everywhere can one wait for a pipe."""

    def __init__(self, scanner: str) -> None:
        if not sys.executable:
            raise CkptToolError("Python cannot be started to parse source: it is unknown where it lies")
        command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _START, _ROOT, scanner]
        debugging = os.environ.get("CKPTTOOL_TRACEBACK") == "1"
        try:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if debugging else subprocess.DEVNULL,
            )
        except OSError as error:
            raise CkptToolError(f"Python cannot be started to parse source: {error}") from None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        started = None
        try:
            started = self.answer(_SECONDS_TO_START)
        finally:
            if started is None:
                self.close()
        if started is None:
            raise CkptToolError("Python was started to parse source, and ended", hint=_DEBUG_HINT)

    def _listen(self) -> None:
        stdout = _pipe(self._process.stdout)
        with contextlib.suppress(OSError, ValueError):  # closed
            while (line := stdout.readline(_MOST_ANSWER_NBYTES)).endswith(b"\n"):
                self._lines.put(line)
        self._lines.put(b"")  # it has ended, or says too much

    def ask(self, line: bytes) -> None:
        """Write a request; of one that has ended, ``answer`` will tell."""
        stdin = _pipe(self._process.stdin)
        with contextlib.suppress(OSError):
            stdin.write(line)
            stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next answer, None where there is none by then, or will be none."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return None
        return json.loads(line) if line else None

    def close(self) -> None:
        """Kill it: it holds nothing that would be lost."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was written is flushed into a broken pipe
                _pipe(pipe).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("not a pipe")
    return pipe
