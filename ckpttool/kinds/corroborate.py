"""What entries say about each other across modules: the optimizer, copies of the weights, ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ckpttool.kinds.evidence import is_final, strength
from ckpttool.kinds.known_names import load_name_table
from ckpttool.kinds.optimizer import Optimizer, OptimizerMatch, match_names, match_order
from ckpttool.names.prefixes import strip_wrappers
from ckpttool.values.checkpoint import (
    EXACT_BASES,
    Basis,
    Classification,
    Entry,
    Key,
    Kind,
    Root,
)

_MOST_COMPARED = 16
"""Optimizers that are matched, and state_dicts that each is laid against: a GAN has two, and copies."""

_MEMBER_KINDS = frozenset({Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.UNKNOWN})


def match_optimizers(
    optimizers: Sequence[Optimizer],
    entries: Sequence[Entry],
    weights: Mapping[Root, Sequence[int]],
    tied_to: Sequence[Entry | None],
    found: Sequence[Classification],
) -> tuple[tuple[OptimizerMatch, ...], dict[int, Classification]]:
    """Find the state_dict that each of ``optimizers`` goes with, and what it says of its entries."""
    matches = []
    said: dict[int, Classification] = {}
    for rank, optimizer in enumerate(optimizers):
        best = OptimizerMatch(optimizer.root, optimizer.class_name, optimizer.parameters)
        named: list[int] = []
        for root in list(weights)[:_MOST_COMPARED] if rank < _MOST_COMPARED else ():
            mapped, by = _match_root(optimizer, entries, weights[root], tied_to, found)
            if len(mapped) > len(named):
                named = mapped
                best = best._replace(weights_root=root, mapped=len(mapped), by=by)
        note = f"{optimizer.class_name or 'optimizer'}, by {best.by}"
        known = Classification(Kind.PARAMETER, Basis.OPTIMIZER, note=note)
        said.update((index, known) for index in named if not is_final(entries[index]))
        matches.append(best)
    return tuple(matches), said


def leave_out_of_optimizers(
    matches: Sequence[OptimizerMatch],
    entries: Sequence[Entry],
    weights: Mapping[Root, Sequence[int]],
    tied_to: Sequence[Entry | None],
    found: list[Classification],
) -> None:
    """What only a weak name calls a parameter is none where the optimizers hold as many as are sure.

    It is a buffer, or was frozen: unknown, in copies of the weights as well. An optimizer that names nothing
    (SGD without momentum has no states) can only be that of the one state_dict.
    """
    members: Counter[Root] = Counter()
    named: set[Root] = set()
    for match in matches:
        root = match.weights_root if len(weights) != 1 else next(iter(weights))
        if root is not None:
            members[root] += match.parameters
            if match.mapped == match.parameters:
                named.add(root)
    left_out: set[tuple[Key, object]] = set()
    for root, count in members.items():
        sure = [index for index in weights[root] if tied_to[index] is None and is_sure(found[index])]
        if len(sure) == count:
            left_out |= {_identity(entries[index]) for index in weights[root] if _is_weak(found[index])}
    for root, indices in weights.items() if left_out or named else ():
        for index in indices:
            if is_final(entries[index]):
                continue
            if _is_weak(found[index]) and _identity(entries[index]) in left_out:
                found[index] = Classification(Kind.UNKNOWN, Basis.NONE)
            if found[index].kind is Kind.UNKNOWN and (root in named or _identity(entries[index]) in left_out):
                found[index] = found[index]._replace(note="not in the optimizer: a buffer, or frozen")


def is_sure(said: Classification) -> bool:
    """Whether this is a parameter by more than a name, or by one that torch.nn itself gives."""
    return said.kind is Kind.PARAMETER and not _is_weak(said)


def _is_weak(said: Classification) -> bool:
    return said.kind is Kind.PARAMETER and said.basis is Basis.NAME and said != load_name_table().of_torch


def _identity(entry: Entry) -> tuple[Key, object]:
    """What an entry and its copies have in common: the bare model's name, and the shape."""
    return strip_wrappers(entry.name) if isinstance(entry.name, str) else entry.name, entry.shape


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
    # parameters() gives a tied parameter once; buffers are left out: those that any rule knows, or all
    # but the sure parameters if these are as many as the optimizer has, or only what takes no gradient.
    single = [index for index in indices if tied_to[index] is None and not found[index].averaged_of]
    sure = [index for index in single if is_sure(found[index])]
    best: list[int] = []
    for candidates in (
        [index for index in single if found[index].kind is not Kind.PERSISTENT_BUFFER],
        sure if len(sure) == optimizer.parameters else [],
        [index for index in single if found[index].basis is not Basis.DTYPE],
    ):
        if len(best) < optimizer.parameters <= len(candidates):
            positions = match_order(optimizer, [entries[index].shape for index in candidates])
            if len(positions) > len(best):
                best = [candidates[position] for position in positions]
    return best, "order"


def share_between_copies(
    entries: Sequence[Entry], copies: Sequence[Sequence[int]], found: list[Classification]
) -> None:
    """Let a copy of the weights (EMA) have the kinds of the same names with stronger evidence elsewhere.

    ``copies`` are the entries of each state_dict. Two are copies if most names and shapes are in both.
    """
    if len(copies) < 2:
        return
    best: dict[tuple[Key, object], int] = {}
    keys: dict[int, tuple[Key, object]] = {}
    for indices in copies:
        for index in indices:
            key = keys[index] = _identity(entries[index])
            known = best.get(key)
            if known is None or strength(found[index]) > strength(found[known]):
                best[key] = index
    for indices in copies:
        others = [best[keys[index]] for index in indices]
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
        best = max(indices, key=lambda index: strength(found[index]))
        for index in indices:
            if not is_final(entries[index]):
                found[index] = _borrow(found[index], found[best], "tied to an entry of this kind")


def _borrow(own: Classification, other: Classification, note: str) -> Classification:
    """The kind of ``other`` for an entry with weaker evidence: inferred, even where it was exact there."""
    if own.kind is other.kind or strength(other) <= strength(own):
        return own
    if own.kind not in _MEMBER_KINDS or other.kind not in _MEMBER_KINDS:
        return own
    basis = Basis.COPY if other.basis in EXACT_BASES else other.basis
    return Classification(other.kind, basis, note=note, rebuilt_since=other.rebuilt_since)
