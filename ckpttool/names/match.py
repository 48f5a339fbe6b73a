"""Names of a file against names of a model: which is which, by whole path parts.

Wrappers (``module.``, ``_orig_mod.`` …) go from both sides; then a leading path that one side has
and the other lacks (``model.``, ``backbone.encoder.``) is looked for. The mapping that brings most
names together wins; the plain one wins a tie, and one that makes two names equal is out, and so is
one that brings together less than half: those are two models that have little in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from ckpttool.names.prefixes import strip_wrappers

_MAX_PREFIX_PARTS = 4
_MAX_CANDIDATES = 12  # leading paths tried on each side, most frequent first


class NameMatch(NamedTuple):
    """``to_model`` maps every name of the file to the name that the model would have to know.

    ``matched`` counts those it does know. ``description`` says in words what was changed, "" if
    nothing.
    """

    to_model: dict[str, str]
    matched: int
    description: str


def match_names(file_names: Sequence[str], model_names: Collection[str]) -> NameMatch:
    """The mapping of ``file_names`` that meets the most of ``model_names``."""
    known = set(model_names)
    best = _apply(file_names, known, _as_it_is, "")
    if best.matched == len(known) or best.matched == len(file_names):
        return best
    for description, rule in _candidates(file_names, known):
        found = _apply(file_names, known, rule, description)
        enough = found.matched * 2 >= min(len(known), len(file_names))
        if enough and found.matched > best.matched and len(set(found.to_model.values())) == len(file_names):
            best = found
    return best


def _apply(names: Sequence[str], known: set[str], rule: Callable[[str], str], description: str) -> NameMatch:
    to_model = {name: rule(name) for name in names}
    return NameMatch(to_model, sum(name in known for name in to_model.values()), description)


def _candidates(file_names: Sequence[str], known: set[str]) -> Iterable[tuple[str, Callable[[str], str]]]:
    """Rules to try, simplest first."""
    bare = {strip_wrappers(name): name for name in known}
    wrapped_model = any(name != plain for plain, name in bare.items())

    def unwrap(name: str) -> str:
        plain = strip_wrappers(name)
        return bare.get(plain, plain) if wrapped_model else plain

    unwrapped = [unwrap(name) for name in file_names]
    changed = sum(old != new for old, new in zip(file_names, unwrapped, strict=True))
    wrappers = ""
    if changed:
        wrappers = f"wrapper prefixes taken off {changed} of {len(file_names)} names of the file"
        yield wrappers, unwrap
    elif wrapped_model:
        wrappers = "the model's own wrapper prefixes put on"
        yield wrappers, unwrap
    ways: list[tuple[Sequence[str], Callable[[str], str], str]] = [(file_names, _as_it_is, "")]
    if changed:
        ways.append((unwrapped, unwrap, wrappers))
    for names, rule, said in ways:
        for prefix in _leading_paths(names, len(names)):
            yield _join(said, f"{prefix!r} taken off the file's names"), _strip(prefix, rule)
        for prefix in _leading_paths(known, len(known)):
            yield _join(said, f"{prefix!r} put before the file's names"), _add(prefix, rule)


def _as_it_is(name: str) -> str:
    return name


def _strip(prefix: str, before: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: before(name).removeprefix(prefix)


def _add(prefix: str, before: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: prefix + before(name)


def _join(first: str, second: str) -> str:
    return f"{first}, {second}" if first else second


def _leading_paths(names: Iterable[str], total: int) -> list[str]:
    """Leading paths (with their dot) that at least a quarter of the names have, longest chains last."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".", _MAX_PREFIX_PARTS)
        for length in range(1, len(parts)):
            counts[".".join(parts[:length]) + "."] += 1
    frequent = [path for path, count in counts.most_common() if count * 4 >= total]
    return frequent[:_MAX_CANDIDATES]
