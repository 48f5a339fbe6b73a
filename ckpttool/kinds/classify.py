"""The kind of every entry of a checkpoint, from the file alone, with the evidence for it.

``Basis`` is the ladder, strongest first. What is said beside a state_dict (``evidence``, ``optimizer``) is
given to the rules that judge its modules (``module_rules.LADDER``), and then entries help each other
(``corroborate``). How strong each rule is was measured, see docs/kinds.md. What no evidence decides
stays unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from ckpttool.kinds.aliases import find_aliases
from ckpttool.kinds.corroborate import (
    leave_out_of_optimizers,
    match_optimizers,
    share_between_copies,
    share_between_ties,
)
from ckpttool.kinds.evidence import (
    STRENGTH,
    is_final,
    read_averages,
    read_pickled_modules,
    read_pickled_parameters,
    read_target_copies,
    strength,
)
from ckpttool.kinds.known_names import load_name_table
from ckpttool.kinds.optimizer import OptimizerMatch, find_groups, read_optimizers, split_state_root
from ckpttool.kinds.state_dict import judge_state_dict
from ckpttool.names.averages import may_be_averaged
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


class Source(Protocol):
    """Source code that may be asked (``source.kinds.SourceKinds``)."""

    def judge(self, checkpoint: Checkpoint, weights: Mapping[Root, Sequence[int]]) -> Mapping[Root, Verdict]:
        """What it says of each state_dict, whose entries are at these positions of the checkpoint's."""


class Verdict(NamedTuple):
    """What source says of one state_dict.

    ``said`` is by position in the state_dict, ``missing`` by name; ``root`` is the class of the whole, ""
    where none fits; ``modules`` with entries there are, and a class fits ``fitting`` of them.
    """

    said: Mapping[int, Classification]
    missing: Mapping[str, Classification]
    root: str
    modules: int
    fitting: int


class Kinds(NamedTuple):
    """What ``classify`` finds. ``classifications`` is parallel to ``checkpoint.entries``.

    ``missing`` are entries without a value: buffers that the file leaves out by design.
    ``optimizers`` says of each optimizer's state what it is and which weights it goes with. ``weights`` are
    the roots of the state_dicts.
    """

    classifications: tuple[Classification, ...]
    missing: tuple[Entry, ...]
    optimizers: tuple[OptimizerMatch, ...]
    weights: tuple[Root, ...] = ()


def classify(
    checkpoint: Checkpoint,
    tied_to: Sequence[Entry | None] | None = None,
    source: Source | None = None,
) -> Kinds:
    """Say of every entry what it is to its module, and why.

    ``tied_to`` is that of ``find_aliases(checkpoint.entries)``, found here if it is not given. ``source`` is
    asked about each state_dict, if there is one.
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
    given = read_pickled_modules(entries, by_root)
    for root, indices in by_root.items():
        if split_state_root(root, groups) is not None:
            states[root] = [entries[index] for index in indices]
            _mark_optimizer_state(indices, found)
        elif len(by_root) == 1 or _is_state_dict(checkpoint, root, indices):
            weights[root] = indices
    verdicts = {} if source is None else source.judge(checkpoint, weights)
    for root, indices in weights.items():
        _judge_weights(checkpoint, root, indices, given, deepspeed.get(root), verdicts.get(root), found)
    matches, named = match_optimizers(read_optimizers(groups, states), entries, weights, tied_to, found)
    # Judged again, for what an optimizer names says more of its neighbours.
    given.update((at, said) for at, said in named.items() if strength(found[at]) < strength(said))
    trained = {match.weights_root for match in matches}
    for root in filter(trained.__contains__, weights):
        _judge_weights(checkpoint, root, weights[root], given, deepspeed.get(root), verdicts.get(root), found)
    share_between_copies(entries, list(weights.values()), found)
    share_between_ties(entries, tied_to, found)
    leave_out_of_optimizers(matches, entries, weights, tied_to, found)
    return Kinds(tuple(found), _find_missing(checkpoint, weights, verdicts), matches, tuple(weights))


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
    given: Mapping[int, Classification],
    buffers: Collection[object] | None,
    verdict: Verdict | None,
    found: list[Classification],
) -> None:
    """Classify one state_dict.

    ``given`` is what is said elsewhere, by index; ``buffers`` are the names that DeepSpeed gives as such.
    """
    entries = [checkpoint.entries[index] for index in indices]
    known = [
        given.get(index) if entry.declared is UNCLASSIFIED else _settle(entry, given.get(index))
        for index, entry in zip(indices, entries, strict=True)
    ]
    names = "\n".join([str(entry.name) for entry in entries])  # searched at once: few files have such
    if "target_" in names:
        for at, copied in read_target_copies(entries).items():
            known[at] = known[at] or copied
    versions = checkpoint.module_versions.get(root, {})
    source = {} if verdict is None else verdict.said
    judged = judge_state_dict(entries, known, versions, checkpoint.ordered, source)
    if buffers is not None:
        for at, (entry, said) in enumerate(zip(entries, judged, strict=True)):
            if not is_final(entry) and strength(said) <= STRENGTH[Basis.METADATA]:
                kind = Kind.PERSISTENT_BUFFER if entry.name in buffers else Kind.PARAMETER
                judged[at] = said._replace(kind=kind, basis=Basis.METADATA, note="DeepSpeed buffer_names")
    for at, said in read_pickled_parameters(entries, judged, versions, checkpoint.ordered).items():
        judged[at] = said
    if may_be_averaged(names):
        for at, said in read_averages(entries, judged).items():
            judged[at] = said
    for index, said in zip(indices, judged, strict=True):
        found[index] = said


def _settle(entry: Entry, given: Classification | None) -> Classification | None:
    """What is said of ``entry`` elsewhere in the file, where its reader did not say all, or by its reader."""
    return given or (None if entry.declared == UNCLASSIFIED else entry.declared)


def _deepspeed_buffers(checkpoint: Checkpoint) -> dict[Root, frozenset[object]]:
    """Names of the persistent buffers of the state_dicts that DeepSpeed wrote.

    Source: ``save_checkpoint`` in deepspeed/runtime/engine.py, 0.19: ``buffer_names`` beside ``module``.
    """
    return {
        (*value.root, "module"): frozenset(name for name in value.value if isinstance(name, str))
        for value in checkpoint.values
        if value.name == "buffer_names" and isinstance(value.value, tuple)
    }


def _find_missing(
    checkpoint: Checkpoint, weights: Mapping[Root, Sequence[int]], verdicts: Mapping[Root, Verdict]
) -> tuple[Entry, ...]:
    """Non-persistent buffers that source names, or of empty modules that ``_metadata`` names."""
    known = load_name_table().missing
    missing: list[Entry] = []
    for root, indices in weights.items():
        named = verdicts[root].missing if root in verdicts else {}
        missing += [Entry(root, name, None, None, declared) for name, declared in named.items()]
        versions = checkpoint.module_versions.get(root, {})
        leaves = {path: path.rpartition(".")[2] for path in versions}
        candidates = {path: known[leaf] for path, leaf in leaves.items() if leaf in known}
        if not candidates:
            continue
        occupied = {path.rpartition(".")[0] for path in (*versions, *named)}
        for index in indices:
            name = checkpoint.entries[index].name
            if isinstance(name, str):
                occupied.add(name.rpartition(".")[0])
        for path, (_, names, note) in candidates.items():
            if path not in occupied:
                declared = Classification(Kind.NON_PERSISTENT_BUFFER, Basis.METADATA, Presence.MISSING, note)
                missing += [Entry(root, f"{path}.{name}", None, None, declared) for name in names.split()]
    return tuple(missing)
