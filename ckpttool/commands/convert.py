"""``ckpttool convert``: another container, other names, another dtype; the same bytes wherever possible."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ckpttool.api.arguments import (
    DTYPES,
    SHARED_WAYS,
    check_metadata,
    parse_dtype,
    parse_size,
    parse_target,
)
from ckpttool.commands import options
from ckpttool.values.containers import CONTAINERS

EXAMPLES = (
    "ckpttool convert decoder_training.pt model.safetensors",
    "ckpttool convert swin_ddp_compiled.pt swin.safetensors --strip-prefix auto",
    "ckpttool convert base.pt lean.pt --dtype bf16 --keep-dtype '*norm*'",
    "ckpttool convert base.pt shards/ --max-shard-size 40KiB",
)

_destination = options.panel("Destination")
_selection = options.panel("Selection")
_names = options.panel("Names")
_tensors = options.panel("Tensors")


def command(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A checkpoint of any kind that inspect reads.")
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="A file, or a folder (name/) for shards and an index.")
    ],
    to: Annotated[
        str | None,
        _destination(
            "--to",
            metavar="FORMAT",
            help="Write safetensors or pt; by default DST's suffix decides.",
            autocompletion=options.complete_choice(*CONTAINERS),
        ),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        _destination("--max-shard-size", metavar="SIZE", help="Write shards of at most 5GB, 500MiB, …"),
    ] = None,
    root: Annotated[
        str | None,
        _selection("--root", metavar="KEY.PATH", help="Convert this branch; '' converts everything."),
    ] = None,
    prefer: Annotated[
        str | None,
        _selection(
            "--prefer",
            metavar="ema",
            help="Take the averaged weights, if there are any.",
            autocompletion=options.complete_choice("ema"),
        ),
    ] = None,
    weights_only: Annotated[
        bool, _selection("--weights-only", help="Write the weights alone: no epoch, no optimizer.")
    ] = False,
    keep: Annotated[
        options.Texts,
        _selection(
            "--keep", "--include", metavar="GLOB", help="Keep tensors that match GLOB. May be repeated."
        ),
    ] = None,
    drop: Annotated[
        options.Texts,
        _selection("--drop", "--exclude", metavar="GLOB", help="Drop what matches GLOB. May be repeated."),
    ] = None,
    drop_known_buffers: Annotated[
        bool, _selection("--drop-known-buffers", help="Drop buffers that today's libraries rebuild.")
    ] = False,
    add_known_buffers: Annotated[
        bool,
        _selection("--add-known-buffers", help="Add buffers that only --model has, for older code."),
    ] = False,
    non_persistent: Annotated[
        bool,
        _selection(
            "--non-persistent", help="Also write what the state_dict of a module or program leaves out."
        ),
    ] = False,
    strip_prefix: Annotated[
        str | None,
        _names(
            "--strip-prefix",
            metavar="PREFIX",
            help="Remove PREFIX from names; auto removes module., _orig_mod., …",
        ),
    ] = None,
    add_prefix: Annotated[
        str | None, _names("--add-prefix", metavar="PREFIX", help="Put PREFIX before every name.")
    ] = None,
    rename: Annotated[
        options.Texts,
        _names("--rename", metavar="REGEX=>REPL", help="Rename as re.sub does. May be repeated, in order."),
    ] = None,
    shared: Annotated[
        str,
        _tensors(
            "--shared",
            metavar="HOW",
            help="Keep tied tensors once (alias), write each (duplicate), or fail.",
            autocompletion=options.complete_choice(*SHARED_WAYS),
        ),
    ] = "alias",
    as_bytes: Annotated[
        bool, _tensors("--as-bytes", help="Keep dtypes that the format lacks as raw bytes.")
    ] = False,
    dtype: Annotated[
        str | None,
        _tensors(
            "--dtype",
            metavar="DTYPE",
            help="Cast parameters to bf16, fp16, fp32, fp8_e4m3, …",
            autocompletion=options.complete_choice(*DTYPES),
        ),
    ] = None,
    keep_dtype: Annotated[
        options.Texts, _tensors("--keep-dtype", metavar="GLOB", help="Never cast tensors that match GLOB.")
    ] = None,
    metadata: Annotated[
        options.Texts,
        _destination("--metadata", metavar="KEY=VALUE", help="Add to a safetensors header. May be repeated."),
    ] = None,
    manifest: Annotated[
        str | None, _destination("--manifest", metavar="FILE", help="Write digests of every tensor as JSON.")
    ] = None,
    strict: Annotated[bool, _selection("--strict", help="Fail if anything would be left behind.")] = False,
    dry_run: Annotated[bool, _destination("--dry-run", help="Show the plan; write nothing.")] = False,
    force: Annotated[bool, _destination("--force", help="Replace DST if it exists.")] = False,
    no_check: Annotated[bool, _destination("--no-check", help="Do not read back what was written.")] = False,
    model: options.KindsModel = None,
    model_arg: Annotated[options.Texts, options.model_arg_option("Kinds")] = None,
    json: options.Json = False,
    format: options.Format = None,
    color: options.Color = "auto",
    quiet: options.Quiet = False,
) -> int:
    """Convert a checkpoint to another format: bytes are copied, whatever is dropped is listed.

    DST is written beside its final name, read back and compared, and only then renamed: an
    interrupted run leaves the old DST, or none. Tensors are copied as bytes; nothing is cast that
    --dtype does not name, and whatever the destination cannot hold is listed.
    """
    from ckpttool.api.convert import convert
    from ckpttool.api.opened import open_file
    from ckpttool.render.progress import Bar

    nbytes = None if max_shard_size is None else options.parse("--max-shard-size", parse_size, max_shard_size)
    where = "DST" if to is None else "--to"
    container, _ = options.parse(where, parse_target, destination, to, sharded=nbytes is not None)
    if prefer not in (None, "ema"):
        raise typer.BadParameter("only ema is known", param_hint="--prefer")
    if (model_arg or add_known_buffers) and model is None:
        raise typer.BadParameter("--model-arg and --add-known-buffers go with --model", param_hint="--model")
    if add_known_buffers and drop_known_buffers:
        raise typer.BadParameter("it contradicts --drop-known-buffers", param_hint="--add-known-buffers")
    way = options.parse_choice(shared, SHARED_WAYS, "--shared")
    if dtype is not None:
        options.parse("--dtype", parse_dtype, dtype)
    pairs = dict(map(_parse_metadata, metadata or ()))
    opened = open_file(source, root=root, model=model, model_args=model_arg or ())
    with signals_as_interrupts(), Bar(quiet=quiet) as bar:
        conversion = convert(
            opened,
            destination,
            to=container,
            max_shard_size=nbytes,
            prefer_ema=prefer is not None,
            weights_only=weights_only,
            keep=keep or (),
            drop=drop or (),
            drop_known_buffers=drop_known_buffers,
            add_known_buffers=add_known_buffers,
            non_persistent=non_persistent,
            shared=way,
            as_bytes=as_bytes,
            strip_prefix=strip_prefix,
            add_prefix=add_prefix or "",
            rename=rename or (),
            dtype=dtype,
            keep_dtype=keep_dtype or (),
            metadata=pairs,
            manifest=manifest,
            strict=strict,
            dry_run=dry_run,
            force=force,
            check=not no_check,
            progress=bar,
        )
    options.show(conversion, json=json, quiet=quiet, format=format, color=color)
    return 0


def _parse_metadata(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` -> (key, value)."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text} is not KEY=VALUE", param_hint="--metadata")
    return options.parse("--metadata", check_metadata, key, value)


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does, so that nothing half-written stays behind."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
