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

# Colours of the fixed 256, which a theme does not move: each reads on black and on white, with a contrast of
# at least 4 : 1 (WCAG 2.1). Terminals of fewer colours get the nearest that they have.
STYLES = {
    "title": "bold",
    "head": "dim",
    "rule": "dim",
    "dim": "dim",
    "count": "bold",
    "parameter": "color(30)",
    "buffer": "color(130)",
    "missing": "color(133)",
    "state": "color(63)",
    "unknown": "color(243)",
    "error": "bold color(161)",
    "warning": "bold color(130)",
    "info": "bold color(30)",
    "good": "color(28)",
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
        return self._size("COLUMNS") or (_DEFAULT_WIDTH if self.is_terminal else _PIPE_WIDTH)

    @property
    def height(self) -> int | None:
        """Lines: ``$LINES``, else the terminal's own, None where neither says."""
        return self._size("LINES") or None

    def _size(self, variable: str) -> int:
        said = os.environ.get(variable, "")
        if said.isascii() and said.isdigit() and 0 < int(said[:6]):
            return int(said[:6])
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return 0
        return size.columns if variable == "COLUMNS" else size.lines

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

    def write_lines(self, lines: Iterable[Line], *, pages: bool = False) -> None:
        """Write lines of spans, in colour where that is wanted; ``pages``: in a pager what is too long."""
        if self.has_colour:
            text = self._paint(lines)
        else:
            text = self._spelled(
                "".join(["".join([span.text for span in line]).rstrip() + "\n" for line in lines])
            )
        if not (pages and self._page(text)):
            self.stream.write(text)

    def write(self, text: str) -> None:
        """Write a text without colour; what the stream cannot say is spelled in ASCII."""
        self.stream.write(self._spelled(text))

    def _spelled(self, text: str) -> str:
        return text if self._speaks_unicode() else text.translate(_ASCII)

    def _page(self, text: str) -> bool:
        height = self.height if self.is_terminal else None
        if height is None or text.count("\n") < height:
            return False
        from ckpttool.render.pager import page, pager_command

        command = pager_command()
        return bool(command) and page(text, self.stream, command)

    def _paint(self, lines: Iterable[Line]) -> str:
        from io import StringIO

        from rich.console import Console
        from rich.segment import Segment, Segments
        from rich.style import Style

        styles = {name: Style.parse(style) for name, style in STYLES.items()}
        table = None if self._speaks_unicode() else _ASCII
        segments = []
        for line in lines:
            for text, style in line:
                segments.append(Segment(text if table is None else text.translate(table), styles.get(style)))
            segments.append(Segment.line())
        out = StringIO()
        # Whether there is colour is decided: Rich would ask the terminal and the environment once more.
        console = Console(
            file=out,
            width=self.width,
            force_terminal=True,
            color_system="256",
            no_color=False,
            markup=False,
            highlight=False,
            emoji=False,
        )
        console.print(Segments(segments), end="", soft_wrap=True)
        return out.getvalue()

    def _speaks_unicode(self) -> bool:
        try:
            "×·…─█Δ▁".encode(self.stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return True
