"""A DEFLATE stream piece by piece, against zlib's own answer to the whole of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.files import inflate
from ckpttool.files.inflate import Inflater
from ckpttool.values.checkpoint import StorageRef
from ckpttool.values.errors import MalformedCheckpoint

BEFORE, BEHIND = b"before it", b"\x03\x00 behind it" * 100
LEVELS = st.sampled_from([0, 1, 9])
PIECES = st.sampled_from([1, 2, 3, 7, 64, 1000])
# Runs that DEFLATE shortens, and bytes that it does not.
CONTENTS = st.lists(st.one_of(st.binary(max_size=9), st.builds(bytes, st.integers(0, 300))), max_size=5).map(
    b"".join
)


def deflated(data: bytes, level: int = 6, end: int = zlib.Z_FINISH) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush(end)


class File:
    """A stream in a file, inflated in pieces of ``piece`` bytes; ``calls`` are what is read of it."""

    def __init__(self, stream: bytes, nbytes: int, piece: int, claimed: int | None = None) -> None:
        self.content = BEFORE + stream + BEHIND
        self.calls: list[tuple[int, int]] = []
        packed = len(stream) if claimed is None else claimed
        storage = StorageRef("f", "data/0", len(BEFORE), nbytes, compressed_nbytes=packed)
        self.inflater = Inflater(storage, self.read_into)
        self.piece, self.packed = piece, packed

    def read_into(self, path: str, offset: int, target: memoryview) -> None:
        assert path == "f"
        self.calls.append((offset, len(target)))
        target[:] = self.content[offset : offset + len(target)]

    def run(self, work: Callable[[Inflater], Any]) -> Any:
        """``work``, with the small pieces."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inflate, "_PIECE_NBYTES", self.piece)
            return work(self.inflater)

    def pieces(self, nbytes: int) -> list[tuple[int, int]]:
        """The reads that bring in the first ``nbytes`` of the stream, one behind the other."""
        ranges = range(0, nbytes, self.piece)
        return [(len(BEFORE) + at, min(self.piece, self.packed - at)) for at in ranges]


def take(inflater: Inflater, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    inflater.read_into(memoryview(buffer))
    return bytes(buffer)


@settings(max_examples=200)
@given(CONTENTS, LEVELS, PIECES, st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=6))
def test_reads_and_skips_give_what_stands_there_and_read_each_byte_once(
    data: bytes, level: int, piece: int, steps: list[tuple[bool, int]]
) -> None:
    stream = deflated(data, level)
    file = File(stream, len(data), piece)

    def work(inflater: Inflater) -> None:
        at = 0
        for is_skip, count in [*steps, (False, len(data))]:
            nbytes = min(count, len(data) - at)
            if is_skip:
                inflater.skip_to(at + nbytes)
                inflater.skip_to(at)  # is behind it: nothing to do
            else:
                assert take(inflater, nbytes) == data[at : at + nbytes]
            at += nbytes
            assert inflater.position == at
        inflater.check_end()

    file.run(work)
    calls = [call for call in file.calls if call[1]]
    assert calls == file.pieces(len(stream))


def refused(file: File, work: Callable[[Inflater], Any]) -> str:
    with pytest.raises(MalformedCheckpoint) as caught:
        file.run(work)
    return str(caught.value)


@settings(max_examples=150)
@given(CONTENTS.filter(len), LEVELS, PIECES, st.data())
def test_a_stream_that_is_cut_ends_too_early_where_zlib_says(
    data: bytes, level: int, piece: int, draw: st.DataObject
) -> None:
    stream = deflated(data, level)
    cut = draw.draw(st.integers(0, len(stream) - 1))
    got = zlib.decompressobj(-15).decompress(stream[:cut])
    file = File(stream, len(data), piece, claimed=cut)
    some = "byte" if len(data) == 1 else "bytes"
    if len(got) < len(data):
        said = refused(file, lambda inflater: take(inflater, len(data)))
        assert said == (
            f"f: the compressed data ends too early: 'data/0', "
            f"expected {len(data):,} {some}, got {len(got):,} before that"
        )
        return
    assert file.run(lambda inflater: take(inflater, len(data))) == data
    said = refused(file, Inflater.check_end)
    assert said == (
        "f: the compressed data does not end where it should: 'data/0', "
        f"expected {len(data):,} {some}, got {len(data):,} before that"
    )


@pytest.mark.parametrize("piece", [1, 4, 1000])
def test_a_stream_ends_where_it_is_said_to(piece: int) -> None:
    data = bytes(range(50))
    stream = deflated(data)

    def work(inflater: Inflater) -> None:
        assert take(inflater, len(data)) == data
        inflater.check_end()

    File(stream, 50, piece).run(work)
    for more in (1, 2, piece, len(BEHIND)):
        assert "does not end" in refused(File(stream, 50, piece, claimed=len(stream) + more), work)
    # All the bytes, and no word that these were the last.
    assert "does not end" in refused(File(deflated(data, end=zlib.Z_SYNC_FLUSH), 50, piece), work)
    for longer in (b"x", bytes(900)):
        assert "does not end" in refused(File(deflated(data + longer), 50, piece), work)


def test_nothing_is_read_behind_the_end_of_a_stream() -> None:
    stream = deflated(b"short", 0)
    file = File(stream, 9, 4, claimed=len(stream) + len(BEHIND))
    assert "ends too early" in refused(file, lambda inflater: take(inflater, 9))
    assert file.calls == file.pieces(len(stream))


@settings(max_examples=200)
@given(CONTENTS.filter(len), LEVELS, PIECES, st.data())
def test_of_a_damaged_stream_nothing_passes_that_zlib_refuses(
    data: bytes, level: int, piece: int, draw: st.DataObject
) -> None:
    stream = bytearray(deflated(data, level))
    at = draw.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= draw.draw(st.integers(1, 255))
    oracle, error = zlib.decompressobj(-15), None
    try:
        whole = oracle.decompress(bytes(stream))
    except zlib.error as failure:
        whole, error = b"", failure
    is_right = oracle.eof and not oracle.unused_data and len(whole) == len(data) and error is None
    file = File(bytes(stream), len(data), piece)

    def work(inflater: Inflater) -> bytes:
        found = take(inflater, len(data))
        inflater.check_end()
        return found

    if is_right:
        assert file.run(work) == whole
        return
    said = refused(file, work)
    if f"damaged ({error})" not in said:  # all that was asked for stood before the damage, or it ends there
        assert "ends too early" in said or "does not end" in said


def test_what_is_skipped_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb of 4 MiB is inflated in pieces, whatever is asked for."""
    file = File(deflated(bytes(4 << 20), 9), 4 << 20, 1 << 10)
    sizes: list[int] = []
    real = file.inflater._inflate_some

    def inflate_some(limit: int) -> bytes:
        sizes.append(limit)
        return real(limit)

    monkeypatch.setattr(file.inflater, "_inflate_some", inflate_some)
    file.run(lambda inflater: inflater.skip_to((4 << 20) - 5))
    assert max(sizes) <= 1 << 10
    assert file.run(lambda inflater: take(inflater, 5)) == bytes(5)
