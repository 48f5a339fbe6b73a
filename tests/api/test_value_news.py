"""What `--stats` finds: no news of counters, nor of zeros and infinities beside the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpttool.cli import main
from ckpttool.findings.weights_only import needed_packages
from ckpttool.values.checkpoint import Checkpoint, GlobalRef
from tests.support.inspections import inspection, row

torch = pytest.importorskip("torch")
INF = float("inf")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    norm = torch.nn.BatchNorm1d(3).state_dict()
    norm["bias"] = torch.zeros(3)
    callbacks = {"best": {"kth_value": torch.tensor(INF)}}
    momentum = {"exp_avg": torch.zeros(3), "exp_avg_sq": torch.tensor([float("nan"), 1, 2])}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": norm, "callbacks": callbacks, "moments": momentum}, path)
    return path


def said(file: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    status = main(["inspect", str(file), "--stats", *options])
    return status, capsys.readouterr().err


def test_only_news_is_said(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, err = said(file, capsys)
    assert status == 0
    assert "num_batches_tracked" not in err and "kth_value" not in err and "exp_avg:" not in err
    assert "bias: all 3 values are zero" in err
    assert "exp_avg_sq: 1 of 3 values is NaN" in err


@pytest.mark.parametrize(("what", "name"), [("inf", "kth_value"), ("zero", "num_batches_tracked")])
def test_what_is_asked_for_is_said_of_all(
    what: str, name: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, err = said(file, capsys, "--fail-on", what)
    assert status == 1 and name in err


def checkpoint(*globals_: str) -> Checkpoint:
    refs = tuple(GlobalRef(*name.rsplit(".", 1), True, ("$",)) for name in globals_)
    return inspection([row("w")], globals=refs).checkpoint


def test_many_globals_are_told_by_their_packages() -> None:
    many = [f"lightning.core.C{at}" for at in range(5)] + ["chemprop.nn.M", "collections.OrderedDict"]
    assert needed_packages(checkpoint(*many)) == "lightning, chemprop (6 globals: --globals)"
    assert needed_packages(checkpoint("a.B", "c.D", "collections.OrderedDict")) == ""
