"""Views of quantised tensors of which several elements share a byte: torch counts their offset in bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckpttool.api.opened import open_file
from ckpttool.cli import main
from ckpttool.elements.bits import first_values
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import CompositeTensor, TensorInfo
from tests.support.layouts import saved

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")

BITS = {torch.quint4x2: 4, torch.quint2x4: 2}


def view_of(dtype: torch.dtype, offset: int, count: int) -> torch.Tensor:
    """``count`` elements from byte ``offset`` on of 64 different ones."""
    values = torch.arange(64.0) ** 2 // 3 % (1 << BITS[dtype])
    whole = torch.quantize_per_tensor(values, 1.0, 0, dtype)
    return whole[offset : offset + count]


def stored(view: torch.Tensor) -> list[int]:
    """What torch itself makes of it, each element by itself: a value is its number at scale 1."""
    return [int(value) for value in view.dequantize()]


@pytest.mark.parametrize("dtype", BITS, ids=str)
@pytest.mark.parametrize(("offset", "count"), [(0, 64), (1, 5), (2, 8), (3, 7), (5, 2), (7, 1), (8, 16)])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_values_of_a_view_are_torch_s(
    tmp_path: Path, dtype: torch.dtype, offset: int, count: int, zipped: bool
) -> None:
    view = view_of(dtype, offset, count)
    (tmp_path / "v.pt").write_bytes(saved({"q": view}, zipped=zipped))
    opened = open_file(tmp_path / "v.pt")
    (entry,) = opened.read.entries
    assert isinstance(entry.value, CompositeTensor)
    info = entry.value.parts[0].value
    assert isinstance(info, TensorInfo)
    assert info.storage_offset == view.storage_offset() * 8 // BITS[dtype]
    with TensorReader(opened.sources) as reader:
        assert first_values(reader, info, 99) == stored(view)


@pytest.mark.parametrize("dtype", BITS, ids=str)
def test_equal_views_at_other_offsets_have_one_digest_and_are_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype
) -> None:
    digests = []
    for name, view in (
        ("a", view_of(dtype, 3, 8)),
        ("b", torch.quantize_per_tensor(view_of(dtype, 3, 8).dequantize(), 1.0, 0, dtype)),
        ("c", view_of(dtype, 4, 8)),
    ):
        torch.save({"q": view}, tmp_path / f"{name}.pt")
        assert main(["inspect", str(tmp_path / f"{name}.pt"), "--digest"]) == 0
        digests.append(capsys.readouterr().out)
    assert digests[0] == digests[1] != digests[2]
    assert main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]) == 0
    assert main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "c.pt")]) == 1


@pytest.mark.parametrize("offset", [1, 2, 5])
def test_a_converted_view_is_what_torch_loads(tmp_path: Path, offset: int) -> None:
    view = view_of(torch.quint4x2, offset, 6)
    torch.save({"q": view, "again": view}, tmp_path / "v.pt")
    assert main(["convert", str(tmp_path / "v.pt"), str(tmp_path / "w.pt")]) == 0
    loaded = torch.load(tmp_path / "w.pt", weights_only=True)
    assert stored(loaded["q"]) == stored(loaded["again"]) == stored(view)
    assert len(read_checkpoint(str(tmp_path / "w.pt")).entries) == 2


def test_a_view_that_torch_reads_beyond_its_end_is_no_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch saves rows of a matrix whose bytes end before theirs: what it reads then is in no file."""
    whole = torch.quantize_per_tensor(torch.arange(18.0).reshape(3, 6) % 16, 1.0, 0, torch.quint4x2)
    torch.save({"q": whole[2:]}, tmp_path / "v.pt")
    assert main(["inspect", str(tmp_path / "v.pt")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "v.pt"), "--digest"]) == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1 and "a tensor leaves its storage" in said
