"""Interpreters that are there, and virtual environments that are gone when they were used."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version_of(python: str) -> str | None:
    """``3.8`` of an interpreter, or None if it does not run (a shim of a version manager may not)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def find_interpreters(given: Sequence[str]) -> dict[str, str]:
    """Executable by version: those that are given, this one, and any ``python3.N`` on PATH that runs."""
    found: dict[str, str] = {}
    candidates = [*given, sys.executable]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        candidates += sorted(str(path) for path in Path(folder or ".").glob("python3.[0-9]*[0-9]"))
    for python in candidates:
        version = version_of(python)
        if version is None and python in given:
            sys.exit(f"{python} does not run")
        if version is not None:
            found.setdefault(version, python)
    return found


@contextlib.contextmanager
def environment(folder: Path, python: str, *installs: Sequence[str]) -> Iterator[str]:
    """The interpreter of a fresh environment after each ``pip install``; all of it is deleted at the end.

    Raises:
        subprocess.CalledProcessError: pip failed; its own words are on standard error.
    """
    home = folder / "environment"
    try:
        subprocess.run([python, "-m", "venv", str(home)], check=True)
        inside = str(home / "bin" / "python")
        for arguments in installs:
            quiet = ["--quiet", "--disable-pip-version-check"]
            subprocess.run([inside, "-m", "pip", "install", *quiet, *arguments], check=True, cwd=ROOT)
        yield inside
    finally:
        shutil.rmtree(home, ignore_errors=True)
