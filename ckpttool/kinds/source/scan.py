"""From the syntax tree of one file to what its classes register: a summary that JSON can hold.

::

    {"stars": [dotted, …], "imports": {name: dotted}, "aliases": {name: description},
     "functions": {name: {"arguments", "defaults", "acts", "returns"}},
     "classes": {qualified name: {"line", "bases": [dotted, …], "methods": {name: as a function}}},
     "loose": [[name, "buffer" | "parameter", line], …]}

``acts`` of a method are in the order of its text; ``when`` are the conditions that all must hold, each
``[key, "is" | "not", value]`` or ``[key, "true" | "false"]``, of an argument, of an attribute (``self.x``) or
of what cannot be read (``#line:column``); None is what may run or not::

    ["buffer", pattern, line, when, persistent, value]         ["parameter", pattern, line, when, value]
    ["set", pattern, line, when, description]                  ["delete", pattern, line, when]
    ["put", attribute, pattern, line, when, description]       ["run", owner, method, line, when, arguments]

The owner of a method is ``self``, ``super``, a base, or the module of a function that is given self.

The value of an entry is "none" where it may be None, "empty" for a tensor without elements, else "".
``loose`` is what is registered on something else than ``self``. Source: torch/nn/modules/module.py, 2.13.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from ckpttool.kinds.source.bodies import INIT, Body, Function, iter_statements, read_branch
from ckpttool.kinds.source.descriptions import Description
from ckpttool.kinds.source.expressions import Scope

_TELLING = re.compile(
    r"register_|add_module|setattr|Parameter|Buffer|_buffers|_modules|self(?:\.\w+)+(?:\[[^\]]*\])?\s*"
    r"(?::[^=\n]*)?=\s*[\w.]*\b[A-Z]\w*\s*\(|\.(?:append|extend|insert)\("
)
"""A method is looked into if this is in its text, or another calls it: ``forward`` mostly is not."""

_REGISTERS = re.compile(r"\b(\w+)\.(?:register_buffer|register_parameter|add_module|register_module)\(")
"""A function that registers on one of its arguments."""

_BUILDS = re.compile(r"\breturn\b[^\n]*\w|register_|add_module")
_CALLED = re.compile(r"\bself\.(\w+)\(")
_ASSIGNED = re.compile(r"\bself\.(\w+)\s*(?::[^=\n]*)?=(?!=)")

_MOST_CLASSES = 2000


def scan_module(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, Any]:
    """The summary of a file that is imported as ``module``."""
    return File(tree, text, module, is_package).summary()


class File:
    """One file: what its names mean, and its classes and functions by name, once it was summarized."""

    def __init__(self, tree: ast.Module, text: str, module: str, is_package: bool) -> None:
        self.module = module
        self.lines = text.split("\n")
        self.imports: dict[str, str] = {}
        self.stars: list[str] = []
        self.defined: set[str] = set()
        self.loose: list[list[Any]] = []
        self.classes: dict[str, ast.ClassDef] = {}
        self.functions: dict[str, Function] = {}
        self._package = module if is_package else module.rpartition(".")[0]
        self._tree = tree
        self.scope = Scope(self.resolve)

    def resolve(self, name: str) -> str | None:
        """The dotted name of what the module imports or defines under ``name``."""
        if name in self.defined:
            return f"{self.module}.{name}" if self.module else name
        found = self.imports.get(name)
        if found is None and self.stars and not name.startswith("__"):
            return f"{self.module}.{name}"  # perhaps of a star; the linker looks
        return found

    def summary(self) -> dict[str, Any]:
        """What the file says, as the module's docstring has it."""
        classes: dict[str, ast.ClassDef] = {}
        functions = self.functions
        for node in ast.walk(self._tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._note_import(node)
        statements = list(iter_statements(self._tree.body, read_branch))
        for statement, _ in statements:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions[statement.name] = statement
            elif isinstance(statement, ast.ClassDef):
                classes[statement.name] = statement
        # A name that is both imported and defined (try: import, except: class) is the file's own.
        self.defined.update(classes, functions)
        for statement, self.scope.now in statements:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if isinstance(statement, ast.AnnAssign):
                targets = [statement.target]
            for target in targets:
                if getattr(target, "id", "") not in self.defined and statement.value is not None:  # type: ignore[attr-defined]
                    self.scope.assign(target, self.scope.describe(statement.value))  # type: ignore[attr-defined]
        self.scope.now = []
        queue = list(classes.items())
        scanned: dict[str, Any] = {}
        while queue and len(scanned) < _MOST_CLASSES:
            name, node = queue.pop(0)
            self.classes[name] = node
            scanned[name] = self._scan_class(node)
            inner = [item for item in ast.iter_child_nodes(node) if isinstance(item, ast.ClassDef)]
            queue += [(f"{name}.{item.name}", item) for item in inner]
        return {
            "imports": self.imports,
            "stars": self.stars,
            "aliases": self._scan_aliases(),
            "functions": {
                name: found for name, node in functions.items() if (found := self._scan_function(node))
            },
            "classes": scanned,
            "loose": self.loose,
        }

    def _note_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                head = alias.name if alias.asname else alias.name.partition(".")[0]
                self.imports.setdefault(alias.asname or head, head)
            return
        base = node.module or ""
        if node.level:
            parts = self._package.split(".") if self._package else []
            up = node.level - 1
            if up > len(parts):
                return
            base = ".".join([*parts[: len(parts) - up], *([base] if base else [])])
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(base)
            else:
                dotted = f"{base}.{alias.name}" if base else alias.name
                self.imports.setdefault(alias.asname or alias.name, dotted)

    def _scan_aliases(self) -> dict[str, Description]:
        found = {}
        for name in self.scope.names():
            described = self.scope.describe(ast.Name(name))
            if described[0] in ("ref", "or") and described != ["ref", self.resolve(name)]:
                found[name] = described
        return found

    def _scan_function(self, node: Function) -> dict[str, Any] | None:
        """A function of the module, if it gives something that may be a module or a Parameter."""
        text = self._text(node)
        if not _BUILDS.search(text):
            return None
        found = _REGISTERS.search(text)
        names = [item.arg for item in (*node.args.posonlyargs, *node.args.args)]
        own = found[1] if found is not None and found[1] in names else ""
        summary = Body(self, node, own, {}).scan()
        return summary if summary is None or not own else {**summary, "own": own}

    def _scan_class(self, node: ast.ClassDef) -> dict[str, Any]:
        methods: dict[str, Function] = {}
        constants: dict[str, ast.expr] = {}
        for item in node.body:
            if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                methods.setdefault(item.name, item)
            elif isinstance(item, ast.Assign):
                constants.update((t.id, item.value) for t in item.targets if isinstance(t, ast.Name))
            elif isinstance(item, ast.AnnAssign) and item.value and isinstance(item.target, ast.Name):
                constants[item.target.id] = item.value
        # What instances assign as well is no constant of the class; a flag may be another in a subclass.
        assigned = set(_ASSIGNED.findall(self._text(node)))
        kept = (ast.List, ast.Tuple, ast.Dict, ast.JoinedStr)
        constants = {
            name: value
            for name, value in constants.items()
            if name not in assigned
            and (isinstance(value, kept) or isinstance(getattr(value, "value", None), str))
        }
        telling = [name for name in methods if name in INIT or self._is_telling(methods[name])]
        called = {name: set(_CALLED.findall(self._text(node))) for name, node in methods.items()}
        telling += [name for name in methods if not called[name].isdisjoint(telling)]
        scanned: dict[str, Any] = {}
        while telling:
            name = telling.pop()
            if name in scanned:
                continue
            method = methods[name]
            found = Body(self, method, _first_argument(method), constants, node.name)
            scanned[name] = found.scan()
            telling += [called for called in found.called if called in methods and called not in scanned]
        ordered = {name: scanned[name] for name in methods if scanned.get(name)}
        bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases[:16]]
        return {
            "line": node.lineno,
            "bases": [self.scope.dotted(base) or "" for base in bases],
            "methods": ordered,
        }

    def _is_telling(self, node: Function) -> bool:
        return _TELLING.search(self._text(node)) is not None

    def _text(self, node: ast.stmt) -> str:
        return "\n".join(self.lines[node.lineno - 1 : node.end_lineno])


def _first_argument(node: Function) -> str:
    if any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in node.decorator_list):
        return ""
    arguments = [*node.args.posonlyargs, *node.args.args]
    return arguments[0].arg if arguments else ""
