"""``python -m compatibility.suite``: the torch-free suite on every Python that is supported, without torch.

    python -m compatibility.suite [3.10 …] [--python EXECUTABLE …] [--lowest] [PYTEST OPTION …]

The torch-free suite is every test whose module can be imported where torch is not installed;
``tests/conftest.py`` skips the others, with that reason. Each Python gets a fresh environment with what
ckpttool needs but torch, at the versions of constraints.txt, or with ``--lowest`` at the oldest that
pyproject.toml allows. Prints Markdown for docs/compatibility.md, and exits 1 if a test failed or a Python was
not found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.tables import markdown_table
from compatibility.environments import ROOT, environment, find_interpreters

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TESTING = ("pytest", "pytest-xdist", "hypothesis")
SELECTION = ["-m", "not slow and not fuzz and not cuda", "-n", "2"]
WORDS = ("passed", "skipped", "failed", "error")


def requirements() -> list[str]:
    """What pyproject.toml depends on, without torch."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    if block is None:
        sys.exit("pyproject.toml has no dependencies")
    found = re.findall(r"""^\s*(["'])(.*)\1,$""", block[1], re.MULTILINE)
    return [line for _, line in found if not line.startswith("torch>")]


def installs(lowest: bool) -> list[list[str]]:
    """Arguments of each ``pip install``."""
    pinned = ["-c", "constraints.txt"]
    if not lowest:
        return [[*pinned, *requirements(), *TESTING]]
    # The oldest of ours, with whatever else they want at any version that they take.
    return [[line.replace(">=", "==", 1) for line in requirements()], [*TESTING]]


def versions_in(python: str) -> dict[str, str]:
    """Every distribution in an environment."""
    command = [python, "-m", "pip", "freeze"]
    freeze = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("==") for line in freeze.splitlines() if "==" in line)


def run_suite(python: str, arguments: list[str]) -> tuple[str, bool]:
    """pytest's last line, and whether it failed; all of its output goes to standard error."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(child.stdout)
    last = child.stdout.rstrip().rpartition("\n")[2]
    return last, child.returncode != 0


def main() -> int:
    """Run the versions that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="*", metavar="VERSION")
    parser.add_argument("--python", action="append", default=[], metavar="EXECUTABLE")
    parser.add_argument("--lowest", action="store_true", help="the oldest dependencies that are allowed")
    parser.add_argument("--folder", type=Path, help="where environments go (a temporary folder)")
    options, arguments = parser.parse_known_args()
    interpreters = find_interpreters(options.python)
    rows, bad = [], False
    for version in options.versions or PYTHONS:
        python = interpreters.get(version)
        if python is None:
            rows.append([version, "not found", *["-"] * len(WORDS)])
            bad = True
            continue
        with (
            tempfile.TemporaryDirectory(dir=options.folder) as name,
            environment(Path(name), python, *installs(options.lowest)) as inside,
        ):
            found = versions_in(inside)
            assert "torch" not in found
            last, failed = run_suite(inside, [*SELECTION, *arguments])
        bad = bad or failed
        counts = {word.rstrip("s"): number for number, word in re.findall(r"(\d+) (\w+)", last)}
        with_versions = ", ".join(
            f"{name} {found[name]}" for name in ("numpy", "safetensors", "typer", "rich")
        )
        rows.append([version, with_versions, *(counts.get(word, "0") for word in WORDS)])
    print(markdown_table(["Python", "with", *WORDS], rows))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
