"""Alignment held against rules that are written out plainly: every pair of names is looked at."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.comparison.alignment import (
    Alignment,
    Content,
    Pair,
    align,
    find_cycles,
    pair_by_content,
    pair_by_suffix,
)
from ckpttool.comparison.sides import Placed
from ckpttool.names.match import match_names
from ckpttool.names.renames import make_rule
from ckpttool.values.checkpoint import Basis, Classification, Entry, Key, Kind, Root
from ckpttool.values.difference import NameBasis
from ckpttool.values.inspection import Row
from tests.support.inspections import tensor

PARAMETER, BUFFER, UNKNOWN = Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.UNKNOWN
BUFFERS = {BUFFER, Kind.NON_PERSISTENT_BUFFER}

PARTS = st.lists(st.sampled_from(["w", "x", "y", "0"]), min_size=1, max_size=4)
NAMES = st.one_of(PARTS.map(".".join), PARTS.map(".".join), st.integers(0, 2))
ROOTS = st.sampled_from([(), ("m",)])
SHAPES = st.sampled_from([(2,), (2,), (3, 4)])
KINDS = st.sampled_from([UNKNOWN, PARAMETER, PARAMETER, BUFFER, Kind.NON_PERSISTENT_BUFFER, Kind.EXTRA_STATE])
Sides = tuple[list[Placed], list[Placed]]


def item(name: Key, shape: tuple[int, ...] = (2,), kind: Kind = UNKNOWN, root: Root = ()) -> Placed:
    return Placed(root, name, Row(Entry(root, name, tensor(shape)), Classification(kind, Basis.NAME)))


@st.composite
def sides(draw: st.DrawFn, least: int = 0) -> Sides:
    def unique(one: Placed) -> tuple[Root, Key]:
        return one.root, one.name

    items = st.lists(
        st.builds(item, NAMES, SHAPES, KINDS, ROOTS), min_size=least, max_size=7, unique_by=unique
    )
    return draw(items), draw(items)


def ids(pairs: Sequence[Pair]) -> list[tuple[int, int, NameBasis]]:
    return [(id(pair.a), id(pair.b), pair.basis) for pair in pairs]


def agree(a: Placed, b: Placed) -> bool:
    kinds = {one.row.classification.kind for one in (a, b)}
    return UNKNOWN in kinds or len(kinds) == 1 or kinds <= BUFFERS


def rank(one: Placed, other: Placed) -> int:
    """How likely it is that they are one, as far as their kinds tell: 0 for the same kind."""
    kind, there = one.row.classification.kind, other.row.classification.kind
    if kind is there or UNKNOWN not in (kind, there):
        return 0
    return 1 + (0 if there is UNKNOWN else list(Kind).index(BUFFER if there in BUFFERS else there))


# -- names as a whole -------------------------------------------------------------------------------------


def parts_of(name: Key) -> set[str]:
    """What may be one part too many: neither the last part nor an index."""
    return {part for part in str(name).split(".")[:-1] if not part.isdigit()} if type(name) is str else set()


def without(name: Key, part: str) -> Key:
    if type(name) is not str:
        return name
    pieces = name.split(".")
    return ".".join(piece for at, piece in enumerate(pieces) if piece != part or at == len(pieces) - 1)


def met_without(
    rest: list[tuple[Placed, Key]], there: list[Placed], part: str
) -> list[tuple[Placed, Placed]]:
    met = [
        (one, other)
        for (one, name), other in itertools.product(rest, there)
        if one.root == other.root
        and without(name, part) == without(other.name, part)
        and one.row.entry.shape == other.row.entry.shape
    ]
    counts = Counter(id(one) for pair in met for one in pair)
    return met if all(count == 1 for count in counts.values()) else []


def expected(a: list[Placed], b: list[Placed], names: list[Key], guess: bool) -> Alignment:
    """``names`` are A's after --map."""
    said = []
    pairs, rest, there = [], [], list(b)

    def meet(new_names: list[Key], basis: NameBasis) -> None:
        pairs.clear()
        rest.clear()
        there[:] = b
        for one, name, new in zip(a, names, new_names, strict=True):
            found = [other for other in there if (other.root, other.name) == (one.root, new)]
            if found:
                there.remove(found[0])
                pairs.append(Pair(one, found[0], NameBasis.SAME_NAME if new == one.name else basis))
            else:
                rest.append((one, name))

    meet(names, NameBasis.MAP)
    changed = sum(pair.basis is NameBasis.MAP for pair in pairs)
    if changed:
        said.append(f"--map renamed {changed} of A's names")
    if guess and rest and there:
        new_names = dict(zip(map(id, a), names, strict=True))
        ruled = set()
        for root in dict.fromkeys(one.root for one in a):
            mine = {id(x): n for x, n in zip(a, names, strict=True) if x.root == root and type(n) is str}
            others = [one.name for one in b if one.root == root and type(one.name) is str]
            match = match_names(list(mine.values()), others) if mine else None
            if match is not None and match.description:
                ruled.update(mine)
                new_names.update({key: match.to_model[name] for key, name in mine.items()})
                words = match.description.replace("the model's own", "B's own")
                words = words.replace("names of the file", "names of A").replace(
                    "the file's names", "A's names"
                )
                said.append(words)
        if ruled:
            meet([new_names[id(one)] for one in a], NameBasis.PREFIX)
            pairs[:] = [
                p if id(p.a) in ruled or p.basis is NameBasis.SAME_NAME else p._replace(basis=NameBasis.MAP)
                for p in pairs
            ]
    if guess and rest and there:
        found = []
        for in_a, side, others in (
            (True, [name for _, name in rest], [other.name for other in there]),
            (False, [other.name for other in there], [name for _, name in rest]),
        ):
            for part in set().union(*map(parts_of, side)):
                often = 2 * sum(part in parts_of(name) for name in side) >= len(side)
                if often and not any(part in parts_of(name) for name in others):
                    found.append((len(met_without(rest, there, part)), part, in_a))
        met, part, in_a = max(found, default=(0, "", False))
        if met >= 2 and 2 * met >= min(len(rest), len(there)):
            new = met_without(rest, there, part)
            pairs += [Pair(one, other, NameBasis.PART) for one, other in new]
            gone = {id(one) for pair in new for one in pair}
            rest[:] = [(one, name) for one, name in rest if id(one) not in gone]
            there[:] = [one for one in there if id(one) not in gone]
            said.append(f"'{part}' taken out of {met} of {'A' if in_a else 'B'}'s names")
    return Alignment(tuple(pairs), tuple(one for one, _ in rest), tuple(there), tuple(said))


@st.composite
def like_sides(draw: st.DrawFn) -> Sides:
    """Names of one side made from those of the other: a prefix, a part, an index in another place."""
    a, _ = draw(sides(least=4))
    b = []
    for root in ((), ("m",)):
        how = draw(st.sampled_from(["{}", "module.{}", "model.{}", "x.{}", "part", "odd"]))
        for one in a:
            if one.root == root and draw(st.integers(0, 5)):
                name = one.name
                if type(name) is str and how == "part":
                    *path, leaf = name.split(".")
                    name = ".".join([*path, "z", leaf])
                elif type(name) is str:
                    name = how.format(name) if how != "odd" else "".join(reversed(name))
                b.append(one._replace(name=name, row=draw(st.sampled_from([one, one, item(0, (9,))])).row))
    b = list({(one.root, one.name): one for one in b}.values())
    return (a, b) if draw(st.booleans()) else (b, a)


@given(
    st.one_of(sides(), like_sides(), like_sides()), st.booleans(), st.sampled_from([None, "^x=>v", "y=>x"])
)
@settings(max_examples=150, deadline=None)
def test_names_meet_by_the_rules_in_their_order(found: Sides, guess: bool, text: str | None) -> None:
    a, b = found
    rule = None if text is None else make_rule(None, [text], "")
    names = [rule(one.name) if rule is not None and type(one.name) is str else one.name for one in a]
    if len({(one.root, name) for one, name in zip(a, names, strict=True)}) < len(a):
        return  # refused
    got, wanted = align(a, b, rule=rule, guess=guess), expected(a, b, names, guess)
    assert ids(got.pairs) == ids(wanted.pairs)
    assert list(map(id, got.only_a)) == list(map(id, wanted.only_a))
    assert list(map(id, got.only_b)) == list(map(id, wanted.only_b))
    assert got.said == wanted.said


# -- what is left by then -----------------------------------------------------------------------------------


def ends(name: Key, length: int) -> list[str] | None:
    parts = name.split(".") if type(name) is str else []
    return parts[-length:] if len(parts) >= length else None


@given(sides(), st.sampled_from(["", "p.q.r.s.", "p.q.r.s.t.u.v."]))
@settings(max_examples=150, deadline=None)
def test_an_end_that_nothing_else_has_pairs_two_names(found: Sides, middle: str) -> None:
    a, b = (
        [one._replace(name=f"{one.name}.{middle}w") if type(one.name) is str else one for one in side]
        for side in found
    )
    pairs: list[Pair] = []

    def alike(one: Placed, other: Placed, length: int) -> bool:
        first, second = ends(one.name, length), ends(other.name, length)
        return first is not None and (one.root, one.row.entry.shape, first) == (
            other.root, other.row.entry.shape, second
        )  # fmt: skip

    for length in (8, 7, 6, 5, 4, 3, 2, 1):
        for one, other in itertools.product(a, b):
            done = any(one is pair.a or other is pair.b for pair in pairs)
            alone = sum(alike(one, x, length) for x in a) == 1 == sum(alike(other, x, length) for x in b)
            if not done and alone and alike(one, other, length) and agree(one, other):
                pairs.append(Pair(one, other, NameBasis.SUFFIX))
    assert ids(pair_by_suffix(a, b)) == ids(pairs)


@given(sides(), st.data(), st.sampled_from(["", "p.q.r.s.t.u.v."]))
@settings(max_examples=150, deadline=None)
def test_equal_contents_pair_by_the_longest_common_end(
    found: Sides, data: st.DataObject, middle: str
) -> None:
    a, b = (
        [one._replace(name=f"{one.name}.{middle}w") if type(one.name) is str else one for one in side]
        for side in found
    )
    few = st.sampled_from([None, Content("s", "1"), Content("s", "0", says_little=True), Content("t", "1")])
    contents = {id(one): content for one in (*a, *b) if (content := data.draw(few)) is not None}
    pairs: list[Pair] = []
    for content in dict.fromkeys(contents[id(one)] for one in (*a, *b) if id(one) in contents):
        mine, others = ([one for one in side if contents.get(id(one)) == content] for side in (a, b))
        for length in range(8, -1, -1):
            for one in list(mine):

                def end(of: Placed, length: int = length) -> object:
                    if not length:
                        return ""
                    return of.name.split(".")[-length:] if type(of.name) is str else of.name

                fit = [other for other in others if end(one) == end(other)]
                if content.says_little:
                    fit = sorted([x for x in fit if agree(one, x)], key=lambda x: rank(one, x))
                if fit:
                    pairs.append(Pair(one, fit[0], NameBasis.CONTENT))
                    mine = [x for x in mine if x is not one]
                    others = [x for x in others if x is not fit[0]]
    assert ids(pair_by_content(a, b, contents)) == ids(pairs)


def test_what_says_little_is_paired_with_its_kind_wherever_that_stands() -> None:
    zero = Content("s", "0", says_little=True)
    a = [item("p", kind=PARAMETER)]
    for order in itertools.permutations([item("x", kind=BUFFER), item("y", kind=PARAMETER)]):
        pairs = pair_by_content(a, order, {id(one): zero for one in (*a, *order)})
        assert [(pair.a.name, pair.b.name) for pair in pairs] == [("p", "y")]


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), unique=True), st.booleans())
@settings(max_examples=200, deadline=None)
def test_cycles_are_the_orbits_of_a_permutation(order: list[int], left_out: list[int], far: bool) -> None:
    items = [item(f"n{at}", root=("m",) if far and at % 2 else ()) for at in range(6)]
    pairs = {
        at: Pair(items[at], items[to], NameBasis.CONTENT) for at, to in enumerate(order) if at not in left_out
    }
    wanted, seen = [], set()
    for start in pairs:
        orbit = [start]
        while (to := order[orbit[-1]]) != start and to in pairs and len(orbit) <= 6:
            orbit.append(to)
        comes_round = order[orbit[-1]] == start and len(orbit) > 1
        if comes_round and start not in seen:
            wanted += [pairs[at] for at in orbit]
        seen.update(orbit)
    assert find_cycles(pairs.values()) == wanted


# -- in words -----------------------------------------------------------------------------------------------


def test_each_branch_is_told_in_the_order_of_a() -> None:
    roots: list[Root] = [(f"branch{at}",) for at in range(9)]
    a = [item(name, root=root) for root in roots for name in ("module.w", "module.b")]
    b = [item(name, root=root) for root in reversed(roots) for name in ("w", "b")]
    a[0] = a[0]._replace(name="module.x")
    b = [*b, item("x", root=roots[0])]
    found = align(a, b)
    said = "wrapper prefixes taken off 2 of 2 names of A"
    assert found.said == (said,) * 9 and len(found.pairs) == 18
    paths = [item(f"p{at}.{name}", root=root) for at, root in enumerate(roots) for name in "wb"]
    assert align(paths, b).said == tuple(f"'p{at}.' taken off A's names" for at in range(9))
    assert align(b, paths).said == tuple(f"'p{at}.' put before A's names" for at in reversed(range(9)))
