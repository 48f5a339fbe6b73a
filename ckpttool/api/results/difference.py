"""What comparing gives."""

from __future__ import annotations

from ckpttool.api.results import Answer
from ckpttool.values import difference


class Diff(Answer, difference.Diff):
    """The difference of two checkpoints: ``entries``, ``values`` beside them, ``findings``.

    An entry has ``root``, ``name``, ``kind``, ``status``, ``renamed_from``, ``a`` and ``b`` (its two
    sides, None where it is missing), and ``numbers`` (``max_abs``, ``rel_l2``, ``changed`` of ``numel``
    elements …; None where the bytes are equal or were not compared).

    >>> diff = ckpttool.diff("base.pt", "tuned.safetensors")
    >>> diff.equal
    False
    >>> diff.counts["changed"]
    10
    """

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """True when nothing that was compared differs: ``equal``, by the name that all results have."""
        return self.equal
