"""The kinds of one state_dict's entries: group them by module, judge each module once by its signature."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ckpttool.kinds.known_names import shape_code
from ckpttool.kinds.module_rules import Context, Leaf, Signature, judge_module
from ckpttool.values.checkpoint import UNCLASSIFIED, Basis, Classification, Entry, Kind

_DEEPEST_MODULE = 64
_DEEPEST_NUMBERS = 8
"""Parts of a name that are looked at, so that a name of a megabyte of dots costs little."""


_Facts: TypeAlias = tuple[str, str, int, Classification | None]
"""The fields of a ``Leaf``: a plain tuple, for there is one for every entry and few differ."""


def judge_state_dict(
    entries: Sequence[Entry], versions: Mapping[str, int | None], ordered: bool
) -> list[Classification]:
    """Classify ``entries``, all of one state_dict and in its order.

    ``versions`` are its ``_metadata``; ``ordered`` is that of the checkpoint.
    """
    facts = [_read_facts(entry) for entry in entries]
    modules, together = _group_by_module(entries)
    in_order = ordered and together and _looks_registered(modules, facts)
    context = Context(in_order, _is_young(facts, ordered))
    found = [UNCLASSIFIED] * len(entries)
    judged: dict[tuple[str, bool, int | None, tuple[_Facts, ...]], tuple[Classification, ...]] = {}
    for path, positions in modules.items():
        name, in_parametrization = _module_name(path)
        leaves = tuple([facts[position] for position in positions])
        signature = (name, in_parametrization, versions.get(path), leaves)
        classifications = judged.get(signature)
        if classifications is None:
            parsed = Signature(*signature[:3], tuple(map(Leaf._make, leaves)))
            classifications = judged[signature] = judge_module(parsed, context)
        for position, classification in zip(positions, classifications, strict=True):
            found[position] = classification
    _apply_pickled_parameters(entries, found)
    return found


def _apply_pickled_parameters(entries: Sequence[Entry], found: list[Classification]) -> None:
    """In a file of ``state_dict(keep_vars=True)`` what is not pickled as a Parameter is a buffer.

    A dict to which somebody added one Parameter is not such a file: nearly all that looks like a
    parameter must have been pickled as one.
    """
    declared = [entry.declared.basis is Basis.PICKLED_PARAMETER for entry in entries]
    if not any(declared):
        return
    weaker = (Basis.NAME, Basis.SIBLING, Basis.DTYPE, Basis.NONE)
    others = [position for position, is_declared in enumerate(declared) if not is_declared]
    parameters = [position for position in others if found[position].kind is Kind.PARAMETER]
    if len(parameters) * 10 > sum(declared) or any(found[p].basis not in weaker for p in parameters):
        return
    for position in others:
        is_open = found[position].kind in (Kind.UNKNOWN, Kind.PARAMETER)
        if is_open and entries[position].declared == UNCLASSIFIED:
            note = "not pickled as a Parameter, as others here are"
            found[position] = Classification(Kind.PERSISTENT_BUFFER, Basis.PICKLED_PARAMETER, note=note)


def _read_facts(entry: Entry) -> _Facts:
    _, key, value, _, declared, _ = entry
    dtype = None if value is None else value.dtype
    shape = None if value is None else value.shape
    return (
        key[key.rfind(".") + 1 :] if isinstance(key, str) else "",
        "" if dtype is None else dtype.name,
        -1 if shape is None else shape_code(shape),
        None if declared is UNCLASSIFIED or declared == UNCLASSIFIED else declared,
    )


def _group_by_module(entries: Sequence[Entry]) -> tuple[dict[str, list[int]], bool]:
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
    parts = path.rsplit(".", 2)
    if parts[-1].isdecimal():
        parts = path.rsplit(".", _DEEPEST_NUMBERS)
        while len(parts) > 1 and parts[-1].isdecimal():
            parts.pop()
    return parts[-1], len(parts) > 1 and parts[-2].endswith("parametrizations")


def _looks_registered(modules: Mapping[str, Sequence[int]], facts: Sequence[_Facts]) -> bool:
    """Whether the order may be that of registration: nothing shows that a tool sorted the names.

    A sorted file stands out: a parent's own entry follows its children's, ``running_mean`` stands
    before the ``weight`` of the same batch norm, ``bias`` before ``weight``; or, where no module
    has two such names, all names ascend.
    """
    parents: set[str] = set()
    weight_first = bias_first = 0
    for path, positions in modules.items():
        if path in parents:
            return False
        head = path
        for _ in range(_DEEPEST_MODULE):
            head = head.rpartition(".")[0]
            if head in parents:
                break
            parents.add(head)
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
    if weight_first or bias_first:
        return weight_first > bias_first
    full = (f"{path}.{facts[position][0]}" for path, positions in modules.items() for position in positions)
    return any(before > after for before, after in itertools.pairwise(full))


def _is_young(facts: Sequence[_Facts], ordered: bool) -> bool:
    """Whether the file is surely younger than num_batches_tracked (torch 0.4.1)."""
    # safetensors, the container that loses the order, is four years younger.
    return not ordered or any(name == "num_batches_tracked" for name, *_ in facts)
