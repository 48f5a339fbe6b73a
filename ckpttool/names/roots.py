"""``--root KEY.PATH``: which branch of the tree a person means.

Keys contain dots, so the text is never split: it is matched, key by whole key, against the
containers that the checkpoint has. ``state.0``, ``state[0]`` and ``["a.b"]`` are all understood, so what
``inspect`` prints can be typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from ckpttool.values.checkpoint import Checkpoint, Key, Root
from ckpttool.values.errors import CkptToolError
from ckpttool.values.words import first_few, format_root, plural

_MOST_SUGGESTED = 8


def resolve_root(checkpoint: Checkpoint, text: str | Root) -> Root:
    """The keys that ``text`` spells among the containers of ``checkpoint``; ``""`` is the top.

    Keys themselves, as entries have them, are a spelling too.

    Raises:
        CkptToolError: there is no such branch, or the text fits several.
    """
    if not text:
        return ()
    children = _children(checkpoint)
    if not isinstance(text, str):
        if text[-1] in children.get(text[:-1], ()):
            return text
        raise CkptToolError(f"no branch {text!r}", path=checkpoint.path, hint=_suggest(checkpoint))
    found = find_paths(children, text)
    if len(found) == 1:
        return found[0]
    what = f"no branch {text!r}" if not found else f"{text!r} names {plural(len(found), 'branch')}"
    raise CkptToolError(what, path=checkpoint.path, hint=_suggest(checkpoint))


def find_paths(children: Mapping[Root, Sequence[Key]], text: str) -> list[Root]:
    """The paths that ``text`` spells, of those that lead from key to key of ``children``."""
    found: list[Root] = []
    # What is left to match follows from the path alone, so each container is looked at once.
    stack: list[tuple[Root, str]] = [((), text if text.startswith("[") else f".{text}")]
    while stack:
        path, rest = stack.pop()
        for key in children.get(path, ()):
            for spelling in _spellings(key):
                if rest == spelling:
                    found.append((*path, key))
                elif rest.startswith(spelling):  # each of the next begins with a dot or a bracket
                    stack.append(((*path, key), rest[len(spelling) :]))
    return found


def _children(checkpoint: Checkpoint) -> dict[Root, list[Key]]:
    """Keys below each container that holds tensors or values, in file order."""
    roots = {entry.root for entry in checkpoint.entries}
    roots.update(value.root for value in checkpoint.values)
    roots.update(opaque.root for opaque in checkpoint.opaque)
    return children_of(roots)


def children_of(paths: Iterable[Root]) -> dict[Root, list[Key]]:
    """Keys below each container on the way to ``paths``, in their order."""
    children: dict[Root, list[Key]] = {}
    known: set[Root] = {()}
    for root in paths:
        while root not in known:
            known.add(root)
            children.setdefault(root[:-1], []).append(root[-1])
            root = root[:-1]
    return children


def _spellings(key: Key) -> Iterator[str]:
    yield f".{key}"
    if isinstance(key, str):
        quoted = key.replace("\\", "\\\\").replace('"', '\\"')
        yield f'["{quoted}"]'
    else:
        yield f"[{key}]"


def _suggest(checkpoint: Checkpoint) -> str:
    """Name the branches that hold tensors, each cut before its first number."""
    branches: dict[str, None] = {}
    for entry in checkpoint.entries:
        named = tuple(takewhile(lambda key: not isinstance(key, int), entry.root))
        if named:
            branches[format_root(named)] = None
    if not branches:
        return "all tensors are at the top: leave --root out"
    return f"--root takes one of: {first_few(list(branches), most=_MOST_SUGGESTED)}"
