"""How a result is shown: to a person, to a pipe and to a program. A new result is one row of ``VIEWS``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from ckpttool.render.tables import Line


class View(NamedTuple):
    """What makes text of a result. ``options`` are the result's own, None for what everybody sees.

    ``lines(result, width, options)`` are for a terminal, and become HTML in a notebook.
    ``pipe(result, options)`` gives the lines of stdout and of stderr, or None where these are the terminal's;
    ``document(result)`` the JSON.
    """

    lines: Callable[[Any, int, Any], Iterable[Line]]
    pipe: Callable[[Any, Any], tuple[Iterable[str], Iterable[str]] | None]
    document: Callable[[Any], dict[str, Any]]


class InspectListing(NamedTuple):
    """How an inspection is listed: ``flat`` all and unfolded, ``everything`` all; in order of ``sort``.

    With ``stats``; ``show_globals``: what an unpickler would import instead.
    """

    flat: bool = False
    everything: bool = False
    sort: str = "file"
    stats: bool = False
    show_globals: bool = False


class DiffListing(NamedTuple):
    """How a difference is listed: ``top`` rows at most, ``everything`` with what is equal too."""

    everything: bool = False
    top: int | None = None
    group_depth: int | None = None


# The name of a result's type -> module and name of its view. Imported one by one: a pipe costs no tables.
VIEWS: dict[str, tuple[str, str]] = {
    "Found": ("ckpttool.render.found", "FOUND"),
    "Digested": ("ckpttool.render.found", "DIGESTED"),
    "Diff": ("ckpttool.render.diff_data", "DIFF"),
    "Conversion": ("ckpttool.render.convert", "CONVERSION"),
    "Verification": ("ckpttool.render.verify", "VERIFICATION"),
    "Picked": ("ckpttool.render.picked", "PICKED"),
    "LintReport": ("ckpttool.render.lint", "LINT_REPORT"),
}


def view_of(result: object) -> View:
    """The view of a result, or of what its type is made from."""
    from importlib import import_module

    module, name = next(VIEWS[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in VIEWS)
    view: View = getattr(import_module(module), name)
    return view


def show(result: object, options: object, out: TextIO, err: TextIO, *, json: bool) -> None:
    """Write a result as one document, or as text for whoever reads ``out``."""
    view = view_of(result)
    if json:
        from ckpttool.render.json import dump

        out.writelines(dump(view.document(result)))
        return
    from ckpttool.render.console import Screen

    screen = Screen(out)
    piped = None if screen.is_terminal else view.pipe(result, options)
    if piped is None:
        screen.write_lines(view.lines(result, screen.width, options))
        return
    lines, remarks = piped
    out.writelines(lines)
    out.flush()  # what is said of the lines comes after them, also where both streams are one
    err.writelines(remarks)
