"""How libraries store quantised weights: which members a module has, and how many weights they stand for.

``SCHEMES`` is the table. All is told from names, dtypes and shapes; sources of each row are the classes that
register its members:

- GPTQ: ``QuantLinear`` of auto-gptq and gptqmodel. AWQ: ``WQLinear_GEMM``, ``WQLinear_GEMV`` and
  ``gemv_fast.WQLinear`` of autoawq. Marlin: ``marlin.Layer``.
- bitsandbytes: ``Linear4bit`` with ``QuantState.as_dict(packed=True)``, ``Linear8bitLt``.
- compressed-tensors: its compressors ``pack-quantized``, ``int-quantized``, ``float-quantized``,
  ``nvfp4-pack-quantized``, ``mxfp4-pack-quantized`` and ``mxfp6-pack-quantized``. ModelOpt: FP8 and NVFP4 as
  its HF export writes them.
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
    """``weights`` of ``bits`` each, of which ``group`` share a scale (None: a row or all of them do).

    Where no shape tells the bits, both are None, and ``stored_bits`` and ``group_bits`` say what is known:
    how much room there is, and for those that share a scale.
    """

    bits: int | None
    weights: int | None
    group: int | None = None
    word: str = ""  # what else the name of the scheme says
    stored_bits: int = 0
    group_bits: int = 0

    def told(self, bits: int | None) -> Measure:
        """The same, where ``bits`` are known from elsewhere, and shapes do not tell them."""
        if self.bits is not None or bits is None:
            return self
        group = self.group_bits // bits if self.group_bits else None
        return Measure(bits, self.stored_bits // bits, group, self.word)


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


_LEAST_GROUP = 16  # fewer weights share a scale nowhere, and all sizes are multiples of it


def _per_group(inputs: int, groups: int) -> int | None:
    """How many of ``inputs`` share a scale; None for one group in all, and where more than one size fits.

    The last group may be shorter than the others where their size is a power of two, as it nearly always is:
    at most one such size gives that many groups.
    """
    if not 1 < groups <= inputs:
        return None
    power = 1 << (-(-inputs // groups) - 1).bit_length()
    sizes = {power} if -(-inputs // power) == groups else set()
    if inputs % (groups * _LEAST_GROUP) == 0:
        sizes.add(inputs // groups)
    return sizes.pop() if len(sizes) == 1 else None


def _widths(packed: int, count: int) -> set[int]:
    """How many bits each of ``count`` numbers can have that fill ``packed`` int32, or whole blocks of 32."""
    return {bits for bits in range(1, 9) if packed in (count // 32 * bits, -(-count * bits // 32))}


def _length(members: _Members, name: str) -> int:
    """The length of a vector; 0 if there is none."""
    leaf = members.get(name)
    return leaf.shape[0] if leaf is not None and len(leaf.shape) == 1 else 0


def _gptq(members: _Members) -> Measure | None:
    """``qweight`` (in * bits / 32, out), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out)."""
    packed, zeros, scales = (_shape(members, name) for name in ("qweight", "qzeros", "scales"))
    if packed is None or (scales is not None and scales[1] != packed[1]):
        return None
    rows, out = packed
    indices = _length(members, "g_idx")
    if not indices and zeros is None and scales is None:
        return None
    widths = set(range(2, 9))
    if indices:
        widths &= _widths(rows, indices)
    if zeros is not None and out:
        widths &= _widths(zeros[1], out)
    if not widths:
        return None
    if len(widths) > 1:
        return Measure(None, None, stored_bits=rows * out * 32)
    (bits,) = widths
    inputs = indices or rows * 32 // bits
    if not indices and scales and inputs < _LEAST_GROUP * scales[0]:
        return None
    return Measure(bits, inputs * out, _per_group(inputs, scales[0]) if scales else None)


def _awq(members: _Members) -> Measure | None:
    """``qweight`` (in, out * bits / 32), ``qzeros`` (groups, out * bits / 32), ``scales`` (groups, out)."""
    packed, zeros, scales = (_shape(members, name) for name in ("qweight", "qzeros", "scales"))
    if packed is None or not packed[1] or "g_idx" in members:
        return None
    if scales is None:
        if zeros is None or zeros[1] != packed[1]:
            return None
        return Measure(4, packed[0] * packed[1] * 8, _per_group(packed[0], zeros[0]))
    each = scales[1] // packed[1]  # weights in an int32
    if each * packed[1] == scales[1] and each in (4, 8, 16) and (zeros is None or zeros[1] == packed[1]):
        return Measure(32 // each, packed[0] * scales[1], _per_group(packed[0], scales[0]))
    if scales[0] == packed[0]:  # WQLinear_GEMV: (out, in / 8), scales (out, groups, padded)
        return Measure(4, packed[0] * packed[1] * 8, _gemv_group(packed[1] * 8, scales[1]), "GEMV")
    return None


def _gemv_group(inputs: int, padded_groups: int) -> int | None:
    """The group size whose groups, padded as ``calculate_zeros_width`` of autoawq has it, are as many."""
    for size, step in ((128, 8), (64, 16), (32, 32)):
        if -(-(inputs // size) // step) * step == padded_groups:
            return size
    return None


def _awq_fast(members: _Members) -> Measure | None:
    """``qweight`` int16 (out / 4, in), ``scales`` and ``qzeros`` or ``scaled_zeros`` (padded groups, out)."""
    packed, scales = _shape(members, "qweight"), _shape(members, "scales")
    if packed is None:
        return None
    group = _gemv_group(packed[1], scales[0]) if scales else None
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
    block = None if scales is None else _per_group(weights, scales.numel)
    return Measure(4, weights, block, (types[0] if types and types[0] in ("nf4", "fp4") else "").upper())


def _packed(members: _Members) -> Measure | None:
    """``weight_packed`` int32 (out, in * bits / 32), ``weight_scale`` (out, groups).

    ``weight_shape`` holds the shape as values. Bits are told by ``weight_g_idx`` and ``weight_zero_point``
    (out * bits / 32, groups) alone. Rows are padded to whole int32: ``weights`` is what has room in them.
    """
    packed, scales = _shape(members, "weight_packed"), _shape(members, "weight_scale")
    if packed is None:
        return None
    zeros, indices = _shape(members, "weight_zero_point"), _length(members, "weight_g_idx")
    widths = set(range(1, 9))
    if indices:
        widths &= _widths(packed[1], indices)
    if zeros is not None and members["weight_zero_point"].dtype == "int32":
        widths &= _widths(zeros[0], packed[0])
    row = packed[1] * 32
    if len(widths) != 1:
        shared = row // scales[1] if scales and scales[1] > 1 else 0
        return Measure(None, None, stored_bits=packed[0] * row, group_bits=shared)
    (bits,) = widths
    inputs = indices or row // bits
    return Measure(bits, packed[0] * inputs, _per_group(inputs, scales[1]) if scales else None)


def _mxfp6(members: _Members) -> Measure | None:
    """Four of six bits in three bytes: (out, in * 3 / 4), ``weight_scale`` uint8 (out, in / 32)."""
    scales, stored = members.get("weight_scale"), members["weight_packed"].numel
    if scales is None or scales.dtype != "uint8" or stored != 24 * scales.numel:
        return None
    return Measure(6, scales.numel * 32, 32)


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
    while -(-size // step) > blocks:
        step *= 2
    return step if -(-size // step) == blocks else -(-size // blocks)


def _mxfp4(members: _Members) -> Measure | None:
    """``blocks`` uint8 (..., groups, 16), ``scales`` (..., groups)."""
    blocks = members["blocks"]
    if len(blocks.shape) < 2:
        return None
    return Measure(4, blocks.numel * 2, blocks.shape[-1] * 2)


def _hqq(members: _Members) -> Measure | None:
    """``W_q`` (rows * bits / 8, group) with a ``scale`` for each row (axis 1), or turned (axis 0).

    Of three bits ten are in an int32. ``view_as_float`` shows the same bytes as float16 or bfloat16.
    """
    packed, scales = members["W_q"], members.get("scale")
    if len(packed.shape) != 2 or scales is None or not scales.numel:
        return None
    (rows, columns), groups = packed.shape, scales.numel
    bytes_, ints = columns * _HQQ_BYTES[packed.dtype], columns * _HQQ_BYTES[packed.dtype] // 4
    if scales.shape[:1] == (groups,):
        each = groups // rows if rows else 0
        if packed.dtype != "int32" and each * rows == groups and each in (1, 2, 4, 8):
            return Measure(8 // each, groups * bytes_, bytes_)
        if packed.dtype != "uint8" and -(-groups // 10) == rows:
            return Measure(3, groups * ints, ints)
    elif scales.shape[-1:] == (groups,):
        if packed.dtype != "int32" and groups == bytes_:
            return Measure(None, None, stored_bits=rows * bytes_ * 8, group_bits=rows * 8)
        if packed.dtype != "uint8" and groups == ints:
            return Measure(3, None)  # the last int32 of each group may have fewer than ten
    return None


_HQQ_BYTES = {"uint8": 1, "int32": 4, "float16": 2, "bfloat16": 2, "float32": 4}


def _quanto_packed(anchor: str) -> Callable[[_Members], Measure | None]:
    """``_data`` uint8 (groups * bits / 8, group), rounded up, with a ``_scale`` for each group (axis 0).

    Or turned (axis -1): (group * bits / 8, groups), which does not tell the bits.
    """

    def measure(members: _Members) -> Measure | None:
        data, scales = _shape(members, anchor), members.get("weight._scale")
        if data is None or (anchor == "weight._data" and "weight._shift" not in members):
            return None
        stored = data[0] * data[1] * 8
        if scales is None:
            return Measure(None, None, stored_bits=stored)
        groups = scales.numel
        if scales.shape[:1] == (groups,):
            widths = [bits for bits in (2, 4) if -(-groups * bits // 8) == data[0]]
            return Measure(widths[0], groups * data[1], data[1]) if len(widths) == 1 else None
        return Measure(None, None, stored_bits=stored, group_bits=data[0] * 8) if groups == data[1] else None

    return measure


def _torchao(anchor: str, scale: str) -> Callable[[_Members], Measure | None]:
    """``qdata`` one weight an element of eight bits, two in an uint8, eight in an int32.

    An int8 has two where scales are (groups, out), as ``Int4Tensor`` has them, and else one: (out, groups),
    or (out,).
    """

    def measure(members: _Members) -> Measure | None:
        data, scales = members[anchor], members.get(scale)
        out = data.shape[-2] if len(data.shape) > 1 else 0
        rows, columns = scales.shape[-2:] if scales is not None and len(scales.shape) > 1 else (0, 0)
        turned = 0 < out == columns
        if turned and data.dtype == "int8" and rows == out:
            return Measure(None, None, stored_bits=data.numel * 8)
        bits, each = {"uint8": (4, 2), "int32": (4, 8)}.get(data.dtype, (4, 2) if turned else (8, 1))
        if data.dtype in FLOAT8:
            bits, each = 8, 1
        weights = data.numel * each
        count = scales.numel if scales is not None else 0
        if scale.endswith("scale_and_zero"):
            count //= 2
        if bits == 4:
            group = weights // count if count else None
        else:
            group = _per_group(data.shape[-1], columns) if columns else None
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
    Scheme("AWQ", "qweight", ("int16",), ("scales", "scaled_zeros"), _awq_fast, proof=("scaled_zeros",)),
    Scheme("AWQ", "qweight", ("int16",), ("scales", "qzeros"), _awq_fast, proof=("scales", "qzeros")),
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
    Scheme("MXFP6", "weight_packed", ("uint8",), ("weight_scale",), _mxfp6, proof=("weight_scale",)),
    Scheme(
        "MXFP4", "weight_packed", ("uint8",), ("weight_scale",),
        _fp4("weight_packed", "uint8"), proof=("weight_scale",),
    ),
    Scheme(
        "compressed-tensors", "weight_packed", ("int32",), ("weight_scale", "weight_shape"), _packed,
        ("weight_g_idx",), ("weight_zero_point",),
        ("weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"),
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
    Scheme("HQQ", "W_q", tuple(_HQQ_BYTES), ("scale", "zero"), _hqq, proof=("zero", "packing")),
    *(
        Scheme("quanto", anchor, _INT4, ("weight._scale", "weight._shift"), _quanto_packed(anchor),
               proof=("weight._scale", "weight._shift"))
        for anchor in ("weight._data._data", "weight._data")
    ),
    Scheme("quanto", "weight._data", _INT4 + FLOAT8, ("weight._scale",),
           _eight_bits("weight._data", "weight._scale"), proof=("weight._scale",)),
    *(
        Scheme("torchao", f"{stem}qdata", _INT4 + FLOAT8, (f"{stem}{scale}",),
               _torchao(f"{stem}qdata", f"{stem}{scale}"), (),
               tuple(f"{stem}{name}" for name in ("zero_point", "group_zero", "row_scale", "act_pre_scale")),
               (f"{stem}{scale}",))
        for stem in ("weight:", "_weight_", "weight_")
        for scale in ("scale", "scale_and_zero", "group_scale")
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
ACTIVATIONS = frozenset(
    """
    input_scale input_zero_point input_global_scale input_scale_ub output_scale output_zero_point
    activation_scale scale_input k_scale v_scale
    """.split()
)
"""What says how activations are quantised: beside the weights of any scheme."""
KNOWN = frozenset(name for scheme in SCHEMES for name in scheme.members) | ACTIVATIONS
# Without its anchor each of these says by itself that something is gone.
TELLING = frozenset(
    """
    qzeros g_idx SCB weight.absmax weight_scale weight_scale_inv weight_global_scale weight_shape
    weight._scale scaled_zeros workspace weight:scale _weight_scale _weight_scale_and_zero
    """.split()
)
EVERYDAY = frozenset(("weight", "B", "blocks"))  # anchors that most modules have, quantised or not
