"""What is typed after the options of ``convert``: targets, sizes, dtypes and metadata."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import typer

from ckpttool.commands.options import parse_choice

if TYPE_CHECKING:
    from ckpttool.analysis.conversion import ContainerName, SharedWay
    from ckpttool.dtypes import DType

SHARED_WAYS: tuple[SharedWay, ...] = ("alias", "duplicate", "fail")

_FORMATS: tuple[ContainerName, ...] = ("safetensors", "pt")
_CONTAINERS: dict[str, ContainerName] = {
    ".safetensors": "safetensors",
    ".pt": "pt",
    ".pth": "pt",
    ".bin": "pt",
    ".ckpt": "pt",
}
_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?I?B?)", re.IGNORECASE)


def parse_target(destination: str, to: str | None, *, sharded: bool) -> tuple[ContainerName, bool]:
    """DST and --to -> (container, whether DST is a folder)."""
    is_folder = destination.endswith("/") or sharded or os.path.isdir(destination)
    if to is not None:
        return parse_choice(to, _FORMATS, "--to"), is_folder
    if is_folder:
        return "safetensors", True
    suffix = os.path.splitext(destination)[1].lower()
    if suffix not in _CONTAINERS:
        raise typer.BadParameter(
            f"the suffix of {destination} tells no format: use {', '.join(_CONTAINERS)}, or --to",
            param_hint="DST",
        )
    return _CONTAINERS[suffix], False


def parse_size(text: str) -> int:
    """``5GB`` -> bytes: powers of 1000, and of 1024 with an i."""
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].upper() if match else "?"
    unit = unit if unit in _UNITS else f"{unit}B"
    if match is None or unit not in _UNITS or int(match[1]) == 0:
        raise typer.BadParameter(f"{text} is not a size such as 5GB or 500MiB", param_hint="--max-shard-size")
    return int(match[1]) * _UNITS[unit]


def parse_dtype(text: str) -> DType:
    """A floating dtype by a short name, or by torch's."""
    from ckpttool.dtypes import parse_torch_name

    found = parse_torch_name(_DTYPES.get(text.lower(), text))
    if found is None or not found.is_floating_point or found.packed > 1 or found.bits < 8:
        raise typer.BadParameter(
            f"{text} is no floating dtype: {', '.join(_DTYPES)} or torch's name of one", param_hint="--dtype"
        )
    return found


def parse_metadata(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` -> (key, value), as a safetensors header may hold them."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text} is not KEY=VALUE", param_hint="--metadata")
    if key.startswith("ckpttool."):
        raise typer.BadParameter("keys that begin with ckpttool. are its own", param_hint="--metadata")
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise typer.BadParameter("a safetensors header holds Unicode text only", param_hint="--metadata")
    return key, value
