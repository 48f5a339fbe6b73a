"""Another container, other names, another dtype: the same bytes wherever that is possible."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from ckpttool.api.arguments import (
    SHARED_WAYS,
    check_metadata,
    choose,
    parse_dtype,
    parse_size,
    parse_target,
)
from ckpttool.api.models import find_model
from ckpttool.api.opened import Opened, Path, Source, opened
from ckpttool.values.errors import CkptToolError, bare_names
from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

    from ckpttool.api.results.conversion import Conversion
    from ckpttool.conversion.execute import Caster, Target
    from ckpttool.conversion.layout import FileLayout
    from ckpttool.values import conversion as values
    from ckpttool.values.dtypes import DType
    from ckpttool.values.inspection import Inspection

_UNLIMITED = 1 << 62


@bare_names()
def convert(
    source: Source,
    destination: Path,
    *,
    to: str | None = None,
    max_shard_size: int | str | None = None,
    prefer_ema: bool = False,
    weights_only: bool = False,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    drop_known_buffers: bool = False,
    add_known_buffers: bool = False,
    non_persistent: bool = False,
    shared: Literal["alias", "duplicate", "fail"] = "alias",
    as_bytes: bool = False,
    strip_prefix: str | None = None,
    add_prefix: str = "",
    rename: Sequence[str] = (),
    dtype: str | torch.dtype | None = None,
    keep_dtype: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    manifest: Path | None = None,
    strict: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
    progress: Progress = SILENT,
) -> Conversion:
    """Write a checkpoint in another container, with the same bytes wherever that is possible.

    The destination appears under its name when it is complete and was read back. The source is not written
    to. Kinds are the model's where ``source`` was opened with one.

    Args:
        source: what to convert; its branch, if it was opened with a ``root``.
        destination: a file whose suffix says the format, or a folder (it exists, or ends with ``/``).
        to: the format, whatever the suffix: ``"safetensors"`` or ``"pt"``.
        max_shard_size: bytes of a shard, as an int or as ``"5GB"``; the destination is a folder then.
        prefer_ema: the averaged weights, if there are any.
        weights_only: the weights' tensors only: no epoch, no optimizer.
        keep: globs; only such tensors.
        drop: globs; nothing so called.
        drop_known_buffers: no buffers that today's libraries rebuild themselves.
        add_known_buffers: also the buffers that only the model of ``source`` has.
        non_persistent: of a pickled module or an exported program also what its state_dict leaves out.
        shared: what becomes of tied tensors: kept once and listed, written apart, or refused.
        as_bytes: keep as raw bytes what the format has no dtype for.
        strip_prefix: off the names; ``"auto"`` is what wrappers put there.
        add_prefix: before every name.
        rename: ``REGEX=>REPL``, as ``re.sub`` has it, in order.
        dtype: cast parameters to it: ``"bf16"``, ``"float16"``, ``torch.bfloat16`` …
        keep_dtype: globs of what is never cast.
        metadata: further keys of a safetensors header.
        manifest: where to write digests of every tensor as JSON.
        strict: refuse to leave anything behind that ``drop`` does not name.
        dry_run: plan and write nothing.
        force: replace the destination if it is there.
        check: read back what was written, and compare.
        progress: told how many bytes are written, and read back.

    Raises:
        CkptToolError: it cannot be read or written (``DestinationExists``, ``NotEnoughSpace`` …).
        ValueError: an argument means nothing: a suffix, a size, a dtype.
        OSError: as the file system says.

    >>> conversion = ckpttool.convert("linear.pt", "linear_bf16.safetensors", dtype="bf16", force=True)
    >>> [(cast.name, cast.before.name, cast.after.name) for cast in conversion.cast]
    [('weight', 'float32', 'bfloat16'), ('bias', 'float32', 'bfloat16')]
    """
    from ckpttool.api.results.conversion import Conversion
    from ckpttool.conversion import execute
    from ckpttool.conversion.plan import plan_conversion
    from ckpttool.conversion.shards import lay_out_file, lay_out_folder
    from ckpttool.values.conversion import Options

    if add_known_buffers and drop_known_buffers:
        raise ValueError("add_known_buffers contradicts drop_known_buffers")
    limit = parse_size(str(max_shard_size)) if max_shard_size is not None else None
    container, is_folder = parse_target(os.fspath(destination), to, sharded=limit is not None)
    options = Options(
        container,
        keep=tuple(keep),
        drop=tuple(drop),
        weights_only=weights_only,
        prefer_ema=prefer_ema,
        shared=choose(shared, SHARED_WAYS),
        as_bytes=as_bytes,
        strip_prefix=strip_prefix,
        add_prefix=add_prefix,
        renames=tuple(rename),
        drop_known_buffers=drop_known_buffers,
        non_persistent=non_persistent or add_known_buffers,
        dtype=None if dtype is None else parse_dtype(str(dtype)),
        keep_dtype=tuple(keep_dtype),
        metadata=tuple(check_metadata(*item) for item in (metadata or {}).items()),
        sharded=limit is not None,
    )
    found = opened(source)
    read = found.file()
    if add_known_buffers and found.spec is None:
        raise ValueError("add_known_buffers needs a source that was opened with a model")
    if found.root is not None:
        options = options._replace(root=found.root)
    with ExitStack() as stack:
        inspection = _inspect(found, stack if add_known_buffers else None)
        try:
            plan = plan_conversion(inspection, options)
            if strict:
                _refuse_loss(plan)
            path = os.fspath(destination)
            if is_folder:
                layouts = lay_out_folder(plan, limit or _UNLIMITED)
                path = path.rstrip("/") or "/"
            else:
                layouts = lay_out_file(plan, os.path.basename(path))
        except CkptToolError as error:
            error.path = error.path or read.path  # a plan knows names, not files
            raise
        target = execute.Target(path, is_folder, force)
        beside = None if manifest is None else os.fspath(manifest)
        if beside is not None:
            _refuse_manifest(plan, beside, layouts, target)
        if dry_run:
            return Conversion._make(execute.plan_only(plan, layouts, target))
        # Each byte is written once, and read back if that is asked for.
        progress.begin("convert", plan.nbytes * (1 + check))
        effort = execute.Effort(
            check, beside is not None, progress.advance, _load_caster(plan.casts), found.sources
        )
        conversion = execute.convert(plan, layouts, target, effort)
        progress.finish()
        if beside is not None:
            _write_manifest(conversion, beside)
    return Conversion._make(conversion)


def _inspect(found: Opened, stack: ExitStack | None) -> Inspection:
    """Kinds of all that was read; with the buffers that only its model has, in a file while ``stack`` is."""
    from ckpttool.inspection.inspect import inspect_checkpoint

    read = found.read
    inspection = inspect_checkpoint(read, model=found.spec)
    if stack is None or found.model is None:
        return inspection
    from tempfile import TemporaryDirectory

    from ckpttool.formats import read_checkpoint
    from ckpttool.torch_bridge.reference import save_buffers
    from ckpttool.values.checkpoint import Kind

    missing = [row for row in inspection.missing if row.classification.kind is Kind.NON_PERSISTENT_BUFFER]
    known = {str(row.entry.name): row.entry for row in missing}
    made = os.path.join(stack.enter_context(TemporaryDirectory()), "buffers.pt")
    save_buffers(find_model(found.model, found.model_args, checkpoint_path=found.path), known, made)
    added = read_checkpoint(made)
    entries = [known[str(entry.name)]._replace(value=entry.value) for entry in added.entries]
    found.sources.expect(added.files)
    both = read._replace(entries=(*read.entries, *entries), files=(*read.files, *added.files))
    return inspect_checkpoint(both, model=found.spec)


def _refuse_loss(plan: values.ConversionPlan) -> None:
    if plan.lost:
        from ckpttool.values.words import format_path, plural

        first = plan.lost[0]
        raise CkptToolError(
            f"--strict: {plural(len(plan.lost), 'entry')} would be left behind, "
            f"first {format_path(first.root, first.name)} ({first.reason})",
            path=plan.source.path,
            hint="--dry-run lists them; --drop GLOB says that one may go",
        )


def _load_caster(casts: Sequence[values.Cast]) -> Caster | None:
    """Casts by numpy where it can, else by torch, which takes a second to import."""
    if not casts:
        return None
    from ckpttool.elements.casts import CASTABLE, cast_floats

    if all({cast.before.name, cast.after.name} <= CASTABLE for cast in casts):
        return cast_floats
    from ckpttool.torch_bridge.tensors import cast_elements

    def cast_either(
        data: memoryview, before: DType, after: DType, *, judge: bool = True
    ) -> tuple[memoryview, values.CastLoss]:
        one = cast_floats if {before.name, after.name} <= CASTABLE else cast_elements
        return one(data, before, after, judge=judge)

    return cast_either


def _refuse_manifest(
    plan: values.ConversionPlan, manifest: str, layouts: Sequence[FileLayout], target: Target
) -> None:
    """The manifest may overwrite neither a source nor what is about to be written."""
    from ckpttool.files.staging import refuse_overwriting

    refuse_overwriting(manifest, force=target.force, sources=plan.source.files)
    if os.path.abspath(manifest) in {os.path.abspath(target.path_of(layout)) for layout in layouts}:
        raise CkptToolError("--manifest is DST itself", path=manifest)


def _write_manifest(conversion: values.Conversion, path: str) -> None:
    from ckpttool.conversion.execute import named_digests
    from ckpttool.elements.digests import manifest_document
    from ckpttool.files.staging import staged_file
    from ckpttool.files.streams import write_at
    from ckpttool.render.json import dump

    data = "".join(dump(manifest_document(named_digests(conversion)))).encode()
    with staged_file(path, len(data)) as fd:
        write_at(fd, data, 0)
