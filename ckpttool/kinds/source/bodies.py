"""What a function or method registers, in the order of its text: its acts (see ``scan``)."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ckpttool.kinds.source.descriptions import (
    ANY,
    DIGITS,
    OPEN,
    PLAIN,
    Description,
    alternatives_of,
    combine,
    items_of,
    unpack,
)
from ckpttool.kinds.source.expressions import Scope, complete

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
When: TypeAlias = list[Any]

INIT = ("__init__", "__post_init__")
"""Methods that every instance runs."""

_MOST_RETURNS = 8
_DEEPEST_INSIDE = 3
_MOST_ACTS = 400  # of one method
_MOST_STATEMENTS = 20_000  # of one method


class File(Protocol):
    """The file that a function stands in: its scope, and where what is registered on others is noted."""

    scope: Scope
    loose: list[list[Any]]

    def resolve(self, name: str) -> str | None:
        """The dotted name of what the module imports or defines under ``name``."""


class Body:
    """One function or method: what it registers, in order, and what it gives back."""

    def __init__(
        self, file: File, node: Function, own: str, constants: Mapping[str, ast.expr], class_name: str = ""
    ) -> None:
        self.file = file
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.arguments = [item.arg for item in every if item.arg != own]
        self.defaults = _read_defaults(node.args)
        self.called: list[str] = []
        self.acts: list[list[Any]] = []
        self.returns: list[Description] = []
        self.scope = Scope(file.resolve, file.scope, constants, own)
        self.scope.class_names = (class_name, "cls")
        extra = [item.arg for item in (node.args.vararg, node.args.kwarg) if item is not None]
        for name in (*self.arguments, *extra):
            self.scope.bind(name, ["arg", name])
        self._node = node
        self._own = own
        self._inside: list[str] = []  # functions of this one that are gone into

    def scan(self) -> dict[str, Any] | None:
        """The summary of the function; None if it does nothing that counts."""
        self._scan_body(self._node.body, [])
        returns = [item for item in self.returns if item not in (PLAIN, OPEN) and item[0] != "const"]
        if not self.acts and not returns and self._node.name not in INIT:
            return None
        return {"arguments": self.arguments, "defaults": self.defaults, "acts": self.acts, "returns": returns}

    def _scan_body(self, body: Sequence[ast.stmt], above: When) -> None:
        """Go through statements that are reached under the conditions ``above``."""
        for count, (statement, conditions) in enumerate(iter_statements(body, self._read_test)):
            if count >= _MOST_STATEMENTS or len(self.acts) >= _MOST_ACTS:
                break
            self.scope.now = [*above, *conditions]
            self._scan_statement(statement, self.scope.now)

    # ----------------------------------------------------------------------------------- statements

    def _scan_statement(self, statement: ast.stmt, when: When) -> None:
        line = statement.lineno
        if isinstance(statement, ast.Assign):
            described = self._describe_value(statement.value)
            for target in statement.targets:
                self._assign(target, described, statement.value, line, when)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self._assign(statement.target, self._describe_value(statement.value), statement.value, line, when)
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            left = self.scope.describe(ast.Name(statement.target.id))
            self.scope.bind(
                statement.target.id, combine(left, statement.op, self.scope.describe(statement.value))
            )
        elif isinstance(statement, (ast.For, ast.AsyncFor)):
            self.scope.loop(statement.target, statement.iter)
        elif isinstance(statement, ast.FunctionDef):
            self.scope.functions[statement.name] = statement
        elif isinstance(statement, ast.Return) and statement.value is not None:
            if not self._inside and len(self.returns) < _MOST_RETURNS:
                self.returns.append(self._describe_value(statement.value))
        elif isinstance(statement, ast.Delete):
            for target in statement.targets:
                name = _attribute_of(target, self._own)
                if name:
                    self.acts.append(["delete", name, line, when])
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            self._scan_call(statement.value, when)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.ListComp):
            outer = self.scope
            self.scope = outer.inside(statement.value)
            if isinstance(statement.value.elt, ast.Call):
                self._scan_call(statement.value.elt, when)
            self.scope = outer
        elif isinstance(statement, (ast.If, ast.While)):
            for node in ast.walk(statement.test):
                if isinstance(node, ast.NamedExpr):
                    self.scope.describe(node)

    def _describe_value(self, value: ast.expr) -> Description:
        described = self.scope.describe(value)
        self.called += [item[1] for item in alternatives_of(described) if item[0] == "method"]
        return described

    def _assign(
        self, target: ast.expr, described: Description, value: ast.expr, line: int, when: When
    ) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            for part, item in zip(target.elts, unpack(described, len(target.elts)), strict=False):
                self._assign(part, item, value, line, when)
            return
        name = _attribute_of(target, self._own)
        if name:
            if described != PLAIN:
                self.acts.append(["set", name, line, when, described])
            if not when and described[0] in ("arg", "const", "ref", "name"):
                self.scope.attributes[name] = described
            else:
                self.scope.attributes.pop(name, None)
        elif isinstance(target, ast.Name):
            self.scope.bind(target.id, described)
            is_partial = isinstance(value, ast.Call) and self.scope.dotted(value.func) == "functools.partial"
            if isinstance(value, ast.Lambda) or (isinstance(value, ast.Call) and is_partial and value.args):
                self.scope.functions[target.id] = value
            elif target.id in self.scope.functions:
                del self.scope.functions[target.id]
        elif isinstance(target, ast.Attribute):
            if any(
                item[0] == "call" and item[1].endswith("Parameter") for item in alternatives_of(described)
            ):
                self.file.loose.append([target.attr, "parameter", line])
        elif isinstance(target, ast.Subscript):
            self._assign_item(target, described, value, line, when)

    def _assign_item(
        self, target: ast.Subscript, described: Description, value: ast.expr, line: int, when: When
    ) -> None:
        patterns = self.scope.patterns(target.slice)
        if isinstance(target.value, ast.Name):
            self.scope.put(target.value.id, [[pattern, described] for pattern in patterns])
            return
        owner = _attribute_of(target.value, self._own)
        for pattern in patterns if owner else ():
            if owner == "_buffers":
                self.acts.append(["buffer", pattern, line, when, OPEN, self._value_of(value)])
            elif owner == "_parameters":
                self.acts.append(["parameter", pattern, line, when, self._value_of(value)])
            elif owner == "_modules":
                self.acts.append(["set", pattern, line, when, described])
            elif described != PLAIN and described[0] != "const":
                self.acts.append(["put", owner, pattern, line, when, described])

    # ---------------------------------------------------------------------------------------- calls

    def _scan_call(self, call: ast.Call, when: When) -> None:
        function = call.func
        if isinstance(function, ast.Name):
            self._scan_call_of_name(function.id, call, when)
            return
        if not isinstance(function, ast.Attribute):
            return
        owner = function.value
        if self._is_own(owner):
            self._scan_own_call(function.attr, call, when)
        elif isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super":
            self._register_or_run("super", function.attr, call, when)
        elif function.attr in ("register_buffer", "register_parameter"):
            kind = function.attr.removeprefix("register_")
            for pattern in self.scope.patterns(_argument(call, 0, "name")):
                self.file.loose.append([pattern, kind, call.lineno])
        elif any(map(self._is_own, call.args)):
            dotted = self.scope.dotted(owner)
            if dotted is not None:
                self._run(dotted, function.attr, call, when)
        elif isinstance(owner, ast.Name):
            self.scope.put(owner.id, self._added(function.attr, call))
        else:
            name = _attribute_of(owner, self._own)
            for pattern, described in self._added(function.attr, call) if name else ():
                self.acts.append(["put", name, pattern, call.lineno, when, described])

    def _scan_call_of_name(self, name: str, call: ast.Call, when: When) -> None:
        if name in ("setattr", "delattr") and call.args and self._is_own(call.args[0]):
            for pattern in self.scope.patterns(_argument(call, 1, "name")):
                if name == "delattr":
                    self.acts.append(["delete", pattern, call.lineno, when])
                elif (described := self._describe_value(call.args[-1])) != PLAIN:
                    self.acts.append(["set", pattern, call.lineno, when, described])
            return
        nested = self.scope.find_function(name)
        if isinstance(nested, ast.Call):
            self._scan_call(complete(nested, call), when)
            return
        if nested is not None:
            self._enter(name, nested, call, when)
            return
        described = self.scope.describe(call.func)
        several = alternatives_of(described)
        when = when if len(several) == 1 else [*when, None]
        for item in several:
            if item[0] == "arg" and item[1].startswith("self."):  # a method that has a name of its own here
                method = ast.Attribute(ast.Name(self._own), item[1].removeprefix("self."))
                self._scan_call(ast.copy_location(ast.Call(method, call.args, call.keywords), call), when)
            elif item[0] == "ref" and any(map(self._is_own, call.args)):
                module, _, function = item[1].rpartition(".")
                self._run(module, function, call, when)

    def _enter(self, name: str, function: ast.FunctionDef | ast.Lambda, call: ast.Call, when: When) -> None:
        """Go through a function inside this one, with what the call gives it."""
        if name in self._inside or len(self._inside) > _DEEPEST_INSIDE:
            return
        outer = self.scope
        self._inside.append(name)
        self.scope = outer.enter(function, call)
        if isinstance(function, ast.Lambda):
            if isinstance(function.body, ast.Call):
                self._scan_call(ast.copy_location(function.body, call), when)
        else:
            self._scan_body(function.body, when)
        self.scope = outer
        self._inside.pop()

    def _is_own(self, node: ast.expr) -> bool:
        return bool(self._own) and isinstance(node, ast.Name) and node.id == self._own

    def _scan_own_call(self, method: str, call: ast.Call, when: When) -> None:
        if method in ("append", "extend", "insert", "update"):
            for pattern, described in self._added(method, call):
                self.acts.append(["set", pattern, call.lineno, when, described])
        elif method == "__setattr__" and len(call.args) == 2:
            described = self._describe_value(call.args[1])
            for pattern in self.scope.patterns(call.args[0]):
                self.acts.append(["set", pattern, call.lineno, when, described])
        self._register_or_run("self", method, call, when)

    def _register_or_run(self, owner: str, method: str, call: ast.Call, when: When) -> None:
        """Note what Module's own methods register; a call of another method is gone into by the linker."""
        line = call.lineno
        if method in ("register_buffer", "register_parameter"):
            kind = method.removeprefix("register_")
            value = self._value_of(_argument(call, 1, "tensor" if kind == "buffer" else "param"))
            flag = _argument(call, 2, "persistent")
            is_open = any(keyword.arg is None for keyword in call.keywords)
            persistent = self.scope.describe(flag) if flag else OPEN if is_open else ["const", True]
            more = [persistent] if kind == "buffer" else []
            for pattern in self.scope.patterns(_argument(call, 0, "name")):
                self.acts.append([kind, pattern, line, when, *more, value])
        elif method in ("add_module", "register_module"):
            described = self._describe_value(_argument(call, 1, "module") or ast.Constant(...))
            for pattern in self.scope.patterns(_argument(call, 0, "name")):
                self.acts.append(["set", pattern, line, when, described])
        self._run(owner, method, call, when)

    def _added(self, method: str, call: ast.Call) -> list[list[Any]]:
        """What a method of a container puts into it, by pattern of the key."""
        if not call.args:
            return []
        if method in ("append", "insert"):
            return [[DIGITS, self._describe_value(call.args[-1])]]
        if method == "extend":
            return [[DIGITS, item] for item in items_of(self._describe_value(call.args[0]))]
        if method in ("add_module", "register_module") and len(call.args) == 2:
            described = self._describe_value(call.args[1])
            return [[pattern, described] for pattern in self.scope.patterns(call.args[0])]
        if method == "update":
            described = self._describe_value(call.args[0])
            pairs: list[list[Any]] = described[1] if described[0] == "dict" else [[ANY, OPEN]]
            return pairs
        return []

    def _run(self, owner: str, method: str, call: ast.Call, when: When) -> None:
        """Note a call of a method of self, of a base, or of a function that is given self."""
        if owner == "self":
            self.called.append(method)
        given = [argument for argument in call.args if not self._is_own(argument)]
        arguments = self.scope.describe_arguments(ast.Call(call.func, given, call.keywords))
        self.acts.append(["run", owner, method, call.lineno, when, arguments])

    def _value_of(self, value: ast.expr | None) -> str:
        if ["const", None] in alternatives_of(self.scope.describe(value)):
            return "none"
        return "empty" if self._is_empty(value) else ""

    def _is_empty(self, value: ast.expr | None) -> bool:
        """Whether ``value`` is a tensor without elements: ``torch.Tensor()``, ``torch.empty(0)``."""
        if not isinstance(value, ast.Call) or len(value.args) > 1:
            return False
        dotted = self.scope.dotted(value.func) or ""
        first = value.args[0] if value.args else None
        if dotted == "torch.Tensor" and first is None:
            return not value.keywords
        no_items = isinstance(first, (ast.List, ast.Tuple)) and not first.elts
        if dotted in ("torch.tensor", "torch.Tensor", "torch.FloatTensor"):
            return no_items
        is_zero = isinstance(first, ast.Constant) and first.value == 0 and first.value is not False
        return dotted in ("torch.empty", "torch.zeros", "torch.ones") and is_zero

    # ----------------------------------------------------------------------------------- conditions

    def _read_test(self, test: ast.expr) -> tuple[When, When]:
        """What holds where ``test`` does, and where it does not."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self._read_test(test.operand)[::-1]
        whole = f"#{test.lineno}:{test.col_offset}"
        if isinstance(test, ast.BoolOp):
            is_and = isinstance(test.op, ast.And)
            parts = [atom for value in test.values for atom in self._read_test(value)[0 if is_and else 1]]
            yes, no = [[whole, "true"]], [[whole, "false"]]
            return ([*parts, *yes], no) if is_and else (yes, [*parts, *no])
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            key, value = self._key_of(test.left), self.scope.describe(test.comparators[0])
            if key and value[0] == "const":
                same = isinstance(test.ops[0], (ast.Is, ast.Eq))
                if same or isinstance(test.ops[0], (ast.IsNot, ast.NotEq)):
                    both = [[key, "is", value[1]]], [[key, "not", value[1]]]
                    return both if same else both[::-1]
        key = self._key_of(test) or whole
        return [[key, "true"]], [[key, "false"]]

    def _key_of(self, node: ast.expr) -> str:
        """The argument that ``node`` is, or the attribute of self; "" if it is something else."""
        described = self.scope.describe(node)
        return described[1] if described[0] == "arg" else ""


def _argument(call: ast.Call, index: int, name: str) -> ast.expr | None:
    found = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return call.args[index] if found is None and index < len(call.args) else found


def iter_statements(body: Sequence[ast.stmt], read_test: Any) -> Iterator[tuple[ast.stmt, When]]:
    """Every statement in its order, with the conditions under which it runs; not those of inner functions."""
    leaving = _find_leaving(body)
    stack: list[tuple[Sequence[ast.stmt], int, When]] = [(body, 0, [])]
    while stack:
        statements, at, when = stack.pop()
        if at >= len(statements):
            continue
        statement = statements[at]
        yield statement, when
        rest = when
        may_leave = id(statement) in leaving
        inner: list[tuple[Sequence[ast.stmt], When]] = []
        if isinstance(statement, ast.If):
            yes, no = read_test(statement.test)
            inner = [(statement.body, [*when, *yes]), (statement.orelse, [*when, *no])]
            if _leaves(statement.body):
                rest = [*when, *no]
                may_leave = any(id(item) in leaving for item in statement.orelse)
            elif statement.orelse and _leaves(statement.orelse):
                rest = [*when, *yes]
                may_leave = any(id(item) in leaving for item in statement.body)
        elif isinstance(statement, (ast.For, ast.AsyncFor)):
            sure = isinstance(statement.iter, (ast.List, ast.Tuple)) and statement.iter.elts
            inner = [(statement.body, when if sure else [*when, None]), (statement.orelse, when)]
        elif isinstance(statement, ast.While):
            inner = [(statement.body, [*when, None]), (statement.orelse, when)]
        elif isinstance(statement, (ast.With, ast.AsyncWith)):
            inner = [(statement.body, when)]
        elif isinstance(statement, ast.Try) or type(statement).__name__ == "TryStar":
            handlers = [(handler.body, [*when, None]) for handler in statement.handlers]  # type: ignore[attr-defined]
            inner = [(statement.body, [*when, None]), *handlers]  # type: ignore[attr-defined]
            inner += [(statement.orelse, [*when, None]), (statement.finalbody, when)]  # type: ignore[attr-defined]
        elif isinstance(statement, ast.Match):
            inner = [(case.body, [*when, None]) for case in statement.cases]
        stack.append((statements, at + 1, [*rest, None] if may_leave else rest))
        stack += [(block, 0, conditions) for block, conditions in reversed(inner)]


def _find_leaving(body: Sequence[ast.stmt]) -> set[int]:
    """By id, the statements after which the rest may be left out: a return or a break is in them."""
    parents: dict[int, ast.AST | None] = {id(statement): None for statement in body}
    by_return: set[int] = set()
    in_loop: set[int] = set()
    stack: list[ast.AST] = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.Return, ast.Continue, ast.Break)):
            marked = by_return if isinstance(node, ast.Return) else in_loop
            above: ast.AST | None = node
            while above is not None and id(above) not in marked:
                if marked is in_loop and isinstance(above, (ast.For, ast.AsyncFor, ast.While)):
                    break
                marked.add(id(above))
                above = parents[id(above)]
        elif not isinstance(node, (ast.expr, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                    parents[id(child)] = node
                    stack.append(child)
    return by_return | in_loop


def read_branch(test: ast.expr) -> tuple[When, When]:
    """That a test of the module holds, or not."""
    whole = f"#{test.lineno}:{test.col_offset}"
    return [[whole, "true"]], [[whole, "false"]]


def _leaves(body: Sequence[ast.stmt]) -> bool:
    """Whether what follows is not reached from here; where an error is raised there is no instance at all."""
    return bool(body) and isinstance(body[-1], (ast.Return, ast.Continue, ast.Break))


def _attribute_of(node: ast.expr, own: str) -> str:
    """``x`` of ``self.x``, else "" ."""
    is_own = (
        own and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == own
    )
    return node.attr if is_own else ""  # type: ignore[attr-defined]


def _read_defaults(arguments: ast.arguments) -> dict[str, object]:
    """Constants that arguments are by default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = list(zip(reversed(positional), reversed(arguments.defaults), strict=False))
    pairs += [
        (a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
    ]
    return {
        argument.arg: value.value
        for argument, value in pairs
        if isinstance(value, ast.Constant)
        and (value.value is None or isinstance(value.value, (bool, int, str)))
    }
