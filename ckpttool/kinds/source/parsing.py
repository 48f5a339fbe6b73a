"""Has source parsed by a child process (``child``), and outlives whatever becomes of it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from ckpttool.values.errors import CkptToolError

SCANNER = "ckpttool.kinds.source.scan:scan_module"
"""What makes a summary of a file, a ``child.Scan``, as ``module:function``."""

_START = "import sys; sys.path.append(sys.argv[1]); from ckpttool.kinds.source.child import main; main()"
_ROOT = str(Path(__file__).absolute().parents[3])  # where this package lies
_SECONDS_A_FILE = 20.0  # the slowest file within the limits takes 2
_SECONDS_TO_START = 60.0
_MOST_ANSWER_NBYTES = 16 * 2**20
_MOST_MS = 180_000.0  # CPU time of all files: the 2,912 of transformers take 20 s
_MOST_DEATHS = 5  # of children; a tree that has killed so many gets no other
# Requests written before their answers were read: enough to keep a child busy, and so few that a pipe always
# takes them (4 KiB, where a user has too many), else both would wait for each other.
_AHEAD = 16
_AHEAD_NBYTES = 4096
_DEBUG_HINT = "CKPTTOOL_TRACEBACK=1 shows what it says"


class Request(NamedTuple):
    """A file to parse, and what it is as a module."""

    path: str
    module: str
    is_package: bool


class Answer(NamedTuple):
    """The summary of a file as JSON, or why there is none; what the file was, and CPU time in ms."""

    summary: str = ""
    error: str = ""
    size: int = -1
    mtime_ns: int = -1
    ms: float = 0.0
    last: bool = False

    @property
    def is_final(self) -> bool:
        """Whether the same will be said of the same file again: it was read, and nothing ran out."""
        return self.size >= 0 and not self.last


class Parser:
    """One child at a time, started when there is something to parse, and again when it has died."""

    def __init__(self, scanner: str = SCANNER) -> None:
        self._scanner = scanner
        self._child: _Child | None = None
        self._deaths = 0
        self._ms = 0.0

    def parse(self, requests: Sequence[Request]) -> list[Answer]:
        """An answer to each request, in their order.

        Raises:
            CkptToolError: Python cannot be started.
        """
        try:
            return self._parse([f"{json.dumps(request)}\n".encode("ascii") for request in requests])
        except BaseException:  # answers that nobody took would be those to the next requests
            self.close()
            raise

    def _parse(self, lines: list[bytes]) -> list[Answer]:
        answers: list[Answer] = []
        sent = 0
        while len(answers) < len(lines):
            if self._deaths >= _MOST_DEATHS or self._ms >= _MOST_MS:
                answers.append(Answer(error="is not parsed: the files before it took too long"))
                continue
            if self._child is None:
                self._child = _Child(self._scanner)
                sent = len(answers)
            while sent < len(lines) and _has_room(lines, len(answers), sent):
                self._child.ask(lines[sent])
                sent += 1
            answer = self._child.answer(_SECONDS_A_FILE)
            if answer is None:
                self._deaths += 1
                answer = Answer(error="cannot be parsed: it takes too long, or Python crashes")
                self.close()
            elif answer.last:
                self.close()
            self._ms += answer.ms
            answers.append(answer)
        return answers

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None


def _has_room(lines: list[bytes], answered: int, sent: int) -> bool:
    ahead = lines[answered : sent + 1]
    return len(ahead) == 1 or (len(ahead) <= _AHEAD and sum(map(len, ahead)) <= _AHEAD_NBYTES)


class _Child:
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
        if self._next(_SECONDS_TO_START) is None:
            self.close()
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

    def answer(self, seconds: float) -> Answer | None:
        """The next answer, None where there will be none."""
        found = self._next(seconds)
        return None if found is None else Answer(**found)

    def _next(self, seconds: float) -> dict[str, Any] | None:
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
