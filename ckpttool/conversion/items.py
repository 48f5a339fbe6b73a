"""The tensors that a conversion keeps, under their new names and dtypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ckpttool.conversion.placing import Item
from ckpttool.conversion.selection import Selection
from ckpttool.names.globs import Globs
from ckpttool.names.renames import Rule, rename_all, rename_modules
from ckpttool.values.checkpoint import (
    Checkpoint,
    CompositeTensor,
    Key,
    Kind,
    ModuleExtras,
    Root,
    Tensor,
)
from ckpttool.values.conversion import Cast, Options, Piece, Placed, PlacedComposite, Planned
from ckpttool.values.dtypes import DType
from ckpttool.values.errors import CkptToolError
from ckpttool.values.inspection import Row
from ckpttool.values.words import cut, plural, some

_WORDS = {
    Kind.PARAMETER: ("parameter",),
    Kind.PERSISTENT_BUFFER: ("buffer",),
    Kind.NON_PERSISTENT_BUFFER: ("buffer",),
    Kind.EXTRA_STATE: ("extra state",),
    Kind.OPTIMIZER_STATE: ("optimizer state",),
    Kind.UNKNOWN: ("of unknown kind", "of unknown kind"),
}


# ------------------------------------------------------------------------------------------------- names


def name_items(
    checkpoint: Checkpoint, selection: Selection, options: Options, rule: Rule | None
) -> tuple[list[Item], dict[str, str]]:
    """Kept rows with their new names and dtypes, and old name -> new name of those that change.

    Raises:
        CkptToolError: two names become equal, or no name changes at all.
    """
    renames: dict[Root, dict[str, str]] = {}
    if rule is not None:
        by_root: dict[Root, list[str]] = {}
        for row in selection.rows:
            if isinstance(row.entry.name, str) and _is_renamed(row):
                by_root.setdefault(row.entry.root, []).append(row.entry.name)
        renames = {root: rename_all(names, rule, checkpoint.path) for root, names in by_root.items()}
    renamed = {old: new for names in renames.values() for old, new in names.items()}
    if rule is not None and not renamed:
        raise CkptToolError("no name changes: nothing is so called", path=checkpoint.path)
    keep_dtype = Globs(options.keep_dtype)
    cut = len(selection.base)
    items = []
    for row in selection.rows:
        entry = row.entry
        name = entry.name
        if isinstance(name, str) and entry.root in renames and _is_renamed(row):
            name = renames[entry.root].get(name, name)
        cast = None if keep_dtype.match(entry.root, entry.name) else cast_of(row, options.dtype)
        items.append(Item(row, entry.root[cut:], name, cast))
    _refuse_collisions(items, checkpoint.path)
    return items, renamed


def _refuse_collisions(items: Sequence[Item], path: str) -> None:
    """A new name may meet one that no rule touched."""
    seen: dict[tuple[Root, Key], Key] = {}
    for item in items:
        other = seen.setdefault((item.root, item.name), item.row.entry.name)
        if other != item.row.entry.name:
            both = f"{str(other)!r} and {str(item.row.entry.name)!r}"
            raise CkptToolError(f"{both} would both be called {str(item.name)!r}", path=path)


def module_facts(
    checkpoint: Checkpoint, selection: Selection, rule: Rule | None
) -> tuple[dict[Root, dict[str, int | None]], dict[Root, dict[str, ModuleExtras]]]:
    """``_metadata`` of the state_dicts that are kept, under the new names."""
    versions: dict[Root, dict[str, int | None]] = {}
    extras: dict[Root, dict[str, ModuleExtras]] = {}
    kept = {row.entry.root for row in selection.rows}
    for root, modules in checkpoint.module_versions.items():
        if root not in kept:
            continue
        moved = {path: path for path in modules} if rule is None else rename_modules(modules, rule)
        there = root[len(selection.base) :]
        versions[there] = {new: modules[old] for old, new in moved.items()}
        facts = checkpoint.module_extras.get(root, {})
        extras[there] = {new: facts[old] for old, new in moved.items() if old in facts}
    return versions, extras


def _is_renamed(row: Row) -> bool:
    """Optimizer state has names of its own."""
    return row.classification.kind is not Kind.OPTIMIZER_STATE


# ------------------------------------------------------------------------------------------------ dtypes


def cast_of(row: Row, dtype: DType | None) -> DType | None:
    """The dtype that a tensor gets: another one for real-valued parameters only."""
    tensor = row.entry.strided
    if dtype is None or tensor is None or tensor.dtype is dtype or not tensor.dtype.is_floating_point:
        return None
    packed = tensor.dtype.packed > 1 or tensor.dtype.bits < 8
    return None if packed or row.classification.kind is not Kind.PARAMETER else dtype


def describe_casts(items: Sequence[Item], dtype: DType) -> list[str]:
    """Say on what evidence entries were taken for parameters, and what stayed as it was."""
    cast: Counter[str] = Counter()
    stay: Counter[tuple[str, ...]] = Counter()
    for item in items:
        classification = item.row.classification
        if item.cast is not None:
            exact = "" if classification.exact else "inferred by "
            cast[exact + classification.basis.value] += 1
        elif (tensor := item.row.entry.strided) is None or not tensor.dtype.is_floating_point:
            stay["not floating point", "not floating point"] += 1
        elif tensor.dtype is not dtype:
            stay[_WORDS[classification.kind]] += 1
    basis = ", ".join(f"{count:,} {what}" for what, count in cast.most_common())
    notes = [f"cast {plural(cast.total(), 'parameter')} to {dtype.name}: {basis or 'none'}"]
    if stay:
        kept = ", ".join(plural(count, *what) for what, count in stay.most_common())
        notes.append(f"dtype kept: {kept}")

    return notes


def describe_classes(items: Sequence[Item]) -> list[str]:
    """Say of which tensors the class stays behind, with what attributes it has."""
    by_class: dict[str, list[str]] = {}
    for item in items:
        if item.row.entry.subclass:
            by_class.setdefault(item.row.entry.subclass, []).append(str(item.name))
    return [
        f"without the class {cut(cls)} and its attributes: {plural(len(names), 'tensor')} ({some(names)})"
        for cls, names in by_class.items()
    ]


def list_casts(tensors: Sequence[Planned], pieces: Sequence[Piece]) -> list[Cast]:
    """One for each piece that is cast; ties share it."""
    found: dict[int, Cast] = {}
    for item in tensors:
        value = item.value
        if not isinstance(value, Placed):
            continue
        piece = pieces[value.piece]
        if piece.cast is not None and value.piece not in found:
            found[value.piece] = Cast(str(item.name), piece.source.dtype, piece.cast, value.piece)
    return list(found.values())


# -------------------------------------------------------------------------------------------- composites


def compose(value: Tensor | None, supply: Iterator[Placed]) -> Placed | PlacedComposite:
    """A tensor with its leaves taken from ``supply``, in the order of ``Item.leaves``.

    Parts nest at most as deep as the reader lets rebuild calls nest (16).
    """
    if not isinstance(value, CompositeTensor):
        return next(supply)
    placed = tuple((part.name, compose(part.value, supply)) for part in value.parts)
    return PlacedComposite(*value[:4], placed, *value[5:])
