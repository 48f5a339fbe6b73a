"""``ckpttool diff``: what changed between two checkpoints, where, and by how much."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from ckpttool.api.arguments import IGNORABLE, KINDS
from ckpttool.commands import options

EXAMPLES = (
    "ckpttool diff swin.pt swin_ddp_compiled.pt",
    "ckpttool diff base.pt tuned.safetensors --top 3   # status 1",
    "ckpttool diff base.pt tuned.safetensors --only parameters --atol 0.01",
    "ckpttool diff swin.pt swin_ddp_compiled.pt --weights-only",
)

_compared = options.panel("What is compared")
_names = options.panel("Names")
_tolerance = options.panel("Tolerance")


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="A file, a folder of shards, a manifest or a model.")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="The other one; A again if --root-a and --root-b differ."),
    ] = None,
    json: options.Json = False,
    format: options.Format = None,
    color: options.Color = "auto",
    quiet: options.Quiet = False,
    no_pager: options.NoPager = False,
    headers: Annotated[
        bool, _compared("--headers", help="Compare names, dtypes and shapes only; read no tensor.")
    ] = False,
    root: Annotated[
        str | None, _compared("--root", metavar="KEY.PATH", help="Compare one branch only, on both sides.")
    ] = None,
    root_a: Annotated[
        str | None, _compared("--root-a", metavar="KEY.PATH", help="Compare this branch of A.")
    ] = None,
    root_b: Annotated[
        str | None, _compared("--root-b", metavar="KEY.PATH", help="Compare this branch of B.")
    ] = None,
    include: Annotated[options.Texts, options.include_option("What is compared")] = None,
    exclude: Annotated[options.Texts, options.exclude_option("What is compared")] = None,
    only: Annotated[
        str | None,
        _compared(
            "--only",
            metavar="KIND",
            help="Compare only parameters, or only buffers.",
            autocompletion=options.complete_choice(*KINDS),
        ),
    ] = None,
    weights_only: Annotated[
        bool, _compared("--weights-only", help="Compare the weights and nothing beside them.")
    ] = False,
    ignore: Annotated[
        options.Texts,
        _compared(
            "--ignore",
            metavar="WHAT,...",
            help=f"Differences in WHAT do not decide: {', '.join(IGNORABLE)}. May be repeated.",
            autocompletion=options.complete_list(*IGNORABLE),
        ),
    ] = None,
    no_align: Annotated[
        bool, _names("--no-align", help="Match equal names only: no prefixes, no renames.")
    ] = False,
    map_: Annotated[
        options.Texts,
        _names("--map", metavar="REGEX=>REPL", help="Rename A's names first. May be repeated."),
    ] = None,
    atol: Annotated[
        str, _tolerance("--atol", metavar="X", help="Ignore absolute differences up to X.")
    ] = "0",
    rtol: Annotated[
        str, _tolerance("--rtol", metavar="X", help="Ignore differences up to X times the larger value.")
    ] = "0",
    ulp: Annotated[
        str | None,
        _tolerance("--ulp", metavar="N", help="Ignore differences of up to N representable values."),
    ] = None,
    group_depth: Annotated[
        str | None,
        typer.Option("--group-depth", metavar="N", help="Show totals by the first N parts of names."),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="List equal entries, too.")] = False,
    top: Annotated[
        str | None, typer.Option("--top", metavar="N", help="Show only the N largest relative changes.")
    ] = None,
    model_arg: Annotated[options.Texts, options.model_arg_option("Models")] = None,
    source: Annotated[options.Texts, options.source_option("What is compared")] = None,
) -> int:
    """Compare two checkpoints of any formats: bytes first, then numbers where bytes differ.

    Names are aligned before anything is called added or removed. The status is 0 if they are the
    same, 1 if they differ, 2 if one cannot be read. A side may also be a manifest of convert, or a
    model (package.module:factory), which has a structure and no values. docs/diff.md says more.
    """
    from ckpttool.api.diff import diff
    from ckpttool.api.opened import open_sides
    from ckpttool.render.progress import Bar
    from ckpttool.render.views import DiffListing

    ignored = [
        options.parse_choice(what, IGNORABLE, "--ignore") for text in ignore or () for what in text.split(",")
    ]
    kind = None if only is None else options.parse_choice(only, KINDS, "--only")
    if b is None and (root_a is None or root_b is None):
        raise typer.BadParameter("one file needs both --root-a and --root-b", param_hint="B")
    listing = DiffListing(show_all, _count(top, "--top"), _count(group_depth, "--group-depth"))
    tolerance = _number(atol, "--atol"), _number(rtol, "--rtol"), _count(ulp, "--ulp")
    side_a, side_b = open_sides(a, b if b is not None else a, model_arg or (), source or ())
    side_a, side_b = (
        side.at(own if own is not None else root) for side, own in ((side_a, root_a), (side_b, root_b))
    )
    with Bar(quiet=quiet) as bar:
        found = diff(
            side_a,
            side_b,
            include=include or (),
            exclude=exclude or (),
            only=kind,
            align=not no_align,
            rename=map_ or (),
            atol=tolerance[0],
            rtol=tolerance[1],
            ulp=tolerance[2],
            headers=headers,
            weights_only=weights_only,
            ignore=ignored,
            progress=bar,
        )
    options.show(found, listing, json=json, quiet=quiet, format=format, color=color)
    return int(not found.equal)


def _count(text: str | None, option: str) -> int | None:
    return None if text is None else options.parse_count(text, option)


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{text} is not a number from 0 on", param_hint=option)
    return value
