"""Descriptions of what an expression in source may give, and what can be made of them.

A description is a list that JSON can hold::

    ["const", value]    ["name", [pattern, …]]    text that is put together
    ["arg", key]        an argument of the function, or what self has (``self.x``)
    ["ref", dotted]     what the module defines or imports    ["call", dotted, arguments]    what that gives
    ["method", name, arguments]    what a method of self gives
    ["list", [item, …], exact]     ["dict", [[pattern, item], …]]
    ["with", container, [[pattern, item], …]]    a container, and what is put into it later
    ["or", [item, …]]   ["plain"]   neither a module nor a Parameter nor a class    ["?"]   anything

A *pattern* is a text in which ``ANY`` stands for what is not known, ``DIGITS`` for a number and
``ARG key ARG`` for what the caller gives. Arguments are ``[positional, by keyword, open]``.
``open``: there may be more. The first ``exact`` items of a list stand at their index; None: all do, and there
are no others.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

ANY = "\x01"
DIGITS = "\x02"
ARG = "\x03"
MARKS = frozenset((ANY, DIGITS, ARG))

Description: TypeAlias = list[Any]
When: TypeAlias = Sequence[Any]
"""Conditions that all hold, see ``scan``."""

PLAIN: Description = ["plain"]
OPEN: Description = ["?"]
NUMBER: Description = ["name", [DIGITS]]

_MOST_PATTERNS = 64
MOST_ITEMS = 64  # of a list
_LONGEST_NAME = 256  # characters: nobody registers under such a name
_MOST_PARTS = 5_000  # of one description: of a name that is given itself twice, again and again


def make_list(items: Sequence[Description], exact: int | None) -> Description:
    """A list of which the first ``exact`` items stand at their index; None: all, and there are no others."""
    if exact is None and len(items) > MOST_ITEMS:
        exact = MOST_ITEMS
    return ["list", list(items[:MOST_ITEMS]), exact]


def exact_of(described: Description) -> int:
    """How many items of a list stand at their index."""
    exact = described[2]
    return len(described[1]) if exact is None else exact


def bounded(described: Description) -> Description:
    """``described``, or anything where it would be too much to write down."""
    left = _MOST_PARTS
    stack: list[Any] = [described]
    while stack:
        item = stack.pop()
        if isinstance(item, (list, dict)):
            left -= len(item)
            if left < 0:
                return OPEN
            stack += item.values() if isinstance(item, dict) else item
    return described


def alternatives(found: Iterable[Description]) -> Description:
    """One of ``found``: itself where there is one, ``["or", …]`` where there are several."""
    flat: list[Description] = []
    for item in found:
        flat += [part for part in alternatives_of(item) if part not in flat]
        if len(flat) > _MOST_PATTERNS:
            return OPEN
    return flat[0] if len(flat) == 1 else ["or", flat] if flat else OPEN


def alternatives_of(item: Description) -> list[Description]:
    """What ``item`` may be."""
    return item[1] if item[0] == "or" else [item]


def items_of(item: Description) -> list[Description]:
    """What is in a list, as far as it is seen."""
    return item[1] if item[0] == "list" else [OPEN]


def unpack(described: Description, count: int) -> list[Description]:
    """``count`` names that are assigned what is ``described``."""
    if described[0] == "list" and len(described[1]) == count and described[2] is None:
        return list(described[1])
    if described[0] == "or":
        columns = zip(*(unpack(item, count) for item in described[1]), strict=True)
        return [alternatives(column) for column in columns]
    return [PLAIN if described == PLAIN else OPEN] * count


def patterns_of(described: Description) -> list[str]:
    """The text that ``described`` is, in a name."""
    found: list[str] = []
    for item in alternatives_of(described):
        if item[0] == "const":
            found.append(_text_of(item[1]))
        elif item[0] == "name":
            found += item[1]
        elif item[0] == "arg":
            found.append(f"{ARG}{item[1]}{ARG}")
        else:
            found.append(ANY)
    return list(dict.fromkeys(found))[:_MOST_PATTERNS] or [ANY]


def join(parts: Sequence[Sequence[str]]) -> list[str]:
    """Every way to put together one of each of ``parts``; what are too many are anything."""
    found = list(itertools.islice(itertools.product(*parts), _MOST_PATTERNS + 1))
    if len(found) > _MOST_PATTERNS:
        found = [tuple(part[0] if len(part) == 1 else ANY for part in parts)]
    texts = ["".join(part) if sum(map(len, part)) <= _LONGEST_NAME else ANY for part in found]
    return list(dict.fromkeys(texts))


def combine(left: Description, operator: ast.operator, right: Description) -> Description:
    """What ``+`` or another operator makes of two."""
    sides = (left, right)
    if any(side[0] == "list" for side in sides):
        items = [item for side in sides if side[0] == "list" for item in side[1]]
        both = all(side[0] == "list" for side in sides)
        if not isinstance(operator, ast.Add):
            return make_list(items, 0)
        if both and all(side[2] is None for side in sides):
            return make_list(items, None)
        return make_list([*items, *([] if both else [OPEN])], exact_of(left) if left[0] == "list" else 0)
    every = [item for side in sides for item in alternatives_of(side)]
    is_text = any(_is_text(item) for item in every)
    if isinstance(operator, ast.Add) and (is_text or all(item[0] == "arg" for item in every)):
        return ["name", join([patterns_of(side) for side in sides])]
    if not is_text and any(item == NUMBER or _is_number(item) for item in every):
        return NUMBER
    return PLAIN


def _is_number(item: Description) -> bool:
    return item[0] == "const" and type(item[1]) is int


def _is_text(item: Description) -> bool:
    # Digits alone may be a number, or the text of one.
    return isinstance(item[1], str) if item[0] == "const" else item[0] == "name" and item != NUMBER


def put(value: Description, pairs: list[list[Any]]) -> Description:
    """The container ``value`` with more in it, by pattern of the key."""
    if value[0] == "list":
        return make_list([*value[1], *(item for _, item in pairs)], exact_of(value))
    if value[0] == "dict":
        return ["dict", [*value[1], *pairs][:MOST_ITEMS]]
    if value[0] == "with":
        return ["with", value[1], [*value[2], *pairs][:MOST_ITEMS]]
    if value[0] == "or":
        return ["or", [put(item, pairs) for item in value[1]]]
    return ["with", value, pairs[:MOST_ITEMS]] if value[0] in ("call", "method", "arg") else value


_OPPOSITES = {"true": "false", "false": "true", "is": "not", "not": "is"}


def opposite(atom: Sequence[Any]) -> tuple[Any, ...]:
    """The condition that holds where ``atom`` does not."""
    return (atom[0], _OPPOSITES[atom[1]], *atom[2:])


def exclude(when: When, now: When) -> bool:
    """Whether one of the conditions is the opposite of another."""
    return any(atom is not None and list(opposite(atom)) in now for atom in when)


def _text_of(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ANY
    return str(value) if isinstance(value, int) else value if MARKS.isdisjoint(value) else ANY
