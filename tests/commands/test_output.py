"""Forms of output: each of every command, what decides on colour, and errors as documents."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ckpttool import cli
from ckpttool.commands import options
from ckpttool.commands.parser import wants_json
from ckpttool.render.console import Screen
from ckpttool.render.tables import Span
from ckpttool.values.errors import CkptToolError
from tests.support.goldens import Stream
from tests.support.schemas import problems


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = cli.main([*map(str, words)])
    return status, *capsys.readouterr()


@pytest.fixture
def commands(files: Path, tmp_path: Path) -> Mapping[str, list[str]]:
    good, values = str(files / "good.safetensors"), str(files / "values.safetensors")
    return {
        "inspect": ["inspect", values],
        "diff": ["diff", good, values],
        "convert": ["convert", good, str(tmp_path / "a.pt"), "--dry-run"],
        "lint": ["lint", "sample_models.running_mean:build"],
        "verify": [
            "verify",
            str(files / "run.pt"),
            "--model",
            "sample_models.running_mean:build",
            "--load",
            "copy",
        ],
    }


@pytest.mark.parametrize("name", ["inspect", "diff", "convert", "lint", "verify"])
def test_every_form_of_every_command(
    name: str, commands: Mapping[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*commands[name], *(["--device", "cpu"] if name == "verify" else [])]

    def shown(*more: str) -> str:
        out = call(capsys, *words, *more)[1]
        return out if name != "verify" else out.partition('"seconds"')[0]

    assert shown("--format", "tsv") == shown()  # what a pipe gets
    assert shown("--format", "json") == shown("--json") == shown("--json", "--format=json")
    table, markdown = shown("--format", "table"), shown("--format", "md")
    assert "\t" not in table and "\x1b" not in table + markdown
    assert name == "convert" or max(map(len, table.splitlines())) <= 100  # paths are never cut
    assert "\x1b[" in shown("--format", "table", "--color", "always")
    assert "\x1b" not in shown("--color", "always")  # tabs are for programs
    assert len({table, markdown, shown(), shown("--json")}) == 4


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--json", "--format", "tsv"], "--format: tsv contradicts --json"),
        (["--format", "xml"], "--format: xml is not one of table, tsv, json, md"),
        (["--color", "sometimes"], "--color: sometimes is not one of auto, always, never"),
    ],
)
def test_what_contradicts_is_one_sentence(
    typed: list[str], said: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = call(capsys, "inspect", files / "good.safetensors", *typed)
    assert (status, err.splitlines()[0]) == (2, f"error: invalid value for {said}")


AUTO = "auto"


@pytest.mark.parametrize(
    ("color", "environment", "terminal", "pipe"),
    [
        (AUTO, {}, True, False),
        (AUTO, {"TERM": "dumb"}, False, False),
        (AUTO, {"CLICOLOR": "0"}, False, False),
        (AUTO, {"CLICOLOR": "1"}, True, False),
        (AUTO, {"FORCE_COLOR": "1"}, True, True),
        (AUTO, {"FORCE_COLOR": "0"}, True, False),
        (AUTO, {"FORCE_COLOR": ""}, True, False),
        (AUTO, {"CLICOLOR_FORCE": "1", "CLICOLOR": "0"}, True, True),
        (AUTO, {"NO_COLOR": "1", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}, False, False),
        (AUTO, {"NO_COLOR": "", "FORCE_COLOR": "3", "TERM": "dumb"}, True, True),
        ("always", {"NO_COLOR": "1", "TERM": "dumb"}, True, True),
        ("never", {"FORCE_COLOR": "1"}, False, False),
    ],
)
def test_what_decides_on_colour(
    color: str, environment: dict[str, str], terminal: bool, pipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for is_terminal, expected in ((True, terminal), (False, pipe)):
        stream = Stream(is_terminal=is_terminal)
        screen = Screen(stream, color)
        screen.write_lines([[Span("x", "error")]])
        assert screen.has_colour is expected is ("\x1b[" in stream.getvalue())


def test_how_wide_a_table_is_where_no_terminal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Screen(io.StringIO()).width == 100
    monkeypatch.setenv("COLUMNS", "60")
    assert Screen(io.StringIO()).width == 60


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "none.pt", "--json"],
        ["inspect", "none.pt", "--format", "json"],
        ["inspect", "--json"],
        ["inspect", "--json", "--fail-on", "x", "a"],
        ["inspect", "--nosuch", "--format=json"],
        ["nosuch", "--json"],
        ["diff", "none.pt", "none.pt", "--json"],
        ["convert", "none.pt", "a.safetensors", "--json"],
        ["convert", "none.pt", "a.unknown", "--json"],
        ["verify", "none.pt", "--model", "no:build", "--json"],
        ["lint", "nosuch:build", "--json", "--quiet"],
    ],
)
def test_an_error_is_a_document_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, *words)
    document = json.loads(out)
    assert (status, document["exit"], problems(document)) == (2, 2, [])
    first, *more = err.splitlines()
    assert first == f"error: {document['error']}"
    assert document["hint"] is None or f"hint:  {document['hint']}" in more
    if "none.pt" in words and "unknown" not in words[2]:
        assert document["path"] == "none.pt"


def test_an_error_without_json_says_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "inspect", "none.pt")[1] == ""
    assert not wants_json(["inspect", "json", "--format", "tsv", "json"])


def test_an_interrupt_and_what_is_no_answer_are_documents(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CKPTTOOL_TRACEBACK", "0")
    raised: BaseException
    for raised, status in (
        (KeyboardInterrupt(), 130),
        (RecursionError(), 2),
        (MemoryError(), 2),
        (ValueError("\x1b[2J\u202e" + "x" * 5000), 2),
        (OSError(28, "No space left on device", "https://me:secret@host/a?token=1"), 2),
        (CkptToolError("odd", path="https://me:secret@host/a?token=1", hint="\x1b"), 2),
    ):

        def fail(*_: object, raised: BaseException = raised, **__: object) -> None:
            raise raised

        monkeypatch.setattr("ckpttool.api.opened.open_file", fail)
        ended, out, err = call(capsys, "inspect", files / "good.safetensors", "--json")
        document = json.loads(out)
        assert (ended, document["exit"], problems(document)) == (status, status, [])
        assert "\x1b" not in out + err and "secret" not in out + err and "token" not in out + err


def test_the_values_of_the_options_are_completed() -> None:
    assert options.complete_choice(*options.FORMATS)("t") == ["table", "tsv"]
    assert options.complete_choice(*options.COLORS)("a") == ["auto", "always"]
