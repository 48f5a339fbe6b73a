"""How kinds, presences and bases are called, and which style they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ckpttool.render.tables import Span
from ckpttool.values.checkpoint import EXACT_BASES, Basis, Classification, Kind, Presence
from ckpttool.values.words import format_count, plural

KIND_NAMES = {
    Kind.PARAMETER: "parameter",
    Kind.PERSISTENT_BUFFER: "buffer",
    Kind.NON_PERSISTENT_BUFFER: "non-persistent",
    Kind.EXTRA_STATE: "extra state",
    Kind.OPTIMIZER_STATE: "optimizer state",
    Kind.UNKNOWN: "unknown",
}

KIND_NOUNS = {
    **KIND_NAMES,
    Kind.NON_PERSISTENT_BUFFER: "non-persistent buffer",
    Kind.EXTRA_STATE: "extra state entry",
    Kind.OPTIMIZER_STATE: "optimizer state entry",
    Kind.UNKNOWN: "unknown entry",
}

_KIND_STYLES = {
    Kind.PARAMETER: "parameter",
    Kind.PERSISTENT_BUFFER: "buffer",
    Kind.NON_PERSISTENT_BUFFER: "missing",
    Kind.EXTRA_STATE: "state",
    Kind.OPTIMIZER_STATE: "state",
    Kind.UNKNOWN: "unknown",
}

_BASIS_PHRASES = {
    Basis.MODULE: "by the module",
    Basis.PICKLED_MODULE: "by the pickled module",
    Basis.TORCHSCRIPT: "by TorchScript",
    Basis.EXPORT: "by the export signature",
    Basis.PICKLED_PARAMETER: "pickled as Parameter",
    Basis.OPTIMIZER: "by optimizer",
    Basis.METADATA: "by _metadata",
    Basis.ORDER: "by order",
    Basis.NAME: "by name table",
    Basis.SIBLING: "by siblings",
    Basis.DTYPE: "by dtype",
    Basis.NONE: "without evidence",
}


def kind_name(classification: Classification) -> str:
    """Return the kind in a word."""
    return KIND_NAMES[classification.kind]


def kind_style(classification: Classification) -> str:
    """Return the style of a kind."""
    return "warning" if classification.presence is Presence.UNEXPECTED else _KIND_STYLES[classification.kind]


def basis_name(basis: Basis) -> str:
    """Return a basis as it stands in a table: ``optimizer``, ``module (exact)``, ``—``."""
    if basis is Basis.NONE:
        return "—"
    text = basis.value.replace("_", " ")
    return f"{text} (exact)" if basis in EXACT_BASES else text


def iter_legend(bases: Iterable[tuple[str, str, int]]) -> Iterator[Span]:
    """Yield ``134 parameters: 127 by optimizer, 7 by order``, one span per kind; unknown always last."""
    counts: dict[Kind, dict[Basis, int]] = {}
    for kind_value, basis_value, entries in bases:
        counts.setdefault(Kind(kind_value), {})[Basis(basis_value)] = entries
    unknown = sum(counts.pop(Kind.UNKNOWN, {}).values())
    for kind in KIND_NOUNS:
        if kind in counts and kind is not Kind.OPTIMIZER_STATE:
            yield Span(_kind_phrase(kind, counts[kind]), _KIND_STYLES[kind])
    yield Span(f"{format_count(unknown)} unknown", _KIND_STYLES[Kind.UNKNOWN] if unknown else "dim")


def _kind_phrase(kind: Kind, counts: dict[Basis, int]) -> str:
    head = plural(sum(counts.values()), KIND_NOUNS[kind])
    ordered = [(basis, counts[basis]) for basis in Basis if basis in counts]
    exact = ", exact" if counts.keys() <= EXACT_BASES else ""
    if len(ordered) == 1:
        return f"{head}: {_BASIS_PHRASES[ordered[0][0]]}{exact}"
    phrases = [f"{format_count(entries)} {_BASIS_PHRASES[basis]}" for basis, entries in ordered]
    return f"{head}: {', '.join(phrases)}{exact}"
