"""Races as text: for a terminal of 100 columns, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.results import Budget, Cell, Race, Ratio, Results, Row, Verdict

NAME_WIDTH = 41
HEADER = ("", "CPU", "wall", "peak", "× CPU", "× wall", "range")


def nbytes_text(nbytes: float) -> str:
    """Bytes in the unit that leaves one to four digits before the point."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}" if nbytes < 10 * size else f"{nbytes / size:.0f} {unit}"
    return f"{nbytes:.0f} B"


def seconds_text(seconds: float) -> str:
    """Seconds, or milliseconds below one of them."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def ratio_text(number: float) -> str:
    """A ratio with the digits that can mean something."""
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def cell_text(cell: Cell) -> str:
    """A cell in words."""
    return f"{nbytes_text(cell.nbytes)} in {cell.tensors:,} tensors"


def range_text(ratio: Ratio) -> str:
    """The least and the largest."""
    return f"{ratio_text(ratio.low)}-{ratio_text(ratio.high)}"


def budget_text(budget: Budget) -> str:
    """What is asked for."""
    if not budget.against:
        return f"peak ≤ {nbytes_text(budget.at_most)}"
    metric = {"cpu": "CPU", "wall": "wall"}[budget.metric]
    start = f" + {budget.plus:g} s" if budget.plus else ""
    return f"{metric} ≤ {budget.at_most:.4g} × {budget.against}{start}"


def measured_text(verdicts: Iterable[Verdict]) -> str:
    """The medians that were found: one, or from the least to the largest."""
    medians = sorted(verdict.measured.median for verdict in verdicts if verdict.measured)
    of_bytes = any(not verdict.budget.against for verdict in verdicts)
    texts = [(nbytes_text if of_bytes else ratio_text)(number) for number in medians]
    return " to ".join(dict.fromkeys((texts[0], texts[-1]))) if texts else "not measured"


def verdict_text(verdicts: Sequence[Verdict]) -> str:
    """Met, missed, or in how many cells."""
    judged = [verdict.met for verdict in verdicts if verdict.met is not None]
    if not judged:
        return "not judged"
    if all(judged):
        return "met"
    return "missed" if not any(judged) else f"met in {sum(judged)} of {len(judged)}"


def verdict_line(budget: Budget, verdicts: Sequence[Verdict]) -> str:
    """One budget in one line."""
    asked = f"{budget.contender:<34}  {budget_text(budget)}"
    return f"{verdict_text(verdicts):<11}  {asked}: {measured_text(verdicts)}"


def row_cells(race: Race, row: Row) -> list[str]:
    """The numbers of one row, or why it has none."""
    if row.error or not row.runs:
        return [row.name, f"failed: {row.error}"]
    cpu, wall = (race.ratio_to_reference(row, metric) for metric in ("cpu", "wall"))
    itself = row.name == race.reference
    return [
        row.name,
        seconds_text(row.median("cpu")),
        seconds_text(row.median("wall")),
        nbytes_text(row.median("peak")),
        "" if cpu is None or itself else ratio_text(cpu.median),
        "" if wall is None or itself else ratio_text(wall.median),
        "" if wall is None or itself else range_text(wall),
    ]


def race_text(race: Race) -> str:
    """One race with its budgets, for a terminal."""
    lines = [f"{race.title} · {cell_text(race.cell)} · ×: {race.reference}", _line(HEADER)]
    for row in race.rows:
        cells = row_cells(race, row)
        lines.append(_line(cells) if len(cells) == len(HEADER) else f"  {cells[0]:<{NAME_WIDTH}}  {cells[1]}")
        if row.wrong:
            lines.append(f"  {'':<{NAME_WIDTH}}  wrong: {row.wrong}")
    lines += [f"  {verdict_line(verdict.budget, [verdict])}" for verdict in race.verdicts()]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    numbers = "  ".join(
        f"{cell:>{width}}" for cell, width in zip(cells[1:], (7, 7, 8, 6, 6, 11), strict=True)
    )
    return f"  {cells[0]:<{NAME_WIDTH}.{NAME_WIDTH}}{numbers}".rstrip()


def summary_text(results: Results) -> str:
    """Every budget over all cells where it is judged, and who did not take part."""
    lines, met = [], 0
    verdicts_by_budget = results.verdicts()
    for job, races in results.jobs():
        found = [
            (budget, list(cells.values())) for (of, budget), cells in verdicts_by_budget.items() if of == job
        ]
        if found:
            lines.append(races[0].title)
            lines += [f"  {verdict_line(budget, verdicts)}" for budget, verdicts in found]
            met += sum(verdict_text(verdicts) == "met" for _, verdicts in found)
    return "\n".join([*lines, f"{met} of {len(verdicts_by_budget)} budgets met", *results.skipped])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table with its columns aligned, all but the first ``left`` to the right."""
    widths = [max(len(row[index]) for row in [header, *rows]) for index in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    marks = [
        "-" * (width + 2) if index < left else "-" * (width + 1) + ":" for index, width in enumerate(widths)
    ]
    return "\n".join([line(header), f"|{'|'.join(marks)}|", *map(line, rows)])
