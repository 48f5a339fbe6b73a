"""What `inspect` shows of ten kinds of model on terminals of four widths and 40 lines; in golden files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckpttool.render.tables import cell_width
from tests.support.architectures import ARCHITECTURES, write_shapes
from tests.support.goldens import View, check, type_command

LINES = 40
WIDTHS = (60, 80, 120, 200)


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "training"])
def test_golden(
    kind: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update_golden: bool
) -> None:
    monkeypatch.setenv("LINES", str(LINES))
    name = "training.pt" if kind == "training" else f"{kind}.safetensors"
    if kind == "training":
        shutil.copy(demo / "decoder_training.pt", tmp_path / name)
    else:
        write_shapes(tmp_path / name, ARCHITECTURES[kind]())
    shown = []
    for width in WIDTHS:
        text = type_command(f"ckpttool inspect {name}", View("", width), tmp_path)
        lines = text.split("\n")[2:-1]
        assert [line for line in lines if cell_width(line) > width and "← weights" not in line] == []
        # Twelve rows are shown, however much stands around them.
        assert len(lines) < LINES or width < 80 or kind == "training", "more than a screen, with the prompt"
        shown.append(f"== {width} columns\n\n{text}")
    check(f"screen_{kind}", "\n".join(shown), update=update_golden)
