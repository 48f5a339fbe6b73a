"""A pager for what is longer than the screen, as git has it: ``$CKPTTOOL_PAGER``, ``$PAGER``, ``less``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

_VARIABLES = ("CKPTTOOL_PAGER", "PAGER")
_DEFAULT = "less"
_FOR_PAGERS = {"LESS": "FRX", "LV": "-c"}
"""What pagers are told where the user does not: end on one screen, take colours, leave the text there."""


def pager_command() -> list[str]:
    """Return the words of the pager's command line; none where it is empty, ``cat``, or makes no words.

    A terminal that is ``dumb`` has none: it could not scroll.
    """
    if os.environ.get("TERM") == "dumb":
        return []
    chosen = next((os.environ[name] for name in _VARIABLES if name in os.environ), _DEFAULT)
    try:
        words = shlex.split(chosen)
    except ValueError:
        return []
    return [] if words == ["cat"] else words


def page(text: str, stream: TextIO, command: Sequence[str]) -> bool:
    """Show ``text`` in a pager that writes to ``stream``; False where it cannot be started.

    Whoever reads may leave before the end, and may type Ctrl-C: both are the pager's business. Its exit
    status says nothing of the checkpoint.
    """
    import subprocess

    stream.flush()
    with _interrupts_left_to_the_pager():
        try:
            pager = subprocess.Popen(  # noqa: S603 - the words come from the user's environment, and no shell
                command, stdin=subprocess.PIPE, stdout=stream.fileno(), env={**_FOR_PAGERS, **os.environ}
            )
        except OSError:
            return False
        pager.communicate(text.encode(stream.encoding or "ascii", "backslashreplace"))
    return True


@contextmanager
def _interrupts_left_to_the_pager() -> Iterator[None]:
    """Until the pager has ended. It gets the signal itself: a handler, unlike SIG_IGN, is not inherited."""
    import signal

    try:
        before = signal.signal(signal.SIGINT, lambda number, frame: None)
    except ValueError:  # not in the main thread, which alone is interrupted
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
