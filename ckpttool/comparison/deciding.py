"""What is to decide whether two sides differ: ``--weights-only`` and ``--ignore``."""

from __future__ import annotations

from collections.abc import Sequence

from ckpttool.comparison.sides import Placed
from ckpttool.values.checkpoint import Kind, Root
from ckpttool.values.difference import DiffEntry, Side, ValueChange
from ckpttool.values.errors import CkptToolError

# The word of --ignore for a section of what stands beside the tensors, and for a kind of entries.
SECTION_WORDS = {
    "value": "values", "attribute": "attributes", "version": "versions", "metadata": "metadata",
    "object": "objects",
}  # fmt: skip
KIND_WORDS = {Kind.EXTRA_STATE: "extra-state", Kind.OPTIMIZER_STATE: "optimizer-state"}


def weights_of(side: Side, root: Root | None) -> Root:
    """The branch of the weights, at or below ``root`` if that was asked for.

    Raises:
        CkptToolError: it is not clear which they are.
    """
    home = side.weights_root
    if root is not None:
        return home if home is not None and home[: len(root)] == root else root
    if home is None:
        raise CkptToolError(
            "cannot tell which branch holds the weights",
            path=side.checkpoint.path,
            hint="choose it with --root, --root-a or --root-b",
        )
    return home


def only_weights(items: Sequence[Placed]) -> tuple[Placed, ...]:
    """What stands in the branch itself and is a parameter or a buffer, as far as is known."""
    return tuple([item for item in items if not item.root and item.row.classification.kind not in KIND_WORDS])


def leave_out(entry: DiffEntry, words: Sequence[str]) -> DiffEntry:
    """The entry, marked as ignored where it differs and ``words`` name its kind."""
    return entry._replace(ignored=True) if entry.differs and KIND_WORDS.get(entry.kind) in words else entry


def word_of(change: ValueChange) -> str:
    """The word of ``--ignore`` that leaves out a change beside the tensors."""
    # What get_extra_state returned may be an object, a value, or a mapping of such.
    extra = any(str(key).rpartition(".")[2] == "_extra_state" for key in (*change.root, change.name))
    return "extra-state" if extra and change.section != "version" else SECTION_WORDS[change.section]
