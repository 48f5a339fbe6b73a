"""Programs that tests need: ours as a shell finds it, and git."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.terminal import run_on_terminal

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


def run(*arguments: object, stdin: int = subprocess.DEVNULL, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ckpttool", *map(str, arguments)],
        stdin=stdin,
        capture_output=True,
        env={**os.environ, **env},
        timeout=60,
        encoding="utf-8",
    )


def on_terminal(*arguments: object, width: int = 100, folder: Path | None = None, **env: str) -> str:
    """What a terminal of ``width`` columns gets from both streams."""
    status, text = run_on_terminal(
        [sys.executable, "-m", "ckpttool", *map(str, arguments)],
        width=width,
        environment={**os.environ, "TERM": "xterm-256color", **env},
        folder=folder,
    )
    assert status == 0
    return text


def write_program(folder: Path) -> Path:
    """Put a ``ckpttool`` into ``folder``/bin that runs this Python, and return the folder it is in."""
    program = folder / "bin" / "ckpttool"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ckpttool "$@"\n', "utf-8")
    program.chmod(0o755)
    return program.parent
