"""Questions about single nodes of an inert pickle tree, as torch and Python write them."""

from __future__ import annotations

from collections.abc import Iterable

from ckpttool.formats.pickled.plain import MAX_SUMMARY, describe_call
from ckpttool.pickles.nodes import BigInt, Call, DictNode, Global, Node, PersistentId, SetNode, iter_items
from ckpttool.values.dtypes import parse_torch_name
from ckpttool.values.words import plural, shorten


def iter_mapping(node: Node) -> Iterable[tuple[Node, Node]]:
    """(key, value) pairs of a dict or of an OrderedDict call, however its items were given."""
    if isinstance(node, DictNode):
        yield from iter_items(node.items)
    elif isinstance(node, Call):
        args = node.args if isinstance(node.args, tuple) else ()
        for argument in args[:1]:
            # Python 2 and Counter give the items as the argument: [[key, value], …] or a dict.
            if isinstance(argument, DictNode):
                yield from iter_items(argument.items)
            elif isinstance(argument, (list, tuple)):
                for pair in argument:
                    if isinstance(pair, (list, tuple)) and len(pair) == 2:
                        yield pair[0], pair[1]
        yield from iter_items(node.items)


def type_name(node: Node) -> str:
    """The class a leaf or container would have, as ``module.name`` for globals."""
    if is_set(node):
        return "set"
    if isinstance(node, Call):
        name = node.name if isinstance(node.function, Global) else "a computed callable"
        return _SHORT_NAMES.get(name) or shorten(name, MAX_SUMMARY)
    if isinstance(node, Global):
        return "torch.dtype" if _is_dtype(node) else "global"
    return _NODE_NAMES.get(type(node), type(node).__name__)


def summarize(node: Node) -> str:
    """A few words on a leaf that is not built."""
    if isinstance(node, Call):
        return describe_call(node)
    if isinstance(node, Global):
        return shorten(node.full_name, MAX_SUMMARY)
    if isinstance(node, BigInt):
        return plural(node.nbits, "bit")
    if isinstance(node, PersistentId):
        pid = node.pid
        if isinstance(pid, tuple) and len(pid) >= 5 and isinstance(pid[1], Global) and type(pid[4]) is int:
            return shorten(f"{pid[1].full_name} of {plural(pid[4], 'element')}", MAX_SUMMARY)
        return "persistent id"
    unit = _UNITS.get(type(node))
    return plural(len(node), unit) if unit else ""


_SHORT_NAMES = {"collections.OrderedDict": "OrderedDict", "collections.defaultdict": "defaultdict"}
_UNITS: dict[type, str] = {list: "item", tuple: "item", str: "character", bytes: "byte"}
_NODE_NAMES: dict[type, str] = {DictNode: "dict", BigInt: "int", PersistentId: "storage"}
_MAPPINGS = frozenset(
    "collections.OrderedDict collections.defaultdict collections.Counter builtins.dict".split()
)
_UNHASHABLE = _MAPPINGS | {"builtins.set", "builtins.bytearray", "builtins.list"}
_SETS = frozenset(("builtins.set", "builtins.frozenset"))


def is_mapping(node: Call) -> bool:
    """Whether the call makes a dict of some sort, whose items are the node's."""
    return node.name in _MAPPINGS


def is_set(node: Node) -> bool:
    """Whether this is a set or frozenset: a SetNode, or the call ``set([…])`` of protocols 2 and 3."""
    if not isinstance(node, Call):
        return isinstance(node, SetNode)
    return (
        node.name in _SETS
        and isinstance(node.args, tuple)
        and (not node.args or isinstance(node.only_argument, (list, tuple)))
        and not (node.states or node.appended or node.items)
    )


_MOST_HASHED = 1000  # items of a tuple that are looked at


def is_unhashable(node: Node) -> bool:
    """Whether a node is, or a tuple holds, what can be no key of a dict; unknown classes may."""
    stack = [node]
    for _ in range(_MOST_HASHED):
        if not stack:
            break
        item = stack.pop()
        if isinstance(item, (list, DictNode)) or (isinstance(item, SetNode) and not item.frozen):
            return True
        if isinstance(item, Call) and item.name in _UNHASHABLE:
            return True
        if isinstance(item, tuple):
            stack += item[:_MOST_HASHED]
    return False


def is_computed(node: Call) -> bool:
    """Whether what is called is no global, but the result of something else."""
    return not isinstance(node.function, Global)


def _is_dtype(node: Global) -> bool:
    return node.module == "torch" and parse_torch_name(node.name) is not None


def attribute_items(node: Call) -> Iterable[tuple[Node, Node]]:
    """Attributes in the BUILD states of an object, where a state is a dict or ``(dict, slots)``."""
    for state in node.states or ():
        for half in _halves(state) or ():
            if half is not None:
                yield from iter_items(half.items)


def whole_states(node: Call) -> list[Node]:
    """The BUILD states that are anything else: what a ``__setstate__`` of the object's own is given."""
    return [state for state in node.states or () if _halves(state) is None]


def _halves(state: Node) -> tuple[DictNode | None, ...] | None:
    halves = state if type(state) is tuple and len(state) == 2 else (state,)
    return halves if all(isinstance(half, (DictNode, type(None))) for half in halves) else None


def named_state(node: Call) -> Iterable[tuple[str, Node]]:
    """Attributes of an object by name."""
    return ((key, value) for key, value in attribute_items(node) if type(key) is str)


def has_module_state(node: Call) -> bool:
    """Whether the object's state is that of an ``nn.Module``, whatever its class."""
    return {"_parameters", "_buffers", "_modules"} <= {name for name, _ in named_state(node)}


def set_items(node: Node) -> list[Node]:
    """Items of a set, as SetNode or as the call ``set([…])`` of protocol 2."""
    if isinstance(node, SetNode):
        return node.items
    items = node.only_argument if isinstance(node, Call) else None
    return list(items) if isinstance(items, (list, tuple)) else []


def width_of(node: Node) -> int:
    """How many things are looked at to walk ``node``, not counting what lies below them."""
    if isinstance(node, DictNode):
        return len(node.items) // 2
    if isinstance(node, SetNode):
        return len(node.items)
    if isinstance(node, (list, tuple)):
        return len(node)
    if not isinstance(node, Call):
        return 0
    width = len(node.items or ()) // 2 + len(node.appended or ()) + len(node.states or ())
    for state in node.states or ():
        for half in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            width += len(half.items) // 2 if isinstance(half, DictNode) else 1
    if isinstance(node.args, (tuple, list)):
        width += len(node.args)
        first = node.args[0] if node.args else None
        if isinstance(first, (list, tuple)):  # the items of an OrderedDict or a set
            width += len(first)
        elif isinstance(first, DictNode):
            width += len(first.items) // 2
    return width
