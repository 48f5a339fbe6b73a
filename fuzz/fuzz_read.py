"""The atheris target: ``tests.hostile.exercise`` on whatever the fuzzer comes up with.

    python -m fuzz.fuzz_read [--finds FOLDER] CORPUS [libFuzzer's options]

One target is enough: the first bytes decide which reader is asked, and the custom mutator knows every
structure, so each reader's part of the corpus grows by itself. With ``--finds`` the run goes on after a find:
each is written to the folder, once for each place that it is raised at.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from random import Random
from typing import Any

SLOWNESS = 6.0  # what instrumentation costs: 90 files a second instead of 500
_MOST_FROM_LIBFUZZER = 8  # one mutation in so many is libFuzzer's own


def test_one_input(data: bytes, slowness: float = SLOWNESS) -> None:
    """Write ``data`` as a file, or as a folder of files, and do everything with it.

    Raises:
        BaseException: ``data`` is a find.
    """
    from tests.hostile.exercise import try_out

    try_out(data, slowness)


def mutate_input(data: bytes, max_size: int, seed: int) -> bytes:
    """The custom mutator: structure first, libFuzzer's own now and then (it knows the dictionary)."""
    return cross_over(data, b"", max_size, seed)


def cross_over(data: bytes, other: bytes, max_size: int, seed: int) -> bytes:
    """The same, with opcodes from ``other``, or from a seed if there is none."""
    from tests.hostile.mutations import mutate
    from tests.hostile.seeds import seeds

    rnd = Random(seed)
    if rnd.randrange(_MOST_FROM_LIBFUZZER):
        donor = other or rnd.choice(rnd.choice(list(seeds().values())))
        changed = mutate(data, rnd, donor)
        if len(changed) <= max_size:
            return changed
    import atheris

    mutated: bytes = atheris.Mutate(data, max_size)
    return mutated


class Collector:
    """Runs the target and keeps each kind of find once, so that one find does not end the run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.known: set[str] = set()

    def __call__(self, data: bytes) -> None:
        """Try ``data``; what it raises becomes two files."""
        try:
            test_one_input(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever escapes is a find
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "/ckpttool/" in frame.filename] or frames
            name = f"{type(error).__name__}-{Path(ours[-1].filename).stem}-{ours[-1].lineno}"
            if name not in self.known:
                self.known.add(name)
                (self.folder / name).write_bytes(data)
                (self.folder / f"{name}.txt").write_text(traceback.format_exc())
                sys.stderr.write(f"FIND {name}: {error!s:.200}\n")


def main(argv: list[str]) -> None:
    """Instrument ckpttool, and only that, and hand over to atheris."""
    import atheris

    with atheris.instrument_imports(include=["ckpttool"]):
        import tests.hostile.exercise  # noqa: F401 - imports every module of ckpttool that it runs

    target: Any = test_one_input
    if "--finds" in argv:
        at = argv.index("--finds")
        target = Collector(Path(argv[at + 1]))
        argv = argv[:at] + argv[at + 2 :]
    atheris.Setup(argv, target, custom_mutator=mutate_input, custom_crossover=cross_over)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
