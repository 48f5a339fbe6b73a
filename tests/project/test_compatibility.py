"""The scripts behind docs/compatibility.md and docs/security.md see what they must see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import scanners
from compatibility import releases, suite
from compatibility.compare import file_differences


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case of ``in_torch.py``, by the torch that is here."""
    folder = tmp_path_factory.mktemp("written")
    subprocess.run([sys.executable, releases.SCRIPT, "write", str(folder)], check=True)
    return folder


@pytest.mark.slow
def test_the_torch_that_is_here_is_a_release_too(written: Path, tmp_path: Path) -> None:
    today = json.loads((written / "write.json").read_text("utf-8"))
    facts, outcomes = releases.judge_release(sys.executable, tmp_path, today, written)
    assert facts["torch"] == str(torch.__version__)
    assert [file["file"] for file in facts["files"] if "cannot" in file] == []
    # torch 2.13 writes dtypes without a storage class into legacy files, and cannot load those.
    assert {file["container"] for file in facts["files"] if "changed" in file} <= {"legacy"}
    assert [outcome for outcome in outcomes if outcome.status == "wrong"] == []
    for way in releases.WAYS:
        right = [outcome for outcome in outcomes if outcome.way == way and outcome.status == "right"]
        assert len(right) >= 50, way


@pytest.mark.slow
def test_one_wrong_fact_is_seen(written: Path) -> None:
    facts = {
        file["file"]: file["tensors"]
        for file in json.loads((written / "write.json").read_text("utf-8"))["files"]
    }
    name = "tied_zip.pt"
    assert file_differences(written / name, facts[name]) == []
    lies = {
        "dtype": "float64",
        "shape": [4, 4],
        "stride": [1, 4],
        "sha256": "0" * 64,
        "tied_to": ["other"],
        "kind": "parameter",
        "path": ["another"],
    }
    for field, lie in lies.items():
        told = [dict(fact) for fact in facts[name]]
        told[1][field] = lie
        assert file_differences(written / name, told), field
    assert file_differences(written / name, facts[name][:-1])


def test_requirements_leave_out_torch_alone() -> None:
    names = [line.partition(">")[0] for line in suite.requirements()]
    assert "torch" not in names
    assert {"safetensors", "numpy", "typer", "rich"} <= set(names)


@pytest.mark.parametrize(
    ("tool", "status", "output", "verdict"),
    [
        ("picklescan", 1, "dangerous import 'posix system' FOUND", "alarm"),
        ("picklescan", 2, "ERROR: parsing pickle\ndangerous import 'posix system' FOUND", "alarm"),
        ("picklescan", 2, "ERROR: parsing pickle", "refused"),
        ("picklescan", 0, "Suspicious globals: 3", "named"),
        ("picklescan", 0, "Suspicious globals: 0", "passed"),
        ("modelscan", 1, "", "alarm"),
        ("modelscan", 3, "--- Errors ---", "refused"),
        ("modelscan", 0, "--- Errors ---", "named"),
        ("fickling", 1, "", "alarm"),
        ("ckpttool", 1, "dangerous\tposix.system\tcalled", "alarm"),
        ("ckpttool", 1, "loads with weights_only=True: yes", "named"),
        ("ckpttool", 2, "", "refused"),
        ("ckpttool", 0, "", "passed"),
        ("ckpttool", 99, "", "crash"),
        ("ckpttool", -11, "", "crash"),
        ("fickling", 1, "Traceback (most recent call last)", "crash"),
    ],
)
def test_what_a_scanner_says_is_understood(tool: str, status: int, output: str, verdict: str) -> None:
    answer = {"status": status, "output": output, "late": False, "peak_nbytes": 0}
    assert scanners.judge(tool, answer) == verdict
    assert scanners.judge(tool, {**answer, "late": True}) == "hang"


@pytest.mark.slow
def test_payloads_are_noticed_if_they_run_and_named_if_they_do_not(tmp_path: Path) -> None:
    if scanners.network_can_be_cut() is None:
        pytest.skip("unshare cannot cut the network here")
    scanners.prove_canary(tmp_path)
    jobs = scanners.build_corpus(tmp_path / "corpus", scanners.RUNS_CODE[0])
    (tmp_path / "runs").mkdir()
    outcomes = scanners.run_tool("ckpttool", sys.executable, jobs, tmp_path / "runs")
    assert len(outcomes) >= 16
    assert {(outcome.verdict, outcome.executed, outcome.raw) for outcome in outcomes} == {
        ("alarm", False, False)
    }
    assert {outcome.left for outcome in outcomes} == {()}
