"""Pickled modules as their state_dicts, and the limits of the walk."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled import budget as budgets
from ckpttool.formats.pickled import objects as module
from ckpttool.values.checkpoint import Basis, Kind
from ckpttool.values.errors import LimitExceeded
from tests.hostile import pickles as op
from tests.support.parsed import parse
from tests.support.walked import (
    BIG,
    appended,
    containers,
    entries,
    filled,
    obj,
    objects,
    path,
    places,
    reader,
    sized,
    values,
    walk,
)

# -- modules -------------------------------------------------------------------------------------------


def test_a_module_is_its_state_dict_with_exact_kinds() -> None:
    child = op.module("m:Child", buffers={"mean": sized(4)})
    top = op.module(
        "m:Top",
        parameters={"w": op.parameter(sized(2)), "none": None},
        non_persistent=["scratch", 5],
        buffers={"b": sized(3), "scratch": sized(5), "gone": None},
        modules={"c": child, "none": None, 0: child},
        plain=sized(6),
        config={"lr": 1},
        note="x",
    )
    found = walk({"net": top})
    kinds = {path(item.root, item.name): (item.declared.kind, item.declared.basis) for item in found.entries}
    assert kinds == {
        "net.w": (Kind.PARAMETER, Basis.PICKLED_MODULE),
        "net.b": (Kind.PERSISTENT_BUFFER, Basis.PICKLED_MODULE),
        "net.scratch": (Kind.NON_PERSISTENT_BUFFER, Basis.PICKLED_MODULE),
        "net.plain": (Kind.UNKNOWN, Basis.NONE),
        "net.c.mean": (Kind.PERSISTENT_BUFFER, Basis.PICKLED_MODULE),
        "net.0.mean": (Kind.PERSISTENT_BUFFER, Basis.PICKLED_MODULE),
    }
    assert [item.root for item in found.entries] == [("net",)] * 6
    assert [item.requires_grad for item in found.entries] == [True, False, False, False, False, False]
    assert found.entries[3].declared.registered is False and found.entries[0].declared.registered is True
    assert values(found) == {"net.config.lr": 1} and objects(found) == {}
    assert containers(found)[:3] == [("", "dict", 1), ("net", "m.Top", 8), ("net.c", "m.Child", 5)]
    assert places(found)["Top"] == ("$.net",) and places(found)["Child"][0] == "$.net.c"


def test_what_is_registered_and_no_tensor_is_walked_in_its_place() -> None:
    top = op.module(
        parameters={"p": obj(sized(2))}, buffers={"b": {"x": sized(3)}}, modules={"c": obj(sized(4)), "n": 5},
    )  # fmt: skip
    found = walk({"net": top})
    assert entries(found) == {"net.p.args[0]": 2, "net.b.x": 3, "net.c.args[0]": 4}
    assert values(found) == {"net.n": 5} and set(objects(found)) == {"net.p", "net.c"}
    assert ("net.b", "dict", 1) in containers(found)


def test_what_a_module_carries_besides_its_state_is_walked() -> None:
    top = appended(
        filled(op.module("m:Top", parameters={"w": sized(2)}), ("k", obj(sized(3)))), obj(sized(4)), 5
    )
    top = op.with_state(top, {7: obj(sized(5)), 8: 9})
    found = walk(top)
    assert entries(found) == {"w": 2, "7.args[0]": 5, "0.args[0]": 4, "k.args[0]": 3}
    made = op.named("m:Top") + op.push((obj(sized(6)),)) + op.NEWOBJ
    state = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    assert entries(walk(op.with_state(made, state))) == {"args[0].args[0]": 6}


@pytest.mark.parametrize("registry", ["_parameters", "_buffers", "_modules"])
def test_what_a_registry_carries_besides_its_items_is_walked(registry: str) -> None:
    state: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    odd = op.with_state(op.ordered({}), {"a": obj(sized(2)), "n": 1})
    found = walk(op.with_state(op.call("m:Top"), {**state, registry: odd}))
    assert entries(found) == {f"{registry}.a.args[0]": 2} and values(found) == {}
    found = walk(op.with_state(op.call("m:Top"), {**state, registry: obj(sized(3))}))
    assert entries(found) == {f"{registry}.args[0]": 3}
    found = walk(op.with_state(op.call("m:Top"), {**state, registry: [sized(4)]}))
    assert entries(found) == {f"{registry}.0": 4}
    key = op.call("m:Key", sized(5))
    found = walk(op.with_state(op.call("m:Top"), {**state, registry: filled(op.EMPTY_DICT, (key, None))}))
    assert entries(found) == {"<m.Key #1>.<the key itself>.args[0]": 5}


def test_attributes_of_a_module_are_walked_once_and_behind_it() -> None:
    shared = op.push([sized(5)]) + op.BINPUT(9)
    top = op.module(
        "m:Top",
        parameters={"w": sized(2)},
        first=shared,
        again=op.BINGET(9),
        empty=[],
        table={"n": 1},
        numbers=[1, 2],
        computed=op.call("m:f") + op.EMPTY_TUPLE + op.REDUCE,
        held=op.call("m:Held"),
        call=op.call("torch:Size", (1, 2)),
    )
    found = walk({"net": top, "after": sized(3)})
    assert list(entries(found)) == ["net.w", "after", "net.first.0"]
    assert values(found) == {"net.table.n": 1}
    assert set(objects(found)) == {"net.computed", "net.computed.function"}
    assert places(found)["Held"] == ("$.net.held",)


def test_an_attribute_that_points_back_to_a_module_adds_nothing() -> None:
    memo = op.module("m:Child", parameters={"w": sized(2)}) + op.BINPUT(9)
    found = walk({"net": op.module("m:Top", modules={"c": memo}, owner=[op.BINGET(9)])})
    assert entries(found) == {"net.c.w": 2}
    # One that is nowhere else is a module of its own.
    found = walk({"net": op.module("m:Top", owner=[op.module("m:Other", parameters={"w": sized(3)})])})
    assert entries(found) == {"net.owner.0.w": 3}
    # In a list beside it, it is one once more.
    found = walk({"net": op.module("m:Top", modules={"c": memo}), "list": [op.BINGET(9)]})
    assert entries(found) == {"net.c.w": 2, "list.0.w": 2}


def test_a_module_that_holds_itself_has_an_end() -> None:
    state = (("training", True), ("_parameters", {"w": sized(2)}), ("_buffers", {}))
    inner = filled(op.EMPTY_DICT, ("me", op.BINGET(3)), ("c", op.module("m:C", parameters={"x": sized(3)})))
    code = op.named("m:Top") + op.EMPTY_TUPLE + op.NEWOBJ + op.BINPUT(3)
    code += filled(op.EMPTY_DICT, *state, ("_modules", inner)) + op.BUILD
    found = walk(code)
    assert entries(found) == {"w": 2, "c.x": 3}


def attributes(found: Any) -> dict[str, Any]:
    return {path(item.root, item.name): item.value for item in found.attributes}


def test_plain_attributes_of_a_module_are_listed_with_its_class() -> None:
    child = op.module("m:Child", deep=2.5)
    top = op.module(
        "m:Top",
        modules={"c": child},
        size=3,
        none=None,
        _is_full_backward_hook=None,
        kind=op.named("m:relu"),
        text="x",
        shape=(1, 2),
        many=list(range(64)),
        more=list(range(65)),
        big=BIG,
        long="y" * 64 * 64,
    )
    found = walk({"net": top})
    assert attributes(found) == {
        "net.__class__": "m.Top", "net.training": True, "net.size": 3, "net.none": None, "net.kind": "m.relu",
        "net.text": "x", "net.shape": (1, 2), "net.many": tuple(range(64)),
        "net.c.__class__": "m.Child", "net.c.training": True, "net.c.deep": 2.5,
    }  # fmt: skip
    assert objects(found) == {
        "net.more": ("list", "65 items"),
        "net.big": ("int", "4,800 bits"),
        "net.long": ("str", "4,096 characters"),
    }
    hooked = walk(op.module("m:Top", _is_full_backward_hook=True))
    assert attributes(hooked)["_is_full_backward_hook"] is True


def test_plain_attributes_of_modules_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_MAX_MODULE_ATTRIBUTES", 3)
    for count, unlisted in ((2, 0), (3, 1), (5, 3)):
        found = walk(op.module("m:Top", **{f"a{at}": at for at in range(count)}))
        assert len([name for name in attributes(found) if name != "__class__"]) == 3
        assert [item.message.partition(" ")[0] for item in found.findings] == (
            [str(unlisted)] if unlisted else []
        )


# -- limits --------------------------------------------------------------------------------------------


def nested(depth: int, leaf: Any = 1) -> Any:
    """So many lists around a tensor."""
    made: Any = [sized(2), leaf]
    for _ in range(depth - 1):
        made = [made]
    return made


def test_containers_nest_so_deep() -> None:
    assert len(walk(nested(4), depth=4).entries) == 1
    with pytest.raises(LimitExceeded, match="nesting of containers") as caught:
        walk(nested(5), depth=4)
    assert caught.value.limit == 4


def modules(depth: int) -> bytes:
    made = op.module(parameters={"w": sized(2)})
    for _ in range(depth - 1):
        made = op.module(modules={"c": made})
    return made


def test_modules_nest_so_deep() -> None:
    assert len(walk(modules(4), depth=4).entries) == 1
    with pytest.raises(LimitExceeded, match="nesting of modules") as caught:
        walk(modules(5), depth=4)
    assert caught.value.limit == 4


@pytest.mark.parametrize("item", [5, sized(2), BIG])
def test_what_is_recorded_is_limited_before_it_is(item: Any) -> None:
    """A container counts with what it says that it holds: three containers, and twice four items."""
    tree = {at: {f"k{index}": item for index in range(4)} for at in "ab"}
    walk(tree, entries=11)
    with pytest.raises(LimitExceeded, match="number of tensors, values and containers") as caught:
        walk(tree, entries=10)
    assert caught.value.limit == 10


def test_modules_and_their_tensors_are_limited() -> None:
    def many(count: int) -> bytes:
        return op.module(modules={f"m{at}": op.module(parameters={"w": sized(2)}) for at in range(count)})

    assert len(walk(many(5), entries=200).entries) == 5
    with pytest.raises(LimitExceeded):
        walk(many(100), entries=50)


def test_an_object_that_many_share_is_described_by_its_first_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_FREE_REVISITS", 5)
    shared = op.push({"a": {"b": [1.5, op.call("m:X")]}}) + op.BINPUT(9)
    found = walk({"first": shared, **{f"k{at}": op.BINGET(9) for at in range(8)}})
    said = {name: item for name, item in objects(found).items() if item[1].startswith("the same object as")}
    assert said and all(item[1].startswith("the same object as $.first") for item in said.values())
    assert "first" not in said and "k7" in said and said["k7"] == ("dict", "the same object as $.first")


def test_a_value_that_many_share_is_shown_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_FREE_REPEATS", 12)
    shared = op.push([1, 2, 3, 4, 5, 6]) + op.BINPUT(9)
    found = walk({"first": shared, **{f"k{at}": op.BINGET(9) for at in range(4)}})
    assert list(values(found)) == ["first", "k0", "k1"]
    assert objects(found) == dict.fromkeys(("k2", "k3"), ("list", "the same value as an earlier one"))
    assert module._MOST_SCALARS == 64


def test_what_a_module_costs_is_all_that_is_looked_at() -> None:
    """Its state, each registry, and the names that are joined."""

    def budget(code: bytes) -> Any:
        looked = module._Walk(reader(), Limits())
        looked.run(parse(op.PROTO(2) + code + op.STOP).value, ())
        return looked.budget

    def plain(**registries: Any) -> bytes:
        state = {"_parameters": {}, "_buffers": {}, "_modules": {}, **registries}
        return op.with_state(op.call("m:Top"), state)

    # Once as an object that is met, once as a module: itself, one state, and three attributes of it.
    assert budget(plain()).steps == 2 * (1 + 1 + 3)
    assert budget(plain(_parameters={"ab": sized(2), "c": sized(3)})).steps == 2 * 5 + 2
    assert budget(plain(_parameters={"ab": sized(2), "c": sized(3)})).text == 3
    child = plain(_buffers={"xyz": sized(2)})
    whole = budget(plain(_modules={"child": child}))
    assert whole.steps == 2 * 5 + 1 + 5 + 1
    assert whole.text == len("child.") + len("child.xyz")


def test_places_of_a_modules_attributes_are_below_it() -> None:
    held = op.call("m:Held")
    inner = op.module("m:Inner", held=held, parameters={"w": sized(2)})
    found = walk({"net": op.module("m:Top", modules={"c": inner})})
    assert places(found)["Held"] == ("$.net.c.held",)
    deep = op.module("m:Inner", held=[sized(3)])
    assert entries(walk({"net": op.module("m:Top", modules={"c": deep})})) == {"net.c.held.0": 3}


# -- modules in bytes -------------------------------------------------------------------------------------

ZIP, PICKLE = b"PK\x03\x04rest", b"\x80\x02N."


def in_bytes(value: object) -> tuple[str, ...]:
    """Paths of the modules that keep others as bytes, if an attribute of the inner one has this value."""
    inner = op.module("m:Inner", blob=as_code(value))
    found = walk({"net": op.module("m:Top", modules={"in": inner})})
    said = [item for item in found.findings if item.code == "module-in-bytes"]
    where = tuple(".".join(map(str, root)) for root in found.unread_modules)
    assert [item.message for item in said] == [
        "1 module (net.in) keeps others as bytes, an archive or a pickle: what is registered in these is not "
        "read, and not listed"
    ] * len(where)
    assert all((item.severity, item.name) == ("info", "") for item in said)
    return where


def as_code(value: object) -> object:
    """The opcodes of a value in which bytes are bytes."""
    if isinstance(value, tuple):
        return tuple(map(as_code, value))
    if isinstance(value, dict):
        return {key: as_code(item) for key, item in value.items()}
    return op.BINBYTES(value) if isinstance(value, bytes) else value


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (ZIP, True), (ZIP[:4], True), (PICKLE, True), (b"\x80\x03.", True), (b"\x80\x05 .", True),
        (b"\x80\x01N.", False), (b"\x80\x06N.", False), (b"\x80\x02N", False), (b"x\x80\x02N.", False),
        (b"PK\x03\x05", False), (b"PK\x05\x06", False), (b"", False), (b"\x80", False), (b".", False),
        (ZIP.decode("latin1"), False), (("fx", PICKLE), True), ((1, 2, 3, ZIP), True),
        ((1, 2, 3, 4, ZIP), False), ((), False), (("fx", b"x"), False), ((("fx", ZIP),), False),
        ({"a": ZIP}, True), ({"a": {"b": ("fx", PICKLE)}}, True), ({"a": b"x", "b": 5}, False),
    ],
)  # fmt: skip
def test_an_attribute_may_be_the_bytes_of_a_module(value: object, found: bool) -> None:
    """Of an archive or a pickle, by themselves or beside a word, also in a dict that the module has."""
    assert in_bytes(value) == (("net.in",) if found else ())


def test_modules_in_bytes_are_told_once_for_each_that_has_them() -> None:
    one = op.module("m:In", a=op.BINBYTES(ZIP), b=op.BINBYTES(PICKLE), c={"d": op.BINBYTES(ZIP)})
    found = walk([op.module("m:Top", modules={"x": one}), op.module("m:Top", modules={"y": one})])
    assert found.unread_modules and len(found.findings) == 1
    assert found.findings[0].message.startswith("2 modules ([0].x, [1].y) keep others as bytes, an archive")
    assert [item.value for item in walk({"x": op.BINBYTES(ZIP)}).values] == [ZIP]
    assert walk({"x": op.BINBYTES(ZIP), "y": obj(z=op.BINBYTES(ZIP))}).findings == ()


# -- how much is walked -----------------------------------------------------------------------------------


def test_modules_and_their_tensors_are_counted_as_they_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_STEPS_PER_ENTRY", 1000)
    children = {name: op.module("m:In", parameters={str(at): sized(at) for at in (1, 2, 3)}) for name in "ab"}
    top = op.module("m:Top", modules=children)
    with pytest.raises(LimitExceeded) as caught:
        walk(top, entries=2)
    assert (caught.value.what, caught.value.limit) == ("number of modules and tensors", 2)
    assert len(walk(top, entries=3).entries) == 6


def test_what_hangs_on_a_tensor_is_looked_into_for_tensors_and_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = op.EMPTY_LIST + op.MEMOIZE + op.MARK + op.push(1) + op.push(2) + op.APPENDS
    again = op.BINGET(0) * 5
    code = op.with_state(sized(2), {"g": op.named("m:f"), "n": BIG, "t": sized(3), "o": obj(1)})
    found = walk({"w": code})
    assert entries(found) == {"w": 2, "<state of w>.0.t": 3}
    assert objects(found) == values(found) == {}
    monkeypatch.setattr(budgets, "_FREE_REVISITS", 0)
    many = op.push(["x"])[:0] + op.EMPTY_LIST + op.MARK + held + again + op.APPENDS
    found = walk({"w": op.with_state(sized(2), {"t": sized(3), "m": many})})
    assert set(entries(found)) == {"w", "<state of w>.0.t"} and objects(found) == {}
