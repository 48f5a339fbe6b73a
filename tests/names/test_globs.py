"""Globs over names, paths and branches, against ``fnmatchcase`` asked of each of them."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.names.globs import Globs, make_filter
from ckpttool.values.checkpoint import Key, OddKey, Root

KEYS: st.SearchStrategy[Key] = st.sampled_from(
    ["a", "b", "a.b", "A", "", "*", "1", 1, OddKey("(1, 2)", True)]
)
ROOTS = st.lists(KEYS, max_size=3).map(tuple)
GLOBS = st.lists(
    st.sampled_from(
        ["a", "a.b", "*.a", "a.*", "A", "?", "[ab]", "*", "1", "", "a.?.b", "b.a.1", "(1, 2)", "[*]"]
    ),
    max_size=3,
)


def fits(globs: list[str], root: Root, name: Key) -> bool:
    path = [*map(str, root), str(name)]
    asked = [path[-1], *(".".join(path[:end]) for end in range(1, len(path)))]
    if root:
        asked.append(".".join(path))
    return any(fnmatchcase(text, glob) for text in asked for glob in globs)


@given(GLOBS, st.lists(st.tuples(ROOTS, KEYS), max_size=6))
def test_a_glob_fits_the_name_the_path_or_a_branch_above(
    globs: list[str], leaves: list[tuple[Root, Key]]
) -> None:
    made = Globs(globs)
    assert bool(made) is bool(globs)
    for root, name in leaves:
        assert made.match(root, name) is fits(globs, root, name)
        # The last key of a branch is no name of its own there.
        above = [".".join(map(str, root[:end])) for end in range(1, len(root) + 1)]
        assert made.match_branch(root) is any(fnmatchcase(path, glob) for path in above for glob in globs)


@given(GLOBS, GLOBS, ROOTS, KEYS)
def test_what_is_excluded_is_out_and_without_a_glob_all_is_in(
    include: list[str], exclude: list[str], root: Root, name: Key
) -> None:
    wanted = not include or fits(include, root, name)
    assert make_filter(include, exclude)(root, name) is (wanted and not fits(exclude, root, name))


@pytest.mark.parametrize(("glob", "name", "there"), [("W", "w", False), ("w", "w", True), ("w", "ww", False)])
def test_case_matters_and_a_glob_is_whole(glob: str, name: str, there: bool) -> None:
    assert Globs([glob]).match((), name) is there
    assert Globs([]).match((glob,), glob) is False
    assert Globs([]).match_branch((glob,)) is False
