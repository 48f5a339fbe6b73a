"""Lines of a view as HTML for a notebook: tables as tables, all else as text.

Names in files are hostile here as anywhere: a text has passed ``words.safe`` before it became a span,
and is escaped for HTML once more. There are no scripts and nothing remote. Colours are those in the
middle between black and white, which both light and dark backgrounds set off: a notebook does not say
which it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ckpttool.render.tables import Cell, Column, Line, RowLine, Span, split_tables
from ckpttool.values.words import plural

WIDTH = 100_000
"""The width to draw lines at that become HTML: the browser wraps, so nothing is to be elided."""

_MOST_ROWS = 500  # of one table; a notebook keeps each in its file, and a browser lays each out

_STYLE = """<style>
.ckpttool {overflow-x: auto}
.ckpttool {font: 0.9em/1.45 var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace)}
.ckpttool table {border-collapse: collapse; margin: 0.4em 0 0.4em 2ch; border: 0; font: inherit}
.ckpttool tr, .ckpttool tr:nth-child(even) {background: none}
.ckpttool td, .ckpttool th {border: 0; padding: 0 3ch 0 0; vertical-align: top}
.ckpttool td, .ckpttool th {white-space: pre; background: none; font-weight: normal; max-width: none}
.ckpttool td.wrap {white-space: pre-wrap; overflow-wrap: anywhere; min-width: 24ch}
.ckpttool thead th {border-bottom: 1px solid #8888; opacity: 0.7}
.ckpttool p {margin: 0; white-space: pre-wrap; overflow-wrap: anywhere}
.ckpttool p.gap {height: 0.7em}
.ckpttool .title, .ckpttool .count {font-weight: bold}
.ckpttool .dim, .ckpttool .rule {opacity: 0.7}
.ckpttool .parameter {color: #0e8088}
.ckpttool .buffer, .ckpttool .warning {color: #a86500}
.ckpttool .missing {color: #b04fc4}
.ckpttool .state, .ckpttool .info {color: #3f7fd9}
.ckpttool .unknown, .ckpttool .error {color: #e03e3e}
.ckpttool .good {color: #2d8a3e}
</style>"""


def to_html(lines: Iterable[Line]) -> str:
    """One element with a style of its own, from lines that were drawn at ``WIDTH``."""
    parts = [f'<div class="ckpttool">{_STYLE}']
    for block in split_tables(lines):
        rows = [line for line in block if isinstance(line, RowLine)]
        parts += _iter_table(rows) if rows else map(_paragraph, block)
    parts.append("</div>")
    return "\n".join(parts)


def _iter_table(lines: list[RowLine]) -> Iterator[str]:
    columns = lines[0].columns
    yield "<table>"
    if lines[0].cells is None:
        titles = "".join(f"<th{_side(column)}>{escape(column.title)}</th>" for column in columns)
        yield f"<thead><tr>{titles}</tr></thead>"
    yield "<tbody>"
    rows = [line.cells for line in lines if line.cells is not None]
    for cells in rows[:_MOST_ROWS]:
        yield f"<tr>{''.join(_iter_cells(cells, columns))}</tr>"
    yield "</tbody></table>"
    if len(rows) > _MOST_ROWS:
        yield _paragraph([Span(f"  … {plural(len(rows) - _MOST_ROWS, 'more row')}", "dim")])


def _iter_cells(cells: Sequence[Cell], columns: Sequence[Column]) -> Iterator[str]:
    """Cells of a row; the last one wraps if it may be long, names stay on one line."""
    for cell, column in zip(cells, columns, strict=True):
        wrap = "wrap" if column is columns[-1] and column.floor is not None else ""
        text, tail = _span(Span(cell.text, cell.style)), _span(Span(cell.tail, "count"))
        yield f"<td{_class(wrap)}{_side(column)}>{text}{tail}</td>"


def _side(column: Column) -> str:
    """On each cell: notebooks align cells to the right, by rules as strong as those of a style sheet."""
    return f' style="text-align: {"right" if column.right else "left"}"'


def _paragraph(line: Line) -> str:
    """A line of text; what it is indented by stays in front of all that it wraps to."""
    text = "".join([span.text for span in line])
    if not text.strip():
        return '<p class="gap"></p>'
    indent = len(text) - len(text.lstrip(" "))
    spans = "".join(map(_span, line)).lstrip(" ")
    return f'<p style="padding-left: {indent}ch">{spans}</p>'


def _span(span: Span) -> str:
    if not span.text:
        return ""
    return f"<span{_class(span.style)}>{escape(span.text)}</span>" if span.style else escape(span.text)


def _class(*names: str) -> str:
    joined = " ".join(filter(None, names))
    return f' class="{joined}"' if joined else ""
