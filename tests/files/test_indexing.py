"""Basic indexing of what a file holds: numpy is the oracle, and the bytes that are read are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.files.indexing import parse_index, select
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Chunk, ChunkedTensor, FileInfo, StorageRef, TensorInfo, packed_stride
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import BadIndex

INT16 = BY_NAME["int16"]


def elements(reader: TensorReader, value: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytes(reader.read(value)), "<i2").reshape(value.shape)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "numbers"
    path.write_bytes(np.arange(4096, dtype="<i2").tobytes())
    return path


def indices(rank: int) -> st.SearchStrategy[tuple[Any, ...]]:
    bound = st.none() | st.integers(-9, 9)
    one = st.integers(-7, 6) | st.builds(slice, bound, bound, st.none() | st.integers(1, 4))
    tuples = st.lists(one, max_size=rank + 1)
    dots = st.none() | st.integers(0, rank)
    return st.builds(lambda items, at: (*items[:at], *[...] * (at is not None), *items[at or 0 :])
                     if at is not None else tuple(items), tuples, dots)  # fmt: skip


@given(st.data())
def test_any_view_and_any_index_is_numpys(stored: Path, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    steps = [data.draw(st.integers(0, 2)) for _ in shape]
    offset = data.draw(st.integers(0, 9))
    packed = packed_stride(shape)
    # Dimensions in any order, some of them repeated (0) or with gaps (2).
    stride = tuple(packed[at] * step for at, step in zip(order, steps, strict=True))
    shape = tuple(shape[at] for at in order)
    storage = StorageRef(str(stored), "0", 0, 8192)
    info = TensorInfo(INT16, shape, stride, offset, storage)
    whole = np.lib.stride_tricks.as_strided(
        np.arange(4096, dtype="<i2")[offset:], shape, tuple(step * 2 for step in stride)
    )
    index = data.draw(indices(len(shape)))
    with TensorReader(read_files(stored)) as reader:
        try:
            expected = whole[index]
        except IndexError:
            with pytest.raises(BadIndex):
                select(info, index)
            return
        assert np.array_equal(elements(reader, select(info, index)), expected)


def read_files(path: Path) -> list[Any]:
    return [FileInfo.of(str(path), path.stat())]


@given(st.data())
def test_chunks_are_indexed_as_their_whole(stored: Path, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    whole = np.arange(np.prod(shape), dtype="<i2").reshape(shape)
    cuts = [sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    storage, chunks = StorageRef(str(stored), "0", 0, 8192), []
    for at in np.ndindex(*(len(cut) - 1 for cut in cuts)):
        low = tuple(cut[i] for cut, i in zip(cuts, at, strict=True))
        sizes = tuple(cut[i + 1] - cut[i] for cut, i in zip(cuts, at, strict=True))
        first = int(whole[low])  # the numbers stand at their own place in the file
        chunks.append(Chunk(low, TensorInfo(INT16, sizes, packed_stride(shape), first, storage)))
    index = data.draw(indices(len(shape)))
    try:
        expected = whole[index]
    except IndexError:
        return
    with TensorReader(read_files(stored)) as reader:
        found = select(ChunkedTensor(INT16, shape, tuple(chunks)), index)
        assert np.array_equal(elements(reader, found), expected)


NO_BASIC_INDEX = [None, True, [0, 1], "a", 1.0, slice(None, None, 0), slice(None, None, -1), slice("a")]


@pytest.mark.parametrize("index", [*((item,) for item in NO_BASIC_INDEX), (..., ...), (0, 0, 0)])
def test_what_is_no_basic_index_is_one_sentence(index: tuple[object, ...]) -> None:
    with pytest.raises(BadIndex) as failed:
        select(TensorInfo(INT16, (3, 4), (4, 1), 0, None), index)
    assert isinstance(failed.value, IndexError) and "\n" not in str(failed.value)


@given(st.lists(st.integers(-99, 99) | st.just(...) | st.builds(
    slice, st.none() | st.integers(-99, 99), st.none() | st.integers(-99, 99), st.none() | st.integers(1, 9)
), min_size=1))  # fmt: skip
def test_an_index_is_read_as_python_reads_it(items: list[Any]) -> None:
    def spell(item: Any) -> str:
        if item is ...:
            return "..."
        if isinstance(item, int):
            return str(item)
        parts = [item.start, item.stop] + ([item.step] if item.step is not None else [])
        return ":".join("" if part is None else str(part) for part in parts)

    assert parse_index(",".join(map(spell, items))) == tuple(items)
    assert parse_index(f"[{', '.join(map(spell, items))}]") == tuple(items)


@pytest.mark.parametrize(
    "text", ["", " ", ",", "a", "1:2:3:4", "1.5", "1_0", "²", "--1", "1" * 19, "None", "[", "0,,1"]
)
def test_text_that_is_no_index(text: str) -> None:
    with pytest.raises(BadIndex):
        parse_index(text)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    from ckpttool.files import local

    found: list[int] = []
    read = local._pread_some

    def count(fd: int, target: memoryview, offset: int) -> int:
        found.append(len(target))
        return read(fd, target, offset)

    monkeypatch.setattr(local, "_pread_some", count)
    yield found


@pytest.mark.parametrize(
    ("index", "most"),
    [
        ((slice(0, 4), slice(1, 3)), 4 * 8),
        ((7,), 40_000),
        ((slice(0, 100, 10), 5), 40),
        ((..., slice(9000, 9999)), 100 * 4000),
    ],
)
def test_only_the_bytes_of_the_slice_are_read(
    tmp_path: Path, counted: list[int], index: tuple[Any, ...], most: int
) -> None:
    tensor = torch.arange(1_000_000, dtype=torch.float32).reshape(100, 10_000)
    torch.save({"w": tensor}, tmp_path / "w.pt")
    checkpoint = read_checkpoint(str(tmp_path / "w.pt"))
    (entry,) = checkpoint.entries
    assert isinstance(entry.value, TensorInfo)
    counted.clear()
    with TensorReader(checkpoint.files) as reader:
        data = reader.read(select(entry.value, index))
    assert np.array_equal(np.frombuffer(data, "<f4"), tensor[index].flatten().numpy())
    assert sum(counted) <= most
