"""From what is to be converted, where to and how, to what was written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.api.models import Arguments, Model
from ckpttool.conversion.execute import Caster, Effort, Target, check_target, convert
from ckpttool.conversion.plan import plan_conversion
from ckpttool.conversion.shards import lay_out_file, lay_out_folder
from ckpttool.files.streams import write_at
from ckpttool.formats.carried import expand
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.names.roots import resolve_root
from ckpttool.values.conversion import Cast, CastLoss, Conversion, ConversionPlan, FileWritten, Options
from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.conversion.layout import FileLayout
    from ckpttool.values.checkpoint import Checkpoint, Root
    from ckpttool.values.dtypes import DType
    from ckpttool.values.inspection import Inspection

_UNLIMITED = 1 << 62


class Writing(NamedTuple):
    """How the destination is written, whatever is in it.

    ``model`` gives exact kinds, and with ``add_known_buffers`` also the buffers that only it has.
    ``strict`` refuses to leave anything behind that no option drops; ``manifest`` is where to write
    digests of every tensor.
    """

    is_folder: bool = False
    shard_nbytes: int | None = None
    force: bool = False
    strict: bool = False
    check: bool = True
    manifest: str | None = None
    model: Model | None = None
    model_args: Arguments = ()
    add_known_buffers: bool = False


class Prepared(NamedTuple):
    """A conversion that may begin: planned, laid out, and allowed to write where it will."""

    plan: ConversionPlan
    layouts: Sequence[FileLayout]
    target: Target
    writing: Writing

    @property
    def nbytes(self) -> int:
        """Bytes that ``run`` tells of: each is written once, and read back if that is asked for."""
        return self.plan.nbytes * (1 + self.writing.check)

    def without_writing(self) -> Conversion:
        """What ``run`` would give.

        Raises:
            DestinationExists: the target is there, or is a source.
        """
        target = self.target
        plan = check_target(self.plan, self.layouts, target)
        files = tuple(FileWritten(target.path_of(layout), layout.nbytes) for layout in self.layouts)
        return Conversion(plan, target.path, files, written=False)

    def run(self, advance: Callable[[int], None] = lambda nbytes: None) -> Conversion:
        """Write it all.

        Raises:
            CkptToolError: as ``conversion.execute.convert``.
            OSError: as the file system says.
        """
        manifest = self.writing.manifest
        effort = Effort(self.writing.check, manifest is not None, advance, _load_caster(self.plan.casts))
        conversion = convert(self.plan, self.layouts, self.target, effort)
        if manifest is not None:
            _write_manifest(conversion, manifest)
        return conversion


@contextmanager
def prepared(
    checkpoint: Checkpoint,
    destination: str,
    options: Options,
    writing: Writing,
    root: str | Root | None = None,
) -> Iterator[Prepared]:
    """Plan to write the branch ``root`` of a ``checkpoint``, as it was read, to ``destination``.

    Raises:
        CkptToolError: something cannot be written, would be overwritten, or would be left behind.
    """
    checkpoint = expand(checkpoint)
    if root is not None:
        options = options._replace(root=resolve_root(checkpoint, root))
    with ExitStack() as stack:
        inspection = _inspect(checkpoint, writing, stack)
        try:
            plan = plan_conversion(inspection, options)
            if writing.strict:
                _refuse_loss(plan)
            if writing.is_folder:
                layouts = lay_out_folder(plan, writing.shard_nbytes or _UNLIMITED)
                destination = destination.rstrip("/") or "/"
            else:
                layouts = lay_out_file(plan, os.path.basename(destination))
        except CkptToolError as error:
            error.path = error.path or checkpoint.path  # a plan knows names, not files
            raise
        target = Target(destination, writing.is_folder, writing.force)
        if writing.manifest is not None:
            _refuse_manifest(plan, writing.manifest, layouts, target)
        yield Prepared(plan, layouts, target, writing)


def _inspect(checkpoint: Checkpoint, writing: Writing, stack: ExitStack) -> Inspection:
    """Kinds, as the model has them if there is one; and its further buffers, in a file while ``stack`` is."""
    if writing.model is None:
        return inspect_checkpoint(checkpoint)
    from ckpttool.api.models import find_model, read_model

    source = checkpoint.path
    spec = read_model(writing.model, writing.model_args, checkpoint_path=source)
    inspection = inspect_checkpoint(checkpoint, model=spec)
    if not writing.add_known_buffers:
        return inspection
    from tempfile import TemporaryDirectory

    from ckpttool.formats import read_checkpoint
    from ckpttool.torch_bridge.reference import save_buffers
    from ckpttool.values.checkpoint import Kind

    missing = [row for row in inspection.missing if row.classification.kind is Kind.NON_PERSISTENT_BUFFER]
    known = {str(row.entry.name): row.entry for row in missing}
    made = os.path.join(stack.enter_context(TemporaryDirectory()), "buffers.pt")
    save_buffers(find_model(writing.model, writing.model_args, checkpoint_path=source), known, made)
    added = read_checkpoint(made)
    entries = [known[str(entry.name)]._replace(value=entry.value) for entry in added.entries]
    both = checkpoint._replace(
        entries=(*checkpoint.entries, *entries), files=(*checkpoint.files, *added.files)
    )
    return inspect_checkpoint(both, model=spec)


def _refuse_loss(plan: ConversionPlan) -> None:
    if plan.lost:
        from ckpttool.values.words import format_path, plural

        first = plan.lost[0]
        raise CkptToolError(
            f"--strict: {plural(len(plan.lost), 'entry')} would be left behind, "
            f"first {format_path(first.root, first.name)} ({first.reason})",
            path=plan.source.path,
            hint="--dry-run lists them; --drop GLOB says that one may go",
        )


def _load_caster(casts: Sequence[Cast]) -> Caster | None:
    """Casts by numpy where it can, else by torch, which takes a second to import."""
    if not casts:
        return None
    from ckpttool.elements.casts import CASTABLE, cast_floats

    if all({cast.before.name, cast.after.name} <= CASTABLE for cast in casts):
        return cast_floats
    from ckpttool.torch_bridge.elements import cast_elements

    def cast_either(data: memoryview, before: DType, after: DType) -> tuple[memoryview, CastLoss]:
        one = cast_floats if {before.name, after.name} <= CASTABLE else cast_elements
        return one(data, before, after)

    return cast_either


def _refuse_manifest(
    plan: ConversionPlan, manifest: str, layouts: Sequence[FileLayout], target: Target
) -> None:
    """The manifest may overwrite neither a source nor what is about to be written."""
    from ckpttool.files.staging import refuse_overwriting

    refuse_overwriting(manifest, force=target.force, sources=plan.source.files)
    if os.path.abspath(manifest) in {os.path.abspath(target.path_of(layout)) for layout in layouts}:
        raise CkptToolError("--manifest is DST itself", path=manifest)


def _write_manifest(conversion: Conversion, path: str) -> None:
    from ckpttool.conversion.execute import named_digests
    from ckpttool.elements.digests import manifest_document
    from ckpttool.files.staging import staged_file
    from ckpttool.render.json import dump

    data = "".join(dump(manifest_document(named_digests(conversion)))).encode()
    with staged_file(path, len(data)) as fd:
        write_at(fd, data, 0)
