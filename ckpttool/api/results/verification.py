"""What verifying gives."""

from __future__ import annotations

from ckpttool.api.results import Answer
from ckpttool.values import verification


class Verification(Answer, verification.Verification):
    """Whether a checkpoint loads into its model and the loaded model is right: ``runs``, ``suggestions``.

    A run is one way of loading on one device: ``device``, ``load``, ``ok``, ``decides`` (it counts for
    the verdict), and what is wrong: ``missing``, ``unexpected``, ``mismatched``, ``lossy``, ``not_restored``,
    ``untied``, ``unmoved`` …

    >>> verification = ckpttool.verify("linear.pt", "sample_models.linear_xavier:build", devices=["cpu"])
    >>> verification.ok
    True
    >>> [run.load for run in verification.runs]
    ['copy', 'assign', 'to-empty', 'round-trip']
    """

    __slots__ = ()
