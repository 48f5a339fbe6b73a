"""Trees of source for tests: each file leaves a mark when it is run, which none may."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ckpttool.kinds.source.packages import find_tree
from ckpttool.kinds.source.reader import Reader

SCANNER = "tests.support.source_summaries:scan"
LONG_AGO = time.time() - 3600


def write_tree(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write files that were last changed long ago; what is text leaves a mark in ``folder`` if it is run."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = f"open({str(folder / 'WAS_RUN')!r}, 'w').close()\n"
        path.write_bytes(content if isinstance(content, bytes) else (mark + content).encode())
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


def reader(text: str | Path) -> Reader:
    """A reader of what ``text`` names, with the scanner of these tests."""
    return Reader(find_tree(str(text)), SCANNER)


def classes_of(found: Reader) -> dict[str, list[str]]:
    """The classes of all modules."""
    return {module: list(summary["classes"]) for module, summary in found.read_all()}
