"""The kinds of one state_dict's entries: group them by module, judge each module once by its signature."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckpttool.analysis.known_names import NameTable
from ckpttool.analysis.module_rules import Context, Leaf, Signature, judge_module, shape_code
from ckpttool.checkpoint import Classification, Entry, Kind

_DEEPEST_MODULE = 64
_DEEPEST_NUMBERS = 8
"""Parts of a name that are looked at, so that a name of a megabyte of dots costs little."""


class _Module(NamedTuple):
    """A module's own entries: their positions in the state_dict, and how the rules see them."""

    positions: list[int]
    leaves: list[Leaf]


def judge_state_dict(
    entries: Sequence[Entry], versions: Mapping[str, int | None], ordered: bool, table: NameTable
) -> list[Classification]:
    """Classify ``entries``, all of one state_dict and in its order.

    ``versions`` are its ``_metadata``; ``ordered`` is that of the checkpoint.
    """
    modules, in_order = _group_by_module(entries)
    context = Context(table, ordered and in_order and _looks_registered(modules), _is_young(modules, ordered))
    found: list[Classification] = [entry.declared for entry in entries]
    judged: dict[Signature, tuple[Classification, ...]] = {}
    for path, module in modules.items():
        signature = Signature(*_module_name(path), versions.get(path), tuple(module.leaves))
        classifications = judged.get(signature)
        if classifications is None:
            classifications = judged[signature] = judge_module(signature, context)
        for position, classification in zip(module.positions, classifications, strict=True):
            found[position] = classification
    return found


def _group_by_module(entries: Sequence[Entry]) -> tuple[dict[str, _Module], bool]:
    """Modules by path, and whether each one's own entries stand together, as state_dict leaves them."""
    unknown = Kind.UNKNOWN
    modules: dict[str, _Module] = {}
    together = True
    last = None
    for position, (_, key, value, _, declared) in enumerate(entries):
        path, _, name = key.rpartition(".") if isinstance(key, str) else ("", "", "")
        module = modules.get(path)
        if module is None:
            module = modules[path] = _Module([], [])
        elif path != last:
            together = False
        last = path
        dtype = None if value is None else value.dtype
        shape = None if value is None else value.shape
        module.positions.append(position)
        module.leaves.append(
            Leaf(
                name,
                "" if dtype is None else dtype.name,
                -1 if shape is None else shape_code(shape),
                None if declared.kind is unknown else declared,
            )
        )
    return modules, together


def _module_name(path: str) -> tuple[str, bool]:
    """The last part of ``path`` that is not a number, and whether it is a parametrization's."""
    parts = path.rsplit(".", _DEEPEST_NUMBERS)
    while len(parts) > 1 and parts[-1].isdecimal():
        parts.pop()
    in_parametrization = len(parts) > 1 and parts[-2].endswith("parametrizations")
    return parts[-1], in_parametrization


def _looks_registered(modules: Mapping[str, _Module]) -> bool:
    """Whether the order may be that of registration: nothing shows that a tool sorted the names.

    A sorted file stands out: a parent's own entry follows its children's, ``running_mean`` stands
    before the ``weight`` of the same batch norm, ``bias`` before ``weight``; or, where no module
    has two such names, all names ascend.
    """
    parents: set[str] = set()
    weight_first = bias_first = 0
    for path, module in modules.items():
        if path in parents:
            return False
        head = path
        for _ in range(_DEEPEST_MODULE):
            head = head.rpartition(".")[0]
            if head in parents:
                break
            parents.add(head)
        if len(module.leaves) < 2:
            continue
        names = [leaf.name for leaf in module.leaves]
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
    full = (f"{path}.{leaf.name}" for path, module in modules.items() for leaf in module.leaves)
    return any(before > after for before, after in itertools.pairwise(full))


def _is_young(modules: Mapping[str, _Module], ordered: bool) -> bool:
    """Whether the file is surely younger than num_batches_tracked (torch 0.4.1)."""
    if not ordered:  # safetensors, the container that loses the order, is four years younger
        return True
    return any(leaf.name == "num_batches_tracked" for module in modules.values() for leaf in module.leaves)
