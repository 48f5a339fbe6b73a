"""Sides of a comparison made by hand, so that what is told of them does not depend on what is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckpttool.comparison.sides import Placed
from ckpttool.values.checkpoint import Checkpoint, FileInfo, Key, Kind, Root
from ckpttool.values.difference import DiffEntry, Side, Status
from ckpttool.values.inspection import Row
from tests.support.inspections import row


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
