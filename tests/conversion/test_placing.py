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


@st.composite
def views(draw: Any, names: tuple[str, ...]) -> Wanted:
    """A view of one of the storages, mostly of the first, that lies inside it."""
    kind = BY_NAME[draw(st.sampled_from(names))]
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


@pytest.mark.parametrize(
    "names", [(name,) for name in (*TYPED, *UNTYPED)] + [TYPED, UNTYPED, TYPED + UNTYPED]
)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@settings(max_examples=10)
@given(data=st.data())
def test_views_keep_their_elements_and_share_what_they_shared(
    names: tuple[str, ...], count: int, data: Any
) -> None:
    wanted = data.draw(st.lists(views(names), min_size=count, max_size=count))
    placing = Placing()
    placed = placing.share_all(wanted)
    assert len(placed) == len(wanted)
    for item, place in zip(wanted, placed, strict=True):
        piece = placing.pieces[place.piece]
        assert (place.shape, place.dtype) == (item.info.shape, item.cast or item.info.dtype)
        assert piece.cast == item.cast
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


FLOATS, HALF = BY_NAME["float32"], BY_NAME["bfloat16"]


def row(start: int, numel: int, key: str = "a", **more: Any) -> TensorInfo:
    return TensorInfo(FLOATS, (numel,), (1,), start, STORAGES[key]._replace(**more))


def test_what_is_cast_shares_with_nothing_but_its_ties() -> None:
    wanted = [Wanted(row(0, 6)), Wanted(row(2, 6), HALF), Wanted(row(2, 6), HALF), Wanted(row(2, 6)),
              Wanted(row(3, 6), HALF)]  # fmt: skip
    placing = Placing()
    assert placing.share_all(wanted) == [
        Placed(0, FLOATS, (6,), (1,)), Placed(1, HALF, (6,), (1,)), Placed(1, HALF, (6,), (1,)),
        Placed(2, FLOATS, (6,), (1,)), Placed(3, HALF, (6,), (1,)),
    ]  # fmt: skip
    assert [(piece.source, piece.nbytes, piece.cast) for piece in placing.pieces] == [
        (row(0, 6), 24, None), (row(2, 6), 12, HALF), (row(2, 6), 24, None), (row(3, 6), 12, HALF)
    ]  # fmt: skip


def test_a_storage_is_its_place_in_a_file_wherever_its_tensors_were() -> None:
    wanted = [Wanted(row(0, 4)), Wanted(row(0, 4, location="cuda:0")), Wanted(row(2, 4, location="cuda:1"))]
    assert Placing().share_all(wanted[:2]) == [Placed(0, FLOATS, (4,), (1,))] * 2
    assert Placing().share_all(wanted) == [Placed(0, FLOATS, (4,), (1,), start) for start in (0, 0, 2)]
    assert overlapping(wanted) == [[0, 1, 2]]
    for more in ({"location": "cuda:0"}, {"location": None}, {"nbytes": 40}):  # what is no part of its place
        same = Wanted(row(0, 4, **more))
        assert (same.view, same.span) == (wanted[0].view, wanted[0].span)
        one, other = (ChunkedTensor(FLOATS, (4,), (Chunk((0,), w.info),)) for w in (same, wanted[0]))
        assert (Wanted(one).view, Wanted(one).span) == (Wanted(other).view, Wanted(other).span)
        assert overlapping([wanted[0], Wanted(row(2, 4, **more))]) == [[0, 1]]
    for other in ({"file": "other"}, {"key": "b"}, {"byte_offset": 64}):
        placed = Placing().share_all([wanted[0], Wanted(row(0, 4, **other))])
        assert [place.piece for place in placed] == [0, 1]
        assert overlapping([wanted[0], Wanted(row(0, 4, **other))]) == []


def test_one_tensor_under_two_names_is_the_same_in_everything() -> None:
    info = row(2, 4)
    others = [
        info._replace(**change)
        for change in (
            {"dtype": BY_NAME["int32"]}, {"shape": (2, 2)}, {"stride": (2,)}, {"storage_offset": 3},
            {"storage": STORAGES["b"]}, {"storage": None}, {"conj": True}, {"neg": True}, {"shape": (0,)},
        )
    ]  # fmt: skip
    assert Wanted(info).view == Wanted(row(2, 4)).view
    assert Wanted(info, HALF).view == Wanted(row(2, 4), HALF).view != Wanted(info).view
    views = {Wanted(each, cast).view for each in (info, *others) for cast in (None, HALF)}
    assert len(views) == 2 * (1 + len(others))
    chunk = Chunk((4,), info)
    for change in (chunk._replace(offsets=(0,)), *(Chunk((4,), other) for other in others)):
        whole, other = (
            Wanted(ChunkedTensor(FLOATS, (8,), (Chunk((0,), row(0, 4)), each))) for each in (chunk, change)
        )
        again = Wanted(ChunkedTensor(FLOATS, (8,), tuple(whole.info.chunks)))
        assert whole.view == again.view
        # Those of a chunk have the type of the whole.
        assert (whole.view == other.view) is (change.value.dtype is not FLOATS)
        assert whole.view != Wanted(whole.info, HALF).view
    for more in ({"dtype": HALF}, {"shape": (2, 4)}):
        assert (
            Wanted(ChunkedTensor(FLOATS, (8,), (chunk,))).view
            != Wanted(
                ChunkedTensor(FLOATS, (8,), (chunk,))._replace(**more)  # type: ignore[arg-type]
            ).view
        )
    empty = Wanted(row(0, 0))
    assert empty.view != Wanted(row(0, 0)).view and empty.span is None


@pytest.mark.parametrize("key", ["a", "big"])
@pytest.mark.parametrize("other", ["float8_e5m2", "uint16", "uint32"])
def test_one_storage_of_numbers_in_the_other_byte_order_is_not_shared_by_two_widths(
    key: str, other: str
) -> None:
    """Bytes are turned by the width of a piece."""
    wanted = [Wanted(TensorInfo(BY_NAME[name], (4,), (1,), 0, STORAGES[key])) for name in ("uint8", other)]
    placed = Placing().share_all(wanted)
    assert (placed[0].piece == placed[1].piece) is (key == "a" or other == "float8_e5m2")


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([(0, 2), (1, 2)], (0, 3)),
        ([(0, 3), (1, 1), (2, 10)], (0, 12)),
        ([(3, 4), (6, 1)], (3, 7)),
        ([(0, 2), (1, 1), (2, 2)], None),  # the last one touches them, and shares nothing
    ],
    ids=str,
)
def test_a_piece_reaches_from_the_first_byte_that_is_viewed_to_the_last(
    spans: list[tuple[int, int]], kept: tuple[int, int] | None
) -> None:
    placing = Placing()
    placed = placing.share_all([Wanted(row(start, numel)) for start, numel in spans])
    if kept is None:
        assert [(place.piece, place.storage_offset) for place in placed] == [(0, 0), (0, 1), (1, 0)]
        return
    (piece,) = placing.pieces
    assert (piece.source, piece.nbytes) == (row(kept[0], kept[1] - kept[0]), 4 * (kept[1] - kept[0]))
    assert [place.storage_offset for place in placed] == [start - kept[0] for start, _ in spans]


@pytest.mark.parametrize(("step", "shared"), [(3, True), (4, True), (5, False)])
def test_bytes_between_the_elements_are_kept_up_to_as_many_as_the_elements_are(
    step: int, shared: bool
) -> None:
    """Two views of two elements each: 16 bytes of elements, and a span of up to 32."""
    pair = [TensorInfo(FLOATS, (2,), (step,), at, STORAGES["a"]) for at in (0, 3)]
    placing = Placing()
    placed = placing.share_all([Wanted(info) for info in pair])
    span = (3 + step + 1) * 4
    assert shared is (span <= 2 * 16)
    assert [piece.nbytes for piece in placing.pieces] == ([span] if shared else [8, 8])
    assert [place.stride for place in placed] == [(step if shared else 1,)] * 2


@pytest.mark.parametrize(
    ("shape", "stride", "kept"),
    [
        ((2, 3), (1, 2), True),
        ((3, 2), (0, 1), True),
        ((2, 2), (1, 3), False),
        ((2, 1), (2, 2), False),
        ((3,), (2,), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("cast", [None, HALF])
def test_strides_stay_where_a_view_fills_its_span(
    shape: tuple[int, ...], stride: tuple[int, ...], kept: bool, cast: Any
) -> None:
    info = TensorInfo(FLOATS, shape, stride, 1, STORAGES["a"])
    placing = Placing()
    [place] = placing.share_all([Wanted(info, cast)])
    numel = shape[0] * shape[-1] if len(shape) == 2 else shape[0]
    held = len(set(addresses(info))) if kept and cast is None else numel
    assert (place.dtype, placing.pieces[0].nbytes) == (cast or FLOATS, held * (cast or FLOATS).nbytes)
    assert (place.stride == stride) is (kept and cast is None)
    assert place.storage_offset == 0


def test_bytes_of_a_piece_are_a_row(tmp_path: Any) -> None:
    placing = Placing()
    place = placing.pack(Wanted(TensorInfo(BY_NAME["float6_e2m3fn"], (2, 4), (4, 1), 0, STORAGES["a"])))
    assert placing.pieces[place.piece].nbytes == 6
    assert as_bytes(place, placing) == Placed(0, BY_NAME["uint8"], (6,), (1,))
