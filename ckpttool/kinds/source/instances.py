"""What the interpreter works with: classes as they are called, containers, and what an instance has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from ckpttool.kinds.source.library import Lineage, SourceClass
from ckpttool.kinds.source.torch_classes import TorchClass

PARAMETER, BUFFER, PLACEHOLDER, MODULE, ANYTHING = "parameter", "buffer", "placeholder", "module", "?"
"""What an attribute may be. PLACEHOLDER: a buffer without elements; ANYTHING: what is not seen."""

ENTRIES = frozenset((PARAMETER, BUFFER, PLACEHOLDER))


class Instance(NamedTuple):
    """A class as it is called somewhere: ``binding`` are the arguments of ``__init__`` that are known."""

    cls: SourceClass
    binding: tuple[tuple[str, str], ...]  # descriptions as JSON
    items: Items | None = None


class Items(NamedTuple):
    """What a container holds, by pattern of the child's name. ``whole``: and nothing else."""

    children: tuple[tuple[str, Value], ...]
    whole: bool


class Container(NamedTuple):
    """An instance of a class of torch; ``items`` where it is a container whose call is seen."""

    cls: TorchClass
    items: Items | None = None


Type: TypeAlias = Instance | Container


class Value(NamedTuple):
    """What an expression gives: the ``kinds`` it may be, the ``types`` of modules, if a buffer is saved."""

    kinds: frozenset[str]
    types: tuple[Type, ...] = ()
    persistent: bool | None = None


UNSEEN = Value(frozenset((ANYTHING,)))
NO_ENTRY = Value(frozenset())


Clause: TypeAlias = frozenset[tuple[Any, ...] | None]


class Attribute(NamedTuple):
    """What instances have under a name. ``sure``: whatever the arguments that are not known.

    ``persistent`` of a buffer: None where it depends. ``cls`` is the class whose text says so, at ``line``;
    ``when`` are the conditions that were not decided, None among them for one that is no test.
    """

    value: Value
    sure: bool
    cls: SourceClass
    line: int
    when: Clause = frozenset()

    @property
    def kinds(self) -> frozenset[str]:
        """What it may be."""
        return self.value.kinds

    @property
    def is_buffer(self) -> bool:
        """Whether it is a buffer, whatever else is not known."""
        return bool(self.kinds) and self.kinds <= {BUFFER, PLACEHOLDER}


class Members(NamedTuple):
    """The attributes of an instance by name, and those with a pattern for one."""

    by_name: Mapping[str, Attribute]
    by_pattern: tuple[tuple[str, Attribute], ...]
    lineage: Lineage
