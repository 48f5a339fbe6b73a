"""How kinds, presences and bases are called, and which style they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ckpttool.render.tables import Span
from ckpttool.values.checkpoint import EXACT_BASES, Basis, Classification, Kind, Presence
from ckpttool.values.words import NAME_LIMIT, format_count, plural, safe

# A kind -> its name in a table, its noun in a sentence, its style.
_KINDS: dict[str, tuple[str, str, str]] = {
    Kind.PARAMETER: ("parameter", "parameter", "parameter"),
    Kind.PERSISTENT_BUFFER: ("buffer", "buffer", "buffer"),
    Kind.NON_PERSISTENT_BUFFER: ("non-persistent", "non-persistent buffer", "missing"),
    Kind.EXTRA_STATE: ("extra state", "extra state entry", "state"),
    Kind.OPTIMIZER_STATE: ("optimizer state", "optimizer state entry", "state"),
    Kind.UNKNOWN: ("unknown", "unknown entry", "unknown"),
}
KIND_NAMES = {kind: name for kind, (name, _, _) in _KINDS.items()}
KIND_MANY = {kind: plural(2, noun).partition(" ")[2] for kind, (_, noun, _) in _KINDS.items()}
KIND_NOUNS = {kind: noun for kind, (_, noun, _) in _KINDS.items()}
KIND_STYLES = {kind: style for kind, (_, _, style) in _KINDS.items()}

_BASIS_PHRASES = {
    Basis.MODULE: "from the module",
    Basis.PICKLED_MODULE: "from the pickled module",
    Basis.TORCHSCRIPT: "from TorchScript",
    Basis.EXPORT: "from the export signature",
    Basis.COPY: "from a pickled copy",
    Basis.PICKLED_PARAMETER: "from pickled Parameters",
    Basis.OPTIMIZER: "from the optimizer",
    Basis.METADATA: "from _metadata",
    Basis.SOURCE: "from source",
    Basis.SIBLING: "from neighbours",
    Basis.DTYPE: "from dtypes",
    Basis.ORDER: "from key order",
    Basis.SHAPE: "from shapes",
    Basis.NAME: "from names",
    Basis.CONTENTS: "from contents",
    Basis.NONE: "without evidence",
}


def kind_style(classification: Classification) -> str:
    """Return the style of a kind."""
    return "warning" if classification.presence is Presence.UNEXPECTED else KIND_STYLES[classification.kind]


def basis_name(basis: Basis) -> str:
    """Return a basis as it stands in a table: ``optimizer``, ``module (exact)``, ``—``."""
    if basis is Basis.NONE:
        return "—"
    text = "neighbour" if basis is Basis.SIBLING else basis.value.replace("_", " ")
    return f"{text} (exact)" if basis in EXACT_BASES else text


def evidence_name(classification: Classification) -> str:
    """Return the basis as it stands in a table; of source the place, ``blocks.py:181``."""
    source = classification.source
    if source is None or classification.basis is not Basis.SOURCE:
        return basis_name(classification.basis)
    if not source.file:
        return "torch.nn" if source.class_name.startswith("torch.nn.") else basis_name(classification.basis)
    return safe(f"{source.file.rpartition('/')[2]}:{source.line}", NAME_LIMIT)


def basis_phrase(classification: Classification) -> str:
    """Return the evidence as it stands in a sentence: ``from names``, ``from blocks.py:181``."""
    text = evidence_name(classification)
    is_basis = text == basis_name(classification.basis)
    return _BASIS_PHRASES[classification.basis] if is_basis else f"from {text}"


def iter_legend(bases: Iterable[tuple[str, str, int]]) -> Iterator[Span]:
    """Yield ``134 parameters: 127 from the optimizer, 7 from names``, a span per kind; unknown last."""
    counts: dict[Kind, dict[Basis, int]] = {}
    for kind_value, basis_value, entries in bases:
        counts.setdefault(Kind(kind_value), {})[Basis(basis_value)] = entries
    unknown = sum(counts.pop(Kind.UNKNOWN, {}).values())
    for kind in Kind:
        if kind in counts and kind is not Kind.OPTIMIZER_STATE:
            yield Span(_kind_phrase(kind, counts[kind]), KIND_STYLES[kind])
    yield Span(f"{format_count(unknown)} unknown", KIND_STYLES[Kind.UNKNOWN] if unknown else "dim")
    if unknown:
        yield Span("no evidence says what they are: --model or --source may", "dim")


def _kind_phrase(kind: Kind, counts: dict[Basis, int]) -> str:
    head = plural(sum(counts.values()), KIND_NOUNS[kind])
    ordered = [(basis, counts[basis]) for basis in Basis if basis in counts]
    exact = ", exact" if counts.keys() <= EXACT_BASES else ""
    if len(ordered) == 1:
        return f"{head}: {_BASIS_PHRASES[ordered[0][0]]}{exact}"
    phrases = [f"{format_count(entries)} {_BASIS_PHRASES[basis]}" for basis, entries in ordered]
    return f"{head}: {', '.join(phrases)}{exact}"
