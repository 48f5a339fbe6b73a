"""How work that takes long tells of itself: passed down to who works, and made by none of them."""

from __future__ import annotations


class Progress:
    """Told what begins, how far it is, and that it is over. As it is, nobody watches."""

    def begin(self, doing: str, total: int) -> None:
        """Work of ``total`` bytes, or steps, begins; ``doing`` says in a word what."""

    def advance(self, done: int, doing: str = "") -> None:
        """So many more are done; ``doing`` is what the next step does."""

    def finish(self) -> None:
        """Nothing more will come."""


SILENT = Progress()
