"""A checkpoint in the light of a live model: exact kinds, what is missing, what is not the model's.

Names meet by whole path parts (``match_names``). A missing non-persistent buffer is by design;
one that is in a state_dict is stale: this version of the model does not save it. A file that says
itself what is registered (a pickled module, TorchScript, an exported program) is no state_dict, and
may hold non-persistent buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ckpttool.findings.model import (
    Differences,
    missing_findings,
    names_findings,
    unexpected_findings,
)
from ckpttool.inspection.summary import choose_weights_root, tally_rows
from ckpttool.kinds.aliases import find_aliases
from ckpttool.kinds.classify import Kinds, classify
from ckpttool.names.match import NameMatch, match_names
from ckpttool.values.checkpoint import (
    UNCLASSIFIED,
    Checkpoint,
    Classification,
    Entry,
    Finding,
    Kind,
    Presence,
    Root,
    Tensor,
    TensorInfo,
)
from ckpttool.values.inspection import ModelFacts, Row
from ckpttool.values.model import ModelSpec

AS_DESIGNED = "by design"
NOT_IN_MODEL = "not in the model"

_MOST_COMPARED = 16  # state_dicts of one checkpoint that are laid against the model, in file order


class Applied(NamedTuple):
    """What a model says of the state_dict at ``root``.

    ``classifications`` are its own, by position in the checkpoint's entries; ``unexpected`` are
    positions of those that it does not know. ``missing`` are entries of the model that the file
    lacks, under the model's names and without storage.
    """

    root: Root
    match: NameMatch
    classifications: Mapping[int, Classification]
    unexpected: frozenset[int]
    missing: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    facts: ModelFacts

    def amend(self, kinds: Kinds) -> Kinds:
        """What ``classify`` inferred of the checkpoint, with what the model says instead."""
        found = list(kinds.classifications)
        for position, classification in self.classifications.items():
            found[position] = classification
        for position in self.unexpected:
            found[position] = found[position]._replace(presence=Presence.UNEXPECTED, note=NOT_IN_MODEL)
        guessed = tuple(entry for entry in kinds.missing if entry.root != self.root)
        return kinds._replace(classifications=tuple(found), missing=(*self.missing, *guessed))


def apply_model(checkpoint: Checkpoint, spec: ModelSpec, root: Root | None = None) -> Applied:
    """Lay ``spec`` against one state_dict: that at or below ``root`` which has the most of its names."""
    at, match = _find_root(checkpoint, spec, root or ())
    model = {str(entry.name): entry for entry in spec.checkpoint.entries}
    differences = Differences()
    classifications: dict[int, Classification] = {}
    unexpected: dict[int, Entry] = {}
    met = {match.to_model[name] for name in _extra_names(checkpoint, spec, at)}
    for position, entry in enumerate(checkpoint.entries):
        if entry.root != at or entry.value is None:
            continue
        name = match.to_model.get(entry.name) if isinstance(entry.name, str) else None
        known = None if name is None else model.get(name)
        if known is not None:
            met.add(str(known.name))
            if known.declared.exact:
                classifications[position] = differences.compare(entry, known)
        elif not _is_unregistered(entry):
            unexpected[position] = entry
    missing = tuple(_iter_missing(checkpoint, spec, at, met))
    findings = [*names_findings(spec, match), *differences.findings()]
    if match.matched:
        # A load is not given what was put back.
        given = met - {match.to_model.get(str(name)) for root, name in checkpoint.put_back if root == at}
        absent = tuple(_iter_missing(checkpoint, spec, at, given))
        findings += missing_findings(spec, absent, checkpoint.may_be_unread)
        findings += unexpected_findings(spec, list(unexpected.values()), match)
    return Applied(
        at,
        match,
        classifications,
        frozenset(unexpected),
        missing,
        tuple(findings),
        model_facts(spec, match),
    )


def _is_unregistered(entry: Entry) -> bool:
    """Whether the file says that this is no entry of a module: a plain attribute, a constant."""
    return entry.declared.kind is Kind.UNKNOWN and entry.declared != UNCLASSIFIED


def model_facts(spec: ModelSpec, match: NameMatch | None = None) -> ModelFacts:
    """What is said of the model itself; ``match`` is how a file's names met its names."""
    return ModelFacts(
        spec.checkpoint.path,
        spec.class_name,
        spec.note or "built on meta",
        spec.none_names,
        spec.lazy_names,
        tuple(map(str, spec.custom_load)),
        None if match is None else match.matched,
        0 if match is None else len(match.to_model),
        "" if match is None else match.description,
        spec.arguments,
    )


# ---------------------------------------- which state_dict


def _find_root(checkpoint: Checkpoint, spec: ModelSpec, above: Root) -> tuple[Root, NameMatch]:
    """The state_dict with the most of the model's names, and how they meet."""
    saved = [
        str(entry.name)
        for entry in spec.checkpoint.entries
        if entry.declared.kind is not Kind.NON_PERSISTENT_BUFFER
    ]
    names: dict[Root, list[str]] = {}
    for entry in checkpoint.entries:
        if entry.root[: len(above)] == above and entry.value is not None:
            names.setdefault(entry.root, [])
            if isinstance(entry.name, str):
                names[entry.root].append(entry.name)
    if not names:
        return above, match_names([], saved)
    # An optimizer's state has a root for every parameter, and a name or two in each.
    most = max(map(len, names.values()))
    likely = [root for root, those in names.items() if len(those) * 2 >= min(most, len(saved))]
    matches = {
        root: match_names([*names[root], *_extra_names(checkpoint, spec, root)], saved)
        for root in likely[:_MOST_COMPARED]
    }
    best = max(match.matched for match in matches.values())
    equal = [root for root, match in matches.items() if match.matched == best]
    chosen = equal[0]
    if len(equal) > 1:
        tied_to = find_aliases(checkpoint.entries).tied_to
        rows = map(Row, checkpoint.entries, classify(checkpoint, tied_to).classifications, tied_to)
        tallies = {root: tally for root, tally in tally_rows(rows).items() if root in equal}
        usual = choose_weights_root(checkpoint, tallies)
        chosen = equal[0] if usual is None else usual
    return chosen, matches[chosen]


def _extra_names(checkpoint: Checkpoint, spec: ModelSpec, root: Root) -> list[str]:
    """Keys of a state_dict that are no tensors here nor in the model: extra state, a hook's string."""
    endings = {str(entry.name).rpartition(".")[2] for entry in spec.checkpoint.entries if entry.value is None}
    depth = len(root)
    paths: Iterable[Root] = (
        *((*value.root, value.name) for value in checkpoint.values),
        *((*opaque.root, opaque.name) for opaque in checkpoint.opaque),
        *(container.path for container in checkpoint.containers),
        *(entry.root for entry in checkpoint.entries if len(entry.root) > depth),
    )
    found: dict[str, None] = {}
    for path in paths if endings else ():
        if len(path) > depth and path[:depth] == root:
            key = path[depth]
            if isinstance(key, str) and key.rpartition(".")[2] in endings:
                found[key] = None
    return list(found)


# ---------------------------------------- missing


def _iter_missing(checkpoint: Checkpoint, spec: ModelSpec, root: Root, met: set[str]) -> Iterator[Entry]:
    """Entries of the model whose names are not ``met``, without storage."""
    entries = spec.checkpoint.entries
    ties = find_aliases(entries).tied_to
    first_names = [str((first or entry).name) for entry, first in zip(entries, ties, strict=True)]
    in_file: dict[str, str] = {}  # first name of a tie -> one of its names that the file has
    for entry, first in zip(entries, first_names, strict=True):
        if str(entry.name) in met:
            in_file.setdefault(first, str(entry.name))
    for entry, first in zip(entries, first_names, strict=True):
        if str(entry.name) in met:
            continue
        kind = entry.declared.kind
        note, tied_to = AS_DESIGNED, ""
        if kind is not Kind.NON_PERSISTENT_BUFFER:
            tied_to = in_file.get(first, "")
            note = f"tied to {tied_to}, which is in the file" if tied_to else "not in the file"
            if not tied_to and checkpoint.may_be_unread(root, str(entry.name)):
                note = "not seen: perhaps in bytes"
        declared = entry.declared._replace(presence=Presence.MISSING, note=note, tied_to=tied_to)
        yield entry._replace(root=root, value=without_storage(entry.value), declared=declared)


def without_storage(value: Tensor | None) -> Tensor | None:
    """A model's tensor as what it would be: it has no address in any file."""
    return value._replace(storage=None) if isinstance(value, TensorInfo) else value
