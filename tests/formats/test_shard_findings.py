"""Where an index and its shards do not say the same: what is refused, and what is read and said."""

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ckpttool.formats.base import Look
from ckpttool.values.checkpoint import Checkpoint, Entry, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint
from tests.support.sharded import (
    INDEX,
    LIMITS,
    TENSORS,
    codes,
    read_file,
    read_folder,
    read_index,
    refusal,
    shard_name,
    two_shards,
    write_index,
    write_shards,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return two_shards(tmp_path)


def test_a_missing_shard_is_named(model: Path) -> None:
    (model / shard_name(2, 2)).unlink()
    error = refusal(model)
    assert isinstance(error, MalformedCheckpoint)
    assert error.describe() == "1 of 2 shards missing: model-00002-of-00002.safetensors"
    assert error.hint
    assert refusal(model / INDEX, read_index).describe() == error.describe()


def test_a_link_that_leads_nowhere_is_a_missing_shard(model: Path) -> None:
    (model / shard_name(2, 2)).unlink()
    (model / shard_name(2, 2)).symlink_to("gone.safetensors")
    assert "1 of 2 shards missing" in refusal(model).describe()


def test_a_name_in_no_shard(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, {**weight_map, "lost": shard_name(1, 2)})
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-key-missing", "error", "lost")]
    assert shard_name(1, 2) in checkpoint.findings[0].message


def test_a_name_in_another_shard_than_the_index_says(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, {**weight_map, "a.bias": shard_name(2, 2)})
    assert codes(read_folder(str(model), LIMITS, read_file)) == [("shard-key-elsewhere", "error", "a.bias")]


def test_a_name_that_the_index_lacks_is_read_and_said(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    del weight_map["a.bias"]
    write_index(model, weight_map)
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-key-unlisted", "warning", "a.bias")]
    assert len(checkpoint.entries) == len(TENSORS)


@pytest.mark.parametrize("said", [1, 2])
def test_a_name_in_two_shards_is_taken_from_the_one_in_the_index(said: int, tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path, [["a.weight", "a.bias"], ["a.weight", "c.count"]])
    write_index(tmp_path, {**weight_map, "a.weight": shard_name(said, 2)})
    checkpoint = read_folder(str(tmp_path), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-key-twice", "error", "a.weight")]
    (entry,) = [entry for entry in checkpoint.entries if entry.name == "a.weight"]
    assert entry.tensor is not None
    assert entry.tensor.storage is not None
    assert Path(entry.tensor.storage.file).name == shard_name(said, 2)


@pytest.mark.parametrize(
    ("total", "ok"), [(52, True), (52.0, True), (53, False), ("52", False), (True, False), (-1, False)]
)
def test_the_declared_total_is_compared(total: object, ok: bool, model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, weight_map, {"total_size": total})
    expected = [] if ok else [("shard-total-size", "warning", "")]
    assert codes(read_folder(str(model), LIMITS, read_file)) == expected


def test_tied_tensors_may_count_once_in_the_total(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00001.bin").write_bytes(b"x")
    storage = StorageRef("f", "0", 0, 8)
    info = TensorInfo(BY_NAME["float32"], (2,), (1,), 0, storage)

    def read_tied(look: Look) -> Checkpoint:
        path = look.source.name
        return Checkpoint(path, "torch_zip", "", (), (Entry((), "a", info), Entry((), "b", info)))

    weight_map = dict.fromkeys("ab", "model-00001-of-00001.bin")
    for total, expected in ((8, []), (16, []), (12, ["shard-total-size"])):
        index = write_index(tmp_path, weight_map, {"total_size": total}, "model.bin.index.json")
        assert [f.code for f in read_index(index, LIMITS, read_tied).findings] == expected


def test_a_stray_shard_is_said_and_not_read(model: Path) -> None:
    safetensors.torch.save_file({"old": torch.zeros(1)}, model / shard_name(3, 3))
    safetensors.torch.save_file({"other": torch.zeros(1)}, model / "adapter.safetensors")
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-stray", "warning", ""), ("folder-not-all-read", "info", "")]
    assert shard_name(3, 3) in checkpoint.findings[0].message
    assert "adapter.safetensors" in checkpoint.findings[1].message
    assert len(checkpoint.entries) == len(TENSORS)


def test_many_findings_of_one_code_are_counted(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, weight_map | {f"lost.{i}": shard_name(1, 2) for i in range(500)})
    findings = read_folder(str(model), LIMITS, read_file).findings
    assert len(findings) == 21
    assert "480 more" in findings[-1].message


def test_findings_of_a_shard_say_which(tmp_path: Path) -> None:
    raw = json.dumps({"t": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "more": 1}}).encode()
    (tmp_path / shard_name(1, 1)).write_bytes(struct.pack("<Q", len(raw)) + raw + b"x")
    write_index(tmp_path, {"t": shard_name(1, 1)})
    (_, finding) = read_folder(str(tmp_path), LIMITS, read_file).findings
    assert finding.message.startswith(f"{shard_name(1, 1)}: the header")


def test_a_finding_of_many_shards_is_said_once(tmp_path: Path) -> None:
    for number in range(1, 31):
        safetensors.torch.save_file({f"t{number}": torch.zeros(1)}, tmp_path / shard_name(number, 30))
    (finding, _) = read_folder(str(tmp_path), LIMITS, read_file).findings
    assert finding.code == "safetensors-no-format"
    assert "and 22 more: __metadata__" in finding.message


def test_metadata_that_differs_between_shards_is_said(tmp_path: Path) -> None:
    safetensors.torch.save_file(
        {"a": torch.zeros(1)}, tmp_path / shard_name(1, 2), metadata={"format": "pt", "step": "1"}
    )
    safetensors.torch.save_file(
        {"b": torch.zeros(1)}, tmp_path / shard_name(2, 2), metadata={"format": "pt", "step": "2"}
    )
    write_index(tmp_path, {"a": shard_name(1, 2), "b": shard_name(2, 2)}, {"nested": {"x": [1]}})
    checkpoint = read_folder(str(tmp_path), LIMITS, read_file)
    assert checkpoint.metadata == {"format": "pt", "step": "1", "nested": '{"x": [1]}'}
    assert codes(checkpoint) == [("shard-metadata-differs", "info", "")]
