"""``ckpttool convert``: another container, other names, another dtype; the same bytes wherever possible."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ckpttool.commands.convert_values import (
    SHARED_WAYS,
    parse_dtype,
    parse_metadata,
    parse_size,
    parse_target,
)
from ckpttool.commands.options import Json, KindsModel, ModelArgs, Quiet, parse_choice
from ckpttool.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.analysis.conversion import (
        Cast,
        CastLoss,
        ContainerName,
        Conversion,
        ConversionPlan,
        Options,
    )
    from ckpttool.analysis.inspection import Inspection
    from ckpttool.analysis.model_spec import ModelSpec
    from ckpttool.checkpoint import Checkpoint
    from ckpttool.converting import Caster, Target
    from ckpttool.dtypes import DType
    from ckpttool.writers.layout import FileLayout

EXAMPLES = (
    "ckpttool convert last.ckpt model.safetensors",
    "ckpttool convert model.safetensors model.pt --strip-prefix auto --dtype bf16",
    "ckpttool convert model.pt shards/ --max-shard-size 5GB",
)

_UNLIMITED = 1 << 62


def command(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A checkpoint of any kind that inspect reads.")
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DST", help="A file, or a folder (name/) for shards and an index.")
    ],
    to: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="safetensors or pt; else DST's suffix says.")
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option("--max-shard-size", metavar="SIZE", help="Shards of at most 5GB, 500MiB …")
    ] = None,
    root: Annotated[
        str | None, typer.Option("--root", metavar="KEY.PATH", help="The branch to convert; '' is all of it.")
    ] = None,
    prefer: Annotated[
        str | None, typer.Option("--prefer", metavar="ema", help="The averaged weights, if there are any.")
    ] = None,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="The weights' tensors only: no epoch, no optimizer.")
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", "--include", metavar="GLOB", help="Only such tensors. May be repeated."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", "--exclude", metavar="GLOB", help="Nothing so called. May be repeated."),
    ] = None,
    drop_known_buffers: Annotated[
        bool,
        typer.Option("--drop-known-buffers", help="No buffers that today's libraries rebuild themselves."),
    ] = False,
    model: KindsModel = None,
    model_arg: ModelArgs = None,
    add_known_buffers: Annotated[
        bool,
        typer.Option("--add-known-buffers", help="Also the buffers that only --model has, for older code."),
    ] = False,
    non_persistent: Annotated[
        bool,
        typer.Option("--non-persistent", help="Of a pickled module also what its state_dict leaves out."),
    ] = False,
    shared: Annotated[
        str,
        typer.Option(
            "--shared", metavar="HOW", help="Tied tensors: alias (kept once and listed), duplicate or fail."
        ),
    ] = "alias",
    as_bytes: Annotated[
        bool, typer.Option("--as-bytes", help="Keep as raw bytes what the format has no dtype for.")
    ] = False,
    strip_prefix: Annotated[
        str | None,
        typer.Option(
            "--strip-prefix", metavar="PREFIX", help="Off the names; auto: what wrappers put there."
        ),
    ] = None,
    add_prefix: Annotated[
        str | None, typer.Option("--add-prefix", metavar="PREFIX", help="Before every name.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="REGEX=>REPL", help="As re.sub does. May be repeated, in order."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="DTYPE", help="Cast parameters: bf16, fp16, fp32, fp8_e4m3 …"),
    ] = None,
    keep_dtype: Annotated[
        list[str] | None, typer.Option("--keep-dtype", metavar="GLOB", help="Never cast these.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="Into a safetensors header. May be repeated."),
    ] = None,
    manifest: Annotated[
        str | None, typer.Option("--manifest", metavar="FILE", help="Write digests of every tensor as JSON.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if anything would be left behind.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace DST if it is there.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not read back what was written.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write a checkpoint in another container, with the same bytes wherever that is possible.

    DST is written beside its final name, read back and compared, and only then renamed: an
    interrupted run leaves the old DST, or none. Tensors are copied as bytes; nothing is cast that
    --dtype does not name, and whatever the destination cannot hold is listed.
    """
    from ckpttool.analysis.plan import plan_conversion

    shard_nbytes = None if max_shard_size is None else parse_size(max_shard_size)
    container, is_folder = parse_target(destination, to, sharded=shard_nbytes is not None)
    checkpoint, options = _read(source, root, container)
    if prefer not in (None, "ema"):
        raise typer.BadParameter("only ema is known", param_hint="--prefer")
    if (model_arg or add_known_buffers) and model is None:
        raise typer.BadParameter("--model-arg and --add-known-buffers go with --model", param_hint="--model")
    if add_known_buffers and drop_known_buffers:
        raise typer.BadParameter("it contradicts --drop-known-buffers", param_hint="--add-known-buffers")
    options = options._replace(
        keep=tuple(keep or ()),
        drop=tuple(drop or ()),
        weights_only=weights_only,
        prefer_ema=prefer is not None,
        shared=parse_choice(shared, SHARED_WAYS, "--shared"),
        as_bytes=as_bytes,
        strip_prefix=strip_prefix,
        add_prefix=add_prefix or "",
        renames=tuple(rename or ()),
        drop_known_buffers=drop_known_buffers,
        non_persistent=non_persistent or add_known_buffers,
        dtype=None if dtype is None else parse_dtype(dtype),
        keep_dtype=tuple(keep_dtype or ()),
        metadata=tuple(map(parse_metadata, metadata or ())),
        sharded=is_folder and shard_nbytes is not None,
    )
    with ExitStack() as stack:
        if model is None:
            inspection = _inspect(checkpoint, None)
        else:
            from tempfile import TemporaryDirectory

            scratch = stack.enter_context(TemporaryDirectory()) if add_known_buffers else None
            inspection = _inspect_with_model(checkpoint, source, model, model_arg or (), scratch)
        plan = plan_conversion(inspection, options)
        _refuse_loss(plan, strict=strict)
        layouts, target = _lay_out(
            plan, destination, is_folder=is_folder, shard_nbytes=shard_nbytes, force=force
        )
        if manifest is not None:
            _refuse_manifest(plan, manifest, layouts, target)
        conversion = (
            _plan_only(plan, layouts, target)
            if dry_run
            else _run(plan, layouts, target, check=not no_check, digests=manifest is not None, quiet=quiet)
        )
    if manifest is not None and conversion.written:
        _write_manifest(conversion, manifest)
    if json:
        _write_json(conversion)
    elif not quiet:
        _write_text(conversion)
    return 0


def _read(path: str, root: str | None, container: ContainerName) -> tuple[Checkpoint, Options]:
    """The checkpoint with what its metadata carries put back, and options with the branch that is meant."""
    from ckpttool.analysis.carried import expand
    from ckpttool.analysis.conversion import Options
    from ckpttool.analysis.roots import resolve_root
    from ckpttool.formats import read_checkpoint

    checkpoint = expand(read_checkpoint(path))
    return checkpoint, Options(container, None if root is None else resolve_root(checkpoint, root))


def _inspect(checkpoint: Checkpoint, spec: ModelSpec | None) -> Inspection:
    from ckpttool.analysis.inspect import inspect_checkpoint

    return inspect_checkpoint(checkpoint, model=spec)


def _inspect_with_model(
    checkpoint: Checkpoint, path: str, model: str, arguments: Sequence[str], scratch: str | None
) -> Inspection:
    """Kinds as the model has them; with a ``scratch`` folder also the buffers that only the model has."""
    from ckpttool.commands.model_source import find_model, read_model

    spec = read_model(model, arguments, checkpoint_path=path)
    inspection = _inspect(checkpoint, spec)
    if scratch is None:
        return inspection
    from ckpttool.checkpoint import Kind
    from ckpttool.formats import read_checkpoint
    from ckpttool.torch_bridge.known_buffers import save_buffers

    missing = [row for row in inspection.missing if row.classification.kind is Kind.NON_PERSISTENT_BUFFER]
    known = {str(row.entry.name): row.entry for row in missing}
    made = os.path.join(scratch, "buffers.pt")
    save_buffers(find_model(model, arguments, checkpoint_path=path), known, made)
    added = read_checkpoint(made)
    entries = [known[str(entry.name)]._replace(value=entry.value) for entry in added.entries]
    both = checkpoint._replace(
        entries=(*checkpoint.entries, *entries), files=(*checkpoint.files, *added.files)
    )
    return _inspect(both, spec)


def _refuse_loss(plan: ConversionPlan, *, strict: bool) -> None:
    if strict and plan.lost:
        from ckpttool.render.units import format_path, plural

        first = plan.lost[0]
        raise CkptToolError(
            f"--strict: {plural(len(plan.lost), 'entry')} would be left behind, "
            f"first {format_path(first.root, first.name)} ({first.reason})",
            path=plan.source.path,
            hint="--dry-run lists them; --drop GLOB says that one may go",
        )


def _lay_out(
    plan: ConversionPlan, destination: str, *, is_folder: bool, shard_nbytes: int | None, force: bool
) -> tuple[list[FileLayout], Target]:
    from ckpttool.converting import Target
    from ckpttool.writers.sharded import lay_out_file, lay_out_folder

    if is_folder:
        layouts = lay_out_folder(plan, shard_nbytes or _UNLIMITED)
    else:
        layouts = lay_out_file(plan, os.path.basename(destination))
    return layouts, Target(destination.rstrip("/") or "/" if is_folder else destination, is_folder, force)


def _plan_only(plan: ConversionPlan, layouts: list[FileLayout], target: Target) -> Conversion:
    from ckpttool.analysis.conversion import Conversion, FileWritten
    from ckpttool.converting import check_target

    plan = check_target(plan, layouts, target)
    files = tuple(FileWritten(target.path_of(layout), layout.nbytes) for layout in layouts)
    return Conversion(plan, target.path, files, written=False)


def _run(
    plan: ConversionPlan,
    layouts: list[FileLayout],
    target: Target,
    *,
    check: bool,
    digests: bool,
    quiet: bool,
) -> Conversion:
    from ckpttool.converting import Effort, convert
    from ckpttool.render.progress import Progress

    cast = _load_caster(plan.casts)
    total = plan.nbytes * (1 + check)
    with _signals_as_interrupts(), Progress("convert", total, quiet=quiet) as progress:
        return convert(plan, layouts, target, Effort(check, digests, progress.add, cast))


def _load_caster(casts: Sequence[Cast]) -> Caster | None:
    """Casts by numpy where it can, else by torch, which takes a second to import."""
    if not casts:
        return None
    from ckpttool.float_casts import CASTABLE, cast_floats

    if all({cast.before.name, cast.after.name} <= CASTABLE for cast in casts):
        return cast_floats
    from ckpttool.torch_bridge.cast import cast_elements

    def cast_either(data: memoryview, before: DType, after: DType) -> tuple[memoryview, CastLoss]:
        one = cast_floats if {before.name, after.name} <= CASTABLE else cast_elements
        return one(data, before, after)

    return cast_either


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
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


def _refuse_manifest(
    plan: ConversionPlan, manifest: str, layouts: Sequence[FileLayout], target: Target
) -> None:
    """The manifest may overwrite neither a source nor what is about to be written."""
    from ckpttool.staging import refuse_overwriting

    refuse_overwriting(manifest, force=target.force, sources=plan.source.files)
    if os.path.abspath(manifest) in {os.path.abspath(target.path_of(layout)) for layout in layouts}:
        raise CkptToolError("--manifest is DST itself", path=manifest)


def _write_manifest(conversion: Conversion, path: str) -> None:
    from ckpttool.converting import write_at
    from ckpttool.digests import manifest_document
    from ckpttool.render.convert import named_digests
    from ckpttool.render.json import dump
    from ckpttool.staging import staged_file

    data = "".join(dump(manifest_document(named_digests(conversion)))).encode()
    with _signals_as_interrupts(), staged_file(path, len(data)) as fd:
        write_at(fd, data, 0)


def _write_json(conversion: Conversion) -> None:
    from ckpttool.render.convert import convert_document
    from ckpttool.render.json import dump

    sys.stdout.writelines(dump(convert_document(conversion)))


def _write_text(conversion: Conversion) -> None:
    from ckpttool.render.console import Screen
    from ckpttool.render.convert import iter_conversion, iter_conversion_pipe

    screen = Screen(sys.stdout)
    if screen.is_terminal:
        screen.write_lines(iter_conversion(conversion))
    else:
        sys.stdout.writelines(iter_conversion_pipe(conversion))
