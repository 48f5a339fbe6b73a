"""A new format, finding, lint code, kind rule or result is one file or one row: here is a toy of each."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckpttool
from ckpttool import formats
from ckpttool.cli import main
from ckpttool.findings import rules
from ckpttool.findings.text import Evidence
from ckpttool.kinds import known_names, known_names_table
from ckpttool.render import views
from ckpttool.torch_bridge.lint import lint
from ckpttool.torch_bridge.lint.facts import Facts, Hit
from ckpttool.torch_bridge.lint.rules import LintRule
from ckpttool.values.checkpoint import Finding, Kind
from tests.support import toy_format
from tests.support.toy_view import Counted


def write_toy(path: Path, name: str, values: list[float]) -> None:
    header = json.dumps({"name": name, "numel": len(values)}).encode()
    packed = struct.pack(f"<{len(values)}f", *values)
    path.write_bytes(toy_format.MAGIC + len(header).to_bytes(4, "little") + header + packed)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a toy format, which is one more row of FORMATS."""
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, "tests.support.toy_format"))
    write_toy(tmp_path / "a.toy", "layer.weight", [1.0, 2.0, 3.0])
    return tmp_path / "a.toy"


def test_a_format_is_one_file_and_one_row(toy: Path, tmp_path: Path) -> None:
    opened = ckpttool.open(toy)
    assert (opened.format, opened.entries[0].kind) == ("toy", Kind.PARAMETER)
    assert opened.array("layer.weight").tolist() == [1.0, 2.0, 3.0]
    for name in ("b.pt", "b.safetensors"):
        assert ckpttool.convert(toy, tmp_path / name).written
        assert ckpttool.diff(toy, tmp_path / name).equal
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.toy.index.json").write_text(json.dumps({"weight_map": {"layer.weight": "a.toy"}}))
    (folder / "a.toy").write_bytes(toy.read_bytes())
    assert ckpttool.open(folder).entries[0].name == "layer.weight"
    toy.write_bytes(toy.read_bytes()[:-1])
    with pytest.raises(ckpttool.MalformedCheckpoint, match="outside its file"):
        ckpttool.open(toy)


def test_a_finding_is_one_function_and_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_sevens(evidence: Evidence) -> Iterator[Finding]:
        for entry, _, _ in evidence.rows:
            if entry.value is not None and entry.value.shape == (7,):
                yield Finding("toy-seven", "warning", str(entry.name), "has seven elements")

    monkeypatch.setattr(rules, "_RULES", (*rules._RULES, find_sevens))
    torch.save({"layer.odd": torch.zeros(7), "layer.even": torch.zeros(6)}, tmp_path / "a.pt")
    assert main(["inspect", str(tmp_path / "a.pt"), "--fail-on", "findings"]) == 1
    assert "warning: layer.odd: has seven elements [toy-seven]" in capsys.readouterr().err


def test_a_lint_code_is_one_function_and_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_large(facts: Facts) -> Iterator[Hit]:
        for slot in facts.iter_filled():
            if slot.tensor is not None and slot.tensor.numel() > 100:
                yield Hit(slot.full_name, "more than a toy needs", "make it smaller")

    monkeypatch.setattr(lint, "RULES", (*lint.RULES, LintRule("TOY1", "warning", find_large)))
    report = ckpttool.lint(lambda: nn.Linear(20, 10))
    assert [(finding.code, finding.name) for finding in report.findings] == [("TOY1", "weight")]
    assert not report.ok and "TOY1" in str(report)


def test_a_kind_rule_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"layer.weight": torch.zeros(2), "layer.zorptable": torch.zeros(2)}, tmp_path / "a.pt")
    assert ckpttool.open(tmp_path / "a.pt").entry("layer.zorptable").kind is Kind.UNKNOWN
    rule = known_names_table.Rule(note="a toy's table", names="zorptable", rebuilt=True)
    table = {**known_names.RULES, Kind.PERSISTENT_BUFFER: (*known_names.RULES[Kind.PERSISTENT_BUFFER], rule)}
    monkeypatch.setattr(known_names, "RULES", table)
    known_names.load_name_table.cache_clear()
    try:
        opened = ckpttool.open(tmp_path / "a.pt")
        entry = opened.entry("layer.zorptable")
        assert (entry.kind, entry.basis, entry.note) == ("persistent_buffer", "name", "a toy's table")
        converted = opened.convert(tmp_path / "b.safetensors", drop_known_buffers=True)
        assert [item.name for item in converted.dropped] == ["layer.zorptable"]
    finally:
        known_names.load_name_table.cache_clear()


@pytest.mark.parametrize(
    ("json_", "shown"), [(False, ("3\n", "said\n")), (True, ('{\n"schema": "toy/1",\n"tensors": 3\n}\n', ""))]
)
def test_a_view_is_one_row(
    json_: bool, shown: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(views.VIEWS, "Counted", ("tests.support.toy_view", "COUNTED"))
    views.show(Counted(3), None, sys.stdout, sys.stderr, json=json_)
    found = capsys.readouterr()
    assert (found.out, found.err) == shown
