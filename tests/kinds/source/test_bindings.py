"""Arguments as Python gives them, names made of them, and whether conditions cover all that can be."""

from __future__ import annotations

import ast
import inspect
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.kinds.source.bindings import bind, cover_all, fill
from ckpttool.kinds.source.descriptions import ANY, ARG
from ckpttool.kinds.source.match import matches
from ckpttool.kinds.source.scan import scan_module

NAMES = ("a", "b", "c", "d")


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str]:
    """The head of a function, and a call of it that Python accepts or not."""
    names = NAMES[: draw(st.integers(1, 4))]
    defaults = draw(st.integers(0, len(names)))
    only = draw(st.integers(0, len(names)))  # by keyword alone from here on
    heads = [f"{name}={at * 10}" if at >= len(names) - defaults else name for at, name in enumerate(names)]
    if only < len(names):
        heads.insert(only, "*")
    given_ones = draw(st.lists(st.sampled_from(["1", "'x'", "None", "True"]), max_size=len(names)))
    by_name = draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names)))
    arguments = [*given_ones, *(f"{name}={at}" for at, name in enumerate(by_name))]
    return ", ".join(heads), ", ".join(arguments)


@given(calls())
def test_arguments_are_those_that_python_binds(call: tuple[str, str]) -> None:
    head, arguments = call
    text = f"from torch import nn\ndef make({head}):\n    return nn.Linear(a)\n"
    text += f"class C(nn.Module):\n    def __init__(self):\n        self.m(make({arguments}))\n"
    summary = scan_module(ast.parse(text), text, "m", False)
    functions: dict[str, Any] = {}
    exec(f"def make({head}): pass", functions)
    try:
        real = eval(f"signature(make).bind({arguments})", {**functions, "signature": inspect.signature})
    except TypeError:
        return  # no such call
    real.apply_defaults()
    [run] = [act for act in summary["classes"]["C"]["methods"]["__init__"]["acts"] if act[0] == "run"]
    [described] = run[5][0]
    assert described[:2] == ["call", "m.make"]
    said = bind(summary["functions"]["make"], described[2], {})
    assert said == {name: ["const", value] for name, value in real.arguments.items()}


@given(
    st.lists(st.sampled_from(["x", "_", f"{ARG}p{ARG}", f"{ARG}q{ARG}", f"{ARG}r{ARG}"]), max_size=5),
    st.dictionaries(
        st.sampled_from("pqr"), st.lists(st.text("abc", max_size=3), min_size=1, max_size=5, unique=True)
    ),
)
def test_a_name_is_filled_in_every_way(parts: list[str], values: dict[str, list[str]]) -> None:
    pattern = "".join(parts)
    found = fill(pattern, {name: ["name", texts] for name, texts in values.items()})
    assert len(found) <= 64 and len(set(found)) == len(found)
    ways = [values.get(part[1], ["wild"]) if part.startswith(ARG) else [part] for part in parts]
    real = {"".join(way) for way in itertools.product(*ways)}
    assert all(any(matches(text, name) for text in found) for name in real)
    if set("pqr") <= values.keys() and len(list(itertools.product(*ways))) <= 64:
        assert set(found) == real


def test_what_fills_itself_longer_and_longer_ends() -> None:
    binding: dict[str, list[Any]] = {"p0": ["const", "ab"]}
    for n in range(60):
        text = fill(f"{ARG}p{n}{ARG}{ARG}p{n}{ARG}", binding)
        binding[f"p{n + 1}"] = ["name", text]
    assert all(len(text) <= 256 for text in text) and any(ANY in text for text in text)


def opposite(atom: tuple[Any, ...]) -> tuple[Any, ...]:
    return (atom[0], {"true": "false", "false": "true", "is": "not", "not": "is"}[atom[1]], *atom[2:])


ATOMS = st.one_of(
    st.tuples(st.sampled_from("xyz"), st.sampled_from(["true", "false"])),
    st.tuples(st.sampled_from("xyz"), st.sampled_from(["is", "not"]), st.sampled_from([1, 2])),
    st.none(),
)


def holds(atom: tuple[Any, ...] | None, world: dict[str, int], lucky: bool) -> bool:
    if atom is None:
        return lucky
    if atom[1] in ("true", "false"):
        return bool(world[atom[0]]) is (atom[1] == "true")
    return (world[atom[0]] == atom[2]) is (atom[1] == "is")


def covered(clauses: list[frozenset[Any]]) -> bool:
    """Whether in every world, without luck, one of the clauses holds."""
    worlds = (dict(zip("xyz", values, strict=True)) for values in itertools.product(range(4), repeat=3))
    return all(any(all(holds(a, world, False) for a in clause) for clause in clauses) for world in worlds)


@given(st.lists(st.frozensets(ATOMS, max_size=3), max_size=6))
def test_what_is_said_to_cover_all_does(clauses: list[frozenset[Any]]) -> None:
    assert not cover_all(clauses) or covered(clauses)


@st.composite
def branches(draw: st.DrawFn, depth: int = 3) -> list[frozenset[Any]]:
    """The conditions of all ends of an if in an if."""
    if not depth or draw(st.booleans()):
        return [frozenset()]
    atom = draw(ATOMS.filter(lambda atom: atom is not None))
    assert atom is not None
    yes, no = draw(branches(depth - 1)), draw(branches(depth - 1))
    return [*(clause | {atom} for clause in yes), *(clause | {opposite(atom)} for clause in no)]


@given(branches(), st.data())
def test_all_ends_of_an_if_cover_all_and_none_of_them_may_be_left_out(
    clauses: list[frozenset[Any]], data: st.DataObject
) -> None:
    assert cover_all(clauses)
    fewer = list(clauses)
    fewer.remove(data.draw(st.sampled_from(clauses)))
    assert cover_all(fewer) is covered(fewer) or not cover_all(fewer)


@pytest.mark.parametrize("clauses", [[], [frozenset([None])], [frozenset([("x", "true")])]])
def test_nothing_and_luck_cover_nothing(clauses: list[frozenset[Any]]) -> None:
    assert not cover_all(clauses)
