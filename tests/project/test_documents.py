"""The rules by which pages are run: what a page that is wrong must not get away with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.documents import Block, Terminal, abridge, blocks, pattern, run_doctest, steps, tidy


def matches(shown: str, said: str) -> bool:
    return pattern(shown.split("\n")).fullmatch(tidy(said) + "\n") is not None


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        ("a\nb", "a\nb", True),
        ("a\nb", "a\nb  \n\n", True),
        ("a\nb", "a\nc", False),
        ("a", "a\nb", False),
        ("a\nb", "a", False),
        ("a.c", "abc", False),
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a\n…\nd", "a\nd", True),
        ("a\n…\nd", "a\nb", False),
        ("…\nd", "d\ne", False),
        ("sha256 12ab…", "sha256 12abcd", True),
        ("sha256 12ab…", "sha256 13abcd", False),
        ("in 7 ms (1.5 MiB/s)", "in 1.25 s (900 KiB/s)", True),
        ("in 7 ms", "in 7 MiB", False),
        ("16.4 KiB", "16.5 KiB", False),
        ("0.00502226", "0.005023", True),
        ("0.00502226", "0.00512226", False),
        ("12.34567", "12.3999", True),
        ("12.34567", "12.4", False),
        ("1.5", "1.6", False),
    ],
)
def test_what_is_shown_is_what_is_said(shown: str, said: str, same: bool) -> None:
    assert matches(shown, said) is same


def test_a_page_is_cut_into_commands_with_output_and_status() -> None:
    text = "<!-- not run: because -->\n```console\n$ a\n```\n\n```console\n$ b\nx\n$ echo $?\n1\n\n$ c\n```\n"
    skipped, run = blocks(text)
    assert (skipped.line, skipped.not_run) == (2, "because")
    assert (run.line, run.not_run, text[run.start :].startswith("$ b\n")) == (6, "", True)
    assert [(step.command, step.output, step.status) for step in steps(run)] == [
        ("b", ["x"], 1),
        ("c", [], None),
    ]


def test_output_of_no_command_is_refused() -> None:
    with pytest.raises(ValueError, match="output of no command"):
        steps(Block(1, 0, "console", "x\n$ a\n", ""))


def test_a_doctest_that_fails_says_so() -> None:
    assert run_doctest(">>> 1 + 1\n2\n", "page", {}) == ""
    assert "Expected:\n    3\nGot:\n    2" in run_doctest(">>> 1 + 1\n3\n", "page", {})


def test_lines_that_were_left_out_stay_out() -> None:
    said = ["head 2", "a 2", "b 2", "c 2", "d 2", "end"]
    assert abridge(["head 1", "…", "c 1", "…", "end"], said) == ["head 2", "…", "c 2", "…", "end"]
    assert abridge(["head 1", "…"], said) == ["head 2", "…"]
    assert abridge(["anything"], said) == said


def test_commands_run_in_the_folder_with_the_status_that_they_end_with(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, tmp_path)
    assert terminal.type("ckpttool inspect missing.pt") == (
        2,
        "error: missing.pt: no such file or directory\n",
    )
    assert terminal.type("ckpttool inspect missing.pt | cat; exit 3")[0] == 3
    assert terminal.type("mkdir inner") == (0, "")
    assert terminal.type("cd inner") == (0, "")
    assert terminal.type("pwd") == (0, f"{tmp_path / 'inner'}\n")
