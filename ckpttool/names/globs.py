"""``fnmatch`` globs over names, paths and the branches above them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate

from ckpttool.values.checkpoint import Key, Root
from ckpttool.values.errors import CkptToolError
from ckpttool.values.words import quote

_LONGEST_GLOB = 200  # characters of one that similar names are looked for to
_MOST_COMPARED = 20_000  # parts of names: beyond that, looking for a similar one takes seconds


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


def refuse_unmatched(
    include: Sequence[str],
    exclude: Sequence[str],
    leaves: Sequence[tuple[Root, Key]],
    others: Sequence[tuple[Root, Key]] = (),
    *,
    path: str | None = None,
    noun: str = "entry",
) -> None:
    """Refuse a glob that fits nothing: what was typed is not there, and a check of nothing passes.

    ``include`` is asked of ``leaves``, ``exclude`` of ``others`` as well: what is left out already may be
    excluded once more. Two globs that leave nothing together are no slip.

    Raises:
        CkptToolError: one fits nothing; the hint names what is close.
    """
    for globs, known in ((include, leaves), (exclude, (*leaves, *others) if exclude else ())):
        for glob in dict.fromkeys(globs):
            one = Globs([glob])
            if not any(one.match(*leaf) for leaf in known):
                meant = _close_glob(glob[:_LONGEST_GLOB], known)
                hint = f"did you mean {quote(meant)}" if meant else None
                raise CkptToolError(f"no {noun} matches {glob!r}", path=path, hint=hint)


def _close_glob(glob: str, leaves: Sequence[tuple[Root, Key]]) -> str | None:
    """A glob near ``glob`` that does fit: with more behind it or before it, or with parts of real names."""
    keys = dict.fromkeys(key for root, name in leaves for key in (*root, name))
    parts = list(dict.fromkeys(part for key in keys for part in str(key).split(".")))[:_MOST_COMPARED]
    closest = ".".join([_closest(part, parts) for part in glob.split(".")])
    bare = closest.rstrip("*").rstrip(".")
    tried = [f"{glob}.*", f"*{glob}", f"{bare}.*", closest, f"*{closest}", f"*{bare}.*", f"{bare}*"]
    for text in tried if bare else ():
        one = Globs([text])
        if any(one.match(*leaf) for leaf in leaves):
            return text
    return None


def _closest(part: str, known: Sequence[str]) -> str:
    """``hed*`` -> ``head*``: the part of a name that is most like what stands between the stars."""
    from difflib import get_close_matches

    word = part.strip("*")
    found = [text for text in known if text.lower() == word.lower()] or get_close_matches(word, known, 1)
    found = [word] if word in found else found
    return part.replace(word, found[0]) if word and found else part
