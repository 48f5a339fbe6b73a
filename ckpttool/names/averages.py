"""Averaged copies of the weights among the names of one state_dict, and what each is a copy of.

- LitEma (ldm/modules/ema.py of CompVis, sgm/modules/ema.py of Stability): buffers ``PREFIX.NAME`` where NAME
  is that of a parameter without its dots, beside ``PREFIX.decay`` and ``PREFIX.num_updates``.
- A copy of the whole module: ``PREFIX.module.NAME`` of timm's ModelEma, V2 and V3, and beside
  ``PREFIX.n_averaged`` of torch.optim.swa_utils, ``PREFIX.NAME`` of scripts.

PREFIX has a word of averaging, and no number before it: in a layer ``swa`` and ``ema`` are attention.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ckpttool.names.prefixes import strip_wrappers

WORDS = frozenset("ema swa averaged average averaging avg polyak shadow".split())
"""Words that say of a key, or of a part of a name, that an average of the weights lies below it."""
WORD = re.compile("[a-z]+")

_SPELLED = ("ema", "swa", "averag", "avg", "polyak", "shadow")
_COUNTERS = frozenset(("decay", "num_updates"))  # of LitEma, both always
_OWN = _COUNTERS | {"n_averaged"}
_MOST_PREFIXES = 8  # that are looked at; a hostile file has one in each name
_MOST_PROBES = 4  # names of a copy by which the place of what it copies is looked for


class Average(NamedTuple):
    """An averaged copy, below the ``prefix`` with its dot.

    ``copies`` say by position what each name is a copy of; at ``own`` is what counts for the average.
    ``squashed``: the names have lost their dots.
    """

    prefix: str
    copies: Mapping[int, int]
    own: tuple[int, ...]
    squashed: bool


def find_averages(names: Sequence[str], shapes: Sequence[object]) -> list[Average]:
    """The averaged copies in ``names`` of which every tensor has another of its name and shape.

    Work is linear in ``names``.
    """
    prefixes = _find_prefixes(names)
    if not prefixes:
        return []
    below = {position for positions in prefixes.values() for position in positions}
    # A copy is made of what is inside of wrappers.
    others = {at: strip_wrappers(name) for at, name in enumerate(names) if at not in below}
    largest = sorted(prefixes, key=lambda prefix: -len(prefixes[prefix]))[:_MOST_PREFIXES]
    found = [_match(prefix, prefixes[prefix], others, names, shapes) for prefix in largest]
    return [average for average in found if average is not None]


def may_be_averaged(names: str) -> bool:
    """Whether an averaged copy may be among ``names``, all names to search at once."""
    return any(word in names for word in _SPELLED)


def prefix_of(name: str) -> str:
    """The leading parts of ``name``, with a dot, that say that an average lies below them; "" if none do."""
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ""
        if not WORDS.isdisjoint(WORD.findall(part)):
            return ".".join(parts[: at + 1]) + "."
    return ""


def _find_prefixes(names: Sequence[str]) -> dict[str, list[int]]:
    """Positions of the names below each prefix that says so."""
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        prefix = prefix_of(name) if may_be_averaged(name) else ""
        if prefix:
            found.setdefault(prefix, []).append(position)
    return found


def _match(
    prefix: str,
    below: Sequence[int],
    others: Mapping[int, str],
    names: Sequence[str],
    shapes: Sequence[object],
) -> Average | None:
    rests = {position: names[position][len(prefix) :] for position in below}
    own = tuple([position for position, rest in rests.items() if rest in _OWN])
    members = {position: strip_wrappers(rest) for position, rest in rests.items() if rest not in _OWN}
    squashed = {rests[position] for position in own} >= _COUNTERS
    spelled = {at: name.replace(".", "") for at, name in others.items()} if squashed else others
    for place in _find_places(members.values(), spelled.values(), squashed=squashed):
        originals: dict[tuple[str, object], int | None] = {}  # None of several of one name and shape
        for at, name in spelled.items():
            if name.startswith(place):
                sort = name[len(place) :], shapes[at]
                originals[sort] = None if sort in originals else at
        sorts = {position: (name, shapes[position]) for position, name in members.items()}
        if originals.keys() >= set(sorts.values()):
            found = {position: originals[sort] for position, sort in sorts.items()}
            copies = {position: at for position, at in found.items() if at is not None}
            return Average(prefix, copies, own, squashed)
    return None


def _find_places(members: Iterable[str], names: Iterable[str], *, squashed: bool) -> list[str]:
    """Prefixes of ``names`` behind which members may stand, the one of most members first."""
    probes = tuple(sorted(members, key=len, reverse=True)[:_MOST_PROBES])
    places: Counter[str] = Counter()
    for name in names:
        for probe in probes if name.endswith(probes) else ():
            place = name[: len(name) - len(probe)]
            if name.endswith(probe) and (squashed or place[-1:] in ("", ".")):
                places[place] += 1
    return [place for place, _ in places.most_common(_MOST_PROBES)]
