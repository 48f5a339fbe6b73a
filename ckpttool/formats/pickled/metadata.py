"""``_metadata``, which ``state_dict()`` hangs on its result: a version and other facts of each module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from ckpttool.formats.pickled.budget import WalkBudget
from ckpttool.formats.pickled.nodes import iter_mapping, state_items, width_of
from ckpttool.formats.pickled.plain import PlainReader
from ckpttool.pickles.nodes import Call, DictNode, Node
from ckpttool.values.checkpoint import ModuleExtras, Plain

Metadata: TypeAlias = "tuple[dict[str, int | None], dict[str, ModuleExtras]]"
"""By module path: its version, and what else is said of it."""


class MetadataReader:
    """Reads the ``_metadata`` of each state_dict once, however many mappings share it."""

    def __init__(self, plain: PlainReader, budget: WalkBudget) -> None:
        self.plain = plain
        self.budget = budget
        self.known: dict[int, Metadata] = {}  # by id of the node

    def read(self, state_dict: Call) -> Iterator[Metadata]:
        """What the attributes of an ``OrderedDict`` say: ``{module path: {"version": 1, …}}``."""
        for state in state_dict.states or ():
            for key, value in state_items(state):
                if type(key) is not str or key != "_metadata" or not isinstance(value, (Call, DictNode)):
                    continue
                known = self.known.get(id(value))
                if known is None:
                    known = self.known[id(value)] = self.versions_and_extras(value)
                else:
                    self.budget.spend(len(known[0]), ())
                yield known

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
            if not is_plain:
                self.budget.spend(width_of(value), ())
            for inner_key, inner in iter_mapping(value) if not is_plain else ():
                plain, is_plain = self.plain.read(inner)
                if is_plain and type(inner_key) is str:
                    yield (key, inner_key), plain
