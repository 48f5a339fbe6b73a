"""``Checkpoint``: what was opened, and all that can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpttool.api.convert import convert
from ckpttool.api.diff import diff
from ckpttool.api.inspect import check, digest, inspect
from ckpttool.api.models import Model
from ckpttool.api.opened import Opened, Path, open_file, open_module
from ckpttool.api.results import Shown
from ckpttool.api.verify import verify
from ckpttool.findings.globals import Verdict, judge_global
from ckpttool.render.fields import EntryFields, entry_fields
from ckpttool.values.checkpoint import Finding, Kind, Opaque, Root, Value, is_buffer
from ckpttool.values.inspection import Row, Summary
from ckpttool.values.progress import SILENT, Progress
from ckpttool.values.words import NAME_LIMIT, format_path, format_shape, safe

if TYPE_CHECKING:
    import torch

    from ckpttool.api.lazy import LazyTensor
    from ckpttool.elements.arrays import Array
    from ckpttool.elements.digests import SetDigests
    from ckpttool.elements.stats import EntryStats
    from ckpttool.files.checksums import CheckReport
    from ckpttool.render.tables import Line


class Entry(EntryFields):
    """A tensor of a checkpoint, or one that is missing from it. Names are those of the JSON document.

    ``shape`` and ``stride`` are torch's, strides and ``storage_offset`` in elements; ``nbytes`` are the
    bytes of the elements when packed, ``byte_offset`` is absolute in ``file``. ``root`` are the keys above
    the state_dict that ``name`` stands in. ``basis`` is the evidence for ``kind``; it cannot be wrong where
    ``exact``. ``tied_to`` is the root and the name of the first entry with the very same elements.

    >>> entry = ckpttool.open("linear.pt").entry("bias")
    >>> entry.kind, entry.dtype, entry.shape, entry.nbytes
    (<Kind.PARAMETER: 'parameter'>, 'float32', (4,), 16)
    >>> entry.kind == "parameter"
    True
    >>> entry
    <ckpttool.Entry bias: parameter float32 4>
    """

    __slots__ = ()

    def __repr__(self) -> str:
        what = f"{self.kind} {self.dtype or '?'} {format_shape(self.shape)}"
        presence = "" if self.presence == "present" else f", {self.presence}"
        return f"<ckpttool.Entry {format_path(self.root, self.name, NAME_LIMIT)}: {what}{presence}>"


class Global(NamedTuple):
    """Something that an ordinary unpickler of this file would import, and call ``calls`` times if ``called``.

    ``verdict`` is ``allowed`` (by ``torch.load(weights_only=True)``), ``unknown`` or ``dangerous``.
    """

    module: str
    name: str
    called: bool
    calls: int
    verdict: Verdict
    reason: str
    places: tuple[str, ...]


class Checkpoint(Opened, Shown):
    """A checkpoint whose headers were read by ``ckpttool.open``; tensors are read when they are asked for.

    ``print`` shows what ``ckpttool inspect`` shows, a notebook shows it as a table.

    >>> checkpoint = ckpttool.open("linear.pt")
    >>> [(entry.name, entry.shape) for entry in checkpoint.entries]
    [('weight', (4, 8)), ('bias', (4,))]
    >>> checkpoint.summary.parameter_numel
    36

    It is also a mapping from the names of the weights to their tensors, which nobody has read yet. Only
    ``values`` is no method of a mapping here: it is what stands beside the tensors.

    >>> list(checkpoint), "bias" in checkpoint, checkpoint["weight"].shape
    (['weight', 'bias'], True, (4, 8))
    """

    # As methods these have the checkpoint as their first argument.
    diff = diff
    convert = convert
    verify = verify

    @property
    def format(self) -> str:
        """``safetensors``, ``torch_zip``, ``torchscript`` … (docs/formats.md)."""
        return self.inspection.checkpoint.format

    @property
    def file_nbytes(self) -> int:
        """Bytes of all files together."""
        return self.inspection.checkpoint.file_nbytes

    @property
    def weights_root(self) -> Root | None:
        """The keys above the state_dict that holds the weights; None if that is not clear."""
        return self.inspection.weights_root

    @property
    def summary(self) -> Summary:
        """Totals: ``tensors``, ``parameters``, ``parameter_numel``, ``tensor_nbytes`` …; ties count once."""
        return self.inspection.summary

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd: ``code``, ``severity``, ``name`` and ``message`` each (docs/findings.md)."""
        return self.inspection.findings

    @property
    def ok(self) -> bool:
        """True when no finding is an error."""
        return self.inspection.ok

    @property
    def values(self) -> tuple[Value, ...]:
        """Plain values beside the tensors (epoch, lr …): ``root``, ``name``, ``value``."""
        return self.inspection.checkpoint.values

    @property
    def opaque(self) -> tuple[Opaque, ...]:
        """Objects that are neither tensors nor plain values: described, never built."""
        return self.inspection.checkpoint.opaque

    @property
    def metadata(self) -> Mapping[str, str]:
        """``__metadata__`` of a safetensors file or of an index."""
        return self.inspection.checkpoint.metadata

    @cached_property
    def globals(self) -> tuple[Global, ...]:
        """What an unpickler would import, with what is known of it."""
        judged = map(judge_global, self.inspection.checkpoint.globals)
        return tuple(Global(*ref[:3], ref.calls, verdict, why, ref.places) for ref, verdict, why in judged)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All tensors in the order of the file, then those that are missing from it."""
        return tuple(
            Entry._make(entry_fields(row)) for row in (*self.inspection.rows, *self.inspection.missing)
        )

    @property
    def parameters(self) -> tuple[Entry, ...]:
        """Entries that are parameters."""
        return tuple(entry for entry in self.entries if entry.kind is Kind.PARAMETER)

    @property
    def buffers(self) -> tuple[Entry, ...]:
        """Entries that are buffers, persistent and not, missing ones too (``presence`` tells)."""
        return tuple(entry for entry in self.entries if is_buffer(entry.kind))

    def keys(self) -> KeysView[str]:
        """The names of the weights in the order of the file; of all tensors where it is not clear which."""
        return self._weights.keys()

    def items(self) -> Iterator[tuple[str, LazyTensor]]:
        """The names of the weights with their tensors."""
        return ((name, self[name]) for name in self._weights)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __bool__(self) -> bool:
        return True  # also without weights: it was opened

    def __contains__(self, name: object) -> bool:
        """Whether ``self[name]`` is a tensor."""
        from ckpttool.inspection.rows import matching_rows

        if not isinstance(name, str):
            return False
        return name in self._weights or len(matching_rows(self.inspection, name)) == 1

    def __getitem__(self, name: str) -> LazyTensor:
        """The tensor of this name or path, as ``entry`` takes it; nothing is read before it is asked for.

        Raises:
            NoSuchEntry: there is none; it is a ``KeyError`` as well.
            CkptToolError: there are several.
        """
        from ckpttool.api.lazy import LazyTensor

        row = self._weights.get(name) or self._row(name)
        kind = row.classification.kind
        return LazyTensor(self.sources, row.entry.value, str(row.entry.name), kind)

    @cached_property
    def _weights(self) -> dict[str, Row]:
        """The rows of the weights by name; all of them by path where no branch is the weights'."""
        rows, root = self.inspection.rows, self.inspection.weights_root
        if root is not None:
            return {str(row.entry.name): row for row in rows if row.entry.root == root}
        return {format_path(row.entry.root, row.entry.name, None): row for row in rows}

    def entry(self, name: str) -> Entry:
        """The entry of this name, or of this path (``optimizer.state[0].exp_avg``).

        Args:
            name: as the entry has it, or as it is shown. Of several the weights' own is meant.

        Raises:
            NoSuchEntry: there is none (its ``hint`` has similar names).
            CkptToolError: there are several.
        """
        return Entry._make(entry_fields(self._row(name)))

    def array(self, name: str | Entry) -> Array:
        """The elements of one tensor as a numpy array of its shape, in memory of its own.

        numpy has no bfloat16 and no float8: these come as the narrowest dtype that holds all their values.

        Args:
            name: an entry, or what ``entry`` takes.

        Raises:
            CkptToolError: there is no such tensor, it has no bytes, or it is made of parts (sparse …).

        >>> ckpttool.open("linear.pt").array("weight").mean(axis=1).shape
        (4,)
        """
        from ckpttool.api.tensors import read_array

        return read_array(self.sources, self._row(name).entry.value)

    def tensor(self, name: str | Entry) -> torch.Tensor:
        """The elements of one tensor as a contiguous ``torch.Tensor`` on the CPU, in memory of its own.

        Nothing is unpickled: the file's bytes become the tensor's.

        Args:
            name: an entry, or what ``entry`` takes.

        Raises:
            CkptToolError: there is no such tensor, it has no bytes, or it is made of parts (sparse …).

        >>> ckpttool.open("linear.pt").tensor("bias").dtype
        torch.float32
        """
        from ckpttool.api.tensors import read_tensor

        tensor: torch.Tensor = read_tensor(self.sources, self._row(name).entry.value)
        return tensor

    def stats(self, *, progress: Progress = SILENT) -> tuple[EntryStats, ...]:
        """What the values of each tensor are like: ``minimum``, ``mean``, ``nan`` …; each is read once.

        One for each tensor, in the order of the file, and one for each part of what is made of parts.

        Args:
            progress: told how many bytes are read.

        Raises:
            CkptToolError: a file changed since its header was read, or is damaged.

        >>> [(stats.entry.name, stats.numel, stats.nan) for stats in ckpttool.open("linear.pt").stats()]
        [('weight', 32, 0), ('bias', 4, 0)]
        """
        found = inspect(self, stats=True, progress=progress).stats or ()
        return tuple(item for items in found for item in items)

    def check(self, *, progress: Progress = SILENT) -> CheckReport:
        """Hold every byte of a zip against its checksum, which torch.load never does.

        Args:
            progress: told how many bytes are read.

        Raises:
            CkptToolError: a file changed since its header was read, or is damaged.

        >>> report = ckpttool.open("linear.pt").check()
        >>> report.ok, report.bad
        (True, ())
        """
        return check(self, progress)

    def digest(self, *, progress: Progress = SILENT) -> SetDigests:
        """SHA-256 of the weights' content, the same in any container: ``all``, ``parameters``, ``buffers``.

        Args:
            progress: told how many bytes are read.

        Raises:
            CkptToolError: a file changed since its header was read, or is damaged.

        >>> conversion = ckpttool.convert("linear.pt", "same.safetensors", force=True)
        >>> ckpttool.open("same.safetensors").digest().all == ckpttool.open("linear.pt").digest().all
        True
        """
        return digest(self, progress).digest

    def to_dict(self) -> dict[str, object]:
        """The document of ``ckpttool inspect --json`` (docs/json.md).

        Raises:
            LimitExceeded: a list among the values stands for more than a million items.
        """
        import json

        from ckpttool.render.json import dump, inspect_document

        document: dict[str, object] = json.loads(
            "".join(dump(inspect_document(self.inspection, card=self.card)))
        )
        return document

    def _first_line(self) -> str:
        return f"{safe(self.path, NAME_LIMIT)}: {super()._first_line()}"

    def _row(self, name: str | Entry) -> Row:
        from ckpttool.inspection.rows import find_row

        if not isinstance(name, Entry):
            return find_row(self.inspection, name)
        for row in (*self.inspection.rows, *self.inspection.missing):
            if row.entry.root == name.root and row.entry.name == name.name:
                return row
        return find_row(self.inspection, str(name.name))

    def _iter_lines(self, width: int) -> Iterator[Line]:
        from ckpttool.inspection.found import Found
        from ckpttool.render.views import InspectListing, view_of

        found = Found(self.inspection, maker=lambda: self.card)
        listing = InspectListing(everything=self.root is not None)
        return iter(view_of(found).lines(found, width, listing))


def open(
    path: Path,
    *,
    root: str | Root | None = None,
    model: Model | None = None,
    model_args: Mapping[str, Any] | None = None,
    source: str | Sequence[str] = (),
) -> Checkpoint:
    """Read the headers of a checkpoint: what is in it, of which kind, and what is odd. Nothing in it runs.

    Args:
        path: a file, or a folder of shards.
        root: one branch only, as ``inspect`` shows it (``"model.state_dict"``) or as entries have it
            (``("model", "state_dict")``). ``convert``, ``diff`` and ``verify`` take this branch then.
        model: what to read exact kinds from: a factory (a class, or a function that returns the module),
            ``"package.module:factory"``, ``"path/to/file.py:factory"``, or ``"hf"`` (config.json beside the
            checkpoint). **Its code runs**, on meta where it can.
        model_args: arguments of the factory.
        source: what to read kinds from as well, without running any of it: an installed package, a folder, a
            ``.py`` file, each perhaps with ``:Class``; or several of them (docs/kinds.md).

    Raises:
        CkptToolError: it cannot be read (``UnknownFormat``, ``MalformedCheckpoint``, ``UnsupportedFeature``,
            ``LimitExceeded``), has no such branch, or the model cannot be built (``ModelImportFailed``).
        OSError: as the file system says.

    >>> checkpoint = ckpttool.open("linear.pt")
    >>> checkpoint.entry("weight").shape  # (out_features, in_features)
    (4, 8)
    """
    texts = (source,) if isinstance(source, str) else tuple(source)
    return _shown(open_file(path, root=root, model=model, model_args=model_args or (), source=texts))


def open_model(model: Model, *, model_args: Mapping[str, Any] | None = None) -> Checkpoint:
    """A model as a checkpoint: what its state_dict would hold, and the buffers that it would not.

    It has no bytes: it can be looked at and be a side of ``diff``.

    Args:
        model: as for ``open``. **Its code runs.**
        model_args: arguments of the factory.

    Raises:
        ModelImportFailed: it cannot be imported or built.

    >>> model = ckpttool.open_model("sample_models.conv_buffers:build")
    >>> {str(entry.kind) for entry in model.entries}
    {'persistent_buffer'}
    """
    return _shown(open_module(model, model_args or ()))


def _shown(found: Opened) -> Checkpoint:
    what = found.path, found.read, found.sources, found.root
    checkpoint = Checkpoint(*what, found.spec, found.model, found.model_args, source=found.source)
    found.sources.close()  # opened again when tensors are asked for
    checkpoint.inspection  # noqa: B018 (what is wrong is said now, not when it is first looked at)
    return checkpoint
