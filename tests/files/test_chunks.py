"""A tensor in chunks, cut in every way, against the whole that it was cut from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.files.strides import narrow, segments
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import Chunk, ChunkedTensor, Strided, TensorInfo
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint, UnsupportedFeature
from tests.support.owned import as_bytes
from tests.support.raw_storages import RawStorages

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
DTYPES = [torch.uint8, torch.int16, torch.float32, torch.complex64, torch.complex128]


@st.composite
def wholes(draw: Any) -> tuple[torch.Tensor, list[list[int]], list[str]]:
    """A tensor whose bytes all tell where they are, where each dimension is cut, and how chunks lie."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    numel = torch.Size(shape).numel()
    raw = (torch.arange(numel * dtype.itemsize) * 37 + 11).to(torch.uint8)
    cuts = [sorted(draw(st.sets(st.integers(1, size - 1), max_size=2))) if size > 1 else [] for size in shape]
    if draw(st.booleans()):  # whole rows
        cuts = [cuts[0], *([] for _ in shape[1:])]
    count = 1
    for places in cuts:
        count *= len(places) + 1
    lays = draw(st.lists(st.sampled_from(["packed", "turned", "offset"]), min_size=count, max_size=count))
    return raw.view(dtype).view(shape), cuts, lays


def chunked(files: RawStorages, whole: torch.Tensor, cuts: list[list[int]], lays: list[str]) -> ChunkedTensor:
    """The last chunk stands first: their order says nothing."""
    made = files.chunked(whole, cuts, lays)
    return made._replace(chunks=made.chunks[::-1])


@settings(max_examples=150)
@given(wholes(), st.sampled_from([1, 7, 16, 50, 1 << 20]))
def test_chunks_read_as_the_whole_that_they_are(
    tmp_path_factory: pytest.TempPathFactory, made: Any, chunk_nbytes: int
) -> None:
    whole, cuts, lays = made
    files = RawStorages(tmp_path_factory.mktemp("chunks"))
    tensor = chunked(files, whole, cuts, lays)
    expected = as_bytes(whole)
    assert (tensor.numel, tensor.nbytes) == (whole.numel(), len(expected))
    width = whole.element_size()
    limit = max(width, chunk_nbytes // width * width)
    with TensorReader(files.files) as reader:
        pieces = [bytes(chunk) for chunk in reader.iter_chunks(tensor, chunk_nbytes=chunk_nbytes)]
        assert b"".join(pieces) == expected
        assert all(len(piece) <= limit and len(piece) % width == 0 for piece in pieces)
        runs = segments(tensor)
        if runs is not None:
            assert {len(piece) for piece in pieces[:-1]} <= {limit}
            stored = b""
            for storage, offset, nbytes in runs:
                buffer = bytearray(nbytes)
                reader.read_into(storage, offset, memoryview(buffer))
                stored += buffer
            assert stored == expected
        rows = all(not places for places in cuts[1:])
        packed = all(chunk.value.is_contiguous for chunk in tensor.chunks)
        assert (runs is not None) is (rows and packed)
        assert bytes(reader.read(tensor)) == expected


def test_rows_of_nothing_are_no_runs(tmp_path: Path) -> None:
    files = RawStorages(tmp_path)
    whole = torch.arange(6.0).view(3, 2)
    tensor = chunked(files, whole, [[1], []], ["packed", "packed"])
    empty = Chunk((0, 0), tensor.chunks[0].value._replace(shape=(0, 2)))
    more = tensor._replace(chunks=(empty, *tensor.chunks))
    runs, plain = segments(more), segments(tensor)
    assert runs == plain != None  # noqa: E711  and there are some
    with TensorReader(files.files) as reader:
        assert bytes(reader.read(more)) == as_bytes(whole)
        assert list(reader.iter_chunks(tensor._replace(shape=(0, 2), chunks=()))) == []


def refused(files: RawStorages, tensor: Strided) -> str:
    with (
        pytest.raises((MalformedCheckpoint, UnsupportedFeature)) as caught,
        TensorReader(files.files) as reader,
    ):
        list(reader.iter_chunks(tensor))
    return str(caught.value)


def test_chunks_that_cannot_be_read_are_refused_before_the_first_byte(tmp_path: Path) -> None:
    files = RawStorages(tmp_path)
    tensor = chunked(files, torch.arange(8.0).view(4, 2), [[2], []], ["packed", "packed"])
    first, second = tensor.chunks
    beyond = second._replace(value=second.value._replace(storage_offset=1))
    bare = second._replace(value=second.value._replace(storage=None))
    for chunks, said in (
        ((first, beyond), "leaves its storage"),
        ((beyond, first), "leaves its storage"),
        ((first, bare), "no bytes"),
    ):
        assert said in refused(files, tensor._replace(chunks=chunks))
    assert "in chunks" in refused(files, tensor._replace(dtype=BY_NAME["float6_e2m3fn"]))


@pytest.mark.parametrize("offset", [-1, 1, 8, 9])
def test_a_read_that_leaves_its_storage_is_refused(tmp_path: Path, offset: int) -> None:
    files = RawStorages(tmp_path)
    storage = files.info(torch.arange(8, dtype=torch.uint8)).storage
    assert storage is not None
    buffer = bytearray(8)
    with TensorReader(files.files) as reader:
        reader.read_into(storage, 0, memoryview(buffer))
        assert bytes(buffer) == bytes(range(8))
        with pytest.raises(MalformedCheckpoint, match="leaves its storage") as caught:
            reader.read_into(storage, offset, memoryview(buffer))
    assert (caught.value.byte_offset, caught.value.name) == (offset, "0")


def test_a_box_of_a_view_begins_where_its_first_element_is() -> None:
    view = TensorInfo(BY_NAME["uint8"], (4, 5), (7, 2), 3, None)
    assert narrow(view, (2, 3), (1, 2)) == TensorInfo(BY_NAME["uint8"], (1, 2), (7, 2), 3 + 14 + 6, None)
