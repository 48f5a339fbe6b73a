"""``make cuda`` in a rehearsal on the CPU: the one command runs, and keeps to its time."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import cuda
from ckpttool.torch_bridge.accelerator import accelerator

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_rehearsal_measures_all_and_says_that_it_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cuda.main(["--rehearse", "--gib", "0.001", "0.002", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("A rehearsal on the CPU")
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 2 * 4
    assert rows[1][0] == "| tests that need a device"
    assert ("skipped" in rows[1][1]) is (accelerator() is None)
    assert "Left out" not in out
    assert "met" not in out.replace("| |", "") and "missed" not in out
    assert list(tmp_path.iterdir()) == []


def test_what_there_is_no_time_for_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda.main(["--rehearse", "--seconds", "0", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"Left out: (.*?):", out) == ["the tests", "0.02 GiB", "0.05 GiB"]
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "run_tests", lambda clock: (cuda.Row("tests that need a device", "none"), True))
    assert cuda.main(["--rehearse", "--gib", "1e9", "--folder", str(tmp_path)]) == 0
    assert "Left out: 1e+09 GiB: " in capsys.readouterr().out


@pytest.mark.skipif(accelerator() is not None, reason="there is an accelerator")
def test_without_a_device_there_is_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda.main([]) == 2
    assert "finds no accelerator" in capsys.readouterr().out


def test_make_cuda_needs_no_environment_of_ours() -> None:
    command = ["make", "--no-print-directory", "-n", "cuda", "PYTHON=some-python", "CUDA_ARGS=--gib 1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "some-python -m benchmarks.cuda --gib 1\n"
