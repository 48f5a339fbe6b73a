"""Which tensors have one content, held against their bytes; and each file belongs to its own side."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.comparison import compare
from ckpttool.comparison.alignment import Content
from ckpttool.comparison.compare import Comparer
from ckpttool.comparison.contents import digest_rows, digest_weights, find_contents
from ckpttool.comparison.sides import Placed
from ckpttool.elements.digests import digest_set, digest_tensor
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import (
    Basis,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    Part,
    Strided,
    Tensor,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint, UnsupportedFeature
from ckpttool.values.inspection import Row
from tests.support.compared import Files
from tests.support.inspections import inspection, row

SAMPLE = 2048
ANY = Classification(Kind.UNKNOWN, Basis.NONE)


def placed(value: Tensor | None, name: str = "x") -> Placed:
    return Placed((), name, Row(Entry((), name, value), ANY))


def lay(files: Files, tensor: torch.Tensor, how: str) -> Strided:
    if how == "turned":
        return files.info(tensor.t().contiguous().t())
    if how == "rows":
        return files.chunked(tensor, [[len(tensor) // 3], []])
    if how == "columns":
        return files.chunked(tensor, [[], [1]])
    return files.info(tensor.clone())


# One block of samples, less than three, three and one more byte, and far more.
SHAPES = [(3, 4), (6, 256), (8, 192), (6144 // 4 + 1, 2), (40, 60)]


@st.composite
def sides(draw: Any) -> tuple[list[tuple[torch.Tensor, str]], list[tuple[torch.Tensor, str]]]:
    """Tensors of both sides: copies of a few, with an element changed here and there."""
    shape = draw(st.sampled_from(SHAPES))
    dtype = draw(st.sampled_from([torch.float32, torch.int16, torch.uint8]))
    bases = [(torch.arange(shape[0] * shape[1]) % 251).to(dtype).view(shape), torch.full(shape, 7).to(dtype)]
    found: tuple[list[Any], list[Any]] = ([], [])
    for side in found:
        for _ in range(draw(st.integers(1, 3))):
            tensor = draw(st.sampled_from(bases)).clone()
            if draw(st.booleans()):
                place = draw(
                    st.sampled_from([0, 1, tensor.numel() // 2, tensor.numel() // 5, tensor.numel() - 1])
                )
                tensor.view(-1)[place] += 1
            side.append((tensor, draw(st.sampled_from(["packed", "packed", "turned", "rows", "columns"]))))
    return found


@settings(max_examples=80)
@given(sides(), st.booleans())
def test_contents_are_equal_where_the_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, drawn: Any, differing: bool
) -> None:
    files = Files(tmp_path_factory.mktemp("contents"))
    a, b = ([placed(lay(files, tensor, how)) for tensor, how in side] for side in drawn)
    contents = find_contents(a, b, (files.files, files.files), differing=differing)
    values = {id(item): tensor for side, items in zip(drawn, (a, b), strict=True)
              for (tensor, _), item in zip(side, items, strict=True)}  # fmt: skip
    for (at_a, x), (at_b, y) in itertools.product(enumerate(a), enumerate(b)):
        equal = torch.equal(values[id(x)], values[id(y)])
        mine, other = contents.get(id(x)), contents.get(id(y))
        if not (differing and at_a == at_b):
            assert (mine is not None and mine == other) is equal
    for item in (*a, *b):
        content = contents.get(id(item))
        if content is not None and len(set(values[id(item)].flatten().tolist())) == 1:
            assert content.says_little
        if content is not None and content.says_little:  # the start is a sample
            assert values[id(item)].view(-1)[0] == values[id(item)].view(-1)[1]


@pytest.mark.parametrize("place", [0, 1200, 2399, 700])
@pytest.mark.parametrize("cut", [1, 13, 20, 39])
def test_samples_of_rows_in_several_files_are_those_of_one_run(tmp_path: Path, cut: int, place: int) -> None:
    files = Files(tmp_path)
    whole = torch.zeros(40, 60)  # longer than the three samples
    changed = whole.clone()
    changed.view(-1)[place] += 1
    chunks, packed = (placed(made) for made in (files.chunked(changed, [[cut], []]), files.info(changed)))
    other = placed(files.chunked(whole, [[cut], []]))
    contents = find_contents([chunks, other], [packed], (files.files, files.files))
    assert contents[id(chunks)] == contents[id(packed)] != contents.get(id(other))
    is_sampled = place in (0, 1200, 2399)
    assert contents[id(packed)].says_little is not is_sampled


def test_what_cannot_be_equal_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path)
    tensors = [torch.arange(6.0), torch.arange(6), torch.arange(6.0).view(2, 3), torch.arange(8.0)]
    a = [placed(files.info(tensor)) for tensor in tensors[:2]] + [placed(None)]
    b = [placed(files.info(tensor)) for tensor in tensors[2:]]
    b += [placed(files.info(torch.arange(6.0))._replace(storage=None)), placed(None)]
    indices, values = torch.tensor([[1, 4]]), torch.tensor([1.0, 2.0])
    a += [placed(sparse(files, indices, values))]
    b += [placed(sparse(files, indices.int(), values)), placed(sparse(files, indices, values, (("k", 1),)))]
    monkeypatch.setattr(TensorReader, "read_into", lambda *_: pytest.fail("read"))
    assert find_contents(a, b, (files.files, files.files)) == {}


def test_an_expanded_tensor_is_looked_at_up_to_a_limit(tmp_path: Path) -> None:
    files = Files(tmp_path)
    row = torch.arange(4.0)
    for rows, looked_at in ((3, True), (1 << 27, False)):
        a, b = (placed(files.info(row.expand(rows, 4))) for _ in "ab")
        contents = find_contents([a], [b], (files.files, files.files))
        assert (id(a) in contents) is looked_at is (contents.get(id(a)) == contents.get(id(b)) is not None)


def sparse(files: Files, indices: torch.Tensor, values: torch.Tensor, details: Any = ()) -> Tensor:
    parts = (Part("indices", files.info(indices)), Part("values", files.info(values)))
    return CompositeTensor("sparse_coo", "rebuild", BY_NAME["float32"], (9,), parts, details)


def test_parts_count_each_and_so_do_their_details(tmp_path: Path) -> None:
    files = Files(tmp_path)
    indices, values = torch.tensor([[1, 4]]), torch.tensor([1.0, 2.0])
    first = placed(sparse(files, indices, values))
    others = {
        "same": placed(sparse(files, indices.clone(), values.clone())),
        "indices": placed(sparse(files, indices + 1, values)),
        "values": placed(sparse(files, indices, values + 1)),
        "details": placed(sparse(files, indices, values, (("k", 1),))),
        "plain": placed(files.info(values)),
        "short": placed(sparse(files, indices[:, :1], values[:1])),
    }
    contents = find_contents([first], list(others.values()), (files.files, files.files))
    equal = {name: contents.get(id(item)) == contents[id(first)] for name, item in others.items()}
    assert equal == {name: name == "same" for name in others}
    assert isinstance(contents[id(first)], Content)


def test_digests_of_rows_are_made_once_a_tensor_and_told(tmp_path: Path) -> None:
    files = Files(tmp_path)
    value, none = files.info(torch.arange(6.0)), files.info(torch.ones(2))._replace(storage=None)
    told: list[int] = []
    rows = [placed(value, "a"), placed(none, "m"), placed(value, "b"), placed(None, "n")]
    found = digest_rows(rows, files.files, told.append)
    assert [(item.name, item.dtype, item.shape) for item in found] == [
        (name, value.dtype, (6,)) for name in "ab"
    ]
    assert told == [24]
    with TensorReader(files.files) as reader:
        assert {item.sha256 for item in found} == {digest_tensor(reader, value)}
    half = sparse(files, torch.tensor([[1, 4]]), torch.tensor([1.0, 2.0]))
    assert [item.name for item in digest_rows([placed(half, "c")], files.files)] == ["c"]
    assert digest_rows([placed(without(half, "values"), "c")], files.files) == []
    huge = files.info(torch.ones(1).expand(1 << 29))
    with pytest.raises(LimitExceeded):
        digest_rows([placed(huge)], files.files)


def test_the_weights_are_digested_and_what_is_beside_them_is_not(tmp_path: Path) -> None:
    files = Files(tmp_path)
    made = [row("w", root=("m",)), row("b", root=("m",), kind=Kind.PERSISTENT_BUFFER), row("x", root=("o",))]
    rows = [
        item._replace(entry=item.entry._replace(value=files.info(torch.arange(at + 2.0))))
        for at, item in enumerate(made)
    ]
    told: list[int] = []
    found = digest_weights(inspection(rows, weights_root=("m",)), files.files, told.append)
    weights = digest_rows([Placed((), item.entry.name, item) for item in rows[:2]], files.files)
    assert found == digest_set(weights) and told == [8, 12]
    assert found[3:] == (2, 1, 1) and [item[:3] for item in weights] == [
        ((), "w", Kind.PARAMETER), ((), "b", Kind.PERSISTENT_BUFFER)
    ]  # fmt: skip


# -- each side has its own files -------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [0, 1])
@pytest.mark.parametrize("differ", [False, True])
def test_a_file_of_either_side_that_changed_is_noticed(tmp_path: Path, changed: int, differ: bool) -> None:
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        files = Files(tmp_path / name)
        made.append((files, files.info(torch.arange(100.0) + (differ and name == "b"))))
    (files_a, a), (files_b, b) = made
    assert Comparer(files_a.files, files_b.files).compare([(a, b)])[0].equal is not differ
    path = made[changed][0].files[0].path
    os.utime(path, ns=(1, 1))
    with pytest.raises(MalformedCheckpoint) as caught:
        Comparer(files_a.files, files_b.files).compare([(a, b)])
    assert caught.value.path == path


def test_bytes_are_told_of_as_they_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "_SPAN_NBYTES", 4096)
    files = Files(tmp_path)
    a, same, other = (files.info(torch.arange(5000.0) + by) for by in (0, 0, 1))
    for b, times in ((same, 1), (other, 2)):  # once for the bytes, once for the numbers
        told: list[int] = []
        Comparer(files.files, files.files, watch=told.append).compare([(a, b), (a, b)])
        assert sum(told) == times * 20_000 and max(told) == 4096
    half = files.info(torch.arange(5000.0).half())
    told = []
    Comparer(files.files, files.files, watch=told.append).compare([(a, half)])
    assert sum(told) == 20_000


def test_parts_that_differ_are_named_without_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "import_numpy", lambda *_: pytest.fail("numpy"))
    files = Files(tmp_path)
    indices, values = torch.tensor([[1, 4]]), torch.tensor([1.0, 2.0])
    first, both = sparse(files, indices, values), sparse(files, indices + 1, values + 1)
    pairs: list[tuple[Tensor, Tensor]] = [(first, both), (first, sparse(files, indices, values + 1))]
    assert [outcome.note for outcome in files.compare(*pairs)] == ["other indices, values", "other values"]
    pairs = [(first, sparse(files, indices.int(), values)), (first, files.info(values))]
    pairs += [(first, sparse(files, indices[:, :1], values[:1])), (files.info(values), first)]
    assert [(outcome.equal, outcome.note) for outcome in files.compare(*pairs)] == [
        (False, "indices of another dtype or shape"),
        (False, "one is made of parts, the other is not"),
        (False, "indices of another dtype or shape"),
        (False, "one is made of parts, the other is not"),
    ]


def without(value: Tensor, *names: str) -> Tensor:
    assert isinstance(value, CompositeTensor)
    return value._replace(
        parts=tuple(
            part._replace(value=part.value._replace(storage=None))
            if part.name in names and isinstance(part.value, TensorInfo)
            else part
            for part in value.parts
        )
    )


def test_parts_without_bytes_are_no_values(tmp_path: Path) -> None:
    files = Files(tmp_path)
    whole = sparse(files, torch.tensor([[1, 4]]), torch.tensor([1.0, 2.0]))
    bare = without(whole, "values")
    outcomes = files.compare((whole, bare), (bare, whole), (bare, bare))
    assert [(outcome.equal, outcome.note) for outcome in outcomes] == [
        (False, "no values of values"), (False, "no values of values"), (None, "no values of values")
    ]  # fmt: skip
    empty = sparse(files, torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0))
    assert files.compare((empty, without(empty, "values", "indices")))[0].equal is True


def test_numbers_below_a_byte_are_compared_from_a_whole_one_on(tmp_path: Path) -> None:
    files = Files(tmp_path)
    raw = torch.arange(12, dtype=torch.uint8)
    a, b = (
        files.info(raw + by)._replace(dtype=BY_NAME["float6_e2m3fn"], shape=(8,), stride=(1,))
        for by in (0, 0)
    )
    for offset in (0, 4, 8):
        first, second = a._replace(storage_offset=offset), b._replace(storage_offset=offset)
        assert files.compare((first, second))[0].equal is True
    for offset in (1, 2, 3, 6):
        for at in range(2):
            odd = (a, b)[at]._replace(storage_offset=offset)
            with pytest.raises(UnsupportedFeature) as caught:
                files.compare((odd, b) if at == 0 else (a, odd))
            assert caught.value.feature == "float6_e2m3fn that does not begin on a byte"
            assert odd.storage is not None and caught.value.path == odd.storage.file


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), max_size=3))
def test_steps_that_are_apart_lead_to_as_many_elements(dims: list[tuple[int, int]]) -> None:
    shape, stride = tuple(size for size, _ in dims), tuple(step for _, step in dims)
    moving = [(size, step) for size, step in dims if step and size > 1]
    places = [
        sum(at * step for at, (_, step) in zip(index, moving, strict=True))
        for index in itertools.product(*(range(size) for size, _ in moving))
    ]
    if compare._steps_apart(TensorInfo(BY_NAME["uint8"], shape, stride, 0, None)):
        assert len(set(places)) == len(places)


@given(st.permutations(range(3)), *[st.tuples(*[st.integers(1, 4)] * 3)] * 2, st.booleans())
def test_steps_of_what_is_sliced_turned_and_expanded_are_apart(
    order: list[int], sizes: tuple[int, ...], steps: tuple[int, ...], expanded: bool
) -> None:
    made = torch.empty(sizes)[tuple(slice(None, None, step) for step in steps)].permute(order)
    if expanded:
        made = made.unsqueeze(1).expand(-1, 3, -1, -1)
    assert compare._steps_apart(TensorInfo(BY_NAME["float32"], tuple(made.shape), made.stride(), 0, None))
