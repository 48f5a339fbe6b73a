"""Rebuild calls of torch pickles -> tensors, as addresses.

The table at the end gives a meaning to exact (module, name) pairs and to nothing else: a prefix such
as ``torch.`` is no reason for trust. Sources: ``torch/_utils.py``, ``torch/_tensor.py`` and
``torch/nn/parameter.py`` of torch 0.3 to 2.13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ckpttool.formats.pickled.arguments import (
    MAX_INT64,
    StorageClaim,
    dict_items,
    element_type,
    layout_name,
    malformed,
    parse_storage_id,
    read_dtype,
    read_flag,
    read_ints,
    read_sizes,
)
from ckpttool.formats.pickled.nodes import is_mapping
from ckpttool.pickles.nodes import Call, DictNode, Global, Node, PersistentId, SetNode, iter_items
from ckpttool.values.checkpoint import (
    LOCAL_SHARDS,
    PLAIN_PART,
    CompositeTensor,
    Part,
    Plain,
    PlainList,
    StorageRef,
    Tensor,
    TensorInfo,
)
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from ckpttool.values.words import plural

_MAX_NESTED_REBUILDS = 16  # a subclass of a subclass …: real files have 2
# Tensors may share their sizes, and tensors inside tensors their parts: a small file can ask for any amount
# of work. 100,000 tensors of rank 4 have 800,000 sizes and strides.
_MAX_ALL_DIMS = 16_000_000
_MAX_ALL_PARTS = 500_000
_MAX_ALL_NUMBERS = 4_000_000  # a thousand quantized layers of 2048 channels, twice
# Where torch 2.0 to 2.13, and 1.10 to 2.13, have had them.
_DTENSORS = {f"torch.distributed.{module}.DTensor" for module in ("_tensor.api", "tensor", "tensor._api")}
_SHARDED_TENSORS = {
    f"torch.distributed.{module}.api.ShardedTensor" for module in ("_sharded_tensor", "_shard.sharded_tensor")
}
StorageResolver = Callable[[StorageClaim], StorageRef]
"""Where the container holds a claimed storage; raises MalformedCheckpoint if it does not."""

NestedResolver = Callable[[bytes], tuple[StorageRef, DType]]
"""The storage inside the bytes of ``torch.storage._load_from_bytes``."""


class StoredTensor(NamedTuple):
    """A tensor with what its rebuild call says about gradients, its being a Parameter and its class.

    ``attributes`` is what of its state is no part of it, and may hold other tensors; None if there is none.
    """

    tensor: Tensor
    requires_grad: bool | None = None
    is_parameter: bool = False
    subclass: str = ""  # around a tensor that is whole without it
    attributes: Node = None


class TensorReader:
    """Turns calls into tensors, asking the container where their storages lie."""

    def __init__(
        self,
        resolve: StorageResolver,
        resolve_nested: NestedResolver | None = None,
        id_length: int | None = None,
    ) -> None:
        self.resolve = resolve
        self.id_length = id_length  # of persistent ids, as the container's loader takes them apart
        self.resolve_nested = resolve_nested
        self.nested_storages: dict[int, tuple[StorageRef, StorageClaim]] = {}  # by id of the node
        self.first_claims: dict[str, StorageClaim] = {}  # by key
        self.dims = 0  # of all tensors so far
        self.parts = 0  # tensors inside tensors so far
        self.obstacles: dict[str, None] = {}  # what torch would not take, in order
        self.storages = 0  # persistent ids that were read
        self.numbers = 0  # scales and zero points in lists so far
        self.barren: set[int] = set()  # containers of subclasses' attributes that hold no tensor, by id
        self.said: dict[int, dict[str, Node]] = {}  # by such attributes, by id: many tensors may share them

    def read(self, call: Call, depth: int = 0) -> StoredTensor | None:
        """The tensor that ``call`` would rebuild, or None if it is some other call.

        Raises:
            MalformedCheckpoint: a rebuild with arguments that torch would not write.
        """
        function = call.function
        if type(function) is not Global:
            return None
        rebuild = _REBUILDS.get((function.module, function.name))
        if rebuild is None:
            return None
        if depth:
            self.parts += 1
            if self.parts > _MAX_ALL_PARTS:
                raise LimitExceeded("number of parts of tensors", limit=_MAX_ALL_PARTS)
            if depth > _MAX_NESTED_REBUILDS:
                raise MalformedCheckpoint(
                    "tensor rebuilds are nested too deeply", byte_offset=call.byte_offset
                )
        args = call.args
        if type(args) is not tuple:
            raise malformed(function.name, "its arguments are not a tuple")
        try:
            return rebuild(self, args, depth)
        except IndexError:
            raise malformed(function.name, f"{plural(len(args), 'argument')}, too few") from None

    # -- plain tensors ----------------------------------------------------------------------

    def tensor_v2(self, args: tuple[Node, ...], _depth: int) -> StoredTensor:
        """``_rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, hooks[, metadata])``."""
        info = self.strided(args, None, args[6] if len(args) > 6 else None)
        return StoredTensor(info, self.flag(args[4], info))

    def tensor_v1(self, args: tuple[Node, ...], _depth: int) -> StoredTensor:
        """``_rebuild_tensor(storage, storage_offset, size, stride)``."""
        return StoredTensor(self.strided(args, None, None))

    def tensor_v3(self, args: tuple[Node, ...], _depth: int) -> StoredTensor:
        """``_rebuild_tensor_v3(…, requires_grad, hooks, dtype[, metadata])`` over an untyped storage."""
        info = self.strided(args, read_dtype(args[6]), args[7] if len(args) > 7 else None)
        return StoredTensor(info, self.flag(args[4], info))

    def flag(self, node: Node, tensor: Tensor) -> bool | None:
        """``requires_grad`` of a tensor; None where it is no bool."""
        if type(node) is not bool:
            self.obstacles["a tensor whose requires_grad is neither true nor false"] = None
            return None
        if node and tensor.dtype is not None and tensor.dtype.is_whole:
            self.obstacles["a tensor of whole numbers that requires a gradient"] = None
        return bool(node)

    def strided(self, args: tuple[Node, ...], dtype: DType | None, metadata: Node) -> TensorInfo:
        """The first four arguments of every strided rebuild."""
        storage, offset, size, stride = args[0], args[1], args[2], args[3]  # IndexError: see read
        ref, claim = self.storage(storage)
        if dtype is None:
            dtype = claim.dtype
            if dtype is None:
                raise malformed("_rebuild_tensor_v2", "an untyped storage without a dtype")
        shape, stride = self.geometry(size, stride)
        if type(offset) is not int or offset < 0:
            raise malformed("tensor", "its storage_offset is not a non-negative integer")
        if offset > MAX_INT64:
            raise malformed("tensor", "its storage_offset does not fit in 63 bits")
        conj = neg = False
        if metadata is not None:
            bits = {key: value for key, value in iter_items(dict_items(metadata)) if type(key) is str}
            conj, neg = bits.get("conj") is True, bits.get("neg") is True
        offset = (offset + claim.view_offset) * dtype.per_offset
        return TensorInfo(dtype, shape, stride, offset, ref, conj, neg)

    def geometry(self, size: Node, stride: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes and strides of one tensor."""
        shape, strides = read_sizes(size), read_ints(stride)
        if len(shape) != len(strides):
            raise malformed("tensor", f"{plural(len(shape), 'size')} but {plural(len(strides), 'stride')}")
        self.count_dims(2 * len(shape))
        return shape, strides

    def count_dims(self, count: int) -> None:
        """Spend what is left for sizes, strides and attributes of all tensors."""
        self.dims += count
        if self.dims > _MAX_ALL_DIMS:
            raise LimitExceeded("number of dimensions of all tensors", limit=_MAX_ALL_DIMS)

    def storage(self, node: Node) -> tuple[StorageRef, StorageClaim]:
        """Where a storage argument lies; the container's size of it bounds the claim."""
        if type(node) is not PersistentId:
            known = self.nested_storages.get(id(node))
            if known is None:
                known = self.nested_storages[id(node)] = self.nested_storage(node)
            return known
        self.storages += 1
        claim = parse_storage_id(node.pid)
        first = self.first_claims.setdefault(claim.key, claim)
        # torch takes type and size from whichever it meets first; it writes no file in which they differ.
        # (An untyped storage is one of uint8 there.)
        if element_type(first) != element_type(claim):
            raise MalformedCheckpoint("a storage is given two types", name=claim.key)
        ref = self.resolve(claim)
        if first is claim:
            self.check_claim(node.pid, claim, ref)
        nbytes = claim.view_offset * claim.unit_nbytes + claim.nbytes
        if nbytes > ref.nbytes:
            what, needed = "a storage is smaller than its pickle says", plural(nbytes, "byte")
            raise MalformedCheckpoint(what, name=claim.key, expected=needed, actual=ref.nbytes)
        return ref, claim

    def check_claim(self, pid: Node, claim: StorageClaim, ref: StorageRef) -> None:
        """Note what the loader of the container would not take of a storage that it meets first."""
        if self.id_length is not None and len(pid) != self.id_length:
            said = f"a storage's persistent id of {plural(len(pid), 'part')} instead of {self.id_length}"
            self.obstacles[said] = None
        if claim.whole_numel * claim.unit_nbytes != ref.nbytes:
            self.obstacles["a storage of another size than its pickle says"] = None

    def check_rest(self, persistent_ids: Sequence[PersistentId]) -> None:
        """Note what is wrong with the persistent ids that no tensor holds: a loader resolves all of them."""
        if self.storages >= len(persistent_ids):
            return
        for node in persistent_ids:
            pid = node.pid
            if type(pid) is tuple and pid and pid[0] == "module":
                continue  # how a legacy file names the source of a class: another loader's question
            try:
                claim = parse_storage_id(pid)
                if claim.key not in self.first_claims:
                    self.first_claims[claim.key] = claim
                    self.check_claim(pid, claim, self.resolve(claim))
            except MalformedCheckpoint as error:
                self.obstacles[error.what] = None

    def nested_storage(self, node: Node) -> tuple[StorageRef, StorageClaim]:
        """A storage that is itself a file inside the pickle (``pickle.dump`` of a tensor)."""
        if (
            isinstance(node, Call)
            and isinstance(node.function, Global)
            and (node.function.module, node.function.name) == ("torch.storage", "_load_from_bytes")
            and isinstance(node.only_argument, bytes)
            and self.resolve_nested is not None
        ):
            ref, dtype = self.resolve_nested(node.only_argument)
            return ref, StorageClaim(ref.key, dtype, ref.nbytes // dtype.nbytes, ref.location or "cpu")
        raise malformed("tensor", "its first argument is not a storage")

    def meta(self, args: tuple[Node, ...], _depth: int) -> StoredTensor:
        """``_rebuild_meta_tensor_no_storage(dtype, size, stride, requires_grad)``."""
        shape, stride = self.geometry(args[1], args[2])
        info = TensorInfo(read_dtype(args[0]), shape, stride, 0, None)
        return StoredTensor(info, self.flag(args[3], info))

    # -- wrappers around one tensor -----------------------------------------------------------

    def parameter(self, args: tuple[Node, ...], depth: int) -> StoredTensor:
        """``_rebuild_parameter(data, requires_grad, hooks)``; also ``_with_state`` and ``Parameter``."""
        data = self.inner(args[0], depth)
        requires_grad = args[1] if len(args) > 1 else True
        attributes = data.attributes if len(args) < 4 else _together(data.attributes, args[3])
        flag = self.flag(requires_grad, data.tensor)
        return data._replace(requires_grad=flag, is_parameter=True, attributes=attributes)

    def from_cpu(self, args: tuple[Node, ...], depth: int) -> StoredTensor:
        """``_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)``."""
        return self.inner(args[0], depth)._replace(requires_grad=read_flag(args[3]))

    def from_numpy(self, args: tuple[Node, ...], _depth: int) -> StoredTensor:
        """``_rebuild_device_tensor_from_numpy(data, dtype, device, requires_grad)``: described only."""
        device = args[2]
        details = (("device", device[:64]),) if type(device) is str else ()
        composite = CompositeTensor("numpy", "torch.Tensor", read_dtype(args[1]), None, (), details)
        return StoredTensor(composite, read_flag(args[3]))

    def from_type(self, args: tuple[Node, ...], depth: int) -> StoredTensor | None:
        """``_rebuild_from_type(_v2)(func, type, args, state)``: a subclass, or a tensor with attributes.

        None if ``func`` is not one of those here: what it would do is not known. A plain tensor stays one;
        with tensors among its attributes it is the first part of a composite.
        """
        function, cls, inner_args, state = args[0], args[1], args[2], args[3]  # IndexError: see read
        if not isinstance(function, Global) or not isinstance(cls, Global):
            raise malformed("_rebuild_from_type", "its function or type is not a global")
        inner = self.read(Call("reduce", function, inner_args, function.byte_offset), depth + 1)
        if inner is None:
            return None
        if cls.full_name in ("torch.Tensor", "torch._tensor.Tensor"):
            return inner._replace(attributes=_together(inner.attributes, state))
        if cls.full_name == "torch.nn.parameter.Parameter":
            return inner._replace(is_parameter=True, attributes=_together(inner.attributes, state))
        if self.attribute(state, "_is_param") is True:
            inner = inner._replace(is_parameter=True)  # what nn.Parameter makes of a class of its own
        if cls.full_name in _SHARDED_TENSORS and isinstance(inner.tensor, CompositeTensor):
            return self.sharded(inner, inner.tensor, cls, state, depth)
        more, others = self.state_parts(state, depth)
        inner, attributes = inner._replace(attributes=_together(inner.attributes, *others)), tuple(more)
        if isinstance(inner.tensor, CompositeTensor) and inner.tensor.layout == "subclass":
            outer = inner.tensor._replace(type_name=cls.full_name, parts=inner.tensor.parts + attributes)
            if cls.full_name in _DTENSORS:
                from ckpttool.formats.pickled.dtensor import describe_spec

                spec = self.attribute(state, "_spec")
                outer = outer._replace(details=(*outer.details, *describe_spec(spec)))
        elif attributes:
            parts = (Part(PLAIN_PART, inner.tensor), *attributes)
            outer = CompositeTensor("subclass", cls.full_name, inner.tensor.dtype, inner.tensor.shape, parts)
        else:
            return inner._replace(subclass=cls.full_name)
        return inner._replace(tensor=outer)

    def attribute(self, state: Node, name: str) -> Node:
        """``_is_param`` or ``_spec`` in a subclass's state, ``dict`` or ``(dict, slots)``; else None."""
        for half in state[:2] if type(state) is tuple else (state,):
            known = self.said.get(id(half))
            if known is None:
                items = iter_items(dict_items(half))
                known = {key: value for key, value in items if key in ("_is_param", "_spec")}
                self.said[id(half)] = known
            if name in known:
                return known[name]
        return None

    def sharded(
        self, inner: StoredTensor, whole: CompositeTensor, cls: Global, state: Node, depth: int
    ) -> StoredTensor:
        """A ``ShardedTensor`` of FSDP1: what this rank has of it, and how it is spread."""
        from ckpttool.formats.pickled.dtensor import describe_shards, local_shards

        parts = []
        for index, node in enumerate(local_shards(state)):
            self.count_dims(1)
            stored = self.read(node, depth + 1) if isinstance(node, Call) else None
            if stored is None:
                return inner._replace(attributes=_together(inner.attributes, state))
            parts.append(Part(f"{LOCAL_SHARDS}.{index}", stored.tensor))
        more = whole._replace(type_name=cls.full_name, parts=tuple(parts), details=describe_shards(state))
        rest = state[1:] if parts and isinstance(state, tuple) else state
        return inner._replace(tensor=more, attributes=_together(inner.attributes, rest))

    def state_parts(self, state: Node, depth: int) -> tuple[list[Part], list[Node]]:
        """Tensors in a subclass's state, ``dict`` or ``(dict, slots)``, and in the containers in it.

        Beside them: what else may hold tensors.
        """
        parts: list[Part] = []
        others: list[Node] = []
        stack = [("", half) for half in reversed(state if type(state) is tuple else (state,))]
        entered: set[int] = set()
        while stack:
            path, node = stack.pop()
            stored = self.read(node, depth + 1) if isinstance(node, Call) else None
            if stored is not None:
                parts.append(Part(path, stored.tensor))
                others.append(stored.attributes)
            elif id(node) not in entered and id(node) not in self.barren:
                entered.add(id(node))
                if isinstance(node, SetNode) or (isinstance(node, Call) and not is_mapping(node)):
                    others.append(node)
                    continue
                is_list = isinstance(node, (list, tuple))
                items: list[tuple[Node, Node]] = [
                    *(enumerate(node) if is_list else iter_items(dict_items(node)))
                ]
                self.count_dims(len(items))
                prefix = f"{path}." if path else ""
                stack.extend(
                    (f"{prefix}{key}"[:256], child)
                    for key, child in reversed(items)
                    if isinstance(child, (Call, DictNode, SetNode, list, tuple))
                )
        if not parts:  # many tensors often share one state
            self.barren |= entered
        return parts, others

    def wrapper(self, args: tuple[Node, ...], _depth: int) -> StoredTensor:
        """``_rebuild_wrapper_subclass(cls, dtype, size, stride, offset, layout, device, requires_grad)``."""
        cls = args[0]
        if not isinstance(cls, Global):
            raise malformed("_rebuild_wrapper_subclass", "its class is not a global")
        shape = read_sizes(args[2])
        composite = CompositeTensor("subclass", cls.full_name, read_dtype(args[1]), shape, ())
        return StoredTensor(composite, self.flag(args[7], composite))

    # -- layouts ------------------------------------------------------------------------------

    def quantized(self, args: tuple[Node, ...], depth: int) -> StoredTensor:
        """``_rebuild_qtensor(storage, offset, size, stride, quantizer_params, requires_grad, hooks)``."""
        info = self.strided(args, None, None)
        quantizer = args[4]
        if type(quantizer) is not tuple or not quantizer or not isinstance(quantizer[0], Global):
            raise malformed("_rebuild_qtensor", "its quantizer has no scheme")
        if len(quantizer) < 3:
            raise malformed("_rebuild_qtensor", "its quantizer has no scale or no zero point")
        names = ("scale", "zero_point", "axis")
        parts = [Part("int_repr", info)]
        scheme = quantizer[0].full_name
        details: list[tuple[str, Plain]] = [("qscheme", scheme)]
        for name, value in zip(names, quantizer[1:], strict=False):
            if isinstance(value, Call):
                parts.append(Part(name, self.inner(value, depth).tensor))
            elif type(value) is list:
                details.append((name, self.channel_numbers(value, info)))
            elif type(value) in (int, float):
                details.append((name, value))
            else:
                why = f"its quantizer's {name} is neither a number nor a tensor"
                raise malformed("_rebuild_qtensor", why)
        composite = CompositeTensor("quantized", scheme, info.dtype, info.shape, tuple(parts), tuple(details))
        return StoredTensor(composite, read_flag(args[5]))

    def channel_numbers(self, numbers: list[Node], info: TensorInfo) -> PlainList:
        """Scales or zero points one by one, as torch 1.3 and 1.4 wrote them."""
        self.numbers += len(numbers)
        if self.numbers > _MAX_ALL_NUMBERS:
            raise LimitExceeded("number of scales of quantized tensors", limit=_MAX_ALL_NUMBERS)
        if len(numbers) not in info.shape or any(type(number) not in (int, float) for number in numbers):
            raise malformed("_rebuild_qtensor", "its quantizer has no number for each channel")
        return PlainList(numbers)

    def sparse(self, args: tuple[Node, ...], depth: int) -> StoredTensor:
        """``_rebuild_sparse_tensor(layout, data)``: COO (indices, values, size[, flag]) or compressed."""
        layout = layout_name(args[0])
        data = args[1]
        if type(data) is not tuple or len(data) < 3:
            raise malformed("_rebuild_sparse_tensor", "its data is not a tuple of tensors and a size")
        names: tuple[str, ...] = ("indices", "values")
        if layout in ("sparse_csr", "sparse_bsr"):
            names = ("crow_indices", "col_indices", "values")
        elif layout in ("sparse_csc", "sparse_bsc"):
            names = ("ccol_indices", "row_indices", "values")
        size = data[len(names)]
        if len(names) == 2 and len(data) > 3 and type(data[3]) not in (bool, type(None)):
            self.obstacles["a sparse tensor that says neither yes nor no to being coalesced"] = None
        parts = self.named_parts(names, data, depth)
        dtype = parts[-1].value.dtype
        coalesced = read_flag(data[3]) if len(data) > 3 else None
        whole = CompositeTensor(layout, "torch.Tensor", dtype, read_sizes(size), parts, coalesced=coalesced)
        return StoredTensor(whole)

    def nested(self, args: tuple[Node, ...], depth: int) -> StoredTensor:
        """``_rebuild_nested_tensor(buffer, sizes, strides, storage_offsets)``."""
        names = ("buffer", "sizes", "strides", "storage_offsets")
        parts = self.named_parts(names, args, depth)
        return StoredTensor(CompositeTensor("nested", "torch.Tensor", parts[0].value.dtype, None, parts))

    def named_parts(self, names: tuple[str, ...], nodes: tuple[Node, ...], depth: int) -> tuple[Part, ...]:
        """As many of ``nodes`` as have a name, which must be tensors."""
        named = zip(names, nodes, strict=False)
        return tuple(Part(name, self.inner(node, depth).tensor) for name, node in named)

    def inner(self, node: Node, depth: int) -> StoredTensor:
        """A tensor that must stand as an argument of another rebuild."""
        stored = self.read(node, depth + 1) if isinstance(node, Call) else None
        if stored is None:
            raise malformed("a tensor inside a tensor", "it is not a tensor")
        return stored


def _together(*nodes: Node) -> Node:
    """Nodes that may hold tensors as one; None if none may."""
    held = [node for node in nodes if isinstance(node, (Call, DictNode, SetNode, list, tuple))]
    return held[0] if len(held) == 1 else held or None


_Rebuild = Callable[[TensorReader, "tuple[Node, ...]", int], "StoredTensor | None"]


def _uninitialized(name: str, is_parameter: bool) -> _Rebuild:
    """``UninitializedParameter(requires_grad)`` of a lazy module, or its buffer: no shape, no data."""
    tensor = CompositeTensor("uninitialized", f"torch.nn.parameter.{name}", None, None, ())
    return lambda _reader, args, _depth: StoredTensor(
        tensor, read_flag(args[0] if args else None), is_parameter
    )


_REBUILDS: dict[tuple[str, str], _Rebuild] = {
    ("torch._utils", "_rebuild_tensor"): TensorReader.tensor_v1,
    ("torch._utils", "_rebuild_tensor_v2"): TensorReader.tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): TensorReader.tensor_v3,
    ("torch._utils", "_rebuild_parameter"): TensorReader.parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): TensorReader.parameter,
    ("torch.nn.parameter", "Parameter"): TensorReader.parameter,
    ("torch.nn.parameter", "UninitializedParameter"): _uninitialized("UninitializedParameter", True),
    ("torch.nn.parameter", "UninitializedBuffer"): _uninitialized("UninitializedBuffer", False),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): TensorReader.meta,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): TensorReader.from_cpu,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): TensorReader.from_numpy,
    ("torch._utils", "_rebuild_wrapper_subclass"): TensorReader.wrapper,
    ("torch._utils", "_rebuild_qtensor"): TensorReader.quantized,
    ("torch._utils", "_rebuild_sparse_tensor"): TensorReader.sparse,
    ("torch._utils", "_rebuild_sparse_csr_tensor"): TensorReader.sparse,  # torch 1.9 to 1.12
    ("torch._utils", "_rebuild_nested_tensor"): TensorReader.nested,
    ("torch._tensor", "_rebuild_from_type"): TensorReader.from_type,
    ("torch._tensor", "_rebuild_from_type_v2"): TensorReader.from_type,
    # The module's name until torch 1.8.
    ("torch.tensor", "_rebuild_from_type"): TensorReader.from_type,
    # fastai's own before torch 2.0, of the same arguments.
    ("fastai.torch_core", "_rebuild_from_type"): TensorReader.from_type,
}

TENSOR_GLOBALS = frozenset(_REBUILDS)
"""Globals that have a meaning here, so that a use of them is nothing to point at."""
