"""Checkpoints of several files: an index with shards, shards without one, or a folder with either.

Source: ``save_pretrained`` and ``split_torch_state_dict_into_shards`` (transformers 5, huggingface_hub).

- The index MUST be a JSON object with ``weight_map``: name of a tensor -> plain file name beside it.
- It MAY have ``metadata``; ``total_size`` there SHOULD be the bytes of all tensors.
- Each file that the map names MUST be there; the file decides what it holds, not the map.
- A name in the map that its file does not hold, a name that the map lacks, a name in two files, a
  wrong total and stray files are findings: the rest still reads.
- A name in two files is shown once: from the file that the index names, else from the first.
- Without an index the numbers in ``STEM-00001-of-00003.SUFFIX`` MUST be complete.
- A shard MUST NOT be an index itself. Shards are read in the order of their names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from ckpttool.files.folder import Listing, list_folder, resolve_member
from ckpttool.formats.base import Limits, Look, Reading
from ckpttool.formats.folders.choice import (
    Unit,
    check_numbers,
    choose_unit,
    family_of_index,
    find_units,
    is_same_family,
    shorten_list,
)
from ckpttool.formats.foreign.files import describe_foreign
from ckpttool.formats.foreign.folders import describe_empty_folder, describe_foreign_folder
from ckpttool.formats.pickled.globals import merge_globals
from ckpttool.formats.strict_json import JSON_SPACE, describe_json_type, parse_json
from ckpttool.values.checkpoint import (
    Checkpoint,
    Container,
    Entry,
    FileInfo,
    Finding,
    Root,
    views_of,
)
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from ckpttool.values.words import command_line, plural, shorten

_Fact = TypeVar("_Fact")
_SHOWN_FINDINGS = 20  # of one code; the rest is counted


def is_index(head: bytes, path: str) -> bool:
    """Whether a file is the index of a sharded checkpoint; ``head`` is its first 4096 bytes or fewer."""
    if not head.lstrip(JSON_SPACE).startswith(b"{"):
        return False
    return b'"weight_map"' in head or family_of_index(path.rpartition("/")[2]) is not None


proves_files = True  # by ``read_file``


def sniff(listing: Listing) -> bool:
    """What no other format takes."""
    return True


def read(listing: Listing, reading: Reading) -> Checkpoint:
    """A file of weights, or several with or without an index."""
    path = listing.path
    foreign = describe_foreign_folder(listing)
    if foreign is not None:
        raise foreign
    units = find_units(listing)
    if not units:
        raise describe_empty_folder(listing)
    unit = choose_unit(units, listing)
    findings: list[Finding] = []
    if unit.is_index:
        index = resolve_member(path, unit.name, path)
        with reading.sources.reading(index) as source:
            checkpoint = read_index(Look(source, reading.limits), reading)._replace(path=path)
    elif unit.shards:
        check_numbers(unit, listing)
        checkpoint = _read_shards(path, path, unit.shards, reading, {})
        what = f"no index beside {plural(len(unit.shards), 'shard')}: what the whole should hold is not known"
        findings.append(Finding("shard-no-index", "info", "", what))
    else:
        checkpoint = _read_shard(path, unit.name, path, reading)
    names = {file.path.rpartition("/")[2] for file in checkpoint.files}
    others = [other for other in units if other is not unit and other.name not in names]
    if others:
        findings.append(_not_read(unit, others))
    return checkpoint._replace(findings=(*checkpoint.findings, *findings))


def read_index(look: Look, reading: Reading) -> Checkpoint:
    """The checkpoint whose index is looked at.

    Raises:
        UnknownFormat: not JSON, but something else that is recognised.
        MalformedCheckpoint: the index is malformed, or a shard is missing or leads out of the folder.
        LimitExceeded: index or shards beyond ``limits``.
        OSError: a file cannot be opened.
    """
    source, limits, path = look.source, look.limits, look.source.name
    if source.size > limits.header_nbytes:
        raise LimitExceeded("length of the index", limit=limits.header_nbytes, actual=source.size)
    if not look.head.lstrip(JSON_SPACE).startswith(b"{"):
        raise describe_foreign(look)
    document = parse_json(source.read_at(0, source.size), "index", limits, path)
    weight_map, metadata = _parse_index(document, limits)
    folder = path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")
    files = tuple(sorted(set(weight_map.values())))
    _refuse_missing(files, folder, path)
    checkpoint = _read_shards(path, folder, files, reading, weight_map, source.version)
    findings = [*checkpoint.findings, *_check_total(metadata.get("total_size"), checkpoint.entries)]
    findings += _find_strays(folder, path.rpartition("/")[2], files)
    return checkpoint._replace(
        layout=f"{plural(len(files), 'shard')} and an index",
        metadata={**checkpoint.metadata, **{key: _to_text(value) for key, value in metadata.items()}},
        findings=tuple(findings),
    )


def _parse_index(document: object, limits: Limits) -> tuple[dict[str, str], dict[str, object]]:
    """(weight_map, metadata) of an index."""
    if not isinstance(document, dict):
        raise MalformedCheckpoint("the index is not an object", actual=describe_json_type(document))
    weight_map, metadata = document.get("weight_map"), document.get("metadata")
    if not isinstance(weight_map, dict):
        what = "the index has no weight_map" if weight_map is None else "weight_map is not an object"
        raise MalformedCheckpoint(what, expected="an object of names and file names")
    if len(weight_map) > limits.entries:
        raise LimitExceeded("number of names in the index", limit=limits.entries, actual=len(weight_map))
    for name, file in weight_map.items():
        if type(file) is not str:
            raise MalformedCheckpoint(
                "weight_map gives no file name", name=name, actual=describe_json_type(file)
            )
    if metadata is not None and not isinstance(metadata, dict):
        raise MalformedCheckpoint(
            "metadata of the index is not an object", actual=describe_json_type(metadata)
        )
    return weight_map, metadata or {}


def _to_text(value: object) -> str:
    """A value of the index's metadata as text: strings as they are, all else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise MalformedCheckpoint("metadata of the index is nested too deep") from None


def _refuse_missing(files: tuple[str, ...], folder: str, path: str) -> None:
    """Look for every shard before the first is read."""
    missing: list[str] = []
    present: list[str] = []
    for file in files:
        member = resolve_member(folder, file, path)
        (present if Path(member).exists() else missing).append(file)
    if missing:
        one = command_line("inspect", *(f"{folder}/{file}" for file in present[:1]))
        raise MalformedCheckpoint(
            f"{len(missing):,} of {plural(len(files), 'shard')} missing: {shorten_list(missing)}",
            path=path,
            hint="download or copy them again" + (f"; `{one}` reads one that is there" if present else ""),
        )


def _read_shard(folder: str, name: str, said_by: str, reading: Reading) -> Checkpoint:
    """One file of a folder, refusing what would lead elsewhere or round in a circle."""
    path = resolve_member(folder, name, said_by)
    with reading.sources.reading(path) as source:
        look = Look(source, reading.limits)
        if is_index(look.head, path):
            raise MalformedCheckpoint("a shard is itself an index", name=name, path=said_by)
        return reading.read_file(look)


def _read_shards(
    path: str,
    folder: str,
    files: Iterable[str],
    reading: Reading,
    weight_map: dict[str, str],
    index: FileInfo | None = None,
) -> Checkpoint:
    """Read the shards and merge them; ``weight_map`` is empty where there is no index."""
    shards: dict[str, Checkpoint] = {}
    count = 0
    for file in files:
        shards[file] = _read_shard(folder, file, path, reading)
        count += len(shards[file].entries)
        if count > reading.limits.entries:
            raise LimitExceeded(
                "number of tensors in all shards", limit=reading.limits.entries, actual=count, path=path
            )
    parts = shards.values()
    entries, findings = _merge_entries(shards, weight_map)
    metadata, differing = _merge_metadata(shards)
    findings += _merge_findings(shards)
    plain = all(part.format == "safetensors" for part in parts)
    return Checkpoint(
        path=path,
        format="sharded_safetensors" if plain else "sharded_torch",
        layout=f"{plural(len(shards), 'shard')} without an index",
        files=((index,) if index else ()) + tuple(info for part in parts for info in part.files),
        entries=entries,
        values=tuple(item for part in parts for item in part.values),
        opaque=tuple(item for part in parts for item in part.opaque),
        containers=_merge_containers(parts),
        metadata=metadata,
        module_versions=_merge_modules(part.module_versions for part in parts),
        module_extras=_merge_modules(part.module_extras for part in parts),
        globals=merge_globals(part.globals for part in parts),
        obstacles=tuple(dict.fromkeys(obstacle for part in parts for obstacle in part.obstacles)),
        records=tuple(item for part in parts for item in part.records),
        findings=(*findings, *differing),
        ordered=all(part.ordered for part in parts),
        rare_opcodes=frozenset().union(*(part.rare_opcodes for part in parts)),
    )


def _merge_entries(
    shards: dict[str, Checkpoint], weight_map: dict[str, str]
) -> tuple[tuple[Entry, ...], list[Finding]]:
    """Entries of all shards, each name once, and where shards and index do not agree."""
    places: dict[tuple[object, object], list[str]] = {}
    for file, part in shards.items():
        for entry in part.entries:
            places.setdefault(entry[:2], []).append(file)
    taken: dict[tuple[object, object], str] = {}
    twice, unlisted, elsewhere = [], [], []
    for (root, name), files in places.items():
        said = weight_map.get(name) if not root and isinstance(name, str) else None
        taken[root, name] = said if said in files else files[0]
        text = str(name)
        if len(files) > 1:
            note = f"in {plural(len(files), 'shard')} ({shorten_list(files)}); taken from {taken[root, name]}"
            twice.append((text, note))
        if weight_map and not root:
            if said is None:
                unlisted.append(
                    (text, f"in {files[0]} and not in the index: a loader that follows it skips this")
                )
            elif said not in files:
                elsewhere.append((text, f"in {files[0]}, and the index says {said}"))
    absent = [
        (name, f"in the index (for {file}), and in no shard")
        for name, file in weight_map.items()
        if ((), name) not in places
    ]
    entries = tuple(e for file, part in shards.items() for e in part.entries if taken[e[:2]] == file)
    return entries, [
        *_capped("shard-key-missing", "error", absent),
        *_capped("shard-key-twice", "error", twice),
        *_capped("shard-key-elsewhere", "error", elsewhere),
        *_capped("shard-key-unlisted", "warning", unlisted),
    ]


def _capped(code: str, severity: str, found: list[tuple[str, str]]) -> list[Finding]:
    """Findings of one code, the first few apart and the others counted."""
    findings = [Finding(code, severity, name, note) for name, note in found[:_SHOWN_FINDINGS]]
    if more := len(found) - len(findings):
        findings.append(Finding(code, severity, "", f"the same of {plural(more, 'more name')}"))
    return findings


def _merge_findings(shards: dict[str, Checkpoint]) -> list[Finding]:
    """What is odd in single shards, each with the shard, and once where many say the same."""
    files: dict[Finding, list[str]] = {}
    for file, part in shards.items():
        for finding in part.findings:
            files.setdefault(finding, []).append(file)
    return [item._replace(message=f"{shorten_list(names)}: {item.message}") for item, names in files.items()]


def _merge_metadata(shards: dict[str, Checkpoint]) -> tuple[dict[str, str], list[Finding]]:
    """The ``__metadata__`` of all shards; where two differ the first counts, and it is said."""
    metadata: dict[str, str] = {}
    findings: dict[str, Finding] = {}
    for file, part in shards.items():
        for key, value in part.metadata.items():
            if metadata.setdefault(key, value) != value:
                note = f"__metadata__ of {file} gives {shorten(key)!r} another value than before"
                findings.setdefault(key, Finding("shard-metadata-differs", "info", "", note))
    return metadata, list(findings.values())[:_SHOWN_FINDINGS]


def _merge_containers(parts: Iterable[Checkpoint]) -> tuple[Container, ...]:
    """Containers of the same place and type become one, with the lengths added."""
    lengths: Counter[tuple[Root, str]] = Counter()
    for part in parts:
        for container in part.containers:
            lengths[container.path, container.type_name] += container.length
    return tuple(Container(path, type_name, length) for (path, type_name), length in lengths.items())


def _merge_modules(parts: Iterable[Mapping[Root, Mapping[str, _Fact]]]) -> dict[Root, dict[str, _Fact]]:
    """What ``_metadata`` says of modules in all shards; the last word on a module counts."""
    merged: dict[Root, dict[str, _Fact]] = {}
    for part in parts:
        for root, modules in part.items():
            merged.setdefault(root, {}).update(modules)
    return merged


def _check_total(total: object, entries: tuple[Entry, ...]) -> list[Finding]:
    """Compare ``total_size`` with the tensors; tied ones may count once or each."""
    if total is None:
        return []
    each = sum(entry.value.nbytes for entry in entries if entry.value is not None)
    # Some writers put a float there; it is equal to an int or it is not.
    if type(total) in (int, float) and total in (each, _unique_nbytes(entries)):
        return []
    said = f"{total:,}" if type(total) is int else describe_json_type(total)
    message = f"the index says total_size {said}, the tensors in the shards take {plural(each, 'byte')}"
    return [Finding("shard-total-size", "warning", "", message)]


def _unique_nbytes(entries: tuple[Entry, ...]) -> int:
    views = [view for entry in entries for view in views_of(entry.value)]
    return sum({(view.storage, view.byte_span): view.nbytes for view in views}.values())


def _find_strays(folder: str, index: str, files: tuple[str, ...]) -> list[Finding]:
    """Files that are named like shards of the same family, and that the index does not name."""
    family = family_of_index(index)
    if family is None:
        return []
    named = set(files)
    names = [name for name in list_folder(folder).files if name not in named and is_same_family(name, family)]
    note = "looks like a shard, but the index does not list it: loaders ignore it"
    return _capped("shard-stray", "warning", [("", f"{name} {note}") for name in names])


def _not_read(unit: Unit, others: list[Unit]) -> Finding:
    """Say what else the folder holds; the same model in another form may have gone stale."""
    severity = "warning" if any(other.family == unit.family for other in others) else "info"
    names = shorten_list([other.name for other in others])
    message = f"the folder also holds {names}; only {unit.name} was read"
    return Finding("folder-not-all-read", severity, "", message)
