"""What stands around the weights: the groups of tensors, and the plain values between them."""

from __future__ import annotations

from collections.abc import Iterator

from ckpttool.render.tables import Cell, Column, Line, Span, fill, iter_table
from ckpttool.values.checkpoint import Key, Root
from ckpttool.values.inspection import Inspection
from ckpttool.values.words import (
    NAME_LIMIT,
    format_count,
    format_key,
    format_nbytes,
    format_root,
    format_value,
    plural,
    safe,
)

_GROUP_COLUMNS = (
    Column("group", floor=12),
    Column("tensors", right=True, optional=1),
    Column("size", right=True),
    Column("what"),
    Column("role"),
    Column("note", floor=12, optional=1, prose=True),
)

_MAX_VALUES = 40  # plain values of the top that are shown one by one
_PLAIN_CONTAINERS = frozenset({"dict", "list", "tuple", "OrderedDict", "set"})


def iter_groups(inspection: Inspection, width: int) -> Iterator[Line]:
    """Yield a line per group of tensors; the one that other commands would take is pointed at."""
    rows = []
    for group in inspection.groups:
        is_weights = group.root == inspection.weights_root
        facts = count_facts(group.parameter_numel, group.buffers, group.unknown)
        note = safe(group.note, NAME_LIMIT)
        rows.append(
            (
                Cell(format_root(group.root) or "(top)", "title" if is_weights else ""),
                Cell(plural(group.tensors, "tensor")),
                Cell(format_nbytes(group.nbytes)),
                Cell(facts if group.role != "optimizer" else note),
                Cell("← weights" if is_weights else "", "good"),
                Cell(note if group.role != "optimizer" else "", "dim"),
            )
        )
    return iter_table(_GROUP_COLUMNS, rows, width, head=False)


def count_facts(parameter_numel: int, buffers: int, unknown: int) -> str:
    """Return ``412,525 parameters + 2 buffers``, zeros left out."""
    facts = []
    if parameter_numel:
        facts.append(plural(parameter_numel, "parameter"))
    if buffers:
        facts.append(plural(buffers, "buffer"))
    if unknown:
        facts.append(f"{format_count(unknown)} unknown")
    return " + ".join(facts)


def iter_values(inspection: Inspection, width: int) -> Iterator[Line]:
    """Yield the plain values of the top, and how many lie in each branch that holds no tensors."""
    checkpoint = inspection.checkpoint
    groups = {group.root for group in inspection.groups}
    types = {container.path: container.type_name for container in checkpoint.containers}
    pieces: list[Span] = []
    branches: dict[Root, int] = {}
    for value in checkpoint.values:
        if not value.root:
            pieces.append(Span(f"{_bare(value.name)} {format_value(value.value)}"))
        else:
            branch = _branch(value.root, groups)
            branches[branch] = branches.get(branch, 0) + 1
    for opaque in checkpoint.opaque:
        if not opaque.root:
            pieces.append(Span(f"{_bare(opaque.name)}: {safe(opaque.type_name, 60)}"))
        else:
            branch = _branch(opaque.root, groups)
            branches[branch] = branches.get(branch, 0) + 1
    for branch, count in branches.items():
        if branch in groups:
            continue  # lr and betas of an optimizer: its group line tells what it is
        type_name = types.get(branch, "").rpartition(".")[2]
        shown = f" {safe(type_name, 40)}" if type_name and type_name not in _PLAIN_CONTAINERS else ""
        pieces.append(Span(f"{format_root(branch)}{shown} ({plural(count, 'value')})"))
    if len(pieces) > _MAX_VALUES:
        more = len(pieces) - _MAX_VALUES
        pieces[_MAX_VALUES:] = [Span(f"… {format_count(more)} more: --json", "dim")]
    return fill(pieces, width)


def _branch(root: Root, groups: set[Root]) -> Root:
    """The group that ``root`` lies in, else its first key; below a parent of groups, its first two."""
    for length in range(len(root) + 1):
        if root[:length] in groups and length:
            return root[:length]
    is_parent = any(group[:1] == root[:1] for group in groups)
    return root[:2] if is_parent else root[:1]


def _bare(key: Key) -> str:
    return format_key(key).removeprefix(".")
