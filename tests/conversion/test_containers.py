"""A container is one module and one row, a dtype is one row: toys of both, known to their tables only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ckpttool
from ckpttool import formats
from ckpttool.cli import main
from ckpttool.values import containers, dtypes
from ckpttool.values.dtypes import DType


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(containers.CONTAINERS, "toy", ((".toy",), "tests.support.toy_container"))
    monkeypatch.setattr(formats, "FORMATS", ("tests.support.toy_container", *formats.FORMATS))
    # The name of the first says what its bits mean; of the other nobody knows more than the width.
    eighth = DType("float8_e3m4", 8, "float", None, "F8_E3M4", in_torch=False)
    for dtype in (eighth, DType("float24", 24, "float")):
        monkeypatch.setitem(dtypes.BY_NAME, dtype.name, dtype)
    monkeypatch.setitem(dtypes.BY_SAFETENSORS_TAG, "F8_E3M4", eighth)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "a.weight": base.t(),
        "a.bias": torch.ones(3).bfloat16(),
        "tied": base.t(),
        "empty": torch.ones(0),
    }
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def write_toy(path: Path, dtype: str, data: bytes, shape: list[int]) -> Path:
    header = json.dumps([("w", dtype, shape)]).encode()
    path.write_bytes(b"TOY\n" + len(header).to_bytes(8, "little") + header + data)
    return path


def run(*arguments: object, status: int = 0) -> None:
    assert main([*map(str, arguments)]) == status


def document(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


# -- a container --------------------------------------------------------------------------------------


def test_a_container_is_written_checked_and_read_back(source: Path, tmp_path: Path, capsys: Any) -> None:
    told = document(capsys, "convert", source, tmp_path / "b.toy")
    assert (told["format"], told["tensors"], told["root"]) == ("toy", 4, ["model"])
    assert told["checked"] and [item["name"] for item in told["dropped"]] == []
    run("convert", tmp_path / "b.toy", tmp_path / "c.safetensors")
    expected = torch.load(source, weights_only=True)["model"]
    loaded = load_file(tmp_path / "c.safetensors")
    assert loaded.keys() | {"tied"} == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    assert ckpttool.diff(tmp_path / "b.toy", tmp_path / "c.safetensors").equal


def test_a_container_has_shards_an_index_and_a_manifest(source: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.json"
    run("convert", source, tmp_path / "shards", "--to", "toy", "--max-shard-size", "64")
    names = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert names[0] == "toys-00001-of-00002.toy" and names[-1] == "toys.toy.index.json"
    run("convert", source, tmp_path / "b.toy", "--manifest", manifest)
    assert ckpttool.diff(manifest, tmp_path / "b.toy").equal


def test_what_a_container_cannot_hold_is_refused_in_its_own_words(tmp_path: Path, capsys: Any) -> None:
    torch.save({"s": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
    run("convert", tmp_path / "a.pt", tmp_path / "b.toy", status=2)
    assert "a toy cannot hold 's': sparse_coo tensor" in capsys.readouterr().err
    run("convert", tmp_path / "a.pt", tmp_path / "b.weights", status=2)
    assert ".ckpt, .toy, or --to" in capsys.readouterr().err


# -- a dtype ------------------------------------------------------------------------------------------


def test_a_dtype_goes_through_every_command(tmp_path: Path, capsys: Any) -> None:
    toy = write_toy(tmp_path / "a.toy", "float8_e3m4", bytes((0x30, 0x38, 0xB0, 0x00)), [2, 2])
    same, other = tmp_path / "same.safetensors", write_toy(tmp_path / "b.toy", "float8_e3m4", bytes(4), [4])
    run("convert", toy, same)
    found = document(capsys, "inspect", same, "--stats")["entries"][0]
    assert (found["dtype"], found["nbytes"]) == ("float8_e3m4", 4)
    (stats,) = found["stats"]
    assert (stats["min"], stats["max"], stats["zero"]) == (-1.0, 1.5, 1)
    assert ckpttool.open(toy).digest() == ckpttool.open(same).digest()
    assert ckpttool.diff(toy, same).equal and not ckpttool.diff(toy, other).equal
    changed = write_toy(tmp_path / "c.toy", "float8_e3m4", bytes((0x30, 0x30, 0xB0, 0x00)), [2, 2])
    numbers = ckpttool.diff(toy, changed).entries[0].numbers
    assert numbers is not None and (numbers.changed, numbers.max_abs) == (1, 0.5)


def test_a_dtype_that_torch_lacks_stands_in_a_pt_as_bytes(tmp_path: Path, capsys: Any) -> None:
    toy = write_toy(tmp_path / "a.toy", "float8_e3m4", bytes(range(4)), [2, 2])
    run("convert", toy, tmp_path / "b.pt", status=2)
    assert "a .pt cannot hold 'w': float8_e3m4" in capsys.readouterr().err
    run("convert", toy, tmp_path / "b.pt", "--as-bytes")
    assert torch.load(tmp_path / "b.pt", weights_only=True)["w"].tolist() == [0, 1, 2, 3]


def test_a_dtype_without_a_spelling_is_refused_and_never_guessed(tmp_path: Path, capsys: Any) -> None:
    toy = write_toy(tmp_path / "a.toy", "float24", bytes(range(12)), [4])
    run("convert", toy, tmp_path / "b.safetensors", status=2)
    assert "safetensors cannot hold 'w': float24" in capsys.readouterr().err
    run("convert", toy, tmp_path / "b.safetensors", "--as-bytes")
    assert load_file(tmp_path / "b.safetensors")["w"].dtype is torch.uint8
    assert document(capsys, "inspect", tmp_path / "b.safetensors")["entries"][0]["dtype"] == "float24"
    assert ckpttool.diff(toy, tmp_path / "b.safetensors").equal
    (stats,) = document(capsys, "inspect", toy, "--stats")["entries"][0]["stats"]
    assert (stats["note"], stats["numel"]) == ("float24 as numbers", 0)
    run("inspect", toy, "--tensor", "w", status=2)
    assert "float24 as numbers" in capsys.readouterr().err
