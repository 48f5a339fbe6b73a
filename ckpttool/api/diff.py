"""Two sides of a comparison, by what they are, and what was asked of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ckpttool.api.models import Arguments
from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.comparison.diff import Request
    from ckpttool.values.checkpoint import Root
    from ckpttool.values.difference import Side

_HEAD_NBYTES = 4096
KINDS = ("parameters", "buffers")


def read_sides(a: str, b: str, read: Callable[[str, str], Side]) -> tuple[Side, Side]:
    """Both sides by ``read(what, the other)``, one side once; an error says which side it is about."""
    first = _read_side("A", a, b, read)
    return first, first if a == b else _read_side("B", b, a, read)


def _read_side(which: str, text: str, beside: str, read: Callable[[str, str], Side]) -> Side:
    try:
        return read(text, beside)
    except CkptToolError as error:
        error.what = f"{which} cannot be read: {error.what}"
        raise


def read_file_side(path: str) -> Side:
    """A checkpoint, or a manifest that ``convert`` wrote.

    Raises:
        CkptToolError: it cannot be read.
        OSError: as the file system says.
    """
    from ckpttool.comparison.sides import make_declared_side, make_side

    if _is_manifest(path):
        from ckpttool.formats.manifest import manifest_checkpoint, read_manifest

        checkpoint, digests = manifest_checkpoint(read_manifest(path))
        return make_declared_side(checkpoint, path, digests)
    from ckpttool.formats import read_checkpoint

    return make_side(read_checkpoint(path), path)


def read_side(text: str, model_args: Arguments, beside: str) -> Side:
    """What is typed on a command line: a model, or else a path.

    Raises:
        CkptToolError: it cannot be read, imported or built.
        OSError: as the file system says.
    """
    from ckpttool.api.models import names_model, read_model

    if names_model(text) or (text == "hf" and not os.path.lexists(text)):
        from ckpttool.comparison.sides import make_declared_side

        return make_declared_side(read_model(text, model_args, checkpoint_path=beside).checkpoint, text)
    return read_file_side(text)


def _is_manifest(path: str) -> bool:
    """Whether a file begins as a manifest does; what cannot be read is for the reader to say."""
    from ckpttool.files.local import open_source

    if not os.path.isfile(path):
        return False
    with open_source(path) as source:
        head = source.read_at(0, min(_HEAD_NBYTES, source.size))
    if not head.lstrip(b" \t\r\n").startswith(b"{"):
        return False
    from ckpttool.formats.manifest import is_manifest

    return is_manifest(head)


def make_request(
    sides: tuple[Side, Side],
    roots: tuple[str | Root | None, str | Root | None],
    globs: tuple[Sequence[str], Sequence[str]],
    maps: Sequence[str],
    tolerance: tuple[float, float, int | None],
) -> Request:
    """What was asked: branches by their spelling, globs, renames and (atol, rtol, ulp).

    Raises:
        CkptToolError: there is no such branch, or a rename is malformed.
    """
    from ckpttool.comparison.diff import Request
    from ckpttool.elements.sums import Tolerance
    from ckpttool.names.renames import make_rule
    from ckpttool.names.roots import resolve_root

    branches: list[Root | None] = [
        None if root is None else resolve_root(side.checkpoint, root)
        for side, root in zip(sides, roots, strict=True)
    ]
    return Request(
        branches[0],
        branches[1],
        tuple(globs[0]),
        tuple(globs[1]),
        rule=make_rule(None, maps, ""),
        tolerance=Tolerance(*tolerance),
    )
