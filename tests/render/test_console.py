"""What a stream cannot say is spelled in ASCII: every character that the tool itself writes."""

from __future__ import annotations

import ast
import io
import sys
from pathlib import Path

import pytest

from ckpttool.cli import main
from ckpttool.render.console import Screen
from ckpttool.render.tables import Span

RENDER = Path(sys.modules[Screen.__module__].__file__ or "").parent
# Ranges that are tested for, and nothing that is written.
NOT_WRITTEN = {"\u0300", "\u036f", "\u1fff", "\u2e80"}


def written_characters() -> set[str]:
    found: set[str] = set()
    for path in RENDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(character for character in node.value if not character.isascii())
    return {character for character in found - NOT_WRITTEN if ord(character) < 0x3000}


def stream(encoding: str) -> tuple[io.TextIOWrapper, io.BytesIO]:
    raw = io.BytesIO()
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", write_through=True), raw


def test_every_character_has_a_spelling_of_its_width() -> None:
    characters = written_characters()
    assert {"·", "×", "█", "Δ", "▁"} <= characters
    for character in characters:
        text, raw = stream("ascii")
        Screen(text).write_lines([(Span(character),)])
        assert len(raw.getvalue()) == 2, character  # one, and the end of the line


def test_a_stream_that_can_say_it_does() -> None:
    text, raw = stream("utf-8")
    Screen(text).write_lines([(Span("max |Δ| · ×4"),)])
    assert raw.getvalue().decode() == "max |Δ| · ×4\n"


def test_what_is_said_beside_a_pipe_is_spelled_too(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, raw_out = stream("ascii")
    err, raw_err = stream("ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main(["diff", str(demo / "base.pt"), str(demo / "tuned.safetensors")]) == 1
    assert raw_out.getvalue().startswith(b"changed\t")
    said = raw_err.getvalue().decode("ascii")
    assert said.startswith("different: identical 20 of 30 - changed 10") and "\\x" not in said
