"""The table of ``inspect``: a line per tensor, or per run of tensors that differ only in indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.names.fold import FoldedRow, fold_rows
from ckpttool.render.fields import dtype_name
from ckpttool.render.kinds import KIND_MANY, KIND_NAMES, KIND_NOUNS, basis_phrase, evidence_name, kind_style
from ckpttool.render.name_tree import as_tree
from ckpttool.render.tables import (
    Cell,
    Column,
    Line,
    RowLine,
    Span,
    fill,
    iter_table,
    number_columns,
    times,
)
from ckpttool.render.units import bar, join_facts
from ckpttool.render.views import InspectListing
from ckpttool.values.checkpoint import (
    Basis,
    ChunkedTensor,
    Classification,
    CompositeTensor,
    Kind,
    Presence,
    Root,
)
from ckpttool.values.inspection import Inspection, Row
from ckpttool.values.words import (
    NAME_LIMIT,
    agree,
    format_name,
    format_nbytes,
    format_path,
    format_root,
    format_shape,
    plural,
    quote,
    safe,
)

if TYPE_CHECKING:
    from ckpttool.elements.stats import EntryStats

_BAR_CELLS = 6

_COLUMNS = (
    Column("kind"),
    Column("name", floor=20, names=True),
    Column("dtype", optional=1),
    *number_columns("shape", "size"),
    Column("", optional=2),
    Column("evidence", optional=1),
    Column("note", floor=12, prose=True),
)
_MODEL_COLUMNS = (
    *_COLUMNS[:2],
    Column("dtype", optional=2),
    Column("shape", right=True, optional=1),
    Column("size", right=True, optional=2),
    Column("in file", optional=1),
    Column("in model", optional=1),
    Column("note", floor=24, prose=True),
)
"""Where a live model was laid against the file."""

_NAME = 1  # index of the name among them

# A column that says the same of every row -> what is said above the table instead.
_ONCE = {"dtype": "all {}", "in file": "all in the file", "in model": "all in the model"}


def iter_rows(
    inspection: Inspection,
    listing: InspectListing,
    width: int,
    stats: Sequence[Sequence[EntryStats]] | None = None,
    most: int | None = None,
    shares: Sequence[Line] = (),
) -> Iterator[Line]:
    """Yield the table, and what is left out of it; with ``stats``, the table of values instead.

    A table of more than ``most`` lines, or of which a ``depth`` is asked, becomes a summary by block. Else,
    and where there is room, ``shares`` come first: a summary has them.
    """
    rows, hidden = _listed(inspection, listing)
    is_compared = stats is None and _is_compared(inspection)
    if is_compared:
        rows = (*rows, *(row for row in inspection.missing if _is_of_model(row)))
    items = _arrange(rows, listing, inspection.weights_root)
    if stats is not None:
        by_entry = {id(row.entry): each for row, each in zip(inspection.rows, stats, strict=True)}
        yield from _iter_stats_rows(items, by_entry, width) if items else ()
    elif is_compared:
        yield from _iter_items(items, width, _MODEL_COLUMNS, _model_cells)
    elif rows:
        is_summed = listing.depth is not None or (most is not None and len(items) > most)
        table = [] if is_summed else list(_iter_items(items, width, _COLUMNS, _cells))
        if is_summed or (most is not None and _height(table) > most):
            table = list(_iter_summary(inspection, rows, listing, width, most))
        elif shares and (most is None or _height(table) + len(shares) < most):
            table = [*shares, (), *table]
        yield from table
    yield from fill([Span(fact, "dim") for fact in hidden], width)


def _is_compared(inspection: Inspection) -> bool:
    """Whether a live model was laid against a file."""
    return inspection.model is not None and inspection.model.matched is not None


def _is_of_model(row: Row) -> bool:
    return row.classification.basis is Basis.MODULE


def _group_of(root: Root, groups: set[Root]) -> Root | None:
    """The innermost group that ``root`` lies in."""
    return next((root[:length] for length in range(len(root), -1, -1) if root[:length] in groups), None)


def _listed(inspection: Inspection, listing: InspectListing) -> tuple[Sequence[Row], tuple[str, ...]]:
    """The rows of the table, and what to say of those left out."""
    rows, weights = inspection.rows, inspection.weights_root
    if listing.flat or listing.everything or len(inspection.groups) <= 1:
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
    hidden = len(rows) - len(shown)
    left_out = f"{plural(hidden, 'tensor')} in other branches {agree(hidden, 'is', 'are')} hidden"
    facts = (left_out, f"--root {quote(branch)} for one", "--flat for all")
    return shown, facts


class _Item(NamedTuple):
    """A line of the table: rows that share it, how they are called, and their bytes together."""

    folded: FoldedRow
    name: str
    nbytes: int


def _arrange(rows: Sequence[Row], listing: InspectListing, weights_root: Root | None) -> list[_Item]:
    folded = [FoldedRow("", (row,), 1) for row in rows] if listing.flat else fold_rows(rows, by_module=True)
    with_root = _has_roots(rows, weights_root)
    items = [
        _Item(
            item,
            folded_name(item, with_root),
            sum([row.entry.value.nbytes for row in item.rows if row.entry.value is not None]),
        )
        for item in folded
    ]
    if listing.sort == "size":
        items.sort(key=lambda item: -item.nbytes)
    elif listing.sort == "name":
        items.sort(key=lambda item: item.name)
    return items


def _height(table: Sequence[Line]) -> int:
    """Lines below the head and the rule."""
    head = next((at for at, line in enumerate(table) if isinstance(line, RowLine)), 0)
    return len(table) - head - 2


def _has_roots(rows: Sequence[Row], weights_root: Root | None) -> bool:
    """Whether names alone do not say where an entry is."""
    roots = {row.entry.root for row in rows}
    return len(roots) > 1 or (weights_root is None and roots != {()})


def _iter_items(
    items: Sequence[_Item],
    width: int,
    columns: Sequence[Column],
    cells_of: Callable[[_Item, int], tuple[Cell, ...]],
) -> Iterator[Line]:
    largest = max((item.nbytes for item in items), default=0)
    cells = [cells_of(item, largest) for item in items]
    once = _said_once(items, columns, cells) if len(items) > 1 else {}
    cells = [
        tuple([cell._replace(text="") if at in once else cell for at, cell in enumerate(row)])
        for row in cells
    ]
    yield from fill([Span(fact, "dim") for fact in once.values()], width)
    yield from iter_table(columns, as_tree(columns, cells, width, _NAME), width)


def _said_once(
    items: Sequence[_Item], columns: Sequence[Column], cells: Sequence[tuple[Cell, ...]]
) -> dict[int, str]:
    """The columns that say the same of every row, with what is said above the table for them."""
    once = {}
    first = items[0].folded.rows[0].classification
    for at, column in enumerate(columns):
        text = cells[0][at].text
        if column.title == "kind":
            fact = f"all {KIND_MANY[first.kind]}"
        elif column.title == "evidence":
            fact = f"all {basis_phrase(first)}"
        else:
            fact = _ONCE.get(column.title, "").format(text)
        if fact and text not in ("", "—", "?") and all(row[at].text == text for row in cells):
            once[at] = fact
    return once


def _iter_summary(
    inspection: Inspection, rows: Sequence[Row], listing: InspectListing, width: int, most: int | None
) -> Iterator[Line]:
    from ckpttool.render.blocks import iter_blocks

    return iter_blocks(
        rows,
        width,
        depth=listing.depth,
        most=max(most or 0, 1),
        sort=listing.sort,
        with_root=_has_roots(rows, inspection.weights_root),
        packed=bool(inspection.weights.quantized),
    )


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


def folded_name(item: FoldedRow, with_root: bool) -> str:
    """Return how a line is called: the name of its row, or the pattern of all of its rows."""
    entry = item.rows[0].entry
    if item.count == 1:
        return format_path(entry.root, entry.name) if with_root else format_name(entry.name)
    if with_root and item.root_pattern:
        return f"{safe(item.root_pattern, NAME_LIMIT)}.{safe(item.pattern, NAME_LIMIT)}"
    return safe(item.pattern, NAME_LIMIT)


def _cells(item: _Item, largest: int) -> tuple[Cell, ...]:
    row = item.folded.rows[0]
    return (
        *_tensor_cells(item),
        Cell(_bar(item.nbytes, largest) if not row.tied_to else "", "dim"),
        Cell(evidence_name(row.classification), "dim"),
        Cell(_note(item.folded), "dim"),
    )


def _model_cells(item: _Item, largest: int) -> tuple[Cell, ...]:
    """Cells where a model was laid against the file; ``largest`` is for a bar, which has no room here."""
    classification = item.folded.rows[0].classification
    kind, presence = classification.kind, classification.presence
    is_missing = presence is Presence.MISSING
    is_known = classification.basis is Basis.MODULE
    in_model = "yes" if is_known else "—" if presence is Presence.UNEXPECTED else ""
    notes = {row.classification.note for row in item.folded.rows} if is_known else {"not in the model"}
    note = safe(notes.pop() if len(notes) == 1 else "differs: --flat", NAME_LIMIT) if in_model else ""
    designed = is_missing and kind is Kind.NON_PERSISTENT_BUFFER
    style = "dim" if designed or not note else "error" if is_missing else "warning"
    facts = join_facts((f"! {note}" if note and not designed else note, _note(item.folded, compared=True)))
    return (
        *_tensor_cells(item),
        Cell("—" if is_missing else "yes"),
        Cell(in_model),
        Cell(facts, style),
    )


def _tensor_cells(item: _Item) -> tuple[Cell, ...]:
    row = item.folded.rows[0]
    classification, value = row.classification, row.entry.value
    return (
        Cell(KIND_NAMES[classification.kind], kind_style(classification)),
        Cell(item.name, "", times(item.folded.count)),
        Cell(dtype_name(value) if value is not None else ""),
        Cell(format_shape(value.shape) if value is not None else ""),
        Cell(format_nbytes(item.nbytes) if value is not None else "", "dim" if row.tied_to else ""),
    )


def _bar(nbytes: int, largest: int) -> str:
    # Below a percent a bar says less than the number beside it.
    return bar(nbytes / largest, _BAR_CELLS) if nbytes * 100 > largest else ""


def _note(item: FoldedRow, *, compared: bool = False) -> str:
    row = item.rows[0]
    value = row.entry.value
    is_odd = row.classification.presence is Presence.UNEXPECTED and not compared
    facts = ["unexpected"] if is_odd else []
    if row.tied_to is not None:
        facts.append(f"tied to {format_path((), row.tied_to.name)}" if item.count == 1 else "tied")
    if row.entry.subclass:
        facts.append(f"class {safe(row.entry.subclass, 40)}")
    if isinstance(value, CompositeTensor):
        parts = ", ".join(safe(part.name, 40) for part in value.parts[:4])
        facts.append(f"{safe(value.layout, 40)}: {parts}" if parts else safe(value.layout, 40))
    elif isinstance(value, ChunkedTensor):
        facts.append(plural(len(value.chunks), "chunk"))
    elif value is not None and not value.is_contiguous:
        facts.append("strided")
    return join_facts(facts)


def iter_missing(inspection: Inspection, width: int, *, in_table: bool) -> Iterator[Line]:
    """Yield two blocks: what the module rebuilds by design, and what it would not find.

    With ``in_table``, what a live model says is not repeated: its table has these rows.
    """
    is_told = in_table and _is_compared(inspection)
    missing = [row for row in inspection.missing if not (is_told and _is_of_model(row))]
    designed, possible, absent = _by_design(missing)
    if designed:
        yield ()
        head = Span(f"not stored, by design: {_kinds(designed)}", "missing")
        why = Span(f"(the constructor recreates {agree(len(designed), 'it', 'them')})", "dim")
        yield from fill([head, why], width, separator=" ")
        yield from _iter_missing_rows(designed, width)
    if possible:
        yield ()
        head = Span(f"possibly not stored, by design: {_kinds(possible)}", "missing")
        yield from fill([head, Span("(the model's arguments decide)", "dim")], width, separator=" ")
        yield from _iter_missing_rows(possible, width)
    if absent:
        yield ()
        yield (Span("  "), Span(f"missing from the file: {_kinds(absent)}", "error"))
        yield from _iter_missing_rows(absent, width)


def _by_design(rows: Sequence[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """Those that a module leaves out of its state_dict, those that it may leave out, and the others."""
    designed: list[Row] = []
    possible: list[Row] = []
    absent: list[Row] = []
    for row in rows:
        kind, presence = row.classification.kind, row.classification.presence
        if presence is Presence.POSSIBLE:
            possible.append(row)
        else:
            (designed if kind is Kind.NON_PERSISTENT_BUFFER else absent).append(row)
    return designed, possible, absent


def _kinds(rows: Sequence[Row]) -> str:
    counts = Counter(row.classification.kind for row in rows)
    return ", ".join(plural(count, KIND_NOUNS[kind]) for kind, count in counts.items())


def missing_facts(inspection: Inspection) -> list[Span]:
    """Return ``17 non-persistent buffers not stored, by design`` for what a live model says of the file."""
    if not _is_compared(inspection):
        return []
    designed, _, absent = _by_design([row for row in inspection.missing if _is_of_model(row)])
    facts = [Span(f"{_kinds(designed)} not stored, by design", "missing")] if designed else []
    return facts + ([Span(f"{_kinds(absent)} missing", "error")] if absent else [])


def _why(classification: Classification) -> str:
    """Why it is missing; of what source says the class, for its place stands beside."""
    source = classification.source
    text = classification.note if source is None else source.class_name.rpartition(".")[2]
    return safe(text, NAME_LIMIT)


_MISSING_COLUMNS = (
    Column("name", floor=24, names=True),
    Column("evidence"),
    Column("why", floor=12, prose=True),
)


def _iter_missing_rows(rows: Sequence[Row], width: int) -> Iterator[Line]:
    with_root = len({row.entry.root for row in rows}) > 1
    cells = [
        (
            Cell(folded_name(item, with_root), "", times(item.count)),
            Cell(evidence_name(item.rows[0].classification), "dim"),
            Cell(_why(item.rows[0].classification), "dim"),
        )
        for item in fold_rows(rows)
    ]
    return iter_table(_MISSING_COLUMNS, cells, width, indent=4, head=False)
