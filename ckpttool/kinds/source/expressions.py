"""What the expressions of a function may give, at one place of its text; nothing is evaluated."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ckpttool.kinds.source.descriptions import (
    ANY,
    MOST_ITEMS,
    NUMBER,
    OPEN,
    PLAIN,
    Description,
    When,
    alternatives,
    alternatives_of,
    bounded,
    combine,
    exact_of,
    exclude,
    items_of,
    join,
    make_list,
    patterns_of,
    put,
    unpack,
)

Inner: TypeAlias = ast.FunctionDef | ast.Lambda | ast.Call
"""What a function may define to call it: a Call is that of ``functools.partial``."""

_MOST_VALUES = 8  # that a name may have at one place
_DEEPEST = 12
_MOST_STEPS = 20_000  # of one function: whoever writes more gets no answer

_TRANSPARENT = frozenset(
    "to requires_grad_ cuda cpu double float half bfloat16 eval train type apply".split()
)
"""Methods of a tensor or a module that give the thing itself."""

_SAME = frozenset("list tuple set reversed sorted iter".split())
"""Functions of the items of what they are given, in some order."""

_NUMBERS = frozenset("len int range".split())
_PLAIN_FUNCTIONS = frozenset("float bool max min sum abs round isinstance hasattr any all".split())
_PLAIN_ROOTS = frozenset("numpy math torch einops scipy random os".split())
_FORMAT_PLACES = re.compile(r"\{\{|\}\}|\{(\w*)[^{}]*\}")
_PERCENT_PLACES = re.compile(r"%%|%(?:\((\w+)\))?[-+ #0-9.]*[a-zA-Z]")
_DOUBLED = {"{{": "{", "}}": "}", "%%": "%"}
"""What is filled in a text, and what only looks so."""

_IN_PLACE = re.compile(r"torch\.nn\.init\.\w+_")
_OF_TORCH = re.compile(
    r"torch(?:\.\w+)*\.[A-Z]\w*(?:\.\w+)?|torch\.nn\.utils\..*|torch\.compile|torch\.jit\..*|torch\.distributed\..*"
)
"""What of torch may give a module or a Parameter."""


class Scope:
    """The names of a function at one place of its text, inside those of ``outer``.

    ``resolve`` gives the dotted name of what the module imports or defines, ``constants`` are what the class
    assigns, ``own`` is what self is called. ``now`` are the conditions under which the place is reached.
    """

    def __init__(
        self,
        resolve: Callable[[str], str | None],
        outer: Scope | None = None,
        constants: Mapping[str, ast.expr] | None = None,
        own: str = "",
    ) -> None:
        self._resolve = resolve
        self._outer = outer
        self._constants = constants if constants is not None else {}
        self.own = own
        self.class_names: Sequence[str] = ()  # by which the class is known to itself
        self.now: When = []
        self.attributes: dict[str, Description] = {}  # self.x, where it is an argument or a constant
        self.functions: dict[str, Inner] = {}
        self._values: dict[str, list[tuple[Description, When]]] = {}
        self._steps = [_MOST_STEPS]  # shared with the scopes inside
        self._depth = 0

    def inner(self) -> Scope:
        """A scope inside this one, for a comprehension or a function."""
        scope = Scope(self._resolve, self, self._constants, self.own)
        scope._steps, scope._depth, scope.class_names = self._steps, self._depth + 1, self.class_names
        return scope

    # ------------------------------------------------------------------------------------ filling

    def bind(self, name: str, described: Description) -> None:
        """Let ``name`` be ``described`` from here on, where the conditions of this place hold."""
        described = bounded(described)
        known = self._values.get(name, ())
        now = {tuple(atom) if atom is not None else None for atom in self.now}
        kept = [
            (value, when)
            for value, when in known
            if not now <= {tuple(atom) if atom is not None else None for atom in when}
        ]
        kept.append((described, list(self.now)))
        self._values[name] = kept if len(kept) <= _MOST_VALUES else [(OPEN, [])]

    def names(self) -> list[str]:
        """What is assigned in it."""
        return list(self._values)

    def assign(self, target: ast.expr, described: Description) -> None:
        """Let the names in ``target`` be ``described``, or its items."""
        if isinstance(target, ast.Name):
            self.bind(target.id, described)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, OPEN)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for part, item in zip(
                target.elts[:MOST_ITEMS], unpack(described, len(target.elts)), strict=False
            ):
                self.assign(part, item)

    def loop(self, target: ast.expr, over: ast.expr) -> None:
        """Let the names in ``target`` be the elements of ``over``."""
        elements = self.elements(over)
        if isinstance(target, ast.Name):
            self.bind(target.id, alternatives(elements))
        elif isinstance(target, (ast.Tuple, ast.List)):
            columns = zip(*(unpack(element, len(target.elts)) for element in elements), strict=True)
            for part, column in zip(target.elts, columns, strict=False):
                self.assign(part, alternatives(column))

    def put(self, name: str, pattern_or_item: list[list[Any]]) -> None:
        """Put items, by pattern of their keys, into the container ``name``."""
        values = self._values.get(name)
        if values is None:
            return
        self._values[name] = [(bounded(put(value, pattern_or_item)), when) for value, when in values]

    # -------------------------------------------------------------------------------------- names

    def patterns(self, node: ast.expr | None) -> list[str]:
        """What the text that ``node`` gives may be."""
        return patterns_of(self.describe(node))

    def elements(self, node: ast.expr) -> list[Description]:
        """What a loop over ``node`` goes through, as far as that can be seen."""
        described = self.describe(node)
        if described[0] == "list" and described[1]:
            return list(described[1])
        if described[0] == "dict" and described[1]:
            return [["name", [pattern]] for pattern, _ in described[1]]
        return [described] if described[0] == "arg" or described == NUMBER else [OPEN]

    # ------------------------------------------------------------------------------------- values

    def describe(self, node: ast.expr | None) -> Description:
        """What ``node`` may give."""
        self._steps[0] -= 1
        if node is None or self._steps[0] < 0 or self._depth > _DEEPEST:
            return OPEN
        how = _DESCRIBE.get(type(node))
        if how is None:
            return OPEN
        self._depth += 1
        described: Description = how(self, node)
        self._depth -= 1
        return described

    def _describe_constant(self, node: ast.Constant) -> Description:
        value = node.value
        if value is ... or isinstance(value, (bytes, complex, float)):
            return OPEN if value is ... else PLAIN
        if isinstance(value, int) and value.bit_length() > 64:
            return NUMBER
        return ["const", value]

    def _describe_name(self, node: ast.Name) -> Description:
        scope: Scope | None = self
        while scope is not None:
            values = scope._values.get(node.id)
            if values is not None:
                return alternatives([value for value, when in values if not exclude(when, self.now)])
            scope = scope._outer
        dotted = self._resolve(node.id)
        return OPEN if dotted is None else ["ref", dotted]

    def is_local(self, name: str) -> bool:
        """Whether a function assigns the name, or it is an argument."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._values or name in scope.functions:
                return True
            scope = scope._outer
        return False

    def _describe_attribute(self, node: ast.Attribute) -> Description:
        if (
            isinstance(node.value, ast.Name)
            and node.value.id in self.class_names
            and node.attr in self._constants
        ):
            return self.describe(self._constants[node.attr])
        if isinstance(node.value, ast.Name) and self.own and node.value.id == self.own:
            known = self._attribute(node.attr)
            if known is not None:
                return known
            constant = self._constants.get(node.attr)
            return ["arg", f"self.{node.attr}"] if constant is None else self.describe(constant)
        dotted = self.dotted(node)
        return OPEN if dotted is None else ["ref", dotted]

    def _attribute(self, name: str) -> Description | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.attributes:
                return scope.attributes[name]
            scope = scope._outer
        return None

    def dotted(self, node: ast.expr) -> str | None:
        """``torch.nn.Linear`` for ``nn.Linear``: of a name that the module imports or defines."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute) and len(parts) < 2 * _DEEPEST:
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        described = self._describe_name(node)
        return ".".join((described[1], *reversed(parts))) if described[0] == "ref" else None

    def _describe_call(self, node: ast.Call) -> Description:
        function = node.func
        if isinstance(function, ast.Attribute):
            owner = function.value
            if isinstance(owner, ast.Name) and self.own and owner.id == self.own:
                return ["method", function.attr, self.describe_arguments(node)]
            special = self._describe_method(function, node)
            if special is not None:
                return special
        if isinstance(function, ast.Name):
            nested = self.find_function(function.id)
            if isinstance(nested, ast.Call):
                return self.describe(complete(nested, node))
            if nested is not None:
                return self._call_nested(nested, node)
            if self._resolve(function.id) is None and not self.is_local(function.id):
                return self._call_builtin(function.id, node)
        callee = self.describe(function)
        return alternatives([self._call(item, node) for item in alternatives_of(callee)])

    def _describe_method(self, function: ast.Attribute, node: ast.Call) -> Description | None:
        """What a method of something else than self gives, where its name says that; None if not."""
        name = function.attr
        if name == "format" and isinstance(function.value, ast.Constant):
            named = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            return self._fill(function.value, _FORMAT_PLACES, node.args, named)
        if name in ("items", "keys", "values") and not node.args:
            table = self.describe(function.value)
            if table[0] != "dict":
                return OPEN
            keys = [["name", [pattern]] for pattern, _ in table[1]]
            values = [item for _, item in table[1]]
            pairs = [["list", [key, value], None] for key, value in zip(keys, values, strict=True)]
            return make_list(pairs if name == "items" else keys if name == "keys" else values, 0)
        if name in _TRANSPARENT:
            inner = self.describe(function.value)
            return inner if inner[0] != "ref" else None
        return None

    def find_function(self, name: str) -> Inner | None:
        """The function, lambda or functools.partial that ``name`` is inside this one."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.functions:
                return scope.functions[name]
            scope = scope._outer
        return None

    def enter(self, function: ast.FunctionDef | ast.Lambda, call: ast.Call) -> Scope:
        """The scope of a function inside this one, with what ``call`` gives it."""
        scope = self.inner()
        names = [item.arg for item in (*function.args.posonlyargs, *function.args.args)]
        for name in (*names, *(item.arg for item in function.args.kwonlyargs)):
            scope.bind(name, OPEN)
        for name, argument in zip(names, call.args, strict=False):
            scope.bind(name, self.describe(argument))
        for keyword in call.keywords:
            if keyword.arg:
                scope.bind(keyword.arg, self.describe(keyword.value))
        return scope

    def _call_nested(self, function: ast.FunctionDef | ast.Lambda, node: ast.Call) -> Description:
        scope = self.enter(function, node)
        if isinstance(function, ast.Lambda):
            return scope.describe(function.body)
        found = []
        for statement in ast.walk(function):
            if isinstance(statement, ast.Assign):
                for target in statement.targets:
                    scope.assign(target, scope.describe(statement.value))
            elif isinstance(statement, ast.Return) and statement.value is not None:
                found.append(scope.describe(statement.value))
        return alternatives(found) if found else PLAIN

    def _call_builtin(self, name: str, node: ast.Call) -> Description:
        first = self.describe(node.args[0]) if node.args else OPEN
        if name in ("dict", "OrderedDict"):
            return self._describe_dict_call(node)
        if name == "str" and len(node.args) == 1:
            return ["name", patterns_of(first)]
        if name in _NUMBERS:
            return NUMBER
        if name in _SAME:
            if not node.args:
                return make_list([], None)
            in_order = name in ("list", "tuple", "iter") and first[0] == "list"
            return first if in_order or first[0] == "arg" else make_list(self.elements(node.args[0]), 0)
        if name == "enumerate" and node.args:
            return make_list([["list", [NUMBER, item], None] for item in self.elements(node.args[0])], 0)
        if name == "zip":
            columns = [self.elements(argument) for argument in node.args]
            counts = [len(column) for column in columns if column != [OPEN] and column != [NUMBER]]
            count = min(counts, default=1)
            rows = [[column[min(at, len(column) - 1)] for column in columns] for at in range(count)]
            return make_list([["list", row, None] for row in rows], 0)
        if name == "super":
            return OPEN
        return PLAIN if name in _PLAIN_FUNCTIONS else OPEN

    def _call(self, callee: Description, node: ast.Call) -> Description:
        """What ``callee`` gives for the arguments of ``node``."""
        if callee[0] != "ref":
            return OPEN
        dotted: str = callee[1]
        if dotted == "functools.partial" and node.args:
            return self.describe(node.args[0])
        if dotted == "typing.cast" and len(node.args) == 2:
            return self.describe(node.args[1])
        if _IN_PLACE.fullmatch(dotted) and node.args:
            return self.describe(node.args[0])
        if dotted.endswith(".OrderedDict"):
            return self._describe_dict_call(node)
        if dotted.partition(".")[0] in _PLAIN_ROOTS and not _OF_TORCH.fullmatch(dotted):
            return PLAIN
        return ["call", dotted, self.describe_arguments(node)]

    def describe_arguments(self, node: ast.Call) -> list[Any]:
        """The arguments of a call."""
        positional: list[Description] = []
        is_open = False
        for argument in node.args[:MOST_ITEMS]:
            if isinstance(argument, ast.Starred):
                is_open = True
                positional.append(["*", self.describe(argument.value)])
            else:
                positional.append(self.describe(argument))
        named = {}
        for keyword in node.keywords[:MOST_ITEMS]:
            if keyword.arg is None:
                is_open = True
            else:
                named[keyword.arg] = self.describe(keyword.value)
        return [positional, named, is_open]

    # --------------------------------------------------------------------------- lists, tables, texts

    def _describe_dict_call(self, node: ast.Call) -> Description:
        pairs: list[list[Any]] = []
        for argument in node.args[:1]:
            inner = self.describe(argument)
            if inner[0] == "dict":
                pairs += inner[1]
            elif inner[0] == "list":
                for item in inner[1]:
                    key, value = unpack(item, 2)
                    pairs += [[pattern, value] for pattern in patterns_of(key)]
            else:
                pairs.append([ANY, OPEN])
        for keyword in node.keywords[:MOST_ITEMS]:
            pairs.append([keyword.arg or ANY, self.describe(keyword.value) if keyword.arg else OPEN])
        return ["dict", pairs[:MOST_ITEMS]]

    def _describe_list(self, node: ast.List | ast.Tuple | ast.Set) -> Description:
        items: list[Description] = []
        exact: int | None = None
        for item in node.elts[:MOST_ITEMS]:
            if isinstance(item, ast.Starred):
                inner = self.describe(item.value)
                if exact is None and (inner[0] != "list" or inner[2] is not None):
                    exact = len(items) + (exact_of(inner) if inner[0] == "list" else 0)
                items += items_of(inner)
            else:
                items.append(self.describe(item))
        return make_list(items, exact)

    def _describe_comprehension(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Description:
        return make_list([self.inside(node).describe(node.elt)], 0)

    def _describe_dict_comprehension(self, node: ast.DictComp) -> Description:
        inside = self.inside(node)
        value = inside.describe(node.value)
        return ["dict", [[pattern, value] for pattern in inside.patterns(node.key)]]

    def inside(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp) -> Scope:
        """The scope of what a comprehension does for each element."""
        scope = self.inner()
        scope.now = self.now
        for generator in node.generators[:_DEEPEST]:
            scope.loop(generator.target, generator.iter)
        return scope

    def _describe_dict(self, node: ast.Dict) -> Description:
        pairs: list[list[Any]] = []
        for key, value in zip(node.keys[:MOST_ITEMS], node.values, strict=False):
            described = self.describe(value)
            if key is None:
                pairs += described[1] if described[0] == "dict" else [[ANY, OPEN]]
            else:
                pairs += [[pattern, described] for pattern in self.patterns(key)]
        return ["dict", pairs[:MOST_ITEMS]]

    def _describe_subscript(self, node: ast.Subscript) -> Description:
        inner = self.describe(node.value)
        key = self.describe(node.slice)
        if inner[0] == "dict" and inner[1]:
            same = [item for pattern, item in inner[1] if key[0] == "const" and pattern == key[1]]
            return same[0] if same else alternatives([item for _, item in inner[1]])
        if inner[0] == "list" and inner[1]:
            if isinstance(node.slice, ast.Slice):
                return make_list(inner[1], 0)
            index = key[1] if key[0] == "const" and type(key[1]) is int else None
            if index is not None and inner[2] is None and -len(inner[1]) <= index < len(inner[1]):
                item: Description = inner[1][index]
                return item
            return alternatives(inner[1])
        return OPEN

    def _describe_if(self, node: ast.IfExp) -> Description:
        return alternatives([self.describe(node.body), self.describe(node.orelse)])

    def _describe_or(self, node: ast.BoolOp) -> Description:
        values = node.values if isinstance(node.op, ast.Or) else node.values[-1:]
        return alternatives([self.describe(value) for value in values[:_DEEPEST]])

    def _describe_operation(self, node: ast.BinOp) -> Description:
        if (
            isinstance(node.op, ast.Mod)
            and isinstance(node.left, ast.Constant)
            and isinstance(node.left.value, str)
        ):
            values = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
            named = {}
            if isinstance(node.right, ast.Dict):
                keys = [getattr(key, "value", "") for key in node.right.keys]
                named = dict(zip(keys, node.right.values, strict=True))
            return self._fill(node.left, _PERCENT_PLACES, values, named)
        return combine(self.describe(node.left), node.op, self.describe(node.right))

    def _describe_text(self, node: ast.JoinedStr) -> Description:
        return self._join(node.values)

    def _describe_formatted(self, node: ast.FormattedValue) -> Description:
        is_plain = node.format_spec is None and node.conversion == -1
        return ["name", self.patterns(node.value) if is_plain else [ANY]]

    def _describe_named(self, node: ast.NamedExpr) -> Description:
        described = self.describe(node.value)
        self.assign(node.target, described)
        return described

    def _describe_plain(self, node: ast.expr) -> Description:
        return PLAIN

    def _join(self, nodes: Sequence[ast.expr]) -> Description:
        return ["name", join([self.patterns(node) for node in nodes])]

    def _fill(
        self,
        text: ast.Constant,
        places: re.Pattern[str],
        values: Sequence[ast.expr],
        named: Mapping[str, ast.expr],
    ) -> Description:
        """The patterns of ``text`` with ``values`` in its places."""
        if not isinstance(text.value, str):
            return PLAIN
        parts: list[list[str]] = []
        end = count = 0
        for found in places.finditer(text.value):
            parts.append([text.value[end : found.start()]])
            end = found.end()
            literal = _DOUBLED.get(found[0])
            if literal is not None:
                parts.append([literal])
                continue
            key = found[1] or ""
            index = int(key) if key.isdecimal() and len(key) < 3 else count
            count += 1
            value = named.get(key) or (values[index] if index < len(values) else None)
            padded = found[0].strip("%{}()").removeprefix(key).strip(")") not in ("s", "d", "")
            parts.append([ANY] if padded else self.patterns(value))
        return ["name", join([*parts, [text.value[end:]]])]


_DESCRIBE: dict[type[ast.AST], Any] = {
    ast.Constant: Scope._describe_constant,
    ast.Name: Scope._describe_name,
    ast.Attribute: Scope._describe_attribute,
    ast.Call: Scope._describe_call,
    ast.List: Scope._describe_list,
    ast.Tuple: Scope._describe_list,
    ast.Set: Scope._describe_list,
    ast.ListComp: Scope._describe_comprehension,
    ast.GeneratorExp: Scope._describe_comprehension,
    ast.SetComp: Scope._describe_comprehension,
    ast.DictComp: Scope._describe_dict_comprehension,
    ast.Dict: Scope._describe_dict,
    ast.Subscript: Scope._describe_subscript,
    ast.IfExp: Scope._describe_if,
    ast.BoolOp: Scope._describe_or,
    ast.BinOp: Scope._describe_operation,
    ast.NamedExpr: Scope._describe_named,
    ast.JoinedStr: Scope._describe_text,
    ast.FormattedValue: Scope._describe_formatted,
    ast.UnaryOp: Scope._describe_plain,
    ast.Compare: Scope._describe_plain,
}


def complete(partial: ast.Call, call: ast.Call) -> ast.Call:
    """The call that ``call`` is of what ``partial`` holds."""
    named = {keyword.arg for keyword in call.keywords}
    keywords = [keyword for keyword in partial.keywords if keyword.arg not in named]
    made = ast.Call(partial.args[0], [*partial.args[1:], *call.args], [*keywords, *call.keywords])
    return ast.copy_location(made, call)
