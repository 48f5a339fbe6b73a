"""A file or a model -> an ``Inspection``; and the one row of it that a person means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ckpttool.errors import CkptToolError
from ckpttool.tasks.models import Arguments, Model

if TYPE_CHECKING:
    from ckpttool.analysis.inspection import Inspection, Row
    from ckpttool.checkpoint import Root
    from ckpttool.digests import SetDigests

_MOST_SUGGESTED = 3
_MOST_COMPARED = 20_000  # names: beyond that, looking for a similar one takes seconds


def inspect_file(
    path: str,
    *,
    root: str | Root | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    model: Model | None = None,
    model_args: Arguments = (),
) -> Inspection:
    """Read headers, and classify what they hold, carried facts put back; with a ``model``, as it has them.

    Raises:
        CkptToolError: it cannot be read, or has no such branch; the model cannot be built.
        OSError: as the file system says.
    """
    from ckpttool.analysis.carried import expand
    from ckpttool.analysis.inspect import inspect_checkpoint
    from ckpttool.analysis.roots import resolve_root
    from ckpttool.formats import read_checkpoint
    from ckpttool.tasks.models import read_model

    checkpoint = expand(read_checkpoint(path))
    branch = None if root is None else resolve_root(checkpoint, root)
    # Before a model runs it is known that the file can be read.
    spec = None if model is None else read_model(model, model_args, checkpoint_path=path)
    return inspect_checkpoint(checkpoint, include=include, exclude=exclude, root=branch, model=spec)


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
        what = f"{name!r} names {len(found)} tensors"
        raise CkptToolError(what, path=inspection.checkpoint.path, hint=f"say which: {', '.join(paths)}")
    import difflib

    names = [str(row.entry.name) for row in rows]
    close = (
        difflib.get_close_matches(name[:200], names, _MOST_SUGGESTED) if len(names) <= _MOST_COMPARED else []
    )
    hint = f"did you mean {', '.join(close)}" if close else "ckpttool inspect CKPT --flat lists every name"
    raise CkptToolError(f"no tensor is called {name!r}", path=inspection.checkpoint.path, hint=hint)


def digest_weights(inspection: Inspection, watch: Callable[[int], None] = lambda nbytes: None) -> SetDigests:
    """Digests of the weights' content, or of the branch or entries that were asked for.

    Raises:
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    from ckpttool.analysis.sides import digest_scope
    from ckpttool.contents import digest_rows
    from ckpttool.digests import digest_set

    return digest_set(digest_rows(digest_scope(inspection), inspection.checkpoint.files, watch))
