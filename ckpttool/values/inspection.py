"""What ``inspect`` knows: every entry with its kind, the groups around them, totals, findings."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Finding,
    Kind,
    Root,
    is_buffer,
)
from ckpttool.values.source import SourceUsed
from ckpttool.values.words import format_count, plural


class Row(NamedTuple):
    """An entry with what analysis says of it.

    ``tied_to`` is the first entry of the file that shares exactly these bytes as the same view,
    None if this is the first or the only one. A missing buffer is a row whose entry has no value, or,
    where a live model says what it would be, a tensor without storage.
    """

    entry: Entry
    classification: Classification
    tied_to: Entry | None = None


def is_rebuilt(row: Row) -> bool:
    """Whether an entry is one that some versions of its library leave out of files and build anew."""
    kind = row.classification.kind
    return kind is Kind.NON_PERSISTENT_BUFFER or (is_buffer(kind) and bool(row.classification.rebuilt_since))


class Group(NamedTuple):
    """One branch of the tree around the weights: ``model.state_dict``, ``optimizer``, ``ema``.

    ``role`` is ``weights``, ``optimizer``, ``ema``, ``module`` (a pickled module), or ``other``.
    ``parameters``, ``buffers`` (both persistences) and ``unknown`` count entries;
    ``parameter_numel`` and ``nbytes`` count tied entries once. ``note`` is a short fact such as
    ``Adam, 127 parameters mapped by order`` or a wrapper prefix. ``averaged`` says of an averaged copy of
    the weights what it is (``AveragedModel``, ``EMA``, ``SWA``, ``average``), also where it is all there is.
    """

    root: Root
    role: str
    tensors: int
    nbytes: int
    parameters: int
    buffers: int
    unknown: int
    parameter_numel: int
    note: str = ""
    averaged: str = ""


class Summary(NamedTuple):
    """Totals over present entries. Bytes are ints; tied tensors count once in ``*_nbytes``/``*_numel``.

    ``tensor_nbytes`` is the packed size of the tensors (tied once, as a conversion would write
    them); ``storage_nbytes`` what their storages hold in the file. ``bases`` counts entries by
    (kind, basis) values for the legend.
    """

    tensors: int
    parameters: int
    persistent_buffers: int
    non_persistent_buffers: int
    extra_state: int
    optimizer_state: int
    unknown: int
    missing: int
    parameter_numel: int
    buffer_numel: int
    tensor_nbytes: int
    storage_nbytes: int
    dtypes: tuple[tuple[str, int], ...]  # dtype name -> entries, most frequent first
    locations: tuple[tuple[str, int], ...]  # saved device tag -> storages, most frequent first
    bases: tuple[tuple[str, str, int], ...]  # kind, basis, entries


class Quantization(NamedTuple):
    """Weights that are stored in one quantised form: ``weights`` of ``bits`` each, in ``modules`` modules.

    ``bits`` are None where neither the file nor a config beside it says them, and ``weights`` where that
    leaves open how many there are. Where rows are padded to whole integers, it is what has room in them.
    ``group`` weights share a scale, None where that is not a fixed number; ``detail`` says more in words.
    """

    scheme: str
    bits: int | None
    group: int | None
    detail: str
    modules: int
    weights: int | None


class Copy(NamedTuple):
    """A branch that holds the weights once more; ``averaged``: its name says EMA, SWA or the like.

    With a ``prefix`` it is what bears that in the state_dict at ``root``.
    """

    root: Root
    averaged: bool
    prefix: str = ""


class Weights(NamedTuple):
    """What the weights count: those of one branch where it is clear which, else of all but averaged copies.

    ``parameters``, ``buffers`` (both persistences) and ``unknown`` are entries, ``tied_parameters`` those of
    the parameters that are an earlier one under another name; ``*_numel`` counts elements, tied ones once.
    ``weights_numel`` counts parameters and what quantised weights stand for as far as that is known,
    ``stored_numel`` all elements.
    """

    parameters: int = 0
    tied_parameters: int = 0
    parameter_numel: int = 0
    buffers: int = 0
    buffer_numel: int = 0
    unknown: int = 0
    weights_numel: int = 0
    stored_numel: int = 0
    copies: tuple[Copy, ...] = ()
    quantized: tuple[Quantization, ...] = ()


class Spread(NamedTuple):
    """The entries that are spread over several ranks, what they hold here, and what they are in all."""

    entries: tuple[Entry, ...]
    numel: int
    whole_numel: int
    mesh: tuple[int, ...]
    rank: int | None

    @property
    def fact(self) -> str:
        """``one rank of 2: 18 of 30 elements``."""
        ranks, here = format_count(prod(self.mesh)), format_count(self.numel)
        return f"one rank of {ranks}: {here} of {plural(self.whole_numel, 'element')}"


class ModelFacts(NamedTuple):
    """The live model that kinds were read from.

    ``text`` is how the user named it, ``arguments`` what its factory was given; ``built`` says on which
    device, and why not on meta.
    ``matched`` of the file's ``names`` are the model's, by way of ``mapping`` ("" if as they are);
    ``matched`` is None where the model itself is what is inspected. The rest is as in ``ModelSpec``.
    """

    text: str
    class_name: str
    built: str
    none_names: tuple[str, ...]
    lazy_names: tuple[str, ...]
    custom_load: tuple[str, ...]
    matched: int | None = None
    names: int = 0
    mapping: str = ""
    arguments: tuple[str, ...] = ()


class Inspection(NamedTuple):
    """The result of ``inspect`` for one checkpoint."""

    checkpoint: Checkpoint
    title: str  # what it is, in a few words: "training checkpoint", "state_dict", "whole pickled module"
    rows: tuple[Row, ...]  # as in the file
    missing: tuple[Row, ...]  # buffers (with a model: parameters) that the file lacks, or possibly lacks
    groups: tuple[Group, ...]
    weights_root: Root | None  # the root that other commands would take; None if ambiguous
    summary: Summary
    findings: tuple[Finding, ...]
    model: ModelFacts | None = None  # where kinds come from a live model
    weights: Weights = Weights()
    spread: Spread | None = None  # where entries are one rank's part of what is saved
    sources: tuple[SourceUsed, ...] = ()  # where source was asked for kinds

    @property
    def ok(self) -> bool:
        """True when no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)


def container_bases(checkpoint: Checkpoint, summary: Summary) -> set[str]:
    """The evidence for kinds, with that of the container itself where a live model outweighs it."""
    bases = {basis for _, basis, _ in summary.bases}
    if Basis.MODULE.value in bases:
        bases.update({entry.declared.basis.value for entry in checkpoint.entries})
    return bases
