"""The table of known names: what the last part of an entry's name says about its kind.

The data is ``known_names_table``; the lookups are made of it on first use.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from ckpttool.kinds import known_names_table as data
from ckpttool.values.checkpoint import Basis, Classification, Kind

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


class Verdict(NamedTuple):
    """A classification, and whether its neighbours may be judged by it.

    Its kind is ``UNKNOWN`` for a name that is a parameter in one library and a buffer in another.
    """

    classification: Classification
    sure: bool = False


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
        # By name and what else must fit: a shape's code, the module that holds it, or "" for nothing.
        self._names: dict[tuple[str, int | str], Verdict] = {}
        self._endings: dict[str, Verdict] = {}
        for kind, rules in RULES.items():
            basis = Basis.NONE if kind is Kind.UNKNOWN else Basis.NAME
            for rule in rules:
                since = rule.note if rule.rebuilt else ""
                known = Verdict(Classification(kind, basis, note=rule.note, rebuilt_since=since), rule.sure)
                for name in rule.names.split():
                    module, _, leaf = name.rpartition(".")
                    self._names[leaf, _SHAPES[rule.shape] if rule.shape else module] = known
                self._endings.update(dict.fromkeys(rule.endings.split(), known))
        self._ending_texts = tuple(self._endings)
        self.missing = {module: rule for rule in data.MISSING for module in rule.modules.split()}

    def find(self, leaf: str, module: str, shape: int) -> Verdict | None:
        """What is known of ``leaf`` in a module called ``module``: the most specific that is listed.

        ``shape`` is a ``shape_code``.
        """
        stem = leaf.rstrip("0123456789").rstrip("_") or leaf
        for name in (leaf, stem):
            for where in (shape, module, ""):
                known = self._names.get((name, where))
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
