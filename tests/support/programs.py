"""Programs that tests need: ours as a shell finds it, and git."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def why_no_checkout() -> str:
    """Why git cannot be asked about the sources, or nothing."""
    if not (ROOT / ".git").exists():  # though a folder above may be a checkout
        return "no .git here"
    if shutil.which("git") is None:
        return "git is not installed"
    asked = subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True)
    return asked.stderr.decode(errors="replace").partition("\n")[0] if asked.returncode else ""


WHY_NO_CHECKOUT = why_no_checkout()
needs_checkout = pytest.mark.skipif(bool(WHY_NO_CHECKOUT), reason=f"needs a git checkout: {WHY_NO_CHECKOUT}")


def write_program(folder: Path) -> Path:
    """Put a ``ckpttool`` into ``folder``/bin that runs this Python, and return the folder it is in."""
    program = folder / "bin" / "ckpttool"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ckpttool "$@"\n', "utf-8")
    program.chmod(0o755)
    return program.parent
