"""Which name is which: every basis, and what must not be taken for one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
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
from ckpttool.names.renames import make_rule
from ckpttool.values.checkpoint import Basis, Classification, Entry, Key, Kind, Root
from ckpttool.values.difference import NameBasis
from ckpttool.values.errors import CkptToolError
from ckpttool.values.inspection import Row
from tests.support.inspections import tensor


def item(name: Key, shape: tuple[int, ...] = (4, 3), kind: Kind = Kind.UNKNOWN, root: Root = ()) -> Placed:
    return Placed(root, name, Row(Entry(root, name, tensor(shape)), Classification(kind, Basis.NAME)))


def items(names: str) -> list[Placed]:
    return [item(name) for name in names.split()]


def names(pairs: Sequence[Pair]) -> dict[object, object]:
    return {pair.a.name: pair.b.name for pair in pairs}


def bases(alignment: Alignment) -> set[NameBasis]:
    return {pair.basis for pair in alignment.pairs}


def test_equal_names_need_nothing_else() -> None:
    found = align(items("a.w b.w c"), items("c a.w d"))
    assert names(found.pairs) == {"a.w": "a.w", "c": "c"}
    assert bases(found) == {NameBasis.SAME_NAME}
    assert [p.name for p in found.only_a] == ["b.w"] and [p.name for p in found.only_b] == ["d"]
    assert found.said == ()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x.w x.b y.w", "module._orig_mod.x.w module._orig_mod.x.b module._orig_mod.y.w"),
        ("model.x.w model.x.b model.y.w", "x.w x.b y.w"),
        ("backbone.encoder.x.w backbone.encoder.y.w", "x.w y.w"),
        ("x.w x._orig_mod.b y.w", "x.w x.b y.w"),
    ],
)
def test_prefixes_go_either_way(a: str, b: str) -> None:
    for first, second in ((a, b), (b, a)):
        found = align(items(first), items(second))
        assert not found.only_a and not found.only_b
        assert NameBasis.PREFIX in bases(found) and len(found.said) == 1
        strict = align(items(first), items(second), guess=False)
        assert strict.only_a and strict.only_b and strict.said == ()


def test_a_prefix_is_of_one_branch_only() -> None:
    a = [item("module.x.w", root=("ema",)), item("x.w", root=("model",))]
    b = [item("x.w", root=("ema",)), item("x.w", root=("model",))]
    found = align(a, b)
    assert {(p.a.root, p.basis) for p in found.pairs} == {
        (("ema",), NameBasis.PREFIX),
        (("model",), NameBasis.SAME_NAME),
    }


def test_a_part_that_one_side_has_everywhere() -> None:
    a = items(" ".join(f"l.{i}.lora_{x}.default.weight" for i in range(4) for x in "AB"))
    b = items(" ".join(f"l.{i}.lora_{x}.weight" for i in range(4) for x in "AB"))
    for first, second, which in ((a, b, "A"), (b, a, "B")):
        found = align(first, second)
        assert not found.only_a and not found.only_b and bases(found) == {NameBasis.PART}
        assert found.said == (f"'default' taken out of 8 of {which}'s names",)


def test_one_name_is_no_habit() -> None:
    assert align(items("a.extra.w k"), items("a.w m")).pairs == ()


def test_map_renames_and_says_so() -> None:
    rule = make_rule(None, [r"^enc\.=>encoder."], "")
    found = align(items("enc.w enc.b k"), items("encoder.w encoder.b k"), rule=rule, guess=False)
    assert names(found.pairs) == {"enc.w": "encoder.w", "enc.b": "encoder.b", "k": "k"}
    assert found.said == ("--map renamed 2 of A's names",)


def test_map_must_not_make_two_names_one() -> None:
    with pytest.raises(CkptToolError, match=r"--map would call both 'a.w' and 'b.w' 'x.w'"):
        align(items("a.w b.w"), items("x.w"), rule=make_rule(None, ["^[ab]=>x"], ""))


def test_content_pairs_the_nearest_names() -> None:
    a, b = items("old.0.w old.1.w"), items("new.1.w new.0.w")
    same = Content("s", "d")
    found = pair_by_content(a, b, {id(x): same for x in (*a, *b)})
    assert names(found) == {"old.0.w": "new.0.w", "old.1.w": "new.1.w"}


def test_content_that_says_little_does_not_turn_a_bias_into_a_statistic() -> None:
    a, b = [item("bias", kind=Kind.PARAMETER)], [item("running_mean", kind=Kind.PERSISTENT_BUFFER)]
    for says_little, pairs in ((True, 0), (False, 1)):
        content = Content("s", "d", says_little)
        assert len(pair_by_content(a, b, {id(x): content for x in (*a, *b)})) == pairs


def test_a_suffix_must_be_the_only_one_of_its_shape() -> None:
    a = [item("enc.q.weight", (4, 4)), item("enc.k.weight", (4, 4)), item("enc.o.weight", (4, 8))]
    b = [item("attn.q.weight", (4, 4)), item("attn.v.weight", (4, 4)), item("attn.p.weight", (4, 8))]
    assert names(pair_by_suffix(a, b)) == {
        "enc.q.weight": "attn.q.weight",
        "enc.o.weight": "attn.p.weight",
    }
    assert pair_by_suffix([item("x.weight", (1,))], [item("y.weight", (2,))]) == []
    assert pair_by_suffix(items("a.w b.w"), items("c.w")) == []


def test_cycles_are_what_comes_round() -> None:
    x, y, z, k = items("x y z k")
    swap = [Pair(x, y, NameBasis.CONTENT), Pair(y, x, NameBasis.CONTENT)]
    assert find_cycles(swap) == swap
    assert find_cycles([Pair(x, y, NameBasis.CONTENT), Pair(y, z, NameBasis.CONTENT)]) == []
    tail = [*swap, Pair(k, z, NameBasis.CONTENT)]
    assert find_cycles(tail) == swap


@given(st.lists(st.text(max_size=6), unique=True), st.lists(st.text(max_size=6), unique=True), st.booleans())
def test_every_item_is_somewhere_once(first: list[str], second: list[str], guess: bool) -> None:
    a, b = [item(name) for name in first], [item(name) for name in second]
    found = align(a, b, guess=guess)
    ids_a = [id(p.a) for p in found.pairs] + [id(p) for p in found.only_a]
    ids_b = [id(p.b) for p in found.pairs] + [id(p) for p in found.only_b]
    assert sorted(ids_a) == sorted(map(id, a)) and sorted(ids_b) == sorted(map(id, b))


def test_names_that_are_no_strings_meet_as_they_are() -> None:
    found = align([item(0), item(1)], [item(1), item(2)])
    assert names(found.pairs) == {1: 1}
