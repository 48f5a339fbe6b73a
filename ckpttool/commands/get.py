"""``ckpttool get``: one value or one tensor of a checkpoint."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ckpttool.commands import options
from ckpttool.values.containers import FORMS, TEXT_FORMS
from ckpttool.values.errors import CkptToolError

EXAMPLES = (
    "ckpttool get decoder_training.pt epoch",
    "ckpttool get decoder_training.pt layers.0.up_proj.weight --slice 0:2,:4",
    "ckpttool get base.pt lm_head.weight -o lm_head.npy",
    "ckpttool get base.pt norm.weight --as json | head -c 40",
)


def command(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint of any kind that inspect reads.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="The name of a tensor, or the path of a value: hyper_parameters.lr."
        ),
    ],
    index: Annotated[
        str | None,
        typer.Option("--slice", metavar="INDEX", help="Take a part of the tensor, as in Python: 0:4,1:3"),
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--output", metavar="OUT", help="Write a file, and print nothing.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="FORMAT",
            help="Write text, json, npy, pt or safetensors; by default OUT's suffix decides.",
            autocompletion=options.complete_choice(*FORMS),
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> int:
    """Print one value or one tensor of a checkpoint, or write it as a file.

    A value is printed raw, so that a shell can take it: a string as it is, all else as JSON. Of a tensor
    only the bytes of the slice are read. On a terminal a large one is summarised; in a pipe each row is a
    line, with tabs between its numbers. Other formats keep the bits.
    """
    from ckpttool.api import get
    from ckpttool.api.opened import open_file

    chosen = options.parse("--as" if form else "--output", get.parse_form, form, out)
    to_terminal = out is None and sys.stdout.isatty()
    if to_terminal and chosen not in TEXT_FORMS:
        hint = f"-o FILE{FORMS[chosen][0]} writes a file; a pipe takes it as well"
        raise CkptToolError(f"{chosen} is binary, and stdout is a terminal", hint=hint)
    opened = open_file(path)
    picked = get.pick(opened, name, index)
    if out is not None:
        from ckpttool.commands.convert import signals_as_interrupts
        from ckpttool.render.progress import Bar

        with signals_as_interrupts(), Bar(quiet=False) as bar:
            get.write(opened, picked, out, chosen, force=force, progress=bar)
        return 0
    get.check_form(picked, chosen)
    if chosen in TEXT_FORMS:
        options.show(picked, chosen, json=False, quiet=False)
    else:
        sys.stdout.flush()
        get.send(opened, picked, chosen, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return 0
