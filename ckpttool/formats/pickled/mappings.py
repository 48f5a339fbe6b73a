"""Mappings in a pickle: their keys as steps of a path, and the ``_metadata`` that hangs on a state_dict.

``state_dict()`` keeps there a version and other facts of each module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.budget import WalkBudget
from ckpttool.formats.pickled.nodes import (
    is_mapping,
    is_unhashable,
    iter_mapping,
    named_state,
    summarize,
    type_name,
    width_of,
)
from ckpttool.formats.pickled.plain import PlainReader
from ckpttool.pickles.nodes import Call, DictNode, Node
from ckpttool.values.checkpoint import Key, ModuleExtras, OddKey, Plain
from ckpttool.values.errors import LimitExceeded

_LONG_KEY = 256  # longer keys are counted: their paths are written out for every entry below them
_MAX_KEY_SCALARS = 100  # a tuple that is a key is written out up to here


class KeyReader:
    """Makes keys of one pickle; two odd ones stay two."""

    def __init__(self, plain: PlainReader, budget: WalkBudget, limits: Limits) -> None:
        self._plain = plain
        self._budget = budget
        self._limits = limits
        self._odd_keys = 0
        self.unhashable = False  # whether no dict could have one of the keys
        self.objects: list[tuple[Key, Node]] = []  # keys that are objects; for the walk to take

    def children(self, items: Iterable[tuple[Node, Node]]) -> list[tuple[Key, Node]]:
        """Children of a mapping; a repeated key replaces the value in place, as in a dict."""
        children: dict[Key, Node] = {}
        longest = self._limits.name_nbytes
        for key, value in items:
            if type(key) is not str:
                key = self.key(key)
            elif len(key) > _LONG_KEY:
                if len(key) > longest:
                    raise LimitExceeded("length of a key", limit=longest, actual=len(key))
                self._budget.has_long_keys = True
                self._budget.count_text(len(key))
            children[key] = value
        return list(children.items())

    def key(self, node: Node) -> Key:
        """A mapping key as a step of a path."""
        if type(node) in (int, str):
            return node  # type: ignore[no-any-return]
        self.unhashable = self.unhashable or is_unhashable(node)
        plain, size = self._plain.sized(node, 0)
        if 0 <= size <= _MAX_KEY_SCALARS:
            return OddKey(repr(plain), literal=True)
        key = self._numbered(" ".join(filter(None, (type_name(node), summarize(node)))))
        if size < 0:
            self.objects.append((key, node))
        return key

    def apart(self, children: list[tuple[Key, Node]]) -> list[tuple[Key, Node]]:
        """``children`` with names of their own: what an object carries comes from several places."""
        taken = {key for key, _ in children}
        if len(taken) == len(children):
            return children
        taken.clear()
        named = []
        for key, node in children:
            if key in taken:
                key = self._numbered(str(key))
            taken.add(key)
            named.append((key, node))
        return named

    def _numbered(self, text: str) -> OddKey:
        """A key that no literal stands for: two of one class must stay two keys."""
        self._odd_keys += 1
        return OddKey(f"<{text} #{self._odd_keys}>", literal=False)

    def text(self, node: Node) -> str:
        """A module or parameter name as text."""
        return str(self.key(node))


Metadata: TypeAlias = "tuple[dict[str, int | None], dict[str, ModuleExtras]]"
"""By module path: its version, and what else is said of it."""


class MetadataReader:
    """Reads the ``_metadata`` of each state_dict once, however many mappings share it."""

    def __init__(self, plain: PlainReader, budget: WalkBudget) -> None:
        self.plain = plain
        self.budget = budget
        self.known: dict[int, Metadata] = {}  # by id of the node
        self._objects: list[Node] = []  # what is neither plain nor a mapping

    def read(self, state_dict: Call) -> Iterator[Metadata]:
        """What the attributes of an ``OrderedDict`` say: ``{module path: {"version": 1, …}}``."""
        for key, value in named_state(state_dict):
            if key != "_metadata" or not isinstance(value, (Call, DictNode)):
                continue
            known = self.known.get(id(value))
            if known is None:
                known = self.known[id(value)] = self.versions_and_extras(value)
            else:
                self.budget.spend(len(known[0]), ())
            yield known

    def take_objects(self) -> list[Node]:
        """What was neither plain nor a mapping since this was last asked."""
        taken, self._objects = self._objects, []
        return taken

    def versions_and_extras(self, metadata: Node) -> Metadata:
        """What a ``_metadata`` says: version of each module, and what else its local metadata holds."""
        versions: dict[str, int | None] = {}
        extras: dict[str, ModuleExtras] = {}
        for module, local in iter_mapping(metadata):
            if type(module) is not str or not isinstance(local, (DictNode, Call)):
                continue
            self.budget.spend(width_of(local), ())
            facts = dict(self.local_metadata(local))
            version = facts.pop(("version",), None)
            versions[module] = version if type(version) is int else None
            if facts:
                extras[module] = tuple(facts.items())
        return versions, extras

    def local_metadata(self, local: Node) -> Iterable[tuple[tuple[str, ...], Plain]]:
        """Plain facts of one module's local metadata, which nests one deep (``spectral_norm``)."""
        for key, value in iter_mapping(local):
            if type(key) is not str:
                continue
            plain, is_plain = self.plain.read(value)
            if is_plain:
                yield (key,), plain
                continue
            if not isinstance(value, DictNode) and not (isinstance(value, Call) and is_mapping(value)):
                self._objects.append(value)
                continue
            self.budget.spend(width_of(value), ())
            for inner_key, inner in iter_mapping(value):
                plain, is_plain = self.plain.read(inner)
                if is_plain and type(inner_key) is str:
                    yield (key, inner_key), plain
                elif not is_plain:
                    self._objects.append(inner)
