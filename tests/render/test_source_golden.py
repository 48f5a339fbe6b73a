"""What `inspect` and `diff` show of kinds from source, whole; in golden files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ckpttool.render.tables import cell_width
from tests.support.goldens import View, check, show, type_command
from tests.support.sourced import MARK, write_tiny

CASES = {
    "right": [
        "ckpttool inspect net.safetensors --source ./tiny",
        "ckpttool inspect net.safetensors --source tiny/blocks.py:Net --flat",
        "ckpttool inspect net.safetensors --source ./tiny --tensor blocks.1.table",
        "ckpttool inspect net.safetensors --source ./tiny --tensor extra",
        "ckpttool inspect net.safetensors --source ./other --source ./tiny --quiet",
    ],
    "wrong": [
        "ckpttool inspect net.safetensors --source ./other",
        "ckpttool inspect net.safetensors --source auto",
    ],
    "diff": [
        "ckpttool diff net.safetensors net.pt --source ./tiny --all",
        "ckpttool diff net.safetensors net.pt --source ./tiny --only buffers",
    ],
    "errors": [
        "ckpttool inspect net.safetensors --source tiny",
        "ckpttool inspect net.safetensors --source nosuchpackage",
        "ckpttool inspect net.safetensors --source ./tiny:Nett",
        "ckpttool inspect net.safetensors --source ./nothing",
        "ckpttool inspect net.safetensors --source net.pt",
        "ckpttool inspect net.safetensors --source ./net.pt",
        "ckpttool inspect net.safetensors --source ''",
        "ckpttool inspect tiny/blocks.py:Net --source ./tiny",
        "ckpttool diff net.safetensors net.pt --source ./nothing",
    ],
}


def prepare(folder: Path) -> None:
    write_tiny(folder)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTTOOL_NO_CACHE", "1")


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path, update_golden: bool) -> None:
    text = re.sub(r'(?<="parsed_ms":)( ?)\d+', r"\1MS", show(CASES[case], prepare, tmp_path))
    check(f"source_{case}", text, update=update_golden)
    assert not list(tmp_path.rglob(MARK))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", [*CASES["right"][:2], *CASES["wrong"], *CASES["diff"]])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, command: str, width: int) -> None:
    prepare(tmp_path)
    shown = type_command(command, View("", width), tmp_path)
    lines = shown.splitlines()[2:]
    assert [line for line in lines if cell_width(line) > width] == []
