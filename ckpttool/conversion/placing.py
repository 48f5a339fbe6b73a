"""Where the bytes of tensors go: which views share a piece of the destination, and which are packed apart.

safetensors knows packed tensors only: each has a piece of its own. A ``.pt`` knows views: tensors that
are the same view stay tied, views that overlap keep their overlap, and a dense tensor in another order
(transposed, channels_last, expanded) keeps its strides, which also makes it a plain copy. Views of one
storage that do not overlap are split, and only what is referenced is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ckpttool.values.checkpoint import StorageRef, TensorInfo, packed_stride
from ckpttool.values.conversion import Piece, Placed
from ckpttool.values.dtypes import BY_NAME, DType

_SPARSE_SPAN = 2  # a span that holds more than this many times the elements of its views is packed


class Wanted(NamedTuple):
    """A strided tensor to place, cast to ``cast`` if given."""

    info: TensorInfo
    cast: DType | None = None

    @property
    def view(self) -> tuple[object, ...]:
        """What is equal for two that are one tensor under two names."""
        info = self.info
        # Tensors without elements share nothing: each is a place of its own.
        place = info.storage[:3] if info.storage is not None and info.numel else object()
        return (
            place,
            info.dtype.name,
            info.shape,
            info.stride,
            info.storage_offset,
            info.conj,
            info.neg,
            self.cast,
        )


class Placing:
    """Pieces, and for each wanted tensor its place in them."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def pack(self, wanted: Wanted) -> Placed:
        """A piece of its own, packed in row-major order."""
        info, cast = wanted
        dtype = cast or info.dtype
        nbytes = (info.numel * dtype.bits + 7) // 8
        self.pieces.append(Piece(info, nbytes, cast))
        return Placed(len(self.pieces) - 1, dtype, info.shape, packed_stride(info.shape))

    def pack_all(self, wanted: Sequence[Wanted]) -> list[Placed]:
        """A piece for each, tied or not."""
        return [self.pack(item) for item in wanted]

    def share_all(self, wanted: Sequence[Wanted]) -> list[Placed]:
        """Pieces in the order of ``wanted``; what shares bytes in the source does so in them."""
        placed: list[Placed | None] = [None] * len(wanted)
        groups = _group(wanted)
        for position in range(len(wanted)):
            if placed[position] is not None:
                continue
            members = groups.get(position, [position])
            for member, place in zip(members, self._place_group([wanted[m] for m in members]), strict=True):
                placed[member] = place
        return [place for place in placed if place is not None]

    def _place_group(self, members: list[Wanted]) -> list[Placed]:
        """Places of tensors whose spans meet, in the order given."""
        views = {item.view: item for item in members}
        first = members[0]
        if len(views) == 1:
            place = self._place_alone(first)
            return [place] * len(members)
        spans = [item.info.byte_span for item in views.values()]
        start, end = min(span[0] for span in spans), max(span[1] for span in spans)
        packed = sum(item.info.nbytes for item in views.values())
        if _can_share(list(views.values())) and end - start <= _SPARSE_SPAN * packed:
            return self._share_span(members, start, end)
        places = {view: self._place_alone(item) for view, item in views.items()}
        return [places[item.view] for item in members]

    def _place_alone(self, wanted: Wanted) -> Placed:
        """One view: with its strides if it is dense in some order, else packed."""
        info = wanted.info
        start, end = info.byte_span
        keeps_strides = (
            not info.is_contiguous
            and wanted.cast is None
            and not (info.conj or info.neg)
            and info.dtype.bits % 8 == 0
            and end - start <= info.nbytes
        )
        return self._share_span([wanted], start, end)[0] if keeps_strides else self.pack(wanted)

    def _share_span(self, members: list[Wanted], start: int, end: int) -> list[Placed]:
        """One piece of the bytes from ``start`` to ``end`` of the storage, and views of it."""
        info = members[0].info
        item = info.dtype.nbytes
        whole = TensorInfo(info.dtype, ((end - start) // item,), (1,), start // item, info.storage)
        self.pieces.append(Piece(whole, end - start))
        piece = len(self.pieces) - 1
        return [
            Placed(piece, i.dtype, i.shape, i.stride, i.storage_offset - start // item, i.conj, i.neg)
            for i, _ in members
        ]


def as_bytes(placed: Placed, placing: Placing) -> Placed:
    """The same piece as a flat tensor of uint8."""
    return Placed(placed.piece, BY_NAME["uint8"], (placing.pieces[placed.piece].nbytes,), (1,))


def overlapping(wanted: Sequence[Wanted]) -> list[list[int]]:
    """Positions of tensors that share bytes, as groups of two or more."""
    return [group for group in _distinct(_group(wanted)) if len(group) > 1]


def _can_share(members: list[Wanted]) -> bool:
    """Whether one storage can hold them: one element type of whole bytes, nothing cast."""
    dtype = members[0].info.dtype
    return dtype.bits % 8 == 0 and all(item.info.dtype is dtype and item.cast is None for item in members)


def _group(wanted: Sequence[Wanted]) -> dict[int, list[int]]:
    """Position -> positions of all whose spans overlap, itself included; by storage, then by span."""
    by_storage: dict[tuple[object, ...], list[int]] = {}
    for position, item in enumerate(wanted):
        storage = item.info.storage
        if storage is not None and storage.nbytes and item.info.numel:
            by_storage.setdefault(storage[:3], []).append(position)
    groups: dict[int, list[int]] = {}
    for positions in by_storage.values():
        if len(positions) == 1:
            continue
        ranked = sorted((wanted[p].info.byte_span, p) for p in positions)
        group: list[int] = []
        reached = -1
        for (start, end), position in ranked:
            if start >= reached:
                group = []
            group.append(position)
            groups[position] = group
            reached = max(reached, end)
    for group in _distinct(groups):
        group.sort()
    return groups


def _distinct(groups: dict[int, list[int]]) -> Collection[list[int]]:
    """Each group once: all of its members lead to the same list."""
    return {id(group): group for group in groups.values()}.values()


def is_without_bytes(info: TensorInfo) -> bool:
    """Whether a tensor has elements but no bytes: on the meta device."""
    storage: StorageRef | None = info.storage
    return info.numel > 0 and (storage is None or storage.location == "meta")
