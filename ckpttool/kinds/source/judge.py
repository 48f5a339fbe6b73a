"""What the classes that fit say of a state_dict's entries, and of the buffers that it leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from ckpttool.kinds.classify import Verdict
from ckpttool.kinds.source.instances import (
    ANYTHING,
    BUFFER,
    MODULE,
    PARAMETER,
    PLACEHOLDER,
    Attribute,
    Instance,
    Type,
)
from ckpttool.kinds.source.library import SourceClass
from ckpttool.kinds.source.match import Fit, Matcher, Types
from ckpttool.kinds.source.modules import Node, grow, iter_nodes
from ckpttool.values.checkpoint import Basis, Classification, Kind, Presence
from ckpttool.values.source import How, SourceEvidence

_DEEPEST_WRAPPER = 4
_DEEPEST_MISSING = 6
_MOST_LOOKED_AT = 200_000  # attributes that may be missing buffers, or have some
_MOST_COMPARED = 16  # types of one child
_ENOUGH_MODULES = 2  # that only the package's classes cover, for a claim by a name alone
_WRAPPERS = frozenset("module model _orig_mod state_dict net network _forward_module".split())

_KINDS = {PARAMETER: Kind.PARAMETER, BUFFER: Kind.PERSISTENT_BUFFER}


def judge_names(
    matcher: Matcher,
    names: Iterable[tuple[int, str]],
    root_classes: Sequence[SourceClass],
    strict: bool,
    empty: Collection[int] = (),
) -> Verdict:
    """Judge the state_dict of these ``names``, at these positions; those at ``empty`` have no elements.

    ``root_classes``: one of these is its root. Where no class fits the root, ``strict`` says
    nothing at all, else what single modules show is said.
    """
    return _Judge(matcher, grow(names), root_classes, strict, empty).verdict()


class _Judge:
    def __init__(
        self,
        matcher: Matcher,
        tree: Node,
        root_classes: Sequence[SourceClass],
        strict: bool,
        empty: Collection[int],
    ) -> None:
        self._matcher = matcher
        self._tree = tree
        self._strict = strict
        self._empty = empty
        self._fits: dict[str, list[Fit]] = {}
        self._said: dict[int, Classification] = {}
        self._missing: dict[str, Classification] = {}
        self._left = _MOST_LOOKED_AT
        self._saving: dict[tuple[str, tuple[tuple[str, str], ...]], bool] = {}
        self._meant: set[str] = set()  # paths of modules whose classes follow from the root's
        self._compared: dict[tuple[int, int], tuple[int, int]] = {}
        self._roots = self._find_roots(root_classes)

    def verdict(self) -> Verdict:
        rooted = bool(self._roots)
        if rooted or not self._strict:
            starts = self._roots or [(self._tree, None)]
            inside = {id(node) for node, _ in starts}
            for node, types in starts:
                self._walk(node, types)
            if not self._strict and id(self._tree) not in inside:
                self._walk(self._tree, None, inside)  # what stands beside the parts that have a class
            self._judge_leaves(rooted)
            if rooted:
                self._find_missing()
        modules = [node for node in iter_nodes(self._tree) if node.own]
        return Verdict(
            self._said,
            self._missing,
            self._root_name(),
            len(modules),
            sum(bool(self._fits.get(node.path)) for node in modules),
        )

    def _root_name(self) -> str:
        for node, _ in self._roots:
            for fit in self._fits.get(node.path, ()):
                if isinstance(fit.cls, SourceClass):
                    return fit.cls.dotted
        return ""

    # ---------------------------------------------------------------------------------------- roots

    def _find_roots(self, root_classes: Sequence[SourceClass]) -> list[tuple[Node, Types | None]]:
        """The modules that a class of the package is the root of: below wrappers, or each of a list."""
        if root_classes:
            types = Types(tuple(Instance(cls, ()) for cls in root_classes), True)
            for node in self._iter_wrapped(self._tree):
                found = self._matcher.fits(node, types)
                if any(fit.named for fit in found):
                    return [(node, types)]
        for node in self._iter_wrapped(self._tree):
            if self._is_root(node):
                return [(node, None)]
            parts = _flatten(node, _DEEPEST_WRAPPER)
            if node.is_list and all(map(self._is_root, parts)):
                return [(part, None) for part in parts]
        return []

    def _iter_wrapped(self, node: Node) -> Iterator[Node]:
        for _ in range(_DEEPEST_WRAPPER):
            yield node
            inner = [child for name, child in node.children.items() if name in _WRAPPERS]
            if len(node.children) == 1 and not node.own:
                inner = list(node.children.values())
            if len(inner) != 1:
                break
            node = inner[0]

    def _is_root(self, node: Node) -> bool:
        found = self._agreeing(node, self._matcher.search(node))
        if not found or not all(isinstance(fit.cls, SourceClass) and _is_whole(node, fit) for fit in found):
            return False
        misfits, fits = self._compare(node, found[0])  # of all the same
        return misfits <= -fits  # another version may have changed some

    def _agreeing(self, node: Node, found: list[Fit]) -> list[Fit]:
        """Those of equal fits whose own text has types that fit the children."""
        if len(found) < 2 or not node.children:
            return found
        scores = [self._compare(node, fit) for fit in found]
        best = min(scores)
        return [fit for fit, score in zip(found, scores, strict=True) if score == best]

    def _compare(self, node: Node, fit: Fit) -> tuple[int, int]:
        """How many modules below ``node`` are none of the types that ``fit`` leads to; less how many are one.

        Modules of one form count once where they stand in a list.
        """
        key = node.form, id(fit)
        if key not in self._compared:
            misfits = fits = 0
            for name, child in node.distinct_children().items():
                types = fit.children.get(name)
                if types is None or not types.closed:
                    continue
                named = [found for found in self._matcher.fits(child, types) if found.named]
                if not named:
                    misfits += 1
                    continue
                below = min(self._compare(child, found) for found in named[:_MOST_COMPARED])
                misfits, fits = misfits + below[0], fits + below[1] - 1
            self._compared[key] = misfits, fits
        return self._compared[key]

    # ---------------------------------------------------------------------------------------- walk

    def _walk(self, start: Node, types: Types | None, leave_out: Iterable[int] = ()) -> None:
        """Fit every module from ``start`` down; the types of children are what their parents declare."""
        left_out = set(leave_out)
        stack: list[tuple[Node, Types | None]] = [(start, types)]
        while stack:
            node, known = stack.pop()
            if id(node) in left_out:
                continue
            above = node.path.rpartition(".")[0]
            found = self._agreeing(node, self._matcher.fits(node, known))
            found, is_meant = self._near(found, self._fits.get(above, ()))
            self._fits[node.path] = found
            if node is start or (above in self._meant and (is_meant or node.is_list)):
                self._meant.add(node.path)
            if node.own:
                self._judge_entries(node, found)
            for name, child in reversed(node.children.items()):
                stack.append((child, _join(fit.children.get(name) for fit in found) if found else None))

    def _near(self, found: list[Fit], parents: Sequence[Fit]) -> tuple[list[Fit], bool]:
        """Of equal fits those whose classes the parents' files know, or torch's; whether these mean them."""
        if not found or found[0].named or not parents:
            return found, bool(found) and found[0].named
        classes = {parent.cls for parent in parents if isinstance(parent.cls, SourceClass)}
        modules = self._matcher.modules_of(classes)
        near = [
            fit
            for fit in found
            if not isinstance(fit.cls, SourceClass) or self._matcher.sees(modules, fit.cls)
        ]
        return near or found, bool(near) and all(isinstance(fit.cls, SourceClass) for fit in near)

    def _judge_entries(self, node: Node, found: Sequence[Fit]) -> None:
        for name in sorted(node.leaves) if found else ():
            kinds = {kind for fit in found for kind in fit.leaves[name].kinds}
            if ANYTHING in kinds:
                continue
            if PLACEHOLDER in kinds:
                is_empty = node.own.get(name) in self._empty
                kinds = {BUFFER} if is_empty or kinds == {PLACEHOLDER} else kinds - {PLACEHOLDER}
            evidence = _cite(found, name)
            if len(kinds) == 1:
                self._note(node, name, kinds.pop(), evidence, found)
            elif all(isinstance(fit.cls, SourceClass) for fit in found) and name in node.own:
                note = f"{describe(evidence)}: a parameter or a buffer, as the arguments say"
                self._said[node.own[name]] = Classification(
                    Kind.UNKNOWN, Basis.NONE, note=note, source=evidence
                )

    def _note(self, node: Node, name: str, kind: str, evidence: SourceEvidence, found: Sequence[Fit]) -> None:
        position = node.own.get(name)
        if position is None:
            return  # rewritten by torch.nn.utils: what stands beside it says more
        note = describe(evidence)
        if kind == BUFFER and all(fit.leaves[name].persistent is False for fit in found):
            note += ", which does not save it"
        self._said[position] = Classification(_KINDS[kind], Basis.SOURCE, note=note, source=evidence)

    # --------------------------------------------------------------------------------------- leaves

    def _judge_leaves(self, rooted: bool) -> None:
        """Entries of modules that no class fits, by what every class of the package says of the name."""
        own = {
            node.form
            for node in iter_nodes(self._tree)
            if (found := self._fits.get(node.path))
            and all(isinstance(fit.cls, SourceClass) and _is_whole(node, fit) for fit in found)
        }
        if not rooted and len(own) < _ENOUGH_MODULES:
            return
        for node in iter_nodes(self._tree):
            if not node.own or self._fits.get(node.path):
                continue
            for name, position in node.own.items():
                known = self._matcher.leaf(name) if name in node.leaves else None
                if known is not None and position not in self._said:
                    kind, evidence = known
                    self._said[position] = Classification(
                        _KINDS[kind], Basis.SOURCE, note=describe(evidence), source=evidence
                    )

    # -------------------------------------------------------------------------------------- missing

    def _find_missing(self) -> None:
        """Non-persistent buffers of modules whose class is known, and of their children without entries."""
        starts = [node for node, _ in self._roots]
        for node in (inner for start in starts for inner in iter_nodes(start)):
            found = self._fits.get(node.path)
            if not found or not all(isinstance(fit.type, Instance) for fit in found):
                continue
            if node.path not in self._meant:
                continue  # it fits, and nothing says that it is meant
            said = [dict(self._iter_missing(fit.type, node, _DEEPEST_MISSING)) for fit in found]
            for path, (first, sure) in said[0].items():
                if all(path in other for other in said):
                    is_sure = sure and all(other[path][1] for other in said)
                    evidence = _evidence(first, _of(found[0]), "class", len(found))
                    presence = Presence.MISSING if is_sure else Presence.POSSIBLE
                    self._missing[path] = Classification(
                        Kind.NON_PERSISTENT_BUFFER,
                        Basis.SOURCE,
                        presence,
                        describe(evidence),
                        source=evidence,
                    )

    def _iter_missing(
        self, instance: object, node: Node | None, depth: int, path: str = "", sure: bool = True
    ) -> Iterator[tuple[str, tuple[Attribute, bool]]]:
        """Paths of the buffers that ``instance`` does not save; ``node`` is what the file has of it."""
        if not isinstance(instance, Instance) or not depth:
            return
        members = self._matcher.members(instance)
        place = node.path if node is not None else path
        for name, attribute in members.by_name.items():
            self._left -= 1
            if self._left < 0:
                return
            inner = f"{place}.{name}" if place else name
            if attribute.is_buffer and attribute.value.persistent is False:
                if node is None or name not in node.own:
                    yield inner, (attribute, sure and attribute.sure)
            elif attribute.kinds == {MODULE} and (node is None or name not in node.children):
                for item in attribute.value.types if len(attribute.value.types) == 1 else ():
                    if isinstance(item, Instance) and not self._saves(item, depth):
                        yield from self._iter_missing(item, None, depth - 1, inner, sure and attribute.sure)

    def _saves(self, instance: Instance, depth: int) -> bool:
        """Whether every file of it has an entry of ``instance``: then it is not there at all."""
        key = instance.cls.dotted, instance.binding
        if key not in self._saving:
            self._saving[key] = False  # for classes that build each other
            self._saving[key] = self._find_saved(instance, depth)
        return self._saving[key]

    def _find_saved(self, instance: Instance, depth: int) -> bool:
        members = self._matcher.members(instance)
        for attribute in members.by_name.values():
            if not attribute.sure:
                continue
            if attribute.kinds == {PARAMETER} or (attribute.is_buffer and attribute.value.persistent):
                return True
            if attribute.kinds == {MODULE} and depth:
                for item in attribute.value.types:
                    if isinstance(item, Instance):
                        if self._saves(item, depth - 1):
                            return True
                    elif item.cls.parameters or item.cls.buffers or item.cls.container:
                        return True
        return False


def _is_whole(node: Node, fit: Fit) -> bool:
    """Whether the class declares each name by more than a pattern for anything."""
    return fit.covered == len(node.leaves) + len(node.children)


def _flatten(node: Node, depth: int) -> list[Node]:
    """The modules in a list, and in lists in it."""
    if not node.is_list or not depth:
        return [node]
    return [inner for child in node.children.values() for inner in _flatten(child, depth - 1)]


def _join(found: Iterable[Types | None]) -> Types | None:
    joined: dict[int, Type] = {}
    closed = True
    for types in found:
        closed = closed and types is not None and types.closed
        joined.update((id(item), item) for item in (types.items if types is not None else ()))
    return Types(tuple(joined.values()), closed) if joined else None


def _cite(found: Sequence[Fit], name: str) -> SourceEvidence:
    """The evidence for an entry: of several equal classes the one that the parent names."""
    fit = next((fit for fit in found if fit.named), found[0])
    attribute = fit.leaves[name].attribute
    classes = {_of(fit) for fit in found}
    evidence = _evidence(attribute, _of(fit), "class", len(classes))
    places = {_evidence(fit.leaves[name].attribute, "", "class", 0) for fit in found}
    if fit.named or len(classes) == 1:
        return evidence
    if len(places) == 1:  # one text that several classes inherit, or classes of torch
        owner = attribute.cls.dotted if attribute is not None else "torch.nn"
        return evidence._replace(class_name=owner)
    return SourceEvidence("", 0, "", "class", len(classes))


def _of(fit: Fit) -> str:
    return fit.cls.dotted if isinstance(fit.cls, SourceClass) else fit.cls.name


def _evidence(attribute: Attribute | None, class_name: str, how: How, candidates: int) -> SourceEvidence:
    if attribute is None:
        return SourceEvidence("", 0, class_name, how, candidates)
    return SourceEvidence(attribute.cls.file, attribute.line, class_name, how, candidates)


def describe(evidence: SourceEvidence) -> str:
    """``mypkg/blocks.py:181 Energies``; of one that is not the only one how many there are."""
    if not evidence.class_name:
        return f"any of {evidence.candidates} classes"
    name = evidence.class_name.rpartition(".")[2]
    place = f"{evidence.file}:{evidence.line} {name}" if evidence.file else evidence.class_name
    more = evidence.candidates - 1
    if evidence.how == "leaf":
        return f"{place}: every class that has the name" if more else place
    return f"{place} and {more} more" if more else place
