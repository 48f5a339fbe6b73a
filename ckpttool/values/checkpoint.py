"""The values that every layer speaks: what is in a checkpoint, as addresses and not as bytes.

Words are torch's. A count of bytes says so (``nbytes``, ``byte_offset``); strides and
``storage_offset`` count elements. All values are immutable. The hot ones (one per tensor) are
named tuples because a checkpoint may hold 100,000 and a frozen dataclass takes four times as
long to make.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias, Union

from ckpttool.values.dtypes import DType
from ckpttool.values.source import SourceEvidence


class OddKey(NamedTuple):
    """A mapping key that is neither str nor int: float, bool, None, bytes, tuple or an object.

    ``text`` is its Python literal where it has one (``literal`` is then true), else a short
    description.
    """

    text: str
    literal: bool

    def __str__(self) -> str:
        return self.text


Key: TypeAlias = str | int | OddKey
"""One step of a path. Keys contain dots, so a path stays a tuple and is never joined and split."""

Root: TypeAlias = tuple[Key, ...]
"""Container keys above a state_dict (or above any leaf), outermost first."""

Plain: TypeAlias = Union[bool, int, float, str, bytes, tuple["Plain", ...], None]  # noqa: UP007 (3.10)
"""A value that is shown as it is: epoch, lr, betas."""


class PlainList(tuple["Plain", ...]):
    """A list among plain values: an (immutable) tuple that remembers that it was one."""

    __slots__ = ()


ModuleExtras: TypeAlias = tuple[tuple[tuple[str, ...], Plain], ...]
"""Facts of a module's ``_metadata`` besides its version, by path: ``("spectral_norm", "weight.version")``."""


class StorageRef(NamedTuple):
    """A run of bytes in a file that one or more tensors view.

    ``byte_offset`` is absolute in ``file``; ``nbytes`` is what the file really holds there, not
    what the tensor claims. ``location`` is the saved device tag (``cpu``, ``cuda:0``), None where
    the format keeps none.
    """

    file: str
    key: str
    byte_offset: int
    nbytes: int
    location: str | None = None
    big_endian: bool = False
    compressed_nbytes: int | None = None  # raw DEFLATE stream of this length at byte_offset

    @property
    def span_nbytes(self) -> int:
        """Bytes that the storage takes in the file."""
        return self.nbytes if self.compressed_nbytes is None else self.compressed_nbytes


def packed_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides as torch gives them: a size of 0 counts as 1."""
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= size or 1
    return tuple(reversed(stride))


class TensorInfo(NamedTuple):
    """A strided tensor: a view of a storage. ``storage`` is None on the meta device.

    ``shape`` and ``stride`` are as torch gives them; ``stride`` and ``storage_offset`` in elements.
    """

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int
    storage: StorageRef | None
    conj: bool = False
    neg: bool = False

    @property
    def numel(self) -> int:
        """Number of elements (1 for a 0-dimensional tensor)."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements when packed: logical size, not what is stored."""
        return (math.prod(self.shape) * self.dtype.bits + 7) // 8

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Itself, as the one block of which it is made."""
        return (Chunk((0,) * len(self.shape), self),)

    @property
    def is_contiguous(self) -> bool:
        """True when the elements lie packed in row-major order (dims of size 1 do not count)."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size == 0:
                return True
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def byte_offset(self) -> int | None:
        """Where in the file the first element lies; None on meta, and where the storage is compressed."""
        storage = self.storage
        if storage is None or storage.compressed_nbytes is not None:
            return None
        return storage.byte_offset + self.storage_offset * self.dtype.bits // 8

    @property
    def byte_span(self) -> tuple[int, int]:
        """(start, end) within the storage that the elements touch; equal when there are none."""
        bits = self.dtype.bits
        start = self.storage_offset
        if 0 in self.shape:
            last = start - 1
        else:
            last = start + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return start * bits // 8, ((last + 1) * bits + 7) // 8


class Chunk(NamedTuple):
    """A block of a larger tensor: where it begins along each dimension, and its elements."""

    offsets: tuple[int, ...]
    value: TensorInfo


class ChunkedTensor(NamedTuple):
    """A strided tensor in blocks, in one file or several, which cover it without overlap.

    ``chunks`` are of its dtype and as many dimensions (``validate`` proves both).
    """

    dtype: DType
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements when packed."""
        return (math.prod(self.shape) * self.dtype.bits + 7) // 8


Strided: TypeAlias = TensorInfo | ChunkedTensor
"""A tensor of one dtype whose elements have a place each; a ``TensorInfo`` is its own single block."""


class StoredRun(NamedTuple):
    """A run of stored bytes: ``nbytes`` of them from ``offset`` of ``storage`` on."""

    storage: StorageRef
    offset: int
    nbytes: int


class Part(NamedTuple):
    """One named piece of a composite tensor: ``indices``, ``scales``, ``_local_tensor``."""

    name: str
    value: Tensor


PLAIN_PART = "data"  # no attribute: `tensor.data = …` sets the tensor itself


LOCAL_TENSOR, LOCAL_SHARDS = "_local_tensor", "_local_shards"
"""Parts of what is spread over ranks: what a DTensor has here, and a ShardedTensor, which numbers them."""


class CompositeTensor(NamedTuple):
    """A tensor that is rebuilt from parts: quantized, sparse, nested, wrapper subclass, DTensor.

    ``layout`` is torch's word where it has one (``sparse_coo``, ``quantized``, ``nested``,
    ``subclass``); ``type_name`` the global that rebuilds it; ``details`` plain facts such as
    the quantizer's scale. ``dtype`` and ``shape`` are what the whole claims, None if unsaid.
    """

    layout: str
    type_name: str
    dtype: DType | None
    shape: tuple[int, ...] | None
    parts: tuple[Part, ...]
    details: tuple[tuple[str, Plain], ...] = ()
    coalesced: bool | None = None  # of sparse_coo; no part of what it means, so digests leave it out

    @property
    def plain(self) -> Tensor | None:
        """The tensor in a class of its own of which the other parts are attributes, else None."""
        whole = self.layout == "subclass" and self.parts and self.parts[0].name == PLAIN_PART
        return self.parts[0].value if whole else None

    @property
    def local_parts(self) -> list[Part]:
        """What one rank has of a DTensor or ShardedTensor."""
        return [part for part in self.parts if part.name.startswith((LOCAL_TENSOR, LOCAL_SHARDS))]

    @property
    def numel(self) -> int:
        """Elements of the whole as its shape claims, else the sum over the parts."""
        if self.shape is not None:
            return math.prod(self.shape)
        return sum(part.value.numel for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Packed bytes of all parts."""
        return sum(part.value.nbytes for part in self.parts)


Tensor: TypeAlias = TensorInfo | ChunkedTensor | CompositeTensor


def parts(value: Tensor | None) -> list[tuple[str, Strided]]:
    """Every strided tensor that ``value`` is made of, with its path of part names; "" for a strided one."""
    if type(value) is TensorInfo:  # nearly always
        return [("", value)]
    found: list[tuple[str, Strided]] = []
    stack: list[tuple[str, Tensor]] = [] if value is None else [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, CompositeTensor):
            prefix = f"{path}." if path else ""
            stack.extend((prefix + part.name, part.value) for part in reversed(item.parts))
        else:
            found.append((path, item))
    return found


def views_of(value: Tensor | None) -> Sequence[TensorInfo]:
    """Every view of a storage that the elements of ``value`` lie in."""
    if type(value) is TensorInfo:
        return (value,)
    return [chunk.value for _, part in parts(value) for chunk in part.chunks]


def has_bytes(value: Strided) -> bool:
    """Whether a file has the elements; a tensor without elements needs none."""
    return all(view.storage is not None or 0 in view.shape for view in views_of(value))


def stored_nbytes(value: Strided) -> int:
    """What the storages of ``value`` hold in all: an expanded tensor claims more."""
    held = {view.storage[:3]: view.storage.nbytes for view in views_of(value) if view.storage is not None}
    return sum(held.values())


class Word(str, Enum):
    """A word of the JSON contract: equal to its text, and printed as it."""

    __str__ = str.__str__


class Kind(Word):
    """What an entry is to its module."""

    PARAMETER = "parameter"
    PERSISTENT_BUFFER = "persistent_buffer"
    NON_PERSISTENT_BUFFER = "non_persistent_buffer"
    EXTRA_STATE = "extra_state"
    OPTIMIZER_STATE = "optimizer_state"
    UNKNOWN = "unknown"


def is_buffer(kind: Kind) -> bool:
    """Whether an entry of this kind is a buffer of either persistence."""
    return kind in (Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER)


class Presence(Word):
    """Whether the file holds the entry, and whether it should; POSSIBLE depends on the model's arguments."""

    PRESENT = "present"
    MISSING = "missing"
    POSSIBLE = "possible"
    UNEXPECTED = "unexpected"


class Basis(Word):
    """The evidence behind a kind, strongest first: a weaker one never outranks a stronger (docs/kinds.md)."""

    MODULE = "module"
    PICKLED_MODULE = "pickled_module"
    TORCHSCRIPT = "torchscript"
    EXPORT = "export"
    COPY = "copy"
    PICKLED_PARAMETER = "pickled_parameter"
    OPTIMIZER = "optimizer"
    METADATA = "metadata"
    SOURCE = "source"
    SIBLING = "sibling"
    DTYPE = "dtype"
    ORDER = "order"
    SHAPE = "shape"
    NAME = "name"
    CONTENTS = "contents"
    NONE = "none"


EXACT_BASES = frozenset({Basis.MODULE, Basis.PICKLED_MODULE, Basis.TORCHSCRIPT, Basis.EXPORT})
"""Evidence that cannot be wrong: the module's own registration is what was read.

``pickled_parameter`` is not among them: ``register_buffer("x", nn.Parameter(...))`` is legal.
"""


class Classification(NamedTuple):
    """``Kind x Presence`` and why. ``note`` is a short reason for people, e.g. the rule's name.

    ``rebuilt_since`` says of a buffer which versions of its library leave it out of files and build it
    anew, in words; empty where none is known to. ``registered`` is false of a tensor that the file
    says is beside the parameters and buffers of its module; ``tied_to`` is, for a missing entry, the
    name under which the file holds its tensor. ``averaged_of`` is, for an averaged copy in the same
    state_dict, what it is a copy of. ``source`` is where a package's source registers it.
    """

    kind: Kind
    basis: Basis
    presence: Presence = Presence.PRESENT
    note: str = ""
    rebuilt_since: str = ""
    registered: bool = True
    tied_to: str = ""
    averaged_of: str = ""
    source: SourceEvidence | None = None

    @property
    def exact(self) -> bool:
        """True only for evidence that cannot be wrong; else the kind is inferred."""
        return self.basis in EXACT_BASES


UNCLASSIFIED = Classification(Kind.UNKNOWN, Basis.NONE)


class Entry(NamedTuple):
    """One tensor of a checkpoint, or one that is missing from it (``value`` None).

    ``root`` is the tuple of container keys above the mapping that holds it; ``name`` is the key
    in that mapping (in a pickled module: the dotted name that its state_dict would use).
    ``declared`` is what the file itself says about the kind; analysis refines it. ``subclass`` is the class
    that the pickle puts around a tensor which is whole without it.
    """

    root: Root
    name: Key
    value: Tensor | None
    requires_grad: bool | None = None
    declared: Classification = UNCLASSIFIED
    subclass: str = ""

    @property
    def tensor(self) -> TensorInfo | None:
        """The value as a view of one storage, or None if it is in chunks, composite or missing."""
        return self.value if isinstance(self.value, TensorInfo) else None

    @property
    def strided(self) -> Strided | None:
        """The value as a strided tensor, or None if it is composite or missing."""
        return None if isinstance(self.value, CompositeTensor) else self.value

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The sizes of the value; None where it is missing or has none (nested, uninitialised)."""
        return None if self.value is None else self.value.shape


def in_state_dict(entry: Entry) -> bool:
    """Whether a state_dict has it: no plain attribute of a module, and no non-persistent buffer."""
    return entry.declared.kind is not Kind.NON_PERSISTENT_BUFFER and entry.declared.registered


class Value(NamedTuple):
    """A plain leaf beside the tensors: epoch, lr, a string, a list of numbers."""

    root: Root
    name: Key
    value: Plain


class Opaque(NamedTuple):
    """A leaf that is neither tensor nor plain: described, never built.

    ``sha256`` is of a numpy array, with all that is in it: its type, shape, order and bytes.
    """

    root: Root
    name: Key
    type_name: str
    summary: str = ""
    sha256: str = ""


class Objects:
    """The objects of a checkpoint by path, to find which one a leaf is an attribute of."""

    def __init__(self, opaque: Sequence[Opaque], containers: Sequence[Container]) -> None:
        self._paths = {(*item.root, item.name) for item in opaque}
        if ("",) in self._paths and not any(container.path == () for container in containers):
            self._paths.add(())  # the object is all there is: it has no name

    def owner(self, root: Root) -> Root | None:
        """The path of the outermost object that a leaf at ``root`` is in; None if it is in none."""
        if not self._paths:
            return None
        return next((root[:depth] for depth in range(len(root) + 1) if root[:depth] in self._paths), None)


class Container(NamedTuple):
    """A mapping, list, tuple or object of the tree around the weights, ``path`` its keys."""

    path: Root
    type_name: str
    length: int


class GlobalRef(NamedTuple):
    """A global that an ordinary unpickler would import. ``places`` are the first few uses.

    ``called``: a REDUCE, NEWOBJ, OBJ or INST of the pickle applies it, ``calls`` of them in all, with as many
    arguments as ``arities`` says (-1: they are no tuple).
    """

    module: str
    name: str
    called: bool
    places: tuple[str, ...] = ()
    calls: int = 0
    arities: tuple[int, ...] = ()


class Record(NamedTuple):
    """A member of a zip container. ``crc32`` is None when the archive records none (0)."""

    name: str
    file: str
    byte_offset: int
    nbytes: int
    compressed_nbytes: int | None
    crc32: int | None


class FileInfo(NamedTuple):
    """A file that was read: what it was at that moment, to notice a change later (``files.local``)."""

    path: str
    nbytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> FileInfo:
        """The file that has this status."""
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)


class Finding(NamedTuple):
    """Something a person should know. ``code`` is stable; ``message`` one sentence.

    ``severity`` is ``error``, ``warning`` or ``info``; ``name`` the entry it is about, or "".
    """

    code: str
    severity: str
    name: str
    message: str


class Checkpoint(NamedTuple):
    """What a reader returns: addresses of every tensor, the plain values, and what is odd.

    ``entries`` are in file order. ``metadata`` is safetensors' ``__metadata__`` (or the index's);
    ``module_versions`` maps the root of a state_dict to its ``_metadata``: module path -> version
    (None where the module records none); ``module_extras`` holds what else a module's local metadata
    says. ``layout`` says more about the container for people
    ("1.6-2.0 layout"). ``ordered`` is false where the container loses the order of registration
    (safetensors). ``rare_opcodes`` are those that its pickles use besides what every torch pickle has.
    Where facts that a conversion carried were put back (``formats.carried``), ``stored`` is the checkpoint
    as the file itself has it, and ``put_back`` are root and name of the entries that are no keys of the file.
    ``obstacles`` say what of the file torch cannot load, though it is read here.
    ``digests`` stand for bytes that are in no file (a manifest), by path. ``attributes`` are plain ones of
    pickled modules (``p``, ``eps``, ``training``), by the path of the module, and its ``__class__``.
    ``unread_modules`` are paths of modules that keep others as bytes, which nobody looks into.
    """

    path: str
    format: str
    layout: str
    files: tuple[FileInfo, ...]
    entries: tuple[Entry, ...]
    values: tuple[Value, ...] = ()
    opaque: tuple[Opaque, ...] = ()
    containers: tuple[Container, ...] = ()
    metadata: Mapping[str, str] = {}
    module_versions: Mapping[Root, Mapping[str, int | None]] = {}
    globals: tuple[GlobalRef, ...] = ()
    records: tuple[Record, ...] = ()
    findings: tuple[Finding, ...] = ()
    ordered: bool = True
    module_extras: Mapping[Root, Mapping[str, ModuleExtras]] = {}
    rare_opcodes: frozenset[int] = frozenset()
    obstacles: tuple[str, ...] = ()
    stored: Checkpoint | None = None
    put_back: frozenset[tuple[Root, Key]] = frozenset()
    digests: Mapping[Root, str] = {}
    attributes: tuple[Value, ...] = ()
    unread_modules: frozenset[Root] = frozenset()

    def may_be_unread(self, root: Root, name: str) -> bool:
        """Whether an entry that a state_dict at ``root`` would have is perhaps in bytes that are not read."""
        if not self.unread_modules:
            return False
        path = (*root, *name.split("."))
        return any(path[:length] in self.unread_modules for length in range(len(path)))

    @property
    def file_nbytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.nbytes for file in self.files)
