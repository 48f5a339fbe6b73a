"""New names: prefixes are whole parts, rules follow one another, and two names never become one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.names.renames import make_rule, rename_all, rename_modules
from ckpttool.values.errors import CkptToolError


def renamed(name: str, strip: str | None = None, renames: tuple[str, ...] = (), add: str = "") -> str:
    rule = make_rule(strip, renames, add)
    assert rule is not None
    return rule(name)


def test_without_a_wish_there_is_no_rule() -> None:
    assert make_rule(None, (), "") is None
    assert make_rule("", (), "") is None


@pytest.mark.parametrize("prefix", ["net", "net."])
@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("net.a", "a"), ("net.net.a", "a"), ("net", "net"), ("net.", "net."), ("network.a", "network.a"),
        ("a.net.b", "a.net.b"), ("net.net.", "net."), ("", ""), ("net.b.net.c", "b.net.c"),
    ],
)  # fmt: skip
def test_a_prefix_goes_as_often_as_it_stands_there(prefix: str, name: str, bare: str) -> None:
    assert renamed(name, strip=prefix) == bare


@pytest.mark.parametrize("prefix", ["net", "net."])
def test_a_prefix_is_put_on_with_its_dot(prefix: str) -> None:
    assert renamed("a.b", add=prefix) == "net.a.b"


def test_wrappers_are_found_by_themselves() -> None:
    assert renamed("_orig_mod.module.a.weight", strip="auto") == "a.weight"
    assert renamed("auto.a", strip="auto") == "auto.a"
    assert renamed("auto.a", strip="auto.") == "a"


def test_each_rule_sees_what_the_one_before_it_made() -> None:
    rules = (r"^a\.=>b.", r"^b\.=>c.", r"(\w)$=>\1\1")
    assert renamed("net.a.x", "net", rules, "new") == "new.c.xx"
    assert renamed("net.a.x", None, rules[::-1], "new.") == "new.net.a.xx"
    assert renamed("a=>b", renames=("a=>x=>y",)) == "x=>y=>b"
    assert renamed("a.b", renames=(r"\.=>",)) == "ab"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "is not of the form REGEX=>REPL"), ("=>b", "is not of the form REGEX=>REPL"),
        ("", "is not of the form REGEX=>REPL"), ("a->b", "is not of the form REGEX=>REPL"),
        ("(=>b", "is not a regular expression"), (r"a=>\1", "is not a regular expression"),
        (r"a=>\g<x>", "is not a regular expression"), ("a{99999999999}=>b", "is not a regular expression"),
    ],
)  # fmt: skip
def test_what_is_no_rename_is_refused_at_once(text: str, words: str) -> None:
    with pytest.raises(CkptToolError) as caught:
        make_rule(None, (text,), "")
    assert words in str(caught.value) and repr(text) in str(caught.value)


names = st.lists(st.sampled_from(["a.x", "b.x", "net.a.x", "net.b.x", "a", "b", "net.", "c"]), unique=True)


@given(names, st.sampled_from(["a=>b", "net.=>", "x$=>y", r"^(.).*=>\1", "q=>r"]))
def test_two_names_that_would_be_one_are_refused_and_both_are_named(some: list[str], text: str) -> None:
    pattern, _, replacement = text.partition("=>")
    new = {name: re.sub(pattern, replacement, name) for name in some}
    rule = make_rule(None, (text,), "")
    assert rule is not None
    if len(set(new.values())) == len(some):
        assert rename_all(some, rule, "f.pt") == {old: to for old, to in new.items() if old != to}
        return
    with pytest.raises(CkptToolError) as caught:
        rename_all(some, rule, "f.pt")
    second = next(name for at, name in enumerate(some) if new[name] in [new[other] for other in some[:at]])
    first = next(name for name in some if new[name] == new[second])
    assert f"{first!r} and {second!r} would both be called {new[second]!r}" in str(caught.value)
    assert caught.value.path == "f.pt" and "--drop" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("paths", "wish", "moved"),
    [
        (["", "module", "module.a"], ("module", (), ""), {"module": "", "module.a": "a"}),
        (["", "a", "a.b"], (None, (), "net"), {"": "net", "a": "net.a", "a.b": "net.a.b"}),
        (["a", "b", "a.c"], (None, ("^b=>a",), ""), {"a": "a", "a.c": "a.c"}),
        (["b", "a"], (None, ("^b=>a",), ""), {"b": "a"}),
        (["", "a"], (None, ("\0=>x",), ""), {}),
        (["a"], (None, ("^a$=>b",), ""), {"a": "a"}),
        (["a", "a.weight"], (None, (r"^a\.weight=>c",), ""), {"a": "a", "a.weight": "c"}),
        (["", "module", "module.module"], ("auto", (), ""), {"module.module": ""}),
        (["a.b", ""], (None, (r"^a\.b\.=>",), ""), {"a.b": ""}),
    ],
)
def test_modules_move_with_their_names(
    paths: list[str], wish: tuple[str | None, tuple[str, ...], str], moved: dict[str, str]
) -> None:
    """The top moves with what was around it; of two that meet the wrapper's own path gives way."""
    rule = make_rule(*wish)
    assert rule is not None
    found = rename_modules(dict.fromkeys(paths, 1), rule)
    assert found == moved
    assert list(found) == [path for path in paths if path in moved]
