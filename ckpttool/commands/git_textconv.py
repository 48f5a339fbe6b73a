"""``ckpttool git-textconv``: a checkpoint as text, for git's diff."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ckpttool.values.errors import CkptToolError

EXAMPLES = (
    "ckpttool git-textconv base.pt",
    "git config diff.ckpt.textconv 'ckpttool git-textconv'",
)


def command(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint, or what git has in its place.")],
) -> int:
    """Print a checkpoint as stable text: values, versions, and a digest of every tensor.

    Equal contents give equal text, whatever the order in the file. What is no checkpoint (a git-lfs
    pointer, a truncated file) is described in one line with status 0: git gives up on a whole
    `git log -p` when a textconv fails. docs/git.md has the three lines of configuration.
    """
    from ckpttool.api.inspect import iter_textconv
    from ckpttool.api.opened import open_file
    from ckpttool.values.words import safe

    try:
        lines = list(iter_textconv(open_file(path)))
    except CkptToolError as error:
        lines = [f"not readable\t{safe(error.describe())}\n"]
    sys.stdout.writelines(lines)
    return 0
