"""What a hostile file is and what must become of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One hostile input. ``error`` is a part of the refusal; where it is empty the file must read.

    ``content`` is the file, or makes it (lazily: bombs are large), or writes what is needed into a folder
    and gives the path to inspect. Of a file that reads, ``globals`` must be listed, ``names`` be its entries,
    and ``finding`` be reported.
    """

    name: str
    content: bytes | Callable[[], bytes] | Callable[[Path], str]
    error: str = ""
    globals: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    finding: str = ""
    suffix: str = ".pt"
    folder: bool = False  # content takes a folder
    alone: bool = False  # in a process of its own, so that its memory can be measured

    def build(self, folder: Path) -> str:
        """Write the input into an empty folder and return the path to inspect."""
        if self.folder:
            return self.content(folder)  # type: ignore[operator, return-value, call-arg]
        content = self.content() if callable(self.content) else self.content  # type: ignore[call-arg]
        path = folder / f"hostile{self.suffix}"
        path.write_bytes(content)  # type: ignore[arg-type]
        return str(path)
