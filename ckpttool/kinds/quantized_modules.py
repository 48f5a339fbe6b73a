"""The quantised modules of a checkpoint: which scheme each follows, and what it lacks by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from ckpttool.kinds.quantization_schemes import (
    ACTIVATIONS,
    EVERYDAY,
    FLOAT8,
    KNOWN,
    NESTED,
    SCHEMES,
    TELLING,
    Leaf,
    Measure,
    Scheme,
)
from ckpttool.kinds.quantized import Fault, Survey
from ckpttool.values.checkpoint import CompositeTensor, Entry, Root, Strided, parts
from ckpttool.values.inspection import Quantization

_Modules: TypeAlias = dict[tuple[Root, str], dict[str, Entry]]
_Kind: TypeAlias = tuple[str, int | None, int | None, str]
"""The first fields of a ``Quantization``."""


class Found(NamedTuple):
    """A module with quantised weights: where it stands, by which scheme, and its entries by member."""

    root: Root
    path: str
    scheme: Scheme
    measure: Measure | None
    members: Mapping[str, Entry]


def survey_modules(entries: Sequence[Entry], bits: int | None = None) -> Survey | None:
    """What of ``entries`` is quantised, in ``bits`` each where no shape tells; None if nothing is."""
    subclasses = [
        entry
        for entry in entries
        if isinstance(entry.value, CompositeTensor) and entry.value.type_name.startswith("torchao.")
    ]
    modules = _group(entries)
    found: list[Found] = []
    open_: list[tuple[Root, str]] = []
    for (root, path), members in modules.items():
        leaves = {name: _leaf(entry) for name, entry in members.items()}
        one = next((it for it in SCHEMES if _follows(leaves, it) and it.measure(leaves) is not None), None)
        if one is not None:
            found.append(Found(root, path, one, one.measure(leaves), members))
        else:
            open_.append((root, path))
    common = [scheme for scheme, _ in Counter([item.scheme for item in found]).most_common()]
    for root, path in open_:
        members = modules[root, path]
        scheme = _likely(members, common)
        if scheme is not None:
            found.append(Found(root, path, scheme, None, members))
    if not found and not subclasses:
        return None
    return _sum_up(found, subclasses, bits)


def _group(entries: Sequence[Entry]) -> _Modules:
    """Entries by module and by their name in it; what packs several weights in one module is taken apart."""
    modules: _Modules = {}
    for entry in entries:
        name = entry.name
        if not isinstance(name, str) or entry.value is None or isinstance(entry.value, CompositeTensor):
            continue
        path, _, leaf = name.rpartition(".")
        above, _, nested = f".{name}".rpartition(".weight.")
        if nested.startswith(NESTED):  # what is not found leaves the dot in front
            path, leaf = above[1:], f"weight.{nested}"
        modules.setdefault((entry.root, path), {})[leaf] = entry
    for (root, path), members in list(modules.items()):
        for leaf in list(members):
            if leaf not in members:
                continue
            stem, _, role = leaf.rpartition("_")
            if role == "blocks" and stem:
                names = {leaf: "blocks", f"{stem}_scales": "scales"}
                modules[root, _join(path, stem)] = _take(members, names)
            elif leaf != "weight" and _leaf(members[leaf]).dtype in FLOAT8:
                scales = {f"{leaf}_{name}": f"weight_{name}" for name in ("scale", "scale_inv")}
                if not scales.keys().isdisjoint(members):
                    modules[root, _join(path, leaf)] = _take(members, {leaf: "weight", **scales})
    return modules


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _take(members: dict[str, Entry], names: Mapping[str, str]) -> dict[str, Entry]:
    """Some members, to be a module of their own, under the names that its scheme has for them."""
    return {new: members.pop(old) for old, new in names.items() if old in members}


def _leaf(entry: Entry) -> Leaf:
    value = cast("Strided", entry.value)  # see _group
    return Leaf(value.dtype.name, value.shape)


def _has(members: Mapping[str, object], name: str) -> bool:
    """Whether a member is there; ``STEM.*`` stands for any below ``STEM``."""
    return any(it.startswith(name[:-1]) for it in members) if name.endswith("*") else name in members


def _follows(leaves: Mapping[str, Leaf], scheme: Scheme) -> bool:
    anchor = leaves.get(scheme.anchor)
    if anchor is None or anchor.dtype not in scheme.dtypes:
        return False
    return not scheme.proof or any(_has(leaves, name) for name in scheme.proof)


def _likely(members: Mapping[str, Entry], common: Sequence[Scheme]) -> Scheme | None:
    """The scheme of a module that is not whole, in a file where ``common`` ones are followed."""
    for scheme in common:
        anchor = members.get(scheme.anchor)
        if anchor is not None and _leaf(anchor).dtype in scheme.dtypes:
            return scheme
        if anchor is None and "weight" not in members:
            left = scheme.members & members.keys()
            if not TELLING.isdisjoint(left) or len(left.intersection(scheme.required)) > 1:
                return scheme
    # Without an example in the file, more than the anchor must speak for a scheme.
    for scheme in SCHEMES:
        anchor = members.get(scheme.anchor)
        if anchor is None or scheme.anchor in EVERYDAY or _leaf(anchor).dtype not in scheme.dtypes:
            continue
        if not TELLING.isdisjoint(scheme.members & members.keys()):
            return scheme
    return None


def _sum_up(found: Sequence[Found], subclasses: Sequence[Entry], told: int | None) -> Survey:
    by_scheme: dict[str, list[Found]] = {}
    for item in found:
        by_scheme.setdefault(item.scheme.name, []).append(item)
    kinds: dict[_Kind, list[int | None]] = {}
    firsts: dict[tuple[str, int | None], _Kind] = {}  # of a scheme, and of its bits
    # Those that lack a member come last: what cannot be told of them is what it is in the others.
    for item in sorted(found, key=lambda item: not _is_whole(item)):
        if item.measure is not None:
            bits, weights, group, word, *_ = item.measure.told(told)
            scheme = item.scheme.name
            kind = (scheme, bits, group, word)
            if not _is_whole(item):
                kind = firsts.get((scheme, bits), kind)
            for alike in (bits, None):
                firsts.setdefault((scheme, alike), kind)
            kinds.setdefault(kind, []).append(weights)
    for entry in subclasses:
        value = entry.value
        largest = max((part.nbytes for _, part in parts(value)), default=0)
        numel = value.numel if value is not None else 0
        bits = 8 * largest // numel if numel else 0
        kinds.setdefault(("torchao", bits, None, ""), []).append(numel)
    quantizations = [Quantization(*kind, len(each), _total(each)) for kind, each in kinds.items()]
    quantizations.sort(key=lambda item: -(item.weights or 0))
    taken = [
        entry
        for item in found
        for name, entry in item.members.items()
        if name in KNOWN or name.startswith("weight.quant_state.")
    ]
    return Survey(
        tuple(quantizations),
        tuple(fault for items in by_scheme.values() for fault in _find_faults(items)),
        sum(item.weights or 0 for item in quantizations),
        frozenset(map(id, (*taken, *subclasses))),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _is_whole(item: Found) -> bool:
    return all(_has(item.members, name) for name in item.scheme.required)


def _find_faults(found: Sequence[Found]) -> list[Fault]:
    """What modules of one scheme lack, and what they have of another one or of the weight before."""
    lacking: dict[tuple[str, bool, bool], list[str]] = {}
    for item in found:
        scheme, members = item.scheme, item.members
        for name in (scheme.anchor, *scheme.required):
            if not _has(members, name):
                lacking.setdefault((name, True, True), []).append(item.path)
        for name in members:
            if name not in scheme.members and name not in ACTIVATIONS and (name in KNOWN or name == "weight"):
                lacking.setdefault((name, False, False), []).append(item.path)
    uniform = {name for item in found for name in item.scheme.uniform}
    for name in sorted(uniform):
        able = [item for item in found if name in item.scheme.uniform]
        without = [item.path for item in able if name not in item.members]
        if 0 < len(without) * 2 < len(able):
            lacking.setdefault((name, True, False), []).extend(without)
    name = found[0].scheme.name
    return [Fault(name, *key, tuple(paths)) for key, paths in lacking.items()]
