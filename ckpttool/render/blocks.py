"""The summary by block of ``inspect``: a line per block of the names, where a line per tensor fits no screen.

A block is what the first parts of the names have in common. Blocks that differ in indices and hold as much of
everything share a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ckpttool.names.fold import fold_names
from ckpttool.render.kinds import KIND_MANY, KIND_NOUNS
from ckpttool.render.name_tree import as_tree
from ckpttool.render.tables import Cell, Column, Line, Span, fill, iter_table, number_columns, times
from ckpttool.render.units import bar, format_percent
from ckpttool.values.checkpoint import Kind
from ckpttool.values.inspection import Row
from ckpttool.values.words import NAME_LIMIT, format_count, format_nbytes, plural, safe

_BAR_CELLS = 8
_DEEPEST = 12  # no name has more levels of modules that a person tells apart

_BLOCK = (Column("block", floor=20, names=True), *number_columns("tensors"))
_SHARE = (*number_columns("share"), Column(""))
_SIZE = Column("size", right=True)
_KINDS = Column("among them", floor=12, optional=1, prose=True)
_COLUMNS = (*_BLOCK, Column("parameters", right=True, optional=1), *_SHARE, _SIZE, _KINDS)
_COLUMNS_BY_SIZE = (*_BLOCK, _SIZE, *_SHARE, _KINDS)
"""The share is that of what stands before it: parameters, else bytes."""

_Parts: TypeAlias = tuple[str, ...]


class _Block(NamedTuple):
    """What a block holds; parameters and bytes without tied copies. Equal ones share a line."""

    tensors: int
    parameters: int
    nbytes: int
    kinds: tuple[tuple[Kind, int], ...]


class _Shown(NamedTuple):
    """A line: the names of its blocks as a pattern, how many they are, and what they hold together."""

    name: str
    blocks: int
    held: _Block


def iter_blocks(
    rows: Sequence[Row], width: int, *, depth: int | None, most: int, sort: str, with_root: bool, packed: bool
) -> Iterator[Line]:
    """Yield the summary of ``rows`` by the first ``depth`` parts of names, and how to see more.

    Args:
        rows: What is summed up.
        width: Cells of a line.
        depth: Parts of names that make a block; None for as many as give at most ``most`` lines.
        most: Lines that there is room for. With a ``depth`` all blocks are shown.
        sort: ``size`` for the largest first, ``name``; else as in the file.
        with_root: Whether the containers above the names are parts of them.
        packed: Whether weights are quantised: elements are no count of parameters, and shares are of bytes.
    """
    levels = _levels(_modules(rows, with_root))
    if depth is None:
        depth, lines = _finest(levels, most)
        left = max(len(lines) - most, 0)
    else:
        lines, left = _fold(levels[min(depth, len(levels)) - 1]), 0
    if left or sort == "size":
        lines.sort(key=lambda line: -line.held.nbytes)
    elif sort == "name":
        lines.sort(key=lambda line: line.name)
    yield from _iter_lines(lines, len(lines) - left, width, packed=packed)
    facts = (
        f"{plural(left, 'smaller block')} hidden: --depth {depth}" if left else "",
        f"{plural(len(rows), 'tensor')} in blocks of depth {depth}",
        "--depth N for others",
        "--rows all for every tensor",
    )
    yield from fill([Span(fact, "dim") for fact in facts if fact], width)


def _iter_lines(lines: Sequence[_Shown], shown: int, width: int, *, packed: bool) -> Iterator[Line]:
    whole = _add([line.held for line in lines])
    by_size = packed or not whole.parameters
    parts = [line.held.nbytes if by_size else line.held.parameters for line in lines]
    total, largest = sum(parts), max(parts, default=0)
    if len(whole.kinds) == 1:
        yield from fill([Span(f"all {KIND_MANY[whole.kinds[0][0]]}", "dim")], width)
    rows = []
    for line, part in zip(lines[:shown], parts, strict=False):
        name, blocks, held = line
        size = Cell(format_nbytes(held.nbytes))
        share = Cell(_percent(part, total)), Cell(_bar(part, largest), "dim")
        count = Cell(format_count(held.parameters) if held.parameters else "")
        rows.append(
            (
                Cell(name, "", times(blocks)),
                Cell(format_count(held.tensors)),
                *((size, *share) if by_size else (count, *share, size)),
                Cell(_kinds(held) if len(whole.kinds) > 1 else "", "dim"),
            )
        )
    columns = _COLUMNS_BY_SIZE if by_size else _COLUMNS
    yield from iter_table(columns, as_tree(columns, rows, width, 0), width)


def _percent(part: int, total: int) -> str:
    return format_percent(part, total) if part else ""


def _bar(part: int, largest: int) -> str:
    return bar(part / largest, _BAR_CELLS) if largest else ""


def _kinds(held: _Block) -> str:
    """What is no parameter: all the others are."""
    others = [(kind, count) for kind, count in held.kinds if kind is not Kind.PARAMETER]
    return ", ".join([plural(count, KIND_NOUNS[kind]) for kind, count in others])


def _modules(rows: Sequence[Row], with_root: bool) -> dict[_Parts, _Block]:
    """What each module holds itself, by the parts of its name; a tensor of no module by its own."""
    held: dict[_Parts, list[Row]] = {}
    for row in rows:
        *module, leaf = str(row.entry.name).split(".")
        if with_root:
            module = [*map(str, row.entry.root), *module]
        held.setdefault(tuple(module) or (leaf,), []).append(row)
    return {module: _sum(those) for module, those in held.items()}


def _sum(rows: Iterable[Row]) -> _Block:
    tensors = parameters = nbytes = 0
    kinds: dict[Kind, int] = {}
    for entry, what, tied_to in rows:
        tensors += 1
        kinds[what.kind] = kinds.get(what.kind, 0) + 1
        if entry.value is not None and tied_to is None:
            nbytes += entry.value.nbytes
            if what.kind is Kind.PARAMETER:
                parameters += entry.value.numel or 0
    return _Block(tensors, parameters, nbytes, _in_order(kinds))


def _add(blocks: Sequence[_Block]) -> _Block:
    if len(blocks) == 1:
        return blocks[0]
    kinds: dict[Kind, int] = {}
    for block in blocks:
        for kind, count in block.kinds:
            kinds[kind] = kinds.get(kind, 0) + count
    return _Block(
        sum([block.tensors for block in blocks]),
        sum([block.parameters for block in blocks]),
        sum([block.nbytes for block in blocks]),
        _in_order(kinds),
    )


def _in_order(kinds: dict[Kind, int]) -> tuple[tuple[Kind, int], ...]:
    if len(kinds) == 1:  # nearly always, and an enum takes its time
        return tuple(kinds.items())
    return tuple([(kind, kinds[kind]) for kind in Kind if kind in kinds])


def _levels(modules: dict[_Parts, _Block]) -> list[dict[_Parts, _Block]]:
    """The blocks of each depth, from 1 on; each is made of the finer ones."""
    levels, level = [], modules
    for depth in range(min(_DEEPEST, max(map(len, modules), default=1)), 0, -1):
        held: dict[_Parts, list[_Block]] = {}
        for parts, block in level.items():
            held.setdefault(parts[:depth], []).append(block)
        level = {parts: _add(blocks) for parts, blocks in held.items()}
        levels.append(level)
    return levels[::-1]


def _finest(levels: Sequence[dict[_Parts, _Block]], most: int) -> tuple[int, list[_Shown]]:
    """The finest summary of at most so many lines, else the coarsest of more than one."""
    depth, lines = 1, _fold(levels[0])
    for deeper, level in enumerate(levels[1:], 2):
        finer = _fold(level)
        if len(finer) > most and len(lines) > 1:
            break
        depth, lines = deeper, finer
    return depth, lines


def _fold(level: dict[_Parts, _Block]) -> list[_Shown]:
    """The blocks of a depth, those that are alike in one line, in the order of the file."""
    held = {".".join(parts): block for parts, block in level.items()}
    alike: dict[_Block, list[str]] = {}
    for name, block in held.items():
        alike.setdefault(block, []).append(name)
    places = {name: place for place, name in enumerate(held)}
    found = []
    for block, names in alike.items():
        for folded in fold_names(names):
            line = _Shown(safe(folded.pattern, NAME_LIMIT), folded.count, _add([block] * folded.count))
            found.append((places[str(folded.rows[0].entry.name)], line))
    return [line for _, line in sorted(found, key=lambda item: item[0])]
