"""What `make demo` ends with can be typed, and answers on one screen."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from sample_models.write_demo import NEXT, main
from tests.support.documents import ROOT, Terminal


def test_what_it_says_next_can_be_typed_there(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    terminal = Terminal(folder, tmp_path)
    for command in NEXT:
        status, printed = terminal.type(command)
        assert status == (1 if command.split()[1] in ("diff", "lint") else 0), printed
        assert "error:" not in printed and len(printed.splitlines()) <= 45


def test_the_list_is_aligned_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--next"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  #")[0].strip() for line in lines] == list(NEXT)
    assert len({line.index("#") for line in lines}) == 1 and max(map(len, lines)) <= 100


def test_it_ends_in_one_screen(demo: Path, tmp_path: Path) -> None:
    recipe = re.search(r"^demo: venv\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe is not None
    shown = re.findall(r"\$\(BIN\)/ckpttool (inspect) \$\(DEMO\)/(\S+)", recipe[1])
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    printed = [Terminal(folder, tmp_path).type(f"ckpttool {verb} {name}")[1] for verb, name in shown]
    assert len(printed) == 1
    assert len(printed[0].splitlines()) + len(recipe[1].splitlines()) + len(NEXT) <= 40
