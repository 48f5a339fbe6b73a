"""The view of ``inspect``: lines for a person, one entry per line for a pipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.analysis.fold import FoldedRow, fold_rows
from ckpttool.analysis.inspection import Inspection, Row
from ckpttool.checkpoint import (
    CompositeTensor,
    Finding,
    Kind,
    Presence,
    Root,
    TensorInfo,
)
from ckpttool.render.kinds import KIND_NOUNS, basis_name, iter_legend, kind_name, kind_style
from ckpttool.render.tables import Cell, Column, Heading, Line, Span, TableRow, column_width, fill, iter_table
from ckpttool.render.tree import count_facts, iter_groups, iter_values
from ckpttool.render.units import (
    NAME_LIMIT,
    bar,
    format_count,
    format_int,
    format_name,
    format_nbytes,
    format_path,
    format_root,
    format_shape,
    join_facts,
    plural,
    safe,
)

if TYPE_CHECKING:
    from ckpttool.stats import EntryStats

_MAX_FINDINGS = 20  # sentences on a screen; the rest is counted
_MAX_MESSAGE = 2000  # characters of a sentence: it may quote what a file says
_MAX_FACTS = 6  # dtypes or devices named in one line

_BAR_CELLS = 6

_COLUMNS = (
    Column("kind"),
    Column("name", floor=20),
    Column("dtype"),
    Column("shape", right=True),
    Column("size", right=True),
    Column("", optional=2),
    Column("basis", optional=1),
    Column("note", floor=12),
)
_NAME = 1  # index of the name among them


class Table(NamedTuple):
    """How entries are listed: ``flat`` all and unfolded, ``everything`` all; in order of ``sort``."""

    flat: bool = False
    everything: bool = False
    sort: str = "file"


def iter_inspection(
    inspection: Inspection,
    width: int,
    table: Table,
    facts: Sequence[str] = (),
    stats: Sequence[Sequence[EntryStats]] | None = None,
) -> Iterator[Line]:
    """Yield what a person sees, findings last; ``facts`` end the first line, ``stats`` go with rows."""
    yield from _iter_head(inspection, width, facts)
    yield from _block(_iter_around(inspection, width))
    rows, hidden = _listed(inspection, table)
    if rows:
        items = _arrange(rows, table, inspection.weights_root)
        if stats is None:
            yield from _block(_iter_rows(items, width))
        else:
            by_entry = {id(row.entry): each for row, each in zip(inspection.rows, stats, strict=True)}
            yield from _block(_iter_stats_rows(items, by_entry, width))
    yield from fill([Span(fact, "dim") for fact in hidden], width)
    yield from _block(fill(iter_legend(inspection.summary.bases), width))
    yield from _iter_missing(inspection.missing, width)
    yield from _block(iter_findings(inspection.findings, width))


def _block(lines: Iterable[Line]) -> Iterator[Line]:
    """The lines with an empty one above them, if there are any."""
    for position, line in enumerate(lines):
        if not position:
            yield ()
        yield line


def _iter_around(inspection: Inspection, width: int) -> Iterator[Line]:
    if len(inspection.groups) > 1 or any(group.root for group in inspection.groups):
        yield from iter_groups(inspection, width)
    yield from iter_values(inspection, width)
    yield from _iter_metadata(inspection, width)


def _iter_head(inspection: Inspection, width: int, facts: Sequence[str]) -> Iterator[Line]:
    checkpoint, summary = inspection.checkpoint, inspection.summary
    layout = f" ({safe(checkpoint.layout, NAME_LIMIT)})" if checkpoint.layout else ""
    files = f" in {plural(len(checkpoint.files), 'file')}" if len(checkpoint.files) > 1 else ""
    first = [
        Span(safe(inspection.title, NAME_LIMIT), "title"),
        Span(f"{safe(checkpoint.format).replace('_', ' ')}{layout}"),
        Span(f"{format_nbytes(checkpoint.file_nbytes)}{files}"),
    ]
    locations = [name for name, _ in summary.locations if name]
    if locations:
        first.append(Span(f"saved on {_some(locations, ', ')}"))
    first += [Span(fact) for fact in facts if fact]
    yield from fill(first, width, indent=0)
    buffers = summary.persistent_buffers + summary.non_persistent_buffers
    second = [
        Span(count_facts(summary.parameter_numel, buffers, summary.unknown)),
        Span(f"{format_nbytes(summary.tensor_nbytes)} of tensors"),
    ]
    if summary.storage_nbytes != summary.tensor_nbytes:
        second.append(Span(f"{format_nbytes(summary.storage_nbytes)} of storages"))
    if summary.dtypes:
        dtypes = [f"{name} {format_count(count)}" for name, count in summary.dtypes]
        second.append(Span(summary.dtypes[0][0] if len(dtypes) == 1 else _some(dtypes, ", ")))
    yield from fill([span for span in second if span.text], width, indent=0)


def _some(texts: Sequence[str], separator: str) -> str:
    shown = separator.join([safe(text, 40) for text in texts[:_MAX_FACTS]])
    return shown if len(texts) <= _MAX_FACTS else f"{shown}{separator}… ({len(texts)})"


def _group_of(root: Root, groups: set[Root]) -> Root | None:
    """The innermost group that ``root`` lies in."""
    return next((root[:length] for length in range(len(root), -1, -1) if root[:length] in groups), None)


def _iter_metadata(inspection: Inspection, width: int) -> Iterator[Line]:
    metadata = inspection.checkpoint.metadata
    pieces = [Span("metadata:", "dim")] if metadata else []
    for key, text in list(metadata.items())[:_MAX_FACTS]:
        pieces.append(Span(f"{safe(key, 40)} {safe(text, 60)}"))
    if len(metadata) > _MAX_FACTS:
        pieces.append(Span(f"… {len(metadata) - _MAX_FACTS} more: --json", "dim"))
    yield from fill(pieces, width, separator="  ")


def _listed(inspection: Inspection, table: Table) -> tuple[Sequence[Row], tuple[str, ...]]:
    """The rows of the table, and what to say of those left out."""
    rows, weights = inspection.rows, inspection.weights_root
    if table.flat or table.everything or len(inspection.groups) <= 1:
        return rows, ()
    if weights is None:
        shown = [row for row in rows if row.classification.kind is not Kind.OPTIMIZER_STATE]
    else:
        groups = {group.root for group in inspection.groups}
        owners = {row.entry.root: _group_of(row.entry.root, groups) for row in rows}
        shown = [row for row in rows if owners[row.entry.root] == weights]
    if len(shown) in (0, len(rows)):
        return rows, ()
    listed = {row.entry.root for row in shown}
    others = [group.root for group in inspection.groups if group.root and group.root not in listed]
    branch = format_root(others[0]) if others else "KEY.PATH"
    left_out = plural(len(rows) - len(shown), "tensor")
    facts = (f"{left_out} of other branches not listed", f"--root {branch} for one", "--flat for all")
    return shown, facts


class _Item(NamedTuple):
    """A line of the table: rows that share it, how they are called, and their bytes together."""

    folded: FoldedRow
    name: str
    nbytes: int

    @property
    def tail(self) -> str:
        return f" ×{self.folded.count}" if self.folded.count > 1 else ""


def _arrange(rows: Sequence[Row], table: Table, weights_root: Root | None) -> list[_Item]:
    folded = [FoldedRow("", (row,), 1) for row in rows] if table.flat else fold_rows(rows)
    roots = {row.entry.root for row in rows}
    with_root = len(roots) > 1 or (weights_root is None and roots != {()})
    items = [
        _Item(
            item,
            _folded_name(item, with_root),
            sum([row.entry.value.nbytes for row in item.rows if row.entry.value is not None]),
        )
        for item in folded
    ]
    if table.sort == "size":
        items.sort(key=lambda item: -item.nbytes)
    elif table.sort == "name":
        items.sort(key=lambda item: item.name)
    return items


def _iter_rows(items: Sequence[_Item], width: int) -> Iterator[Line]:
    largest = max((item.nbytes for item in items), default=0)
    cells = [_cells(item, largest) for item in items]
    room = column_width(_COLUMNS, cells, width, _NAME)
    branches = [_Branch(row, _DOT.split(row[_NAME].text)) for row in cells]
    return iter_table(_COLUMNS, list(_iter_tree(branches, room, 0)), width)


def _iter_stats_rows(
    items: Sequence[_Item], stats: Mapping[int, Sequence[EntryStats]], width: int
) -> Iterator[Line]:
    from ckpttool.render.stats import iter_stats_table, pool

    lines = []
    for item in items:
        # The rows of a fold have the same parts.
        for same_part in zip(*[stats[id(row.entry)] for row in item.folded.rows], strict=False):
            lines.append((item.name, item.folded.count, pool(same_part)))
    return iter_stats_table(lines, width)


class _Branch(NamedTuple):
    cells: tuple[Cell, ...]
    parts: list[str]  # of the name, without what the headings above it say


_DOT = re.compile(r"\.(?![^{}]*\})")  # not the dots of {0..3}
_INDEX = re.compile(r"\d+|\{[^{}]*\}")
_DEEPEST = 4  # levels of headings


def _iter_tree(branches: Sequence[_Branch], room: int, level: int) -> Iterator[TableRow]:
    """Write what too long names of neighbours begin with once, above them, so that less is elided."""
    for depth, run in _runs(branches):
        rows = [_named(branch, level) for branch in run]
        if len(run) > 1 and depth and level < _DEEPEST and any(row[_NAME].width > room for row in rows):
            yield Heading("  " * level + ".".join(run[0].parts[:depth]) + ".", _NAME, "dim")
            yield from _iter_tree(
                [branch._replace(parts=branch.parts[depth:]) for branch in run], room, level + 1
            )
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


def _named(branch: _Branch, level: int) -> tuple[Cell, ...]:
    name = branch.cells[_NAME]._replace(text="  " * level + ".".join(branch.parts))
    return (*branch.cells[:_NAME], name, *branch.cells[_NAME + 1 :])


def _folded_name(item: FoldedRow, with_root: bool) -> str:
    entry = item.rows[0].entry
    if item.count == 1:
        return format_path(entry.root, entry.name) if with_root else format_name(entry.name)
    if with_root and item.root_pattern:
        return f"{safe(item.root_pattern, NAME_LIMIT)}.{safe(item.pattern, NAME_LIMIT)}"
    return safe(item.pattern, NAME_LIMIT)


def _cells(item: _Item, largest: int) -> tuple[Cell, ...]:
    row = item.folded.rows[0]
    classification, value = row.classification, row.entry.value
    dtype, shape = "", ""
    if value is not None:
        dtype = value.dtype.name if value.dtype is not None else "?"
        shape = format_shape(value.shape)
    return (
        Cell(kind_name(classification), kind_style(classification)),
        Cell(item.name, "", item.tail),
        Cell(dtype),
        Cell(shape),
        Cell(format_nbytes(item.nbytes) if value is not None else "", "dim" if row.tied_to else ""),
        Cell(_bar(item.nbytes, largest) if not row.tied_to else "", "dim"),
        Cell(basis_name(classification.basis), "dim"),
        Cell(_note(item.folded), "dim"),
    )


def _bar(nbytes: int, largest: int) -> str:
    # Below a percent a bar says less than the number beside it.
    return bar(nbytes / largest, _BAR_CELLS) if nbytes * 100 > largest else ""


def _note(item: FoldedRow) -> str:
    row = item.rows[0]
    value = row.entry.value
    facts = ["unexpected"] if row.classification.presence is Presence.UNEXPECTED else []
    if row.tied_to is not None:
        facts.append(f"tied to {format_path((), row.tied_to.name)}" if item.count == 1 else "tied")
    if isinstance(value, CompositeTensor):
        facts.append(
            f"{safe(value.layout, 40)}: {', '.join(safe(part.name, 40) for part in value.parts[:4])}"
        )
    elif isinstance(value, TensorInfo) and not value.is_contiguous:
        facts.append("strided")
    return join_facts(facts)


def _iter_missing(missing: Sequence[Row], width: int) -> Iterator[Line]:
    """Two blocks: what the module rebuilds by design, and what it would not find."""
    designed = [row for row in missing if row.classification.kind is Kind.NON_PERSISTENT_BUFFER]
    absent = [row for row in missing if row.classification.kind is not Kind.NON_PERSISTENT_BUFFER]
    if designed:
        yield ()
        head = plural(len(designed), "non-persistent buffer")
        yield (
            Span("  "),
            Span(f"missing as designed: {head}", "missing"),
            Span(", rebuilt by the constructor", "dim"),
        )
        yield from _iter_missing_rows(designed, width)
    if absent:
        yield ()
        yield (Span("  "), Span(f"missing from the file: {_kinds(absent)}", "error"))
        yield from _iter_missing_rows(absent, width)


def _kinds(rows: Sequence[Row]) -> str:
    counts: dict[Kind, int] = {}
    for row in rows:
        counts[row.classification.kind] = counts.get(row.classification.kind, 0) + 1
    return ", ".join(plural(count, KIND_NOUNS[kind]) for kind, count in counts.items())


_MISSING_COLUMNS = (Column("name", floor=24), Column("basis"), Column("why", floor=12))


def _iter_missing_rows(rows: Sequence[Row], width: int) -> Iterator[Line]:
    with_root = len({row.entry.root for row in rows}) > 1
    cells = [
        (
            Cell(_folded_name(item, with_root), "", f" ×{item.count}" if item.count > 1 else ""),
            Cell(basis_name(item.rows[0].classification.basis), "dim"),
            Cell(safe(item.rows[0].classification.note, NAME_LIMIT), "dim"),
        )
        for item in fold_rows(rows)
    ]
    return iter_table(_MISSING_COLUMNS, cells, width, indent=4, head=False)


def iter_findings(findings: Sequence[Finding], width: int) -> Iterator[Line]:
    """Yield ``! sentence`` per finding, the gravest first, wrapped under itself."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for finding in _gravest_first(findings):
        alike.setdefault((finding.severity, finding.code, finding.message), []).append(finding.name)
    shown = list(alike.items())[:_MAX_FINDINGS]
    for (severity, _, message), names in shown:
        mark = "·" if severity == "info" else "!"
        for index, text in enumerate(_wrap(_sentence(names, message), max(20, width - 4))):
            start = f"  {mark} " if not index else "    "
            yield (Span(start, severity), Span(text))
    if len(alike) > len(shown):
        yield (Span(f"    … and {format_count(len(alike) - len(shown))} more: --json lists all", "dim"),)


def _sentence(names: Sequence[str], message: str) -> str:
    """``name: message``, the name once; of many names the first."""
    message = safe(message, _MAX_MESSAGE)
    name = safe(names[0], NAME_LIMIT)
    more = f" and {format_count(len(names) - 1)} more" if len(names) > 1 else ""
    return f"{name}{more}: {message}" if name and (more or name not in message) else message


def iter_finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield ``severity: sentence [code]`` per finding, for stderr."""
    for finding in _gravest_first(findings):
        sentence = _sentence([finding.name], finding.message)
        yield f"{safe(finding.severity)}: {sentence} [{safe(finding.code)}]\n"


def _gravest_first(findings: Sequence[Finding]) -> list[Finding]:
    ranks = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: ranks.get(finding.severity, 0))


def _wrap(text: str, width: int) -> Iterable[str]:
    import textwrap

    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


PIPE_COLUMNS = (
    "kind",
    "presence",
    "root",
    "name",
    "dtype",
    "shape",
    "nbytes",
    "basis",
    "location",
    "tied_to",
)
"""Fields of a line, in this order, with a tab between; ``-`` where there is none. Only ever added to."""


def iter_pipe(inspection: Inspection, extra: Sequence[Sequence[str]] = ()) -> Iterator[str]:
    """Yield a line per entry; ``extra`` are further fields of the row at the same position."""
    roots: dict[Root, str] = {}
    for position, row in enumerate((*inspection.rows, *inspection.missing)):
        entry, classification, tied_to = row
        root = roots.get(entry.root)
        if root is None:
            root = roots[entry.root] = format_root(entry.root) or "-"
        value = entry.value
        dtype = shape = nbytes = location = "-"
        if value is not None:
            dtype = value.dtype.name if value.dtype is not None else "-"
            shape = "-" if value.shape is None else f"[{','.join(map(format_int, value.shape))}]"
            nbytes = format_int(value.nbytes)
            if isinstance(value, TensorInfo) and value.storage is not None:
                location = safe(value.storage.location or "-")
        fields = [
            classification.kind.value,
            classification.presence.value,
            root,
            format_name(entry.name, None),
            dtype,
            shape,
            nbytes,
            classification.basis.value,
            location,
            "-" if tied_to is None else format_path(tied_to.root, tied_to.name, None),
        ]
        if extra:
            fields += extra[position] if position < len(extra) else ["-"] * len(extra[0])
        yield "\t".join(fields) + "\n"
