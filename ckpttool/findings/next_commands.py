"""What to type next, from what was found: whole commands that run as they are printed.

At most two, and a conversion first: what several findings ask of it becomes options of one. It is printed
only where it would be carried out, as ``conversion`` decides that: by ``weights_root``, by ``HELD_LAYOUTS``
and by the same rule for names. ``MODEL`` stands for the model where the user named none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ckpttool.names.prefixes import strip_wrappers
from ckpttool.names.renames import rename_all
from ckpttool.names.roots import resolve_root
from ckpttool.values.checkpoint import (
    Basis,
    CompositeTensor,
    Entry,
    Key,
    Kind,
    OddKey,
    Presence,
    Root,
    in_state_dict,
    is_buffer,
)
from ckpttool.values.containers import HELD_LAYOUTS
from ckpttool.values.errors import CkptToolError
from ckpttool.values.inspection import Inspection, Row, is_rebuilt
from ckpttool.values.words import command_line, format_root, typed

_MOST_COMMANDS = 2
_MOST_DROPPED = 3  # names that a command spells out
_MOST_GROWTH = 16  # times what the file holds: an expanded tensor would be written out in full
_NAMED_MODEL = re.compile(r"hf|.+:[\w.]+")
_PLAIN_NAME = re.compile(r"[\w.]+")  # means itself as a glob
_PROGRAM = (Basis.TORCHSCRIPT, Basis.EXPORT)
_SUFFIXES = frozenset(
    """
    .bin .checkpoint .chkpt .ckpt .jit .model .pickle .pkl .pt .pt2 .pth .ptl .safetensors .tar .th .weights
    """.split()
)
"""What the names of checkpoints end in; ``model.pth.tar`` in two of them."""


class NextCommand(NamedTuple):
    """The words of a command line, and what it is good for."""

    words: tuple[str, ...]
    why: str

    @property
    def command(self) -> str:
        """The line, quoted for a shell."""
        return command_line(*self.words[1:])


class _Option(NamedTuple):
    """What one finding asks of a conversion."""

    why: str
    arguments: Callable[[Inspection], Sequence[str] | None] = lambda inspection: ()
    """None where it cannot be put into a line."""
    to: tuple[str, ...] = ("safetensors", "pt")
    """The containers that do it: a ``.pt`` keeps strides, ties and overlaps."""


def next_commands(inspection: Inspection) -> tuple[NextCommand, ...]:
    """The commands that what was found leads to; none for a file that is plainly well, or a model."""
    if not inspection.checkpoint.files:
        return ()
    codes = frozenset(finding.code for finding in inspection.findings)
    steps = (_iter_convert, _iter_globals, _iter_unwrap, _iter_verify)
    return tuple(command for step in steps for command in step(inspection, codes))[:_MOST_COMMANDS]


def _iter_convert(inspection: Inspection, codes: frozenset[str]) -> Iterator[NextCommand]:
    # A conversion is of the whole file: of a selection nothing is known of the rest.
    if codes & _NO_CONVERSION or len(inspection.rows) < len(inspection.checkpoint.entries):
        return
    if inspection.checkpoint.stored is not None:  # a conversion has kept ties once already
        codes -= {"tied"}
    root = inspection.weights_root
    asked = [option for code, option in _CONVERSIONS.items() if code in codes]
    only_weights = _stands_among_others(inspection)
    if only_weights:
        asked.append(_Option("writes the weights alone", lambda _: ("--weights-only",)))
    # A .pt keeps every dtype: bytes without one are for those who want safetensors for nothing else.
    lacking = "unknown-to-safetensors" in codes and any("pt" in option.to for option in asked)
    container = _container(inspection, root, whole=not only_weights, keeps_dtypes=lacking)
    given = [(option.why, option.arguments(inspection)) for option in asked if container in option.to]
    reasons = dict.fromkeys(why for why, arguments in given if arguments is not None)
    if container is not None and reasons:
        words = [word for _, arguments in given for word in arguments or ()]
        paths = (typed(inspection.checkpoint.path), new_name(inspection.checkpoint.path, container))
        yield NextCommand(("ckpttool", "convert", *paths, *words), "; ".join(reasons))


def _iter_unwrap(inspection: Inspection, codes: frozenset[str]) -> Iterator[NextCommand]:
    """The conversion of another branch than the weights', where that alone has a wrapper's names."""
    if "wrapper-prefix" not in codes or codes & _NO_CONVERSION or inspection.weights_root is None:
        return
    wrapped = _wrapped_roots(inspection)
    others = [group.root for group in inspection.groups if group.role in ("weights", "ema", "module")]
    roots = [root for root in others if root in wrapped]
    if inspection.weights_root in wrapped or len(roots) != 1:
        return
    if len(inspection.rows) < len(inspection.checkpoint.entries):
        return
    (root,) = roots
    text = format_root(root)
    container = _container(inspection, root, whole=False)
    if container is not None and _is_spelled(inspection, text, root):
        paths = (typed(inspection.checkpoint.path), new_name(inspection.checkpoint.path, container))
        words = ("ckpttool", "convert", *paths, "--root", text, "--strip-prefix", "auto")
        yield NextCommand(words, f"takes wrappers off the names in {text}")


def _is_spelled(inspection: Inspection, text: str, root: Root) -> bool:
    """Whether ``--root`` takes ``text`` for ``root``: names are made safe where they are shown."""
    try:
        return resolve_root(inspection.checkpoint, text) == root
    except CkptToolError:
        return False


# ------------------------------------------------------------------------------------- where to, and whether


def _container(
    inspection: Inspection, root: Root | None, *, whole: bool, keeps_dtypes: bool = False
) -> str | None:
    """The container that can be written: the one that most can read, else a ``.pt``, else none.

    It takes the tensors of ``root``; a ``.pt`` takes all there are if the ``whole`` is converted. With
    ``keeps_dtypes`` safetensors, which has not all of them, comes last.
    """
    rows = inspection.rows if root is None else [row for row in inspection.rows if row.entry.root == root]
    fits = root is not None and _fits_safetensors(inspection, rows)
    if fits and not keeps_dtypes:
        return "safetensors"
    if any(row.classification.basis in _PROGRAM for row in inspection.rows):
        return "safetensors" if fits else None  # of a program only the weights are written
    if whole:
        rows = inspection.rows
    return "pt" if _fits_pt(inspection, rows) else "safetensors" if fits else None


def _is_kept(row: Row) -> bool:
    """Whether no option that is printed here leaves a row out, nor what a module's state_dict would."""
    kind, declared = row.classification.kind, row.entry.declared
    if kind in (Kind.NON_PERSISTENT_BUFFER, Kind.EXTRA_STATE) or is_rebuilt(row):
        return False
    return row.classification.presence is Presence.PRESENT and declared.registered


def _fits_safetensors(inspection: Inspection, rows: Sequence[Row]) -> bool:
    return (
        any(map(_is_kept, rows))
        and not any(isinstance(row.entry.value, CompositeTensor) for row in rows)
        and _has_safetensors_names([row.entry for row in rows])
        and _keeps_its_size(inspection, rows)
    )


def _has_safetensors_names(entries: Sequence[Entry]) -> bool:
    names = {str(entry.name) for entry in entries}
    is_plain = len(names) == len(entries) and "__metadata__" not in names
    return is_plain and all(name.isascii() or _is_unicode(name) for name in names)


def lossless_container(entries: Sequence[Entry]) -> str:
    """The container that keeps all names and dtypes of ``entries``: safetensors, else a ``.pt``."""
    plain = all(entry.strided is not None and entry.strided.dtype.safetensors for entry in entries)
    return "safetensors" if plain and _has_safetensors_names(entries) else "pt"


def _fits_pt(inspection: Inspection, rows: Sequence[Row]) -> bool:
    for row in rows:
        value = row.entry.value
        if isinstance(value, CompositeTensor):
            if value.layout not in HELD_LAYOUTS["pt"]:
                return False
        elif value is not None and not value.dtype.in_torch:
            return False
        if not all(map(_is_plain, (*row.entry.root, row.entry.name))):
            return False
    return any(map(_is_kept, rows)) and _keeps_its_size(inspection, rows)


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _is_plain(key: Key) -> bool:
    return not isinstance(key, OddKey) or key.literal


def _keeps_its_size(inspection: Inspection, rows: Sequence[Row]) -> bool:
    written = sum(row.entry.value.nbytes for row in rows if row.entry.value is not None)
    return written <= _MOST_GROWTH * max(inspection.checkpoint.file_nbytes, inspection.summary.storage_nbytes)


def new_name(path: str, container: str) -> str:
    """A name that nothing here has yet: the source's own, in the folder in which it is typed."""
    name = os.path.basename(os.path.abspath(path)).removesuffix(".index.json")
    stem, suffix = os.path.splitext(name)
    while suffix.lower() in _SUFFIXES:
        name = stem
        stem, suffix = os.path.splitext(name)
    start = f"./{name}" if name.startswith("-") else name or "converted"
    end = f".{container}"
    free = (f"{start}{middle}{end}" for middle in ("", ".new", *(f".new{n}" for n in range(2, 100))))
    return next((candidate for candidate in free if not os.path.lexists(candidate)), f"{start}.new{end}")


def _iter_globals(inspection: Inspection, codes: frozenset[str]) -> Iterator[NextCommand]:
    if codes & {"dangerous-globals", "weights-only-refuses"} and inspection.checkpoint.globals:
        words = ("ckpttool", "inspect", typed(inspection.checkpoint.path), "--globals")
        yield NextCommand(words, "what torch.load would import, and where")


def _iter_verify(inspection: Inspection, codes: frozenset[str]) -> Iterator[NextCommand]:
    rebuilt = any(row.classification.kind is Kind.NON_PERSISTENT_BUFFER for row in inspection.missing)
    if not (rebuilt or codes & _VERIFIED) or codes & _NO_CONVERSION or inspection.weights_root is None:
        return
    if not any(in_state_dict(row.entry) and row.entry.value is not None for row in inspection.rows):
        return  # nothing is loaded
    why = "loads it into your model and checks every tensor"
    model, given = inspection.model, []
    if model is not None and _NAMED_MODEL.fullmatch(model.text) and not model.text.startswith("__main__:"):
        given = [word for argument in model.arguments for word in ("--model-arg", argument)]
        name = model.text
    else:  # none, or a factory that Python code handed over
        name, why = "MODEL", f"{why}; replace MODEL with yours, e.g. model.py:build"
    yield NextCommand(("ckpttool", "verify", typed(inspection.checkpoint.path), "--model", name, *given), why)


# ------------------------------------------------------------------------------------------------- convert


def _strip_wrappers(inspection: Inspection) -> Sequence[str] | None:
    """``--strip-prefix auto`` where the branch that is converted has such names."""
    wrapped, root = _wrapped_roots(inspection), inspection.weights_root
    return ("--strip-prefix", "auto") if (wrapped if root is None else root in wrapped) else None


def _wrapped_roots(inspection: Inspection) -> set[Root]:
    """Branches of which taking wrappers off changes names, and makes no two of them equal."""
    names: dict[Root, list[str]] = {}
    for row in inspection.rows:
        if isinstance(row.entry.name, str) and row.classification.kind is not Kind.OPTIMIZER_STATE:
            names.setdefault(row.entry.root, []).append(row.entry.name)
    return {root for root, those in names.items() if _unwraps(those)}


def _unwraps(names: Sequence[str]) -> bool:
    try:
        return bool(rename_all(names, strip_wrappers, ""))
    except CkptToolError:
        return False


def _drop_unexpected(inspection: Inspection) -> Sequence[str] | None:
    """``--drop NAME`` for entries that the model does not have, if they are few."""
    names = [row.entry.name for row in inspection.rows if row.classification.presence is Presence.UNEXPECTED]
    if len(names) > _MOST_DROPPED or not all(_PLAIN_NAME.fullmatch(str(name)) for name in names):
        return None
    return [word for name in names for word in ("--drop", str(name))]


def _drop_stale(inspection: Inspection) -> Sequence[str] | None:
    """The same for non-persistent buffers that another version saved, by their last part."""
    stale = [
        row.entry.name
        for row in inspection.rows
        if row.classification.kind is Kind.NON_PERSISTENT_BUFFER and row.entry.value is not None
    ]
    leaves = dict.fromkeys(str(name).rpartition(".")[2] for name in stale)
    if len(leaves) > _MOST_DROPPED or not all(map(_PLAIN_NAME.fullmatch, leaves)):
        return None
    return [word for leaf in leaves for word in ("--drop", f"*{leaf}")]


_CONVERSIONS = {
    "wrapper-prefix": _Option("takes wrappers off the names", _strip_wrappers),
    "weights-only-refuses": _Option("writes the tensors without the objects"),
    "dangerous-globals": _Option("writes the tensors without the objects"),
    "torchscript": _Option("writes the tensors without the code"),
    "exported-program": _Option("writes the tensors without the program"),
    "device-tags": _Option("removes the device tags, so it loads on any machine"),
    "non-contiguous": _Option("packs the tensors", to=("safetensors",)),
    "conj-neg-bit": _Option("writes the values that such bits stand for", to=("safetensors",)),
    "tied": _Option("keeps ties once, and listed", to=("safetensors",)),
    "overlapping-views": _Option("writes views apart", to=("safetensors",)),
    "storage-bloat": _Option("leaves unused bytes behind"),
    "legacy-unreadable": _Option("writes a file that loads"),
    "legacy-layout": _Option(
        "the result can be memory-mapped; converting needs at most 64 MiB"
    ),
    "safetensors-no-format": _Option('writes "format": "pt"'),
    "unknown-to-safetensors": _Option(
        "keeps such tensors as bytes", lambda _: ("--as-bytes",), to=("safetensors",)
    ),
    "known-buffers": _Option(
        "leaves out what newer libraries rebuild", lambda _: ("--drop-known-buffers",)
    ),
    "stale-buffer": _Option("leaves out what the model rebuilds", _drop_stale),
    "unexpected-entry": _Option("leaves out what the model does not have", _drop_unexpected),
    "extra-state-object": _Option("leaves out the extra state", lambda _: ("--drop", "*_extra_state")),
    "extra-state": _Option("leaves out the extra state", lambda _: ("--drop", "*_extra_state")),
    "weight-norm": _Option(
        "gives the names of torch.nn.utils.weight_norm",
        lambda _: (
            "--rename", r"parametrizations\.(\w+)\.original0=>\1_g",
            "--rename", r"parametrizations\.(\w+)\.original1=>\1_v",
        ),
    ),
    "adapter": _Option(
        "gives the names that a loaded adapter has",
        lambda _: ("--rename", r"lora_([AB])\.weight$=>lora_\1.default.weight"),
    ),
}  # fmt: skip
"""By the code of the finding; docs/findings.md says more of each."""


def _stands_among_others(inspection: Inspection) -> bool:
    """Whether the weights are a branch of something larger in the file, or values stand beside them."""
    root = inspection.weights_root
    if root is None or inspection.checkpoint.stored is not None:
        return False
    beside = bool(root) or any(value.root == root for value in inspection.checkpoint.values)
    return beside and any(
        row.entry.root == root
        and (row.classification.kind is Kind.PARAMETER or is_buffer(row.classification.kind))
        for row in inspection.rows
    )


_NO_CONVERSION = frozenset(("meta-tensors", "zero3-placeholders", "uninitialized", "shard-key-missing"))
"""There is nothing to write before these are mended."""

_VERIFIED = frozenset(
    """
    batch-norm-no-counter batch-norm-no-statistics dtype-differs shape-differs missing-entry missing-tied
    unexpected-entry stale-buffer model-names wrapper-prefix parametrized weight-norm
    """.split()
)
"""Only a load tells what these do."""
