"""How many weights the members of a quantised module stand for, whatever its sizes, and what is refused.

A layer is made from (out, in) by the packing that its library documents, of sizes that need not divide; that
out * in weights come back is what is asked. Its negative twins differ in one shape or dtype.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.quantized_layers import (
    AWQ,
    GPTQ,
    HQQ,
    NVFP4,
    PACKED,
    Layer,
    awq,
    chunks,
    gptq,
    int32s,
    measured,
    packed,
    without,
)

thirty_twos = st.integers(1, 12).map(lambda count: 32 * count)
powers = st.sampled_from([16, 32, 64, 128, 256])
widths = st.integers(2, 8)


def shared(inputs: int, group: int) -> int | None:
    """The group, if there are several, and no other power of two or divisor makes as many."""
    sizes = [
        size
        for size in range(16, inputs + 16, 16)
        if (size & (size - 1) == 0 or inputs % size == 0) and chunks(inputs, size) == chunks(inputs, group)
    ]
    return group if inputs > group and sizes == [group] else None


# -- words of 32 bits -----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(thirty_twos, st.integers(32, 400), widths, powers)
@example(64, 96, 4, 64)
@example(4544, 4544, 4, 128)
def test_gptq(out: int, inputs: int, bits: int, group: int) -> None:
    """An index has every input, the last run of a group may be short, and words may be cut or rounded up."""
    layer = gptq(out, inputs, bits, group)
    expected = ("GPTQ", bits, shared(inputs, group), "", out * inputs)
    assert measured(layer) == expected
    assert measured(without(layer, "scales")) == (*expected[:2], None, *expected[3:])
    rounded: Layer = {**layer, "qweight": ("int32", (int32s(inputs, bits), out))}
    assert measured(rounded) == expected
    # One of the two that say how wide a number is does as well, where it says it.
    rows = {inputs // 32 * bits, int32s(inputs, bits)}
    for rest, kept in ((without(layer, "qzeros"), layer), (without(rounded, "qzeros"), rounded)):
        fits = [
            other for other in range(2, 9)
            if kept["qweight"][1][0] in (inputs // 32 * other, int32s(inputs, other))
        ]  # fmt: skip
        assert kept["qweight"][1][0] in rows and bits in fits
        if fits == [bits]:
            assert measured(rest) == expected
        else:
            assert measured(rest) == ("GPTQ", None, None, "", None)
            room = kept["qweight"][1][0] * out * 32
            assert measured(rest, bits) == ("GPTQ", bits, None, "", room // bits)
    if inputs % 32 == 0:
        assert measured(without(layer, "g_idx")) == expected
        assert measured({**layer, "g_idx": ("int32", (0,))}) == expected
        assert measured({**layer, "g_idx": ("int32", (inputs, 1))}) == expected
        bare = without(layer, "g_idx", "qzeros")
        assert measured(bare) == ("GPTQ", None, None, "", None)
        assert measured(bare, bits) == ("GPTQ", bits, None, "", out * inputs)


@settings(max_examples=40)
@given(thirty_twos, st.integers(1, 400), st.sampled_from([2, 4, 8]), powers)
def test_awq(out: int, inputs: int, bits: int, group: int) -> None:
    layer = awq(out, inputs, bits, group)
    expected = ("AWQ", bits, shared(inputs, group), "", out * inputs)
    assert measured(layer) == expected
    assert measured(without(layer, "qzeros")) == expected
    if bits == 4:
        assert measured(without(layer, "scales")) == expected
    empty: Layer = {"qweight": ("int32", (0, 8)), "scales": ("float16", (2, 64))}
    assert measured(empty) == ("AWQ", 4, None, "", 0)


@pytest.mark.parametrize(
    ("inputs", "groups", "group"),
    [(80, 4, None), (1280, 16, 80), (144, 3, None), (96, 2, None), (320, 5, 64), (80, 81, None), (33, 3, 16)],
)
def test_a_group_is_told_where_one_size_alone_makes_as_many(
    inputs: int, groups: int, group: int | None
) -> None:
    layer: Layer = {"qweight": ("int32", (inputs, 8)), "scales": ("float16", (groups, 64))}
    assert measured(layer) == ("AWQ", 4, group, "", 64 * inputs)


PADDED = [
    (128, 32, 32), (512, 16, 64), (512, 8, 128), (512, 32, 32), (1024, 8, 128), (1152, 16, 128),
    (2560, 48, 64), (4096, 32, 128), (4096, 64, 64), (4096, 128, 32), (11008, 88, 128), (11008, 176, 64),
    (11008, 352, 32), (576, 16, 64), (1088, 32, 64), (1056, 64, 32), (4096, 33, None), (4096, 0, None),
]  # fmt: skip
"""(in, width of the scales, group), as ``calculate_zeros_width`` of autoawq works them out."""


@pytest.mark.parametrize(("inputs", "padded", "group"), PADDED)
def test_groups_of_gemv_are_padded(inputs: int, padded: int, group: int | None) -> None:
    gemv: Layer = {
        "qweight": ("int32", (96, inputs // 8)),
        "qzeros": ("int32", (96, padded // 8)),
        "scales": ("float16", (96, padded)),
    }
    fast: Layer = {
        "qweight": ("int16", (96 // 4, inputs)),
        "scales": ("float16", (padded, 96)),
        "scaled_zeros": ("float16", (padded, 96)),
    }
    assert measured(gemv) == ("AWQ", 4, group, "GEMV", 96 * inputs)
    assert measured(fast) == ("AWQ", 4, group, "GEMV fast", 96 * inputs)
    other: Layer = {**without(fast, "scaled_zeros"), "qzeros": ("float16", (padded, 96))}
    assert measured(other) == measured(fast)
    assert measured(without(fast, "scales")) == ("AWQ", 4, None, "GEMV fast", 96 * inputs)


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 2, 5]))
def test_marlin(rows: int, columns: int, groups: int) -> None:
    out, inputs = 64 * columns, 128 * rows
    layer: Layer = {
        "B": ("int32", (inputs // 16, out * 2)),
        "s": ("float16", (chunks(inputs, 128), out)),
    }
    assert measured(layer) == ("Marlin", 4, shared(inputs, 128), "", out * inputs)


@settings(max_examples=40)
@given(st.integers(1, 90), st.integers(1, 600), st.integers(1, 8), powers)
def test_pack_quantized(out: int, inputs: int, bits: int, group: int) -> None:
    """Bits are told by an index or by packed zero points; where neither does, by a config or not at all."""
    layer = packed(out, inputs, bits, group)
    words = layer["weight_packed"][1][1]
    groups = chunks(inputs, group)
    room = 32 * words // groups if groups > 1 else None
    index: Layer = {"weight_g_idx": ("int32", (inputs,))}
    zeros: Layer = {"weight_zero_point": ("int32", (int32s(out, bits), groups))}
    bytes_: Layer = {"weight_zero_point": ("int8", (out, groups))}
    by_index = {other for other in range(1, 9) if words in (inputs // 32 * other, int32s(inputs, other))}
    by_zeros = {
        other for other in range(1, 9) if int32s(out, bits) in (out // 32 * other, int32s(out, other))
    }
    for more, fits in (
        ({}, set(range(1, 9))),
        (bytes_, set(range(1, 9))),
        (index, by_index),
        (zeros, by_zeros),
        (index | zeros, by_index & by_zeros),
        (zeros | {"weight_g_idx": ("int32", (0,))}, by_zeros),
    ):
        found = measured(layer | more)
        assert bits in fits
        if fits == {bits}:
            counted = (
                inputs if "weight_g_idx" in more and more["weight_g_idx"][1] != (0,) else 32 * words // bits
            )
            assert found == (
                "compressed-tensors",
                bits,
                shared(counted, group) if chunks(counted, group) == groups else found and found[2],
                "",
                out * counted,
            )
        else:
            assert found == ("compressed-tensors", None, None, "", None)
            by_room = None if room is None else room // bits
            told = ("compressed-tensors", bits, by_room, "", 32 * words * out // bits)
            assert measured(layer | more, bits) == told


# -- bytes ----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([64, 128, 4096]), st.sampled_from(["nf4", "fp4"])
)
@example(10, 10, 64, "nf4")
def test_bitsandbytes_4(out: int, half: int, block: int, kind: str) -> None:
    numel = out * half * 2
    layer: Layer = {
        "weight": ("uint8", (numel // 2, 1)),
        "weight.absmax": ("float32", (chunks(numel, block),)),
        "weight.quant_map": ("float32", (16,)),
        f"weight.quant_state.bitsandbytes__{kind}": ("uint8", (80,)),
    }
    group = shared(numel, block)
    assert measured(layer) == ("bitsandbytes", 4, group, kind.upper(), numel)
    assert measured(without(layer, "weight.quant_map")) == ("bitsandbytes", 4, group, kind.upper(), numel)
    for lost in (without(layer, "weight.absmax"), {**layer, "weight.absmax": ("float32", (0,))}):
        assert measured(lost) == ("bitsandbytes", 4, None, kind.upper(), numel)
    untyped = without(layer, f"weight.quant_state.bitsandbytes__{kind}")
    for state in ({}, {"weight.quant_state.bitsandbytes__int5": ("uint8", (80,))}):
        assert measured(untyped | state) == ("bitsandbytes", 4, group, "", numel)


@pytest.mark.parametrize(
    ("weight", "scale", "word"),
    [
        ((300, 500), (), "per tensor"),
        ((300, 500), (1,), "per tensor"),
        ((300, 500), (1, 1), "per tensor"),
        ((300, 500), (0,), "per tensor"),
        ((300, 500), (300,), "per channel"),
        ((300, 500), (300, 1), "per channel"),
        ((300, 500), (500,), "per channel"),
        ((300, 500), (2,), ""),
        ((300, 500), (3, 4), "blocks of 128×128"),
        ((256, 512), (2, 4), "blocks of 128×128"),
        ((257, 513), (3, 5), "blocks of 128×128"),
        ((576, 7168), (5, 56), "blocks of 128×128"),
        ((300, 500), (300, 16), "blocks of 1×32"),
        ((300, 500), (1, 500), "blocks of 512×1"),
        ((300, 500), (1, 2), "blocks of 512×256"),
        ((90, 90), (3, 3), "blocks of 32×32"),
        ((100, 90), (7, 9), "blocks of 16×10"),
        ((4, 256, 384), (4, 2, 3), "blocks of 128×128"),
        ((4, 256, 384), (2, 3), ""),
        ((4, 256, 384), (4, 256, 1), ""),
        ((4, 256, 384), (4, 1, 1), "per channel"),
        ((6,), (6,), "per channel"),
        ((6,), (3,), ""),
    ],
)
def test_what_shares_a_scale_of_eight_bits(
    weight: tuple[int, ...], scale: tuple[int, ...], word: str
) -> None:
    numel = 1
    for size in weight:
        numel *= size
    cases = [
        ("int8", "bitsandbytes", "SCB"), ("int8", "EETQ", "weight_scales"), ("int8", "int8", "weight_scale"),
        *((dtype, "FP8", name)
          for dtype in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
          for name in ("weight_scale_inv", "weight_scale", "scale_weight")),
    ]  # fmt: skip
    for dtype, scheme, name in cases:
        layer: Layer = {"weight": (dtype, weight), name: ("float32", scale)}
        assert measured(layer) == (scheme, 8, None, word, numel), (dtype, name)
    # Without the scale of it, what is told from another member says nothing of a grain.
    layer = {"weight": ("int8", weight), "weight_format": ("uint8", ())}
    assert measured(layer) == ("bitsandbytes", 8, None, "", numel)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9))
def test_four_bits_in_bytes(out: int, groups: int) -> None:
    for inputs, scale, scheme, members in (
        (16, "float8_e4m3fn", "NVFP4", {"weight_global_scale": ("float32", (1,))}),
        (32, "uint8", "MXFP4", {}),
    ):
        layer: Layer = {
            "weight_packed": ("uint8", (out, groups * inputs // 2)),
            "weight_scale": (scale, (out, groups)),
            **members,
        }
        numel = out * groups * inputs
        assert measured(layer) == (scheme, 4, inputs, "", numel)
        assert measured({**layer, "weight_scale": (scale, (0, groups))}) == (scheme, 4, None, "", numel)
    mxfp6: Layer = {
        "weight_packed": ("uint8", (out, groups * 24)), "weight_scale": ("uint8", (out, groups)),
    }  # fmt: skip
    assert measured(mxfp6) == ("MXFP6", 6, 32, "", out * groups * 32)
    modelopt: Layer = {
        "weight": ("uint8", (out, groups * 8)),
        "weight_scale": ("float8_e4m3fn", (out, groups)),
        "weight_scale_2": ("float32", ()),
    }
    assert measured(modelopt) == ("NVFP4", 4, 16, "", out * groups * 16)
    assert measured(without(modelopt, "weight_scale")) == ("NVFP4", 4, None, "", out * groups * 16)
    gpt_oss: Layer = {
        "experts_blocks": ("uint8", (3, out, groups, 16)),
        "experts_scales": ("uint8", (3, out, groups)),
    }
    assert measured(gpt_oss) == ("MXFP4", 4, 32, "", 3 * out * groups * 32)
    two: Layer = {"blocks": ("uint8", (groups, 8)), "scales": ("uint8", (groups,))}
    assert measured(two) == ("MXFP4", 4, 16, "", groups * 16)


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 70))
def test_bitnet(rows: int, inputs: int) -> None:
    layer: Layer = {"weight": ("uint8", (rows, inputs)), "weight_scale": ("bfloat16", (1,))}
    assert measured(layer) == ("BitNet", 2, None, "ternary", 4 * rows * inputs)
    assert measured({**layer, "weight_scale": ("bfloat16", ())}) == (
        "BitNet",
        2,
        None,
        "ternary",
        4 * rows * inputs,
    )


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 35).map(lambda half: 4 * half), st.sampled_from([1, 2, 4, 8]))
def test_hqq(eights: int, group: int, bits: int) -> None:
    """Rows of one group each, packed along the first axis; or turned, which does not tell the bits."""
    rows = 8 * eights
    scale: Layer = {"scale": ("float16", (rows, 1)), "zero": ("float16", (rows, 1))}
    for dtype, each in (("uint8", 1), ("float16", 2), ("bfloat16", 2)):
        layer: Layer = {"W_q": (dtype, (rows * bits // 8, group // each)), **scale}
        assert measured(layer) == ("HQQ", bits, group, "", rows * group)
    three: Layer = {"W_q": ("int32", (chunks(rows, 10), group)), **scale}
    assert measured(three) == ("HQQ", 3, group, "", rows * group)
    seen: Layer = {"W_q": ("float16", (chunks(rows, 10), group * 2)), **scale}
    if rows not in (each * chunks(rows, 10) for each in (1, 2, 4, 8)):  # else it is a packed byte
        assert measured(seen) == ("HQQ", 3, group, "", rows * group)
    across: Layer = {"scale": ("float16", (1, rows)), "zero": ("float16", (1, rows))}
    for dtype, each in (("uint8", 1), ("float16", 2)):
        turned: Layer = {"W_q": (dtype, (group, rows // each)), **across}
        assert measured(turned) == ("HQQ", None, None, "", None)
        assert measured(turned, bits) == ("HQQ", bits, 8 * group // bits, "", 8 * group * rows // bits)
    three = {"W_q": ("int32", (group, rows)), **across}
    assert measured(three) == ("HQQ", 3, None, "", None)
    assert measured({"W_q": ("bfloat16", (group, 2 * rows)), **across}) == ("HQQ", 3, None, "", None)
    # Bytes are no int32, whatever has their number.
    assert measured({"W_q": ("uint8", (group, 4 * rows)), **across}) is None
    assert (
        measured({"W_q": ("uint8", (chunks(rows, 10), group)), **scale}) is None
        or rows % chunks(rows, 10) == 0
    )


@pytest.mark.parametrize("anchor", ["weight._data", "weight._data._data"])
@settings(max_examples=40)
@given(st.integers(3, 40), st.integers(1, 40), st.sampled_from([2, 4]))
def test_quanto(anchor: str, groups: int, group: int, bits: int) -> None:
    whole: Layer = {"weight._data": ("int8", (groups, group)), "weight._scale": ("float16", (groups, 1))}
    assert measured(whole) == ("quanto", 8, None, "per channel", groups * group)
    shift: Layer = {"weight._shift": ("float16", (groups, 1))}
    rows: Layer = {anchor: ("uint8", (chunks(groups * bits, 8), group)), **shift}
    rows["weight._scale"] = ("float16", (groups, 1))
    assert measured(rows) == ("quanto", bits, group, "", groups * group)
    bare = measured(without(rows, "weight._shift"))  # which tells packed ones of the same name apart
    if anchor == "weight._data":
        assert bare is not None and (bare[:3], bare[4]) == (("quanto", 8, None), rows[anchor][1][0] * group)
    else:
        assert bare == measured(rows) and measured({**rows, anchor: ("uint8", (2, 2, 2))}) is None
    turned: Layer = {**rows, anchor: ("uint8", (group, groups)), "weight._scale": ("float16", (1, groups))}
    assert measured(turned) == ("quanto", None, None, "", None)
    assert measured(turned, bits) == ("quanto", bits, 8 * group // bits, "", 8 * group * groups // bits)
    lost = without(turned, "weight._scale")
    assert measured(lost) == ("quanto", None, None, "", None)
    assert measured(lost, bits) == ("quanto", bits, None, "", 8 * group * groups // bits)


@pytest.mark.parametrize("stem", ["weight:", "_weight_", "weight_"])
@settings(max_examples=40)
@given(st.integers(2, 40), st.integers(1, 40))
def test_torchao(stem: str, groups: int, more: int) -> None:
    """A scale for each group: a column of (out, groups), or a row of (groups, out)."""
    out = groups + more
    numel = out * groups * 32
    for name in ("scale", "group_scale"):
        scale: Layer = {f"{stem}{name}": ("float32", (out, groups))}
        for dtype, columns, bits in (
            ("uint8", 16, 4), ("int32", 4, 4), ("int8", 32, 8), ("float8_e4m3fn", 32, 8),
        ):  # fmt: skip
            layer: Layer = {f"{stem}qdata": (dtype, (out, groups * columns))}
            assert measured(layer | scale) == ("torchao", bits, 32, "", numel), dtype
            assert measured(layer) is None
            one: Layer = {f"{stem}{name}": ("float32", (out, 1))}
            if bits == 8:
                assert measured(layer | one) == ("torchao", 8, None, "", numel)
            empty: Layer = {f"{stem}{name}": ("float32", (0, groups))}
            group = 32 if bits == 8 else None
            assert measured(layer | empty) == ("torchao", bits, group, "", numel)
    both: Layer = {f"{stem}scale_and_zero": ("bfloat16", (groups, out, 2))}
    assert measured({f"{stem}qdata": ("int32", (out, groups * 4)), **both}) == ("torchao", 4, 32, "", numel)
    rows: Layer = {f"{stem}scale": ("bfloat16", (groups, out))}
    for dtype, columns, bits in (("int8", 16, 4), ("uint8", 16, 4), ("float8_e5m2", 32, 8)):
        found = measured({f"{stem}qdata": (dtype, (out, groups * columns)), **rows})
        assert found is not None and (*found[:2], found[4]) == ("torchao", bits, numel), dtype
        assert found[2] == 32 or bits == 8
    square: Layer = {f"{stem}qdata": ("int8", (out, 7)), f"{stem}scale": ("bfloat16", (out, out))}
    assert measured(square) == ("torchao", None, None, "", None)
    assert measured(square, 4) == ("torchao", 4, None, "", out * 14)
    each_row: Layer = {f"{stem}scale": ("float32", (out,))}
    for dtype, bits, each in (("int8", 8, 1), ("float8_e4m3fn", 8, 1), ("uint8", 4, 2)):
        found = measured({f"{stem}qdata": (dtype, (out, 2 * out)), **each_row})
        group = 2 * out * each if bits == 4 else None
        assert found == ("torchao", bits, group, "", 2 * out * out * each), dtype
    scalar: Layer = {f"{stem}qdata": ("int8", (out,)), f"{stem}scale": ("float32", ())}
    assert measured(scalar) == ("torchao", 8, None, "", out)


# -- what is refused ------------------------------------------------------------------------------------

GEMV: Layer = {"qweight": ("int32", (96, 64)), "qzeros": ("int32", (96, 1)), "scales": ("float16", (96, 8))}
FAST: Layer = {
    "qweight": ("int16", (24, 512)),
    "scales": ("float16", (8, 96)),
    "scaled_zeros": ("float16", (8, 96)),
}
MARLIN: Layer = {"B": ("int32", (8, 128)), "s": ("float16", (1, 64))}
MXFP4: Layer = {"blocks": ("uint8", (4, 16)), "scales": ("uint8", (4,))}
BITNET: Layer = {"weight": ("uint8", (4, 8)), "weight_scale": ("float32", (1,))}
BLANK: Layer = {}


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        (GPTQ, {"qweight": ("int32", (1024,))}),
        (GPTQ, {"qweight": ("int32", (16, 64, 1))}),
        (GPTQ, {"qweight": ("float32", (16, 64))}),
        (GPTQ, {"scales": ("float16", (4, 65))}),
        (GPTQ, {"g_idx": ("int32", (100,))}), (GPTQ, {"g_idx": ("int32", (16,))}),
        (GPTQ, {"qzeros": ("int32", (4, 7))}), (GPTQ, {"qzeros": ("int32", (4, 6))}),
        (without(GPTQ, "g_idx"), {"scales": ("float16", (9, 64))}),
        (without(GPTQ, "g_idx"), {"qzeros": ("int32", (4, 64))}),
        (without(GPTQ, "g_idx", "qzeros", "scales"), BLANK),
        (AWQ, {"scales": ("float16", (4, 65))}),
        (AWQ, {"scales": ("float16", (4, 63))}),
        (AWQ, {"scales": ("float16", (4, 96))}), (AWQ, {"qzeros": ("int32", (4, 9))}),
        (AWQ, {"g_idx": ("int32", (128,))}),
        (AWQ, {"scales": ("float16", (4, 16))}),
        (AWQ, {"qweight": ("int32", (128, 8, 1))}),
        (without(AWQ, "scales"), {"qzeros": ("int32", (4, 9))}),
        (without(AWQ, "scales", "qzeros"), BLANK),
        (GEMV, {"scales": ("float16", (95, 8))}),
        (FAST, {"qweight": ("int16", (24, 8, 64))}),
        (without(FAST, "scaled_zeros", "scales"), BLANK),
        (MARLIN, {"s": ("float16", (1, 65))}),
        (MARLIN, {"s": ("float16", (64,))}),
        (MARLIN, {"B": ("int32", (8, 128, 1))}),
        (without(MARLIN, "s"), BLANK),
        (PACKED, {"weight_packed": ("int32", (64, 16, 1))}),
        (MXFP4, {"blocks": ("uint8", (64,))}),
        (without(MXFP4, "scales"), BLANK),
        (NVFP4, {"weight_scale": ("float32", (4, 1))}),
        (BITNET, {"weight_scale": ("float32", (2,))}),
        (without(BITNET, "weight_scale"), BLANK),
        (HQQ, {"W_q": ("uint8", (4, 4, 4))}),
        (HQQ, {"W_q": ("uint8", (5, 16))}), (HQQ, {"W_q": ("uint8", (0, 16))}),
        (HQQ, {"W_q": ("int32", (4, 16))}),
        (HQQ, {"scale": ("float16", (9, 1))}),
        (HQQ, {"scale": ("float16", (1, 8))}),
        (without(HQQ, "scale"), BLANK),
    ],
)  # fmt: skip
def test_shapes_that_contradict_each_other_are_of_no_scheme(layer: Layer, change: Layer) -> None:
    assert measured({**layer, **change}) is None
    assert not change or measured(layer) is not None


@pytest.mark.parametrize(
    ("layer", "scheme"),
    [
        (GPTQ, "GPTQ"), (AWQ, "AWQ"), (GEMV, "AWQ"), (FAST, "AWQ"), (PACKED, "compressed-tensors"),
        (NVFP4, "NVFP4"), (without(NVFP4, "weight_global_scale"), "NVFP4"), (BITNET, "BitNet"),
        ({**BITNET, "weight_scale_2": ("float32", ())}, None),
        ({**BITNET, "weight_scale_2": ("float32", ()), "weight_scale": ("float8_e4m3fn", (4, 1))}, "NVFP4"),
    ],
)  # fmt: skip
def test_what_schemes_share_goes_to_the_one_whose_shapes_fit(layer: Layer, scheme: str | None) -> None:
    """``qweight`` of GPTQ and AWQ, ``weight_packed`` and a packed ``weight`` of three others."""
    one = measured(layer)
    assert (one and one[0]) == scheme


def test_an_index_or_zero_points_that_contradict_the_words_tell_no_bits() -> None:
    for more in ({"weight_g_idx": ("int32", (16,))}, {"weight_zero_point": ("int32", (65, 4))}):
        assert measured(PACKED | more) == ("compressed-tensors", None, None, "", None)  # type: ignore[operator]
