"""Totals of an inspection, the branches of the tree that its tensors stand in, and which are the weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from ckpttool.kinds.aliases import Aliasing
from ckpttool.kinds.optimizer import OptimizerMatch
from ckpttool.kinds.quantized import Survey
from ckpttool.names.averages import WORD, WORDS, prefix_of
from ckpttool.names.prefixes import Prefix, is_averaged
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Key,
    Kind,
    Presence,
    Root,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.inspection import Copy, Group, Row, Summary, Weights, container_bases
from ckpttool.values.words import plural

_WEIGHTS_KEYS = frozenset(
    """
    state_dict model_state_dict model module net network weights params model_state model_dict model_weights
    network_state_dict net_state_dict state
    """.split()
)
"""Keys that training scripts put a model's state_dict under."""

PROGRESS_KEYS = frozenset(("epoch", "global_step", "step", "iteration", "iter", "best_acc1", "it"))
"""Keys at the top of a file under which training scripts count how far they are."""

_OUTWEIGHS = 10  # without a telling name, the weights must be this many times the next candidate
_MOST_PREFIXES = 2  # in a note
_MOST_COMPARED = 16  # branches that are held against the weights, name by name
_MOST_GROUPS = 24  # more branches than a screen holds are joined by their first key

_COUNTED = """
    tensors parameters persistent_buffers non_persistent_buffers extra_state optimizer_state unknown
    parameter_numel buffer_numel
    """.split()
"""What a ``Tally`` counts under the names of ``Summary``."""

_COPIED = "parameters tied_parameters parameter_numel persistent_buffers buffer_numel".split()
"""What an averaged copy in a state_dict is no more of."""


class Tally:
    """Counts over the rows of one root. ``nbytes`` and ``*_numel`` leave tied entries out."""

    __slots__ = (*_COUNTED, "unknown_numel", "tied_parameters", "nbytes", "module", "averaged")

    def __init__(self) -> None:
        self.tensors = self.parameters = self.persistent_buffers = self.non_persistent_buffers = 0
        self.extra_state = self.optimizer_state = self.unknown = 0
        self.nbytes = self.parameter_numel = self.buffer_numel = self.unknown_numel = 0
        self.tied_parameters = 0
        self.module = False  # a pickled module, not a state_dict
        self.averaged = False  # of an AveragedModel

    def add(self, other: Tally) -> None:
        """Add the counts of another root."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def is_state_dict(self) -> bool:
        """Whether something here belongs to a module."""
        return any((self.parameters, self.persistent_buffers, self.non_persistent_buffers, self.extra_state))


def tally_rows(rows: Iterable[Row]) -> dict[Root, Tally]:
    """Count ``rows`` by root, in file order."""
    tallies: dict[Root, Tally] = {}
    parameter, unknown, state = Kind.PARAMETER, Kind.UNKNOWN, Kind.OPTIMIZER_STATE
    persistent, non_persistent = Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER
    pickled = Basis.PICKLED_MODULE
    for entry, classification, tied_to in rows:
        kind, basis = classification[0], classification[1]
        root, _, value, _, declared, _ = entry
        tally = tallies.get(root)
        if tally is None:
            tally = tallies[root] = Tally()
        numel = 0
        if tied_to is None and value is not None:
            if isinstance(value, TensorInfo):
                numel = math.prod(value.shape)
                tally.nbytes += (numel * value.dtype.bits + 7) // 8
            else:
                numel = value.numel
                tally.nbytes += value.nbytes
        tally.tensors += 1
        if basis is pickled or declared[1] is pickled:  # a live model's word hides the file's own
            tally.module = True
        if kind is parameter:
            tally.parameters += 1
            tally.parameter_numel += numel
            if tied_to is not None:
                tally.tied_parameters += 1
        elif kind is persistent:
            tally.persistent_buffers += 1
            tally.buffer_numel += numel
        elif kind is state:
            tally.optimizer_state += 1
        elif kind is unknown:
            tally.unknown += 1
            tally.unknown_numel += numel
        elif kind is non_persistent:
            tally.non_persistent_buffers += 1
            tally.buffer_numel += numel
        else:
            tally.extra_state += 1
    return tallies


def summarize(
    rows: Sequence[Row], missing: Sequence[Row], aliasing: Aliasing, tallies: Mapping[Root, Tally]
) -> Summary:
    """Totals over ``rows``, whose storages ``aliasing`` counted, as in ``tallies``."""
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    dtypes: Counter[str] = Counter()
    for entry, _, _ in rows:
        if entry.value is not None and entry.value.dtype is not None:
            dtypes[entry.value.dtype.name] += 1
    return Summary(
        **{name: getattr(total, name) for name in _COUNTED},
        missing=sum(row.classification.presence is Presence.MISSING for row in missing),
        tensor_nbytes=total.nbytes,
        storage_nbytes=aliasing.storage_nbytes,
        dtypes=tuple(dtypes.most_common()),
        locations=aliasing.locations,
        bases=_count_bases([row.classification for row in rows]),
    )


def _count_bases(classifications: Sequence[Classification]) -> tuple[tuple[str, str, int], ...]:
    """Entries by kind and basis, in the order of their enums."""
    # Rows share few classifications: count objects first, hash enums once for each.
    by_id = {id(classification): classification for classification in classifications}
    counts: Counter[tuple[Kind, Basis]] = Counter()
    for key, count in Counter(map(id, classifications)).items():
        counts[by_id[key].kind, by_id[key].basis] += count
    kinds, bases = list(Kind), list(Basis)
    ordered = sorted(counts.items(), key=lambda item: (kinds.index(item[0][0]), bases.index(item[0][1])))
    return tuple((kind.value, basis.value, count) for (kind, basis), count in ordered)


# ----------------------------------------------------------------------------------------- groups


def group_tallies(
    checkpoint: Checkpoint,
    tallies: Mapping[Root, Tally],
    optimizers: Sequence[OptimizerMatch],
    prefixes: Mapping[Root, Sequence[Prefix]],
) -> tuple[Group, ...]:
    """The branches of the tree, in file order: one per optimizer and state_dict, the rest by first key."""
    matches = {match.root: match for match in optimizers}
    merged: dict[tuple[Root, str], Tally] = {}
    placed = {root: _place(root, tally, matches) for root, tally in tallies.items()}
    if len(set(placed.values())) > _MOST_GROUPS:
        placed = {root: (branch[:1], role) for root, (branch, role) in placed.items()}
    for root, tally in tallies.items():
        merged.setdefault(placed[root], Tally()).add(tally)
    classes = {container.path: container.type_name for container in checkpoint.containers}
    return tuple(
        Group(
            root,
            role,
            tally.tensors,
            tally.nbytes,
            tally.parameters,
            tally.persistent_buffers + tally.non_persistent_buffers,
            tally.unknown,
            tally.parameter_numel,
            _note(role, classes.get(root, ""), matches.get(root), prefixes.get(root, ())),
            _averaged(root, prefixes.get(root, ())) if role in ("ema", "weights", "module") else "",
        )
        for (root, role), tally in merged.items()
    )


def _place(root: Root, tally: Tally, optimizers: Mapping[Root, OptimizerMatch]) -> tuple[Root, str]:
    """The branch that ``root`` belongs to, and its role."""
    for depth in range(len(root) + 1):
        if root[:depth] in optimizers:
            return root[:depth], "optimizer"
    for depth, key in enumerate(root):
        if _is_optimizer_key(key):
            return root[: depth + 1], "optimizer"
    if tally.optimizer_state == tally.tensors:
        return root[:1], "optimizer"
    if any(_is_ema_key(key) for key in root) or (tally.averaged and not tally.module):
        return root, "ema"
    if tally.module:
        return root, "module"
    return (root, "weights") if tally.is_state_dict else (root[:1], "other")


def _is_optimizer_key(key: Key) -> bool:
    return isinstance(key, str) and (key.lower().startswith("optim") or "optimizer" in key.lower())


def _is_ema_key(key: Key) -> bool:
    return isinstance(key, str) and not WORDS.isdisjoint(WORD.findall(key.lower()))


def _averaged(root: Root, prefixes: Sequence[Prefix]) -> str:
    """What averaged copy of the weights stands at ``root``, by its wrapper or its keys; "" if none."""
    if is_averaged(prefixes):
        return "AveragedModel"
    for key in root:
        words = WORDS.intersection(WORD.findall(key.lower())) if isinstance(key, str) else ()
        if words:
            return next((word.upper() for word in ("ema", "swa") if word in words), "average")
    return ""


def _note(role: str, class_name: str, match: OptimizerMatch | None, prefixes: Sequence[Prefix]) -> str:
    if match is not None:
        mapped = f"{match.mapped:,} of " if 0 < match.mapped < match.parameters else ""
        how = f" mapped by {match.by}" if match.mapped else ""
        return f"{match.class_name or 'optimizer'}, {mapped}{plural(match.parameters, 'parameter')}{how}"
    facts = [class_name] if role == "module" and class_name else []
    facts += [
        f"{prefix.text} {'inside' if prefix.inside else 'on'} {prefix.matched:,} of "
        f"{plural(prefix.total, 'name')}"
        for prefix in prefixes[:_MOST_PREFIXES]
    ]
    return ", ".join(facts)


def choose_weights_root(checkpoint: Checkpoint, tallies: Mapping[Root, Tally]) -> Root | None:
    """The root whose mapping is surely *the* state_dict, or None.

    Sure is: the only one; the only one with ``_metadata``; the only one under a usual key; or one
    that outweighs every other ten times. Averaged copies count only where there is nothing else.
    """
    sizes: dict[str, dict[Root, int]] = {}
    for root, tally in tallies.items():
        role = _place(root, tally, {})[1]
        sizes.setdefault("weights" if role == "module" else role, {})[root] = tally.nbytes
    candidates = sizes.get("weights") or sizes.get("ema") or {}
    if not candidates and len(tallies) == 1:
        candidates = sizes.get("other", {})
    for telling in (checkpoint.module_versions.__contains__, _names_weights):
        candidates = {root: nbytes for root, nbytes in candidates.items() if telling(root)} or candidates
    ranked = sorted(candidates, key=candidates.__getitem__, reverse=True)
    if not ranked:
        return None
    if len(ranked) > 1 and candidates[ranked[0]] < _OUTWEIGHS * candidates[ranked[1]]:
        return None
    return ranked[0]


def count_weights(
    rows: Sequence[Row],
    tallies: Mapping[Root, Tally],
    weights_root: Root | None,
    survey: Survey | None,
    averages: Sequence[Row],
) -> Weights:
    """Count the branch of the weights, or where it is not clear all branches but averaged copies.

    ``averages`` are the rows that are an averaged copy in the state_dict of what they copy.
    """
    roles = {root: _place(root, tally, {})[1] for root, tally in tallies.items()}
    averaged = {root for root, role in roles.items() if role == "ema" and tallies[root].is_state_dict}
    counted = {root for root, role in roles.items() if role != "ema"}
    if weights_root is not None:
        counted = {weights_root}
    total = Tally()
    for root in counted & tallies.keys():
        total.add(tallies[root])
    averages = [row for row in averages if row.entry.root in counted]
    for copies in tally_rows(averages).values():
        for name in _COPIED:
            setattr(total, name, getattr(total, name) - getattr(copies, name))
    inside = {(row.entry.root, prefix_of(str(row.entry.name))): None for row in averages}
    weights = Weights(
        total.parameters,
        total.tied_parameters,
        total.parameter_numel,
        total.persistent_buffers + total.non_persistent_buffers,
        total.buffer_numel,
        total.unknown,
        total.parameter_numel,
        total.parameter_numel + total.buffer_numel + total.unknown_numel,
        _find_copies(rows, tallies, counted, averaged - counted)
        + tuple([Copy(root, True, prefix) for root, prefix in inside]),
    )
    if survey is None:
        return weights
    others = sum(
        row.entry.value.numel
        for row in rows
        if row.entry.root in counted
        and row.classification.kind is Kind.PARAMETER
        and not row.classification.averaged_of
        and row.tied_to is None
        and row.entry.value is not None
        and id(row.entry) not in survey.entries
    )
    return weights._replace(weights_numel=survey.weights + others, quantized=survey.quantizations)


def _find_copies(
    rows: Sequence[Row],
    tallies: Mapping[Root, Tally],
    counted: AbstractSet[Root],
    averaged: AbstractSet[Root],
) -> tuple[Copy, ...]:
    """Branches that are called averaged, and those of the same names and shapes as the one that counts."""
    alike: set[Root] = set()
    if len(counted) == 1:
        (home,) = counted
        count = tallies[home].parameters if home in tallies else 0
        others = (root for root in tallies if root != home and root not in averaged)
        equal = [root for root in others if count and tallies[root].parameters == count][:_MOST_COMPARED]
        forms: dict[Root, set[tuple[Key, object]]] = {root: set() for root in (home, *equal)}
        for entry, classification, _ in rows if equal else ():
            if classification.kind is Kind.PARAMETER and entry.value is not None and entry.root in forms:
                forms[entry.root].add((entry.name, entry.shape))
        alike = {root for root in equal if forms[root] == forms[home]}
    return tuple([Copy(root, root in averaged) for root in tallies if root in averaged or root in alike])


def _names_weights(root: Root) -> bool:
    return bool(root) and isinstance(root[-1], str) and root[-1].lower() in _WEIGHTS_KEYS


_RANDOM_STATES = ((5056,), (16,))
"""Bytes of ``torch.get_rng_state()`` (a Mersenne twister) and ``torch.cuda.get_rng_state()``, as uint8."""


def _is_random_state(row: Row) -> bool:
    value = row.entry.value
    return value is not None and value.shape in _RANDOM_STATES and value.dtype is BY_NAME["uint8"]


def title_of(
    checkpoint: Checkpoint,
    groups: Sequence[Group],
    weights_root: Root | None,
    rows: Sequence[Row],
    summary: Summary,
) -> str:
    """What the file is, in a few words."""
    bases = container_bases(checkpoint, summary)
    if Basis.EXPORT.value in bases:
        return "exported program"
    if Basis.TORCHSCRIPT.value in bases:
        return "TorchScript module"
    if not groups:
        return "no tensors"
    if rows and all(map(_is_random_state, rows)):
        return "states of random number generators"
    top = {value.name for value in checkpoint.values if not value.root}
    roles = [group.role for group in groups]
    if "pytorch-lightning_version" in top:
        return "Lightning checkpoint"
    if not top.isdisjoint(("ds_version", "ds_config")):
        return "DeepSpeed checkpoint"
    if set(roles) == {"optimizer"}:
        return "optimizer state"
    if weights_root != () and ("optimizer" in roles or not top.isdisjoint(PROGRESS_KEYS)):
        return "training checkpoint"
    if roles == ["module"]:
        return "whole pickled module"
    if weights_root is None:
        number = roles.count("weights") + roles.count("module")
        return plural(number, "state_dict") if number > 1 else "tensors"
    if len(rows) == 1 and rows[0].entry.root == () and rows[0].entry.name == "":
        return "one tensor"
    if rows and all("lora_" in str(row.entry.name) for row in rows[:1000]):
        return "LoRA adapter"
    return "state_dict" if weights_root == () else "checkpoint"
