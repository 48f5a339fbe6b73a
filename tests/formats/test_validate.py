"""The one check of every reader's result, held against a count of single bytes and elements."""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.formats.validate import validate
from ckpttool.values.checkpoint import (
    Checkpoint,
    Chunk,
    ChunkedTensor,
    CompositeTensor,
    Entry,
    FileInfo,
    Part,
    StorageRef,
    Tensor,
    TensorInfo,
    packed_stride,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint

FILES = (FileInfo("a", 24, 0, 0), FileInfo("b", 7, 0, 0))
MOST = 2**63 - 1


def checkpoint(entries: Iterable[Entry], files: tuple[FileInfo, ...] = FILES) -> Checkpoint:
    return Checkpoint("where.ckpt", "toy", "", files, tuple(entries))


def of(*values: Tensor) -> Checkpoint:
    return checkpoint(Entry((), f"t{number}", value) for number, value in enumerate(values))


def view(
    shape: tuple[int, ...] = (2,),
    *,
    at: int = 0,
    nbytes: int | None = None,
    dtype: str = "uint8",
    stride: tuple[int, ...] | None = None,
    offset: int = 0,
    file: str = "a",
    compressed: int | None = None,
) -> TensorInfo:
    """A tensor with a storage of its own that is as long as it needs to be, unless said otherwise."""
    kind = BY_NAME[dtype]
    if nbytes is None:
        nbytes = (math.prod(shape) * kind.bits + 7) // 8
    storage = StorageRef(file, f"{file}{at}", at, nbytes, compressed_nbytes=compressed)
    return TensorInfo(kind, shape, packed_stride(shape) if stride is None else stride, offset, storage)


def refusal(found: Checkpoint) -> CkptToolError:
    with pytest.raises(CkptToolError) as caught:
        validate(found)
    return caught.value


# -- against a count ------------------------------------------------------------------------------------


@st.composite
def views(draw: Any, ref: StorageRef | None = None) -> TensorInfo:
    """A view of any strides; of a storage of its own it may need a little more than is there, or less."""
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 1, 2, 2, 3]), max_size=3)))
    stride = draw(st.tuples(*[st.integers(0, 3)] * len(shape)))
    dtype = BY_NAME[draw(st.sampled_from(["uint8", "int16", "float32", "float6_e2m3fn"]))]
    info = TensorInfo(dtype, shape, stride, draw(st.integers(0, 3)), ref)
    if ref is None:
        needed = max(bits_of(info._replace(shape=tuple(size or 1 for size in shape)))) // 8 + 1
        info = info._replace(storage=StorageRef("big", "0", 0, max(0, needed + draw(st.integers(-2, 1)))))
    return info


def bits_of(info: TensorInfo) -> Iterator[int]:
    """Every bit of the storage that an element lies in."""
    for index in itertools.product(*map(range, info.shape)):
        at = info.storage_offset + sum(a * b for a, b in zip(index, info.stride, strict=True))
        yield from range(at * info.dtype.bits, (at + 1) * info.dtype.bits)


def lies_inside(info: TensorInfo) -> bool:
    return info.storage is None or all(bit // 8 < info.storage.nbytes for bit in bits_of(info))


@settings(max_examples=300)
@given(views())
def test_a_view_may_touch_what_its_storage_has_and_no_more(info: TensorInfo) -> None:
    found = checkpoint([Entry((), "t", info)], (FileInfo("big", 1000, 0, 0),))
    if lies_inside(info):
        validate(found)
    else:
        assert "reaches beyond its storage" in str(refusal(found))


@st.composite
def checkpoints(draw: Any) -> Checkpoint:
    """A few storages in two files, each with a tensor that fills it, plain or a part of one."""
    entries = []
    for number in range(draw(st.integers(1, 4))):
        compressed = draw(st.sampled_from([None, None, 0, 3]))
        key = draw(st.sampled_from(["0", "1", "2", "3"]))
        at, nbytes = draw(st.integers(-1, 24)), draw(st.sampled_from([0, 1, 3, 6]))
        storage = StorageRef(draw(st.sampled_from("aaab")), key, at, nbytes, compressed_nbytes=compressed)
        leaf = TensorInfo(BY_NAME["uint8"], (nbytes,), (1,), 0, storage)
        whole = CompositeTensor("sparse_coo", "x", None, None, (Part("p", leaf),))
        name = f"t{draw(st.sampled_from([number, number, number, 0]))}"
        entries.append(Entry((draw(st.sampled_from("rrs")),), name, draw(st.sampled_from([leaf, whole]))))
    return checkpoint(entries)


def is_right(found: Checkpoint) -> bool:
    """Each name once, each byte of a storage in its file and in no other one."""
    if max(Counter((entry.root, entry.name) for entry in found.entries).values(), default=0) > 1:
        return False
    taken: dict[str, dict[str, StorageRef]] = {"a": {}, "b": {}}
    for entry in found.entries:
        leaf = entry.value.parts[0].value if isinstance(entry.value, CompositeTensor) else entry.value
        assert isinstance(leaf, TensorInfo) and leaf.storage is not None
        taken[leaf.storage.file][leaf.storage.key] = leaf.storage
    for file in found.files:
        counts = Counter(
            at
            for ref in taken[file.path].values()
            for at in range(ref.byte_offset, ref.byte_offset + ref.span_nbytes)
        )
        if any(at not in range(file.nbytes) or count > 1 for at, count in counts.items()):
            return False
    return True


@settings(max_examples=400)
@given(checkpoints())
def test_each_byte_of_a_file_is_in_one_storage_at_most(found: Checkpoint) -> None:
    if is_right(found):
        validate(found)
    else:
        assert refusal(found).path in ("where.ckpt", "a", "b")


@st.composite
def in_chunks(draw: Any) -> ChunkedTensor:
    """A grid of chunks that is right, but for one change or none."""
    shape = draw(st.sampled_from([(0,), (3,), (4,), (0, 2), (1, 3), (2, 2), (3, 2), (3, 4), (2, 2, 2)]))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    boxes = itertools.product(*(itertools.pairwise(cut) for cut in cuts))
    chunks = []
    for number, box in enumerate(boxes):
        sizes = tuple(end - start for start, end in box)
        chunks.append(Chunk(tuple(start for start, _ in box), view(sizes, at=10 * number, file="big")))
    what = draw(
        st.sampled_from(
            ["right", "right", "right", "void", "moved", "resized", "twice", "gone", "meta", "flat"]
        )
    )
    if chunks and what != "right":
        at = draw(st.integers(0, len(chunks) - 1))
        offsets, value = chunks[at]
        dim = draw(st.integers(0, len(shape) - 1))
        by = draw(st.sampled_from([-1, 1]))
        if what == "moved":
            chunks[at] = Chunk((*offsets[:dim], offsets[dim] + by, *offsets[dim + 1 :]), value)
        elif what == "resized":
            size = max(0, value.shape[dim] + by)
            sizes = (*value.shape[:dim], size, *value.shape[dim + 1 :])
            chunks[at] = Chunk(offsets, view(sizes, at=10 * at, file="big"))
        elif what == "twice":
            other = draw(st.integers(0, len(chunks) - 1))
            chunks[at] = Chunk(chunks[other].offsets, value)
        elif what == "gone":
            del chunks[at]
        elif what == "meta":
            chunks[at] = Chunk(offsets, value._replace(storage=None))
        elif what == "void":
            start = tuple(draw(st.integers(0, size)) for size in shape)
            void = view((0,) * len(shape), at=9000, file="big")
            chunks.append(Chunk(start, draw(st.sampled_from([void, void._replace(storage=None)]))))
        else:
            chunks[at] = Chunk(offsets[:1], view(value.shape[:1], at=10 * at, file="big"))
    draw(st.randoms(use_true_random=False)).shuffle(chunks)
    return ChunkedTensor(BY_NAME["uint8"], shape, tuple(chunks))


@settings(max_examples=400)
@given(in_chunks())
def test_chunks_are_right_when_each_element_is_in_exactly_one(tensor: ChunkedTensor) -> None:
    counts: Counter[tuple[int, ...]] = Counter()
    right = True
    for offsets, value in tensor.chunks:
        right &= len(offsets) == len(value.shape) == len(tensor.shape)
        spans = [range(start, start + size) for start, size in zip(offsets, value.shape, strict=True)]
        # A chunk without elements must lie inside as well.
        right &= all(0 <= span.start and span.stop <= size for span, size in zip(spans, tensor.shape))  # noqa: B905
        counts.update(itertools.product(*spans))
    right &= counts == Counter(itertools.product(*map(range, tensor.shape)))
    right &= len({value.storage is None for _, value in tensor.chunks if value.numel}) < 2
    found = checkpoint([Entry((), "t", tensor)], (FileInfo("big", 10_000, 0, 0),))
    if right:
        validate(found)
    else:
        assert refusal(found).name == "t"  # type: ignore[attr-defined]


# -- what the sentences say -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [False, True])
def test_a_tensor_that_leaves_its_storage_is_named_with_both_sizes(wrap: bool) -> None:
    leaf: Tensor = view((3, 2), nbytes=11, dtype="int16")
    if wrap:
        leaf = CompositeTensor("sparse_coo", "x", None, None, (Part("p", leaf),))
    error = refusal(of(view((2,), at=20), leaf))
    assert isinstance(error, MalformedCheckpoint)
    assert "reaches beyond its storage" in str(error)
    assert (error.path, error.name, error.expected, error.actual) == (
        "where.ckpt", "t1", "at most 11 bytes", 12
    )  # fmt: skip


def test_a_tensor_of_half_bytes_is_counted_up_to_a_whole_one() -> None:
    assert BY_NAME["float4_e2m1fn_x2"].bits % 8 == 0  # two numbers an element
    validate(of(view((3,), dtype="float4_e2m1fn_x2")))
    assert refusal(of(view((3,), dtype="float4_e2m1fn_x2", nbytes=2))).actual == 3  # type: ignore[attr-defined]
    six = view((3,), dtype="float6_e2m3fn", nbytes=3)  # 18 bits
    validate(of(six))
    short = six._replace(storage=six.storage._replace(nbytes=2))  # type: ignore[union-attr]
    assert refusal(of(short)).actual == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "fits"),
    [
        ((MOST,), (1,), 0, True),
        ((MOST + 1,), (1,), 0, False),
        ((1,), (MOST,), 0, True),
        ((1,), (MOST + 1,), 0, False),
        ((1,), (1,), MOST, True),
        ((1,), (1,), MOST + 1, False),
        ((), (), MOST + 1, False),
        ((1 << 32, 1 << 31), (0, 0), 0, False),  # each size fits, their product is 2**63
        ((1 << 32, (1 << 31) - 1), (0, 0), 0, True),
        ((0, MOST + 1), (1, 1), 0, False),
    ],
)
def test_what_torch_keeps_as_int64_fits_into_it(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, fits: bool
) -> None:
    found = of(TensorInfo(BY_NAME["int8"], shape, stride, offset, None))
    if fits:
        validate(found)
    else:
        error = refusal(found)
        assert "63 bits" in str(error) and error.name == "t0"  # type: ignore[attr-defined]


def test_storages_end_with_their_file_and_begin_after_the_one_before() -> None:
    validate(of(view((4,), at=20), view((20,), at=0), view((7,), at=0, file="b")))
    error = refusal(of(view((5,), at=20)))
    assert isinstance(error, MalformedCheckpoint)
    assert "lies outside its file" in str(error)
    assert (error.path, error.name, error.byte_offset) == ("a", "a20", 20)
    assert (error.expected, error.actual) == ("5 bytes", "4 left")
    assert refusal(of(view((1,), at=30))).actual == "0 left"  # type: ignore[attr-defined]
    error = refusal(of(view((2,), at=-1)))
    assert isinstance(error, MalformedCheckpoint)
    assert "lies outside its file" in str(error) and error.byte_offset == -1
    validate(
        of(view((0,), at=99), view((0,), at=-5), view((8,), at=4), view((0,), at=6))
    )  # no byte, no place
    error = refusal(of(view((5,), at=3), view((4,), at=7)))
    assert isinstance(error, MalformedCheckpoint)
    assert "two storages overlap" in str(error)
    assert (error.path, error.name, error.byte_offset) == ("a", "a7", 7)


def test_a_compressed_storage_takes_what_it_takes_in_the_file() -> None:
    validate(of(view((1000,), at=20, compressed=4), view((20,), at=0)))
    assert "outside" in str(refusal(of(view((1,), at=20, compressed=5))))
    assert "overlap" in str(refusal(of(view((1000,), at=2, compressed=4), view((4,), at=5))))


def test_two_views_of_one_storage_are_no_overlap_and_two_files_are_two_places() -> None:
    one = view((8,), at=4)
    validate(of(one, one._replace(shape=(4,), storage_offset=2), view((7,), file="b")))


def test_a_name_twice_in_one_branch_is_refused_and_in_two_it_is_not() -> None:
    validate(checkpoint([Entry(("a",), "x", None), Entry(("b",), "x", None), Entry(("a",), "y", None)]))
    names = ["x", "y", "z", "y", "x"]
    error = refusal(checkpoint(Entry(("a",), name, None) for name in names))
    assert isinstance(error, MalformedCheckpoint)
    assert "two entries have the same name" in str(error) and error.name == "y"


def test_the_path_of_an_error_that_has_one_stays() -> None:
    assert refusal(of(view((8,), at=0, file="b"))).path == "b"


def cut(*chunks: Chunk, shape: tuple[int, ...] = (4,)) -> Checkpoint:
    return of(ChunkedTensor(BY_NAME["uint8"], shape, chunks))


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([Chunk((0,), view((2,))), Chunk((2,), view((2,), at=8, dtype="int8"))], "another dtype"),
        ([Chunk((0,), view((2, 2)))], "number of dimensions"),
        ([Chunk((0, 0), view((4,)))], "number of dimensions"),
        ([Chunk((1,), view((4,)))], "reach beyond its shape"),
        ([Chunk((-1,), view((4,)))], "reach beyond its shape"),
        ([Chunk((0,), view((2,))), Chunk((2,), view((2,), at=8)._replace(storage=None))], "in part only"),
        ([Chunk((0,), view((3,)))], "do not add up"),
        ([Chunk((0,), view((2,))), Chunk((1,), view((2,), at=8))], "overlap"),
        ([], "do not add up"),
    ],
)
def test_each_fault_of_chunks_has_its_words(chunks: list[Chunk], words: str) -> None:
    error = refusal(cut(*chunks))
    assert isinstance(error, MalformedCheckpoint)
    assert words in str(error) and error.name == "t0"


def test_a_tensor_has_so_many_chunks_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[validate.__module__]  # the package has a function of that name
    assert module._MOST_CHUNKS == 65_536
    monkeypatch.setattr(module, "_MOST_CHUNKS", 2)
    pair = [Chunk((0,), view((2,))), Chunk((2,), view((2,), at=8))]
    validate(cut(*pair))
    error = refusal(cut(*pair, Chunk((4,), view((0,), at=20))))
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.actual) == (2, 3)
