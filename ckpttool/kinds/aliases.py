"""Which entries share bytes: ties, overlapping views, and bytes that no tensor refers to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ckpttool.values.checkpoint import Entry, StorageRef, Tensor, TensorInfo, views_of

_COMPARED_VIEWS = 8
"""A view is compared with this many of the views that start before it in the same storage, and
with the one that reaches furthest: exact for packed views, and linear for any."""


class Bloat(NamedTuple):
    """A storage that holds more than its tensors: ``entry`` is the first one that views it."""

    entry: Entry
    unreferenced_nbytes: int


class Aliasing(NamedTuple):
    """What a list of entries shares. Tensors without elements share nothing.

    ``tied_to`` is parallel to the entries: the first one that is the same view of the same bytes,
    None for that first one itself. ``overlaps`` are pairs of unequal views with bytes in common.
    A storage counts once however many tensors view it, an empty one not at all;
    ``unreferenced_nbytes`` are the bytes that surely no tensor touches. ``locations`` counts
    storages by saved device tag, most frequent first.
    """

    tied_to: tuple[Entry | None, ...]
    overlaps: tuple[tuple[Entry, Entry], ...]
    storages: int
    storage_nbytes: int
    unreferenced_nbytes: int
    bloated: tuple[Bloat, ...]
    locations: tuple[tuple[str, int], ...]


class _View(NamedTuple):
    start: int
    end: int
    entry: int  # position in the list of entries
    tensor: TensorInfo


def find_aliases(entries: Sequence[Entry]) -> Aliasing:
    """Group ``entries`` by the bytes they view."""
    tied_to: list[Entry | None] = [None] * len(entries)
    composites: dict[Tensor | None, int] = {}
    first_user: dict[tuple[str, str, int], tuple[int, TensorInfo, StorageRef]] = {}
    further_users: dict[tuple[str, str, int], list[tuple[int, TensorInfo]]] = {}
    for index, entry in enumerate(entries):
        value = entry.value
        if type(value) is not TensorInfo:
            first = composites.setdefault(value, index)
            # Equal values name equal bytes: parts hold the address. A composite without bytes of its
            # own (all parts empty or on meta) is tied to nothing.
            if first != index and any(part.storage is not None and part.numel for part in views_of(value)):
                tied_to[index] = entries[first]
        for tensor in views_of(value):
            storage = tensor.storage
            if storage is None or not storage.nbytes:
                continue
            key = storage[:3]  # file, key, byte_offset
            if key not in first_user:
                first_user[key] = index, tensor, storage
            else:
                further_users.setdefault(key, []).append((index, tensor))

    overlaps: list[tuple[Entry, Entry]] = []
    bloated: list[Bloat] = []
    for key, (index, tensor, storage) in first_user.items():
        further = further_users.get(key, ())
        if not further and tensor.nbytes == storage.nbytes:
            continue  # the usual case: one tensor that fills its storage
        views = _distinct_views([(index, tensor), *further], entries, tied_to)
        overlaps += ((entries[a], entries[b]) for a, b in _overlapping(views))
        unreferenced = storage.nbytes - _referenced_nbytes(views)
        if unreferenced > 0:
            bloated.append(Bloat(entries[index], unreferenced))
    locations = Counter([storage.location for _, _, storage in first_user.values()])
    return Aliasing(
        tuple(tied_to),
        tuple(overlaps),
        len(first_user),
        sum([storage.nbytes for _, _, storage in first_user.values()]),
        sum(bloat.unreferenced_nbytes for bloat in bloated),
        tuple(bloated),
        tuple([(tag, count) for tag, count in locations.most_common() if tag is not None]),
    )


def _distinct_views(
    users: Iterable[tuple[int, TensorInfo]], entries: Sequence[Entry], tied_to: list[Entry | None]
) -> list[_View]:
    """The unequal views of one storage, by start; what equals an earlier one is noted in ``tied_to``."""
    seen: set[TensorInfo] = set()
    whole: dict[TensorInfo, int] = {}  # of entries that are this view, and not a part of something
    views = []
    for index, tensor in users:
        start, end = tensor.byte_span
        if start == end:
            continue
        bare = tensor._replace(storage=None)
        if bare not in seen:
            seen.add(bare)
            views.append(_View(start, end, index, tensor))
        if type(entries[index].value) is TensorInfo:
            first = whole.setdefault(bare, index)
            if first != index:
                tied_to[index] = entries[first]
    views.sort(key=lambda view: (view.start, view.end, view.entry))
    return views


def _referenced_nbytes(views: Sequence[_View]) -> int:
    """An upper bound of the bytes that ``views`` (by start) touch, exact for packed ones.

    Neither the union of their spans is exceeded, nor the sum of what each touches: of an expanded view, which
    repeats its bytes, no more than its span.
    """
    union = reached = 0
    for start, end, _, _ in views:
        union += max(0, end - max(start, reached))
        reached = max(reached, end)
    return min(union, sum(min(view.end - view.start, view.tensor.nbytes) for view in views))


def _overlapping(views: Sequence[_View]) -> list[tuple[int, int]]:
    """Pairs of entries, earlier one first, whose ``views`` (by start) have elements in common.

    A view is in at most one pair as the later one.
    """
    pairs = []
    furthest = views[:1]
    for position, view in enumerate(views):
        for other in (*views[max(0, position - _COMPARED_VIEWS) : position], *furthest):
            if other.end > view.start and other.entry != view.entry and _may_meet(other.tensor, view.tensor):
                pairs.append((min(other.entry, view.entry), max(other.entry, view.entry)))
                break
        furthest = [max(*furthest, view, key=lambda it: it.end)]
    return pairs


def _may_meet(a: TensorInfo, b: TensorInfo) -> bool:
    """False if two views with overlapping spans are surely disjoint, as columns of one matrix are.

    ``a`` starts no later than ``b``. Slices of one dense parent step by the same strides. Where each
    stride is longer than all that lies within it, an address has one decomposition into steps, so two
    such boxes meet only if they meet along every stride.
    """
    if a.dtype.bits != b.dtype.bits:
        return True
    reaches: tuple[Counter[int], Counter[int]] = Counter(), Counter()  # the distance to the last, by stride
    for reach, tensor in zip(reaches, (a, b), strict=True):
        for size, stride in zip(tensor.shape, tensor.stride, strict=True):
            if stride:
                reach[stride] += size - 1
    rest = b.storage_offset - a.storage_offset
    end_a, end_b = (sum(stride * count for stride, count in reach.items()) for reach in reaches)
    end_b += rest
    apart = False
    for stride in sorted(reaches[0] | reaches[1], reverse=True):
        start, rest = divmod(rest, stride)
        apart |= reaches[0][stride] < start
        end_a -= reaches[0][stride] * stride
        end_b -= (start + reaches[1][stride]) * stride
        if max(end_a, end_b) >= stride:  # it wraps into the next step: not a box
            return True
    return not (apart or rest)
