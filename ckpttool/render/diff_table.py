"""The tables of ``diff``: rows of entries that differ in indices only, and totals by module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ckpttool.names.fold import fold_rows
from ckpttool.render.fields import dtype_name
from ckpttool.render.inspection_table import folded_name
from ckpttool.render.kinds import KIND_NAMES
from ckpttool.render.tables import Cell, Column, number_columns, times
from ckpttool.render.units import bar, format_percent, join_facts
from ckpttool.values.checkpoint import Basis, Classification, Kind, Root, Tensor, is_buffer
from ckpttool.values.difference import DiffEntry, NameBasis, Numbers, Status, join_numbers
from ckpttool.values.inspection import Row
from ckpttool.values.words import (
    NAME_LIMIT,
    format_count,
    format_number,
    format_shape,
    plural,
    safe,
)

_BAR_CELLS = 6

STATUS_STYLES = {
    Status.CHANGED: "warning",
    Status.DTYPE: "buffer",
    Status.SHAPE: "error",
    Status.RENAMED: "state",
    Status.REMOVED: "error",
    Status.ADDED: "good",
    Status.WITHIN_TOLERANCE: "dim",
    Status.EQUAL: "dim",
}
"""In the order of a table."""

_RANKS = {status: rank for rank, status in enumerate(STATUS_STYLES)}

# Names that were brought together one by one; what a rule did to all of them is said once above.
GUESSED = {NameBasis.CONTENT: "by content", NameBasis.SUFFIX: "by shape and ending"}

_SIZE_COLUMNS = (Column("rel L2", right=True), Column(""), Column("max |Δ|", right=True))

COLUMNS = (
    Column("status"),
    Column("kind", optional=2),
    Column("name", floor=20),
    Column("dtype", optional=2),
    *_SIZE_COLUMNS,
    Column("changed", right=True, optional=1),
    Column("note", floor=24, prose=True),
)

_GROUP_STATUSES = (Status.EQUAL, Status.CHANGED, Status.ADDED, Status.REMOVED)

GROUP_COLUMNS = (
    Column("module", floor=20),
    *(column._replace(optional=2) for column in number_columns("tensors", Status.EQUAL.value)),
    *number_columns(*(status.value for status in _GROUP_STATUSES[1:]), "other", "elements"),
    *_SIZE_COLUMNS,
)


class _Fold(NamedTuple):
    """Entries that share a line: they differ in indices only."""

    name: str
    entries: Sequence[DiffEntry]
    numbers: Numbers | None

    @property
    def rel_l2(self) -> float | None:
        return shown_sizes(self.numbers)[0]


def shown_sizes(numbers: Numbers | None) -> tuple[float | None, float | int | None]:
    """Relative change and largest difference as people read them: of all elements, NaN if one became NaN."""
    if numbers is None:
        return None, None
    return (numbers.rel_l2, numbers.max_abs) if numbers.beyond is None else (numbers.beyond, numbers.beyond)


def sort_rank(status: Status, numbers: Numbers | None) -> tuple[bool, int, float]:
    """Order of rows: what became NaN, then by status, then the largest relative change first."""
    rel = shown_sizes(numbers)[0]
    if rel is None:  # numbers without a norm: nothing finite is left, the gravest of all
        rel = 0.0 if numbers is None else math.inf
    became_nan = math.isnan(rel)
    return not became_nan, _RANKS[status], 0.0 if became_nan else -rel


def is_shown(entry: DiffEntry) -> bool:
    """Whether an entry has a row although not all were asked for: it differs, or does within a tolerance."""
    return entry.status is not Status.EQUAL and entry.tied_to is None and not entry.ignored


def make_rows(entries: Iterable[DiffEntry], *, base: Root) -> tuple[list[tuple[Cell, ...]], list[str]]:
    """Folded rows, the largest relative change first, and what all of one status have in common, in words.

    Roots are shown without ``base``.
    """
    folds = list(_fold(entries, len(base)))
    folds.sort(key=lambda fold: sort_rank(fold.entries[0].status, fold.numbers))
    largest = _largest(folds)
    said: list[str] = []
    unnoted: set[int] = set()
    by_status: dict[Status, list[_Fold]] = {}
    for fold in folds:
        by_status.setdefault(fold.entries[0].status, []).append(fold)
    for status, those in by_status.items():
        what, common = _common(those)
        count, total = (sum(len(fold.entries) for fold in some) for some in (common, those))
        if count > 1:
            unnoted.update(map(id, common))
            subject = f"all {format_count(count)}" if count == total else f"{count:,} of {total:,}"
            if len(by_status) > 1:
                subject += f" with status {status.value.replace('_', ' ')}"
            said.append(f"{subject}{what}")
    return [_cells(fold, largest, noted=id(fold) not in unnoted) for fold in folds], said


def _common(folds: Sequence[_Fold]) -> tuple[str, Sequence[_Fold]]:
    """What rows of one status would say in their notes, so that it can be said once, and which of them."""
    casts: dict[str, list[_Fold]] = {}
    for fold in folds:
        dtype = _narrower(fold.entries[0])  # a fold has one note, and one pair of dtypes
        if dtype and all(map(is_rounded, fold.entries)):
            casts.setdefault(dtype, []).append(fold)
    if len(casts) == 1:
        ((dtype, cast),) = casts.items()
        return f" are a plain cast to {dtype}, round to nearest", cast
    notes = {_note(fold) for fold in folds}
    note = notes.pop() if len(notes) == 1 else ""
    return f": {note}", folds if note else ()


def is_rounded(entry: DiffEntry) -> bool:
    """Whether nothing but the dtype, and the rounding that goes with it, is different."""
    return entry.numbers is not None and (not entry.numbers.changed or entry.numbers.unrounded == 0)


def _narrower(entry: DiffEntry) -> str:
    """The dtype in B where it is another one than in A, of fewer bits."""
    a, b = (None if row is None else row.entry.value for row in (entry.a, entry.b))
    if a is None or b is None or a.dtype is None or b.dtype is None or a.dtype.bits <= b.dtype.bits:
        return ""
    return dtype_name(b)


def iter_group_rows(
    entries: Iterable[DiffEntry], depth: int | None, *, base: Root, everything: bool
) -> Iterator[tuple[Cell, ...]]:
    """Yield totals by the first ``depth`` parts of names, the largest relative change first.

    Without ``depth`` by block: down to the first index of a name.
    """
    groups: dict[str, list[DiffEntry]] = {}
    for entry in entries:
        parts = [*map(str, entry.root[len(base) :]), *str(entry.name).split(".")]
        wanted = block_depth(parts) if depth is None else depth
        # The last part is a tensor's, not a module's.
        groups.setdefault(".".join(parts[: min(wanted, len(parts) - 1)]), []).append(entry)
    folds = [
        _Fold(safe(name, NAME_LIMIT) or "(top)", those, _pool(those))
        for name, those in groups.items()
        if everything or any(map(is_shown, those))
    ]
    folds.sort(key=lambda fold: sort_rank(Status.CHANGED, fold.numbers))
    largest = _largest(folds)
    for fold in folds:
        counts = Counter([entry.status for entry in fold.entries])
        shown = [(counts.pop(status, 0), STATUS_STYLES[status]) for status in _GROUP_STATUSES]
        yield (
            Cell(fold.name),
            Cell(format_count(len(fold.entries))),
            *(Cell(format_count(n) if n else "", style) for n, style in (*shown, (counts.total(), ""))),
            Cell(_share(fold.entries)),
            *_size_cells(fold, largest),
        )


def block_depth(parts: Sequence[str]) -> int:
    """How many parts of a name say in which block it stands: down to the first index, else the first."""
    return next((place for place, part in enumerate(parts) if part.isdigit()), 0) + 1


def _share(entries: Iterable[DiffEntry]) -> str:
    """Share of the elements that changed, of tensors that both sides have; "" where none was measured."""
    both = [entry for entry in entries if entry.a is not None and entry.b is not None]
    measured = [entry.numbers for entry in both if entry.numbers is not None]
    numel = sum(
        entry.either.value.numel if entry.numbers is None else entry.numbers.numel
        for entry in both
        if entry.either.value is not None
    )
    return format_percent(sum(numbers.changed for numbers in measured), numel) if measured else ""


def dtype_text(entry: DiffEntry) -> str:
    """Return the dtype, or both: ``float32 → bfloat16``."""
    return pair_text(entry, dtype_name)


def shape_text(entry: DiffEntry) -> str:
    """Return the shape, or both: ``4×3 → 5×3``."""
    return pair_text(entry, lambda value: format_shape(value.shape))


def pair_text(entry: DiffEntry, text_of: Callable[[Tensor], str], arrow: str = " → ") -> str:
    """Return what ``text_of`` says of either side, once if it is the same."""
    values = [row.entry.value for row in (entry.a, entry.b) if row is not None]
    return arrow.join(dict.fromkeys(["-" if value is None else text_of(value) for value in values]))


def _pool(entries: Iterable[DiffEntry]) -> Numbers | None:
    numbers = [entry.numbers for entry in entries if entry.numbers is not None]
    return join_numbers(numbers) if numbers else None


def _fold(entries: Iterable[DiffEntry], depth: int) -> Iterator[_Fold]:
    """Fold entries that agree in all that a line says of them."""
    alike: dict[object, list[DiffEntry]] = {}
    for entry in entries:
        key = (entry.status, entry.kind, dtype_text(entry), shape_text(entry), entry.basis, entry.note)
        alike.setdefault(key, []).append(entry)
    for those in alike.values():
        owners: dict[int, DiffEntry] = {}
        rows = []
        for entry in those:
            shown = entry.either._replace(root=entry.root[depth:], name=entry.name)
            row = Row(shown, Classification(entry.kind, Basis.NONE))
            owners[id(row)] = entry
            rows.append(row)
        for folded in fold_rows(rows):
            members = [owners[id(row)] for row in folded.rows]
            yield _Fold(folded_name(folded, with_root=True), members, _pool(members))


def _largest(folds: Iterable[_Fold]) -> float:
    known = [fold.rel_l2 for fold in folds]
    return max((rel for rel in known if rel is not None and math.isfinite(rel)), default=0.0)


def _cells(fold: _Fold, largest: float, *, noted: bool) -> tuple[Cell, ...]:
    entry, numbers = fold.entries[0], fold.numbers
    kind = "" if entry.kind is Kind.PARAMETER else KIND_NAMES[entry.kind]
    rel_l2, drawn, max_abs = _size_cells(fold, largest)
    return (
        Cell(entry.status.value.replace("_", " "), STATUS_STYLES[entry.status]),
        Cell(kind, "buffer" if is_buffer(entry.kind) else "dim"),
        Cell(fold.name, "", times(len(fold.entries))),
        Cell("" if entry.status is Status.DTYPE else dtype_text(entry)),
        rel_l2,
        drawn,
        max_abs,
        Cell("" if numbers is None else format_percent(numbers.changed, numbers.numel)),
        Cell(_note(fold) if noted else "", "dim"),
    )


def _size_cells(fold: _Fold, largest: float) -> tuple[Cell, Cell, Cell]:
    """Relative change as a number and as a bar, and the largest absolute one."""
    rel, max_abs = shown_sizes(fold.numbers)
    drawn = "" if not rel else bar(rel / largest if largest and math.isfinite(rel) else 1.0, _BAR_CELLS)
    return (
        Cell("" if rel is None else f"{rel:.1e}"),
        Cell(drawn, "warning"),
        Cell("" if max_abs is None else format_number(max_abs)),
    )


def _note(fold: _Fold) -> str:
    entry, numbers = fold.entries[0], fold.numbers
    texts = {Status.SHAPE: shape_text, Status.DTYPE: dtype_text}  # also where their column has no room
    facts = [texts[entry.status](entry) if entry.status in texts else "", GUESSED.get(entry.basis, "")]
    if numbers is not None:
        facts += [
            f"{format_count(count)} {what}"
            for count, what in (
                (numbers.nan_appeared, "became NaN"),
                (numbers.nan_gone, "NaN gone"),
                (numbers.inf_appeared, "became inf"),
                (numbers.inf_gone, "inf gone"),
                (numbers.inf_flipped, "inf of the other sign"),
                (numbers.outside, "outside tolerance"),
            )
            if count
        ]
        if numbers.max_ulp is not None:
            facts.append(f"max {plural(numbers.max_ulp, 'ulp')}")
    return join_facts((*facts, safe(entry.note, NAME_LIMIT)))
