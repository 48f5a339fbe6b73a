"""Strange but legal files through every command: none may be refused, and what is converted is the same.

The files are those of ``test_strange_but_legal``; they run under the same watch as the hostile ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.formats.test_strange_but_legal import CONTAINERS, STRUCTURES, composites
from tests.formats.test_strange_objects import OBJECTS
from tests.hostile.test_hostile import (
    COMMANDS,
    PIPES,
    TERMINALS,
    VERIFY,
    check_harmless,
    check_status,
    run_files,
)
from tests.support.strange import saved
from tests.support.warm import Warm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NO_LEGACY_CLASS = {"odd widths", "float8", "one storage, uint8 and float8"}


def files() -> dict[str, Callable[[], bytes]]:
    """Every file by name."""
    found = {f"container: {name}": make for name, make in CONTAINERS.items()}
    for name, value in STRUCTURES.items():
        found[f"structure: {name}"] = lambda value=value: saved(value)
        if name not in NO_LEGACY_CLASS:
            found[f"legacy structure: {name}"] = lambda value=value: saved(value, legacy=True)
    for name, value in OBJECTS.items():
        beside = {"w": torch.arange(3), "object": value, "last": torch.ones(2)}
        found[f"object: {name}"] = lambda beside=beside: saved(beside)
        found[f"object, protocol 4: {name}"] = lambda beside=beside: saved(beside, pickle_protocol=4)
        found[f"object, legacy: {name}"] = lambda beside=beside: saved(beside, legacy=True)
    for name in ("per tensor", "per channel", "coo", "csr", "bsr", "nested"):
        found[f"composite: {name}"] = lambda name=name: saved({"w": composites()[name][0]})
    return found


FILES = files()
BATCHES = sorted({name.partition(":")[0] for name in FILES})


def builder(make: Callable[[], bytes]) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        (folder / "strange.pt").write_bytes(make())
        return str(folder / "strange.pt")

    return build


@pytest.mark.parametrize("with_torch", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_command_reads_it(batch: str, with_torch: bool, request: pytest.FixtureRequest) -> None:
    reader: Warm = request.getfixturevalue("reader_with_torch" if with_torch else "reader")
    builders = {name: builder(make) for name, make in FILES.items() if name.partition(":")[0] == batch}
    runs = VERIFY if with_torch else [*PIPES, TERMINALS[0], *COMMANDS]
    results = run_files(reader, builders, dict.fromkeys(builders, runs), read=False)
    converted = 0
    for name, result in results.items():
        check_harmless(result)
        for run in result["runs"]:
            check_status(run, readable=True)
            converted += run["argv"][0] == "convert" and run["status"] == 0
            # What the destination cannot hold (objects, a flattened tree) is a difference, never a failure.
            assert run.get("output_diff", 0) in (0, 1), (name, run)
    assert with_torch or converted >= len(builders) // 2
