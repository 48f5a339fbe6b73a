"""What entries say about each other across modules: the optimizer, copies of the weights, ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckpttool.kinds.optimizer import Optimizer, OptimizerMatch, match_names, match_order
from ckpttool.values.checkpoint import (
    EXACT_BASES,
    UNCLASSIFIED,
    Basis,
    Classification,
    Entry,
    Key,
    Kind,
    Root,
)

_MOST_COMPARED = 16
"""Optimizers that are matched, and state_dicts that each is laid against: a GAN has two, and copies."""

_STRENGTH = {basis: -rank for rank, basis in enumerate(Basis)}
_MEMBER_KINDS = frozenset({Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.UNKNOWN})


def is_final(entry: Entry) -> bool:
    """Whether the reader said what the entry is, or that it is nothing registered: no rule may say otherwise.

    ``_rebuild_parameter`` alone is not that strong, for a buffer may be pickled as a Parameter.
    """
    return entry.declared != UNCLASSIFIED and entry.declared.basis is not Basis.PICKLED_PARAMETER


def apply_optimizers(
    optimizers: Sequence[Optimizer],
    entries: Sequence[Entry],
    weights: Mapping[Root, Sequence[int]],
    tied_to: Sequence[Entry | None],
    found: list[Classification],
) -> tuple[OptimizerMatch, ...]:
    """Find the state_dict that each of ``optimizers`` goes with, and mark in ``found`` what it names."""
    matches = []
    for rank, optimizer in enumerate(optimizers):
        best = OptimizerMatch(optimizer.root, optimizer.class_name, optimizer.parameters)
        named: list[int] = []
        for root in list(weights)[:_MOST_COMPARED] if rank < _MOST_COMPARED else ():
            mapped, by = _match_root(optimizer, entries, weights[root], tied_to, found)
            if len(mapped) > len(named):
                named = mapped
                best = best._replace(weights_root=root, mapped=len(mapped), by=by)
        note = f"{optimizer.class_name or 'optimizer'}, by {best.by}"
        for index in named:
            if not is_final(entries[index]):
                found[index] = Classification(Kind.PARAMETER, Basis.OPTIMIZER, note=note)
        if best.weights_root is not None and len(named) == optimizer.parameters:
            for index in weights[best.weights_root]:
                if found[index].kind is Kind.UNKNOWN and not is_final(entries[index]):
                    found[index] = found[index]._replace(note="not in the optimizer: a buffer, or frozen")
        matches.append(best)
    return tuple(matches)


def _match_root(
    optimizer: Optimizer,
    entries: Sequence[Entry],
    indices: Sequence[int],
    tied_to: Sequence[Entry | None],
    found: Sequence[Classification],
) -> tuple[list[int], str]:
    """Indices of the entries of one state_dict that ``optimizer`` names, and by what."""
    if optimizer.names:
        by_name = match_names(optimizer, {entries[index].name: index for index in indices})
        if by_name:
            return by_name, "names"
    # parameters() gives a tied parameter once; buffers are left out: first those that any rule
    # knows, and if that leaves too few, only those whose dtype takes no gradient.
    single = [index for index in indices if tied_to[index] is None]
    for candidates in (
        [index for index in single if found[index].kind is not Kind.PERSISTENT_BUFFER],
        [index for index in single if found[index].basis is not Basis.DTYPE],
    ):
        if len(candidates) >= optimizer.parameters:
            positions = match_order(optimizer, [_shape(entries[index]) for index in candidates])
            if positions:
                return [candidates[position] for position in positions], "order"
    return [], ""


def share_between_copies(
    entries: Sequence[Entry], copies: Sequence[Sequence[int]], found: list[Classification]
) -> None:
    """Let a copy of the weights (EMA) have the kinds of the same names with stronger evidence elsewhere.

    ``copies`` are the entries of each state_dict. Two are copies if most names and shapes are in both.
    """
    if len(copies) < 2:
        return
    best: dict[tuple[Key, object], int] = {}
    for indices in copies:
        for index in indices:
            key = (entries[index].name, _shape(entries[index]))
            known = best.get(key)
            if known is None or _strength(found[index]) > _strength(found[known]):
                best[key] = index
    for indices in copies:
        others = [best[entries[index].name, _shape(entries[index])] for index in indices]
        stronger = [
            (index, other)
            for index, other in zip(indices, others, strict=True)
            if entries[other].root != entries[index].root
        ]
        if len(stronger) * 2 < len(indices):
            continue
        for index, other in stronger:
            if not is_final(entries[index]):
                found[index] = _borrow(found[index], found[other], "as the same name in another copy")


def share_between_ties(
    entries: Sequence[Entry], tied_to: Sequence[Entry | None], found: list[Classification]
) -> None:
    """Give all names of one tensor the kind with the strongest evidence: ties never cross kinds."""
    tied = [index for index, first in enumerate(tied_to) if first is not None]
    if not tied:
        return
    positions = {id(entry): index for index, entry in enumerate(entries)}
    groups: dict[int, list[int]] = {}
    for index in tied:
        first = positions[id(tied_to[index])]
        groups.setdefault(first, [first]).append(index)
    for indices in groups.values():
        best = max(indices, key=lambda index: _strength(found[index]))
        for index in indices:
            if not is_final(entries[index]):
                found[index] = _borrow(found[index], found[best], "tied to an entry of this kind")


def _borrow(own: Classification, other: Classification, note: str) -> Classification:
    """The kind of ``other`` for an entry with weaker evidence: inferred, even where it was exact there."""
    if own.kind is other.kind or _strength(other) <= _strength(own):
        return own
    if own.kind not in _MEMBER_KINDS or other.kind not in _MEMBER_KINDS:
        return own
    basis = Basis.SIBLING if other.basis in EXACT_BASES else other.basis
    return Classification(other.kind, basis, note=note, rebuilt_since=other.rebuilt_since)


def _shape(entry: Entry) -> tuple[int, ...] | None:
    return None if entry.value is None else entry.value.shape


def _strength(classification: Classification) -> int:
    return _STRENGTH[classification.basis]
