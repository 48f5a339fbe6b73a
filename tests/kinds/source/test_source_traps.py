"""Source that a naive reader never comes to the end of is read in bounded time, and rightly where it can."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator

import pytest

from ckpttool.kinds.source.match import Matcher, matches
from ckpttool.kinds.source.modules import grow
from tests.support.source_library import interpret, members

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import Parameter\n"
GENEROUS = 10.0  # CPU seconds, for what takes a hundredth of it


@pytest.fixture(autouse=True)
def ends_soon() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < GENEROUS


def constructor(body: str, rest: str = "") -> str:
    head = "class C(nn.Module):\n    def __init__(self, flag=True, names=()):\n"
    return HEAD + head + textwrap.indent(textwrap.dedent(body), " " * 8) + rest


def fits(name: str, found: object) -> bool:
    assert hasattr(found, "by_name") and hasattr(found, "by_pattern")
    return name in found.by_name or any(matches(pattern, name) for pattern, _ in found.by_pattern)


def test_a_name_that_grows_in_a_loop() -> None:
    body = "name = 'x'\nfor a in ('p', 'q', 'r'):\n    name = name + '_' + a\n" * 60
    found = members(constructor(body + "self.register_buffer(name, torch.rand(1))\n"))
    assert len(found.by_name) + len(found.by_pattern) <= 64
    grown = constructor("x = 'aa'\n" + "x = x + x\n" * 40 + "self.register_buffer(x, torch.rand(1))\n")
    assert members(grown).by_name.keys() | members(grown).by_pattern


def test_loops_in_loops() -> None:
    body, names = "", "abcdef"
    for depth, name in enumerate(names):
        body += "    " * depth + f"for {name} in ('1', '2', '3', '4', '5'):\n"
    inside = "    " * len(names)
    text = "".join(f"{{{name}}}" for name in names)
    found = members(constructor(body + f"{inside}self.register_buffer(f'mask{text}', torch.rand(1))\n"))
    assert fits("mask123451", found) and not fits("gate123451", found)
    assert len(found.by_name) + len(found.by_pattern) <= 64


def test_branches_in_a_row() -> None:
    """Two to the power of how many: each may add to the name."""
    body = "name = 'mask'\n" + "".join(f"if flag == {n}:\n    name = name + '_{n}'\n" for n in range(200))
    found = members(constructor(body + "self.register_buffer(name, torch.rand(1))\n"))
    assert len(found.by_name) + len(found.by_pattern) <= 64


def test_conditions_in_conditions() -> None:
    body = ""
    for depth in range(60):
        body += "    " * depth + f"if names[{depth}]:\n"
    body += "    " * 60 + "self.gate = Parameter(torch.rand(1))\n"
    found = members(constructor(body))
    assert not found.by_name["gate"].sure


def test_every_condition_registers_the_same() -> None:
    """As many clauses as there are: whether one always holds is not searched for without end."""
    body = "".join(
        f"if names[{n}] and names[{n + 1}] and flag != {n}:\n    self.gate = Parameter(torch.rand(1))\n"
        for n in range(120)
    )
    assert not members(constructor(body)).by_name["gate"].sure


def test_methods_that_call_each_other() -> None:
    calls = "\n".join(f"        self.m{n}(name + '{n}')" for n in range(12))
    rest = "\n" + "\n".join(
        f"    def m{n}(self, name):\n        self.register_buffer(name, torch.rand(1))\n{calls}"
        for n in range(12)
    )
    found = members(constructor("self.m0('mask')\n", rest))
    assert fits("mask", found)


def test_a_method_that_gives_what_it_gives() -> None:
    rest = "\n    def make(self):\n        return self.make() if self.x else self.other()\n"
    rest += "\n    def other(self):\n        return self.make()\n"
    found = members(constructor("self.part = self.make()\n", rest))
    assert fits("part", found)


def test_functions_that_give_each_other() -> None:
    text = "".join(f"def f{n}(x):\n    return f{(n + 1) % 30}(f{(n + 2) % 30}(x))\n\n" for n in range(30))
    found = members(HEAD + text + constructor("self.part = f0(1)\n").removeprefix(HEAD))
    assert fits("part", found)


def test_a_class_that_is_built_of_itself() -> None:
    text = constructor("self.gate = Parameter(torch.rand(1))\nself.left = C(not flag)\nself.right = C()\n")
    matcher = Matcher(interpret(text))
    root = grow(enumerate(["left." * depth + "gate" for depth in range(40)]))
    assert matcher.search(root)


def test_deep_inheritance() -> None:
    text = (
        HEAD + "class C0(nn.Module):\n    def __init__(self):\n        self.g0 = Parameter(torch.rand(1))\n"
    )
    for n in range(1, 400):
        text += f"class C{n}(C{n - 1}):\n    def __init__(self):\n        super().__init__()\n"
        text += f"        self.g{n} = Parameter(torch.rand(1))\n"
    assert members(text, "pkg.m.C6").by_name.keys() == {f"g{n}" for n in range(7)}
    assert fits("g399", members(text, "pkg.m.C399"))


def test_wide_inheritance() -> None:
    """A lattice: from the lowest class each row can be reached in as many ways as there are paths."""
    text = HEAD + "class A0(nn.Module): pass\nclass B0(nn.Module): pass\n"
    for n in range(1, 30):
        text += f"class A{n}(A{n - 1}, B{n - 1}): pass\nclass B{n}(A{n - 1}, B{n - 1}): pass\n"
    text += "class C(A29, B29):\n    def __init__(self):\n        self.gate = Parameter(torch.rand(1))\n"
    assert fits("gate", members(text))


def test_classes_that_are_bases_of_each_other() -> None:
    text = HEAD
    for name, base in (("C", "D"), ("D", "E"), ("E", "C"), ("F", "F")):
        text += f"class {name}({base}):\n    def __init__(self):\n        super().__init__()\n"
        text += f"        self.gate_{name} = Parameter(torch.rand(1))\n"
    for name in "CDEF":
        assert fits(f"gate_{name}", members(text, f"pkg.m.{name}"))


def test_aliases_of_aliases() -> None:
    chain = "".join(f"A{n} = A{n + 1}\n" for n in range(200)) + "A200 = A0\n"
    ring = constructor("self.part = A0()\n").removeprefix(HEAD)
    assert fits("part", members(HEAD + chain + ring))
    few = "class P(nn.Module):\n    def __init__(self):\n        self.gate = Parameter(torch.rand(1))\n"
    few += "A0 = P\n" + "".join(f"A{n + 1} = A{n}\n" for n in range(5))
    found = members(HEAD + few + constructor("self.part = A5()\n").removeprefix(HEAD))
    assert [str(item.cls.dotted) for item in found.by_name["part"].value.types] == ["pkg.m.P"]


def test_modules_that_import_each_other() -> None:
    texts = {
        "m": HEAD + "from .n import Part, Lost\n" + constructor("self.part = Part()\n").removeprefix(HEAD),
        "n": "from .m import Part, Lost\nfrom .o import Part\n",
        "o": "from .m import C\nfrom .n import Lost\n"
        + HEAD
        + "class Part(nn.Module):\n    def __init__(self):\n        self.gate = Parameter(torch.rand(1))\n",
    }
    assert fits("part", members(texts))
    assert interpret(texts).library.resolve("pkg.m.Lost") is None


def test_stars_of_stars() -> None:
    """A chain in which each module has all names of the next, and of the one before."""
    texts = {f"s{n}": f"from .s{n + 1} import *\nfrom .s{max(n - 1, 0)} import *\n" + HEAD for n in range(40)}
    texts["s40"] = HEAD + "from .s0 import *\nclass Far(nn.Module): pass\n"
    texts["s3"] += "class Part(nn.Module): pass\n"
    texts["m"] = HEAD + "from .s0 import *\n"
    texts["m"] += constructor("self.a = Part()\nself.b = Lost()\nself.c = Far()\n").removeprefix(HEAD)
    found = members(texts)
    assert [str(item.cls.dotted) for item in found.by_name["a"].value.types] == ["pkg.s3.Part"]
    assert fits("b", found) and fits("c", found)


def test_a_name_of_very_many_parts() -> None:
    text = constructor("self.part = nn" + ".a" * 300 + "()\n")
    assert fits("part", members(text))


def test_a_list_that_is_doubled() -> None:
    body = "x = ['p', 'q']\n" + "x = x + x\n" * 60
    body += "for a in x:\n    self.register_buffer(f'mask_{a}', torch.rand(1))\n"
    assert fits("mask_q", members(constructor(body)))


def test_calls_in_calls() -> None:
    body = "self.part = " + "nn.Sequential(" * 40 + "nn.Linear(2, 2)" + ")" * 40 + "\n"
    assert fits("part", members(constructor(body)))
    doubled = "x = nn.Linear(2, 2)\n" + "x = nn.Sequential(x, x)\n" * 60 + "self.part = x\n"
    assert fits("part", members(constructor(doubled)))
    for more in (
        "x = [x, x]\n",
        "x.append(x)\n",
        "y = x\nx['a'] = y\n",
        "x = {'a': x, 'b': x}\n",
        "x = x or [x]\n",
    ):
        start = "x = [nn.Linear(2, 2)]\n" if "append" in more else "x = {}\n"
        assert members(constructor(start + more * 60 + "self.part = Parameter(x)\n")).by_name["part"].sure


def test_arguments_that_grow_from_class_to_class() -> None:
    """Each passes its name on, twice as long: as many instances as the depth, not as the lengths."""
    text = HEAD
    for n in range(30):
        text += f"class C{n}(nn.Module):\n    def __init__(self, name='ab'):\n"
        text += (
            f"        self.x = C{(n + 1) % 30}(name + name)\n        self.y = C{(n + 2) % 30}(name=name)\n"
        )
        text += "        self.register_buffer(name, torch.rand(1))\n"
    matcher = Matcher(interpret(text))
    root = grow(enumerate(["ab", *(f"{'x.y.' * depth}x.abab" for depth in range(12))]))
    matcher.search(root)
