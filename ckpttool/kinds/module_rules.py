"""The kinds of one module's own entries, judged together: what stands beside what, and in which order.

A module is judged by its signature (names, dtypes, dimensions, version) and never by where it
stands, so that a network of a thousand equal blocks costs one judgement.
"""

from __future__ import annotations

from typing import NamedTuple

from ckpttool.kinds.known_names import Verdict, load_name_table
from ckpttool.values.checkpoint import UNCLASSIFIED, Basis, Classification, Kind
from ckpttool.values.dtypes import BY_NAME

PARAMETER = Kind.PARAMETER
BUFFER = Kind.PERSISTENT_BUFFER

BATCH_NORM_VERSION = 2
"""``_NormBase._version`` (torch/nn/modules/batchnorm.py) since num_batches_tracked exists, 0.4.1."""


class Leaf(NamedTuple):
    """One entry as the rules see it. ``name`` is its last part, ``dtype`` torch's name or ""."""

    name: str
    dtype: str
    shape: int  # see known_names.shape_code
    declared: Classification | None


class Signature(NamedTuple):
    """All that a judgement depends on.

    ``module`` is the last part of the module's path that is not a number; ``version`` is None
    where the file says nothing about the module.
    """

    module: str
    parametrization: bool
    version: int | None
    leaves: tuple[Leaf, ...]


class Context(NamedTuple):
    """What the whole state_dict says to each of its modules.

    ``ordered``: entries stand as they were registered. ``frozen_without_counter``: a batch norm
    without num_batches_tracked is a frozen one, because the file is too young to lack it otherwise.
    """

    ordered: bool
    frozen_without_counter: bool


def judge_module(signature: Signature, context: Context) -> tuple[Classification, ...]:
    """The classification of each leaf: declared, then structure, then order, names and dtypes."""
    structure = _judge_structure(signature, context)
    verdicts = [
        structure.get(leaf.name) or _judge_alone(leaf, signature.module)
        if leaf.declared is None
        else Verdict(leaf.declared, True)
        for leaf in signature.leaves
    ]
    if context.ordered:
        _apply_order(signature.leaves, verdicts)
    return tuple(verdict.classification for verdict in verdicts)


# -------------------------------------------------------------------------------------------------- structure


def _judge_structure(signature: Signature, context: Context) -> dict[str, Verdict]:
    """Verdicts by name from what stands beside what and from the module's version."""
    names = {leaf.name for leaf in signature.leaves}
    found: dict[str, Verdict] = {}
    if "running_mean" in names and "running_var" in names:
        found.update(_judge_batch_norm(names, signature.version, context))
    if signature.parametrization:
        found.update(_judge_parametrization(names))
    for name in names:
        stem, _, role = name.rpartition("_")
        if role == "g" and f"{stem}_v" in names and f"{stem}_orig" not in names:
            found[name] = found[f"{stem}_v"] = _sibling(PARAMETER, "weight norm: _g with _v")
        elif role == "orig" and f"{stem}_u" in names:
            found[name] = _sibling(PARAMETER, "spectral norm: _orig with _u")
            found[f"{stem}_u"] = found[f"{stem}_v"] = _sibling(BUFFER, "spectral norm: _u, _v with _orig")
        elif role == "orig" and f"{stem}_mask" in names:
            found[name] = _sibling(PARAMETER, "pruning: _orig with _mask")
            found[f"{stem}_mask"] = _sibling(BUFFER, "pruning: _mask with _orig")
    if "scale" in names and "zero_point" in names:
        found["scale"] = found["zero_point"] = _sibling(BUFFER, "quantization: scale with zero_point")
    if "mean" in names and "std" in names:
        found["mean"] = found["std"] = _sibling(BUFFER, "input normalization: mean with std")
    if "embed" in names and not names.isdisjoint(("cluster_size", "cluster_usage")):
        found["embed"] = _sibling(BUFFER, "codebook: embed with cluster_size")
    return found


def _verdict(kind: Kind, basis: Basis, note: str, sure: bool = False) -> Verdict:
    return Verdict(Classification(kind, basis, note=note), sure)


def _sibling(kind: Kind, note: str) -> Verdict:
    return _verdict(kind, Basis.SIBLING, note, True)


def _judge_batch_norm(names: set[str], version: int | None, context: Context) -> dict[str, Verdict]:
    """Weight and bias of a module with running statistics: learnt, or frozen in buffers.

    A frozen batch norm is a plain module (version 1) without a counter, and registers all four
    tensors as buffers; a true one has version 2, and a counter since torch 0.4.1.
    """
    if version is not None and version >= BATCH_NORM_VERSION:
        verdict = _verdict(PARAMETER, Basis.METADATA, "batch norm: module version 2", True)
    elif "num_batches_tracked" in names:
        verdict = _sibling(PARAMETER, "batch norm: beside num_batches_tracked")
    elif version is not None:
        note = "frozen batch norm: module version 1, no counter"
        verdict = _verdict(BUFFER, Basis.METADATA, note, True)
    elif context.frozen_without_counter:
        verdict = _sibling(BUFFER, "frozen batch norm: no num_batches_tracked")
    else:
        verdict = _verdict(Kind.UNKNOWN, Basis.NONE, "frozen batch norm, or a file older than torch 0.4.1")
    return {name: verdict for name in ("weight", "bias") if name in names}


def _judge_parametrization(names: set[str]) -> dict[str, Verdict]:
    """Entries under ``parametrizations.NAME``: what is trained is called original."""
    found = {}
    for name in names:
        if name.rstrip("0123456789") == "original":
            found[name] = _verdict(PARAMETER, Basis.NAME, "torch.nn.utils.parametrize: original")
        elif name in ("_u", "_v", "base"):
            note = "torch.nn.utils.parametrizations: spectral norm, orthogonal"
            found[name] = _verdict(BUFFER, Basis.NAME, note, True)
    return found


# ---------------------------------------------------------------------------------------------- names, dtypes


def _judge_alone(leaf: Leaf, module: str) -> Verdict:
    """What a leaf says by itself: its name, checked against its dtype and shape."""
    if leaf.name == "_extra_state":  # _EXTRA_STATE_KEY_SUFFIX in torch/nn/modules/module.py
        return _verdict(Kind.EXTRA_STATE, Basis.NAME, "torch.nn: get_extra_state")
    known = load_name_table().find(leaf.name, module, leaf.shape)
    by_dtype = _judge_dtype(leaf)
    if known is not None and (by_dtype is None or known.classification.kind is not PARAMETER):
        return known
    return by_dtype or Verdict(UNCLASSIFIED)


_NEVER_LEARNT = frozenset({"int64", "bool"})
_PACKED = frozenset(
    dtype.name
    for dtype in BY_NAME.values()
    if dtype.kind in ("int", "uint", "quantized", "bits") and dtype.name not in _NEVER_LEARNT
)
_BY_INTEGER = _verdict(BUFFER, Basis.DTYPE, "an integer takes no gradient", True)
_WEAK_INTEGER = _BY_INTEGER._replace(sure=False)
_QUANTIZED = _verdict(Kind.UNKNOWN, Basis.NONE, "a packed quantized parameter, or an integer buffer")


def _judge_dtype(leaf: Leaf) -> Verdict | None:
    """Integers are buffers, but for small ones of some size: those may be quantized parameters."""
    if leaf.dtype in _NEVER_LEARNT:
        return _BY_INTEGER
    if leaf.dtype in _PACKED:
        return _WEAK_INTEGER if leaf.shape == 0 else _QUANTIZED
    return None


# ------------------------------------------------------------------------------------------------------ order


def _apply_order(leaves: tuple[Leaf, ...], verdicts: list[Verdict]) -> None:
    """Within a module every parameter precedes every buffer (``Module._save_to_state_dict``).

    What is sure judges all others; then names that are right nearly always judge those that say nothing.
    """
    for judged_by_sure, gives_way in ((True, (PARAMETER, BUFFER, Kind.UNKNOWN)), (False, (Kind.UNKNOWN,))):
        kinds = [found.kind if sure or not judged_by_sure else None for found, sure in verdicts]
        first_buffer = kinds.index(BUFFER) if BUFFER in kinds else len(kinds)
        last_parameter = len(kinds) - 1 - kinds[::-1].index(PARAMETER) if PARAMETER in kinds else -1
        if first_buffer < last_parameter:
            return  # one of the two is wrong; neither may judge a third
        for index, (found, sure) in enumerate(verdicts):
            if sure or found.kind not in gives_way:
                continue
            if index > first_buffer and found.kind is not BUFFER:
                note = f"after the buffer {leaves[first_buffer].name}"
                verdicts[index] = _verdict(BUFFER, Basis.ORDER, note, True)
            elif index < last_parameter and found.kind is not PARAMETER:
                note = f"before the parameter {leaves[last_parameter].name}"
                verdicts[index] = _verdict(PARAMETER, Basis.ORDER, note, True)
