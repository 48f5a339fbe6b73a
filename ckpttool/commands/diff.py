"""``ckpttool diff``: what changed between two checkpoints, where, and by how much."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ckpttool.commands.options import Exclude, Include, Json, ModelArgs, Quiet, parse_choice, parse_count
from ckpttool.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.analysis.difference import Diff, Side
    from ckpttool.checkpoint import Root
    from ckpttool.diffing import Request
    from ckpttool.render.diff_table import View

EXAMPLES = (
    "ckpttool diff base.pt tuned.safetensors",
    "ckpttool diff last.ckpt --root-a state_dict --root-b ema --only buffers",
)

_HEAD_NBYTES = 4096
_KINDS = ("parameters", "buffers")


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="A file, a folder of shards, a manifest or a model.")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="The other one; A again if --root-a and --root-b differ."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    headers: Annotated[
        bool, typer.Option("--headers", help="Names, dtypes and shapes only: reads no tensor.")
    ] = False,
    root: Annotated[
        str | None, typer.Option("--root", metavar="KEY.PATH", help="One branch only, on both sides.")
    ] = None,
    root_a: Annotated[
        str | None, typer.Option("--root-a", metavar="KEY.PATH", help="The branch of A to compare.")
    ] = None,
    root_b: Annotated[
        str | None, typer.Option("--root-b", metavar="KEY.PATH", help="The branch of B to compare.")
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="KIND", help="Only parameters, or only buffers.")
    ] = None,
    no_align: Annotated[
        bool, typer.Option("--no-align", help="Only equal names meet: no prefixes, no renames.")
    ] = False,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="REGEX=>REPL", help="Rename A's names before. May be repeated."),
    ] = None,
    atol: Annotated[
        str, typer.Option("--atol", metavar="X", help="Absolute difference that counts as none.")
    ] = "0",
    rtol: Annotated[
        str, typer.Option("--rtol", metavar="X", help="Difference relative to the larger value.")
    ] = "0",
    ulp: Annotated[
        str | None,
        typer.Option("--ulp", metavar="N", help="Values at most N representable ones apart count as equal."),
    ] = None,
    group_depth: Annotated[
        str | None, typer.Option("--group-depth", metavar="N", help="Totals by the first N parts of names.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="List equal entries, too.")] = False,
    top: Annotated[
        str | None, typer.Option("--top", metavar="N", help="Only the N largest relative changes.")
    ] = None,
    model_arg: ModelArgs = None,
) -> int:
    """Compare two checkpoints of any formats: bytes first, then numbers where bytes differ.

    Names are aligned before anything is called added or removed. The status is 0 if they are the
    same, 1 if they differ, 2 if one cannot be read. A side may also be a manifest of convert, or a
    model (package.module:factory), which has a structure and no values. docs/diff.md says more.
    """
    from ckpttool.render.diff_table import View

    if only is not None:
        parse_choice(only, _KINDS, "--only")
    if b is None and (root_a is None or root_b is None):
        raise typer.BadParameter("one file needs both --root-a and --root-b", param_hint="B")
    view = View(show_all, _count(top, "--top"), _count(group_depth, "--group-depth"))
    side_a, side_b = _read_sides(a, b if b is not None else a, model_arg or ())
    request = _make_request(
        (side_a, side_b),
        (root_a if root_a is not None else root, root_b if root_b is not None else root),
        (include or (), exclude or ()),
        map_ or (),
        (_number(atol, "--atol"), _number(rtol, "--rtol"), _count(ulp, "--ulp")),
    )._replace(only=only, align=not no_align, structure_only=headers)
    diff = _compare(side_a, side_b, request, quiet=quiet)
    if json:
        from ckpttool.render.diff_data import diff_document
        from ckpttool.render.json import dump

        sys.stdout.writelines(dump(diff_document(diff)))
    elif not quiet:
        _write_text(diff, view)
    return int(not diff.equal)


def _count(text: str | None, option: str) -> int | None:
    return None if text is None else parse_count(text, option)


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{text} is not a number from 0 on", param_hint=option)
    return value


def _read_sides(a: str, b: str, model_args: Sequence[str]) -> tuple[Side, Side]:
    first = _read_side(a, "A", model_args, beside=b)
    return first, first if a == b else _read_side(b, "B", model_args, beside=a)


def _read_side(text: str, which: str, model_args: Sequence[str], *, beside: str) -> Side:
    """One side, by what it is; an error says which side it is about."""
    from ckpttool.analysis.sides import make_declared_side, make_side
    from ckpttool.commands.model_source import names_model

    try:
        if names_model(text) or (text == "hf" and not os.path.lexists(text)):
            from ckpttool.commands.model_source import read_model

            return make_declared_side(read_model(text, model_args, checkpoint_path=beside).checkpoint, text)
        if _is_manifest(text):
            from ckpttool.contents import manifest_checkpoint
            from ckpttool.digests import read_manifest

            checkpoint, digests = manifest_checkpoint(read_manifest(text))
            return make_declared_side(checkpoint, text, digests)
        from ckpttool.formats import read_checkpoint

        return make_side(read_checkpoint(text), text)
    except CkptToolError as error:
        error.what = f"{which} cannot be read: {error.what}"
        raise


def _is_manifest(path: str) -> bool:
    """Whether a file begins as a manifest does; what cannot be read is for the reader to say."""
    from ckpttool.formats.base import open_source

    if not os.path.isfile(path):
        return False
    with open_source(path) as source:
        head = source.read_at(0, min(_HEAD_NBYTES, source.size))
    if not head.lstrip(b" \t\r\n").startswith(b"{"):
        return False
    from ckpttool.digests import is_manifest

    return is_manifest(head)


def _make_request(
    sides: tuple[Side, Side],
    roots: tuple[str | None, str | None],
    globs: tuple[Sequence[str], Sequence[str]],
    maps: Sequence[str],
    tolerance: tuple[float, float, int | None],
) -> Request:
    from ckpttool.analysis.renames import make_rule
    from ckpttool.analysis.roots import resolve_root
    from ckpttool.diffing import Request
    from ckpttool.sums import Tolerance

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


def _compare(a: Side, b: Side, request: Request, *, quiet: bool) -> Diff:
    from ckpttool.diffing import diff_sides, total_nbytes
    from ckpttool.render.progress import Progress

    with Progress("compare", total_nbytes(a, b), quiet=quiet or request.structure_only) as progress:
        return diff_sides(a, b, request, progress.add)


def _write_text(diff: Diff, view: View) -> None:
    from ckpttool.render.console import Screen
    from ckpttool.render.diff import iter_diff, summary_line

    screen = Screen(sys.stdout)
    if screen.is_terminal:
        screen.write_lines(iter_diff(diff, screen.width, view))
        return
    from ckpttool.render.diff_data import iter_pipe
    from ckpttool.render.inspection import iter_finding_lines
    from ckpttool.render.units import safe

    sys.stdout.writelines(iter_pipe(diff, view))
    sys.stdout.flush()  # what is said of the entries comes after them, also where both streams are one
    sys.stderr.write(f"{summary_line(diff)}\n")
    sys.stderr.writelines(f"names aligned: {safe(text)}\n" for text in diff.aligned)
    sys.stderr.writelines(f"not compared: {safe(text)}\n" for text in diff.left_out)
    sys.stderr.writelines(iter_finding_lines(diff.findings))
