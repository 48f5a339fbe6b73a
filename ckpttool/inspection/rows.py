"""The one row of an inspection that a person means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpttool.values.errors import CkptToolError
from ckpttool.values.words import inspect_command, plural

if TYPE_CHECKING:
    from ckpttool.values.inspection import Inspection, Row

_MOST_SUGGESTED = 3

_MOST_COMPARED = 20_000  # names: beyond that, looking for a similar one takes seconds


def find_row(inspection: Inspection, name: str) -> Row:
    """The row with this name or path, as it is or as it is shown; the weights' own goes first.

    Raises:
        CkptToolError: there is none, or there are several.
    """
    from ckpttool.values.words import format_name, format_path

    rows = (*inspection.rows, *inspection.missing)
    found = []
    for row in rows:
        entry = row.entry
        if name == entry.name or name in (
            format_name(entry.name, None),
            format_path(entry.root, entry.name, None),
        ):
            found.append(row)
    if len(found) > 1:
        found = [row for row in found if row.entry.root == inspection.weights_root] or found
    if len(found) == 1:
        return found[0]
    if found:
        paths = [format_path(row.entry.root, row.entry.name) for row in found[:_MOST_SUGGESTED]]
        what = f"{name!r} names {plural(len(found), 'tensor')}"
        raise CkptToolError(what, path=inspection.checkpoint.path, hint=f"say which: {', '.join(paths)}")
    import difflib

    names = [str(row.entry.name) for row in rows]
    close = (
        difflib.get_close_matches(name[:200], names, _MOST_SUGGESTED) if len(names) <= _MOST_COMPARED else []
    )
    flat = inspect_command(inspection.checkpoint.path, "--flat")
    hint = f"did you mean {', '.join(close)}" if close else f"{flat} lists every name"
    raise CkptToolError(f"no tensor is called {name!r}", path=inspection.checkpoint.path, hint=hint)
