"""``--help``: every option explained, nothing cut, and examples that run on what ``make demo`` writes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ckpttool import cli
from ckpttool.render.console import Screen
from tests.support.documents import ROOT, Terminal, read_page

COMMANDS = [name for name, _ in cli.COMMANDS]
PAGES = {name: f"docs/{name}.md" for name in COMMANDS} | {
    "git-textconv": "docs/git.md",
    "schema": "docs/json.md",
}
OPTION = re.compile(r"^  (-[^\n]*?)(?:  +(\S.*))?$", re.MULTILINE)


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main([*filter(None, [command]), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def examples(text: str) -> list[tuple[str, int]]:
    """The examples of a help text, each with the status that it says."""
    found = []
    for line in text.partition("Examples, in the folder that `make demo` writes:\n")[2].splitlines():
        command, _, status = line.strip().partition("   # status ")
        found.append((command, int(status or 0)))
    return found


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_examples_run_and_end_as_they_say(
    command: str, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = examples(help_of(command, capsys))
    assert len(found) >= 2
    folder = tmp_path / "demo"
    shutil.copytree(demo, folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)  # for the example of git-textconv
    terminal = Terminal(folder, tmp_path)
    for example, status in found:
        assert terminal.type(example)[0] == status, example


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_nothing_is_cut_and_every_option_is_explained(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = help_of(command, capsys)
    lines = text.splitlines()
    assert max(map(len, lines)) <= min(width, 120)
    assert width == 80 or command == "git-textconv" or max(map(len, lines)) > 80
    for match in OPTION.finditer(text, text.index("\nArguments:\n" if command else "\nOptions:\n")):
        explained = match[2] or lines[text.count("\n", 0, match.start()) + 1].startswith(" " * 20)
        assert explained, match[0]
    if command:
        heads = re.findall(r"^(\w[\w ]+):$", text, re.MULTILINE)
        assert heads == [*dict.fromkeys(heads)]
        assert (heads[0], heads[-1]) == ("Arguments", "Output")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_colours_are_all_that_a_terminal_adds(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = help_of(command, capsys)
    monkeypatch.setattr(Screen, "has_colour", True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    painted = help_of(command, capsys)
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == plain
    named = set(re.findall(r"\x1b\[36m(.*?)\x1b", painted))
    assert named >= {
        match[1] for match in OPTION.finditer(plain, plain.index("\nOptions:" if not command else "\nArg"))
    }
    assert named >= (set() if command else set(COMMANDS))
    assert {"\x1b[1mUsage:\x1b[0m"} <= set(painted.split(" "))
    assert painted.count("\x1b[32m") == len(examples(plain))


@pytest.mark.parametrize("command", COMMANDS)
def test_page_of_the_command_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        match[1] for match in re.finditer(r"^  (?:-q, )?(--[a-z-]+)", help_of(command, capsys), re.MULTILINE)
    }
    page = read_page(PAGES[command])
    missing = sorted(option for option in options if not re.search(rf"{option}(?![\w-])", page))
    assert missing == []


def test_every_page_that_a_help_names_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    named = {
        page for command in COMMANDS for page in re.findall(r"docs/[\w-]+\.md", help_of(command, capsys))
    }
    assert len(named) >= 3
    assert [page for page in named if not (ROOT / page).exists()] == []
