"""The same content under another name, and manifests as sides of a comparison.

A *sample* is a few kilobytes of each tensor and costs three reads; only tensors of equal dtype, shape
and sample on both sides are worth a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, TypeGuard

from ckpttool.comparison.alignment import Content
from ckpttool.comparison.sides import Placed, digest_scope
from ckpttool.elements.digests import NamedDigest, SetDigests, claim_limit, digest_set, digest_tensor
from ckpttool.files.strides import segments
from ckpttool.files.tensor_bytes import Files, TensorReader
from ckpttool.values.checkpoint import CompositeTensor, StoredRun, Strided, Tensor, has_bytes, parts

if TYPE_CHECKING:
    from ckpttool.values.inspection import Inspection

_CONSTANT = b"constant "
_SAMPLE_NBYTES = 2048  # at the start, in the middle and at the end
_MOST_EXPANDED = 64  # times its stored bytes a tensor may claim (stride 0) and still be looked at


def find_contents(
    items_a: Sequence[Placed],
    items_b: Sequence[Placed],
    files: tuple[Files, Files],
    *,
    differing: bool = False,
) -> dict[int, Content]:
    """Content, by ``id``, of the items of either side that one of the other side may equal.

    ``differing``: items at one position are known to differ from each other, and often in a few
    elements only, so their samples say nothing.
    """
    contents: dict[int, Content] = {}
    with TensorReader(files[0]) as reader_a, TensorReader(files[1]) as reader_b:
        sides = [
            (
                reader,
                {
                    position: (item, value, _shape_of(value))
                    for position, item in enumerate(items)
                    if (value := item.row.entry.value) is not None and _is_bounded(value)
                },
            )
            for reader, items in ((reader_a, items_a), (reader_b, items_b))
        ]
        shapes = [{shape for _, _, shape in items.values()} for _, items in sides]
        shared = shapes[0] & shapes[1]
        # The end of a run of bytes is the end of the elements only where these lie in order.
        unordered = {
            shape
            for _, items in sides
            for _, value, shape in items.values()
            if shape in shared and not _is_plain(value)
        }
        keys = [
            {
                position: (shape, _sample(reader, value, head_only=shape in unordered))
                for position, (_, value, shape) in items.items()
                if shape in shared
            }
            for reader, items in sides
        ]
        alike = _alike(*keys, differing=differing)
        for (reader, items), side in zip(sides, keys, strict=True):
            digest = cache(partial(digest_tensor, reader))
            for position, key in side.items():
                if key in alike:
                    item, value, shape = items[position]
                    contents[id(item)] = Content(shape, digest(value), key[1].startswith(_CONSTANT))
    return contents


def _alike(a: Mapping[int, Hashable], b: Mapping[int, Hashable], *, differing: bool) -> set[Hashable]:
    """The keys that occur on both sides, and at more than one position if ``differing``."""
    both = set(a.values()) & set(b.values())
    if not differing:
        return both
    positions: dict[Hashable, set[int]] = {}
    for side in (a, b):
        for position, key in side.items():
            positions.setdefault(key, set()).add(position)
    return {key for key in both if len(positions[key]) > 1}


def digest_rows(
    items: Sequence[Placed], files: Files, watch: Callable[[int], None] = lambda nbytes: None
) -> list[NamedDigest]:
    """Digests of the tensors that have bytes, under the places where they are compared; ties are read once.

    Raises:
        LimitExceeded: a tensor claims far more elements than its file stores.
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    found: list[NamedDigest] = []
    with TensorReader(files) as reader:

        @cache
        def digest(value: Tensor) -> str:
            sha256 = digest_tensor(reader, value)
            watch(value.nbytes)
            return sha256

        for root, name, row in items:
            value = row.entry.value
            if has_all_bytes(value):
                kind = row.classification.kind
                found.append(NamedDigest(root, name, kind, value.dtype, value.shape, digest(value)))
    return found


def has_all_bytes(value: Tensor | None) -> TypeGuard[Tensor]:
    """Whether there is a tensor, and bytes of each of its parts."""
    return value is not None and all(has_bytes(part) for _, part in parts(value))


def _shape_of(value: Tensor) -> Hashable:
    """What equal tensors have in common that costs no read."""
    if not isinstance(value, CompositeTensor):
        return value.dtype.name, value.shape
    return value.layout, tuple((part.dtype.name, part.shape) for _, part in parts(value)), value.details


def _is_bounded(value: Tensor) -> bool:
    """Whether there are bytes, and about as many as are claimed."""
    return all(
        has_bytes(part) and part.nbytes <= claim_limit(part, _MOST_EXPANDED) for _, part in parts(value)
    )


def _is_plain(value: Tensor) -> bool:
    """Whether the elements lie in runs of bytes as they are."""
    return isinstance(value, Strided) and segments(value) is not None


def _sample(reader: TensorReader, value: Tensor, *, head_only: bool) -> bytes:
    """A digest of a few elements; ``_CONSTANT`` and the element where they are one again and again."""
    if isinstance(value, CompositeTensor):
        return b""
    if head_only:
        sample = bytes(next(reader.iter_chunks(value, chunk_nbytes=_SAMPLE_NBYTES), b""))
    else:
        sample = b"".join(_iter_samples(reader, segments(value) or (), value.dtype.nbytes))
    first = sample[: value.dtype.nbytes] or b"\0"
    if sample == first * (len(sample) // len(first)):
        return _CONSTANT + first
    return hashlib.blake2b(sample, digest_size=16).digest()


def _iter_samples(reader: TensorReader, runs: Sequence[StoredRun], width: int) -> Iterator[bytes]:
    """The start, the middle and the end of elements of ``width`` bytes laid end to end, or all of few."""
    total = sum(run.nbytes for run in runs)
    wanted = [(0, total)]
    if total > 3 * _SAMPLE_NBYTES:
        middle = (total - _SAMPLE_NBYTES) // 2 // width * width
        wanted = [(at, at + _SAMPLE_NBYTES) for at in (0, middle, total - _SAMPLE_NBYTES)]
    for start, end in wanted:
        before = 0
        for storage, offset, nbytes in runs:
            low, high = max(start - before, 0), min(end - before, nbytes)
            if low < high:
                data = bytearray(high - low)
                reader.read_into(storage, offset + low, memoryview(data))
                yield bytes(data)
            before += nbytes


def digest_weights(
    inspection: Inspection, files: Files, watch: Callable[[int], None] = lambda nbytes: None
) -> SetDigests:
    """Digests of the weights' content, or of the branch or entries that were asked for.

    Raises:
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    return digest_set(digest_rows(digest_scope(inspection), files, watch))
