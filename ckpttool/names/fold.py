"""Fold rows whose names differ only in indices: ``layers.{0..23}.attn.q_proj.weight`` ×24.

Nothing is lost: the index sets of a pattern multiply out to exactly the names of its rows, and
dtype, shape, kind, basis, presence and whether they are tied agree; with ``by_module`` also what else is
in their modules. Names are data: in the pattern of a folded row (``count`` > 1) a literal brace is doubled;
a row that stands for itself shows its name as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import NamedTuple, TypeAlias

from ckpttool.values.checkpoint import UNCLASSIFIED, CompositeTensor, Entry, Key, Root
from ckpttool.values.inspection import Row

_MAX_AXES = 6  # names that vary in more places than this are not folded; real ones vary in 3

# An index is a whole part of a dotted name, or stands between its underscores (``1_convolution``,
# ``_w3j_1_1_2``), in the one way to write that number ("007" would not come back from 7). Longer runs of
# digits are hashes and dates. The name stands between dots.
_INDEX = re.compile(r"(?<=[._])(0|[1-9][0-9]{0,8})(?=[._])")


class FoldedRow(NamedTuple):
    """Rows that differ only in indices, in file order; ``count`` of them, 1 for an ordinary row.

    ``pattern`` stands for the names, ``root_pattern`` for the containers above them.
    """

    pattern: str
    rows: tuple[Row, ...]
    count: int  # type: ignore[assignment]  # hides tuple.count, which no one needs here
    root_pattern: str = ""


_Indices: TypeAlias = tuple[str, ...]
_Member: TypeAlias = tuple[_Indices, int]  # the indices of a row, and its position
_Groups: TypeAlias = dict[object, list[_Member]]  # by template: the name with every index as 0


def fold_rows(rows: Sequence[Row], *, by_module: bool = False) -> list[FoldedRow]:
    """Fold ``rows``; each folded row stands where the first of its rows stood.

    Args:
        rows: What is folded.
        by_module: Fold only what stands in modules that hold the same: a bias of a batch norm is not that of
            a linear layer, though dtype and shape agree. For rows that are all there are.
    """
    roots: dict[Root, tuple[_Indices, _Groups]] = {}
    by_template: dict[object, _Groups] = {}
    split = _INDEX.split
    for position, row in enumerate(rows):
        root, name, *_ = row.entry
        above = roots.get(root)
        if above is None:
            template, indices = _split_keys(root)
            above = roots[root] = indices, by_template.setdefault(template, {})
        if isinstance(name, str):
            # Written out, not called: this line runs once a tensor.
            pieces = split(f".{name}.")
            key: object = "0".join(pieces[::2])
            indices = tuple(pieces[1::2])
        else:
            key, indices = _split_keys((name,))
        members = above[1].get(key)
        if members is None:
            members = above[1][key] = []
        members.append((above[0] + indices, position))

    found: list[tuple[int, FoldedRow]] = []
    modules = _modules(rows) if by_module else None
    for groups in by_template.values():
        for members in groups.values():
            for alike in _partition(members, rows, modules):
                found += _fold_group(alike, rows)
    found.sort(key=lambda item: item[0])
    return [folded for _, folded in found]


def fold_names(names: Iterable[str]) -> list[FoldedRow]:
    """Fold names alone, as those of rows that agree in all else."""
    return fold_rows([Row(Entry((), name, None), UNCLASSIFIED) for name in names])


def _split_keys(keys: Root) -> tuple[object, _Indices]:
    """Template and indices of whole keys: a key with dots is one literal, an index is an int."""
    template = tuple([... if isinstance(key, int) and key >= 0 else key for key in keys])
    return template, tuple([str(key) for key in keys if isinstance(key, int) and key >= 0])


def _template(name: Key) -> object:
    return "0".join(_INDEX.split(f".{name}.")[::2]) if isinstance(name, str) else _split_keys((name,))[0]


def _modules(rows: Sequence[Row]) -> list[int]:
    """For each row a number that those share whose modules hold the same names, of as many dimensions."""
    places = []
    held: dict[tuple[Root, str], list[object]] = {}
    for root, name, value, *_ in [row.entry for row in rows]:
        module, dot, leaf = name.rpartition(".") if isinstance(name, str) else ("", "", "")
        place = (root, module)
        places.append(place)
        if dot:
            held.setdefault(place, []).append((leaf, len(value.shape or ()) if value is not None else -1))
    numbers: dict[object, int] = {}
    of_place = {place: numbers.setdefault(tuple(inside), len(numbers)) for place, inside in held.items()}
    return [of_place.get(place, -1) for place in places]


def _partition(
    members: list[_Member], rows: Sequence[Row], modules: Sequence[int] | None
) -> Iterable[list[_Member]]:
    """Split rows of one template by what must agree for them to be folded."""
    if len(members) == 1:
        return (members,)
    # Nearly always all agree; comparing is a third of the cost of hashing enums and shapes.
    first, module = _agreeing(rows[members[0][1]]), modules[members[0][1]] if modules else -1
    for _, position in members:
        if _agreeing(rows[position]) != first or (modules and modules[position] != module):
            break
    else:
        return (members,)
    alike: dict[object, list[_Member]] = {}
    for member in members:
        key = _agreeing(rows[member[1]]), modules[member[1]] if modules else -1
        alike.setdefault(key, []).append(member)
    return alike.values()


def _agreeing(row: Row) -> tuple[object, ...]:
    entry, classification, tied_to = row
    value = entry.value
    agreeing: tuple[object, ...] = (*classification[:3], entry.subclass)
    if value is not None:
        agreeing += value[:2]  # dtype and shape, or layout and type of a composite
    if isinstance(value, CompositeTensor):
        agreeing += (value.dtype, value.shape)
    return agreeing if tied_to is None else (*agreeing, _template(tied_to.name))


def _fold_group(members: list[_Member], rows: Sequence[Row]) -> list[tuple[int, FoldedRow]]:
    """The folded rows of one group, each with the position of its first row."""
    if len(members) == 1:
        return [(members[0][1], _single(rows[members[0][1]]))]
    positions = dict(members)
    columns = [set(column) for column in zip(*positions, strict=True)]
    axes = [axis for axis, column in enumerate(columns) if len(column) > 1]
    if len(positions) < len(members) or len(axes) > _MAX_AXES:
        return [(position, _single(rows[position])) for _, position in members]
    sets = [sorted(column, key=int) for column in columns]
    if prod(map(len, sets)) == len(members):
        return [_folded([position for _, position in members], sets, rows)]
    found = []
    for box in _boxes([tuple([indices[axis] for axis in axes]) for indices in positions]):
        for axis, values in zip(axes, box, strict=True):
            sets[axis] = values
        found.append(_folded(sorted([positions[indices] for indices in product(*sets)]), sets, rows))
    return found


def _folded(
    positions: Sequence[int], sets: Sequence[Sequence[str]], rows: Sequence[Row]
) -> tuple[int, FoldedRow]:
    """One row for those at ``positions``, whose indices are the product of ``sets``."""
    first = rows[positions[0]]
    if len(positions) == 1:
        return positions[0], _single(first)
    texts = iter([_index_text(values) for values in sets])
    root_pattern = ".".join([_key_text(key, texts) for key in first.entry.root])
    pattern = _name_text(first.entry.name, texts)
    members = tuple([rows[position] for position in positions])
    return positions[0], FoldedRow(pattern, members, len(members), root_pattern)


def _single(row: Row) -> FoldedRow:
    return FoldedRow(str(row.entry.name), (row,), 1, ".".join(map(str, row.entry.root)))


def _boxes(points: Sequence[_Indices]) -> list[tuple[list[str], ...]]:
    """Partition distinct ``points`` into full products of index sets.

    Split along the first axis where the whole is not a product, and join again the values that
    have the same rest. Recursion is as deep as there are axes (``_MAX_AXES``).
    """
    sets = tuple([sorted(set(column), key=int) for column in zip(*points, strict=True)])
    if prod(map(len, sets)) == len(points):
        return [sets]
    rests: dict[str, list[_Indices]] = {}
    for first, *rest in points:
        rests.setdefault(first, []).append(tuple(rest))
    alike: dict[frozenset[_Indices], list[str]] = {}
    for first, beside in rests.items():
        alike.setdefault(frozenset(beside), []).append(first)
    return [
        (sorted(firsts, key=int), *box) for beside, firsts in alike.items() for box in _boxes(list(beside))
    ]


def _name_text(name: Key, texts: Iterator[str]) -> str:
    if not isinstance(name, str):
        return _key_text(name, texts)
    literals = [_escape(piece) for piece in _INDEX.split(f".{name}.")[::2]]
    return "".join([literals[0], *(f"{next(texts)}{literal}" for literal in literals[1:])])[1:-1]


def _key_text(key: Key, texts: Iterator[str]) -> str:
    return next(texts) if isinstance(key, int) and key >= 0 else _escape(str(key))


def _escape(literal: str) -> str:
    return literal.replace("{", "{{").replace("}", "}}")


def _index_text(values: Sequence[str]) -> str:
    """``3`` for one index, else ``{0..3,5}``; ``values`` ascend."""
    if len(values) == 1:
        return values[0]
    runs: list[list[int]] = []
    for value in map(int, values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return "{" + ",".join([str(a) if a == b else f"{a}..{b}" for a, b in runs]) + "}"
