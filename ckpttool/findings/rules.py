"""What is odd about a checkpoint, one sentence per cause; docs/findings.md lists the codes.

A sentence names the first entries and counts the rest, and ends in what to type where something
can be typed. ``error`` means that the file cannot do what it is for, or would run code;
``warning`` that a usual way to load it fails or goes wrong unsaid; ``info`` is worth knowing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ckpttool.findings.bytes import (
    find_bloat,
    find_devices,
    find_layouts,
    find_no_data,
    find_ties,
    find_unknown_dtypes,
)
from ckpttool.findings.globals import Verdict
from ckpttool.findings.names import (
    find_adapters,
    find_attribute_prefix,
    find_batch_norms,
    find_known_buffers,
    find_packed,
    find_parametrized,
    find_weight_norms,
    find_wrappers,
)
from ckpttool.findings.text import Evidence, about, name_of, short_name
from ckpttool.findings.weights_only import plain_load, plain_load_fact, weights_only_verdict
from ckpttool.values.checkpoint import Basis, Entry, Finding, Kind, Presence
from ckpttool.values.inspection import container_bases
from ckpttool.values.words import count_of, cut, nbytes_of, some

CARRIED = "non-persistent-present"


def find_all(evidence: Evidence) -> tuple[Finding, ...]:
    """Every finding of every rule, in the order of ``_RULES``."""
    return tuple(finding for rule in _RULES for finding in rule(evidence))


def _globals(evidence: Evidence) -> Iterator[Finding]:
    calls, imports = plain_load(evidence.checkpoint)
    dangerous, unknown = (
        plain_load_fact(
            [item for item in calls if item.verdict is verdict],
            [item for item in imports if item.verdict is verdict],
        )
        for verdict in (Verdict.DANGEROUS, Verdict.UNKNOWN)
    )
    if dangerous:
        yield Finding(
            "dangerous-globals",
            "error",
            "",
            f"{dangerous}; see every global with `ckpttool inspect --globals`",
        )
    loads, reason = weights_only_verdict(evidence.checkpoint)
    if loads is False:
        also = f"; {unknown}" if unknown else ""
        yield Finding(
            "weights-only-refuses",
            "warning",
            "",
            f"torch.load(weights_only=True) refuses it because of {reason}{also}",
        )


def _other_loaders(evidence: Evidence) -> Iterator[Finding]:
    bases = container_bases(evidence.checkpoint, evidence.summary)
    if Basis.TORCHSCRIPT.value in bases:
        yield Finding(
            "torchscript",
            "info",
            "",
            "TorchScript: torch.jit.load runs the code in it, and its buffers are all saved, "
            "whether they were persistent or not",
        )
    if Basis.EXPORT.value in bases:
        yield Finding(
            "exported-program",
            "info",
            "",
            "an exported program: torch.export.load unpickles its sample inputs without restriction",
        )


def _roots(evidence: Evidence) -> Iterator[Finding]:
    found = [group for group in evidence.groups if group.role in ("weights", "module")]
    if evidence.weights_root is None and len(found) > 1:
        names = [cut(".".join(map(str, group.root))) or "(top)" for group in found]
        yield Finding(
            "several-state-dicts",
            "info",
            "",
            f"{len(found):,} state_dicts, none plainly the one: {some(names)}; choose with `--root`",
        )


def _dtypes(evidence: Evidence) -> Iterator[Finding]:
    if len(evidence.summary.dtypes) < 2:
        return
    by_dtype: dict[str, list[Entry]] = {}
    for entry, classification, _ in evidence.rows:
        value = entry.value
        dtype = None if value is None else value.dtype
        if dtype is not None and dtype.is_floating_point and classification.kind is Kind.PARAMETER:
            by_dtype.setdefault(dtype.name, []).append(entry)
    if len(by_dtype) > 1:
        ranked = sorted(by_dtype.items(), key=lambda item: -len(item[1]))
        counts = ", ".join(f"{len(entries):,} {name}" for name, entries in ranked)
        name, rarest = ranked[-1]
        yield Finding(
            "mixed-dtypes",
            "info",
            name_of(rarest[0]),
            f"parameters of several dtypes: {counts}; {name} are {some([short_name(e) for e in rarest])}",
        )


def _carried(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.summary.non_persistent_buffers:
        return
    carried = [
        entry
        for entry, (kind, _, presence, _, _), _ in evidence.rows
        if kind is Kind.NON_PERSISTENT_BUFFER and presence is Presence.PRESENT
    ]
    if carried:
        yield about(
            CARRIED,
            "info",
            carried,
            "non-persistent: the file carries what a state_dict of the model leaves out",
        )


def _extra_state(evidence: Evidence) -> Iterator[Finding]:
    tensors = [entry for entry, (kind, *_), _ in evidence.rows if kind is Kind.EXTRA_STATE]
    if tensors:
        yield about(
            "extra-state",
            "info",
            tensors,
            "extra state: strict loading into a model whose modules have none calls it unexpected",
        )
    objects = [
        f"{cut(str(leaf.name))} ({cut(leaf.type_name)})"
        for leaf in evidence.checkpoint.opaque
        if isinstance(leaf.name, str) and leaf.name.rpartition(".")[2] == "_extra_state"
    ]
    if objects:
        yield Finding(
            "extra-state-object",
            "info",
            "",
            f"{count_of(len(objects), 'extra state')} that no tensor holds: {some(objects)}; safetensors "
            "cannot keep it, and strict loading misses it",
        )


def _optimizer(evidence: Evidence) -> Iterator[Finding]:
    states = [group for group in evidence.groups if group.role == "optimizer"]
    total = sum(group.nbytes for group in states)
    weights = sum(group.nbytes for group in evidence.groups if group.role in ("weights", "module"))
    if total > weights > 0:
        names = [cut(".".join(map(str, group.root))) for group in states]
        yield Finding(
            "optimizer-outweighs",
            "info",
            "",
            f"optimizer state ({some(names)}) takes {nbytes_of(total)}, the weights {nbytes_of(weights)}: "
            "`ckpttool convert` writes the weights only",
        )


def _values(evidence: Evidence) -> Iterator[Finding]:
    odd = [
        f"{cut('.'.join([*map(str, leaf.root), str(leaf.name)]))} is {leaf.value}"
        for leaf in evidence.checkpoint.values
        if isinstance(leaf.value, float) and math.isnan(leaf.value)
    ]
    if odd:
        yield Finding(
            "nan-value", "warning", "", f"{count_of(len(odd), 'value')} beside the tensors: {some(odd)}"
        )


_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _globals,
    find_no_data,
    _other_loaders,
    _roots,
    find_wrappers,
    find_attribute_prefix,
    find_adapters,
    find_known_buffers,
    find_batch_norms,
    find_bloat,
    find_ties,
    find_layouts,
    find_unknown_dtypes,
    _dtypes,
    _carried,
    find_packed,
    _extra_state,
    find_parametrized,
    find_weight_norms,
    find_devices,
    _optimizer,
    _values,
)
