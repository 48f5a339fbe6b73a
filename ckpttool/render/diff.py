"""The views of ``diff``: what a person sees, a line per entry for a pipe, and the JSON document."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ckpttool.analysis.difference import (
    SAME,
    Diff,
    DiffEntry,
    NameBasis,
    Numbers,
    Status,
    ValueChange,
    join_numbers,
)
from ckpttool.analysis.fold import fold_rows
from ckpttool.analysis.inspection import Row
from ckpttool.analysis.sides import is_buffer
from ckpttool.checkpoint import UNCLASSIFIED, Classification, Kind
from ckpttool.render.inspection import iter_findings
from ckpttool.render.json import finding_object, key_value, plain_value, root_keys
from ckpttool.render.kinds import KIND_NOUNS
from ckpttool.render.tables import Cell, Column, Line, Span, fill, iter_table
from ckpttool.render.units import (
    NAME_LIMIT,
    bar,
    format_count,
    format_float,
    format_int,
    format_name,
    format_path,
    format_percent,
    format_root,
    format_shape,
    format_value,
    join_facts,
    plural,
    safe,
)

DIFF_SCHEMA = "ckpttool/diff/1"

_BAR_CELLS = 6
_MOST_ROWS = 100  # of a table on a screen, unless --all or --top say otherwise
_MOST_VALUES = 20
_MOST_PLACES = 3  # named in the first line

_STYLES = {
    Status.EQUAL: "dim",
    Status.WITHIN_TOLERANCE: "dim",
    Status.CHANGED: "warning",
    Status.ADDED: "good",
    Status.REMOVED: "error",
    Status.RENAMED: "state",
    Status.DTYPE: "buffer",
    Status.SHAPE: "error",
}
_ORDER = {
    status: rank
    for rank, status in enumerate(
        (
            Status.CHANGED,
            Status.DTYPE,
            Status.SHAPE,
            Status.RENAMED,
            Status.REMOVED,
            Status.ADDED,
            Status.WITHIN_TOLERANCE,
            Status.EQUAL,
        )
    )
}
_BASES = {
    NameBasis.SAME_NAME: "",
    NameBasis.MAP: "by --map",
    NameBasis.PREFIX: "by prefix",
    NameBasis.PART: "by a part of the name",
    NameBasis.CONTENT: "by equal content",
    NameBasis.SUFFIX: "by shape and the end of the name",
}


class View(NamedTuple):
    """How a difference is listed: ``top`` rows at most, ``everything`` with what is equal too."""

    everything: bool = False
    top: int | None = None
    group_depth: int | None = None


# ------------------------------------------------------------------------------------------ for a person


def iter_diff(diff: Diff, width: int, view: View) -> Iterator[Line]:
    """Yield what a person sees: the answer, then rows sorted by relative change, then the rest."""
    yield from fill(list(_summary_spans(diff)), width, indent=0)
    if diff.aligned:
        yield from fill(
            [Span("names aligned:", "dim"), *(Span(safe(text), "dim") for text in diff.aligned)], width
        )
    rows = list(_table_rows(diff, view))
    if rows:
        yield ()
        limit = view.top if view.top is not None else None if view.everything else _MOST_ROWS
        shown = rows if limit is None else rows[:limit]
        columns = _GROUP_COLUMNS if view.group_depth is not None else _COLUMNS
        yield from iter_table(columns, shown, width)
        if len(shown) < len(rows):
            yield (Span(f"  … {plural(len(rows) - len(shown), 'more row')}: --all lists everything", "dim"),)
    if diff.values:
        yield ()
        yield from _iter_values(diff.values, width)
    if diff.left_out:
        yield ()
        yield from fill(
            [Span("not compared:", "dim"), *(Span(safe(text, NAME_LIMIT)) for text in diff.left_out)], width
        )
    for position, line in enumerate(iter_findings(diff.findings, width)):
        if not position:
            yield ()
        yield line


def summary_line(diff: Diff) -> str:
    """Return the answer as one line without colour."""
    return " · ".join([span.text for span in _summary_spans(diff)])


def _summary_spans(diff: Diff) -> Iterator[Span]:
    counts = diff.counts
    total = len(diff.entries)
    same = "same structure" if diff.structure_only else "identical"
    tolerated = counts[Status.WITHIN_TOLERANCE]
    if diff.equal:
        answer = "equal within tolerance" if tolerated else same
        yield Span(f"{answer}: {plural(total, 'tensor')}{_kinds_of(diff.entries)}", "title")
        if tolerated:
            yield Span(f"identical {format_count(counts[Status.EQUAL])}")
            yield Span(f"within tolerance {format_count(tolerated)}")
        if diff.structure_only:
            yield Span("values not compared")
        return
    yield Span("different:", "title")
    yield Span(f"{same} {format_count(counts[Status.EQUAL])} of {format_count(total)}")
    if tolerated:
        yield Span(f"within tolerance {format_count(tolerated)}")
    for status in (Status.CHANGED, Status.ADDED, Status.REMOVED, Status.RENAMED, Status.DTYPE, Status.SHAPE):
        those = [entry for entry in diff.entries if entry.status is status]
        if those or status in (Status.CHANGED, Status.ADDED, Status.REMOVED):
            word = {Status.DTYPE: "dtype-only", Status.SHAPE: "other shape"}.get(status, status.value)
            if status is Status.DTYPE and any(not _is_rounded(entry) for entry in those):
                word = "dtype"
            text = f"{word} {format_count(len(those))}{_facts_of(those, total)}"
            yield Span(text, _STYLES[status] if those else "dim")
    if diff.values:
        yield Span(f"{plural(len(diff.values), 'value')} beside them")


def _is_rounded(entry: DiffEntry) -> bool:
    numbers = entry.numbers
    return numbers is None or not numbers.changed or numbers.unrounded == 0


def _kinds_of(entries: Sequence[DiffEntry]) -> str:
    """`` (300 parameters, 22 buffers)``."""
    parameters = sum(entry.kind is Kind.PARAMETER for entry in entries)
    buffers = sum(is_buffer(entry.kind) for entry in entries)
    parts = [plural(count, noun) for count, noun in ((parameters, "parameter"), (buffers, "buffer")) if count]
    if len(entries) - parameters - buffers and parts:
        parts.append(f"{format_count(len(entries) - parameters - buffers)} others")
    return f" ({', '.join(parts)})" if parts else ""


def _facts_of(entries: Sequence[DiffEntry], total: int) -> str:
    """`` (buffers; layers.{30..31}, lm_head)``: the kind if they are of one, and where they stand."""
    if not entries:
        return ""
    kinds = {"buffers" if is_buffer(entry.kind) else f"{KIND_NOUNS[entry.kind]}s" for entry in entries}
    facts = []
    if len(kinds) == 1:
        facts.append(kinds.pop().replace("entrys", "entries"))
    else:
        buffers = sum(is_buffer(entry.kind) for entry in entries)
        if buffers:
            facts.append(f"{plural(buffers, 'buffer')} among them")
    places = _places(entries)
    if len(places) <= _MOST_PLACES and len(entries) < total:
        facts.append(", ".join(places))
    return f" ({'; '.join(facts)})" if facts else ""


def _places(entries: Sequence[DiffEntry]) -> list[str]:
    """Modules that the entries stand in, down to the first index, runs of indices joined."""
    modules: dict[str, Row] = {}
    for entry in entries:
        parts = str(entry.name).split(".")
        depth = next((place for place, part in enumerate(parts) if part.isdigit()), 0) + 1
        path = ".".join(parts[:depth])
        modules.setdefault(
            path, Row(entry.either._replace(root=(), name=f"{path}.x", value=None), UNCLASSIFIED)
        )
    return [safe(folded.pattern.removesuffix(".x"), 60) for folded in fold_rows(list(modules.values()))]


# ------------------------------------------------------------------------------------------------- tables

_COLUMNS = (
    Column("status"),
    Column("kind", optional=2),
    Column("name", floor=20),
    Column("dtype", optional=1),
    Column("rel L2", right=True),
    Column(""),
    Column("max |Δ|", right=True),
    Column("changed", right=True, optional=1),
    Column("note", floor=16),
)

_GROUP_STATUSES = (Status.EQUAL, Status.CHANGED, Status.ADDED, Status.REMOVED)
_GROUP_COLUMNS = (
    Column("module", floor=20),
    Column("tensors", right=True),
    Column("equal", right=True),
    Column("changed", right=True),
    Column("added", right=True),
    Column("removed", right=True),
    Column("other", right=True),
    Column("rel L2", right=True),
    Column(""),
    Column("max |Δ|", right=True),
)


class _Fold(NamedTuple):
    """Entries that share a line: they differ in indices only."""

    name: str
    entries: list[DiffEntry]
    numbers: Numbers | None

    @property
    def rel_l2(self) -> float:
        """For sorting: nothing known comes last, infinite first."""
        rel = self.numbers.rel_l2 if self.numbers is not None else None
        if rel is None:
            return math.inf if self.numbers is not None else -1.0
        return rel


def _table_rows(diff: Diff, view: View) -> Iterator[tuple[Cell, ...]]:
    entries = [entry for entry in diff.entries if view.everything or entry.status is not Status.EQUAL]
    if view.group_depth is not None:
        yield from _group_rows(diff.entries, view.group_depth, everything=view.everything)
        return
    folds = list(_fold(entries))
    folds.sort(key=lambda fold: (_ORDER[fold.entries[0].status], -fold.rel_l2))
    largest = _largest(fold.numbers for fold in folds)
    for fold in folds:
        yield _cells(fold, largest)


def _largest(numbers: Iterable[Numbers | None]) -> float:
    known = [item.rel_l2 for item in numbers if item is not None]
    return max((rel for rel in known if rel is not None and math.isfinite(rel)), default=0.0)


def _fold(entries: Sequence[DiffEntry]) -> Iterator[_Fold]:
    """Fold entries that agree in all that a line says of them."""
    alike: dict[object, list[DiffEntry]] = {}
    for entry in entries:
        dtypes = _dtype_text(entry)
        renamed = entry.status is Status.RENAMED
        key = (entry.status, dtypes, _shape_text(entry), entry.basis, entry.note, id(entry) if renamed else 0)
        alike.setdefault(key, []).append(entry)
    for those in alike.values():
        rows = []
        owners = {}
        for entry in those:
            row = Row(
                entry.either._replace(root=entry.root, name=entry.name),
                Classification(entry.kind, _no_basis()),
            )
            rows.append(row)
            owners[id(row)] = entry
        for folded in fold_rows(rows):
            members = [owners[id(row)] for row in folded.rows]
            numbers = [entry.numbers for entry in members if entry.numbers is not None]
            yield _Fold(_fold_name(folded), members, join_numbers(numbers) if numbers else None)


def _no_basis() -> Any:
    return UNCLASSIFIED.basis


def _fold_name(folded: Any) -> str:
    entry = folded.rows[0].entry
    if folded.count == 1:
        return format_path(entry.root, entry.name)
    root = safe(folded.root_pattern, NAME_LIMIT)
    return f"{root}.{safe(folded.pattern, NAME_LIMIT)}" if root else safe(folded.pattern, NAME_LIMIT)


def _cells(fold: _Fold, largest: float) -> tuple[Cell, ...]:
    entry, numbers = fold.entries[0], fold.numbers
    rel = numbers.rel_l2 if numbers is not None else None
    return (
        Cell(entry.status.value.replace("_", " "), _STYLES[entry.status]),
        Cell(
            "buffer"
            if is_buffer(entry.kind)
            else ""
            if entry.kind is Kind.PARAMETER
            else entry.kind.value.replace("_", " "),
            "buffer",
        ),
        Cell(fold.name, "", f" ×{len(fold.entries)}" if len(fold.entries) > 1 else ""),
        Cell(_dtype_text(entry)),
        Cell("" if rel is None else _scientific(rel)),
        Cell(_bar(rel, largest), "warning"),
        Cell("" if numbers is None or numbers.max_abs is None else _number(numbers.max_abs)),
        Cell("" if numbers is None else format_percent(numbers.changed, numbers.numel)),
        Cell(_note(fold), "dim"),
    )


def _bar(rel: float | None, largest: float) -> str:
    if rel is None or not largest:
        return ""
    return bar(1.0 if not math.isfinite(rel) else rel / largest, _BAR_CELLS)


def _scientific(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "inf"


def _number(value: float | int) -> str:
    return format_int(value) if isinstance(value, int) else format_float(value)


def _dtype_text(entry: DiffEntry) -> str:
    names = []
    for row in (entry.a, entry.b):
        value = None if row is None else row.entry.value
        if value is not None and value.dtype is not None and value.dtype.name not in names:
            names.append(value.dtype.name)
    return " → ".join(names)


def _shape_text(entry: DiffEntry) -> str:
    shapes = [
        row.entry.value.shape if row.entry.value else None for row in (entry.a, entry.b) if row is not None
    ]
    texts = [format_shape(shape) for shape in shapes]
    return " → ".join(dict.fromkeys(texts))


def _note(fold: _Fold) -> str:
    entry, numbers = fold.entries[0], fold.numbers
    facts = []
    if entry.status is Status.SHAPE:
        facts.append(_shape_text(entry))
    if (
        len(fold.entries) == 1
        and entry.renamed_from is not None
        and entry.basis
        in (
            NameBasis.CONTENT,
            NameBasis.SUFFIX,
        )
    ):
        facts.append(f"was {format_path((), entry.renamed_from[1])}")
        facts.append(_BASES[entry.basis])
    if numbers is not None:
        facts += [
            f"{format_count(count)} {what}"
            for count, what in (
                (numbers.nan_appeared, "became NaN"),
                (numbers.nan_gone, "NaN gone"),
                (numbers.inf_appeared, "became inf"),
                (numbers.inf_gone, "inf gone"),
            )
            if count
        ]
        if numbers.outside:
            facts.append(f"{format_count(numbers.outside)} outside tolerance")
        if numbers.max_ulp is not None:
            facts.append(f"max {plural(numbers.max_ulp, 'ulp')}")
    if entry.note:
        facts.append(safe(entry.note, NAME_LIMIT))
    return join_facts(facts)


def _group_rows(entries: Sequence[DiffEntry], depth: int, *, everything: bool) -> Iterator[tuple[Cell, ...]]:
    groups: dict[str, list[DiffEntry]] = {}
    for entry in entries:
        parts = [*(str(key) for key in entry.root), *str(entry.name).split(".")]
        groups.setdefault(
            ".".join(parts[: min(depth, max(1, len(parts) - 1))]) if depth else "all", []
        ).append(entry)
    made = []
    for name, those in groups.items():
        numbers = [entry.numbers for entry in those if entry.numbers is not None]
        if everything or any(entry.status is not Status.EQUAL for entry in those):
            made.append(_Fold(safe(name, NAME_LIMIT), those, join_numbers(numbers) if numbers else None))
    made.sort(key=lambda fold: -fold.rel_l2)
    largest = _largest(fold.numbers for fold in made)
    for fold in made:
        counts = Counter([entry.status for entry in fold.entries])
        rel = fold.numbers.rel_l2 if fold.numbers is not None else None
        shown = [counts[status] for status in _GROUP_STATUSES]
        yield (
            Cell(fold.name),
            Cell(format_count(len(fold.entries))),
            *(
                Cell(format_count(count) if count else "", _STYLES[status])
                for status, count in zip(_GROUP_STATUSES, shown, strict=True)
            ),
            Cell(format_count(len(fold.entries) - sum(shown)) if len(fold.entries) > sum(shown) else ""),
            Cell("" if rel is None else _scientific(rel)),
            Cell(_bar(rel, largest), "warning"),
            Cell(
                "" if fold.numbers is None or fold.numbers.max_abs is None else _number(fold.numbers.max_abs)
            ),
        )


def _iter_values(values: Sequence[ValueChange], width: int) -> Iterator[Line]:
    cells = []
    for change in values[:_MOST_VALUES]:
        before = "" if change.status is Status.ADDED else format_value(change.a, 40)
        after = "" if change.status is Status.REMOVED else format_value(change.b, 40)
        arrow = f"{before} → {after}" if before and after else before or after
        name = format_path(change.root, change.name) or "(the model)"
        cells.append(
            (
                Cell(change.section, "dim"),
                Cell(change.status.value, _STYLES[change.status]),
                Cell(name),
                Cell(arrow),
            )
        )
    columns = (Column(""), Column(""), Column("", floor=20), Column("", floor=20))
    yield from iter_table(columns, cells, width, head=False)
    if len(values) > _MOST_VALUES:
        yield (Span(f"  … {format_count(len(values) - _MOST_VALUES)} more: --json lists all", "dim"),)


# -------------------------------------------------------------------------------------------------- pipe

PIPE_COLUMNS = (
    "status",
    "kind",
    "root",
    "name",
    "renamed_from",
    "dtype",
    "shape",
    "numel",
    "changed",
    "max_abs",
    "mean_abs",
    "rel_l2",
    "cosine",
    "basis",
    "note",
)
"""Fields of a line, ``-`` where there is none; that of a value is ``value``, section, root, name, A, B."""


def iter_pipe(diff: Diff, view: View) -> Iterator[str]:
    """Yield a line per entry that is not equal, in the order of the file; then one per value."""
    rows = [entry for entry in diff.entries if view.everything or entry.status is not Status.EQUAL]
    if view.top is not None:
        rows = sorted(rows, key=lambda entry: -_Fold("", [], entry.numbers).rel_l2)[: view.top]
    for entry in rows:
        numbers = entry.numbers
        figures: list[object] = [None] * 6
        if numbers is not None:
            figures = [
                numbers.numel,
                numbers.changed,
                numbers.max_abs,
                numbers.mean_abs,
                numbers.rel_l2,
                numbers.cosine,
            ]
        old = entry.renamed_from
        fields = [
            entry.status.value,
            entry.kind.value,
            format_root(entry.root) or "-",
            format_name(entry.name, None),
            "-" if old is None else format_name(old[1], None),
            _dtype_text(entry).replace(" ", "") or "-",
            _pipe_shape(entry),
            *("-" if figure is None else repr(figure) for figure in figures),
            entry.basis.value or "-",
            safe(entry.note) or "-",
        ]
        yield "\t".join(fields) + "\n"
    for change in diff.values:
        sides = [
            "-" if change.status is gone else format_value(value, NAME_LIMIT)
            for gone, value in ((Status.ADDED, change.a), (Status.REMOVED, change.b))
        ]
        fields = [
            "value",
            change.section,
            format_root(change.root) or "-",
            format_name(change.name, None) or "-",
            *sides,
        ]
        yield "\t".join(fields) + "\n"


def _pipe_shape(entry: DiffEntry) -> str:
    shapes = [
        row.entry.value.shape if row.entry.value else None for row in (entry.a, entry.b) if row is not None
    ]
    texts = ["-" if shape is None else f"[{','.join(map(format_int, shape))}]" for shape in shapes]
    return "→".join(dict.fromkeys(texts))


# -------------------------------------------------------------------------------------------------- JSON


def diff_document(diff: Diff) -> dict[str, object]:
    """Return the document of ``diff``: every entry, equal ones too."""
    counts: dict[str, object] = {status.value: count for status, count in diff.counts.items()}
    kinds: dict[str, dict[str, int]] = {}
    for entry in diff.entries:
        of_kind = kinds.setdefault(entry.kind.value, {})
        of_kind[entry.status.value] = of_kind.get(entry.status.value, 0) + 1
    return {
        "schema": DIFF_SCHEMA,
        "a": diff.a.label,
        "b": diff.b.label,
        "equal": diff.equal,
        "structure_only": diff.structure_only,
        "summary": {**counts, "by_kind": kinds, "values": len(diff.values)},
        "aligned": list(diff.aligned),
        "left_out": list(diff.left_out),
        "entries": [_entry_object(entry, diff.structure_only) for entry in diff.entries],
        "values": [
            {
                "section": change.section,
                "root": root_keys(change.root),
                "name": key_value(change.name),
                "status": change.status.value,
                "a": plain_value(change.a),
                "b": plain_value(change.b),
            }
            for change in diff.values
        ],
        "findings": [finding_object(finding) for finding in diff.findings],
    }


def _entry_object(entry: DiffEntry, structure_only: bool) -> dict[str, object]:
    numbers = entry.numbers
    unmoved = entry.status in (*SAME, Status.RENAMED) and not structure_only
    value = entry.either.value
    if numbers is None and unmoved and value is not None:
        numbers = Numbers(numel=value.numel, finite=1, max_abs=0, a_squares=1.0, b_squares=1.0, dot=1.0)
    item: dict[str, Any] = {
        "root": root_keys(entry.root),
        "name": key_value(entry.name),
        "kind": entry.kind.value,
        "status": entry.status.value,
        "max_abs": None,
        "rel_l2": None,
        "changed_numel": None,
        "numel": None if value is None else plain_value(value.numel),
        "renamed_from": None,
    }
    if entry.renamed_from is not None:
        root, name = entry.renamed_from
        item["renamed_from"] = {"root": root_keys(root), "name": key_value(name)}
    item["basis"] = entry.basis.value or None
    for which, row in (("a", entry.a), ("b", entry.b)):
        side = None if row is None else row.entry.value
        item[f"dtype_{which}"] = None if side is None or side.dtype is None else side.dtype.name
        item[f"shape_{which}"] = None if side is None or side.shape is None else list(side.shape)
    if numbers is not None:
        item |= {
            "max_abs": plain_value(numbers.max_abs),
            "rel_l2": plain_value(numbers.rel_l2),
            "changed_numel": numbers.changed,
            "numel": plain_value(numbers.numel),
            "mean_abs": plain_value(numbers.mean_abs),
            "cosine": plain_value(numbers.cosine),
            "nan_appeared": numbers.nan_appeared,
            "nan_gone": numbers.nan_gone,
            "inf_appeared": numbers.inf_appeared,
            "inf_gone": numbers.inf_gone,
        }
        for name in ("outside", "max_ulp", "unrounded"):
            if getattr(numbers, name) is not None:
                item[name] = getattr(numbers, name)
    item["note"] = entry.note
    return item
