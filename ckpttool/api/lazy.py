"""``LazyTensor``: a tensor of a checkpoint, or a part of one, that is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ckpttool.api.tensors import read_array, read_tensor, strided, view_array
from ckpttool.files.indexing import select
from ckpttool.files.local import Sources
from ckpttool.values.checkpoint import Kind, Tensor
from ckpttool.values.words import NAME_LIMIT, format_nbytes, format_shape, safe

if TYPE_CHECKING:
    import torch

    from ckpttool.elements.arrays import Array


class LazyTensor:
    """What ``checkpoint["name"]`` is. ``numpy.asarray`` takes it; ``[0:4, 1:3]`` of it is one as well.

    >>> weight = ckpttool.open("linear.pt")["weight"]
    >>> weight
    <ckpttool.LazyTensor weight: parameter float32 4×8, 128 B>
    >>> weight[0:2, 1:3].numpy().shape  # reads 16 bytes
    (2, 2)
    """

    __slots__ = ("_sources", "_value", "kind", "name")

    def __init__(self, sources: Sources, value: Tensor | None, name: str, kind: Kind) -> None:
        self._sources = sources
        self._value = value
        self.name = name
        self.kind = kind

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The sizes; None where the file does not say."""
        return None if self._value is None else self._value.shape

    @property
    def dtype(self) -> str | None:
        """The dtype as torch names it; None where the whole has none."""
        return None if self._value is None or self._value.dtype is None else self._value.dtype.name

    @property
    def nbytes(self) -> int:
        """Bytes of the elements when packed."""
        return 0 if self._value is None else self._value.nbytes

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape or ())

    def numpy(self) -> Array:
        """The elements as a numpy array: a read-only view of the file where they lie in it as numpy has them.

        Else, and of dtypes that numpy lacks, as ``Checkpoint.array``. A file that is cut short while it is
        viewed ends the process; ``array`` and ``torch`` read a copy.

        Raises:
            CkptToolError: it has no elements in the file, or is made of parts (sparse …).
        """
        found = view_array(self._sources, self._value)
        return read_array(self._sources, self._value) if found is None else found

    def torch(self) -> torch.Tensor:
        """The elements as a contiguous ``torch.Tensor`` on the CPU, in memory of its own.

        Raises:
            CkptToolError: it has no elements in the file, or is made of parts (sparse …).
        """
        tensor: torch.Tensor = read_tensor(self._sources, self._value)
        return tensor

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        view = view_array(self._sources, self._value)
        found = read_array(self._sources, self._value) if view is None else view
        other = dtype is not None and found.dtype != dtype
        if copy is False and (other or view is None):
            raise ValueError(f"{self.dtype} elements are no array of {dtype or found.dtype} without a copy")
        if other:
            return found.astype(dtype)
        return found.copy() if copy and view is not None else found

    def __getitem__(self, index: object) -> LazyTensor:
        """The part that integers, slices with steps of 1 and more and ``...`` name; nothing is read."""
        return LazyTensor(self._sources, select(strided(self._value), index), self.name, self.kind)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[LazyTensor]:
        return (self[position] for position in range(len(self)))

    def __bool__(self) -> bool:
        raise TypeError("a tensor that was not read is neither true nor false; ask its .numpy()")

    def __repr__(self) -> str:
        what = f"{self.kind} {self.dtype or '?'} {format_shape(self.shape)}, {format_nbytes(self.nbytes)}"
        return f"<ckpttool.LazyTensor {safe(self.name, NAME_LIMIT)}: {what}>"
