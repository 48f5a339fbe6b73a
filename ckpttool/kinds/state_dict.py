"""The kinds of one state_dict's entries: group them by module, judge each module once by its signature."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ckpttool.kinds.known_names import shape_code
from ckpttool.kinds.module_rules import Context, Leaf, Signature, judge_module
from ckpttool.values.checkpoint import UNCLASSIFIED, Basis, Classification, Entry, Key, Kind

_DEEPEST_MODULE = 64
_DEEPEST_NUMBERS = 8
"""Parts of a name that are looked at, so that a name of a megabyte of dots costs little."""


_Facts: TypeAlias = tuple[str, str, int, Classification | None, Classification | None]
"""The fields of a ``Leaf``: a plain tuple, for there is one for every entry and few differ."""


def judge_state_dict(
    entries: Sequence[Entry],
    given: Sequence[Classification | None],
    versions: Mapping[str, int | None],
    ordered: bool,
    source: Mapping[int, Classification] = {},
) -> list[Classification]:
    """Classify ``entries``, all of one state_dict and in its order.

    ``given`` is what stronger evidence says of each, ``source`` what source says of that at a position;
    ``versions`` are the ``_metadata``; ``ordered`` is that of the checkpoint.
    """
    facts = [_read_facts(entry, known) for entry, known in zip(entries, given, strict=True)]
    for position, said in source.items():
        facts[position] = (*facts[position][:4], said)
    modules, together = group_by_module(entries)
    in_order = ordered and together and _looks_registered(modules, facts)
    even, own_norms = _read_norms(entries, facts)
    context = Context(in_order, _is_young(facts, ordered), own_norms)
    found = [UNCLASSIFIED] * len(entries)
    judged: dict[tuple[str, bool, int | None, bool, tuple[_Facts, ...]], tuple[Classification, ...]] = {}
    for path, positions in modules.items():
        name, in_parametrization = _module_name(path)
        leaves = tuple([facts[position] for position in positions])
        signature = (name, in_parametrization, versions.get(path), path in even, leaves)
        classifications = judged.get(signature)
        if classifications is None:
            parsed = Signature(*signature[:4], tuple(map(Leaf._make, leaves)))
            classifications = judged[signature] = judge_module(parsed, context)
        for position, classification in zip(positions, classifications, strict=True):
            found[position] = classification
    return found


_EXTRA_STATE = Classification(Kind.EXTRA_STATE, Basis.NAME, note="torch.nn: get_extra_state")


def _read_facts(entry: Entry, given: Classification | None) -> _Facts:
    _, key, value, _, _, _ = entry
    dtype = None if value is None else value.dtype
    shape = None if value is None else value.shape
    name = key[key.rfind(".") + 1 :] if isinstance(key, str) else ""
    if name == "_extra_state" and given is None:  # _EXTRA_STATE_KEY_SUFFIX in torch/nn/modules/module.py
        given = _EXTRA_STATE
    return (
        name,
        "" if dtype is None else dtype.name,
        -1 if shape is None else shape_code(shape),
        given,
        None,
    )


def _read_norms(entries: Sequence[Entry], facts: Sequence[_Facts]) -> tuple[set[str], bool]:
    """Modules with weight, bias, running_mean, running_var of one shape; whether some norm is its own.

    It is one where it has no counter, and a weight or bias of another shape than its statistics.
    """
    even: set[str] = set()
    own = False
    shapes: dict[Key, object] = {}
    for entry, fact in zip(entries, facts, strict=True):
        if fact[0] != "running_mean":
            continue
        shapes = shapes or {other.name: other.shape for other in entries}
        path = str(entry.name)[: -len("running_mean")]
        mean, var, weight, bias = (
            shapes.get(f"{path}{name}") for name in ("running_mean", "running_var", "weight", "bias")
        )
        if mean == var == weight == bias:
            even.add(path[:-1])
        elif weight is not None and f"{path}num_batches_tracked" not in shapes:
            own = own or weight != var or bias not in (None, weight)
    return even, own


def group_by_module(entries: Sequence[Entry]) -> tuple[dict[str, list[int]], bool]:
    """Positions of each module's own entries, and whether they stand together, as state_dict leaves them."""
    modules: dict[str, list[int]] = {}
    together = True
    last = None
    for position, entry in enumerate(entries):
        key = entry.name
        path = key.rpartition(".")[0] if isinstance(key, str) else ""
        if path == last:
            modules[path].append(position)
        elif path in modules:
            modules[path].append(position)
            together = False
        else:
            modules[path] = [position]
        last = path
    return modules, together


def _module_name(path: str) -> tuple[str, bool]:
    """The last part of ``path`` that is not a number, and whether it is a parametrization's."""
    parts = path.rsplit(".", _DEEPEST_NUMBERS)
    while len(parts) > 1 and parts[-1].isdecimal():
        parts.pop()
    return parts[-1], len(parts) > 1 and f".{parts[-2]}".endswith(".parametrizations")


def stands_as_written(entries: Sequence[Entry]) -> bool:
    """Whether ``entries`` may stand as ``state_dict`` wrote them, or as a tool sorted them, by name.

    What was put in by hand follows all the rest: the entries of a module are torn apart, or its own
    follow its children's.
    """
    modules, together = group_by_module(entries)
    names = [str(entry.name) for entry in entries]
    return (together and _parents_first(modules)) or all(a <= b for a, b in itertools.pairwise(names))


def _parents_first(modules: Mapping[str, Sequence[int]]) -> bool:
    """Whether no module's own entries follow those of its children."""
    parents: set[str] = set()
    for path in modules:
        if path in parents:
            return False
        head = path
        for _ in range(_DEEPEST_MODULE):
            head = head.rpartition(".")[0]
            if head in parents:
                break
            parents.add(head)
    return True


def _looks_registered(modules: Mapping[str, Sequence[int]], facts: Sequence[_Facts]) -> bool:
    """Whether the order may be that of registration: nothing shows that a tool sorted the names.

    A sorted file stands out: a parent's own entry follows its children's, ``running_mean`` stands
    before the ``weight`` of the same batch norm, ``bias`` before ``weight``; or, where no module
    has two such names, all names ascend.
    """
    if not _parents_first(modules):
        return False
    weight_first = bias_first = 0
    for positions in modules.values():
        if len(positions) < 2:
            continue
        names = [facts[position][0] for position in positions]
        if "weight" in names:
            weight = names.index("weight")
            if "running_mean" in names and names.index("running_mean") < weight:
                return False
            if "bias" in names:
                if weight < names.index("bias"):
                    weight_first += 1
                else:
                    bias_first += 1
    if bias_first:  # else a weight before its bias descends
        return weight_first > bias_first
    full = (f"{path}.{facts[position][0]}" for path, positions in modules.items() for position in positions)
    return any(before > after for before, after in itertools.pairwise(full))


def _is_young(facts: Sequence[_Facts], ordered: bool) -> bool:
    """Whether the file is surely younger than num_batches_tracked (torch 0.4.1)."""
    # safetensors, the container that loses the order, is four years younger.
    return not ordered or any(name == "num_batches_tracked" for name, *_ in facts)
