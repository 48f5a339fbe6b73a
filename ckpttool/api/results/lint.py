"""What linting gives."""

from __future__ import annotations

from ckpttool.api.results import Answer
from ckpttool.values import lint


class LintReport(Answer, lint.LintReport):
    """Traps of Parameter and Buffer: ``findings`` of ``code``, ``severity``, ``name``, ``message``, ``fix``.

    >>> report = ckpttool.lint("sample_models.unregistered_tensor:build")
    >>> report.ok
    False
    """

    __slots__ = ()
