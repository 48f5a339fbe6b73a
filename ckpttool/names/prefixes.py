"""Prefixes that wrappers put before the names of a model: ``module.``, ``_orig_mod.`` and so on.

Only whole parts of a dotted name count: ``module.`` is not found in ``submodule.weight``, nor
taken out of the middle of a name, where it may be a model's own. Three wrappers have names that no
model uses for itself; those are recognised wherever they stand. ``model.`` is no wrapper here: it is
an attribute of many a model, and only a person knows (``common_first_part`` finds it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

ANYWHERE = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
"""Wrappers of any submodule (``torch/_dynamo/eval_frame.py``, ``torch/distributed``)."""

LEADING: dict[tuple[str, ...], str] = {
    ("module",): "DataParallel or DistributedDataParallel",
    ("_forward_module",): "Lightning Fabric",
    ("base_model", "model"): "PEFT",
    **{(part,): wrapper for part, wrapper in ANYWHERE.items()},
}
"""Parts at the start of a name, and who puts them there."""

_FIRST_PARTS = frozenset(parts[0] for parts in LEADING)

AVERAGED = "AveragedModel, an average of the weights"
_COUNTER = "n_averaged"
"""What ``torch.optim.swa_utils.AveragedModel`` keeps beside ``module``: how many models it averaged."""
_MOST = 8  # counters that are looked at; a hostile file has one behind every chain of wrappers


class Prefix(NamedTuple):
    """A wrapper prefix (``_orig_mod.module.``) on ``matched`` of ``total`` names, and who puts it there.

    With ``inside`` the part stands in the middle of the names, not in front of them.
    """

    text: str
    wrappers: tuple[str, ...]
    matched: int
    total: int
    inside: bool = False


def find_prefixes(names: Iterable[str]) -> tuple[Prefix, ...]:
    """Wrapper prefixes of ``names``, the longest chain that each name has, most frequent first."""
    chains: Counter[tuple[str, tuple[str, ...]]] = Counter()
    inside: Counter[str] = Counter()
    names = list(names)
    counters = find_counters(names)
    averaged = {counter[: -len(_COUNTER)] for counter in counters}
    # One search of everything at once: nearly no file has a wrapper in the middle of a name.
    everything = "\n".join(names)
    inner = [part for part in ANYWHERE if f".{part}." in everything]
    for name in names:
        if name in counters:
            continue
        taken = 0
        if name.partition(".")[0] in _FIRST_PARTS:
            parts = name.split(".")
            taken, wrappers = _leading_parts(parts, averaged)
            if taken:
                chains[".".join(parts[:taken]) + ".", wrappers] += 1
        if inner:
            rest = name.split(".")[taken:-1]
            inside.update({part for part in inner if part in rest})
    found = [Prefix(text, who, count, len(names)) for (text, who), count in chains.most_common()]
    found += (
        Prefix(f"{part}.", (ANYWHERE[part],), count, len(names), inside=True)
        for part, count in inside.most_common()
    )
    return tuple(found)


def find_counters(names: Iterable[str]) -> frozenset[str]:
    """Those of ``names`` that count for an AveragedModel, beside its ``module.``: no part of the model.

    Only where nothing but wrappers is around it, so that it is the whole that was averaged.
    """
    names = list(names)
    found = [name for name in names if name.endswith(_COUNTER) and strip_wrappers(name) == _COUNTER]
    inside = {name: f"{name[: -len(_COUNTER)]}module." for name in found}
    return frozenset(name for name in found[:_MOST] if any(other.startswith(inside[name]) for other in names))


def is_averaged(prefixes: Iterable[Prefix]) -> bool:
    """Whether what bears ``prefixes`` is an AveragedModel."""
    return any(AVERAGED in prefix.wrappers for prefix in prefixes)


def common_first_part(names: Iterable[str]) -> str | None:
    """The first part that all ``names`` of two or more parts share; None if they differ, or if none has."""
    firsts = {name.partition(".")[0] if "." in name else None for name in names}
    return firsts.pop() if len(firsts) == 1 else None


def strip_wrappers(name: str) -> str:
    """``name`` without any wrapper's parts, as the bare model would have it."""
    parts = name.split(".")
    taken, _ = _leading_parts(parts)
    return ".".join([*(part for part in parts[taken:-1] if part not in ANYWHERE), parts[-1]])


def _leading_parts(parts: list[str], averaged: Collection[str] = ()) -> tuple[int, tuple[str, ...]]:
    """How many parts at the start belong to wrappers, and to which; the last part is never one.

    ``averaged`` are prefixes with their dot under which an AveragedModel stands.
    """
    wrappers: list[str] = []
    taken = 0
    longest = len(parts) - 1
    while taken < longest:
        for leading, wrapper in LEADING.items():
            end = taken + len(leading)
            if end <= longest and tuple(parts[taken:end]) == leading:
                is_average = averaged and leading == ("module",) and _joined(parts[:taken]) in averaged
                wrappers.append(AVERAGED if is_average else wrapper)
                taken = end
                break
        else:
            break
    return taken, tuple(wrappers)


def _joined(parts: list[str]) -> str:
    return ".".join([*parts, ""])
