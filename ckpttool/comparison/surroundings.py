"""What stands around the weights on both sides: values, ``_metadata`` versions, metadata, objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from ckpttool.comparison.sides import Scope, leaves_under
from ckpttool.values.checkpoint import Key, Objects, Plain, Root, Value
from ckpttool.values.difference import Side, Status, ValueChange
from ckpttool.values.words import first_few, plural

_Facts: TypeAlias = Mapping[tuple[Root, Key], Plain]


def compare_surroundings(a: Side, b: Side, scope: Scope) -> tuple[tuple[ValueChange, ...], list[str]]:
    """What changed, and in words what only one side has and the other's container may not hold.

    A side that has no value (no metadata) at all counts as one that cannot hold any.
    """
    said: list[str] = []
    # Where the weights of both stand in branches, they stand in B's.
    to = scope.home_b if scope.home_a else ()
    sides = (
        (a.checkpoint, (scope.base_a, scope.skipped, scope.home_a, to)),
        (b.checkpoint, (scope.base_b, scope.skipped, scope.home_b, to)),
    )
    values = [_facts(leaves_under(checkpoint.values, *place)) for checkpoint, place in sides]
    attributes = [_facts(leaves_under(checkpoint.attributes, *place)) for checkpoint, place in sides]
    opaque_a, opaque_b = (leaves_under(checkpoint.opaque, *place) for checkpoint, place in sides)
    versions_a, versions_b = _versions(a, scope.base_a), _versions(b, scope.base_b)
    metadata = [_metadata(side) for side in (a, b)]
    changes = [
        *_changes("value", values, ("plain value",), said, same_layout=scope.whole and _same_layout(a, b)),
        *_changed_versions(versions_a, versions_b, said),
        *_changes("metadata", metadata, ("entry of metadata", "entries of metadata"), said),
        *_changed_attributes(attributes, said),
    ]
    objects_a, objects_b = (
        {(item.root, item.name): " ".join(filter(None, item[2:])) for item in found}
        for found in (opaque_a, opaque_b)
    )
    if objects_a and objects_b:
        changes += _changes("object", (objects_a, objects_b), ("object",), said)
        types = {(item.root, item.name): item.type_name for item in opaque_a}
        known = {(*item.root, item.name) for item in opaque_a if item.sha256}
        same = [
            key
            for key, text in objects_a.items()
            if objects_b.get(key) == text and not _is_within((*key[0], key[1]), known)
        ]
        if same:
            named = first_few(same, lambda key: f"{str(key[1])[:40]}: {types[key][:60]}")
            objects = Objects(opaque_a, a.checkpoint.containers)
            listed = any(objects.owner(root) is not None for root, _ in values[0])
            but = ", but for plain attributes" if listed else ""
            said.append(f"{plural(len(same), 'opaque object')} ({named}){but}")
    elif objects_a or objects_b:
        which, only = ("A", objects_a) if objects_a else ("B", objects_b)
        said.append(f"only in {which}: {plural(len(only), 'opaque object')}")
    return tuple(_without_torn(changes, scope, said)), said


def _without_torn(changes: Iterable[ValueChange], scope: Scope, said: list[str]) -> Iterable[ValueChange]:
    """The changes but for what one side lacks beside tensors that it lacks, too: convert drops both."""
    gone: Counter[Status] = Counter()
    for change in changes:
        if change.section == "value" and change.status is not Status.CHANGED and change.root in scope.torn:
            gone[change.status] += 1
        else:
            yield change
    for status, which in ((Status.REMOVED, "A"), (Status.ADDED, "B")):
        if gone[status]:
            said.append(
                f"only in {which}: {plural(gone[status], 'value')} beside tensors that are not compared"
            )


def _is_within(path: Root, known: Collection[Root]) -> bool:
    """Whether ``path`` is one of ``known``, or below one."""
    return any(path[:length] in known for length in range(1, len(path) + 1))


def _facts(leaves: Iterable[Value]) -> _Facts:
    return {(leaf.root, leaf.name): leaf.value for leaf in leaves}


def _changed_attributes(sides: Sequence[_Facts], said: list[str]) -> Iterable[ValueChange]:
    """Plain attributes of modules that both sides have; of a module that one side has, its class alone."""
    a, b = sides
    if a and b:
        both = {root for root, _ in a} & {root for root, _ in b}
        a, b = (
            {key: facts[key] for key in facts if key[0] in both or key[1] == "__class__"} for facts in (a, b)
        )
    return _changes("attribute", (a, b), ("attribute of modules", "attributes of modules"), said)


def same_plain(a: Plain, b: Plain) -> bool:
    """Equality of plain values: of one type, NaN equal to NaN, lists and tuples alike."""
    stack = [(a, b)]
    seen: set[tuple[int, int]] = set()  # lists may be shared: what nests 50 deep may stand for 2**50 items
    while stack:
        first, second = stack.pop()
        if isinstance(first, tuple) and isinstance(second, tuple):
            if len(first) != len(second):
                return False
            if (id(first), id(second)) not in seen:
                seen.add((id(first), id(second)))
                stack.extend(zip(first, second, strict=True))
        elif not (type(first) is type(second) and (first == second or (first != first and second != second))):
            return False  # what is not itself is NaN
    return True


def _same_layout(a: Side, b: Side) -> bool:
    return a.weights_root == b.weights_root and a.weights_root != ()


def _versions(side: Side, base: Root) -> dict[tuple[Root, Key], Plain]:
    """Versions by module path, of the weights alone or of the branch that was chosen."""
    depth = len(base)
    found: dict[tuple[Root, Key], Plain] = {}
    for at, modules in side.checkpoint.module_versions.items():
        if at[:depth] == base:
            relative = () if at == side.weights_root else at[depth:]
            found.update({(relative, path): version for path, version in modules.items()})
    return found


def _changed_versions(a: _Facts, b: _Facts, said: list[str]) -> Iterable[ValueChange]:
    """Versions of modules that both sides name: those of others come and go with their entries.

    Without ``_metadata`` every module counts as version 1 or older, which only matters to those above.
    """
    for mine, other, which in ((a, b, "A"), (b, a, "B")):
        above = sum(isinstance(version, int) and version > 1 for version in mine.values())
        if above and not other:
            said.append(f"only in {which}: _metadata, with {plural(above, 'module')} above version 1")
    for key, version in a.items():
        if key in b and version != b[key]:
            yield ValueChange("version", *key, Status.CHANGED, version, b[key])


def _metadata(side: Side) -> dict[tuple[Root, Key], Plain]:
    """What safetensors' ``__metadata__`` says, but for ``format``: that is about the container."""
    return {((), key): text for key, text in side.checkpoint.metadata.items() if key != "format"}


def _changes(
    section: str, sides: Sequence[_Facts], what: Sequence[str], said: list[str], *, same_layout: bool = False
) -> Iterable[ValueChange]:
    a, b = sides
    if not (a and b) and not same_layout:
        if a or b:
            said.append(f"only in {'A' if a else 'B'}: {plural(len(a or b), *what)}")
        return
    for key, value in a.items():
        if key not in b:
            yield ValueChange(section, *key, Status.REMOVED, value, None)
        elif not same_plain(value, b[key]):
            yield ValueChange(section, *key, Status.CHANGED, value, b[key])
    for key, value in b.items():
        if key not in a:
            yield ValueChange(section, *key, Status.ADDED, None, value)
