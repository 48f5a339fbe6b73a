"""Where text goes: its width, its colours, and what the stream's encoding can say.

Rich paints; it is imported only when something is painted. Strings are handed to it as segments,
which it neither parses as markup nor highlights nor wraps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TextIO

from ckpttool.render.tables import Line

_DEFAULT_WIDTH = 80

_STYLES = {
    "title": "bold",
    "head": "dim",
    "rule": "dim",
    "dim": "dim",
    "count": "bold",
    "parameter": "cyan",
    "buffer": "yellow",
    "missing": "magenta",
    "state": "blue",
    "unknown": "red",
    "error": "bold red",
    "warning": "bold yellow",
    "info": "bold blue",
    "good": "green",
}

# For terminals that cannot say them; each keeps its width.
_ASCII = str.maketrans("×·…—–─←→≈Δ▁▂▃▄▅▆▇▏▎▍▌▋▊▉█", "x-~---<>~d.:-=+*%########")


class Screen:
    """A stream that a person or a program reads."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()

    @property
    def width(self) -> int:
        """Columns: ``$COLUMNS``, else the terminal's own, else 80."""
        columns = os.environ.get("COLUMNS", "")
        if columns.isascii() and columns.isdigit() and 0 < int(columns[:6]):
            return int(columns[:6])
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or _DEFAULT_WIDTH
        except (OSError, ValueError):
            return _DEFAULT_WIDTH

    @property
    def has_colour(self) -> bool:
        """True on a terminal, unless ``$NO_COLOR`` is set or ``$TERM`` is ``dumb``."""
        return self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def write_lines(self, lines: Iterable[Line]) -> None:
        """Write lines of spans, in colour where that is wanted."""
        if self.has_colour:
            self._paint(lines)
            return
        self.write("".join("".join([span.text for span in line]).rstrip() + "\n" for line in lines))

    def write(self, text: str) -> None:
        """Write a text without colour; what the stream cannot say is spelled in ASCII."""
        self.stream.write(text if self._speaks_unicode() else text.translate(_ASCII))

    def _paint(self, lines: Iterable[Line]) -> None:
        from rich.console import Console
        from rich.segment import Segment, Segments
        from rich.style import Style

        styles = {name: Style.parse(style) for name, style in _STYLES.items()}
        table = None if self._speaks_unicode() else _ASCII
        segments = []
        for line in lines:
            for text, style in line:
                segments.append(Segment(text if table is None else text.translate(table), styles.get(style)))
            segments.append(Segment.line())
        console = Console(file=self.stream, width=self.width, markup=False, highlight=False, emoji=False)
        console.print(Segments(segments), end="", soft_wrap=True)

    def _speaks_unicode(self) -> bool:
        try:
            "×·…─█Δ▁".encode(self.stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return True
