"""An inert pickle tree -> entries, plain values and opaque leaves, in the order of the file.

- Mappings, lists and tuples are containers; a list of plain scalars is one value.
- ``OrderedDict`` with a ``_metadata`` state is a state_dict: its module versions are kept.
- An object whose state has ``_parameters``, ``_buffers`` and ``_modules`` is a pickled ``nn.Module``,
  whatever its class: those three dicts (and ``_non_persistent_buffers_set``) give exact kinds.
- Any other object is ``Opaque`` with the name of its class, and all that it carries is walked the same way:
  no tensor inside it is lost, and its plain attributes are values below its path. The same holds of what
  hangs on a tensor, of keys that are objects, and of what a module holds besides its entries: whatever is
  described is walked.

Nothing here recurses: depth is bounded by ``Limits.depth``, and an object that several keys share is
walked again only while that stays cheap (a "billion laughs" tree has few objects and many paths). What
is cheap is counted in children, because one shared object may have a million, and in characters of
names, because names are joined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.budget import WalkBudget
from ckpttool.formats.pickled.contents import Contents
from ckpttool.formats.pickled.globals import Places, describe_place, list_globals
from ckpttool.formats.pickled.mappings import KeyReader, MetadataReader
from ckpttool.formats.pickled.nodes import (
    attribute_items,
    has_module_state,
    is_computed,
    is_mapping,
    is_set,
    is_unhashable,
    iter_mapping,
    named_state,
    set_items,
    summarize,
    type_name,
    whole_states,
    width_of,
)
from ckpttool.formats.pickled.plain import PlainReader, is_numpy, is_numpy_array, without_type_tag
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
    Classification,
    Container,
    Entry,
    Finding,
    Key,
    Kind,
    OddKey,
    Opaque,
    Plain,
    Root,
    Tensor,
    Value,
)
from ckpttool.values.errors import LimitExceeded
from ckpttool.values.words import agree, cut, format_root, plural, some

if TYPE_CHECKING:
    from ckpttool.formats.pickled.array_digest import ContentDigests

# What torch.nn.Module itself keeps in a module's __dict__ and fills by registration.
_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})

_HOLDS_OTHERS = (Call, DictNode, SetNode, list, tuple)  # nodes that tensors may be in
_DESCRIBED_ARGUMENTS = (*_HOLDS_OTHERS, PersistentId, Global)  # of an object that is not known

# What of a container is recorded besides tensors: all, or what is in an object: no plain leaves but short
# ones, no plain leaves, nothing.
_ALL, _SHORT, _NONE, _QUIET = range(4)
_THE_KEY = OddKey("<the key itself>", literal=False)
_USUALLY_NONE = "_is_full_backward_hook"  # of every module that has no hook
_CLASS = "__class__"
_DEVICE_MESH = "torch.distributed.device_mesh.DeviceMesh"
_MOST_PARTS = 4  # of a tuple that are looked at for bytes
_MOST_SCALARS = 64  # of an attribute that is a value; a longer one is counted
_MOST_ITEMS = 256  # of a container in an object, all of whose plain items are values

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


class _Frame(NamedTuple):
    """A container that is being walked: its path, its children still to come, its identity."""

    path: Root
    children: Iterator[tuple[Key, Node]]
    values: int  # one of the four above
    identity: int


def read_objects(
    tree: PickleTree,
    tensors: TensorReader,
    limits: Limits,
    root: Root = (),
    *,
    findings: tuple[Finding, ...] = (),
) -> Contents:
    """Walk the tree of a checkpoint's pickle; ``root`` is put in front of every path.

    ``findings`` are what was odd about the pickle before it was walked.

    Raises:
        MalformedCheckpoint: a tensor's rebuild call has arguments that torch would not write.
        LimitExceeded: more entries or deeper nesting than ``limits`` allow.
    """
    walk = _Walk(tensors, limits)
    walk.run(tree.value, root)
    if walk.budget.unlisted:
        unlisted = walk.budget.unlisted
        what = f"{plural(unlisted, 'plain attribute')} of objects {agree(unlisted, 'is', 'are')}"
        message = f"{what} not listed, and not compared"
        findings += (Finding("attributes-unlisted", "info", "", message),)
    unread = tuple(dict.fromkeys(walk.unread_modules))
    if unread:
        who = some(unread, lambda path: cut(format_root(path)) or "the top one")
        what = (
            f"{plural(len(unread), 'module')} ({who}) {agree(len(unread), 'keeps', 'keep')} others as bytes"
        )
        fact = f"{what}, an archive or a pickle: what is registered in these is not read, and not listed"
        findings += (Finding("module-in-bytes", "info", "", fact),)
    refs = list_globals(tree, walk.places)
    for known in tree.globals.values():
        known.first_calls = ()  # they point back at it: the tree would stay until somebody looks for cycles
    tensors.check_rest(tree.persistent_ids)
    if walk.keys.unhashable:
        tensors.obstacles["a key of a dict, or an item of a set, that cannot be hashed"] = None
    return walk.found._replace(
        globals=refs,
        rare_opcodes=tree.rare_opcodes,
        findings=findings,
        obstacles=tuple(tensors.obstacles),
        attributes=walk.attributes,
        unread_modules=unread,
    )


class _Walk:
    """Depth first in file order over an explicit stack."""

    def __init__(self, tensors: TensorReader, limits: Limits) -> None:
        self.tensors = tensors
        self.limits = limits
        self.found = Contents.empty()
        self.entries, self.values, self.opaque, self.containers = self.found[:4]
        self.attributes: list[Value] = []  # plain ones of modules
        self.unread_modules: list[Root] = []
        self.module_paths: set[Root] = set()
        self.digests: ContentDigests | None = None  # of numpy arrays
        self.places = Places()
        self.modules: dict[int, bool] = {}  # whether a call is one, by identity
        self.held: deque[tuple[Root, Key, Node, int]] = deque()  # to be walked after what holds them
        self.held_ids: set[int] = set()
        self.held_keys: list[tuple[Root, Key, Node]] = []  # objects that are keys, to be walked last
        self.seen: set[Tensor | None] = set()  # of the entries looked at, when there were such keys
        self.looked_at = 0
        self.walked_modules: set[int] = set()
        self.plain = PlainReader()
        self.budget = WalkBudget(limits)
        self.keys = KeyReader(self.plain, self.budget, limits)
        self.metadata = MetadataReader(self.plain, self.budget)

    def run(self, top: Node, root: Root) -> None:
        """Visit everything under ``top``."""
        frames: list[_Frame] = []
        self.enter(frames, root, None, top, _ALL)
        while frames or self.held or self.held_keys:
            if not frames:
                if not self.held:
                    self.hold_unseen_keys()
                    continue
                path, name, node, values = self.held.popleft()
                frames.append(_Frame(path, iter(((name, node),)), values, 0))
            path, children, values, _ = frames[-1]
            for key, node in children:
                if type(node) is Call:
                    stored = self.tensors.read(node)
                    if stored is not None:
                        self.add_tensor(path, key, node, stored)
                        continue
                    untagged = without_type_tag(node)
                    if untagged is not node:
                        self.places.note(node, _path(path, key))
                        node = untagged
                if self.enter(frames, path, key, node, values):
                    break  # depth first: its children come before what follows it here
            else:
                frames.pop()

    def enter(self, frames: list[_Frame], root: Root, name: Key | None, node: Node, values: int) -> bool:
        """Record a leaf, or open a container: true if there are children to walk first."""
        if name is None and type(node) is Call:
            stored = self.tensors.read(node)  # a file that holds one bare tensor
            if stored is not None:
                self.add_tensor(root, name, node, stored)
                return False
        plain, size = self.plain.sized(node, 0)
        if size >= 0 and name is not None:
            if values == _ALL:
                self.add_value(root, name, node, plain, size)
            elif values == _SHORT and self.budget.lists_attribute():
                self.add_attribute(root, name, node, plain, size)
            return False
        if not isinstance(node, _HOLDS_OTHERS):
            if values == _ALL or (values != _QUIET and not isinstance(node, (BigInt, Global))):
                self.add_opaque(root, name, node)
            elif values != _QUIET:
                self.places.note(node, _path(root, name))
            return False
        if any(frame.identity == id(node) for frame in frames):
            if values == _ALL:  # objects often point to their owner: nothing is lost
                self.opaque.append(Opaque(root, _leaf(name), type_name(node), "contains itself"))
            return False
        path = _path(root, name)
        if self.budget.is_shared_too_often(node, path):
            if values != _QUIET:
                first = f"the same object as {describe_place(self.budget.first_path[id(node)])}"
                self.opaque.append(Opaque(root, _leaf(name), type_name(node), first))
            return False
        children: Iterable[tuple[Key, Node]]
        if isinstance(node, Call) and not is_mapping(node) and not is_set(node):
            if self.is_module(node):
                # An attribute of a module often points back to one whose entries are there already.
                if not (values != _ALL and id(node) in self.walked_modules):
                    self.add_module(path, node)
                return False
            children, expected = self.object_children(path, node), 0
            if values != _QUIET:
                self.add_opaque(root, name, node)
                values = _NONE if is_numpy(node) else _SHORT
        else:
            children = in_order = self.container_children(path, node)
            expected = 0 if values != _ALL else len(in_order)  # not everything in an object is recorded
            if values == _ALL:
                self.containers.append(Container(path, type_name(node), len(in_order)))
            elif values == _SHORT and (len(in_order) > _MOST_ITEMS or is_set(node)):
                # Items of a set have no names of their own, those of a vocabulary are no attributes.
                self.opaque.append(Opaque(root, _leaf(name), type_name(node), plural(len(in_order), "item")))
                values = _NONE
        if len(frames) >= self.limits.depth:
            raise LimitExceeded("nesting of containers", limit=self.limits.depth)
        recorded = len(self.entries) + len(self.values) + len(self.opaque) + len(self.containers) + expected
        if recorded > self.limits.entries:
            raise LimitExceeded("number of tensors, values and containers", limit=self.limits.entries)
        frames.append(_Frame(path, iter(children), values, id(node)))
        return True

    def hold_unseen_keys(self) -> None:
        """Put off what keys hold, but for tensors that are entries already: an optimizer's parameters."""
        self.seen.update([entry.value for entry in self.entries[self.looked_at :]])
        self.looked_at = len(self.entries)
        for path, key, node in self.held_keys:
            stored = self.tensors.read(node) if isinstance(node, Call) else None
            if stored is None or stored.tensor not in self.seen:
                self.held.append((path, key, node, _QUIET))
        self.held_keys.clear()

    # -- containers ---------------------------------------------------------------------------

    def container_children(self, path: Root, node: Node) -> list[tuple[Key, Node]]:
        """(key, child) of a dict, OrderedDict, list, tuple or set, in order."""
        if isinstance(node, DictNode):
            return self.children_by_key(path, iter_items(node.items))
        if isinstance(node, Call):
            self.places.note(node, path)
        if is_set(node):
            items = set_items(node)
            self.keys.unhashable = self.keys.unhashable or any(map(is_unhashable, items))
            return list(enumerate(items))
        if isinstance(node, Call):
            for versions, extras in self.metadata.read(node):
                self.found.module_versions[path] = versions
                if extras:
                    self.found.module_extras[path] = extras
            children = self.children_by_key(path, iter_mapping(node))
            if node.states or node.appended or node.args:
                for index, odd in enumerate(self.metadata.take_objects()):
                    self.held.append(((*path, "_metadata"), index, odd, _QUIET))
                attributes = ((key, value) for key, value in attribute_items(node) if key != "_metadata")
                beside = self.beside_items(path, node, attributes)
                held = [(key, value) for key, value in beside if isinstance(value, _HOLDS_OTHERS)]
                children = self.keys.apart(children + held)
            return children
        return list(enumerate(node))

    def children_by_key(self, path: Root, items: Iterable[tuple[Node, Node]]) -> list[tuple[Key, Node]]:
        """Children of a mapping at ``path``; what its keys hold is put off."""
        children = self.keys.children(items)
        if self.keys.objects:
            self.hold_keys(path)
        return children

    def hold_keys(self, path: Root) -> None:
        """Put off the objects among the keys that were read last."""
        self.held_keys += [((*path, key), _THE_KEY, node) for key, node in self.keys.objects]
        self.keys.objects.clear()

    def object_children(self, path: Root, node: Call) -> list[tuple[Key, Node]]:
        """Everything an unknown object carries: arguments, state, appended and set items."""
        children = self.beside_items(path, node, attribute_items(node))
        if node.name == _DEVICE_MESH:  # its ranks are no tensors of the checkpoint
            children = [(key, child) for key, child in children if not self.is_tensor(child)]
        items = self.children_by_key(path, iter_items(node.items))
        if len(items) * 2 < len(node.items or ()):  # what its class does with an item that is set twice
            items = [(self.keys.key(key), value) for key, value in iter_items(node.items)]
            self.hold_keys(path)
        return self.keys.apart(children + items)

    def beside_items(
        self, path: Root, node: Call, attributes: Iterable[tuple[Node, Node]]
    ) -> list[tuple[Key, Node]]:
        """What a call carries besides items: ``attributes``, and all that is neither."""
        args = node.args if isinstance(node.args, (tuple, list)) else (node.args,)
        if is_mapping(node) and args and isinstance(args[0], (DictNode, list, tuple)):
            args = (None, *args[1:])  # its items
        children: list[tuple[Key, Node]] = [
            (f"args[{index}]", argument)
            for index, argument in enumerate(args)
            if isinstance(argument, _DESCRIBED_ARGUMENTS)
        ]
        children += self.children_by_key(path, attributes)
        children += [("state", state) for state in whole_states(node)]
        children += enumerate(node.appended or ())
        if not isinstance(node.function, Global):
            children.append(("function", node.function))
        return children

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
            class_name = type_name(module)
            self.containers.append(Container(path, class_name, len(state)))
            self.attributes.append(Value(path, _CLASS, class_name))
            self.module_paths.add(path)
            self.add_registered(root, prefix, path, state)
            self.add_attributes(root, prefix, path, state)
            self.hold_rest(path, module, state)
            children = []
            for key, child in iter_mapping(state.get("_modules")):
                name = self.keys.text(key)
                if isinstance(child, Call) and self.is_module(child):
                    children.append(((*path, name), self.join(prefix, f"{name}."), child, depth + 1))
                elif child is not None:
                    self.held.append((path, name, child, _ALL))
            self.hold_keys(path)
            stack.extend(reversed(children))

    def add_registered(self, root: Root, prefix: str, path: Root, state: dict[str, Node]) -> None:
        """Parameters, then buffers of one module."""
        buffers_set = set_items(state.get("_non_persistent_buffers_set"))
        non_persistent = {name for name in buffers_set if type(name) is str}
        for key, node in iter_mapping(state.get("_parameters")):
            self.add_member(root, prefix, path, self.keys.text(key), node, _MODULE_PARAMETER)
        for key, node in iter_mapping(state.get("_buffers")):
            known = type(key) is str and key in non_persistent
            kind = _MODULE_NON_PERSISTENT if known else _MODULE_BUFFER
            self.add_member(root, prefix, path, self.keys.text(key), node, kind)

    def add_member(
        self, root: Root, prefix: str, path: Root, name: str, node: Node, kind: Classification
    ) -> bool:
        """One registered entry; None (``register_buffer(name, None)``) makes none in a state_dict.

        What is no tensor is put off, unless it is but a plain attribute: false then.
        """
        stored = self.tensors.read(node) if isinstance(node, Call) else None
        if stored is not None:
            tensor, requires_grad, _, subclass, _ = stored
            name_there = self.join(prefix, name)
            self.entries.append(Entry(root, name_there, tensor, requires_grad, kind, subclass))
            self.hold_beside(path, name, node, stored)
        elif node is not None and kind is not _PLAIN_ATTRIBUTE:
            self.held.append((path, name, node, _ALL))
        return stored is not None

    def add_attributes(self, root: Root, prefix: str, path: Root, state: dict[str, Node]) -> None:
        """A module's class, its plain attributes, and tensors among the others.

        Lists, dicts and objects are put off: a tensor may be in them. They are walked after the module, not
        from within it, so that nothing here recurses.
        """
        for name, node in state.items():
            if name in _REGISTRIES:
                continue
            if not isinstance(node, _HOLDS_OTHERS):
                if node is not None or name != _USUALLY_NONE:
                    self.add_module_attribute(path, name, node)
                continue
            if isinstance(node, Call):
                if self.add_member(root, prefix, path, name, node, _PLAIN_ATTRIBUTE):
                    continue
                self.places.note(node, (*path, name))
            if self.plain.read(node)[1]:
                self.add_module_attribute(path, name, node)
                continue
            empty = not width_of(node) and not (isinstance(node, Call) and is_computed(node))
            if not empty and id(node) not in self.held_ids:
                self.held_ids.add(id(node))
                self.held.append((path, name, node, _SHORT))

    def add_module_attribute(self, path: Root, name: str, node: Node) -> None:
        """A plain one: a value if it is short, else counted."""
        if not self.budget.lists_attribute(of_module=True):
            return
        plain, size = (node.full_name, 1) if isinstance(node, Global) else self.plain.sized(node, 0)
        if _holds_module(plain):
            self.unread_modules.append(path)
        if 0 <= size <= _MOST_SCALARS and self.budget.shows_value(node, size):
            self.attributes.append(Value(path, name, plain))
        else:
            self.opaque.append(Opaque(path, name, type_name(node), summarize(node)))

    def hold_rest(self, path: Root, module: Call, state: dict[str, Node]) -> None:
        """Put off what else a module carries, and what its registries do besides their items."""
        odd = ((key, value) for key, value in attribute_items(module) if type(key) is not str)
        rest = [(path, self.beside_items(path, module, odd))]
        rest += [(path, self.children_by_key(path, iter_items(module.items)))]
        for name in _REGISTRIES:
            node = state.get(name)
            if is_set(node):
                self.places.note(node, (*path, name))
            elif isinstance(node, Call) and is_mapping(node):
                rest.append(((*path, name), self.beside_items(path, node, attribute_items(node))))
            elif not isinstance(node, DictNode):
                rest.append((path, [(name, node)]))
        for root, children in rest:
            self.held.extend(
                (root, key, node, _SHORT) for key, node in children if isinstance(node, _HOLDS_OTHERS)
            )

    def is_module(self, node: Call) -> bool:
        """Whether the object's state is that of an ``nn.Module``, whatever its class; asked once of each."""
        known = self.modules.get(id(node))
        if known is None:
            known = has_module_state(node)
            if node.states:
                self.modules[id(node)] = known
        return known

    def is_tensor(self, node: Node) -> bool:
        """Whether the node rebuilds a tensor."""
        return isinstance(node, Call) and self.tensors.read(node) is not None

    def join(self, prefix: str, name: str) -> str:
        """The dotted name of a member."""
        self.budget.count_text(len(prefix) + len(name))
        return prefix + name

    # -- leaves -------------------------------------------------------------------------------

    def add_tensor(self, root: Root, name: Key | None, node: Call, stored: StoredTensor) -> None:
        """A tensor leaf."""
        declared = _PARAMETER if stored.is_parameter else _UNDECLARED
        tensor, requires_grad, _, subclass, _ = stored
        self.entries.append(Entry(root, _leaf(name), tensor, requires_grad, declared, subclass))
        self.hold_beside(root, _leaf(name), node, stored)

    def hold_beside(self, root: Root, name: Key, node: Call, stored: StoredTensor) -> None:
        """Put off what hangs on a tensor besides its parts: a tensor cannot have entries below it."""
        if stored.attributes is None and not (node.states or node.appended or node.items):
            return
        items = DictNode(node.items) if node.items else None
        beside = {"attributes": stored.attributes, "state": node.states, "appended": node.appended}
        for what, held in {**beside, "items": items}.items():
            if held is not None:
                self.held.append((root, OddKey(f"<{what} of {name}>", literal=False), held, _QUIET))

    def add_value(self, root: Root, name: Key, node: Node, plain: Plain, size: int) -> None:
        """A plain leaf; of one that many names share, the later ones say so once it becomes much."""
        if self.budget.shows_value(node, size):
            self.values.append(Value(root, name, plain))
        else:
            self.opaque.append(Opaque(root, name, type_name(node), "the same value as an earlier one"))

    def add_attribute(self, root: Root, name: Key, node: Node, plain: Plain, size: int) -> None:
        """A plain leaf of an object: a value if it is short, else counted."""
        if _holds_module(plain):  # in a dict or an object that some module has
            modules = (root[:length] for length in range(len(root), -1, -1))
            self.unread_modules += [path for path in modules if path in self.module_paths][:1]
        if size <= _MOST_SCALARS:
            self.values.append(Value(root, name, plain))
        else:
            self.opaque.append(Opaque(root, name, type_name(node), summarize(node)))

    def add_opaque(self, root: Root, name: Key | None, node: Node) -> None:
        """A leaf, or an object, that is described and not built."""
        digest = self.digest_array(node) if isinstance(node, Call) and is_numpy_array(node) else ""
        self.opaque.append(Opaque(root, _leaf(name), type_name(node), summarize(node), digest))
        self.places.note(node, _path(root, name))

    def digest_array(self, call: Call) -> str:
        """What is in a numpy array, as a digest."""
        from ckpttool.formats.pickled.array_digest import ContentDigests

        self.digests = self.digests or ContentDigests()
        return self.digests.of(call)


_UNDECLARED = Entry((), "", None).declared


def _holds_module(plain: Plain) -> bool:
    """Whether these are the bytes of an archive or a pickle, or such are among them (``("fx", bytes)``)."""
    if not isinstance(plain, (bytes, tuple)):
        return False
    parts = plain[:_MOST_PARTS] if isinstance(plain, tuple) else (plain,)
    return any(
        isinstance(part, bytes)
        and (
            part[:4] == b"PK\x03\x04"
            or (part[:1] == b"\x80" and part[1:2] in b"\2\3\4\5" and part[-1:] == b".")
        )
        for part in parts
    )


def _path(root: Root, name: Key | None) -> Root:
    return root if name is None else (*root, name)


def _leaf(name: Key | None) -> Key:
    """The name of a leaf; a file that holds one bare tensor has none."""
    return "" if name is None else name
