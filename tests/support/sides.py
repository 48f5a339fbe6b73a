"""Sides of a comparison made by hand, so that what is told of them does not depend on what is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ckpttool.comparison.diff import Request, diff_sides
from ckpttool.comparison.sides import Placed
from ckpttool.values.checkpoint import Checkpoint, FileInfo, Key, Kind, Root, Tensor
from ckpttool.values.difference import Diff, DiffEntry, Side, Status
from ckpttool.values.inspection import Row
from tests.support.compared import Files
from tests.support.inspections import row, tensor


def side(rows: Iterable[Row], weights_root: Root | None = (), label: str = "x.pt", **checkpoint: Any) -> Side:
    """A side of these rows; further keywords are fields of its checkpoint. It has a file unless told."""
    rows = tuple(rows)
    fields = {"files": (FileInfo(label, 1, 0, 0),), **checkpoint}
    entries = tuple([item.entry for item in rows])
    return Side(label, Checkpoint(label, "f", "", entries=entries, **fields), rows, weights_root)


def placed(item: Row, root: Root | None = None) -> Placed:
    """A row where it stands, or at another place."""
    return Placed(item.entry.root if root is None else root, item.entry.name, item)


def both(
    name: Key,
    status: Status = Status.EQUAL,
    kind: Kind = Kind.PARAMETER,
    *,
    a: Row | None = None,
    b: Row | None = None,
    root: Root = (),
    **fields: Any,
) -> DiffEntry:
    """An entry that both sides have."""
    first, second = a or row(name, kind=kind, root=root), b or row(name, kind=kind, root=root)
    return DiffEntry(root, name, kind, status, first, second, **fields)


def single(item: Row, status: Status, **fields: Any) -> DiffEntry:
    """An entry that one side has."""
    a, b = (item, None) if status is Status.REMOVED else (None, item)
    root, name = item.entry.root, item.entry.name
    return DiffEntry(root, name, item.classification.kind, status, a, b, **fields)


def entry_of(a: Row, b: Row, status: Status, *rest: Any, **fields: Any) -> DiffEntry:
    """The entry of two rows, of B's name and kind; the rest as ``DiffEntry`` has it."""
    return DiffEntry(b.entry.root, b.entry.name, b.classification.kind, status, a, b, *rest, **fields)


class Two:
    """Two sides, each with files of its own."""

    def __init__(self, folder: Path) -> None:
        self.files = []
        for name in "ab":
            (folder / name).mkdir()
            self.files.append(Files(folder / name))
        self.rows: tuple[list[Row], list[Row]] = ([], [])

    def add(self, which: int, name: Key, value: torch.Tensor | Tensor | None, **fields: Any) -> Row:
        if isinstance(value, torch.Tensor):
            value = self.files[which].info(value)
        made = row(name, tensor(), **fields)
        self.rows[which].append(made._replace(entry=made.entry._replace(value=value)))
        return self.rows[which][-1]

    def both(self, name: Key, a: Any, b: Any, **fields: Any) -> tuple[Row, Row]:
        return self.add(0, name, a, **fields), self.add(1, name, b, **fields)

    def sides(self, **fields: Any) -> tuple[Side, Side]:
        a, b = (
            side(rows, (), label, files=tuple(files.files), **fields)
            for rows, files, label in zip(self.rows, self.files, ("a.pt", "b.pt"), strict=True)
        )
        return a, b

    def diff(self, **request: Any) -> Diff:
        return diff_sides(*self.sides(), Request(**request))
