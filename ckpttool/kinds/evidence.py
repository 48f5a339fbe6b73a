"""Evidence for a state_dict from what is pickled in the same file: whole modules, and Parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ckpttool.kinds.state_dict import stands_as_written
from ckpttool.names.averages import find_averages
from ckpttool.values.checkpoint import (
    UNCLASSIFIED,
    Basis,
    Classification,
    Entry,
    Kind,
    Root,
    TensorInfo,
)
from ckpttool.values.words import format_root

STRENGTH = {basis: -rank for rank, basis in enumerate(Basis)}
"""The greater the stronger; ``Basis`` is the one table of it."""

_MOST_MODULES = 64
_MOST_PLACES = 8
"""Pickled modules that are looked for in a state_dict, and places where each may be in it."""

_MEMBERS = (Kind.PARAMETER, Kind.PERSISTENT_BUFFER)


def strength(said: Classification) -> int:
    """How strong the evidence is: a name that every class of a package declares is no class that fits."""
    by_leaf = said.source is not None and said.source.how == "leaf"
    return STRENGTH[Basis.ORDER if by_leaf else said.basis]


def is_final(entry: Entry) -> bool:
    """Whether the reader said what the entry is, or that it is nothing registered: no rule may say otherwise.

    ``_rebuild_parameter`` alone is not that strong, for a buffer may be pickled as a Parameter.
    """
    return entry.declared != UNCLASSIFIED and entry.declared.basis is not Basis.PICKLED_PARAMETER


def read_pickled_modules(
    entries: Sequence[Entry], by_root: Mapping[Root, Sequence[int]]
) -> dict[int, Classification]:
    """What modules pickled in the file say of the entries of state_dicts with their path and names.

    A module under ``hyper_parameters.net.norm`` speaks for ``net.norm.*`` where all that it would save is
    there, of the same shapes; of several such places the one that has most of its path.
    """
    modules: dict[Root, list[Entry]] = {}
    for root, indices in by_root.items():
        declared = [entries[index] for index in indices if entries[index].declared is not UNCLASSIFIED]
        members = [entry for entry in declared if entry.declared.kind in _MEMBERS]
        is_module = members and members[0].declared.basis is Basis.PICKLED_MODULE
        if is_module and root and isinstance(root[-1], str) and len(modules) < _MOST_MODULES:
            modules[root] = members
    said: dict[int, Classification] = {}
    for indices in by_root.values() if modules else ():
        open_ones = [(entries[index].name, index) for index in indices if not is_final(entries[index])]
        names = {name: index for name, index in open_ones if isinstance(name, str)}
        for module, places in _find_places(modules, names).items():
            members = modules[module]
            fitting = [place for place in places if _fits(members, place, names, entries)]
            best = [place for place in fitting if _agreement(place, module) == _agreement(fitting[0], module)]
            for entry in members if len(best) == 1 else ():
                note = f"as in the module pickled as {format_root(module)}"
                said[names[f"{best[0]}{entry.name}"]] = Classification(
                    entry.declared.kind, Basis.COPY, note=note
                )
    return said


def _find_places(modules: Mapping[Root, Sequence[Entry]], names: Mapping[str, int]) -> dict[Root, list[str]]:
    """Prefixes of ``names`` that end in the last key of a module's root, those that agree most first."""
    wanted: dict[str, list[Root]] = {}
    for root, members in modules.items():
        wanted.setdefault(f"{root[-1]}.{members[0].name}", []).append(root)
    places: dict[Root, list[str]] = {}
    for dots in sorted({text.count(".") for text in wanted}):
        for name in names:
            parts = name.rsplit(".", dots + 1)
            ending = name if len(parts) <= dots + 1 else name[len(parts[0]) + 1 :]
            for root in wanted.get(ending, ()) if ending.count(".") == dots else ():
                places.setdefault(root, []).append(name[: -len(str(modules[root][0].name))])
    return {
        root: sorted(found, key=lambda place: -_agreement(place, root))[:_MOST_PLACES]
        for root, found in places.items()
    }


def _agreement(place: str, root: Root) -> int:
    """How many parts at the end of ``place`` are the last keys of ``root``."""
    same = 0
    for part, key in zip(place[:-1].split(".")[::-1], root[::-1], strict=False):
        if part != str(key):
            break
        same += 1
    return same


def _fits(members: Sequence[Entry], place: str, names: Mapping[str, int], entries: Sequence[Entry]) -> bool:
    for entry in members:
        index = names.get(f"{place}{entry.name}")
        other = None if index is None else entries[index].value
        if other is None or other.shape != entry.shape:
            return False
    return True


_TARGET = re.compile(r"(?:^|\.)target_(?=\w*params\.)")


def read_target_copies(entries: Sequence[Entry]) -> dict[int, Classification]:
    """Of ``target_X_params.*`` beside ``X_params.*``, by position: torchrl keeps target networks in buffers.

    Source: ``convert_to_functional`` in torchrl/objectives/common.py, 0.9.
    """
    targets = [at for at, entry in enumerate(entries) if "target_" in str(entry.name)]
    names = {entry.name for entry in entries} if targets else set()
    said = {}
    for at in targets:
        online, count = _TARGET.subn(lambda found: found[0][: -len("target_")], str(entries[at].name), 1)
        if count and online in names:
            note = "a target network: the parameters beside it once more, in buffers"
            said[at] = Classification(Kind.PERSISTENT_BUFFER, Basis.COPY, note=note)
    return said


def read_averages(entries: Sequence[Entry], judged: Sequence[Classification]) -> dict[int, Classification]:
    """Of averaged copies in one state_dict, by position: their original's kind, or LitEma's buffers."""
    names = [entry.name if isinstance(entry.name, str) else "" for entry in entries]
    said = {}
    for average in find_averages(names, [entry.shape for entry in entries]):
        for copy, of in average.copies.items():
            kind = Kind.PERSISTENT_BUFFER if average.squashed else judged[of].kind
            note = f"averaged copy of {names[of]}"
            said[copy] = Classification(kind, Basis.COPY, note=note, averaged_of=names[of])
        counter = Classification(Kind.PERSISTENT_BUFFER, Basis.SIBLING, note="beside averaged weights")
        said.update(dict.fromkeys(average.own, counter))
    return {position: known for position, known in said.items() if not is_final(entries[position])}


def read_pickled_parameters(
    entries: Sequence[Entry],
    found: Sequence[Classification],
    versions: Mapping[str, int | None],
    ordered: bool,
) -> dict[int, Classification]:
    """Beside tensors that ``state_dict(keep_vars=True)`` pickled as Parameters the others are buffers.

    By position. Silent where somebody put a Parameter into a state_dict afterwards: it stands outside of
    the order in which modules write, its module is not in ``_metadata``, or what is not pickled as a
    Parameter is one by evidence as strong.
    """
    parameters = [
        entry
        for entry in entries
        if entry.declared is not UNCLASSIFIED and entry.declared.basis is Basis.PICKLED_PARAMETER
    ]
    if not parameters or (ordered and not stands_as_written(entries)):
        return {}
    if versions and any(str(entry.name).rpartition(".")[0] not in versions for entry in parameters):
        return {}
    said = {}
    for position, (entry, known) in enumerate(zip(entries, found, strict=True)):
        if entry.declared != UNCLASSIFIED or known.kind not in (Kind.UNKNOWN, Kind.PARAMETER):
            continue
        if strength(known) >= STRENGTH[Basis.METADATA]:  # a parameter: what is unknown has no basis
            return {}
        # A Parameter that is a subclass is pickled as that, and packed weights are no Parameters at all.
        if isinstance(entry.value, TensorInfo) and not (
            entry.subclass or entry.value.dtype.kind == "quantized"
        ):
            note = "not pickled as a Parameter, as others here are"
            said[position] = Classification(Kind.PERSISTENT_BUFFER, Basis.PICKLED_PARAMETER, note=note)
    return said
