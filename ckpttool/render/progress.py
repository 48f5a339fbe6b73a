"""A line on stderr for what takes long: how much is done, and how fast."""

from __future__ import annotations

import os
import sys
import time

from ckpttool.render.units import bar
from ckpttool.values.progress import Progress
from ckpttool.values.words import format_nbytes

_FIRST = (
    1.0  # seconds before anything is drawn: what is done by then needs no line, and no estimate holds yet
)
_INTERVAL = 0.1  # seconds between two drawings
_CELLS = 24


class Bar(Progress):
    """Bytes done out of a total; draws only where a person watches. A ``Progress`` and a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._draws = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self._is_begun = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def begin(self, doing: str, total: int) -> None:
        """See ``Progress``."""
        self._is_begun = True
        self._what, self._total, self._done = doing, total, 0
        self._start = self._last = time.monotonic()

    def advance(self, done: int, doing: str = "") -> None:
        """See ``Progress``."""
        self._done += done
        now = time.monotonic()
        if not self._draws or now - self._last < _INTERVAL or now - self._start < _FIRST:
            return
        self._last = now
        share = self._share()
        drawn = bar(share, _CELLS).ljust(_CELLS)
        speed = self._done / (now - self._start)
        left = _format_seconds(max(0, self._total - self._done) / speed) if speed else "?"
        text = f"{self._what} {drawn} {100 * share:3.0f} % · {format_nbytes(int(speed))}/s · {left} left"
        self._draw(text)

    def finish(self) -> None:
        """Take the line away."""
        if self._is_begun:
            self._draw("")
        self._is_begun = False

    def _share(self) -> float:
        return min(1.0, self._done / self._total) if self._total else 1.0

    def _draw(self, text: str) -> None:
        if self._draws:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


class Steps(Bar):
    """Steps done out of a total, with what is being done."""

    def begin(self, doing: str, total: int) -> None:
        """Draw the line for the first step."""
        super().begin(doing, total)
        self.advance(0, doing)

    def advance(self, done: int, doing: str = "") -> None:
        """Draw the line for a step that begins."""
        self._done += done
        drawn = bar(self._share(), _CELLS).ljust(_CELLS)
        self._draw(f"{drawn} {self._done} of {self._total} · {doing}")


def _format_seconds(seconds: float) -> str:
    """Return ``7 s``, ``2 min 05 s`` or ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
