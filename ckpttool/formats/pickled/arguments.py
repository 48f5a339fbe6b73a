"""Arguments of torch's rebuild calls -> checked values: persistent ids, dtypes, sizes, strides, flags.

Nothing of the wrong type is converted: a bool is no int, and what torch would not have written is refused.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from ckpttool.pickles.nodes import Call, DictNode, Global, Node
from ckpttool.values.dtypes import BY_NAME, BY_STORAGE_CLASS, DType, parse_torch_name
from ckpttool.values.errors import MalformedCheckpoint

MAX_INT64 = 2**63 - 1  # torch keeps sizes, strides, offsets and numel as int64
_MAX_DIMS = 1024  # torch itself sets no limit that matters; this bounds the work for one tensor
# Where a storage class may stand (torch/storage.py, torch/__init__.py, torch/cuda/__init__.py).
_STORAGE_MODULES = frozenset(("torch", "torch.storage", "torch.cuda"))


class StorageClaim(NamedTuple):
    """What a persistent id says of a storage.

    Counts are in units of ``torch._utils._element_size``: bytes for an untyped storage, and for packed
    elements, of which several share a byte. ``dtype`` None: untyped.
    """

    key: str
    dtype: DType | None
    numel: int
    location: str
    view_offset: int = 0  # only in legacy files, where a storage may view another
    whole_numel: int = 0  # of the storage that it views

    @property
    def unit_nbytes(self) -> int:
        """Bytes of what is counted."""
        return 1 if self.dtype is None else self.dtype.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes claimed (exact integers: cannot wrap)."""
        return self.numel * self.unit_nbytes


def parse_storage_id(pid: Node) -> StorageClaim:
    """The persistent id ``("storage", class, key, location, numel[, view])`` of torch.save.

    Raises:
        MalformedCheckpoint: any other shape or type of id.
    """
    if type(pid) is str:
        raise MalformedCheckpoint(
            "a storage's persistent id is text, as pickle protocol 0 writes it: torch cannot load that either"
        )
    if type(pid) is not tuple or len(pid) not in (5, 6) or type(pid[0]) is not str or pid[0] != "storage":
        raise MalformedCheckpoint("not a storage's persistent id")
    _, cls, key, location, numel = pid[:5]
    if type(key) is int:  # seen in files of torch 0.3
        key = str(key)
    if type(key) is not str or type(location) is not str or type(numel) is not int or numel < 0:
        raise MalformedCheckpoint("a storage's persistent id has parts of the wrong type")
    if not isinstance(cls, Global) or cls.module not in _STORAGE_MODULES:
        raise MalformedCheckpoint("a storage's persistent id does not name a storage class", name=key)
    view_offset, whole = 0, numel
    if len(pid) == 6 and pid[5] is not None:
        view_offset, numel = _parse_view(pid[5], key)
    dtype = BY_STORAGE_CLASS.get(cls.name)
    if dtype is None and cls.name != "UntypedStorage":
        raise MalformedCheckpoint("unknown storage class", name=key, actual=cls.full_name)
    return StorageClaim(key, dtype, numel, location, view_offset, whole)


def _parse_view(view: Node, key: str) -> tuple[int, int]:
    """Offset and size of a view ``(view_key, offset, view_size)`` of the storage ``key``."""
    if type(view) is not tuple or len(view) != 3 or type(view[1]) is not int or type(view[2]) is not int:
        raise MalformedCheckpoint("a storage view has parts of the wrong type", name=key)
    if view[1] < 0 or view[2] < 0:
        raise MalformedCheckpoint("a storage view has a negative offset or size", name=key)
    return view[1], view[2]


def read_dtype(node: Node) -> DType:
    """A dtype argument: the global ``torch.float32``.

    Raises:
        MalformedCheckpoint: not a dtype that is known here.
    """
    if isinstance(node, Global) and node.module == "torch":
        dtype = parse_torch_name(node.name)
        if dtype is not None:
            return dtype
    raise malformed("tensor", "its dtype is not one of torch's")


def read_sizes(node: Node) -> tuple[int, ...]:
    """Sizes, whose product must be a number of elements that torch can count.

    Raises:
        MalformedCheckpoint: not sizes, or a product beyond 63 bits.
    """
    shape = read_ints(node)
    if prod(shape) > MAX_INT64:
        raise malformed("tensor", "its number of elements does not fit in 63 bits")
    return shape


def read_ints(node: Node) -> tuple[int, ...]:
    """Sizes or strides: a tuple, list or ``torch.Size`` of non-negative integers (bool is none).

    Raises:
        MalformedCheckpoint: anything else.
    """
    if isinstance(node, Call) and node.name == "torch.Size":
        node = () if node.args == () else node.only_argument  # it takes one argument or none
    if type(node) is list:
        node = tuple(node)
    if type(node) is not tuple or len(node) > _MAX_DIMS:
        raise malformed("tensor", "its sizes or strides are not a tuple")
    for number in node:
        if type(number) is not int or number < 0:
            raise malformed("tensor", "its sizes or strides are not non-negative integers")
        if number > MAX_INT64:
            raise malformed("tensor", "its sizes or strides do not fit in 63 bits")
    return node


def element_type(claim: StorageClaim) -> DType:
    """The dtype of a claimed storage; an untyped one is one of uint8, as in torch."""
    return claim.dtype or BY_NAME["uint8"]


def dict_items(node: Node) -> list[Node] | None:
    """The flat items of a dict or OrderedDict node."""
    if isinstance(node, (DictNode, Call)):
        return node.items
    return None


def read_flag(node: Node) -> bool | None:
    """A bool argument, or None for anything else."""
    return node if type(node) is bool else None


def layout_name(node: Node) -> str:
    """``torch.serialization._get_layout("torch.sparse_coo")`` -> ``sparse_coo``."""
    if isinstance(node, Call) and type(node.only_argument) is str:
        return node.only_argument.removeprefix("torch.")[:64]
    if isinstance(node, Global):
        return node.name[:64]
    return "sparse"


def malformed(what: str, why: str) -> MalformedCheckpoint:
    """The error for arguments that torch would not write."""
    return MalformedCheckpoint(f"malformed {what} in the pickle: {why}")
