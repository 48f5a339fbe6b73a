"""Write what the tests read: python -m tests.support.written FOLDER prints a digest of each file, as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path

from sample_models.write_demo import write_demo
from tests.commands.test_strange_commands import FILES
from tests.hostile.cases import CASES
from tests.hostile.seeds import seeds


def digests(folder: Path) -> dict[str, str]:
    """The demo, strange but legal files, hostile ones but for bombs, and seeds of mutations, by name."""
    contents = {f"strange: {name}": make() for name, make in FILES.items()}
    for kind, files in seeds().items():
        contents |= {f"seed: {kind} {number}": content for number, content in enumerate(files)}
    write_demo(folder / "demo")
    for number, case in enumerate(case for case in CASES.values() if not case.alone):
        home = folder / "hostile" / str(number)
        home.mkdir(parents=True)
        case.build(home)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            contents[str(path.relative_to(folder))] = path.read_bytes()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    json.dump(digests(Path(sys.argv[1])), sys.stdout)
