"""One tensor in memory: its bytes, and the numpy array or torch tensor that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckpttool.elements.digests import check_claim
from ckpttool.files.local import Sources
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import CompositeTensor, Strided, Tensor, TensorInfo
from ckpttool.values.errors import UnsupportedFeature
from ckpttool.values.words import indefinite

if TYPE_CHECKING:
    from ckpttool.elements.arrays import Array


def read_array(sources: Sources, value: Tensor | None) -> Array:
    """The elements as a numpy array of the tensor's shape.

    numpy has no bfloat16 and no float8: these become the narrowest dtype that holds all their values.

    Raises:
        UnsupportedFeature: it has no bytes in the file, is made of parts, or numpy is not installed.
        LimitExceeded: it claims far more elements than its file stores.
        MalformedCheckpoint: a file changed since its header was read, or is damaged.
    """
    from ckpttool.elements.arrays import has_array, import_numpy, to_array

    info = strided(value)
    if not has_array(info.dtype):
        raise UnsupportedFeature(f"{info.dtype.name} as numbers of numpy")
    numpy = import_numpy("an array", "read it as a torch tensor")
    return to_array(numpy, info.dtype, read_packed(sources, info)).reshape(info.shape)


def read_tensor(sources: Sources, value: Tensor | None) -> Any:
    """The elements as a contiguous ``torch.Tensor`` on the CPU.

    Raises:
        UnsupportedFeature: it has no bytes in the file, is made of parts, or torch has no such dtype.
        LimitExceeded: it claims far more elements than its file stores.
        MalformedCheckpoint: a file changed since its header was read, or is damaged.
        ModuleNotFoundError: torch is not installed.
    """
    from ckpttool.torch_bridge.tensors import wrap_bytes

    info = strided(value)
    return wrap_bytes(info, read_packed(sources, info))


def read_packed(sources: Sources, info: Strided) -> bytearray:
    """All elements in row-major order, packed and little-endian.

    Raises:
        LimitExceeded: it claims far more elements than its file stores.
        CkptToolError: as ``TensorReader.iter_chunks``.
    """
    check_claim(info)
    with TensorReader(sources) as reader:
        return reader.read(info)


def view_array(sources: Sources, value: Tensor | None) -> Array | None:
    """The elements as a read-only array in the mapped file; None where they do not lie there as numpy's own.

    Raises:
        UnsupportedFeature: it has no bytes in the file, or is made of parts.
        MalformedCheckpoint: a file changed since its header was read.
    """
    from ckpttool.elements.arrays import has_array, import_numpy, numpy_code

    info = strided(value)
    if not isinstance(info, TensorInfo) or not has_array(info.dtype) or not info.dtype.code or not info.numel:
        return None
    storage = info.storage
    if info.conj or info.neg or storage is None or storage.big_endian:
        return None
    if storage.compressed_nbytes is not None or storage.location == "meta":
        return None
    numpy = import_numpy("an array", "read it as a torch tensor")
    element = info.dtype.nbytes
    start = storage.byte_offset + info.storage_offset * element
    found: Array = numpy.ndarray(
        info.shape,
        numpy_code(info.dtype),
        sources.map(storage.file),
        start,
        tuple(step * element for step in info.stride),
    )
    return found


def strided(value: Tensor | None) -> Strided:
    """The tensor as rows of elements.

    Raises:
        UnsupportedFeature: it is not in the file, or is made of parts.
    """
    if isinstance(value, CompositeTensor):
        value = value.plain or value
    if value is None:
        raise UnsupportedFeature("an entry that the file does not hold has no elements")
    if not isinstance(value, CompositeTensor):
        return value
    raise UnsupportedFeature(
        f"{indefinite(value.layout)} tensor is made of parts, and is not put together here"
    )
