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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ckpttool.kinds.source.expressions import ANY, DIGITS, OPEN, PLAIN, Description, Looped, Scope

VERSION = 1
"""Of what a summary holds: a cache of another is of no use."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
When: TypeAlias = list[Any]

_INIT = ("__init__", "__post_init__")
_TELLING = re.compile(
    r"register_|add_module|setattr|Parameter|Buffer|_buffers|_modules|self(?:\.\w+)+(?:\[[^\]]*\])?\s*"
    r"(?::[^=\n]*)?=\s*[\w.]*\b[A-Z]\w*\s*\(|\.(?:append|extend|insert)\("
)
"""A method is looked into if this is in its text, or another calls it: ``forward`` mostly is not."""

_REGISTERS = re.compile(r"\b(\w+)\.(?:register_buffer|register_parameter|add_module|register_module)\(")
"""A function that registers on one of its arguments."""

_MOST_CLASSES = 2000
_MOST_ACTS = 400  # of one method
_MOST_STATEMENTS = 20_000  # of one method
_UNKNOWN: When = [None]


def scan_module(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, Any]:
    """The summary of a file that is imported as ``module``."""
    return _File(tree, text, module, is_package).summary()


class _File:
    def __init__(self, tree: ast.Module, text: str, module: str, is_package: bool) -> None:
        self.module = module
        self.lines = text.split("\n")
        self.imports: dict[str, str] = {}
        self.stars: list[str] = []
        self.defined: set[str] = set()
        self.loose: list[list[Any]] = []
        self._package = module if is_package else module.rpartition(".")[0]
        self._tree = tree
        self.scope = Scope(self._resolve)

    def _resolve(self, name: str) -> str | None:
        if name in self.defined:
            return f"{self.module}.{name}" if self.module else name
        found = self.imports.get(name)
        if found is None and self.stars and not name.startswith("__"):
            return f"{self.module}.{name}"  # perhaps of a star; the linker looks
        return found

    def summary(self) -> dict[str, Any]:
        classes: dict[str, ast.ClassDef] = {}
        functions: dict[str, Function] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._note_import(node)
        for statement, _ in _iter_statements(self._tree.body, lambda test: (_UNKNOWN, _UNKNOWN)):
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions[statement.name] = statement
                self.defined.add(statement.name)
            elif isinstance(statement, ast.ClassDef):
                classes[statement.name] = statement
                self.defined.add(statement.name)
            elif isinstance(statement, ast.Assign):
                for target in statement.targets:
                    self.scope.assign(target, statement.value)
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                self.scope.assign(statement.target, statement.value)
        # A name that is both imported and defined (try: import, except: class) is the file's own.
        for name in self.defined:
            self.scope.values.pop(name, None)
        queue = list(classes.items())
        scanned: dict[str, Any] = {}
        while queue and len(scanned) < _MOST_CLASSES:
            name, node = queue.pop(0)
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
        for name in self.scope.values:
            described = self.scope.describe(ast.Name(name))
            if described[0] in ("ref", "or") and described != ["ref", self._resolve(name)]:
                found[name] = described
        return found

    def _scan_function(self, node: Function) -> dict[str, Any] | None:
        """A function of the module, if it gives something that may be a module or a Parameter."""
        own = ""
        found = _REGISTERS.search("\n".join(self.lines[node.lineno - 1 : node.end_lineno]))
        if found is not None and found[1] in [item.arg for item in (*node.args.posonlyargs, *node.args.args)]:
            own = found[1]
        walk = _Body(self, node, own=own, constants={})
        if own:
            summary = walk.scan()
            return None if summary is None else {**summary, "own": own}
        returns = walk.returns()
        if not returns or all(item in (PLAIN, OPEN) or item[0] == "const" for item in returns):
            return None
        return {"arguments": walk.arguments, "defaults": walk.defaults, "acts": [], "returns": returns}

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
        # What instances assign as well is no constant of the class.
        telling = [name for name in methods if name in _INIT or self._is_telling(methods[name])]
        scanned: dict[str, Any] = {}
        while telling:
            name = telling.pop()
            if name in scanned:
                continue
            found = _Body(self, methods[name], own=_first_argument(methods[name]), constants=constants)
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
        text = "\n".join(self.lines[node.lineno - 1 : node.end_lineno])
        return _TELLING.search(text) is not None


def _first_argument(node: Function) -> str:
    if any(isinstance(item, ast.Name) and item.id == "staticmethod" for item in node.decorator_list):
        return ""
    arguments = [*node.args.posonlyargs, *node.args.args]
    return arguments[0].arg if arguments else ""


class _Body:
    """One function or method: what it registers, in order, and what it gives back."""

    def __init__(self, file: _File, node: Function, own: str, constants: Mapping[str, ast.expr]) -> None:
        self.file = file
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [item.arg for item in every if item.arg != own]
        extra = [item.arg for item in (node.args.vararg, node.args.kwarg) if item is not None]
        self.scope = Scope(file._resolve, file.scope, (*names, *extra), constants, own)
        self.arguments = names
        self.positional = len([*node.args.posonlyargs, *node.args.args]) - bool(own)
        self.defaults = _read_defaults(node.args)
        self.called: list[str] = []
        self.acts: list[list[Any]] = []
        self._node = node
        self._own = own
        self._returns: list[ast.expr] = []
        self._statements: list[tuple[ast.stmt, When]] = []
        self._locals: dict[str, str] = {}  # what a bound method of self is called here
        self._inside: list[str] = []  # functions of this one that are gone into
        self._attributes: dict[str, ast.expr] = {}  # self.x, where it is assigned once
        self._fill(node.body, self.scope)
        for count, item in enumerate(_iter_statements(node.body, self._read_test)):
            if count >= _MOST_STATEMENTS:
                break
            self._statements.append(item)

    def _fill(self, body: Sequence[ast.stmt], scope: Scope, depth: int = 0) -> None:
        """Note what every name of the function is assigned."""
        assigned: set[str] = set()
        for statement, _ in _iter_statements(body, lambda test: (_UNKNOWN, _UNKNOWN)):
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    scope.assign(target, statement.value)
                    if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                        scope.add(target.value.id, target.slice, statement.value, False)
                    name = _attribute_of(target, self._own)
                    if name and scope is self.scope:
                        if name in assigned:
                            self._attributes.pop(name, None)
                        else:
                            self._attributes[name] = statement.value
                        assigned.add(name)
            elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
                if isinstance(statement.op, ast.Add):
                    scope.add(statement.target.id, None, statement.value, True)
            elif isinstance(statement, (ast.For, ast.AsyncFor)):
                scope.assign(statement.target, Looped(statement.iter, ()))
            elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) and depth < 2:
                names = [item.arg for item in (*statement.args.posonlyargs, *statement.args.args)]
                inner = Scope(self.file._resolve, scope, names, scope._constants, self._own)
                self._fill(statement.body, inner, depth + 1)
                returns = [item.value for item in _iter_own(statement.body, ast.Return) if item.value]
                scope.functions[statement.name] = (inner, returns)
            elif isinstance(statement, ast.Return) and statement.value is not None and scope is self.scope:
                self._returns.append(statement.value)
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                self._fill_call(statement.value, scope)

    def _fill_call(self, call: ast.Call, scope: Scope) -> None:
        function = call.func
        if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
            return
        name, arguments = function.value.id, call.args
        if name == self._own or not arguments:
            return
        if function.attr == "append":
            scope.add(name, None, arguments[0], False)
        elif function.attr == "extend":
            scope.add(name, None, arguments[0], True)
        elif function.attr == "insert" and len(arguments) == 2:
            scope.add(name, None, arguments[1], False)
        elif function.attr in ("add_module", "register_module") and len(arguments) == 2:
            scope.add(name, arguments[0], arguments[1], False)

    def returns(self) -> list[Description]:
        """What the function may give, as far as it is a call, a class or a list of such."""
        found = [self.scope.describe(node) for node in self._returns[:8]]
        return [item for item in found if item[0] not in ("const",)]

    def scan(self) -> dict[str, Any] | None:
        """The summary of the function; None if it does nothing that counts."""
        for statement, when in self._statements:
            if len(self.acts) >= _MOST_ACTS:
                break
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    self._scan_assignment(target, statement.value, statement.lineno, when)
            elif isinstance(statement, ast.Delete):
                for target in statement.targets:
                    name = _attribute_of(target, self._own)
                    if name:
                        self.acts.append(["delete", name, statement.lineno, when])
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                self._scan_call(statement.value, when)
        returns = [item for item in self.returns() if item not in (PLAIN, OPEN)]
        if not self.acts and not returns and self._node.name not in _INIT:
            return None
        return {
            "arguments": self.arguments,
            "positional": self.positional,
            "defaults": self.defaults,
            "acts": self.acts,
            "returns": returns,
        }

    # ----------------------------------------------------------------------------------- statements

    def _scan_assignment(self, target: ast.expr, value: ast.expr, line: int, when: When) -> None:
        if isinstance(target, (ast.Tuple, ast.List)):
            values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
            for index, part in enumerate(target.elts[:64]):
                self._scan_assignment(
                    part, values[index] if index < len(values) else ast.Constant(...), line, when
                )
            return
        name = _attribute_of(target, self._own)
        if name:
            described = self.scope.describe(value)
            for item in described[1] if described[0] == "or" else [described]:
                self._note_called(item)
            if described != PLAIN:
                self.acts.append(["set", name, line, when, described])
        elif isinstance(target, ast.Attribute):
            inner = self.scope.describe(value)
            if _makes(inner, "Parameter"):
                self.file.loose.append([target.attr, "parameter", line])
        elif isinstance(target, ast.Subscript):
            owner = _attribute_of(target.value, self._own)
            if not owner:
                return
            for pattern in self.scope.patterns(target.slice):
                if owner == "_buffers":
                    self.acts.append(["buffer", pattern, line, when, OPEN, self._value_of(value)])
                elif owner == "_parameters":
                    self.acts.append(["parameter", pattern, line, when, self._value_of(value)])
                elif owner == "_modules":
                    self.acts.append(["set", pattern, line, when, self.scope.describe(value)])
                else:
                    described = self.scope.describe(value)
                    if described != PLAIN and described[0] != "const":
                        self.acts.append(["put", owner, pattern, line, when, described])

    def _scan_call(self, call: ast.Call, when: When) -> None:
        function = call.func
        arguments = dict(enumerate(call.args))
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        line = call.lineno
        if isinstance(function, ast.Name):
            if function.id == "setattr" and len(call.args) == 3 and self._is_own(call.args[0]):
                described = self.scope.describe(call.args[2])
                if described != PLAIN:
                    for pattern in self.scope.patterns(call.args[1]):
                        self.acts.append(["set", pattern, line, when, described])
            elif function.id == "delattr" and len(call.args) == 2 and self._is_own(call.args[0]):
                for pattern in self.scope.patterns(call.args[1]):
                    self.acts.append(["delete", pattern, line, when])
            else:
                self._scan_bound(function.id, call, when)
                dotted = self.scope.dotted(function)
                if dotted is not None and any(map(self._is_own, call.args)):
                    self._run(*dotted.rpartition(".")[::2], call, when)
            return
        if not isinstance(function, ast.Attribute):
            return
        owner = function.value
        if self._is_own(owner):
            self._scan_own_call(function.attr, call, arguments, named, when)
        elif isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super":
            self._run("super", function.attr, call, when)
        elif function.attr in ("register_buffer", "register_parameter"):
            kind = function.attr.removeprefix("register_")
            for pattern in self.scope.patterns(arguments.get(0) or named.get("name")):
                self.file.loose.append([pattern, kind, line])
        elif any(map(self._is_own, call.args)):
            dotted = self.scope.dotted(owner)
            if dotted is not None:
                self._run(dotted, function.attr, call, when)
        else:
            name = _attribute_of(owner, self._own)
            if name:
                self._scan_container(name, function.attr, call, when)

    def _is_own(self, node: ast.expr) -> bool:
        return bool(self._own) and isinstance(node, ast.Name) and node.id == self._own

    def _scan_own_call(
        self,
        method: str,
        call: ast.Call,
        arguments: Mapping[int, ast.expr],
        named: Mapping[str | None, ast.expr],
        when: When,
    ) -> None:
        line = call.lineno
        name = arguments.get(0) or named.get("name")
        if method == "register_buffer":
            value = arguments.get(1) or named.get("tensor")
            flag = arguments.get(2) or named.get("persistent")
            persistent = ["const", True] if flag is None else self.scope.describe(flag)
            if flag is None and None in named:
                persistent = OPEN
            for pattern in self.scope.patterns(name):
                self.acts.append(["buffer", pattern, line, when, persistent, self._value_of(value)])
        elif method == "register_parameter":
            value = arguments.get(1) or named.get("param")
            for pattern in self.scope.patterns(name):
                self.acts.append(["parameter", pattern, line, when, self._value_of(value)])
        elif method in ("add_module", "register_module"):
            described = self.scope.describe(arguments.get(1) or named.get("module"))
            for pattern in self.scope.patterns(name):
                self.acts.append(["set", pattern, line, when, described])
        elif method == "__setattr__" and len(arguments) == 2:
            described = self.scope.describe(arguments[1])
            for pattern in self.scope.patterns(arguments[0]):
                self.acts.append(["set", pattern, line, when, described])
        elif method in ("append", "insert") and arguments:
            self.acts.append(["set", DIGITS, line, when, self.scope.describe(call.args[-1])])
        elif method == "extend" and arguments:
            for item in _items(self.scope.describe(call.args[0])):
                self.acts.append(["set", DIGITS, line, when, item])
        self._run("self", method, call, when)

    def _scan_container(self, attribute: str, method: str, call: ast.Call, when: When) -> None:
        if not call.args:
            return
        line = call.lineno
        if method in ("append", "insert"):
            self.acts.append(["put", attribute, DIGITS, line, when, self.scope.describe(call.args[-1])])
        elif method == "extend":
            for item in _items(self.scope.describe(call.args[0])):
                self.acts.append(["put", attribute, DIGITS, line, when, item])
        elif method in ("add_module", "register_module") and len(call.args) == 2:
            described = self.scope.describe(call.args[1])
            for pattern in self.scope.patterns(call.args[0]):
                self.acts.append(["put", attribute, pattern, line, when, described])
        elif method == "update":
            described = self.scope.describe(call.args[0])
            pairs: list[list[Any]] = described[1] if described[0] == "dict" else [[ANY, OPEN]]
            self.acts += [["put", attribute, pattern, line, when, item] for pattern, item in pairs]

    def _scan_bound(self, name: str, call: ast.Call, when: When) -> None:
        """A call of a local name that stands for a method of self, a lambda or function around one."""
        for value in self.scope.values.get(name, ()):
            if not isinstance(value, ast.expr):
                continue
            persistent: ast.expr | None = None
            if isinstance(value, ast.Call) and value.args:  # functools.partial(self.register_buffer, …)
                persistent = next((k.value for k in value.keywords if k.arg == "persistent"), None)
                value = value.args[0]
            keywords = list(call.keywords)
            if persistent is not None and not any(k.arg == "persistent" for k in keywords):
                keywords.append(ast.keyword("persistent", persistent))
            if isinstance(value, ast.Attribute) and self._is_own(value.value):
                made = ast.Call(value, call.args, keywords)
                self._scan_call(ast.copy_location(made, call), when)
            elif isinstance(value, ast.Lambda) and isinstance(value.body, ast.Call) and len(self._inside) < 3:
                names = [item.arg for item in value.args.args]
                self._inside.append(name)
                self._scan_call(
                    _substitute(value.body, dict(zip(names, call.args, strict=False)), call), when
                )
                self._inside.pop()
        if name in self._inside:
            return  # it calls itself
        self._inside.append(name)
        for node in self._nested(name):
            names = [item.arg for item in node.args.args]
            given = dict(zip(names, call.args, strict=False))
            given.update((k.arg, k.value) for k in call.keywords if k.arg)
            for statement in _iter_own(node.body, ast.Expr):
                if isinstance(statement.value, ast.Call):
                    self._scan_call(_substitute(statement.value, given, call), when)
        self._inside.pop()

    def _nested(self, name: str) -> list[ast.FunctionDef]:
        return [
            item for item, _ in self._statements if isinstance(item, ast.FunctionDef) and item.name == name
        ]

    def _run(self, owner: str, method: str, call: ast.Call, when: When) -> None:
        """Note a call of a method of self, of a base, or of a function that is given self."""
        if owner == "self":
            self.called.append(method)
        given = [argument for argument in call.args if not self._is_own(argument)]
        arguments = self.scope.describe_arguments(ast.Call(call.func, given, call.keywords))
        self.acts.append(["run", owner, method, call.lineno, when, arguments])

    def _note_called(self, item: Description) -> None:
        if item[0] == "method":
            self.called.append(item[1])

    def _value_of(self, value: ast.expr | None) -> str:
        described = self.scope.describe(value)
        items = described[1] if described[0] == "or" else [described]
        return "none" if ["const", None] in items else "empty" if self._is_empty(value) else ""

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
            return [*(parts if is_and else ()), [whole, "true"]], [
                *(() if is_and else parts),
                [whole, "false"],
            ]
        if (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and isinstance(test.comparators[0], ast.Constant)
        ):
            key = self._key_of(test.left)
            value = test.comparators[0].value
            if key and (value is None or isinstance(value, (bool, int, str))):
                same = isinstance(test.ops[0], (ast.Is, ast.Eq))
                if same or isinstance(test.ops[0], (ast.IsNot, ast.NotEq)):
                    both = [[key, "is", value]], [[key, "not", value]]
                    return both if same else both[::-1]
        key = self._key_of(test) or whole
        return [[key, "true"]], [[key, "false"]]

    def _key_of(self, node: ast.expr) -> str:
        """The argument that ``node`` is, or the attribute of self; "" if it is something else."""
        name = _attribute_of(node, self._own)
        if name:
            value = self._attributes.get(name)
            return self._key_of(value) if isinstance(value, ast.Name) else f"self.{name}"
        if (
            isinstance(node, ast.Name)
            and node.id in self.scope.arguments
            and node.id not in self.scope.values
        ):
            return node.id
        return ""


def _substitute(body: ast.Call, given: Mapping[str, ast.expr], place: ast.Call) -> ast.Call:
    """A copy of ``body`` with ``given`` for its arguments, at the line of the call."""
    arguments = [given.get(a.id, a) if isinstance(a, ast.Name) else a for a in body.args]
    keywords = [
        ast.keyword(k.arg, given.get(k.value.id, k.value) if isinstance(k.value, ast.Name) else k.value)
        for k in body.keywords
    ]
    return ast.copy_location(ast.Call(body.func, arguments, keywords), place)


def _iter_statements(body: Sequence[ast.stmt], read_test: Any) -> Iterator[tuple[ast.stmt, When]]:
    """Every statement in its order, with the conditions under which it runs; not those of inner functions."""
    stack: list[tuple[Sequence[ast.stmt], int, When]] = [(body, 0, [])]
    while stack:
        statements, at, when = stack.pop()
        if at >= len(statements):
            continue
        statement = statements[at]
        yield statement, when
        rest = when
        inner: list[tuple[Sequence[ast.stmt], When]] = []
        if isinstance(statement, ast.If):
            yes, no = read_test(statement.test)
            inner = [(statement.body, [*when, *yes]), (statement.orelse, [*when, *no])]
            if _leaves(statement.body):
                rest = [*when, *no]
            elif statement.orelse and _leaves(statement.orelse):
                rest = [*when, *yes]
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
        stack.append((statements, at + 1, rest))
        stack += [(block, 0, conditions) for block, conditions in reversed(inner)]


def _leaves(body: Sequence[ast.stmt]) -> bool:
    """Whether what follows is not reached from here; where an error is raised there is no instance at all."""
    return bool(body) and isinstance(body[-1], (ast.Return, ast.Continue, ast.Break))


def _iter_own(body: Sequence[ast.stmt], kind: type[Any]) -> Iterator[Any]:
    for statement, _ in _iter_statements(body, lambda test: (_UNKNOWN, _UNKNOWN)):
        if isinstance(statement, kind):
            yield statement


def _attribute_of(node: ast.expr, own: str) -> str:
    """``x`` of ``self.x``, else "" ."""
    is_own = (
        own and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == own
    )
    return node.attr if is_own else ""  # type: ignore[attr-defined]


def _items(described: Description) -> list[Description]:
    return described[1] if described[0] == "list" else [OPEN]


def _makes(described: Description, ending: str) -> bool:
    items = described[1] if described[0] == "or" else [described]
    return any(item[0] == "call" and item[1].endswith(ending) for item in items)


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
