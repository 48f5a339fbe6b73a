"""The same content under another name, and manifests as sides of a comparison.

A *sample* is a few kilobytes of each tensor and costs three reads; only tensors of equal dtype, shape
and sample on both sides are worth a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from ckpttool.analysis.alignment import Content
from ckpttool.analysis.sides import Placed
from ckpttool.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    FileInfo,
    Key,
    Tensor,
    TensorInfo,
    iter_parts,
)
from ckpttool.digests import Manifest, NamedDigest, digest_tensor
from ckpttool.tensor_bytes import TensorReader

_CONSTANT = b"constant "
_SAMPLE_NBYTES = 2048  # at the start, in the middle and at the end
# An expanded tensor claims more than it stores: up to this many times its bytes it is looked at, and up to
# this much in any case.
_MOST_EXPANDED = 64
_ALWAYS_NBYTES = 1 << 30


def find_contents(
    items_a: Sequence[Any],
    items_b: Sequence[Any],
    files: tuple[Sequence[FileInfo], Sequence[FileInfo]],
    value_of: Callable[[Any], Tensor | None],
) -> dict[int, Content]:
    """Content, by ``id``, of the items of either side that another of the other side may equal."""
    readers = TensorReader(files[0]), TensorReader(files[1])
    sides = (items_a, items_b)
    with readers[0], readers[1]:
        shapes = [[_shape_of(value_of(item)) for item in items] for items in sides]
        shared = set(shapes[0]) & set(shapes[1]) - {None}
        left = [
            [(item, key) for item, key in zip(items, keys, strict=True) if key in shared]
            for items, keys in zip(sides, shapes, strict=True)
        ]
        # A sample means the same on both sides only where elements lie in order on both.
        unordered = {key for side in left for item, key in side if not _is_plain(value_of(item))}
        sampled = [
            [
                (item, (key, None if key in unordered else _sample(reader, value_of(item))))
                for item, key in side
            ]
            for reader, side in zip(readers, left, strict=True)
        ]
        alike = {key for _, key in sampled[0]} & {key for _, key in sampled[1]}
        contents: dict[int, Content] = {}
        known: dict[Tensor, str] = {}
        for reader, side in zip(readers, sampled, strict=True):
            known.clear()
            for item, key in side:
                value = value_of(item)
                if key in alike and value is not None:
                    if value not in known:
                        known[value] = digest_tensor(reader, value)
                    contents[id(item)] = Content(
                        key[0], known[value], key[1] is not None and key[1].startswith(_CONSTANT)
                    )
    return contents


def digest_rows(
    items: Sequence[Placed], files: Sequence[FileInfo], watch: Callable[[int], None] = lambda nbytes: None
) -> list[NamedDigest]:
    """Digests of the tensors that have bytes, under the places where they are compared; ties are read once.

    Raises:
        LimitExceeded: a tensor claims far more elements than its file stores.
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    found: list[NamedDigest] = []
    known: dict[Tensor, str] = {}
    with TensorReader(files) as reader:
        for root, name, row in items:
            value = row.entry.value
            if value is None or any(
                part.storage is None and 0 not in part.shape for part in iter_parts(value)
            ):
                continue
            sha256 = known.get(value)
            if sha256 is None:
                sha256 = known[value] = digest_tensor(reader, value)
                watch(value.nbytes)
            found.append(NamedDigest(root, name, row.classification.kind, value.dtype, value.shape, sha256))
    return found


def manifest_checkpoint(manifest: Manifest) -> tuple[Checkpoint, dict[tuple[Key, ...], str]]:
    """The tensors of a manifest as a checkpoint without bytes, and their digests by path."""
    entries: list[Entry] = []
    digests: dict[tuple[Key, ...], str] = {}
    for root, name, kind, dtype, shape, sha256 in manifest.tensors:
        value: Tensor = CompositeTensor("made of parts", "", dtype, shape, ())
        if dtype is not None and shape is not None:
            value = TensorInfo(dtype, shape, _packed_stride(shape), 0, None)
        entries.append(Entry(root, name, value, declared=Classification(kind, Basis.NONE)))
        path = (*root, name)
        digests[path] = sha256
    return Checkpoint(manifest.path, "manifest", "", (), tuple(entries), ordered=False), digests


def _packed_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride = [1]
    for size in reversed(shape[1:]):
        stride.append(stride[-1] * (size or 1))
    return tuple(reversed(stride))[: len(shape)]


def _shape_of(value: Tensor | None) -> Hashable:
    if value is None or any(not _is_bounded(info) for info in iter_parts(value)):
        return None
    if isinstance(value, TensorInfo):
        return value.dtype.name, value.shape
    return value.layout, tuple((info.dtype.name, info.shape) for info in iter_parts(value)), value.details


def _is_bounded(info: TensorInfo) -> bool:
    """Whether there are bytes, and about as many as are claimed."""
    if 0 in info.shape:
        return True
    if info.storage is None:
        return False
    return info.nbytes <= max(_ALWAYS_NBYTES, _MOST_EXPANDED * info.storage.nbytes)


def _is_plain(value: Tensor | None) -> bool:
    """Whether the first bytes of the storage's run are those of the first elements."""
    if not isinstance(value, TensorInfo) or not value.is_contiguous:
        return False
    storage = value.storage
    flagged = value.conj or value.neg
    return storage is None or not (flagged or storage.big_endian or storage.compressed_nbytes is not None)


def _sample(reader: TensorReader, value: Tensor | None) -> bytes:
    """A digest of a few bytes; ``_CONSTANT`` where these are one byte or one number again and again."""
    if not isinstance(value, TensorInfo) or value.storage is None:
        return b""
    start, end = value.byte_span
    if end - start <= 3 * _SAMPLE_NBYTES:
        offsets = [(start, end - start)]
    else:
        middle = (start + end - _SAMPLE_NBYTES) // 2
        offsets = [(at, _SAMPLE_NBYTES) for at in (start, middle, end - _SAMPLE_NBYTES)]
    sample = bytearray()
    for at, nbytes in offsets:
        data = bytearray(nbytes)
        reader.read_into(value.storage, at, memoryview(data))
        sample += data
    first = sample[: value.dtype.nbytes] or b"\0"
    if sample == first * (len(sample) // len(first)):
        return _CONSTANT + first
    return hashlib.blake2b(sample, digest_size=16).digest()
