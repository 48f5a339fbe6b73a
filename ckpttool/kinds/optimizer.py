"""Which optimizer states a checkpoint holds, and which entries they name as parameters.

An optimizer knows parameters only. ``state_dict()["param_groups"]`` numbers them (or, under FSDP,
names them), ``param_names`` may name them, and the states of each (``exp_avg`` ...) have its shape.
Sources: ``torch/optim/optimizer.py`` and the optimizers beside it, torch 1.0 to 2.13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ckpttool.values.checkpoint import Checkpoint, Entry, Key, Plain, Root

Shape: TypeAlias = tuple[int, ...]
Groups: TypeAlias = dict[int, dict[str, Plain]]

_MOST_STATES = 4
"""Keys called ``state`` in one root that are tried; a hostile root has hundreds."""

_SHAPED_LIKE_PARAMETER = "exp_avg exp_avg_sq exp_inf momentum_buffer square_avg acc_delta sum prev ax".split()

_CLASS_BY_STATE = (
    # The first row whose names are all among the states gives the class.
    (("mu_product",), "NAdam"),
    (("exp_inf",), "Adamax"),
    (("exp_avg_sq_row",), "Adafactor"),
    (("row_var",), "Adafactor"),
    (("exp_avg", "exp_avg_sq"), "Adam"),
    (("exp_avg",), "Lion"),
    (("state1", "state2"), "8-bit Adam"),
    (("acc_delta",), "Adadelta"),
    (("square_avg",), "RMSprop"),
    (("sum",), "Adagrad"),
    (("prev", "step_size"), "Rprop"),
    (("ax",), "ASGD"),
    (("momentum_buffer",), "SGD"),
)


class Optimizer(NamedTuple):
    """One optimizer's state_dict: the keys of its parameters, a tuple for each group, and their facts."""

    root: Root
    groups: tuple[tuple[Key, ...], ...]
    names: Mapping[Key, str]  # where the groups have param_names, or the keys are names
    shapes: Mapping[Key, Shape]  # of the parameters that have a state
    class_name: str

    @property
    def parameters(self) -> int:
        """How many parameters it holds."""
        return sum(map(len, self.groups))


class OptimizerMatch(NamedTuple):
    """What an optimizer says of the weights. ``class_name`` is a guess from its states, or "".

    ``parameters`` counts what its groups hold; ``mapped`` the entries under ``weights_root`` that it
    names; ``by`` is ``names``, ``order``, or "" if it names none.
    """

    root: Root
    class_name: str
    parameters: int
    weights_root: Root | None = None
    mapped: int = 0
    by: str = ""


# ---------------------------------------------------------------------------------------------------- reading


def find_groups(checkpoint: Checkpoint) -> dict[Root, Groups]:
    """The ``param_groups`` of every optimizer, by the root that holds them.

    Of one that was pickled as an object ``params`` are tensors: they are numbered, as in its state_dict.
    """
    found: dict[Root, Groups] = {}
    for root, name, value in checkpoint.values:
        if len(root) >= 2 and root[-2] == "param_groups" and isinstance(name, str):
            index = root[-1]
            if isinstance(index, int):
                found.setdefault(root[:-2], {}).setdefault(index, {})[name] = value
    if found:
        held = Counter(entry.root for entry in checkpoint.entries if entry.root[-1:] == ("params",))
        for root, groups in found.items():
            first = 0
            for index, group in sorted(groups.items()):
                place: Root = (*root, "param_groups", index, "params")
                count = held[place]
                if count:
                    group.setdefault("params", tuple(range(first, first + count)))
                    first += count
    return {
        root: groups
        for root, groups in found.items()
        if any(isinstance(group.get("params"), tuple) for group in groups.values())
    }


def split_state_root(root: Root, optimizers: Mapping[Root, object]) -> tuple[Root, Key] | None:
    """(the optimizer's root, the parameter's key) for the root of one parameter's states, else None."""
    depths = [depth for depth, key in enumerate(root[:-1]) if key == "state"]
    for depth in depths[:_MOST_STATES]:
        if root[:depth] in optimizers:
            return root[:depth], root[depth + 1]
    return None


def read_optimizers(found: Mapping[Root, Groups], states: Mapping[Root, Sequence[Entry]]) -> list[Optimizer]:
    """Every optimizer of ``find_groups``; ``states`` are its state entries by their root."""
    shapes: dict[Root, dict[Key, Shape]] = {root: {} for root in found}
    state_names: dict[Root, set[str]] = {root: set() for root in found}
    for root, entries in states.items():
        split = split_state_root(root, found)
        if split is None:
            continue
        optimizer, key = split
        by_name = {str(entry.name): entry.value for entry in entries}
        state_names[optimizer].update(by_name)
        for name in _SHAPED_LIKE_PARAMETER:
            value = by_name.get(name)
            if value is not None and value.shape is not None:
                shapes[optimizer][key] = value.shape
                break
    return [_read_optimizer(root, groups, shapes[root], state_names[root]) for root, groups in found.items()]


def _read_optimizer(
    root: Root, groups: Groups, shapes: Mapping[Key, Shape], state_names: set[str]
) -> Optimizer:
    keys: list[tuple[Key, ...]] = []
    names: dict[Key, str] = {}
    for _, group in sorted(groups.items()):
        params = group.get("params")
        in_group = tuple(p for p in params if isinstance(p, (int, str))) if isinstance(params, tuple) else ()
        keys.append(in_group)
        param_names = group.get("param_names")
        if isinstance(param_names, tuple) and len(param_names) == len(in_group):
            names.update((k, n) for k, n in zip(in_group, param_names, strict=True) if isinstance(n, str))
        else:
            names.update((key, key) for key in in_group if isinstance(key, str))
    return Optimizer(root, tuple(keys), names, shapes, _guess_class(state_names, groups))


def _guess_class(states: set[str], groups: Groups) -> str:
    """The optimizer's class from the names of its states and of its options."""
    for names, class_name in _CLASS_BY_STATE:
        if states.issuperset(names):
            if class_name == "Adam" and any(g.get("decoupled_weight_decay") is True for g in groups.values()):
                return "AdamW"
            return class_name
    # Without momentum SGD keeps no state; its options are its own.
    return "SGD" if set().union(*groups.values()).issuperset(("dampening", "nesterov")) else ""


# --------------------------------------------------------------------------------------------------- matching


def match_names(optimizer: Optimizer, names: Mapping[Key, int]) -> list[int]:
    """Indices of the entries that ``optimizer`` names; ``names`` are a state_dict's, with their indices.

    A common prefix of the entries that the optimizer's names lack (``model.`` of Lightning) is seen.
    """
    wanted = list(optimizer.names.values())
    prefix = ""
    if wanted and wanted[0] not in names:
        end = "." + wanted[0]
        prefix = next((n[: -len(wanted[0])] for n in names if isinstance(n, str) and n.endswith(end)), "")
    return [names[prefix + name] for name in wanted if prefix + name in names]


def match_order(optimizer: Optimizer, shapes: Sequence[Shape | None]) -> list[int]:
    """Positions in ``shapes`` that surely are parameters: where those of ``optimizer`` occur in order.

    Parameters that were frozen are in the weights and not in the optimizer, so its shapes are a
    subsequence. A position is sure when the leftmost and the rightmost way to lay the subsequence
    agree on it. Groups lie one after the other, or each by itself (weight decay for matrices only).
    """
    wanted = [[optimizer.shapes.get(key) for key in group] for group in optimizer.groups]
    whole = [shape for group in wanted for shape in group]
    if sum(shape is not None for shape in whole) * 2 < len(whole):
        return []  # too little is known to recognise anything
    sure = _sure_positions(whole, shapes)
    if sure is None and len(wanted) > 1:
        found = [_sure_positions(group, shapes) for group in wanted]
        if None not in found:
            sure = sorted({position for positions in found for position in positions or ()})
    return sure or []


def _sure_positions(wanted: Sequence[Shape | None], shapes: Sequence[Shape | None]) -> list[int] | None:
    """Where the leftmost and rightmost embeddings of ``wanted`` agree; None if there is none."""
    left = _embed(wanted, shapes)
    if left is None:
        return None
    right = _embed(wanted[::-1], shapes[::-1]) or []  # there is one where there is the other
    last = len(shapes) - 1
    return [a for a, b in zip(left, reversed(right), strict=True) if a == last - b]


def _embed(wanted: Sequence[Shape | None], shapes: Sequence[Shape | None]) -> list[int] | None:
    """Positions of the leftmost subsequence of ``shapes`` that equals ``wanted``; None matches anything."""
    found = []
    position = 0
    for shape in wanted:
        while position < len(shapes) and shape is not None and shapes[position] != shape:
            position += 1
        if position == len(shapes):
            return None
        found.append(position)
        position += 1
    return found
