"""An inert pickle tree -> entries, plain values and opaque leaves, in the order of the file.

- Mappings, lists and tuples are containers; a list of plain scalars is one value.
- ``OrderedDict`` with a ``_metadata`` state is a state_dict: its module versions are kept.
- An object whose state has ``_parameters``, ``_buffers`` and ``_modules`` is a pickled ``nn.Module``,
  whatever its class: those three dicts (and ``_non_persistent_buffers_set``) give exact kinds.
- Any other object is ``Opaque`` with the name of its class, and its state is walked all the same, so
  that no tensor inside it is lost.

Nothing here recurses: depth is bounded by ``Limits.depth``, and an object that several keys share is
walked again only while that stays cheap (a "billion laughs" tree has few objects and many paths). What
is cheap is counted in children, because one shared object may have a million, and in characters of
names, because names are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ckpttool.checkpoint import (
    Basis,
    Classification,
    Container,
    Entry,
    GlobalRef,
    Key,
    Kind,
    ModuleExtras,
    OddKey,
    Opaque,
    Plain,
    PlainList,
    Root,
    Value,
)
from ckpttool.dtypes import parse_torch_name
from ckpttool.errors import LimitExceeded
from ckpttool.formats.base import Limits
from ckpttool.formats.python_objects import describe_call, plain_of_call, shorten, without_type_tag
from ckpttool.formats.torch_tensors import TENSOR_GLOBALS, StoredTensor, TensorReader
from ckpttool.pickle_nodes import (
    BigInt,
    Call,
    DictNode,
    Global,
    Node,
    PersistentId,
    PickleTree,
    SetNode,
    iter_items,
)

_FREE_REVISITS = 10_000  # children of shared containers that may always be walked again
_STEPS_PER_ENTRY = 4  # children looked at; real files have little more than one for each entry
_FREE_REPEATS = 250_000  # scalars of shared lists (and pieces of shared strings) that are shown again
_MAX_REPEATS = 100_000  # names whose values are no more shown than that they are shared
_LONG_KEY = 256  # longer keys are counted: their paths are written out for every entry below them
_MAX_TEXT = 64 << 20  # characters of long keys and of the joined names of modules
_SMALL_VALUE = 4  # values of at most as many scalars are not asked whether they are shared
_TEXT_PIECE = 64  # characters that count as one scalar
_MAX_PLAIN_DEPTH = 4  # a list of lists of numbers is one value; deeper ones are containers
_MAX_NESTED_SCALARS = 10_000  # numbers in one nested list
_MAX_FLAT_SCALARS = 12_000_000  # in a flat one: as many as a pickle has opcodes; more only by sharing text
_MAX_PLACES = 4
_MAX_PLACE = 240  # characters of a place, for people
_MAX_KEY_SCALARS = 100  # a tuple that is a key is written out up to here

_PARAMETER = Classification(Kind.PARAMETER, Basis.PICKLED_PARAMETER)
_MODULE_PARAMETER = Classification(Kind.PARAMETER, Basis.PICKLED_MODULE)
_MODULE_BUFFER = Classification(Kind.PERSISTENT_BUFFER, Basis.PICKLED_MODULE)
_MODULE_NON_PERSISTENT = Classification(
    Kind.NON_PERSISTENT_BUFFER,
    Basis.PICKLED_MODULE,
    note="carried by the pickled module, not by a state_dict",
)
_PLAIN_ATTRIBUTE = Classification(Kind.UNKNOWN, Basis.NONE, note="plain tensor attribute, not registered")


class Contents(NamedTuple):
    """What one pickle says, in the fields of ``Checkpoint``."""

    entries: list[Entry]
    values: list[Value]
    opaque: list[Opaque]
    containers: list[Container]
    module_versions: dict[Root, dict[str, int | None]]
    module_extras: dict[Root, dict[str, ModuleExtras]]
    globals: tuple[GlobalRef, ...]


class _Frame(NamedTuple):
    """A container that is being walked: its path, its children still to come, its identity."""

    path: Root
    children: Iterator[tuple[Key, Node]]
    inside_object: bool  # under an opaque object: only tensors are recorded
    identity: int


def read_objects(tree: PickleTree, tensors: TensorReader, limits: Limits, root: Root = ()) -> Contents:
    """Walk the tree of a checkpoint's pickle; ``root`` is put in front of every path.

    Raises:
        MalformedCheckpoint: a tensor's rebuild call has arguments that torch would not write.
        LimitExceeded: more entries or deeper nesting than ``limits`` allow.
    """
    walk = _Walk(tensors, limits)
    walk.run(tree.value, root)
    return Contents(
        walk.entries,
        walk.values,
        walk.opaque,
        walk.containers,
        walk.module_versions,
        walk.module_extras,
        _global_refs(tree, walk.places),
    )


class _Walk:
    """Depth first in file order over an explicit stack."""

    def __init__(self, tensors: TensorReader, limits: Limits) -> None:
        self.tensors = tensors
        self.limits = limits
        self.entries: list[Entry] = []
        self.values: list[Value] = []
        self.opaque: list[Opaque] = []
        self.containers: list[Container] = []
        self.module_versions: dict[Root, dict[str, int | None]] = {}
        self.module_extras: dict[Root, dict[str, ModuleExtras]] = {}
        self.places: dict[int, list[str]] = {}  # id(Global) -> where an object of it stands
        self.first_path: dict[int, Root] = {}  # containers already walked, by identity
        self.steps = 0  # children looked at so far, and how many of them for the first time
        self.first_steps = 0
        self.path_keys = 0  # of all paths made so far
        self.text = 0  # characters of joined names, and of paths with long keys in them
        self.has_long_keys = False
        self.odd_keys = 0
        self.seen_values: set[int] = set()  # larger plain values, by identity
        self.repeats = 0  # scalars shown again so far, and names of which that was too much
        self.unshown = 0
        self.modules: dict[int, bool] = {}  # whether a call is one, by identity
        self.metadata: dict[int, tuple[dict[str, int | None], dict[str, ModuleExtras]]] = {}
        self.plain = _PlainReader()

    def run(self, top: Node, root: Root) -> None:
        """Visit everything under ``top``."""
        frames: list[_Frame] = []
        self.enter(frames, root, None, top, False)
        while frames:
            path, children, inside_object, _ = frames[-1]
            for key, node in children:
                if type(node) is Call:
                    stored = self.tensors.read(node)
                    if stored is not None:
                        self.add_tensor(path, key, stored)
                        continue
                    untagged = without_type_tag(node)
                    if untagged is not node:
                        self.note_place(node.function, _path(path, key))
                        node = untagged
                if self.enter(frames, path, key, node, inside_object):
                    break  # depth first: its children come before what follows it here
            else:
                frames.pop()

    def enter(
        self, frames: list[_Frame], root: Root, name: Key | None, node: Node, inside_object: bool
    ) -> bool:
        """Record a leaf, or open a container: true if there are children to walk first."""
        if name is None and type(node) is Call:
            stored = self.tensors.read(node)  # a file that holds one bare tensor
            if stored is not None:
                self.add_tensor(root, name, stored)
                return False
        plain, size = self.plain.sized(node, 0)
        if size >= 0 and name is not None:
            if not inside_object:
                self.add_value(root, name, node, plain, size)
            return False
        if not isinstance(node, (Call, DictNode, SetNode, list, tuple)):
            if not inside_object or not isinstance(node, (BigInt, Global)):
                self.add_opaque(root, name, node)
            return False
        if any(frame.identity == id(node) for frame in frames):
            if not inside_object:  # objects often point to their owner: nothing is lost
                self.opaque.append(Opaque(root, _leaf(name), type_name(node), "contains itself"))
            return False
        path = _path(root, name)
        if self.is_shared_too_often(node, path):
            first = _place(self.first_path[id(node)])
            self.opaque.append(Opaque(root, _leaf(name), type_name(node), f"the same object as {first}"))
            return False
        children: Iterable[tuple[Key, Node]]
        if isinstance(node, Call) and not _is_mapping(node):
            if self.is_module(node):
                self.add_module(path, node)
                return False
            self.add_opaque(root, name, node)
            children, inside_object, expected = self.object_children(node), True, 0
        else:
            children = in_order = self.container_children(path, node)
            expected = 0 if inside_object else len(in_order)  # not everything in an object is recorded
            if not inside_object:
                self.containers.append(Container(path, type_name(node), len(in_order)))
        if len(frames) >= self.limits.depth:
            raise LimitExceeded("nesting of containers", limit=self.limits.depth)
        recorded = len(self.entries) + len(self.values) + len(self.opaque) + len(self.containers) + expected
        if recorded > self.limits.entries:
            raise LimitExceeded("number of tensors, values and containers", limit=self.limits.entries)
        frames.append(_Frame(path, iter(children), inside_object, id(node)))
        return True

    def is_shared_too_often(self, node: Node, path: Root) -> bool:
        """Count a visit; true when shared containers make far more paths than there are objects."""
        width = 1 + _width(node)
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
        limit = _STEPS_PER_ENTRY * self.limits.entries
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

    # -- containers ---------------------------------------------------------------------------

    def container_children(self, path: Root, node: Node) -> list[tuple[Key, Node]]:
        """(key, child) of a dict, OrderedDict, list, tuple or set, in order."""
        if isinstance(node, DictNode):
            return self.keyed(iter_items(node.items))
        if isinstance(node, SetNode):
            return list(enumerate(node.items))
        if isinstance(node, Call):
            self.note_place(node.function, path)
            self.read_module_metadata(path, node)
            children = self.keyed(iter_mapping(node))
            children += self.attributes_beside(node)
            return children
        return list(enumerate(node))

    def keyed(self, items: Iterable[tuple[Node, Node]]) -> list[tuple[Key, Node]]:
        """Children of a mapping; a repeated key replaces the value in place, as in a dict."""
        children: dict[Key, Node] = {}
        longest = self.limits.name_nbytes
        for key, value in items:
            if type(key) is not str:
                key = self.key(key)
            elif len(key) > _LONG_KEY:
                if len(key) > longest:
                    raise LimitExceeded("length of a key", limit=longest, actual=len(key))
                self.has_long_keys = True
                self.count_text(len(key))
            children[key] = value
        return list(children.items())

    def key(self, node: Node) -> Key:
        """A mapping key that is not a str, as a step of a path."""
        if type(node) is int:
            return node
        plain, size = self.plain.sized(node, 0)
        if 0 <= size <= _MAX_KEY_SCALARS and not isinstance(plain, str):
            return OddKey(repr(plain), literal=True)
        # Two keys of one class must stay two keys.
        self.odd_keys += 1
        return OddKey(f"<{type_name(node)} {summarize(node)} #{self.odd_keys}>", literal=False)

    def attributes_beside(self, node: Call) -> list[tuple[Key, Node]]:
        """Attributes that a mapping object carries besides its items (not ``_metadata``)."""
        children = []
        for state in node.states or ():
            for key, value in _state_items(state):
                if isinstance(value, (Call, DictNode, list)) and not (
                    type(key) is str and key == "_metadata"
                ):
                    children.append((self.key(key) if type(key) is not str else key, value))
        return children

    def read_module_metadata(self, path: Root, node: Call) -> None:
        """``_metadata`` of a state_dict: ``{module path: {"version": 1, …}}``."""
        for state in node.states or ():
            for key, value in _state_items(state):
                if type(key) is not str or key != "_metadata" or not isinstance(value, (Call, DictNode)):
                    continue
                known = self.metadata.get(id(value))
                if known is None:
                    known = self.metadata[id(value)] = self.versions_and_extras(value)
                else:
                    self.spend(len(known[0]), ())
                self.module_versions[path] = known[0]
                if known[1]:
                    self.module_extras[path] = known[1]

    def versions_and_extras(self, metadata: Node) -> tuple[dict[str, int | None], dict[str, ModuleExtras]]:
        """What a ``_metadata`` says: version of each module, and what else its local metadata holds."""
        versions: dict[str, int | None] = {}
        extras: dict[str, ModuleExtras] = {}
        for module, local in iter_mapping(metadata):
            if type(module) is not str or not isinstance(local, (DictNode, Call)):
                continue
            self.spend(_width(local), ())
            facts = dict(self.local_metadata(local))
            version = facts.pop(("version",), None)
            versions[module] = version if type(version) is int else None
            if facts:
                extras[module] = tuple(facts.items())
        return versions, extras

    def local_metadata(self, local: Node) -> Iterable[tuple[tuple[str, ...], Plain]]:
        """Plain facts of one module's local metadata, which nests one deep (``spectral_norm``)."""
        for key, value in iter_mapping(local):
            if type(key) is not str:
                continue
            plain, is_plain = self.plain.read(value)
            if is_plain:
                yield (key,), plain
            if not is_plain:
                self.spend(_width(value), ())
            for inner_key, inner in iter_mapping(value) if not is_plain else ():
                plain, is_plain = self.plain.read(inner)
                if is_plain and type(inner_key) is str:
                    yield (key, inner_key), plain

    def object_children(self, node: Call) -> Iterable[tuple[Key, Node]]:
        """Everything an unknown object carries: arguments, state, appended and set items."""
        args = node.args if isinstance(node.args, (tuple, list)) else (node.args,)
        for index, argument in enumerate(args):
            if isinstance(argument, (Call, DictNode, SetNode, list, tuple, PersistentId)):
                yield f"args[{index}]", argument
        for state in node.states or ():
            for key, value in _state_items(state):
                yield (key if type(key) is str else self.key(key)), value
        for index, item in enumerate(node.appended or ()):
            yield index, item
        for key, value in iter_items(node.items):
            yield (key if type(key) is str else self.key(key)), value
        if not isinstance(node.function, Global):
            yield "function", node.function

    # -- modules ------------------------------------------------------------------------------

    def add_module(self, root: Root, top: Call) -> None:
        """A pickled ``nn.Module``: its entries under the names that its state_dict would use."""
        stack: list[tuple[Root, str, Call, int]] = [(root, "", top, 0)]
        above: list[int] = []
        while stack:
            path, prefix, module, depth = stack.pop()
            del above[depth:]
            if id(module) in above:
                continue  # a module that holds itself: state_dict() would not end either
            if depth >= self.limits.depth:
                raise LimitExceeded("nesting of modules", limit=self.limits.depth)
            if len(self.entries) + len(self.opaque) > self.limits.entries:
                raise LimitExceeded("number of modules and tensors", limit=self.limits.entries)
            self.spend(1 + _width(module), path)
            above.append(id(module))
            self.note_place(module.function, path)
            state = dict(_named_state(module))
            for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
                self.spend(_width(state.get(name)), ())
            self.containers.append(Container(path, type_name(module), len(state)))
            self.add_registered(root, prefix, state)
            children = []
            for key, child in iter_mapping(state.get("_modules")):
                name = self.key_text(key)
                if isinstance(child, Call) and self.is_module(child):
                    children.append(((*path, name), self.join(prefix, f"{name}."), child, depth + 1))
                elif child is not None:
                    self.opaque.append(
                        Opaque(root, self.join(prefix, name), type_name(child), summarize(child))
                    )
            stack.extend(reversed(children))

    def add_registered(self, root: Root, prefix: str, state: dict[str, Node]) -> None:
        """Parameters, then buffers, then plain tensor attributes of one module."""
        non_persistent = {
            name for name in _set_items(state.get("_non_persistent_buffers_set")) if type(name) is str
        }
        for name, node in iter_mapping(state.get("_parameters")):
            self.add_member(root, self.join(prefix, self.key_text(name)), node, _MODULE_PARAMETER)
        for name, node in iter_mapping(state.get("_buffers")):
            known = type(name) is str and name in non_persistent
            kind = _MODULE_NON_PERSISTENT if known else _MODULE_BUFFER
            self.add_member(root, self.join(prefix, self.key_text(name)), node, kind)
        for name, node in state.items():
            if isinstance(node, Call) and name not in ("_parameters", "_buffers", "_modules"):
                self.add_member(root, self.join(prefix, name), node, _PLAIN_ATTRIBUTE, described=False)

    def add_member(
        self, root: Root, name: str, node: Node, kind: Classification, *, described: bool = True
    ) -> None:
        """One registered tensor; None (``register_buffer(name, None)``) makes no entry in a state_dict."""
        stored = self.tensors.read(node) if isinstance(node, Call) else None
        if stored is not None:
            self.entries.append(Entry(root, name, stored.tensor, stored.requires_grad, kind))
        elif node is not None and described:
            self.opaque.append(Opaque(root, name, type_name(node), summarize(node)))
        elif isinstance(node, Call) and isinstance(node.function, Global):
            self.note_place(node.function, (*root, name))

    def is_module(self, node: Call) -> bool:
        """Whether the object's state is that of an ``nn.Module``, whatever its class; asked once of each."""
        known = self.modules.get(id(node))
        if known is None:
            known = _is_module(node)
            if node.states:
                self.modules[id(node)] = known
        return known

    def join(self, prefix: str, name: str) -> str:
        """The dotted name of a member."""
        self.count_text(len(prefix) + len(name))
        return prefix + name

    def key_text(self, node: Node) -> str:
        """A module or parameter name as text."""
        return node if type(node) is str else str(self.key(node))

    # -- leaves -------------------------------------------------------------------------------

    def add_tensor(self, root: Root, name: Key | None, stored: StoredTensor) -> None:
        """A tensor leaf."""
        declared = _PARAMETER if stored.is_parameter else _UNDECLARED
        self.entries.append(Entry(root, _leaf(name), stored.tensor, stored.requires_grad, declared))

    def add_value(self, root: Root, name: Key, node: Node, plain: Plain, size: int) -> None:
        """A plain leaf; of one that many names share, the later ones say so once it becomes much."""
        if size > _SMALL_VALUE:
            if id(node) in self.seen_values:
                self.repeats += size
                if self.repeats > _FREE_REPEATS:
                    self.unshown += 1
                    if self.unshown > _MAX_REPEATS:
                        raise LimitExceeded("number of names for one value", limit=_MAX_REPEATS)
                    what = "the same value as an earlier one"
                    self.opaque.append(Opaque(root, name, type_name(node), what))
                    return
            self.seen_values.add(id(node))
        self.values.append(Value(root, name, plain))

    def add_opaque(self, root: Root, name: Key | None, node: Node) -> None:
        """A leaf, or an object, that is described and not built."""
        self.opaque.append(Opaque(root, _leaf(name), type_name(node), summarize(node)))
        self.note_place(node.function if isinstance(node, Call) else node, _path(root, name))

    def note_place(self, function: Node, path: Root) -> None:
        """Remember where a global is used, for ``inspect --globals``."""
        if isinstance(function, Global):
            places = self.places.setdefault(id(function), [])
            if len(places) < _MAX_PLACES:
                places.append(_place(path))


_UNDECLARED = Entry((), "", None).declared


class _PlainReader:
    """Scalars, strings and (nested) lists of them as values.

    Results for nested lists are kept by identity, with their expanded size: lists that share their
    items ("billion laughs") are judged once each, and refused when they would print as too much.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], tuple[Plain, int]] = {}  # by identity and depth

    def read(self, node: Node) -> tuple[Plain, bool]:
        """(value, True) if ``node`` is plain, else (None, False)."""
        if node is None or isinstance(node, (bool, int, float, str)):
            return node, True
        plain, size = self.sized(node, 0)
        return plain, size >= 0

    def sized(self, node: Node, depth: int) -> tuple[Plain, int]:
        """(value, number of scalars in it), or (None, -1). Long text counts as several scalars."""
        if node is None or isinstance(node, (bool, int, float)):
            return node, 1
        if isinstance(node, (str, bytes)):
            return node, 1 + len(node) // _TEXT_PIECE
        if isinstance(node, Call):
            untagged = without_type_tag(node)
            if untagged is not node and depth < _MAX_PLAIN_DEPTH:
                return self.sized(untagged, depth + 1)
            return self.of_call(node)
        if not isinstance(node, (list, tuple)) or depth >= _MAX_PLAIN_DEPTH:
            return None, -1
        # By depth, too: what is too deep here may stand higher elsewhere.
        known = self.known.get((id(node), depth))
        if known is None:
            known, nested = self.of_list(node, depth)
            if nested or len(node) > _SMALL_VALUE:
                self.known[id(node), depth] = known
        return known

    def of_list(self, node: Node, depth: int) -> tuple[tuple[Plain, int], bool]:
        """``sized`` of a list or tuple, and whether a list stands in it."""
        items, total, nested = [], 0, False
        for item in node:
            plain, size = self.sized(item, depth + 1)
            if size < 0:
                return (None, -1), nested
            items.append(plain)
            total += size
            nested = nested or isinstance(plain, tuple)
            if total > (_MAX_NESTED_SCALARS if nested else _MAX_FLAT_SCALARS):
                return (None, -1), nested
        plain_items: Plain = PlainList(items) if isinstance(node, list) else tuple(items)
        return (plain_items, total), nested

    def of_call(self, node: Call) -> tuple[Plain, int]:
        """``sized`` of a call that stands for a plain value; kept, because it makes a new one."""
        known = self.known.get((id(node), 0))
        if known is None:
            plain, is_plain = plain_of_call(node)
            if not is_plain:
                return None, -1
            known = plain, 1 + len(plain) // _TEXT_PIECE if isinstance(plain, (bytes, tuple)) else 1
            self.known[id(node), 0] = known
        return known


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
    if isinstance(node, Call):
        name = node.function.full_name if isinstance(node.function, Global) else "a computed callable"
        return _SHORT_NAMES.get(name) or shorten(name)
    if isinstance(node, Global):
        return "torch.dtype" if _is_dtype(node) else "global"
    return _NODE_NAMES.get(type(node), type(node).__name__)


def summarize(node: Node) -> str:
    """A few words on a leaf that is not built."""
    if isinstance(node, Call):
        return describe_call(node)
    if isinstance(node, Global):
        return shorten(node.full_name)
    if isinstance(node, BigInt):
        return f"{node.nbits} bits"
    if isinstance(node, PersistentId):
        pid = node.pid
        if isinstance(pid, tuple) and len(pid) >= 5 and isinstance(pid[1], Global) and type(pid[4]) is int:
            return shorten(f"{pid[1].full_name} of {pid[4]} elements")
        return "persistent id"
    return f"{len(node)} items" if isinstance(node, (list, tuple)) else ""


_SHORT_NAMES = {"collections.OrderedDict": "OrderedDict", "collections.defaultdict": "defaultdict"}
_NODE_NAMES: dict[type, str] = {
    DictNode: "dict",
    SetNode: "set",
    BigInt: "int",
    PersistentId: "storage",
}
_MAPPINGS = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "Counter"),
        ("builtins", "dict"),
    }
)


def _is_mapping(node: Call) -> bool:
    function = node.function
    return isinstance(function, Global) and (function.module, function.name) in _MAPPINGS


def _is_dtype(node: Global) -> bool:
    return node.module == "torch" and parse_torch_name(node.name) is not None


def _state_items(state: Node) -> Iterable[tuple[Node, Node]]:
    """Attributes in a BUILD state: a dict, ``(dict, slots)``, or something else under ``state``."""
    if isinstance(state, DictNode):
        yield from iter_items(state.items)
    elif (
        type(state) is tuple and len(state) == 2 and all(isinstance(h, (DictNode, type(None))) for h in state)
    ):
        for half in state:
            if half is not None:
                yield from iter_items(half.items)
    elif state is not None:
        yield "state", state


def _named_state(node: Call) -> Iterable[tuple[str, Node]]:
    for state in node.states or ():
        for key, value in _state_items(state):
            if type(key) is str:
                yield key, value


def _is_module(node: Call) -> bool:
    """Whether the object's state is that of an ``nn.Module``, whatever its class."""
    return {"_parameters", "_buffers", "_modules"} <= {name for name, _ in _named_state(node)}


def _set_items(node: Node) -> list[Node]:
    """Items of a set, as SetNode or as the call ``set([…])`` of protocol 2."""
    if isinstance(node, SetNode):
        return node.items
    if isinstance(node, Call) and isinstance(node.args, tuple) and len(node.args) == 1:
        return list(node.args[0]) if isinstance(node.args[0], (list, tuple)) else []
    return []


def _width(node: Node) -> int:
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


def _place(path: Root) -> str:
    """``$.model.0.weight``; a long one is cut in front."""
    text = "".join(f".{str(key)[-_MAX_PLACE:]}" for key in path[-32:])
    return "$" + text if len(path) <= 32 and len(text) <= _MAX_PLACE else "$…" + text[-_MAX_PLACE:]


def _path(root: Root, name: Key | None) -> Root:
    return root if name is None else (*root, name)


def _leaf(name: Key | None) -> Key:
    """The name of a leaf; a file that holds one bare tensor has none."""
    return "" if name is None else name


def _global_refs(tree: PickleTree, places: dict[int, list[str]]) -> tuple[GlobalRef, ...]:
    """Every global of the pickle with where it is used; one that is never reached says so."""
    refs = []
    for node in tree.globals.values():
        where = tuple(places.get(id(node), ()))
        if not where and node.called and (node.module, node.name) not in TENSOR_GLOBALS:
            where = (f"byte {node.byte_offset} of the pickle",)
        refs.append(GlobalRef(node.module, node.name, node.called, where))
    return tuple(refs)
