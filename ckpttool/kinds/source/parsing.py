"""Has source parsed by a child process (``child``), and outlives whatever becomes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ckpttool.kinds.source.process import Child

SCANNER = "ckpttool.kinds.source.scan:scan_module"
"""What makes a summary of a file, a ``child.Scan``, as ``module:function``."""

_SECONDS_A_FILE = 20.0  # the slowest file within the limits takes 2
_MOST_MS = 180_000.0  # CPU time of all files: the 2,912 of transformers take 20 s
_MOST_DEATHS = 5  # of children; a tree that has killed so many gets no other
# Requests written before their answers were read: enough to keep a child busy, and so few that a pipe always
# takes them (4 KiB, where a user has too many), else both would wait for each other.
_AHEAD = 16
_AHEAD_NBYTES = 4096


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
        self._child: Child | None = None
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
                from ckpttool.kinds.source.process import Child  # where nothing is parsed, it is not needed

                self._child = Child(self._scanner)
                sent = len(answers)
            while sent < len(lines) and _has_room(lines, len(answers), sent):
                self._child.ask(lines[sent])
                sent += 1
            found = self._child.answer(_SECONDS_A_FILE)
            if found is None:
                self._deaths += 1
                answer = Answer(error="cannot be parsed: it takes too long, or Python crashes")
                self.close()
            else:
                answer = Answer(**found)
            if answer.last:
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
