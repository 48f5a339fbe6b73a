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

from ckpttool.files.source import ByteSource
from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.budget import WalkBudget
from ckpttool.formats.pickled.globals import Places, describe_place, list_globals
from ckpttool.formats.pickled.mappings import KeyReader, MetadataReader
from ckpttool.formats.pickled.nodes import (
    has_module_state,
    is_mapping,
    is_set,
    iter_mapping,
    named_state,
    set_items,
    state_items,
    summarize,
    type_name,
    width_of,
)
from ckpttool.formats.pickled.plain import PlainReader, without_type_tag
from ckpttool.formats.pickled.tensors import StoredTensor, TensorReader
from ckpttool.pickles.nodes import (
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
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    Container,
    Entry,
    Finding,
    GlobalRef,
    Key,
    Kind,
    ModuleExtras,
    Opaque,
    Plain,
    Record,
    Root,
    Value,
)
from ckpttool.values.errors import LimitExceeded

# What torch.nn.Module itself keeps in a module's __dict__ and fills by registration.
_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})

_HOLDS_OTHERS = (Call, DictNode, SetNode, list, tuple)  # nodes that tensors may be in
_DESCRIBED_ARGUMENTS = (*_HOLDS_OTHERS, PersistentId, Global)  # of an object that is not known

_PARAMETER = Classification(Kind.PARAMETER, Basis.PICKLED_PARAMETER)
_MODULE_PARAMETER = Classification(Kind.PARAMETER, Basis.PICKLED_MODULE)
_MODULE_BUFFER = Classification(Kind.PERSISTENT_BUFFER, Basis.PICKLED_MODULE)
_MODULE_NON_PERSISTENT = Classification(
    Kind.NON_PERSISTENT_BUFFER,
    Basis.PICKLED_MODULE,
    note="carried by the pickled module, not by a state_dict",
)
_PLAIN_ATTRIBUTE = Classification(
    Kind.UNKNOWN, Basis.NONE, note="plain tensor attribute, not registered", registered=False
)


class Contents(NamedTuple):
    """What one pickle says, in the fields of ``Checkpoint``."""

    entries: list[Entry]
    values: list[Value]
    opaque: list[Opaque]
    containers: list[Container]
    module_versions: dict[Root, dict[str, int | None]]
    module_extras: dict[Root, dict[str, ModuleExtras]]
    globals: tuple[GlobalRef, ...]
    rare_opcodes: frozenset[int] = frozenset()
    findings: tuple[Finding, ...] = ()

    @classmethod
    def empty(cls) -> Contents:
        """Lists and mappings to be filled."""
        return cls([], [], [], [], {}, {}, ())


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
    return walk.found._replace(globals=list_globals(tree, walk.places), rare_opcodes=tree.rare_opcodes)


class _Walk:
    """Depth first in file order over an explicit stack."""

    def __init__(self, tensors: TensorReader, limits: Limits) -> None:
        self.tensors = tensors
        self.limits = limits
        self.found = Contents.empty()
        self.entries, self.values, self.opaque, self.containers = self.found[:4]
        self.places = Places()
        self.modules: dict[int, bool] = {}  # whether a call is one, by identity
        self.held: list[tuple[Root, str, Node]] = []  # attributes of modules, to be walked last
        self.held_ids: set[int] = set()
        self.walked_modules: set[int] = set()
        self.plain = PlainReader()
        self.budget = WalkBudget(limits)
        self.keys = KeyReader(self.plain, self.budget, limits)
        self.metadata = MetadataReader(self.plain, self.budget)

    def run(self, top: Node, root: Root) -> None:
        """Visit everything under ``top``."""
        frames: list[_Frame] = []
        self.enter(frames, root, None, top, False)
        while frames or self.held:
            if not frames:
                path, name, node = self.held.pop()
                self.enter(frames, path, name, node, True)
                continue
            path, children, inside_object, _ = frames[-1]
            for key, node in children:
                if type(node) is Call:
                    stored = self.tensors.read(node)
                    if stored is not None:
                        self.add_tensor(path, key, stored)
                        continue
                    untagged = without_type_tag(node)
                    if untagged is not node:
                        self.places.note(node, _path(path, key))
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
        if not isinstance(node, _HOLDS_OTHERS):
            if not inside_object or not isinstance(node, (BigInt, Global)):
                self.add_opaque(root, name, node)
            else:
                self.places.note(node, _path(root, name))
            return False
        if any(frame.identity == id(node) for frame in frames):
            if not inside_object:  # objects often point to their owner: nothing is lost
                self.opaque.append(Opaque(root, _leaf(name), type_name(node), "contains itself"))
            return False
        path = _path(root, name)
        if self.budget.is_shared_too_often(node, path):
            first = describe_place(self.budget.first_path[id(node)])
            self.opaque.append(Opaque(root, _leaf(name), type_name(node), f"the same object as {first}"))
            return False
        children: Iterable[tuple[Key, Node]]
        if isinstance(node, Call) and not is_mapping(node) and not is_set(node):
            if self.is_module(node):
                # An attribute of a module often points back to one whose entries are there already.
                if not (inside_object and id(node) in self.walked_modules):
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

    # -- containers ---------------------------------------------------------------------------

    def container_children(self, path: Root, node: Node) -> list[tuple[Key, Node]]:
        """(key, child) of a dict, OrderedDict, list, tuple or set, in order."""
        if isinstance(node, DictNode):
            return self.keys.children(iter_items(node.items))
        if isinstance(node, Call):
            self.places.note(node, path)
        if is_set(node):
            return list(enumerate(set_items(node)))
        if isinstance(node, Call):
            for versions, extras in self.metadata.read(node):
                self.found.module_versions[path] = versions
                if extras:
                    self.found.module_extras[path] = extras
            return self.keys.children(iter_mapping(node)) + self.attributes_beside(node)
        return list(enumerate(node))

    def attributes_beside(self, node: Call) -> list[tuple[Key, Node]]:
        """Attributes that a mapping object carries besides its items (not ``_metadata``)."""
        return [
            (self.keys.key(key), value)
            for key, value in state_items(node)
            if isinstance(value, (Call, DictNode, list)) and not (type(key) is str and key == "_metadata")
        ]

    def object_children(self, node: Call) -> Iterable[tuple[Key, Node]]:
        """Everything an unknown object carries: arguments, state, appended and set items."""
        args = node.args if isinstance(node.args, (tuple, list)) else (node.args,)
        for index, argument in enumerate(args):
            if isinstance(argument, _DESCRIBED_ARGUMENTS):
                yield f"args[{index}]", argument
        for key, value in state_items(node):
            yield self.keys.key(key), value
        for index, item in enumerate(node.appended or ()):
            yield index, item
        for key, value in iter_items(node.items):
            yield self.keys.key(key), value
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
            self.budget.spend(1 + width_of(module), path)
            above.append(id(module))
            self.walked_modules.add(id(module))
            self.places.note(module, path)
            state = dict(named_state(module))
            for name in _REGISTRIES:
                self.budget.spend(width_of(state.get(name)), ())
            self.containers.append(Container(path, type_name(module), len(state)))
            self.add_registered(root, prefix, state)
            self.hold_attributes(path, state)
            children = []
            for key, child in iter_mapping(state.get("_modules")):
                name = self.keys.text(key)
                if isinstance(child, Call) and self.is_module(child):
                    children.append(((*path, name), self.join(prefix, f"{name}."), child, depth + 1))
                elif child is not None:
                    name = self.join(prefix, name)
                    self.opaque.append(Opaque(root, name, type_name(child), summarize(child)))
            stack.extend(reversed(children))

    def add_registered(self, root: Root, prefix: str, state: dict[str, Node]) -> None:
        """Parameters, then buffers, then plain tensor attributes of one module."""
        buffers_set = set_items(state.get("_non_persistent_buffers_set"))
        non_persistent = {name for name in buffers_set if type(name) is str}
        for name, node in iter_mapping(state.get("_parameters")):
            self.add_member(root, self.join(prefix, self.keys.text(name)), node, _MODULE_PARAMETER)
        for name, node in iter_mapping(state.get("_buffers")):
            known = type(name) is str and name in non_persistent
            kind = _MODULE_NON_PERSISTENT if known else _MODULE_BUFFER
            self.add_member(root, self.join(prefix, self.keys.text(name)), node, kind)
        for name, node in state.items():
            if isinstance(node, Call) and name not in ("_parameters", "_buffers", "_modules"):
                self.add_member(root, self.join(prefix, name), node, _PLAIN_ATTRIBUTE, described=False)

    def hold_attributes(self, path: Root, state: dict[str, Node]) -> None:
        """Put off lists, dicts and objects among a module's attributes: a tensor may be in one.

        They are walked after the module, not from within it, so that nothing here recurses.
        """
        for name, node in state.items():
            if name in _REGISTRIES or not isinstance(node, _HOLDS_OTHERS):
                continue
            if width_of(node) and id(node) not in self.held_ids and not self.plain.read(node)[1]:
                self.held_ids.add(id(node))
                self.held.append((path, name, node))

    def add_member(
        self, root: Root, name: str, node: Node, kind: Classification, *, described: bool = True
    ) -> None:
        """One registered tensor; None (``register_buffer(name, None)``) makes no entry in a state_dict."""
        stored = self.tensors.read(node) if isinstance(node, Call) else None
        if stored is not None:
            self.entries.append(Entry(root, name, stored.tensor, stored.requires_grad, kind, stored.subclass))
        elif node is not None and described:
            self.opaque.append(Opaque(root, name, type_name(node), summarize(node)))
        elif isinstance(node, Call) and isinstance(node.function, Global):
            self.places.note(node, (*root, name))

    def is_module(self, node: Call) -> bool:
        """Whether the object's state is that of an ``nn.Module``, whatever its class; asked once of each."""
        known = self.modules.get(id(node))
        if known is None:
            known = has_module_state(node)
            if node.states:
                self.modules[id(node)] = known
        return known

    def join(self, prefix: str, name: str) -> str:
        """The dotted name of a member."""
        self.budget.count_text(len(prefix) + len(name))
        return prefix + name

    # -- leaves -------------------------------------------------------------------------------

    def add_tensor(self, root: Root, name: Key | None, stored: StoredTensor) -> None:
        """A tensor leaf."""
        declared = _PARAMETER if stored.is_parameter else _UNDECLARED
        tensor, requires_grad, _, subclass = stored
        self.entries.append(Entry(root, _leaf(name), tensor, requires_grad, declared, subclass))

    def add_value(self, root: Root, name: Key, node: Node, plain: Plain, size: int) -> None:
        """A plain leaf; of one that many names share, the later ones say so once it becomes much."""
        if self.budget.shows_value(node, size):
            self.values.append(Value(root, name, plain))
        else:
            self.opaque.append(Opaque(root, name, type_name(node), "the same value as an earlier one"))

    def add_opaque(self, root: Root, name: Key | None, node: Node) -> None:
        """A leaf, or an object, that is described and not built."""
        self.opaque.append(Opaque(root, _leaf(name), type_name(node), summarize(node)))
        self.places.note(node, _path(root, name))


_UNDECLARED = Entry((), "", None).declared


def _path(root: Root, name: Key | None) -> Root:
    return root if name is None else (*root, name)


def _leaf(name: Key | None) -> Key:
    """The name of a leaf; a file that holds one bare tensor has none."""
    return "" if name is None else name


def assemble(
    source: ByteSource,
    format_name: str,
    layout: str,
    contents: Contents,
    records: tuple[Record, ...] = (),
    findings: tuple[Finding, ...] = (),
) -> Checkpoint:
    """A ``Checkpoint`` of one file from what its pickle says."""
    return Checkpoint(
        path=source.name,
        format=format_name,
        layout=layout,
        files=(source.version,),
        entries=tuple(contents.entries),
        values=tuple(contents.values),
        opaque=tuple(contents.opaque),
        containers=tuple(contents.containers),
        module_versions=contents.module_versions,
        module_extras=contents.module_extras,
        globals=contents.globals,
        records=records,
        findings=findings + contents.findings,
        rare_opcodes=contents.rare_opcodes,
    )
