"""Lines of a view as GitHub's Markdown, for a comment or a job summary: tables as tables, all else as text.

Names in files are hostile here as anywhere. One stands as code, where neither Markdown nor HTML nor what a
site makes of text (mentions, links, references, emoji) means anything; with a backtick, a bar or a backslash
in it each of its marks is an entity. In other text what Markdown reads is escaped, and an empty comment parts
what a site would look for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ckpttool.render.tables import Cell, Column, Line, RowLine, Span, split_tables
from ckpttool.values.words import plural, shorten

WIDTH = 100_000
"""The width to draw lines at that become Markdown: the site wraps, so nothing is to be elided."""

_MOST = 60_000  # characters in all: GitHub refuses a comment of more than 65,536
_MOST_TEXT = 1000  # of one line of text
_MOST_OPEN = 25  # rows of a table; a longer one is shut until it is clicked on

_MARKS = re.compile(r"[\\`*_\[\]<>#|~&$]")
_START = re.compile(r"^[-+=](?=[-+= ]|$)|(?<=^\d)[.)](?= |$)|(?<=^\d\d)[.)](?= |$)")  # lists, rules, heads
# Of what a site turns into links, mentions, references, emoji and formulas: between these two.
_SOUGHT = re.compile(r"(?<=[@$])|(?<=#)(?=\d)|(?<=:)(?=\S)|(?<=www)(?=\.)|(?<=GH)(?=-)", re.IGNORECASE)
_APART = "<!-- -->"
_UNLIKE_CODE = re.compile(r"[`|\\]|^ | $")


def to_markdown(lines: Iterable[Line]) -> str:
    """The lines, drawn at ``WIDTH``, in at most 60,000 characters: rows give way, and are counted."""
    blocks = [
        [_table_lines(block)] if isinstance(block[0], RowLine) else list(_paragraphs(block))
        for block in split_tables(lines)
    ]
    texts = [part for block in blocks for part in block if isinstance(part, str)]
    left = _MOST - sum(len(text) + 2 for text in texts)
    written = []
    for part in (part for block in blocks for part in block):
        text = part if isinstance(part, str) else _join_rows(*part, left)
        left -= 0 if isinstance(part, str) else len(text)
        written.append(text)
    return "\n\n".join(filter(None, written)) + "\n"


def _paragraphs(lines: Iterable[Line]) -> Iterator[str]:
    """Paragraphs of text, each line of which begins a new one on the screen."""
    paragraph: list[str] = []
    for line in (*lines, ()):
        text = "".join(map(_span, line)).strip()
        if text:
            paragraph.append(_START.sub(_escape, text))
        elif paragraph:
            yield "\\\n".join(paragraph)
            paragraph = []


def _span(span: Span) -> str:
    text = shorten(span.text, _MOST_TEXT)
    if span.style != "title" or not text.strip():
        return escape(text)
    return f"**{escape(text.strip())}**" + " " * text.endswith(" ")


def _table_lines(lines: Sequence[Line]) -> tuple[list[str], list[str]]:
    """The head with its rule, and the rows."""
    rows = [line for line in lines if isinstance(line, RowLine)]
    columns = rows[0].columns
    titled = rows[0].cells is None
    head = _row(escape(column.title) if titled else "" for column in columns)
    rule = _row("---:" if column.right else "---" for column in columns)
    shown = [_row(map(_cell, line.cells, columns)) for line in rows if line.cells is not None]
    return [head, rule], shown


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell, column: Column) -> str:
    is_name = column.floor is not None and not column.prose and cell.text
    text = code(cell.text) if is_name else escape(shorten(cell.text, _MOST_TEXT))
    return text + escape(cell.tail)


def _join_rows(head: Sequence[str], rows: Sequence[str], room: int) -> str:
    """A table in about ``room`` characters, shut where it is long."""
    fitting = 0
    for row in rows:
        room -= len(row) + 1
        fitting += room > 0
    lines = [*head, *rows[:fitting]]
    if fitting < len(rows):
        lines += ["", f"… {plural(len(rows) - fitting, 'more row')}"]
    table = "\n".join(lines)
    if len(rows) <= _MOST_OPEN:
        return table
    return f"<details><summary>{plural(len(rows), 'row')}</summary>\n\n{table}\n\n</details>"


def code(text: str) -> str:
    """``text`` as code that means nothing but itself, in a table too."""
    if not _UNLIKE_CODE.search(text):
        return f"`{text}`"
    inert = re.sub(r"[^\w]", lambda mark: f"&#{ord(mark[0])};", text.replace("_", "\0"))
    return f"<code>{inert.replace('&#0;', '&#95;')}</code>"


def escape(text: str) -> str:
    """``text`` as prose that looks as it is written."""
    return _APART.join([_MARKS.sub(_escape, part) for part in _SOUGHT.split(text)])


def _escape(mark: re.Match[str]) -> str:
    return f"\\{mark[0]}"
