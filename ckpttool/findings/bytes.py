"""Findings about where the bytes of tensors are, and in what order."""

from __future__ import annotations

from collections.abc import Iterator

from ckpttool.findings.text import Evidence, about, name_pair, short_name
from ckpttool.values.checkpoint import CompositeTensor, Entry, Finding, Kind, TensorInfo, views_of
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.words import agree, cut, nbytes_of, plural, some

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
        if value is not None and not isinstance(value, CompositeTensor):
            if any(view.storage is None for view in views_of(value)):
                meta.append(entry)
            if value.dtype.kind == "float" and classification.kind is not Kind.OPTIMIZER_STATE:
                floating += 1
                if value.shape == (0,):
                    empty.append(entry)
        elif isinstance(value, CompositeTensor) and value.layout == "uninitialized":
            lazy.append(entry)
    fact = "on the meta device: the file holds shapes and no data"
    yield from about("meta-tensors", "error", meta, fact)
    if len(empty) > 1 and 2 * len(empty) > floating:
        fact = (
            "of shape [0], as ZeRO-3 leaves them: the weights are in the *_optim_states.pt files; "
            "gather them with `python zero_to_fp32.py . OUTPUT` of that folder"
        )
        yield from about("zero3-placeholders", "error", empty, fact)
    fact = "uninitialized, with neither shape nor data: run the lazy module once on an example, then save"
    yield from about("uninitialized", "warning", lazy, fact)


def find_bloat(evidence: Evidence) -> Iterator[Finding]:
    """Storages that hold more than their tensors."""
    aliasing = evidence.aliasing
    wasted, held = aliasing.unreferenced_nbytes, aliasing.storage_nbytes
    if not aliasing.bloated or (wasted < _BLOAT_NBYTES and wasted * _BLOAT_SHARE < held):
        return
    largest = max(aliasing.bloated, key=lambda bloat: bloat.unreferenced_nbytes)
    fact = (
        f"{wasted:,} of {nbytes_of(held)} in {plural(len(aliasing.bloated), 'storage')} "
        f"{agree(wasted, 'belongs', 'belong')} to no tensor, "
        f"most in that of {short_name(largest.entry)} ({nbytes_of(largest.unreferenced_nbytes)}): "
        "a slice is saved with all of what it was cut from, unless it is cloned first"
    )
    severity = "warning" if 10 * wasted >= held else "info"
    yield Finding("storage-bloat", severity, str(largest.entry.name), fact)


def find_ties(evidence: Evidence) -> Iterator[Finding]:
    """Entries that share bytes with others."""
    tied = [(entry, first) for entry, _, first in evidence.rows if first is not None]
    if tied:
        pairs = [name_pair(entry, first) for entry, first in tied]
        fact = f"{plural(len(tied), 'entry')} with all bytes of an earlier one, counted once"
        if evidence.checkpoint.put_back:
            fact += ", named in the metadata, which safetensors' load_model reads and load_file does not"
        yield Finding("tied", "info", str(tied[0][0].name), f"{fact}: {some(pairs)}")
    overlaps = evidence.aliasing.overlaps
    if overlaps:
        pairs = [f"{short_name(a)} and {short_name(b)}" for a, b in overlaps]
        fact = (
            f"{plural(len(pairs), 'pair')} of unequal views with bytes in common: {some(pairs)}; "
            "safetensors holds such bytes once for each"
        )
        yield Finding("overlapping-views", "info", str(overlaps[0][0].name), fact)


def find_layouts(evidence: Evidence) -> Iterator[Finding]:
    """Tensors whose bytes are not simply their values in order."""
    strided: list[Entry] = []
    flagged: list[Entry] = []
    swapped: list[Entry] = []
    contiguous: dict[tuple[tuple[int, ...], tuple[int, ...]], bool] = {}
    for entry, _, _ in evidence.rows:
        value = entry.value
        for info in (value,) if isinstance(value, TensorInfo) else views_of(value):
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
    fact = "not contiguous: safetensors' save_file refuses such tensors"
    yield from about("non-contiguous", "info", strided, fact)
    fact = (
        "stored with a conj or neg bit, so that bytes are not values: safetensors 0.8.0 saves the "
        "bytes; call .resolve_conj().resolve_neg() before"
    )
    yield from about("conj-neg-bit", "warning", flagged, fact)
    fact = "in big-endian byte order: torch.load swaps it, tools that map the file do not"
    yield from about("big-endian", "info", swapped, fact)


def find_unknown_dtypes(evidence: Evidence) -> Iterator[Finding]:
    """Dtypes that safetensors has no name for."""
    unknown = {name for name, _ in evidence.summary.dtypes if BY_NAME[name].safetensors is None}
    if not unknown:
        return
    entries = [
        entry
        for entry, _, _ in evidence.rows
        if entry.strided is not None and entry.strided.dtype.name in unknown
    ]
    fact = f"of a dtype that safetensors does not have ({', '.join(sorted(unknown))}): save_file refuses it"
    yield from about("unknown-to-safetensors", "info", entries, fact)


def find_devices(evidence: Evidence) -> Iterator[Finding]:
    """Storages that were saved on a device other machines may lack."""
    tags = [(tag, count) for tag, count in evidence.summary.locations if tag not in _NO_DEVICE]
    if tags:
        shown = some(
            [f"{plural(count, 'storage was', 'storages were')} saved on {cut(tag)}" for tag, count in tags]
        )
        what = agree(len(tags), "that device", "those devices")
        fact = f'{shown}; without {what} use `torch.load(path, map_location="cpu")`'
        yield Finding("device-tags", "warning", "", fact)
