"""How libraries store quantised weights: which members a module has, and how many weights they stand for.

``SCHEMES`` is the table. All is told from names, dtypes and shapes; sources of each row are the classes that
register its members:

- GPTQ: ``QuantLinear`` of auto-gptq and gptqmodel. AWQ: ``WQLinear_GEMM``, ``WQLinear_GEMV`` and
  ``gemv_fast.WQLinear`` of autoawq. Marlin: ``marlin.Layer``.
- bitsandbytes: ``Linear4bit`` with ``QuantState.as_dict(packed=True)``, ``Linear8bitLt``.
- compressed-tensors: its compressors ``pack-quantized``, ``int-quantized``, ``float-quantized``,
  ``nvfp4-pack-quantized`` and ``mxfp4-pack-quantized``. ModelOpt: FP8 and NVFP4 as its HF export writes them.
- FP8: ``weight_scale`` (compressed-tensors, fbgemm), ``weight_scale_inv`` (DeepSeek-V3, by blocks),
  ``scale_weight`` (ComfyUI).
- MXFP4: ``*_blocks`` and ``*_scales`` of gpt-oss. HQQ: ``HQQLinear``. EETQ: ``EetqLinear``. quanto:
  ``WeightQBytesTensor``, ``WeightQBitsTensor``. torchao: ``flatten_tensor_state_dict``, and its tensor
  subclasses in a pickle. BitNet: ``BitLinear`` of transformers.

Elements of a weight are laid out as ``(out, in)`` in all of them but GPTQ, AWQ and Marlin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

_INT4 = ("int32", "uint8", "int8", "int16")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_USUAL_GROUPS = (128, 64, 32, 16, 256)


class Leaf(NamedTuple):
    """A member of a module: the names of its dtype, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements that are stored."""
        count = 1
        for size in self.shape:
            count *= size
        return count


_Members: TypeAlias = Mapping[str, Leaf]


class Measure(NamedTuple):
    """``weights`` of ``bits`` each, of which ``group`` share a scale (None: a row or all of them do)."""

    bits: int
    weights: int
    group: int | None = None
    word: str = ""  # what else the name of the scheme says


class Scheme(NamedTuple):
    """How one library stores a quantised weight.

    ``anchor`` is the member that has the weights, of one of ``dtypes``; ``required`` stand beside it always,
    ``uniform`` in all modules of a checkpoint or in none, ``optional`` as they like. ``measure`` says how
    many weights the anchor has, or None if the shapes are those of another scheme. ``proof``: one of these
    makes the module one of this scheme, where the anchor alone proves nothing.
    """

    name: str
    anchor: str
    dtypes: tuple[str, ...]
    required: tuple[str, ...]
    measure: Callable[[_Members], Measure | None]
    uniform: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()

    @property
    def members(self) -> frozenset[str]:
        """Every member that this scheme knows."""
        return frozenset((self.anchor, *self.required, *self.uniform, *self.optional))


# ------------------------------------------------------------------------------------------------- measures


def _shape(members: _Members, name: str) -> tuple[int, ...] | None:
    leaf = members.get(name)
    return leaf.shape if leaf is not None and len(leaf.shape) == 2 else None


def _per_group(inputs: int, groups: int) -> int | None:
    """How many inputs share a scale, where ``groups`` divide them; None for one group in all."""
    return -(-inputs // groups) if 1 < groups <= inputs else None


def _gptq(members: _Members) -> Measure | None:
    """``qweight`` (in * bits / 32, out), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out)."""
    packed, zeros, scales = (_shape(members, name) for name in ("qweight", "qzeros", "scales"))
    if packed is None or (scales is not None and scales[1] != packed[1]):
        return None
    rows, out = packed
    index = members.get("g_idx")
    bits = 0
    if index is not None and len(index.shape) == 1 and index.shape[0]:
        bits = rows * 32 // index.shape[0]
    elif zeros is not None and out:
        bits = zeros[1] * 32 // out
    elif scales is not None:
        bits = 4
    if bits not in (2, 3, 4, 8):
        return None
    inputs = rows * 32 // bits
    return Measure(bits, inputs * out, _per_group(inputs, scales[0]) if scales else None)


def _awq(members: _Members) -> Measure | None:
    """``qweight`` (in, out * bits / 32), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out)."""
    packed, zeros, scales = (_shape(members, name) for name in ("qweight", "qzeros", "scales"))
    if packed is None or not packed[1] or "g_idx" in members or (scales is None and zeros is None):
        return None
    if scales is None:
        if zeros is None or zeros[1] != packed[1]:
            return None
        return Measure(4, packed[0] * packed[1] * 8, _per_group(packed[0], zeros[0]))
    if scales[1] % packed[1] == 0 and 32 % (scales[1] // packed[1]) == 0 and scales[1] > packed[1]:
        bits = 32 * packed[1] // scales[1]
        return Measure(bits, packed[0] * scales[1], _per_group(packed[0], scales[0]))
    if scales[0] == packed[0]:  # WQLinear_GEMV: (out, in / 8), scales (out, groups, padded)
        return Measure(4, packed[0] * packed[1] * 8, _usual(packed[1] * 8, scales[1]), "GEMV")
    return None


def _usual(inputs: int, padded_groups: int) -> int | None:
    """A usual group size whose groups, padded to some width, are as many."""
    fitting = [size for size in _USUAL_GROUPS if inputs // size <= padded_groups]
    return min(fitting, key=lambda size: padded_groups - inputs // size, default=None)


def _awq_fast(members: _Members) -> Measure | None:
    """``qweight`` int16 (out / 4, in), ``scales`` and ``scaled_zeros`` (groups, padded, out)."""
    packed, scales = _shape(members, "qweight"), _shape(members, "scales")
    if packed is None or "scaled_zeros" not in members:
        return None
    group = _usual(packed[1], scales[0]) if scales else None
    return Measure(4, packed[0] * packed[1] * 4, group, "GEMV fast")


def _marlin(members: _Members) -> Measure | None:
    """``B`` (in / 16, out * 2), ``s`` (groups, out)."""
    packed, scales = _shape(members, "B"), _shape(members, "s")
    if packed is None or scales is None or scales[1] * 2 != packed[1]:
        return None
    return Measure(4, packed[0] * packed[1] * 8, _per_group(packed[0] * 16, scales[0]))


def _bitsandbytes_4(members: _Members) -> Measure | None:
    """``weight`` uint8 (numel / 2, 1), ``absmax`` one for each block of weights."""
    weights = members["weight"].numel * 2
    scales = members.get("weight.absmax")
    types = [name.rpartition("__")[2] for name in members if name.startswith("weight.quant_state.")]
    block = weights // scales.numel if scales is not None and scales.numel else None
    return Measure(4, weights, block, (types[0] if types and types[0] in ("nf4", "fp4") else "").upper())


def _packed(members: _Members) -> Measure | None:
    """``weight_packed`` int32 (out, in * bits / 32), ``weight_scale`` (out, groups).

    ``weight_shape`` holds the shape as values; what it says of ``bits`` is in ``weight_g_idx`` and
    ``weight_zero_point`` (out * bits / 32, groups), and else in the group: 128 nearly always.
    """
    packed, scales = _shape(members, "weight_packed"), _shape(members, "weight_scale")
    if packed is None:
        return None
    zeros, index = _shape(members, "weight_zero_point"), members.get("weight_g_idx")
    bits = 4
    if index is not None and len(index.shape) == 1 and index.shape[0]:
        bits = packed[1] * 32 // index.shape[0]
    elif zeros is not None and packed[0] and members["weight_zero_point"].dtype == "int32":
        bits = zeros[0] * 32 // packed[0]
    elif scales is not None and scales[1] > 1 and packed[1] * 8 == 256 * scales[1]:
        bits = 8  # groups of 128 then, and of 256 if they were 4-bit
    if bits not in (2, 3, 4, 8):
        return None
    inputs = packed[1] * 32 // bits
    return Measure(bits, packed[0] * inputs, _per_group(inputs, scales[1]) if scales else None)


def _fp4(anchor: str, scale_dtype: str) -> Callable[[_Members], Measure | None]:
    """Two of four bits in a byte: (..., in / 2); the scale has a column for each group."""

    def measure(members: _Members) -> Measure | None:
        scales, weights = members.get("weight_scale"), members[anchor].numel * 2
        if scales is None:
            return Measure(4, weights)
        group = weights // scales.numel if scales.numel else None
        return Measure(4, weights, group) if scales.dtype == scale_dtype else None

    return measure


def _eight_bits(anchor: str, *scales: str) -> Callable[[_Members], Measure | None]:
    """One weight an element; scales for all of it, for each row, or for blocks of rows and columns."""

    def measure(members: _Members) -> Measure | None:
        weight = members[anchor]
        scale = next((members[name] for name in scales if name in members), None)
        return Measure(8, weight.numel, None, "" if scale is None else _grain(weight.shape, scale.shape))

    return measure


def _grain(weight: tuple[int, ...], scale: tuple[int, ...]) -> str:
    """What shares a scale, in words."""
    count = Leaf("", scale).numel
    if count <= 1:
        return "per tensor"
    if len(weight) >= 2 and len(scale) == len(weight) and scale[-1] > 1:
        block = [_block(size, blocks) for size, blocks in zip(weight[-2:], scale[-2:], strict=True)]
        return f"blocks of {block[0]}×{block[1]}"
    return "per channel" if count in weight else ""


def _block(size: int, blocks: int) -> int:
    """The power of two that cuts ``size`` into ``blocks``, the last one perhaps shorter; else about it."""
    step = 1
    while step < size and -(-size // step) > blocks:
        step *= 2
    return step if blocks and -(-size // step) == blocks else -(-size // max(blocks, 1))


def _mxfp4(members: _Members) -> Measure | None:
    """``blocks`` uint8 (..., groups, 16), ``scales`` (..., groups)."""
    blocks = members["blocks"]
    if len(blocks.shape) < 2:
        return None
    return Measure(4, blocks.numel * 2, blocks.shape[-1] * 2)


def _hqq(members: _Members) -> Measure | None:
    """``W_q`` (rows * bits / 8, group) with a ``scale`` for each row, or turned (axis 0)."""
    packed, scales = members["W_q"], members.get("scale")
    if len(packed.shape) != 2 or scales is None:
        return None
    rows, columns = packed.shape
    per_byte = {rows * pack: 8 // pack for pack in (1, 2, 4, 8)} if packed.dtype == "uint8" else {}
    groups = scales.numel
    if scales.shape[:1] == (groups,) and groups in per_byte:
        return Measure(per_byte[groups], groups * columns, columns)
    if packed.dtype == "int32" and -(-groups // 10) == rows:  # ten of three bits in 32
        return Measure(3, groups * columns, columns)
    if groups == columns and packed.dtype == "uint8":  # axis 0: (group * bits / 8, groups)
        return Measure(4, packed.numel * 2, rows * 2)
    return None


def _quanto(members: _Members) -> Measure | None:
    """``_data`` one weight an element, or packed where there is a ``_shift``; ``_scale`` for each group."""
    data, scales = members["weight._data"], members.get("weight._scale")
    if "weight._shift" not in members:
        return Measure(8, data.numel)
    bits = 4
    if scales is not None and scales.numel and data.numel * 4 // scales.numel == 128:
        bits = 2
    weights = data.numel * 8 // bits
    return Measure(bits, weights, weights // scales.numel if scales is not None and scales.numel else None)


def _torchao(anchor: str) -> Callable[[_Members], Measure | None]:
    """``qdata`` one weight an element of eight bits, two in an uint8, eight in an int32."""

    def measure(members: _Members) -> Measure | None:
        data = members[anchor]
        scales = next((leaf for name, leaf in members.items() if name.endswith("scale")), None)
        bits, each = {"uint8": (4, 2), "int32": (4, 8)}.get(data.dtype, (8, 1))
        weights = data.numel * each
        group = weights // scales.numel if scales is not None and scales.numel and bits == 4 else None
        return Measure(bits, weights, group)

    return measure


def _bitnet(members: _Members) -> Measure | None:
    """Four ternary weights in a byte: (out / 4, in), and one scale."""
    weight, scale = members["weight"], members.get("weight_scale")
    if scale is None or scale.numel != 1 or "weight_scale_2" in members:
        return None
    return Measure(2, weight.numel * 4, None, "ternary")


_STATE = "weight.quant_state.*"  # bitsandbytes__nf4 or bitsandbytes__fp4

SCHEMES = (
    Scheme("AWQ", "qweight", ("int16",), ("scales", "scaled_zeros"), _awq_fast),
    Scheme("GPTQ", "qweight", ("int32",), ("scales", "qzeros"), _gptq, ("g_idx",)),
    Scheme("AWQ", "qweight", ("int32",), ("scales", "qzeros"), _awq),
    Scheme("Marlin", "B", ("int32",), ("s",), _marlin, ("workspace",), proof=("s",)),
    Scheme(
        "bitsandbytes", "weight", ("uint8",), ("weight.absmax", "weight.quant_map", _STATE), _bitsandbytes_4,
        ("weight.nested_absmax", "weight.nested_quant_map"),
        proof=("weight.absmax", "weight.quant_map", _STATE),
    ),
    Scheme(
        "bitsandbytes", "weight", ("int8",), ("SCB",), _eight_bits("weight", "SCB"), ("weight_format",),
        proof=("SCB", "weight_format"),
    ),
    Scheme(
        "NVFP4", "weight_packed", ("uint8",), ("weight_scale", "weight_global_scale"),
        _fp4("weight_packed", "float8_e4m3fn"), ("input_global_scale",),
        proof=("weight_global_scale", "weight_scale"),
    ),
    Scheme(
        "MXFP4", "weight_packed", ("uint8",), ("weight_scale",),
        _fp4("weight_packed", "uint8"),
    ),
    Scheme(
        "compressed-tensors", "weight_packed", ("int32",), ("weight_scale", "weight_shape"), _packed,
        ("weight_g_idx",), ("weight_zero_point",),
    ),
    Scheme(
        "NVFP4", "weight", ("uint8",), ("weight_scale", "weight_scale_2"),
        _fp4("weight", "float8_e4m3fn"), (), ("input_scale",), proof=("weight_scale_2", "weight_scale"),
    ),
    Scheme("BitNet", "weight", ("uint8",), ("weight_scale",), _bitnet, proof=("weight_scale",)),
    Scheme("EETQ", "weight", ("int8",), ("weight_scales",),
        _eight_bits("weight", "weight_scales"), proof=("weight_scales",)),
    Scheme(
        "int8", "weight", ("int8",), ("weight_scale",), _eight_bits("weight", "weight_scale"), (),
        ("weight_zero_point", "input_scale", "input_zero_point"), proof=("weight_scale",),
    ),
    Scheme(
        "FP8", "weight", FLOAT8, ("weight_scale_inv",), _eight_bits("weight", "weight_scale_inv"), (),
        ("input_scale", "activation_scale"), proof=("weight_scale_inv",),
    ),
    Scheme(
        "FP8", "weight", FLOAT8, ("weight_scale",), _eight_bits("weight", "weight_scale"), (),
        ("input_scale", "input_scale_ub"), proof=("weight_scale",),
    ),
    Scheme(
        "FP8", "weight", FLOAT8, ("scale_weight",), _eight_bits("weight", "scale_weight"), (),
        ("scale_input",), proof=("scale_weight",),
    ),
    Scheme("MXFP4", "blocks", ("uint8",), ("scales",), _mxfp4, proof=("scales",)),
    Scheme("HQQ", "W_q", ("uint8", "int32", "bfloat16", "float16"), ("scale", "zero"), _hqq),
    Scheme("quanto", "weight._data", _INT4 + FLOAT8, ("weight._scale",), _quanto, ("weight._shift",)),
    *(
        Scheme("torchao", f"{stem}qdata", _INT4 + FLOAT8, (f"{stem}scale",), _torchao(f"{stem}qdata"), (),
               (f"{stem}zero_point", f"{stem}scale_and_zero"))
        for stem in ("weight:", "_weight_", "weight_")
    ),
)  # fmt: skip

NESTED = (
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
    "quant_state.",
    "_data",
    "_scale",
    "_shift",
)
KNOWN = frozenset(name for scheme in SCHEMES for name in scheme.members)
# Without its anchor each of these says by itself that something is gone.
TELLING = frozenset(
    """
    qzeros g_idx SCB weight.absmax weight_scale weight_scale_inv weight_global_scale weight_shape
    weight._scale scaled_zeros workspace
    """.split()
)
EVERYDAY = frozenset(("weight", "B", "blocks"))  # anchors that most modules have, quantised or not
