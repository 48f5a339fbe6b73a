"""A line on stderr for what takes long: how much is done, and how fast."""

from __future__ import annotations

import os
import sys
import time

from ckpttool.render.units import bar
from ckpttool.values.words import format_nbytes

_INTERVAL = 0.1  # seconds between two drawings
_CELLS = 24


class Bar:
    """Bytes done out of a total; draws only where a person watches. A ``Progress`` and a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._draws = _draws(quiet)
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

    def advance(self, nbytes: int) -> None:
        """See ``Progress``."""
        self._done += nbytes
        now = time.monotonic()
        if not self._draws or now - self._last < _INTERVAL:
            return
        self._last = now
        share = min(1.0, self._done / self._total) if self._total else 1.0
        speed = self._done / (now - self._start)
        drawn = bar(share, _CELLS).ljust(_CELLS)
        left = _format_seconds(max(0, self._total - self._done) / speed) if speed else "?"
        text = f"{self._what} {drawn} {100 * share:3.0f} % · {format_nbytes(int(speed))}/s · {left} left"
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    def finish(self) -> None:
        """Take the line away."""
        if self._draws and self._is_begun:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._is_begun = False


def _draws(quiet: bool) -> bool:
    return sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"


def _format_seconds(seconds: float) -> str:
    """Return ``7 s``, ``2 min 05 s`` or ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Steps:
    """Steps done out of a total, with what is being done; drawn only where a person watches."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._draws = _draws(quiet)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the line away."""
        if self._draws:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, doing: str, done: int, total: int) -> None:
        """Draw the line for a step that begins."""
        if not self._draws:
            return
        drawn = bar(done / total if total else 1.0, _CELLS).ljust(_CELLS)
        sys.stderr.write(f"\r\x1b[K{drawn} {done} of {total} · {doing}")
        sys.stderr.flush()
