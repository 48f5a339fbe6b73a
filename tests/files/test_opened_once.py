"""A command opens each file once, however often it reads it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A .pt, its twin with other values, and both as shards with an index."""
    for name, first in (("a", 0.0), ("b", 1.0)):
        state = {f"layers.{number}.weight": torch.arange(first, first + 8) for number in range(4)}
        torch.save(state, tmp_path / f"{name}.pt")
        options = ["--max-shard-size", "64", "--quiet"]
        assert main(["convert", str(tmp_path / f"{name}.pt"), str(tmp_path / name), *options]) == 0
        assert len(list((tmp_path / name).iterdir())) == 3
    return tmp_path


def opens(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a command opens each of its source files."""
    counts: Counter[str] = Counter()
    system_open = os.open

    def counted(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_ACCMODE == os.O_RDONLY and os.path.isfile(path):
            counts[os.fspath(path)] += 1
        return system_open(path, flags, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", counted)
        assert main(arguments) in (0, 1)
    return counts


@pytest.mark.parametrize("options", [[], ["--json"], ["--stats"], ["--digest"], ["--check"], ["--globals"]])
@pytest.mark.parametrize("name", ["a.pt", "a"])
def test_inspect_opens_each_file_once(
    folder: Path, name: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / name
    files = [path] if path.is_file() else list(path.iterdir())
    assert opens(["inspect", str(path), *options], monkeypatch) == dict.fromkeys(map(str, files), 1)


@pytest.mark.parametrize("pair", [("a.pt", "b.pt"), ("a", "b"), ("a.pt", "a"), ("b", "a.pt")])
def test_diff_opens_each_file_of_each_side_once(
    folder: Path, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        path
        for name in pair
        for path in ([folder / name], (folder / name).glob("*"))[(folder / name).is_dir()]
    ]
    command = ["diff", *(str(folder / name) for name in pair), "--quiet"]
    assert opens(command, monkeypatch) == dict.fromkeys(map(str, files), 1)


def test_convert_opens_its_source_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folder / "a.pt", folder / "c.safetensors"
    found = opens(["convert", str(source), str(target), "--quiet"], monkeypatch)
    assert found[str(source)] == 1


@pytest.mark.parametrize("form", ["text", "npy", "pt", "safetensors"])
def test_get_opens_its_source_once(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / f"{form}.out"
    command = ["get", str(folder / "a.pt"), "layers.1.weight", "-o", str(out), "--as", form]
    assert opens(command, monkeypatch)[str(folder / "a.pt")] == 1


def test_git_textconv_opens_the_file_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opens(["git-textconv", str(folder / "a.pt")], monkeypatch) == {str(folder / "a.pt"): 1}


COMMANDS = [
    ["inspect", "a.pt"],
    ["inspect", "a", "--json"],
    ["inspect", "a.pt", "--stats"],
    ["inspect", "a", "--digest"],
    ["inspect", "text.pt"],
    ["diff", "a.pt", "b"],
    ["diff", "a", "text.pt"],
    ["convert", "a", "out.safetensors", "--force"],
    ["convert", "a.pt", "a.pt", "--force"],  # refused
    ["git-textconv", "a.pt"],
    ["get", "a", "layers.0.weight", "-o", "one.npy", "--force"],
    ["get", "a", "layers.0.weight", "-o", "one.pt", "--force"],
    ["get", "a", "nothing"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_leaves_a_file_open(
    folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CKPTTOOL_TRACEBACK", raising=False)
    (folder / "text.pt").write_text("no checkpoint")
    main(arguments)
    before = os.listdir("/dev/fd")
    main(arguments)
    assert os.listdir("/dev/fd") == before
