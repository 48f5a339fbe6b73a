"""``diff`` for programs: a line per entry for a pipe, and the JSON document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ckpttool.render.diff_table import dtype_text, is_shown, pair_text, shown_sizes, sort_rank
from ckpttool.render.fields import format_sizes, tensor_fields
from ckpttool.render.inspection import iter_finding_lines
from ckpttool.render.json import encode, place, plain_value
from ckpttool.render.tables import Line
from ckpttool.render.views import DiffListing, View
from ckpttool.values.difference import SAME, Diff, DiffEntry, Numbers, Status
from ckpttool.values.words import NAME_LIMIT, format_name, format_root, format_value, safe

DIFF_SCHEMA = "ckpttool/diff/1"

_DOCUMENT_NAMES = {"changed": "changed_numel"}

_FIGURES = ("numel", "changed", "max_abs", "mean_abs", "rel_l2", "cosine")
PIPE_COLUMNS = (*"status kind root name renamed_from dtype shape".split(), *_FIGURES, "basis", "note")
"""Fields of a line, ``-`` where there is none; that of a value is ``value``, section, root, name, A, B."""


def iter_pipe(diff: Diff, listing: DiffListing) -> Iterator[str]:
    """Yield a line per entry that is not equal, in the order of the file; then one per value."""
    rows = [entry for entry in diff.entries if listing.everything or is_shown(entry)]
    if listing.top is not None:
        rows = sorted(rows, key=lambda entry: sort_rank(entry.status, entry.numbers))[: listing.top]
    for entry in rows:
        rel_l2, max_abs = shown_sizes(entry.numbers)
        sizes = {"rel_l2": rel_l2, "max_abs": max_abs}
        figures = [sizes.get(name, getattr(entry.numbers, name, None)) for name in _FIGURES]
        old = entry.renamed_from
        fields = [
            entry.status.value,
            entry.kind.value,
            format_root(entry.root) or "-",
            format_name(entry.name, None),
            "-" if old is None else format_name(old[1], None),
            dtype_text(entry).replace(" ", "") or "-",
            pair_text(entry, lambda value: format_sizes(value.shape), "→"),
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
        root, name = format_root(change.root) or "-", format_name(change.name, None) or "-"
        yield "\t".join(["value", change.section, root, name, *sides]) + "\n"


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
        "weights_equal": diff.weights_equal,
        "weights_only": diff.weights_only,
        "ignored": encode(diff.ignored),
        "structure_only": diff.structure_only,
        "summary": {**counts, "by_kind": kinds, "values": len(diff.values)},
        "aligned": list(diff.aligned),
        "left_out": list(diff.left_out),
        "renames": encode(diff.renames),
        "entries": [_entry_object(entry, diff.structure_only) for entry in diff.entries],
        "values": encode(diff.values),
        "findings": encode(diff.findings),
    }


def _entry_object(entry: DiffEntry, structure_only: bool) -> dict[str, object]:
    numbers = entry.numbers
    unmoved = entry.status in (*SAME, Status.RENAMED) and not structure_only
    value = entry.either.value
    if numbers is None and unmoved and value is not None:
        numbers = Numbers(numel=value.numel, finite=1, max_abs=0, a_squares=1.0, b_squares=1.0, dot=1.0)
    item: dict[str, Any] = {
        **place(entry.root, entry.name),
        "kind": entry.kind.value,
        "status": entry.status.value,
        "max_abs": None,
        "rel_l2": None,
        "changed_numel": None,
        "numel": None if value is None else plain_value(value.numel),
        "renamed_from": None if entry.renamed_from is None else place(*entry.renamed_from),
        "basis": entry.basis.value or None,
    }
    for which, row in (("a", entry.a), ("b", entry.b)):
        dtype, shape, *_ = tensor_fields(None if row is None else row.entry.value)
        item[f"dtype_{which}"], item[f"shape_{which}"] = dtype, None if shape is None else list(shape)
    if numbers is not None:
        names = ("max_abs", "rel_l2", "changed", "numel", "mean_abs", "cosine", "nan_appeared", "nan_gone")
        for name in (*names, "inf_appeared", "inf_gone", "inf_flipped"):
            item[_DOCUMENT_NAMES.get(name, name)] = plain_value(getattr(numbers, name))
        for name in ("outside", "max_ulp", "unrounded"):
            if getattr(numbers, name) is not None:
                item[name] = getattr(numbers, name)
    item["note"] = entry.note
    if entry.tied_to is not None:
        item["tied_to"] = encode(entry.tied_to)
    if entry.ignored:
        item["ignored"] = True
    return item


def _lines(diff: Diff, width: int, listing: DiffListing | None) -> Iterable[Line]:
    from ckpttool.render.diff import iter_diff

    return iter_diff(diff, width, listing or DiffListing())


def _pipe(diff: Diff, listing: DiffListing | None) -> tuple[Iterable[str], Iterable[str]]:
    from ckpttool.render.diff import renamed_by_rule, summary_line

    def remarks() -> Iterator[str]:
        yield f"{summary_line(diff)}\n"
        yield from (f"names aligned: {safe(text)}\n" for text in diff.aligned)
        yield from (f"{text}\n" for text in renamed_by_rule(diff))
        yield from (f"not compared: {safe(text)}\n" for text in diff.left_out)
        yield from iter_finding_lines(diff.findings)

    return iter_pipe(diff, listing or DiffListing()), remarks()


DIFF = View(_lines, _pipe, diff_document, pages=True)
