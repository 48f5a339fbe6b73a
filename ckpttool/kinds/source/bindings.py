"""What arguments are known, what that makes of names, and which conditions it decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ckpttool.kinds.source.descriptions import ANY, ARG, OPEN, Description, join, opposite, patterns_of
from ckpttool.kinds.source.instances import Clause

_DEEPEST = 8  # arguments that are arguments

Binding: TypeAlias = Mapping[str, Description]


def bind(function: Mapping[str, Any], arguments: list[Any], outer: Binding) -> dict[str, Description]:
    """What the arguments of a function are in a call; ``outer`` is what is known where it is called."""
    positional, named, is_open = arguments
    names: list[str] = function["arguments"]
    known: dict[str, Description] = {}
    for name, item in zip(names, positional, strict=False):
        if item[0] == "*":
            break
        known[name] = bound(item, outer)
    else:
        if not is_open:
            known |= {
                name: ["const", value] for name, value in function["defaults"].items() if name not in known
            }
    known |= {name: bound(item, outer) for name, item in named.items() if name in names}
    return {name: item for name, item in known.items() if item != OPEN and item[0] != "arg"}


def bound(described: Description, binding: Binding) -> Description:
    """``described``, or what the argument that it is was given."""
    for _ in range(_DEEPEST):
        if described[0] != "arg":
            break
        described = binding.get(described[1], OPEN)
    if described[0] == "name":
        return ["name", [text for pattern in described[1] for text in fill(pattern, binding)]]
    return described


def fill(pattern: str, binding: Binding) -> list[str]:
    """``pattern`` with the arguments that are known; what is not stands for anything."""
    if ARG not in pattern:
        return [pattern]
    parts: list[list[str]] = []
    for at, part in enumerate(pattern.split(ARG)):
        texts = [part]
        if at % 2:
            known = bound(["arg", part], binding)
            texts = [ANY]
            if known[0] == "list":  # the argument is what a loop goes through
                texts = [text for item in known[1] for text in patterns_of(item)] or [ANY]
            elif known != OPEN:
                texts = patterns_of(known)
        parts.append(texts)
    return join(parts)


def undecided(when: Iterable[Any], binding: Binding) -> Clause | None:
    """Those of the conditions that depend on what is not known; None where one does not hold."""
    open_ones: set[tuple[Any, ...] | None] = set()
    for atom in when:
        holds = None if atom is None else _holds_one(atom, binding)
        if holds is False:
            return None
        if holds is None:
            open_ones.add(None if atom is None else tuple(atom))
    return frozenset(open_ones)


def cover_all(clauses: Sequence[Clause]) -> bool:
    """Whether one of ``clauses`` holds whatever is true: as the branches of an if with an else."""
    known = set(clauses)
    for _ in range(len(known)):
        joined = {
            clause - {atom}
            for clause in known
            for atom in clause
            if atom is not None and (clause - {atom}) | {opposite(atom)} in known
        }
        if frozenset() in joined:
            return True
        if joined <= known:
            break
        known |= joined
    return frozenset() in known


def _holds_one(atom: Any, binding: Binding) -> bool | None:
    """Whether a condition holds; None where it depends on what is not known."""
    known = bound(["arg", atom[0]], binding)
    if known[0] not in ("const", "ref", "name", "list", "call", "dict"):
        return None
    is_const = known[0] == "const"
    if atom[1] in ("true", "false"):
        if not is_const:
            return atom[1] == "true" if known[0] in ("ref", "call") else None
        return bool(known[1]) is (atom[1] == "true")
    if not is_const:
        return (atom[1] == "not") if atom[2] is None else None
    same = known[1] == atom[2]
    return same is (atom[1] == "is")
