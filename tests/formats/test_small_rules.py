"""Rules of one line each: families of shards, zlib, integers of JSON, a first pickle, what stands behind."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from ckpttool.formats import python_pickle, read_checkpoint
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.folders.choice import is_same_family
from ckpttool.formats.foreign.files import _zlib
from ckpttool.formats.strict_json import parse_json
from ckpttool.values.errors import MalformedCheckpoint
from tests.formats.test_zip_records import Bytes
from tests.hostile import pickles as op
from tests.hostile.containers import legacy


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("model-00001-of-00002.safetensors", "model.safetensors"),
        ("model-00002-of-00002.safetensors", "model.safetensors"),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin"),
        ("model.safetensors", None), ("index.json", None), ("", None),
    ],
)  # fmt: skip
def test_a_shard_is_of_one_family(name: str, family: str | None) -> None:
    families = ["model.safetensors", "pytorch_model.bin", "model.bin", "model", ""]
    assert [item for item in families if is_same_family(name, item)] == ([family] if family else [])


@pytest.mark.parametrize(
    ("inside", "pickled"),
    [
        (op.dump(1, 2), True),
        (op.dump(1, 5), True),
        (b"\x80\x06N.", False),
        (b"\x80", True),
        (b"x\x05", False),
    ],
)
def test_what_joblib_compressed_is_named(inside: bytes, pickled: bool) -> None:
    data = zlib.compress(inside)
    found = _zlib(data, Bytes(data))
    assert found is not None
    assert found[0] == "compressed with zlib" + (", as joblib does, a pickle inside" if pickled else "")


def test_an_integer_of_json_is_no_negative_zero() -> None:
    def parse(text: str) -> object:
        return parse_json(text.encode(), "thing", Limits(), "x")

    for text in ("-0", '{"a": [1, -0]}'):
        with pytest.raises(
            MalformedCheckpoint, match="the thing holds -0, which is an integer for one parser"
        ):
            parse(text)
    assert parse('{"a-0": [-1, 0, 10, -10], "b": "-0", "c": -0.0}') == {
        "a-0": [-1, 0, 10, -10], "b": "-0", "c": -0.0
    }  # fmt: skip


def test_the_magic_number_alone_makes_a_pickle_the_layout_before() -> None:
    def layout(content: bytes) -> str:
        return python_pickle.read(Look(Bytes(content), Limits())).format

    assert layout(legacy(op.dump({"w": op.tensor()}))) == "torch_legacy"
    for first in (5, 0, True, 0x1950A86A20F9469CFC6D, "x", [1]):
        assert layout(op.dump(first)) == "pickle"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lin(x)  # type: ignore[no-any-return]


def test_what_stands_behind_the_pickles_of_torchscript_is_told(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Net(), torch.zeros(1, 2)), tmp_path / "a.pt")
    assert read_checkpoint(str(tmp_path / "a.pt")).findings == ()
    for behind in (("data.pkl",), ("constants.pkl",), ("data.pkl", "constants.pkl")):
        with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
            for item in old.infolist():
                more = b"xy" if item.filename.rpartition("/")[2] in behind else b""
                new.writestr(item.filename, old.read(item) + more)
        found = read_checkpoint(str(tmp_path / "b.pt"))
        assert [item.code for item in found.findings] == ["bytes-after-pickle"] * len(behind)
        assert len(found.entries) == 2
