"""Modules that a pickled module keeps as bytes: their entries are not seen, nor called missing silently."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint

CODE = '''
import io, pickle, torch
from torch import nn

class Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("w3j", torch.ones(3))

class Product(nn.Module):
    """Keeps what it compiled as e3nn's CodeGenMixin does: out of _modules, as bytes."""
    how = "pickle"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.compiled = Compiled()

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_modules"] = state["_modules"].copy()
        inner = state["_modules"].pop("compiled")
        if self.how == "pickle":
            state["__codegen__"] = {"compiled": ("fx", pickle.dumps(inner))}
        elif self.how == "archive":
            held = io.BytesIO()
            torch.save(inner.state_dict(), held)
            state["__codegen__"] = {"compiled": ("ts", held.getvalue())}
        else:
            held = io.BytesIO()
            torch.save(inner.state_dict(), held)
            state["blob"] = held.getvalue()
        return state

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Product()
        self.last = nn.Linear(2, 2)

def build():
    return Net()
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "made_of_bytes.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    import made_of_bytes  # type: ignore[import-not-found]

    yield made_of_bytes
    del sys.modules["made_of_bytes"]


@pytest.mark.parametrize("how", ["pickle", "archive", "attribute"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_in_bytes_is_not_called_missing_from_the_file(
    library: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    protocol: int,
    wrapped: bool,
) -> None:
    monkeypatch.setattr(library.Product, "how", how)
    net = library.build()
    torch.save({"model": net, "epoch": 1} if wrapped else net, "m.pt", pickle_protocol=protocol)
    (finding,) = [item for item in read_checkpoint("m.pt").findings if item.code == "module-in-bytes"]
    assert finding.message.startswith(f"1 module ({'model.' if wrapped else ''}first) keeps others as bytes")
    assert main(["inspect", "m.pt", "--json", "--model", "made_of_bytes:build"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = [item for item in document["findings"] if item["code"] == "missing-entry"]
    assert [(item["severity"], "first.compiled.w3j" in item["message"]) for item in found] == [
        ("warning", True)
    ]
    assert "perhaps in a module that the file keeps as bytes" in found[0]["message"]
    (missing,) = [item for item in document["entries"] if item["presence"] == "missing"]
    assert missing["note"] == "not seen: perhaps in bytes"


def test_verify_says_where_a_missing_entry_may_be(library: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(library.build(), "m.pt")
    assert main(["verify", "m.pt", "--model", "made_of_bytes:build", "--json"]) == 1
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any(
        "(first.compiled.w3j): perhaps in a module that the file keeps as bytes" in note for note in notes
    )


def test_an_entry_of_another_module_is_missing_as_ever(
    library: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    net = library.build()
    del net.last.bias
    torch.save(net, "m.pt")
    assert main(["inspect", "m.pt", "--json", "--model", "made_of_bytes:build"]) == 0
    found = [
        item for item in json.loads(capsys.readouterr().out)["findings"] if item["code"] == "missing-entry"
    ]
    assert {item["severity"]: item["name"] for item in found} == {
        "error": "last.bias",
        "warning": "first.compiled.w3j",
    }


@pytest.mark.parametrize("raw", [b"", b"\x80", b"PK", b"\x80\x04 text", b"plain" * 100, b"\x00" * 80])
def test_other_bytes_are_no_module(tmp_path: Path, raw: bytes) -> None:
    net = nn.Linear(2, 2)
    net.raw, net.table = raw, {"a": ("x", raw)}
    torch.save(net, tmp_path / "m.pt")
    checkpoint = read_checkpoint(str(tmp_path / "m.pt"))
    assert not checkpoint.unread_modules and not checkpoint.findings


def test_a_state_dict_with_bytes_beside_it_is_no_module(tmp_path: Path) -> None:
    held = io.BytesIO()
    torch.save(torch.ones(2), held)
    torch.save({"w": torch.ones(2), "blob": held.getvalue(), "p": pickle.dumps(3)}, tmp_path / "m.pt")
    assert not read_checkpoint(str(tmp_path / "m.pt")).unread_modules
