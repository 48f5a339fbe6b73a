"""What is odd about a checkpoint, one sentence per cause; docs/findings.md lists the codes.

A sentence names the first entries and counts the rest, and ends in what to type where something
can be typed. ``error`` means that the file cannot do what it is for, or would run code;
``warning`` that a usual way to load it fails or goes wrong unsaid; ``info`` is worth knowing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ckpttool.analysis.aliases import Aliasing
from ckpttool.analysis.globals import Verdict, judge_global, weights_only_verdict
from ckpttool.analysis.inspection import Group, Row, Summary
from ckpttool.analysis.prefixes import Prefix, common_first_part
from ckpttool.checkpoint import (
    Basis,
    Checkpoint,
    CompositeTensor,
    Entry,
    Finding,
    Key,
    Kind,
    Root,
    TensorInfo,
    iter_parts,
)
from ckpttool.dtypes import BY_NAME

_MOST_NAMED = 3  # entries spelled out in a sentence
_LONGEST_NAME = 80  # characters of one of them
_MOST_WRITTEN = 10**18
_BLOAT_SHARE = 100  # less than 1/100 of the storages, and less than a page, is padding
_BLOAT_NBYTES = 4096
_BATCH_NORM_VERSION = 2  # torch/nn/modules/batchnorm.py: _NormBase._version, with num_batches_tracked
_BATCH_NORM_NAME = re.compile(r"(?:^|_)bn\d*$|batch_?norm", re.IGNORECASE)
_NO_DEVICE = frozenset(("cpu", "meta", ""))
# GPTQ and AWQ; bitsandbytes keeps the rest under .quant_state.
_PACKED_NAMES = (".qweight", ".qzeros", ".g_idx", ".absmax", ".quant_map", ".SCB")
_PARAMETRIZED = re.compile(r"(?:^|\.)(?:weight_g|weight_orig|parametrizations\.[^.]+\.original\d?)$")


class Evidence(NamedTuple):
    """What the rules look at: the selected rows and what was counted of them."""

    checkpoint: Checkpoint
    rows: Sequence[Row]
    groups: Sequence[Group]
    weights_root: Root | None
    summary: Summary
    aliasing: Aliasing
    prefixes: Mapping[Root, Sequence[Prefix]]
    names: str  # of all rows, one a line: searched at once before rows are looked at one by one

    def mentions(self, *texts: str) -> bool:
        """Whether any of ``texts`` stands in any name."""
        return any(text in self.names for text in texts)


def find_all(evidence: Evidence) -> tuple[Finding, ...]:
    """Every finding of every rule, in the order of ``_RULES``."""
    return tuple(finding for rule in _RULES for finding in rule(evidence))


# ------------------------------------------------------------------------------ what it would run


def _globals(evidence: Evidence) -> Iterator[Finding]:
    checkpoint = evidence.checkpoint
    loads, reason = weights_only_verdict(checkpoint)
    if loads is None:
        return
    verdicts = [judge_global(ref) for ref in checkpoint.globals]
    dangerous = [found for found in verdicts if found.verdict is Verdict.DANGEROUS]
    if dangerous:
        names = [f"{found.ref.module}.{found.ref.name} ({found.reason})" for found in dangerous]
        yield Finding(
            "dangerous-globals",
            "error",
            "",
            f"an unpickler would import {_some(names)}; see where with `ckpttool inspect --globals`",
        )
    if not loads:
        yield Finding(
            "weights-only-refuses",
            "warning",
            "",
            f"torch.load(weights_only=True) refuses it because of {reason}; "
            "see them all with `ckpttool inspect --globals`",
        )


def _other_loaders(evidence: Evidence) -> Iterator[Finding]:
    bases = {basis for _, basis, _ in evidence.summary.bases}
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


# ---------------------------------------------------------------------------------------- no data


def _no_data(evidence: Evidence) -> Iterator[Finding]:
    meta: list[Entry] = []
    lazy: list[Entry] = []
    empty: list[Entry] = []
    floating = 0
    for entry, classification, _ in evidence.rows:
        value = entry.value
        if isinstance(value, TensorInfo):
            if value.storage is None:
                meta.append(entry)
            if value.dtype.kind == "float" and classification.kind is not Kind.OPTIMIZER_STATE:
                floating += 1
                if value.shape == (0,):
                    empty.append(entry)
        elif isinstance(value, CompositeTensor) and value.layout == "uninitialized":
            lazy.append(entry)
    if meta:
        yield _about(
            "meta-tensors", "error", meta, "on the meta device: the file has shapes for them and no data"
        )
    if len(empty) > 1 and 2 * len(empty) > floating:
        yield _about(
            "zero3-placeholders",
            "error",
            empty,
            "of shape [0], as ZeRO-3 leaves them: the weights are in the *_optim_states.pt files; "
            "gather them with `python zero_to_fp32.py . OUTPUT` of that folder",
        )
    if lazy:
        yield _about(
            "uninitialized",
            "warning",
            lazy,
            "uninitialized, with neither shape nor data: run the lazy module once on an example, then save",
        )


# -------------------------------------------------------------------------------- shared storages


def _bloat(evidence: Evidence) -> Iterator[Finding]:
    aliasing = evidence.aliasing
    wasted, held = aliasing.unreferenced_nbytes, aliasing.storage_nbytes
    if not aliasing.bloated or (wasted < _BLOAT_NBYTES and wasted * _BLOAT_SHARE < held):
        return
    largest = max(aliasing.bloated, key=lambda bloat: bloat.unreferenced_nbytes)
    yield Finding(
        "storage-bloat",
        "warning" if 10 * wasted >= held else "info",
        _name(largest.entry),
        f"{wasted:,} of {held:,} bytes in {_count(len(aliasing.bloated), 'storage')} belong to no tensor, "
        f"most in that of {_short(largest.entry)} ({largest.unreferenced_nbytes:,} bytes): "
        "`ckpttool convert` writes the tensors only",
    )


def _ties(evidence: Evidence) -> Iterator[Finding]:
    tied = [(entry, first) for entry, _, first in evidence.rows if first is not None]
    if tied:
        pairs = [f"{_short(entry)} = {_short(first)}" for entry, first in tied]
        yield Finding(
            "tied",
            "info",
            _name(tied[0][0]),
            f"{_count(len(tied), 'entry', 'entries')} share all bytes with an earlier one and count once: "
            f"{_some(pairs)}",
        )
    if evidence.aliasing.overlaps:
        overlaps = [f"{_short(a)} and {_short(b)}" for a, b in evidence.aliasing.overlaps]
        yield Finding(
            "overlapping-views",
            "info",
            _name(evidence.aliasing.overlaps[0][0]),
            f"{_count(len(overlaps), 'pair')} of unequal views share bytes: {_some(overlaps)}; "
            "`ckpttool convert` to safetensors writes such bytes once for each",
        )


def _layouts(evidence: Evidence) -> Iterator[Finding]:
    strided: list[Entry] = []
    flagged: list[Entry] = []
    swapped: list[Entry] = []
    contiguous: dict[tuple[tuple[int, ...], tuple[int, ...]], bool] = {}
    for entry, _, _ in evidence.rows:
        value = entry.value
        for info in (value,) if isinstance(value, TensorInfo) else iter_parts(value):
            key = (info.shape, info.stride)
            packed = contiguous.get(key)  # few layouts repeat in many tensors
            if packed is None:
                packed = contiguous[key] = info.is_contiguous
            if not packed:
                strided.append(entry)
            if info.conj or info.neg:
                flagged.append(entry)
            if info.storage is not None and info.storage.big_endian and info.dtype.bits > 8:
                swapped.append(entry)
    if strided:
        yield _about(
            "non-contiguous",
            "info",
            strided,
            "not contiguous: safetensors' save_file refuses such tensors; `ckpttool convert` packs them",
        )
    if flagged:
        yield _about(
            "conj-neg-bit",
            "warning",
            flagged,
            "stored with a conj or neg bit: their bytes are not their values, and safetensors 0.8.0 "
            "saves them wrong; call .resolve_conj().resolve_neg() first, or use `ckpttool convert`",
        )
    if swapped:
        yield _about(
            "big-endian",
            "info",
            swapped,
            "in big-endian byte order: torch.load swaps it, tools that map the file do not",
        )


# -------------------------------------------------------------------------------------- the names


def _wrappers(evidence: Evidence) -> Iterator[Finding]:
    # The same prefix in two state_dicts is one cause; a hostile file has as many as it has names.
    matched: Counter[tuple[str, tuple[str, ...], bool]] = Counter()
    total: Counter[tuple[str, tuple[str, ...], bool]] = Counter()
    for prefixes in evidence.prefixes.values():
        for text, wrappers, names, all_names, inside in prefixes:
            matched[text, wrappers, inside] += names
            total[text, wrappers, inside] += all_names
    for key, names in matched.most_common(_MOST_NAMED):
        text, wrappers, inside = key
        where = "stands inside" if inside else "is in front of"
        who = " inside ".join(wrappers[:_MOST_NAMED])
        fix = f'`sd = {{k.replace("{text}", ""): v for k, v in sd.items()}}`' if inside else _take_off(text)
        yield Finding(
            "wrapper-prefix",
            "warning" if 2 * names > total[key] else "info",
            "",
            f"{_cut(text)} ({who}) {where} {names:,} of {total[key]:,} names: "
            f"the bare model has none of it; {fix}",
        )


def _lightning_prefix(evidence: Evidence) -> Iterator[Finding]:
    checkpoint, root = evidence.checkpoint, evidence.weights_root
    if not any(v.root == () and v.name == "pytorch-lightning_version" for v in checkpoint.values):
        return
    names = [row.entry.name for row in evidence.rows if row.entry.root == root]
    first = common_first_part(name for name in names if isinstance(name, str))
    if first is not None and root not in evidence.prefixes:
        prefix = _cut(first) + "."
        yield Finding(
            "attribute-prefix",
            "info",
            "",
            f"all {len(names):,} names start with {prefix}, an attribute of the LightningModule; "
            f"for the model alone: {_take_off(prefix)}",
        )


def _take_off(prefix: str) -> str:
    return f'`torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(sd, "{_cut(prefix)}")`'


def _parametrized(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.mentions("weight_g", "weight_orig", ".original"):
        return
    parts = [
        entry
        for entry, _, _ in evidence.rows
        if isinstance(entry.name, str)
        and entry.name.endswith(("weight_g", "weight_orig", "original", "original0"))
        and _PARAMETRIZED.search(entry.name)
    ]
    if parts:
        yield _about(
            "parametrized",
            "info",
            parts,
            "part of a weight that the model computes (weight norm, spectral norm, pruning): a model "
            "without that parametrization does not know these names",
        )


def _roots(evidence: Evidence) -> Iterator[Finding]:
    found = [group for group in evidence.groups if group.role in ("weights", "module")]
    if evidence.weights_root is None and len(found) > 1:
        names = [_cut(".".join(map(str, group.root))) or "(top)" for group in found]
        yield Finding(
            "several-state-dicts",
            "info",
            "",
            f"{len(found):,} state_dicts, none plainly the one: {_some(names)}; choose with `--root`",
        )


# ------------------------------------------------------------------------------- kinds and dtypes


def _batch_norms(evidence: Evidence) -> Iterator[Finding]:
    versions_of = evidence.checkpoint.module_versions
    statistics: dict[Root, list[Entry]] = {}
    if evidence.mentions("running_mean"):
        for entry, _, _ in evidence.rows:
            if isinstance(entry.name, str) and entry.name.endswith("running_mean"):
                statistics.setdefault(entry.root, []).append(entry)
    names: dict[Root, set[Key]] = {root: set() for root in (*versions_of, *statistics)}
    if names:
        for entry, _, _ in evidence.rows:
            if entry.root in names:
                names[entry.root].add(entry.name)
    uncounted = []
    for root, entries in statistics.items():
        versions = versions_of.get(root)
        for entry in entries:
            module = str(entry.name).removesuffix("running_mean")
            version = _BATCH_NORM_VERSION if versions is None else versions.get(module.rstrip("."))
            if f"{module}num_batches_tracked" not in names[root] and version == _BATCH_NORM_VERSION:
                uncounted.append(entry)
    if uncounted:
        yield _about(
            "batch-norm-no-counter",
            "info",
            uncounted,
            "without num_batches_tracked beside it: a frozen batch norm, or saved by torch before 0.4.1; "
            "nn.BatchNorm2d then needs load_state_dict(strict=False)",
        )
    bare = []
    for root, versions in versions_of.items():
        known = names[root]
        for module, version in versions.items():
            if (
                version == _BATCH_NORM_VERSION
                and f"{module}.weight" in known
                and f"{module}.running_mean" not in known
                and _BATCH_NORM_NAME.search(module.rpartition(".")[2])
            ):
                bare.append(module)
    if bare:
        yield Finding(
            "batch-norm-no-statistics",
            "warning",
            bare[0],
            f"{_count(len(bare), 'batch norm')} without running_mean and running_var ({_some(bare)}): unless "
            "built with track_running_stats=False, eval() uses mean 0 and variance 1 after strict=False",
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
            _name(rarest[0]),
            f"parameters of several dtypes: {counts}; {name} are {_some([_short(e) for e in rarest])}",
        )


def _carried(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.summary.non_persistent_buffers:
        return
    carried = [row.entry for row in evidence.rows if row.classification.kind is Kind.NON_PERSISTENT_BUFFER]
    if carried:
        yield _about(
            "non-persistent-present",
            "info",
            carried,
            "non-persistent: the file carries what a state_dict of the model leaves out",
        )


def _packed(evidence: Evidence) -> Iterator[Finding]:
    float4 = any(BY_NAME[name].packed > 1 for name, _ in evidence.summary.dtypes)
    if not float4 and not evidence.mentions(*_PACKED_NAMES, ".quant_state."):
        return
    packed = [
        entry
        for entry, _, _ in evidence.rows
        if (
            isinstance(entry.name, str)
            and (entry.name.endswith(_PACKED_NAMES) or ".quant_state." in entry.name)
        )
        or (entry.value is not None and entry.value.dtype is not None and entry.value.dtype.packed > 1)
    ]
    if packed:
        yield _about(
            "packed-weights",
            "info",
            packed,
            "of a packed or quantized weight: parameter counts are of stored elements, not of weights",
        )


def _extra_state(evidence: Evidence) -> Iterator[Finding]:
    objects = [
        f"{_cut(str(leaf.name))} ({_cut(leaf.type_name)})"
        for leaf in evidence.checkpoint.opaque
        if isinstance(leaf.name, str) and leaf.name.rpartition(".")[2] == "_extra_state"
    ]
    if objects:
        yield Finding(
            "extra-state-object",
            "info",
            "",
            f"{_count(len(objects), 'extra state')} that no tensor holds: {_some(objects)}; safetensors "
            "cannot keep it, and strict loading misses it",
        )


# ----------------------------------------------------------------------------- around the weights


def _devices(evidence: Evidence) -> Iterator[Finding]:
    tags = [(tag, count) for tag, count in evidence.summary.locations if tag not in _NO_DEVICE]
    if tags:
        shown = _some([f"{_cut(tag)} ({_count(count, 'storage')})" for tag, count in tags])
        yield Finding(
            "device-tags",
            "warning",
            "",
            f"saved on {shown}: without that device torch.load fails, unless asked for another: "
            '`torch.load(path, map_location="cpu")`',
        )


def _optimizer(evidence: Evidence) -> Iterator[Finding]:
    states = [group for group in evidence.groups if group.role == "optimizer"]
    total = sum(group.nbytes for group in states)
    weights = sum(group.nbytes for group in evidence.groups if group.role in ("weights", "module"))
    if total > weights > 0:
        names = [_cut(".".join(map(str, group.root))) for group in states]
        yield Finding(
            "optimizer-outweighs",
            "info",
            "",
            f"optimizer state ({_some(names)}) takes {_nbytes(total)}, the weights {_nbytes(weights)}: "
            "`ckpttool convert` writes the weights only",
        )


def _values(evidence: Evidence) -> Iterator[Finding]:
    odd = [
        f"{_cut('.'.join([*map(str, leaf.root), str(leaf.name)]))} is {leaf.value}"
        for leaf in evidence.checkpoint.values
        if isinstance(leaf.value, float) and math.isnan(leaf.value)
    ]
    if odd:
        yield Finding(
            "nan-value", "warning", "", f"{_count(len(odd), 'value')} beside the tensors: {_some(odd)}"
        )


_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _globals,
    _no_data,
    _other_loaders,
    _roots,
    _wrappers,
    _lightning_prefix,
    _batch_norms,
    _bloat,
    _ties,
    _layouts,
    _dtypes,
    _carried,
    _packed,
    _extra_state,
    _parametrized,
    _devices,
    _optimizer,
    _values,
)


# ---------------------------------------------------------------------------------------- wording


def _about(code: str, severity: str, entries: Sequence[Entry], fact: str) -> Finding:
    """``3 entries (a, b, c) are <fact>``, with the first entry as its name."""
    distinct = list({id(entry): entry for entry in entries}.values())
    names = _some([_short(entry) for entry in distinct])
    is_are = "is" if len(distinct) == 1 else "are"
    return Finding(
        code,
        severity,
        _name(distinct[0]),
        f"{_count(len(distinct), 'entry', 'entries')} ({names}) {is_are} {fact}",
    )


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_NAMED
    return ", ".join(texts[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _nbytes(number: int) -> str:
    # An expanded tensor claims any size: Python refuses to write integers of 4,300 digits.
    return f"{number:,} bytes" if number < _MOST_WRITTEN else f"about 2**{number.bit_length()} bytes"


def _name(entry: Entry) -> str:
    return str(entry.name)


def _short(entry: Entry) -> str:
    return _cut(_name(entry))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"
