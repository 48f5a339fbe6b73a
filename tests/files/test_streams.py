"""The stream that is written and read back, over descriptors that do less than they are asked for."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.files import streams
from ckpttool.files.streams import BLOCK_NBYTES, Checker, Stream, Writer, load_crc32, write_at
from ckpttool.values.errors import MalformedCheckpoint
from tests.support.descriptors import watch

NBYTES = 3 * BLOCK_NBYTES + 12_345
DATA = bytes(range(251)) * (NBYTES // 251 + 1)
DATA = DATA[:NBYTES]
LARGE_FOLIO = (
    1 << 20
)  # writes of so many bytes ask the page cache for folios that may cost more than the copy


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def send(stream: Writer | Checker, pieces: int = 7) -> None:
    """All of ``DATA``, half of it by ``append`` and half into ``room``."""
    step = len(DATA) // pieces
    for start in range(0, len(DATA), step):
        piece = DATA[start : start + step]
        if start // step % 2:
            stream.append(piece)
            continue
        while piece:
            room = stream.room(len(piece))
            room[:] = piece[: len(room)]
            piece = piece[len(room) :]
    stream.flush()


def written(fd: int) -> bytes:
    return os.pread(fd, 2 * NBYTES, 0)


def short_write(fd: int, data: memoryview, offset: int) -> int:
    return os.pwrite(fd, data[: max(1, len(data) // 3)], offset)


def short_read(fd: int, buffers: list[memoryview], offset: int) -> int:
    [buffer] = buffers
    return os.preadv(fd, [buffer[: max(1, len(buffer) // 3)]], offset)


def test_no_write_is_as_large_as_a_large_folio(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch, streams)
    send(Writer(fd))
    write_at(fd, DATA, 0)  # in one piece
    sizes = [len(data) for _, data, _ in seen.arguments("pwrite")]
    assert sum(sizes) == 2 * NBYTES
    assert max(sizes) <= LARGE_FOLIO // 2
    assert written(fd) == DATA


class Taken(Stream):
    """A stream that keeps what it hands over, and where."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[int, bytes]] = []

    def _take(self, data: memoryview, offset: int) -> None:
        self.taken.append((offset, bytes(data)))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["append", "room", "flush"]), st.integers(0, 40)), max_size=8))
def test_a_stream_hands_over_full_buffers_and_what_is_left(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_NBYTES", 16)
        stream = Taken()
    sent, expected, since = b"", [], 0  # since: where what is not yet handed over begins
    for step, size in [*steps, ("flush", 0), ("flush", 0)]:
        piece = DATA[len(sent) : len(sent) + size]
        if step == "append":
            stream.append(piece)
        elif step == "room" and size:  # as much as there is room for
            room = stream.room(size)
            piece = piece[: min(size, 16 - (len(sent) - since) % 16)]
            room[:] = piece  # of this size exactly
        elif step == "flush":
            stream.flush()
        if step != "flush":
            sent += piece
        # A full buffer waits until more comes.
        while len(sent) - since > (0 if step == "flush" else 16):
            expected.append((since, sent[since : since + 16]))
            since += len(expected[-1][1])
        assert stream.taken == expected
    assert b"".join(data for _, data in stream.taken) == sent


def test_a_stream_alone_goes_nowhere() -> None:
    stream = Stream()
    stream.append(b"x")
    with pytest.raises(NotImplementedError):
        stream.flush()


def test_what_is_written_goes_out_in_pieces_of_one_size(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch, streams)
    monkeypatch.setattr(streams, "WRITE_NBYTES", 10)
    write_at(fd, DATA[:35], 7)
    assert [(bytes(data), at) for _, data, at in seen.arguments("pwrite")] == [
        (DATA[at : min(at + 10, 35)], 7 + at) for at in (0, 10, 20, 30)
    ]
    assert os.pread(fd, 100, 0) == bytes(7) + DATA[:35]
    write_at(fd, b"", 3)
    assert len(seen.arguments("pwrite")) == 4


def test_write_back_is_asked_for_when_enough_has_come_and_where_there_is_such_a_call(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = BLOCK_NBYTES
    monkeypatch.setattr(streams, "_WRITE_BACK_NBYTES", 2 * block)
    seen = watch(monkeypatch, streams)
    writer = Writer(fd)
    writer.append(DATA)
    writer.append(DATA)
    writer.flush()
    wanted = [(fd, at * block, 2 * block, os.POSIX_FADV_DONTNEED) for at in (0, 2, 4)]
    assert seen.arguments("posix_fadvise") == wanted
    monkeypatch.delattr(os, "posix_fadvise")  # macOS
    send(Writer(fd))
    assert written(fd) == DATA + DATA[:NBYTES]
    assert len(seen.arguments("posix_fadvise")) == 3


@pytest.mark.parametrize("nbytes", [0, 1, 15, 16, 17, 48, 50])
def test_a_checker_reads_each_byte_once_and_no_more(
    fd: int, monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    os.pwrite(fd, DATA[:100], 0)
    monkeypatch.setattr(streams, "BLOCK_NBYTES", 16)
    hashed: list[bytes] = []
    blocks = [DATA[at : min(at + 16, nbytes)] for at in range(0, nbytes, 16)]
    checker = Checker(fd, "x", lambda data: hashed.append(bytes(data)))
    seen = watch(monkeypatch, streams)
    checker.read_all(nbytes)
    assert hashed == blocks
    assert [at for _, _, at in seen.arguments("preadv")] == [*range(0, nbytes, 16)]
    checker.append(DATA[:nbytes])
    checker.flush()
    assert hashed == blocks * 2


def test_what_a_short_write_leaves_is_written_next(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch, streams, pwrite=short_write)
    send(Writer(fd))
    assert written(fd) == DATA


def test_write_back_begins_once_for_each_byte_and_its_failure_is_no_error(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(streams, "_WRITE_BACK_NBYTES", BLOCK_NBYTES)
    seen = watch(monkeypatch, streams, posix_fadvise=refuse)
    send(Writer(fd))
    ranges = [(start, start + nbytes) for _, start, nbytes, _ in seen.arguments("posix_fadvise")]
    assert ranges == [(at * BLOCK_NBYTES, (at + 1) * BLOCK_NBYTES) for at in range(3)]
    assert written(fd) == DATA


@pytest.mark.parametrize("is_short", [False, True])
def test_equal_bytes_pass_and_each_is_hashed_once(
    fd: int, monkeypatch: pytest.MonkeyPatch, is_short: bool
) -> None:
    os.pwrite(fd, DATA, 0)
    if is_short:
        watch(monkeypatch, streams, preadv=short_read)
    sent, read = hashlib.sha256(), hashlib.sha256()
    send(Checker(fd, "x", sent.update))
    Checker(fd, "x", read.update).read_all(NBYTES)
    assert sent.hexdigest() == read.hexdigest() == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("at", [0, BLOCK_NBYTES - 1, BLOCK_NBYTES, NBYTES - 1])
def test_one_other_byte_is_found_and_placed(
    fd: int, monkeypatch: pytest.MonkeyPatch, at: int, is_short: bool
) -> None:
    os.pwrite(fd, DATA, 0)
    os.pwrite(fd, bytes([DATA[at] ^ 1]), at)
    if is_short:
        watch(monkeypatch, streams, preadv=short_read)
    with pytest.raises(MalformedCheckpoint, match="reads back otherwise") as caught:
        send(Checker(fd, "model.pt", None))
    assert (caught.value.name, caught.value.byte_offset) == ("model.pt", at // BLOCK_NBYTES * BLOCK_NBYTES)


@pytest.mark.parametrize("left", [0, 1, BLOCK_NBYTES, BLOCK_NBYTES + 1, NBYTES - 1])
def test_a_file_that_is_cut_short_meanwhile_is_an_error_and_no_loop(fd: int, left: int) -> None:
    os.pwrite(fd, DATA[:left], 0)
    with pytest.raises(MalformedCheckpoint, match="cut short"):
        send(Checker(fd, "x", None))
    with pytest.raises(MalformedCheckpoint, match="cut short"):
        Checker(fd, "x", None).read_all(NBYTES)


def test_a_file_that_is_cut_between_two_reads_of_a_block_is_an_error(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.pwrite(fd, DATA, 0)

    def cut(fd: int, buffers: list[memoryview], offset: int) -> int:
        got = short_read(fd, buffers, offset)
        os.ftruncate(fd, offset + got)
        return got

    watch(monkeypatch, streams, preadv=cut)
    with pytest.raises(MalformedCheckpoint, match="cut short"):
        Checker(fd, "x", None).read_all(NBYTES)


def test_an_error_of_the_disk_is_passed_on(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    os.pwrite(fd, DATA, 0)
    watch(monkeypatch, streams, pwrite=fail, preadv=fail)
    with pytest.raises(OSError, match="Input/output"):
        send(Writer(fd))
    with pytest.raises(OSError, match="Input/output"):
        send(Checker(fd, "x", None))


def test_every_crc32_is_that_of_zlib() -> None:
    crc32 = load_crc32()
    for size in (0, 1, 15, 16, 4095, NBYTES):
        half = size // 2
        assert crc32(DATA[half:size], crc32(memoryview(DATA)[:half], 0)) == zlib.crc32(DATA[:size])


def test_without_isal_zlib_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    monkeypatch.setitem(__import__("sys").modules, "isal.isal_zlib", None)
    assert load_crc32() is zlib.crc32
