"""From two checkpoints to what is laid beside what: the branches that match, and the rest in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from ckpttool.inspection.summary import choose_weights_root, tally_rows
from ckpttool.kinds.aliases import find_aliases
from ckpttool.kinds.classify import classify
from ckpttool.names.globs import make_filter
from ckpttool.values.checkpoint import Checkpoint, Key, Opaque, Root, Value
from ckpttool.values.difference import Side
from ckpttool.values.inspection import Inspection, Row
from ckpttool.values.words import plural

if TYPE_CHECKING:
    from ckpttool.files.local import Sources
    from ckpttool.kinds.source.source_kinds import SourceKinds

_Leaf = TypeVar("_Leaf", Value, Opaque)

Tie: TypeAlias = tuple[int, Root]
"""What all entries of one state_dict have in common that are one tensor in its file."""

_MOST_NAMED = 4
_MOST_SHOWN = 40  # characters of a name in a sentence


class Placed(NamedTuple):
    """A row at the place where it is compared: ``root`` leaves out the branch that was chosen."""

    root: Root
    name: Key
    row: Row


class Scope(NamedTuple):
    """What is compared of each side. ``left_out`` says what is not.

    ``base_a`` and ``base_b`` are the branches whose values are compared, but for those in ``skipped``, which
    are branches (by their first key) whose tensors are left out. ``whole``: nothing is left out. The values
    under ``home_a``, where the weights stand, are compared with those under ``home_b``. ``torn`` are mappings
    that have lost a tensor so: what else only one side has in them may have gone with it.
    """

    a: tuple[Placed, ...]
    b: tuple[Placed, ...]
    base_a: Root
    base_b: Root
    whole: bool
    left_out: tuple[str, ...]
    skipped: frozenset[Key] = frozenset()
    home_a: Root = ()
    home_b: Root = ()
    torn: frozenset[Root] = frozenset()


def make_side(
    checkpoint: Checkpoint, label: str, source: SourceKinds | None = None, files: Sources | None = None
) -> Side:
    """One side with the kinds of its entries: those of a model or a manifest are told, not found.

    ``source`` and ``files`` as for ``inspect_checkpoint``.
    """
    aliasing = find_aliases(checkpoint.entries)
    if checkpoint.files and source is not None and files is not None:
        from ckpttool.inspection.contents import classify_asked

        kinds = classify_asked(checkpoint, aliasing.tied_to, source, files).classifications
    elif checkpoint.files:
        kinds = classify(checkpoint, aliasing.tied_to).classifications
    else:
        kinds = tuple([entry.declared for entry in checkpoint.entries])
    rows = tuple(map(Row, checkpoint.entries, kinds, aliasing.tied_to))
    return Side(label, checkpoint, rows, choose_weights_root(checkpoint, tally_rows(rows)))


def choose_scope(a: Side, b: Side, root_a: Root | None, root_b: Root | None) -> Scope:
    """Lay the branches that were asked for upon each other, or the weights, or all.

    Unasked, everything is compared, with the weights wherever they stand; except that a file that
    has nothing but weights is compared with the weights of the other.
    """
    if root_a is not None or root_b is not None:
        base_a = root_a if root_a is not None else _counterpart(a, root_b)
        base_b = root_b if root_b is not None else _counterpart(b, root_a)
        return Scope(_under(a.rows, base_a), _under(b.rows, base_b), base_a, base_b, False, ())
    home_a, home_b = a.weights_root, b.weights_root
    more_a, more_b = (any(row.entry.root != side.weights_root for row in side.rows) for side in (a, b))
    alike = more_a == more_b
    if home_a is None or home_b is None or (alike and home_a == home_b):
        return Scope(_under(a.rows, ()), _under(b.rows, ()), (), (), True, ())
    if alike:  # only the weights' own place is moved
        moved = [item._replace(root=home_b) if item.root == home_a else item for item in _under(a.rows, ())]
        return Scope(tuple(moved), _under(b.rows, ()), (), (), True, (), frozenset(), home_a, home_b)
    # A branch goes with all that is in it: lr and betas are not compared where the moments are not.
    sides = (a, home_a, "A"), (b, home_b, "B")
    outside = [row.entry.root for side, home, _ in sides for row in side.rows if row.entry.root != home]
    skipped = frozenset([root[0] for root in outside if root])
    values = [_values_beside(side, home, skipped) for side, home, _ in sides]
    left: list[str] = []
    for (side, home, which), mine, other in zip(sides, values, reversed(values), strict=True):
        tensors = [row.entry.root for row in side.rows if row.entry.root != home]
        left += _said_of(f"only in {which}", tensors, "tensor")
        left += _said_of(
            f"only in {which}", [root for root, name in mine if (root, name) not in other], "value"
        )
    left += _said_of(
        "on both sides", [root for root, name in values[0] if (root, name) in values[1]], "value"
    )
    places = _at(a.rows, home_a), _at(b.rows, home_b)
    return Scope(*places, (), (), False, tuple(left), skipped, home_a, home_b, frozenset(outside))


def _values_beside(side: Side, home: Root, skipped: AbstractSet[Key]) -> dict[tuple[Root, Key], None]:
    """Where values and objects stand in branches that are left out, in the order of the file."""
    leaves: tuple[Value | Opaque, ...] = (*side.checkpoint.values, *side.checkpoint.opaque)
    return dict.fromkeys([leaf[:2] for leaf in leaves if _is_skipped(leaf.root, skipped, home)])


def _said_of(where: str, roots: Sequence[Root], noun: str) -> Iterator[str]:
    """How many of what is left out stand in which branch, in words."""
    if roots:
        yield f"{where}: {', '.join(_by_branch(roots, noun))}"


def _is_skipped(root: Root, skipped: AbstractSet[Key], home: Root) -> bool:
    """Whether what is at ``root`` belongs to a branch that is left out, and is not around the weights."""
    return root[:1] != home[:1] and not skipped.isdisjoint(root[:1])


def _by_branch(roots: Iterable[Root], noun: str) -> list[str]:
    """How many of what stands at ``roots`` each branch has, the first few by name."""
    branches = Counter([str(root[0])[:_MOST_SHOWN] if root else "top" for root in roots])
    facts = [f"{plural(count, noun)} of {name}" for name, count in list(branches.items())[:_MOST_NAMED]]
    more = len(branches) - len(facts)
    return [*facts, plural(more, "more branch")] if more else facts


def digest_scope(inspection: Inspection) -> tuple[Placed, ...]:
    """Entries that a content hash is over: the weights by name.

    Where it is not clear which are the weights, or they are not in the selection, every entry by path.
    """
    return _at(inspection.rows, inspection.weights_root) or _under(inspection.rows, ())


def tie_of(row: Row) -> Tie:
    """The tie that ``row`` belongs to, of itself alone if it is tied to nothing; the same while it lives."""
    return id(row.tied_to or row.entry), row.entry.root


def select(items: Sequence[Placed], include: Sequence[str], exclude: Sequence[str]) -> tuple[Placed, ...]:
    """The items that some ``include`` glob (if any) and no ``exclude`` glob matches."""
    if not include and not exclude:
        return tuple(items)
    is_chosen = make_filter(include, exclude)
    return tuple(item for item in items if is_chosen(*item.row.entry[:2]))


def leaves_under(
    leaves: Iterable[_Leaf], base: Root, skipped: AbstractSet[Key], home: Root = (), to: Root = ()
) -> list[_Leaf]:
    """Those of ``leaves`` that are compared, with roots relative to ``base``; from ``home`` moved ``to``."""
    depth, height = len(base), len(home)
    return [
        leaf._replace(root=to + root[height:] if home and root[:height] == home else root)
        for leaf in leaves
        if leaf.root[:depth] == base and not _is_skipped(leaf.root, skipped, home)
        for root in (leaf.root[depth:],)
    ]


def _counterpart(side: Side, other: Root | None) -> Root:
    """The branch to lay beside ``other``: the one of that name, else the weights, else the top."""
    roots = {row.entry.root for row in side.rows}
    if other is not None and any(root[: len(other)] == other for root in roots):
        return other
    return side.weights_root or ()


def _under(rows: Iterable[Row], base: Root) -> tuple[Placed, ...]:
    """Rows at or below ``base``."""
    depth = len(base)
    inside = [row for row in rows if row.entry.root[:depth] == base]
    return tuple([Placed(row.entry.root[depth:], row.entry.name, row) for row in inside])


def _at(rows: Iterable[Row], root: Root | None) -> tuple[Placed, ...]:
    """Rows of one mapping, if there is one."""
    return tuple([Placed((), row.entry.name, row) for row in rows if row.entry.root == root])
