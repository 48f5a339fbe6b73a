"""The plain values of a checkpoint by path: those beside the tensors, attributes of objects, metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ckpttool.inspection.rows import find_row, matching_rows, similar
from ckpttool.names.globs import Globs
from ckpttool.names.roots import children_of, find_paths
from ckpttool.values.checkpoint import Checkpoint, Container, Entry, Key, Opaque, Plain, Root, Value
from ckpttool.values.errors import CkptToolError, NoSuchEntry
from ckpttool.values.words import first_few, format_path, inspect_command, plural

if TYPE_CHECKING:
    from ckpttool.values.inspection import Inspection, Row

METADATA = "__metadata__"
"""Where the strings of a safetensors header stand, by its own name for them."""

_STEP = re.compile(r"\.([0-9]{1,9})$|\[([0-9]{1,9})\]$")  # into a list of plain values, from the end
_LISTS = frozenset(("list", "tuple", "set", "frozenset"))

_Leaf: TypeAlias = Value | Opaque | Entry | Container


class Located(NamedTuple):
    """What stands at a path and is no tensor, as JSON has it: a plain value, or a container of such.

    Of a tensor in it there are dtype and shape, of an object its attributes, or what it is.
    """

    value: object


def plain_values(checkpoint: Checkpoint) -> Iterator[Value]:
    """Every plain value in the order of the file, then attributes of pickled modules, then metadata."""
    yield from checkpoint.values
    yield from checkpoint.attributes
    for key, text in checkpoint.metadata.items():
        yield Value((METADATA,), key, text)


def pick_values(checkpoint: Checkpoint, glob: str) -> list[Value]:
    """The plain values that ``glob`` fits: by name, dotted path, or a branch above them.

    Raises:
        NoSuchEntry: it fits none, though there are some.
    """
    values, globs = list(plain_values(checkpoint)), Globs([glob])
    found = [value for value in values if globs.match(value.root, value.name)]
    if found or not values:
        return found
    paths = [format_path(value.root, value.name) for value in values]
    close = similar(glob, paths)
    hint = f"did you mean {', '.join(close)}" if close else f"there are {first_few(paths)}"
    raise NoSuchEntry(f"no value matches {glob!r}", path=checkpoint.path, hint=hint)


def locate(inspection: Inspection, text: str) -> Row | Located:
    """The tensor or the value that a person means: what stands at this path, else the tensor of this name.

    Raises:
        NoSuchEntry: there is nothing so called.
        CkptToolError: there are several.
    """
    leaves = _leaves(inspection.checkpoint)
    children = children_of(path for path in leaves if path)
    found = find_paths(children, text)
    found = [path for path in found if isinstance(leaves.get(path), Entry)] or found
    if len(found) > 1:
        paths = ", ".join(format_path(path[:-1], path[-1]) for path in found[:3])
        what = f"{text!r} spells {plural(len(found), 'path')}"
        raise CkptToolError(what, path=inspection.checkpoint.path, hint=f"say which: {paths}")
    if found:
        (path,) = found
        if isinstance(leaves.get(path), Entry):
            return next(row for row in inspection.rows if (*row.entry.root, row.entry.name) == path)
        return Located(_tree(path, leaves, children))
    if matching_rows(inspection, text):
        return find_row(inspection, text)
    listed = _item_of_list(text, leaves, children)
    if listed is None:
        raise _unknown(inspection, text, leaves)
    return listed


def _item_of_list(
    text: str, leaves: Mapping[Root, _Leaf], children: Mapping[Root, Sequence[Key]]
) -> Located | None:
    """An item of a list of plain values, which is one value: ``betas.0``, ``shapes[1][0]``."""
    steps: list[int] = []
    while (match := _STEP.search(text)) is not None:
        steps.append(int(match[1] or match[2]))
        text = text[: match.start()]
        for path in find_paths(children, text):
            leaf = leaves.get(path)
            value: Plain = leaf.value if isinstance(leaf, Value) else None
            for step in reversed(steps):
                if not isinstance(value, tuple) or step >= len(value):
                    return None
                value = value[step]
            return Located(value)
    return None


def _unknown(inspection: Inspection, text: str, leaves: Mapping[Root, _Leaf]) -> NoSuchEntry:
    """That nothing is at a path, with what is called nearly so."""
    path = inspection.checkpoint.path
    names = [str(row.entry.name) for row in inspection.rows]
    close = similar(text, [*names, *(format_path(at[:-1], at[-1]) for at in leaves if at)])
    flat = (
        f"{inspect_command(path, '--flat')} lists the tensors, {inspect_command(path, '--values')} the values"
    )
    hint = f"did you mean {', '.join(close)}" if close else flat
    return NoSuchEntry(f"no tensor and no value is called {text!r}", path=path, hint=hint)


def _leaves(checkpoint: Checkpoint) -> dict[Root, _Leaf]:
    """What stands at each path; of an object whose attributes are known, these stand below it."""
    leaves: dict[Root, _Leaf] = {container.path: container for container in checkpoint.containers}
    leaves |= {(*item.root, item.name): item for item in checkpoint.opaque}
    leaves |= {(*item.root, item.name): item for item in plain_values(checkpoint)}
    leaves |= {(*item.root, item.name): item for item in checkpoint.entries}
    return leaves


def _tree(path: Root, leaves: Mapping[Root, _Leaf], children: Mapping[Root, Sequence[Key]]) -> object:
    """What is at ``path``, and below it; readers let containers nest no deeper than Python recurses."""
    leaf = leaves.get(path)
    below = children.get(path, ())
    if isinstance(leaf, Value) and not below:
        return leaf.value
    if isinstance(leaf, Entry):
        value = leaf.value
        dtype, shape = (None, None) if value is None else (value.dtype, value.shape)
        return {"dtype": dtype and dtype.name, "shape": shape}
    if isinstance(leaf, Opaque) and not below:
        return {"type": leaf.type_name, "summary": leaf.summary}
    if not below and isinstance(leaf, Container) and leaf.type_name in _LISTS:
        return []
    inner = {key: _tree((*path, key), leaves, children) for key in below}
    is_list = not isinstance(leaf, Container) or leaf.type_name in _LISTS
    if is_list and inner and list(inner) == list(range(len(inner))):
        return list(inner.values())
    return {str(key): value for key, value in inner.items()}
