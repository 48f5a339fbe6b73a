"""What differs between a checkpoint and a live model, and what is odd about the model, as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from ckpttool.findings.text import about, short_name
from ckpttool.names.match import NameMatch
from ckpttool.values.checkpoint import Basis, Classification, Entry, Finding, Kind, Presence, Root
from ckpttool.values.dtypes import DType
from ckpttool.values.model import ModelSpec
from ckpttool.values.words import agree, cut, plural, some

Shape: TypeAlias = tuple[int, ...]

STALE = "stale: this version does not save it"

_NOUNS = {
    Kind.PARAMETER: "parameter",
    Kind.PERSISTENT_BUFFER: "persistent buffer",
    Kind.NON_PERSISTENT_BUFFER: "non-persistent buffer",
    Kind.EXTRA_STATE: "extra state",
}
_REGISTERED = {Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER}


class Differences:
    """Entries that both sides have, and what is not the same of them."""

    def __init__(self) -> None:
        self.stale: list[Entry] = []
        self.shapes: list[tuple[Entry, Shape, Shape]] = []  # in the file, in the model
        self.dtypes: dict[tuple[DType, DType], list[Entry]] = {}
        self.kinds: list[tuple[Entry, Entry]] = []

    def compare(self, entry: Entry, known: Entry) -> Classification:
        """The classification of ``entry``, which the model knows as ``known``."""
        kind, said = known.declared.kind, entry.declared
        notes = []
        presence = Presence.PRESENT
        if kind is Kind.NON_PERSISTENT_BUFFER and not said.exact:
            presence = Presence.UNEXPECTED
            self.stale.append(entry)
            notes.append(STALE)
        if _kinds_differ(said, kind):
            self.kinds.append((entry, known))
            notes.append(f"{_NOUNS[said.kind]} in the file")
        stored, wanted = entry.value, known.value
        if stored is not None and wanted is not None:
            if stored.shape is not None and wanted.shape is not None and stored.shape != wanted.shape:
                self.shapes.append((entry, stored.shape, wanted.shape))
                notes.append(f"{list(wanted.shape)} in the model")
            if stored.dtype is not None and wanted.dtype is not None and stored.dtype is not wanted.dtype:
                self.dtypes.setdefault((stored.dtype, wanted.dtype), []).append(entry)
                notes.append(f"{wanted.dtype.name} in the model")
        return Classification(kind, Basis.MODULE, presence, "; ".join(notes))

    def findings(self) -> Iterator[Finding]:
        """A sentence per way to differ."""
        fact = (
            "stale: in the file, but this version of the model does not save such an entry, and strict "
            "loading refuses; leave out with `--exclude`"
        )
        yield from about("stale-buffer", "warning", self.stale, fact)
        yield from self._shape_findings()
        for (stored, wanted), entries in self.dtypes.items():
            fact = f"{stored.name} in the file and {wanted.name} in the model: load_state_dict casts without "
            if _is_widening(stored, wanted):
                yield from about("dtype-differs", "info", entries, f"{fact}a word")
            else:
                fact += "a word, and values may change: verify tells which do"
                yield from about("dtype-differs", "warning", entries, fact)
        if self.kinds:
            entry, known = self.kinds[0]
            was, now = _NOUNS[entry.declared.kind], _NOUNS[known.declared.kind]
            fact = f"of another kind in the model: {short_name(entry)} was a {was} and is a {now}"
            yield from about("kind-differs", "warning", [each for each, _ in self.kinds], fact)

    def _shape_findings(self) -> Iterator[Finding]:
        # torch/nn/modules/module.py, _load_from_state_dict: what was a vector of one in torch 0.3.
        scalars = [entry for entry, *shapes in self.shapes if shapes == [(1,), ()]]
        fact = "a vector of one value in the file and a scalar in the model: load_state_dict takes the value"
        yield from about("shape-differs", "warning", scalars, fact)
        others = [item for item in self.shapes if item[1:] != ((1,), ())]
        if others:
            examples = [
                f"{short_name(entry)} is {list(stored)} in the file and {list(wanted)} in the model"
                for entry, stored, wanted in others
            ]
            fact = f"{plural(len(others), 'entry')} cannot be loaded: {some(examples)}"
            yield Finding("shape-differs", "error", str(others[0][0].name), fact)


def _kinds_differ(said: Classification, kind: Kind) -> bool:
    """Whether the file itself knows the entry as something else."""
    if not said.exact or said.kind is kind or not {said.kind, kind} <= _REGISTERED:
        return False
    # TorchScript and exported programs keep every buffer alike.
    return said.basis is Basis.PICKLED_MODULE or Kind.PARAMETER in (kind, said.kind)


def _is_widening(stored: DType, wanted: DType) -> bool:
    """Whether every value of one dtype is one of the other."""
    if stored.kind != wanted.kind or stored.kind not in ("float", "int", "uint", "complex"):
        return False
    # Floats of 8 bits are of five ranges, and one of 16 bits has not all of them.
    return wanted.bits > stored.bits and (stored.kind != "float" or stored.bits > 8 or wanted.bits > 16)


_FATES = {
    Kind.PARAMETER: ("it keeps what the constructor draws", "they keep what the constructor draws"),
    Kind.PERSISTENT_BUFFER: ("it keeps what the constructor sets", "they keep what the constructor sets"),
    Kind.EXTRA_STATE: ("set_extra_state is not called", "set_extra_state is not called"),
    Kind.UNKNOWN: ("nothing happens", "nothing happens"),
}
_MADE_BY_HOOKS = ("entry made by a state_dict hook", "entries made by state_dict hooks")


def missing_findings(
    spec: ModelSpec, missing: Sequence[Entry], may_be_unread: Callable[[Root, str], bool] = lambda *_: False
) -> Iterator[Finding]:
    """What a load would not fill, non-persistent buffers apart.

    ``may_be_unread`` says of an entry that it is perhaps in bytes of the file that are not read.
    """
    tied: list[Entry] = []
    unread: list[Entry] = []
    own_code: list[Entry] = []
    by_kind: dict[Kind, list[Entry]] = {}
    for entry in missing:
        kind = entry.declared.kind
        if kind is Kind.NON_PERSISTENT_BUFFER:
            continue
        if entry.declared.tied_to:
            tied.append(entry)
        elif may_be_unread(entry.root, str(entry.name)):
            unread.append(entry)
        elif _loads_by_own_code(spec, str(entry.name)):
            own_code.append(entry)
        else:
            by_kind.setdefault(kind, []).append(entry)
    for kind, entries in by_kind.items():
        count = plural(len(entries), *((_NOUNS[kind],) if kind in _NOUNS else _MADE_BY_HOOKS))
        fact = (
            f"{count} of the model ({some(entries, short_name)}) {agree(len(entries), 'is', 'are')} not in "
            f"the file: strict loading refuses, and without strict {agree(len(entries), *_FATES[kind])}"
        )
        severity = "warning" if kind is Kind.UNKNOWN else "error"
        yield Finding("missing-entry", severity, str(entries[0].name), fact)
    if tied:
        notes = list(dict.fromkeys(entry.declared.note for entry in tied))
        fact = (
            f"missing, but {some(notes)}: strict=True refuses, "
            "safetensors.torch.load_model and strict=False do not"
        )
        yield from about("missing-tied", "warning", tied, fact)
    yield from about("missing-entry", "warning", unread, f"not seen: {PERHAPS_UNREAD}")
    yield from about("missing-entry", "warning", own_code, f"not in the file; {_OWN_CODE}")


PERHAPS_UNREAD = "perhaps in a module that the file keeps as bytes, which are not read"
_OWN_CODE = "the module loads by code of its own, which may rename: verify tells"


def unexpected_findings(spec: ModelSpec, unexpected: Sequence[Entry], match: NameMatch) -> Iterator[Finding]:
    """What the model would not take."""
    own_code: list[Entry] = []
    empty: list[Entry] = []
    others: list[Entry] = []
    slots = frozenset(spec.none_names)
    for entry in unexpected:
        name = match.to_model.get(str(entry.name), str(entry.name))
        (own_code if _loads_by_own_code(spec, name) else empty if name in slots else others).append(entry)
    fact = "in the file, and in the model registered as None until something is assigned: strict loading "
    yield from about("unexpected-entry", "warning", empty, f"{fact}into a fresh model refuses")
    fact = "in the file and not in the model: strict loading refuses; leave out with `--exclude`"
    yield from about("unexpected-entry", "warning", others, fact)
    yield from about("unexpected-entry", "info", own_code, f"in the file and not in the model; {_OWN_CODE}")


def _loads_by_own_code(spec: ModelSpec, name: str) -> bool:
    return any(own.renames and own.holds(name) for own in spec.custom_load)


# ---------------------------------------- names


def names_findings(spec: ModelSpec, match: NameMatch) -> Iterator[Finding]:
    """How the names of a file met the model's, if not as they are."""
    entries = spec.checkpoint.entries
    if not entries:
        yield Finding("model-names", "warning", "", "the model has no parameters and no buffers")
    elif not match.matched:
        names = list(match.to_model)
        wanted = some(entries, short_name)
        none = agree(
            len(names), "the file's only name is not", f"none of the file's {plural(len(names), 'name')} is"
        )
        fact = f"{none} one of the model's {len(entries):,}: {some(names, cut)} against {wanted}"
        if not names:
            fact = f"the file has none of the model's {plural(len(entries), 'name')}: {wanted}"
        yield Finding("model-names", "error", "", f"{fact}; is it another model, or is there a `--root`?")
    elif match.description:
        verb = agree(match.matched, "matches", "match")
        met = f"{match.matched:,} of {plural(len(match.to_model), 'name')} {verb} the model's"
        yield Finding("model-names", "info", "", f"{met}, with {match.description}")


def model_findings(spec: ModelSpec) -> Iterator[Finding]:
    """What is worth knowing about a model before there is a file."""
    if spec.none_names:
        fact = (
            f"{plural(len(spec.none_names), 'slot')} registered as None ({some(spec.none_names, cut)}): "
            "no key until something is assigned, and then a fresh model calls that key unexpected"
        )
        yield Finding("none-slot", "info", spec.none_names[0], fact)
    if spec.custom_load:
        named = some([cut(str(own)) for own in spec.custom_load])
        own = agree(len(spec.custom_load), "saves or loads in its own way", "save or load in their own way")
        fact = f"{plural(len(spec.custom_load), 'module')} {own}: {named}"
        yield Finding("custom-load", "info", "", f"{fact}; keys in a file may differ from the attributes")
