"""New names for entries and for the modules of ``_metadata``: prefixes off and on, and regexes.

Prefixes are whole parts of a dotted name. Every rule sees what the one before it made: wrappers or
a prefix off first, then each ``REGEX=>REPL`` in turn, then the new prefix on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from ckpttool.names.prefixes import strip_wrappers
from ckpttool.values.errors import CkptToolError

AUTO = "auto"
_ARROW = "=>"

Rule = Callable[[str], str]


def make_rule(strip_prefix: str | None, renames: Sequence[str], add_prefix: str) -> Rule | None:
    """The function from old to new names, or None if none was asked for.

    Raises:
        CkptToolError: a rename has no ``=>``, or is no regular expression.
    """
    rules: list[Rule] = []
    if strip_prefix == AUTO:
        rules.append(strip_wrappers)
    elif strip_prefix:
        rules.append(_strip(_as_prefix(strip_prefix)))
    rules += map(_substitute, renames)
    if add_prefix:
        rules.append(_add(_as_prefix(add_prefix)))
    if not rules:
        return None

    def rule(name: str) -> str:
        for step in rules:
            name = step(name)
        return name

    return rule


def rename_all(names: Iterable[str], rule: Rule, path: str) -> dict[str, str]:
    """Old name -> new name for every name that changes.

    Raises:
        CkptToolError: two names become equal; both are named.
    """
    renamed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        new = rule(name)
        other = taken.setdefault(new, name)
        if other != name:
            raise CkptToolError(
                f"{other!r} and {name!r} would both be called {new!r}",
                path=path,
                hint="drop one of them with --drop, or rename it with --rename 'REGEX=>REPL'",
            )
        if new != name:
            renamed[name] = new
    return renamed


def rename_modules(versions: Mapping[str, object], rule: Rule) -> dict[str, str]:
    """Old path -> new path of each module of ``_metadata``; the first of two that meet stays.

    A module is a prefix of names, so the rule is applied to its path with a dot behind it. The
    top module ("") moves with what was around it: ``module.`` off makes ``module`` the top.
    """
    moved: dict[str, str] = {}
    taken: set[str] = set()
    # A wrapper's own path is shorter than what it wraps, and gives way to it.
    for path in sorted(versions, key=lambda path: -path.count(".") - bool(path)):
        leaf = "\0"  # stands for any entry of the module
        new = rule(f"{path}.{leaf}" if path else leaf)
        if not new.endswith(leaf):
            continue
        new = new.removesuffix(leaf).removesuffix(".")
        if new not in taken:
            taken.add(new)
            moved[path] = new
    return {path: moved[path] for path in versions if path in moved}


def _as_prefix(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _strip(prefix: str) -> Rule:
    def rule(name: str) -> str:
        while name.startswith(prefix) and len(name) > len(prefix):
            name = name[len(prefix) :]
        return name

    return rule


def _add(prefix: str) -> Rule:
    return lambda name: prefix + name


def _substitute(text: str) -> Rule:
    pattern, arrow, replacement = text.partition(_ARROW)
    if not arrow or not pattern:
        raise CkptToolError(f"--rename {text!r} is not of the form REGEX=>REPL")
    try:
        compiled = re.compile(pattern)
        compiled.sub(replacement, "")  # parses the replacement, whether the pattern matches or not
    except (re.error, IndexError, OverflowError) as error:
        raise CkptToolError(f"--rename {text!r} is not a regular expression: {error}") from None
    return lambda name: compiled.sub(replacement, name)
