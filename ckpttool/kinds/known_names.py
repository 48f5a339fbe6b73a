"""The table of known names: what the last part of an entry's name says about its kind.

The data is ``known_names_table``; the lookups are made of it on first use.
"""

from __future__ import annotations

import functools

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
EMPTY = -2
NARROW = -3
_ANY = -4

_SHAPES = {"n": 1, "2 x n": FOURIER_MATRIX, "1 x 1 x n x n": SQUARE_MASK, "": _ANY}
"""Shapes that tell apart what a name alone does not, as the table writes them -> ``shape_code``."""


def shape_code(shape: tuple[int, ...]) -> int:
    """The number of dimensions, or the code of one of the shapes that give a kind away."""
    if 0 in shape:
        return EMPTY if not any(shape) else NARROW
    ndim = len(shape)
    if ndim == 4 and shape[0] == shape[1] == 1 and shape[2] == shape[3] > 1:
        return SQUARE_MASK
    if ndim == 2 and shape[0] == 2:
        return FOURIER_MATRIX
    return ndim


class NameTable:
    """Lookup by the last part of a name, the module that holds it, and the shape."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str, int], Classification] = {}
        self._endings: dict[str, Classification] = {}
        for kind, rules in RULES.items():
            basis = Basis.NONE if kind is Kind.UNKNOWN else Basis.NAME
            for rule in rules:
                since = rule.note if rule.rebuilt else ""
                known = Classification(kind, basis, note=rule.note, rebuilt_since=since)
                for name in rule.names.split():
                    module, _, leaf = name.rpartition(".")
                    self._names[leaf, module, _SHAPES[rule.shape]] = known
                self._endings.update(dict.fromkeys(rule.endings.split(), known))
        self.of_torch = self._names["weight", "", _ANY]
        """What is said of the names that torch.nn gives to its own parameters."""
        self._ending_texts = tuple(self._endings)
        self.missing = {module: rule for rule in data.MISSING for module in rule.modules.split()}

    def find(self, leaf: str, module: str, shape: int) -> Classification | None:
        """What is known of ``leaf`` in a module called ``module``: the most specific that is listed.

        ``shape`` is a ``shape_code``. The kind is ``UNKNOWN`` for a name that is a parameter in one library
        and a buffer in another.
        """
        stem = leaf.rstrip("0123456789").rstrip("_") or leaf
        for name in (leaf, stem):
            for key in ((module, shape), ("", shape), (module, _ANY), ("", _ANY)):
                known = self._names.get((name, *key))
                if known is not None:
                    return known
        # A private name is no public one with something before it.
        if stem.startswith("_") or not stem.endswith(self._ending_texts):
            return None
        # Endings are few and rarely nest; the longest one that fits is the most specific.
        best = max((text for text in self._ending_texts if stem.endswith(text)), key=len)
        return self._endings[best]


@functools.cache
def load_name_table() -> NameTable:
    """The one table."""
    return NameTable()
