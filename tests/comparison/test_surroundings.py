"""What stands around the weights, whole: every change in its order, and every line of what is left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.comparison.sides import Scope
from ckpttool.comparison.surroundings import compare_surroundings, same_plain
from ckpttool.values.checkpoint import Container, Key, Opaque, Plain, PlainList, Root, Value
from ckpttool.values.difference import Side, Status, ValueChange
from tests.support.sides import side

CHANGED, ADDED, REMOVED = Status.CHANGED, Status.ADDED, Status.REMOVED
M = ("model",)


def made(weights_root: Root | None = M, **fields: Any) -> Side:
    return side([], weights_root, **fields)


def scope(
    *,
    base_a: Root = (),
    base_b: Root = (),
    whole: bool = True,
    skipped: tuple[Key, ...] = (),
    homes: tuple[Root, Root] = ((), ()),
) -> Scope:
    return Scope((), (), base_a, base_b, whole, (), frozenset(skipped), *homes)


def compared(a: Side, b: Side, where: Scope | None = None) -> tuple[list[ValueChange], list[str]]:
    changes, said = compare_surroundings(a, b, where or scope())
    return list(changes), said


def values(**named: Plain) -> tuple[Value, ...]:
    return tuple(Value((), name, value) for name, value in named.items())


# -- values -------------------------------------------------------------------------------------------------


def test_values_that_changed_went_and_came_in_this_order() -> None:
    a = made(values=(*values(x=1, gone=2, same="s", y=3), Value(M, "x", 1), Value((), 3, 1)))
    b = made(values=(*values(new=4, y=5, x=2, same="s"), Value(M, "x", 2), Value((), 3, 1)))
    assert compared(a, b) == ([
        ValueChange("value", (), "x", CHANGED, 1, 2),
        ValueChange("value", (), "gone", REMOVED, 2, None),
        ValueChange("value", (), "y", CHANGED, 3, 5),
        ValueChange("value", M, "x", CHANGED, 1, 2),
        ValueChange("value", (), "new", ADDED, None, 4),
    ], [])  # fmt: skip


@pytest.mark.parametrize("root_a", [(), M, ("sd",), None])
@pytest.mark.parametrize("root_b", [(), M, None])
@pytest.mark.parametrize("whole", [True, False])
def test_one_side_without_values_holds_none_only_where_both_are_laid_out_alike(
    root_a: Root | None, root_b: Root | None, whole: bool
) -> None:
    """Both have their weights in one branch, and all of them is compared: then a value may be beside it."""
    with_one, with_two, none = (
        made(root_a, values=values(**named)) for named in ({"x": 1}, {"x": 1, "y": 2}, {})
    )
    other = none._replace(weights_root=root_b)
    alike = whole and root_a == root_b != ()
    for one, said in ((with_one, "1 plain value"), (with_two, "2 plain values")):
        there, back = compared(one, other, scope(whole=whole)), compared(other, one, scope(whole=whole))
        if alike:
            found = [(value.name, value.value) for value in one.checkpoint.values]
            assert there == ([ValueChange("value", (), n, REMOVED, v, None) for n, v in found], [])
            assert back == ([ValueChange("value", (), n, ADDED, None, v) for n, v in found], [])
        else:
            assert there == ([], [f"only in A: {said}"])
            assert back == ([], [f"only in B: {said}"])
    assert compared(none, other, scope(whole=whole)) == ([], [])


def test_values_are_those_under_the_branch_that_is_compared() -> None:
    a = made(
        values=(*values(top=1), Value(M, "x", 1), Value((*M, "in"), "y", 1), Value((*M, "opt"), "lr", 1))
    )
    b = made(values=(Value(("ema",), "x", 2), Value(("ema", "in"), "y", 1), Value(("ema", "opt"), "lr", 2)))
    assert compared(a, b, scope(base_a=M, base_b=("ema",), whole=False)) == ([
        ValueChange("value", (), "x", CHANGED, 1, 2), ValueChange("value", ("opt",), "lr", CHANGED, 1, 2),
    ], [])  # fmt: skip
    assert compared(a, a, scope(skipped=("model",))) == ([], [])
    other = made(values=(*values(top=2), Value(M, "x", 2)))
    assert compared(a, other, scope(skipped=("model",))) == (
        [ValueChange("value", (), "top", CHANGED, 1, 2)], []
    )  # fmt: skip


@pytest.mark.parametrize(
    ("home_a", "home_b", "to"),
    [
        (M, ("net",), ("net",)),
        (M, (), ()),
        ((), M, ()),
        (("deep", "er"), M, M),
        (M, ("deep", "er"), ("deep", "er")),
    ],
)
def test_what_is_under_the_weights_goes_with_them_and_what_is_around_them_stays(
    home_a: Root, home_b: Root, to: Root
) -> None:
    def of(home: Root, number: int) -> Side:
        return made(
            home,
            values=(
                Value((), "epoch", number),
                Value((*home, "k"), "x", number),
                Value(("opt",), "lr", number),
            ),
            attributes=(Value((*home, "0"), "p", number),),
            opaque=(Opaque((*home, "o"), "y", f"T{number}"),),
        )

    changes, said = compared(of(home_a, 1), of(home_b, 2), scope(homes=(home_a, home_b)))
    assert (changes, said) == ([
        ValueChange("value", (), "epoch", CHANGED, 1, 2),
        ValueChange("value", (*to, "k"), "x", CHANGED, 1, 2),
        ValueChange("value", ("opt",), "lr", CHANGED, 1, 2),
        ValueChange("attribute", (*to, "0"), "p", CHANGED, 1, 2),
        ValueChange("object", (*to, "o"), "y", CHANGED, "T1", "T2"),
    ], [])  # fmt: skip
    assert compared(of(home_a, 1), of(home_b, 1), scope(homes=(home_a, home_b)))[0] == []


# -- attributes of modules ----------------------------------------------------------------------------------


def attributes(**modules: dict[str, Plain]) -> tuple[Value, ...]:
    return tuple(Value((path,), name, v) for path, named in modules.items() for name, v in named.items())


def test_attributes_of_modules_of_both_sides_and_the_classes_of_others() -> None:
    a = made(attributes=attributes(m={"__class__": "A", "p": 1, "q": 2}, gone={"__class__": "B", "p": 1}))
    b = made(attributes=attributes(m={"__class__": "A", "p": 2}, new={"p": 1, "__class__": "C"}))
    assert compared(a, b) == ([
        ValueChange("attribute", ("m",), "p", CHANGED, 1, 2),
        ValueChange("attribute", ("m",), "q", REMOVED, 2, None),
        ValueChange("attribute", ("gone",), "__class__", REMOVED, "B", None),
        ValueChange("attribute", ("new",), "__class__", ADDED, None, "C"),
    ], [])  # fmt: skip
    for one, said in (({"p": 1}, "1 attribute of modules"), ({"p": 1, "q": 2}, "2 attributes of modules")):
        bare, full = made(), made(attributes=attributes(m=one))
        assert compared(full, bare) == ([], [f"only in A: {said}"])
        assert compared(bare, full) == ([], [f"only in B: {said}"])
    inner = made(attributes=(Value((*M, "x"), "p", 1),))
    assert compared(inner, made(attributes=(Value(("x",), "p", 2),)), scope(base_a=M)) == (
        [ValueChange("attribute", ("x",), "p", CHANGED, 1, 2)], []
    )  # fmt: skip
    skipped = scope(skipped=("m",))
    assert compared(a, b, skipped)[0] == [
        ValueChange("attribute", ("gone",), "__class__", REMOVED, "B", None),
        ValueChange("attribute", ("new",), "__class__", ADDED, None, "C"),
    ]


# -- versions -----------------------------------------------------------------------------------------------


def versions(**roots: dict[str, int | None]) -> dict[Root, dict[str, int | None]]:
    return {((root,) if root != "top" else ()): modules for root, modules in roots.items()}


def test_versions_of_modules_that_both_name() -> None:
    a = made(module_versions=versions(model={"": 1, "n": 2, "x": 1}, ema={"n": 1}))
    b = made(module_versions=versions(model={"": 1, "n": 3, "y": 9}, ema={"n": None}))
    assert compared(a, b) == ([
        ValueChange("version", (), "n", CHANGED, 2, 3),
        ValueChange("version", ("ema",), "n", CHANGED, 1, None),
    ], [])  # fmt: skip
    assert compared(a, b, scope(base_a=M, base_b=M)) == (
        [ValueChange("version", (), "n", CHANGED, 2, 3)], []
    )  # fmt: skip
    deep = (made(module_versions={(*at, "in"): {"n": n}}) for at, n in ((M, 1), (("ema",), 2)))
    assert compared(*deep, scope(base_a=M, base_b=("ema",)))[0] == [
        ValueChange("version", ("in",), "n", CHANGED, 1, 2)
    ]
    # The weights stand at other places, and are the weights.
    moved = made(("sd",), module_versions=versions(sd={"n": 4}, ema={"n": 1}))
    assert compared(a, moved) == ([ValueChange("version", (), "n", CHANGED, 2, 4)], [])
    flat = made((), module_versions=versions(top={"n": 4}))
    assert compared(a, flat, scope(base_a=M, whole=False))[0] == [
        ValueChange("version", (), "n", CHANGED, 2, 4)
    ]
    unknown = made(None, module_versions=versions(top={"n": 4}, model={"n": 5}))
    assert compared(flat, unknown) == ([], [])
    assert compared(unknown, flat._replace(checkpoint=unknown.checkpoint, weights_root=M))[0] == [
        ValueChange("version", (), "n", CHANGED, 4, 5)
    ]


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"a": 1, "b": None, "c": 0}, ""),
        ({}, ""),
        ({"a": 1, "b": 2}, "1 module"),
        ({"a": 3, "b": 2, "c": 1}, "2 modules"),
    ],
)
def test_only_modules_above_version_1_are_said_to_be_one_sided(
    modules: dict[str, int | None], said: str
) -> None:
    a, bare = made(module_versions=versions(model=modules)), made()
    for one, other, which in ((a, bare, "A"), (bare, a, "B")):
        text = [f"only in {which}: _metadata, with {said} above version 1"] if said else []
        assert compared(one, other) == ([], text)
    old = made(module_versions=versions(model={"z": 1}))
    assert compared(a, old) == compared(old, a) == ([], [])


# -- metadata -----------------------------------------------------------------------------------------------


def test_metadata_but_for_the_format() -> None:
    a, b = (
        made(metadata={"format": "pt", "s": "1", "x": "1"}),
        made(metadata={"s": "2", "format": "np", "y": "1"}),
    )
    assert compared(a, b) == ([
        ValueChange("metadata", (), "s", CHANGED, "1", "2"),
        ValueChange("metadata", (), "x", REMOVED, "1", None),
        ValueChange("metadata", (), "y", ADDED, None, "1"),
    ], [])  # fmt: skip
    only, one = made(metadata={"format": "pt"}), made(metadata={"s": "2", "format": "np"})
    assert compared(a, only) == ([], ["only in A: 2 entries of metadata"])
    assert compared(only, one) == ([], ["only in B: 1 entry of metadata"])
    assert compared(only, made()) == ([], [])


# -- objects ------------------------------------------------------------------------------------------------


def opaque(*items: tuple[Key, str] | tuple[Key, str, str] | tuple[Key, str, str, str]) -> tuple[Opaque, ...]:
    return tuple(Opaque((), *item) for item in items)


def test_objects_are_compared_by_type_by_what_is_said_of_them_and_by_their_digest() -> None:
    a = made(
        opaque=opaque(("t", "T"), ("s", "S", "1 key"), ("d", "D", "", "aa"), ("gone", "G"), ("same", "E"))
    )
    b = made(
        opaque=opaque(("t", "U"), ("s", "S", "2 keys"), ("d", "D", "", "bb"), ("same", "E"), ("new", "N"))
    )
    assert compared(a, b) == ([
        ValueChange("object", (), "t", CHANGED, "T", "U"),
        ValueChange("object", (), "s", CHANGED, "S 1 key", "S 2 keys"),
        ValueChange("object", (), "d", CHANGED, "D aa", "D bb"),
        ValueChange("object", (), "gone", REMOVED, "G", None),
        ValueChange("object", (), "new", ADDED, None, "N"),
    ], ["1 opaque object (same: E)"])  # fmt: skip
    bare = made()
    assert compared(a, bare) == ([], ["only in A: 5 opaque objects"])
    assert compared(bare, made(opaque=opaque(("x", "X")))) == ([], ["only in B: 1 opaque object"])
    assert compared(bare, bare) == ([], [])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["x"], "1 opaque object (x: T)"),
        (["x", "y"], "2 opaque objects (x: T, y: T)"),
        (["x", "y", "z", 4], "4 opaque objects (x: T, y: T, z: T, …)"),
        (["n" * 41], f"1 opaque object ({'n' * 40}: T)"),
    ],
)
def test_what_else_objects_hold_is_said_not_to_be_compared(names: list[Key], said: str) -> None:
    one = made(opaque=opaque(*[(name, "T") for name in names]))
    assert compared(one, one) == ([], [said])
    long = made(opaque=opaque(("x", "t" * 61, "3 keys")))
    assert compared(long, long) == ([], [f"1 opaque object (x: {'t' * 60})"])


def test_an_object_whose_digest_is_known_is_compared_whole_and_so_is_what_is_in_it() -> None:
    array = Opaque((), "x", "numpy.ndarray", "", "aa")
    inside = [Opaque(("x",), "y", "numpy.dtype"), Opaque(("x", "deep"), "z", "numpy.dtype")]
    beside = [Opaque((), "z", "Z"), Opaque(("xx",), "y", "Y")]
    one = made(opaque=(array, *inside, *beside))
    assert compared(one, one) == ([], ["2 opaque objects (z: Z, y: Y)"])
    bare = made(opaque=(array._replace(sha256=""), *inside))
    assert compared(bare, bare) == ([], [
        "3 opaque objects (x: numpy.ndarray, y: numpy.dtype, z: numpy.dtype)"
    ])  # fmt: skip
    known = made(opaque=(array, *inside))
    assert compared(known, known) == ([], [])
    changed = [ValueChange("object", (), "x", CHANGED, "numpy.ndarray aa", "numpy.ndarray")]
    assert compared(known, bare) == (changed, [])  # what is in A's is known
    changed = [ValueChange("object", (), "x", CHANGED, "numpy.ndarray", "numpy.ndarray aa")]
    assert compared(bare, known) == (changed, ["2 opaque objects (y: numpy.dtype, z: numpy.dtype)"])


def test_that_plain_attributes_of_objects_are_compared_is_said() -> None:
    """The values of A stand in an object."""
    container = (Container(M, "T", 1),)
    listed = made(
        opaque=opaque(("args", "T")), values=(Value(("args", "deep"), "lr", 1),), containers=container
    )
    assert compared(listed, listed) == ([], ["1 opaque object (args: T), but for plain attributes"])
    elsewhere = made(opaque=opaque(("args", "T")), values=(Value(("other",), "lr", 1),))
    assert compared(elsewhere, elsewhere) == ([], ["1 opaque object (args: T)"])
    assert compared(listed, elsewhere)[1] == ["1 opaque object (args: T), but for plain attributes"]
    assert compared(elsewhere, listed)[1] == ["1 opaque object (args: T)"]
    alone = made(opaque=opaque(("", "T")), values=(Value(("x",), "lr", 1),))
    assert compared(alone, alone) == ([], ["1 opaque object (: T), but for plain attributes"])
    held = alone._replace(checkpoint=alone.checkpoint._replace(containers=(Container((), "dict", 1),)))
    assert compared(held, held) == ([], ["1 opaque object (: T)"])
    assert compared(alone, held)[1] == ["1 opaque object (: T), but for plain attributes"]
    assert compared(held, alone)[1] == ["1 opaque object (: T)"]
    more = made(opaque=opaque(("args", "T"), ("o", "O")), values=(Value(("args",), "lr", 1),))
    less = made(opaque=opaque(("o", "O")), values=(Value(("args",), "lr", 1),))
    assert compared(more, less)[1] == ["1 opaque object (o: O), but for plain attributes"]
    assert compared(less, more)[1] == ["1 opaque object (o: O)"]


def test_objects_are_those_of_the_branch_that_is_compared() -> None:
    a = made(opaque=(Opaque(M, "x", "T"), Opaque((), "top", "T"), Opaque((*M, "s"), "y", "T")))
    b = made(opaque=(Opaque(("ema",), "x", "U"), Opaque(("ema", "s"), "y", "U")))
    where = scope(base_a=M, base_b=("ema",))
    assert compared(a, b, where) == ([
        ValueChange("object", (), "x", CHANGED, "T", "U"),
        ValueChange("object", ("s",), "y", CHANGED, "T", "U"),
    ], [])  # fmt: skip
    assert compared(a, a, scope(skipped=("model",))) == ([], ["1 opaque object (top: T)"])


def test_everything_that_changed_stands_in_one_order() -> None:
    def of(number: int) -> Side:
        return made(
            values=values(v=number), attributes=attributes(m={"p": number}), metadata={"k": str(number)},
            module_versions=versions(model={"n": number}), opaque=opaque(("o", f"T{number}")),
        )  # fmt: skip

    changes, said = compared(of(1), of(2))
    assert [change.section for change in changes] == ["value", "version", "metadata", "attribute", "object"]
    assert said == []
    bare = made()
    assert compared(made((), values=values(v=1), metadata={"k": "1"}, attributes=attributes(m={"p": 1}),
                         module_versions=versions(top={"n": 2}), opaque=opaque(("o", "T"))), bare)[1] == [
        "only in A: 1 plain value", "only in A: _metadata, with 1 module above version 1",
        "only in A: 1 entry of metadata", "only in A: 1 attribute of modules", "only in A: 1 opaque object",
    ]  # fmt: skip


# -- when two values are the same ---------------------------------------------------------------------------

SCALARS = [True, False, 1, 0, 1.0, 0.0, -0.0, math.nan, math.inf, -math.inf, "1", "", b"1", None]


@pytest.mark.parametrize("a", SCALARS, ids=repr)
@pytest.mark.parametrize("b", SCALARS, ids=repr)
def test_scalars_are_the_same_of_one_type(a: Plain, b: Plain) -> None:
    both_nan = type(a) is type(b) is float and math.isnan(a) and math.isnan(b)
    assert same_plain(a, b) is ((type(a) is type(b) and a == b) or both_nan)
    assert same_plain((1, (a,)), PlainList([1, (b,)])) is same_plain(a, b)


def naive(a: Plain, b: Plain) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(naive, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


NESTED = st.recursive(
    st.sampled_from([1, True, "x", math.nan, None]),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.lists(inner, max_size=3).map(PlainList),
    max_leaves=6,
)


@given(NESTED, NESTED, st.booleans())
def test_lists_are_the_same_item_by_item(a: Plain, b: Plain, same: bool) -> None:
    b = a if same else b
    assert same_plain(a, b) is naive(a, b)
    assert same_plain((a, b, a), (b, a, b)) is naive(a, b)
    assert same_plain((a, a, b), (a, b, b)) is naive(a, b)
    assert not same_plain((a,), (a, a)) and not same_plain((a,), ())
    assert not same_plain((), None) and not same_plain(1, (1,)) and same_plain((), PlainList())
