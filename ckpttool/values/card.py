"""What a model is, in facts that each say where they come from, and how its weights are shared out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Fact(NamedTuple):
    """One thing that is known of a model, and where it comes from."""

    name: str
    value: Any  # as JSON has it
    source: str


class Share(NamedTuple):
    """Weights whose names begin alike, with ``*`` for any index: their elements, and the bytes stored."""

    name: str
    numel: int
    nbytes: int


class Card(NamedTuple):
    """What stands above the table; docs/json.md lists the facts. ``shares`` add up to the weights."""

    facts: tuple[Fact, ...] = ()
    shares: tuple[Share, ...] = ()

    def value(self, name: str) -> Any:
        """What the fact of this name says; None where there is none."""
        return next((fact.value for fact in self.facts if fact.name == name), None)

    def source(self, name: str) -> str:
        """Where the fact of this name comes from; "" where nothing says it."""
        return next((fact.source for fact in self.facts if fact.name == name), "")


class Beside(NamedTuple):
    """JSON files in the folder of a checkpoint, as far as they are objects, and files that Trainer writes.

    ``unread`` says of the rest why they are not read.
    """

    documents: Mapping[str, Mapping[str, Any]] = {}
    unread: Mapping[str, str] = {}
    files: tuple[str, ...] = ()

    def document(self, name: str) -> Mapping[str, Any]:
        """What a file says; nothing where there is none."""
        return self.documents.get(name, {})
