"""What to type next, from what was found: whole commands that run as they are printed.

At most one ``convert`` and one ``verify``: what several findings ask of a conversion becomes options
of one. ``M`` stands for the model where the user named none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ckpttool.values.checkpoint import CompositeTensor, Kind, Presence
from ckpttool.values.inspection import Inspection

_MOST_DROPPED = 3  # names that a command spells out
_NAMED_MODEL = re.compile(r"hf|.+:[\w.]+")
_PLAIN_NAME = re.compile(r"[\w.]+")  # means itself as a glob


class NextCommand(NamedTuple):
    """The words of a command line, and what it is good for."""

    words: tuple[str, ...]
    why: str

    @property
    def command(self) -> str:
        """The line, quoted for a shell."""
        import shlex

        return shlex.join(self.words)


class _Option(NamedTuple):
    """What one finding asks of a conversion."""

    why: str
    arguments: Callable[[Inspection], Sequence[str] | None] = lambda inspection: ()
    """None where it cannot be put into a line."""


def next_commands(inspection: Inspection) -> tuple[NextCommand, ...]:
    """The commands that what was found leads to; none for a file that is plainly well, or a model."""
    if not inspection.checkpoint.files:
        return ()
    codes = frozenset(finding.code for finding in inspection.findings)
    steps = (_iter_convert, _iter_globals, _iter_verify)
    return tuple(command for step in steps for command in step(inspection, codes))


def _iter_convert(inspection: Inspection, codes: frozenset[str]) -> Iterator[NextCommand]:
    if codes & _NO_CONVERSION or not inspection.rows:
        return
    if "adapter" in codes:  # a loaded adapter has the prefix as well
        codes -= {"wrapper-prefix"}
    if inspection.checkpoint.stored is not None:  # a conversion has kept ties once already
        codes -= {"tied"}
    asked = [option for code, option in _CONVERSIONS.items() if code in codes]
    if _stands_among_others(inspection):
        asked.append(_Option("writes the weights alone", lambda _: ("--weights-only",)))
    given = [(option.why, option.arguments(inspection)) for option in asked]
    reasons = dict.fromkeys(why for why, arguments in given if arguments is not None)
    if reasons:
        words = [word for _, arguments in given for word in arguments or ()]
        paths = (_source(inspection), _destination(inspection))
        yield NextCommand(("ckpttool", "convert", *paths, *words), "; ".join(reasons))


def _source(inspection: Inspection) -> str:
    """The path as it can be typed: one that begins with a dash is no option."""
    path = inspection.checkpoint.path
    return f"./{path}" if path.startswith("-") else path


def _destination(inspection: Inspection) -> str:
    """A file beside the source, in the format that most can read."""
    path = _source(inspection).rstrip("/").removesuffix(".index.json")
    stem, suffix = os.path.splitext(path)
    if any(isinstance(row.entry.value, CompositeTensor) for row in inspection.rows):
        return f"{stem}.new.pt"  # safetensors has no quantized or sparse tensors
    if suffix == ".safetensors":
        return f"{stem}.new.safetensors"
    return f"{stem if suffix and len(suffix) <= 5 else path}.safetensors"


def _iter_globals(inspection: Inspection, codes: frozenset[str]) -> Iterator[NextCommand]:
    if codes & {"dangerous-globals", "weights-only-refuses"}:
        words = ("ckpttool", "inspect", _source(inspection), "--globals")
        yield NextCommand(words, "what torch.load would import, and where")


def _iter_verify(inspection: Inspection, codes: frozenset[str]) -> Iterator[NextCommand]:
    rebuilt = any(row.classification.kind is Kind.NON_PERSISTENT_BUFFER for row in inspection.missing)
    if not (rebuilt or codes & _VERIFIED) or codes & _NO_CONVERSION:
        return
    why = "whether a load restores what the file does not hold" if rebuilt else "what a load makes of it"
    model, given = inspection.model, []
    if model is not None and _NAMED_MODEL.fullmatch(model.text) and not model.text.startswith("__main__:"):
        given = [word for argument in model.arguments for word in ("--model-arg", argument)]
        name = model.text
    else:  # none, or a factory that Python code handed over
        name, why = "M", f"{why}; M is your FILE.py:factory"
    yield NextCommand(("ckpttool", "verify", _source(inspection), "--model", name, *given), why)


# ------------------------------------------------------------------------------------------------- convert


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
    "wrapper-prefix": _Option("takes wrappers off the names", lambda _: ("--strip-prefix", "auto")),
    "weights-only-refuses": _Option("writes the tensors without the objects"),
    "dangerous-globals": _Option("writes the tensors without the objects"),
    "torchscript": _Option("writes the tensors without the code"),
    "exported-program": _Option("writes the tensors without the program"),
    "device-tags": _Option("leaves no device tags"),
    "non-contiguous": _Option("packs the tensors"),
    "tied": _Option("keeps ties once, and listed"),
    "overlapping-views": _Option("writes views apart"),
    "storage-bloat": _Option("leaves unused bytes behind"),
    "legacy-unreadable": _Option("writes a file that loads"),
    "legacy-layout": _Option("can be mapped, and takes 64 MiB of memory to write"),
    "safetensors-no-format": _Option('writes "format": "pt"'),
    "unknown-to-safetensors": _Option("keeps such tensors as bytes", lambda _: ("--as-bytes",)),
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
    return bool(root) or any(value.root == root for value in inspection.checkpoint.values)


_NO_CONVERSION = frozenset(("meta-tensors", "zero3-placeholders", "uninitialized", "shard-key-missing"))
"""There is nothing to write before these are mended."""

_VERIFIED = frozenset(
    """
    batch-norm-no-counter batch-norm-no-statistics dtype-differs shape-differs missing-entry missing-tied
    unexpected-entry stale-buffer model-names wrapper-prefix parametrized weight-norm
    """.split()
)
"""Only a load tells what these do."""
