"""How a result is shown: to a person, to a pipe and to a program. A new result is one row of ``VIEWS``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from ckpttool.render.tables import Line


class View(NamedTuple):
    """What makes text of a result. ``options`` are the result's own, None for what everybody sees.

    ``lines(result, width, options)`` are for a terminal, and become HTML in a notebook.
    ``pipe(result, options)`` gives the lines of stdout and of stderr, or None where these are the terminal's;
    ``document(result)`` the JSON. ``pages``: on a terminal long lines are read in a pager.
    """

    lines: Callable[[Any, int, Any], Iterable[Line]]
    pipe: Callable[[Any, Any], tuple[Iterable[str], Iterable[str]] | None]
    document: Callable[[Any], dict[str, Any]]
    pages: bool = False


class InspectListing(NamedTuple):
    """How an inspection is listed: ``flat`` all and unfolded, ``everything`` all; in order of ``sort``.

    With ``stats``; ``show_globals``: what an unpickler would import instead. A table of more than ``rows``
    lines, or than fit ``height`` lines of a terminal, becomes a summary by block, as does one of which a
    ``depth`` is asked: that many parts of names are a block.
    """

    flat: bool = False
    everything: bool = False
    sort: str = "file"
    stats: bool = False
    show_globals: bool = False
    rows: int | None = None
    depth: int | None = None
    height: int | None = None


class DiffListing(NamedTuple):
    """How a difference is listed: ``top`` rows at most, ``everything`` with what is equal too."""

    everything: bool = False
    top: int | None = None
    group_depth: int | None = None


ERROR_SCHEMA = "ckpttool/error/1"

# The name of a result's type -> module and name of its view. Imported one by one: a pipe costs no tables.
VIEWS: dict[str, tuple[str, str]] = {
    "Found": ("ckpttool.render.found", "FOUND"),
    "Verdict": ("ckpttool.render.verdict", "VERDICT"),
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


def height_of(out: TextIO) -> int | None:
    """Return the lines of the terminal that ``out`` is; None where it is none, or does not say."""
    from ckpttool.render.console import Screen

    screen = Screen(out)
    return screen.height if screen.is_terminal else None


def show(
    result: object,
    options: object,
    out: TextIO,
    err: TextIO,
    *,
    json: bool = False,
    format: str | None = None,
    color: str = "auto",
    one_of_many: bool = False,
) -> None:
    """Write a result as ``--format`` says, by default as text for whoever reads ``out``.

    As JSON, ``one_of_many`` is one line.
    """
    view = view_of(result)
    if json or format == "json":
        from ckpttool.render.json import dump

        pieces = dump(view.document(result))
        out.writelines(_on_one_line(pieces) if one_of_many else pieces)
        return
    from ckpttool.render.console import Screen

    screen = Screen(out, color)
    if format == "md":
        from ckpttool.render.markdown import WIDTH, to_markdown

        screen.write(to_markdown(view.lines(result, WIDTH, options)) + "\n" * one_of_many)
        return
    is_data = format == "tsv" or (format is None and not screen.is_terminal)
    piped = view.pipe(result, options) if is_data else None
    if piped is None:
        screen.write_lines(view.lines(result, screen.width, options), pages=view.pages)
        return
    lines, remarks = piped
    out.writelines(lines)
    out.flush()  # what is said of the lines comes after them, also where both streams are one
    talk = Screen(err)
    for remark in remarks:
        talk.write(remark)


def write_error(
    out: TextIO,
    error: str,
    *,
    hint: str | None,
    path: str | None,
    status: int = 2,
    one_of_many: bool = False,
) -> None:
    """Write the document of what could not be done; ``status`` is how the command ends."""
    from json import dumps

    fields = {"schema": ERROR_SCHEMA, "error": error, "hint": hint, "path": path, "exit": status}
    text = ",\n".join(f"{dumps(name)}: {dumps(value)}" for name, value in fields.items())
    pieces = ["{\n", text, "\n}\n"]
    out.writelines(_on_one_line(pieces) if one_of_many else pieces)


def _on_one_line(pieces: Iterable[str]) -> Iterator[str]:
    """A document of a line of its own: in a string no line ends."""
    yield from (piece.replace(",\n", ", ").replace("\n", "") for piece in pieces)
    yield "\n"
