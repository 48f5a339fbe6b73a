"""Which entry of one checkpoint is which of the other, and on what basis: pure.

In order: the same name; ``--map``; wrapper prefixes and leading paths (``match_names``); one part
that stands in the names of one side only (``lora_A.default.weight``). Then, for what is left on
both sides, equal bytes (``pair_by_content``, told from digests that ``contents`` makes) and last an
equal shape with a common end of the name that nothing else shares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ckpttool.comparison.sides import Placed
from ckpttool.names.match import match_names
from ckpttool.names.renames import Rule
from ckpttool.values.checkpoint import Key, Kind, Root, is_buffer
from ckpttool.values.difference import NameBasis
from ckpttool.values.errors import CkptToolError

_MOST_PARTS = 8  # of a name that are looked at for a common end
_MOST_CANDIDATES = 8  # parts that are tried as the one that is too many


class Content(NamedTuple):
    """What a tensor holds: equal contents are equal tensors.

    ``says_little``: it is all zero or one, as many an untrained tensor is.
    """

    shape: Hashable
    digest: str
    says_little: bool = False


class Pair(NamedTuple):
    """Two rows that are one entry, and why."""

    a: Placed
    b: Placed
    basis: NameBasis


_Named: TypeAlias = tuple[Placed, Key]
"""An item of A, and its name after ``--map``."""


class Alignment(NamedTuple):
    """Every item of either side once: paired, or only on its side. ``said`` is for people."""

    pairs: tuple[Pair, ...]
    only_a: tuple[Placed, ...]
    only_b: tuple[Placed, ...]
    said: tuple[str, ...] = ()


def align(
    a: Sequence[Placed], b: Sequence[Placed], *, rule: Rule | None = None, guess: bool = True
) -> Alignment:
    """Pair items by name; without ``guess`` only equal names meet (after ``rule``, that of ``--map``).

    Raises:
        CkptToolError: ``rule`` makes two names equal.
    """
    mapped = _map_names(a, rule)
    pairs, rest, there = _meet(mapped, b, {})
    said: list[str] = []
    changed = sum(pair.basis is NameBasis.MAP for pair in pairs)
    if changed:
        said.append(f"--map renamed {changed:,} of A's names")
    if guess and rest and there and (rules := _match_prefixes(mapped, b, said)):
        pairs, rest, there = _meet(mapped, b, rules)
    if guess and rest and there:
        _match_parts(pairs, rest, there, said)
    return Alignment(tuple(pairs), tuple(item for item, _ in rest), tuple(there.values()), tuple(said))


def pair_by_content(
    only_a: Sequence[Placed], only_b: Sequence[Placed], contents: Mapping[int, Content]
) -> list[Pair]:
    """Pairs of equal content, by ``id`` of the item; the nearest names first where several are equal.

    A parameter is not taken for a buffer where the content says little.
    """
    groups: dict[Content, tuple[list[Placed], list[Placed]]] = {}
    for side, items in enumerate((only_a, only_b)):
        for item in items:
            content = contents.get(id(item))
            if content is not None:
                groups.setdefault(content, ([], []))[side].append(item)
    pairs: list[Pair] = []
    for content, (group_a, group_b) in groups.items():
        pairs += _pair_nearest(group_a, group_b, same_kind=content.says_little)
    return pairs


def pair_by_suffix(only_a: Sequence[Placed], only_b: Sequence[Placed]) -> list[Pair]:
    """Pairs of equal shape whose names end alike, where no other name of that shape ends so.

    The longest end that is unambiguous counts. What has become the only one left because others found
    better matches is not unambiguous.
    """
    pairs: list[Pair] = []
    done: set[int] = set()
    for length in range(_MOST_PARTS, 0, -1):
        ends_a, ends_b = _ends(only_a, length), _ends(only_b, length)
        for end, mine in ends_a.items():
            others = ends_b.get(end, ())
            if len(mine) != 1 or len(others) != 1:
                continue
            ids = id(mine[0]), id(others[0])
            if done.isdisjoint(ids) and _kind_of(others[0]) in _kinds_like(_kind_of(mine[0])):
                pairs.append(Pair(mine[0], others[0], NameBasis.SUFFIX))
                done.update(ids)
    return pairs


def find_cycles(pairs: Iterable[Pair]) -> list[Pair]:
    """Of pairs between entries of the same set of names, those that only permute names among themselves."""
    by_name = {(pair.a.root, pair.a.name): pair for pair in pairs}
    found: list[Pair] = []
    seen: set[tuple[Root, Key]] = set()
    for start in by_name:
        path: list[Pair] = []
        at = start
        while at in by_name and at not in seen:
            seen.add(at)
            path.append(by_name[at])
            at = (by_name[at].b.root, by_name[at].b.name)
        if at == start and len(path) > 1:
            found += path
    return found


def _map_names(a: Sequence[Placed], rule: Rule | None) -> list[_Named]:
    if rule is None:
        return [(item, item.name) for item in a]
    mapped: list[_Named] = []
    taken: dict[tuple[Root, Key], Key] = {}
    for item in a:
        name = rule(item.name) if isinstance(item.name, str) else item.name
        other = taken.setdefault((item.root, name), item.name)
        if other != item.name:
            raise CkptToolError(
                f"--map would call both {str(other)!r} and {str(item.name)!r} {str(name)!r}",
                hint="names must stay different: anchor the expression, or map fewer of them",
            )
        mapped.append((item, name))
    return mapped


def _meet(
    mapped: Sequence[_Named], b: Sequence[Placed], rules: Mapping[Root, Mapping[str, str]]
) -> tuple[list[Pair], list[_Named], dict[tuple[Root, Key], Placed]]:
    """Pairs of equal names, after the rule of their branch if it has one, and what is left on either side."""
    there = {(item.root, item.name): item for item in b}
    pairs: list[Pair] = []
    rest: list[_Named] = []
    for item, name in mapped:
        new, basis = name, NameBasis.MAP
        if item.root in rules and isinstance(name, str):
            new, basis = rules[item.root][name], NameBasis.PREFIX
        found = there.pop((item.root, new), None)
        if found is None:
            rest.append((item, name))
        else:
            pairs.append(Pair(item, found, NameBasis.SAME_NAME if new == item.name else basis))
    return pairs, rest, there


def _match_prefixes(
    mapped: Sequence[_Named], b: Sequence[Placed], said: list[str]
) -> dict[Root, dict[str, str]]:
    """By branch, one rule for all of its names that brings more together than the plain names do."""
    names_a = _names_by_root((item.root, name) for item, name in mapped)
    names_b = _names_by_root((item.root, item.name) for item in b)
    rules: dict[Root, dict[str, str]] = {}
    for root, names in names_a.items():
        match = match_names(names, names_b.get(root, ()))
        if match.description:
            rules[root] = match.to_model
            said.append(_of_sides(match.description))
    return rules


def _names_by_root(names: Iterable[tuple[Root, Key]]) -> dict[Root, list[str]]:
    found: dict[Root, list[str]] = {}
    for root, name in names:
        if isinstance(name, str):
            found.setdefault(root, []).append(name)
    return found


def _of_sides(description: str) -> str:
    """The words of ``match_names`` for two files."""
    for old, new in (("the model's own", "B's own"), ("names of the file", "names of A")):
        description = description.replace(old, new)
    return description.replace("the file's names", "A's names")


def _match_parts(
    pairs: list[Pair], rest: list[_Named], there: dict[tuple[Root, Key], Placed], said: list[str]
) -> None:
    """Take one part out of the names of the side that has it everywhere."""
    counts_a = _count_parts(name for _, name in rest)
    counts_b = _count_parts(name for _, name in there)
    tried: list[tuple[int, str, bool]] = []
    for in_a, mine, theirs in ((True, counts_a, counts_b), (False, counts_b, counts_a)):
        total = len(rest) if in_a else len(there)
        candidates = [part for part, count in mine.most_common() if 2 * count >= total and part not in theirs]
        for part in candidates[:_MOST_CANDIDATES]:
            tried.append((len(_without_part(rest, there, part)), part, in_a))
    if not tried:
        return
    met, part, in_a = max(tried)
    # One part too many is a habit of one side, not a likeness between two names.
    if met < 2 or 2 * met < min(len(rest), len(there)):
        return
    gone = set()
    for item, other in _without_part(rest, there, part):
        pairs.append(Pair(item, other, NameBasis.PART))
        gone.add(id(item))
        del there[other.root, other.name]
    rest[:] = [named for named in rest if id(named[0]) not in gone]
    said.append(f"'{part}' taken out of {met:,} of {'A' if in_a else 'B'}'s names")


def _without_part(
    rest: Sequence[_Named], there: Mapping[tuple[Root, Key], Placed], part: str
) -> list[tuple[Placed, Placed]]:
    """Items of one shape that meet when ``part`` goes; none if two that meet others become one."""
    shorter: dict[tuple[Root, Key], list[Placed]] = {}
    for (root, name), other in there.items():
        shorter.setdefault((root, _drop(name, part)), []).append(other)
    found: list[tuple[Placed, Placed]] = []
    taken = set()
    for item, name in rest:
        alike = shorter.get((item.root, _drop(name, part)), ())
        others = [other for other in alike if other.row.entry.shape == item.row.entry.shape]
        if others:
            if len(others) > 1 or id(others[0]) in taken:
                return []
            taken.add(id(others[0]))
            found.append((item, others[0]))
    return found


def _drop(name: Key, part: str) -> Key:
    if not isinstance(name, str) or part not in name:
        return name
    *path, leaf = name.split(".")
    return ".".join([*[piece for piece in path if piece != part], leaf])


def _count_parts(names: Iterable[Key]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name in names:
        if isinstance(name, str):
            counts.update({part for part in name.split(".")[:-1] if not part.isdigit()})
    return counts


def _pair_nearest(group_a: list[Placed], group_b: list[Placed], *, same_kind: bool) -> list[Pair]:
    """Pair equals: those whose names end alike first, then in order."""
    pairs: list[Pair] = []
    for length in reversed(range(_MOST_PARTS + 1)):
        by_end: dict[Hashable, list[Placed]] = {}
        for other in reversed(group_b):
            by_end.setdefault((_end(other, length), same_kind and _kind_of(other)), []).append(other)
        left = []
        for item in group_a:
            end = _end(item, length)
            kinds = _kinds_like(_kind_of(item)) if same_kind else (False,)
            others = next(filter(None, (by_end.get((end, kind)) for kind in kinds)), None)
            if others:
                pairs.append(Pair(item, others.pop(), NameBasis.CONTENT))
            else:
                left.append(item)
        gone = {id(pair.b) for pair in pairs}
        group_a, group_b = left, [other for other in group_b if id(other) not in gone]
        if not group_a or not group_b:
            break
    return pairs


def _end(item: Placed, length: int) -> Hashable:
    """The last ``length`` parts of the name, or all if it has less."""
    if not length:
        return None
    return tuple(item.name.rsplit(".", length)[-length:]) if isinstance(item.name, str) else item.name


def _ends(items: Sequence[Placed], length: int) -> dict[Hashable, list[Placed]]:
    """Items by root, shape and the last ``length`` parts of their names, where a name has so many."""
    found: dict[Hashable, list[Placed]] = {}
    for item in items:
        shape = item.row.entry.shape
        if not isinstance(item.name, str) or shape is None:
            continue
        parts = item.name.rsplit(".", length)
        if len(parts) >= length:
            found.setdefault((item.root, shape, tuple(parts[-length:])), []).append(item)
    return found


def _kind_of(item: Placed) -> Kind:
    """The kind, of a buffer without its persistence."""
    kind = item.row.classification.kind
    return Kind.PERSISTENT_BUFFER if is_buffer(kind) else kind


def _kinds_like(kind: Kind) -> Iterable[Kind]:
    """The kinds that an entry of this one may have in another file, the likeliest first."""
    return (kind, Kind.UNKNOWN) if kind is not Kind.UNKNOWN else (kind, *Kind)
