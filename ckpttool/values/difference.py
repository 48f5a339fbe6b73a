"""What ``diff`` knows: pairs of entries with a status and numbers, and what else is not the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ckpttool.values.checkpoint import Checkpoint, Entry, Finding, Key, Kind, Plain, Root, Word
from ckpttool.values.inspection import Row


class Status(Word):
    """What became of an entry. ``WITHIN_TOLERANCE`` occurs only where a tolerance was asked for."""

    EQUAL = "equal"
    WITHIN_TOLERANCE = "within_tolerance"
    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    DTYPE = "dtype"
    SHAPE = "shape"


SAME = frozenset((Status.EQUAL, Status.WITHIN_TOLERANCE))
"""Statuses that leave two checkpoints the same."""


class NameBasis(Word):
    """Why two entries of different names are taken for one."""

    SAME_NAME = ""
    MAP = "map"  # --map
    PREFIX = "prefix"  # wrappers and leading paths
    PART = "part"  # one part stands in all names of one side only
    CONTENT = "content"  # equal bytes
    SUFFIX = "suffix"  # equal shape, and the one common end


class Side(NamedTuple):
    """One checkpoint of two. ``rows`` are all of its entries.

    ``weights_root`` is the branch that holds the weights, None if that is not clear.
    """

    label: str
    checkpoint: Checkpoint
    rows: tuple[Row, ...]
    weights_root: Root | None

    @property
    def has_bytes(self) -> bool:
        """False for a model and for a manifest."""
        return bool(self.checkpoint.files)

    @property
    def digests(self) -> Mapping[Root, str]:
        """What stands for bytes that it lacks, by path."""
        return self.checkpoint.digests


class Numbers(NamedTuple):
    """How the values of two tensors differ. Counts are of elements as they are stored.

    ``changed`` counts those whose bits differ, across dtypes those whose values do. Norms, means
    and maxima are over elements that are finite on both sides; ``max_abs`` is an exact int for
    integers. ``appeared`` and ``gone`` are seen from the second side; ``inf_flipped`` counts infinities
    that changed their sign. ``outside`` counts elements
    beyond the tolerance, ``max_ulp`` is the largest distance in representable values, and
    ``unrounded`` counts elements that are not the other side's rounded to the narrower dtype; None
    where that was not asked for or means nothing.
    """

    numel: int = 0
    changed: int = 0
    finite: int = 0
    max_abs: float | int | None = None
    sum_abs: float = 0.0
    delta_squares: float = 0.0
    a_squares: float = 0.0
    b_squares: float = 0.0
    dot: float = 0.0
    nan_appeared: int = 0
    nan_gone: int = 0
    inf_appeared: int = 0
    inf_gone: int = 0
    outside: int | None = None
    max_ulp: int | None = None
    unrounded: int | None = None
    inf_flipped: int = 0

    @property
    def mean_abs(self) -> float | None:
        """Mean of the absolute differences."""
        return self.sum_abs / self.finite if self.finite else None

    @property
    def rel_l2(self) -> float | None:
        """Norm of the difference by the norm of the first side; inf where that side is all zero."""
        if not self.finite or not math.isfinite(self.delta_squares):
            return None
        if not self.delta_squares:
            return 0.0
        return math.sqrt(self.delta_squares) / math.sqrt(self.a_squares) if self.a_squares else math.inf

    @property
    def beyond(self) -> float | None:
        """NaN or inf where an element's difference is that, so that no finite number is its size; else None.

        NaN beside NaN, and an infinity beside the same one, are no difference.
        """
        if self.nan_appeared or self.nan_gone:
            return math.nan
        return math.inf if self.inf_appeared or self.inf_gone or self.inf_flipped else None

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the two; None if either is all zero or overflows."""
        norms = math.sqrt(self.a_squares) * math.sqrt(self.b_squares)
        if not norms or not math.isfinite(norms):
            return None
        return max(-1.0, min(1.0, self.dot / norms))

    @property
    def share(self) -> float:
        """Share of the elements that changed."""
        return self.changed / self.numel if self.numel else 0.0


def join_numbers(parts: Iterable[Numbers]) -> Numbers:
    """Numbers of several runs of one tensor, or of several tensors, together."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    return Numbers(*map(_join, Numbers._fields, zip(*parts, strict=True)))


def _join(field: str, found: Sequence[Any]) -> Any:
    """One field of several: the largest of maxima, the sum of all else; None if it is known of none."""
    known = [number for number in found if number is not None]
    if not known:
        return None
    return max(known) if field.startswith("max_") else sum(known)


class RenameRule(NamedTuple):
    """One rule that makes so many ``names`` of A those of B: ``old`` becomes ``new``.

    ``where`` is ``prefix`` or ``suffix`` (once, at that end of a name), ``all`` (wherever it stands), or
    ``first`` or ``last`` (once, where it stands first or last).
    """

    where: str
    old: str
    new: str
    names: int = 0

    def new_name(self, name: str) -> str | None:
        """The name that it makes of ``name``, None where it does not apply."""
        old, new, where = self.old, self.new, self.where
        if where == "prefix":
            return new + name[len(old) :] if name.startswith(old) else None
        if where == "suffix":
            return name[: len(name) - len(old)] + new if name.endswith(old) else None
        if not old or old not in name:
            return None
        if where == "last":
            head, _, tail = name.rpartition(old)
            return f"{head}{new}{tail}"
        return name.replace(old, new, -1 if where == "all" else 1)


class Ignored(NamedTuple):
    """What was not to decide, a word of ``--ignore``, and how many ``differences`` it has."""

    what: str
    differences: int


class DiffEntry(NamedTuple):
    """One entry of either side, or of both. ``root`` and ``name`` are B's, for a removed one A's.

    ``kind`` is that of the side with the better evidence. ``basis`` says why names that differ are
    one; ``note`` is for people. ``tied_to`` is, for an entry of one side only, the name of one that both
    have and that is the same, whose bytes it shares in its file: then it is no difference. Nor is it
    where it is ``ignored``, as was asked for.
    """

    root: Root
    name: Key
    kind: Kind
    status: Status
    a: Row | None
    b: Row | None
    numbers: Numbers | None = None
    basis: NameBasis = NameBasis.SAME_NAME
    note: str = ""
    tied_to: Key | None = None
    ignored: bool = False

    @property
    def differs(self) -> bool:
        """Whether it makes the two sides different."""
        return self.status not in SAME and self.tied_to is None and not self.ignored

    @property
    def guessed_names(self) -> tuple[Key, Key] | None:
        """The names in A and in B, where these were taken for one by content or shape."""
        old = self.renamed_from if self.basis in (NameBasis.CONTENT, NameBasis.SUFFIX) else None
        return None if old is None else (old[1], self.name)

    @property
    def renamed_from(self) -> tuple[Root, Key] | None:
        """Where the entry stands in A, if it has another name there."""
        if self.a is None or self.b is None or self.basis is NameBasis.SAME_NAME:
            return None
        return self.a.entry.root, self.a.entry.name

    @property
    def either(self) -> Entry:
        """The entry in B, or in A if B has none."""
        row = self.b or self.a
        if row is None:
            raise ValueError("an entry of neither side")
        return row.entry


class ValueChange(NamedTuple):
    """Something beside the tensors.

    ``section`` is ``value``, ``attribute`` (plain, of a module), ``metadata``, ``version`` or ``object``.
    ``a`` and ``b`` are None with ``status`` added or removed.
    """

    section: str
    root: Root
    name: Key
    status: Status
    a: Plain
    b: Plain


class Diff(NamedTuple):
    """The result of ``diff``.

    ``structure_only``: no tensor's bytes were compared. ``aligned`` says in words how names were
    brought together, ``left_out`` what was not compared and why. ``whole``: every branch was compared.
    ``selected``: of these only the entries of one kind, or of certain names, were.
    ``weights_only``: nothing but the weights was. ``renames`` are rules that names taken for one by content
    or shape follow, each of them the first that fits.
    """

    a: Side
    b: Side
    entries: tuple[DiffEntry, ...]
    values: tuple[ValueChange, ...]
    findings: tuple[Finding, ...]
    aligned: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    structure_only: bool = False
    whole: bool = True
    selected: bool = False
    weights_only: bool = False
    ignored: tuple[Ignored, ...] = ()
    renames: tuple[RenameRule, ...] = ()

    @property
    def weights_equal(self) -> bool | None:
        """Whether all weights are the same in names and values; None if these were not compared, or not all.

        They are the parameters and buffers of the branch that is said to hold them, in ``a`` or in ``b``.
        """
        if self.structure_only or self.selected:
            return None
        weights = [entry for entry in self.entries if self.is_weight(entry)]
        if not weights:
            return None
        return all(entry.status in SAME or entry.tied_to is not None for entry in weights)

    def is_weight(self, entry: DiffEntry) -> bool:
        """Whether an entry stands in the branch of the weights on either side, and is no extra state."""
        return entry.kind is not Kind.EXTRA_STATE and any(
            row is not None and row.entry.root == side.weights_root
            for row, side in ((entry.a, self.a), (entry.b, self.b))
        )

    @property
    def equal(self) -> bool:
        """True when nothing that was compared differs."""
        return not self.values and not any(entry.differs for entry in self.entries)

    @property
    def counts(self) -> dict[Status, int]:
        """Entries by status, all statuses."""
        found = Counter([entry.status for entry in self.entries])
        return {status: found[status] for status in Status}
