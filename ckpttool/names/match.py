"""Names of a file against names of a model: which is which, by whole path parts.

Wrappers (``module.``, ``_orig_mod.`` …) go from both sides; then a leading path that one side has
and the other lacks (``model.``, ``backbone.encoder.``) is looked for. The mapping that brings most
names together wins; the plain one wins a tie, and one that makes two names equal is out, and so is
one that brings together less than half: those are two models that have little in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ckpttool.names.prefixes import strip_wrappers
from ckpttool.values.words import plural

_MAX_PREFIX_PARTS = 4


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
    best = _meet(file_names, file_names, known, "")
    if best.matched == len(known) or best.matched == len(file_names):
        return best
    for description, renamed in _candidates(file_names, known):
        found = _meet(file_names, renamed, known, description)
        enough = found.matched * 2 >= min(len(known), len(file_names))
        if enough and found.matched > best.matched and len(set(found.to_model.values())) == len(file_names):
            best = found
    return best


def _meet(names: Sequence[str], renamed: Sequence[str], known: set[str], description: str) -> NameMatch:
    to_model = dict(zip(names, renamed, strict=True))
    return NameMatch(to_model, sum(name in known for name in to_model.values()), description)


def _candidates(file_names: Sequence[str], known: set[str]) -> Iterator[tuple[str, list[str]]]:
    """What to call the names of the file, and what was done to them; the simplest first."""
    bare = {strip_wrappers(name): name for name in known}
    unwrapped = [bare.get(plain, plain) for plain in map(strip_wrappers, file_names)]
    ways: list[tuple[str, Sequence[str]]] = [("", file_names)]
    changed = sum(old != new for old, new in zip(file_names, unwrapped, strict=True))
    if changed:
        said = f"wrapper prefixes taken off {changed:,} of {plural(len(file_names), 'name')} of the file"
        yield said, unwrapped
        ways.append((f"{said}, ", unwrapped))
    for said, names in ways:
        for path in _leading_paths(names):
            yield f"{said}{path!r} taken off the file's names", [name.removeprefix(path) for name in names]
        for path in _leading_paths(known):
            yield f"{said}{path!r} put before the file's names", [path + name for name in names]


def _leading_paths(names: Collection[str]) -> list[str]:
    """Leading paths (with their dot) that at least a quarter of the names have, most frequent first.

    So there are at most four of each length.
    """
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".", _MAX_PREFIX_PARTS)
        for length in range(1, len(parts)):
            counts[".".join(parts[:length]) + "."] += 1
    return [path for path, count in counts.most_common() if count * 4 >= len(names)]
