"""Long names of neighbours as a tree: what they begin with is said once, above them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ckpttool.render.tables import DOTS, Cell, Column, Heading, TableRow, column_width

_INDEX = re.compile(r"\d+|\{[^{}]*\}")
_DEEPEST = 4  # levels of headings


class _Branch(NamedTuple):
    cells: Sequence[Cell]
    parts: list[str]  # of the name, without what the headings above it say


def as_tree(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int, names: int
) -> list[TableRow]:
    """Return the rows of a table with headings above those whose names, in column ``names``, are too long."""
    room = column_width(columns, rows, width, names)
    return list(_iter_tree([_Branch(row, DOTS.split(row[names].text)) for row in rows], names, room, 0))


def _iter_tree(branches: Sequence[_Branch], names: int, room: int, level: int) -> Iterator[TableRow]:
    for depth, run in _runs(branches):
        rows = [_named(branch, names, level) for branch in run]
        if len(run) > 1 and depth and level < _DEEPEST and any(row[names].width > room for row in rows):
            yield Heading("  " * level + ".".join(run[0].parts[:depth]) + ".", names, "dim")
            shorter = [branch._replace(parts=branch.parts[depth:]) for branch in run]
            yield from _iter_tree(shorter, names, room, level + 1)
        else:
            yield from rows


def _runs(branches: Sequence[_Branch]) -> Iterator[tuple[int, list[_Branch]]]:
    """Neighbours that begin alike, with the number of parts that they share."""
    for prefix, run in groupby(branches, key=lambda branch: branch.parts[: _split_depth(branch.parts)]):
        yield len(prefix), list(run)


def _split_depth(parts: Sequence[str]) -> int:
    """Split behind the first index, ``layers.{0..3}.`` and the rest, else behind the first part."""
    depth = next((place for place, part in enumerate(parts) if _INDEX.fullmatch(part)), 0) + 1
    return depth if depth < len(parts) else min(1, len(parts) - 1)


def _named(branch: _Branch, names: int, level: int) -> Sequence[Cell]:
    name = branch.cells[names]._replace(text="  " * level + ".".join(branch.parts))
    return (*branch.cells[:names], name, *branch.cells[names + 1 :])
