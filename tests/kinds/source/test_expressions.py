"""Names that source puts together, held to those that Python makes of the same text."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.kinds.source.match import is_wild, matches
from tests.support.source_library import members

HEAD = "import torch\nfrom torch import nn\n\n\nclass C(nn.Module):\n    def __init__(self):\n"

WORDS = st.text("abcxyz", min_size=1, max_size=3)
LISTS = st.lists(WORDS, min_size=1, max_size=3, unique=True)


class Recorder:
    """In the place of a Module: it notes what is registered."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def register_buffer(self, name: str, value: object, persistent: bool = True) -> None:
        self.names.add(name)

    def note(self, name: str) -> None:
        self.register_buffer(name, None)


def run(body: str) -> set[str]:
    """The names that ``body`` registers when Python runs it."""
    recorder = Recorder()
    tensor = type("torch", (), {"zeros": staticmethod(lambda *_: None)})
    names: dict[str, Any] = {"self": recorder, "torch": tensor}
    exec(body, names)
    return recorder.names


def read(body: str) -> tuple[set[str], list[str]]:
    """The names, and the patterns, that the source is read to register."""
    helper = "\n    def note(self, name):\n        self.register_buffer(name, torch.zeros(1))\n"
    text = HEAD + textwrap.indent(body, " " * 8) + "\n"
    found = members(text + helper if "self.note(" in body else text)
    return set(found.by_name), [pattern for pattern, _ in found.by_pattern]


@st.composite
def loops(draw: st.DrawFn, number: int) -> tuple[str, list[str], list[str], bool]:
    """The head of a loop, its texts, its numbers, and whether each text may meet each other."""
    a, b, i = f"a{number}", f"b{number}", f"i{number}"
    first, second = draw(LISTS), draw(LISTS)
    pairs = dict(zip(first, second, strict=False))
    return draw(
        st.sampled_from(
            [
                (f"for {a} in {first}:", [a], [], True),
                (f"for {a} in {tuple(first)}:", [a], [], True),
                (f"for {a} in sorted({first}):", [a], [], True),
                (f"for {a} in {first} + {second}:", [a], [], True),
                (f"for {a} in [item + 'q' for item in {first}]:", [a], [], True),
                (f"for {a} in {pairs}:", [a], [], True),
                (f"for {i} in range(3):", [], [i], True),
                (f"for {i}, {a} in enumerate({first}):", [a], [i], True),
                (f"for {a}, {b} in zip({first}, {second}):", [a, b], [], False),
                (f"for {a}, {b} in {list(pairs.items())}:", [a, b], [], False),
                (f"for {a}, {b} in {pairs}.items():", [a, b], [], False),
            ]
        )
    )


@st.composite
def texts(draw: st.DrawFn, words: list[str], numbers: list[str]) -> str:
    """An expression for a name of these variables."""
    used = draw(st.lists(st.sampled_from(words + numbers), min_size=1, max_size=3, unique=True))
    plus = [name if name in words else f"str({name})" for name in used]
    percent = "_".join("%s" if name in words else draw(st.sampled_from(["%s", "%d"])) for name in used)
    tuple_text = f"({', '.join(used)},)"
    return draw(
        st.sampled_from(
            [
                "f'key_" + "_".join(f"{{{name}}}" for name in used) + "'",
                "f'key_" + "".join(f"{{{name}}}" for name in used) + "'",
                f"'key_{percent}' % {tuple_text}",
                f"'key_{'_'.join(['{}'] * len(used))}'.format({', '.join(used)})",
                f"'key_{'_'.join(f'{{{at}}}' for at in range(len(used)))}'.format({', '.join(used)})",
                f"'key_{'_'.join(f'{{n{at}}}' for at in range(len(used)))}'.format("
                + ", ".join(f"n{at}={name}" for at, name in enumerate(used))
                + ")",
                "'key_' + " + " + '_' + ".join(plus),
                f"'key_%(it)s' % {{'it': {used[0]}}}",
            ]
        )
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[str, bool]:
    """A text that registers buffers, and whether all of their names can be known."""
    lines: list[str] = []
    words: list[str] = []
    numbers: list[str] = []
    exact = True
    for depth in range(draw(st.integers(1, 3))):
        head, more_words, more_numbers, each = draw(loops(depth))
        lines.append("    " * depth + head)
        words, numbers = words + more_words, numbers + more_numbers
        exact = exact and each and not more_numbers
    inside = "    " * len(lines)
    name = draw(texts(words, numbers))
    how = draw(st.sampled_from(["direct", "local", "longer", "helper", "keyword"]))
    if how in ("local", "longer"):
        lines.append(f"{inside}name = {name}")
        name = "name"
    if how == "longer":
        lines.append(f"{inside}name += '_s'")
    if how == "helper":
        lines.append(f"{inside}self.note({name})")
    elif how == "keyword":
        lines.append(f"{inside}self.register_buffer(name={name}, value=torch.zeros(1))")
    else:
        lines.append(f"{inside}self.register_buffer({name}, torch.zeros(1))")
    return "\n".join(lines) + "\n", exact


def keyword(body: str) -> str:
    """Torch calls it ``tensor``; the recorder does not care."""
    return body.replace("value=", "tensor=")


@given(programs())
def test_every_name_that_python_makes_is_read(program: tuple[str, bool]) -> None:
    body, exact = program
    real = run(body)
    names, patterns = read(keyword(body))
    assert names.isdisjoint({"note"})
    unread = {name for name in real - names if not any(matches(pattern, name) for pattern in patterns)}
    assert not unread, (body, names, patterns)
    assert not any(map(is_wild, patterns)) or not real
    if exact and len(real) <= 64:
        assert names == real and not patterns, body


@pytest.mark.parametrize(
    ("body", "names", "patterns"),
    [
        ("self.register_buffer('a' 'b', torch.zeros(1))", {"ab"}, 0),
        ("self.register_buffer('%02d_x' % 3, torch.zeros(1))", set(), 1),
        ("self.register_buffer('{:>3}_xy'.format(3), torch.zeros(1))", set(), 1),
        ("self.register_buffer(f'{3:02d}_xy', torch.zeros(1))", set(), 1),
        ("self.register_buffer(torch.whatever(), torch.zeros(1))", set(), 1),
        ("self.register_buffer(f'{3!r}_xy', torch.zeros(1))", set(), 1),
        ("self.register_buffer('%%d_%s' % 'x', torch.zeros(1))", {"%d_x"}, 0),
        ("self.register_buffer('{{}}_{}'.format('x'), torch.zeros(1))", {"{}_x"}, 0),
        ("self.register_buffer('x' if torch.y else 'z', torch.zeros(1))", {"x", "z"}, 0),
        ("self.register_buffer(str(7), torch.zeros(1))", {"7"}, 0),
        ("self.register_buffer('a' + unknown, torch.zeros(1))", set(), 1),
        ("x = 'a'\nx = 'b'\nself.register_buffer(x, torch.zeros(1))", {"b"}, 0),
        ("(y := 'w')\nself.register_buffer(y, torch.zeros(1))", set(), 1),
    ],
)
def test_what_is_known_is_a_name_and_what_is_not_a_pattern(body: str, names: set[str], patterns: int) -> None:
    found, others = read(body)
    assert (found, len(others)) == (names, patterns)


@given(st.text(max_size=6).filter(lambda text: text.isprintable()))
def test_a_constant_is_itself_or_anything(text: str) -> None:
    """A text that holds what marks are made of says nothing of its name, never something else."""
    names, patterns = read(f"self.register_buffer({text!r}, torch.zeros(1))")
    assert names == {text} and not patterns


@pytest.mark.parametrize("mark", ["\x01", "\x02", "\x03"])
def test_marks_in_source_are_no_marks(mark: str) -> None:
    names, patterns = read(f"self.register_buffer({'ab' + mark!r}, torch.zeros(1))")
    assert names == set() and all(matches(pattern, f"ab{mark}") for pattern in patterns)
    names, patterns = read(f"self.register_buffer(f'ab{mark}', torch.zeros(1))")
    assert names == set() and all(matches(pattern, f"ab{mark}") for pattern in patterns)
