"""How a state_dict is cut into modules, and whether its order, its norms and its age say anything."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.kinds.state_dict import group_by_module, judge_state_dict, stands_as_written
from ckpttool.values.checkpoint import Basis, Classification, Entry, Kind, OddKey
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN, entry
from tests.support.work import lines

NORM = ("weight", "bias", "running_mean", "running_var")
COUNTER = "num_batches_tracked"
SAID = Classification(PARAMETER, Basis.PICKLED_PARAMETER)


def judge(
    *entries: Entry | str,
    given: dict[int, Classification] | None = None,
    versions: Any = None,
    ordered: bool = True,
) -> list[Classification]:
    made = [item if isinstance(item, Entry) else entry(item) for item in entries]
    known = [(given or {}).get(at) for at in range(len(made))]
    return judge_state_dict(made, known, versions or {}, ordered)


def kinds(*entries: Entry | str, **more: Any) -> list[Kind]:
    return [said.kind for said in judge(*entries, **more)]


# -- modules ----------------------------------------------------------------------------------------------


def test_entries_are_grouped_by_the_path_of_their_module() -> None:
    entries = [entry(name) for name in ("a.b.w", "a.b.x", "a.w", "w", OddKey("1", True), "b.w")]
    assert group_by_module(entries) == ({"a.b": [0, 1], "a": [2], "": [3, 4], "b": [5]}, True)
    torn = [entry(name) for name in ("a.w", "b.w", "a.x")]
    assert group_by_module(torn) == ({"a": [0, 2], "b": [1]}, False)
    assert group_by_module([]) == ({}, True)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("upsample", "upsample"), ("a.upsample", "upsample"), ("upsample.0", "upsample"),
        ("upsample.0.12", "upsample"), ("a.upsample.0.1.2.3.4.5.6", "upsample"), ("upsample.x", "x"),
        ("upsample.0x", "0x"), ("0", "0"), ("0.1", "0"),
    ],
)  # fmt: skip
def test_a_module_has_the_name_of_its_last_part_that_is_no_number(path: str, name: str) -> None:
    """``filter`` is a buffer in an ``upsample``, and either elsewhere."""
    assert kinds(f"{path}.filter") == [BUFFER if name == "upsample" else UNKNOWN]


def test_so_many_numbers_are_looked_behind() -> None:
    deepest = ".0" * 7
    assert kinds(f"a.upsample{deepest}.filter") == [BUFFER]
    assert kinds(f"a.upsample{deepest}.0.filter") == [UNKNOWN]


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("a.parametrizations.weight", True), ("parametrizations.weight", True),
        ("a.parametrizations.weight.0", True), ("a.b.parametrizations.weight.0", True),
        ("my_parametrizations.weight", False), ("a.parametrizations", False), ("parametrizations", False),
        ("parametrizations.weight.x", False), ("parametrization.weight", False), ("a.weight", False),
    ],
)  # fmt: skip
def test_what_is_under_parametrizations_is_of_one(path: str, inside: bool) -> None:
    found = judge(f"{path}.original", ordered=False)[0]
    assert (found.kind, found.basis is Basis.SIBLING) == ((PARAMETER, True) if inside else (UNKNOWN, False))


def test_the_last_part_is_the_name() -> None:
    assert kinds("a.weight.x", "weight", "a.b.weight", OddKey("weight", True), "") == [
        UNKNOWN, PARAMETER, PARAMETER, UNKNOWN, UNKNOWN,
    ]  # fmt: skip


def test_extra_state_is_that_unless_something_else_is_said() -> None:
    value = Entry((), "a._extra_state", None)
    (found,) = judge(value)
    assert (found.kind, found.basis) == (Kind.EXTRA_STATE, Basis.NAME) and "get_extra_state" in found.note
    assert judge(value, given={0: SAID}) == [SAID]
    assert kinds("a._extra_states", "a.extra_state") == [UNKNOWN, UNKNOWN]


def test_an_entry_without_a_value_has_a_name_and_no_more() -> None:
    nothing = [Entry((), f"a.{name}", None) for name in ("weight", "thing", "freqs")]
    assert kinds(*nothing) == [PARAMETER, UNKNOWN, UNKNOWN]
    assert kinds(entry("a.freqs", shape=(4,))) == [BUFFER]  # told by its shape


def test_equal_modules_are_judged_alike_and_unequal_ones_apart() -> None:
    """By dtype, shape, version, what is given, and the name of the module."""
    entries = [entry(f"m{at}.thing") for at in range(3)] + [
        entry("m3.thing", "int64"),
        entry("m4.thing", shape=(0,)),
    ]
    found = judge(*entries, given={1: SAID})
    assert [said.kind for said in found] == [UNKNOWN, PARAMETER, UNKNOWN, BUFFER, BUFFER]
    norms = [f"n{at}.{name}" for at in range(2) for name in NORM]
    found = judge(*norms, versions={"n0": 1, "n1": 2})
    assert [said.kind for said in found] == [BUFFER] * 4 + [PARAMETER] * 2 + [BUFFER] * 2


# -- norms and age ----------------------------------------------------------------------------------------


def norm(path: str, *sizes: int | None, counter: bool = False) -> list[Entry]:
    """weight, bias, running_mean, running_var of these sizes; None where there is none."""
    named = zip(NORM, sizes, strict=True)
    made = [entry(f"{path}{name}", shape=(size,)) for name, size in named if size is not None]
    return made + ([entry(f"{path}{COUNTER}", "int64", ())] if counter else [])


@pytest.mark.parametrize("path", ["n.", "", "a.n."])
@pytest.mark.parametrize(
    ("sizes", "frozen"),
    [
        ((4, 4, 4, 4), True), ((5, 4, 4, 4), False), ((4, 5, 4, 4), False), ((4, 4, 5, 4), False),
        ((4, 4, 4, 5), False), ((4, None, 4, 4), False), ((4, 4, 4, None), False), ((4, 4, None, 4), False),
    ],
)  # fmt: skip
def test_a_frozen_norm_has_four_tensors_of_one_shape(path: str, sizes: Any, frozen: bool) -> None:
    found = kinds(*norm(path, *sizes), versions={path[:-1]: 1})
    assert found[0] is (BUFFER if frozen else PARAMETER)


@pytest.mark.parametrize(
    ("other", "own"),
    [
        ((6, 4, 4, 4), True), ((6, 6, 4, 4), True), ((4, 6, 4, 4), True), ((6, None, 4, 4), True),
        ((4, None, 4, 4), False), ((None, 4, 4, 4), False), ((4, 4, 6, 4), False), ((4, 4, 4, 4), False),
        ((None, None, 4, 4), False),
    ],
)  # fmt: skip
def test_whoever_writes_norms_by_hand_freezes_none(other: Any, own: bool) -> None:
    """A weight or bias of another shape than its statistics, without a counter."""
    frozen = norm("n.", 4, 4, 4, 4)
    one, more = norm("o.", *other), norm("p.", 3, 3, 3, 3)
    plain = norm("q.", 5, None, 5, 5)  # uneven, and of nobody's own making
    for entries in ([*frozen, *one], [*one, *frozen], [*one, *more, *frozen], [*one, *plain, *frozen]):
        found = dict(zip([item.name for item in entries], kinds(*entries, versions={"n": 1}), strict=True))
        assert found["n.weight"] is (PARAMETER if own else BUFFER)
        counted = [*entries, entry(f"o.{COUNTER}", "int64", ())]
        found = dict(zip([item.name for item in counted], kinds(*counted, versions={"n": 1}), strict=True))
        assert found["n.weight"] is BUFFER


@pytest.mark.parametrize(
    ("ordered", "counter", "kind"),
    [(True, False, UNKNOWN), (True, True, BUFFER), (False, False, BUFFER), (False, True, BUFFER)],
)
def test_a_counter_anywhere_or_a_container_of_today_dates_a_file(
    ordered: bool, counter: bool, kind: Kind
) -> None:
    entries = [*norm("n.", 4, 4, 4, 4), *norm("o.", 3, 3, 3, 3, counter=counter)]
    assert kinds(*entries, ordered=ordered)[0] is kind


@pytest.mark.parametrize("name", ["x", "running_mask", "running_means", "a_name_longer_than_that"])
def test_what_has_no_statistics_is_no_norm(name: str) -> None:
    """A frozen one stays one, whatever is beside it."""
    others = [entry("o.weight", shape=(9,)), entry(f"o.{name}"), entry(name), entry(f"n.x.{name}")]
    for entries in ([*norm("n.", 4, 4, 4, 4), *others], [*others, *norm("n.", 4, 4, 4, 4)]):
        found = dict(zip([item.name for item in entries], kinds(*entries, versions={"n": 1}), strict=True))
        assert (found["n.weight"], found["n.bias"], found["o.weight"]) == (BUFFER, BUFFER, PARAMETER)


def test_many_norms_cost_no_more_than_their_number() -> None:
    few, many = ([item for at in range(n) for item in norm(f"n{at}.", 4, 4, 4, 4)] for n in (100, 200))
    assert lines(lambda: judge(*many)) < 2.3 * lines(lambda: judge(*few))


# -- order ------------------------------------------------------------------------------------------------


def uses_order(*names: str, ordered: bool = True) -> bool:
    """Whether what follows a counter is a buffer by its place."""
    probes = [entry("zz.steps", "int64", ()), entry("zz.thing")]
    found = judge(*[entry(name) for name in names], *probes, ordered=ordered)
    assert found[-1].kind in (UNKNOWN, BUFFER)
    return found[-1].basis is Basis.ORDER


@pytest.mark.parametrize(
    ("names", "registered"),
    [
        (("b.weight", "b.bias", "a.weight", "a.bias"), True),
        (("a.weight", "a.bias"), True),
        (("a.bias", "a.weight"), False),
        (("a.weight", "a.bias", "b.bias", "b.weight"), False),
        (("a.weight", "a.bias", "c.weight", "c.bias", "b.bias", "b.weight"), True),
        (("a.bias", "a.weight", "b.bias", "b.weight", "c.weight", "c.bias"), False),
        # A sorted file, and one that is not, where no module has both.
        (("a.weight", "b.weight"), False),
        (("b.weight", "a.weight"), True),
        (("b.bias", "b.weight", "a.bias", "a.weight"), False),
        (("a.weight", "b.weight", "b.bias", "c.weight"), True),
        (("a.x", "a.w"), True),
        (("a.w", "a.x"), False),
        (("a.x", "a.x"), False),
        # A batch norm that was sorted, whatever others say.
        (("n.weight", "n.running_mean", "a.weight", "a.bias"), True),
        (("a.weight", "a.bias", "n.running_mean", "n.weight"), False),
        (("n.running_mean", "n.weight", "a.weight", "a.bias"), False),
        (("n.running_mean", "n.bias", "b.weight", "b.bias"), True),
        # What a parent has stands before its children, and modules stand together.
        (("a.weight", "a.bias", "a.b.weight"), True),
        (("a.b.weight", "a.weight", "a.bias"), False),
        (("a.b.c.weight", "a.weight", "a.bias"), False),
        (("a.b.c.weight", "weight", "bias"), False),
        (("a.weight", "b.weight", "b.bias", "a.bias"), False),
    ],
)
def test_an_order_counts_where_nothing_shows_that_a_tool_sorted(
    names: tuple[str, ...], registered: bool
) -> None:
    assert uses_order(*names) is registered
    assert not uses_order(*names, ordered=False)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        ((), True), (("b.w", "a.w"), True), (("a.w", "a.b.w"), True), (("a.b.w", "a.w"), True),
        (("b.w", "b.a.w", "b.w2"), False), (("b.c.w", "b.a"), False), (("b.x", "a.x", "b.y"), False),
        (("a.x", "a.x"), True), (("a.b.w", "a.w", "a.w"), True), (("a.b.x", "a.b.x", "a.c"), True),
        (("b.c.d.w", "a", "b.x"), False),
    ],
)  # fmt: skip
def test_what_was_put_in_by_hand_stands_behind_the_rest(names: tuple[str, ...], written: bool) -> None:
    """In the order of registration, or of the names."""
    assert stands_as_written([entry(name) for name in names]) is written


def test_parents_are_looked_for_so_many_levels_up() -> None:
    deep = ".".join("m" * 65)
    assert not uses_order(f"{deep}.weight", f"{deep[2:]}.x", "m.weight", "m.bias")
    assert not uses_order(f"{deep}.weight", "m.weight", "m.bias")
    assert uses_order(f"{deep}.m.weight", "m.weight", "m.bias")
    # Above what is a parent already nothing is looked for.
    twice = ".".join("m" * 128)
    assert uses_order(f"{twice}.weight", f"{twice[:127]}.x.weight", "m.weight", "m.bias")


def test_what_has_no_end_of_parts_costs_no_more_than_its_length() -> None:
    few, many = (["." * 50 + str(at) for at in range(count)] for count in (100, 200))
    entries = [[entry(name) for name in names] for names in (few, many)]
    assert lines(lambda: judge(*entries[1])) < 2.3 * lines(lambda: judge(*entries[0]))
