"""How a command ends: without a last look for cycles, unless a model's own code may wait for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

CODE = """
import atexit, gc, sys, types
if sys.argv.pop(1) == "with torch":
    sys.modules["torch"] = types.ModuleType("torch")
atexit.register(lambda: print("frozen" if gc.get_freeze_count() else "looked through", file=sys.stderr))
from ckpttool.cli import entry
entry()
"""


@pytest.mark.parametrize(("status", "name"), [(0, "a.pt"), (2, "none.pt")])
@pytest.mark.parametrize(("how", "said"), [("alone", "frozen"), ("with torch", "looked through")])
def test_what_is_left_is_looked_through_only_where_foreign_code_may_have_run(
    tmp_path: Path, how: str, said: str, status: int, name: str
) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    command = [sys.executable, "-c", CODE, how, "inspect", str(tmp_path / name), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (status, said)
    assert status or done.stdout.endswith("}\n")
