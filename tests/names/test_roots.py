"""``--root``: every spelling of a branch finds it, and what fits none or several is refused with a hint."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.names.roots import resolve_root
from ckpttool.values.checkpoint import Checkpoint, OddKey, Opaque, Value
from ckpttool.values.errors import CkptToolError
from tests.support.classified import checkpoint, entry

ODD = OddKey("(1, 2)", True)


def holding(*roots: tuple[Any, ...]) -> Checkpoint:
    return checkpoint([entry("weight", root=root) for root in roots])


TREE = holding(("model",), ("state", 0, "net"), ("a.b",), ("a", "b"), ('q"\\', 1), ("state", ODD), ("1",))


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("", ()),
        ("model", ("model",)),
        ('["model"]', ("model",)),
        ("state", ("state",)),
        ("state.0", ("state", 0)),
        ("state[0]", ("state", 0)),
        ("state[0].net", ("state", 0, "net")),
        ('state.0["net"]', ("state", 0, "net")),
        ('["a.b"]', ("a.b",)),
        ('["a"].b', ("a", "b")),
        ('a["b"]', ("a", "b")),
        ('["q\\"\\\\"][1]', ('q"\\', 1)),
        ('q"\\.1', ('q"\\', 1)),
        ("state[(1, 2)]", ("state", ODD)),
        ("state.(1, 2)", ("state", ODD)),
        ("1", ("1",)),
        (("state", 0), ("state", 0)),
        (("a.b",), ("a.b",)),
    ],
)
def test_a_branch_is_found_by_each_of_its_spellings(text: Any, root: tuple[Any, ...]) -> None:
    assert resolve_root(TREE, text) == root


@pytest.mark.parametrize(
    "text",
    ["mode", "model.", "model.x", "models", ".model", "state[1]", "state.0.", "0", "[0]", "[1]", 'state["0"]',
     ("state", "0"), ("model", "x"), ("x",), ("state", 0, "net", "weight")],
)  # fmt: skip
def test_what_spells_no_branch_is_refused(text: Any) -> None:
    with pytest.raises(CkptToolError) as caught:
        resolve_root(TREE, text)
    assert f"no branch {text!r}" in str(caught.value)
    assert caught.value.path == "x" and "--root takes one of" in (caught.value.hint or "")


def test_a_text_that_fits_several_branches_is_refused() -> None:
    with pytest.raises(CkptToolError, match=r"'a\.b' names 2 branches"):
        resolve_root(TREE, "a.b")
    with pytest.raises(CkptToolError, match="names 3 branches"):
        resolve_root(holding(("a.b.c",), ("a", "b.c"), ("a.b", "c")), "a.b.c")


def test_a_branch_of_values_or_objects_alone_is_one() -> None:
    source = checkpoint(
        [entry("w")], values=(Value(("args", "deep"), "lr", 1),), opaque=(Opaque(("held",), "o", "m.C", ""),)
    )
    for text, root in (("args", ("args",)), ("args.deep", ("args", "deep")), ("held", ("held",))):
        assert resolve_root(source, text) == root


@pytest.mark.parametrize(
    ("roots", "hint"),
    [
        ([()], "all tensors are at the top: leave --root out"),
        ([(0,), (1, "a")], "all tensors are at the top: leave --root out"),
        ([("a",), ("a",), ("b", 0), ("b", 1, "c"), ()], "--root takes one of: a, b"),
        ([("a", "b")], "--root takes one of: a.b"),
        ([(f"n{at}",) for at in range(9)], "--root takes one of: n0, n1, n2, n3, n4, n5, n6, n7, …"),
        ([(f"n{at}",) for at in range(8)], "--root takes one of: n0, n1, n2, n3, n4, n5, n6, n7"),
    ],
)  # fmt: skip
def test_the_hint_names_the_branches_up_to_their_first_number(roots: Any, hint: str) -> None:
    with pytest.raises(CkptToolError) as caught:
        resolve_root(holding(*roots), "nowhere")
    assert caught.value.hint == hint


keys = st.one_of(st.sampled_from(["a", "b", "a.b", "", ".", "[", '"', "\\", "0", "[0]"]), st.integers(-1, 2))


@given(st.lists(st.lists(keys, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6))
def test_the_quoted_spelling_is_never_another_branch(roots: list[tuple[Any, ...]]) -> None:
    """Text between quotes, with quotes and backslashes escaped, and numbers as they are."""
    source = holding(*roots)
    every = {root[:end] for root in roots for end in range(1, len(root) + 1)}
    for root in every:
        text = ""
        for key in root:
            quoted = str(key).replace("\\", "\\\\").replace('"', '\\"')
            text += f'["{quoted}"]' if isinstance(key, str) else f"[{key}]"
        try:
            assert resolve_root(source, text) == root
        except CkptToolError as error:
            assert "names" in str(error)  # a key that looks as another one is written, as "[0]"
        assert resolve_root(source, root) == root
