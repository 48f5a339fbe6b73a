"""The kind of every entry of a checkpoint, from the file alone, with the evidence for it.

The ladder, strongest first: what the reader declares (a pickled module, TorchScript, an exported
program, ``_rebuild_parameter``), the optimizer, the module versions of ``_metadata``, the order
of registration, names and siblings, dtypes. How strong each rule is was measured over some 3,000
architectures, see docs/kinds.md. What no evidence decides stays unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ckpttool.kinds.aliases import find_aliases
from ckpttool.kinds.corroborate import apply_optimizers, is_final, share_between_copies, share_between_ties
from ckpttool.kinds.known_names import load_name_table
from ckpttool.kinds.optimizer import OptimizerMatch, find_groups, read_optimizers, split_state_root
from ckpttool.kinds.state_dict import judge_state_dict
from ckpttool.values.checkpoint import (
    UNCLASSIFIED,
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Kind,
    Presence,
    Root,
)


class Kinds(NamedTuple):
    """What ``classify`` finds. ``classifications`` is parallel to ``checkpoint.entries``.

    ``missing`` are entries without a value: buffers that the file leaves out by design.
    ``optimizers`` says of each optimizer's state what it is and which weights it goes with.
    """

    classifications: tuple[Classification, ...]
    missing: tuple[Entry, ...]
    optimizers: tuple[OptimizerMatch, ...]


def classify(checkpoint: Checkpoint, tied_to: Sequence[Entry | None] | None = None) -> Kinds:
    """Say of every entry what it is to its module, and why.

    ``tied_to`` is that of ``find_aliases(checkpoint.entries)``, found here if it is not given.
    """
    entries = checkpoint.entries
    if tied_to is None:
        tied_to = find_aliases(entries).tied_to
    by_root: dict[Root, list[int]] = {}
    for index, entry in enumerate(entries):
        by_root.setdefault(entry.root, []).append(index)
    groups = find_groups(checkpoint)
    deepspeed = _deepspeed_buffers(checkpoint)
    found: list[Classification] = [entry.declared for entry in entries]
    states: dict[Root, list[Entry]] = {}
    weights: dict[Root, list[int]] = {}
    for root, indices in by_root.items():
        if groups and split_state_root(root, groups) is not None:
            states[root] = [entries[index] for index in indices]
            _mark_optimizer_state(indices, found)
        elif len(by_root) == 1 or _is_state_dict(checkpoint, root, indices):
            weights[root] = indices
            _judge_weights(checkpoint, root, indices, deepspeed.get(root), found)
    matches = apply_optimizers(read_optimizers(groups, states), entries, weights, tied_to, found)
    share_between_copies(entries, list(weights.values()), found)
    share_between_ties(entries, tied_to, found)
    return Kinds(tuple(found), _find_missing(checkpoint, weights), matches)


def _mark_optimizer_state(indices: Sequence[int], found: list[Classification]) -> None:
    state = Classification(Kind.OPTIMIZER_STATE, Basis.OPTIMIZER, note="state beside param_groups")
    for index in indices:
        if found[index] == UNCLASSIFIED:
            found[index] = state


def _is_state_dict(checkpoint: Checkpoint, root: Root, indices: Sequence[int]) -> bool:
    """Whether a mapping among others holds a module's entries, not an epoch's loss beside them."""
    if root in checkpoint.module_versions:
        return True
    for index in indices:
        entry = checkpoint.entries[index]
        name = entry.name
        if entry.declared.kind is not Kind.UNKNOWN:
            return True
        if isinstance(name, str) and ("." in name or load_name_table().find(name, "", -1)):
            return True
    return False


def _judge_weights(
    checkpoint: Checkpoint,
    root: Root,
    indices: Sequence[int],
    buffers: Collection[object] | None,
    found: list[Classification],
) -> None:
    """Classify one state_dict; ``buffers`` are the names that DeepSpeed gives as such, if it does."""
    entries = [checkpoint.entries[index] for index in indices]
    versions = checkpoint.module_versions.get(root, {})
    judged = judge_state_dict(entries, versions, checkpoint.ordered)
    for index, entry, classification in zip(indices, entries, judged, strict=True):
        if buffers is not None and not is_final(entry):
            kind = Kind.PERSISTENT_BUFFER if entry.name in buffers else Kind.PARAMETER
            note = "DeepSpeed buffer_names"
            classification = classification._replace(kind=kind, basis=Basis.METADATA, note=note)
        found[index] = classification


def _deepspeed_buffers(checkpoint: Checkpoint) -> dict[Root, frozenset[object]]:
    """Names of the persistent buffers of the state_dicts that DeepSpeed wrote.

    Source: ``save_checkpoint`` in deepspeed/runtime/engine.py, 0.19: ``buffer_names`` beside ``module``.
    """
    return {
        (*value.root, "module"): frozenset(name for name in value.value if isinstance(name, str))
        for value in checkpoint.values
        if value.name == "buffer_names" and isinstance(value.value, tuple)
    }


def _find_missing(checkpoint: Checkpoint, weights: Mapping[Root, Sequence[int]]) -> tuple[Entry, ...]:
    """Non-persistent buffers of modules that ``_metadata`` names and that have neither entry nor child."""
    known = load_name_table().missing
    missing: list[Entry] = []
    for root, indices in weights.items():
        versions = checkpoint.module_versions.get(root, {})
        leaves = {path: path.rpartition(".")[2] for path in versions}
        candidates = {path: known[leaf] for path, leaf in leaves.items() if leaf in known}
        if not candidates:
            continue
        occupied = {path.rpartition(".")[0] for path in versions}
        for index in indices:
            name = checkpoint.entries[index].name
            if isinstance(name, str):
                occupied.add(name.rpartition(".")[0])
        for path, (_, names, note) in candidates.items():
            if path not in occupied:
                declared = Classification(Kind.NON_PERSISTENT_BUFFER, Basis.METADATA, Presence.MISSING, note)
                missing += [Entry(root, f"{path}.{name}", None, None, declared) for name in names.split()]
    return tuple(missing)
