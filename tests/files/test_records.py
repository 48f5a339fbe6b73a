"""Records of a file come out whole, also where they are compressed, and no longer than they may be."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import Record
from ckpttool.values.errors import MalformedCheckpoint
from tests.support.stored_bytes import PREFIX, SUFFIX, file_info

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("nbytes", [0, 1, 1000, 3_000_000])
def test_records_come_out_whole(tmp_path: Path, compressed: bool, nbytes: int) -> None:
    data = bytes(range(250)) * (nbytes // 250) + bytes(nbytes % 250)
    stored = deflated(data) if compressed else data
    (tmp_path / "x").write_bytes(PREFIX + stored + SUFFIX)
    record = Record("r", str(tmp_path / "x"), 7, nbytes, len(stored) if compressed else None, None)
    with TensorReader([file_info(tmp_path / "x")]) as reader:
        assert b"".join(map(bytes, reader.iter_record_chunks(record, chunk_nbytes=999))) == data


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: r._replace(nbytes=r.nbytes + 1), "ends too early"),
        (lambda r: r._replace(nbytes=r.nbytes - 1), "does not end"),
        (lambda r: r._replace(compressed_nbytes=r.compressed_nbytes - 1), "ends too early|does not end"),
        (lambda r: r._replace(compressed_nbytes=r.compressed_nbytes + 1), "does not end"),
        (lambda r: r._replace(byte_offset=r.byte_offset + 1), "damaged|early|end"),
        (lambda r: r._replace(byte_offset=2), "damaged|early|end"),
    ],
)
def test_records_that_inflate_to_another_size(
    tmp_path: Path, change: Callable[[Record], Record], what: str
) -> None:
    stored = deflated(random.randbytes(3000) + bytes(3000))
    (tmp_path / "x").write_bytes(PREFIX + stored + SUFFIX)
    record = change(Record("r", str(tmp_path / "x"), 7, 6000, len(stored), None))
    with (
        TensorReader([file_info(tmp_path / "x")]) as reader,
        pytest.raises(MalformedCheckpoint, match=what),
    ):
        list(reader.iter_record_chunks(record))


def test_inflating_bombs_stops_at_what_is_asked_for(tmp_path: Path) -> None:
    stored = deflated(bytes(64 << 20))
    (tmp_path / "x").write_bytes(stored)
    record = Record("r", str(tmp_path / "x"), 0, 10, len(stored), None)
    with (
        TensorReader([file_info(tmp_path / "x")]) as reader,
        pytest.raises(MalformedCheckpoint, match="does not end"),
    ):
        list(reader.iter_record_chunks(record))
