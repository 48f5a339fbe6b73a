"""Keys of mappings as steps of a path, and what the ``_metadata`` of a state_dict says."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled import budget as budgets
from ckpttool.formats.pickled.budget import WalkBudget
from ckpttool.formats.pickled.mappings import KeyReader, MetadataReader
from ckpttool.formats.pickled.plain import PlainReader
from ckpttool.pickles.nodes import BigInt, DictNode, Global, SetNode
from ckpttool.values.checkpoint import OddKey
from ckpttool.values.errors import LimitExceeded
from tests.support.walked import called


def keys(**limits: int) -> KeyReader:
    made = Limits(**limits)
    return KeyReader(PlainReader(), WalkBudget(made), made)


def ordered(*flat: Any) -> Any:
    made = called("collections.OrderedDict")
    made.items = list(flat)
    return made


# -- keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a", "", "a.b", 0, -5, 10**30])
def test_texts_and_numbers_are_themselves(key: Any) -> None:
    assert keys().key(key) == key and type(keys().key(key)) is type(key)


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        (b"a", "b'a'"),
        ((1, "a"), "(1, 'a')"),
        ((), "()"),
        (((1, 2), None), "((1, 2), None)"),
        (called("torch.Size", (1, 2)), "(1, 2)"),
        ((0,) * 100, str((0,) * 100)),
    ],
)
def test_a_plain_key_is_its_literal(node: Any, text: str) -> None:
    reader = keys()
    assert reader.key(node) == reader.key(node) == OddKey(text, literal=True)
    assert reader.objects == [] and not reader.unhashable and reader.text(node) == text


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (called("m.C", 5), "<m.C 5 #1>"),
        (Global("m", "C", 0), "<global m.C #1>"),
        (called("m.C"), "<m.C #1>"),
        (BigInt(5000), "<int 5,000 bits #1>"),
    ],
)
def test_an_object_that_is_a_key_is_numbered_and_kept(node: Any, text: str) -> None:
    reader = keys()
    first, second = reader.key(node), reader.key(node)
    assert first == OddKey(text, literal=False) and second == OddKey(text.replace("#1", "#2"), literal=False)
    assert reader.objects == [(first, node), (second, node)] and not reader.unhashable


def test_a_plain_key_that_is_long_is_numbered_and_holds_nothing() -> None:
    reader = keys()
    assert reader.key((0,) * 101) == OddKey("<tuple 101 items #1>", literal=False)
    assert reader.key(called("_codecs.encode", "x" * 6400, "latin1")).text.endswith("#2>")  # type: ignore[union-attr]
    assert reader.objects == []


@pytest.mark.parametrize(
    ("node", "unhashable"),
    [
        ([1], True),
        (DictNode(), True),
        (SetNode([1], False), True),
        (SetNode([1], True), False),
        ((1, [2]), True),
        ((1, (2,)), False),
        (called("collections.OrderedDict"), True),
        (called("m.C"), False),
    ],
)
def test_what_can_be_no_key_of_a_dict_is_remembered(node: Any, unhashable: bool) -> None:
    reader = keys()
    reader.key(node)
    assert reader.unhashable is unhashable
    reader.key(called("m.C"))
    assert reader.unhashable is unhashable


def test_a_repeated_key_replaces_the_value_in_place() -> None:
    assert keys().children([("a", 1), ("b", 2), ("a", 3), (0, 4), (0, 5)]) == [("a", 3), ("b", 2), (0, 5)]
    one = OddKey("True", literal=True)
    assert keys().children([(True, 1), (1, 2), (True, 3)]) == [(one, 3), (1, 2)]
    assert len(keys().children([(called("m.C"), 1), (called("m.C"), 2)])) == 2


def test_long_keys_are_counted_and_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = keys(name_nbytes=300)
    reader.children([("x" * 256, 1)])
    assert (reader._budget.text, reader._budget.has_long_keys) == (0, False)
    reader.children([("x" * 257, 1), ("y" * 300, 1)])
    assert (reader._budget.text, reader._budget.has_long_keys) == (557, True)
    with pytest.raises(LimitExceeded) as caught:
        reader.children([("x" * 301, 1)])
    assert (caught.value.what, caught.value.limit, caught.value.actual) == ("length of a key", 300, 301)
    monkeypatch.setattr(budgets, "_MAX_TEXT", 600)
    with pytest.raises(LimitExceeded):
        reader.children([("x" * 300, 1)])


def test_children_of_an_object_have_names_of_their_own() -> None:
    reader = keys()
    alone = [("a", 1), (0, 2), ("0", 3)]
    assert reader.apart(alone) is alone
    named = reader.apart([("a", 1), ("a", 2), (0, 3), ("a", 4), ("b", 5)])
    assert named == [
        ("a", 1), (OddKey("<a #1>", False), 2), (0, 3), (OddKey("<a #2>", False), 4), ("b", 5),
    ]  # fmt: skip
    odd = OddKey("<a #3>", False)
    assert reader.apart([("a", 1), (odd, 2), ("a", 3)])[0:2] == [("a", 1), (odd, 2)]


# -- _metadata ----------------------------------------------------------------------------------------------


def metadata(limits: Limits | None = None) -> MetadataReader:
    return MetadataReader(PlainReader(), WalkBudget(limits or Limits()))


def with_metadata(*values: Any, name: Any = "_metadata") -> Any:
    made = ordered("w", 1)
    made.states = [DictNode([name, value]) for value in values]
    return made


def test_versions_and_other_facts_of_each_module() -> None:
    extra = ordered("a.version", 1, "a.names", ["x", "y"], 5, 6)
    known = DictNode(
        ["", DictNode(["version", 1]), "a", DictNode(["version", 2, "spectral_norm", extra, "flag", True]),
         "b", ordered("version", 3), "c", DictNode(["version", True]), "d", DictNode([]), "e", 5,
         6, DictNode(["version", 9]), "f", DictNode([7, 8, "version", None]), "g", DictNode(["version", "2"])]
    )  # fmt: skip
    reader = metadata()
    for node in (with_metadata(known), with_metadata(ordered(*known.items))):
        (found,) = reader.read(node)
        assert found[0] == {"": 1, "a": 2, "b": 3, "c": None, "d": None, "f": None, "g": None}
        assert found[1] == {
            "a": (
                (("spectral_norm", "a.version"), 1),
                (("spectral_norm", "a.names"), ("x", "y")),
                (("flag",), True),
            )
        }
    assert reader.take_objects() == []


@pytest.mark.parametrize(
    "node",
    [with_metadata(), with_metadata(5), with_metadata([1]), with_metadata("x"), with_metadata(None),
     with_metadata(DictNode(["", DictNode(["version", 1])]), name="metadata"),
     with_metadata(DictNode(["", DictNode(["version", 1])]), name=5)],
)  # fmt: skip
def test_what_is_no_metadata_says_nothing(node: Any) -> None:
    assert list(metadata().read(node)) == []


def test_metadata_that_many_share_is_read_once_and_counted() -> None:
    known = DictNode([item for at in range(5) for item in (f"m{at}", DictNode(["version", 1, "x", 2]))])
    reader = metadata()
    (first,) = reader.read(with_metadata(known))
    assert reader.budget.steps == 5 * 2
    (second,) = reader.read(with_metadata(known))
    assert second is first and reader.budget.steps == 5 * 2 + 5
    assert len(list(reader.read(with_metadata(known, known)))) == 2
    other = DictNode(list(known.items))
    (third,) = reader.read(with_metadata(other))
    assert third == first and third is not first
    small = metadata(Limits(entries=2))
    with pytest.raises(LimitExceeded):
        list(small.read(with_metadata(known)))


def test_facts_nest_one_deep_and_what_is_no_fact_is_kept_for_the_walk() -> None:
    objects = [called(f"m.C{at}") for at in range(4)]
    local = DictNode(
        [
            "version",
            1,
            "o",
            objects[0],
            "deep",
            DictNode(["fact", 1, "p", objects[1], 5, "no name", 7, None, 6, objects[2]]),
            "set",
            SetNode([1], False),
        ]
    )
    reader = metadata()
    (found,) = reader.read(with_metadata(DictNode(["a", local, "b", DictNode([7, objects[3]])])))
    assert found == ({"a": 1, "b": None}, {"a": ((("deep", "fact"), 1),)})
    taken = reader.take_objects()
    assert [node for node in taken if not isinstance(node, SetNode)] == [objects[0], objects[1], objects[2]]
    assert len(taken) == 4 and reader.take_objects() == []
    assert reader.budget.steps == 4 + 1 + 5


def test_a_version_that_is_one_level_down_is_no_version() -> None:
    (found,) = metadata().read(
        with_metadata(DictNode(["a", DictNode(["version", DictNode(["version", 5])])]))
    )
    assert found == ({"a": None}, {"a": ((("version", "version"), 5),)})
