"""The view of ``inspect --stats``: what the values of a tensor, or of a fold of tensors, are like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ckpttool.elements.stats import EntryStats
from ckpttool.render.fields import tensor_fields
from ckpttool.render.tables import Cell, Column, Line, iter_table, number_columns, times
from ckpttool.render.units import bar, format_percent
from ckpttool.values.words import format_float, format_int, format_number, plural, safe

COLUMNS = (
    Column("name", floor=20, names=True),
    Column("dtype", optional=2),
    *number_columns("min", "max", "mean", "std", "zero", "NaN", "inf"),
    Column("distribution", optional=1),
    Column("note", floor=12, prose=True),
)

PIPE_COLUMNS = ("numel", "min", "max", "mean", "std", "zero", "nan", "posinf", "neginf")
"""Fields that ``--stats`` adds to a line in a pipe; ``-`` for a tensor that is made of others."""

_COUNTS = ("numel", "zero", "nan", "posinf", "neginf")
_DOCUMENT_NAMES = {"minimum": "min", "maximum": "max"}

_LEVELS = "▁▂▃▄▅▆▇█"
"""Eighths of a cell's height, for a histogram in one line."""


def pool(stats: Sequence[EntryStats]) -> EntryStats:
    """Return the statistics of several tensors together: exact, but without a histogram.

    Means and squared deviations are joined pairwise (Chan, Golub and LeVeque 1979).
    """
    if len(stats) == 1:
        return stats[0]
    finite, mean, squares = 0, 0.0, 0.0
    for item in stats:
        if item.finite and item.mean is not None and item.std is not None:
            delta = item.mean - mean
            total = finite + item.finite
            squares += item.std * item.std * item.finite + delta * delta * finite * item.finite / total
            mean += delta * item.finite / total
            finite = total
    return EntryStats(
        stats[0].entry,
        stats[0].part,
        minimum=min((item.minimum for item in stats if item.minimum is not None), default=None),
        maximum=max((item.maximum for item in stats if item.maximum is not None), default=None),
        mean=mean if finite else None,
        std=math.sqrt(squares / finite) if finite else None,
        note=stats[0].note if len({item.note for item in stats}) == 1 else "",
        **{field: sum(getattr(item, field) for item in stats) for field in _COUNTS},
    )


def iter_stats_table(rows: Sequence[tuple[str, int, EntryStats]], width: int) -> Iterator[Line]:
    """Yield the table of ``(name, how many share the row, statistics)``."""
    return iter_table(COLUMNS, [_cells(*row) for row in rows], width)


def _cells(name: str, count: int, stats: EntryStats) -> tuple[Cell, ...]:
    dtype, *_ = tensor_fields(stats.entry.value)
    shown = f"{name} ({safe(stats.part, 60)})" if stats.part else name
    zero = format_percent(stats.zero, stats.numel) if stats.zero else ""
    return (
        Cell(shown, "", times(count)),
        Cell(dtype or ""),
        *(Cell(_number(number)) for number in (stats.minimum, stats.maximum, stats.mean, stats.std)),
        Cell(zero, "warning" if stats.all_zero else ""),
        Cell(_share(stats.nan, stats.numel), "error"),
        Cell(_share(stats.inf, stats.numel), "" if stats.is_mask else "error"),
        Cell(histogram(stats.histogram), "parameter"),
        Cell(safe(stats.note, 60), "dim"),
    )


def _number(value: int | float | None) -> str:
    if value is None:
        return ""
    return format_int(value) if isinstance(value, int) else f"{value:.4g}"


def _share(count: int, numel: int) -> str:
    return f"{count:,} ({format_percent(count, numel)})" if count else ""


def histogram(counts: Sequence[int]) -> str:
    """Return a column per bin, as high as its count; a bin that is not empty always shows."""
    highest = max(counts, default=0)
    if not highest:
        return ""
    return "".join(_LEVELS[math.ceil(count * 8 / highest) - 1] if count else " " for count in counts)


def iter_stats_details(stats: EntryStats) -> Iterator[tuple[str, str]]:
    """Yield what is known of the values of one tensor, as pairs of a word and a text."""
    yield "values", plural(stats.numel, "value") + (f" ({stats.note})" if stats.note else "")
    if stats.minimum is not None and stats.maximum is not None:
        yield "range", f"{format_number(stats.minimum)} to {format_number(stats.maximum)}"
    if stats.mean is not None and stats.std is not None:
        yield "mean, std", f"{format_float(stats.mean)}, {format_float(stats.std)}"
    counts = {"zero": stats.zero, "NaN": stats.nan, "+inf": stats.posinf, "-inf": stats.neginf}
    yield from ((word, _share(count, stats.numel)) for word, count in counts.items() if count)


def iter_bins(stats: EntryStats) -> Iterator[tuple[Cell, Cell, Cell]]:
    """Yield a row per bin of the histogram: where it begins, a bar, and its count."""
    if not stats.histogram or stats.minimum is None or stats.maximum is None:
        return
    step = stats.maximum / len(stats.histogram) - stats.minimum / len(stats.histogram)
    highest = max(stats.histogram)
    for index, count in enumerate(stats.histogram):
        start, drawn = f"{stats.minimum + index * step:.4g}", bar(count / highest, 24)
        yield Cell(start, "dim"), Cell(drawn, "parameter"), Cell(f"{count:,}")


def stats_fields(stats: Sequence[EntryStats]) -> list[str]:
    """Return the fields that ``--stats`` adds to an entry's line in a pipe."""
    if len(stats) != 1 or stats[0].part:
        return ["-"] * len(PIPE_COLUMNS)
    item = stats[0]
    ranges = (item.minimum, item.maximum, item.mean, item.std)
    counts = (item.zero, item.nan, item.posinf, item.neginf)
    return ["-" if number is None else repr(number) for number in (item.numel, *ranges, *counts)]


def stats_object(stats: EntryStats) -> dict[str, Any]:
    """Return the statistics of a tensor, or of one part of it, for JSON."""
    from ckpttool.render.json import encode

    fields = list(zip(stats._fields, stats, strict=True))[1:-1]  # without the two entries
    return {_DOCUMENT_NAMES.get(name, name): encode(value) for name, value in fields}
