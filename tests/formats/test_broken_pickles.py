"""Pickles that break off: an unpickler runs their calls before it notices, so they are no mere text."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.values.errors import CkptToolError
from tests.hostile import pickles as op
from tests.hostile.containers import torch_zip

CALL = b"cbuiltins\nlen\n(S'abc'\ntR"
BROKEN = {
    "a call, then junk": CALL + b"not an opcode",
    "a string first": b"V\xc3\xa9 text\n0" + CALL + b"\xff",
    "a quoted string first": b"S'text'\n0" + CALL + b"\xff",
    "a mark first": b"(" + CALL + b"\xff",
    "an integer first": b"I1\n0" + CALL + b"\xff",
    "INST": b"(S'abc'\nibuiltins\nlen\n\xff",
    "no STOP": CALL,
}


@pytest.mark.parametrize("name", BROKEN)
def test_its_calls_are_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(BROKEN[name])
    assert main(["inspect", str(path)]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert "pickle" in error
    assert hint == "hint:  a damaged pickle: an unpickler would call builtins.len before it breaks off"


@pytest.mark.parametrize("name", BROKEN)
def test_an_unpickler_runs_them(name: str) -> None:
    """The oracle: Python's own unpickler asks for the global before it fails."""
    asked = []

    class Reader(pickle._Unpickler):  # type: ignore[name-defined]
        def find_class(self, module: str, name: str) -> object:
            asked.append(f"{module}.{name}")
            return len

    import io

    with pytest.raises(Exception):  # noqa: B017 - whatever the damage leads to
        Reader(io.BytesIO(BROKEN[name])).load()
    assert asked == ["builtins.len"]


@pytest.mark.parametrize(
    "start", [b"cos\nsystem\n", b"cos\nsystem\n(S'ls'", b"(cposix\nsystem\nS'ls", b"ctorch._utils\nx\n"]
)
def test_one_that_is_cut_before_a_call_is_a_pickle(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(start)
    with pytest.raises(CkptToolError, match="pickle"):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\n",
        "see the page\n",
        "Very well\n",
        "(in brackets)\n",
        "I am\n",
        "Steps:\n1. go\n",
        "class A:\n  x = 1\n",
        "Linux\n",
    ],
)
def test_text_that_begins_like_one_is_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text(text)
    with pytest.raises(CkptToolError, match=r"text of .*, not a checkpoint"):
        read_checkpoint(str(path))


def test_calls_of_a_damaged_data_pkl_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The payload first, then damage: what a scanner that parses before it judges does not see."""
    path = tmp_path / "x.pt"
    damaged = op.PROTO(2) + op.call("posix:system", "true") + op.push({"w": op.tensor()}) + b"\xff"
    path.write_bytes(torch_zip(damaged))
    assert main(["inspect", str(path)]) == 2
    assert "would call posix.system before it breaks off" in capsys.readouterr().err
