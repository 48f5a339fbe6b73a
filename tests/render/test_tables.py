"""Tables: numbers are never cut, names give way, and no line is wider than it may be."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.render.console import Screen
from ckpttool.render.tables import (
    Cell,
    Column,
    Heading,
    Line,
    Span,
    cell_width,
    cut,
    elide,
    fill,
    iter_table,
    wrap,
)
from ckpttool.values.words import command_line
from tests.support.advice import shell_words

COLUMNS = (
    Column("name", floor=10),
    Column("size", right=True),
    Column("bar", optional=2),
    Column("basis", optional=1),
)


def text(line: Line) -> str:
    return "".join(span.text for span in line)


def drawn(rows: list[list[Cell]], width: int, **options: bool) -> list[str]:
    return [text(line) for line in iter_table(COLUMNS, rows, width, **options)]


def row(name: str, size: str, drawn_bar: str = "█", basis: str = "order", count: int = 1) -> list[Cell]:
    return [Cell(name, "", f" ×{count}" if count > 1 else ""), Cell(size), Cell(drawn_bar), Cell(basis)]


def test_a_table_with_room() -> None:
    assert drawn([row("w", "1 B"), row("long.name", "12.5 KiB", "", "name", 12)], 60) == [
        "  name                size   bar   basis",
        "  ──────────────────────────────────────",
        "  w                    1 B   █     order",
        "  long.name ×12   12.5 KiB         name",
    ]


def test_the_bar_goes_first_then_names_are_elided_then_the_basis_goes() -> None:
    rows = [row("encoder.layers.0.attention.weight", "12.5 KiB", count=24)]
    assert drawn(rows, 56)[-1] == "  encoder.layers.0.attention.weight ×24  12.5 KiB  order"
    assert drawn(rows, 46)[-1] == "  ….0.attention.weight ×24     12.5 KiB  order"
    assert drawn(rows, 24)[-1] == "  ….weight ×24  12.5 KiB"
    assert drawn(rows, 1)[-1] == "  e…ight ×24  12.5 KiB"  # numbers are never cut


def test_whole_parts_of_a_name_are_elided_and_the_last_stays() -> None:
    name = "features.{2..17}.conv.4.num_batches_tracked"
    assert elide(name, 37) == "features.….conv.4.num_batches_tracked"
    assert elide(name, 25) == "….4.num_batches_tracked"
    assert elide(name, 21) == "….num_batches_tracked"
    assert elide(name, 20) == "featu…atches_tracked"  # not even the last part fits
    assert elide("a.{0..3}.b.weight", 15) == "a.….b.weight"  # the dots of a range part nothing


def test_a_column_without_text_is_left_out() -> None:
    assert drawn([row("w", "1 B", "", "")], 60)[0] == "  name   size"


def test_no_rows() -> None:
    assert drawn([], 60, head=False) == []


def test_lines_do_not_end_in_blanks() -> None:
    for line in drawn([row("w", "1 B"), row("v", "2 B", "", "")], 60):
        assert line == line.rstrip()


def test_a_heading_begins_at_its_column_and_takes_the_rest() -> None:
    rows = [Heading("x" * 40, 1, "dim"), [Cell("ab"), Cell("1"), Cell(""), Cell("")]]
    lines = [text(line) for line in iter_table(COLUMNS, rows, 30, head=False)]
    assert lines == ["       " + elide("x" * 40, 23), "  ab   1"]


NAMES = st.text(st.sampled_from("abc.中文é\u0301{}01"), max_size=60)


@given(
    st.lists(st.tuples(NAMES, st.integers(0, 10**12), st.integers(1, 999)), max_size=6), st.integers(40, 120)
)
def test_every_line_fits_and_every_number_is_whole(rows: list[tuple[str, int, int]], width: int) -> None:
    cells = [row(name, f"{size:,} B", count=count) for name, size, count in rows]
    lines = drawn(cells, width)
    assert all(cell_width(line) <= width for line in lines)
    for (_, size, count), line in zip(rows, lines[2:], strict=True):
        assert f"{size:,} B" in line and (count == 1 or f"×{count}" in line)


@given(NAMES, st.integers(0, 80))
def test_elided_text_fits(name: str, width: int) -> None:
    short = elide(name, width)
    assert cell_width(short) <= width
    assert short == name or "…" in short or not width


@pytest.mark.parametrize(("name", "width"), [("abc", 3), ("中文", 4), ("e\u0301", 1), ("×…·█─", 5), ("", 0)])
def test_cells(name: str, width: int) -> None:
    assert cell_width(name) == width


def test_fill_breaks_between_pieces_only() -> None:
    lines = [text(line) for line in fill([Span("aaaa"), Span("bbbb"), Span("c" * 30)], 16)]
    assert lines == ["  aaaa · bbbb", "  " + "c" * 30]


class Stream(io.TextIOWrapper):
    """A stream that says whether it is a terminal."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="backslashreplace", newline="\n")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def written(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


LINE = [Span("  "), Span("4×3", "parameter"), Span(" [red]x[/red] :smile:", "error")]


def test_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Stream()
    Screen(stream).write_lines([LINE])
    assert "\x1b[38;5;30m4×3" in stream.written()
    assert " [red]x[/red] :smile:" in stream.written()  # not markup, not an emoji


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(variable, value)
    stream = Stream()
    Screen(stream).write_lines([LINE])
    assert stream.written() == "  4×3 [red]x[/red] :smile:\n"


def test_an_empty_no_color_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "")
    assert Screen(Stream()).has_colour


def test_colour_does_not_change_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setenv("TERM", "xterm-256color")
    lines = [LINE, [], [Span("x" * 500, "dim")]]
    coloured, plain = Stream(), Stream(terminal=False)
    Screen(coloured).write_lines(lines)
    Screen(plain).write_lines(lines)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured.written()) == plain.written()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_cannot_say_it_gets_other_characters(encoding: str) -> None:
    stream = Stream(encoding)
    Screen(stream).write_lines([[Span("4×3 · … ─ █ é 中")]])
    assert stream.written() == (
        "4x3 - ~ - # \\xe9 \\u4e2d\n" if encoding == "ascii" else "4x3 - ~ - # é \\u4e2d\n"
    )


@pytest.mark.parametrize(("columns", "width"), [("200", 200), ("0", 80), ("x", 80), ("", 80), ("²", 80)])
def test_columns(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Screen(Stream()).width == width


def test_prose_is_cut_at_its_end_and_names_in_their_middle() -> None:
    columns = (Column("name", floor=8), Column("note", floor=12, prose=True))
    rows = [(Cell("encoder.layers.weight"), Cell("as designed: rebuilt by the constructor"))]
    assert text(list(iter_table(columns, rows, 26))[-1]) == "  ….weight    as designed…"
    assert (cut("wide", 4), cut("wider", 4), cut("wider", 1), cut("w", 0)) == ("wide", "wid…", "…", "")


WORDS = st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12), max_size=8)


@given(WORDS, st.lists(st.text("abc.", min_size=1, max_size=9), max_size=9), st.integers(20, 120))
def test_a_command_in_a_sentence_is_whole_at_any_width(
    words: list[str], around: list[str], width: int
) -> None:
    """What is copied off the screen is what was meant: one line, or lines with backslashes at their ends."""
    command = f"`{command_line(*words)}`"
    text = " ".join([*around, command, *around])
    lines = wrap(text, width)
    joined = " ".join(line.removesuffix(" \\") if line.endswith(" \\") else line for line in lines)
    assert joined == text
    if len(command) <= width:
        assert any(command in line for line in lines)
    copied = re.search("`([^`]*)`", "\n".join(lines))
    assert copied is not None and shell_words(copied[1].replace("\\\n", "")) == ["ckpttool", *words]


def test_colours_read_on_black_and_on_white() -> None:
    """WCAG 2.1, relative luminance: a contrast of 4 : 1 on either."""
    from rich.style import Style

    from ckpttool.render.console import STYLES

    def luminance(channels: tuple[int, ...]) -> float:
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in channels)
        ]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    colours = {name: Style.parse(style).color for name, style in STYLES.items()}
    said = {name: luminance(tuple(colour.get_truecolor())) for name, colour in colours.items() if colour}
    assert len(said) >= 9
    assert [name for name, light in said.items() if not 4 <= (light + 0.05) / 0.05 <= 21 / 4] == []


NAMES = (
    Column("kind"),
    Column("name", floor=20, names=True),
    Column("dtype", optional=1),
    Column("shape", right=True),
)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_the_last_two_parts_of_a_name_are_never_cut(width: int) -> None:
    names = [
        "model.layers.{0..31}.mlp.up_proj.weight",
        f"a.{'long_' * 12}.weight",
        "b",
        f"{'x' * 90}",
        "c.d.e",
    ]
    rows = [(Cell("parameter"), Cell(name, "", " ×32"), Cell("float32"), Cell("64×64")) for name in names]
    lines = ["".join(span.text for span in line) for line in iter_table(NAMES, rows, width)]
    assert [line for line in lines if cell_width(line) > width] == []
    joined = "".join(line.strip().removeprefix("parameter").strip() for line in lines).replace(" ", "")
    for name in names:
        assert ".".join(name.split(".")[-2:]) in joined
    assert joined.count("×32") == len(names) and joined.count("64×64") == len(names)
