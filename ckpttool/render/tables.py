"""Rows in columns, as lines of styled spans: no boxes, one rule under the head, one column gives way.

A style is a word for what the text is (``parameter``, ``finding``); ``render.console`` knows its
colour. Every text has passed ``words.safe`` before it comes here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

_INDENT = 2  # blanks before a row
_LEAST = 8  # cells that names have beside other columns, however narrow the terminal
_GAPS = (3, 2)  # blanks between two columns: where there is room, and where there is not

DOTS = re.compile(r"\.(?![^{}]*\})")  # those between parts, not those of an index range {0..3}


class Span(NamedTuple):
    """A run of text in one style."""

    text: str
    style: str = ""


Line = Sequence[Span]


class RowLine(list[Span]):
    """A line of a table that also knows its cells in full; ``cells`` is None for the head and the rule.

    Lines of one table share one object as ``columns``.
    """

    __slots__ = ("cells", "columns")

    def __init__(
        self, spans: Iterable[Span], columns: Sequence[Column], cells: Sequence[Cell] | None = None
    ) -> None:
        super().__init__(spans)
        self.columns = columns
        self.cells = cells


class Column(NamedTuple):
    """A column, and what becomes of it when the line is too long.

    Those with an ``optional`` of 2 are left out first, then those with a ``floor`` are elided down
    to it, the last one first, then those with an ``optional`` of 1 are left out. Names are elided in
    their middle, a column of ``prose`` at its end. Of ``names`` the last two parts are never elided: one that
    has no room for them takes a line of its own, above the rest of its row.
    """

    title: str
    right: bool = False
    floor: int | None = None
    optional: int = 0
    prose: bool = False
    names: bool = False


def number_columns(*titles: str) -> Iterator[Column]:
    """Columns whose cells end where those above them do."""
    return (Column(title, right=True) for title in titles)


class Cell(NamedTuple):
    """A cell; ``tail`` stands behind the text and is never elided (``×24``)."""

    text: str
    style: str = ""
    tail: str = ""

    @property
    def width(self) -> int:
        """Cells of the terminal that it takes."""
        return cell_width(self.text) + cell_width(self.tail)


def cell_width(text: str) -> int:
    """Return the terminal cells that ``text`` takes."""
    if text.isascii() or all(map(_takes_one_cell, text)):
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _takes_one_cell(character: str) -> bool:
    # Latin, and the punctuation, arrows and blocks that this package draws with; others may take two or none.
    # (A regular expression for it would take 2 ms of every start to compile.)
    return character < "\u0300" or "\u1fff" < character < "\u2e80"


def elide(text: str, width: int) -> str:
    """Return ``text`` with ``…`` in its middle if it is wider than ``width``.

    A dotted name loses whole parts where that suffices, and its last part last of all: it says most.
    Other text keeps more of its end than of its start.
    """
    if cell_width(text) <= width:
        return text
    parts = DOTS.split(text)
    if len(parts) > 2 and cell_width(parts[-1]) + 2 <= width:
        return _elide_parts(parts, width)
    if width <= 1:
        return "…"[:width]
    head = _take(text, (width - 1) * 3 // 10)
    tail = _take(text[::-1], width - 1 - cell_width(head))[::-1]
    return f"{head}…{tail}"


def cut(text: str, width: int) -> str:
    """Return ``text`` with ``…`` at its end if it is wider than ``width``."""
    if cell_width(text) <= width:
        return text
    return f"{_take(text, max(width - 1, 0)).rstrip()}…"[: max(width, 0)]


def _elide_parts(parts: list[str], width: int) -> str:
    """Whole parts: the last two, then the first, then what else fits from the end, then from the start."""
    tail, head, rest = f"….{parts[-1]}", "", parts[:-1]

    def fits(part: str) -> bool:
        return cell_width(head) + cell_width(tail) + cell_width(part) + 1 <= width

    if fits(rest[-1]):
        tail = f"….{rest.pop()}.{tail[2:]}"
    if rest and fits(rest[0]):
        head = f"{rest.pop(0)}."
    while rest and fits(rest[-1]):
        tail = f"….{rest.pop()}.{tail[2:]}"
    while rest and fits(rest[0]):
        head += f"{rest.pop(0)}."
    return head + tail


def _take(text: str, width: int) -> str:
    part = text[:width]
    while cell_width(part) > width:
        part = part[:-1]
    return part


def least_width(cell: Cell) -> int:
    """Return the cells that a name takes of which only the last two parts are left."""
    parts = DOTS.split(cell.text)
    text = cell.text if len(parts) <= 2 else f"….{parts[-2]}.{parts[-1]}"
    return cell_width(text) + cell_width(cell.tail)


class Heading(NamedTuple):
    """A line between rows that begins at a column and takes what room is right of it."""

    text: str
    column: int
    style: str = ""


TableRow = Sequence[Cell] | Heading


def iter_table(
    columns: Sequence[Column],
    rows: Sequence[TableRow],
    width: int,
    *,
    indent: int = _INDENT,
    head: bool = True,
) -> Iterator[Line]:
    """Yield the head, a rule and a line per row, at most ``width`` cells wide where the numbers allow it.

    A column with no text in any row is left out.
    """
    layout = _layout(columns, rows, head, width - indent)
    shown = [columns[index] for index in layout.widths]
    if head:
        titles = [Cell(column.title, "head") for column in columns]
        yield RowLine(_join(titles, columns, layout, indent), shown)
        yield RowLine((Span(" " * indent), Span("─" * layout.width, "rule")), shown)
    for row in rows:
        if isinstance(row, Heading):
            start = indent + sum(size + layout.gap for i, size in layout.widths.items() if i < row.column)
            yield (Span(" " * start), Span(elide(row.text, width - start), row.style))
            continue
        cells = [row[index] for index in layout.widths]
        for index, size in layout.widths.items():
            if columns[index].names and row[index].width > size and least_width(row[index]) > size:
                above = _iter_above(row, index, columns, layout, indent, width)
                yield from (RowLine(line, shown) for line in above)
                row = [Cell("") if place <= index else cell for place, cell in enumerate(row)]
        yield RowLine(_join(row, columns, layout, indent), shown, cells)


def _iter_above(
    row: Sequence[Cell], index: int, columns: Sequence[Column], layout: _Layout, indent: int, width: int
) -> Iterator[Line]:
    """The lines of a name that its column has no room for, with the cells left of it."""
    start = indent + sum(size + layout.gap for place, size in layout.widths.items() if place < index)
    cell, room = row[index], max(width - start, 1)
    left = _Layout({place: size for place, size in layout.widths.items() if place < index}, layout.gap)
    before: Line = _join(row, columns, left, indent)
    used = sum([cell_width(span.text) for span in before])
    text = elide(cell.text, room - cell_width(cell.tail)) if least_width(cell) <= room else cell.text
    while text:
        line = _take(text, room) or text
        tail = cell.tail if len(line) == len(text) and cell_width(line + cell.tail) <= room else ""
        spans = [*before, Span(" " * (start - used) + line, cell.style)]
        yield [*spans, Span(tail, "count")] if tail else spans
        if len(line) == len(text) and cell.tail and not tail:
            yield [Span(" " * start + cell.tail.lstrip(), "count")]
        before, used, text = (), 0, text[len(line) :]


def column_width(columns: Sequence[Column], rows: Sequence[TableRow], width: int, column: int) -> int:
    """Return the cells that ``column`` would get in this table."""
    return _layout(columns, rows, True, width - _INDENT).widths.get(column, 0)


def _layout(columns: Sequence[Column], rows: Sequence[TableRow], head: bool, room: int) -> _Layout:
    natural = _natural_widths(columns, rows, head)
    if _Layout(dict(enumerate(natural)), _GAPS[-1]).width > room:
        # A few names that are longer than half a line are wrapped, and cost the others no column.
        columns = [
            column._replace(floor=_floor(column, index, rows, room // 2)) if column.names else column
            for index, column in enumerate(columns)
        ]
    return _fit(columns, natural, room)


def _floor(column: Column, index: int, rows: Sequence[TableRow], most: int) -> int:
    least = [least_width(row[index]) for row in rows if not isinstance(row, Heading)]
    return max([size for size in least if size <= most], default=0) or column.floor or 1


def _natural_widths(columns: Sequence[Column], rows: Sequence[TableRow], head: bool) -> list[int]:
    cells = [row for row in rows if not isinstance(row, Heading)]
    widths = [max((row[index].width for row in cells), default=0) for index in range(len(columns))]
    titles = [cell_width(column.title) if head else 0 for column in columns]
    return [max(size, title) if size else 0 for size, title in zip(widths, titles, strict=True)]


class _Layout(NamedTuple):
    widths: dict[int, int]  # index of a column that is shown -> its width
    gap: int

    @property
    def width(self) -> int:
        return sum(self.widths.values()) + self.gap * (len(self.widths) - 1)


def _fit(columns: Sequence[Column], natural: Sequence[int], room: int) -> _Layout:
    widths = {index: size for index, size in enumerate(natural) if size}
    for gap in _GAPS:
        if _Layout(widths, gap).width <= room:
            break
    layout = _Layout(widths, gap)
    for rank in (2, 1):
        for index in [index for index in widths if columns[index].optional == rank]:
            if layout.width > room:
                del widths[index]
        for index in reversed(widths):
            excess, floor = layout.width - room, columns[index].floor
            if excess > 0 and floor is not None:
                widths[index] = max(min(natural[index], floor), widths[index] - excess)
    for index in reversed(widths):  # at last names get lines of their own
        if columns[index].names and layout.width > room:
            widths[index] = max(min(widths[index], _LEAST), widths[index] - (layout.width - room))
    for index in widths:  # what was left out for good may leave room to grow back
        spare = room - layout.width
        if spare > 0 and widths[index] < natural[index]:
            widths[index] = min(natural[index], widths[index] + spare)
    return layout


def _join(cells: Sequence[Cell], columns: Sequence[Column], layout: _Layout, indent: int) -> Line:
    spans = [Span(" " * indent)]
    pending = ""  # blanks are written before the next text, so that no line ends in them
    for position, (index, width) in enumerate(layout.widths.items()):
        cell = cells[index]
        gap = " " * layout.gap if position else ""
        text = (cut if columns[index].prose else elide)(cell.text, width - cell_width(cell.tail))
        blank = " " * (width - cell_width(text) - cell_width(cell.tail))
        if not text and not cell.tail:
            pending += gap + blank
            continue
        before = pending + gap + (blank if columns[index].right else "")
        pending = "" if columns[index].right else blank
        if before:
            spans.append(Span(before))
        spans.append(Span(text, cell.style))
        if cell.tail:
            spans.append(Span(cell.tail, "count"))
    return spans


def fill(pieces: Iterable[Span], width: int, *, indent: int = 2, separator: str = " · ") -> Iterator[Line]:
    """Yield the pieces in lines of at most ``width`` cells, broken only between two of them."""
    line: list[Span] = []
    used = indent
    for piece in pieces:
        size = cell_width(piece.text)
        if line and used + cell_width(separator) + size > width:
            yield (Span(" " * indent), *line)
            line, used = [], indent
        if line:
            line.append(Span(separator, "dim"))
            used += cell_width(separator)
        line.append(piece)
        used += size
    if line:
        yield (Span(" " * indent), *line)


def block(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the lines with an empty one above them, if there are any."""
    for position, line in enumerate(lines):
        if not position:
            yield ()
        yield line


def wrap(text: str, width: int) -> list[str]:
    """Return a sentence in lines of at most ``width`` cells, or 20, that break between words.

    A command in it stays on one line; one that is longer goes on behind a backslash, as a shell has it.
    """
    import textwrap

    width = max(20, width)
    if "`ckpttool " not in text:
        return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
    marked = re.sub("`ckpttool [^`]*`", _mark_command, text)
    lines: list[str] = []
    for line in textwrap.wrap(marked, width, break_on_hyphens=False, break_long_words=False):
        if len(line) <= width:
            lines.append(line)
        elif _GAP in line:
            lines += wrap_command(line.split(_GAP), width)
        else:
            lines += textwrap.wrap(line, width, break_on_hyphens=False)
    return [line.replace(_GAP, " ").replace(_BLANK, " ") for line in lines]


# In a command: what is between its words, and a blank inside one.
_GAP, _BLANK = "\0", "\1"
_SHELL_WORD = re.compile(r"(?:[^\s'\"\\]|'[^']*'|\"[^\"]*\"|\\.)+")


def _mark_command(found: re.Match[str]) -> str:
    return _GAP.join([word.replace(" ", _BLANK) for word in _SHELL_WORD.findall(found[0])])


def wrap_command(words: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines that a shell takes for one; they break between words, which are quoted."""
    line = ""
    for word in words:
        if line and cell_width(line) + cell_width(word) + 3 > width:
            yield f"{line} \\"
            line = word
        else:
            line = f"{line} {word}".lstrip()
    yield line


def hang(start: Span, text: str, width: int, style: str = "", *, under: str | None = None) -> Iterator[Line]:
    """Yield a sentence wrapped under itself, behind ``start``; the blanks below in style ``under``."""
    for line in wrap(text, width - len(start.text)):
        yield (start, Span(line, style))
        start = Span(" " * len(start.text), start.style if under is None else under)


def split_tables(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield the lines of each table, and those between two, by themselves."""
    # All at once: lines of one table are known by the identity of their columns.
    for _, run in groupby(list(lines), key=lambda line: id(line.columns) if isinstance(line, RowLine) else 0):
        yield list(run)


def times(count: int) -> str:
    """Return the tail of a cell that stands for ``count`` rows: `` ×24``; nothing for one."""
    return f" ×{count}" if count > 1 else ""
