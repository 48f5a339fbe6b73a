"""Where the elements of two sides lie: chunks, offsets, bits, spans, threads; and what is said meanwhile."""

from __future__ import annotations

import concurrent.futures
import math
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.comparison import compare
from ckpttool.comparison.compare import Comparer, Outcome
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import (
    Chunk,
    ChunkedTensor,
    CompositeTensor,
    Part,
    Strided,
    Tensor,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import LimitExceeded
from tests.support.compared import Files, check

DTYPES = (torch.float32, torch.float16, torch.int64, torch.uint8, torch.complex64, torch.complex128)
LAYS = ("", "turned", "offset")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# -- one tensor in several pieces -------------------------------------------------------------------------


@st.composite
def laid(draw: st.DrawFn, files: Files, tensor: torch.Tensor) -> Strided:
    """A tensor as one view, at an offset or with other strides, or in chunks that are cut anywhere."""
    how = draw(st.sampled_from(["plain", "turned", "offset", "sliced", "chunks", "chunks"]))
    if how == "chunks":
        cuts = [
            sorted(draw(st.sets(st.integers(1, size - 1), max_size=2))) if size > 1 else []
            for size in tensor.shape
        ]
        count = math.prod(len(places) + 1 for places in cuts)
        lays = draw(st.lists(st.sampled_from(LAYS), min_size=count, max_size=count))
        return files.chunked(tensor, cuts, lays)
    if how == "turned":
        backwards = tuple(reversed(range(tensor.ndim)))
        return files.info(tensor.permute(backwards).contiguous().permute(backwards))
    if how == "offset":
        return files.info(torch.stack([tensor, tensor, tensor])[draw(st.integers(0, 2))])
    if how == "sliced":
        wide = torch.stack([tensor + 1, tensor], dim=-1)
        return files.info(wide[..., 1])
    return files.info(tensor.clone())


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_pieces_blocks_and_dtypes_change_no_number(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """With blocks of a few elements, which end in each other's midst."""
    files = Files(tmp_path_factory.mktemp("f"))
    shape = data.draw(st.sampled_from([(), (1,), (11,), (4, 6), (3, 1, 5), (2, 3, 4), (9, 17), (2, 9, 17)]))
    first, second = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(DTYPES))
    if data.draw(st.booleans()):
        second = first
    numbers = (torch.arange(math.prod(shape)) % 7).reshape(shape)
    a, b = numbers.to(first), numbers.to(second)
    for place in data.draw(st.sets(st.integers(0, a.numel() - 1), max_size=3)):
        b.view(-1)[place] += 1
    pair = data.draw(laid(files, a)), data.draw(laid(files, b))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "BLOCK_NUMEL", data.draw(st.sampled_from([1, 2, 3, 5, 7, 64])))
        patch.setattr(compare, "_BLOCK_NBYTES", data.draw(st.sampled_from([1, 7, 16, 64])))
        patch.setattr(compare, "_SPAN_NBYTES", data.draw(st.sampled_from([16, 48, 1 << 20])))
        (outcome,) = files.compare(pair)
    if first is second and torch.equal(a, b):
        assert outcome == Outcome(True)
    else:
        assert (outcome.equal, outcome.note) == (False, "")
        common = torch.promote_types(first, second)
        check(outcome.numbers, a.to(common), b.to(common))


@pytest.mark.parametrize("block", [9, 11, 13, 20])
def test_a_piece_that_ends_within_a_block_cuts_the_other_side_there(
    files: Files, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(compare, "BLOCK_NUMEL", block)
    whole, other = torch.arange(1020.0).view(5, 12, 17), torch.arange(1020.0).double().view(5, 12, 17) + 1
    for a, b in ((whole, other), (other, whole)):
        pieces = files.chunked(a, [[], [], [8]])
        for pair, x, y in (((pieces, files.info(b)), a, b), ((files.info(b), pieces), b, a)):
            (outcome,) = files.compare(pair)
            check(outcome.numbers, x.double(), y.double())


def test_what_is_in_chunks_on_one_side_only_is_told_of_once(files: Files) -> None:
    whole = torch.arange(24.0).view(4, 6)
    pairs: list[tuple[Tensor, Tensor]] = [
        (files.info(whole), files.chunked(whole, [[1, 3], [2]])),
        (files.chunked(whole, [[2], []]), files.info(whole.t().contiguous().t())),
        (files.chunked(whole, [[2], []]), files.chunked(whole, [[], [3]])),
    ]
    told: list[int] = []
    assert Comparer(files.files, files.files, watch=told.append).compare(pairs) == [Outcome(True)] * 3
    assert told == [96, 96, 96]


# -- numbers that are no whole bytes ------------------------------------------------------------------------


def bits6(numbers: Sequence[int]) -> torch.Tensor:
    """Numbers of 6 bits one behind the other, the lowest bits first."""
    whole = sum(number << (6 * at) for at, number in enumerate(numbers))
    return torch.frombuffer(
        bytearray(whole.to_bytes((len(numbers) * 6 + 7) // 8, "little")), dtype=torch.uint8
    )


def e2m3(bits: int) -> float:
    """Sign, two bits of exponent with a bias of 1, three of mantissa (OCP Microscaling Formats 1.0)."""
    sign, exponent, mantissa = bits >> 5, bits >> 3 & 3, bits & 7
    size = mantissa / 8 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 1)
    return -size if sign else size


def six(files: Files, numbers: Sequence[int], skipped: int = 0) -> TensorInfo:
    info = files.info(bits6([*[9] * skipped, *numbers]))
    return info._replace(
        dtype=BY_NAME["float6_e2m3fn"], shape=(len(numbers),), stride=(1,), storage_offset=skipped
    )


@pytest.mark.parametrize("span", [16, 64, 1 << 20])
@pytest.mark.parametrize("block", [4, 8, 64])
@pytest.mark.parametrize("count", [1, 3, 4, 29, 64])
def test_numbers_of_six_bits(
    files: Files, monkeypatch: pytest.MonkeyPatch, count: int, block: int, span: int
) -> None:
    monkeypatch.setattr(compare, "BLOCK_NUMEL", block)
    monkeypatch.setattr(compare, "_SPAN_NBYTES", span)
    monkeypatch.setattr(compare, "_BLOCK_NBYTES", 3)
    numbers = [(at * 37 + 5) % 64 for at in range(count)]
    other = [*numbers[:-1], numbers[-1] ^ 1]
    a, same, changed = six(files, numbers), six(files, numbers, 4), six(files, other, 8)
    wide, narrow = (torch.tensor([e2m3(bits) for bits in made]) for made in (numbers, other))
    told: list[int] = []
    comparer = Comparer(files.files, files.files, watch=told.append)
    outcomes = comparer.compare([(a, same), (a, changed), (a, files.info(wide)), (files.info(narrow), a)])
    assert outcomes[0] == Outcome(True)
    for outcome, x, y in (
        (outcomes[1], wide, narrow),
        (outcomes[2], wide, wide),
        (outcomes[3], narrow, wide),
    ):
        assert outcome.equal is False
        check(outcome.numbers, x, y)
    assert outcomes[2].numbers is not None and outcomes[2].numbers.changed == 0


# -- how far views may expand -------------------------------------------------------------------------------


def crossed(files: Files, rows: int, columns: int) -> tuple[TensorInfo, TensorInfo]:
    """A row and a column of zeros, both expanded to a matrix."""
    row = files.info(torch.zeros(1, columns).expand(rows, columns))
    return row, files.info(torch.zeros(rows, 1).expand(rows, columns))


SAID = "the number of elements that two views expand to, in different ways, exceeds the limit of"


@pytest.mark.parametrize(("always", "times"), [(10, 1), (10, 2), (13, 1), (12, 1)])
def test_what_expands_differently_is_walked_up_to_a_limit(
    files: Files, monkeypatch: pytest.MonkeyPatch, always: int, times: int
) -> None:
    monkeypatch.setattr(compare, "_ALWAYS_NUMEL", always)
    monkeypatch.setattr(compare, "_MOST_EXPANDED", times)
    for rows, columns in ((3, 4), (2, 6), (2, 9), (13, 1), (7, 2), (19, 1), (3, 6), (2, 7)):
        most = max(always, times * (rows + columns))
        a, b = crossed(files, rows, columns)
        if 1 in (rows, columns) or rows * columns <= most:
            assert files.compare((a, b)) == [Outcome(True)]
            continue
        for pair in ((a, b), (b, a)):
            with pytest.raises(LimitExceeded) as caught:
                files.compare(pair)
            path = pair[0].storage and pair[0].storage.file
            said = f"{SAID} {most} (is {rows * columns})"
            assert (caught.value.describe(), caught.value.path) == (said, path)


def test_the_file_of_chunks_is_that_of_the_first_that_has_one(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_ALWAYS_NUMEL", 10)
    monkeypatch.setattr(compare, "_MOST_EXPANDED", 1)
    row, column = crossed(files, 5, 6)
    empty = row._replace(shape=(0, 6), stride=(6, 1), storage=None)
    chunked = ChunkedTensor(row.dtype, row.shape, (Chunk((0, 0), empty), Chunk((0, 0), row)))
    with pytest.raises(LimitExceeded) as caught:
        files.compare((chunked, column))
    assert row.storage is not None and caught.value.path == row.storage.file


def test_the_limits_as_they_are(files: Files) -> None:
    a, b = crossed(files, 1 << 12, (1 << 12) + 1)
    with pytest.raises(LimitExceeded) as caught:
        files.compare((a, b))
    assert (caught.value.limit, caught.value.actual) == (1 << 24, (1 << 24) + (1 << 12))
    assert caught.value.describe() == f"{SAID} 16,777,216 (is 16,781,312)"
    a, b = crossed(files, 200_000, 200_000)
    half = files.info(torch.zeros(200_000, 1, dtype=torch.float16).expand(200_000, 200_000))
    for pair in ((a, b), (a, half)):  # 400,000 elements are stored, of whatever width
        with pytest.raises(LimitExceeded) as caught:
            files.compare(pair)
        assert caught.value.limit == 64 * 400_000


def test_what_both_expand_is_taken_once_before_the_limit(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_ALWAYS_NUMEL", 12)
    monkeypatch.setattr(compare, "_MOST_EXPANDED", 1)
    row, column = torch.arange(4.0).view(1, 4).expand(3, 4), torch.arange(3.0).view(3, 1).expand(3, 4)
    pair = files.info(row.expand(1 << 30, 3, 4)), files.info(column.expand(1 << 30, 3, 4))
    (outcome,) = files.compare(pair)
    check(outcome.numbers, row.contiguous(), column.contiguous())
    between = [files.info(x.unsqueeze(1).expand(3, 1 << 30, 4)) for x in (row, column)]
    assert files.compare((between[0], between[1]))[0].numbers == outcome.numbers


# -- spans and threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ("float32", "float32", [[400, 400, 200], [400, 400, 200]]),
        ("float32", "float64", [[200, 200, 200, 200, 200]]),
        ("float64", "float32", [[400, 400, 400, 400, 400]]),
        ("float16", "float32", [[200, 200, 100]]),
        ("uint8", "uint8", [[250], [250]]),
    ],
)
def test_work_is_cut_into_spans_of_the_wider_side(
    files: Files, monkeypatch: pytest.MonkeyPatch, a: str, b: str, told: list[list[int]]
) -> None:
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 400)
    x, y = torch.arange(250).to(getattr(torch, a)), (torch.arange(250) + 1).to(getattr(torch, b))
    seen: list[int] = []
    Comparer(files.files, files.files, watch=seen.append).compare([(files.info(x), files.info(y))])
    assert seen == [nbytes for once in told for nbytes in once]
    turned = [files.info(t.view(25, 10).t().contiguous().t()) for t in (x, y)]
    packed = files.info(y.view(25, 10))
    for pair in ((turned[0], packed), (files.info(x.view(25, 10)), turned[1])):
        seen.clear()
        Comparer(files.files, files.files, watch=seen.append).compare([pair])
        assert seen == [sum(once) for once in told]  # what is not packed is one piece


def test_what_is_deflated_is_one_piece(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is inflated from its start: a span in its midst would cost all that is before it."""
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 400)
    tensor = torch.arange(250.0)
    packer = zlib.compressobj(wbits=-15)
    raw = packer.compress(bytes(tensor.numpy())) + packer.flush()
    a, other = files.info(tensor), files.info(tensor + 1)
    deflated = files.info(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
    assert deflated.storage is not None
    storage = deflated.storage._replace(nbytes=1000, compressed_nbytes=len(raw))
    b = a._replace(storage=storage)
    for pair, told in (((a, b), [1000]), ((b, a), [1000]), ((b, other), [1000, 1000])):
        seen: list[int] = []
        (outcome,) = Comparer(files.files, files.files, watch=seen.append).compare([pair])
        assert (outcome.equal, seen) == (pair[1] is not other, told)


def test_what_is_the_same_place_is_not_read_and_a_pair_once(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = files.info(torch.arange(6.0)), files.info(torch.arange(6.0))
    half = files.info(torch.arange(6.0).half())
    told: list[int] = []
    comparer = Comparer(files.files, files.files, watch=told.append)
    assert comparer.compare([(a, b), (a, a), (a, b), (b, a)]) == [Outcome(True)] * 4
    assert told == [24, 24]
    outcomes = comparer.compare([(a, half), (a, b), (a, half), (half, a)])
    assert [outcome.equal for outcome in outcomes] == [False, True, False, False]
    assert outcomes[0] is outcomes[2] and told[2:] == [24, 24, 12]
    monkeypatch.setattr(TensorReader, "read_into", lambda *_: pytest.fail("read"))
    assert comparer.compare([(a, a)]) == [Outcome(True)]
    assert comparer.compare([]) == []


def test_behind_the_first_difference_no_bytes_are_compared(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 40)
    monkeypatch.setattr(compare, "_BLOCK_NBYTES", 20)
    a, b = torch.arange(50.0), torch.arange(50.0)
    b[12] += 1
    read: list[int] = []
    original = TensorReader.read_into

    def counted(self: TensorReader, storage: Any, offset: int, target: memoryview) -> None:
        read.append(offset)
        original(self, storage, offset, target)

    monkeypatch.setattr(TensorReader, "read_into", counted)
    comparer = Comparer(files.files, files.files)
    parts = [
        CompositeTensor("l", "t", None, None, (Part("p", files.info(x)), Part("q", files.info(a))))
        for x in (a, b)
    ]
    assert comparer.compare([(parts[0], parts[1])]) == [Outcome(False, note="other p")]
    # p: the first span, and of the second the block that differs; then all of q.
    assert read[::2] == read[1::2] == [0, 20, 40, *range(0, 200, 20)]


@pytest.mark.parametrize(("elements", "threaded"), [(99, False), (100, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_second_thread_comes_from_a_size_on(
    files: Files, monkeypatch: pytest.MonkeyPatch, elements: int, threaded: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(compare, "_THREADED_NBYTES", 100 * dtype.itemsize)
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 4)
    pools: list[tuple[int, int]] = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, most: int) -> None:
            pools.append((most, 0))
            super().__init__(most)

        def submit(self, *arguments: Any, **options: Any) -> Any:
            pools[-1] = pools[-1][0], pools[-1][1] + 1
            return super().submit(*arguments, **options)

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
    workers: set[int] = set()
    told: list[int] = []

    def watch(nbytes: int) -> None:
        told.append(nbytes)
        workers.add(threading.get_ident())

    pairs: list[tuple[Tensor, Tensor]] = [
        (files.info(made), files.info(made.clone()))
        for made in torch.ones(elements, dtype=dtype).split([30, elements - 30])
    ]
    outcomes = Comparer(files.files, files.files, watch=watch).compare(pairs)
    assert outcomes == [Outcome(True)] * 2 and sum(told) == elements * dtype.itemsize
    assert pools == ([(2, 2)] if threaded else [])
    assert (threading.get_ident() in workers) is not threaded


def test_a_thread_makes_its_memory_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = compare.Sums
    monkeypatch.setattr(compare, "Sums", lambda *options: made.append(options) or original(*options))
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 400)
    pairs: list[tuple[Tensor, Tensor]] = [
        (files.info(torch.zeros(250)), files.info(torch.ones(250) * at)) for at in (1, 2, 3)
    ]
    assert [outcome.equal for outcome in files.compare(*pairs)] == [False] * 3 and len(made) == 1


def test_a_few_bytes_need_no_thread(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", lambda *_: pytest.fail("threads"))
    assert files.one(torch.zeros(1000), torch.ones(1000)).equal is False


@pytest.mark.parametrize("by", ["first", "second", "Ctrl-C"])
def test_what_ends_one_thread_ends_the_other_soon(
    files: Files, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(compare, "_THREADED_NBYTES", 1)
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 4)
    told: list[int] = []
    go_on = threading.Event()

    def watch(nbytes: int) -> None:
        told.append(threading.get_ident())
        if by == ("first" if told[0] == threading.get_ident() else "second"):
            raise KeyboardInterrupt
        go_on.wait(0.02)

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Any:
            future = super().submit(*arguments, **options)
            if by == "Ctrl-C":
                monkeypatch.setattr(future, "result", interrupt)
            return future

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
    pair = files.info(torch.zeros(500)), files.info(torch.zeros(500))
    with pytest.raises(KeyboardInterrupt):
        Comparer(files.files, files.files, watch=watch).compare([pair])
    assert len(told) < 50
