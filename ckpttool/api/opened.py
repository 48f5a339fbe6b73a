"""The one way to a checkpoint: read it, put back what was carried, find the branch, build the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, Union

from ckpttool.api.models import Arguments, Model, names_model
from ckpttool.values.collector import collector_paused
from ckpttool.values.errors import CkptToolError, bare_names
from ckpttool.values.progress import SILENT

if TYPE_CHECKING:
    from ckpttool.files.local import Sources
    from ckpttool.inspection.weighed import Weighed
    from ckpttool.kinds.source.source_kinds import SourceKinds
    from ckpttool.values.card import Card
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
        root: Root | None = None,
        spec: ModelSpec | None = None,
        model: Model | None = None,
        model_args: Arguments = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        source: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.read = read
        self.sources = sources
        self.root = root
        self.spec = spec
        self.model = model
        self.model_args = model_args
        self.source = tuple(source)
        self.progress = SILENT  # told of what is read for ``inspection`` and ``side``
        self._globs = include, exclude
        self._weighed: Weighed | None = None  # where a config beside it is held against it

    @property
    def is_model(self) -> bool:
        """Whether it is a model itself, and no file."""
        return self.spec is not None and self.read is self.spec.checkpoint

    @cached_property
    @collector_paused()
    def inspection(self) -> Inspection:
        """Everything that the headers tell of the branch and the entries that are meant."""
        from ckpttool.inspection.inspect import inspect_checkpoint, inspect_model

        include, exclude = self._globs
        if self.spec is not None and self.is_model:
            return inspect_model(self.spec, include=include, exclude=exclude)
        with self._asked() as source:
            found = inspect_checkpoint(
                self.read,
                include=include,
                exclude=exclude,
                root=self.root,
                model=self.spec,
                source=source,
                files=self.sources,
            )
        return self._held_against_configs(found)

    def _held_against_configs(self, found: Inspection) -> Inspection:
        """With what the configs beside the file say of quantised weights, and what they contradict."""
        from ckpttool.inspection.beside import ADAPTER, CONFIG, CONFIGS, find_contradictions, read_beside

        configs = read_beside(self._folder, CONFIGS, self.sources)
        if found.weights.quantized:
            from ckpttool.inspection.quantization_config import confirm

            found = confirm(found, configs)
        if not any(map(configs.document, (CONFIG, ADAPTER))):
            return found
        from ckpttool.inspection.weighed import weigh

        self._weighed = weigh(found)
        more = find_contradictions(found, configs, self._weighed)
        return found._replace(findings=(*found.findings, *more))

    @cached_property
    def card(self) -> Card:
        """What the model is, in facts that each say where they come from (docs/json.md)."""
        from ckpttool.inspection.beside import NAMES, list_trainer_files, read_beside
        from ckpttool.inspection.card import make_card

        if self.is_model:
            return make_card(self.inspection)
        beside = read_beside(self._folder, NAMES, self.sources)
        beside = beside._replace(files=list_trainer_files(self._folder))
        return make_card(self.inspection, beside, self._weighed)

    def _asked(self) -> AbstractContextManager[SourceKinds | None]:
        """The source that is asked for kinds, while it is."""
        if not self.source:
            return nullcontext()
        from ckpttool.kinds.source.auto import AUTO, choose
        from ckpttool.kinds.source.source_kinds import SourceKinds

        if AUTO not in self.source:
            return closing(SourceKinds(self.source, progress=self.progress))
        chosen = choose(self.read, self._read_config(), self._folder)
        more = [text for text in self.source if text != AUTO]
        return closing(SourceKinds(more, chosen=chosen, progress=self.progress))

    @property
    def _folder(self) -> str:
        """Where the files that say more lie."""
        path = self.read.path
        return path if os.path.isdir(path) else os.path.dirname(path) or "."

    def _read_config(self) -> object:
        """The config.json beside the checkpoint; None without one that can be read, for nothing needs it."""
        from ckpttool.inspection.beside import CONFIG, read_beside

        return read_beside(self._folder, (CONFIG,), self.sources).documents.get(CONFIG)

    def beside(self, other: Opened) -> tuple[Side, Side]:
        """It and ``other`` as two sides that are compared; source that is asked about both is read once."""
        with self._asked() as source:
            side = self._make_side(source)
            if other.source == self.source and (source is None or not source.strict):
                return side, other._make_side(source)
        return side, other.side

    @property
    def side(self) -> Side:
        """It as one of two that are compared."""
        with self._asked() as source:
            return self._make_side(source)

    def _make_side(self, source: SourceKinds | None) -> Side:
        from ckpttool.comparison.sides import make_side

        return make_side(self.read, self.path, source, self.sources)

    def check_files(self) -> None:
        """Hold what now has the files' names to what was read.

        Raises:
            MalformedCheckpoint: one was written to, replaced or removed.
            OSError: as the file system says.
        """
        from ckpttool.files.local import check_path

        for file in self.read.files:
            check_path(file)

    def at(self, root: str | Root | None) -> Opened:
        """The same with only the branch ``root``, as it is spelled, meant.

        Raises:
            CkptToolError: there is no such branch.
        """
        if root is None:
            return self
        from ckpttool.names.roots import resolve_root

        return Opened(
            self.path, self.read, self.sources, root=resolve_root(self.read, root), source=self.source
        )

    def file(self) -> Checkpoint:
        """What was read.

        Raises:
            CkptToolError: a model has nothing to convert and nothing to load.
        """
        if self.is_model:
            hint = "save its state_dict, and open that"
            raise CkptToolError("a model is not a file", path=self.path, hint=hint)
        return self.read


@bare_names()
def open_file(
    path: Path,
    *,
    root: str | Root | None = None,
    model: Model | None = None,
    model_args: Arguments = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    source: Sequence[str] = (),
    manifests: bool = False,
) -> Opened:
    """Read the headers at ``path``; build the ``model``, if there is one. With ``manifests`` also of one.

    ``source`` names packages, folders and files whose source is read for kinds.

    Raises:
        CkptToolError: it cannot be read, or has no such branch; the model cannot be built.
        OSError: as the file system says.
    """
    from ckpttool.api.models import read_model
    from ckpttool.files.local import Sources
    from ckpttool.formats import read_checkpoint

    path = os.fspath(path)
    sources = Sources()
    read = read_checkpoint(path, sources=sources, manifests=manifests)
    if read.metadata.keys() - {"format"}:
        from ckpttool.formats.carried import expand

        read = expand(read)
    branch = Opened(path, read, sources).at(root).root
    # Before a model runs it is known that the file can be read.
    spec = None if model is None else read_model(model, model_args, checkpoint_path=path)
    return Opened(path, read, sources, branch, spec, model, model_args, include, exclude, source)


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
    return Opened(path, spec.checkpoint, Sources(), None, spec, model, model_args, include, exclude)


def opened(source: Source, *, manifests: bool = False) -> Opened:
    """``source``, opened if it is a path."""
    return source if isinstance(source, Opened) else open_file(source, manifests=manifests)


def open_sides(
    a: str, b: str, model_args: Arguments = (), source: Sequence[str] = ()
) -> tuple[Opened, Opened]:
    """Both sides as they are typed on a command line, one that is named twice once.

    Raises:
        CkptToolError: one cannot be read, imported or built; it says which.
        OSError: as the file system says.
    """
    first = _open_side("A", a, b, model_args, source)
    return first, first if a == b else _open_side("B", b, a, model_args, source)


def _open_side(which: str, text: str, beside: str, model_args: Arguments, source: Sequence[str]) -> Opened:
    try:
        if names_model(text) or (text == "hf" and not os.path.lexists(text)):
            return open_module(text, model_args, beside=beside)
        return open_file(text, source=source, manifests=True)
    except CkptToolError as error:
        error.what = f"{which} cannot be read: {error.what}"
        raise
