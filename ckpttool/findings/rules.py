"""What is odd about a checkpoint, one sentence per cause; docs/findings.md lists the codes.

A sentence names the first entries and counts the rest, and ends in what to type where something
can be typed. ``error`` means that the file cannot do what it is for, or would run code;
``warning`` that a usual way to load it fails or goes wrong unsaid; ``info`` is worth knowing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ckpttool.findings import bytes as of_bytes
from ckpttool.findings import names as of_names
from ckpttool.findings.globals import Verdict
from ckpttool.findings.one_rank import find_one_rank
from ckpttool.findings.text import Evidence, about, name_branch, short_name
from ckpttool.findings.weights_only import (
    legacy_obstacle,
    needed_packages,
    obstacles,
    plain_load,
    plain_load_fact,
    weights_only_verdict,
)
from ckpttool.values.checkpoint import Basis, Entry, Finding, Kind, Presence
from ckpttool.values.inspection import Group, container_bases
from ckpttool.values.words import agree, cut, format_path, nbytes_of, plural, some

CARRIED = "non-persistent-present"
_WEIGHTS_ROLES = ("weights", "module")  # of a group


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
        yield Finding("dangerous-globals", "error", "", dangerous)
    obstacle = legacy_obstacle(evidence.checkpoint)
    if obstacle:
        fact = f"torch.load fails, weights_only or not: it cannot read {obstacle}; the bytes are all here"
        yield Finding("legacy-unreadable", "error", "", fact)
    loads, reason = weights_only_verdict(evidence.checkpoint)
    found = [] if loads is None else obstacles(evidence.checkpoint)
    if found:
        fact = f"torch.load fails on it, weights_only or not, because of {some(found)}"
        yield Finding("load-fails", "error", "", fact)
    if loads is False and reason not in (obstacle, some(found)):
        fact = f"torch.load(weights_only=True) refuses it because of {reason}"
        fact += f"; {unknown}" if unknown else ""
        if packages := needed_packages(evidence.checkpoint):
            fact = f"torch.load(weights_only=True) refuses it: unpickling needs {packages}"
        yield Finding("weights-only-refuses", "warning", "", fact)


def _other_loaders(evidence: Evidence) -> Iterator[Finding]:
    bases = container_bases(evidence.checkpoint, evidence.summary)
    if Basis.TORCHSCRIPT.value in bases:
        fact = (
            "TorchScript: torch.jit.load runs the code in it, and its buffers are all saved, "
            "whether they were persistent or not"
        )
        yield Finding("torchscript", "info", "", fact)
    if Basis.EXPORT.value in bases:
        fact = "an exported program: torch.export.load unpickles its sample inputs without restriction"
        yield Finding("exported-program", "info", "", fact)


def _roots(evidence: Evidence) -> Iterator[Finding]:
    found = [group for group in evidence.groups if group.role in _WEIGHTS_ROLES]
    if evidence.weights_root is None and len(found) > 1:
        fact = (
            f"{plural(len(found), 'state_dict')}, none plainly the one: {some(found, _branch)}; "
            "choose with `--root`"
        )
        yield Finding("several-state-dicts", "info", "", fact)


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
        verb = agree(len(rarest), "is", "are")
        fact = f"parameters of several dtypes: {counts}; {name} {verb} {some(rarest, short_name)}"
        yield Finding("mixed-dtypes", "info", str(rarest[0].name), fact)


def _carried(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.summary.non_persistent_buffers:
        return
    carried = [
        entry
        for entry, (kind, _, presence, *_), _ in evidence.rows
        if kind is Kind.NON_PERSISTENT_BUFFER and presence is Presence.PRESENT
    ]
    fact = "non-persistent: the file carries what a state_dict of the model leaves out"
    yield from about(CARRIED, "info", carried, fact)


def _quantized(evidence: Evidence) -> Iterator[Finding]:
    """Members that a quantised module lacks by its scheme, or has beside them."""
    for scheme, member, missing, sure, paths in evidence.quantized.faults if evidence.quantized else ():
        who = f"{plural(len(paths), f'{scheme} module')} ({some(paths, cut)})"
        verb = agree(len(paths), "is", "are") if missing else agree(len(paths), "holds", "hold")
        if missing:
            why = "such a module cannot be loaded or computed" if sure else "all others of the file have one"
            fact, code = f"{verb} without {member}: {why}", "quantized-incomplete"
        else:
            fact, code = (
                f"{verb} {member} as well, which the scheme does not use",
                "quantized-extra",
            )
        yield Finding(code, "error" if missing and sure else "warning", paths[0], f"{who} {fact}")


def _extra_state(evidence: Evidence) -> Iterator[Finding]:
    tensors = [entry for entry, (kind, *_), _ in evidence.rows if kind is Kind.EXTRA_STATE]
    fact = "extra state: strict loading into a model whose modules have none calls it unexpected"
    yield from about("extra-state", "info", tensors, fact)
    objects = [
        f"{cut(str(leaf.name))} ({cut(leaf.type_name)})"
        for leaf in evidence.checkpoint.opaque
        if isinstance(leaf.name, str) and leaf.name.rpartition(".")[2] == "_extra_state"
    ]
    if objects:
        them = agree(len(objects), "it", "them")
        fact = (
            f"{plural(len(objects), 'extra state')} that no tensor holds: {some(objects)}; safetensors "
            f"cannot keep {them}, and strict loading misses {them}"
        )
        yield Finding("extra-state-object", "info", "", fact)


def _optimizer(evidence: Evidence) -> Iterator[Finding]:
    states = [group for group in evidence.groups if group.role == "optimizer"]
    total = sum(group.nbytes for group in states)
    weights = sum(group.nbytes for group in evidence.groups if group.role in _WEIGHTS_ROLES)
    if total > weights > 0:
        which = some(states, _branch)
        fact = f"optimizer state ({which}) takes {nbytes_of(total)}, the weights {nbytes_of(weights)}"
        yield Finding("optimizer-outweighs", "info", "", fact)


def _values(evidence: Evidence) -> Iterator[Finding]:
    odd = [
        f"{cut(format_path(leaf.root, leaf.name))} is {leaf.value}"
        for leaf in evidence.checkpoint.values
        if isinstance(leaf.value, float) and math.isnan(leaf.value)
    ]
    if odd:
        fact = f"{plural(len(odd), 'value')} beside the tensors: {some(odd)}"
        yield Finding("nan-value", "warning", "", fact)


def _branch(group: Group) -> str:
    return name_branch(group.root)


_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _globals,
    of_bytes.find_no_data,
    find_one_rank,
    _other_loaders,
    _roots,
    of_names.find_wrappers,
    of_names.find_attribute_prefix,
    of_names.find_adapters,
    of_names.find_known_buffers,
    of_names.find_batch_norms,
    of_bytes.find_bloat,
    of_bytes.find_ties,
    of_bytes.find_layouts,
    of_bytes.find_unknown_dtypes,
    _dtypes,
    _carried,
    of_names.find_packed,
    _quantized,
    _extra_state,
    of_names.find_parametrized,
    of_bytes.find_devices,
    _optimizer,
    _values,
)
