"""``plan_conversion``: from an inspection and what was asked for to every byte of the destination. Pure.

The plan is refused here, before the first write, if two names would become equal, a tensor has no
bytes, or the destination has no type for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ckpttool.analysis.carried import (
    PREFIX,
    carry_json,
    carry_order,
    carry_values,
    carry_versions,
    encode_path,
)
from ckpttool.analysis.conversion import (
    WRITABLE_CONTAINERS,
    Cast,
    ConversionPlan,
    Dropped,
    Options,
    Placed,
    PlacedComposite,
    Planned,
)
from ckpttool.analysis.globs import Globs
from ckpttool.analysis.inspection import Inspection, Row
from ckpttool.analysis.placing import Placing, Wanted, is_without_bytes, overlapping
from ckpttool.analysis.renames import Rule, make_rule, rename_all, rename_modules
from ckpttool.analysis.selection import Selection, select
from ckpttool.checkpoint import (
    Basis,
    CompositeTensor,
    Key,
    Kind,
    ModuleExtras,
    Root,
    Tensor,
    TensorInfo,
)
from ckpttool.dtypes import BY_NAME, DType
from ckpttool.errors import CkptToolError, UnsupportedFeature

_MOST_NAMED = 3  # in an error
_REBUILT = frozenset(
    ("quantized", "nested", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
)
"""Composites that a ``.pt`` is written with; the others need a class of their own."""
_NO_TORCH_NAME = frozenset(("float6_e2m3fn", "float6_e3m2fn"))


class _Item(NamedTuple):
    """A kept tensor under its new name. ``path`` is relative to the destination's top."""

    row: Row
    root: Root
    name: Key
    cast: DType | None


def plan_conversion(inspection: Inspection, options: Options) -> ConversionPlan:
    """What ``convert`` will do with what ``inspection`` found (all of the file, unfiltered).

    Raises:
        CkptToolError: the branch is not clear, names collide, nothing is left, or --shared fail.
        UnsupportedFeature: a tensor cannot be written as it is.
    """
    return _Planner(inspection, options).run()


class _Planner:
    """One plan in the making."""

    def __init__(self, inspection: Inspection, options: Options) -> None:
        self.inspection = inspection
        self.checkpoint = inspection.checkpoint
        self.options = options
        self.notes: list[str] = []
        self.placing = Placing()

    def run(self) -> ConversionPlan:
        """Select, rename, cast, tie, place, and carry the rest."""
        options = self.options
        selection = select(self.inspection, options)
        rule = make_rule(options.strip_prefix, options.renames, options.add_prefix)
        items, renamed = self.name_items(selection, rule)
        self.refuse_unwritable(items)
        versions, extras = self.module_facts(selection, rule)
        if options.container == "pt":
            tensors, aliases = self.place_in_pt(items)
            metadata: dict[str, str] = {}
            dropped = self.drop_metadata()
        else:
            tensors, aliases, metadata = self.place_in_safetensors(items, selection, versions, extras)
            dropped = []
        self.note_casts(items)
        return ConversionPlan(
            self.checkpoint,
            options,
            selection.root,
            selection.found,
            tuple(self.placing.pieces),
            tuple(tensors),
            aliases,
            tuple(value._replace(root=value.root[len(selection.base) :]) for value in selection.values),
            tuple(item._replace(root=item.root[len(selection.base) :]) for item in selection.objects),
            tuple(item._replace(path=item.path[len(selection.base) :]) for item in selection.containers),
            versions,
            extras,
            metadata,
            renamed,
            (*selection.dropped, *dropped),
            tuple(self.casts(tensors)),
            tuple(self.notes),
        )

    # -- names ----------------------------------------------------------------------------------

    def name_items(self, selection: Selection, rule: Rule | None) -> tuple[list[_Item], dict[str, str]]:
        """Kept rows with their new names and dtypes, and old name -> new name of those that change."""
        by_root: dict[Root, list[str]] = {}
        for row in selection.rows:
            if rule is not None and isinstance(row.entry.name, str) and _is_renamed(row):
                by_root.setdefault(row.entry.root, []).append(row.entry.name)
        renames = {
            root: rename_all(names, rule, self.checkpoint.path) if rule else {}
            for root, names in by_root.items()
        }
        renamed = {old: new for names in renames.values() for old, new in names.items()}
        if rule is not None and not renamed:
            raise CkptToolError("no name changes: nothing is so called", path=self.checkpoint.path)
        keep_dtype = Globs(self.options.keep_dtype)
        cut = len(selection.base)
        items = []
        for row in selection.rows:
            entry = row.entry
            name = entry.name
            if isinstance(name, str) and entry.root in renames and _is_renamed(row):
                name = renames[entry.root].get(name, name)
            cast = None if keep_dtype.match(entry.root, entry.name) else self.cast_of(row)
            items.append(_Item(row, entry.root[cut:], name, cast))
        self.refuse_collisions(items)
        return items, renamed

    def refuse_collisions(self, items: Sequence[_Item]) -> None:
        """A new name may meet one that no rule touched."""
        seen: dict[tuple[Root, Key], Key] = {}
        for item in items:
            other = seen.setdefault((item.root, item.name), item.row.entry.name)
            if other != item.row.entry.name:
                both = f"{str(other)!r} and {str(item.row.entry.name)!r}"
                raise CkptToolError(
                    f"{both} would both be called {str(item.name)!r}", path=self.checkpoint.path
                )

    def module_facts(
        self, selection: Selection, rule: Rule | None
    ) -> tuple[dict[Root, dict[str, int | None]], dict[Root, dict[str, ModuleExtras]]]:
        """``_metadata`` of the state_dicts that are kept, under the new names."""
        versions: dict[Root, dict[str, int | None]] = {}
        extras: dict[Root, dict[str, ModuleExtras]] = {}
        kept = {row.entry.root for row in selection.rows}
        for root, modules in self.checkpoint.module_versions.items():
            if root not in kept:
                continue
            moved = {path: path for path in modules} if rule is None else rename_modules(modules, rule)
            there = root[len(selection.base) :]
            versions[there] = {new: modules[old] for old, new in moved.items()}
            facts = self.checkpoint.module_extras.get(root, {})
            if facts:
                extras[there] = {new: facts[old] for old, new in moved.items() if old in facts}
        return versions, extras

    # -- dtypes ---------------------------------------------------------------------------------

    def cast_of(self, row: Row) -> DType | None:
        """The dtype that a tensor gets: another one for real-valued parameters only."""
        dtype, tensor = self.options.dtype, row.entry.tensor
        if dtype is None or tensor is None or tensor.dtype is dtype or not tensor.dtype.is_floating_point:
            return None
        packed = tensor.dtype.packed > 1 or tensor.dtype.bits < 8
        return None if packed or row.classification.kind is not Kind.PARAMETER else dtype

    def note_casts(self, items: Sequence[_Item]) -> None:
        """Say on what evidence entries were taken for parameters, and what stayed as it was."""
        if self.options.dtype is None:
            return
        cast: Counter[str] = Counter()
        stay: Counter[str] = Counter()
        for item in items:
            classification = item.row.classification
            if item.cast is not None:
                exact = "" if classification.exact else "inferred by "
                cast[exact + classification.basis.value] += 1
            elif (tensor := item.row.entry.tensor) is None or not tensor.dtype.is_floating_point:
                stay["not floating point"] += 1
            elif tensor.dtype is not self.options.dtype:
                stay[_WORDS.get(classification.kind, classification.kind.value)] += 1
        basis = ", ".join(f"{count:,} {what}" for what, count in cast.most_common())
        self.notes.append(f"cast {cast.total():,} parameters to {self.options.dtype.name}: {basis or 'none'}")
        if stay:
            kept = ", ".join(f"{count:,} {what}" for what, count in stay.most_common())
            self.notes.append(f"dtype kept: {kept}")

    def casts(self, tensors: Sequence[Planned]) -> list[Cast]:
        """One for each piece that is cast; ties share it."""
        found: dict[int, Cast] = {}
        for item in tensors:
            value = item.value
            if not isinstance(value, Placed):
                continue
            piece = self.placing.pieces[value.piece]
            if piece.cast is not None and value.piece not in found:
                found[value.piece] = Cast(str(item.name), piece.source.dtype, piece.cast, value.piece)
        return list(found.values())

    def refuse_unwritable(self, items: Sequence[_Item]) -> None:
        """Refuse by name what has no bytes, or no type in the destination."""
        empty = [str(item.name) for item in items if _has_no_bytes(item.row.entry.value)]
        if empty:
            raise UnsupportedFeature(
                f"{_names(empty)}: on the meta device, without bytes",
                path=self.checkpoint.path,
                hint="--drop GLOB leaves them out",
            )
        if self.options.as_bytes:
            refused = [item for item in items if isinstance(item.row.entry.value, CompositeTensor)]
        else:
            refused = list(items)
        reasons: dict[str, list[str]] = {}
        for item in refused:
            reason = self.why_unwritable(item)
            if reason:
                reasons.setdefault(reason, []).append(str(item.name))
        if reasons:
            what = "; ".join(f"{_names(names)}: {reason}" for reason, names in reasons.items())
            raise UnsupportedFeature(
                f"a .{self.options.container} cannot hold {what}".replace("a .safetensors", "safetensors"),
                path=self.checkpoint.path,
                hint="--as-bytes keeps plain tensors as U8 and notes the dtype; --drop GLOB leaves them out",
            )

    def why_unwritable(self, item: _Item) -> str:
        """Why the destination has no type for a tensor, or "" if it has."""
        value = item.row.entry.value
        if isinstance(value, CompositeTensor):
            if self.options.container == "pt" and value.layout in _REBUILT:
                return ""
            return f"{value.layout} tensor ({value.type_name})"
        dtype = item.cast or (value.dtype if value is not None else None)
        if dtype is None or not self.needs_bytes(dtype, value):
            return ""
        return dtype.name

    def needs_bytes(self, dtype: DType, value: TensorInfo | None) -> bool:
        """Whether the destination has no such type: only its bytes can be kept."""
        if self.options.container == "pt":
            return dtype.name in _NO_TORCH_NAME
        return dtype.safetensors is None or (dtype.packed > 1 and value is not None and not value.shape)

    # -- .pt ------------------------------------------------------------------------------------

    def place_in_pt(self, items: Sequence[_Item]) -> tuple[list[Planned], dict[str, str]]:
        """Every tensor as a view; ties and overlaps stay."""
        leaves: list[Wanted] = []
        for item in items:
            leaves += _leaves(item)
        if self.options.shared == "fail":
            self.refuse_shared(items, leaves)
        duplicate = self.options.shared == "duplicate"
        places = self.placing.pack_all(leaves) if duplicate else self.placing.share_all(leaves)
        supply = iter(places)
        planned = []
        first_at: dict[Placed, str] = {}
        aliases: dict[str, str] = {}
        for item in items:
            entry = item.row.entry
            value = entry.value
            placed: Placed | PlacedComposite
            if isinstance(value, CompositeTensor):
                placed = _compose(value, supply)
            else:
                placed = next(supply)
                if self.needs_bytes(placed.dtype, None):
                    placed = self.as_bytes(placed)
                name = ".".join(map(str, (*item.root, item.name)))
                if self.placing.pieces[placed.piece].nbytes and first_at.setdefault(placed, name) != name:
                    aliases[name] = first_at[placed]
            planned.append(_planned(item, item.root, item.name, placed))
        return planned, aliases

    def drop_metadata(self) -> list[Dropped]:
        """Strings of a safetensors header that a ``.pt`` has no place for."""
        if self.options.metadata:
            raise CkptToolError(
                "--metadata needs a safetensors destination: a .pt has no place for it",
                path=self.checkpoint.path,
            )
        return [
            Dropped((), key, "metadata", 0, "a .pt has no place for it", asked=False)
            for key in self.checkpoint.metadata
            if key not in ("format", "total_size")
        ]

    # -- safetensors ----------------------------------------------------------------------------

    def place_in_safetensors(
        self,
        items: Sequence[_Item],
        selection: Selection,
        versions: dict[Root, dict[str, int | None]],
        extras: dict[Root, dict[str, ModuleExtras]],
    ) -> tuple[list[Planned], dict[str, str], dict[str, str]]:
        """Packed tensors with flat names, aliases, and ``__metadata__``."""
        cut = len(selection.root or ()) - len(selection.base)
        paths: dict[str, Root] = {}
        named: list[tuple[str, _Item]] = []
        for item in items:
            path = (*item.root[cut:], item.name)
            name = ".".join(map(str, path))
            if name in paths:
                raise CkptToolError(f"two tensors would both be called {name!r}", path=self.checkpoint.path)
            paths[name] = path
            self.check_name(name)
            named.append((name, item))
        if self.options.shared == "fail":
            self.refuse_shared(items, [leaf for item in items for leaf in _leaves(item)])
        own = {**self.foreign_metadata(), **dict(self.options.metadata), "format": "pt"}
        planned, aliases = self.pack(named, own)
        root = (selection.root or ())[len(selection.base) :]
        carried = {
            "root": carry_json(encode_path(root)) if root else None,
            "values": carry_values(
                value._replace(root=value.root[len(selection.base) :]) for value in selection.values
            )
            if selection.values
            else None,
            "module_versions": carry_versions(versions, extras) if versions else None,
            "order": carry_order([name for name, _ in named]) if self.checkpoint.ordered else None,
            "paths": _json_or_none(
                {name: encode_path(path) for name, path in paths.items() if path != (name,)}
            ),
            "lists": _json_or_none(_unusual_containers(selection)),
            "parameters": _json_or_none(
                [name for name, item in named if item.row.entry.declared.basis is Basis.PICKLED_PARAMETER]
            ),
            "as_bytes": _json_or_none(
                {
                    name: {
                        "dtype": item.row.entry.tensor.dtype.name,
                        "shape": list(item.row.entry.tensor.shape),
                    }
                    for name, item in named
                    if item.row.entry.tensor is not None
                    and self.needs_bytes(item.cast or item.row.entry.tensor.dtype, item.row.entry.tensor)
                }
            ),
        }
        metadata = {**own, **aliases}
        metadata |= {PREFIX + key: text for key, text in carried.items() if text is not None}
        return planned, aliases, metadata

    def foreign_metadata(self) -> dict[str, str]:
        """``__metadata__`` of the source; an index's total is about its own shards."""
        sharded = len(self.checkpoint.files) > 1
        return {
            key: text
            for key, text in self.checkpoint.metadata.items()
            if not (sharded and key == "total_size")
        }

    def pack(
        self, named: Sequence[tuple[str, _Item]], metadata: dict[str, str]
    ) -> tuple[list[Planned], dict[str, str]]:
        """A piece for each tensor but those that are tied to an earlier one."""
        first: dict[object, str] = {}
        planned: list[Planned] = []
        aliases: dict[str, str] = {}
        for name, item in named:
            (wanted,) = _leaves(item)
            if self.options.shared == "alias":
                kept = first.setdefault(wanted.view, name)
                free = name not in metadata and not name.startswith(PREFIX)
                if kept != name and free:
                    aliases[name] = kept
                    continue
                if kept != name:
                    self.notes.append(
                        f"{name!r} is written apart: __metadata__ has another use for that name"
                    )
            placed = self.placing.pack(wanted)
            if self.needs_bytes(placed.dtype, wanted.info):
                placed = self.as_bytes(placed)
            planned.append(_planned(item, (), name, placed))
        self.note_overlaps([item for name, item in named if name not in aliases])
        return planned, aliases

    def as_bytes(self, placed: Placed) -> Placed:
        """The same bytes as a flat tensor of uint8."""
        nbytes = self.placing.pieces[placed.piece].nbytes
        return Placed(placed.piece, BY_NAME["uint8"], (nbytes,), (1,))

    def note_overlaps(self, items: Sequence[_Item]) -> None:
        """Unequal views of the same bytes are written apart: say so, for they were one memory."""
        leaves = [leaf for item in items for leaf in _leaves(item)]
        groups = overlapping(leaves)
        if groups and self.options.shared == "alias":
            names = [str(items[position].name) for position in groups[0]]
            more = f" (and {len(groups) - 1:,} more groups)" if len(groups) > 1 else ""
            self.notes.append(f"views with bytes in common are written apart: {_names(names)}{more}")

    def check_name(self, name: str) -> None:
        """Names are UTF-8 in the header, and one is reserved."""
        if name == "__metadata__":
            raise CkptToolError("safetensors reserves the name '__metadata__'", path=self.checkpoint.path)
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError:
                raise CkptToolError(
                    f"safetensors cannot hold the name {name!r}: it is not Unicode text",
                    path=self.checkpoint.path,
                    hint="--rename 'REGEX=>REPL' gives it another one",
                ) from None

    def refuse_shared(self, items: Sequence[_Item], leaves: Sequence[Wanted]) -> None:
        """``--shared fail``: name what shares bytes."""
        owners = [item for item in items for _ in _leaves(item)]
        for group in overlapping(leaves):
            names = [str(owners[position].name) for position in group]
            raise CkptToolError(
                f"{_names(names)} share bytes",
                path=self.checkpoint.path,
                hint="--shared alias keeps one and lists the others, --shared duplicate writes each",
            )


_WORDS = {
    Kind.PERSISTENT_BUFFER: "buffers",
    Kind.NON_PERSISTENT_BUFFER: "buffers",
    Kind.UNKNOWN: "of unknown kind",
}


def _unusual_containers(selection: Selection) -> list[list[object]]:
    """Containers that are not what they would be made: a mapping of tensors an OrderedDict, others a dict."""
    holding = {row.entry.root for row in selection.rows}
    return [
        [encode_path(container.path[len(selection.base) :]), container.type_name]
        for container in selection.containers
        if container.type_name in WRITABLE_CONTAINERS
        and container.type_name != ("OrderedDict" if container.path in holding else "dict")
    ]


def _planned(item: _Item, root: Root, name: Key, placed: Placed | PlacedComposite) -> Planned:
    entry, classification, _ = item.row
    is_parameter = entry.declared.basis is Basis.PICKLED_PARAMETER
    return Planned(root, name, placed, entry, classification, is_parameter)


def _is_renamed(row: Row) -> bool:
    """Optimizer state has names of its own."""
    return row.classification.kind is not Kind.OPTIMIZER_STATE


def _leaves(item: _Item) -> list[Wanted]:
    """The strided tensors of an entry, in order of its parts."""
    value = item.row.entry.value
    if isinstance(value, TensorInfo):
        return [Wanted(value, item.cast)]
    found: list[Wanted] = []
    stack: list[Tensor] = [] if value is None else [value]
    while stack:
        part = stack.pop()
        if isinstance(part, TensorInfo):
            found.append(Wanted(part))
        else:
            stack.extend(inner.value for inner in reversed(part.parts))
    return found


def _compose(value: CompositeTensor, supply: Iterator[Placed]) -> PlacedComposite:
    """A composite with its leaves taken from ``supply``, in the order of ``_leaves``.

    Parts nest at most as deep as the reader lets rebuild calls nest (16).
    """
    parts: list[tuple[str, Placed | PlacedComposite]] = []
    for part in value.parts:
        if isinstance(part.value, TensorInfo):
            parts.append((part.name, next(supply)))
        else:
            parts.append((part.name, _compose(part.value, supply)))
    return PlacedComposite(
        value.layout, value.type_name, value.dtype, value.shape, tuple(parts), value.details
    )


def _has_no_bytes(value: Tensor | None) -> bool:
    if isinstance(value, TensorInfo):
        return is_without_bytes(value)
    return value is None or value.layout == "uninitialized"


def _names(names: Sequence[str]) -> str:
    """``'a', 'b', 'c' and 4 more``."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more


def _json_or_none(value: object) -> str | None:
    return carry_json(value) if value else None
