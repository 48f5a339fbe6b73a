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
_PIPE_WIDTH = 100

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
    """A stream that a person or a program reads; ``color`` is ``auto``, ``always`` or ``never``."""

    def __init__(self, stream: TextIO, color: str = "auto") -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self._color = color

    @property
    def width(self) -> int:
        """Columns: ``$COLUMNS``, else the terminal's own, else 80; where there is none, 100."""
        columns = os.environ.get("COLUMNS", "")
        if columns.isascii() and columns.isdigit() and 0 < int(columns[:6]):
            return int(columns[:6])
        if not self.is_terminal:
            return _PIPE_WIDTH
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or _DEFAULT_WIDTH
        except (OSError, ValueError):
            return _DEFAULT_WIDTH

    @property
    def has_colour(self) -> bool:
        """What ``--color`` says, else ``$NO_COLOR``, ``$FORCE_COLOR``, ``$CLICOLOR_FORCE``, ``$CLICOLOR=0``.

        Where none of them is set: on a terminal, unless ``$TERM`` is ``dumb``.
        """
        if self._color != "auto":
            return self._color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        if any(os.environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
            return True
        return self.is_terminal and os.environ.get("CLICOLOR") != "0" and os.environ.get("TERM") != "dumb"

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
        # Whether there is colour is decided: Rich would ask the terminal and the environment once more.
        console = Console(
            file=self.stream,
            width=self.width,
            force_terminal=True,
            color_system="256",
            no_color=False,
            markup=False,
            highlight=False,
            emoji=False,
        )
        console.print(Segments(segments), end="", soft_wrap=True)

    def _speaks_unicode(self) -> bool:
        try:
            "×·…─█Δ▁".encode(self.stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return True
