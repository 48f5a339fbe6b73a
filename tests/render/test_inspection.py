"""What a person and a pipe see of an inspection; the whole of it is in golden files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from ckpttool.elements.stats import EntryStats
from ckpttool.render.globals import iter_globals, iter_globals_pipe
from ckpttool.render.inspection import PIPE_COLUMNS, iter_findings, iter_inspection, iter_pipe
from ckpttool.render.kinds import iter_legend
from ckpttool.render.stats import histogram, iter_stats_table, pool, stats_fields
from ckpttool.render.tables import Line, cell_width
from ckpttool.render.tensor import iter_tensor
from ckpttool.render.views import InspectListing
from ckpttool.values.checkpoint import Finding, GlobalRef, Kind
from tests.support.inspections import inspection, missing, row, tensor, training

GOLDEN = Path(__file__).parents[1] / "golden"


def texts(lines: Iterable[Line]) -> list[str]:
    return ["".join(span.text for span in line) for line in lines]


def seen(value: object, width: int = 100, table: InspectListing | None = None) -> list[str]:
    return texts(iter_inspection(value, width, table or InspectListing()))  # type: ignore[arg-type]


def stats(name: str = "w", **fields: object) -> EntryStats:
    defaults = {"numel": 12, "minimum": -1.5, "maximum": 2.0, "mean": 0.25, "std": 1.0}
    return EntryStats(row(name).entry, "", **{**defaults, **fields})  # type: ignore[arg-type]


def views_of(width: int) -> dict[str, list[str]]:
    value = training()
    packed = next(each for each in value.rows if each.entry.name == "packed")
    item = stats(histogram=tuple(range(16)), histogram_numel=120, zero=3, nan=1)
    return {
        "training": seen(value, width),
        "training_flat": seen(value, width, InspectListing(flat=True)),
        "training_by_size": seen(value, width, InspectListing(sort="size")),
        "globals": texts(iter_globals(value.checkpoint, width)),
        "tensor": texts(iter_tensor(value.rows[0], width, [0.5, float("nan"), -1e-9], [item])),
        "tensor_of_parts": texts(iter_tensor(packed, width, None, [])),
        "stats": texts(
            iter_stats_table([("w", 1, item), ("layers.{0..3}.w", 4, pool([item, stats()]))], width)
        ),
    }


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("name", views_of(100))
def test_golden(name: str, width: int, update_golden: bool) -> None:
    text = "\n".join(views_of(width)[name]) + "\n"
    path = GOLDEN / f"{name}_{width}.txt"
    if update_golden:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), "look at the difference; `pytest --update-golden` takes it over"


def test_golden_pipe(update_golden: bool) -> None:
    text = "".join(iter_pipe(training()))
    path = GOLDEN / "training_pipe.tsv"
    if update_golden:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("table", [InspectListing(), InspectListing(flat=True), InspectListing(sort="size")])
def test_no_line_is_wider_than_the_terminal(width: int, table: InspectListing) -> None:
    assert [line for line in seen(training(), width, table) if cell_width(line) > width] == []


def test_every_entry_is_a_line_in_a_pipe_and_every_line_has_all_fields() -> None:
    value = training()
    lines = list(iter_pipe(value))
    assert len(lines) == len(value.rows) + len(value.missing)
    assert {line.count("\t") for line in lines} == {len(PIPE_COLUMNS) - 1}
    assert all("" not in line.rstrip("\n").split("\t") for line in lines)
    extended = list(iter_pipe(value, [["x", "y"]] * len(value.rows)))
    assert {line.count("\t") for line in extended} == {len(PIPE_COLUMNS) + 1}
    assert extended[-1].endswith("\t-\t-\n")  # what is missing has no values


def test_table_and_pipe_and_summary_agree() -> None:
    value = training()
    lines = [line.rstrip("\n").split("\t") for line in iter_pipe(value)]
    kinds = [fields[0] for fields in lines if fields[1] != "missing"]
    assert kinds.count("parameter") == value.summary.parameters
    assert (
        sum(int(fields[6]) for fields in lines if fields[6] != "-" and fields[9] == "-")
        == value.summary.tensor_nbytes
    )
    flat = [line for line in seen(value, 200, InspectListing(flat=True)) if line.startswith("  parameter ")]
    assert len(flat) == value.summary.parameters


def test_folding_hides_nothing() -> None:
    lines = seen(training(), 200)
    assert any("blocks.{0..5}.attn.q_proj.weight ×6" in line and "96.0 KiB" in line for line in lines)
    assert sum("exp_avg" in line for line in lines) == 0
    assert any("25 tensors in other branches are hidden · --root optimizer" in line for line in lines)
    assert sum("exp_avg" in line for line in seen(training(), 200, InspectListing(flat=True))) == 25


def test_weights_at_the_top_do_not_bring_their_neighbours() -> None:
    value = training()
    rows = [
        each._replace(entry=each.entry._replace(root=())) if each.entry.root[:1] == ("model",) else each
        for each in value.rows
    ]
    groups = (value.groups[0]._replace(root=()), value.groups[1])
    lines = seen(value._replace(rows=tuple(rows), groups=groups, weights_root=()), 200)
    assert any("embed.weight" in line for line in lines)
    assert not any("exp_avg" in line for line in lines)


def test_sorted_by_size_the_largest_is_first() -> None:
    lines = seen(training(), 200, InspectListing(sort="size"))
    first = next(line for line in lines if line.startswith("  parameter "))
    assert "embed.weight" in first or "head.weight" in first


def test_the_legend_counts_each_kind_by_its_evidence() -> None:
    assert [span.text for span in iter_legend(training().summary.bases)] == [
        "27 parameters: 20 from the optimizer, 1 from neighbours, 6 from key order",
        "2 buffers: 1 from dtypes, 1 from names",
        "1 non-persistent buffer: from names",
        "1 extra state entry: from names",
        "1 unknown",
        "no evidence says what they are: --model or --source may",
    ]


def test_exact_evidence_is_called_exact() -> None:
    bases = [("parameter", "pickled_module", 3), ("persistent_buffer", "name", 1)]
    assert [span.text for span in iter_legend(bases)] == [
        "3 parameters: from the pickled module, exact",
        "1 buffer: from names",
        "0 unknown",
    ]


def test_what_is_missing_as_designed_is_told_from_what_is_missing() -> None:
    lines = seen(inspection([row("w")], absent=[missing("mask"), missing("b", kind=Kind.PARAMETER)]))
    designed = lines.index("  not stored, by design: 1 non-persistent buffer (the constructor recreates it)")
    absent = lines.index("  missing from the file: 1 parameter")
    assert "mask" in lines[designed + 1] and "    b" in lines[absent + 1]


def test_alike_findings_share_a_sentence_and_many_are_counted() -> None:
    alike = [Finding("zero", "info", f"layers.{index}.w", "all values are zero") for index in range(50)]
    other = [Finding("x", "warning", "", f"sentence {index}") for index in range(30)]
    lines = texts(iter_findings([*alike, *other], 100))
    assert lines[0] == "  ! sentence 0"
    assert lines[-1] == "    … and 11 more: --json lists all"
    assert texts(iter_findings(alike, 100)) == ["  · layers.0.w and 49 more: all values are zero"]


def test_a_long_finding_is_wrapped_and_whole() -> None:
    message = "word " * 60
    lines = texts(iter_findings([Finding("x", "error", "name", message)], 60))
    assert all(len(line) <= 60 for line in lines)
    assert " ".join(line[4:] for line in lines) == f"name: {message.strip()}"


HOSTILE = [
    "[red]x[/red]",
    "\x1b[2J\x1b]0;title\x07",
    "a\nb\tc\r",
    "\u202eevil\u2069",
    "\ud800",
    "zero\u200bwidth",
    "n" * (1 << 20),
    "{0..3}",
    "..",
    "",
]


def hostile() -> object:
    rows = [row(name, tensor(location=name), root=(name, 0, name), note=name) for name in HOSTILE]
    return inspection(
        [*rows, row("t", tied_to=rows[0].entry)],
        absent=[missing(name, note=name) for name in HOSTILE],
        weights_root=None,
        title=HOSTILE[1],
        layout=HOSTILE[1],
        metadata={name: name for name in HOSTILE},
        globals=tuple(GlobalRef(name, name, True, (name,)) for name in HOSTILE),
        findings=tuple(Finding(name, "error", name, name) for name in HOSTILE),
    )


@pytest.mark.parametrize("table", [InspectListing(), InspectListing(flat=True)])
def test_hostile_names_leave_no_control_character(table: InspectListing) -> None:
    value = hostile()
    lines = seen(value, 100, table)
    lines += texts(iter_globals(value.checkpoint, 100))  # type: ignore[attr-defined]
    for item in value.rows:  # type: ignore[attr-defined]
        lines += texts(iter_tensor(item, 100, None, []))
    assert [line for line in lines if not line.isprintable()] == []
    assert any("[red]x[/red]" in line for line in lines)
    assert max(map(len, lines)) < 3000
    piped = [*iter_pipe(value), *iter_globals_pipe(value.checkpoint)]  # type: ignore[arg-type, attr-defined]
    assert [line for line in piped if not line[:-1].replace("\t", "").isprintable()] == []


def test_pooled_statistics_are_those_of_all_values_together() -> None:
    import statistics

    groups = [[1.0, 2.0, 4.0], [1000.0], [-3.0, 0.0, 0.5, 7.0]]
    parts = [
        stats(
            numel=len(group) + 1,
            minimum=min(group),
            maximum=max(group),
            mean=statistics.fmean(group),
            std=statistics.pstdev(group),
            zero=group.count(0.0),
            nan=1,
        )
        for group in groups
    ]
    parts.append(stats(numel=2, minimum=None, maximum=None, mean=None, std=None, neginf=2))
    whole = [value for group in groups for value in group]
    pooled = pool(parts)
    assert pooled.mean == pytest.approx(statistics.fmean(whole))
    assert pooled.std == pytest.approx(statistics.pstdev(whole))
    assert (pooled.minimum, pooled.maximum) == (-3.0, 1000.0)
    assert (pooled.numel, pooled.zero, pooled.nan, pooled.inf) == (13, 1, 3, 2)


def test_pooling_values_too_large_to_square() -> None:
    assert pool([stats(std=1e300), stats(mean=1e300)]).std == float("inf")


def test_a_histogram_shows_every_bin_that_is_not_empty() -> None:
    assert histogram([0, 1, 1000, 500]) == " ▁█▄"
    assert histogram([]) == histogram([0, 0]) == ""


def test_statistics_in_a_pipe() -> None:
    assert stats_fields([stats(zero=3)]) == ["12", "-1.5", "2.0", "0.25", "1.0", "3", "0", "0", "0"]
    assert set(stats_fields([stats(), stats()])) == {"-"}
