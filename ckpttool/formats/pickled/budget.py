"""What a walk over an inert tree may cost, however its nodes share one another.

A file of a few bytes can hold a tree with more paths than atoms in the world ("billion laughs"): what
is shared is walked again only while that stays cheap, and every list of children, path and long name
counts against limits that no real file comes near.
"""

from __future__ import annotations

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.nodes import width_of
from ckpttool.formats.pickled.plain import SMALL_VALUE
from ckpttool.pickles.nodes import Node
from ckpttool.values.checkpoint import Root
from ckpttool.values.errors import LimitExceeded

_FREE_REVISITS = 10_000  # children of shared containers that may always be walked again
_STEPS_PER_ENTRY = 4  # children looked at; real files have little more than one for each entry
_FREE_REPEATS = 250_000  # scalars of shared lists (and pieces of shared strings) that are shown again
_MAX_REPEATS = 100_000  # names whose values are no more shown than that they are shared
_MAX_ATTRIBUTES = 10_000  # plain attributes of objects that are listed
_MAX_MODULE_ATTRIBUTES = 200_000  # and of modules: real ones have about fifteen each
_MAX_TEXT = 64 << 20  # characters of long keys and of the joined names of modules


class WalkBudget:
    """Counts what one walk does; its methods raise, or say no, when that becomes too much."""

    def __init__(self, limits: Limits) -> None:
        self.max_entries = limits.entries
        self.first_path: dict[int, Root] = {}  # containers already walked, by identity
        self.steps = 0  # children looked at so far, and how many of them for the first time
        self.first_steps = 0
        self.path_keys = 0  # of all paths made so far
        self.text = 0  # characters of joined names, and of paths with long keys in them
        self.has_long_keys = False
        self.seen_values: set[int] = set()  # larger plain values, by identity
        self.repeats = 0  # scalars shown again so far, and names of which that was too much
        self.unshown = 0
        self.attributes = [0, 0]  # plain ones so far: of objects, of modules; and those beyond what is listed
        self.unlisted = 0

    def is_shared_too_often(self, node: Node, path: Root) -> bool:
        """Count a visit; true when shared containers make far more paths than there are objects."""
        width = 1 + width_of(node)
        if id(node) not in self.first_path:
            self.first_path[id(node)] = path
            self.first_steps += width
        elif self.steps + width > _FREE_REVISITS + 3 * self.first_steps:
            return True
        self.spend(width, path)
        return False

    def spend(self, steps: int, path: Root) -> None:
        """Count children that are looked at, and the keys of the path that they share.

        Raises:
            LimitExceeded: far more than any file that torch wrote.
        """
        self.steps += steps
        self.path_keys += len(path)
        limit = _STEPS_PER_ENTRY * self.max_entries
        if self.steps > limit or self.path_keys > limit:
            raise LimitExceeded("number of items in containers and their paths", limit=limit)
        if self.has_long_keys:
            self.count_text((1 + steps) * sum(len(key) for key in path if type(key) is str))

    def count_text(self, characters: int) -> None:
        """Count what names take when they are written out.

        Raises:
            LimitExceeded: far more than any file that torch wrote.
        """
        self.text += characters
        if self.text > _MAX_TEXT:
            raise LimitExceeded("length of all names", limit=_MAX_TEXT)

    def lists_attribute(self, *, of_module: bool = False) -> bool:
        """Count a plain attribute of an object or a module; false once they are too many."""
        self.attributes[of_module] += 1
        lists = self.attributes[of_module] <= (_MAX_MODULE_ATTRIBUTES if of_module else _MAX_ATTRIBUTES)
        self.unlisted += not lists
        return lists

    def shows_value(self, node: Node, size: int) -> bool:
        """Whether a plain value of ``size`` scalars is still written out, or too often shared by now.

        Raises:
            LimitExceeded: far more names for one value than any file that torch wrote.
        """
        if size <= SMALL_VALUE:
            return True
        if id(node) in self.seen_values:
            self.repeats += size
            if self.repeats > _FREE_REPEATS:
                self.unshown += 1
                if self.unshown > _MAX_REPEATS:
                    raise LimitExceeded("number of names for one value", limit=_MAX_REPEATS)
                return False
        self.seen_values.add(id(node))
        return True
