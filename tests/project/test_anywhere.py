"""The tool that runs the tests elsewhere makes the surroundings that the page promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.programs import needs_checkout
from tools import anywhere
from tools.anywhere import STRANGE_FOLDER, SURROUNDINGS, Surroundings, why_not

ROOT = Path(__file__).parents[2]


def test_page_lists_all_surroundings() -> None:
    page = (ROOT / "docs/releasing.md").read_text("utf-8").partition("## Anywhere")[2]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", page, re.MULTILINE)
    assert [name for row in rows[1:] for name in row.split(", ")] == list(SURROUNDINGS)


def test_what_cannot_be_had_here_is_skipped_with_the_reason(tmp_path: Path) -> None:
    missing = Surroundings(command=("no-such-program",))
    assert why_not(missing) == "no no-such-program here"
    outcome = anywhere.run(missing, tmp_path / "work", tmp_path / "log")
    assert outcome == ("skipped: no no-such-program here", False)
    assert list(tmp_path.iterdir()) == []
    assert "is not there" in why_not(Surroundings(temporary=str(tmp_path / "nowhere")))


@pytest.mark.slow
@needs_checkout
@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_clone_runs_with_these_packages(on_terminal: bool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    where = Surroundings({"TZ": "UTC"}, pytest="--version", folder=STRANGE_FOLDER, on_terminal=on_terminal)
    assert anywhere.run(where, tmp_path, log).failed is False
    printed = log.read_text("utf-8")
    assert "-m pytest" in printed and re.search(r"^pytest \d", printed, re.MULTILINE)
    assert "pip install" not in printed  # nothing is fetched
    (clone,) = tmp_path.glob(f"{STRANGE_FOLDER}/ckpttool")
    assert (clone / ".venv" / "bin" / "ckpttool").exists()
