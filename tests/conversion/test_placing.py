"""Where views go: held against the addresses of their bytes, which are counted here one by one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.conversion.placing import Placing, Wanted, as_bytes, overlapping
from ckpttool.values.checkpoint import Chunk, ChunkedTensor, StorageRef, TensorInfo
from ckpttool.values.conversion import Piece, Placed
from ckpttool.values.dtypes import BY_NAME

NBYTES = 48
STORAGES = {
    key: StorageRef("file", key, at * 64, NBYTES, big_endian=key == "big")
    for at, key in enumerate(("a", "b", "big"))
}
TYPED, UNTYPED = ("int16", "float32"), ("uint8", "uint16", "float8_e5m2", "uint32")
dtypes = st.sampled_from([*TYPED, *UNTYPED]).map(BY_NAME.__getitem__)


@st.composite
def views(draw: Any, dtype: Any = dtypes) -> Wanted:
    """A view of one of the storages, mostly of the first, that lies inside it."""
    kind = draw(dtype)
    storage = STORAGES[draw(st.sampled_from("aaaab"))] if kind.name == "int16" else STORAGES["a"]
    if draw(st.integers(0, 5)) == 0:
        storage = STORAGES["big"]
    room = NBYTES // kind.nbytes
    offset = draw(st.integers(0, room - 1))
    shape, stride, last = [], [], offset
    for _ in range(draw(st.integers(0, 2))):
        step = draw(st.sampled_from([0, 1, 1, 2, 3, 4]))
        most = (room - 1 - last) // step + 1 if step else 3
        size = draw(st.integers(0, min(most, 4)))
        shape.append(size)
        stride.append(step)
        last += max(size - 1, 0) * step
    cast = BY_NAME["bfloat16"] if kind.name == "float32" and draw(st.integers(0, 3)) == 0 else None
    return Wanted(TensorInfo(kind, tuple(shape), tuple(stride), offset, storage), cast)


def addresses(info: TensorInfo | Placed) -> list[int]:
    """The first byte of each element in its storage or piece, in row-major order."""
    places = itertools.product(*map(range, info.shape))
    starts = (sum(map(int.__mul__, place, info.stride)) for place in places)
    return [(info.storage_offset + start) * info.dtype.nbytes for start in starts]


def source_bytes(info: Any) -> list[tuple[str, int]]:
    """The bytes of the source, by storage and address, that are the elements in order."""
    key, width = info.storage.key, info.dtype.nbytes
    return [(key, start + byte) for start in addresses(info) for byte in range(width)]


def placed_bytes(placed: Placed, piece: Piece) -> list[tuple[str, int]]:
    held = source_bytes(piece.source)
    width = placed.dtype.nbytes
    return [held[start + byte] for start in addresses(placed) for byte in range(width)]


def span(wanted: Wanted) -> tuple[str, int, int]:
    found = source_bytes(wanted.info)
    return found[0][0], min(at for _, at in found), max(at for _, at in found) + 1


def touching(wanted: list[Wanted]) -> list[set[int]]:
    """Positions whose spans overlap, directly or by way of others."""
    groups: list[set[int]] = []
    for position, item in enumerate(wanted):
        group = {position}
        if item.info.numel:
            key, start, end = span(item)
            for other in list(groups):
                for member in other:
                    if not wanted[member].info.numel:
                        continue
                    there, low, high = span(wanted[member])
                    if there == key and low < end and start < high:
                        groups.remove(other)
                        group |= other
                        break
        groups.append(group)
    return sorted(groups, key=min)


def may_share(members: list[Wanted]) -> bool:
    """Whether torch can hold them over one storage, and they fill it."""
    names = {item.info.dtype.name for item in members}
    widest = max(item.info.dtype.nbytes for item in members)
    if any(item.cast for item in members) or (len(names) > 1 and not names <= set(UNTYPED)):
        return False
    if len(names) > 1 and span(members[0])[0] == "big" and widest > 1:
        return False
    spans = [span(item) for item in members]
    start, end = min(low for _, low, _ in spans), max(high for *_, high in spans)
    return end - start // widest * widest <= 2 * sum(len(source_bytes(item.info)) for item in members)


@settings(max_examples=300)
@given(st.lists(views(), min_size=1, max_size=5) | st.lists(views(st.just(BY_NAME["uint16"])), max_size=6))
def test_views_keep_their_elements_and_share_what_they_shared(wanted: list[Wanted]) -> None:
    placing = Placing()
    placed = placing.share_all(wanted)
    assert len(placed) == len(wanted)
    for item, place in zip(wanted, placed, strict=True):
        piece = placing.pieces[place.piece]
        assert (place.shape, place.dtype) == (item.info.shape, item.cast or item.info.dtype)
        assert (piece.cast, piece.nbytes % (place.dtype.nbytes)) == (item.cast, 0)
        if item.cast is None:
            assert placed_bytes(place, piece) == source_bytes(item.info)
            assert piece.nbytes == len(source_bytes(piece.source))
        else:
            assert (piece.source, piece.nbytes) == (item.info, item.info.numel * 2)
    groups = touching(wanted)
    assert sorted(map(sorted, overlapping(wanted))) == [sorted(group) for group in groups if len(group) > 1]
    order = [[placed[position].piece for position in sorted(group)] for group in groups]
    assert [min(pieces) for pieces in order] == sorted(min(pieces) for pieces in order)
    for group, pieces in zip(groups, order, strict=True):
        members = [wanted[position] for position in sorted(group)]
        distinct = {(item.info._replace(storage=None), item.cast) for item in members}
        if len(distinct) > 1 and may_share(members_of(members)):
            assert len(set(pieces)) == 1
            continue
        for (item, piece), (other, beside) in itertools.combinations(zip(members, pieces, strict=True), 2):
            assert (piece == beside) is (item == other and item.info.numel > 0)
        for item, place in zip(members, (placed[position] for position in sorted(group)), strict=True):
            content = source_bytes(item.info)
            if not content:
                continue
            dense = item.cast is None and span(item)[2] - span(item)[1] <= len(content)
            packed = TensorInfo(place.dtype, place.shape, place.stride, 0, None).is_contiguous
            assert packed or dense
            if dense and not item.info.is_contiguous:
                assert (place.stride, place.storage_offset) == (item.info.stride, 0)


def members_of(members: list[Wanted]) -> list[Wanted]:
    """Each view once: a tie takes no room."""
    return list(dict.fromkeys(members))


@pytest.mark.parametrize("storage", [None, STORAGES["a"]._replace(nbytes=0)])
@pytest.mark.parametrize("name", ["quint4x2", "float32", "uint8", "float6_e2m3fn"])
def test_nothing_is_a_piece_of_nothing(name: str, storage: StorageRef | None) -> None:
    placing = Placing()
    empty = Wanted(TensorInfo(BY_NAME[name], (0, 4), (4, 1), 0, storage))
    placed = placing.share_all([empty, empty])
    assert [piece.nbytes for piece in placing.pieces] == [0, 0]
    assert [(place.piece, place.shape) for place in placed] == [(0, (0, 4)), (1, (0, 4))]


@pytest.mark.parametrize(("shape", "offset"), [((2, 3), 0), ((3,), 1)])
def test_numbers_that_share_bytes_take_the_whole_storage(shape: tuple[int, ...], offset: int) -> None:
    placing = Placing()
    info = TensorInfo(BY_NAME["quint4x2"], shape, tuple(range(len(shape), 0, -1)), offset, STORAGES["b"])
    [place] = placing.share_all([Wanted(info)])
    [piece] = placing.pieces
    assert (piece.nbytes, piece.source.dtype.name, place.storage_offset) == (NBYTES, "uint8", offset)
    assert (place.dtype, place.shape, place.stride) == info[:3]


@pytest.mark.parametrize("cast", [None, BY_NAME["bfloat16"]])
def test_a_tensor_in_chunks_is_packed_alone_or_beside_another(cast: Any) -> None:
    kind = BY_NAME["float32"]
    rows = [TensorInfo(kind, (1, 2), (2, 1), at, STORAGES["a"]) for at in (0, 4)]
    whole = ChunkedTensor(kind, (2, 2), tuple(Chunk((at, 0), row) for at, row in enumerate(rows)))
    placing = Placing()
    placed = placing.share_all([Wanted(whole, cast), Wanted(rows[0]), Wanted(whole, cast)])
    assert [(place.piece, place.shape, place.stride) for place in placed] == [
        (0, (2, 2), (2, 1)), (1, (1, 2), (2, 1)), (0, (2, 2), (2, 1))
    ]  # fmt: skip
    assert [(piece.source, piece.cast) for piece in placing.pieces] == [(whole, cast), (rows[0], None)]
    other = whole._replace(chunks=tuple(reversed(whole.chunks)))
    assert len({place.piece for place in Placing().share_all([Wanted(whole), Wanted(other)])}) == 2


def test_bytes_of_a_piece_are_a_row(tmp_path: Any) -> None:
    placing = Placing()
    place = placing.pack(Wanted(TensorInfo(BY_NAME["float6_e2m3fn"], (2, 4), (4, 1), 0, STORAGES["a"])))
    assert placing.pieces[place.piece].nbytes == 6
    assert as_bytes(place, placing) == Placed(0, BY_NAME["uint8"], (6,), (1,))
