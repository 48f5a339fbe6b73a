"""What ``diff`` shows of values that became NaN or infinite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpttool.render.diff import iter_diff
from ckpttool.render.views import DiffListing
from tests.support.differing import diff

NAMES = ("a.lot", "b.nan", "c.nan_gone", "d.inf", "e.sign", "f.cast")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Five tensors that changed a lot, by one NaN, infinity or sign, and one that became float16 and NaN."""
    base = {name: torch.ones(4, 4) for name in NAMES}
    base["c.nan_gone"][0, 0] = math.nan
    base["e.sign"][0, 0] = math.inf
    other = {name: value.clone() for name, value in base.items()}
    other["a.lot"] *= 1000
    other["b.nan"][1, 1] = math.nan
    other["c.nan_gone"][0, 0] = 1
    other["d.inf"][1, 1] = -math.inf
    other["e.sign"][0, 0] = -math.inf
    other["f.cast"] = other["f.cast"].half()
    other["f.cast"][0, 0] = math.nan
    save_file(base, tmp_path / "a.safetensors")
    save_file(other, tmp_path / "b.safetensors")
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def test_the_table_says_nan_and_begins_with_it(pair: tuple[Path, Path]) -> None:
    lines = ["".join(span.text for span in line) for line in iter_diff(diff(*pair), 120, DiffListing())]
    sizes = {word: line for line in lines for word in line.split() if word in NAMES and "Δ" not in line}
    order = list(sizes)
    assert set(order[:3]) == {"b.nan", "c.nan_gone", "f.cast"} and order[-1] == "a.lot"
    for name in order[:3]:
        assert sizes[name].split().count("nan") == 2
    for name in ("d.inf", "e.sign"):
        assert sizes[name].split().count("inf") >= 2
    assert "inf of the other sign" in sizes["e.sign"]


def test_a_pipe_says_the_same_and_json_has_what_is_finite(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from ckpttool.cli import main

    assert main(["diff", *map(str, pair)]) == 1
    rows = {line.split("\t")[3]: line.split("\t") for line in capsys.readouterr().out.splitlines()}
    assert [rows["b.nan"][place] for place in (9, 11)] == ["nan", "nan"]
    assert [rows["d.inf"][place] for place in (9, 11)] == ["inf", "inf"]
    assert main(["diff", *map(str, pair), "--top", "3"]) == 1
    top = {line.split("\t")[3] for line in capsys.readouterr().out.splitlines()}
    assert top == {"b.nan", "c.nan_gone", "f.cast"}
    assert main(["diff", *map(str, pair), "--json"]) == 1
    entries = {item["name"]: item for item in json.loads(capsys.readouterr().out)["entries"]}
    assert (entries["b.nan"]["nan_appeared"], entries["b.nan"]["max_abs"]) == (1, 0.0)
    assert (entries["e.sign"]["inf_flipped"], entries["e.sign"]["max_abs"]) == (1, 0.0)
