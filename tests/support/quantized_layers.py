"""Quantised layers by dtypes and shapes alone, packed as their libraries document it; what is told of one."""

from __future__ import annotations

from typing import Any, TypeAlias

from ckpttool.kinds.quantized_modules import survey_modules
from tests.support.classified import entry

Layer: TypeAlias = "dict[str, tuple[str, tuple[int, ...]]]"
"""The dtype and the shape of each member."""


def measured(layer: Layer, told: int | None = None) -> tuple[Any, ...] | None:
    """(scheme, bits, group, word, weights) of a module with these members; None if nothing tells.

    ``told`` are the bits that a config says.
    """
    entries = [entry(f"m.{name}", dtype, shape) for name, (dtype, shape) in layer.items()]
    survey = survey_modules(entries, told)
    if survey is None or not survey.quantizations:
        return None
    (one,) = survey.quantizations
    assert one.modules == 1 and survey.weights == (one.weights or 0)
    return (*one[:4], one.weights)


def chunks(size: int, each: int) -> int:
    """How many runs of ``each`` it takes, the last one perhaps shorter."""
    return len(range(0, size, each))


def int32s(elements: int, bits: int) -> int:
    """How many int32 are filled by elements of so many bits."""
    return chunks(elements * bits, 32)


def without(layer: Layer, *names: str) -> Layer:
    return {name: leaf for name, leaf in layer.items() if name not in names}


def gptq(out: int, inputs: int, bits: int, group: int) -> Layer:
    """What is beyond a whole block of 32 is cut."""
    groups = chunks(inputs, group)
    return {
        "qweight": ("int32", (inputs // 32 * bits, out)),
        "qzeros": ("int32", (groups, out // 32 * bits)),
        "scales": ("float16", (groups, out)),
        "g_idx": ("int32", (inputs,)),
    }


def awq(out: int, inputs: int, bits: int, group: int) -> Layer:
    groups = chunks(inputs, group)
    return {
        "qweight": ("int32", (inputs, int32s(out, bits))),
        "qzeros": ("int32", (groups, int32s(out, bits))),
        "scales": ("float16", (groups, out)),
    }


def packed(out: int, inputs: int, bits: int, group: int) -> Layer:
    return {
        "weight_packed": ("int32", (out, int32s(inputs, bits))),
        "weight_scale": ("bfloat16", (out, chunks(inputs, group))),
        "weight_shape": ("int64", (2,)),
    }


GPTQ, AWQ, PACKED = gptq(64, 128, 4, 32), awq(64, 128, 4, 32), packed(64, 128, 4, 32)
NVFP4: Layer = {
    "weight_packed": ("uint8", (4, 8)), "weight_scale": ("float8_e4m3fn", (4, 1)),
    "weight_global_scale": ("float32", (1,)),
}  # fmt: skip
HQQ: Layer = {"W_q": ("uint8", (4, 16)), "scale": ("float16", (8, 1)), "zero": ("float16", (8, 1))}
