"""Writes what the fuzzer begins with: ``python -m fuzz.write_corpus FOLDER DICTIONARY``.

The folder gets the seeds, and what is small and quick of the hostile corpus; the dictionary gets the words
that the mutations know, for libFuzzer's own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.hostile import pickles as op
from tests.hostile.cases import CASES
from tests.hostile.mutate_json import TEXTS as json_words
from tests.hostile.mutate_pickle import GLOBALS
from tests.hostile.mutate_pickle import TEXTS as pickle_words
from tests.hostile.seeds import seeds

_MAX_NBYTES = 1 << 13


def write_dictionary(path: Path) -> None:
    """Globals, names, and the magic numbers of zips, one a line, in libFuzzer's syntax."""
    words = {text.encode("utf-8", "surrogatepass") for text in (*json_words, *pickle_words) if text}
    words |= {op.GLOBAL(*name.split(":")) for name in GLOBALS}
    words |= {b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"}
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in sorted(words)]
    path.write_text("".join(lines))


def write_files(folder: Path) -> None:
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
    write_files(Path(sys.argv[1]))
    write_dictionary(Path(sys.argv[2]))
