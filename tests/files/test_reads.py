"""What a reader asks of the files: how much at a time, in which order, with how much memory, and of whom."""

from __future__ import annotations

import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ckpttool.files import local, strides, tensor_bytes
from ckpttool.files.local import FileSource, Sources
from ckpttool.files.tensor_bytes import GATHER_BLOCKS, TensorReader
from ckpttool.values.checkpoint import ChunkedTensor, Record, StorageRef, Strided, TensorInfo, packed_stride
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, UnsupportedFeature
from tests.support.descriptors import watch
from tests.support.raw_storages import RawStorages
from tests.support.stored_bytes import file_info

DATA = bytes((at * 37 + at // 256) % 251 for at in range(4096))
BEFORE = 13


class Seen(NamedTuple):
    """Reads of the file (offset in the storage, bytes), sizes of buffers, and the chunks."""

    reads: list[tuple[int, int]]
    buffers: list[int]
    chunks: list[bytes]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(bytes(BEFORE) + DATA)
    return tmp_path / "a"


def view(
    file: Path, dtype: str, shape: tuple[int, ...], stride: tuple[int, ...] | None = None, at: int = 0
) -> TensorInfo:
    storage = StorageRef(str(file), "data/0", BEFORE, len(DATA))
    return TensorInfo(BY_NAME[dtype], shape, packed_stride(shape) if stride is None else stride, at, storage)


@contextmanager
def seen_by(reader: TensorReader) -> Iterator[Seen]:
    seen = Seen([], [], [])
    real = TensorReader._pread_into

    def pread_into(self: TensorReader, path: str, offset: int, target: memoryview) -> None:
        seen.reads.append((offset - BEFORE, len(target)))
        real(self, path, offset, target)

    def made(size: int) -> bytearray:
        seen.buffers.append(size)
        return bytearray(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorReader, "_pread_into", pread_into)
        patch.setattr(tensor_bytes, "bytearray", made, raising=False)
        yield seen


def chunks_of(file: Path, info: Strided, chunk_nbytes: int) -> Seen:
    with TensorReader([file_info(file)]) as reader, seen_by(reader) as seen:
        for chunk in reader.iter_chunks(info, chunk_nbytes=chunk_nbytes):
            seen.chunks.append(bytes(chunk))
    return seen


# -- how much at a time ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_nbytes", [0, 1, 3, 7, 8, 16, 17, 100])
@pytest.mark.parametrize(
    ("dtype", "group"),
    [("uint8", 1), ("bfloat16", 2), ("float64", 8), ("complex128", 16), ("float6_e2m3fn", 3)],
)
def test_what_is_packed_is_read_once_in_chunks_of_whole_elements(
    file: Path, dtype: str, group: int, chunk_nbytes: int
) -> None:
    numel = 12
    info = view(file, dtype, (3, 4), at=4)
    start, nbytes = info.storage_offset * info.dtype.bits // 8, numel * info.dtype.bits // 8
    each = max(group, chunk_nbytes // group * group)
    ranges = [(at, min(each, start + nbytes - at)) for at in range(start, start + nbytes, each)]
    seen = chunks_of(file, info, chunk_nbytes)
    assert seen == Seen(ranges, [min(each, nbytes)], [DATA[at : at + size] for at, size in ranges])


def test_nothing_is_read_of_a_tensor_without_elements(file: Path) -> None:
    for shape in ((0,), (3, 0), (0, 10**12)):
        assert chunks_of(file, view(file, "float32", shape), 16) == Seen([], [], [])
    assert chunks_of(file, view(file, "float32", (1, 2)), 16).chunks == [DATA[:8]]


@pytest.mark.parametrize(("item", "dtype"), [(1, "uint8"), (2, "int16"), (4, "float32"), (8, "float64")])
@pytest.mark.parametrize("gap_items", [3, 4])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_turned_matrix_is_read_in_runs_as_wide_as_a_block_is_high(
    file: Path, monkeypatch: pytest.MonkeyPatch, item: int, dtype: str, gap_items: int, compressed: bool
) -> None:
    """Of rows of 6, a block has 2 columns: 4 items lie between."""
    monkeypatch.setattr(tensor_bytes, "GAP_NBYTES", gap_items * item)
    chunk, block = 4 * item, 4 * GATHER_BLOCKS
    assert block == 16
    info = view(file, dtype, (6, 8), (1, 6), at=1)
    if compressed:
        packed = zlib.compress(DATA, wbits=-15)
        file.write_bytes(bytes(BEFORE) + packed)
        assert info.storage is not None
        info = info._replace(storage=info.storage._replace(compressed_nbytes=len(packed)))
    asked: list[tuple[int, int]] = []
    real = TensorReader.read_into

    def read_into(self: TensorReader, storage: StorageRef, offset: int, target: memoryview) -> None:
        asked.append((offset, len(target)))
        real(self, storage, offset, target)

    monkeypatch.setattr(TensorReader, "read_into", read_into)
    seen = chunks_of(file, info, chunk + item - 1)
    wanted = []
    for column in (0, 2, 4):
        if gap_items == 4 or compressed:  # across the gap, as many rows as a block is large
            wanted += [(1 + column + 6 * row, 2 + 6 * (rows - 1)) for row, rows in ((0, 3), (3, 3), (6, 2))]
        else:
            wanted += [(1 + column + 6 * row, 2) for row in range(8)]
    assert asked == [(at * item, size * item) for at, size in wanted]
    if not compressed:
        assert seen.reads == asked
    span = 1 + 5 + 6 * 7
    assert seen.buffers[:2] == [min(48, block) * item, min(span, block) * item]
    elements = [DATA[(1 + i + 6 * j) * item :][:item] for i in range(6) for j in range(8)]
    assert seen.chunks == [b"".join(elements[at : at + 4]) for at in range(0, 48, 4)]


def test_of_a_small_view_no_more_is_held_than_it_has(file: Path) -> None:
    seen = chunks_of(file, view(file, "int16", (3, 2), (1, 10)), 1 << 20)
    assert (seen.buffers, seen.reads, len(seen.chunks)) == ([12, 26], [(0, 26)], 1)
    seen = chunks_of(file, view(file, "complex128", (2, 2), (1, 2)), 1 << 20)
    assert (seen.buffers, seen.reads, len(seen.chunks)) == ([64, 64], [(0, 64)], 1)
    assert seen.chunks == [b"".join(DATA[at * 16 : at * 16 + 16] for at in (0, 2, 1, 3))]
    seen = chunks_of(file, view(file, "int16", (1000, 2), (0, 1)), 1 << 20)
    assert (seen.buffers, seen.reads) == ([4000, 4], [(0, 4)])


def test_an_element_that_is_larger_than_a_chunk_is_a_chunk(file: Path) -> None:
    seen = chunks_of(file, view(file, "complex128", (2, 3), (1, 2)), 5)
    assert seen.chunks == [DATA[at * 16 : at * 16 + 16] for at in (0, 2, 4, 1, 3, 5)]
    assert seen.buffers == [16 * GATHER_BLOCKS, 16 * GATHER_BLOCKS]


def test_numbers_for_gaps_and_blocks_are_what_they_were_measured_to_be(file: Path) -> None:
    """By them: of rows 8 KiB apart and farther, the gaps are left out."""
    pitch, rows = 8193, 3
    file.write_bytes(bytes(BEFORE) + bytes(pitch * rows))
    storage = StorageRef(str(file), "data/0", BEFORE, pitch * rows)
    for step, reads in ((pitch, 1), (pitch + 1, 2)):  # a gap of 8192 and one more
        info = TensorInfo(BY_NAME["uint8"], (2, 1), (step, 1), 0, storage)
        assert len(chunks_of(file, info, 1 << 20).reads) == reads
    assert (strides.GAP_NBYTES, GATHER_BLOCKS, tensor_bytes.CHUNK_NBYTES) == (8192, 4, 8 << 20)


# -- tensors in chunks ----------------------------------------------------------------------------------


def test_chunks_of_whole_rows_are_read_run_by_run(tmp_path: Path) -> None:
    files = RawStorages(tmp_path)
    whole = torch.arange(20, dtype=torch.int32).view(10, 2)
    tensor = files.chunked(whole, [[1, 7], []])
    expected = bytes(whole.numpy())
    for chunk_nbytes, each in ((1, 4), (20, 20), (23, 20), (1000, 80)):
        seen = seen_of(files, tensor, chunk_nbytes)
        assert seen.chunks == [expected[at : at + each] for at in range(0, 80, each)]
        assert seen.buffers == [each]
        edges = sorted({0, 8, 56, 80, *range(0, 80, each)})
        assert [size for _, size in seen.reads] == [b - a for a, b in itertools.pairwise(edges)]


def seen_of(files: RawStorages, tensor: ChunkedTensor, chunk_nbytes: int) -> Seen:
    with TensorReader(files.files) as reader, seen_by(reader) as seen:
        for chunk in reader.iter_chunks(tensor, chunk_nbytes=chunk_nbytes):
            seen.chunks.append(bytes(chunk))
    return seen


def test_of_other_chunks_each_byte_is_read_once_for_a_box(tmp_path: Path) -> None:
    files = RawStorages(tmp_path)
    whole = torch.arange(48, dtype=torch.int16).view(8, 6)
    tensor = files.chunked(whole, [[3], [2]])
    expected = bytes(whole.numpy())
    seen = seen_of(files, tensor, 1 << 20)  # one box of all
    assert seen.chunks == [expected] and seen.buffers[0] == 96
    assert [size for _, size in seen.reads] == [3 * 2 * 2, 3 * 4 * 2, 5 * 2 * 2, 5 * 4 * 2]
    seen = seen_of(files, tensor, 7)  # 3 elements in a chunk, 12 in a box: two rows of 6
    assert seen.chunks == [expected[at : at + 6] for at in range(0, 96, 6)] and seen.buffers[0] == 24
    # Rows 0 and 1, 2 with 3, 4 and 5, 6 and 7; of each first the two columns on the left.
    sizes = [8, 16, 4, 8, 4, 8, 8, 16, 8, 16]
    assert [size for _, size in seen.reads] == sizes and sum(sizes) == 96


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.complex64, torch.complex128])
def test_chunks_whose_bytes_are_turned_are_put_together_as_they_are_meant(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """Of no dimension, of one, and of rows: big-endian, which no run of bytes can be."""
    for shape, cuts in (((), []), ((5,), [[2]]), ((4, 3), [[1], []])):
        files = RawStorages(tmp_path)
        raw = (torch.arange(math.prod(shape) * dtype.itemsize) * 37 + 11).to(torch.uint8)
        whole = raw.view(dtype).view(shape)
        tensor = files.chunked(whole, cuts)
        assert strides.segments(tensor) is not None
        turned = tensor._replace(
            chunks=tuple(
                chunk._replace(
                    value=chunk.value._replace(storage=chunk.value.storage._replace(big_endian=True))
                )
                for chunk in tensor.chunks
                if chunk.value.storage is not None
            )
        )
        half = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
        data = bytes(raw.tolist())
        wanted = b"".join(data[at : at + half][::-1] for at in range(0, len(data), half))
        for chunk_nbytes in (1, 20, 1000):
            assert b"".join(seen_of(files, turned, chunk_nbytes).chunks) == wanted
            assert b"".join(seen_of(files, tensor, chunk_nbytes).chunks) == data


def test_a_real_number_is_its_own_conjugate(file: Path) -> None:
    for conj, neg in ((True, False), (True, True), (False, True)):
        info = view(file, "float32", (3,))._replace(conj=conj, neg=neg)
        (chunk,) = chunks_of(file, info, 100).chunks
        assert list(chunk) == [byte ^ 0x80 * (neg and at % 4 == 3) for at, byte in enumerate(DATA[:12])]


# -- all at once, and raw bytes -------------------------------------------------------------------------


def test_all_at_once_is_all_chunks(file: Path) -> None:
    info = view(file, "int16", (5, 3), (3, 1), at=2)
    for made in (info, info._replace(stride=(1, 5))):
        with TensorReader([file_info(file)]) as reader:
            whole = b"".join(bytes(chunk) for chunk in reader.iter_chunks(made))
            for chunk_nbytes in (1, 4, 10, 1 << 20):
                found = reader.read(made, chunk_nbytes=chunk_nbytes)
                assert type(found) is bytearray and found == whole and len(found) == 30
            assert reader.read(made) == whole
            assert reader.read(made._replace(shape=(0, 3))) == bytearray()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("chunk_nbytes", [1, 16, 40, 100])
def test_a_record_comes_in_chunks(file: Path, compressed: bool, chunk_nbytes: int) -> None:
    data = DATA[:40]
    packed = zlib.compress(data, wbits=-15)
    if compressed:
        file.write_bytes(bytes(BEFORE) + packed)
    record = Record("data/0", str(file), BEFORE, 40, len(packed) if compressed else None, None)
    with TensorReader([file_info(file)]) as reader:
        found = [bytes(chunk) for chunk in reader.iter_record_chunks(record, chunk_nbytes=chunk_nbytes)]
    assert found == [data[at : at + chunk_nbytes] for at in range(0, 40, chunk_nbytes)]


def test_a_stream_goes_on_where_it_stands_and_begins_anew_to_go_back(file: Path) -> None:
    packed = zlib.compress(DATA, 0, wbits=-15)
    file.write_bytes(bytes(BEFORE) + packed * 2)
    storage = StorageRef(str(file), "k", BEFORE, len(DATA), compressed_nbytes=len(packed))
    other = storage._replace(byte_offset=BEFORE + len(packed))

    def read(reader: TensorReader, offset: int, storage: StorageRef = storage) -> int:
        """How many bytes of the stream it takes; all of it is one piece."""
        buffer = bytearray(5)
        with seen_by(reader) as seen:
            reader.read_into(storage, offset, memoryview(buffer))
        assert buffer == DATA[offset : offset + 5]
        return len(seen.reads)

    with TensorReader([file_info(file)]) as reader:
        assert [read(reader, offset) for offset in (7, 12, 12, 100, 4091)] == [1, 0, 1, 0, 0]
        assert [read(reader, 10, which) for which in (other, other, storage)] == [1, 1, 1]
        reader.close()
        assert read(reader, 20) == 1  # nothing is kept


# -- what is refused ------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_refused_in_these_words(file: Path) -> None:
    storage = view(file, "uint8", (1,)).storage
    assert storage is not None
    whole = view(file, "uint8", (64, 64))
    leaves, path = "a tensor leaves its storage: 'data/0', expected at most 4,096 bytes, got bytes", str(file)
    cases: list[tuple[TensorInfo, str]] = [
        (whole._replace(storage_offset=1), f"{path}: {leaves} 1 to 4097"),
        (whole._replace(storage_offset=-1), f"{path}: {leaves} -1 to 4095"),
        (whole._replace(stride=(64, -1), storage_offset=63), f"{path}: {leaves} 63 to 4033"),
        (whole._replace(dtype=BY_NAME["int16"]), f"{path}: {leaves} 0 to 8192"),
        (whole._replace(storage=None), "a tensor on the meta device has no bytes"),
        (
            whole._replace(storage=storage._replace(location="meta")),
            "a tensor on the meta device has no bytes",
        ),
        (whole._replace(neg=True), f"{path}: the negative bit on a tensor of uint8"),
        (
            view(file, "quint4x2", (8,), at=1),
            f"{path}: quint4x2 elements that are not packed from a whole byte on",
        ),
        (
            view(file, "quint4x2", (8,), (2,)),
            f"{path}: quint4x2 elements that are not packed from a whole byte on",
        ),
    ]
    with TensorReader([file_info(file)]) as reader:
        assert reader.read(whole) == DATA
        assert reader.read(view(file, "quint4x2", (8192,))) == DATA
        for wrong, said in cases:
            with pytest.raises((MalformedCheckpoint, UnsupportedFeature)) as caught:
                list(reader.iter_chunks(wrong))
            assert said in str(caught.value)
        one = storage._replace(nbytes=1)
        with pytest.raises(MalformedCheckpoint, match="expected at most 1 byte, got bytes 0 to 2"):
            list(reader.iter_chunks(view(file, "int16", (1,))._replace(storage=one)))


RANGES = [
    (0, 4096, True),
    (4096, 0, True),
    (4095, 1, True),
    (-1, 1, False),
    (4095, 2, False),
    (4097, 0, False),
]


@pytest.mark.parametrize(("offset", "nbytes", "inside"), RANGES)
def test_raw_bytes_are_those_of_the_storage_alone(file: Path, offset: int, nbytes: int, inside: bool) -> None:
    storage = view(file, "uint8", (1,)).storage
    assert storage is not None
    buffer = bytearray(nbytes)
    with TensorReader([file_info(file)]) as reader:
        if inside:
            reader.read_into(storage, offset, memoryview(buffer))
            assert buffer == DATA[offset : offset + nbytes]
            return
        with pytest.raises(MalformedCheckpoint) as caught:
            reader.read_into(storage, offset, memoryview(buffer))
    assert str(caught.value) == f"{file}: a read leaves its storage: 'data/0' at byte {offset}"


# -- whose files they are -------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def test_a_reader_closes_what_it_opened_and_leaves_what_others_hold(tmp_path: Path) -> None:
    files = RawStorages(tmp_path)
    views = [files.info(torch.full((3,), number, dtype=torch.uint8)) for number in range(3)]
    before = descriptors()
    with TensorReader(files.files) as reader:
        for info in (*views, *views[::-1]):
            assert reader.read(info) == bytes([views.index(info)] * 3)
        assert descriptors() == before + 3
    assert descriptors() == before
    with closing(Sources(files.files)) as sources:
        with TensorReader(sources) as reader:
            for info in views:
                reader.read(info)
                users = {os.path.basename(path): count for path, count in sources._users.items()}
                assert users == {
                    f"{at}.bin": int(at == views.index(info)) for at in range(views.index(info) + 1)
                }
        assert set(sources._users.values()) == {0} and descriptors() == before + 3
        reader.close()  # again
        assert set(sources._users.values()) == {0}
    assert descriptors() == before


def test_a_file_is_taken_once_for_all_reads_up_to_the_next_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RawStorages(tmp_path)
    views = [files.info(torch.arange(9, dtype=torch.uint8)) for _ in range(2)]
    taken: list[str] = []
    real = Sources.take

    def take(self: Sources, path: str) -> FileSource:
        taken.append(os.path.basename(path))
        return real(self, path)

    monkeypatch.setattr(Sources, "take", take)
    with TensorReader(files.files) as reader:
        for info in (views[0], views[0], views[1], views[0]):
            assert reader.read(info, chunk_nbytes=2) == bytes(range(9))
    assert taken == ["0.bin", "1.bin", "0.bin"]


def test_each_file_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = RawStorages(tmp_path)
    views = [files.info(torch.ones(3)) for _ in range(2)]
    seen = watch(monkeypatch, local)
    with TensorReader(files.files) as reader:
        for info in views * 2:
            reader.read(info)
        assert len(seen.arguments("posix_fadvise")) == 2
        reader.close()
        reader.read(views[0])
        assert len(seen.arguments("posix_fadvise")) == 3


ENDS: dict[str, Callable[[], Exception | None]] = {
    "well": lambda: None,
    "refused": lambda: CkptToolError("odd"),
    "malformed": lambda: MalformedCheckpoint("odd"),
    "otherwise": lambda: KeyError("odd"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_read", [True, False])
def test_that_a_file_changed_explains_how_it_ends(file: Path, end: str, is_read: bool) -> None:
    known, error, before = file_info(file), ENDS[end](), descriptors()
    caught: Any = None
    try:
        with TensorReader([known]) as reader:
            if is_read:
                reader.read(view(file, "uint8", (4,)))
            os.utime(file, ns=(1, 1))
            if error is not None:
                raise error
    except (CkptToolError, KeyError) as raised:
        caught = raised
    assert descriptors() == before
    if is_read and end != "otherwise":
        assert str(caught) == f"{file}: the file was written to while it was read"
    else:
        assert caught is error
