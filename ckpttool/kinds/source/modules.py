"""The modules that the names of a state_dict tell of: a tree, with what each holds itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

_DEEPEST = 64  # parts of a name
_REWRITTEN = (
    # What torch.nn.utils puts in the place of a parameter, by the endings of its names.
    (("_g", "_v"), ()),  # weight_norm
    (("_orig",), ("_u", "_v", "_mask")),  # spectral_norm, prune
)


class Node:
    """A module: its own entries by name (their positions), its children by name.

    ``leaves`` are the names as the class registered them: what torch.nn.utils has rewritten counts as the
    parameter that it was. ``own`` has the entries that are named so in the file. Modules of one ``form`` have
    equal names, all the way down.
    """

    __slots__ = ("children", "form", "leaves", "own", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.own: dict[str, int] = {}
        self.children: dict[str, Node] = {}
        self.leaves: frozenset[str] = frozenset()
        self.form = 0

    def child_path(self, name: str) -> str:
        """The path of the child ``name``."""
        return f"{self.path}.{name}" if self.path else name

    def distinct_children(self) -> dict[str, Node]:
        """The children, of those in a list one of each form."""
        if not self.is_list:
            return self.children
        by_form = {child.form: name for name, child in self.children.items()}
        return {name: self.children[name] for name in by_form.values()}

    @property
    def is_list(self) -> bool:
        """Whether it has numbered children and nothing else."""
        return bool(self.children) and not self.own and all(name.isdecimal() for name in self.children)


def grow(names: Iterable[tuple[int, str]]) -> Node:
    """The tree of the modules that hold entries of these names."""
    root = Node("")
    for position, name in names:
        parts = name.split(".", _DEEPEST)
        node = root
        for part in parts[:-1]:
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = Node(node.child_path(part))
            node = child
        node.own[parts[-1]] = position
    for node in iter_nodes(root):
        node.leaves = frozenset(_as_registered(node))
        node.children.pop("parametrizations", None)
    forms: dict[object, int] = {}
    for node in reversed(list(iter_nodes(root))):  # children first
        form = node.leaves, frozenset((name, child.form) for name, child in node.children.items())
        node.form = forms.setdefault(form, len(forms))
    return root


def iter_nodes(root: Node) -> Iterator[Node]:
    """Every module, parents first."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(node.children.values())


def _as_registered(node: Node) -> set[str]:
    names = set(node.own)
    names.discard("_extra_state")
    for endings, others in _REWRITTEN:
        for name in [name for name in names if name.endswith(endings[0])]:
            stem = name[: -len(endings[0])]
            rewritten = {stem + ending for ending in endings}
            beside = {stem + ending for ending in others} & names
            if stem and rewritten <= names and (beside or not others):
                names -= rewritten | beside
                names.add(stem)
    parametrized: Mapping[str, Node] = {}
    if "parametrizations" in node.children:
        parametrized = node.children["parametrizations"].children
    return names.union(parametrized)
