"""``fnmatch`` globs over names, paths and the branches above them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate

from ckpttool.values.checkpoint import Key, Root


class Globs:
    """Several globs as one question; without any glob nothing matches.

    A glob may fit the name, the dotted path, or the path of a branch above: ``optimizer`` stands
    for everything under it. Case matters.
    """

    def __init__(self, globs: Sequence[str]) -> None:
        self._pattern = re.compile("|".join(map(translate, globs))) if globs else None
        self._branches: dict[Root, bool] = {(): False}

    def __bool__(self) -> bool:
        return self._pattern is not None

    def match(self, root: Root, name: Key) -> bool:
        """Whether a glob fits the leaf ``name`` at ``root``."""
        if self._pattern is None:
            return False
        text = str(name)
        if self._pattern.match(text) or self.match_branch(root):
            return True
        return bool(root) and bool(self._pattern.match(".".join([*map(str, root), text])))

    def match_branch(self, root: Root) -> bool:
        """Whether a glob fits ``root`` or a branch above it."""
        if self._pattern is None:
            return False
        known = self._branches.get(root)
        if known is None:
            fits = self._pattern.match(".".join(map(str, root))) is not None
            known = self._branches[root] = fits or self.match_branch(root[:-1])
        return known


def make_filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[Root, Key], bool]:
    """Whether some ``include`` glob, if there is any, and no ``exclude`` glob fits a leaf."""
    included, excluded = Globs(include), Globs(exclude)
    return lambda root, name: (not included or included.match(root, name)) and not excluded.match(root, name)
