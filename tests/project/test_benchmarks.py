"""The harness of the benchmarks: its arithmetic, its page and chart, and one run from end to end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import __main__ as harness
from benchmarks import budgets, check_tensors, running, startup
from benchmarks.chart import draw, panel_of
from benchmarks.contenders import JOBS, Contender, Job
from benchmarks.machine import PACKAGES
from benchmarks.measure import Cost, RunFailed, run
from benchmarks.peers import PEERS
from benchmarks.report import main as report
from benchmarks.report import replace_between
from benchmarks.results import Budget, Cell, Race, Results, Row, read_results, write_results
from benchmarks.tables import verdict_line

CELL = Cell(1 << 20, 20)
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
MACHINE = {"date", "cpu", "cores", "memory", "system", "file system", "load", "minutes", "python", *PACKAGES}
SVG = "{http://www.w3.org/2000/svg}"


def row(name: str, role: str, walls: Sequence[float], **facts: str) -> Row:
    return Row(name, role, [Cost(wall, wall, 1 << 20) for wall in walls], **facts)


def race(*rows: Row, budgets: Sequence[Budget] = ()) -> Race:
    return Race("job", "a <job> & more", rows[0].name, CELL, list(rows), list(budgets))


class TestArithmetic:
    def test_a_ratio_is_the_median_over_pairs_of_the_same_round(self) -> None:
        # The medians alone, 3 and 3, would say 1.
        found = race(row("reference", "reference", [1, 3, 5]), row("ours", "ours", [3, 6, 1]))
        ratio = found.ratio_to_reference(found.row("ours"), "wall")
        assert ratio is not None
        assert (ratio.median, ratio.low, ratio.high) == (2, 0.2, 3)

    @pytest.mark.parametrize(("at_most", "met"), [(1.99, False), (2, True), (2.01, True)])
    def test_a_budget_is_met_up_to_what_it_says(self, at_most: float, met: bool) -> None:
        rows = row("reference", "reference", [1, 1, 1]), row("ours", "ours", [1, 2, 9])
        [verdict] = race(*rows, budgets=[Budget("ours", "wall", "reference", at_most)]).verdicts()
        assert verdict.met is met

    @pytest.mark.parametrize(("plus", "met"), [(0.0, False), (0.9, False), (1.0, True)])
    def test_seconds_to_start_come_on_top(self, plus: float, met: bool) -> None:
        rows = row("reference", "reference", [1, 1, 1]), row("ours", "ours", [3, 3, 9])
        [verdict] = race(*rows, budgets=[Budget("ours", "wall", "reference", 2, plus)]).verdicts()
        assert verdict.met is met
        assert ("2 × reference + 1 s" in verdict_line(verdict.budget, [verdict])) is (plus == 1)

    @pytest.mark.parametrize(("at_most", "met"), [((1 << 20) - 1, False), (1 << 20, True)])
    def test_a_budget_of_bytes_has_no_reference(self, at_most: float, met: bool) -> None:
        rows = row("reference", "reference", [1]), row("ours", "ours", [1])
        [verdict] = race(*rows, budgets=[Budget("ours", "peak", "", at_most)]).verdicts()
        assert verdict.met is met

    @pytest.mark.parametrize("failed", ["reference", "ours"])
    def test_what_failed_is_not_judged(self, failed: str) -> None:
        rows = row("reference", "reference", [1]), row("ours", "ours", [1])
        found = race(*rows, budgets=[Budget("ours", "wall", "reference", 2), Budget("ours", "peak", "", 1)])
        found.row(failed).error = "exit status 1"
        assert [verdict.met for verdict in found.verdicts()] == [None, None if failed == "ours" else False]


class TestRunning:
    def test_a_cost_is_that_of_the_child(self, tmp_path: Path) -> None:
        spin = "import time\nwhile time.process_time() < 0.2: pass"
        hold = "block = bytearray(100 << 20)"
        # A child starts with the peak of its parent, which is what this process holds: ask from a small one.
        code = f"""
import sys
from pathlib import Path
from benchmarks.measure import run
print(*run([sys.executable, "-c", {f"{hold}{chr(10)}{spin}"!r}], Path({str(tmp_path)!r})))
"""
        asked = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=PAGE.parent.parent, check=True
        )
        cpu, wall, peak = map(float, asked.stdout.split())
        assert 0.15 < cpu <= wall + 0.1
        assert 100 << 20 < peak < 400 << 20

    def test_a_terminal_is_one(self, tmp_path: Path) -> None:
        look = "import os, sys; sys.exit(not sys.stdout.isatty() or os.get_terminal_size(1).columns != 100)"
        run([sys.executable, "-c", look], tmp_path, terminal=True)
        with pytest.raises(RunFailed):
            run([sys.executable, "-c", look], tmp_path)

    @pytest.mark.parametrize(
        ("command", "why"),
        [
            (["no-such-program"], "(No such file or directory|Permission denied): 'no-such-program'"),
            ([sys.executable, "-c", "raise SystemExit('out of luck')"], "exit status 1: out of luck"),
            ([sys.executable, "-c", "import time; time.sleep(60)"], "after 1 s"),
        ],
    )
    def test_a_failure_says_why(self, command: list[str], why: str, tmp_path: Path) -> None:
        with pytest.raises(RunFailed, match=why):
            run(command, tmp_path, timeout=1)

    def test_one_that_fails_or_is_wrong_does_not_stop_the_others(self, tmp_path: Path) -> None:
        contenders = [
            Contender("right", ("echo", "parameters: 41"), right="[0-9]", fault="no number"),
            Contender("wrong", ("echo", "none"), right="[0-9]", fault="no number"),
            Contender("fails later", (sys.executable, "-c", FAILS_LATER)),
            Contender("never runs", ("no-such-program",)),
        ]
        job = Job("job", "a job", (), contenders)
        found = running.start_race(job, CELL)
        running.run_race(found, job, tmp_path, 3, 10)
        assert [len(row.runs) for row in found.rows] == [3, 3, 1, 0]
        assert [bool(row.error) for row in found.rows] == [False, False, True, True]
        assert [row.wrong for row in found.rows] == ["", "no number", "", ""]

    def test_outputs_do_not_stay(self, tmp_path: Path) -> None:
        job = Job("job", "a job", (), [Contender("touch", ("touch", "out"), writes=("out",))])
        running.run_race(running.start_race(job, CELL), job, tmp_path, 1, 10)
        assert list(tmp_path.iterdir()) == []


FAILS_LATER = """
from pathlib import Path
p = Path("turns")
turns = int(p.read_text("utf-8")) if p.exists() else 0
p.write_text(str(turns + 1))
raise SystemExit(turns == 2)
"""
"""Right in the turn that is not counted and in the first that is."""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([float("nan"), 0.0], ""),
        ([float("nan"), -0.0], "w has other values"),
        ([float("nan")], "w has another dtype or shape"),
        (None, "1 tensors are in one file only"),
    ],
)
def test_a_conversion_must_keep_every_bit(values: list[float] | None, said: str, tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([float("nan"), 0.0])}, tmp_path / "a.pt")
    save_file({} if values is None else {"w": torch.tensor(values)}, tmp_path / "b.safetensors")
    read = check_tensors.read
    assert check_tensors.difference(read(tmp_path / "a.pt"), read(tmp_path / "b.safetensors")) == said


class TestDeclarations:
    def test_every_budget_names_contenders_of_its_job(self) -> None:
        for cell in harness.FULL.cells():
            for key, build in JOBS.items():
                job = build(cell)
                names = [contender.name for contender in job.contenders]
                assert job.key == key
                assert len(set(names)) == len(names)
                for budget in job.budgets:
                    assert {budget.contender, budget.against or budget.contender} <= set(names)

    def test_every_job_and_every_tool_runs_somewhere(self, tmp_path: Path) -> None:
        jobs = [job for cell in harness.FULL.cells() for job in harness.FULL.build(cell, [], PEERS, tmp_path)]
        assert {job.key for job in jobs} == set(JOBS)
        seen = {contender.name for job in jobs for contender in job.contenders if contender.role == "peer"}
        assert seen == {peer.label for peer in PEERS}

    def test_files_of_a_cell_stay_below_15_gigabytes(self, tmp_path: Path) -> None:
        for cell in harness.FULL.cells():
            names = running.files_of(harness.FULL.build(cell, [], PEERS, tmp_path))
            assert (len(names) + 1) * cell.nbytes < 15e9


COSTS = {"ours": [Cost(2.1, 5, 3 << 20), Cost(1.1, 4, 2 << 20)], "cp": [Cost(1, 1, 1), Cost(0.5, 3, 1)]}


class TestLeast:
    """``benchmarks.budgets``: the least of all runs, and of memory the most."""

    @pytest.mark.parametrize(
        ("budget", "found", "allowed"),
        [
            (Budget("ours", "cpu", "cp", 2, 0.1), 1.1, 1.1),
            (Budget("ours", "wall", "cp", 2), 4, 2),
            (Budget("ours", "peak", "", 3 << 20), 3 << 20, 3 << 20),
        ],
    )
    def test_a_budget_is_what_the_reference_takes_at_its_best(
        self, budget: Budget, found: float, allowed: float
    ) -> None:
        assert budgets.least(COSTS["ours"], budget.metric) == found
        assert budgets.allowed(budget, COSTS) == pytest.approx(allowed)
        contenders = [Contender("ours", ("x",)), Contender("cp", ("cp",))]
        text, missed = budgets.report(budgets.Group("copy", CELL, (), contenders, [budget]), COSTS)
        assert missed == (found > allowed)
        assert ("missed by 100%" in text) is (found == 4)
        assert "cpu  1.100 2.100" in text  # sorted

    def test_every_budget_names_contenders_of_its_group(self) -> None:
        for group in budgets.groups(2):
            names = [contender.name for contender in group.contenders]
            assert len(set(names)) == len(names)
            for budget in group.budgets:
                assert {budget.contender, budget.against or budget.contender} <= set(names)

    def test_a_group_runs_from_end_to_end(self, tmp_path: Path) -> None:
        contender = Contender("touch", ("touch", "out"), writes=("out",))
        group = budgets.Group("copy", CELL, (), [contender], [])
        assert len(budgets.measure(group, tmp_path, 2)["touch"]) == 2
        assert list(tmp_path.iterdir()) == []


class TestReport:
    results = Results(
        dict.fromkeys(MACHINE, "1"),
        2,
        [
            Race(
                "diff-equal",
                "diff <two> files",
                "cmp",
                CELL,
                [
                    row("cmp", "reference", [1, 1]),
                    row("diff", "ours", [0.5, 0.5]),
                    row("a & b", "peer", [4, 4], wrong="calls <them> equal"),
                    row("broken", "peer", [], error="exit status 1"),
                ],
                [Budget("diff", "wall", "cmp", 1), Budget("diff", "cpu", "cmp", 0.25)],
            )
        ],
        ["tool 1.0: does not install"],
    )

    def test_json_comes_back(self, tmp_path: Path) -> None:
        write_results(self.results, tmp_path / "results.json")
        assert read_results(tmp_path / "results.json") == self.results

    def test_other_json_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "other.json").write_text('{"schema": "ckpttool/inspect/1"}')
        with pytest.raises(ValueError, match="not a result"):
            read_results(tmp_path / "other.json")

    def test_the_chart_is_xml_with_a_bar_for_each_that_ran(self) -> None:
        panel = panel_of(self.results.races[0], "wall")
        root = ElementTree.fromstring(draw("A <heading>", "below & it", [panel]))
        kinds = [rect.get("class") for rect in root.iter(f"{SVG}rect")]
        assert [kinds.count(kind) for kind in ("ours", "refuted")] == [2, 2]  # a bar and the legend
        assert "broken" not in "".join(root.itertext())
        assert [bar.budget for bar in panel.bars] == [1, None]
        assert not list(root.iter(f"{SVG}script"))

    def test_a_bar_left_of_the_line_is_faster(self) -> None:
        root = ElementTree.fromstring(draw("", "", [panel_of(self.results.races[0], "wall")]))
        one = next(path for path in root.iter(f"{SVG}path") if path.get("class") == "one")
        line = float(str(one.get("d"))[1:].split()[0])
        bars = [rect for rect in root.iter(f"{SVG}rect") if float(rect.get("y", 0)) > 80]
        starts = {str(rect.get("class")): float(str(rect.get("x"))) for rect in bars}
        assert starts["ours"] < line == starts["refuted"]

    def test_the_page_keeps_what_is_around_the_marks(self, tmp_path: Path) -> None:
        write_results(self.results, tmp_path / "results.json")
        shipped = PAGE.read_text("utf-8")
        (tmp_path / "benchmarks.md").write_text(shipped, "utf-8")
        report([str(tmp_path / "results.json"), "--docs", str(tmp_path)])
        made = (tmp_path / "benchmarks.md").read_text("utf-8")
        for said in ("| met", "**missed**", "0.50", "failed: exit status 1", "wrong: calls <them> equal"):
            assert said in made
        begin = shipped.index("<!-- benchmarks: begin")
        assert made.startswith(shipped[:begin])
        assert made.endswith(shipped[shipped.index("<!-- benchmarks: end") :])
        ElementTree.fromstring((tmp_path / "benchmarks.svg").read_text("utf-8"))

    def test_a_page_without_marks_is_left_alone(self) -> None:
        with pytest.raises(ValueError, match="the page has no"):
            replace_between("nothing", "benchmarks", "benchmarks.report", "text")


@pytest.mark.slow
def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--sizes", "200000", "--counts", "20"]
    command += ["--rounds", "1", "--only", "inspect-safe", "--only", "diff-equal"]
    ended = subprocess.run(
        [*command, "--dir", str(tmp_path), "--json", str(output)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert max(map(len, ended.stdout.splitlines())) <= 100
    results = read_results(output)
    assert [found.job for found in results.races] == ["inspect-safetensors", "diff-equal"]
    for found in results.races:
        assert all(len(row.runs) == 1 and not row.error and not row.wrong for row in found.rows)
    assert list(tmp_path.iterdir()) == [output]
    (tmp_path / "benchmarks.md").write_bytes(PAGE.read_bytes())
    report([str(output), "--docs", str(tmp_path)])
    assert "20 tensors" in (tmp_path / "benchmarks.md").read_text("utf-8")
    ElementTree.fromstring((tmp_path / "benchmarks.svg").read_text("utf-8"))


def test_imports_are_summed_by_package() -> None:
    listed = """
import time: self [us] | cumulative | imported package
import time:       200 |        900 |   typer.core
import time:       300 |       1200 | typer
import time:        50 |         50 |   tomllib._parser
import time:       100 |        150 | ckpttool.cli
error: not an import
"""
    imports = startup.parse_importtime(listed)
    assert len(imports) == 4
    assert startup.by_package(imports) == pytest.approx(
        {"typer": 500e-6, "ckpttool": 100e-6, startup.OTHERS: 50e-6}
    )
