"""What the rules for findings look at, made by hand: rows, and what was counted of them, without a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ckpttool.findings.rules import find_all
from ckpttool.findings.text import Evidence
from ckpttool.kinds.aliases import Aliasing, find_aliases
from ckpttool.names.prefixes import Prefix
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Finding,
    Key,
    Kind,
    Presence,
    Root,
    StorageRef,
    Tensor,
    TensorInfo,
    packed_stride,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.inspection import Group, Row
from tests.support.inspections import summary


def view(shape: tuple[int, ...] = (4,), dtype: str = "float32", *, key: str = "", **more: Any) -> TensorInfo:
    """A contiguous tensor; of a storage of its own unless ``key`` names one."""
    view.made += 1  # type: ignore[attr-defined]
    kind = BY_NAME[dtype]
    tensor = TensorInfo(kind, shape, packed_stride(shape), 0, None)
    nbytes = more.pop("nbytes", tensor.nbytes)
    places = {name: more.pop(name) for name in ("location", "big_endian") if name in more}
    storage = StorageRef("f", key or f"own {view.made}", 0, nbytes, **{"location": "cpu", **places})  # type: ignore[attr-defined]
    return tensor._replace(**{"storage": storage, **more})


view.made = 0  # type: ignore[attr-defined]


def at(
    name: Key, value: Tensor | None = None, kind: Kind = Kind.PARAMETER, *, root: Root = (), **more: Any
) -> Row:
    """A row whose kind is inferred; ``more`` are fields of its classification, ``tied_to`` of the row."""
    tied_to = more.pop("tied_to", None)
    basis = more.pop("basis", Basis.OPTIMIZER)
    entry = Entry(root, name, view() if value is None else value)
    return Row(entry, Classification(kind, basis, **more), tied_to)


def group(root: Root, role: str, nbytes: int = 0) -> Group:
    return Group(root, role, 1, nbytes, 1, 0, 0, 1)


def evidence(
    rows: Iterable[Row] = (),
    *,
    groups: Sequence[Group] = (),
    weights_root: Root | None = (),
    prefixes: Mapping[Root, Sequence[Prefix]] | None = None,
    aliasing: Aliasing | None = None,
    quantized: Any = None,
    spread: Any = None,
    **checkpoint: Any,
) -> Evidence:
    """Evidence of ``rows``; further keywords are fields of the checkpoint."""
    rows = list(rows)
    entries = tuple(row.entry for row in rows)
    fields = {"path": "f", "format": "torch_zip", "layout": "", "files": (), "entries": entries, **checkpoint}
    names = "\n".join(str(entry.name) for entry in entries)
    shared = find_aliases(entries) if aliasing is None else aliasing
    return Evidence(
        Checkpoint(**fields), rows, groups, weights_root, summary(rows), shared, prefixes or {}, names,
        quantized, spread,
    )  # fmt: skip


def said(*rows: Row, **more: Any) -> list[Finding]:
    """Everything that any rule says."""
    return list(find_all(evidence(rows, **more)))


def plain(name: str, count: int = 1, **more: Any) -> list[Row]:
    """So many rows ``name0``, ``name1``, … with nothing odd."""
    return [at(f"{name}{number}", **more) for number in range(count)]


PRESENT, MISSING = Presence.PRESENT, Presence.MISSING
