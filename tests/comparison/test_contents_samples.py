"""What is read of a tensor to find its equal, byte by byte, and what is called all one value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.comparison import contents as contents_module
from ckpttool.comparison.alignment import Content
from ckpttool.comparison.contents import find_contents
from ckpttool.comparison.sides import Placed
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import Basis, Classification, CompositeTensor, Entry, Kind, Part, Tensor
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint
from ckpttool.values.inspection import Row
from tests.support.compared import Files, paths_of
from tests.support.layouts import TYPED, UNTYPED

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")

SAMPLE = 2048
ANY = Classification(Kind.UNKNOWN, Basis.NONE)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(file, offset, bytes) of every read of a sample; digests cost none."""
    found: list[tuple[str, int, int]] = []
    original = TensorReader.read_into

    def counted(self: TensorReader, storage: Any, offset: int, target: memoryview) -> None:
        found.append((storage.file, offset, len(target)))
        original(self, storage, offset, target)

    monkeypatch.setattr(TensorReader, "read_into", counted)
    return found


def placed(value: Tensor | None, name: str = "x") -> Placed:
    return Placed((), name, Row(Entry((), name, value), ANY))


def find(files: Files, a: list[Placed], b: list[Placed], *, differing: bool = False) -> dict[int, Content]:
    """Each side is held to what its own files were."""
    of_a, of_b = (
        [info for info in files.files if any(info.path in paths_of(item.row.entry.value) for item in items)]
        for items in (a, b)
    )
    return find_contents(a, b, (of_a, of_b), differing=differing)


def path_of(value: Any) -> str:
    return str(value.storage.file)


@pytest.mark.parametrize(
    ("numel", "windows"),
    [
        (1, [(0, 1)]),
        (3 * SAMPLE, [(0, 3 * SAMPLE)]),
        (3 * SAMPLE + 1, [(0, SAMPLE), (2048, SAMPLE), (4097, SAMPLE)]),
        (3 * SAMPLE + 4, [(0, SAMPLE), (2050, SAMPLE), (4100, SAMPLE)]),
        (100_001, [(0, SAMPLE), (48_976, SAMPLE), (97_953, SAMPLE)]),
    ],
)
def test_the_start_the_middle_and_the_end_are_read(
    files: Files, reads: list[tuple[str, int, int]], numel: int, windows: list[tuple[int, int]]
) -> None:
    low, high = torch.zeros(numel, dtype=torch.uint8), torch.ones(numel, dtype=torch.uint8)
    a, b = files.info(torch.cat([low, low])[numel:]), files.info(high)
    assert find(files, [placed(a)], [placed(b)]) == {}
    at_a = [(path_of(a), numel + at, count) for at, count in windows]
    assert reads == [*at_a, *((path_of(b), at, count) for at, count in windows)]


def test_the_middle_of_wide_elements_begins_with_one(files: Files, reads: list[tuple[str, int, int]]) -> None:
    # (6152 - 2048) // 2 = 2052, and (6160 - 2048) // 2 = 2056.
    cases = (torch.int64, 769, 2048), (torch.complex128, 385, 2048), (torch.int16, 3077, 2052)
    for dtype, numel, middle in cases:
        reads.clear()
        a, b = (files.info(torch.full((numel,), at, dtype=dtype)) for at in (0, 1))
        find(files, [placed(a)], [placed(b)])
        assert [offset for _, offset, _ in reads] == 2 * [0, middle, numel * dtype.itemsize - SAMPLE]


@pytest.mark.parametrize("dtype", [*TYPED, *UNTYPED], ids=str)
@pytest.mark.parametrize("nbytes", [6160, 6176, 16])
def test_all_one_value_is_known_of_every_dtype_and_length(
    files: Files, dtype: torch.dtype, nbytes: int
) -> None:
    """The bytes of the element are not all the same one."""
    for more in range(2):
        numel = nbytes // dtype.itemsize + more
        raw = torch.arange(1, dtype.itemsize + 1, dtype=torch.uint8)
        flat = raw.repeat(numel).view(dtype) if dtype is not torch.bool else torch.ones(numel, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        values = [placed(files.info(flat.clone(), name)) for _ in "ab"]
        found = find(files, values[:1], values[1:])
        assert [found[id(item)].says_little for item in values] == [True, True]
        if numel > 1 and dtype is not torch.bool:
            other = flat.view(torch.uint8).clone()
            other[-1] ^= 1
            values = [placed(files.info(other.view(dtype), name)) for _ in "ab"]
            found = find(files, values[:1], values[1:])
            assert [found[id(item)].says_little for item in values] == [False, False]


@given(st.integers(0, 2000), st.sampled_from([torch.int16, torch.float32, torch.uint8]), st.data())
@settings(max_examples=60, deadline=None)
def test_what_says_little_is_one_element_in_all_samples(
    tmp_path_factory: pytest.TempPathFactory, more: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    files = Files(tmp_path_factory.mktemp("f"))
    width, numel = dtype.itemsize, 6144 // dtype.itemsize + more
    tensor = torch.full((numel,), 3, dtype=dtype)
    place = data.draw(st.sampled_from([0, 1023 // width, numel // 2, numel // 3, numel - 1 - 3000 // width]))
    tensor[place] += 1
    values = [placed(files.info(tensor.clone())) for _ in "ab"]
    found = find(files, values[:1], values[1:])
    nbytes = numel * width
    middle = (nbytes - SAMPLE) // 2
    middle -= middle % width
    starts = [0, middle, nbytes - SAMPLE] if nbytes > 3 * SAMPLE else [0, SAMPLE, 2 * SAMPLE]
    sampled = any(start <= place * width < start + SAMPLE for start in starts)
    assert [found[id(item)].says_little for item in values] == [not sampled] * 2


@pytest.mark.parametrize("cuts", [[1], [3, 17], [20], [39], [13, 14, 15, 27]])
def test_samples_go_on_from_one_file_to_the_next(
    files: Files, reads: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    """Rows of 240 bytes: 9,600 in all, so that the samples are at 0, 3776 and 7552."""
    a = files.chunked(torch.zeros(40, 60), [cuts, []])
    b = files.chunked(torch.ones(40, 60), [cuts, []])
    find(files, [placed(a)], [placed(b)])
    for chunked, found in ((a, reads[: len(reads) // 2]), (b, reads[len(reads) // 2 :])):
        where = [(chunk.value, at) for chunk in chunked.chunks for at in range(chunk.value.nbytes)]
        sampled = [where[start : start + SAMPLE] for start in (0, 3776, 7552)]
        wanted = [(path_of(view), at) for sample in sampled for view, at in sample]
        assert [(path, offset + at) for path, offset, count in found for at in range(count)] == wanted
        assert all(count for _, _, count in found)


@pytest.mark.parametrize("odd", ["a", "b"])
def test_of_what_does_not_lie_in_order_the_start_is_the_sample(
    files: Files, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """Also on the other side, and for all tensors of that shape; others are read as they are."""
    seen: list[tuple[tuple[int, ...], int]] = []
    original = TensorReader.iter_chunks

    def counted(self: TensorReader, info: Any, chunk_nbytes: int = 0) -> Any:
        seen.append((info.shape, chunk_nbytes))
        return original(self, info, chunk_nbytes=chunk_nbytes)

    monkeypatch.setattr(TensorReader, "iter_chunks", counted)
    monkeypatch.setattr(contents_module, "digest_tensor", lambda reader, value: "d")
    base = torch.arange(10_000.0).view(100, 100)
    turned, flat = base.t().contiguous().t(), base.view(50, 200)
    sides = {name: [placed(files.info(x)) for x in (turned if name == odd else base, flat)] for name in "ab"}
    found = find(files, sides["a"], sides["b"])
    assert seen == [((100, 100), SAMPLE)] * 2
    a, b = sides["a"], sides["b"]
    assert found[id(a[0])] == found[id(b[0])] == Content(("float32", (100, 100)), "d", False)
    assert found[id(a[1])] == found[id(b[1])] == Content(("float32", (50, 200)), "d", False)


def test_what_has_an_equal_sample_is_digested_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    digested: list[Tensor] = []
    monkeypatch.setattr(contents_module, "digest_tensor", lambda reader, value: digested.append(value) or "d")
    one, same, other = (files.info(torch.arange(4.0) + by) for by in (0, 0, 1))
    a, b = [placed(one, "p"), placed(one, "q"), placed(other, "r")], [placed(same, "s"), placed(same, "t")]
    content = Content(("float32", (4,)), "d", False)
    assert find(files, a, b) == {id(item): content for item in (a[0], a[1], *b)}
    assert digested == [one, same]


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("x", "x", ""),  # known to differ, so the sample says nothing
        ("xy", "yx", "xy"),
        ("xyz", "yxz", "xy"),
        ("xx", "xx", "x"),
        ("xy", "zx", "x"),
        ("-x", "x-", "x"),
        ("x-", "x-", ""),
        ("-xy", "yx-", "y"),
        ("--x", "--x", ""),
    ],
)
def test_at_one_position_alone_an_equal_sample_says_nothing(files: Files, a: str, b: str, equal: str) -> None:
    """``-`` has no value; the others are tensors by their letter."""

    def made(letters: str) -> list[Placed]:
        return [
            placed(None if letter == "-" else files.info(torch.arange(3.0) + ord(letter)), letter)
            for letter in letters
        ]

    sides = made(a), made(b)
    found = find(files, *sides, differing=True)
    assert {item.name for side in sides for item in side if id(item) in found} == set(equal)
    plain = find(files, *sides)
    assert {item.name for side in sides for item in side if id(item) in plain} == (set(a) & set(b)) - {"-"}


def test_how_much_more_than_is_stored_a_tensor_may_claim(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckpttool.elements.digests._ALWAYS_NBYTES", 100)
    monkeypatch.setattr(contents_module, "digest_tensor", lambda reader, value: "d")
    row = torch.arange(4.0)
    for rows, looked_at in ((64, True), (65, False)):  # 16 bytes are stored
        a, b = (placed(files.info(row.expand(rows, 4))) for _ in "ab")
        found = find(files, [a], [b])
        assert ({id(a), id(b)} == found.keys()) is looked_at is bool(found)
        inner = CompositeTensor("l", "t", None, None, (Part("p", files.info(row.expand(rows, 4))),))
        assert bool(find(files, [placed(inner)], [placed(inner)])) is looked_at


@pytest.mark.parametrize("changed", [0, 1])
def test_a_file_of_either_side_that_changed_is_noticed(files: Files, changed: int) -> None:
    values = [files.info(torch.arange(4.0)) for _ in "ab"]
    os.utime(path_of(values[changed]), ns=(1, 1))
    with pytest.raises(MalformedCheckpoint) as caught:
        find(files, [placed(values[0])], [placed(values[1])])
    assert caught.value.path == path_of(values[changed])


def test_empty_and_missing_bytes(files: Files) -> None:
    """Without elements there is nothing to store."""
    empty = files.info(torch.zeros(0, 3))
    bare, full = empty._replace(storage=None), files.info(torch.ones(3))
    a, b = [placed(empty), placed(full._replace(storage=None))], [placed(bare), placed(full)]
    found = find(files, a, b)
    assert found.keys() == {id(a[0]), id(b[0])} and found[id(a[0])] == found[id(b[0])]
    parts = (Part("p", full), Part("q", full._replace(storage=None)))
    half = CompositeTensor("l", "t", BY_NAME["float32"], (3,), parts)
    assert find(files, [placed(half)], [placed(half)]) == {}
    assert find(files, [], [placed(full)]) == find(files, [placed(full)], []) == {}
