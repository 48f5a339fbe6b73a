"""How work that takes long tells of itself: passed down to who works, and never imported by them."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what begins, how far it is, and that it is over."""

    def begin(self, doing: str, total: int) -> None:
        """Work of ``total`` bytes, or steps, begins; ``doing`` says in a word what."""

    def advance(self, done: int, doing: str = "") -> None:
        """So many more are done; ``doing`` is what the next step does."""

    def finish(self) -> None:
        """Nothing more will come."""


class Silent:
    """Nobody watches."""

    def begin(self, doing: str, total: int) -> None:
        """See ``Progress``."""

    def advance(self, done: int, doing: str = "") -> None:
        """See ``Progress``."""

    def finish(self) -> None:
        """See ``Progress``."""


SILENT: Progress = Silent()
