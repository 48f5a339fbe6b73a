"""Work in child processes: a model that is built may crash, hang, print, or take all the memory."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, TypeVar

T = TypeVar("T")


class Failed(NamedTuple):
    """What a child could not do, in one line."""

    reason: str


def _start(work: Callable[[], Any], time_limit: int) -> tuple[int, IO[bytes]]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, os.fdopen(reader, "rb")
    os.close(reader)
    signal.alarm(time_limit)  # its default action ends the process
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        answer: Any = [work()]
    except BaseException as error:  # noqa: BLE001 - the parent reports it
        answer = f"{type(error).__name__}: {error}".split("\n")[0][:150]
    with os.fdopen(writer, "wb") as file:
        file.write(json.dumps(answer).encode())
    os._exit(0)


def run_children(
    tasks: Iterator[tuple[T, Callable[[], Any]]], jobs: int, time_limit: int
) -> Iterator[tuple[T, Any | Failed]]:
    """Do every task, ``jobs`` at a time, and give what it returned, as JSON gives it, with its name."""
    running: dict[int, tuple[T, int, IO[bytes]]] = {}
    while True:
        while len(running) < jobs and (task := next(tasks, None)) is not None:
            name, work = task
            pid, file = _start(work, time_limit)
            running[file.fileno()] = (name, pid, file)
        if not running:
            return
        for descriptor in select.select(list(running), [], [])[0]:
            name, pid, file = running.pop(descriptor)
            with file:
                data = file.read()
            os.waitpid(pid, 0)
            answer = json.loads(data) if data else f"no answer within {time_limit} s"
            yield name, Failed(answer) if isinstance(answer, str) else answer[0]
