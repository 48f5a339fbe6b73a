"""The page and the chart of a run: docs/benchmarks.md between its marks, and docs/benchmarks.svg.

python -m benchmarks.report results.json [--docs DIR]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.chart import draw, panel_of
from benchmarks.machine import PACKAGES
from benchmarks.results import Cell, Race, Results, Row, read_results
from benchmarks.tables import (
    budget_text,
    cell_text,
    markdown_table,
    measured_text,
    nbytes_text,
    ratio_text,
    row_cells,
    seconds_text,
    verdict_text,
)

MARKS = ("<!-- {}: begin; written by python -m {} -->", "<!-- {}: end -->")
PAGE, CHART = "benchmarks.md", "benchmarks.svg"
IN_CHART = (
    "inspect-pt",
    "inspect-safetensors",
    "convert-to-safetensors",
    "convert-to-pt",
    "diff-equal",
    "diff-changed",
    "verify",
)


def metric_of(job: str) -> str:
    """What a job is best judged by: starting is CPU, and moving bytes takes as long as it takes."""
    return "cpu" if job.startswith("inspect") else "wall"


def replace_between(page: str, name: str, module: str, text: str) -> str:
    """``page`` with ``text`` between the marks of ``name``.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    begin, end = MARKS[0].format(name, module), MARKS[1].format(name)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page has no '{begin}' before '{end}'")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.partition(end)[2]}"


def headline_of(results: Results) -> Cell:
    """Of the largest checkpoints the one that most took part in."""
    nbytes = max(race.cell.nbytes for race in results.races)
    largest = [race for race in results.races if race.cell.nbytes == nbytes]
    return max(largest, key=lambda race: len(race.rows)).cell


def chart(results: Results) -> str:
    """The races of the headline cell as SVG."""
    cell = headline_of(results)
    panels = [
        panel_of(race, metric_of(job)) for job in IN_CHART if (race := results.race(job, cell)) is not None
    ]
    subheading = (
        f"{cell_text(cell)} · medians of {results.rounds} pairs in one run · "
        f"{results.machine['cores']} cores, torch {results.machine['torch']}, {results.machine['date']}"
    )
    return draw("Time as a multiple of what does the least", subheading, [p for p in panels if p.bars])


def markdown(results: Results) -> str:
    """Everything between the marks."""
    cell = headline_of(results)
    parts = [
        _machine_text(results),
        f"![Bars of the ratios in the tables below, with budgets marked]({CHART})",
        "## Budgets",
        budget_table(results),
        f"## {cell_text(cell)}",
        "CPU (user and system), wall time and peak memory are medians; × is the median of the ratios to the "
        "first row, and the range that of the ratio of wall times.",
    ]
    for _, races in results.jobs():
        parts += [race_table(race) for race in races if race.cell == cell]
    grids = [grid_table(races) for _, races in results.jobs() if len(races) > 1]
    if grids:
        parts += [
            "## Every size and number of tensors",
            "The first row of a table is what the reference takes; the others are multiples of it, by CPU "
            "for `inspect` and by the clock for the rest.",
            *grids,
        ]
    others = [race for _, races in results.jobs() if len(races) == 1 for race in races if race.cell != cell]
    if others:
        parts.append("## Further jobs")
        parts += [race_table(race) for race in others]
    if results.skipped:
        parts += ["## Not measured", "\n".join(f"- {line}" for line in results.skipped)]
    return "\n\n".join(parts)


def _machine_text(results: Results) -> str:
    machine = results.machine
    packages = ", ".join(f"{name} {machine[name]}" for name in ("python", *PACKAGES))
    return (
        f"{machine['date']}: {machine['cores']} cores of {machine['cpu']}, {machine['memory']} of memory, "
        f"{machine['file system']}, {machine['system']}, a load of {machine['load']} before the first run; "
        f"{packages}. Medians of {results.rounds} pairs; all of it took {machine['minutes']} minutes."
    )


def budget_table(results: Results) -> str:
    """Each budget with what was measured over all cells where it is judged."""
    titles = {job: races[0].title for job, races in results.jobs()}
    rows = []
    for (job, budget), cells in results.verdicts().items():
        verdicts = list(cells.values())
        verdict = verdict_text(verdicts)
        rows.append(
            [
                titles[job],
                budget.contender,
                budget_text(budget),
                measured_text(verdicts),
                verdict if verdict == "met" else f"**{verdict}**",
            ]
        )
    return markdown_table(["job", "by", "budget", "measured", ""], rows, left=5)


def race_table(race: Race) -> str:
    """One race in full."""
    rows = []
    for row in race.rows:
        cells = row_cells(race, row)
        cells[0] = f"**{row.name}**" if row.role == "ours" else row.name
        note = f"wrong: {row.wrong}" if row.wrong else ""
        rows.append([*cells, note] if len(cells) > 2 else [cells[0], *[""] * 6, cells[1]])
    header = [f"{race.title}, {cell_text(race.cell)}", "CPU", "wall", "peak", "× CPU", "× wall", "range", ""]
    return markdown_table(header, rows)


def grid_table(races: list[Race]) -> str:
    """One job over all cells: the reference's time, and ratios to it."""
    metric = metric_of(races[0].job)
    names = list(dict.fromkeys(row.name for race in races for row in race.rows if row.role != "peer"))
    header = [races[0].title, *(f"{nbytes_text(race.cell.nbytes)} / {race.cell.tensors:,}" for race in races)]
    return markdown_table(
        header, [[name, *(_grid_cell(race, name, metric) for race in races)] for name in names]
    )


def _grid_cell(race: Race, name: str, metric: str) -> str:
    row: Row = race.row(name)
    if row.error or not row.runs:
        return "failed"
    if name == race.reference:
        return seconds_text(row.median(metric))
    found = race.ratio_to_reference(row, metric)
    return "" if found is None else f"{ratio_text(found.median)}x"


def main(argv: list[str] | None = None) -> int:
    """Write both files; nothing is written unless both can be made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args(argv)
    results = read_results(options.results)
    page = options.docs / PAGE
    text = replace_between(page.read_text("utf-8"), "benchmarks", "benchmarks.report", markdown(results))
    (options.docs / CHART).write_text(chart(results), "utf-8")
    page.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
