"""The modules of a TorchScript archive, in the order and under the names of their state_dict.

The rules are in ``torchscript``; this is what follows them once a file is known to be one.
"""

from __future__ import annotations

from typing import NamedTuple

from ckpttool.formats.base import Limits, Look
from ckpttool.formats.pickled.contents import Contents, assemble
from ckpttool.formats.pickled.nodes import iter_mapping, type_name
from ckpttool.formats.pickled.objects import read_objects
from ckpttool.formats.pickled.tensors import TensorReader
from ckpttool.formats.pickled_members import merge_members
from ckpttool.formats.torch_archive import TorchArchive, open_torch_archive
from ckpttool.formats.torchscript.code import ClassHeader, ClassHeaders
from ckpttool.formats.zip_records import read_archive
from ckpttool.pickles.nodes import Call, DictNode, Global, Node, PickleTree
from ckpttool.values.checkpoint import Basis, Checkpoint, Classification, Container, Entry, Kind, Root
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint, UnsupportedFeature

_PARAMETER = Classification(Kind.PARAMETER, Basis.TORCHSCRIPT)
_BUFFER = Classification(Kind.PERSISTENT_BUFFER, Basis.TORCHSCRIPT)
# Exact as well: the class says that a state_dict does not hold it.
_PLAIN_ATTRIBUTE = Classification(Kind.UNKNOWN, Basis.TORCHSCRIPT, note="plain tensor attribute")
_CONSTANT = Classification(Kind.UNKNOWN, Basis.TORCHSCRIPT, note="constant of the code")
_IN_BOTH_LISTS = Classification(Kind.UNKNOWN, Basis.NONE, note="listed as a parameter and as a buffer")
_NO_CODE = Classification(Kind.UNKNOWN, Basis.NONE, note="the archive's code does not describe its class")
_NO_LIST = Classification(Kind.UNKNOWN, Basis.NONE, note="its class lists no buffers")
# What every scripted module carries and nobody asks for (torch/nn/modules/module.py).
_BOOKKEEPING = frozenset({"training", "_is_full_backward_hook"})
_ATTRIBUTES_PER_ENTRY = 4  # a scripted convolution has 2 tensors and 9 other attributes
_MAX_REVISITS = 250_000  # a module that is shared ten times has some hundred attributes
_ATTRIBUTES_ROOT: Root = ("attributes",)
_CONSTANTS_ROOT: Root = ("constants",)


def read_torchscript(look: Look) -> Checkpoint:
    """The checkpoint in a TorchScript archive.

    Raises:
        CkptToolError: malformed, of torch 1.0 to 1.3, or beyond ``limits``.
    """
    archive = look.parse(read_archive)
    view = open_torch_archive(look.source, archive)
    if "data.pkl" not in view.records:
        if "model.json" in view.records:
            raise UnsupportedFeature(
                "a TorchScript archive of torch 1.0 to 1.3 (model.json)",
                hint="if you trust it, load it with torch.jit.load and save it again",
            )
        raise MalformedCheckpoint("a TorchScript archive without data.pkl")
    layout = "lite interpreter" if "bytecode.pkl" in view.records else "scripted module"
    contents = _read_contents(view, look.limits)
    records = tuple(archive.records.values())
    return assemble(look.source, "torchscript", layout, contents, records, view.findings)


def _read_contents(view: TorchArchive, limits: Limits) -> Contents:
    """The module's entries, then what else its attributes hold, then the constants of the code."""
    tree, findings = view.pickle("data.pkl", limits)
    tensors = TensorReader(view.resolver())
    walk = _ModuleWalk(tensors, ClassHeaders(view, limits), limits)
    walk.run(tree.value)
    if walk.visits:  # else the top is no plain module
        tree = tree._replace(value=DictNode([item for pair in walk.rest.items() for item in pair]))
    rest = read_objects(tree, tensors, limits, _ATTRIBUTES_ROOT)
    has_constants = "constants.pkl" in view.records
    constants_tree, behind = view.pickle("constants.pkl", limits) if has_constants else (_NOTHING, ())
    constant_tensors = TensorReader(view.resolver(("constants",)))
    constants = read_objects(constants_tree, constant_tensors, limits, _CONSTANTS_ROOT)
    refs = [ref._replace(places=walk.places.get((ref.module, ref.name), ref.places)) for ref in rest.globals]
    return Contents(
        [
            *walk.entries,
            *(entry._replace(declared=_PLAIN_ATTRIBUTE) for entry in rest.entries),
            *(entry._replace(declared=_CONSTANT) for entry in constants.entries),
        ],
        rest.values + constants.values,
        rest.opaque + constants.opaque,
        walk.containers + [c for c in rest.containers + constants.containers if c.length],
        {},
        {},
        merge_members([("data.pkl", refs), ("constants.pkl", constants.globals)]),
        rest.rare_opcodes | constants.rare_opcodes,
        findings + behind + rest.findings + constants.findings,
    )


_NOTHING = PickleTree((), 0, 2, {}, [])


class _Module(NamedTuple):
    """A scripted module on its way through the walk; ``prefix`` is its name with a dot behind."""

    path: Root
    prefix: str
    node: Call
    depth: int


class _ModuleWalk:
    """The modules of ``data.pkl`` in the order of their state_dict, over an explicit stack."""

    def __init__(self, tensors: TensorReader, headers: ClassHeaders, limits: Limits) -> None:
        self.tensors = tensors
        self.headers = headers
        self.limits = limits
        self.entries: list[Entry] = []
        self.containers: list[Container] = []
        self.places: dict[tuple[str, str], tuple[str, ...]] = {}
        self.rest: dict[str, Node] = {}  # dotted name -> attribute that is neither tensor nor module
        self.known: dict[int, dict[str, Node] | None] = {}  # results of `attributes` by identity
        self.visits = 0  # attributes of all visits, and of those to modules that were visited before
        self.revisits = 0
        self.visited: set[int] = set()

    def run(self, top: Node) -> None:
        """Visit ``top`` and every module below it, shared ones once for each name."""
        stack = [] if self.attributes(top) is None else [_Module((), "", top, 0)]
        above: list[int] = []  # identities of the modules above, to notice a cycle
        while stack:
            module = stack.pop()
            del above[module.depth :]
            if id(module.node) in above:
                continue  # a module that holds itself: state_dict() would not end either
            self.count_visit(module.node)
            if module.depth >= self.limits.depth:
                raise LimitExceeded("nesting of modules", limit=self.limits.depth)
            above.append(id(module.node))
            stack.extend(reversed(self.visit(module)))

    def count_visit(self, node: Call) -> None:
        """Count the attributes of a module that is visited, and those that were seen before.

        Raises:
            LimitExceeded: far more than any module has, or far more names than modules.
        """
        width = 1 + len(self.attributes(node) or ())
        self.visits += width
        if self.visits > _ATTRIBUTES_PER_ENTRY * self.limits.entries:
            raise LimitExceeded("number of modules and attributes", limit=self.limits.entries)
        if id(node) in self.visited:
            self.revisits += width
            if self.revisits > _MAX_REVISITS:
                raise LimitExceeded("number of attributes of shared modules", limit=_MAX_REVISITS)
        self.visited.add(id(node))

    def visit(self, module: _Module) -> list[_Module]:
        """Record what a module owns; return its children."""
        node, prefix = module.node, module.prefix
        attributes = self.attributes(node) or {}
        header = self.headers.find(node.function)
        self.containers.append(Container(module.path, type_name(node), len(attributes)))
        place = "$" + "".join(f".{key}" for key in module.path)
        self.places.setdefault((node.function.module, node.function.name), (place,))
        parameters: list[Entry] = []
        others: list[Entry] = []
        children = []
        for name, value in attributes.items():
            stored = self.tensors.read(value) if isinstance(value, Call) else None
            kind = _judge(name, header)
            if stored is not None and kind is not _PLAIN_ATTRIBUTE:
                entry = Entry((), prefix + name, stored.tensor, stored.requires_grad, kind)
                (parameters if kind is _PARAMETER else others).append(entry)
            elif stored is None and self.attributes(value) is not None:
                children.append(_Module((*module.path, name), f"{prefix}{name}.", value, module.depth + 1))
            elif stored is not None or not _is_bookkeeping(name, value, kind):
                if prefix + name in self.rest:
                    raise MalformedCheckpoint("two attributes have the same name", name=prefix + name)
                self.rest[prefix + name] = value
        self.entries += parameters
        self.entries += others
        return children

    def attributes(self, node: Node) -> dict[str, Node] | None:
        """The attributes of a scripted module by name; None for anything that is not one."""
        if not isinstance(node, Call):
            return None
        if id(node) not in self.known:
            self.known[id(node)] = self.read_attributes(node)
        return self.known[id(node)]

    def read_attributes(self, node: Call) -> dict[str, Node] | None:
        """``attributes`` of a call that is seen for the first time.

        Raises:
            MalformedCheckpoint: an attribute whose name is not text, or that stands there twice.
        """
        if not isinstance(node.function, Global):
            return None
        if node.function.module.partition(".")[0] != "__torch__" or not node.states or len(node.states) != 1:
            return None
        state = node.states[0]
        header = self.headers.find(node.function)
        if header is not None and (header.restores_itself or not header.is_module):
            return None
        if not isinstance(state, DictNode):
            return None
        attributes: dict[str, Node] = {}
        for name, value in iter_mapping(state):
            if type(name) is not str or name in attributes:
                raise MalformedCheckpoint(
                    "an attribute's name is not text, or stands twice",
                    name=name[:256] if type(name) is str else type_name(name),  # str() would recurse
                    byte_offset=node.byte_offset,
                )
            attributes[name] = value
        return attributes


def _judge(name: str, header: ClassHeader | None) -> Classification:
    """What the class says of an attribute, should it be a tensor."""
    if header is None or header.parameters is None:
        return _NO_CODE
    if name in header.parameters:
        return _IN_BOTH_LISTS if header.buffers and name in header.buffers else _PARAMETER
    if header.buffers is None:
        return _NO_LIST
    return _BUFFER if name in header.buffers else _PLAIN_ATTRIBUTE


def _is_bookkeeping(name: str, value: Node, kind: Classification) -> bool:
    """``training`` and its like, and slots that were registered as None (not in a state_dict)."""
    if value is None and kind in (_PARAMETER, _BUFFER):
        return True
    return name in _BOOKKEEPING and (value is None or type(value) is bool)
