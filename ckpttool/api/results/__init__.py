"""What comparing, converting, verifying and linting give: the values of these, able to show themselves.

Each has ``ok``, the fields of its value, ``to_dict()`` (the document of ``--json``, docs/json.md),
text for ``print`` and a table for notebooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

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
