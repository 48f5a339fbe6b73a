"""Which branch of a checkpoint is converted, what of it is kept, and what is left behind and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from ckpttool.conversion.containers import ContainerKind
from ckpttool.names.globs import Globs, refuse_unmatched
from ckpttool.names.prefixes import find_counters
from ckpttool.names.renames import AUTO
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    CompositeTensor,
    Container,
    Key,
    Kind,
    Objects,
    OddKey,
    Opaque,
    Plain,
    PlainList,
    Root,
    Tensor,
    Value,
)
from ckpttool.values.conversion import Dropped, Options
from ckpttool.values.errors import CkptToolError
from ckpttool.values.inspection import Inspection, Row, is_rebuilt
from ckpttool.values.words import agree, first_few, format_root, inspect_command, plural

_PROGRAM = (Basis.TORCHSCRIPT, Basis.EXPORT)


class Selection(NamedTuple):
    """What is kept of a checkpoint, with the paths that it has there.

    ``root`` is the branch that was taken, None for the whole; ``found`` says that no option named
    it. ``base`` is what the destination's paths leave out in front. At or below ``modules``, the
    pickled ones of the source, names are dotted, as in their state_dict.
    """

    root: Root | None
    found: bool
    base: Root
    modules: frozenset[Root]
    rows: list[Row]
    values: list[Value]
    objects: list[Opaque]
    containers: list[Container]
    dropped: list[Dropped]


def select(inspection: Inspection, options: Options, container: ContainerKind) -> Selection:
    """Choose branch, tensors, values.

    Raises:
        CkptToolError: no tensor is left, or several branches could be meant.
    """
    whole = container.holds_all and _takes_all(inspection, options)
    root = None if whole else choose_root(inspection, options)
    found = root is not None and not options.names_branch
    bare = options.names_branch or options.weights_only or options.sharded
    pickled = Basis.PICKLED_MODULE
    modules = frozenset(row.entry.root for row in inspection.rows if row.entry.declared.basis is pickled)
    selection = Selection(root, found, (root or ()) if bare else (), modules, [], [], [], [], [])
    _select_rows(inspection, options, selection, container)
    if not selection.rows:
        raise CkptToolError(
            "no tensor is left to convert", path=inspection.checkpoint.path, hint=_branches(inspection)
        )
    _select_rest(inspection, options, selection, container)
    return selection


def choose_root(inspection: Inspection, options: Options) -> Root:
    """The branch to convert.

    Raises:
        CkptToolError: it was not named, and several could be meant.
    """
    if options.root is not None:
        return options.root
    if options.prefer_ema:
        averaged = [group.root for group in inspection.groups if group.role == "ema"]
        if len(averaged) == 1:
            return averaged[0]
        what = "no averaged weights (EMA) were found" if not averaged else "several averaged copies"
    elif inspection.weights_root is not None:
        return inspection.weights_root
    else:
        what = "it is not clear which branch holds the weights" if inspection.rows else "no tensors"
    raise CkptToolError(what, path=inspection.checkpoint.path, hint=_branches(inspection))


def _takes_all(inspection: Inspection, options: Options) -> bool:
    """Whether no branch was asked for; of a program only the weights are meant."""
    if options.names_branch or options.sharded or options.weights_only:
        return False
    return not any(row.classification.basis in _PROGRAM for row in inspection.rows)


def _branches(inspection: Inspection) -> str:
    """What ``--root`` takes in this file."""
    named = [format_root(group.root) for group in inspection.groups if group.root]
    if not named:
        return f"{inspect_command(inspection.checkpoint.path)} shows what is in it"
    return f"--root takes one of: {first_few(named, most=4)}; --root '' takes everything"


def _select_rows(
    inspection: Inspection, options: Options, selection: Selection, container: ContainerKind
) -> None:
    """Sort the rows into kept and dropped."""
    keep, drop = Globs(options.keep), Globs(options.drop)
    _refuse_unmatched(inspection, options, selection.root)
    root, elsewhere, named = selection.root, _elsewhere(selection.root), options.names_branch
    counters = _counters(inspection) if options.strip_prefix == AUTO else frozenset()
    for row in inspection.rows:
        entry = row.entry
        reason, asked = "", True
        if drop.match(entry.root, entry.name):
            reason = "--drop"
        elif root is not None and (entry.root[: len(root)] if named else entry.root) != root:
            reason, asked = elsewhere, named or options.weights_only
        elif keep and not keep.match(entry.root, entry.name):
            reason = "not among --keep"
        elif options.drop_known_buffers and is_rebuilt(row):
            reason = "--drop-known-buffers"
        elif container.holds_all and not _is_writable_path((*entry.root, entry.name)):
            reason, asked = "its key is an object", False
        elif (entry.root, entry.name) in counters:
            reason = "counts for AveragedModel, no part of the model"
        elif not options.non_persistent:
            # What follows is in a pickled module or an exported program, and no state_dict() would have it.
            if entry.declared.kind is Kind.NON_PERSISTENT_BUFFER:
                reason, asked = "non-persistent buffer: --non-persistent keeps it", False
            elif entry.root in selection.modules and entry.declared.basis is Basis.NONE:
                reason, asked = "plain attribute of a module: --non-persistent keeps it", False
        if reason:
            selection.dropped.append(dropped_tensor(entry.root, entry.name, entry.value, reason, asked))
            continue
        if isinstance(entry.value, CompositeTensor) and (plain := entry.value.plain) is not None:
            where, reason = (*entry.root, entry.name), f"attribute of {entry.value.type_name}"
            for name, value in entry.value.parts[1:]:
                selection.dropped.append(dropped_tensor(where, name, value, reason, asked=False))
            row = row._replace(entry=entry._replace(value=plain, subclass=entry.value.type_name))
        selection.rows.append(row)


def _refuse_unmatched(inspection: Inspection, options: Options, root: Root | None) -> None:
    """Refuse a glob that fits nothing that could be kept, dropped or cast."""
    if not (options.keep or options.drop or options.keep_dtype):
        return
    checkpoint, above = inspection.checkpoint, root or ()
    tensors = [row.entry[:2] for row in inspection.rows]
    below = [place for place in tensors if place[0][: len(above)] == above]
    rest = [(value.root, value.name) for value in checkpoint.values]
    rest += [(item.root, item.name) for item in checkpoint.opaque]
    rest += [(item.path[:-1], item.path[-1]) for item in checkpoint.containers if item.path]
    refuse_unmatched(options.keep, options.drop, below, (*tensors, *rest), path=checkpoint.path)
    refuse_unmatched(options.keep_dtype, (), below, path=checkpoint.path)


def _counters(inspection: Inspection) -> frozenset[tuple[Root, Key]]:
    """Root and name of what the wrappers that ``--strip-prefix auto`` takes off keep for themselves."""
    names: dict[Root, list[str]] = {}
    for row in inspection.rows:
        if isinstance(row.entry.name, str):
            names.setdefault(row.entry.root, []).append(row.entry.name)
    return frozenset((root, name) for root, those in names.items() for name in find_counters(those))


def dropped_tensor(root: Root, name: Key, value: Tensor | None, reason: str, asked: bool) -> Dropped:
    """A tensor that is left behind."""
    dtype = None if value is None else value.dtype
    return Dropped(root, name, dtype.name if dtype else "tensor", value.nbytes if value else 0, reason, asked)


def _select_rest(
    inspection: Inspection, options: Options, selection: Selection, container: ContainerKind
) -> None:
    """Values, objects and containers. What is not a tensor stands for itself or goes with one."""
    checkpoint, root, modules = inspection.checkpoint, selection.root, selection.modules
    drop = Globs(options.drop)
    gone = {item.root: item.asked for item in selection.dropped}
    for row in selection.rows:
        gone.pop(row.entry.root, None)
    tensors_only = options.weights_only or options.sharded
    bare = options.names_branch or tensors_only
    elsewhere = _elsewhere(root)

    def why_not(at: Root, name: Key) -> tuple[str, bool]:
        """(reason, asked), or ("", …) if it stays."""
        if drop.match(at, name):
            return "--drop", True
        if tensors_only:
            return "only tensors are converted", options.weights_only
        if bare and root is not None and at[: len(root)] != root:
            return elsewhere, options.names_branch or options.weights_only
        if at in gone:
            return "stands beside tensors that are dropped", gone[at]
        if not _is_writable_path((*at, name)):
            return "its key is an object", False
        return "", False

    objects = Objects(checkpoint.opaque, checkpoint.containers)
    attributes: Counter[Root] = Counter()  # plain ones by the path of their object
    of_modules: dict[Root, None] = {}
    for value in checkpoint.values:
        reason, asked = why_not(value.root, value.name)
        owner = objects.owner(value.root)
        module = next((at for at in _prefixes(value.root) if at in modules), None) if modules else None
        if owner is not None:
            attributes[owner] += 1
            if not reason and container.describes:
                selection.values.append(value)
        elif module is not None:  # a state_dict has no place for it
            of_modules.setdefault((*value.root, value.name)[: len(module) + 1])
        elif reason:
            type_name = _type_of(value.value)
            selection.dropped.append(Dropped(value.root, value.name, type_name, 0, reason, asked))
        else:
            selection.values.append(value)
    for path in of_modules:
        reason = "plain attribute of a module: a state_dict has none"
        selection.dropped.append(Dropped(path[:-1], path[-1], "attribute", 0, reason, True))
    for item in checkpoint.opaque:
        reason, asked = why_not(item.root, item.name)
        if not reason and item.type_name in container.objects:
            selection.objects.append(item)
            continue
        if not reason:
            reason = "an object: described in the file, never built"
            count = attributes[() if item[:2] == ((), "") else (*item.root, item.name)]
            if container.describes:
                selection.objects.append(item)
            if count:
                where = ("is kept", "are kept") if container.describes else ("stays behind", "stay behind")
                reason += f"; {plural(count, 'plain value')} of it {agree(count, *where)}"
        selection.dropped.append(Dropped(item.root, item.name, item.type_name, 0, reason, asked))
    inside = None
    if bare or root is not None:
        # What holds nothing stands for itself, as a value does.
        inside = _ancestors(selection, [at for at in _empty(checkpoint) if not why_not(at[:-1], at[-1])[0]])
    for branch in checkpoint.containers:
        path = branch.path
        if modules and any(path[:depth] in modules for depth in range(len(path))):
            continue
        if drop.match_branch(path) or (inside is not None and path not in inside):
            continue
        if path[: len(selection.base)] == selection.base:
            selection.containers.append(branch)


def _prefixes(path: Root) -> Iterator[Root]:
    """Every path that ``path`` lies at or below, the outermost first."""
    return (path[:depth] for depth in range(len(path) + 1))


def _elsewhere(root: Root | None) -> str:
    return f"not part of `{format_root(root)}`" if root else "not at the top level"


def _type_of(value: Plain) -> str:
    """The Python type that a value was."""
    return "list" if isinstance(value, PlainList) else type(value).__name__


def _empty(checkpoint: Checkpoint) -> list[Root]:
    """Paths of the containers below the top that nothing stands in; a carried one does not say its length."""
    filled = {item.path[:-1] for item in checkpoint.containers}
    for items in (checkpoint.entries, checkpoint.values, checkpoint.opaque):
        filled |= {item.root for item in items}
    return [item.path for item in checkpoint.containers if item.path and item.path not in filled]


def _ancestors(selection: Selection, empty: list[Root]) -> set[Root]:
    """Paths of every container that something kept stands in, and of those that are ``empty``."""
    found: set[Root] = set()
    roots = [*empty, *(row.entry.root for row in selection.rows)]
    roots += (value.root for value in selection.values)
    roots += (item.root for item in selection.objects)
    for root in roots:
        while root not in found:
            found.add(root)
            root = root[:-1]
    return found


def _is_writable_path(path: Root) -> bool:
    return not any(isinstance(key, OddKey) and not key.literal for key in path)
