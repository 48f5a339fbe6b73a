"""Layouts that only old releases of torch write, made by hand.

``make compat`` asks those releases themselves.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import CompositeTensor, PlainList
from ckpttool.values.errors import CkptToolError
from tests.hostile import pickles as op
from tests.hostile.containers import Member, build_zip, legacy, torch_zip

SCALES, ZEROS = [0.5, 0.25, 2.0], [0, 1, 2]
HOOKS = op.call("collections:OrderedDict")


def quantized(scales: object, zeros: object, cls: str = "torch:QUInt8Storage") -> bytes:
    """A per-channel tensor of 3 x 2 as torch 1.4 pickles it: scales and zero points are lists of numbers."""
    quantizer = (op.named("torch:per_channel_affine"), scales, zeros, 0)
    source = op.storage("0", cls, 6, "cpu", None)
    return op.call("torch._utils:_rebuild_qtensor", source, 0, (3, 2), (2, 1), quantizer, False, HOOKS)


def write_quantized(path: Path, scales: object = SCALES, zeros: object = ZEROS) -> Path:
    path.write_bytes(legacy(op.dump({"w": quantized(scales, zeros)}), [(6, bytes(range(6)))]))
    return path


@pytest.mark.filterwarnings("ignore")
def test_scales_of_channels_in_lists_are_read_and_written(tmp_path: Path) -> None:
    source = write_quantized(tmp_path / "old.pt")
    (entry,) = read_checkpoint(str(source)).entries
    assert isinstance(entry.value, CompositeTensor)
    details: dict[str, Any] = dict(entry.value.details)
    assert {name: details[name] for name in ("scale", "zero_point", "axis")} == {
        "scale": PlainList(SCALES),
        "zero_point": PlainList(ZEROS),
        "axis": 0,
    }
    assert main(["convert", str(source), str(tmp_path / "new.pt"), "--quiet"]) == 0
    old, new = (torch.load(path, weights_only=False)["w"] for path in (source, tmp_path / "new.pt"))
    assert new.q_per_channel_scales().tolist() == old.q_per_channel_scales().tolist() == SCALES
    assert torch.equal(new.dequantize(), old.dequantize())


def test_other_scales_are_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_quantized(tmp_path / "a.pt")
    b = write_quantized(tmp_path / "b.pt", [0.5, 0.25, 4.0])
    assert main(["diff", str(a), str(b)]) == 1
    assert main(["diff", str(a), str(a)]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("scales", "zeros"),
    [
        ([0.5], ZEROS),
        (SCALES, [0, 1, "2"]),
        ([0.5, True, 2.0], ZEROS),
        (SCALES, None),
        ("0.5", ZEROS),
        (True, ZEROS),
    ],
)
def test_a_quantizer_without_its_numbers_is_refused(scales: object, zeros: object, tmp_path: Path) -> None:
    with pytest.raises(CkptToolError, match="its quantizer"):
        read_checkpoint(str(write_quantized(tmp_path / "bad.pt", scales, zeros)))


def test_shared_lists_of_scales_are_counted(tmp_path: Path) -> None:
    """A list that stands once in the file and in a thousand tensors would be printed a thousand times."""
    count = 5000
    numbers = op.push([0.5] * count) + op.LONG_BINPUT(1)
    storage = op.storage("0", "torch:QUInt8Storage", count)
    tensors = b""
    for index in range(1000):
        scales = numbers if index == 0 else op.LONG_BINGET(1)
        quantizer = (op.named("torch:per_channel_affine"), scales, op.LONG_BINGET(1), 0)
        call = op.call("torch._utils:_rebuild_qtensor", storage, 0, (count,), (1,), quantizer, False, HOOKS)
        tensors += op.push(str(index)) + call
    path = tmp_path / "shared.pt"
    path.write_bytes(torch_zip(op.PROTO(2) + op.MARK + tensors + op.DICT + op.STOP, {"0": bytes(count)}))
    with pytest.raises(CkptToolError, match="number of scales"):
        read_checkpoint(str(path))


def test_the_experimental_zip_of_torch_1_4(tmp_path: Path) -> None:
    """Storages lie by address under tensors/; no other release of torch reads that."""
    storage = op.storage("93896586521792", "torch:FloatStorage", 4)
    members = [
        Member("exp/version", b"1\n"),
        Member("exp/data.pkl", op.dump({"w": op.tensor(storage)})),
        Member("exp/tensors/93896586521792", struct.pack("<4f", 1, 2, 3, 4)),
    ]
    path = tmp_path / "exp.pt"
    path.write_bytes(build_zip(members))
    checkpoint = read_checkpoint(str(path))
    assert checkpoint.layout == "torch 1.4, experimental"
    assert main(["convert", str(path), str(tmp_path / "new.pt"), "--quiet"]) == 0
    assert torch.load(tmp_path / "new.pt")["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore")
def test_the_compressed_sparse_rows_of_torch_1_12(tmp_path: Path) -> None:
    """Rebuilt by a function that later releases no longer have: torch 2.13 cannot load such a file."""

    def part(key: str, cls: str, numel: int) -> bytes:
        return op.tensor(op.storage(key, f"torch:{cls}Storage", numel), size=(numel,))

    layout = op.call("torch.serialization:_get_layout", "torch.sparse_csr")
    data = (part("0", "Long", 4), part("1", "Long", 3), part("2", "Float", 3), op.call("torch:Size", (3, 3)))
    sparse = op.call("torch._utils:_rebuild_sparse_csr_tensor", layout, data)
    storages = {
        "0": struct.pack("<4q", 0, 1, 2, 3),
        "1": struct.pack("<3q", 0, 1, 2),
        "2": struct.pack("<3f", 1, 2, 3),
    }
    path = tmp_path / "csr.pt"
    path.write_bytes(torch_zip(op.dump({"w": sparse}), storages))
    (entry,) = read_checkpoint(str(path)).entries
    assert isinstance(entry.value, CompositeTensor)
    assert (entry.value.layout, entry.value.shape) == ("sparse_csr", (3, 3))
    assert main(["convert", str(path), str(tmp_path / "new.pt"), "--quiet"]) == 0
    assert torch.equal(torch.load(tmp_path / "new.pt")["w"].to_dense(), torch.diag(torch.tensor([1.0, 2, 3])))
