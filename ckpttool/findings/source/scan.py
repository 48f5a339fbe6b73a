"""What ``lint --source`` asks of a file, beside what ``scan_module`` of ``kinds.source`` says of it.

``summary["classes"][name]["habits"]``, of ``self`` in the methods of one class::

    {"tensors": {attribute: line},           plain tensors that __init__ sets (see ``construction``)
     "tables": {name: line},                 persistent buffers that it counts out; no flag is written out
     "empty": {name: line},                  persistent buffers that it registers as None, and as nothing else
     "methods": [name, …],                   those that were followed for these
     "reads": [attribute, …],                read outside of them where a tensor's device matters
     "moved": [attribute, …],                moved by hand there, as in ``self.x.to(…)``
     "assigned": {method: [attribute, …]},   ``self.x = …``, but for None
     "written": {method: [attribute, …]},    deleted, or written into: ``self.x[0] = …``, ``self.x.fill_(…)``
     "parameters": [[method, line, attribute], …],      nn.Parameter(…) outside __init__; "" for a local one
     "trains": [method, …],                  with an optimizer, or backward(), in it
     "calls": {method: [method of self, …]}}

``summary["touched"]`` are attributes that the file writes on anything that is not ``self``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from ckpttool.findings.source.construction import Construction
from ckpttool.kinds.source import torch_classes
from ckpttool.kinds.source.bodies import Function
from ckpttool.kinds.source.scan import File

SCANNER = f"{__name__}:scan_traps"

_BY_HAND = frozenset("to cuda cpu type_as item tolist numpy device".split())
_NEUTRAL = frozenset("dtype shape ndim size numel dim nelement is_cuda element_size".split())
_NUMBERS = frozenset(
    "int float len range max min sum round abs tuple list sorted zip enumerate reversed isinstance".split()
)
_INSIDE = (ast.Attribute, ast.Subscript, ast.Call, ast.keyword, ast.Starred, ast.Tuple, ast.List)
_TESTS = (ast.If, ast.While, ast.Assert, ast.IfExp)
_MOST_FACTS = 400


def scan_traps(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, Any]:
    """The summary of a file that is imported as ``module``."""
    file = File(tree, text, module, is_package)
    summary = file.summary()
    for name, node in file.classes.items():
        summary["classes"][name]["habits"] = _scan_class(file, node)
    written = (attribute for node in ast.walk(tree) for attribute in _written(node))
    return {**summary, "touched": sorted({item.attr for item in written if not _is_own(item)})}


def _scan_class(file: File, node: ast.ClassDef) -> dict[str, Any]:
    functions: dict[str, Function] = {
        item.name: item for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    made = Construction(file.scope, functions, file.functions)
    methods = {name: _Method(file, function) for name, function in functions.items()}
    running = [method for name, method in methods.items() if name not in made.methods]
    return {
        "tensors": made.tensors,
        "tables": made.tables,
        "empty": made.empty,
        "methods": sorted(made.methods),
        "reads": sorted(set().union(*(method.reads for method in running))),
        "moved": sorted(set().union(*(method.moved for method in running))),
        "assigned": {name: sorted(method.assigned) for name, method in methods.items() if method.assigned},
        "written": {name: sorted(method.written) for name, method in methods.items() if method.written},
        "parameters": [
            [name, *found]
            for name, method in methods.items()
            if name != "__init__"
            for found in method.parameters
        ][:_MOST_FACTS],
        "trains": [name for name, method in methods.items() if method.trains],
        "calls": {name: sorted(method.calls) for name, method in methods.items()},
    }


class _Method:
    """What one method does with ``self``."""

    def __init__(self, file: File, function: Function) -> None:
        self.reads: set[str] = set()
        self.moved: set[str] = set()
        self.assigned: set[str] = set()
        self.written: set[str] = set()
        self.calls: set[str] = set()
        self.parameters: list[tuple[int, str]] = []
        self.trains = False
        self._file = file
        self._parents = {child: node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
        self._by_hand = {
            node.value.id
            for node in self._parents
            if isinstance(node, ast.Attribute) and node.attr in _BY_HAND and isinstance(node.value, ast.Name)
        }
        for node in self._parents:
            self._scan(node)
        if any(_freezes(node) for node in self._parents):
            self.parameters = []

    def _scan(self, node: ast.AST) -> None:
        for attribute in filter(_is_own, _written(node)):
            if not isinstance(attribute.ctx, ast.Store):
                self.written.add(attribute.attr)
            elif not _gives_none(self._parents[attribute]):
                self.assigned.add(attribute.attr)
        if isinstance(node, ast.Attribute) and _is_own(node) and isinstance(node.ctx, ast.Load):
            parent = self._parents[node]
            if isinstance(parent, ast.Call) and parent.func is node:
                self.calls.add(node.attr)
            elif (place := self._place(node)) is not None:
                place.add(node.attr)
        if isinstance(node, ast.Call):
            dotted = self._file.scope.dotted(node.func) or ""
            self.trains = self.trains or dotted.startswith("torch.optim.") or _last(node.func) == "backward"
            frozen = any(word.arg == "requires_grad" and _is_false(word.value) for word in node.keywords)
            if torch_classes.is_parameter(dotted) and not frozen and len(node.args) < 2:
                parent = self._parents[node]
                target = (
                    parent.targets[0] if isinstance(parent, ast.Assign) else getattr(parent, "target", None)
                )
                own = target.attr if isinstance(target, ast.Attribute) and _is_own(target) else ""
                self.parameters.append((node.lineno, own))

    def _place(self, node: ast.AST) -> set[str] | None:
        """Where to note what is read there: as moved by hand, as read where its device matters, or not."""
        inner, outer = node, self._parents[node]
        while isinstance(outer, _INSIDE):
            if isinstance(outer, ast.Attribute) and outer.attr in _BY_HAND:
                return self.moved
            if isinstance(outer, ast.Attribute) and outer.attr in _NEUTRAL:
                return None
            if isinstance(outer, ast.Subscript) and outer.slice is inner:
                return None  # an index may lie on the CPU
            if isinstance(outer, ast.Call) and outer.func is not inner:
                if _moves(outer):
                    return self.moved
                if isinstance(outer.func, ast.Name) and outer.func.id in _NUMBERS:
                    return None
            inner, outer = outer, self._parents[outer]
        if isinstance(outer, ast.Assign) and getattr(outer.targets[0], "id", "") in self._by_hand:
            return self.moved
        if isinstance(outer, ast.Compare) and isinstance(outer.ops[0], (ast.Is, ast.IsNot)):
            return None
        while isinstance(outer, (ast.Compare, ast.BoolOp, ast.UnaryOp)):
            inner, outer = outer, self._parents[outer]
        is_test = isinstance(outer, _TESTS) and outer.test is inner
        return None if is_test or isinstance(outer, (ast.Expr, ast.For)) else self.reads


def _moves(call: ast.Call) -> bool:
    last = _last(call.func)
    named = any(word.arg == "device" for word in call.keywords)
    return named or last.startswith("to_") or "_to_" in last or "device" in last or last == "new_tensor"


def _freezes(node: ast.AST) -> bool:
    """``x.requires_grad = False``, ``x.requires_grad_(False)``."""
    if isinstance(node, ast.Assign):
        return any(getattr(item, "attr", "") == "requires_grad" for item in node.targets) and _is_false(
            node.value
        )
    is_call = isinstance(node, ast.Call) and _last(node.func) == "requires_grad_"
    return is_call and any(map(_is_false, node.args))  # type: ignore[attr-defined]


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _gives_none(statement: ast.AST | None) -> bool:
    value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else statement
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _last(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _written(node: ast.AST) -> Iterator[ast.Attribute]:
    """The attributes that a node gives another value, deletes, or writes into."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield node
    inner: Iterable[ast.expr] = ()
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
        inner = [node.value]
    elif (
        isinstance(node, ast.Call) and _last(node.func).endswith("_") and not _last(node.func).endswith("__")
    ):
        owner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        inner = [*owner, *node.args[:1]]  # self.x.fill_(0), nn.init.normal_(self.x)
    elif isinstance(node, ast.Call):
        inner = [word.value for word in node.keywords if word.arg == "out"]
    for item in inner:
        while isinstance(item, (ast.Subscript, ast.Attribute)):
            if isinstance(item, ast.Attribute) and item.attr not in ("data", "T", "grad"):
                if isinstance(item.ctx, ast.Load):
                    yield item
                break
            item = item.value
