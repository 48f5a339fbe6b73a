"""Which classes fit the modules of a state_dict: all that a module holds must be declared by the class."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ckpttool.kinds.source.descriptions import ANY, ARG, DIGITS, MARKS
from ckpttool.kinds.source.instances import (
    ANYTHING,
    BUFFER,
    ENTRIES,
    MODULE,
    PARAMETER,
    Attribute,
    Container,
    Instance,
    Items,
    Members,
    Type,
    Value,
)
from ckpttool.kinds.source.library import SourceClass
from ckpttool.kinds.source.members import Interpreter
from ckpttool.kinds.source.modules import Node
from ckpttool.kinds.source.torch_classes import TorchClass, find, torch_classes
from ckpttool.values.source import SourceEvidence

_FEWEST_LETTERS = 2  # that a pattern must have to be evidence
_MOST_FITS = 1000
_MOST_SEARCHED = 4000  # classes that may have the names of a module
_MOST_SEARCHES = 5000  # for modules of unlike names
_MOST_LEAF_PATTERNS = 500
_MOST_PATTERNS = 20_000  # of names, in all that was read
_ENTRY_KINDS = ENTRIES | {ANYTHING}
_CHILD_KINDS = frozenset((MODULE, ANYTHING))


class Types(NamedTuple):
    """What a module may be an instance of; not ``closed``: of something else as well, that is not seen."""

    items: tuple[Type, ...]
    closed: bool


class Leaf(NamedTuple):
    """What a class says of one entry; ``attribute`` is None for a class of torch."""

    kinds: frozenset[str]
    persistent: bool | None
    attribute: Attribute | None


class Fit(NamedTuple):
    """A type that declares all that a module holds: its entries, and the types of its children.

    ``covered`` counts what is declared by more than a pattern for anything, ``absent`` what every instance
    has and this module lacks. ``named``: the parent's text has the type.
    """

    type: Type
    leaves: Mapping[str, Leaf]
    children: Mapping[str, Types | None]
    covered: int
    absent: int
    named: bool

    @property
    def cls(self) -> SourceClass | TorchClass:
        """The class."""
        return self.type.cls


class Matcher:
    """Fits for modules, over all classes that were read."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._declaring: dict[str, set[str]] | None = None
        self._open_ended: dict[str, set[str]] = {}  # by pattern
        self._classes: dict[str, SourceClass] = {}
        self._leaves: dict[str, list[tuple[str, SourceEvidence]]] | None = None
        self._leaf_patterns: list[tuple[str, tuple[str, SourceEvidence]]] = []
        self._by_pattern: dict[str, list[tuple[str, SourceEvidence]]] = {}
        self._searched: dict[tuple[frozenset[str], frozenset[str]], list[Fit]] = {}
        # Types live as long as their ids, which are keys.
        self._fitted: dict[tuple[object, ...], tuple[Types, list[Fit]]] = {}

    def fits(self, node: Node, types: Types | None) -> list[Fit]:
        """The best of ``types`` that fit ``node``; where none does, or there are none, the best of all."""
        if types is not None:
            children = frozenset(node.children)
            key = (node.leaves, children, types.closed, *map(id, types.items))
            if key not in self._fitted:
                found = [self._fit(node.leaves, children, item, types.closed) for item in types.items]
                self._fitted[key] = types, _best([fit for fit in found if fit is not None])
                if not types.closed:  # what else it may be is as good
                    others = [fit for fit in self.search(node) if fit.type not in types.items]
                    self._fitted[key] = types, _best([*self._fitted[key][1], *others])
            if self._fitted[key][1]:
                return self._fitted[key][1]
        return self.search(node)

    def search(self, node: Node) -> list[Fit]:
        """The best of all classes that were read, and of torch's."""
        children = frozenset(node.children)
        key = node.leaves, children
        if key not in self._searched:
            self._searched[key] = self._search(*key) if len(self._searched) < _MOST_SEARCHES else []
        return self._searched[key]

    def modules_of(self, parents: Iterable[SourceClass]) -> set[str]:
        """The files of ``parents`` and of their bases."""
        library = self._interpreter.library
        return {base.module for parent in parents for base in library.lineage(parent).classes}

    def sees(self, modules: Iterable[str], cls: SourceClass) -> bool:
        """Whether one of these files defines ``cls`` or imports it."""
        library = self._interpreter.library
        return any(library.sees(module, cls) for module in modules)

    def members(self, instance: Instance) -> Members:
        """What ``instance`` has."""
        return self._interpreter.members(instance)

    def leaf(self, name: str) -> tuple[str, SourceEvidence] | None:
        """The kind that every class which declares an entry of this name gives it, if all agree."""
        if self._leaves is None:
            self._leaves = self._read_leaves()
        if name not in self._by_pattern:
            matching = [said for pattern, said in self._leaf_patterns if matches(pattern, name)]
            self._by_pattern[name] = matching
        found = [*self._leaves.get(name, ()), *self._by_pattern[name]]
        if not found or len({kind for kind, _ in found}) != 1:
            return None
        kind, first = found[0]
        return kind, first._replace(candidates=len(found))

    def _read_leaves(self) -> dict[str, list[tuple[str, SourceEvidence]]]:
        leaves: dict[str, list[tuple[str, SourceEvidence]]] = {}
        for row in torch_classes().values():
            for names, kind in (
                ((*row.parameters, *row.optional_parameters), PARAMETER),
                ((*row.buffers, *row.optional_buffers) if not row.loss else (), BUFFER),
            ):
                for name in names:
                    leaves.setdefault(name, []).append((kind, SourceEvidence("", 0, row.name, "leaf", 1)))
        library = self._interpreter.library
        for cls in library.iter_classes():
            for name, kind, line in self._interpreter.registered(cls):
                said = kind, SourceEvidence(cls.file, line, cls.dotted, "leaf", 1)
                if MARKS.isdisjoint(name):
                    leaves.setdefault(name, []).append(said)
                elif not is_wild(name) and len(self._leaf_patterns) < _MOST_LEAF_PATTERNS:
                    self._leaf_patterns.append((name, said))
        for module, summary in library.summaries.items():
            for name, kind, line in summary["loose"] if library.is_named(module) else ():
                if MARKS.isdisjoint(name):
                    place = SourceEvidence(library.file(module), line, module, "leaf", 1)
                    leaves.setdefault(name, []).append((kind, place))
        return leaves

    def _search(self, leaves: frozenset[str], children: frozenset[str]) -> list[Fit]:
        if not leaves and all(name.isdecimal() for name in children):
            return []  # a list; whose, nobody can say
        found: list[Fit] = []
        for dotted in self._find_declaring(leaves | children):
            cls = self._classes[dotted]
            fit = self._fit(leaves, children, Instance(cls, ()), False)
            if fit is not None and self._interpreter.library.lineage(cls).is_module:
                found.append(fit)
        for torch_class in torch_classes().values():
            if not torch_class.loss and not torch_class.container:
                fit = self._fit(leaves, children, Container(torch_class), False)
                if fit is not None:
                    found.append(fit)
        return _best(found)

    # ----------------------------------------------------------------------------------- candidates

    def _find_declaring(self, names: Iterable[str]) -> list[str]:
        """Classes that may declare all of ``names``, themselves or by a base."""
        declaring = self._index()
        chosen: set[str] | None = None
        for name in names:
            having = declaring.get(name, set()).union(
                *(classes for pattern, classes in self._open_ended.items() if matches(pattern, name))
            )
            chosen = having if chosen is None else chosen & having
            if not chosen:
                return []
        return sorted(chosen or ())[:_MOST_SEARCHED]

    def _index(self) -> dict[str, set[str]]:
        if self._declaring is not None:
            return self._declaring
        library = self._interpreter.library
        own: dict[str, set[str]] = {}
        heirs: dict[str, list[str]] = {}
        for cls in library.iter_classes():
            self._classes[cls.dotted] = cls
        texts: dict[str, frozenset[str]] = {}
        for dotted, cls in self._classes.items():
            lineage = library.lineage(cls)
            for base in lineage.classes:
                heirs.setdefault(base.dotted, []).append(dotted)
                if base.dotted not in texts:
                    texts[base.dotted] = frozenset(_declared_texts(base))
            for torch_class in lineage.torch:
                for name in _torch_names(torch_class):
                    table = self._open_ended if "#" in name else own
                    table.setdefault(name, set()).add(dotted)
                if torch_class.container:
                    mark = DIGITS if torch_class.container != "dict" else ANY
                    self._open_ended.setdefault(mark, set()).add(dotted)
        for declaring, names in texts.items():
            for name in names:
                table = own if MARKS.isdisjoint(name) else self._open_ended
                table.setdefault(name, set()).update(heirs[declaring])
        for pattern in list(self._open_ended)[_MOST_PATTERNS:]:
            del self._open_ended[pattern]
        self._declaring = own
        return own

    # ------------------------------------------------------------------------------------------ fit

    def _fit(self, leaves: frozenset[str], children: frozenset[str], item: Type, named: bool) -> Fit | None:
        if isinstance(item, Container):
            return self._fit_torch(leaves, children, item, named)
        members = self._interpreter.members(item)
        found: dict[str, Leaf] = {}
        types: dict[str, Types | None] = {}
        covered = 0
        for name in leaves:
            leaf, sure = _find_leaf(members, name)
            if leaf is None:
                return None
            found[name] = leaf
            covered += sure
        for name in children:
            known, child, sure = _find_child(members, item.items, name)
            if not known:
                return None
            types[name] = child
            covered += sure
        absent = sum(
            attribute.sure and _must_be_there(attribute)
            for name, attribute in members.by_name.items()
            if name not in leaves and name not in children
        )
        return Fit(item, found, types, covered, absent, named)

    def _fit_torch(
        self, leaves: frozenset[str], children: frozenset[str], item: Container, named: bool
    ) -> Fit | None:
        cls = item.cls
        found: dict[str, Leaf] = {}
        for name in leaves:
            leaf = _torch_leaf(cls, name)
            if leaf is None:
                return None
            found[name] = leaf
        types: dict[str, Types | None] = {}
        of_table = dict(cls.children)
        for name in children:
            if name in of_table:
                types[name] = _of_table(of_table[name])
            elif cls.container in ("sequential", "dict") or (cls.container and name.isdecimal()):
                types[name] = _item_types(item.items, name)
            else:
                return None
        absent = len({*cls.parameters, *cls.buffers} - leaves)
        return Fit(item, found, types, len(leaves) + len(children), absent, named)


def _best(found: Sequence[Fit]) -> list[Fit]:
    """Those that cover most, and of them those of which least is absent."""
    if not found:
        return []
    best = max((fit.covered, -fit.absent) for fit in found)
    return [fit for fit in found if (fit.covered, -fit.absent) == best][:_MOST_FITS]


def matches(pattern: str, name: str) -> bool:
    """Whether ``name`` may be what ``pattern`` stands for: without going back, and no regular expression."""
    if pattern == DIGITS:
        return name.isdecimal()
    parts: list[str] = [""]  # text, mark, text, mark, text
    for character in pattern:
        if character in (ANY, DIGITS, "#"):
            parts += [character, ""]
        else:
            parts[-1] += character
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return name == first
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    if len(parts) == 3:
        return parts[1] == ANY or name[len(first) : len(name) - len(last)].isdecimal()
    ends = {len(first)}  # how much of the name the pattern may have used up so far
    for mark, text in zip(parts[1::2], parts[2::2], strict=True):
        starts: Iterable[int] = range(min(ends), len(name) + 1)
        if mark != ANY:
            starts = _after_digits(name, ends)
        ends = {at + len(text) for at in starts if name.startswith(text, at)}
        if not ends:
            return False
    return len(name) in ends


def _after_digits(name: str, starts: set[int]) -> list[int]:
    """The places in ``name`` with nothing but digits, at least one, since one of ``starts``."""
    found: list[int] = []
    inside = False
    for at in range(min(starts), len(name)):
        inside = (inside or at in starts) and name[at].isdecimal()
        if inside:
            found.append(at + 1)
    return found


def is_wild(pattern: str) -> bool:
    """Whether ``pattern`` says too little to be evidence."""
    return sum(character.isalpha() for character in pattern) < _FEWEST_LETTERS


def _find_leaf(members: Members, name: str) -> tuple[Leaf | None, bool]:
    """What is declared of an entry, and whether by more than a pattern for anything."""
    attribute = members.by_name.get(name)
    if attribute is not None and attribute.kinds & _ENTRY_KINDS:
        return _as_leaf(attribute), bool(attribute.kinds & ENTRIES)
    for torch_class in members.lineage.torch:
        leaf = _torch_leaf(torch_class, name)
        if leaf is not None:
            return leaf, True
    wild: Leaf | None = None
    for pattern, attribute in members.by_pattern:
        if attribute.kinds & ENTRIES and matches(pattern, name):
            if not is_wild(pattern):
                return _as_leaf(attribute), True
            wild = Leaf(frozenset((ANYTHING,)), None, attribute)
    return wild, False


def _as_leaf(attribute: Attribute) -> Leaf:
    kinds = attribute.kinds & ENTRIES
    # A tensor that is set on a module is registered only where it is a Parameter.
    return Leaf(kinds or frozenset((ANYTHING,)), attribute.value.persistent, attribute)


def _find_child(members: Members, items: Items | None, name: str) -> tuple[bool, Types | None, bool]:
    """Whether a child is declared, of which types, and whether by more than a pattern for anything."""
    attribute = members.by_name.get(name)
    if attribute is not None and attribute.kinds & _CHILD_KINDS:
        return True, _types_of(attribute.value), True
    for torch_class in members.lineage.torch:
        of_table = dict(torch_class.children)
        if name in of_table:
            return True, _of_table(of_table[name]), True
        if torch_class.container == "dict" or (
            torch_class.container in ("list", "sequential") and name.isdecimal()
        ):
            found = [a.value for pattern, a in members.by_pattern if matches(pattern, name)]
            if found:
                return True, _types_of(found[0]) if len(found) == 1 else None, True
            types = _item_types(items, name)
            return True, types, types is not None or torch_class.container != "dict"
    for pattern, attribute in members.by_pattern:
        if attribute.kinds & _CHILD_KINDS and matches(pattern, name):
            return True, _types_of(attribute.value), not is_wild(pattern)
    return False, None, False


def _types_of(value: Value) -> Types | None:
    return Types(value.types, ANYTHING not in value.kinds) if value.types else None


def _item_types(items: Items | None, name: str) -> Types | None:
    """The types of what a container holds under ``name``."""
    if items is None:
        return None
    found: list[Type] = []
    closed = True
    exactly = [child for child in items.children if child[0] == name]
    for pattern, value in exactly or items.children:
        if pattern == name or (not MARKS.isdisjoint(pattern) and matches(pattern, name)):
            types = _types_of(value)
            closed = closed and types is not None and types.closed
            found += types.items if types is not None else ()
    return Types(tuple(dict.fromkeys(found)), closed) if found else None


def _of_table(dotted: str) -> Types | None:
    """The type that the table of torch has for a child; a container can hold anything."""
    known = find(dotted) if dotted else None
    return None if known is None or known.container else _torch_types(known)


@functools.cache
def _torch_types(cls: TorchClass) -> Types:
    return Types((Container(cls),), True)


def _must_be_there(attribute: Attribute) -> bool:
    """Whether every file of an instance has something of it."""
    if attribute.kinds == {PARAMETER}:
        return True
    if attribute.is_buffer:
        return attribute.value.persistent is True
    if attribute.kinds == {MODULE}:
        return all(
            isinstance(item, Container) and bool(item.cls.parameters or item.cls.buffers)
            for item in attribute.value.types
        )
    return False


def _torch_leaf(cls: TorchClass, name: str) -> Leaf | None:
    for names, kind, persistent in (
        (cls.parameters, PARAMETER, None),
        (cls.optional_parameters, PARAMETER, None),
        (cls.buffers, BUFFER, True),
        (cls.optional_buffers, BUFFER, True),
        (cls.non_persistent, BUFFER, False),
    ):
        if name in names or any("#" in pattern and matches(pattern, name) for pattern in names):
            return Leaf(frozenset((kind,)), persistent, None)
    if cls.container == "parameters":
        return Leaf(frozenset((PARAMETER,)), None, None)
    return None


def _torch_names(cls: TorchClass) -> list[str]:
    names = [*cls.parameters, *cls.optional_parameters, *cls.buffers, *cls.optional_buffers]
    return [*names, *cls.non_persistent, *(name for name, _ in cls.children)]


def _declared_texts(cls: SourceClass) -> set[str]:
    """Names and patterns that the text of ``cls`` may register."""
    found: set[str] = set()
    for method in cls.methods.values():
        for act in method["acts"]:
            what = act[0]
            if what == "run":
                positional, named, _ = act[5]
                for item in (*positional, *named.values()):
                    for part in item[1] if item[0] == "list" else [item]:
                        if part[0] == "const" and isinstance(part[1], str):
                            found.add(part[1])
                        elif part[0] == "name":
                            found.update(part[1])
            elif what not in ("put", "delete") and (what != "set" or act[4][0] != "const"):
                found.add(_open(act[1]))
    return found


def _open(pattern: str) -> str:
    """``pattern`` with anything in the place of arguments."""
    return (
        ANY.join(part for at, part in enumerate(pattern.split(ARG)) if at % 2 == 0)
        if ARG in pattern
        else pattern
    )
