"""What the rules that bring names together need, and what is too little for each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ckpttool.comparison.alignment import Content, Pair, align, find_cycles, pair_by_content, pair_by_suffix
from ckpttool.comparison.sides import Placed
from ckpttool.names.renames import make_rule
from ckpttool.values.checkpoint import Basis, Classification, CompositeTensor, Entry, Key, Kind, Root
from ckpttool.values.difference import NameBasis
from ckpttool.values.inspection import Row
from tests.support.inspections import tensor

PARAMETER, BUFFER, TRANSIENT = Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER
UNKNOWN = Kind.UNKNOWN
ANY = Classification(UNKNOWN, Basis.NAME)


def item(name: Key, shape: tuple[int, ...] = (4, 3), kind: Kind = UNKNOWN, root: Root = ()) -> Placed:
    return Placed(root, name, Row(Entry(root, name, tensor(shape)), Classification(kind, Basis.NAME)))


def items(names: str, root: Root = ()) -> list[Placed]:
    return [item(name, root=root) for name in names.split()]


def names(pairs: Sequence[Pair]) -> dict[object, object]:
    return {pair.a.name: pair.b.name for pair in pairs}


# -- one part that is too many ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "met"),
    [
        ("l.0.x.w l.1.x.w", "l.0.w l.1.w", 2),
        ("l.0.x.w l.1.x.w k1 k2", "l.0.w l.1.w m1 m2", 2),  # half of what is left
        ("l.0.x.w l.1.x.w k1 k2 k3", "l.0.w l.1.w m1 m2 m3", 0),
        ("l.0.x.w l.1.x.w k1 k2 k3", "l.0.w l.1.w m1", 0),  # not in half of A's names
        ("l.0.x.w l.1.x.w k1 k2", "l.0.w l.1.w m1", 2),
        ("l.0.x.w l.0.y.w l.1.x.w", "l.0.w l.1.w", 2),
        ("l.x.0.w l.x.1.w", "l.x.w l.y.w", 0),  # an index is no part
        ("l.0.w.x l.1.w.x", "l.0.w l.1.w", 0),  # nor is the last
        ("a.x.x.w b.x.x.w", "a.w b.w", 2),
        ("l.x.0.w l.x.1.w", "l.0.x.w l.1.x.w", 0),  # both have it
        ("l.0.x.w l.1.x.w", "l.0.w l.1.w m.x", 2),  # as a part, and not as the last
        ("a.0.w b.0.w", "a.w b.w", 0),  # an index once more
        ("l.0.x.w l.1.x.w l.2.x.w l.3.x.w", "l.0.w l.1.w m1 m2", 2),
        ("l.0.x.w l.1.x.w l.2.x.w l.3.x.w l.4.x.w", "l.0.w l.1.w m1 m2 m3", 0),  # less than half meet
        ("l.0.x.w l.1.x.w l.2.x.w l.3.x.w l.4.x.w", "l.0.w l.1.w m1 m2", 2),
        ("a.x.w a.w.k b.x.w", "a.x.w2 a.k b.w", 0),
    ],
)
def test_a_part_is_taken_out_where_that_is_a_habit(a: str, b: str, met: int) -> None:
    for first, second, which in ((a, b, "A"), (b, a, "B")):
        sides = items(first), items(second)
        found = align(*sides)
        by_part = [pair for pair in found.pairs if pair.basis is NameBasis.PART]
        assert len(by_part) == met
        assert [text for text in found.said if "taken out" in text] == (
            [f"'x' taken out of {met} of {which}'s names"] if met else []
        )
        for pair in by_part:
            long, short = (pair.a.name, pair.b.name) if which == "A" else (pair.b.name, pair.a.name)
            assert ".".join(part for part in str(long).split(".") if part != "x") == short
        met_a, met_b = {id(pair.a) for pair in found.pairs}, {id(pair.b) for pair in found.pairs}
        assert [id(one) for one in found.only_a] == [id(one) for one in sides[0] if id(one) not in met_a]
        assert [id(one) for one in found.only_b] == [id(one) for one in sides[1] if id(one) not in met_b]


def test_a_part_brings_equal_shapes_together_and_no_two_names_to_one() -> None:
    a = [item("l.0.x.w"), item("l.1.x.w"), item("l.2.x.w", (9,))]
    b = [item("l.0.w"), item("l.1.w"), item("l.2.w", (8,))]
    for first, second in ((a, b), (b, a)):
        found = align(first, second)
        assert sum(pair.basis is NameBasis.PART for pair in found.pairs) == 2
    two = items("l.0.x.w l.x.0.w l.1.x.w l.x.1.w")
    for first, second in ((two, items("l.0.w l.1.w")), (items("l.0.w l.1.w"), two)):
        assert align(first, second).pairs == ()


def test_a_part_is_of_one_branch() -> None:
    a = [*items("l.0.x.w l.1.x.w", ("m",)), *items("l.0.w l.1.w", ("n",))]
    b = [*items("l.0.w l.1.w", ("m",)), *items("l.0.x.w l.1.x.w", ("n",))]
    found = align(a, b)
    assert all(pair.a.root == pair.b.root for pair in found.pairs)


@pytest.mark.parametrize(("others", "met"), [(0, 2), (7, 2), (8, 0)])
def test_eight_parts_are_tried_those_that_most_names_have_and_then_in_order(others: int, met: int) -> None:
    path = "".join(f"p{at}." for at in range(others))
    a = items(f"{path}v {path}u l.0.x.w l.1.x.w")
    assert sum(pair.basis is NameBasis.PART for pair in align(a, items("l.0.w l.1.w k m")).pairs) == met
    more = items(f"{path}v {path}u l.0.x.w l.1.x.w l.2.x.w")
    assert sum(pair.basis is NameBasis.PART for pair in align(more, items("l.0.w l.1.w k m")).pairs) == 2


# -- the end of a name --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "other", "agree"),
    [
        (PARAMETER, PARAMETER, True),
        (PARAMETER, BUFFER, False),
        (BUFFER, TRANSIENT, True),
        (TRANSIENT, BUFFER, True),
        (UNKNOWN, PARAMETER, True),
        (BUFFER, UNKNOWN, True),
        (Kind.OPTIMIZER_STATE, BUFFER, False),
    ],
)
def test_an_end_is_shared_by_entries_of_one_kind(kind: Kind, other: Kind, agree: bool) -> None:
    a, b = [item("old.proj.w", kind=kind)], [item("new.proj.w", kind=other)]
    assert bool(pair_by_suffix(a, b)) is agree
    little = Content("s", "d", says_little=True)
    assert bool(pair_by_content(a, b, {id(one): little for one in (*a, *b)})) is agree


def test_the_longest_end_that_is_unambiguous_counts() -> None:
    a = items("one.x.p.w one.y.p.w")
    b = items("two.y.p.w two.x.p.w")
    assert names(pair_by_suffix(a, b)) == {"one.x.p.w": "two.x.p.w", "one.y.p.w": "two.y.p.w"}
    # "p.w" would be left alone once "x.p.w" is paired: that is no evidence.
    assert names(pair_by_suffix(items("one.x.p.w one.z.p.w"), items("two.x.p.w two.y.p.w"))) == {
        "one.x.p.w": "two.x.p.w"
    }
    assert pair_by_suffix([item("w", root=("m",))], [item("w", root=("n",))]) == []
    assert pair_by_suffix([item(3)], [item(3)]) == []
    long = ".".join("abcdefghij")
    assert names(pair_by_suffix(items(f"x.{long}"), items(f"y.{long}"))) == {f"x.{long}": f"y.{long}"}
    for kinds in ((PARAMETER, BUFFER, PARAMETER), (PARAMETER, PARAMETER, BUFFER)):
        first = [item("one.p.w", kind=kinds[0])]
        assert bool(pair_by_suffix(first, [item("two.p.w", kind=kinds[1])])) is (kinds[1] is PARAMETER)


def test_what_has_no_shape_is_paired_by_no_end() -> None:
    """A nested tensor, and what is missing."""
    nested = CompositeTensor("nested", "t", None, None, ())
    for value in (nested, None):
        a, b = ([Placed((), f"{x}.proj.w", Row(Entry((), f"{x}.proj.w", value), ANY))] for x in "ab")
        assert pair_by_suffix(a, b) == []
    assert len(pair_by_suffix([item("a.proj.w", ())], [item("b.proj.w", ())])) == 1


def test_eight_parts_of_a_name_are_looked_at() -> None:
    tail = ".".join("1234567") + ".w"
    a, b = items(f"x.k.{tail} y.l.{tail}"), items(f"p.l.{tail} q.k.{tail}")
    assert pair_by_suffix(a, b) == []
    assert alike(a, b) == {f"x.k.{tail}": f"p.l.{tail}", f"y.l.{tail}": f"q.k.{tail}"}
    tail = tail[2:]
    a, b = items(f"x.k.{tail} y.l.{tail}"), items(f"p.l.{tail} q.k.{tail}")
    near = {f"x.k.{tail}": f"q.k.{tail}", f"y.l.{tail}": f"p.l.{tail}"}
    assert names(pair_by_suffix(a, b)) == near and alike(a, b) == near


# -- equal contents ------------------------------------------------------------------------------------


def alike(a: Sequence[Placed], b: Sequence[Placed], *, says_little: bool = False) -> dict[object, object]:
    content = Content("s", "d", says_little)
    pairs = pair_by_content(a, b, {id(one): content for one in (*a, *b)})
    assert all(pair.basis is NameBasis.CONTENT for pair in pairs)
    return names(pairs)


def test_equal_contents_go_to_the_nearest_name_and_then_in_order() -> None:
    assert alike(items("p q r"), items("x y z")) == {"p": "x", "q": "y", "r": "z"}
    assert alike(items("p q"), items("x y z")) == {"p": "x", "q": "y"}
    assert alike(items("p q r"), items("x y")) == {"p": "x", "q": "y"}
    assert alike(items("o.b.w o.a.w o.w"), items("n.a.w n.w m.b.w")) == {
        "o.b.w": "m.b.w", "o.a.w": "n.a.w", "o.w": "n.w"
    }  # fmt: skip
    assert alike([item(0), item(1)], [item(1), item(0)]) == {0: 0, 1: 1}
    assert alike([item(0)], items("0")) == {0: "0"}
    kinds = [item("p", kind=PARAMETER), item("q", kind=BUFFER)]
    others = [item("x", kind=BUFFER), item("y", kind=PARAMETER)]
    assert alike(kinds, others) == {"p": "x", "q": "y"}
    assert alike(kinds, others[:1], says_little=True) == {"q": "x"}


def test_contents_that_differ_or_are_unknown_pair_nothing() -> None:
    a, b = items("p q"), items("x y")
    contents = {id(a[0]): Content("s", "1"), id(b[0]): Content("s", "2"), id(b[1]): Content("t", "1")}
    assert pair_by_content(a, b, contents) == []
    assert names(pair_by_content(a, b, {**contents, id(a[1]): Content("t", "1")})) == {"q": "y"}


def test_cycles_of_three_and_what_ends_elsewhere() -> None:
    x, y, z, k = items("x y z k")
    ring = [Pair(x, y, NameBasis.CONTENT), Pair(y, z, NameBasis.CONTENT), Pair(z, x, NameBasis.CONTENT)]
    chain = [Pair(k, other, NameBasis.CONTENT) for other in items("elsewhere")]
    assert find_cycles([*chain, *ring]) == find_cycles([*ring, *chain]) == ring
    assert find_cycles([Pair(x, x, NameBasis.CONTENT)]) == []
    far = item("x", root=("m",))
    assert find_cycles([Pair(x, far, NameBasis.CONTENT), Pair(far, x, NameBasis.CONTENT)]) != []
    assert find_cycles([Pair(x, far, NameBasis.CONTENT), Pair(y, x, NameBasis.CONTENT)]) == []


# -- --map ---------------------------------------------------------------------------------------------


def test_map_comes_before_what_is_guessed() -> None:
    rule = make_rule(None, [r"^enc\.=>encoder."], "")
    a, b = items("enc.w enc.b other"), items("module.encoder.w module.encoder.b module.other")
    found = align(a, b, rule=rule)
    assert names(found.pairs) == {
        "enc.w": "module.encoder.w", "enc.b": "module.encoder.b", "other": "module.other"
    }  # fmt: skip
    assert {pair.basis for pair in found.pairs} == {NameBasis.PREFIX}
    same = align(items("enc.w k"), items("encoder.w k"), rule=rule)
    assert {pair.a.name: pair.basis for pair in same.pairs} == {
        "enc.w": NameBasis.MAP, "k": NameBasis.SAME_NAME
    }  # fmt: skip
    assert align([item(3)], [item(3)], rule=rule).pairs[0].basis is NameBasis.SAME_NAME
    nothing = align(items("k"), items("k"), rule=rule)
    assert nothing.said == ()
    branches = [item("enc.w", root=("m",)), item("encoder.w", root=("n",))]
    assert len(align(branches, branches, rule=rule, guess=False).pairs) == 1
