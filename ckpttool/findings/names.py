"""Findings about what names and ``_metadata`` give away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ckpttool.findings.text import Evidence, about, name_branch
from ckpttool.names.prefixes import AVERAGED, common_first_part
from ckpttool.values.checkpoint import Entry, Finding, Key, Kind, Root
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.words import MOST_NAMED, agree, cut, plural, some

_BATCH_NORM_VERSION = 2  # torch/nn/modules/batchnorm.py: _NormBase._version, with num_batches_tracked
_BATCH_NORM_NAME = re.compile(r"(?:^|_)bn\d*$|batch_?norm", re.IGNORECASE)
# GPTQ and AWQ; bitsandbytes keeps the rest under .quant_state.
_PACKED_NAMES = (".qweight", ".qzeros", ".g_idx", ".absmax", ".quant_map", ".SCB")
_ADAPTER = re.compile(r"(?:^|\.)lora_[AB]\.weight$")
_PARAMETRIZED = re.compile(r"(?:^|\.)(?:weight_g|weight_orig|parametrizations\.[^.]+\.original\d?)$")


def find_wrappers(evidence: Evidence) -> Iterator[Finding]:
    """Parts that wrappers put into names."""
    # The same prefix in two state_dicts is one cause; a hostile file has as many as it has names.
    matched: Counter[tuple[str, tuple[str, ...], bool]] = Counter()
    total: Counter[tuple[str, tuple[str, ...], bool]] = Counter()
    branches: dict[tuple[str, tuple[str, ...], bool], list[Root]] = {}
    for root, prefixes in evidence.prefixes.items():
        for text, wrappers, names, all_names, inside in prefixes:
            if "PEFT" not in wrappers or not _is_adapter_alone(evidence):
                matched[text, wrappers, inside] += names
                total[text, wrappers, inside] += all_names
                branches.setdefault((text, wrappers, inside), []).append(root)
    several = sum(group.role in ("weights", "ema", "module") for group in evidence.groups) > 1
    for key, names in matched.most_common(MOST_NAMED):
        text, wrappers, inside = key
        branch = f" in {some(branches[key], name_branch)}" if several else ""
        where = "stands inside" if inside else "is in front of"
        who = " around ".join(wrappers[:MOST_NAMED])
        fix = f'`sd = {{k.replace("{text}", ""): v for k, v in sd.items()}}`' if inside else _take_off(text)
        if AVERAGED in wrappers:
            fix += "; n_averaged is no part of it either: `convert --strip-prefix auto` drops it"
        severity = "warning" if 2 * names > total[key] else "info"
        fact = f"{cut(text)} ({who}) {where} {names:,} of {plural(total[key], 'name')}{branch}"
        yield Finding("wrapper-prefix", severity, "", f"{fact}: the bare model has none of it; {fix}")


_TUNERS = tuple(
    f".{prefix}"
    for prefix in """
    lora_ ia3_ hada_ lokr_ oft_ boft_ vera_ vblora_ fourierft_ hra_ bone_ miss_ shira_ c3a_ road_ randlora_
    """.split()
)
"""``peft/mapping.py``, PEFT_TYPE_TO_PREFIX_MAPPING: what begins the names of an adapter's tensors."""


def _is_adapter_alone(evidence: Evidence) -> bool:
    """Whether PEFT saved an adapter: its names begin so, and from_pretrained wants them so."""
    return evidence.mentions(*_TUNERS) and not evidence.mentions(".base_layer.", ".default.", ".default\n")


def find_attribute_prefix(evidence: Evidence) -> Iterator[Finding]:
    """The attribute of a LightningModule in front of all names."""
    checkpoint, root = evidence.checkpoint, evidence.weights_root
    if not any(v.root == () and v.name == "pytorch-lightning_version" for v in checkpoint.values):
        return
    names = [row.entry.name for row in evidence.rows if row.entry.root == root]
    first = common_first_part(name for name in names if isinstance(name, str))
    if first is not None and root not in evidence.prefixes:
        prefix = cut(first) + "."
        who = agree(len(names), "the only name starts", f"all {plural(len(names), 'name')} start")
        fact = f"{who} with {prefix}, an attribute of the LightningModule"
        yield Finding("attribute-prefix", "info", "", f"{fact}; for the model alone: {_take_off(prefix)}")


def _take_off(prefix: str) -> str:
    return f'`torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(sd, "{cut(prefix)}")`'


def find_batch_norms(evidence: Evidence) -> Iterator[Finding]:
    """Batch norms without statistics, or without their counter."""
    versions_of = evidence.checkpoint.module_versions
    statistics: dict[Root, list[Entry]] = {}
    for entry in evidence.ending("running_mean"):
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
    fact = (
        "without num_batches_tracked beside it: a frozen batch norm, or saved by torch before 0.4.1; "
        "nn.BatchNorm2d then needs load_state_dict(strict=False)"
    )
    yield from about("batch-norm-no-counter", "info", uncounted, fact)
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
        who = f"{some(bare, cut)} {agree(len(bare), 'has', 'have')}"
        fact = f"{who} no running statistics: after strict=False, eval() would use mean 0 and variance 1"
        yield Finding("batch-norm-no-statistics", "warning", bare[0], fact)


def find_parametrized(evidence: Evidence) -> Iterator[Finding]:
    """Parts of weights that are computed, and the names of torch.nn.utils.parametrizations.weight_norm."""
    directions = {entry.name for entry in evidence.ending(".original1")}
    parts = [
        entry
        for entry in evidence.ending("weight_g", "weight_orig", ".original", ".original0")
        # More is said of a weight norm.
        if _PARAMETRIZED.search(str(entry.name)) and f"{str(entry.name)[:-1]}1" not in directions
    ]
    fact = (
        "part of a weight that the model computes (weight norm, spectral norm, pruning): a model "
        "without that parametrization has no such names"
    )
    yield from about("parametrized", "info", parts, fact)
    norms = [entry for entry in evidence.ending(".original0") if f"{str(entry.name)[:-1]}1" in directions]
    fact = (
        "the norm of a weight, as torch.nn.utils.parametrizations.weight_norm names it: a model with the "
        "older torch.nn.utils.weight_norm calls it weight_g"
    )
    yield from about("weight-norm", "info", norms, fact)


def find_adapters(evidence: Evidence) -> Iterator[Finding]:
    """LoRA weights without the adapter's name, as PEFT saves them."""
    if not evidence.mentions("lora_A.weight"):
        return
    ending = evidence.ending("lora_A.weight", "lora_B.weight")
    saved = [entry for entry in ending if _ADAPTER.search(str(entry.name))]
    if saved:
        fact = (
            f"LoRA adapter ({plural(len(saved), 'tensor')}) saved without an adapter name: "
            "PeftModel.from_pretrained takes it so; load_state_dict wants lora_A.default.weight"
        )
        yield Finding("adapter", "info", str(saved[0].name), fact)


def find_known_buffers(evidence: Evidence) -> Iterator[Finding]:
    """Buffers that some versions of their library save and others build anew."""
    saved = [
        row
        for row in evidence.rows
        if row.classification.kind is Kind.PERSISTENT_BUFFER and row.classification.rebuilt_since
    ]
    if saved:
        since = cut(saved[0].classification.rebuilt_since)
        fact = f"rebuilt by newer versions of the library, which report a stored copy as unexpected ({since})"
        yield from about("known-buffers", "info", [row.entry for row in saved], fact)


def find_packed(evidence: Evidence) -> Iterator[Finding]:
    """Quantized weights and their bookkeeping."""
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
    counted = "the first line counts the weights themselves"
    stored = "parameter counts are of stored elements, not of weights"
    fact = f"of a packed or quantized weight: {counted if evidence.quantized else stored}"
    yield from about("packed-weights", "info", packed, fact)
