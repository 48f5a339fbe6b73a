"""The progress line: where it is drawn, how often, and that it goes away."""

from __future__ import annotations

import io
import sys

import pytest

from ckpttool.render import progress
from ckpttool.render.progress import Bar, Steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def draw(
    stream: io.StringIO,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    *,
    quiet: bool = False,
    before: float = 2.0,
) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar(quiet=quiet) as line:
        line.begin("values", 4 << 20)
        clock[0] += before
        for _ in range(4):
            clock[0] += 0.06
            line.advance(1 << 20)
    return stream.getvalue()


def test_a_line_every_tenth_of_a_second(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert draw(Terminal(), clock, monkeypatch).split("\r\x1b[K") == [
        "",
        "values ██████                    25 % · 497 KiB/s · 6 s left",
        "values ██████████████████        75 % · 1.38 MiB/s · 1 s left",
        "",
    ]


def test_what_is_done_within_a_second_draws_nothing(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert draw(Terminal(), clock, monkeypatch, before=0.7).replace("\r\x1b[K", "") == ""


@pytest.mark.parametrize(
    ("stream", "quiet", "term"),
    [(io.StringIO, False, "xterm"), (Terminal, True, "xterm"), (Terminal, False, "dumb")],
)
def test_nothing_where_nobody_watches(
    stream: type[io.StringIO], quiet: bool, term: str, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert draw(stream(), clock, monkeypatch, quiet=quiet) == ""


def test_more_than_was_expected_is_all(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bar() as line:
        line.begin("values", 0)
        clock[0] += 1
        line.advance(5)
        assert " 100 % · 5 B/s" in sys.stderr.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stream", "quiet", "draws"),
    [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)],
)
def test_steps_are_drawn_where_somebody_watches_and_go_away(
    stream: type[io.StringIO], quiet: bool, draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream())
    with Steps(quiet=quiet) as steps:
        steps.begin("build", 4)
        steps.advance(1, "copy on cpu")
    drawn = f"\r\x1b[K{'':24} 0 of 4 · build\r\x1b[K██████                   1 of 4 · copy on cpu\r\x1b[K"
    assert sys.stderr.getvalue() == (drawn if draws else "")  # type: ignore[attr-defined]
