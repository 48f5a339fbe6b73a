"""Whether weights are quantised, and what they are then. Most files' are not, and pay for no table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ckpttool.values.checkpoint import CompositeTensor, Entry
from ckpttool.values.inspection import Quantization

_HINTS = """
    qweight qzeros g_idx .B weight_packed scale_weight SCB .absmax _blocks W_q ._data qdata _scale
    """.split()


class Fault(NamedTuple):
    """What modules of a scheme lack (``missing``) or have too much: the member and the modules' paths."""

    scheme: str
    member: str
    missing: bool
    sure: bool
    paths: tuple[str, ...]


class Survey(NamedTuple):
    """All quantised modules: what they are by scheme, what is wrong with them, and which entries are theirs.

    ``weights`` counts what they stand for; ``entries`` are the ids of their entries, biases left out.
    """

    quantizations: tuple[Quantization, ...]
    faults: tuple[Fault, ...]
    weights: int
    entries: frozenset[int]


def may_be_quantized(entries: Sequence[Entry], names: str) -> bool:
    """Whether it is worth a survey of ``entries``. ``names`` are all names, to search at once."""
    return any(hint in names for hint in _HINTS) or any(
        type(entry.value) is CompositeTensor for entry in entries
    )
