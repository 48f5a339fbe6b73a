"""What a constructor registers, held to what Python does with the same text for every choice of arguments."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ckpttool.kinds.source.instances import BUFFER, PARAMETER, Instance
from ckpttool.kinds.source.library import SourceClass
from tests.support.source_library import interpret, members

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import Parameter\n\n\n"
CLASS = "class C(nn.Module):\n    def __init__(self, x, y, z):\n        super().__init__()\n"
VALUES = (None, False, True, 2, 3)
TESTS = (
    "x",
    "not y",
    "x and y",
    "x or z",
    "x is None",
    "y is not None",
    "z == 3",
    "z != 2",
    "x and not z",
    "not (x or y)",
)


class FakeParameter:
    """In the place of a Parameter."""


class Recorder:
    """In the place of a Module: what is registered, and of which kind."""

    def __init__(self) -> None:
        object.__setattr__(self, "found", {})

    def register_buffer(self, name: str, value: Any, persistent: bool = True) -> None:
        self.found[name] = BUFFER

    def register_parameter(self, name: str, value: Any) -> None:
        self.found[name] = PARAMETER

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, FakeParameter):
            self.found[name] = PARAMETER


@st.composite
def bodies(draw: st.DrawFn, depth: int = 3) -> str:
    """Statements that register, some of them under conditions of the arguments."""
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["register", "register", "if", "if", "leave"])) if depth else "register"
        if kind == "register":
            name = draw(st.sampled_from(["gate", "mask", "table"]))
            lines.append(
                draw(
                    st.sampled_from(
                        [
                            f"self.{name} = Parameter(torch.rand(1))",
                            f"self.register_buffer('{name}', torch.rand(1))",
                            f"self.register_parameter('{name}', Parameter(torch.rand(1)))",
                        ]
                    )
                )
            )
            continue
        test = draw(st.sampled_from(TESTS))
        if kind == "leave":
            lines += [f"if {test}:", "    return"]
            continue
        lines += [f"if {test}:", textwrap.indent(draw(bodies(depth - 1)), "    ")]
        if draw(st.booleans()):
            lines += [
                f"elif {draw(st.sampled_from(TESTS))}:",
                textwrap.indent(draw(bodies(depth - 1)), "    "),
            ]
        if draw(st.booleans()):
            lines += ["else:", textwrap.indent(draw(bodies(depth - 1)), "    ")]
    return "\n".join(lines)


def run(body: str) -> list[dict[str, str]]:
    """What is registered for every choice of the arguments."""
    scope: dict[str, Any] = {
        "torch": type("torch", (), {"rand": staticmethod(lambda *_: None)}),
        "Parameter": lambda _: FakeParameter(),
    }
    exec(f"def init(self, x, y, z):\n{textwrap.indent(body, '    ')}\n", scope)
    found = []
    for values in itertools.product(VALUES, repeat=3):
        recorder = Recorder()
        scope["init"](recorder, *values)
        found.append(recorder.found)
    return found


@given(bodies())
def test_kinds_and_what_is_sure_hold_for_every_choice_of_arguments(body: str) -> None:
    worlds = run(body)
    found = members(HEAD + CLASS + textwrap.indent(body, " " * 8) + "\n")
    assert not found.by_pattern
    for name in {name for world in worlds for name in world}:
        real = {world[name] for world in worlds if name in world}
        attribute = found.by_name[name]
        assert real <= attribute.kinds, (body, name)
        assert not attribute.sure or all(name in world for world in worlds), (body, name)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, tuple[Any, ...]]:
    values = tuple(draw(st.sampled_from(VALUES)) for _ in "xyz")
    how = draw(
        st.sampled_from(["C({!r}, {!r}, {!r})", "C({!r}, z={2!r}, y={1!r})", "C(x={!r}, y={!r}, z={!r})"])
    )
    how = how.replace("C({!r}, z", "C({0!r}, z")
    return how.format(*values), values


@given(bodies(), calls())
def test_of_a_call_with_constants_everything_is_known(body: str, call: tuple[str, tuple[Any, ...]]) -> None:
    text, values = call
    worlds = dict(zip(itertools.product(VALUES, repeat=3), run(body), strict=True))
    world = worlds[values]
    source = HEAD + CLASS + textwrap.indent(body, " " * 8)
    source += f"\n\n\nclass Outer(nn.Module):\n    def __init__(self):\n        self.part = {text}\n"
    interpreter = interpret(source)
    outer = interpreter.library.resolve("pkg.m.Outer")
    assert isinstance(outer, SourceClass)
    [item] = interpreter.members(Instance(outer, ())).by_name["part"].value.types
    assert isinstance(item, Instance)
    found = interpreter.members(item).by_name
    for name, kind in world.items():
        assert kind in found[name].kinds, (body, text, name)
    for name, attribute in found.items():
        assert not attribute.sure or name in world, (body, text, name)
