"""Options that several commands share, what they mean, and the values of those that Typer leaves as text."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ParamSpec, TypeAlias, TypeVar

import typer

from ckpttool.values.errors import CkptToolError, describe, path_of

FORMATS = ("table", "tsv", "json", "md")
COLORS = ("auto", "always", "never")
_MOST_DIGITS = 9

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only; read the exit status.")]
NoPager = Annotated[
    bool,
    typer.Option(
        "--no-pager",
        help="Print long output as it is, in no pager.",
        callback=lambda wanted: _no_pager(wanted),
    ),
]
Texts: TypeAlias = list[str] | None


def _no_pager(wanted: bool) -> bool:
    """Let nothing that this run prints go through a pager, if that is ``wanted``."""
    if wanted:
        os.environ["CKPTTOOL_PAGER"] = ""
    return wanted


def show(
    result: object,
    options: object = None,
    *,
    json: bool,
    quiet: bool,
    format: str | None = None,
    color: str = "auto",
    one_of_many: bool = False,
) -> None:
    """Write a result as the options of the output say; ``options`` are its view's."""
    if json or not quiet:
        from ckpttool.render import views

        views.show(
            result,
            options,
            sys.stdout,
            sys.stderr,
            json=json,
            format=format,
            color=color,
            one_of_many=one_of_many,
        )


def report(error: CkptToolError | OSError, *, json: bool) -> str:
    """Say on stderr what is wrong with one file of several, and with ``json`` also as a line of its own."""
    from ckpttool.values.words import safe

    said, hint = describe(error), getattr(error, "hint", None)
    sys.stderr.write(f"error: {said}\n" + (f"hint:  {safe(hint, 1000)}\n" if hint else ""))
    sys.stderr.flush()
    if json:
        from ckpttool.render.views import write_error

        write_error(sys.stdout, said, hint=hint and safe(hint, 1000), path=path_of(error), one_of_many=True)
    return said


def check_output(given: dict[str, Any]) -> None:
    """Refuse a ``--format`` or ``--color`` that is none; ``--format json`` is ``--json``."""
    if given["format"] is not None:
        format = parse_choice(given["format"], FORMATS, "--format")
        if given["json"] and format != "json":
            raise typer.BadParameter(f"{format} contradicts --json", param_hint="--format")
        given["json"] = format == "json"
    if given["color"] != "auto":
        parse_choice(given["color"], COLORS, "--color")


def panel(head: str) -> Callable[..., Any]:
    """``typer.Option`` for those that the help has under this head."""
    return partial(typer.Option, rich_help_panel=head)


def _shared(*spelled: str, metavar: str, help: str) -> Callable[[str], Any]:
    """An option of several commands; each says under which head its help has it."""
    return lambda head: typer.Option(*spelled, metavar=metavar, help=help, rich_help_panel=head)


include_option = _shared("--include", metavar="GLOB", help="Keep names that match GLOB. May be repeated.")
exclude_option = _shared(
    "--exclude", metavar="GLOB", help="Leave out names that match GLOB. May be repeated."
)
model_arg_option = _shared(
    "--model-arg", metavar="KEY=VALUE", help="Pass an argument to the factory. May be repeated."
)
source_option = _shared(
    "--source",
    metavar="SOURCE",
    help="Read kinds in source, running none of it: PACKAGE, FOLDER or FILE.py, perhaps with :Class. May be "
    "repeated.",
)
KindsModel = Annotated[
    str | None,
    panel("Kinds")(
        "--model",
        metavar="MODEL",
        help="Read exact kinds off a model: package.module:factory, FILE.py:factory, or hf. Runs its code.",
    ),
]

_Given = ParamSpec("_Given")
_Value = TypeVar("_Value")
_Choice = TypeVar("_Choice", bound=str)


def parse(
    option: str, function: Callable[_Given, _Value], *given: _Given.args, **named: _Given.kwargs
) -> _Value:
    """What ``function`` makes of the text of ``option``; its ``ValueError`` is an error of usage."""
    try:
        return function(*given, **named)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def complete_choice(*choices: str) -> Callable[[str], list[str]]:
    """What a shell completes such a value to."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Write a table, tsv, json, or md for a pull request. Default: a table on a terminal, else tsv.",
        autocompletion=complete_choice(*FORMATS),
    ),
]
Color = Annotated[
    str,
    typer.Option(
        "--color",
        metavar="WHEN",
        help="Colour the table: auto, always or never.",
        autocompletion=complete_choice(*COLORS),
    ),
]


def complete_list(*choices: str) -> Callable[[str], list[str]]:
    """What a shell completes to where several may be given, with commas between them."""

    def complete(incomplete: str) -> list[str]:
        *given, last = incomplete.split(",")
        left = [choice for choice in choices if choice.startswith(last) and choice not in given]
        return [",".join((*given, choice)) for choice in left]

    return complete


def parse_choice(text: str, choices: Sequence[_Choice], option: str) -> _Choice:
    """Return the one of ``choices`` that ``text`` is."""
    from ckpttool.api.arguments import choose

    return parse(option, choose, text, choices)


def parse_count(text: str, option: str) -> int:
    """Return a count that was typed: decimal digits and nothing else."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise typer.BadParameter(f"{text} is not a count", param_hint=option)
    return int(text)
