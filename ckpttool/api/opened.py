"""A file or a model -> an ``Inspection``; and the one row of it that a person means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpttool.api.models import Arguments, Model

if TYPE_CHECKING:
    from ckpttool.values.checkpoint import Root
    from ckpttool.values.inspection import Inspection


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
    from ckpttool.api.models import read_model
    from ckpttool.formats import read_checkpoint
    from ckpttool.formats.carried import expand
    from ckpttool.inspection.inspect import inspect_checkpoint
    from ckpttool.names.roots import resolve_root

    checkpoint = expand(read_checkpoint(path))
    branch = None if root is None else resolve_root(checkpoint, root)
    # Before a model runs it is known that the file can be read.
    spec = None if model is None else read_model(model, model_args, checkpoint_path=path)
    return inspect_checkpoint(checkpoint, include=include, exclude=exclude, root=branch, model=spec)
