"""Writes the seeds and what is small and quick of the hostile corpus: ``python -m fuzz.write_corpus DIR``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.hostile.cases import CASES
from tests.hostile.seeds import seeds

_MAX_NBYTES = 1 << 13


def main(folder: Path) -> None:
    """One file for each, under a name that says where it comes from."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, files in seeds().items():
        for number, content in enumerate(files):
            (folder / f"seed-{kind}-{number}").write_bytes(content)
    for number, case in enumerate(CASES.values()):
        # What is slow by design would be tried again and again.
        if case.folder or case.name.startswith("bomb:"):
            continue
        with tempfile.TemporaryDirectory() as home:
            path = Path(case.build(Path(home)))
            if path.is_file() and path.stat().st_size <= _MAX_NBYTES:
                (folder / f"hostile-{number:03}").write_bytes(path.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
