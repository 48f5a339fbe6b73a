"""``ckpttool inspect``: what is in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ckpttool.api.arguments import FAIL_ON, FAIL_ON_VALUES
from ckpttool.commands import options
from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
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

_SORTS = ("file", "name", "size")


def command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="A file, a folder of shards, or a model: package.module:factory, FILE.py:factory.",
        ),
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
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

    With --model, kinds are the model's own, and entries that are missing or unexpected are listed. With
    --source, the classes of a package are read, and say what each entry is and which buffers are not stored.

    The column evidence says where a kind comes from. Registered so, and exact: module (--model), pickled
    module, torchscript, export. Inferred: copy (of a pickled module), pickled parameter, optimizer (its
    state), metadata (_metadata), FILE:LINE (--source), neighbour (the names beside it), dtype, order (of the
    keys), shape, name, contents (the numbers). A dash: unknown.
    """
    from ckpttool.api.inspect import digest as take_digest
    from ckpttool.api.inspect import inspect
    from ckpttool.render.progress import Bar

    sort = options.parse_choice(sort, _SORTS, "--sort")
    asked = [] if fail_on is None else fail_on.split(",")
    for what in asked:
        options.parse_choice(what, FAIL_ON, "--fail-on")
    count = options.parse_count(first, "--first")
    reads_values = stats or any(what in FAIL_ON_VALUES for what in asked)
    reads_file = reads_values or check or show_globals
    chosen = include or (), exclude or (), source or ()
    opened = _open(path, model, model_arg or (), root, *chosen, reads_file)
    with Bar(quiet=quiet) as bar:
        found = inspect(
            opened,
            name=tensor,
            count=count,
            stats=reads_values,
            asked=asked,
            check=check,
            values=values,
            progress=bar,
        )
        result = take_digest(opened, bar) if digest else found
    if json or not quiet:  # a status costs no view
        from ckpttool.render.views import InspectListing

        listing = InspectListing(flat, root is not None, sort, stats, show_globals)
        options.show(result, listing, json=json, quiet=quiet)
    return int(found.fails_on(asked))


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
