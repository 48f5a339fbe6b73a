"""``ckpttool lint``: traps of Parameter and Buffer in a model, without a file."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from ckpttool.commands import options

EXAMPLES = (
    "ckpttool lint swin.py:build --example-input 1,3,16,16",
    "ckpttool lint forgotten.py:build --prove   # status 1",
    "ckpttool lint --source forgotten.py   # status 1",
)

_model = options.panel("Model")
_proof = options.panel("Proof")

_SHAPE = re.compile(r"\(\)|[0-9]{1,9}(?:[,x×][0-9]{1,9})*")


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="package.module:factory or path/to/file.py:factory; its code runs."
        ),
    ] = None,
    source: Annotated[
        options.Texts,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="Instead of a model, parse all classes of PACKAGE, FOLDER or FILE.py, perhaps with :Class; "
            "none of it runs. May be repeated.",
        ),
    ] = None,
    model_arg: Annotated[options.Texts, options.model_arg_option("Model")] = None,
    example_input: Annotated[
        options.Texts,
        _model(
            "--example-input",
            metavar="SHAPE[:DTYPE]",
            help="Run forward on an input such as 2,3,224,224 or 2,16:int64. Repeat for more arguments.",
        ),
    ] = None,
    prove: Annotated[
        bool, _proof("--prove", help="Show what happens to each tensor: trained, moved, saved, restored.")
    ] = False,
    json: options.Json = False,
    format: options.Format = None,
    color: options.Color = "auto",
    quiet: options.Quiet = False,
) -> int:
    """Find the traps of nn.Parameter and register_buffer in a model; no checkpoint is needed.

    Builds the model several times, casts, moves, saves and loads the builds, and compares. With
    --source, reads what the classes of a package do, and names each line. The status is 0 without warnings
    and errors, 1 with some. docs/lint.md has each code with an example.
    """
    from ckpttool.api.lint import lint
    from ckpttool.render.progress import Bar

    if (model is None) is not bool(source):
        raise typer.BadParameter("name a model, or --source and no model", param_hint="MODEL")
    if source and (model_arg or example_input or prove):
        raise typer.BadParameter(
            "--model-arg, --example-input and --prove go with a model", param_hint="--source"
        )
    inputs = [_parse_spec(text) for text in example_input or ()]
    with Bar(quiet=quiet) as bar:
        report = lint(
            model,
            source=source or (),
            model_args=model_arg or (),
            example_inputs=inputs,
            prove=prove,
            progress=bar,
        )
    options.show(report, prove, json=json, quiet=quiet, format=format, color=color)
    return int(not report.ok)


def _parse_spec(text: str) -> tuple[tuple[int, ...], str]:
    """``2,16:int64`` -> ``((2, 16), "int64")``."""
    from ckpttool.api.arguments import parse_input_dtype

    shape, _, name = text.partition(":")
    if not _SHAPE.fullmatch(shape):
        raise typer.BadParameter(f"{text} is not SHAPE[:DTYPE], as 2,16:int64", param_hint="--example-input")
    sizes = () if shape == "()" else tuple(map(int, re.split("[,x×]", shape)))
    return sizes, options.parse("--example-input", parse_input_dtype, name or "float32")
