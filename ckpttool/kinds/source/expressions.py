"""What an expression in source may be: names as patterns, values as descriptions; nothing is evaluated.

A *pattern* is the text of a name in which ``ANY`` stands for what is not known, ``DIGITS`` for a number and
``ARG key ARG`` for an argument that the caller gives. A *description* is a list that JSON can hold::

    ["call", dotted, arguments]    what a class or function gives        ["const", value]
    ["method", name, arguments]    what a method of self gives           ["ref", dotted]
    ["list", items, exact]         ["dict", [[pattern, item], …]]        ["arg", key]    an argument, self.x
    ["with", container, [[pattern, item], …]]   a container and what is put into it later
    ["or", items]    ["name", patterns]    ["plain"]    neither module nor Parameter    ["?"]    anything

Arguments are ``[positional, by keyword, open]``; open: there are more than can be seen.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, Union

ANY = "\x01"
DIGITS = "\x02"
ARG = "\x03"
MARKS = frozenset((ANY, DIGITS, ARG))

Description: TypeAlias = list[Any]
PLAIN: Description = ["plain"]
OPEN: Description = ["?"]

_MOST_VALUES = 8  # assignments to one name
_MOST_PATTERNS = 64  # of one name that is put together
_MOST_ITEMS = 64  # of a list
_MOST_ALTERNATIVES = 16
_DEEPEST = 8
_MOST_STEPS = 20_000  # of one function: whoever writes more gets no answer

_TRANSPARENT = frozenset(
    "to requires_grad_ cuda cpu double float half bfloat16 eval train type apply contiguous".split()
)
"""Methods of a tensor or a module that give the thing itself."""

_PASSING = {"typing.cast": 1, "list": 0, "tuple": 0, "reversed": 0}
"""Functions -> which of their arguments they give back, as it is or as a list."""

_PLAIN_ROOTS = frozenset("numpy math torch einops scipy random os".split())
_TORCH_CLASS = re.compile(
    r"torch(?:\.\w+)*\.[A-Z]\w*(?:\.\w+)?|torch\.nn\.utils\..*|torch\.compile|torch\.jit\..*"
)
_BUILTINS = frozenset(
    "len int float str bool max min sum abs round range sorted zip enumerate isinstance any all".split()
)

Element: TypeAlias = Union[ast.expr, str, tuple["Element", ...]]  # noqa: UP007 (3.10)
"""What a loop variable may be: an expression, a pattern, or several to unpack."""


class Looped:
    """The value of a loop variable: an element of ``over``, or what stands at ``path`` in it."""

    def __init__(self, over: ast.expr, path: tuple[int, ...]) -> None:
        self.over = over
        self.path = path


class Scope:
    """The names of a function, or of a module: what is assigned to them, wherever in it.

    ``resolve`` gives the dotted name of what the module imports or defines; ``constants`` are the class's.
    """

    def __init__(
        self,
        resolve: Callable[[str], str | None],
        outer: Scope | None = None,
        arguments: Iterable[str] = (),
        constants: Mapping[str, ast.expr] | None = None,
        own: str = "",
    ) -> None:
        self._resolve = resolve
        self._outer = outer
        self.arguments = frozenset(arguments)
        self._constants = constants if constants is not None else {}
        self.own = own  # what self is called
        self.values: dict[str, list[ast.expr | Looped]] = {}
        self.added: dict[str, list[tuple[ast.expr | None, ast.expr, bool]]] = {}
        self.functions: dict[str, tuple[Scope, list[ast.expr]]] = {}
        self._steps = _MOST_STEPS
        self._busy: set[str] = set()

    # ------------------------------------------------------------------------------------ filling

    def assign(self, target: ast.expr, value: ast.expr | Looped) -> None:
        """Note that ``target`` becomes ``value``; tuples are taken apart."""
        if isinstance(target, ast.Name):
            known = self.values.setdefault(target.id, [])
            if len(known) < _MOST_VALUES:
                known.append(value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for index, part in enumerate(target.elts[:_MOST_ITEMS]):
                if isinstance(value, Looped):
                    self.assign(part, Looped(value.over, (*value.path, index)))
                elif isinstance(value, (ast.Tuple, ast.List)) and index < len(value.elts):
                    self.assign(part, value.elts[index])
                else:
                    self.assign(part, ast.Constant(...))  # known to be assigned, not what

    def add(self, name: str, key: ast.expr | None, value: ast.expr, spliced: bool) -> None:
        """Note that ``value``, or with ``spliced`` what is in it, is put into the container ``name``."""
        known = self.added.setdefault(name, [])
        if len(known) < _MOST_ITEMS:
            known.append((key, value, spliced))

    # -------------------------------------------------------------------------------------- names

    def patterns(self, node: ast.expr | None) -> list[str]:
        """What the text that ``node`` gives may be."""
        found = self._patterns(node, _DEEPEST)
        return list(dict.fromkeys(found))[:_MOST_PATTERNS] or [ANY]

    def _patterns(self, node: Element | None, depth: int) -> list[str]:
        self._steps -= 1
        if depth == 0 or self._steps < 0 or node is None or isinstance(node, tuple):
            return [ANY]
        if isinstance(node, str):
            return [node]
        if isinstance(node, ast.Constant):
            return [_text_of(node.value)]
        if isinstance(node, ast.JoinedStr):
            return self._join(node.values, depth)
        if isinstance(node, ast.FormattedValue):
            return self._patterns(node.value, depth - 1)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._join((node.left, node.right), depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            values = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
            return self._fill(node.left, re.compile(r"%[-+ #0-9.]*[a-zA-Z]"), values, {}, depth)
        if isinstance(node, ast.IfExp):
            return self._patterns(node.body, depth - 1) + self._patterns(node.orelse, depth - 1)
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute) and function.attr == "format":
                named = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                return self._fill(function.value, re.compile(r"\{(\w*)[^{}]*\}"), node.args, named, depth)
            if isinstance(function, ast.Name) and function.id == "str" and len(node.args) == 1:
                return self._patterns(node.args[0], depth - 1)
            return [DIGITS] if isinstance(function, ast.Name) and function.id in ("len", "int") else [ANY]
        if isinstance(node, ast.Name):
            return self._patterns_of_name(node.id, depth)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == self.own:
            constant = self._constants.get(node.attr)
            if constant is not None:
                return self._patterns(constant, depth - 1)
            return [f"{ARG}self.{node.attr}{ARG}"]
        return [ANY]

    def _patterns_of_name(self, name: str, depth: int) -> list[str]:
        values = self.values.get(name)
        if values is None or name in self._busy:
            if values is None and name in self.arguments:
                return [f"{ARG}{name}{ARG}"]
            return self._outer._patterns_of_name(name, depth) if values is None and self._outer else [ANY]
        self._busy.add(name)
        found: list[str] = []
        for value in values:
            if isinstance(value, Looped):
                for element in self.elements(value.over) or [self._argument_element(value)]:
                    found += self._patterns(_select(element, value.path), depth - 1)
            else:
                found += self._patterns(value, depth - 1)
            if len(found) > _MOST_PATTERNS:
                break
        self._busy.discard(name)
        return found

    def _argument_element(self, value: Looped) -> str:
        """The pattern of an element of what the caller gives."""
        over = value.over
        is_argument = isinstance(over, ast.Name) and over.id in self.arguments and over.id not in self.values
        return f"{ARG}{over.id}{ARG}" if is_argument and not value.path else ANY  # type: ignore[attr-defined]

    def _join(self, nodes: Sequence[ast.expr], depth: int) -> list[str]:
        parts = [list(dict.fromkeys(self._patterns(node, depth - 1))) for node in nodes]
        return ["".join(part) for part in itertools.islice(itertools.product(*parts), _MOST_PATTERNS)]

    def _fill(
        self,
        text: ast.expr,
        places: re.Pattern[str],
        values: Sequence[ast.expr],
        named: Mapping[str, ast.expr],
        depth: int,
    ) -> list[str]:
        """The patterns of ``text`` with ``values`` in its places."""
        if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
            return [ANY]
        parts: list[ast.expr] = []
        end = 0
        for count, found in enumerate(places.finditer(text.value)):
            key = found[1] if places.groups else ""
            index = int(key) if key.isdecimal() and len(key) < 3 else count
            value = named.get(key) or (values[index] if index < len(values) else ast.Constant(...))
            parts += (ast.Constant(text.value[end : found.start()]), value)
            end = found.end()
        return self._join([*parts, ast.Constant(text.value[end:])], depth)

    def elements(self, node: ast.expr, depth: int = _DEEPEST) -> list[Element] | None:
        """What a loop over ``node`` goes through, if that can be seen; None if not."""
        if depth == 0:
            return None
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return list(node.elts[:_MOST_ITEMS])
        if isinstance(node, ast.Dict):
            return [key if key is not None else ANY for key in node.keys[:_MOST_ITEMS]]
        if isinstance(node, ast.Name):
            values = self.values.get(node.id)
            if values is None:
                outer = self._outer
                return None if outer is None or node.id in self.arguments else outer.elements(node, depth - 1)
            if len(values) == 1 and not isinstance(values[0], Looped):
                return self.elements(values[0], depth - 1)
            return None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == self.own:
            constant = self._constants.get(node.attr)
            return None if constant is None else self.elements(constant, depth - 1)
        return self._elements_of_call(node, depth) if isinstance(node, ast.Call) else None

    def _elements_of_call(self, node: ast.Call, depth: int) -> list[Element] | None:
        function = node.func
        if isinstance(function, ast.Attribute) and not node.args:
            table = self._literal(function.value)
            if isinstance(table, ast.DictComp) and function.attr in ("items", "keys"):
                names = self._inside(table).patterns(table.key)
                return [(name, ANY) for name in names] if function.attr == "items" else list(names)
            if isinstance(table, ast.Dict):
                pairs: list[Element] = [
                    (key if key is not None else ANY, value)
                    for key, value in zip(table.keys[:_MOST_ITEMS], table.values, strict=False)
                ]
                column = {"items": None, "keys": 0, "values": 1}.get(function.attr, -1)
                return (
                    pairs
                    if column is None
                    else [_select(pair, (column,)) for pair in pairs]
                    if column >= 0
                    else None
                )
            return None
        if not isinstance(function, ast.Name) or not node.args:
            return None
        if function.id == "range":
            return [DIGITS]
        inner = [self.elements(argument, depth - 1) for argument in node.args]
        if function.id == "enumerate":
            return [(DIGITS, element) for element in inner[0] or (ANY,)]
        if function.id == "zip":
            known = [items for items in inner if items is not None and items != [DIGITS]]
            if not known:
                return None
            count = min(map(len, known))
            columns = [[*(items or (ANY,)), *([(items or (ANY,))[-1]] * count)][:count] for items in inner]
            return list(zip(*columns, strict=True))
        return inner[0] if function.id in ("sorted", "list", "tuple", "reversed", "set") else None

    def _literal(self, node: ast.expr) -> ast.expr | None:
        """The one literal that ``node`` names, or ``node`` itself."""
        if isinstance(node, ast.Name):
            values = self.values.get(node.id)
            if values is None:
                return self._outer._literal(node) if self._outer is not None else None
            return values[0] if len(values) == 1 and isinstance(values[0], ast.expr) else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == self.own:
            return self._constants.get(node.attr)
        return node

    # ------------------------------------------------------------------------------------- values

    def describe(self, node: ast.expr | None) -> Description:
        """What ``node`` may be."""
        return self._describe(node, _DEEPEST)

    def _describe(self, node: Element | None, depth: int) -> Description:
        self._steps -= 1
        if depth == 0 or self._steps < 0 or node is None or isinstance(node, (str, tuple)):
            return OPEN
        how = _DESCRIBE.get(type(node))
        return OPEN if how is None else how(self, node, depth - 1)

    def _describe_constant(self, node: ast.Constant, depth: int) -> Description:
        value = node.value
        if value is ... or isinstance(value, (bytes, complex)):
            return OPEN if value is ... else PLAIN
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
            return PLAIN
        return ["const", value]

    def _describe_name(self, node: ast.Name, depth: int) -> Description:
        name = node.id
        values = self.values.get(name)
        if values is None:
            if name in self.arguments:
                return self._with_added(name, ["arg", name], depth)
            if self._outer is not None:
                return self._outer._describe_name(node, depth)
            dotted = self._resolve(name)
            return (
                PLAIN if dotted is None and name in _BUILTINS else OPEN if dotted is None else ["ref", dotted]
            )
        if name in self._busy:
            return OPEN
        self._busy.add(name)
        found = []
        for value in values:
            if not isinstance(value, Looped):
                found.append(self._describe(value, depth))
            else:
                elements = self.elements(value.over)
                found += [self._describe(_select(item, value.path), depth) for item in elements or (ANY,)]
        if name in self.arguments:
            found.append(["arg", name])
        described = self._with_added(name, alternatives(found), depth)
        self._busy.discard(name)
        return described

    def _with_added(self, name: str, base: Description, depth: int) -> Description:
        """The container ``name`` with what is put into it."""
        added = self.added.get(name)
        if not added:
            return base
        items: list[list[Any]] = []
        for key, value, spliced in added:
            item = self._describe(value, depth)
            inside = _items_of(item) if spliced else [item]
            for pattern in [DIGITS] if key is None else self.patterns(key):
                items += [[pattern, part] for part in inside]
        if base[0] == "list":
            return ["list", [*base[1], *(item for _, item in items)][:_MOST_ITEMS], False]
        return ["with", base, items[:_MOST_ITEMS]]

    def _describe_attribute(self, node: ast.Attribute, depth: int) -> Description:
        if isinstance(node.value, ast.Name) and node.value.id == self.own:
            constant = self._constants.get(node.attr)
            return ["arg", f"self.{node.attr}"] if constant is None else self._describe(constant, depth)
        dotted = self.dotted(node)
        return OPEN if dotted is None else ["ref", dotted]

    def dotted(self, node: ast.expr) -> str | None:
        """``torch.nn.Linear`` for ``nn.Linear``: of a name that the module imports or defines."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute) and len(parts) < 2 * _DEEPEST:
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        scope: Scope | None = self
        while scope is not None:
            if node.id in scope.values or node.id in scope.arguments:
                return None
            scope = scope._outer
        head = self._resolve(node.id)
        return None if head is None else ".".join((head, *reversed(parts)))

    def _describe_call(self, node: ast.Call, depth: int) -> Description:
        function = node.func
        if isinstance(function, ast.Attribute):
            owner = function.value
            if isinstance(owner, ast.Name) and owner.id == self.own and self.own:
                return ["method", function.attr, self.describe_arguments(node, depth)]
            if function.attr in _TRANSPARENT:
                inner = self._describe(owner, depth)
                return inner if inner[0] != "ref" else OPEN
        if isinstance(function, ast.Name):
            nested = self._find_function(function.id)
            if nested is not None:
                scope, returns = nested
                return alternatives([scope._describe(item, depth) for item in returns] or [PLAIN])
            if self._resolve(function.id) is None and function.id in ("dict", "OrderedDict"):
                return self._describe_dict_call(node, depth)
        callee = self._describe(function, depth)
        return alternatives([self._call(item, node, depth) for item in _alternatives_of(callee)])

    def _find_function(self, name: str) -> tuple[Scope, list[ast.expr]] | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.functions:
                return scope.functions[name]
            scope = scope._outer
        return None

    def _call(self, callee: Description, node: ast.Call, depth: int) -> Description:
        """What ``callee`` gives for the arguments of ``node``."""
        if callee == PLAIN:
            builtin = node.func.id if isinstance(node.func, ast.Name) else ""
            passed = _PASSING.get(builtin)
            return PLAIN if passed is None or not node.args else self._describe(node.args[passed], depth)
        if callee[0] != "ref":
            return OPEN
        dotted = callee[1]
        if dotted in _PASSING and len(node.args) > _PASSING[dotted]:
            return self._describe(node.args[_PASSING[dotted]], depth)
        if dotted == "functools.partial" and node.args:
            return self._describe(node.args[0], depth)
        if dotted.endswith(".OrderedDict"):
            return self._describe_dict_call(node, depth)
        if dotted.partition(".")[0] in _PLAIN_ROOTS and not _TORCH_CLASS.fullmatch(dotted):
            return PLAIN
        return ["call", dotted, self.describe_arguments(node, depth)]

    def describe_arguments(self, node: ast.Call, depth: int = _DEEPEST) -> list[Any]:
        """The arguments of a call, those that say something."""
        positional: list[Description] = []
        is_open = False
        for argument in node.args[:_MOST_ITEMS]:
            if isinstance(argument, ast.Starred):
                inner = self._describe(argument.value, depth)
                is_open = True
                positional.append(["*", inner])
            else:
                positional.append(self._describe_argument(argument, depth))
        named = {}
        for keyword in node.keywords[:_MOST_ITEMS]:
            if keyword.arg is None:
                is_open = True
            else:
                named[keyword.arg] = self._describe_argument(keyword.value, depth)
        return [positional, named, is_open]

    def _describe_argument(self, node: ast.expr, depth: int) -> Description:
        if isinstance(node, (ast.JoinedStr, ast.BinOp)):
            patterns = self._patterns(node, depth)
            if any(len(pattern) > 1 for pattern in patterns):
                return ["name", patterns[:_MOST_PATTERNS]]
        if isinstance(node, ast.Name) and any(isinstance(v, Looped) for v in self.values.get(node.id, ())):
            patterns = self._patterns(node, depth)
            if ANY not in patterns:
                return ["name", patterns[:_MOST_PATTERNS]]
        return self._describe(node, depth)

    def _describe_dict_call(self, node: ast.Call, depth: int) -> Description:
        pairs: list[list[Any]] = []
        for argument in node.args[:1]:
            inner = self._describe(argument, depth)
            if inner[0] == "dict":
                pairs += inner[1]
            elif isinstance(argument, (ast.List, ast.Tuple)):
                for item in argument.elts[:_MOST_ITEMS]:
                    if isinstance(item, ast.Tuple) and len(item.elts) == 2:
                        value = self._describe(item.elts[1], depth)
                        pairs += [[pattern, value] for pattern in self.patterns(item.elts[0])]
            else:
                pairs.append([ANY, OPEN])
        for keyword in node.keywords[:_MOST_ITEMS]:
            pairs.append([keyword.arg or ANY, self._describe(keyword.value, depth) if keyword.arg else OPEN])
        return ["dict", pairs]

    def _describe_list(self, node: ast.List | ast.Tuple | ast.Set, depth: int) -> Description:
        items: list[Description] = []
        exact = len(node.elts) <= _MOST_ITEMS
        for item in node.elts[:_MOST_ITEMS]:
            if isinstance(item, ast.Starred):
                inner = self._describe(item.value, depth)
                exact = exact and inner[0] == "list" and inner[2]
                items += _items_of(inner)
            else:
                items.append(self._describe(item, depth))
        return ["list", items[:_MOST_ITEMS], exact]

    def _describe_comprehension(
        self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, depth: int
    ) -> Description:
        return ["list", [self._inside(node)._describe(node.elt, depth)], False]

    def _describe_dict_comprehension(self, node: ast.DictComp, depth: int) -> Description:
        inside = self._inside(node)
        value = inside._describe(node.value, depth)
        return ["dict", [[pattern, value] for pattern in inside.patterns(node.key)]]

    def _inside(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp) -> Scope:
        scope = Scope(self._resolve, self, (), self._constants, self.own)
        scope._steps = self._steps // 2
        self._steps //= 2
        for generator in node.generators[:_DEEPEST]:
            scope.assign(generator.target, Looped(generator.iter, ()))
        return scope

    def _describe_dict(self, node: ast.Dict, depth: int) -> Description:
        pairs: list[list[Any]] = []
        for key, value in zip(node.keys[:_MOST_ITEMS], node.values, strict=False):
            if key is None:
                inner = self._describe(value, depth)
                pairs += inner[1] if inner[0] == "dict" else [[ANY, OPEN]]
            else:
                described = self._describe(value, depth)
                pairs += [[pattern, described] for pattern in self.patterns(key)]
        return ["dict", pairs]

    def _describe_subscript(self, node: ast.Subscript, depth: int) -> Description:
        table = self._literal(node.value)
        inner = OPEN if table is None else self._describe(table, depth)
        if inner[0] == "dict":
            return alternatives([item for _, item in inner[1]] or [OPEN])
        return OPEN

    def _describe_if(self, node: ast.IfExp, depth: int) -> Description:
        return alternatives([self._describe(node.body, depth), self._describe(node.orelse, depth)])

    def _describe_or(self, node: ast.BoolOp, depth: int) -> Description:
        values = node.values if isinstance(node.op, ast.Or) else node.values[-1:]
        return alternatives([self._describe(value, depth) for value in values[:_DEEPEST]])

    def _describe_operation(self, node: ast.BinOp, depth: int) -> Description:
        left, right = self._describe(node.left, depth), self._describe(node.right, depth)
        lists = [side for side in (left, right) if side[0] == "list"]
        if not lists:
            return PLAIN
        items = [item for side in (left, right) if side[0] == "list" for item in side[1]]
        if len(lists) == 1 and isinstance(node.op, ast.Add):
            items.append(OPEN)
        return ["list", items[:_MOST_ITEMS], False]

    def _describe_named(self, node: ast.NamedExpr, depth: int) -> Description:
        return self._describe(node.value, depth)

    def _describe_plain(self, node: ast.expr, depth: int) -> Description:
        return PLAIN


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
    ast.UnaryOp: Scope._describe_plain,
    ast.Compare: Scope._describe_plain,
    ast.JoinedStr: Scope._describe_plain,
}


def alternatives(found: Sequence[Description]) -> Description:
    """One of ``found``: itself where there is one, ``["or", …]`` where there are several."""
    flat: list[Description] = []
    for item in found:
        flat += [part for part in _alternatives_of(item) if part not in flat]
    return flat[0] if len(flat) == 1 else ["or", flat[:_MOST_ALTERNATIVES]] if flat else OPEN


def _alternatives_of(item: Description) -> list[Description]:
    return item[1] if item[0] == "or" else [item]


def _items_of(item: Description) -> list[Description]:
    """What is in a list, as far as it is seen."""
    return item[1] if item[0] == "list" else [OPEN]


def _select(element: Element, path: Sequence[int]) -> Element:
    for index in path:
        if isinstance(element, (ast.Tuple, ast.List)):
            element = tuple(element.elts)
        if not isinstance(element, tuple) or index >= len(element):
            return ANY
        element = element[index]
    return element


def _text_of(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ANY
    if isinstance(value, int):
        return str(value) if value.bit_length() < 64 else DIGITS
    return value if MARKS.isdisjoint(value) else ANY
