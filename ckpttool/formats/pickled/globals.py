"""The globals of a pickle as a ``Checkpoint`` lists them: what is called, how often, and where first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.tensors import TENSOR_GLOBALS
from ckpttool.pickles.nodes import LOCATED_CALLS, Call, Global, Node, PickleTree
from ckpttool.pickles.tree import parse_pickle
from ckpttool.values.checkpoint import Finding, GlobalRef, Root
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint
from ckpttool.values.words import agree, cut, plural, some

# Every tensor calls one of these, or holds the result (its backward hooks): a place says nothing.
_IN_EVERY_TENSOR = TENSOR_GLOBALS | {("collections", "OrderedDict")}
# More pickles behind the first than any loader asks for; each has this part of the limits.
_MAX_FOLLOWING = 16
_LIMITS_SHARE = 8

_MAX_PLACE = 240  # characters of a place, for people
_MAX_STEPS = 32  # of a path that are written out


class Places:
    """Where in a tree the first uses of each global stand."""

    def __init__(self) -> None:
        # By id of the Global, then of the node that stands there.
        self._places: dict[int, dict[int, str]] = {}

    def note(self, node: Node, path: Root) -> None:
        """Remember where a global, or a call of one, stands; any other node is nothing to remember."""
        function = node.function if isinstance(node, Call) else node
        if isinstance(function, Global):
            places = self._places.setdefault(id(function), {})
            if len(places) < LOCATED_CALLS:
                places.setdefault(id(node), describe_place(path))

    def of(self, function: Global) -> dict[int, str]:
        """The places of a global, by the id of the node that stands there; for the caller to change."""
        return dict(self._places.get(id(function), {}))


def describe_place(path: Root) -> str:
    """``$.model.0.weight``; a long one is cut in front."""
    text = "".join(f".{str(key)[-_MAX_PLACE:]}" for key in path[-_MAX_STEPS:])
    if len(path) <= _MAX_STEPS and len(text) <= _MAX_PLACE:
        return f"${text}"
    return f"$…{text[-_MAX_PLACE:]}"


def list_globals(tree: PickleTree, places: Places | None = None) -> tuple[GlobalRef, ...]:
    """Every global of a pickle, also one that the value does not reach.

    A call that was met at no place in the tree (popped, inside a key, among a tensor's arguments) is
    told by its byte.
    """
    refs = []
    for node in tree.globals.values():
        met = places.of(node) if places is not None else {}
        where = []
        name = (node.module, node.name)
        for call in node.first_calls:
            place = met.pop(id(call), "")
            if place or name not in _IN_EVERY_TENSOR:
                where.append(place or f"byte {tree.base + call.byte_offset} of {tree.within}")
        where = list(dict.fromkeys((*where, *met.values())))[:LOCATED_CALLS]
        arities = tuple(sorted(node.arities))
        refs.append(GlobalRef(node.module, node.name, node.calls > 0, tuple(where), node.calls, arities))
    return tuple(refs)


def parse_within(limits: Limits, data: bytes, start: int = 0, share: int = 1) -> PickleTree:
    """The pickle at ``data[start]``, which may do and hold a part of what ``limits`` allow.

    Raises:
        CkptToolError: see ``parse_pickle``.
    """
    max_ops, max_nodes = limits.pickle_ops // share, limits.pickle_nodes // share
    try:
        return parse_pickle(
            data, start=start, max_ops=max_ops, max_nodes=max_nodes, max_name=limits.name_nbytes
        )
    except MalformedCheckpoint as error:
        calls = [f"{m}.{n}" for m, n, called in error.named if called and (m, n) not in _IN_EVERY_TENSOR]
        if calls:
            error.hint = f"a damaged pickle: an unpickler would call {some(calls, cut)} before it breaks off"
        raise


def absorb_following(tree: PickleTree, behind: bytes, left: int, limits: Limits) -> tuple[Finding, ...]:
    """Add to ``tree`` the globals of the pickles behind its STOP, and report what is there.

    ``behind`` are the first of the ``left`` bytes there. A loader that asks for one pickle does not reach
    them; one that reads on does.
    """
    if not left:
        return ()
    position, count = 0, 0
    for _ in range(_MAX_FOLLOWING):
        try:
            following = parse_within(limits, behind, position, _LIMITS_SHARE)
        except CkptToolError:
            break  # whatever it is, it is reported as bytes
        position, count = following.end, count + 1
        _absorb(tree, following)
    if not count:
        follow = plural(left, "byte follows", "bytes follow")
        message = f"{follow} the first pickle and {agree(left, 'is', 'are')} not read"
    else:
        more = plural(count, "more pickle follows", "more pickles follow")
        message = f"{more} the first: a loader that reads on would unpickle what is there"
        if rest := left - position:
            message += f"; {plural(rest, 'byte')} behind {agree(rest, 'is', 'are')} not read"
    return (Finding("bytes-after-pickle", "warning", "", message),)


def _absorb(tree: PickleTree, other: PickleTree) -> None:
    """Count the globals of a pickle behind ``tree`` as its own, with offsets from its start."""
    for key, node in other.globals.items():
        for call in node.first_calls:
            call.byte_offset += tree.end
        known = tree.globals.setdefault(key, node)
        if known is not node:
            known.first_calls = (known.first_calls + node.first_calls)[:LOCATED_CALLS]
            known.calls += node.calls


def merge_globals(groups: Iterable[Iterable[GlobalRef]], *, distinct: bool = False) -> tuple[GlobalRef, ...]:
    """Each global of several pickles once, in order of appearance: with all its calls, and the first places.

    With ``distinct`` a place that two of them share is told once.
    """
    merged: dict[tuple[str, str], GlobalRef] = {}
    for ref in chain.from_iterable(groups):
        old = merged.get(ref[:2])
        if old is not None:
            places, arities = (*old.places, *ref.places), tuple(sorted({*old.arities, *ref.arities}))
            called, calls = old.called or ref.called, old.calls + ref.calls
            ref = ref._replace(called=called, places=places, calls=calls, arities=arities)
        places = tuple(dict.fromkeys(ref.places)) if distinct else ref.places
        merged[ref[:2]] = ref._replace(places=places[:LOCATED_CALLS])
    return tuple(merged.values())
