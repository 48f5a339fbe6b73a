"""The nested object of a ``.pt`` out of flat paths: dicts, lists and tuples around tensors and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, Union

from ckpttool.conversion.pt.pickle_writer import PickleWriter
from ckpttool.values.checkpoint import Key, Opaque, Plain, PlainList, Root, Value
from ckpttool.values.conversion import WRITABLE_CONTAINERS, ConversionPlan, Planned
from ckpttool.values.errors import MalformedCheckpoint

Leaf: TypeAlias = Planned | Value | Opaque
_MAPPINGS = ("dict", "OrderedDict")


class Branch:
    """A container; ``kind`` is dict, OrderedDict, list, tuple or set, once its children are known."""

    __slots__ = ("children", "kind", "path")
    kind: str

    def __init__(self, path: Root) -> None:
        self.path = path
        self.children: dict[Key, Node] = {}


Node: TypeAlias = Union[Branch, Leaf]  # noqa: UP007 (a forward reference)


def build_tree(plan: ConversionPlan) -> Branch:
    """One tree of everything. A mapping of tensors is an OrderedDict unless the source says otherwise.

    Raises:
        MalformedCheckpoint: two things stand at one path, or one stands inside a leaf.
    """
    top = Branch(())
    known: dict[Root, Branch] = {(): top}
    kinds = {container.path: container.type_name for container in plan.containers}

    def branch_at(path: Root) -> Branch:
        missing: list[Root] = []  # not by recursion: how deep a file nests is its own choice
        while path not in known:
            missing.append(path)
            path = path[:-1]
        found = known[path]
        known.update((below, Branch(below)) for below in missing)
        for below in reversed(missing):
            hang(found, below[-1], known[below])
            found = known[below]
        return found

    def put(root: Root, name: Key, node: Node) -> None:
        hang(branch_at(root), name, node)

    def hang(branch: Branch, name: Key, node: Node) -> None:
        if name in branch.children:
            path = ".".join(map(str, (*branch.path, name)))
            raise MalformedCheckpoint("two things stand at one path", name=path)
        branch.children[name] = node

    leaves: list[Leaf] = [*plan.values, *plan.tensors, *plan.objects]
    for leaf in leaves:
        put(leaf.root, leaf.name, leaf)
    for container in plan.containers:  # those that are empty
        branch_at(container.path)
    for path, branch in known.items():
        kind = kinds.get(path, "")
        holds_tensors = any(isinstance(child, Planned) for child in branch.children.values())
        if kind not in WRITABLE_CONTAINERS or (kind in ("list", "tuple") and not _has_places(branch)):
            kind = "OrderedDict" if holds_tensors else "dict"
        if kind == "set" and any(map(_is_unhashable, branch.children.values())):
            kind = "list"  # a set in it was a frozenset, which weights_only does not let pass
        branch.kind = kind
    return top


def write_tree(pickle: PickleWriter, top: Branch, plan: ConversionPlan) -> None:
    """Write ``top`` depth first over an explicit stack: how deep a file nests is its own choice."""
    bare = top.children.get("") if len(top.children) == 1 else None
    if isinstance(bare, Planned) and not any(container.path == () for container in plan.containers):
        _write_leaf(pickle, bare)  # a file that holds one bare tensor, and no mapping with an empty name
        return
    stack: list[tuple[Branch, Iterator[tuple[Key, Node | None]]]] = []

    def enter(branch: Branch) -> None:
        # `_metadata` is an attribute, which a plain dict cannot have.
        if branch.kind == "dict" and branch.path in plan.module_versions:
            branch.kind = "OrderedDict"
        pickle.begin(branch.kind)
        stack.append((branch, _in_order(branch)))

    enter(top)
    while stack:
        branch, children = stack[-1]
        for key, child in children:
            if branch.kind in _MAPPINGS:
                pickle.write_key(key)
            if isinstance(child, Branch):
                enter(child)
                break
            _write_leaf(pickle, child)
        else:
            stack.pop()
            pickle.end(branch.kind)
            if branch.kind in _MAPPINGS and branch.path in plan.module_versions:
                extras = plan.module_extras.get(branch.path, {})
                pickle.write_module_metadata(plan.module_versions[branch.path], extras)


def _in_order(branch: Branch) -> Iterator[tuple[Key, Node | None]]:
    """Items of a list by index; what was dropped leaves None, so that the others keep their places."""
    if branch.kind not in ("list", "tuple"):
        yield from branch.children.items()
        return
    last = -1
    for index in sorted(key for key in branch.children if isinstance(key, int)):  # all: see _has_places
        for gap in range(last + 1, index):
            yield gap, None
        yield index, branch.children[index]
        last = index


_MOST_GAPS = 1 << 16  # an index is the reader's own count, so gaps are what was dropped


def _is_unhashable(node: Node) -> bool:
    """Whether a load would fail to put what is written for this into a set."""
    return isinstance(node, Branch) or (isinstance(node, Value) and _holds_list(node.value))


def _holds_list(value: Plain) -> bool:
    """Whether it is a list, or a tuple with one in it (as deep as a reader lets them nest)."""
    return isinstance(value, PlainList) or (isinstance(value, tuple) and any(map(_holds_list, value)))


def _has_places(branch: Branch) -> bool:
    """Whether the keys are places in a list; what a foreign ``__metadata__`` calls a list need not be one."""
    keys = branch.children
    return not keys or (
        all(type(key) is int and key >= 0 for key in keys)
        and max(key for key in keys if type(key) is int) < len(keys) + _MOST_GAPS
    )


def _write_leaf(pickle: PickleWriter, leaf: Leaf | None) -> None:
    if isinstance(leaf, Planned):
        # What a file claims of integers, or what --as-bytes made of a parameter, torch would refuse to load.
        dtype = leaf.value.dtype
        requires_grad = bool(leaf.entry.requires_grad) and not (dtype and dtype.is_whole)
        pickle.write_tensor(leaf.value, requires_grad=requires_grad, parameter=leaf.is_parameter)
    elif isinstance(leaf, Opaque):
        pickle.write_dtype(leaf.summary)
    else:
        pickle.write_plain(None if leaf is None else leaf.value)
