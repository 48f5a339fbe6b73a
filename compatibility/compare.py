"""Holds what ckpttool reads against the facts that a torch release wrote down about its own files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Checkpoint, Entry, OddKey, PlainList, Tensor, TensorInfo
from ckpttool.values.errors import CkptToolError

Fact = Mapping[str, Any]


def path_of(entry: Entry) -> tuple[object, ...]:
    """Root and name in one, as ``in_torch.flatten`` walks."""
    return tuple(key.text if isinstance(key, OddKey) else key for key in (*entry.root, entry.name))


def digest(reader: TensorReader, info: TensorInfo) -> str:
    """SHA-256 of the elements in row-major order."""
    total = hashlib.sha256()
    for chunk in reader.iter_chunks(info):
        total.update(chunk)
    return total.hexdigest()


def strided_differences(reader: TensorReader, info: Tensor, fact: Fact) -> list[str]:
    """In words, what of one strided tensor is not as torch says."""
    if not isinstance(info, TensorInfo):
        return [f"is {info.layout}"]
    read = {"dtype": info.dtype.name, "shape": list(info.shape), "sha256": digest(reader, info)}
    if info.numel:  # what a tensor without elements strides over is anybody's guess
        read["stride"] = list(info.stride)
    return [f"{name} {value} for {fact[name]}" for name, value in read.items() if value != fact[name]]


def entry_differences(reader: TensorReader, entry: Entry, fact: Fact) -> list[str]:
    """In words, what of one entry is not as torch says."""
    kind = entry.declared.kind
    wrong = []
    if fact["kind"] is not None and kind.value != fact["kind"]:
        wrong.append(f"kind {kind.value} for {fact['kind']}")
    value = entry.value
    if "parts" not in fact:
        return wrong + (["is missing"] if value is None else strided_differences(reader, value, fact))
    if value is None or isinstance(value, TensorInfo):
        return [*wrong, "is not composite"]
    parts = {part.name: part.value for part in value.parts}
    # torch 1.4 writes scales and zero points as numbers in the pickle, later releases as tensors.
    numbers = {name: list(item) for name, item in value.details if isinstance(item, PlainList)}
    if parts.keys() | numbers.keys() != fact["parts"].keys():
        return [*wrong, f"parts {[*parts, *numbers]} for {[*fact['parts']]}"]
    wrong += [
        f"{name}: {item} for {fact['parts'][name]['numbers']}"
        for name, item in numbers.items()
        if item != fact["parts"][name]["numbers"]
    ]
    for name, part in parts.items():
        told = dict(fact["parts"][name])
        if name == "int_repr":  # the file's dtype is the quantized one: qint8 for torch's int8
            told["dtype"] = "q" + told["dtype"]
        wrong += [f"{name}: {text}" for text in strided_differences(reader, part, told)]
    return wrong


def ties_of(checkpoint: Checkpoint) -> dict[tuple[object, ...], tuple[object, ...]]:
    """The first path of each view, for every path."""
    first: dict[object, tuple[object, ...]] = {}
    ties = {}
    for entry in checkpoint.entries:
        path = path_of(entry)
        ties[path] = path
        if entry.tensor is not None and entry.tensor.numel:
            ties[path] = first.setdefault(entry.tensor, path)
    return ties


def file_differences(path: Path, tensors: Sequence[Fact]) -> list[str]:
    """In words, what ckpttool reads otherwise than the torch that wrote the file; empty if nothing."""
    try:
        checkpoint = read_checkpoint(str(path))
    except (CkptToolError, OSError) as error:
        return [str(error).replace(f"{path}: ", "")]
    entries = {path_of(entry): entry for entry in checkpoint.entries}
    facts = {tuple(fact["path"]): fact for fact in tensors}
    wrong = [f"{key}: not read" for key in facts.keys() - entries.keys()]
    wrong += [f"{key}: not in the file" for key in entries.keys() - facts.keys()]
    if len(entries) != len(checkpoint.entries):
        wrong.append("two entries of one name")
    ties = ties_of(checkpoint)
    with TensorReader(checkpoint.files) as reader:
        for key in facts.keys() & entries.keys():
            fact = facts[key]
            wrong += [f"{key}: {text}" for text in entry_differences(reader, entries[key], fact)]
            tied_to = tuple(fact.get("tied_to", fact["path"]))
            if ties[key] != tied_to:
                wrong.append(f"{key}: tied to {ties[key]} for {tied_to}")
    return sorted(wrong)


def loaded_differences(wanted: Mapping[object, Fact], loaded: Sequence[Fact]) -> list[str]:
    """In words, what a torch loads from our file otherwise than ``wanted`` (facts of the source by new path).

    Strides are not compared: a gather packs.
    """
    got = {tuple(fact["path"]): fact for fact in loaded}
    wrong = [f"{key}: not there" for key in wanted.keys() - got.keys()]
    wrong += [f"{key}: not in the source" for key in got.keys() - wanted.keys()]
    for key in wanted.keys() & got.keys():
        pairs = [(wanted[key], got[key])]
        if "parts" in wanted[key]:
            names = wanted[key]["parts"]
            if "parts" not in got[key] or names.keys() != got[key]["parts"].keys():
                wrong.append(f"{key}: not of the parts {list(names)}")
                continue
            pairs = [(names[name], got[key]["parts"][name]) for name in names]
        for told, found in pairs:
            wrong += [
                f"{key}: {name} {found.get(name)} for {told[name]}"
                for name in ("dtype", "shape", "sha256", "tied_to")
                if name in told and found.get(name) != told[name]
            ]
    return sorted(wrong)
