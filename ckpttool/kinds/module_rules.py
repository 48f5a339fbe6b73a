"""The kinds of one module's own entries, judged together: what stands beside what, and in which order.

A module is judged by its signature (names, dtypes, dimensions, version) and never by where it
stands, so that a network of a thousand equal blocks costs one judgement. ``LADDER`` is the table of
docs/kinds.md: each rule sees what the stronger ones found, and speaks of what they left open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from ckpttool.kinds.known_names import EMPTY, NARROW, load_name_table
from ckpttool.values.checkpoint import Basis, Classification, Kind
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.source import How

PARAMETER = Kind.PARAMETER
BUFFER = Kind.PERSISTENT_BUFFER

BATCH_NORM_VERSION = 2
"""``_NormBase._version`` (torch/nn/modules/batchnorm.py) since num_batches_tracked exists, 0.4.1."""


class Leaf(NamedTuple):
    """One entry as the rules see it. ``name`` is its last part, ``dtype`` torch's name or "".

    ``given`` is what stronger evidence than a module's own entries says: the reader's word, a copy, the
    optimizer. ``source`` is what the source of the model's package says.
    """

    name: str
    dtype: str
    shape: int  # see known_names.shape_code
    given: Classification | None
    source: Classification | None = None


class Signature(NamedTuple):
    """All that a judgement depends on.

    ``module`` is the last part of the module's path that is not a number; ``version`` is None
    where the file says nothing about the module. ``even``: weight, bias, running_mean and running_var are
    all there, and of one shape.
    """

    module: str
    parametrization: bool
    version: int | None
    even: bool
    leaves: tuple[Leaf, ...]


class Context(NamedTuple):
    """What the whole state_dict says to each of its modules.

    ``ordered``: entries stand as they were registered. ``young``: no older than num_batches_tracked.
    ``own_norms``: some norm has statistics of another shape than its weight, and no counter: whoever wrote
    it writes norms by hand, and what looks like a frozen batch norm may be one of them.
    """

    ordered: bool
    young: bool
    own_norms: bool


Found: TypeAlias = Mapping[int, Classification]
Said: TypeAlias = Iterable[tuple[int, Classification]]
Rule: TypeAlias = Callable[[Signature, Context, Found], Said]
_ByName: TypeAlias = dict[str, Classification]


def judge_module(signature: Signature, context: Context) -> tuple[Classification, ...]:
    """The classification of each leaf: that of the strongest rule which has one."""
    found: dict[int, Classification] = {}
    for rule in LADDER:
        if len(found) == len(signature.leaves):
            break
        for index, said in list(rule(signature, context, found)):
            found.setdefault(index, said)
    return tuple(found[index] for index in range(len(signature.leaves)))


def _given(signature: Signature, context: Context, found: Found) -> Said:
    return ((index, leaf.given) for index, leaf in enumerate(signature.leaves) if leaf.given is not None)


def _where(signature: Signature, said: _ByName) -> Said:
    return ((index, said[leaf.name]) for index, leaf in enumerate(signature.leaves) if leaf.name in said)


def _claim(kind: Kind, basis: Basis, note: str) -> Classification:
    return Classification(kind, basis, note=note)


# --------------------------------------------------------------------------------------- versions, siblings

_TRUE_NORM = _claim(PARAMETER, Basis.METADATA, "batch norm: module version 2")
_COUNTED_NORM = _claim(PARAMETER, Basis.SIBLING, "batch norm: beside num_batches_tracked")
_FROZEN_NORM = _claim(BUFFER, Basis.METADATA, "frozen batch norm: module version 1, no counter")
_FROZEN_IN_NEW = _claim(BUFFER, Basis.SIBLING, "frozen batch norm: no num_batches_tracked")
_FROZEN_OR_OLD = _claim(Kind.UNKNOWN, Basis.NONE, "frozen batch norm, or a file older than torch 0.4.1")


def _by_version(signature: Signature, context: Context, found: Found) -> Said:
    """Weight and bias of a module with running statistics: learnt, or frozen in buffers.

    A frozen batch norm is a plain module (version 1) without a counter, and registers all four
    tensors as buffers; a true one has version 2, and a counter since torch 0.4.1.
    """
    names = {leaf.name for leaf in signature.leaves}
    if signature.version is None or not {"running_mean", "running_var"} <= names:
        return ()
    if signature.version >= BATCH_NORM_VERSION:
        return _where(signature, dict.fromkeys(("weight", "bias"), _TRUE_NORM))
    if signature.even and "num_batches_tracked" not in names and not context.own_norms:
        return _where(signature, dict.fromkeys(("weight", "bias"), _FROZEN_NORM))
    return ()


def _by_siblings(signature: Signature, context: Context, found: Found) -> Said:
    """Verdicts from what torch itself puts beside each other."""
    names = {leaf.name for leaf in signature.leaves}
    said: _ByName = {}
    if signature.parametrization:
        said.update(_judge_parametrization(names))
    if {"running_mean", "running_var"} <= names:
        if "num_batches_tracked" in names:
            said.update(dict.fromkeys(("weight", "bias"), _COUNTED_NORM))
        elif signature.even and context.young and not context.own_norms:
            said.update(dict.fromkeys(("weight", "bias"), _FROZEN_IN_NEW))
    for name in names:
        stem, _, role = name.rpartition("_")
        if role == "g" and f"{stem}_v" in names and f"{stem}_orig" not in names:
            said[name] = said[f"{stem}_v"] = _sibling(PARAMETER, "weight norm: _g with _v")
        elif role == "orig" and f"{stem}_u" in names:
            said[name] = _sibling(PARAMETER, "spectral norm: _orig with _u")
            said[f"{stem}_u"] = said[f"{stem}_v"] = _sibling(BUFFER, "spectral norm: _u, _v with _orig")
        elif role == "orig" and f"{stem}_mask" in names:
            said[name] = _sibling(PARAMETER, "pruning: _orig with _mask")
            said[f"{stem}_mask"] = _sibling(BUFFER, "pruning: _mask with _orig")
    return _where(signature, said)


def _by_company(signature: Signature, context: Context, found: Found) -> Said:
    """Names that are buffers where they stand together."""
    names = {leaf.name for leaf in signature.leaves}
    said: _ByName = {}
    for group, beside, note in _TOGETHER:
        if group <= names and (not beside or not beside.isdisjoint(names)):
            said.update(dict.fromkeys(group, _sibling(BUFFER, note)))
    return _where(signature, said)


_TOGETHER: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    # Names that are buffers where all stand in one module, with one of the second set if there is one.
    (frozenset({"scale", "zero_point"}), frozenset(), "quantization: scale with zero_point"),
    (frozenset({"mean", "std"}), frozenset(), "input normalization: mean with std"),
    (frozenset({"embed"}), frozenset({"cluster_size", "cluster_usage"}), "codebook: embed with cluster_size"),
    (frozenset({"scale"}), frozenset({"inv_freq"}), "rotary positions that decay: scale with inv_freq"),
)


def _sibling(kind: Kind, note: str) -> Classification:
    return _claim(kind, Basis.SIBLING, note)


def _judge_parametrization(names: set[str]) -> _ByName:
    """Entries under ``parametrizations.NAME``: what is trained is called original."""
    said = {}
    for name in names:
        if name.rstrip("0123456789") == "original":
            said[name] = _sibling(PARAMETER, "torch.nn.utils.parametrize: original")
        elif name in ("_u", "_v", "base"):
            said[name] = _sibling(BUFFER, "torch.nn.utils.parametrizations: spectral norm, orthogonal")
    return said


# ----------------------------------------------------------------------------------------------------- source


def _by_class(signature: Signature, context: Context, found: Found) -> Said:
    """What the class that fits the module declares."""
    return _by_source(signature, "class")


def _by_declarations(signature: Signature, context: Context, found: Found) -> Said:
    """What every class of the package that has the name declares; without elements it is a placeholder."""
    leaves = signature.leaves
    return (
        (at, said) for at, said in _by_source(signature, "leaf") if leaves[at].shape not in (EMPTY, NARROW)
    )


def _by_source(signature: Signature, how: How) -> Said:
    for index, leaf in enumerate(signature.leaves):
        said = leaf.source
        by = None if said is None or said.basis is not Basis.SOURCE else said.source
        if said is not None and by is not None and by.how == how:
            yield index, said


def _by_arguments(signature: Signature, context: Context, found: Found) -> Said:
    """What the class registers as the one or the other: no name knows better."""
    for index, leaf in enumerate(signature.leaves):
        if leaf.source is not None and leaf.source.basis is Basis.NONE:
            yield index, leaf.source


# -------------------------------------------------------------------------------------- dtypes, order, shapes

_NEVER_LEARNT = frozenset({"int64", "bool"})
_PACKED = frozenset(
    dtype.name
    for dtype in BY_NAME.values()
    if dtype.kind in ("int", "uint", "quantized", "bits") and dtype.name not in _NEVER_LEARNT
)
_BY_INTEGER = _claim(BUFFER, Basis.DTYPE, "an integer takes no gradient")
_ONE_INTEGER = _claim(BUFFER, Basis.SHAPE, "a single integer")
_NO_ELEMENTS = _claim(BUFFER, Basis.SHAPE, "no elements, so nothing to train")
_QUANTIZED = _claim(Kind.UNKNOWN, Basis.NONE, "a packed quantized parameter, or an integer buffer")
_UNKNOWN = Classification(Kind.UNKNOWN, Basis.NONE)


def _known(leaf: Leaf, module: str, otherwise: Classification) -> Classification:
    """What the table says, if it is no less than that this is a buffer, else ``otherwise``."""
    known = load_name_table().find(leaf.name, module, leaf.shape)
    return known if known is not None and known.kind not in (PARAMETER, Kind.UNKNOWN) else otherwise


def _by_dtype(signature: Signature, context: Context, found: Found) -> Said:
    """``int64`` and ``bool`` are buffers. A name that says so too says more, and is what is named."""
    for index, leaf in enumerate(signature.leaves):
        if leaf.dtype in _NEVER_LEARNT:
            yield index, _known(leaf, signature.module, _BY_INTEGER)


def _by_order(signature: Signature, context: Context, found: Found) -> Said:
    """Within a module every parameter precedes every buffer (``Module._save_to_state_dict``)."""
    if not context.ordered:
        return
    first_buffer = min((at for at, said in found.items() if said.kind is BUFFER), default=None)
    last_parameter = max((at for at, said in found.items() if said.kind is PARAMETER), default=None)
    if first_buffer is not None and last_parameter is not None and first_buffer < last_parameter:
        return  # one of the two is wrong; neither may judge a third
    for index in range(len(signature.leaves)):
        if first_buffer is not None and index > first_buffer:
            note = f"after the buffer {signature.leaves[first_buffer].name}"
            yield index, _claim(BUFFER, Basis.ORDER, note)
        elif last_parameter is not None and index < last_parameter:
            note = f"before the parameter {signature.leaves[last_parameter].name}"
            yield index, _claim(PARAMETER, Basis.ORDER, note)


def _by_shape(signature: Signature, context: Context, found: Found) -> Said:
    """What has no elements is a placeholder; one narrow integer is a counter, more may be packed weights.

    A weight of torch.nn that is without elements in one dimension only is of a layer of width 0, and its bias
    is no placeholder either.
    """
    no_width = any(leaf.name == "weight" and leaf.shape == NARROW for leaf in signature.leaves)
    table = load_name_table()
    for index, leaf in enumerate(signature.leaves):
        of_layer = (leaf.shape == NARROW or no_width) and (
            table.find(leaf.name, signature.module, leaf.shape) == table.of_torch
        )
        if leaf.shape in (EMPTY, NARROW) and not of_layer:
            yield index, _known(leaf, signature.module, _NO_ELEMENTS)
        elif leaf.shape == 0 and leaf.dtype in _PACKED:
            yield index, _known(leaf, signature.module, _ONE_INTEGER)


# ---------------------------------------------------------------------------------------------------- names

_LOSS = re.compile(r"(?:^|_)(?:loss|losses|criterion|cross_?entropy|nll|bce)(?:_|$)|(?:Loss|Entropy)$")
_OF_NORMALISER = frozenset({"mean", "shift", "loc", "center"})
_NORMALISER = _claim(Kind.UNKNOWN, Basis.NONE, "of a normaliser of data, or learnt")
_CLASS_WEIGHTS = _claim(BUFFER, Basis.NAME, "weights of classes, in a loss")


def _by_name(signature: Signature, context: Context, found: Found) -> Said:
    """The table of names; unknown where it says nothing, or what another fact contradicts."""
    table = load_name_table()
    names = {leaf.name for leaf in signature.leaves}
    # What no rule above could place: without a version, and without a counter in any file.
    unsure = signature.even and not context.own_norms
    in_loss = "bias" not in names and _LOSS.search(signature.module)
    for index, leaf in enumerate(signature.leaves):
        known = table.find(leaf.name, signature.module, leaf.shape) or _UNKNOWN
        if leaf.dtype in _PACKED and known.kind in (PARAMETER, Kind.UNKNOWN):
            yield index, _QUANTIZED
        elif unsure and leaf.name in ("weight", "bias"):
            yield index, _FROZEN_OR_OLD
        elif leaf.name == "scale" and not _OF_NORMALISER.isdisjoint(names):
            yield index, _NORMALISER
        elif leaf.name == "weight" and leaf.shape == 1 and in_loss:
            yield index, _CLASS_WEIGHTS
        else:
            yield index, known


LADDER: tuple[Rule, ...] = (
    _given,
    _by_version,
    _by_siblings,
    _by_class,
    _by_company,
    _by_dtype,
    _by_declarations,
    _by_order,
    _by_shape,
    _by_arguments,
    _by_name,
)
"""The rules that judge a module, strongest first."""
