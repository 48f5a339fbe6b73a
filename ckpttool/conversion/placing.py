"""Where the bytes of tensors go: which views share a piece of the destination, and which are packed apart.

safetensors knows packed tensors only: each has a piece of its own. A ``.pt`` knows views: tensors that
are the same view stay tied, views that overlap keep their overlap, and a dense tensor in another order
(transposed, channels_last, expanded) keeps its strides, which also makes it a plain copy. Views of one
storage that do not overlap are split, and only what is referenced is written. A storage of elements that
share a byte (quint4x2) stays whole: torch counts offsets in it in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ckpttool.files.strides import segments
from ckpttool.values.checkpoint import Basis, Key, Root, Strided, TensorInfo, packed_stride, parts
from ckpttool.values.conversion import Piece, Placed, PlacedComposite, Planned
from ckpttool.values.dtypes import BY_NAME, DType
from ckpttool.values.inspection import Row

_SPARSE_SPAN = 2  # a span that holds more than this many times the elements of its views is packed


class Wanted(NamedTuple):
    """A strided tensor to place, cast to ``cast`` if given."""

    info: Strided
    cast: DType | None = None

    @property
    def view(self) -> tuple[object, ...]:
        """What is equal for two that are one tensor under two names."""
        info = self.info
        if not info.numel:  # tensors without elements share nothing: each is a place of its own
            return (object(),)
        if isinstance(info, TensorInfo):
            return (info.storage and info.storage[:3], self.cast, *info[:4], *info[5:])
        views = [(at, v.storage and v.storage[:3], *v[1:4], *v[5:]) for at, v in info.chunks]
        return (info.dtype, info.shape, self.cast, *views)

    @property
    def span(self) -> tuple[object, int, int] | None:
        """Storage, start and end of its bytes, of the first chunk's if there are several."""
        if not self.info.numel:
            return None
        view = self.info if isinstance(self.info, TensorInfo) else self.info.chunks[0].value
        return (view.storage and view.storage[:3], *view.byte_span)


class Item(NamedTuple):
    """A kept tensor under its new name; ``root`` is where it stands in the destination."""

    row: Row
    root: Root
    name: Key
    cast: DType | None

    @property
    def leaves(self) -> list[Wanted]:
        """The strided tensors that it is made of, in order of its parts."""
        return [Wanted(part, self.cast) for _, part in parts(self.row.entry.value)]

    def planned(self, root: Root, name: Key, placed: Placed | PlacedComposite) -> Planned:
        """The item at its place."""
        entry, classification, _ = self.row
        return Planned(root, name, placed, entry, classification, self.is_parameter)

    @property
    def is_parameter(self) -> bool:
        """Whether it was saved as an ``nn.Parameter``."""
        return self.row.entry.declared.basis is Basis.PICKLED_PARAMETER


class Placing:
    """Pieces, and for each wanted tensor its place in them."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def pack(self, wanted: Wanted) -> Placed:
        """A piece of its own, packed in row-major order."""
        info, cast = wanted
        dtype = cast or info.dtype
        nbytes = (info.numel * dtype.bits + 7) // 8
        self.pieces.append(Piece(info, nbytes, segments(info), cast))
        return Placed(len(self.pieces) - 1, dtype, info.shape, packed_stride(info.shape))

    def share_all(self, wanted: Sequence[Wanted]) -> list[Placed]:
        """Pieces in the order of ``wanted``; what shares bytes in the source does so in them."""
        placed: dict[int, Placed] = {}
        for group in sorted(_group(wanted)):
            places = self._place_group([wanted[position] for position in group])
            placed.update(zip(group, places, strict=True))
        return [placed[position] for position in range(len(wanted))]

    def _place_group(self, members: list[Wanted]) -> list[Placed]:
        """Places of tensors whose spans meet, in the order given."""
        views = [item.view for item in members]
        distinct = dict(zip(views, members, strict=True))
        several = len(distinct) > 1 or members[0].info.dtype.bits % 8
        shared = _shared_span(list(distinct.values())) if several else None
        if shared is not None:
            return self._share_span(members, *shared)
        places = {view: self._place_alone(item) for view, item in distinct.items()}
        return [places[view] for view in views]

    def _place_alone(self, wanted: Wanted) -> Placed:
        """One view: with its strides if it is dense in some order, else packed."""
        info = wanted.info
        if isinstance(info, TensorInfo) and not info.is_contiguous and wanted.cast is None:
            start, end = info.byte_span
            if end - start <= info.nbytes:
                return self._share_span([wanted], start, end)[0]
        return self.pack(wanted)

    def _share_span(self, members: list[Wanted], start: int, end: int) -> list[Placed]:
        """One piece of the bytes from ``start`` to ``end`` of the storage, and views of it."""
        views = [item.info.chunks[0].value for item in members]
        (dtype, *others), storage = {view.dtype for view in views}, views[0].storage
        if others or dtype.bits % 8:
            dtype = BY_NAME["uint8"]
        whole = TensorInfo(dtype, ((end - start) // dtype.nbytes,), (1,), start // dtype.nbytes, storage)
        piece = self.pack(Wanted(whole)).piece
        return [
            Placed(piece, v.dtype, v.shape, v.stride, v.storage_offset - start // v.dtype.nbytes, *v[5:])
            for v in views
        ]


def as_bytes(placed: Placed, placing: Placing) -> Placed:
    """The same piece as a flat tensor of uint8."""
    return Placed(placed.piece, BY_NAME["uint8"], (placing.pieces[placed.piece].nbytes,), (1,))


def overlapping(wanted: Sequence[Wanted]) -> list[list[int]]:
    """Positions of tensors that share bytes, as groups of two or more."""
    return [group for group in _group(wanted) if len(group) > 1]


def _shared_span(members: list[Wanted]) -> tuple[int, int] | None:
    """Start and end of the bytes that one storage should hold for all, uncast and of what it can hold.

    That is one dtype, or several of those whose storage torch calls untyped (float8, uint16; uint8 as well).
    """
    views = [item.info for item in members if isinstance(item.info, TensorInfo) and item.cast is None]
    dtypes, storage = {item.info.dtype for item in members}, members[0].info.chunks[0].value.storage
    widest = max(dtype.nbytes for dtype in dtypes)
    untyped = all(dtype.storage is None or dtype.name == "uint8" for dtype in dtypes)
    if len(views) < len(members) or storage is None or (len(dtypes) > 1 and not untyped):
        return None
    if len(dtypes) > 1 and storage.big_endian and widest > 1:
        return None  # as many byte orders as widths
    if any(dtype.bits % 8 for dtype in dtypes):
        return 0, storage.nbytes
    start, end = min(view.byte_span[0] for view in views), max(view.byte_span[1] for view in views)
    start -= start % widest
    return (start, end) if end - start <= _SPARSE_SPAN * sum(view.nbytes for view in views) else None


def _group(wanted: Sequence[Wanted]) -> Iterator[list[int]]:
    """Positions of tensors whose spans overlap, each position in one group; by storage, then by span."""
    by_storage: dict[object, list[tuple[int, int, int]]] = {}
    for position, item in enumerate(wanted):
        span = item.span
        if span is None:
            yield [position]
        else:
            by_storage.setdefault(span[0], []).append((*span[1:], position))
    for spans in by_storage.values():
        group: list[int] = []
        reached = -1
        for start, end, position in sorted(spans):
            if group and start >= reached:
                yield sorted(group)
                group = []
            group.append(position)
            reached = max(reached, end)
        yield sorted(group)
