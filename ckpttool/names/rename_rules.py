"""The rules that many renames follow: ``_`` -> ``.``, or a part more in front. Pure.

Candidates are read off single pairs of names: what differs, alone and with the word or the part
around it. The one that explains most wins, of those one that cuts no word, then the shortest; the
next one explains what is left. So there is one rule for all where one is found that explains all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from math import gcd
from typing import NamedTuple

from ckpttool.values.checkpoint import Key
from ckpttool.values.difference import RenameRule

_MOST_RULES = 5
_SAMPLE = 48  # pairs that candidates are read off, and that they are tried on first
_FINALISTS = 8  # candidates that are tried on all pairs
_LONGEST = 300  # characters of a name that a rule is looked for in
_MOST_COMPARED = 120  # characters of a name that is compared in its midst, which takes the square of them
_WHERES = ("all", "prefix", "suffix", "first", "last")  # the simplest to say first


def find_rules(pairs: Sequence[tuple[Key, Key]]) -> tuple[RenameRule, ...]:
    """Rules that each make at least two old names the new ones, the one that explains most first.

    A pair counts for the first rule that makes its old name the new one.
    """
    left = [
        (old, new)
        for old, new in pairs
        if isinstance(old, str)
        and isinstance(new, str)
        and old != new
        and max(len(old), len(new)) <= _LONGEST
    ]
    rules: list[RenameRule] = []
    while len(left) > 1 and len(rules) < _MOST_RULES:
        rule = _find_rule(left)
        if rule is None:
            break
        rules.append(rule)
        left = [(old, new) for old, new in left if rule.new_name(old) != new]
    return tuple(rules)


def _find_rule(pairs: Sequence[tuple[str, str]]) -> RenameRule | None:
    """The rule that explains most of ``pairs``, None if none explains two."""
    sample = pairs[:: max(1, len(pairs) // _SAMPLE)][:_SAMPLE]
    cuts: dict[RenameRule, bool] = {}
    for old, new in sample:
        for rule, cuts_word in _candidates(old, new):
            cuts[rule] = cuts.get(rule, False) or cuts_word

    def cost(rule: RenameRule) -> tuple[object, ...]:
        _, old, new, count = rule
        one_sided = not (old and new)  # "X.old -> X" is easier to read than "old -> nothing"
        awkward = one_sided and rule.where not in ("prefix", "suffix")
        place = _WHERES.index(rule.where)
        return -count, cuts[rule._replace(names=0)], awkward, len(old) + len(new), place, old, new

    def tried_on(rules: Sequence[RenameRule], those: Sequence[tuple[str, str]]) -> list[RenameRule]:
        counted = [rule._replace(names=sum(rule.new_name(a) == b for a, b in those)) for rule in rules]
        return sorted(counted, key=cost)

    likely = tried_on(list(cuts), sample)[:_FINALISTS]
    best = tried_on([rule._replace(names=0) for rule in likely], pairs)[:1]
    return best[0] if best and best[0].names > 1 else None


class _Chunk(NamedTuple):
    """Where two names differ: characters of the old one and those of the new one."""

    start: int
    stop: int
    new_start: int
    new_stop: int


def _candidates(old: str, new: str) -> Iterator[tuple[RenameRule, bool]]:
    """Rules that may make ``old`` to ``new``, and whether one cuts a word in two."""
    for chunk in _chunks(old, new):
        for start, stop, new_start, new_stop in _with_surroundings(chunk, old, new):
            gone, come = old[start:stop], new[new_start:new_stop]
            before = old[start - 1 : start].isalnum() and (gone[:1].isalnum() or come[:1].isalnum())
            after = old[stop : stop + 1].isalnum() and (gone[-1:].isalnum() or come[-1:].isalnum())
            wheres = ["all", "first", "last"] if gone else []
            wheres += ["prefix"] if not start and not new_start else []
            wheres += ["suffix"] if stop == len(old) and new_stop == len(new) else []
            for where in wheres:
                yield RenameRule(where, gone, come), before or after


def _chunks(old: str, new: str) -> Iterator[_Chunk]:
    """All that differs as one, read from either end; and a single one of several that are the same."""
    shortest = min(len(old), len(new))
    head = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    tail = next((i for i in range(shortest) if old[-1 - i] != new[-1 - i]), shortest)
    for ahead, behind in ((head, min(tail, shortest - head)), (min(head, shortest - tail), tail)):
        yield _Chunk(ahead, len(old) - behind, ahead, len(new) - behind)
    if max(len(old), len(new)) > _MOST_COMPARED:
        return
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    chunks = [_without_repeats(_Chunk(*places), old, new) for kind, *places in codes if kind != "equal"]
    if len({(old[chunk[0] : chunk[1]], new[chunk[2] : chunk[3]]) for chunk in chunks}) == 1:
        yield chunks[0]


def _without_repeats(chunk: _Chunk, old: str, new: str) -> _Chunk:
    """The first of several in a row that are the same: ``_`` -> ``.`` of ``__`` -> ``..``."""
    gone, come = old[chunk.start : chunk.stop], new[chunk.new_start : chunk.new_stop]
    for times in range(gcd(len(gone), len(come)), 1, -1):
        one, other = len(gone) // times, len(come) // times
        if gone == gone[:one] * times and come == come[:other] * times:
            return chunk._replace(stop=chunk.start + one, new_stop=chunk.new_start + other)
    return chunk


def _with_surroundings(chunk: _Chunk, old: str, new: str) -> Iterator[_Chunk]:
    """The chunk, then with the rest of its words, and with the part of the name before or behind it."""
    start, stop, new_start, new_stop = chunk
    ahead, behind = _shared(old[:start], new[:new_start], -1), _shared(old[stop:], new[new_stop:], 1)
    yield chunk
    left, right = (_run_of_words(text) for text in (ahead[::-1], behind))
    yield _Chunk(start - left, stop + right, new_start - left, new_stop + right)
    left = len(ahead) - (ahead.rstrip(".").rfind(".") + 1)
    right = (behind + ".").index(".", 1) if behind else 0
    yield _Chunk(start - left, stop, new_start - left, new_stop)
    yield _Chunk(start, stop + right, new_start, new_stop + right)


def _shared(old: str, new: str, step: int) -> str:
    """What both begin with, or with a ``step`` of -1 end with."""
    count = 0
    for a, b in zip(old[::step], new[::step], strict=False):
        if a != b:
            break
        count += 1
    return old[:count] if step == 1 else old[len(old) - count :]


def _run_of_words(text: str) -> int:
    return next((place for place, character in enumerate(text) if not character.isalnum()), len(text))
