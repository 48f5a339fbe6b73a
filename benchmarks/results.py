"""What a run of the benchmarks found, its arithmetic, and its JSON. Pure: no clock, no child, no torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Cost

SCHEMA = "ckpttool/benchmarks/1"
METRICS = Cost._fields


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a checkpoint of ``nbytes`` in ``tensors`` tensors."""

    nbytes: int
    tensors: int


@dataclass(frozen=True)
class Budget:
    """``contender`` may cost ``at_most`` times what ``against`` does; against ``""``, that many bytes.

    ``plus``: and so many seconds, whatever the size, for Python to start.
    """

    contender: str
    metric: str
    against: str
    at_most: float
    plus: float = 0.0


@dataclass
class Row:
    """Of one contender: one cost for each round, or why there is none; and what is wrong with its answer."""

    name: str
    role: str  # "ours", "reference" or "peer"
    runs: list[Cost] = field(default_factory=list)
    error: str = ""
    wrong: str = ""

    def median(self, metric: str) -> float:
        """The median over all rounds."""
        return float(statistics.median(getattr(cost, metric) for cost in self.runs))


@dataclass(frozen=True)
class Ratio:
    """Over the rounds of two contenders: the median of the ratios, the least and the largest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """A budget and what was measured; ``met`` is None where one of the two did not run."""

    budget: Budget
    measured: Ratio | None
    met: bool | None


@dataclass
class Race:
    """One job in one cell, and all who ran it in turn."""

    job: str
    title: str
    reference: str
    cell: Cell
    rows: list[Row]
    budgets: list[Budget]

    def row(self, name: str) -> Row:
        """The contender of that name.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def verdicts(self) -> list[Verdict]:
        """Every budget of this race, judged by the median."""
        return [self._judge(budget) for budget in self.budgets]

    def ratio_to_reference(self, row: Row, metric: str) -> Ratio | None:
        """What ``row`` costs as a multiple of the reference."""
        return ratio(row, self.row(self.reference), metric)

    def _judge(self, budget: Budget) -> Verdict:
        row = self.row(budget.contender)
        if budget.against:
            measured = ratio(row, self.row(budget.against), budget.metric, budget.plus)
        else:
            measured = None if row.error else spread([getattr(cost, budget.metric) for cost in row.runs])
        return Verdict(budget, measured, None if measured is None else measured.median <= budget.at_most)


@dataclass
class Results:
    """All of one run."""

    machine: dict[str, str]
    rounds: int
    races: list[Race]
    skipped: list[str]

    def race(self, job: str, cell: Cell) -> Race | None:
        """The race of that job in that cell, if it was run."""
        return next((race for race in self.races if (race.job, race.cell) == (job, cell)), None)

    def verdicts(self) -> dict[tuple[str, Budget], dict[Cell, Verdict]]:
        """Every budget by job, with its verdict in each cell where it was judged."""
        found: dict[tuple[str, Budget], dict[Cell, Verdict]] = {}
        for race in self.races:
            for verdict in race.verdicts():
                found.setdefault((race.job, verdict.budget), {})[race.cell] = verdict
        return found

    def jobs(self) -> Iterator[tuple[str, list[Race]]]:
        """Every job with its races in the order in which they were run."""
        for job in dict.fromkeys(race.job for race in self.races):
            yield job, [race for race in self.races if race.job == job]


def spread(values: Sequence[float]) -> Ratio | None:
    """The median, least and largest of ``values``."""
    return Ratio(statistics.median(values), min(values), max(values)) if values else None


def ratio(row: Row, reference: Row, metric: str, less: float = 0.0) -> Ratio | None:
    """Pair the rounds of two contenders, divide, and take the median of the quotients; None if one failed.

    ``less`` comes off ``row`` first.
    """
    if row.error or reference.error:
        return None
    pairs = zip(row.runs, reference.runs, strict=True)
    return spread([(getattr(a, metric) - less) / max(getattr(b, metric), 1e-9) for a, b in pairs])


def write_results(results: Results, path: Path) -> None:
    """Write JSON, with a line for each contender so that two runs can be compared by eye."""
    document = {"schema": SCHEMA, **asdict(results)}
    for race in document["races"]:
        for row in race["rows"]:
            row["runs"] = [[round(number, 6) for number in cost] for cost in row["runs"]]
    races = ",\n".join(_race_text(race) for race in document.pop("races"))
    head = json.dumps(document, indent=1, ensure_ascii=False)[:-2]
    path.write_text(f'{head},\n "races": [\n{races}\n ]\n}}\n')


def _race_text(race: dict[str, Any]) -> str:
    rows = ",\n".join(f"   {json.dumps(row, ensure_ascii=False)}" for row in race.pop("rows"))
    return f'  {json.dumps(race, ensure_ascii=False)[:-1]}, "rows": [\n{rows}\n  ]}}'


def read_results(path: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        ValueError: it is something else.
    """
    document = json.loads(path.read_text("utf-8"))
    if document.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path}: not a result of these benchmarks")
    races = [
        Race(
            race["job"],
            race["title"],
            race["reference"],
            Cell(**race["cell"]),
            [Row(**{**row, "runs": [Cost(*cost) for cost in row["runs"]]}) for row in race["rows"]],
            [Budget(**budget) for budget in race["budgets"]],
        )
        for race in document.pop("races")
    ]
    return Results(**document, races=races)
