"""``ckpttool inspect``: what is in a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ckpttool.api.arguments import FAIL_ON, FAIL_ON_VALUES
from ckpttool.commands import options
from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.api.inspect import Found
    from ckpttool.api.opened import Opened

EXAMPLES = (
    "ckpttool inspect decoder_training.pt",
    "ckpttool inspect swin.pt --source swin.py",
    "ckpttool inspect swin.pt --model swin.py:build",
    "ckpttool inspect base.pt --stats --fail-on nan,inf",
    "ckpttool inspect batch_norms_legacy.pth --fail-on findings   # status 1",
)

_selection = options.panel("Selection")
_checks = options.panel("Checks")
_instead = options.panel("Instead of the table")

_ALL = "all"  # of --rows
_SORTS = ("file", "name", "size")


def command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT",
            help="A file, a folder of shards, or a model: package.module:factory, FILE.py:factory. Several "
            "have a verdict each.",
        ),
    ],
    json: options.Json = False,
    format: options.Format = None,
    color: options.Color = "auto",
    quiet: options.Quiet = False,
    no_pager: options.NoPager = False,
    flat: Annotated[bool, typer.Option("--flat", help="List every entry of every branch, unfolded.")] = False,
    root: Annotated[
        str | None,
        _selection("--root", metavar="KEY.PATH", help="Show one branch only, such as model.state_dict."),
    ] = None,
    include: Annotated[options.Texts, options.include_option("Selection")] = None,
    exclude: Annotated[options.Texts, options.exclude_option("Selection")] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="ORDER",
            help="Order the table by file, name or size.",
            autocompletion=options.complete_choice(*_SORTS),
        ),
    ] = "file",
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            metavar="N",
            help="Sum up by block what takes more than N lines; default: what the terminal has no room for. "
            "all: a line for every tensor.",
            autocompletion=options.complete_choice(_ALL),
        ),
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option("--depth", metavar="N", help="Sum up by block: the first N parts of names."),
    ] = None,
    tensor: Annotated[
        str | None,
        _selection("--tensor", metavar="NAME", help="Show one entry in full, with its first values."),
    ] = None,
    first: Annotated[str, _selection("--first", metavar="N", help="Show N values of --tensor.")] = "16",
    model: options.KindsModel = None,
    model_arg: Annotated[options.Texts, options.model_arg_option("Kinds")] = None,
    source: Annotated[options.Texts, options.source_option("Kinds")] = None,
    stats: Annotated[
        bool, _checks("--stats", help="Read the values: range, mean, zeros, NaN, infinities.")
    ] = False,
    fail_on: Annotated[
        str | None,
        _checks(
            "--fail-on",
            metavar="WHAT,...",
            help="Exit 1 if there is any nan, inf, zero (a tensor of nothing else; these read the values), "
            "or findings.",
            autocompletion=options.complete_list(*FAIL_ON),
        ),
    ] = None,
    check: Annotated[
        bool, _checks("--check", help="Verify the checksums of a zip; exit 1 if one does not match.")
    ] = False,
    digest: Annotated[
        bool,
        _instead("--digest", help="Hash the content of the weights, whatever the container."),
    ] = False,
    show_globals: Annotated[
        bool, _instead("--globals", help="List what an unpickler would import and call.")
    ] = False,
    values: Annotated[
        str | None,
        _instead("--values", metavar="[GLOB]", help="List values beside the tensors: epoch, lr, …"),
    ] = None,
) -> int:
    """Show what is in a checkpoint: every tensor with its kind, and on what evidence.

    Reads headers and runs nothing that is in the file. On a terminal, entries that differ only in
    their indices share a line; in a pipe every entry has a line of its own, with tabs between its
    fields. Only --stats, --fail-on, --check and --tensor read the tensors themselves.

    Of several files, each has a line with its verdict, or with --json a document on a line of its own; one
    that cannot be read does not keep the others from being looked at, and the worst status is returned.

    With --model, kinds are the model's own, and entries that are missing or unexpected are listed. With
    --source, the classes of a package are read, and say what each entry is and which buffers are not stored.

    The column evidence says where a kind comes from. Registered so, and exact: module (--model), pickled
    module, torchscript, export. Inferred: copy (of a pickled module), pickled parameter, optimizer (its
    state), metadata (_metadata), FILE:LINE or torch.nn (--source), neighbour (the names beside it),
    dtype, order (of the keys), shape, name, contents (the numbers). A dash: unknown.
    """
    from ckpttool.api.inspect import digest as take_digest
    from ckpttool.api.inspect import inspect
    from ckpttool.render.progress import Bar

    sort = options.parse_choice(sort, _SORTS, "--sort")
    asked = [] if fail_on is None else fail_on.split(",")
    for what in asked:
        options.parse_choice(what, FAIL_ON, "--fail-on")
    count = options.parse_count(first, "--first")
    most, parts = _parse_rows(rows), _parse_depth(depth)
    if parts is not None and (flat or stats or rows is not None):
        raise typer.BadParameter("it does not go with --flat, --stats and --rows", param_hint="--depth")
    reads_values = stats or any(what in FAIL_ON_VALUES for what in asked)
    reads_file = reads_values or check or show_globals
    chosen = include or (), exclude or (), source or ()

    def look(path: str) -> tuple[Opened, Found]:
        opened = _open(path, model, model_arg or (), root, *chosen, reads_file)
        with Bar(quiet=quiet) as bar:
            return opened, inspect(
                opened,
                name=tensor,
                count=count,
                stats=reads_values,
                asked=asked,
                check=check,
                values=values,
                progress=bar,
            )

    if len(paths) > 1:
        if tensor is not None or digest or show_globals or values is not None:
            raise typer.BadParameter(
                "--tensor, --values, --digest and --globals go with one", param_hint="CKPT"
            )
        show = partial(options.show, json=json, quiet=quiet, format=format, color=color, one_of_many=True)
        return max([_show_one(path, lambda path: look(path)[1], asked, show, json=json) for path in paths])
    opened, found = look(paths[0])
    result: object = found
    if digest:
        with Bar(quiet=quiet) as bar:
            result = take_digest(opened, bar)
    if json or not quiet:  # a status costs no view
        from ckpttool.render.views import InspectListing, height_of

        height = height_of(sys.stdout) if rows is None else None
        listing = InspectListing(flat, root is not None, sort, stats, show_globals, most, parts, height)
        options.show(result, listing, json=json, quiet=quiet, format=format, color=color)
    return int(found.fails_on(asked))


def _show_one(
    path: str,
    look: Callable[[str], Found],
    asked: Sequence[str],
    show: Callable[[object], None],
    *,
    json: bool,
) -> int:
    """Show the verdict of one file of several, also of one that cannot be read; return its status."""
    from ckpttool.api.inspect import verdict

    try:
        found = look(path)
    except BrokenPipeError:
        raise
    except (CkptToolError, OSError) as error:
        said = options.report(error, json=json)
        if not json:
            show(verdict(path, None, unreadable=said))
        return 2
    shown = verdict(path, found, asked)
    show(shown)
    return int(shown.failed)


def _parse_rows(text: str | None) -> int | None:
    return None if text in (None, _ALL) else options.parse_count(text, "--rows")


def _parse_depth(text: str | None) -> int | None:
    depth = None if text is None else options.parse_count(text, "--depth")
    if depth == 0:
        raise typer.BadParameter("a block has at least one part of a name", param_hint="--depth")
    return depth


def _open(
    path: str,
    model: str | None,
    arguments: Sequence[str],
    root: str | None,
    include: Sequence[str],
    exclude: Sequence[str],
    source: Sequence[str],
    reads_file: bool,
) -> Opened:
    from ckpttool.api.models import names_model
    from ckpttool.api.opened import open_file, open_module
    from ckpttool.values.words import command_line

    if not names_model(path):
        if arguments and model is None:
            raise typer.BadParameter("it goes with --model", param_hint="--model-arg")
        return open_file(
            path,
            root=root,
            model=model,
            model_args=arguments,
            include=include,
            exclude=exclude,
            source=source,
        )
    if model is not None or root is not None or source or reads_file:
        raise CkptToolError(
            "a model is not a file: --model, --source, --root, --stats, --check, --globals and "
            "--fail-on nan,inf,zero do not go with it",
            path=path,
            hint=command_line("inspect", path),
        )
    return open_module(path, arguments, include=include, exclude=exclude)
