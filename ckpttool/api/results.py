"""What comparing, converting, verifying and linting give: the values of these, able to show themselves.

Each has ``ok``, the fields of its value, ``to_dict()`` (the document of ``--json``, docs/json.md),
text for ``print`` and a table for notebooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from ckpttool.values import conversion, difference, verification
from ckpttool.values import lint as lint_report

if TYPE_CHECKING:
    from ckpttool.render.tables import Line


_WIDTH = 100  # cells of a line of text; there is no terminal to ask


class Shown:
    """Something with a view of its own, the one that the command line has of it."""

    __slots__ = ()

    def _iter_lines(self, width: int) -> Iterator[Line]:
        raise NotImplementedError

    def __str__(self) -> str:
        lines = ("".join([span.text for span in line]).rstrip() for line in self._iter_lines(_WIDTH))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<ckpttool.{type(self).__name__} {self._first_line()}>"

    def _first_line(self) -> str:
        from ckpttool.render.html import WIDTH

        return "".join([span.text for span in next(self._iter_lines(WIDTH), ())])

    def _repr_html_(self) -> str:
        from ckpttool.render.html import WIDTH, to_html

        return to_html(self._iter_lines(WIDTH))


class Answer(Shown):
    """A result that is right or not. It is neither true nor false itself: ``ok`` says which."""

    __slots__ = ()

    def to_dict(self) -> dict[str, object]:
        """The document that the command writes with ``--json`` (docs/json.md)."""
        from ckpttool.render.views import view_of

        return view_of(self).document(self)

    def _iter_lines(self, width: int) -> Iterator[Line]:
        from ckpttool.render.views import view_of

        return iter(view_of(self).lines(self, width, None))

    def __bool__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is neither true nor false; ask its .ok")


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


class Conversion(Answer, conversion.Conversion):
    """What was written: ``files`` (``path``, ``nbytes``, ``sha256``), and what became of the source.

    >>> conversion = ckpttool.convert("tied.pt", "tied.safetensors", force=True)
    >>> conversion.written, conversion.aliases
    (True, {'lm_head.weight': 'embed_tokens.weight'})
    """

    __slots__ = ()

    @property
    def aliases(self) -> Mapping[str, str]:
        """Each tied name, and the name under which its bytes are kept."""
        return self.plan.aliases

    @property
    def dropped(self) -> tuple[conversion.Dropped, ...]:
        """What the destination does not hold; ``asked`` is true where an option said so."""
        return self.plan.dropped

    @property
    def cast(self) -> tuple[conversion.Cast, ...]:
        """Tensors whose dtype changed: ``name``, ``before``, ``after``."""
        return self.plan.casts

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is worth a sentence."""
        return self.plan.notes


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


class LintReport(Answer, lint_report.LintReport):
    """Traps of Parameter and Buffer: ``findings`` of ``code``, ``severity``, ``name``, ``message``, ``fix``.

    >>> report = ckpttool.lint("sample_models.unregistered_tensor:build")
    >>> report.ok
    False
    """

    __slots__ = ()
