"""Checksums of real archives, and of archives that something happened to."""

from __future__ import annotations

import os
import random
import zipfile
import zlib
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ckpttool.files.checksums import CheckResult, Status, check, iter_checks, summarize
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Checkpoint, FileInfo, Record
from ckpttool.values.errors import MalformedCheckpoint
from sample_models.same_bytes import save_legacy


def save(path: Path) -> dict[str, torch.Tensor]:
    base = torch.arange(600.0).view(20, 30)
    tensors = {"a": base, "a.view": base.t()[2:4], "b": torch.arange(9), "empty": torch.empty(0)}
    torch.save(tensors, path)
    return tensors


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as source:
        members = [(name, source.read(name)) for name in source.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members:
            target.writestr(name, data)


def bad_results(path: Path) -> tuple[CheckResult, ...]:
    report = check(read_checkpoint(str(path)))
    assert report.ok == (not report.bad) and (report.ok or not report.conclusive)
    return report.bad


@pytest.mark.parametrize("deflate", [False, True])
def test_what_torch_wrote_is_verified(tmp_path: Path, deflate: bool) -> None:
    path = tmp_path / "m.pt"
    save(path)
    if deflate:
        compressed(path)
    checkpoint = read_checkpoint(str(path))
    results = list(iter_checks(checkpoint))
    with zipfile.ZipFile(path) as archive:  # the oracle: the names and sums that Python's reader sees
        infos = {info.filename: info for info in archive.infolist()}
    assert {os.path.basename(r.name) for r in results} == {os.path.basename(name) for name in infos}
    assert all(r.status is Status.VERIFIED and r.expected == r.actual and not r.message for r in results)
    assert sorted(r.actual for r in results if r.actual is not None) == sorted(i.CRC for i in infos.values())
    report = summarize(results)
    assert report.ok and report.conclusive and report.not_recorded == 0
    assert report.verified == len(infos)
    assert report.verified_nbytes == sum(info.file_size for info in infos.values())


def test_one_flipped_bit_that_torch_load_does_not_see(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    tensors = save(path)
    checkpoint = read_checkpoint(str(path))
    storage = checkpoint.entries[0].tensor
    assert storage is not None and storage.storage is not None
    flip(path, storage.storage.byte_offset + 100)
    loaded = torch.load(path, weights_only=True)
    assert not torch.equal(loaded["a"], tensors["a"])  # no error, wrong weight
    (bad,) = bad_results(path)
    assert bad.status is Status.MISMATCHED
    assert bad.name.endswith("data/0")
    data = torch.empty(0, dtype=torch.uint8).set_(loaded["a"].untyped_storage()).numpy()
    assert bad.actual == zlib.crc32(data) != bad.expected
    assert [entry.name for entry in bad.entries] == ["a", "a.view"]


def test_every_flipped_bit_of_a_storage_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save(path)
    entry = next(e for e in read_checkpoint(str(path)).entries if e.name == "b")
    assert entry.tensor is not None and entry.tensor.storage is not None
    start = entry.tensor.storage.byte_offset
    for offset in range(start, start + entry.tensor.storage.nbytes, 7):
        flip(path, offset)
        assert [r.status for r in bad_results(path)] == [Status.MISMATCHED]
        flip(path, offset)
    assert not bad_results(path)


def test_damage_inside_a_compressed_member(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save(path)
    compressed(path)
    entry = read_checkpoint(str(path)).entries[0]
    assert entry.tensor is not None and entry.tensor.storage is not None
    start, nbytes = entry.tensor.storage.byte_offset, entry.tensor.storage.compressed_nbytes
    assert nbytes is not None
    seen = set()
    for offset in range(start, start + nbytes, 11):
        flip(path, offset)
        (bad,) = bad_results(path)
        assert bad.name.endswith("data/0") and not bad.ok and bad.entries
        seen.add(bad.status)
        flip(path, offset)
    assert seen == {Status.MISMATCHED, Status.DAMAGED}


def test_checksums_that_torch_was_told_not_to_store(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.serialization.set_crc32_options(False)
    try:
        save(path)
    finally:
        torch.serialization.set_crc32_options(True)
    report = check(read_checkpoint(str(path)))
    assert report.ok and not report.conclusive
    assert report.not_recorded >= 4
    assert report.verified_nbytes == 0


@pytest.mark.parametrize("container", ["safetensors", "legacy"])
def test_formats_without_checksums_say_so(tmp_path: Path, container: str) -> None:
    path = tmp_path / "m"
    if container == "safetensors":
        safetensors.torch.save_file({"a": torch.ones(3)}, path)
    else:
        save_legacy({"a": torch.ones(3)}, path)
    checkpoint = read_checkpoint(str(path))
    (result,) = iter_checks(checkpoint)
    assert result.status is Status.NO_CHECKSUM and result.ok
    assert result.message == "no checksum in this format: sizes add up"
    report = check(checkpoint)
    assert report.ok and not report.conclusive
    assert report.files_without_checksums == (str(path),)


def hand_made(path: Path, *records: Record) -> Checkpoint:
    status = path.stat()
    file = FileInfo.of(str(path), status)
    return Checkpoint(str(path), "x", "", (file,), (), records=records)


def test_records_that_do_not_lie_where_they_may(tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = random.randbytes(100)
    path.write_bytes(data)

    def record(name: str, start: int, end: int) -> Record:
        return Record(name, str(path), start, end - start, None, zlib.crc32(data[max(0, start) : end]))

    def statuses(*records: Record) -> dict[str, str]:
        results = iter_checks(hand_made(path, *records))
        return {r.name: r.message for r in results if r.status is not Status.VERIFIED}

    assert statuses(record("a", 0, 10), record("b", 10, 100), record("empty", 10, 10)) == {}
    assert statuses(record("outer", 10, 90), record("first", 12, 30), record("second", 30, 90)) == {}
    assert statuses(record("a", 50, 101)) == {"a": "it does not lie inside the file"}
    assert statuses(record("a", -1, 5)) == {"a": "it does not lie inside the file"}
    assert statuses(record("b", 9, 20), record("a", 0, 10)) == {"b": "it overlaps another member"}
    assert statuses(record("o", 0, 50), record("i", 10, 20), record("x", 40, 60)) == {
        "x": "it overlaps another member"
    }


def test_compressed_records_of_another_size_without_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x"
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    stream = compressor.compress(bytes(5000)) + compressor.flush()
    path.write_bytes(stream)
    for nbytes, status in [
        (5000, Status.NOT_RECORDED),
        (4999, Status.DAMAGED),
        (5001, Status.DAMAGED),
        (1 << 50, Status.DAMAGED),
    ]:
        record = Record("r", str(path), 0, nbytes, len(stream), None)
        assert [r.status for r in iter_checks(hand_made(path, record))] == [status]


def test_a_file_that_changed_is_an_error_and_no_result(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save(path)
    checkpoint = read_checkpoint(str(path))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(MalformedCheckpoint, match="changed"):
        check(checkpoint)


@pytest.mark.real
def test_published_files_are_whole(real_dir: Path) -> None:
    verified = 0
    for path in sorted(p for p in real_dir.rglob("*") if p.is_file() and zipfile.is_zipfile(p)):
        if path.suffix not in (".pt", ".pth", ".ckpt", ".weights", ".tar"):
            continue
        report = check(read_checkpoint(str(path)))
        assert report.ok, (path, report.bad)
        verified += report.verified
    assert verified > 1000
