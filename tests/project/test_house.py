"""The rooms of the package: which there are, and that no two modules need each other.

Who may import whom is import-linter's contract in pyproject.toml, which ``make check`` holds.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import ckpttool

PACKAGE = Path(ckpttool.__file__).parent
ROOMS = frozenset(
    """
    api commands comparison conversion elements files findings formats inspection kinds names pickles render
    torch_bridge values
    """.split()
)


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    return {
        ".".join(("ckpttool", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in PACKAGE.rglob("*.py")
    }


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that one imports, wherever it does so, for types as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known.keys()) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known.keys()


def test_the_root_holds_four_names_and_the_rooms() -> None:
    names = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert names == {"__init__.py", "__main__.py", "cli.py", "py.typed", *ROOMS}
    # Importing a submodule sets its name on the package, and would hide the function that is called so.
    assert ROOMS.isdisjoint(ckpttool.__all__)


def test_no_two_modules_need_each_other() -> None:
    known = modules()
    left = {name: imports(path, known) - {name} for name, path in known.items() if name != "ckpttool"}
    while True:  # what imports nothing that is left is in no circle
        free = [name for name, needs in left.items() if needs.isdisjoint(left)]
        if not free:
            break
        for name in free:
            del left[name]
    assert sorted(left) == []


def test_every_module_says_its_promise_in_its_first_line() -> None:
    for name, path in modules().items():
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        assert text.partition("\n")[0] or name == "ckpttool.__main__", name


def test_the_page_on_the_architecture_names_what_there_is() -> None:
    """Each ``room/module.name`` of docs/architecture.md is a module, and a name in it."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    known = {name.removeprefix("ckpttool."): path for name, path in modules().items()}
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)+)(?:\.([A-Za-z_]+))?`", page.partition("## Scale")[0])
    named = [(where, "" if name == "py" else name) for where, name in named if not where.startswith("tests/")]
    named = [(where, name) for where, name in named if not where.startswith("benchmarks/")]
    assert len(named) > 40
    for where, name in named:
        dotted = where.replace("/", ".")
        module = next(
            (path for known_as, path in known.items() if f".{known_as}".endswith(f".{dotted}")), None
        )
        assert module is not None, where
        defined = {
            target
            for node in ast.parse(module.read_text("utf-8")).body
            for target in (
                [node.name]
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
                else [item.id for item in ast.walk(node) if isinstance(item, ast.Name)]
            )
        }
        assert not name or name in defined, f"{where}.{name}"
