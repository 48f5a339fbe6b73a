"""The view of ``inspect --values``: the plain values of a checkpoint, one a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckpttool.render.json import encode
from ckpttool.render.picked import raw_text
from ckpttool.render.tables import Cell, Column, Line, Span, iter_table
from ckpttool.values.checkpoint import Value
from ckpttool.values.words import format_path, safe

_COLUMNS = (Column("path", floor=24), Column("value", floor=20, prose=True))
_LONGEST = 400  # characters of a value on a terminal, which are more than a line has


def iter_values(values: Sequence[Value], width: int) -> Iterator[Line]:
    """Yield path and value, each value cut to the width."""
    if not values:
        yield (Span("no values: there is nothing beside the tensors"),)
        return
    rows = [
        (Cell(format_path(value.root, value.name)), Cell(safe(_text(value)[:_LONGEST]))) for value in values
    ]
    yield from iter_table(_COLUMNS, rows, width)


def iter_values_pipe(values: Sequence[Value]) -> Iterator[str]:
    """Yield ``path, value`` per line, with a tab between; nothing is cut."""
    for value in values:
        yield f"{format_path(value.root, value.name, None)}\t{safe(_text(value))}\n"


def _text(value: Value) -> str:
    return raw_text(encode(value.value))
