"""Values that are given as text; what is wrong with one is a ``ValueError``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

from ckpttool.values import containers
from ckpttool.values.errors import redact

if TYPE_CHECKING:
    from ckpttool.values.conversion import SharedWay
    from ckpttool.values.dtypes import DType

FAIL_ON_VALUES = ("nan", "inf", "zero")
FAIL_ON = (*FAIL_ON_VALUES, "findings")
KINDS: tuple[Literal["parameters", "buffers"], ...] = ("parameters", "buffers")
Ignorable: TypeAlias = Literal[
    "values", "attributes", "versions", "metadata", "objects", "extra-state", "optimizer-state"
]
IGNORABLE: tuple[Ignorable, ...] = get_args(Ignorable)
SHARED_WAYS: tuple[SharedWay, ...] = ("alias", "duplicate", "fail")

DTYPES = {
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
_Choice = TypeVar("_Choice", bound=str)


def parse_target(destination: str, to: str | None, *, sharded: bool) -> tuple[str, bool]:
    """A destination, and the format if it is said -> (container, whether it is a folder).

    Raises:
        ValueError: the suffix is that of no format.
    """
    is_folder = destination.endswith("/") or sharded or os.path.isdir(destination)
    if to is not None:
        return choose(to, tuple(containers.CONTAINERS)), is_folder
    if is_folder:
        return next(iter(containers.CONTAINERS)), True
    by_suffix = {suffix: name for name, (known, _) in containers.CONTAINERS.items() for suffix in known}
    suffix = os.path.splitext(destination)[1].lower()
    if suffix not in by_suffix:
        shown = redact(destination, (destination,))
        raise ValueError(f'cannot tell the format from "{shown}": use {", ".join(by_suffix)}, or --to')
    return by_suffix[suffix], False


def choose(text: str, choices: Sequence[_Choice]) -> _Choice:
    """The one of ``choices`` that ``text`` is.

    Raises:
        ValueError: it is none.
    """
    for choice in choices:
        if text == choice:
            return choice
    raise ValueError(f"{text} is not one of {', '.join(choices)}")


def parse_size(text: str) -> int:
    """``5GB`` -> bytes: powers of 1000, and of 1024 with an i.

    Raises:
        ValueError: it is no size.
    """
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?I?B?)", text.strip(), re.IGNORECASE)
    unit = match[2].upper() if match else "?"
    unit = unit if unit in _UNITS else f"{unit}B"
    if match is None or unit not in _UNITS or int(match[1]) == 0:
        raise ValueError(f"{text} is not a size such as 5GB or 500MiB")
    return int(match[1]) * _UNITS[unit]


def parse_dtype(text: str) -> DType:
    """A floating dtype by a short name, or by torch's.

    Raises:
        ValueError: it is none.
    """
    from ckpttool.values.dtypes import parse_torch_name

    found = parse_torch_name(DTYPES.get(text.lower(), text))
    if found is None or not found.is_floating_point or found.packed > 1 or found.bits < 8:
        raise ValueError(f"{text} is no floating dtype: {', '.join(DTYPES)} or torch's name of one")
    return found


def check_metadata(key: str, value: str) -> tuple[str, str]:
    """``(key, value)``, if a safetensors header may hold them.

    Raises:
        ValueError: it may not.
    """
    if not key:
        raise ValueError("a key is empty")
    if key.startswith("ckpttool."):
        raise ValueError("keys that begin with ckpttool. are its own")
    if any(0xD800 <= ord(character) < 0xE000 for character in key + value):
        raise ValueError("a safetensors header holds Unicode text only")
    return key, value


def parse_input_dtype(name: str) -> str:
    """A dtype that an input of a model may have, as torch names it.

    Raises:
        ValueError: it is none.
    """
    from ckpttool.values.dtypes import parse_torch_name

    dtype = parse_torch_name(name)
    if dtype is None or dtype.kind not in ("float", "complex", "int", "uint", "bool"):
        raise ValueError(f"{name} is not a dtype of torch")
    return dtype.name
