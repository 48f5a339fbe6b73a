"""The one check of every reader's result: each tensor lies in its storage, each storage in its file.

Exact integer arithmetic throughout, so nothing wraps. ``read_checkpoint`` calls it for every format.
"""

from __future__ import annotations

from math import prod

from ckpttool.formats.base import first_repeated
from ckpttool.values.checkpoint import (
    Checkpoint,
    Chunk,
    ChunkedTensor,
    Entry,
    FileInfo,
    StorageRef,
    TensorInfo,
    parts,
    views_of,
)
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint
from ckpttool.values.words import plural

_MOST_CHUNKS = 1 << 16  # of one tensor: a grid of them takes seconds to prove; 1,024 ranks write 1,024
_MAX_INT64 = 2**63 - 1  # torch keeps sizes, strides, offsets and numel as int64


def validate(checkpoint: Checkpoint) -> None:
    """Prove that every address of ``checkpoint`` is inside what it points into.

    Raises:
        MalformedCheckpoint: a tensor counts beyond int64 or leaves its storage, a storage leaves its
            file or overlaps another one, or two entries have the same root and name.
    """
    try:
        _check_entries(checkpoint)
    except CkptToolError as error:
        error.path = error.path or checkpoint.path
        raise


def _check_entries(checkpoint: Checkpoint) -> None:
    """All tensors, names and storages."""
    storages: dict[str, dict[str, StorageRef]] = {file.path: {} for file in checkpoint.files}
    names: set[tuple[object, object]] = set()
    for entry in checkpoint.entries:
        value = entry.value
        if type(value) is TensorInfo:
            _check_tensor(entry, value, storages)
        else:
            for view in views_of(value):
                _check_tensor(entry, view, storages)
            for _, part in parts(value):
                if type(part) is ChunkedTensor:
                    _check_chunks(entry, part)
        names.add((entry.root, entry.name))
    if len(names) != len(checkpoint.entries):
        repeated = first_repeated(checkpoint.entries, lambda entry: entry[:2])
        raise MalformedCheckpoint("two entries have the same name", name=str(repeated.name))
    for file in checkpoint.files:
        _check_storages(file, storages[file.path])


def _check_tensor(entry: Entry, info: TensorInfo, storages: dict[str, dict[str, StorageRef]]) -> None:
    """What ``info`` counts against int64, and its span against the size that its storage really has."""
    shape, stride = info.shape, info.stride
    if prod(shape) > _MAX_INT64 or max((*shape, *stride, info.storage_offset)) > _MAX_INT64:
        raise MalformedCheckpoint(
            "a tensor's sizes, strides or number of elements do not fit in 63 bits", name=str(entry.name)
        )
    ref = info.storage
    if ref is None:
        return
    storages[ref.file][ref.key] = ref
    last = info.storage_offset
    for size, step in zip(shape, stride):  # noqa: B905  readers compare the lengths
        if size == 0:
            return  # no element, so no address is ever used
        last += (size - 1) * step
    bits, per_offset = info.dtype.bits, info.dtype.per_offset
    if per_offset > 1:  # torch takes the offset for one of elements here, and reads beyond the end
        last -= info.storage_offset - info.storage_offset // per_offset
    if (last + 1) * bits > ref.nbytes * 8:
        raise MalformedCheckpoint(
            "a tensor reaches beyond its storage",
            name=str(entry.name),
            expected=f"at most {plural(ref.nbytes, 'byte')}",
            actual=((last + 1) * bits + 7) // 8,
        )


def _check_chunks(entry: Entry, tensor: ChunkedTensor) -> None:
    """Chunks of the tensor's dtype, inside of it, and each element in exactly one."""

    def refuse(what: str) -> MalformedCheckpoint:
        return MalformedCheckpoint(f"a tensor whose chunks {what}", name=str(entry.name))

    if len(tensor.chunks) > _MOST_CHUNKS:
        raise LimitExceeded("number of chunks of a tensor", limit=_MOST_CHUNKS, actual=len(tensor.chunks))
    for offsets, view in tensor.chunks:
        if view.dtype is not tensor.dtype or not len(offsets) == len(view.shape) == len(tensor.shape):
            raise refuse("are of another dtype or number of dimensions")
        if any(a < 0 or a + n > size for a, n, size in zip(offsets, view.shape, tensor.shape, strict=True)):
            raise refuse("reach beyond its shape")
    filled = [chunk for chunk in tensor.chunks if chunk.value.numel]
    if len({chunk.value.storage is None for chunk in filled}) > 1:
        raise refuse("have bytes in part only")
    if sum(chunk.value.numel for chunk in filled) != tensor.numel:
        raise refuse("do not add up to its size")
    if len(filled) > 1 and _overlap(filled):  # not scalars: those would not add up
        raise refuse("overlap")


def _overlap(chunks: list[Chunk]) -> bool:
    """Whether two boxes meet: a sweep along the dimension that cuts them into the most pieces."""
    dims = range(len(chunks[0].offsets))
    along = max(dims, key=lambda dim: len({chunk.offsets[dim] for chunk in chunks}))
    active: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[along]):
        here = chunk.offsets[along]
        active = [other for other in active if other.offsets[along] + other.value.shape[along] > here]
        for other in active:
            if all(
                a < b + m and b < a + n
                for a, n, b, m in zip(
                    chunk.offsets, chunk.value.shape, other.offsets, other.value.shape, strict=True
                )
            ):
                return True
        active.append(chunk)
    return False


def _check_storages(file: FileInfo, storages: dict[str, StorageRef]) -> None:
    """Storages inside their file, and disjoint."""
    previous_end = 0
    for ref in sorted(storages.values(), key=lambda ref: ref.byte_offset):
        start, nbytes = ref.byte_offset, ref.span_nbytes
        if nbytes == 0:
            continue
        if start < 0 or start + nbytes > file.nbytes:
            raise MalformedCheckpoint(
                "a storage lies outside its file",
                name=ref.key,
                byte_offset=start,
                expected=plural(nbytes, "byte"),
                actual=f"{max(0, file.nbytes - start):,} left",
                path=file.path,
            )
        if start < previous_end:
            raise MalformedCheckpoint(
                "two storages overlap in the file", name=ref.key, byte_offset=start, path=file.path
            )
        previous_end = start + nbytes
