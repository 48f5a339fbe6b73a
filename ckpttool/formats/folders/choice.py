"""Folders: their names within bounds, which of their files may be opened, and which checkpoint they hold.

A folder may hold several checkpoints. What Hugging Face's ``from_pretrained`` would load is taken,
and the rest reported; where that says nothing and there is more than one, none is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ckpttool.files.folder import Listing
from ckpttool.values.errors import MalformedCheckpoint, UnknownFormat
from ckpttool.values.words import plural, shorten, some

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pt2")
_NAMES_SHOWN = 8

# `model-00001-of-00003.safetensors`: transformers and diffusers count from 1, some older writers from 0.
_SHARD = re.compile(
    r"(?P<stem>.+)[-_](?P<number>[0-9]{1,6})-of-(?P<total>[0-9]{1,6})(?P<suffix>\.[a-z0-9]+)", re.A
)
# `model.safetensors.index.json`, and with a variant `model.safetensors.index.fp16.json`.
_INDEX = re.compile(r"(?P<stem>.+?)(?P<suffix>\.[a-z0-9]+)\.index(?:\.(?P<variant>[\w-]+))?\.json", re.A)

# The order in which transformers, diffusers and peft look for weights (transformers/utils/__init__.py
# WEIGHTS names; diffusers/utils/constants.py; peft/utils/constants.py).
_PREFERRED = (
    "model.safetensors diffusion_pytorch_model.safetensors pytorch_model.bin diffusion_pytorch_model.bin "
    "adapter_model.safetensors adapter_model.bin"
).split()

# What a Trainer keeps beside the weights (transformers/trainer.py, accelerate/utils/constants.py).
_BESIDE_WEIGHTS = re.compile(
    r"(training_args|optimizer(_[0-9]+)?|scheduler(_[0-9]+)?|scaler|sampler(_[0-9]+)?|rng_state(_[0-9]+)?"
    r"|random_states_[0-9]+)\.(bin|pt|pth|pkl|safetensors)",
    re.A,
)


class Unit(NamedTuple):
    """One checkpoint of a folder: a file, an index with its shards, or shards without one.

    ``name`` is its first file; ``family`` the name that the whole would have as a single file, by
    which an index, its shards and a merged file are recognised as the same model.
    """

    name: str
    family: str
    is_index: bool = False
    shards: tuple[str, ...] = ()
    total: int = 0


def family_of_index(name: str) -> str | None:
    """What the whole would be called as one file, if ``name`` is that of an index."""
    match = _INDEX.fullmatch(name)
    if match is None:
        return None
    variant = f".{match['variant']}" if match["variant"] else ""
    return f"{match['stem']}{variant}{match['suffix']}"


def find_units(listing: Listing) -> list[Unit]:
    """Every checkpoint that the folder seems to hold, judged by names."""
    units: list[Unit] = []
    indexed: set[str] = set()
    sets: dict[tuple[str, str, int], list[str]] = {}
    singles: list[str] = []
    for name in listing.files:
        if (family := family_of_index(name)) is not None:
            units.append(Unit(name, family, is_index=True))
            indexed.add(family)
        elif name.endswith(WEIGHT_SUFFIXES):
            if match := _SHARD.fullmatch(name):
                sets.setdefault((match["stem"], match["suffix"], int(match["total"])), []).append(name)
            else:
                singles.append(name)
    for (stem, suffix, total), shards in sets.items():
        if (family := stem + suffix) not in indexed:
            units.append(Unit(shards[0], family, shards=tuple(shards), total=total))
    # What lies beside weights is a checkpoint only where there are no weights.
    weights = [name for name in singles if not _BESIDE_WEIGHTS.fullmatch(name)]
    units.extend(Unit(name, name) for name in (weights or ([] if units else singles)))
    return units


def choose_unit(units: list[Unit], listing: Listing) -> Unit:
    """The one to read.

    Raises:
        UnknownFormat: several, and no custom says which.
    """
    # Loose shards beside an index of another name are most likely its shards: the index is asked first.
    indexed = any(unit.is_index for unit in units)
    candidates = [unit for unit in units if not (indexed and unit.shards)]
    if len(candidates) == 1:
        return candidates[0]
    for family in _PREFERRED:
        same = [unit for unit in candidates if unit.family == family]
        # transformers takes the single file before the index, and an index before loose shards.
        same.sort(key=lambda unit: (bool(unit.shards), unit.is_index))
        if same and not (len(same) > 1 and same[0].shards):
            return same[0]
    described = [_describe_unit(unit) for unit in units]
    raise UnknownFormat(
        f"a folder of {plural(len(units), 'checkpoint')}: {shorten_list(described)}",
        path=listing.path,
        hint=f"name the one that is meant, such as {listing.at(units[0].name)}",
    )


def check_numbers(unit: Unit, listing: Listing) -> None:
    """Refuse shards without an index if the numbers in their names are not all there.

    Raises:
        MalformedCheckpoint: a number is missing or beyond the total.
    """
    numbers = {int(match["number"]) for name in unit.shards if (match := _SHARD.fullmatch(name))}
    first = 0 if 0 in numbers else 1
    expected = range(first, first + unit.total)
    if len(numbers) != len(unit.shards) or any(number not in expected for number in numbers):
        raise MalformedCheckpoint(
            f"shards are numbered beyond their total or twice: {shorten_list(unit.shards)}", path=listing.path
        )
    absent = [str(number) for number in expected if number not in numbers]
    if absent:
        raise MalformedCheckpoint(
            f"{len(absent):,} of {plural(unit.total, 'shard')} of {unit.family} missing: "
            f"number {shorten_list(absent)}",
            path=listing.path,
            hint="download or copy them again; or name one shard to see what it holds",
        )


def is_same_family(name: str, family: str) -> bool:
    """Whether a file is named as a shard of ``family``."""
    match = _SHARD.fullmatch(name)
    return match is not None and match["stem"] + match["suffix"] == family


def find_leftovers(listing: Listing, names: Sequence[str]) -> list[str]:
    """Files of the checkpoint that ``names`` are (its index, a shard, the whole) that are not among them."""
    families = {unit.family for unit in find_units(Listing(listing.path, tuple(names), ()))}
    written = set(names)
    return [
        name
        for name in listing.files
        if name not in written
        and any(
            name == family or family_of_index(name) == family or is_same_family(name, family)
            for family in families
        )
    ]


def shorten_list(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return some(names, shorten, _NAMES_SHOWN)


def _describe_unit(unit: Unit) -> str:
    if unit.shards:
        return f"{unit.name} (shard, {len(unit.shards)} of {unit.total} there)"
    return unit.name
