"""A pager, as git has it: when there is one, what it is given, and what its end means."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ckpttool.render.pager import page, pager_command
from tests.support.architectures import ARCHITECTURES, write_shapes
from tools.terminal import run_on_terminal

MARK = "PAGED"
MARKING = (
    f"{sys.executable} -c \"import sys; text = sys.stdin.read(); print('{MARK}', len(text.splitlines()))\""
)
DECODER = "decoder.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paged")
    write_shapes(folder / DECODER, ARCHITECTURES["gpt2"]())
    return folder


def on_terminal(folder: Path, *words: str, **variables: str) -> tuple[int, str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PAGER", "LESS", "LINES")
    }
    environment |= {"TERM": "xterm", "NO_COLOR": "1", **variables}
    command = [sys.executable, "-m", "ckpttool", *words]
    return run_on_terminal(command, width=100, environment=environment, folder=folder)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["less"]),
        ({"PAGER": "more -s"}, ["more", "-s"]),
        ({"PAGER": "more", "CKPTTOOL_PAGER": "less -S"}, ["less", "-S"]),
        ({"PAGER": "more", "CKPTTOOL_PAGER": ""}, []),
        ({"PAGER": ""}, []),
        ({"PAGER": "  "}, []),
        ({"PAGER": "cat"}, []),
        ({"PAGER": "less 'no end"}, []),
        ({"PAGER": "less", "TERM": "dumb"}, []),
    ],
)
def test_which_pager(variables: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGER", "CKPTTOOL_PAGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert pager_command() == expected


def test_what_is_longer_than_the_screen_is_paged_whole(folder: Path) -> None:
    words = ("inspect", DECODER, "--flat")
    status, plain = on_terminal(folder, *words)
    assert status == 0 and len(plain.splitlines()) > 40
    status, shown = on_terminal(folder, *words, CKPTTOOL_PAGER=MARKING)
    assert (status, shown) == (0, f"{MARK} {len(plain.splitlines())}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", DECODER),  # a summary, which fits
        ("inspect", DECODER, "--flat", "--no-pager"),
        ("--no-pager", "inspect", DECODER, "--flat"),
        ("inspect", DECODER, "--flat", "--json"),
    ],
    ids=" ".join,
)
def test_what_is_not_paged(folder: Path, words: tuple[str, ...]) -> None:
    status, shown = on_terminal(folder, *words, CKPTTOOL_PAGER=MARKING)
    assert status == 0 and MARK not in shown and len(shown) > 500


def test_a_pager_that_cannot_start_costs_nothing(folder: Path) -> None:
    words = ("inspect", DECODER, "--flat")
    plain = on_terminal(folder, *words)
    assert on_terminal(folder, *words, CKPTTOOL_PAGER="/nowhere/pager -x") == plain


@pytest.mark.parametrize("code", ["pass", "raise SystemExit(3)", "input(); raise SystemExit(1)"])
def test_a_pager_that_leaves_early_or_fails_is_no_error(folder: Path, code: str) -> None:
    pager = f"{sys.executable} -c '{code}'"
    assert on_terminal(folder, "inspect", DECODER, "--flat", CKPTTOOL_PAGER=pager) == (0, "")


def test_the_status_is_that_of_the_command(folder: Path) -> None:
    words = ("inspect", "nan.pt", "--flat", "--fail-on", "zero")
    torch = pytest.importorskip("torch")
    torch.save({f"layers.{at}.weight": torch.zeros(2) for at in range(60)}, folder / "nan.pt")
    status, shown = on_terminal(folder, *words, CKPTTOOL_PAGER=MARKING)
    assert status == 1 and MARK in shown


def test_less_is_told_to_end_on_one_screen_and_to_take_colours(folder: Path) -> None:
    code = 'import os, sys; sys.stdin.read(); print(os.environ["LESS"], os.environ["LV"])'
    words, pager = ("inspect", DECODER, "--flat"), f"{sys.executable} -c '{code}'"
    assert on_terminal(folder, *words, CKPTTOOL_PAGER=pager) == (0, "FRX -c\n")
    assert on_terminal(folder, *words, CKPTTOOL_PAGER=pager, LESS="-S") == (0, "-S -c\n")


class _File:
    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self.fileno = lambda: descriptor
        self.flush = lambda: None


def test_an_interrupt_is_the_pagers_business_and_no_child_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the signal in its own right, and so does whoever waits for it."""
    code = (
        f"import os, signal, time; os.kill({os.getpid()}, signal.SIGINT); time.sleep(0.2); print('read on')"
    )
    before, started, start = signal.getsignal(signal.SIGINT), [], subprocess.Popen

    def starting(*given: Any, **named: Any) -> subprocess.Popen[bytes]:
        started.append(start(*given, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", starting)
    with (tmp_path / "out").open("w+") as out:
        stream: Any = _File(out.fileno())
        assert page("text\n" * 100_000, stream, [sys.executable, "-c", code])
        out.seek(0)
        assert out.read() == "read on\n"
    assert signal.getsignal(signal.SIGINT) is before
    assert [process.returncode for process in started] == [0]  # waited for: no zombie


def test_a_pager_dies_of_an_interrupt_as_it_would_alone(tmp_path: Path) -> None:
    code = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"
    start = time.monotonic()
    with (tmp_path / "out").open("w+") as out:
        stream: Any = _File(out.fileno())
        assert page("text\n", stream, [sys.executable, "-c", f"import sys; sys.stderr.close(); {code}"])
    assert time.monotonic() - start < 10
