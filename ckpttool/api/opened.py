"""The one way to a checkpoint: read it, put back what was carried, find the branch, build the model.

What reads the tensors of an opened one for ``inspect`` is here as well: first values, statistics, checksums.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

from ckpttool.api.models import Arguments, Model, names_model
from ckpttool.values.errors import CkptToolError
from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    from ckpttool.elements.bits import Number
    from ckpttool.elements.digests import SetDigests
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.files.local import Sources
    from ckpttool.values.checkpoint import Checkpoint, Root
    from ckpttool.values.difference import Side
    from ckpttool.values.inspection import Inspection
    from ckpttool.values.model import ModelSpec

Path: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = Union[Path, "Opened"]
"""What can be read: a path, or what ``open`` gave for one."""


class Opened:
    """What was read, whole, and what of it is meant; ``path`` is as it was given.

    ``read`` has everything in its place that a conversion carried; its files stay open in ``sources``.
    ``spec`` is the model's, if there is one.
    """

    def __init__(
        self,
        path: str,
        read: Checkpoint,
        sources: Sources,
        *,
        root: Root | None = None,
        spec: ModelSpec | None = None,
        model: Model | None = None,
        model_args: Arguments = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.read = read
        self.sources = sources
        self.root = root
        self.spec = spec
        self.model = model
        self.model_args = model_args
        self._globs = include, exclude

    @property
    def is_model(self) -> bool:
        """Whether it is a model itself, and no file."""
        return self.spec is not None and self.read is self.spec.checkpoint

    @cached_property
    def inspection(self) -> Inspection:
        """Everything that the headers tell of the branch and the entries that are meant."""
        from ckpttool.inspection.inspect import inspect_checkpoint, inspect_model

        include, exclude = self._globs
        if self.spec is not None and self.is_model:
            return inspect_model(self.spec, include=include, exclude=exclude)
        return inspect_checkpoint(
            self.read, include=include, exclude=exclude, root=self.root, model=self.spec
        )

    @property
    def side(self) -> Side:
        """It as one of two that are compared."""
        from ckpttool.comparison.sides import make_side

        return make_side(self.read, self.path)

    def at(self, root: str | Root | None) -> Opened:
        """The same with only the branch ``root``, as it is spelled, meant.

        Raises:
            CkptToolError: there is no such branch.
        """
        from ckpttool.names.roots import resolve_root

        if root is None:
            return self
        return Opened(self.path, self.read, self.sources, root=resolve_root(self.read, root))

    def file(self) -> Checkpoint:
        """What was read.

        Raises:
            CkptToolError: a model has nothing to convert and nothing to load.
        """
        if self.is_model:
            raise CkptToolError(
                "a model is not a file", path=self.path, hint="save its state_dict, and open that"
            )
        return self.read


def open_file(
    path: Path,
    *,
    root: str | Root | None = None,
    model: Model | None = None,
    model_args: Arguments = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    manifests: bool = False,
) -> Opened:
    """Read the headers at ``path``; build the ``model``, if there is one. With ``manifests`` also of one.

    Raises:
        CkptToolError: it cannot be read, or has no such branch; the model cannot be built.
        OSError: as the file system says.
    """
    from ckpttool.api.models import read_model
    from ckpttool.files.local import Sources
    from ckpttool.formats import read_checkpoint
    from ckpttool.formats.carried import expand

    path = os.fspath(path)
    sources = Sources()
    read = expand(read_checkpoint(path, sources=sources, manifests=manifests))
    branch = Opened(path, read, sources).at(root).root
    # Before a model runs it is known that the file can be read.
    spec = None if model is None else read_model(model, model_args, checkpoint_path=path)
    return Opened(
        path,
        read,
        sources,
        root=branch,
        spec=spec,
        model=model,
        model_args=model_args,
        include=include,
        exclude=exclude,
    )


def open_module(
    model: Model,
    model_args: Arguments = (),
    *,
    beside: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Opened:
    """Build a model, as a checkpoint without bytes; of ``hf`` the config.json is ``beside`` that path.

    Raises:
        ModelImportFailed: it cannot be imported or built.
    """
    from ckpttool.api.models import read_model
    from ckpttool.files.local import Sources

    spec = read_model(model, model_args, checkpoint_path=beside)
    path = model if isinstance(model, str) else spec.checkpoint.path
    return Opened(
        path,
        spec.checkpoint,
        Sources(),
        spec=spec,
        model=model,
        model_args=model_args,
        include=include,
        exclude=exclude,
    )


def opened(source: Source, *, manifests: bool = False) -> Opened:
    """``source``, opened if it is a path."""
    return source if isinstance(source, Opened) else open_file(source, manifests=manifests)


def open_sides(a: str, b: str, model_args: Arguments = ()) -> tuple[Opened, Opened]:
    """Both sides as they are typed on a command line, one that is named twice once.

    Raises:
        CkptToolError: one cannot be read, imported or built; it says which.
        OSError: as the file system says.
    """
    first = _open_side("A", a, b, model_args)
    return first, first if a == b else _open_side("B", b, a, model_args)


def _open_side(which: str, text: str, beside: str, model_args: Arguments) -> Opened:
    try:
        if names_model(text) or (text == "hf" and not os.path.lexists(text)):
            return open_module(text, model_args, beside=beside)
        return open_file(text, manifests=True)
    except CkptToolError as error:
        error.what = f"{which} cannot be read: {error.what}"
        raise


# ------------------------------------------------------------------------------------------- tensor bytes


class Found(NamedTuple):
    """An inspection with what was read of the tensors' bytes: statistics by row, first values of one."""

    inspection: Inspection
    sources: Sources
    stats: Sequence[Sequence[EntryStats]] | None = None
    first_values: Sequence[Number] | None = None
    check: CheckReport | None = None


def pick_one(found: Found, name: str, count: int) -> Found:
    """The one row that is called ``name``, with its first ``count`` values."""
    from ckpttool.elements.bits import first_values
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.inspection.rows import find_row
    from ckpttool.values.checkpoint import Presence, iter_views

    inspection = found.inspection
    row = find_row(inspection, name)
    value = row.entry.strided
    numbers: Sequence[Number] | None = None
    if value is not None and all(view.storage is not None for view in iter_views(value)) and count:
        with TensorReader(found.sources) as reader:
            numbers = first_values(reader, value, count)
    missing = row.classification.presence is Presence.MISSING
    one = inspection._replace(rows=() if missing else (row,), missing=(row,) if missing else ())
    return found._replace(inspection=one, first_values=numbers)


def with_stats(found: Found, asked: Sequence[str], progress: Progress = SILENT) -> Found:
    """Read every value of the rows once; what was ``asked`` for (``nan`` …) becomes a finding."""
    from ckpttool.elements.stats import iter_stats, iter_value_findings
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.values.checkpoint import Finding

    inspection = found.inspection
    entries = [row.entry for row in inspection.rows]
    positions = {id(entry): position for position, entry in enumerate(entries)}
    by_row: list[list[EntryStats]] = [[] for _ in entries]
    findings: list[Finding] = []
    progress.begin("values", inspection.summary.tensor_nbytes)
    with TensorReader(found.sources) as reader:
        for item in iter_stats(entries, reader):
            by_row[positions[id(item.entry)]].append(item)
            if item.tied_to is None:
                findings += iter_value_findings(item, asked)
                progress.advance(item.entry.value.nbytes if item.entry.value is not None else 0)
    progress.finish()
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, stats=by_row)


def with_check(found: Found, progress: Progress = SILENT) -> Found:
    """Verify every checksum; what does not match becomes a finding."""
    from ckpttool.files.checksums import iter_checks, summarize
    from ckpttool.values.checkpoint import Finding

    inspection = found.inspection
    progress.begin("checksums", sum(record.nbytes for record in inspection.checkpoint.records))
    results = []
    for result in iter_checks(inspection.checkpoint, found.sources):
        results.append(result)
        progress.advance(result.nbytes)
    progress.finish()
    report = summarize(results)
    findings = []
    for bad in report.bad:
        holds = f" (holds {', '.join(str(entry.name) for entry in bad.entries[:3])})" if bad.entries else ""
        findings.append(Finding("checksum", "error", bad.name, bad.message + holds))
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, check=report)


def digest(inspection: Inspection, sources: Sources, progress: Progress = SILENT) -> SetDigests:
    """Digests of the weights' content, or of the branch or entries that were asked for.

    Raises:
        CkptToolError: a file changed since its header was read, or is damaged.
    """
    from ckpttool.comparison.contents import digest_weights

    progress.begin("digest", inspection.summary.tensor_nbytes)
    digests = digest_weights(inspection, sources, progress.advance)
    progress.finish()
    return digests
