"""``ckpttool verify``: does a checkpoint load into its model, and is the loaded model right."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ckpttool.commands import options
from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.values.verification import Plan

_UNWRAPPED = 10_000  # columns, where nobody has any

EXAMPLES = (
    "ckpttool verify swin_ddp_compiled.pt --model swin.py:build",
    "ckpttool verify swin.pt --model swin.py:build --load copy --json",
    "ckpttool verify swin.pt --model swin.py:build --load to-empty   # status 1",
)

_model = options.panel("Model")
_loading = options.panel("Loading")
_reference = options.panel("Reference")


def _complete_loads(incomplete: str) -> list[str]:
    from ckpttool.values.verification import LOADS

    return options.complete_list(*LOADS)(incomplete)


def command(
    path: Annotated[str, typer.Argument(metavar="CKPT", help="A file, or a folder of shards.")],
    model: Annotated[
        str,
        _model(
            "--model",
            metavar="MODEL",
            help="package.module:factory, path/to/file.py:factory, or hf (config.json). Its code runs.",
        ),
    ],
    model_arg: Annotated[options.Texts, options.model_arg_option("Model")] = None,
    root: Annotated[
        str | None,
        _loading("--root", metavar="KEY.PATH", help="Load this state_dict, such as model.state_dict."),
    ] = None,
    device: Annotated[
        options.Texts,
        _loading(
            "--device",
            metavar="D,...",
            help="Load on cpu, cuda, cuda:1, mps or xpu. Default: cpu, and the accelerator if there is one.",
            autocompletion=options.complete_list("cpu", "cuda", "mps", "xpu"),
        ),
    ] = None,
    load: Annotated[
        options.Texts,
        _loading(
            "--load",
            metavar="WAY,...",
            help="Load by copy, assign, to-empty, round-trip; those named decide, by default copy.",
            autocompletion=_complete_loads,
        ),
    ] = None,
    allow_cast: Annotated[
        bool, _loading("--allow-cast", help="Accept values that a cast to the model's dtype changed.")
    ] = False,
    reference: Annotated[
        str | None,
        _reference(
            "--reference", metavar="FILE", help="Compare rebuilt buffers with the fingerprints in FILE."
        ),
    ] = None,
    write_reference: Annotated[
        str | None,
        _reference(
            "--write-reference", metavar="FILE", help="Write fingerprints of rebuilt buffers to FILE."
        ),
    ] = None,
    json: options.Json = False,
    format: options.Format = None,
    color: options.Color = "auto",
    quiet: options.Quiet = False,
) -> int:
    """Load a checkpoint into its model for real, and tell whether the loaded model is right.

    Also where the file is silent: non-persistent buffers are compared with those of a normal build,
    in each way of loading. Status 0: right; 1: wrong; 2: could not be told. docs/verify.md has more.
    """
    from ckpttool.api.opened import open_file
    from ckpttool.values.verification import LOADS

    loads = [options.parse_choice(way, LOADS, "--load") for way in _split(load, "--load")]
    if write_reference is not None and os.path.isdir(write_reference):
        raise CkptToolError("a folder, not a file to write", path=write_reference)
    opened = open_file(path, root=root)
    from ckpttool.commands.child_process import go_on_in_child

    go_on_in_child(opened.check_files)
    from ckpttool.api.verify import keep_reference, verify
    from ckpttool.render.progress import Steps

    with Steps(quiet=quiet) as steps:
        result = verify(
            opened,
            model,
            model_args=model_arg or (),
            devices=_split(device, "--device"),
            loads=loads,
            allow_cast=allow_cast,
            reference=reference,
            progress=steps,
            announce=_announce if not quiet else lambda plan: None,
        )
    if write_reference is not None:
        keep_reference(write_reference, result)
        if not quiet:
            from ckpttool.values.words import plural, safe

            said = f"fingerprints of {plural(len(result.fingerprints), 'rebuilt buffer')}"
            sys.stderr.write(f"wrote {safe(write_reference)}: {said}\n")
    options.show(result, root is None, json=json, quiet=quiet, format=format, color=color)
    return int(not result.ok)


def _split(texts: Sequence[str] | None, option: str) -> tuple[str, ...]:
    """``["cpu,cuda", "cuda:1"]`` -> ``("cpu", "cuda", "cuda:1")``."""
    parts = tuple(part.strip() for text in texts or () for part in text.split(","))
    if "" in parts:
        raise typer.BadParameter("an item is empty", param_hint=option)
    return tuple(dict.fromkeys(parts))


def _announce(plan: Plan) -> None:
    """Say what will be held and written, before it is."""
    from ckpttool.render.console import Screen
    from ckpttool.render.verify import iter_plan

    screen = Screen(sys.stderr)
    screen.write_lines(iter_plan(plan, screen.width if screen.is_terminal else _UNWRAPPED))
    sys.stderr.flush()
