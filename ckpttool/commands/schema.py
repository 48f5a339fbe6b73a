"""``ckpttool schema``: the JSON Schema of a document."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ckpttool.api.schemas import NAMES
from ckpttool.commands import options

EXAMPLES = (
    "ckpttool schema",
    "ckpttool schema inspect",
)


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help=f"One of {', '.join(NAMES)}.",
            autocompletion=options.complete_choice(*NAMES),
        ),
    ] = None,
) -> int:
    """Print the JSON Schema (2020-12) of a document that --json writes; without NAME, list them.

    A document of another version, or one that lacks a field, has one of another type or an unknown one, does
    not match it. docs/json.md says in words what the fields mean.
    """
    from ckpttool.api.schemas import schema_text, schema_title

    if name is None:
        sys.stdout.writelines(f"{known}\t{schema_title(known)}\n" for known in NAMES)
    else:
        sys.stdout.write(schema_text(options.parse_choice(name, NAMES, "NAME")))
    return 0
