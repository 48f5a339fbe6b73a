"""What an instance of a class has: its methods' acts in order, with the arguments that are seen.

Only what a call in the source passes, or leaves to a default, is taken for known; a class that nobody is
seen to call has every entry that any arguments could give it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ckpttool.kinds.source import torch_classes
from ckpttool.kinds.source.bindings import (
    Binding,
    bind,
    bound,
    cover_all,
    fill,
    undecided,
)
from ckpttool.kinds.source.descriptions import (
    ANY,
    DIGITS,
    OPEN,
    Description,
    alternatives_of,
    exact_of,
    patterns_of,
    unpack,
)
from ckpttool.kinds.source.instances import (
    ANYTHING,
    BUFFER,
    ENTRIES,
    MODULE,
    NO_ENTRY,
    PARAMETER,
    PLACEHOLDER,
    UNSEEN,
    Attribute,
    Clause,
    Container,
    Instance,
    Items,
    Members,
    Type,
    Value,
)
from ckpttool.kinds.source.library import (
    Alias,
    Function,
    Library,
    Member,
    SourceClass,
    TorchName,
)
from ckpttool.kinds.source.torch_classes import TorchClass

_DEEPEST = 8  # calls of methods by methods, or values of values
_MOST_ACTS = 3000  # of one class with its bases
_MOST_TYPES = 24
_MOST_VALUES = 5_000_000  # that are worked out in all; the whole of transformers takes a tenth
_DIGITS_AND_ANY = (DIGITS, ANY)

_NOTHING: Binding = {}


class Interpreter:
    """Works out members and values over a library; every class and call once."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._members: dict[tuple[str, tuple[tuple[str, str], ...]], Members] = {}
        self._left = _MOST_VALUES

    def members(self, instance: Instance) -> Members:
        """What ``instance`` has."""
        key = instance.cls.dotted, instance.binding
        if key not in self._members:
            binding = {name: json.loads(text) for name, text in instance.binding}
            self._members[key] = _Construction(self, instance.cls, binding).build()
        return self._members[key]

    def registered(self, cls: SourceClass) -> Iterator[tuple[str, str, int]]:
        """Names (or patterns) that the text of ``cls`` registers entries under, with kind and line."""
        for method in cls.methods.values():
            for act in method["acts"]:
                pattern = fill(act[1], _NOTHING)[0]
                if act[0] in (BUFFER, PARAMETER):
                    yield pattern, act[0], act[2]
                elif act[0] == "set":
                    calls = [item for item in alternatives_of(act[4]) if item[0] == "call"]
                    kinds = {kind for item in calls for kind in self._kinds_of_call(item[1])}
                    for kind in sorted(kinds):
                        yield pattern, kind, act[2]

    def _kinds_of_call(self, dotted: str) -> Iterator[str]:
        symbol = self.library.resolve(dotted)
        if isinstance(symbol, TorchName) and torch_classes.is_parameter(symbol.dotted):
            yield PARAMETER
        elif isinstance(symbol, TorchName) and torch_classes.is_buffer(symbol.dotted):
            yield BUFFER
        elif isinstance(symbol, SourceClass) and (entry := self.library.lineage(symbol).entry):
            yield entry

    def call(
        self,
        dotted: str,
        arguments: list[Any],
        binding: Binding,
        depth: int,
        inside: _Construction | None = None,
    ) -> Value:
        """What a call of ``dotted`` gives; ``inside`` is whose self the arguments may speak of."""
        symbol = self.library.resolve(dotted)
        if isinstance(symbol, TorchName):
            dotted = symbol.dotted
        if torch_classes.is_parameter(dotted):
            return Value(frozenset((PARAMETER,)))
        if torch_classes.is_buffer(dotted):
            flag = _argument(arguments, 1, "persistent")
            persistent = True if flag is None else _truth(bound(flag, binding))
            return Value(frozenset((BUFFER,)), (), persistent)
        if torch_classes.gives_same_module(dotted):
            return self.value(_argument(arguments, 0, "module") or OPEN, binding, inside, depth - 1)
        if isinstance(symbol, Alias):
            return self._call_alias(symbol.described, arguments, binding, depth)
        if isinstance(symbol, Member):
            owner = symbol.owner
            if not _makes_instance(symbol) or (
                isinstance(owner, SourceClass) and not self.library.lineage(owner).is_module
            ):
                return UNSEEN
            symbol, arguments = symbol.owner, [[], {}, True]
        if isinstance(symbol, TorchClass):
            return Value(
                frozenset((MODULE,)),
                (Container(symbol, self.items(symbol, arguments, binding, depth, inside)),),
            )
        if isinstance(symbol, SourceClass):
            return self._make(symbol, arguments, binding, depth, inside)
        if isinstance(symbol, Function):
            inner = bind(symbol.summary, arguments, binding)
            return self.join([self.value(item, inner, None, depth - 1) for item in symbol.summary["returns"]])
        return UNSEEN

    def _call_alias(
        self, described: Description, arguments: list[Any], binding: Binding, depth: int
    ) -> Value:
        refs = [item for item in alternatives_of(described) if item[0] == "ref"]
        if not depth or not refs:
            return UNSEEN
        return self.join([self.call(item[1], arguments, binding, depth - 1) for item in refs])

    def _make(
        self,
        cls: SourceClass,
        arguments: list[Any],
        binding: Binding,
        depth: int,
        inside: _Construction | None,
    ) -> Value:
        lineage = self.library.lineage(cls)
        if lineage.entry:
            return Value(frozenset((lineage.entry,)))
        if not lineage.is_module:
            return NO_ENTRY
        init = next(
            (item.methods["__init__"] for item in lineage.classes if "__init__" in item.methods), None
        )
        known = bind(init, arguments, binding) if init is not None else {}
        texts = {
            name: json.dumps(item) for name, item in known.items() if item[0] in ("const", "ref", "name")
        }
        items = None
        if init is None and lineage.torch:
            items = self.items(lineage.torch[0], arguments, binding, depth, inside)
        return Value(frozenset((MODULE,)), (Instance(cls, tuple(sorted(texts.items())), items),))

    def items(
        self,
        cls: TorchClass,
        arguments: list[Any],
        binding: Binding,
        depth: int,
        inside: _Construction | None,
    ) -> Items | None:
        """What the call of a container puts into it."""
        if not cls.container or not depth:
            return None
        positional = arguments[0]
        first = bound(positional[0], binding) if len(positional) == 1 else OPEN
        if cls.container == "dict" and first[0] == "list":
            pairs = [unpack(item, 2) for item in first[1]]
            first = ["dict", [[pattern, item] for key, item in pairs for pattern in patterns_of(key)]]
        if first[0] == "dict":
            named = [(pattern, self.value(item, binding, inside, depth - 1)) for pattern, item in first[1]]
            return Items(tuple(named), ANY not in [pattern for pattern, _ in named])
        if cls.container != "sequential":  # they take a list
            if first[0] != "list":
                return Items((), True) if not positional else None
            positional = [["*", first]]
        children: list[tuple[str, Value]] = []
        exact = True
        for item in positional:
            inner: Description = ["list", [item], None]
            if item[0] == "*":
                inner = bound(item[1], binding)
            parts = inner[1] if inner[0] == "list" else [OPEN]
            seen = exact_of(inner) if inner[0] == "list" and exact else 0
            for at, part in enumerate(parts):
                value = self.value(part, binding, inside, depth - 1)
                children.append((str(len(children)) if at < seen else DIGITS, value))
            exact = exact and inner[0] == "list" and inner[2] is None
        return Items(tuple(children), exact)

    def value(
        self, described: Description, binding: Binding, inside: _Construction | None, depth: int = _DEEPEST
    ) -> Value:
        """What ``described`` gives; ``inside`` is whose self it may speak of."""
        what = described[0]
        self._left -= 1
        if not depth or what == "?" or self._left < 0:
            return UNSEEN
        if what == "call":
            return self.call(described[1], described[2], binding, depth, inside)
        if what == "or":
            return self.join([self.value(item, binding, inside, depth - 1) for item in described[1]])
        if what == "arg":
            given = binding.get(described[1])
            if given is not None and given[0] != "arg":
                return self.value(given, binding, inside, depth - 1)
            if described[1].startswith("self.") and inside is not None:
                return inside.attribute_value(described[1].removeprefix("self."))
            return UNSEEN
        if what == "method":
            if inside is None:
                return UNSEEN
            return inside.method_value(described[1], described[2], binding, depth - 1)
        if what == "with":
            base = self.value(described[1], binding, inside, depth - 1)
            added = tuple(
                (pattern, self.value(item, binding, inside, depth - 1)) for pattern, item in described[2]
            )
            return base._replace(types=tuple(_put(item, added) for item in base.types))
        return NO_ENTRY  # a constant, a class, a list: nothing that a module registers

    def join(self, values: Sequence[Value]) -> Value:
        """One of ``values``."""
        if len(values) == 1:
            return values[0]
        if not values:
            return UNSEEN
        kinds = frozenset().union(*(value.kinds for value in values))
        types = {id(item): item for value in values for item in value.types}
        flags = {value.persistent for value in values if value.kinds & {BUFFER, PLACEHOLDER}}
        return Value(kinds, tuple(types.values())[:_MOST_TYPES], flags.pop() if len(flags) == 1 else None)


def _put(item: Type, added: tuple[tuple[str, Value], ...]) -> Type:
    known = item.items
    return item._replace(items=Items((*(known.children if known is not None else ()), *added), False))


def _makes_instance(member: Member) -> bool:
    """Whether ``Class.method(…)`` gives one of the class: a factory, by its name."""
    return member.attribute.startswith(("from_", "create", "build", "make", "init"))


def _argument(arguments: list[Any], index: int, name: str) -> Description | None:
    positional, named, _ = arguments
    found: Description | None = named.get(name)
    if found is None and index < len(positional) and positional[index][0] != "*":
        found = positional[index]
    return found


def _truth(described: Description) -> bool | None:
    return bool(described[1]) if described[0] == "const" else None


class _Construction:
    """One run through the acts of a class and its bases."""

    def __init__(self, interpreter: Interpreter, cls: SourceClass, binding: Binding) -> None:
        self._interpreter = interpreter
        self._lineage = interpreter.library.lineage(cls)
        self._binding = binding
        self._found: dict[str, list[Attribute]] = {}
        self._put: dict[str, list[tuple[str, Value]]] = {}
        self._own: dict[str, Description] = {}  # self.x where it is an argument or a constant
        self._run_already: set[tuple[int, str]] = set()
        # Arguments that are numbers or strings where nobody gives them.
        self._plain_by_default: set[str] = set()
        self._left = _MOST_ACTS
        self._stack: list[str] = []

    def build(self) -> Members:
        """Everything that instances may have."""
        for name in ("__init__", "__post_init__"):
            self._run(0, name, self._binding, [], _DEEPEST)
        replaced: set[str] = set()  # methods that a subclass has its own of
        for position, cls in enumerate(self._lineage.classes):
            for name in cls.methods:
                if (position, name) not in self._run_already and name not in replaced:
                    self._run(position, name, _NOTHING, [None], 1, exactly=True)
            replaced.update(cls.methods)
        by_name: dict[str, Attribute] = {}
        by_pattern: list[tuple[str, Attribute]] = []
        for pattern, found in self._found.items():
            attribute = self._join(pattern, found)
            if any(mark in pattern for mark in _DIGITS_AND_ANY):
                by_pattern.append((pattern, attribute))
            else:
                by_name[pattern] = attribute
        return Members(by_name, tuple(by_pattern), self._lineage)

    def _join(self, name: str, found: Sequence[Attribute]) -> Attribute:
        value = self._interpreter.join([item.value for item in found])
        added = tuple(self._put.get(name, ()))
        if added:
            value = value._replace(types=tuple(_put(item, added) for item in value.types))
        first = next((item for item in found if item.kinds - {ANYTHING}), found[0])
        sure = ANYTHING not in value.kinds and (
            any(item.sure for item in found) or cover_all([item.when for item in found])
        )
        return Attribute(value, sure, first.cls, first.line)

    def attribute_value(self, name: str) -> Value:
        """What ``self.name`` is at this point of the text."""
        found = self._found.get(name)
        if found:
            return self._interpreter.join([item.value for item in found])
        return UNSEEN

    def method_value(self, name: str, arguments: list[Any], binding: Binding, depth: int) -> Value:
        """What ``self.name(…)`` gives."""
        for cls in self._lineage.classes:
            method = cls.methods.get(name)
            if method is not None and name not in self._stack:
                inner = {**self._own, **bind(method, arguments, binding)}
                self._stack.append(name)
                value = self._interpreter.join(
                    [self._interpreter.value(item, inner, self, depth) for item in method["returns"]]
                )
                self._stack.pop()
                return value
        return UNSEEN

    # ---------------------------------------------------------------------------------------- acts

    def _run(
        self,
        start: int,
        name: str,
        binding: Binding,
        when: Iterable[Any],
        depth: int,
        exactly: bool = False,
    ) -> None:
        """Go through the method ``name`` of the first class from ``start`` on that has it."""
        for position in range(start, start + 1 if exactly else len(self._lineage.classes)):
            cls = self._lineage.classes[position]
            if name in cls.methods:
                break
        else:
            return
        if not depth or self._stack.count(f"run {position} {name}") > 1:
            return
        self._run_already.add((position, name))
        self._stack.append(f"run {position} {name}")
        outer = self._plain_by_default
        defaults: dict[str, object] = cls.methods[name]["defaults"]
        self._plain_by_default = {key for key, value in defaults.items() if value is not None}
        for act in cls.methods[name]["acts"]:
            self._left -= 1
            if self._left < 0:
                break
            known = {**self._own, **binding}
            conditions = (*when, *act[4 if act[0] in ("put", "run") else 3])
            left = undecided(conditions, known)
            if left is not None:
                self._act(act, position, cls, known, left, depth)
        self._plain_by_default = outer
        self._stack.pop()

    def _act(
        self, act: list[Any], position: int, cls: SourceClass, known: Binding, when: Clause, depth: int
    ) -> None:
        what = act[0]
        if what == "run":
            self._run_method(act, position, known, when, depth)
        elif what == "put":
            value = self._value(act[5], known)
            for pattern in fill(act[2], known):
                self._put.setdefault(act[1], []).append((pattern, value))
        elif what == "delete":
            if not when:
                for name in fill(act[1], known):
                    self._found.pop(name, None)
        else:
            self._register(act, cls, known, when)

    def _register(self, act: list[Any], cls: SourceClass, known: Binding, when: Clause) -> None:
        what, pattern, line = act[:3]
        sure = not when
        empty = False
        if what == "buffer":
            kind = PLACEHOLDER if act[5] == "empty" else BUFFER
            value = Value(frozenset((kind,)), (), _truth(bound(act[4], known)))
            empty = act[5] == "none"
        elif what == "parameter":
            value = Value(frozenset((PARAMETER,)))
            empty = act[4] == "none"
        else:
            value = self._value(act[4], known)
            described = bound(act[4], known)
            if sure and pattern not in self._found and described[0] in ("const", "ref", "name"):
                self._own[f"self.{pattern}"] = described
            if value is UNSEEN and act[4][0] == "arg" and act[4][1] in self._plain_by_default:
                return
            if not value.kinds:
                if sure and described == ["const", None]:
                    self._found.pop(pattern, None)
                return
            if value is UNSEEN and self._stays_buffer(pattern):
                return
            if described[0] == "or" and any(not self._value(item, known).kinds for item in described[1]):
                empty = True  # it may be None
        for name in fill(pattern, known):
            attribute = Attribute(value, sure and not empty, cls, line, when | {None} if empty else when)
            if sure and not empty:
                self._found[name] = [attribute]
            else:
                found = self._found.setdefault(name, [])
                found.append(attribute)
                if len(found) > _MOST_TYPES:
                    del found[0]

    def _value(self, described: Description, known: Binding) -> Value:
        return self._interpreter.value(described, known, self)

    def _stays_buffer(self, name: str) -> bool:
        """Whether a tensor that is assigned to ``self.name`` goes into what is registered already."""
        return any(item.kinds & ENTRIES for item in self._found.get(name, ()))

    def _run_method(self, act: list[Any], position: int, known: Binding, when: Clause, depth: int) -> None:
        _, owner, name, line, _, arguments = act
        lineage = self._lineage
        if owner == "self":
            start = 0
        elif owner == "super":
            start = position + 1
        else:
            symbol = self._interpreter.library.resolve(owner)
            start = next(
                (at for at, item in enumerate(lineage.classes) if item is symbol), len(lineage.classes)
            )
            if isinstance(symbol, TorchClass) and name == "__init__":
                self._fill_container(symbol, arguments, known, lineage.classes[position], line, when)
            if symbol is None or isinstance(symbol, Alias):
                self._run_function(
                    f"{owner}.{name}", arguments, known, lineage.classes[position], when, depth
                )
                return
        found = next((c.methods[name] for c in lineage.classes[start:] if name in c.methods), None)
        if found is not None:
            self._run(start, name, bind(found, arguments, known), when, depth - 1)
        elif owner == "super" and name == "__init__" and lineage.torch:
            self._fill_container(lineage.torch[0], arguments, known, lineage.classes[position], line, when)

    def _run_function(
        self, dotted: str, arguments: list[Any], known: Binding, cls: SourceClass, when: Clause, depth: int
    ) -> None:
        """Go through a function of a module that registers on what it is given."""
        symbol = self._interpreter.library.resolve(dotted)
        if isinstance(symbol, Function) and "own" in symbol.summary and depth:
            binding = bind(symbol.summary, arguments, known)
            for act in symbol.summary["acts"]:
                if act[0] in ("buffer", "parameter", "set"):
                    left = undecided((*when, *act[3]), binding)
                    if left is not None:
                        self._register(act, cls, binding, left)

    def _fill_container(
        self,
        torch_class: TorchClass,
        arguments: list[Any],
        known: Binding,
        cls: SourceClass,
        line: int,
        when: Clause,
    ) -> None:
        items = self._interpreter.items(torch_class, arguments, known, _DEEPEST, self)
        for pattern, value in items.children if items is not None else ():
            self._found.setdefault(pattern, []).append(Attribute(value, not when, cls, line, when))
