"""What ``convert`` will do, as values: every byte of the destination with its place in the source.

A destination is made of *pieces*: runs of bytes, each the packed elements of one view of the source
(cast, where that was asked for). A tensor of the destination is a view of a piece. In safetensors
every tensor has a piece of its own; in a ``.pt`` tied tensors and overlapping views share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from ckpttool.values.checkpoint import (
    Checkpoint,
    Classification,
    Container,
    Entry,
    Key,
    ModuleExtras,
    Opaque,
    Plain,
    Root,
    StoredRun,
    Strided,
    Value,
)
from ckpttool.values.dtypes import DType

SharedWay: TypeAlias = Literal["alias", "duplicate", "fail"]
Method: TypeAlias = Literal["copied", "gathered", "cast"]


WRITABLE_CONTAINERS = frozenset(("dict", "OrderedDict", "list", "tuple", "set"))
"""Types of containers that a ``.pt`` is written with; every other one becomes a dict."""


class Options(NamedTuple):
    """What was asked for. Globs are ``fnmatch``'s and apply to names and to dotted paths."""

    container: str  # a name of values.containers
    root: Root | None = None
    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    weights_only: bool = False
    prefer_ema: bool = False
    shared: SharedWay = "alias"
    as_bytes: bool = False
    strip_prefix: str | None = None
    add_prefix: str = ""
    renames: tuple[str, ...] = ()
    drop_known_buffers: bool = False
    non_persistent: bool = False
    dtype: DType | None = None
    keep_dtype: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    sharded: bool = False

    @property
    def names_branch(self) -> bool:
        """Whether a branch was asked for, and not only what is the weights'."""
        return self.root is not None or self.prefer_ema


class Piece(NamedTuple):
    """A run of bytes of the destination: the elements of ``source`` in row-major order, packed.

    ``runs`` are these bytes where they lie in the source as they will in the destination, else None.
    """

    source: Strided
    nbytes: int
    runs: Sequence[StoredRun] | None
    cast: DType | None = None

    @property
    def method(self) -> Method:
        """How the bytes come about."""
        return "cast" if self.cast is not None else "gathered" if self.runs is None else "copied"


class Placed(NamedTuple):
    """A strided tensor of the destination: a view of the piece at position ``piece``."""

    piece: int
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int = 0
    conj: bool = False
    neg: bool = False


class PlacedComposite(NamedTuple):
    """A quantized, sparse or nested tensor of the destination, its parts placed."""

    layout: str
    type_name: str
    dtype: DType | None
    shape: tuple[int, ...] | None
    parts: tuple[tuple[str, Placed | PlacedComposite], ...]
    details: tuple[tuple[str, Plain], ...]
    coalesced: bool | None = None


class Planned(NamedTuple):
    """A tensor of the destination under its new name, and the entry of the source that it comes from."""

    root: Root
    name: Key
    value: Placed | PlacedComposite
    entry: Entry
    classification: Classification
    is_parameter: bool = False

    @property
    def leaves(self) -> list[Placed]:
        """The strided tensors that it is made of."""
        return _leaves_of(self.value)


def _leaves_of(value: Placed | PlacedComposite) -> list[Placed]:
    """Parts nest at most as deep as the reader lets rebuild calls nest (16)."""
    if isinstance(value, Placed):
        return [value]
    return [leaf for _, part in value.parts for leaf in _leaves_of(part)]


class Dropped(NamedTuple):
    """Something of the source that the destination will not hold.

    ``asked`` is true where an option said so; ``nbytes`` is 0 for what is no tensor.
    """

    root: Root
    name: Key
    type_name: str
    nbytes: int
    reason: str
    asked: bool


class Cast(NamedTuple):
    """A tensor that changes its dtype."""

    name: str
    before: DType
    after: DType
    piece: int


class ConversionPlan(NamedTuple):
    """Everything that will be written. ``root`` is the branch that was taken, None for the whole file.

    ``aliases`` maps each tied name to the name that is kept. In a ``.pt`` an alias is among ``tensors``,
    viewing the same piece; in safetensors it is only listed: ``listed`` are such.
    """

    source: Checkpoint
    options: Options
    root: Root | None
    root_found: bool
    values: tuple[Value, ...]
    objects: tuple[Opaque, ...]
    containers: tuple[Container, ...]
    module_versions: Mapping[Root, Mapping[str, int | None]]
    module_extras: Mapping[Root, Mapping[str, ModuleExtras]]
    renamed: Mapping[str, str]
    dropped: tuple[Dropped, ...]
    pieces: tuple[Piece, ...] = ()
    tensors: tuple[Planned, ...] = ()
    aliases: Mapping[str, str] = {}
    listed: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}
    casts: tuple[Cast, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all pieces: the data of the destination without headers."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def lost(self) -> tuple[Dropped, ...]:
        """What is dropped although no option said so."""
        return tuple(item for item in self.dropped if not item.asked)


class FileWritten(NamedTuple):
    """A file of the destination; ``sha256`` is None where it was not asked for."""

    path: str
    nbytes: int
    sha256: str | None = None


class CastLoss(NamedTuple):
    """What casting one tensor cost.

    ``overflow`` counts finite values that became infinite or NaN, ``underflow`` nonzero ones that
    became 0; ``max_relative`` is the largest relative error of the others.
    """

    numel: int = 0
    overflow: int = 0
    underflow: int = 0
    max_relative: float = 0.0

    def joined(self, other: CastLoss) -> CastLoss:
        """Of two runs of the same tensor."""
        return CastLoss(
            self.numel + other.numel,
            self.overflow + other.overflow,
            self.underflow + other.underflow,
            max(self.max_relative, other.max_relative),
        )


class Conversion(NamedTuple):
    """The result of ``convert``. ``written`` is false for a dry run: ``files`` are those that would be."""

    plan: ConversionPlan
    destination: str
    files: tuple[FileWritten, ...]
    written: bool
    checked: bool = False
    seconds: float = 0.0
    losses: Mapping[int, CastLoss] = {}  # by position in plan.pieces
    digests: Mapping[int, str] = {}  # by position in plan.tensors

    @property
    def ok(self) -> bool:
        """Always true: what fails is raised."""
        return True
