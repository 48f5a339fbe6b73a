"""`lint --source`: what classes do, read and not run; what a build of the same class finds is the oracle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckpttool
from ckpttool.findings.source.lint import lint_source
from ckpttool.findings.source.rules import RULES
from tests.support.linted import lint

DOCS = Path(__file__).parents[3] / "docs" / "lint.md"
HEAD = (
    "import math\nimport numpy as np\nimport torch\nfrom torch import nn\nimport torch.nn.functional as F\n\n"
)
CODES = {rule.code for rule in RULES}


def found(folder: Path, *texts: str, **files: str) -> list[tuple[str, str]]:
    """What is found in files of these texts, as code and name."""
    for at, text in enumerate(texts):
        files[f"m{at}"] = text
    for name, text in files.items():
        (folder / f"{name}.py").write_text(HEAD + textwrap.dedent(text), "utf-8")
    return [(finding.code, finding.name) for finding in lint_source([str(folder)]).findings]


def module(constructor: str, rest: str = "def forward(self, x):\n    return x", arguments: str = "") -> str:
    """A class M whose constructor has these lines."""
    body = ["super().__init__()", *textwrap.dedent(constructor).strip("\n").split("\n")]
    text = f"class M(nn.Module):\n    def __init__(self{arguments}):\n"
    text += "".join(f"        {line}\n" for line in body)
    return text + textwrap.indent(textwrap.dedent(rest), "    ") + "\n"


# ------------------------------------------------------------------------------ the examples of docs/lint.md


def documented() -> list[tuple[str, str, str]]:
    sections = re.split(r"^### (CKPT\d{3}) \w+$", DOCS.read_text("utf-8"), flags=re.MULTILINE)
    bodies = [body.partition("\n## ")[0] for body in sections[2::2]]
    return [
        (code, *re.findall(r"```python\n(.*?)```", body, re.DOTALL))
        for code, body in zip(sections[1::2], bodies, strict=True)
    ]


def test_the_table_of_rules_is_documented() -> None:
    text = DOCS.read_text("utf-8")
    for rule in RULES:
        assert f"### {rule.code} {rule.severity}\n" in text


@pytest.mark.parametrize(("code", "bad", "good"), documented(), ids=[item[0] for item in documented()])
def test_examples_of_the_page(code: str, bad: str, good: str, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    codes = {item for item, _ in found(tmp_path / "bad", bad)}
    assert (code in codes) == (code in CODES)
    assert code not in {item for item, _ in found(tmp_path / "good", good)}


# ------------------------------------------------------------------------------------------ what a build says

REBUILT = {
    "arange": "self.register_buffer('t', torch.arange(512))",
    "of an argument": "self.register_buffer('t', torch.arange(size).float()[None, :])",
    "mask": "self.register_buffer('t', torch.tril(torch.ones(size, size)).view(1, 1, size, size))",
    "mask in place": """
        mask = torch.full((size, size), float('-inf'))
        mask.triu_(1)
        self.register_buffer('t', mask)
        """,
    "frequencies": """
        inv = 1.0 / (10000 ** (torch.arange(0, size, 2).float() / size))
        self.register_buffer('t', inv)
        """,
    "by numpy": "self.register_buffer('t', torch.from_numpy(np.linspace(0, 1, size)))",
    "filled in a loop": """
        table = torch.zeros(size, 4)
        for i in range(size):
            table[i, i % 4] = i
        self.register_buffer('t', table)
        """,
    "sines": """
        table = torch.zeros(size, 4)
        place = torch.arange(size).unsqueeze(1)
        table[:, 0::2] = torch.sin(place * math.pi)
        self.register_buffer('t', table)
        """,
    "grid": """
        n = size // 64
        y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing='ij')
        both = torch.stack((y.flatten(), x.flatten()))
        self.register_buffer('t', (both[:, :, None] - both[:, None, :]).permute(1, 2, 0).contiguous().sum(-1))
        """,
    "padded": "self.register_buffer('t', F.pad(torch.ones(size, size), (1, 1), value=0.0))",
    "listed by counting": "self.register_buffer('t', torch.tensor([i / size for i in range(size)]))",
    "in a branch": """
        if size > 3:
            table = torch.arange(size)
        else:
            table = torch.arange(size).flip(0)
        self.register_buffer('t', table)
        """,
    "through an attribute": "self.table = torch.arange(size)\nself.register_buffer('t', self.table * 2)",
    "window": "self.register_buffer('t', torch.hann_window(size))",
    "Buffer in a method": "self.make(size)",
}
METHODS = """
def make(self, n):
    self.register_buffer("t", torch.eye(n))

def forward(self, x):
    return x
"""


@pytest.mark.parametrize("name", REBUILT)
def test_tables_that_every_build_computes_alike(name: str, tmp_path: Path) -> None:
    text = module(REBUILT[name], METHODS, ", size=512")
    assert found(tmp_path, text) == [("CKPT201", "M.t")]
    assert ("CKPT201", "t") in {(item.code, item.name) for item in lint(build_of(text)).findings}


KEPT = {
    "a state": "self.register_buffer('t', torch.zeros(size))",
    "a count": "self.register_buffer('t', torch.tensor(0))",
    "a list of numbers": "self.register_buffer('t', torch.tensor([0.485, 0.456, 0.406]))",
    "few": "self.register_buffer('t', torch.arange(12))",
    "random": "self.register_buffer('t', torch.randn(size, 4))",
    "of random": "self.register_buffer('t', torch.arange(size) + torch.rand(size))",
    "random in place": "t = torch.zeros(size)\nt.uniform_(0, 1)\nself.register_buffer('t', t)",
    "said to be persistent": "self.register_buffer('t', torch.arange(size), persistent=True)",
    "not persistent": "self.register_buffer('t', torch.arange(size), persistent=False)",
    "not persistent, third": "self.register_buffer('t', torch.arange(size), False)",
    "filled by a function": "t = torch.zeros(size)\nnn.init.normal_(t)\nself.register_buffer('t', t)",
    "given": "self.register_buffer('t', torch.arange(size) * given)",
    "loaded": "self.register_buffer('t', torch.arange(size) * np.load('x.npy'))",
}


@pytest.mark.parametrize("name", KEPT)
def test_buffers_that_are_no_rebuilt_tables(name: str, tmp_path: Path) -> None:
    assert found(tmp_path, module(KEPT[name], arguments=", size=512, given: torch.Tensor = None")) == []


@pytest.mark.parametrize(
    "statement",
    [
        "self.t = x",
        "self.t[0] = 1",
        "self.t += 1",
        "self.t.fill_(1)",
        "self.t.data.copy_(x)",
        "torch.add(x, 1, out=self.t)",
        "nn.init.zeros_(self.t)",
        "del self.t",
        "self.load_state_dict(x)",
        "other.t.copy_(x)",
    ],
)
def test_what_is_written_somewhere_is_a_state(statement: str, tmp_path: Path) -> None:
    other = f"def forward(self, x, other):\n    {statement}\n    return x"
    assert found(tmp_path, module("self.register_buffer('t', torch.arange(size))", other, ", size=9")) == []


PLAIN = {
    "a list": ("self.t = torch.tensor([0.5, 2.0])", "return x * self.t"),
    "a table": ("self.t = torch.arange(size).float()", "return x + self.t[None, :]"),
    "in a call": ("self.t = torch.zeros(size)", "return torch.where(x > 0, x, self.t)"),
    "computed": ("a = torch.ones(size)\nself.t = a / a.sum()", "y = self.t\n    return x * y"),
    "in a branch": (
        "if size:\n    self.t = torch.eye(size)\nelse:\n    self.t = torch.ones(1, 1)",
        "return x @ self.t",
    ),
    "stacked": ("a = torch.ones(3)\nself.t = torch.stack([a, a])", "return x * self.t"),
    "of a method": ("self.t = self.make(size)", "return x @ self.t"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_tensors(name: str, tmp_path: Path) -> None:
    constructor, forward = PLAIN[name]
    rest = f"def make(self, n):\n    return torch.eye(n)\n\ndef forward(self, x):\n    {forward}\n"
    text = module(constructor, rest, ", size=4")
    assert found(tmp_path, text) == [("CKPT101", "M.t")]
    assert ("CKPT101", "t") in {(item.code, item.name) for item in lint(build_of(text)).findings}


NOT_PLAIN = {
    "registered": ("self.register_buffer('t', None, False)\nself.t = torch.ones(size)", "return x * self.t"),
    "a Parameter": ("self.t = nn.Parameter(torch.ones(size))", "return x * self.t"),
    "moved": ("self.t = torch.ones(size)", "return x * self.t.to(x.device)"),
    "moved once for all": ("self.t = torch.ones(size)", "self.t = self.t.to(x)\n    return x * self.t"),
    "moved later": ("self.t = torch.ones(size)", "t = self.t\n    return x * t.to(x.device)"),
    "moved by a function": ("self.t = torch.ones(size)", "return x * torch.clone(self.t).to(x.device)"),
    "made anew": ("self.t = torch.ones(size)", "return x * torch.as_tensor(self.t, device=x.device)"),
    "an index": ("self.t = torch.arange(size)", "return x[self.t]"),
    "one of two indices": ("self.t = torch.arange(size)", "return x[:, self.t]"),
    "a size": ("self.t = torch.ones(size)", "return x.view(self.t.shape[0])"),
    "a number": ("self.t = torch.ones(size)", "return x * float(self.t[0])"),
    "a test": ("self.t = torch.ones(size)", "if self.t[0] > 1:\n        return x\n    return x + 1"),
    "never read": ("self.t = torch.ones(size)", "return x"),
    "no dimension": ("self.t = torch.tensor(0.5)", "return x * self.t"),
    "on a device": ("self.t = torch.ones(size, device=device)", "return x * self.t"),
    "on some device": ("self.t = torch.ones(size, **how)", "return x * self.t"),
    "no tensor": ("self.t = np.ones(size)", "return x * self.t"),
    "a list of Python": ("self.t = [torch.ones(size)]", "return x * self.t[0]"),
    "given": ("self.t = device", "return x * self.t"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_attributes_that_are_no_trap(name: str, tmp_path: Path) -> None:
    constructor, forward = NOT_PLAIN[name]
    text = module(constructor, f"def forward(self, x):\n    {forward}\n", ", size=4, device=None, **how")
    assert found(tmp_path, text) == []


def test_a_class_that_moves_its_tensors_itself(tmp_path: Path) -> None:
    own = "def _apply(self, fn):\n    self.t = fn(self.t)\n    return super()._apply(fn)\n"
    text = module("self.t = torch.ones(3)", own + "\ndef forward(self, x):\n    return x * self.t\n")
    assert found(tmp_path, text) == []


def build_of(text: str) -> Any:
    namespace: dict[str, Any] = {"__name__": "built"}
    exec(HEAD + text, namespace)
    return namespace["M"]


# ---------------------------------------------------------------------------------------- more than one class


def test_a_base_in_another_file_sets_what_an_heir_uses(tmp_path: Path) -> None:
    base = module(
        "self.t = torch.ones(3)\nself.u = torch.ones(3)\nself.register_buffer('v', torch.arange(size))", ""
    )
    base = base.replace("(self)", "(self, size)")
    heir = "from m0 import M as Base\n\nclass Heir(Base):\n    def forward(self, x):\n"
    heir += "        self.v = x\n        return x * self.t + self.u.to(x.device)\n"
    assert found(tmp_path, base, heir) == [("CKPT101", "M.t")]


def test_what_is_no_module_is_not_asked(tmp_path: Path) -> None:
    text = module("self.t = torch.ones(3)", "def forward(self, x):\n    return x * self.t\n")
    assert found(tmp_path, text.replace("nn.Module", "object")) == []
    assert found(tmp_path, text.replace("nn.Module", "torch.autograd.Function")) == []
    assert found(tmp_path, text.replace("nn.Module", "M"), text.replace("nn.Module", "nn.Linear")) == [
        ("CKPT101", "M.t")
    ]


def test_keys_that_a_forward_changes(tmp_path: Path) -> None:
    text = """
        class Filled(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("a", None)
                self.register_buffer("b", None, persistent=False)
                self.register_buffer("c", None)
                self.register_buffer("d", torch.zeros(3))
            def forward(self, x):
                self._fill(x)
                return x
            def _fill(self, x):
                self.a = x
                self.b = x
                self.d = x
            def by_hand(self, x):
                self.c = x

        class Registering(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("known", torch.zeros(3))
            def forward(self, x):
                self.register_buffer("late", x)
                self.register_buffer("cache", x, persistent=False)
                self.register_buffer("known", x)
                return x

        class PerhapsNone(nn.Module):
            def __init__(self, weight=None):
                super().__init__()
                self.register_buffer("a", weight)
            def forward(self, x):
                if self.a is not None:
                    self.a = self.a * 2
                return x

        class OnlyClearing(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("a", None)
            def forward(self, x):
                self.a = None
                return x
        """
    assert found(tmp_path, text) == [("CKPT601", "Filled.a"), ("CKPT601", "Registering.late")]


def test_a_buffer_that_is_registered_twice(tmp_path: Path) -> None:
    text = """
        class Twice(nn.Module):
            def __init__(self, flag, alike):
                super().__init__()
                self.register_buffer("a", torch.zeros(3))
                self.register_buffer("same", torch.zeros(3), persistent=False)
                if flag:
                    self.register_buffer("either", torch.zeros(3))
                else:
                    self.register_buffer("either", torch.zeros(3), persistent=False)
                self.register_buffer("open", torch.zeros(3), persistent=alike)
                self.b = nn.Buffer(torch.zeros(3), persistent=False)
            def resize(self):
                self.register_buffer("a", torch.zeros(4), persistent=False)
                self.register_buffer("same", torch.zeros(4), persistent=False)
                self.register_buffer("open", torch.zeros(4))
                self.b = nn.Buffer(torch.zeros(4))
        """
    assert found(tmp_path, text) == [("CKPT209", "Twice.a"), ("CKPT209", "Twice.b")]
    findings = lint_source([str(tmp_path)]).findings
    lines = (tmp_path / "m0.py").read_text("utf-8").split("\n")
    for finding in findings:
        assert finding.file == "m0.py" and finding.line is not None
        assert "4)" in lines[finding.line - 1]
    assert "persistent in __init__() and not persistent in resize()" in findings[0].message


def test_a_buffer_that_a_base_registers_with_another_flag(tmp_path: Path) -> None:
    base = """
        class Base(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("a", torch.zeros(3))
                self.register_buffer("b", torch.zeros(3))
        """
    heirs = """
        from m0 import Base

        class Other(Base):
            def __init__(self):
                super().__init__()
                self.register_buffer("a", torch.zeros(3), persistent=False)
                self.register_buffer("b", torch.zeros(3))

        class Instead(Base):
            def __init__(self):
                nn.Module.__init__(self)
                self.register_buffer("a", torch.zeros(3), persistent=False)

        class Later(Base):
            def resize(self):
                self.register_buffer("b", torch.zeros(3), persistent=False)
        """
    assert found(tmp_path, base, heirs) == [("CKPT209", "Other.a"), ("CKPT209", "Later.b")]
    assert "persistent in Base.__init__() and" in lint_source([str(tmp_path)]).findings[0].message


def test_parameters_made_in_forward(tmp_path: Path) -> None:
    text = """
        class Late(nn.Module):
            def forward(self, x):
                if not hasattr(self, "scale"):
                    self._make(x)
                w = nn.Parameter(x.mean(0))
                frozen = nn.Parameter(x, requires_grad=False)
                also = nn.Parameter(x, False)
                return x * self.scale * w
            def _make(self, x):
                self.scale = nn.Parameter(torch.ones(x.shape[-1]))
            def by_hand(self, x):
                self.other = nn.Parameter(x)

        class Reset(nn.Module):
            def __init__(self):
                super().__init__()
                self.reset()
            def reset(self):
                self.w = nn.Parameter(torch.ones(3))
            def forward(self, x):
                self.reset()
                return x

        class Trains(nn.Module):
            def forward(self, x):
                mask = nn.Parameter(torch.zeros(3))
                torch.optim.Adam([mask]).step()
                return x

        class Frozen(nn.Module):
            def forward(self, x):
                self.w = nn.Parameter(x)
                self.w.requires_grad = False
                return x
        """
    assert found(tmp_path, text) == [("CKPT607", "Late.forward"), ("CKPT607", "Late.scale")]


# ------------------------------------------------------------------------------------------------- the whole


def test_nothing_runs_and_nothing_is_imported(tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w')\n" + HEAD + module("self.t = torch.ones(3)")
    (tmp_path / "evil.py").write_text(text, "utf-8")
    program = (
        "import sys; before = set(sys.modules); from ckpttool.findings.source.lint import lint_source; "
        f"lint_source([{str(tmp_path)!r}]); after = set(sys.modules) - before; "
        "assert not after & {'evil', 'torch', 'numpy'}, after"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])
    assert not (tmp_path / "ran").exists()


def test_a_class_and_its_bases(tmp_path: Path) -> None:
    for name in ("One", "Two"):
        text = module("self.t = torch.ones(3)", "def forward(self, x):\n    return x * self.t\n")
        (tmp_path / f"{name.lower()}.py").write_text(HEAD + text.replace("class M", f"class {name}"), "utf-8")
    report = ckpttool.lint(source=[f"{tmp_path}:Two"])
    assert [finding.name for finding in report.findings] == ["Two.t"]
    assert report.modules == 1 and not report.ok and report.sources[0].files == 2
    with pytest.raises(ckpttool.CkptToolError, match="no class Three is in the source"):
        ckpttool.lint(source=[f"{tmp_path}:Three"])


def test_files_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("class M(", "utf-8")
    deep = "self.t = " + "(" * 60 + "torch.ones(3)" + ")" * 60 + " + 1" * 3000
    (tmp_path / "deep.py").write_text(HEAD + module(deep), "utf-8")
    report = lint_source([str(tmp_path)])
    assert report.sources[0].unread >= 1 and report.sources[0].files + report.sources[0].unread == 2


@pytest.mark.parametrize(
    "call", ["torch.cat([{}], 0)", "torch.add({}, other={})", "({} if x else 1)", "f({})"]
)
def test_nested_calls_end(call: str, tmp_path: Path) -> None:
    text = "x"
    for _ in range(30 if call.count("{}") == 1 else 12):
        text = call.replace("{}", text)
    (tmp_path / "m.py").write_text(HEAD + "def f(x):\n    return x\n" + module(f"self.t = {text}"), "utf-8")
    report = lint_source([str(tmp_path)])
    assert report.modules == 1 and report.sources[0].parsed_ms < 10_000


def test_a_folder_that_is_no_package_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "some-models").mkdir()
    assert found(tmp_path / "some-models", module("pass")) == []
    text = str(ckpttool.lint(source=[str(tmp_path / "some-models")]))
    assert text.startswith("no trap found · some-models · 1 module class in 1 file")


def test_functions_that_call_each_other_end(tmp_path: Path) -> None:
    body = "".join(f"    x = f{n}(x) + f{n}(x) + g(x)\n" for n in range(8))
    functions = (
        "".join(f"def f{n}(x):\n{body}    return x\n\n" for n in range(8))
        + f"def g(x):\n{body}    return x\n\n"
    )
    text = functions + module("self.t = g(torch.ones(3))", "def forward(self, x):\n    return x * self.t\n")
    (tmp_path / "m.py").write_text(HEAD + text, "utf-8")
    report = lint_source([str(tmp_path)])
    assert report.modules == 1 and report.sources[0].parsed_ms < 10_000


def test_a_model_or_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a model, or source"):
        ckpttool.lint()
    with pytest.raises(ValueError, match="a model, or source"):
        ckpttool.lint(nn.Identity, source=["torch"])
    with pytest.raises(ValueError, match="a model, or source"):
        ckpttool.lint(source=["torch"], prove=True)


def test_what_it_keeps_is_not_what_inspect_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CKPTTOOL_NO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = tmp_path / "net"
    package.mkdir()
    text = module(
        "self.t = torch.ones(3)\nself.w = nn.Linear(2, 2)", "def forward(self, x):\n    return x * self.t\n"
    )
    (package / "net.py").write_text(HEAD + text, "utf-8")
    os.utime(package / "net.py", (1, 1))
    torch.save({"w.weight": torch.zeros(2, 2), "w.bias": torch.zeros(2)}, tmp_path / "net.pt")
    for _ in range(2):
        report = lint_source([str(package)])
        assert [finding.code for finding in report.findings] == ["CKPT101"]
        sources = ckpttool.open(tmp_path / "net.pt", source=[str(package)]).inspection.sources
    assert report.sources[0].cached == 1 and sources[0].cached == 1
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 2
