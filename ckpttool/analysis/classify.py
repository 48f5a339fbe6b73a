"""The kind of every entry of a checkpoint, from the file alone, with the evidence for it.

The ladder, strongest first: what the reader declares (a pickled module, TorchScript, an exported
program, ``_rebuild_parameter``), the optimizer, the module versions of ``_metadata``, the order
of registration, names and siblings, dtypes. How strong each rule is was measured over some 2,000
architectures, see docs/kinds.md. What no evidence decides stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckpttool.analysis.aliases import find_aliases
from ckpttool.analysis.known_names import load_name_table
from ckpttool.analysis.optimizer import (
    Optimizer,
    OptimizerMatch,
    find_groups,
    match_names,
    match_order,
    read_optimizers,
    split_state_root,
)
from ckpttool.analysis.state_dict import judge_state_dict
from ckpttool.checkpoint import (
    EXACT_BASES,
    UNCLASSIFIED,
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Key,
    Kind,
    Presence,
    Root,
)

_MOST_MATCHED = 16
"""Optimizers, and state_dicts for each, that are compared: a GAN has two and two."""

_STRENGTH = {basis: -rank for rank, basis in enumerate(Basis)}


class Kinds(NamedTuple):
    """What ``classify`` finds. ``classifications`` is parallel to ``checkpoint.entries``.

    ``missing`` are entries without a value: buffers that the file leaves out by design.
    """

    classifications: tuple[Classification, ...]
    missing: tuple[Entry, ...]
    optimizers: tuple[OptimizerMatch, ...]


def classify(checkpoint: Checkpoint, tied_to: Sequence[Entry | None] | None = None) -> Kinds:
    """Say of every entry what it is to its module, and why.

    ``tied_to`` is that of ``find_aliases(checkpoint.entries)``, found here if it is not given.
    """
    entries = checkpoint.entries
    by_root: dict[Root, list[int]] = {}
    for index, entry in enumerate(entries):
        by_root.setdefault(entry.root, []).append(index)
    found: list[Classification] = [UNCLASSIFIED] * len(entries)
    groups = find_groups(checkpoint)
    states = {root for root in by_root if split_state_root(root, groups) is not None} if groups else set()
    weights = []
    for root, indices in by_root.items():
        if root in states:
            _fill_optimizer_state(entries, indices, found)
        elif len(by_root) == 1 or _is_state_dict(checkpoint, root, indices):
            weights.append(root)
            judged = judge_state_dict(
                [entries[index] for index in indices],
                checkpoint.module_versions.get(root, {}),
                checkpoint.ordered,
                load_name_table(),
            )
            for index, classification in zip(indices, judged, strict=True):
                found[index] = classification
        else:
            for index in indices:
                found[index] = entries[index].declared
    if tied_to is None:
        tied_to = find_aliases(entries).tied_to
    optimizers = read_optimizers(groups, {root: [entries[i] for i in by_root[root]] for root in states})
    matches = tuple(
        _match_optimizer(optimizer, checkpoint, {root: by_root[root] for root in weights}, tied_to, found)
        for optimizer in optimizers
    )
    _share_between_roots(entries, [by_root[root] for root in weights], found)
    _share_between_ties(entries, tied_to, found)
    return Kinds(tuple(found), _find_missing(checkpoint, weights), matches)


def _fill_optimizer_state(
    entries: Sequence[Entry], indices: Sequence[int], found: list[Classification]
) -> None:
    state = Classification(Kind.OPTIMIZER_STATE, Basis.OPTIMIZER, note="state of a param_groups optimizer")
    for index in indices:
        declared = entries[index].declared
        found[index] = state if declared.kind is Kind.UNKNOWN else declared


def _is_state_dict(checkpoint: Checkpoint, root: Root, indices: Sequence[int]) -> bool:
    """Whether a mapping among others holds a module's entries, not an epoch's loss beside them."""
    if root in checkpoint.module_versions:
        return True
    for index in indices:
        entry = checkpoint.entries[index]
        name = entry.name
        if entry.declared.kind is not Kind.UNKNOWN:
            return True
        if isinstance(name, str) and ("." in name or name in ("weight", "bias")):
            return True
    return False


# ------------------------------------------------------------------------------------------------- optimizers


def _match_optimizer(
    optimizer: Optimizer,
    checkpoint: Checkpoint,
    weights: Mapping[Root, Sequence[int]],
    tied_to: Sequence[Entry | None],
    found: list[Classification],
) -> OptimizerMatch:
    """Find the state_dict whose parameters ``optimizer`` holds, and mark them."""
    best_root: Root | None = None
    best: list[int] = []
    best_by = ""
    for root in list(weights)[:_MOST_MATCHED]:
        indices = weights[root]
        if len(indices) < optimizer.parameters:
            continue
        mapped, by = _match_root(optimizer, checkpoint.entries, indices, tied_to, found)
        if len(mapped) > len(best):
            best_root, best, best_by = root, mapped, by
    for index in best:
        if found[index].basis not in EXACT_BASES:
            note = f"{optimizer.class_name or 'optimizer'}: {best_by}"
            found[index] = Classification(Kind.PARAMETER, Basis.OPTIMIZER, note=note)
    return OptimizerMatch(
        optimizer.root, optimizer.class_name, optimizer.parameters, best_root, len(best), best_by
    )


def _match_root(
    optimizer: Optimizer,
    entries: Sequence[Entry],
    indices: Sequence[int],
    tied_to: Sequence[Entry | None],
    found: Sequence[Classification],
) -> tuple[list[int], str]:
    """Indices of the entries of one state_dict that ``optimizer`` names, and by what."""
    by_name = match_names(optimizer, {entries[index].name: index for index in indices})
    if by_name:
        return by_name, "names"
    # parameters() gives a tied parameter once; buffers are left out, first those that any rule
    # knows, and if that leaves too few, only those whose dtype takes no gradient.
    single = [index for index in indices if tied_to[index] is None and entries[index].value is not None]
    for candidates in (
        [index for index in single if found[index].kind is not Kind.PERSISTENT_BUFFER],
        [index for index in single if found[index].basis is not Basis.DTYPE],
    ):
        if len(candidates) >= optimizer.parameters:
            shapes = [
                value.shape if (value := entries[index].value) is not None else None for index in candidates
            ]
            positions = match_order(optimizer, shapes)
            if positions:
                return [candidates[position] for position in positions], "order"
    return [], ""


# ----------------------------------------------------------------------------------------------------- spread


def _share_between_roots(
    entries: Sequence[Entry], roots: Sequence[Sequence[int]], found: list[Classification]
) -> None:
    """Let a copy of the weights (EMA) have the kinds of the same names with stronger evidence elsewhere."""
    if len(roots) < 2:
        return
    best: dict[tuple[Key, object], int] = {}
    for indices in roots:
        for index in indices:
            key = (entries[index].name, _shape(entries[index]))
            known = best.get(key)
            if known is None or _strength(found[index]) > _strength(found[known]):
                best[key] = index
    for indices in roots:
        for index in indices:
            other = best[entries[index].name, _shape(entries[index])]
            if other != index and _strength(found[other]) > _strength(found[index]):
                found[index] = _borrow(found[other], "the same name in another copy")


def _share_between_ties(
    entries: Sequence[Entry], tied_to: Sequence[Entry | None], found: list[Classification]
) -> None:
    """Give all names of one tensor the kind with the strongest evidence: ties never cross kinds."""
    tied = [index for index, first in enumerate(tied_to) if first is not None]
    if not tied:
        return
    position = {id(entry): index for index, entry in enumerate(entries)}
    groups: dict[int, list[int]] = {}
    for index in tied:
        first = position[id(tied_to[index])]
        groups.setdefault(first, [first]).append(index)
    for indices in groups.values():
        best = max(indices, key=lambda index: _strength(found[index]))
        for index in indices:
            if found[index].kind is Kind.UNKNOWN and found[best].kind is not Kind.UNKNOWN:
                found[index] = _borrow(found[best], "tied to an entry of this kind")


def _shape(entry: Entry) -> tuple[int, ...] | None:
    return None if entry.value is None else entry.value.shape


def _strength(classification: Classification) -> int:
    return _STRENGTH[classification.basis]


def _borrow(classification: Classification, note: str) -> Classification:
    """The same kind for another entry: inferred, even where it was exact for its own."""
    basis = Basis.SIBLING if classification.exact else classification.basis
    return Classification(classification.kind, basis, note=note)


# ---------------------------------------------------------------------------------------------------- missing


def _find_missing(checkpoint: Checkpoint, roots: Sequence[Root]) -> tuple[Entry, ...]:
    """Non-persistent buffers of modules that ``_metadata`` names and that have neither entry nor child."""
    missing: list[Entry] = []
    table = load_name_table().missing
    for root in roots:
        versions = checkpoint.module_versions.get(root, {})
        candidates = [path for path in versions if path.rpartition(".")[2] in table]
        if not candidates:
            continue
        occupied = {path.rpartition(".")[0] for path in versions}
        occupied.update(
            entry.name.rpartition(".")[0]
            for entry in checkpoint.entries
            if entry.root == root and isinstance(entry.name, str)
        )
        for path in candidates:
            if path in occupied:
                continue
            known = table[path.rpartition(".")[2]]
            declared = Classification(
                Kind.NON_PERSISTENT_BUFFER, Basis.METADATA, Presence.MISSING, known.note
            )
            missing.extend(Entry(root, f"{path}.{name}", None, declared=declared) for name in known.names)
    return tuple(missing)
