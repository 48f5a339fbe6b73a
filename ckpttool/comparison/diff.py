"""``diff_sides``: align, compare, look for renames, and say what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

from ckpttool.comparison.alignment import (
    Alignment,
    Content,
    Pair,
    align,
    find_cycles,
    pair_by_content,
    pair_by_suffix,
)
from ckpttool.comparison.compare import Comparer, Outcome, Watch
from ckpttool.comparison.contents import find_contents, has_all_bytes
from ckpttool.comparison.deciding import KIND_WORDS, leave_out, only_weights, weights_of, word_of
from ckpttool.comparison.findings import find_differences
from ckpttool.comparison.sides import Placed, Scope, Tie, choose_scope, select, tie_of
from ckpttool.comparison.surroundings import compare_surroundings
from ckpttool.elements.digests import digest_tensor
from ckpttool.elements.sums import Tolerance
from ckpttool.files.tensor_bytes import Files, TensorReader
from ckpttool.names.globs import refuse_unmatched
from ckpttool.names.rename_rules import find_rules
from ckpttool.names.renames import Rule
from ckpttool.values.checkpoint import Basis, Kind, Root, Tensor, is_buffer
from ckpttool.values.difference import (
    SAME,
    Diff,
    DiffEntry,
    Ignored,
    NameBasis,
    Numbers,
    Side,
    Status,
    ValueChange,
)
from ckpttool.values.errors import CkptToolError
from ckpttool.values.inspection import Row, is_rebuilt
from ckpttool.values.words import plural, shorten

_EVIDENCE = {basis: rank for rank, basis in enumerate(Basis)}


class Request(NamedTuple):
    """What was asked for. ``only`` is ``parameters``, ``buffers`` or None."""

    root_a: Root | None = None
    root_b: Root | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    only: str | None = None
    align: bool = True
    rule: Rule | None = None
    tolerance: Tolerance = Tolerance()
    structure_only: bool = False
    weights_only: bool = False
    ignore: tuple[str, ...] = ()  # words of --ignore: the values of the two tables below


def diff_sides(
    a: Side,
    b: Side,
    request: Request,
    watch: Watch = lambda nbytes: None,
    files: tuple[Files, Files] | None = None,
) -> Diff:
    """Compare two sides as asked; ``watch`` is told how many bytes of each are done.

    ``files`` are those of both sides where they are held open.

    Raises:
        CkptToolError: a glob fits no entry; ``--map`` makes names collide; a file changed, or is damaged; the
            weights alone are to be compared, and it is not clear which they are.
    """
    files = files or (a.checkpoint.files, b.checkpoint.files)
    roots = request.root_a, request.root_b
    if request.weights_only:
        roots = weights_of(a, request.root_a), weights_of(b, request.root_b)
    scope = choose_scope(a, b, *roots)
    left_out = list(scope.left_out)
    if request.weights_only:
        scope = scope._replace(a=only_weights(scope.a), b=only_weights(scope.b))
        left_out.append("what is beside the weights (--weights-only)")
    alignment = _align(a, b, scope, request, left_out)
    structure_only = request.structure_only or not _comparable(a, b)
    compare: _Bytes | _Digests
    if structure_only:
        compare = _Digests(_no_digest, _no_digest)
    elif a.has_bytes and b.has_bytes:
        compare = _Bytes(files, request.tolerance, watch)
    else:
        compare = _Digests(_digest_of(a, files[0]), _digest_of(b, files[1]))
    pairs, only_a, only_b = list(alignment.pairs), list(alignment.only_a), list(alignment.only_b)
    outcomes = compare.outcomes(pairs)
    if request.align:
        found = _find_renames(compare, pairs, outcomes, only_a, only_b)
        outcomes += compare.outcomes(found)
        pairs += found
    entries = [
        *map(_judge, pairs, outcomes),
        *(_single(item, Status.REMOVED) for item in only_a),
        *(_single(item, Status.ADDED) for item in only_b),
    ]
    entries = [leave_out(entry, request.ignore) for entry in _settle_ties(entries)]
    ignored = Counter(KIND_WORDS[entry.kind] for entry in entries if entry.ignored)
    unread = sum(outcome.equal is None for outcome in outcomes)
    if unread and not structure_only:
        left_out.append(f"{plural(unread, 'tensor')} without values in either file")
    values: tuple[ValueChange, ...] = ()
    selected = bool(request.only or request.include or request.exclude)
    if not (request.weights_only or selected):
        changes, said = compare_surroundings(a, b, scope)
        left_out += said
        values = tuple(change for change in changes if word_of(change) not in request.ignore)
        ignored.update(word for word in map(word_of, changes) if word in request.ignore)
    entries = _in_order(entries, a, b)
    return Diff(
        a,
        b,
        tuple(entries),
        values,
        tuple(find_differences(a, b, entries)),
        alignment.said,
        tuple(left_out),
        structure_only,
        scope.whole,
        selected,
        request.weights_only,
        tuple(Ignored(what, ignored[what]) for what in dict.fromkeys(request.ignore)),
        find_rules([names for entry in entries if (names := entry.guessed_names) is not None]),
    )


def _align(a: Side, b: Side, scope: Scope, request: Request, left_out: list[str]) -> Alignment:
    """Pair by name what was asked for."""
    if request.include or request.exclude:
        compared = [item.row.entry[:2] for item in (*scope.a, *scope.b)]
        every = [row.entry[:2] for row in (*a.rows, *b.rows)]
        refuse_unmatched(request.include, request.exclude, compared, every, noun="entry of either side")
    alignment = align(
        select(_savable(scope.a, b, "A", left_out), request.include, request.exclude),
        select(_savable(scope.b, a, "B", left_out), request.include, request.exclude),
        rule=request.rule,
        guess=request.align,
    )
    return alignment if request.only is None else _keep_only(alignment, request.only, left_out)


def total_nbytes(a: Side, b: Side) -> int:
    """About how many bytes of each side will be read."""
    return min(
        sum(row.entry.value.nbytes for row in side.rows if row.entry.value is not None) for side in (a, b)
    )


def _comparable(a: Side, b: Side) -> bool:
    """Whether each side has bytes, or digests that stand for them."""
    return all(side.has_bytes or side.digests for side in (a, b))


def _savable(items: Sequence[Placed], other: Side, which: str, left_out: list[str]) -> list[Placed]:
    """The items without non-persistent buffers that the other side lacks because it is a state_dict.

    Models, pickled modules and programs have them; a state_dict has none by design.
    """
    if any(_is_non_persistent(row) for row in other.rows):
        return list(items)
    there = {row.entry.name for row in other.rows}
    kept = [item for item in items if not _is_non_persistent(item.row) or item.name in there]
    count = len(items) - len(kept)
    if count:
        buffers = plural(count, "non-persistent buffer")
        left_out.append(f"only in {which}: {buffers}, which no state_dict holds")
    return kept


def _is_non_persistent(row: Row) -> bool:
    """Whether an entry is a non-persistent buffer for sure."""
    return row.classification.kind is Kind.NON_PERSISTENT_BUFFER and row.classification.exact


def _keep_only(alignment: Alignment, only: str, left_out: list[str]) -> Alignment:
    """The part of ``alignment`` that is of one kind; of none, where a kind is unknown, is no answer."""
    kinds: list[Kind] = []

    def keep(*items: Placed) -> bool:
        kinds.append(_better([item.row for item in items]))
        return kinds[-1] is Kind.PARAMETER if only == "parameters" else is_buffer(kinds[-1])

    kept = Alignment(
        tuple(pair for pair in alignment.pairs if keep(pair.a, pair.b)),
        tuple(filter(keep, alignment.only_a)),
        tuple(filter(keep, alignment.only_b)),
        alignment.said,
    )
    unknown = kinds.count(Kind.UNKNOWN)
    if unknown and not any(kept[:3]):
        raise CkptToolError(
            f"no {only} on either side to compare: {plural(unknown, 'entry')} of unknown kind",
            hint="--source tells kinds by the source of the model's class; without --only all are compared",
        )
    if unknown:
        left_out.append(f"{plural(unknown, 'entry')} of unknown kind")
    return kept


def _better(rows: Sequence[Row]) -> Kind:
    """The kind with the strongest evidence."""
    return min(rows, key=lambda row: _EVIDENCE[row.classification.basis]).classification.kind


# -------------------------------------------------------------------------------------- two ways to compare


class _Bytes:
    """The bytes of both sides."""

    def __init__(self, files: tuple[Files, Files], tolerance: Tolerance, watch: Watch) -> None:
        self._files = files
        self._comparer = Comparer(*files, tolerance, watch)

    def outcomes(self, pairs: Sequence[Pair]) -> list[Outcome]:
        outcomes = [Outcome(False)] * len(pairs)
        tensors: dict[int, tuple[Tensor, Tensor]] = {}
        for place, pair in enumerate(pairs):
            a, b = pair.a.row.entry.value, pair.b.row.entry.value
            if a is not None and b is not None and a.shape == b.shape:
                tensors[place] = a, b
            elif a is b:
                outcomes[place] = Outcome(None)
        for place, outcome in zip(tensors, self._comparer.compare(list(tensors.values())), strict=True):
            outcomes[place] = outcome
        return outcomes

    def contents(self, a: _Items, b: _Items, *, differing: bool = False) -> dict[int, Content]:
        return find_contents(a, b, self._files, differing=differing)


class _Digests:
    """Digests that one side lacks the bytes for; the other's are made by reading it."""

    def __init__(self, a: _Digest, b: _Digest) -> None:
        self._digests = a, b

    def outcomes(self, pairs: Sequence[Pair]) -> list[Outcome]:
        both = [(self._digests[0](pair.a), self._digests[1](pair.b)) for pair in pairs]
        return [Outcome(None if a is None and b is None else a == b) for a, b in both]

    def contents(self, a: _Items, b: _Items, *, differing: bool = False) -> dict[int, Content]:
        contents: dict[int, Content] = {}
        for digest, items in zip(self._digests, (a, b), strict=True):
            for item in items:
                if (found := digest(item)) is not None:
                    contents[id(item)] = Content((), found)  # it is of dtype and shape, too
        return contents


_Items = Sequence[Placed]
_Digest = Callable[[Placed], "str | None"]


def _no_digest(item: Placed) -> None:
    """Nothing but dtype and shape is compared."""


def _digest_of(side: Side, files: Files) -> _Digest:
    def look_up(item: Placed) -> str | None:
        entry = item.row.entry
        return side.digests.get((*entry.root, entry.name))

    @cache
    def read(value: Tensor | None) -> str | None:
        if not has_all_bytes(value):
            return None
        with TensorReader(files) as reader:
            return digest_tensor(reader, value)

    return (lambda item: read(item.row.entry.value)) if side.has_bytes else look_up


# -------------------------------------------------------------------------------------------------- renames


def _find_renames(
    compare: _Bytes | _Digests,
    pairs: list[Pair],
    outcomes: list[Outcome],
    only_a: list[Placed],
    only_b: list[Placed],
) -> list[Pair]:
    """Pair what is left by content, then by shape and end of the name; undo pairs whose contents swapped.

    ``pairs`` and ``outcomes`` lose the latter, ``only_a`` and ``only_b`` what was paired.
    """
    changed = [place for place, outcome in enumerate(outcomes) if outcome.equal is False]
    found: list[Pair] = []
    if len(changed) > 1:
        a, b = [pairs[place].a for place in changed], [pairs[place].b for place in changed]
        swapped = find_cycles(pair_by_content(a, b, compare.contents(a, b, differing=True)))
        gone = {id(pair.a) for pair in swapped}
        for place in reversed(changed):
            if id(pairs[place].a) in gone:
                del pairs[place], outcomes[place]
        found += swapped
    by_content = partial(pair_by_content, contents=compare.contents(only_a, only_b))
    for pairing in (by_content, pair_by_suffix):
        new = pairing(only_a, only_b)
        gone = {id(item) for pair in new for item in (pair.a, pair.b)}
        only_a[:] = [item for item in only_a if id(item) not in gone]
        only_b[:] = [item for item in only_b if id(item) not in gone]
        found += new
    return found


# -------------------------------------------------------------------------------------------------- judging


def _judge(pair: Pair, outcome: Outcome) -> DiffEntry:
    a, b = pair.a.row.entry.value, pair.b.row.entry.value
    numbers, note = outcome.numbers, outcome.note
    status = Status.RENAMED if pair.basis in (NameBasis.CONTENT, NameBasis.SUFFIX) else Status.EQUAL
    if a is None or b is None:
        status = status if a is b else Status.SHAPE
    elif a.shape != b.shape:
        status = Status.SHAPE
    elif a.dtype is not b.dtype:
        status = Status.DTYPE
        note = note or _rounding(numbers)
    elif outcome.equal is False:
        within = numbers is not None and numbers.outside == 0  # None where no tolerance was asked for
        status = Status.WITHIN_TOLERANCE if within else Status.CHANGED
    return DiffEntry(
        pair.b.row.entry.root,
        pair.b.name,
        _better((pair.a.row, pair.b.row)),
        status,
        pair.a.row,
        pair.b.row,
        numbers,
        pair.basis,
        note,
    )


def _rounding(numbers: Numbers | None) -> str:
    """What is known of a cast."""
    if numbers is None:
        return ""
    if not numbers.changed:
        return "the same values"
    return "rounded, nothing else" if numbers.unrounded == 0 else ""


def _single(item: Placed, status: Status) -> DiffEntry:
    row = item.row
    a, b = (row, None) if status is Status.REMOVED else (None, row)
    said = row.classification
    note = (said.rebuilt_since or said.note) if is_rebuilt(row) else ""
    return DiffEntry(row.entry.root, item.name, row.classification.kind, status, a, b, note=note)


def _settle_ties(entries: Sequence[DiffEntry]) -> list[DiffEntry]:
    """Note of each entry of one side which entry it is tied to there, if both have that and it is the same.

    A safetensors file keeps one name of a tied tensor, a .pt all of them.
    """
    same: dict[Tie, Row] = {}
    for entry in entries:
        if entry.status in SAME:
            for row in filter(None, (entry.a, entry.b)):
                same.setdefault(tie_of(row), row)
    settled = []
    for entry in entries:
        single = entry.a if entry.b is None else entry.b if entry.a is None else None
        other = None if single is None else same.get(tie_of(single))
        if other is not None:
            name = other.entry.name
            side = "A" if entry.a is None else "B"
            note = f"tied to {shorten(str(name))}; not stored on side {side}"
            entry = entry._replace(tied_to=name, note=note)
        settled.append(entry)
    return settled


def _in_order(entries: Sequence[DiffEntry], a: Side, b: Side) -> list[DiffEntry]:
    """Entries in the order of B's file, removed ones where they stood in A's."""
    places = {id(row): place for place, row in enumerate(b.rows, 1)}
    partner = {id(entry.a): places[id(entry.b)] for entry in entries if entry.b is not None}
    before = 0
    follows: dict[int, tuple[int, ...]] = {}
    for place, row in enumerate(a.rows):
        before = partner.get(id(row), before)
        follows[id(row)] = before, place
    return sorted(
        entries, key=lambda entry: follows[id(entry.a)] if entry.b is None else (places[id(entry.b)],)
    )
