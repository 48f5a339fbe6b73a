"""``inspect FILE --model`` as it is typed: JSON, tables, pipes and statuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sample_models
from ckpttool import cli
from ckpttool.findings.model import STALE
from ckpttool.formats import read_checkpoint
from ckpttool.inspection.apply_model import AS_DESIGNED
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.render.inspection import iter_inspection, iter_pipe
from ckpttool.render.views import InspectListing
from ckpttool.torch_bridge.reference import describe_model

# ---------------------------------------- the command line


@pytest.fixture
def swin(tmp_path: Path) -> Path:
    state = sample_models.load("swin_window_attention").build().state_dict()
    path = tmp_path / "swin.pt"
    torch.save({**state, "blocks.0.attn.relative_position_index": torch.zeros(16, 16).long()}, path)
    return path


SWIN = "sample_models.swin_window_attention:build"


def test_json_has_kind_presence_basis_and_the_model(swin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(swin), "--model", SWIN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    by_name = {entry["name"]: entry for entry in document["entries"]}
    stale = by_name["blocks.0.attn.relative_position_index"]
    assert (stale["kind"], stale["presence"], stale["basis"]) == (
        "non_persistent_buffer",
        "unexpected",
        "module",
    )
    mask = by_name["blocks.1.attn_mask"]
    assert (mask["presence"], mask["note"], mask["shape"]) == ("missing", AS_DESIGNED, [4, 16, 16])
    assert document["model"]["text"] == SWIN
    assert (document["model"]["matched"], document["model"]["names"]) == (18, 19)
    assert document["model"]["built"] == "built on meta"


def test_findings_decide_the_status_only_if_asked(swin: Path) -> None:
    assert cli.main(["inspect", str(swin), "--model", SWIN, "-q"]) == 0
    assert cli.main(["inspect", str(swin), "--model", SWIN, "-q", "--fail-on", "findings"]) == 1


def test_arguments_reach_the_factory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pt"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    wide = ["--model", "torch.nn:Linear", "--model-arg", "in_features=4", "--model-arg", "out_features=2"]
    assert cli.main(["inspect", str(path), *wide]) == 0
    assert "weight is [2, 3] in the file and [2, 4] in the model" in capsys.readouterr().err
    assert cli.main(["inspect", str(path), "--model-arg", "in_features=4"]) == 2
    assert "--model" in capsys.readouterr().err


def test_the_table_says_what_is_in_file_and_in_model(swin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(swin.parent)
    spec = describe_model(sample_models.load("swin_window_attention").build(), SWIN)
    found = inspect_checkpoint(read_checkpoint(swin.name), model=spec)
    lines = ["".join(span.text for span in line) for line in iter_inspection(found, 160, InspectListing())]
    stale = next(line for line in lines if "0.attn.relative_position_index" in line)
    mask = next(line for line in lines if "blocks.1.attn_mask" in line)
    assert stale.split()[-8:] == ["KiB", "!", *STALE.split()][-8:]
    assert mask.endswith("by design") and "—" in mask
    assert any("2 non-persistent buffers not stored, by design" in line for line in lines)
    assert not any(line.startswith("  missing ") for line in lines)  # said in the table, not again below
    for width in (80, 100, 200):
        assert all(
            len("".join(span.text for span in line)) <= width
            for line in iter_inspection(found, width, InspectListing())
        )


def test_pipe_and_json_have_the_same_presences(swin: Path) -> None:
    spec = describe_model(sample_models.load("swin_window_attention").build(), SWIN)
    found = inspect_checkpoint(read_checkpoint(str(swin)), model=spec)
    presences = [line.split("\t")[1] for line in iter_pipe(found)]
    assert (presences.count("missing"), presences.count("unexpected")) == (2, 1)


def test_without_a_model_torch_is_not_imported(swin: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from ckpttool import cli; status = cli.main(sys.argv[1:]); "
        "assert not {'torch', 'ckpttool.inspection.apply_model'} & set(sys.modules); sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(swin)], capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_screen_is_reached(
    swin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["inspect", str(swin), "--model", SWIN]) == 0
    assert f"kinds by {SWIN} (TinySwin) · built on meta · 18 of 19 names match" in capsys.readouterr().out
