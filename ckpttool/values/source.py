"""What was read in a package's source about an entry, and which packages were read for it."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, TypeAlias

How: TypeAlias = Literal["class", "leaf"]


class SourceEvidence(NamedTuple):
    """Where source registers an entry.

    ``file`` is relative to the folder that the package lies in (``mypkg/blocks.py``), "" for a class of
    torch, and ``line`` counts from 1 (0 without a file). ``how``: ``class``, a class that declares all
    that its module has, or ``leaf``, every class of the package that has the name. ``candidates`` counts
    the classes that say the same.
    """

    file: str
    line: int
    class_name: str
    how: How
    candidates: int


class SourceUsed(NamedTuple):
    """One package, folder or file whose source was asked for kinds; ``path`` is where it lies.

    ``files`` were read, ``unread`` could not be (their syntax, their size); ``cached`` of the files came
    from an earlier run. ``root`` is the class that fits the whole file, "" where none does; ``fits`` is the
    share of the modules with entries that some class covers.
    """

    package: str
    version: str
    path: str
    files: int
    unread: int
    classes: int
    cached: int
    parsed_ms: int
    root: str = ""
    fits: float = 0.0

    @property
    def title(self) -> str:
        """``timm 1.0.31``; of a file, or of what is no package, its name."""
        file = os.path.basename(os.path.normpath(self.path))  # of a folder it ends in a separator
        is_part = file.endswith(".py") and file != f"{self.package}.py"
        return file if is_part or not self.package else f"{self.package} {self.version}".strip()
