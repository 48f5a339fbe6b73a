"""The pictures of the terminal show what the commands print, and need nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import pictures


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_picture_shows_what_is_printed(name: str, demo: Path) -> None:
    shown = pictures.text_of((pictures.FOLDER / name).read_text("utf-8"))
    assert len(shown) > 10
    printed = pictures.text_of(pictures.draw(pictures.PICTURES[name], demo))
    assert shown == printed, "python -m tools.pictures draws it anew"


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_picture_loads_nothing(name: str) -> None:
    svg = (pictures.FOLDER / name).read_text("utf-8")
    assert set(re.findall(r"https?://[^\"' ]+", svg)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|@font-face|<script|url\((?!#)", svg)


def luminance(colour: str) -> float:
    """As WCAG 2.1 defines it, of ``#rrggbb``."""
    shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_every_colour_can_be_read(name: str) -> None:
    svg = (pictures.FOLDER / name).read_text("utf-8")
    background = re.search(r'<rect fill="(#[0-9a-f]{6})"', svg)
    assert background is not None
    colours = set(re.findall(r"\{ fill: (#[0-9a-f]{6})", svg))
    assert len(colours) >= 4
    dark = luminance(background[1]) + 0.05
    assert {colour for colour in colours if (luminance(colour) + 0.05) / dark < 4.4} == set()
