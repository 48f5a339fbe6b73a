"""The walk over a pickle's tree: what becomes an entry, a value, an object or a container, and where."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled import budget as budgets
from ckpttool.formats.pickled.contents import assemble
from ckpttool.formats.pickled.objects import read_objects
from ckpttool.values.checkpoint import Basis, Finding, OddKey, PlainList
from tests.hostile import pickles as op
from tests.support.parsed import parse
from tests.support.walked import (
    BIG,
    OBJECT,
    appended,
    containers,
    entries,
    filled,
    obj,
    objects,
    places,
    reader,
    sized,
    values,
    walk,
)
from tests.support.work import lines

# -- leaves and containers -----------------------------------------------------------------------------


def test_a_bare_tensor_value_or_object_has_no_name() -> None:
    found = walk(sized(3), ("root",))
    assert [(item.root, item.name) for item in found.entries] == [(("root",), "")]
    assert found.containers == [] and walk(sized(3)).entries[0].root == ()
    assert objects(walk(obj(5))) == {"": ("m.Obj", "5")} and objects(walk(BIG)) == {"": ("int", "4,800 bits")}
    assert containers(walk([1, 2])) == [("", "list", 2)] and values(walk([1, 2])) == {"0": 1, "1": 2}


def test_entries_are_looked_at_once_for_all_keys_that_are_objects() -> None:
    def found(count: int, depth: int) -> int:
        key = op.call("m:K")
        for _ in range(depth):
            key = op.call("m:K") + op.EMPTY_DICT + key + op.push(1) + op.SETITEM + op.BUILD
        tensors = b"".join(op.push(f"a{at}") + sized(2) + op.SETITEM for at in range(count))
        return len(walk(op.EMPTY_DICT + tensors + key + op.push(1) + op.SETITEM).entries)

    assert found(5, 3) == 5
    few, many = (lines(lambda n=n: found(n, 60)) - lines(lambda n=n: found(n, 1)) for n in (50, 500))  # type: ignore[misc]
    assert many < 1.2 * few


def test_what_stands_in_containers_is_found_in_the_order_of_the_file() -> None:
    found = walk(
        {"a": sized(2), "n": {"b": sized(3), "l": [sized(4), 5, (sized(6),)]}, "c": sized(7), "v": [1, "x"]}
    )
    assert list(entries(found)) == ["a", "n.b", "n.l.0", "n.l.2.0", "c"]
    assert values(found) == {"n.l.1": 5, "v": (1, "x")}
    assert type(values(found)["v"]) is PlainList
    assert containers(found) == [("", "dict", 4), ("n", "dict", 2), ("n.l", "list", 3), ("n.l.2", "tuple", 1)]
    assert [item.root for item in walk({"a": sized(2)}, ("x", 0)).entries] == [("x", 0)]
    assert walk({"a": {"b": sized(2)}}, ("x", 0)).containers[1].path == ("x", 0, "a")


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (BIG, ("int", "4,800 bits")), (op.named("m:C"), ("global", "m.C")),
        (op.storage("7"), ("storage", "torch.FloatStorage of 4 elements")), (obj(5), ("m.Obj", "5")),
    ],
)  # fmt: skip
def test_a_leaf_that_is_not_built_is_described(node: bytes, said: tuple[str, str]) -> None:
    assert objects(walk({"a": node, "w": sized(2)})) == {"a": said}
    # In an object: what may hold bytes is, a number or a class is not.
    inside = objects(walk({"o": obj(a=node)}))
    inside.pop("o")
    assert inside == ({"o.a": said} if said[0] not in ("int", "global") else {})


def test_a_container_that_holds_itself_is_told_once() -> None:
    looped = (
        op.EMPTY_DICT
        + op.BINPUT(0)
        + op.MARK
        + op.push("w")
        + sized(2)
        + op.push("me")
        + op.BINGET(0)
        + op.SETITEMS
    )
    found = walk(looped)
    assert entries(found) == {"w": 2} and objects(found) == {"me": ("dict", "contains itself")}
    inside = walk({"o": obj(a=looped)})
    assert entries(inside) == {"o.a.w": 2} and set(objects(inside)) == {"o"}


def test_a_set_and_its_place() -> None:
    found = walk({"s": op.call("builtins:set", [sized(2), 5])})
    assert (
        entries(found) == {"s.0": 2}
        and values(found) == {"s.1": 5}
        and containers(found)[1] == ("s", "set", 2)
    )
    assert found.obstacles == ()
    bad = walk({"s": op.call("builtins:set", [[sized(2)]])})
    assert bad.obstacles == ("a key of a dict, or an item of a set, that cannot be hashed",)
    bad = walk({"d": filled(op.EMPTY_DICT, (op.call("builtins:list"), 1))})
    assert len(bad.obstacles) == 1


def test_lists_four_deep_are_one_value_and_deeper_ones_containers() -> None:
    assert values(walk({"v": [[[[1]]]]})) == {"v": ((((1,),),),)}
    found = walk({"v": [[[[[1]]]]]})
    assert values(found) == {"v.0": ((((1,),),),)} and containers(found)[1] == ("v", "list", 1)


def test_a_typed_container_of_torchscript_is_what_is_in_the_tag() -> None:
    tag = "torch.jit._pickle:restore_type_tag"
    found = walk({"a": op.call(tag, {"w": sized(2)}, "Dict"), "b": op.call(tag, [1, 2], "List[int]")})
    assert entries(found) == {"a.w": 2} and values(found) == {"b": (1, 2)} and objects(found) == {}
    assert [ref.places for ref in found.globals if ref.name == "restore_type_tag"] == [("$.a", "$.b")]


def test_places_of_globals_are_where_they_stand() -> None:
    found = walk(
        {"a": obj(b=op.call("m:Inner")), "c": [op.named("m:Klass")], "o": obj(k=op.named("m:Hidden"))}
    )
    assert places(found) == {
        "Obj": ("$.a", "$.o"), "Inner": ("$.a.b",), "Klass": ("$.c.0",), "Hidden": ("$.o.k",),
    }  # fmt: skip
    assert found.globals[0].name == "Obj" and found.rare_opcodes is not None


def test_the_tree_is_let_go() -> None:
    tree = parse(op.dump({"a": obj(5)}))
    read_objects(tree, reader(), Limits())
    assert [ref.first_calls for ref in tree.globals.values()] == [()]


def test_ids_that_no_tensor_holds_are_asked_for() -> None:
    code = op.MARK + op.storage("7", numel=3) + op.POP_MARK + op.push({"w": sized(2)})
    assert walk(code).obstacles == ()
    broken = op.MARK + op.push(("storage", "no class", "7", "cpu", 3)) + op.BINPERSID + op.POP_MARK
    assert len(walk(broken + op.push({"w": sized(2)})).obstacles) == 1


# -- objects -------------------------------------------------------------------------------------------


def test_all_that_an_object_carries_is_walked() -> None:
    code = op.call(OBJECT, sized(2), 5, [sized(3)], op.storage("7"), op.named("m:Arg"))
    code = op.with_state(code, {"attr": sized(4), "short": "x", 7: sized(11)})
    code = appended(filled(code, ("item", sized(5)), ("key", 1)), sized(6), 8)
    code = op.with_state(op.with_state(code, sized(9)), (None, {"slot": sized(10)}))
    found = walk({"o": code})
    assert entries(found) == {
        "o.args[0]": 2,
        "o.args[2].0": 3,
        "o.attr": 4,
        "o.7": 11,
        "o.slot": 10,
        "o.state": 9,
        "o.0": 6,
        "o.item": 5,
    }
    assert values(found) == {"o.short": "x", "o.key": 1, "o.1": 8}
    assert objects(found)["o.args[3]"][0] == "storage" and "o.args[4]" not in objects(found)
    assert places(found)["Arg"] == ("$.o.args[4]",)
    computed = op.call("m:f", sized(3)) + op.push((sized(2),)) + op.REDUCE
    found = walk({"o": computed})
    assert entries(found) == {"o.args[0]": 2, "o.function.args[0]": 3}
    assert objects(found)["o"][0] == "a computed callable"
    whole = op.named(OBJECT) + op.push([sized(2)]) + op.REDUCE
    assert entries(walk({"o": whole})) == {"o.args[0]": 2}
    assert entries(walk({"o": op.named(OBJECT) + sized(2) + op.REDUCE})) == {"o.args[0]": 2}


def test_a_list_that_is_an_argument_is_no_mapping() -> None:
    for argument in ([sized(3)], {"k": sized(3)}, (sized(3),)):
        found = walk({"o": obj(argument, 1)})
        assert list(entries(found).values()) == [3] and next(iter(entries(found))).startswith("o.args[0].")
    odd = op.call("collections:OrderedDict", 5, sized(4))
    assert entries(walk({"o": odd})) == {"o.args[1]": 4}
    assert entries(walk({"o": op.call("collections:OrderedDict", obj(sized(4)))})) == {"o.args[0].args[0]": 4}


def test_a_long_container_in_a_long_one_is_counted_with_it() -> None:
    long = {f"k{at}": at if at else sized(2) for at in range(300)}
    found = walk({"o": obj(a={**long, "inner": long})})
    assert objects(found) == {"o": ("m.Obj", "1 attribute"), "o.a": ("dict", "301 items")}
    assert len(entries(found)) == 2 and values(found) == {}
    key = op.call("m:Key", {**long, "s": op.call("builtins:set", [sized(3)])})
    found = walk({"d": op.EMPTY_DICT + op.MARK + key + op.push(1) + op.SETITEMS})
    assert objects(found) == {} and sorted(entries(found).values()) == [2, 3]


def test_names_that_meet_in_an_object_stay_apart() -> None:
    code = filled(
        op.with_state(op.call(OBJECT), {"a": sized(2)}), ("a", sized(3)), ("b", sized(4)), ("b", sized(5))
    )
    assert entries(walk({"o": code})) == {"o.a": 2, "o.<a #1>": 3, "o.b": 4, "o.<b #2>": 5}
    code = filled(op.call(OBJECT), ("b", sized(4)), (op.call("m:Key", sized(9)), sized(5)))
    assert entries(walk({"o": code})) == {
        "o.b": 4,
        "o.<m.Key #1>": 5,
        "o.<m.Key #1>.<the key itself>.args[0]": 9,
    }


@pytest.mark.parametrize(("length", "shown"), [(64, True), (65, False)])
def test_a_long_attribute_is_counted(length: int, shown: bool) -> None:
    found = walk({"o": obj(a=list(range(length)), b=1)})
    assert ("o.a" in values(found)) is shown
    assert (objects(found).get("o.a") == ("list", f"{length} items")) is not shown


@pytest.mark.parametrize(("length", "shown"), [(256, True), (257, False)])
def test_items_of_a_long_container_in_an_object_are_no_values(length: int, shown: bool) -> None:
    table = {f"k{at}": at for at in range(length - 1)} | {"w": sized(2)}
    found = walk({"o": obj(a=table)})
    assert entries(found) == {"o.a.w": 2}
    assert len(values(found)) == (length - 1 if shown else 0)
    assert (objects(found).get("o.a") == ("dict", "257 items")) is not shown
    assert containers(found) == [("", "dict", 1)]
    beside = walk({"o": table})
    assert len(values(beside)) == length - 1 and set(objects(beside)) == set()


def test_items_of_a_set_in_an_object_have_no_names() -> None:
    found = walk({"o": obj(a=op.call("builtins:set", [1, 2]))})
    assert values(found) == {} and objects(found)["o.a"] == ("set", "2 items")


def test_an_array_of_numpy_has_no_attributes() -> None:
    array = op.call("numpy._core.multiarray:_reconstruct", op.named("numpy:ndarray"), (0,), 0)
    array = op.with_state(array, (1, (3,), op.call("numpy:dtype", "f8", False, True), False, 0))
    found = walk({"o": array, "p": obj(a=array, b=1)})
    assert values(found) == {"p.b": 1}
    assert objects(found)["o"] == objects(found)["p.a"] == ("numpy._core.multiarray._reconstruct", "f8 (3)")


def test_attributes_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_MAX_ATTRIBUTES", 3)
    for count, unlisted in (
        (3, ""),
        (4, "1 plain attribute of objects is"),
        (5, "2 plain attributes of objects are"),
    ):
        found = walk({"o": obj(**{f"a{at}": at for at in range(count)}), "v": 1})
        assert len(values(found)) == 4
        said = [(item.code, item.severity, item.message) for item in found.findings]
        message = f"{unlisted} not listed, and not compared"
        assert said == ([("attributes-unlisted", "info", message)] if unlisted else [])


def test_ranks_of_a_mesh_are_no_tensors_of_the_checkpoint() -> None:
    state = {"mesh": sized(2), "other": [sized(3)], "name": "x"}
    mesh = op.with_state(op.call("torch.distributed.device_mesh:DeviceMesh"), state)
    found = walk({"o": mesh, "p": op.with_state(op.call("m:DeviceMesh"), state)})
    assert entries(found) == {"o.other.0": 3, "p.mesh": 2, "p.other.0": 3} and values(found)["o.name"] == "x"


# -- keys, metadata, and what hangs on tensors ---------------------------------------------------------


def test_what_is_in_a_key_is_found_and_nothing_else_of_it() -> None:
    key = op.with_state(op.call("m:Key", 5), {"held": sized(3), "n": 1})
    found = walk({"d": filled(op.EMPTY_DICT, (key, sized(2)))})
    assert entries(found) == {"d.<m.Key 5 #1>": 2, "d.<m.Key 5 #1>.<the key itself>.held": 3}
    assert values(found) == {} and objects(found) == {}
    # A tensor that is a key is an entry, unless it is one already.
    for before, names in (({}, {"d.<m.Key #1>"}), ({"w": sized(3)}, {"w"})):
        code = {**before, "d": filled(op.EMPTY_DICT, (sized(3), 1))}
        assert len(entries(walk(code))) == 1, names


def test_objects_in_the_metadata_of_a_state_dict_are_walked() -> None:
    metadata = {
        "": {"version": 1},
        "a": {"version": 2, "held": obj(sized(3)), "deep": {"more": obj(sized(4))}},
    }
    found = walk({"m": op.ordered({"w": sized(2)}, metadata)})
    assert entries(found) == {"m.w": 2, "m._metadata.0.args[0]": 3, "m._metadata.1.args[0]": 4}
    assert found.module_versions == {("m",): {"": 1, "a": 2}} and found.module_extras == {}
    found = walk(op.ordered({"w": sized(2)}, {"a": {"version": 2, "x": 5}}))
    assert found.module_versions == {(): {"a": 2}} and found.module_extras == {(): {"a": ((("x",), 5),)}}
    assert objects(found) == {} and values(found) == {}


def test_an_ordered_dict_may_carry_more_than_items() -> None:
    code = op.with_state(op.ordered({"w": sized(2)}), {"attr": obj(sized(3)), "w": obj(sized(4)), "plain": 5})
    found = walk({"d": code})
    assert entries(found) == {"d.w": 2, "d.attr.args[0]": 3, "d.<w #1>.args[0]": 4}
    assert values(found) == {} and "d.attr" in objects(found)
    code = op.call("collections:OrderedDict", [["a", sized(2)], ["b", sized(3)]], obj(sized(4)))
    assert entries(walk({"d": code})) == {"d.a": 2, "d.b": 3, "d.args[1].args[0]": 4}
    code = op.call("collections:defaultdict", op.named("m:Factory"))
    found = walk({"d": filled(code, ("a", sized(2)))})
    assert entries(found) == {"d.a": 2} and "d.args[0]" not in objects(found)
    partial = op.call("collections:defaultdict", obj(sized(5)))
    assert entries(walk({"d": filled(partial, ("a", sized(2)))})) == {"d.a": 2, "d.args[0].args[0]": 5}


def test_what_hangs_on_a_tensor_is_walked_beside_it() -> None:
    tensor = filled(appended(op.with_state(sized(2), {"s": sized(3)}), sized(4)), ("k", sized(5)))
    found = walk({"w": tensor})
    assert entries(found) == {
        "w": 2, "<state of w>.0.s": 3, "<appended of w>.0": 4, "<items of w>.k": 5,
    }  # fmt: skip
    assert objects(found) == {} and values(found) == {} and len(found.containers) == 1
    function = "torch._utils:_rebuild_parameter_with_state"
    found = walk({"w": op.call(function, sized(2), True, None, {"a": sized(3), "n": 1})})
    assert entries(found) == {"w": 2, "<attributes of w>.a": 3} and values(found) == {}
    assert [item.declared.basis for item in found.entries] == [Basis.PICKLED_PARAMETER, Basis.NONE]
    assert [item.name for item in found.entries if isinstance(item.name, OddKey)] == []
    assert all(not key.literal for key in found.entries[1].root if isinstance(key, OddKey))


def test_a_checkpoint_has_what_its_pickle_and_its_container_say() -> None:
    source: Any = SimpleNamespace(name="f.pt", version=object())
    contents = walk({"w": sized(2), "v": 1, "o": obj()})._replace(
        rare_opcodes=frozenset((7,)), findings=(Finding("b", "info", "", ""),), obstacles=("second",)
    )
    first = (Finding("a", "info", "", ""),)
    found = assemble(source, "torch_zip", "a layout", contents, (), first, ("first",))
    assert (found.path, found.format, found.layout) == ("f.pt", "torch_zip", "a layout")
    assert found.files == (source.version,) and found.records == ()
    assert [item.code for item in found.findings] == ["a", "b"] and found.obstacles == ("first", "second")
    assert (found.entries, found.values, found.opaque, found.containers) == tuple(map(tuple, contents[:4]))
    assert (found.globals, found.rare_opcodes) == (contents.globals, frozenset((7,)))
