"""Bytes of a checkpoint as torch tensors, and of torch tensors: to look at, to compare, to cast.

Tensors are views of the file where it can be mapped, else copies. Mapping is private and lazy, so
that a model of N bytes is verified in about N bytes of memory: the file's pages belong to the page
cache. Equal storages of the file are equal storages here, so ties arrive at ``load_state_dict`` as
ties.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeGuard

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from ckpttool.elements.casts import judge_cast
from ckpttool.files.local import check_path
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.torch_bridge.door import ask, is_a, one_line
from ckpttool.values.checkpoint import (
    Checkpoint,
    ChunkedTensor,
    CompositeTensor,
    Entry,
    StorageRef,
    Strided,
    TensorInfo,
    views_of,
)
from ckpttool.values.conversion import CastLoss
from ckpttool.values.dtypes import BY_NAME, DType
from ckpttool.values.errors import UnsupportedFeature
from ckpttool.values.words import indefinite

NamedTensors: TypeAlias = Mapping[str, torch.Tensor]

# Elements that are cast and judged together: input, output and differences stay in the L2 cache.
_BLOCK = 1 << 16

# The one size of elements that vector instructions take from a multiple of it only (complex128).
_ALIGNED_NBYTES = 16


class FileTensors:
    """Gives ``torch.Tensor``s for entries of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._path = checkpoint.path
        self._files = {file.path: file for file in checkpoint.files}
        self._maps: dict[str, Any] = {}  # untyped storages, whole files
        self._unaligned = {
            (view.storage.file, view.storage.key)
            for entry in checkpoint.entries
            for view in views_of(entry.value)
            if view.dtype.nbytes == _ALIGNED_NBYTES and view.storage is not None
            and view.storage.byte_offset % _ALIGNED_NBYTES
        }  # fmt: skip
        self._storages: dict[tuple[str, str, str], torch.UntypedStorage] = {}
        self._loaded: Any = None

    def tensor(self, entry: Entry) -> torch.Tensor:
        """The entry's tensor, on CPU.

        Raises:
            UnsupportedFeature: torch has no such dtype, or the file holds no data for it.
            MalformedCheckpoint: the file changed after its header was read, or is damaged.
        """
        value = entry.value
        if isinstance(value, CompositeTensor):
            return self._composite(entry, value)
        if isinstance(value, ChunkedTensor):
            return wrap_bytes(value, self._read(value))
        if value is None or value.storage is None or value.storage.location == "meta":
            raise UnsupportedFeature(f"entry {str(entry.name)!r} has no data in the file", path=self._path)
        dtype = torch_dtype(value)
        if value.numel == 0:
            return torch.empty(value.shape, dtype=dtype)
        tensor = torch.empty(0, dtype=dtype)
        offset = value.storage_offset // value.dtype.per_offset
        tensor.set_(self._storage(value, value.storage), offset, value.shape, value.stride)
        if value.conj:
            tensor = tensor.conj()
        return torch._neg_view(tensor) if value.neg else tensor

    def copies(self, ref: StorageRef) -> bool:
        """Whether a storage is held in memory, as its bytes in the file cannot be those of a tensor.

        They are compressed, in the other byte order, or where the processor cannot take the elements.
        """
        return ref.compressed_nbytes is not None or ref.big_endian or (ref.file, ref.key) in self._unaligned

    def _read(self, value: Strided) -> bytearray:
        with TensorReader(self.checkpoint.files) as reader:
            return reader.read(value)

    def _storage(self, info: TensorInfo, ref: StorageRef) -> torch.UntypedStorage:
        """The bytes of a storage: a view of the mapped file, or a copy where it must be decoded."""
        key = (ref.file, ref.key, info.dtype.name if ref.big_endian else "")
        if key not in self._storages:
            self._storages[key] = self._copy(info, ref) if self.copies(ref) else self._view(ref)
        return self._storages[key]

    def _view(self, ref: StorageRef) -> torch.UntypedStorage:
        if ref.file not in self._maps:
            file = self._files[ref.file]
            check_path(file)
            self._maps[ref.file] = torch.UntypedStorage.from_file(ref.file, False, file.nbytes)
        return self._maps[ref.file][ref.byte_offset : ref.byte_offset + ref.nbytes]  # type: ignore[no-any-return]

    def _copy(self, info: TensorInfo, ref: StorageRef) -> torch.UntypedStorage:
        """The whole storage, inflated or byte-swapped on the way."""
        dtype = info.dtype if ref.big_endian else BY_NAME["uint8"]
        data = self._read(TensorInfo(dtype, (ref.nbytes // dtype.nbytes,), (1,), 0, ref))
        return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()

    def _composite(self, entry: Entry, value: CompositeTensor) -> torch.Tensor:
        """Quantized, sparse and nested tensors, which torch's own loader (it runs nothing) puts together."""
        what = f"entry {str(entry.name)!r} is {indefinite(value.layout)} tensor"
        if value.layout == "uninitialized":
            what = f"entry {str(entry.name)!r} is an uninitialised tensor of a lazy module: it has no values"
            hint = "run one forward pass before saving, so that the lazy modules know their shapes"
            raise UnsupportedFeature(what, path=self._path, hint=hint)
        if self.checkpoint.format not in ("torch_zip", "torch_legacy"):
            raise UnsupportedFeature(what, path=self._path)
        try:
            if self._loaded is None:
                self._loaded = torch.load(self._path, map_location="cpu", weights_only=True)
            found = self._loaded
            for key in (*entry.root, entry.name):
                found = found[key]
        except Exception as error:  # noqa: BLE001  what torch's loader raises for a file is not in its contract
            reason = f"{what}, and torch does not load the file: {one_line(error, 200)}"
            raise UnsupportedFeature(reason, path=self._path) from None
        if not isinstance(found, torch.Tensor):
            raise UnsupportedFeature(what, path=self._path)
        return found


def torch_dtype(info: Strided) -> torch.dtype:
    """``torch.float32`` for the dtype table's ``float32``.

    Raises:
        UnsupportedFeature: this torch has no such dtype.
    """
    dtype = getattr(torch, info.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedFeature(f"torch {torch.__version__} has no dtype {info.dtype.name}")
    return dtype


def wrap_bytes(info: Strided, data: bytearray) -> torch.Tensor:
    """The tensor whose packed little-endian elements are ``data``, without a copy.

    Raises:
        UnsupportedFeature: this torch has no such dtype, or its elements mean nothing without a quantizer.
    """
    dtype = torch_dtype(info)
    if info.dtype.kind == "quantized":
        raise UnsupportedFeature(f"{info.dtype.name} elements without their quantizer")
    if not data:
        return torch.empty(info.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(info.shape)


def type_name(kind: torch.dtype | torch.layout) -> str:
    """``float32`` for ``torch.float32``, ``sparse_coo`` for ``torch.sparse_coo``."""
    return str(kind).removeprefix("torch.")


def is_strided(tensor: torch.Tensor) -> bool:
    """Whether the tensor is a view of one storage: not sparse, nested or a subclass around other tensors."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return False
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return True
    # What has __tensor_flatten__ holds its data in inner tensors (DTensor, quantised weights); other wrappers
    # (_make_wrapper_subclass) have no storage either, and say so when they are asked for its address.
    wraps = hasattr(type(tensor), "__tensor_flatten__")
    return not wraps and ask(lambda: tensor.untyped_storage().data_ptr(), None) is not None


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor's bytes say all of it: strided, and without a quantizer."""
    return is_strided(tensor) and not tensor.is_quantized


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is one by its type: what nn.Parameter asks an object for, and mocks answer, is not asked."""
    return is_a(value, torch.Tensor)


def is_lazy(value: object) -> bool:
    """Whether it is the parameter or buffer of a lazy module that has not seen an input."""
    return is_a(value, UninitializedTensorMixin)


def is_parameter(tensor: torch.Tensor) -> bool:
    """What ``isinstance`` says, which asks a tensor for ``_is_param``."""
    return ask(lambda: isinstance(tensor, torch.nn.Parameter), False)


def has_values(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a plain tensor that is on this machine, be it without elements."""
    return is_tensor(value) and not is_lazy(value) and not value.is_meta and is_plain(value)


def has_bytes(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a plain tensor that has elements on this machine."""
    return has_values(value) and value.numel() > 0


def byte_view(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of a tensor as flat uint8, in row-major order; a view if it is contiguous."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors on one device have equal shapes, dtypes and bytes (NaN equals itself, 0 != -0)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*wide_views(byte_view(a), byte_view(b)))


def wide_views(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two flat uint8 tensors as int64 where both can be seen so: three times as fast to compare."""
    if left.numel() % 8 == 0 and left.storage_offset() % 8 == 0 and right.storage_offset() % 8 == 0:
        return left.view(torch.int64), right.view(torch.int64)
    return left, right


def cast_elements(
    data: memoryview, before: DType, after: DType, *, judge: bool = True
) -> tuple[memoryview, CastLoss]:
    """``data`` as packed elements of ``after``, as torch rounds them; see ``conversion.execute.Caster``."""
    source = torch.frombuffer(data, dtype=getattr(torch, before.name))
    packed = bytearray(source.numel() * after.nbytes)
    result = torch.frombuffer(packed, dtype=getattr(torch, after.name))
    wide = torch.float64 if torch.float64 in (source.dtype, result.dtype) else torch.float32
    loss = CastLoss()
    # Blocks this small cost more to hand out to threads than to do: up to 20 times on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for start in range(0, source.numel(), _BLOCK):
            values, rounded = source[start : start + _BLOCK], result[start : start + _BLOCK]
            rounded.copy_(values)
            if judge:
                loss = loss.joined(judge_cast(torch, values.to(wide), rounded.to(wide)))
    finally:
        torch.set_num_threads(threads)
    return memoryview(packed), loss
