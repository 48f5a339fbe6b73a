"""The table of known names: what the last part of an entry's name says about its kind.

The data is ``known_names_table``; the lookups are made of it on first use.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

from ckpttool.kinds import known_names_table as data
from ckpttool.values.checkpoint import Kind

RULES = {
    Kind.PARAMETER: data.PARAMETERS,
    Kind.PERSISTENT_BUFFER: data.BUFFERS,
    Kind.OPTIMIZER_STATE: data.OPTIMIZER_STATES,
    Kind.UNKNOWN: data.AMBIGUOUS,
}

SQUARE_MASK = 40
FOURIER_MATRIX = 20

_SHAPES = {"n": 1, "2 x n": FOURIER_MATRIX, "1 x 1 x n x n": SQUARE_MASK}
"""Shapes that tell apart what a name alone does not, as the table writes them -> ``shape_code``."""


class KnownName(NamedTuple):
    """What a name says. ``sure``: strong enough to decide the order rule for its neighbours.

    ``kind`` is ``UNKNOWN`` for a name that is a parameter in one library and a buffer in another.
    ``rebuilt_since`` is that of a ``Classification``.
    """

    kind: Kind
    note: str
    sure: bool
    rebuilt_since: str = ""


class MissingName(NamedTuple):
    """Names of the non-persistent buffers of a module that has no entry of its own."""

    names: tuple[str, ...]
    note: str


def shape_code(shape: tuple[int, ...]) -> int:
    """The number of dimensions, or the code of one of the two shapes that give a kind away."""
    ndim = len(shape)
    if ndim == 4 and shape[0] == shape[1] == 1 and shape[2] == shape[3] > 1:
        return SQUARE_MASK
    if ndim == 2 and shape[0] == 2:
        return FOURIER_MATRIX
    return ndim


class NameTable:
    """Lookup by the last part of a name, the module that holds it, and the shape."""

    def __init__(self) -> None:
        self._names: dict[str, KnownName] = {}
        self._qualified: dict[str, dict[str, KnownName]] = {}  # last part -> module -> known
        self._shaped: dict[tuple[str, int], KnownName] = {}
        endings: dict[str, KnownName] = {}
        for kind, rules in RULES.items():
            for rule in rules:
                known = KnownName(kind, rule.note, rule.sure, rule.note if rule.rebuilt else "")
                names = rule.names.split()
                if rule.shape:
                    self._shaped.update(((name, _SHAPES[rule.shape]), known) for name in names)
                else:
                    self._add_names(names, known)
                endings.update(dict.fromkeys(rule.endings.split(), known))
        self._endings = endings
        self._ending_texts = tuple(endings)
        self.missing: dict[str, MissingName] = {
            module: MissingName(tuple(rule.names.split()), rule.note)
            for rule in data.MISSING
            for module in rule.modules.split()
        }

    def _add_names(self, names: Iterable[str], known: KnownName) -> None:
        for name in names:
            module, _, leaf = name.rpartition(".")
            if module:
                self._qualified.setdefault(leaf, {})[module] = known
            else:
                self._names[leaf] = known

    def find(self, leaf: str, module: str, shape: int) -> KnownName | None:
        """What is known of ``leaf`` in a module called ``module``: the most specific that is listed.

        ``shape`` is a ``shape_code``.
        """
        stem = leaf.rstrip("0123456789").rstrip("_") or leaf
        for name in (leaf, stem):
            known = (
                self._shaped.get((name, shape))
                or self._qualified.get(name, {}).get(module)
                or self._names.get(name)
            )
            if known is not None:
                return known
        if not stem.endswith(self._ending_texts):
            return None
        # Endings are few and rarely nest; the longest one that fits is the most specific.
        best = max((text for text in self._ending_texts if stem.endswith(text)), key=len)
        return self._endings[best]


@functools.cache
def load_name_table() -> NameTable:
    """The one table."""
    return NameTable()
