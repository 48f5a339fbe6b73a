"""Buffers that are known by what is in them: the one evidence for kinds that is not in a header.

Training moves parameters, so that a mask or a blur kernel in a file that was trained is a buffer. Before it,
parameters are as computed as buffers are. How often that is so was measured, see docs/kinds.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ckpttool.elements.bits import first_values
from ckpttool.elements.constants import MOST_NBYTES, is_constant, why_computed
from ckpttool.files.local import Sources
from ckpttool.files.strides import GAP_NBYTES, stored_view
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.inspection.summary import PROGRESS_KEYS
from ckpttool.kinds.classify import Kinds, Source, classify
from ckpttool.kinds.evidence import is_final
from ckpttool.kinds.state_dict import group_by_module
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Entry,
    Kind,
    Root,
    Strided,
    TensorInfo,
    has_bytes,
    views_of,
)
from ckpttool.values.errors import UnsupportedFeature

_MOST_READ_NBYTES = 16 << 20
_MOST_EACH_NBYTES = 1 << 20
"""What is read for all that is judged, and for any one tensor, with what lies between its elements."""

_MOST_NORMS = 16
_MOST_STEPS = 16
"""Norms that are looked at for one that was trained, and states of an optimizer for one that made a step."""

_OF_NORMS = frozenset("weight bias running_mean running_var num_batches_tracked".split())


def classify_asked(
    checkpoint: Checkpoint, tied_to: Sequence[Entry | None], source: Source, files: Sources
) -> Kinds:
    """The kinds where ``source`` is asked, and ``files`` of the contents of what is then still unknown.

    Raises:
        MalformedCheckpoint: a file changed since its header was read, or is damaged.
    """
    kinds = classify(checkpoint, tied_to, source)
    found = list(kinds.classifications)
    for index, said in judge_contents(checkpoint, found, kinds.weights, files).items():
        found[index] = said
    return kinds._replace(classifications=tuple(found))


def judge_contents(
    checkpoint: Checkpoint,
    classifications: Sequence[Classification],
    weights_roots: Collection[Root],
    sources: Sources,
) -> dict[int, Classification]:
    """What is a buffer by its contents, of the entries that all else leaves unknown, by their index.

    ``classifications`` are parallel to ``checkpoint.entries``; ``weights_roots`` are those of the
    state_dicts. Tensors of at most 64 KiB are read, 16 MiB in all, and only of a file that
    ``looks_trained``.

    Raises:
        MalformedCheckpoint: a file changed since its header was read, or is damaged.
        UnsupportedFeature: numpy is not installed.
    """
    found: dict[int, Classification] = {}
    open_ones = [
        (index, view)
        for index, (entry, said) in enumerate(zip(checkpoint.entries, classifications, strict=True))
        if said.kind is Kind.UNKNOWN
        and said.basis is Basis.NONE
        and entry.root in weights_roots
        and not is_final(entry)
        and (view := _small_view(entry)) is not None
    ]
    if not open_ones:
        return found
    with TensorReader(sources) as reader:
        if not looks_trained(checkpoint, classifications, weights_roots, reader):
            return found
        known: dict[Strided, str | None] = {}
        left = _MOST_READ_NBYTES
        for index, view in open_ones:
            if view not in known:
                nbytes = _read_nbytes(view)
                if nbytes > left:
                    continue
                left -= nbytes
                known[view] = _why(reader, view)
            why = known[view]
            if why is not None:
                found[index] = Classification(Kind.PERSISTENT_BUFFER, Basis.CONTENTS, note=why)
    return found


def looks_trained(
    checkpoint: Checkpoint,
    classifications: Sequence[Classification],
    weights_roots: Collection[Root],
    reader: TensorReader,
) -> bool:
    """Whether the file shows that its weights were trained.

    It does where a norm's weights are not all alike, as they are made, or where it counts steps of a training
    and so do the states of an optimizer. At most 16 norms and 16 states are read.

    Raises:
        MalformedCheckpoint: as ``TensorReader.iter_chunks``.
        UnsupportedFeature: numpy is not installed.
    """
    if _made_steps(checkpoint, classifications, reader):
        return True
    for view in _norm_weights(checkpoint.entries, classifications, weights_roots):
        try:
            data = reader.read(view)
        except UnsupportedFeature:
            continue
        if not is_constant(view.dtype, data):
            return True
    return False


def _made_steps(
    checkpoint: Checkpoint, classifications: Sequence[Classification], reader: TensorReader
) -> bool:
    """Whether a progress at the top of the file and the states of an optimizer count more than 0."""
    counted = {value.name: value.value for value in checkpoint.values if not value.root}
    if not any(_is_positive(counted.get(key)) for key in PROGRESS_KEYS):
        return False
    if any(
        value.name == "step" and value.root[-2:-1] == ("state",) and _is_positive(value.value)
        for value in checkpoint.values
    ):
        return True
    steps = [
        view
        for entry, said in zip(checkpoint.entries, classifications, strict=True)
        if entry.name == "step"
        and said.kind is Kind.OPTIMIZER_STATE
        and (view := entry.tensor) is not None
        and view.numel == 1
        and _is_readable(view)
        and _read_nbytes(view) <= _MOST_EACH_NBYTES
    ]
    for view in steps[:_MOST_STEPS]:
        try:
            if _is_positive(first_values(reader, view, 1)[0]):
                return True
        except UnsupportedFeature:
            continue
    return False


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and value > 0  # type: ignore[operator]


def _norm_weights(
    entries: Sequence[Entry], classifications: Sequence[Classification], roots: Collection[Root]
) -> Iterator[Strided]:
    """Weights and biases of some norms: modules of nothing but vectors of one length, as norms have."""
    by_root: dict[Root, list[int]] = {root: [] for root in roots}
    for index, entry in enumerate(entries):
        if entry.root in by_root:
            by_root[entry.root].append(index)
    norms: list[list[int]] = []
    for indices in by_root.values():
        modules, _ = group_by_module([entries[index] for index in indices])
        for path, positions in modules.items():
            members = {
                str(entries[indices[at]].name)[len(path) :].lstrip("."): indices[at] for at in positions
            }
            if members.keys() <= _OF_NORMS and "weight" in members:
                shapes = {entries[at].shape for name, at in members.items() if name != "num_batches_tracked"}
                shape = shapes.pop()
                if not shapes and shape is not None and len(shape) == 1:
                    norms.append([members[name] for name in ("weight", "bias") if name in members])
    step = max(1, len(norms) // _MOST_NORMS)
    for norm in norms[::step][:_MOST_NORMS]:
        for index in norm:
            view = _small_view(entries[index])
            if view is not None and classifications[index].kind is Kind.PARAMETER:
                yield view


def _small_view(entry: Entry) -> Strided | None:
    """The elements of an entry, each that is stored once, if these are floats and few and the file has them.

    What a view repeats, as an expanded one does, is as alike as its strides make it.
    """
    value = entry.strided
    if value is None or value.dtype.kind != "float" or not value.numel or not _is_readable(value):
        return None
    if isinstance(value, TensorInfo):
        steps = zip(value.shape, value.stride, strict=True)
        value = value._replace(shape=tuple([size if step else 1 for size, step in steps]))
    stored = stored_view(value)
    view = value if stored.numel == value.numel else stored
    return view if view.nbytes <= MOST_NBYTES and _read_nbytes(view) <= _MOST_EACH_NBYTES else None


def _is_readable(value: Strided) -> bool:
    return has_bytes(value) and all(
        view.storage is not None and view.storage.location != "meta" for view in views_of(value)
    )


def _read_nbytes(value: Strided) -> int:
    """About what it takes to read: gaps between elements too, and all before them that is inflated."""
    total = 0
    for view in views_of(value):
        start, end = view.byte_span
        inflated = view.storage is not None and view.storage.compressed_nbytes is not None
        total += end if inflated else min(end - start, view.numel * (GAP_NBYTES + view.dtype.nbytes))
    return total


def _why(reader: TensorReader, view: Strided) -> str | None:
    try:
        data = reader.read(view)
    except UnsupportedFeature:  # elements that are not packed from a whole byte on, and the like
        return None
    return why_computed(view.dtype, view.shape, data)
