"""Findings about where the bytes of tensors are, and in what order."""

from __future__ import annotations

from collections.abc import Iterator

from ckpttool.findings.text import Evidence, about, name_of, short_name
from ckpttool.values.checkpoint import CompositeTensor, Entry, Finding, Kind, TensorInfo, iter_parts
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.words import count_of, cut, some

_BLOAT_SHARE = 100  # less than 1/100 of the storages, and less than a page, is padding
_BLOAT_NBYTES = 4096
_NO_DEVICE = frozenset(("cpu", "meta", ""))


def find_no_data(evidence: Evidence) -> Iterator[Finding]:
    """Tensors of which the file has no data."""
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
        yield about(
            "meta-tensors", "error", meta, "on the meta device: the file has shapes for them and no data"
        )
    if len(empty) > 1 and 2 * len(empty) > floating:
        yield about(
            "zero3-placeholders",
            "error",
            empty,
            "of shape [0], as ZeRO-3 leaves them: the weights are in the *_optim_states.pt files; "
            "gather them with `python zero_to_fp32.py . OUTPUT` of that folder",
        )
    if lazy:
        yield about(
            "uninitialized",
            "warning",
            lazy,
            "uninitialized, with neither shape nor data: run the lazy module once on an example, then save",
        )


def find_bloat(evidence: Evidence) -> Iterator[Finding]:
    """Storages that hold more than their tensors."""
    aliasing = evidence.aliasing
    wasted, held = aliasing.unreferenced_nbytes, aliasing.storage_nbytes
    if not aliasing.bloated or (wasted < _BLOAT_NBYTES and wasted * _BLOAT_SHARE < held):
        return
    largest = max(aliasing.bloated, key=lambda bloat: bloat.unreferenced_nbytes)
    yield Finding(
        "storage-bloat",
        "warning" if 10 * wasted >= held else "info",
        name_of(largest.entry),
        f"{wasted:,} of {held:,} bytes in {count_of(len(aliasing.bloated), 'storage')} belong to no tensor, "
        f"most in that of {short_name(largest.entry)} ({largest.unreferenced_nbytes:,} bytes): "
        "`ckpttool convert` writes the tensors only",
    )


def find_ties(evidence: Evidence) -> Iterator[Finding]:
    """Entries that share bytes with others."""
    tied = [(entry, first) for entry, _, first in evidence.rows if first is not None]
    if tied:
        pairs = [f"{short_name(entry)} = {short_name(first)}" for entry, first in tied]
        where = "named in the metadata, which safetensors' load_model reads and load_file does not: "
        yield Finding(
            "tied",
            "info",
            name_of(tied[0][0]),
            f"{count_of(len(tied), 'entry', 'entries')} with all bytes of an earlier one, counted once"
            f"{', ' + where if evidence.checkpoint.put_back else ': '}{some(pairs)}",
        )
    if evidence.aliasing.overlaps:
        overlaps = [f"{short_name(a)} and {short_name(b)}" for a, b in evidence.aliasing.overlaps]
        yield Finding(
            "overlapping-views",
            "info",
            name_of(evidence.aliasing.overlaps[0][0]),
            f"{count_of(len(overlaps), 'pair')} of unequal views with bytes in common: {some(overlaps)}; "
            "`ckpttool convert` to safetensors writes such bytes once for each",
        )


def find_layouts(evidence: Evidence) -> Iterator[Finding]:
    """Tensors whose bytes are not simply their values in order."""
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
        yield about(
            "non-contiguous",
            "info",
            strided,
            "not contiguous: safetensors' save_file refuses such tensors; `ckpttool convert` packs them",
        )
    if flagged:
        yield about(
            "conj-neg-bit",
            "warning",
            flagged,
            "stored with a conj or neg bit: their bytes are not their values, and safetensors 0.8.0 "
            "saves them wrong; call .resolve_conj().resolve_neg() first, or use `ckpttool convert`",
        )
    if swapped:
        yield about(
            "big-endian",
            "info",
            swapped,
            "in big-endian byte order: torch.load swaps it, tools that map the file do not",
        )


def find_unknown_dtypes(evidence: Evidence) -> Iterator[Finding]:
    """Dtypes that safetensors has no name for."""
    unknown = {name for name, _ in evidence.summary.dtypes if BY_NAME[name].safetensors is None}
    if not unknown:
        return
    entries = [
        entry
        for entry, _, _ in evidence.rows
        if isinstance(entry.value, TensorInfo) and entry.value.dtype.name in unknown
    ]
    if entries:
        yield about(
            "unknown-to-safetensors",
            "info",
            entries,
            f"of a dtype that safetensors does not have ({', '.join(sorted(unknown))}): save_file refuses it",
        )


def find_devices(evidence: Evidence) -> Iterator[Finding]:
    """Storages that were saved on a device other machines may lack."""
    tags = [(tag, count) for tag, count in evidence.summary.locations if tag not in _NO_DEVICE]
    if tags:
        shown = some([f"{cut(tag)} ({count_of(count, 'storage')})" for tag, count in tags])
        yield Finding(
            "device-tags",
            "warning",
            "",
            f"saved on {shown}: without that device torch.load fails, unless asked for another: "
            '`torch.load(path, map_location="cpu")`',
        )
