"""Single nodes of a pickle's tree in words, and which globals it names, where and how often."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.globals import (
    Places,
    absorb_following,
    describe_place,
    list_globals,
    merge_globals,
    parse_within,
)
from ckpttool.formats.pickled.nodes import (
    attribute_items,
    has_module_state,
    is_unhashable,
    iter_mapping,
    named_state,
    set_items,
    summarize,
    type_name,
    whole_states,
    width_of,
)
from ckpttool.pickles.nodes import BigInt, Call, DictNode, Global, PersistentId, PickleTree, SetNode
from ckpttool.values.checkpoint import GlobalRef
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from tests.hostile import pickles as op
from tests.support.parsed import parse
from tests.support.walked import called

FLOATS = Global("torch", "FloatStorage", 0)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (Global("m", "C", 0), "m.C"),
        (BigInt(4097), "4,097 bits"),
        (PersistentId(("storage", FLOATS, "0", "cpu", 4)), "torch.FloatStorage of 4 elements"),
        (PersistentId(("storage", FLOATS, "0", "cpu", "4")), "persistent id"),
        (PersistentId(("storage", "FloatStorage", "0", "cpu", 4)), "persistent id"),
        (PersistentId(("storage", FLOATS, "0", "cpu")), "persistent id"),
        (PersistentId("text"), "persistent id"),
        (PersistentId(["storage", FLOATS, "0", "cpu", 4]), "persistent id"),
        ([1], "1 item"),
        ((1, 2), "2 items"),
        ("abc", "3 characters"),
        (b"a", "1 byte"),
        (5, ""),
        (None, ""),
    ],
)
def test_a_leaf_that_is_not_built_has_a_few_words(node: Any, words: str) -> None:
    assert summarize(node) == words


@pytest.mark.parametrize(
    ("node", "name"),
    [
        (called("collections.OrderedDict"), "OrderedDict"),
        (called("m.C"), "m.C"),
        (Call("reduce", called("m.C"), (), 0), "a computed callable"),
        (Global("torch", "float32", 0), "torch.dtype"),
        (Global("numpy", "float32", 0), "global"),
        (SetNode([1], False), "set"),
        (called("builtins.set", [1, 2]), "set"),
        (5, "int"),
    ],
)
def test_a_node_has_the_name_of_its_class(node: Any, name: str) -> None:
    assert type_name(node) == name


@pytest.mark.parametrize("field", ["states", "appended", "items"])
def test_a_set_that_was_changed_after_its_call_is_none(field: str) -> None:
    node = called("builtins.set", [1])
    assert type_name(node) == "set" and set_items(node) == [1]
    setattr(node, field, [1, 2])
    assert type_name(node) == "builtins.set"


def test_items_of_a_mapping_however_they_were_given() -> None:
    assert list(iter_mapping(DictNode(["a", 1, "b", 2]))) == [("a", 1), ("b", 2)]
    for argument in ([["a", 1], ("b", 2), ["short"], ["l", "o", "ng"], "xy"], DictNode(["a", 1, "b", 2])):
        node = called("collections.OrderedDict", argument, [["not", "this"]])
        node.items = ["c", 3]
        assert list(iter_mapping(node)) == [("a", 1), ("b", 2), ("c", 3)]
    assert list(iter_mapping(called("collections.OrderedDict", 5))) == []
    assert list(iter_mapping([["a", 1]])) == []
    assert width_of(DictNode(["a", 1, "b", 2])) == 2 and width_of(SetNode([1, 2, 3], False)) == 3


def test_a_place_is_cut_in_front() -> None:
    assert describe_place(()) == "$"
    assert describe_place(("model", 0, "weight")) == "$.model.0.weight"
    for path in (("x" * 10_000, "end"), tuple(range(10_000))):
        said = describe_place(path)
        assert said.startswith("$…") and len(said) < 400 and said.endswith(str(path[-1]))


def test_attributes_come_from_a_dict_or_a_dict_and_slots_and_all_else_is_a_whole_state() -> None:
    node = called("m.C")
    assert list(attribute_items(node)) == [] and whole_states(node) == []
    plain, slots = DictNode(["a", 1]), DictNode(["b", 2, 5, 3])
    node.states = [plain, (None, slots), (plain, None), None, 7, (plain, slots, plain), (plain, 7)]
    assert list(attribute_items(node)) == [("a", 1), ("b", 2), (5, 3), ("a", 1)]
    assert whole_states(node) == [7, (plain, slots, plain), (plain, 7)]
    assert list(named_state(node)) == [("a", 1), ("b", 2), ("a", 1)]
    assert not has_module_state(node)
    node.states = [DictNode(["_parameters", 1, "_buffers", 2]), DictNode(["_modules", 3])]
    assert has_module_state(node)


def test_the_width_of_a_node_is_all_that_hangs_on_it() -> None:
    assert [width_of(node) for node in ([1, 2], (1,), 5, "text", None)] == [2, 1, 0, 0, 0]
    node = called("m.C", [1, 2, 3], 4)
    assert width_of(node) == 2 + 3
    node.items, node.appended = ["a", 1, "b", 2], [5]
    assert width_of(node) == 5 + 2 + 1
    node.states = [DictNode(["a", 1, "b", 2]), (None, DictNode(["c", 3])), 7, (1, 2, 3)]
    assert width_of(node) == 8 + 4 + 2 + (1 + 1) + 1 + 1
    assert width_of(called("m.C", DictNode(["a", 1, "b", 2]))) == 1 + 2
    assert width_of(called("m.C")) == 0
    assert width_of(Call("reduce", Global("m", "C", 0), None, 0)) == 0
    assert set_items(SetNode([1, 2], True)) == [1, 2] and set_items(called("m.C", 5)) == []


# -- globals ----------------------------------------------------------------------------------------------


def calls(name: str, times: int) -> bytes:
    return times * (op.GLOBAL("m", name) + op.EMPTY_TUPLE + op.REDUCE)


def tree_of(body: bytes) -> PickleTree:
    return parse(op.PROTO(2) + body + op.STOP)


def test_globals_are_listed_with_their_places_and_all_their_calls() -> None:
    tree = tree_of(op.MARK + calls("f", 6) + op.GLOBAL("m", "g") + op.LIST)
    one, other = list_globals(tree)
    assert (one.name, one.called, one.calls, len(one.places)) == ("f", True, 6, 4)
    assert all(place.startswith("byte ") and place.endswith(" of the pickle") for place in one.places)
    assert (other.name, other.called, other.calls, other.places) == ("g", False, 0, ())
    places = Places()
    for at, node in enumerate(tree.value):
        places.note(node, ("list", at))
        places.note(node, ("again", at))
    places.note(5, ("number",))
    one, other = list_globals(tree, places)
    assert one.places == tuple(f"$.list.{at}" for at in range(4))
    assert (other.called, other.places) == (False, ("$.list.6",))


def test_what_follows_a_pickle_is_counted_as_its_own() -> None:
    first = op.PROTO(2) + op.MARK + calls("f", 1) + op.LIST + op.STOP
    second = op.PROTO(2) + op.MARK + calls("f", 2) + calls("g", 1) + op.LIST + op.STOP
    for tail, words in ((b"", ""), (b"\xff?", "; 2 bytes behind are not read")):
        tree = parse_within(Limits(), first)
        behind = second + op.dump(5) + tail
        (finding,) = absorb_following(tree, behind, len(behind), Limits())
        assert (finding.code, finding.severity) == ("bytes-after-pickle", "warning")
        assert finding.message == (
            f"2 more pickles follow the first: a loader that reads on would unpickle what is there{words}"
        )
        f, g = (tree.globals["m", name] for name in "fg")
        assert (f.calls, len(f.first_calls), g.calls) == (3, 3, 1)
        assert [(ref.name, ref.called, ref.calls) for ref in list_globals(tree)] == [
            ("f", True, 3),
            ("g", True, 1),
        ]
        assert [call.byte_offset for call in f.first_calls][1] == len(first) + 2 + 1 + 5 + 1
    tree = parse_within(Limits(), first)
    assert absorb_following(tree, b"", 0, Limits()) == ()
    (finding,) = absorb_following(tree, b"\xff", 1, Limits())
    assert finding.message == "1 byte follows the first pickle and is not read"
    (finding,) = absorb_following(tree, op.dump(1), len(op.dump(1)), Limits())
    assert finding.message.startswith("1 more pickle follows the first")


def test_globals_of_several_pickles_are_one_list() -> None:
    def ref(name: str, called: bool, calls: int, *places: str) -> GlobalRef:
        return GlobalRef("m", name, called, places, calls)

    groups = [[ref("f", False, 0, "a", "a")], [ref("g", True, 1), ref("f", True, 2, "a", "b", "c", "d")]]
    assert merge_globals(groups) == (ref("f", True, 2, "a", "a", "a", "b"), ref("g", True, 1))
    assert merge_globals(groups, distinct=True) == (ref("f", True, 2, "a", "b", "c", "d"), ref("g", True, 1))
    assert merge_globals([]) == ()


def test_what_any_pickle_of_several_calls_is_called_and_places_are_counted_over_all() -> None:
    def ref(called: bool, calls: int, *places: str, arities: tuple[int, ...] = ()) -> GlobalRef:
        return GlobalRef("m", "f", called, places, calls, arities)

    for groups in ([[ref(True, 2, "a"), ref(False, 0, "b")]], [[ref(False, 0, "a")], [ref(True, 2, "b")]]):
        assert merge_globals(groups) == (ref(True, 2, "a", "b"),)
    many = [[ref(False, 1, str(at), arities=(at, -1))] for at in range(6)]
    whole = ref(False, 6, *"0123", arities=(-1, 0, 1, 2, 3, 4, 5))
    assert merge_globals(many) == merge_globals(many, distinct=True) == (whole,)
    assert merge_globals([[ref(True, 9, *"abcdef")]]) == (ref(True, 9, *"abcd"),)


@pytest.mark.parametrize("base", [0, 1000])
def test_what_every_tensor_calls_is_told_by_its_place_and_never_by_its_byte(base: int) -> None:
    """An OrderedDict of hooks hangs on each; one that stands somewhere by itself is told."""
    made = op.call("collections:OrderedDict")
    tree = tree_of(op.MARK + made + op.POP + calls("f", 1) + op.POP + made + made + calls("f", 1) + op.LIST)
    tree = tree._replace(base=base, within="the file")
    start = base + 2 + 1 + len(made) + 1 + len(calls("f", 1)) - 1
    last = start + 1 + 2 * len(made) + len(calls("f", 1))
    bytes_ = tuple(f"byte {at} of the file" for at in (start, last))
    dicts, f = list_globals(tree)
    assert (dicts.places, dicts.calls, dicts.arities) == ((), 3, (0,))
    assert (f.places, f.calls, f.arities) == (bytes_, 2, (0,))
    places = Places()
    for at in (1, 2):
        places.note(tree.value[at], ("list", at))
    dicts, f = list_globals(tree, places)
    assert dicts.places == ("$.list.1",)
    assert f.places == (bytes_[0], "$.list.2")


def test_places_are_kept_up_to_a_number_also_over_several_pickles() -> None:
    one = op.PROTO(2) + op.MARK + calls("f", 3) + op.LIST + op.STOP
    tree = parse_within(Limits(), one)
    absorb_following(tree, one, len(one), Limits())
    assert (tree.globals["m", "f"].calls, len(tree.globals["m", "f"].first_calls)) == (6, 4)
    (ref,) = list_globals(tree)
    assert (ref.calls, len(ref.places)) == (6, 4)


def test_places_of_calls_come_before_those_of_the_global_itself() -> None:
    for times in (3, 4):
        tree = tree_of(op.MARK + times * (calls("f", 1) + op.POP) + op.GLOBAL("m", "f") + op.LIST)
        places = Places()
        places.note(tree.value[0], (0,))
        (ref,) = list_globals(tree, places)
        assert [place.partition(" ")[0] for place in ref.places] == ["byte"] * times + ["$.0"] * (4 - times)


def test_a_pickle_may_do_a_part_of_what_the_limits_allow() -> None:
    pickled = op.PROTO(2) + op.MARK + calls("f", 8) + op.LIST + op.STOP
    ops = 2 + 3 * 8 + 2
    assert parse_within(Limits(pickle_ops=ops), pickled).protocol == 2
    assert parse_within(Limits(pickle_ops=4 * ops), pickled, share=4).protocol == 2
    less = ((Limits(pickle_ops=ops - 1), 1), (Limits(pickle_ops=4 * ops - 1), 4), (Limits(pickle_nodes=8), 4))
    for limits, share in less:
        with pytest.raises(LimitExceeded):
            parse_within(limits, pickled, share=share)


@pytest.mark.parametrize(("count", "found"), [(15, 15), (16, 16), (17, 16), (30, 16)])
def test_so_many_pickles_behind_are_looked_at(count: int, found: int) -> None:
    one = op.PROTO(2) + calls("f", 1) + op.STOP
    tree = parse_within(Limits(), op.dump(1))
    (finding,) = absorb_following(tree, one * count, len(one) * count, Limits())
    rest = len(one) * (count - found)
    said = f"; {rest} bytes behind are not read" if rest else ""
    assert finding.message == (
        f"{found} more pickles follow the first: a loader that reads on would unpickle what is there{said}"
    )
    assert tree.globals["m", "f"].calls == found


def test_each_pickle_behind_may_take_an_eighth_of_the_limits() -> None:
    one = op.PROTO(2) + op.MARK + calls("f", 8) + op.LIST + op.STOP
    ops = 2 + 3 * 8 + 2
    for limits, found in ((8 * ops, 2), (8 * ops - 1, 0)):
        tree = parse_within(Limits(), op.dump(1))
        (finding,) = absorb_following(tree, one * 2, len(one) * 2, Limits(pickle_ops=limits))
        assert ("2 more pickles follow" in finding.message) is bool(found)
        assert sum(node.calls for node in tree.globals.values()) == found * 8


def test_the_first_places_that_are_met_are_kept_whichever_call_they_are_of() -> None:
    """A call that was met later is told by its byte."""
    tree = tree_of(op.MARK + calls("f", 7) + op.LIST)
    places = Places()
    for at in reversed(range(7)):
        places.note(tree.value[at], (at,))
    (ref,) = list_globals(tree, places)
    start = 2 + 1 + len(calls("f", 1)) - 1
    first = [f"byte {start + at * len(calls('f', 1))} of the pickle" for at in range(3)]
    assert ref.places == (*first, "$.3")
    assert list(places.of(tree.globals["m", "f"]).values()) == ["$.6", "$.5", "$.4", "$.3"]


def test_a_place_of_240_characters_is_written_out() -> None:
    assert describe_place(("x" * 239,)) == "$." + "x" * 239
    assert describe_place(("x" * 240,)) == "$…" + "x" * 240
    assert describe_place(("a", "x" * 237)) == "$.a." + "x" * 237
    assert describe_place(("a", "x" * 238)) == "$…a." + "x" * 238


def test_a_path_of_32_steps_is_written_out() -> None:
    assert describe_place(tuple("a" * 32)) == "$" + ".a" * 32
    assert describe_place(tuple("a" * 33)) == "$…" + ".a" * 32


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (calls("f", 1), "a damaged pickle: an unpickler would call m.f before it breaks off"),
        (
            calls("f", 1) + calls("g", 1),
            "a damaged pickle: an unpickler would call m.f, m.g before it breaks off",
        ),
        (op.GLOBAL("m", "f"), None),
        (op.call("collections:OrderedDict"), None),
        (
            op.call("collections:OrderedDict") + calls("f", 1),
            "a damaged pickle: an unpickler would call m.f before it breaks off",
        ),
        (b"", None),
    ],
)
def test_what_a_broken_pickle_would_call_is_its_hint(body: bytes, hint: str | None) -> None:
    with pytest.raises(MalformedCheckpoint) as caught:
        parse_within(Limits(), op.PROTO(2) + body + b"\xff")
    assert caught.value.hint == hint


@pytest.mark.parametrize(("before", "found"), [(0, True), (998, True), (999, False), (5000, False)])
def test_so_many_items_of_a_key_are_looked_at(before: int, found: bool) -> None:
    """From behind; what a tuple holds in a tuple counts as well."""
    assert is_unhashable(([], *[1] * before)) is found
    assert is_unhashable((*[1] * before, [])) is (before < 1000)
