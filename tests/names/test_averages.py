"""Averaged copies among names: what is one, what each is a copy of, and how much is looked at."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.names import averages as module
from ckpttool.names.averages import Average, find_averages, may_be_averaged, prefix_of
from tests.support.work import lines, seconds

EMA = ("model_ema.decay", "model_ema.num_updates")


def find(*names: str, shapes: dict[str, Any] | None = None) -> list[Average]:
    return find_averages(names, [(shapes or {}).get(name) for name in names])


def copies(*names: str, **more: Any) -> dict[str, str]:
    """The names that the only average says are copies, and of what."""
    (average,) = find(*names, **more)
    return {names[copy]: names[of] for copy, of in average.copies.items()}


# -- what says that an average lies below -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("ema.w", "ema."), ("a.ema.w", "a.ema."), ("a.model_ema.b.w", "a.model_ema."), ("ema.ema.w", "ema."),
        ("ema2.w", "ema2."), ("a.b.c.swa_model.x.y.w", "a.b.c.swa_model."), ("ema.0.w", "ema."),
        ("the-average-of.w", "the-average-of."),
        *[(f"{word}.w", f"{word}.") for word in sorted(module.WORDS - {"ema"})],
        # The last part is a tensor's own name; a number before it tells a layer.
        ("ema", ""), ("a.ema", ""), ("w", ""), ("", ""), ("0.ema.w", ""), ("a.12.ema.w", ""),
        # Whole words only, of small letters, as code writes names.
        ("schema.w", ""), ("emax.w", ""), ("averages.w", ""), ("EMA.w", ""), ("a.w", ""),
    ],
)  # fmt: skip
def test_a_word_in_a_part_before_the_last_and_before_any_number(name: str, prefix: str) -> None:
    assert prefix_of(name) == prefix
    assert may_be_averaged(name) or not prefix
    assert may_be_averaged(f"other\n{name}\nother") or not prefix


def test_most_files_are_done_with_after_one_search() -> None:
    assert not may_be_averaged("model.layers.0.weight\nmodel.layers.0.bias")
    assert all(map(may_be_averaged, module.WORDS))


# -- what is a copy of what ---------------------------------------------------------------------------------


def test_buffers_without_dots_beside_both_counters() -> None:
    names = ("net.a.w", "net.b.w", *EMA, "model_ema.bw", "model_ema.aw", "other")
    assert find(*names) == [Average("model_ema.", {4: 1, 5: 0}, (2, 3), True)]
    # With one counter only it is no LitEma, and there is nothing called aw.
    assert find(*names[:3], *names[4:]) == find(*names[:2], *names[3:]) == []
    # A name with a dot is none of its.
    assert find(*names, "model_ema.a.w") == []
    # What an original's name ends in need not begin at a dot: they are gone.
    assert copies("my.net_a.w", *EMA, "model_ema.aw") == {"model_ema.aw": "my.net_a.w"}


def test_a_module_below_its_counter_or_alone() -> None:
    names = ("a.w", "b.w", "swa.n_averaged", "swa.module.a.w", "swa.module.b.w")
    assert find(*names) == [Average("swa.", {3: 0, 4: 1}, (2,), False)]
    assert find(*names[:2], *names[3:]) == [Average("swa.", {2: 0, 3: 1}, (), False)]
    assert find("ema.a.w", "a.w") == [Average("ema.", {0: 1}, (), False)]
    # Counters alone are no copy; decay or num_updates may be the model's own as well.
    assert find("a.w", *EMA) == find("a.w", "ema.n_averaged") == []
    assert find("decay", "ema.decay") == []
    assert find("a.w", "ema.decay", "ema.a.w") == [Average("ema.", {2: 0}, (1,), False)]


def test_every_tensor_of_a_copy_has_another_of_its_name_and_shape() -> None:
    names = ("m.a.w", "m.b.w", "ema.a.w", "ema.b.w")
    assert copies(*names, shapes=dict.fromkeys(names, (2, 3))) == {names[2]: names[0], names[3]: names[1]}
    for at in range(4):
        assert find(*names, shapes={names[at]: (2,)}) == []
        assert find(*names[:at], *names[at + 1 :]) == [] or at > 1
    assert find(*names, "ema.c.w") == []
    assert copies(*names, "m.c.w") == copies(*names)


def test_the_place_of_the_originals_ends_with_a_part() -> None:
    assert find("my.xa.w", "ema.a.w") == []
    assert copies("x.a.w", "ema.a.w") == {"ema.a.w": "x.a.w"}
    assert copies("x.y.a.w", "ema.a.w") == {"ema.a.w": "x.y.a.w"}


def test_wrappers_count_on_neither_side() -> None:
    assert copies("module.net.a._orig_mod.w", "ema.module.a.w") == {
        "ema.module.a.w": "module.net.a._orig_mod.w"
    }
    assert copies("_orig_mod.a.w", "ema._orig_mod.a.w") == {"ema._orig_mod.a.w": "_orig_mod.a.w"}


def test_of_several_places_that_of_most_members_is_meant_and_then_the_first_that_has_all() -> None:
    student, teacher = ("s.a.w", "s.b.w"), ("t.a.w", "t.b.w")
    copy = ("ema.a.w", "ema.b.w")
    assert set(copies(*student, *teacher, *copy).values()) == set(student)
    assert set(copies(*teacher, *student, *copy).values()) == set(teacher)
    assert set(copies(teacher[0], *student, *copy).values()) == set(student)
    # One has more of the names, and one all of the shapes.
    shapes = {"t.a.w": (2,), "s.a.w": (3,), "ema.a.w": (3,)}
    assert set(copies(*teacher, *student, *copy, shapes=shapes).values()) == set(student)


def test_of_two_originals_alike_neither_is_named() -> None:
    """Without their dots, or without wrappers, two names may be one."""
    names = ("m.a.b", "m.ab", "m.c", *EMA, "model_ema.ab", "model_ema.c")
    assert copies(*names) == {"model_ema.c": "m.c"}
    assert copies("x.d", *names, "model_ema.d", "m.d") == {"model_ema.c": "m.c", "model_ema.d": "m.d"}
    assert copies(*names, shapes={"m.ab": (2,)}) == {"model_ema.ab": "m.a.b", "model_ema.c": "m.c"}
    assert copies("a.w", "a._orig_mod.w", "a.x", "ema.a.w", "ema.a.x") == {"ema.a.x": "a.x"}
    thrice = ("m.a.b.c", "m.ab.c", "m.a.bc", "m.d")
    assert copies(*thrice, *EMA, "model_ema.abc", "model_ema.d") == {"model_ema.d": "m.d"}


def test_an_average_is_no_original_of_another() -> None:
    first, second = find("a.w", "ema.a.w", "swa.a.w")
    assert [(item.prefix, dict(item.copies)) for item in (first, second)] == [
        ("ema.", {1: 0}),
        ("swa.", {2: 0}),
    ]
    assert find("ema.a.w", "swa.a.w") == []


def test_so_many_prefixes_are_looked_at_those_with_the_most_below(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.w", "b.w", "c.w"]
    for count, prefix in ((1, "ema1."), (3, "ema2."), (2, "ema3."), (1, "ema4.")):
        names += [f"{prefix}{name}" for name in names[:count]]
    assert [item.prefix for item in find(*names)] == ["ema2.", "ema3.", "ema1.", "ema4."]
    monkeypatch.setattr(module, "_MOST_PREFIXES", 3)
    assert [item.prefix for item in find(*names)] == ["ema2.", "ema3.", "ema1."]


def test_a_place_is_looked_for_by_so_many_of_the_longest_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place that one of them hints at is tried, as many places as names."""
    copy = ("ema.w", "ema.long.w", "ema.longer.w")
    hints = ("p.w", "q.w", "r.long.w", "p.longer.w")  # behind p. stand two of them
    whole = tuple(f"s.{name.removeprefix('ema.')}" for name in copy)
    assert set(copies(*hints, *copy, *whole).values()) == set(whole)
    monkeypatch.setattr(module, "_MOST_PROBES", 1)
    assert set(copies(*whole, *copy).values()) == set(whole)
    assert find("p.longer.w", *whole, *copy) == []  # the first place of one, and no other is tried
    assert set(copies("p.long.w", "p.w", *whole, *copy).values()) == set(whole)


def test_only_where_a_name_ends_as_a_member_does_is_a_place() -> None:
    """Names that are as long as a longer member would be, many in one place."""
    decoys = [f"d{at}.{part}.a.w" for at in range(4) for part in ("qqqq", "rrrr", "ssss")]
    assert copies(*decoys, "s.a.w", "s.longer.w", "ema.a.w", "ema.longer.w") == {
        "ema.a.w": "s.a.w", "ema.longer.w": "s.longer.w"
    }  # fmt: skip


def test_eight_prefixes_are_looked_at_and_four_places() -> None:
    assert len(find("a.w", *(f"ema{at}.a.w" for at in range(8)))) == 8
    assert [item.prefix for item in find("a.w", *(f"ema{at}.a.w" for at in range(9)))] == [
        f"ema{at}." for at in range(8)
    ]
    longest = [f"long{at}.w" for at in range(4)]
    copy = [f"ema.{name}" for name in (*longest, "w")]
    whole = [f"s.{name}" for name in (*longest, "w")]
    for decoys in (3, 4):  # each has all of the longest names and lacks the short one
        others = [f"d{at}.{name}" for at in range(decoys) for name in longest]
        assert len(find(*others, *whole, *copy)) == (decoys == 3)


PARTS = st.sampled_from(["a", "b", "ab", "w", "module", "ema", "my_swa", "0"])
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=3).map(".".join), max_size=7, unique=True)


@given(NAMES, st.lists(st.sampled_from([None, (2,)]), min_size=7, max_size=7), st.booleans())
def test_what_is_found_is_all_that_anybody_could_find(names: list[str], shapes: list[Any], lit: bool) -> None:
    """Place by place, with each prefix by itself."""
    if lit:
        names = [*names, "ema.decay", "ema.num_updates"]
        shapes = [*shapes, None, None]
    shapes = shapes[: len(names)]
    found = {item.prefix: item for item in find_averages(names, shapes)}
    prefixes = {prefix_of(name) for name in names} - {""}
    assert found.keys() <= prefixes
    for prefix in prefixes:
        below = {at for at, name in enumerate(names) if prefix_of(name) == prefix}
        rests = {at: names[at].removeprefix(prefix) for at in below}
        own = {at for at, rest in rests.items() if rest in ("decay", "num_updates", "n_averaged")}
        squashed = {"decay", "num_updates"} <= {rests[at] for at in own}
        # A leading module. is DataParallel's.
        bare = {at: bared(rests[at]) for at in below - own}
        if squashed and any("." in rest for rest in rests.values()):
            bare = {}
        others = {at: bared(name) for at, name in enumerate(names) if not prefix_of(name)}
        if squashed:
            others = {at: name.replace(".", "") for at, name in others.items()}
        ways = [way for way in places(others.values(), whole=not squashed) if bare and all(
            any(others[o] == way + bare[at] and shapes[o] == shapes[at] for o in others) for at in bare
        )]  # fmt: skip
        assert (prefix in found) == bool(ways), (prefix, ways)
        if ways:
            average = found[prefix]
            assert (set(average.own), average.squashed) == (own, squashed)
            said = []
            for way in ways:
                meant = {
                    at: [o for o in others if others[o] == way + bare[at] and shapes[o] == shapes[at]]
                    for at in bare
                }
                said.append({at: of[0] for at, of in meant.items() if len(of) == 1})
            assert dict(average.copies) in said


def bared(name: str) -> str:
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def places(names: Iterable[str], *, whole: bool) -> set[str]:
    """Every beginning of a name, of whole parts or not."""
    found = {name[:at] for name in names for at in range(len(name) + 1)}
    return {place for place in found if not whole or place[-1:] in ("", ".")}


# -- how much is looked at ----------------------------------------------------------------------------------


def test_work_is_linear_in_names() -> None:
    def work(layers: int) -> int:
        names = [f"model.layers.{at}.weight" for at in range(layers)]
        names += [f"model_ema.layers{at}weight" for at in range(layers)]
        names += ["model_ema.decay", "model_ema.num_updates"]
        shapes = [(2,)] * len(names)
        (average,) = find_averages(names, shapes)
        assert len(average.copies) == layers
        return lines(lambda: find_averages(names, shapes))

    assert work(400) < 2.3 * work(200)


def test_many_prefixes_cost_no_more_than_their_names() -> None:
    def work(prefixes: int) -> int:
        names = [f"ema{at}_ema.{leaf}.weight" for at in range(prefixes) for leaf in range(20)]
        assert find_averages(names, [(2,)] * len(names)) == []
        return lines(lambda: find_averages(names, [(2,)] * len(names)))

    assert work(80) < 2.3 * work(40)


def test_parts_of_a_name_cost_no_more_than_its_length() -> None:
    """A name of a megabyte, and names that wrappers alone tell apart."""
    wrappers = ["module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"]
    alike = [".".join([*chain, "w"]) for chain in itertools.product(wrappers, repeat=6)]
    cases = (
        ["ema.w", "a." * 500_000 + "w"],
        ["ema.w", "module." * 100_000 + "w"],
        ["ema.decay", "ema.num_updates", "ema.aw", "a." * 500_000 + "w"],
        [*alike, *(f"ema.{name}" for name in alike)],
    )

    def find() -> None:
        for names in cases:
            (average,) = find_averages(names, [(2,)] * len(names))
            assert set(average.copies.values()) <= {names.index(names[-1])}

    assert seconds(find) < 4
