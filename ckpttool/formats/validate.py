"""The one check of every reader's result: each tensor lies in its storage, each storage in its file.

Exact integer arithmetic throughout, so nothing wraps. ``read_checkpoint`` calls it for every format.
"""

from __future__ import annotations

from math import prod

from ckpttool.values.checkpoint import Checkpoint, Entry, FileInfo, StorageRef, TensorInfo, iter_parts
from ckpttool.values.errors import MalformedCheckpoint

_MAX_INT64 = 2**63 - 1  # torch keeps sizes, strides, offsets and numel as int64


def validate(checkpoint: Checkpoint) -> None:
    """Prove that every address of ``checkpoint`` is inside what it points into.

    Raises:
        MalformedCheckpoint: a tensor counts beyond int64 or leaves its storage, a storage leaves its
            file or overlaps another one, or two entries have the same root and name.
    """
    storages: dict[str, dict[str, StorageRef]] = {file.path: {} for file in checkpoint.files}
    names: set[tuple[object, object]] = set()
    for entry in checkpoint.entries:
        value = entry.value
        if type(value) is TensorInfo:
            _check_tensor(checkpoint, entry, value, storages)
        else:
            for part in iter_parts(value):
                _check_tensor(checkpoint, entry, part, storages)
        names.add((entry.root, entry.name))
    if len(names) != len(checkpoint.entries):
        _refuse_duplicate_name(checkpoint)
    for file in checkpoint.files:
        _check_storages(file, storages[file.path])


def _check_tensor(
    checkpoint: Checkpoint, entry: Entry, info: TensorInfo, storages: dict[str, dict[str, StorageRef]]
) -> None:
    """What ``info`` counts against int64, and its span against the size that its storage really has."""
    shape, stride = info.shape, info.stride
    if prod(shape) > _MAX_INT64 or max((*shape, *stride, info.storage_offset)) > _MAX_INT64:
        raise MalformedCheckpoint(
            "a tensor's sizes, strides or number of elements do not fit in 63 bits",
            name=str(entry.name),
            path=checkpoint.path,
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
    bits = info.dtype.bits
    if (last + 1) * bits > ref.nbytes * 8:
        raise MalformedCheckpoint(
            "a tensor reaches beyond its storage",
            name=str(entry.name),
            expected=f"at most {ref.nbytes} bytes",
            actual=((last + 1) * bits + 7) // 8,
            path=checkpoint.path,
        )


def _refuse_duplicate_name(checkpoint: Checkpoint) -> None:
    """Name the first (root, name) that stands twice."""
    seen = set()
    for entry in checkpoint.entries:
        if (entry.root, entry.name) in seen:
            raise MalformedCheckpoint(
                "two entries have the same name", name=str(entry.name), path=checkpoint.path
            )
        seen.add((entry.root, entry.name))


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
                expected=f"{nbytes} bytes",
                actual=f"{max(0, file.nbytes - start)} left",
                path=file.path,
            )
        if start < previous_end:
            raise MalformedCheckpoint(
                "two storages overlap in the file", name=ref.key, byte_offset=start, path=file.path
            )
        previous_end = start + nbytes
