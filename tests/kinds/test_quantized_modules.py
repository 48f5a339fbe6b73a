"""Which entries are one quantised module, what it lacks or has too much, and what all of them make."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.kinds.quantized import Fault, Survey, may_be_quantized
from ckpttool.kinds.quantized_modules import survey_modules
from ckpttool.values.checkpoint import CompositeTensor, Entry, OddKey, Part, TensorInfo
from ckpttool.values.dtypes import BY_NAME
from tests.support.classified import entry
from tests.support.quantized_layers import GPTQ, HQQ, NVFP4, Layer
from tests.support.work import lines

F8 = "float8_e4m3fn"

INT8: Layer = {"weight": ("int8", (8, 4)), "weight_scale": ("float32", (8, 1))}
FP8: Layer = {"weight": (F8, (8, 4)), "weight_scale": ("float32", (1,))}
BNB4: Layer = {
    "weight": ("uint8", (64, 1)), "weight.absmax": ("float32", (2,)), "weight.quant_map": ("float32", (16,)),
    "weight.quant_state.bitsandbytes__nf4": ("uint8", (80,)),
}  # fmt: skip
QUANTO: Layer = {"weight._data": ("int8", (8, 4)), "weight._scale": ("float16", (8, 1))}
TORCHAO: Layer = {"weight:qdata": ("int8", (8, 4)), "weight:scale": ("float32", (8, 1))}


def module(path: str, layer: Layer, *lost: str, root: Any = ()) -> list[Entry]:
    above = f"{path}." if path else ""
    return [entry(f"{above}{name}", *leaf, root=root) for name, leaf in layer.items() if name not in lost]


def survey(*modules: list[Entry]) -> Survey:
    found = survey_modules([item for entries in modules for item in entries])
    assert found is not None
    return found


def said(found: Survey) -> list[tuple[Any, ...]]:
    return [tuple(item) for item in found.quantizations]


# -- which entries are one module -----------------------------------------------------------------------


@pytest.mark.parametrize("layer", [BNB4, QUANTO])
@pytest.mark.parametrize("path", ["", "a", "a.b", "weight", "a.weight.b", "my_weight"])
def test_members_below_a_weight_are_of_its_module(path: str, layer: Layer) -> None:
    found = survey(module(path, layer))
    assert [item.modules for item in found.quantizations] == [1]
    assert found.faults == ()
    lost = next(name for name in layer if name not in ("weight", "weight._data"))
    assert [fault.paths for fault in survey(module(path, layer, lost), module("z", layer)).faults] == [
        (path,)
    ]


@pytest.mark.parametrize("name", ["weight.other", "myweight.absmax", "a.weights.absmax", "weight.xabsmax"])
def test_what_only_looks_like_a_member_below_a_weight_is_none(name: str) -> None:
    found = survey(module("a", BNB4), [entry(f"a.{name}", "float32", (2,))])
    assert len(found.entries) == 4 and found.faults == ()
    assert survey_modules([entry(name), entry(f"{name}.scale")]) is None


@pytest.mark.parametrize("path", ["", "mlp"])
@pytest.mark.parametrize("order", [1, -1])
def test_several_weights_of_one_module_are_taken_apart(path: str, order: int) -> None:
    experts: Layer = {
        "up_blocks": ("uint8", (4, 2, 16)), "up_scales": ("uint8", (4, 2)), "up_bias": ("float16", (4,)),
        "down_blocks": ("uint8", (3, 2, 16)), "down_scales": ("uint8", (3, 2)),
    }  # fmt: skip
    above = f"{path}." if path else ""
    found = survey(module(path, experts)[::order])
    assert said(found) == [("MXFP4", 4, 32, "", 2, (4 + 3) * 2 * 32)]
    lost = survey(module(path, experts, "down_scales")[::order])
    assert lost.faults == (Fault("MXFP4", "scales", True, True, (f"{above}down",)),)
    stacked: Layer = {
        "up": (F8, (2, 8, 4)), "up_scale_inv": ("float32", (2, 8, 1)), "down": (F8, (2, 4, 8)),
        "down_scale": ("float32", (1,)), "plain": (F8, (3,)), "up_bias": ("float32", (8,)),
    }  # fmt: skip
    found = survey(module(path, stacked)[::order])
    assert sorted(said(found)) == [("FP8", 8, None, "", 1, 64), ("FP8", 8, None, "per tensor", 1, 64)]
    assert found.weights == 128 and len(found.entries) == 4 and found.faults == ()


def test_blocks_and_scales_of_no_stem_are_a_module_themselves() -> None:
    layer: Layer = {"blocks": ("uint8", (4, 16)), "scales": ("uint8", (4,))}
    assert said(survey(module("a", layer))) == [("MXFP4", 4, 32, "", 1, 128)]
    assert survey_modules(module("a", {"_blocks": layer["blocks"], "scales": layer["scales"]})) is None


def test_modules_of_one_path_under_two_roots_are_two() -> None:
    found = survey(module("a", INT8, root=("model",)), module("a", INT8, root=("ema",)))
    assert said(found) == [("int8", 8, None, "per channel", 2, 64)]


def test_what_has_no_name_no_value_or_parts_is_no_member() -> None:
    extra = [
        entry(5, "int8", (8, 4)), entry(OddKey("1.5", True), "int8", (2,)),
        Entry((), "a.weight_zero_point", None),
        Entry((), "a.input_scale", CompositeTensor("sparse_coo", "torch.Tensor", None, None, ())),
    ]  # fmt: skip
    found = survey(extra, module("a", INT8))
    assert said(found) == [("int8", 8, None, "per channel", 1, 32)]
    assert len(found.entries) == 2 and found.faults == ()
    assert survey_modules(extra) is None and survey_modules([]) is None


def test_entries_of_a_module_are_those_of_its_scheme() -> None:
    layer = {
        **INT8,
        "bias": ("float32", (8,)),
        "weight_zero_point": ("int8", (8, 1)),
        "other": ("int8", (4,)),
    }
    entries = module("a", layer)
    found = survey(entries, module("b", BNB4), module("c", {"weight": ("float32", (4,))}))
    names = {item.name for item in entries if id(item) in found.entries}
    assert names == {"a.weight", "a.weight_scale", "a.weight_zero_point"}
    assert len(found.entries) == 3 + 4


# -- what is lacking ------------------------------------------------------------------------------------


def faults(*modules: list[Entry]) -> list[tuple[Any, ...]]:
    return [tuple(item) for item in survey(*modules).faults]


def test_each_member_that_is_gone_is_named_with_its_modules() -> None:
    whole = [module(f"m{at}", GPTQ) for at in range(3)]
    found = faults(*whole, module("a", GPTQ, "scales"), module("b", GPTQ, "scales", "qzeros"))
    assert found == [
        ("GPTQ", "scales", True, True, ("a", "b")),
        ("GPTQ", "qzeros", True, True, ("b",)),
    ]
    assert faults(*whole, module("a", GPTQ, "qweight")) == [("GPTQ", "qweight", True, True, ("a",))]
    # One everyday name says nothing, two of them do.
    hqqs = [module(f"m{at}", HQQ) for at in range(2)]
    assert faults(*hqqs, module("a", HQQ, "W_q")) == [("HQQ", "W_q", True, True, ("a",))]
    assert faults(*hqqs, module("a", HQQ, "W_q", "zero"), module("b", HQQ, "W_q", "scale")) == []
    assert faults(*hqqs, module("a", {**HQQ, "weight": ("float16", (4,))}, "W_q")) == []


def test_a_weight_beside_the_packed_one_or_a_member_of_another_scheme_is_too_much() -> None:
    both = {**GPTQ, "weight": ("float16", (64, 128)), "SCB": ("float32", (64,)), "bias": ("float16", (64,))}
    assert faults(module("a", both), module("b", GPTQ)) == [
        ("GPTQ", "weight", False, False, ("a",)), ("GPTQ", "SCB", False, False, ("a",)),
    ]  # fmt: skip
    # A plain weight in the place of the packed one is a layer that was not quantised.
    plain = {**GPTQ, "weight": ("float16", (64, 128))}
    assert faults(module("a", plain, "qweight"), module("b", GPTQ)) == []


@pytest.mark.parametrize(
    ("able", "lacking", "fault"),
    [(5, 0, 0), (5, 1, 1), (5, 2, 1), (4, 2, 0), (5, 3, 0), (2, 1, 0), (1, 1, 0), (3, 1, 1)],
)
def test_what_most_modules_have_the_others_lack(able: int, lacking: int, fault: int) -> None:
    modules = [module(f"m{at}", GPTQ, *(["g_idx"] if at < lacking else [])) for at in range(able)]
    paths = tuple(f"m{at}" for at in range(lacking))
    assert faults(*modules) == ([("GPTQ", "g_idx", True, False, paths)] if fault else [])


def test_modules_of_two_kinds_of_one_scheme_are_asked_for_their_own_members() -> None:
    """bitsandbytes has two: nested statistics are of four bits alone."""
    eight: Layer = {
        "weight": ("int8", (8, 4)),
        "SCB": ("float32", (8,)),
        "weight_format": ("uint8", ()),
    }
    nested = {
        **BNB4,
        "weight.nested_absmax": ("float32", (1,)),
        "weight.nested_quant_map": ("float32", (256,)),
    }
    fours = [module(f"n{at}", nested) for at in range(3)]
    assert faults(*fours, module("a", eight), module("b", eight)) == []
    found = faults(*fours, module("x", BNB4), *[module(f"e{at}", eight) for at in range(9)])
    assert found == [
        ("bitsandbytes", "weight.nested_absmax", True, False, ("x",)),
        ("bitsandbytes", "weight.nested_quant_map", True, False, ("x",)),
    ]


def test_without_an_example_in_the_file_more_than_an_anchor_must_speak() -> None:
    """Shapes that contradict each other, in a file that holds nothing else."""
    odd = {**GPTQ, "qweight": ("int32", (16, 63))}
    found = survey(module("a", odd))
    assert said(found) == [] and found.weights == 0 and found.faults == ()
    assert len(found.entries) == 4
    assert survey_modules(module("a", odd, "qzeros", "g_idx")) is None
    # `weight` and `blocks` are everywhere: a stray scale beside one says nothing.
    assert (
        survey_modules(module("a", {"weight": ("float32", (4,)), "weight_scale": ("float32", (4,))})) is None
    )
    assert survey_modules(module("a", {"g_idx": ("int32", (4,)), "qzeros": ("int32", (4, 4))})) is None


def test_in_a_file_of_examples_an_anchor_alone_is_a_module() -> None:
    odd = {"qweight": ("int32", (16, 64, 1))}
    assert faults(module("m", GPTQ), module("a", odd)) == [
        ("GPTQ", "scales", True, True, ("a",)), ("GPTQ", "qzeros", True, True, ("a",)),
    ]  # fmt: skip
    # Of another dtype it is none of them.
    assert faults(module("m", GPTQ), module("a", {"qweight": ("float32", (16, 64))})) == []
    # The scheme that most modules follow is asked first.
    int8s = [module(f"i{at}", INT8) for at in range(2)]
    other = {"weight_scale": ("float32", (8, 1))}
    assert faults(*int8s, module("f", FP8), module("a", other)) == [("int8", "weight", True, True, ("a",))]
    fp8s = [module(f"f{at}", FP8) for at in range(3)]
    assert faults(*int8s, *fp8s, module("a", other)) == [("FP8", "weight", True, True, ("a",))]


# -- all of them together -------------------------------------------------------------------------------


def test_what_there_is_most_of_comes_first() -> None:
    small, large = module("s", INT8), module("l", GPTQ)
    for order in ((small, large), (large, small)):
        found = survey(*order)
        assert said(found) == [("GPTQ", 4, 32, "", 1, 8192), ("int8", 8, None, "per channel", 1, 32)]
        assert found.weights == 8192 + 32


def test_an_incomplete_module_costs_the_same_beside_few_kinds_and_many() -> None:
    def found(kinds: int, lacking: int) -> int:
        shapes = [{"blocks": ("uint8", (2, k + 1)), "scales": ("uint8", (2,))} for k in range(kinds)]
        whole = [module(f"a{k}", layer) for k, layer in enumerate(shapes)]
        rest = [module(f"b{k}", NVFP4, "weight_global_scale") for k in range(lacking)]
        return len(survey(*whole, *rest).quantizations)

    assert found(10, 10) == 11
    few, many = (
        lines(lambda n=n: found(n, 200)) - lines(lambda n=n: found(n, 0))  # type: ignore[misc]
        for n in (20, 400)
    )
    assert many < 1.2 * few


@pytest.mark.parametrize("order", [1, -1])
def test_what_cannot_be_told_of_an_incomplete_module_is_as_in_the_others(order: int) -> None:
    modules = [module("a", GPTQ, "scales"), module("b", GPTQ), module("c", NVFP4)][::order]
    assert said(survey(*modules)) == [
        ("GPTQ", 4, 32, "", 2, 2 * 8192), ("NVFP4", 4, 16, "", 1, 64),
    ]  # fmt: skip
    # Of other bits, or alone, it stays what it is.
    eight = {**GPTQ, "qweight": ("int32", (32, 64)), "qzeros": ("int32", (4, 16))}
    modules = [module("a", eight, "scales"), module("b", GPTQ)][::order]
    assert sorted(said(survey(*modules)), key=str) == [
        ("GPTQ", 4, 32, "", 1, 8192), ("GPTQ", 8, None, "", 1, 8192),
    ]  # fmt: skip
    assert said(survey(module("a", GPTQ, "scales"))) == [("GPTQ", 4, None, "", 1, 8192)]


def wrapped(
    name: str,
    shape: tuple[int, ...],
    *held: tuple[str, tuple[int, ...]],
    type_name: str = "torchao.dtypes.AffineTensor",
) -> Entry:
    parts = tuple(
        Part(f"p{at}", TensorInfo(BY_NAME[dtype], size, (0,) * len(size), 0, None))
        for at, (dtype, size) in enumerate(held)
    )
    return Entry((), name, CompositeTensor("subclass", type_name, BY_NAME["bfloat16"], shape, parts))


def test_tensor_subclasses_of_torchao_have_the_bits_of_their_largest_part() -> None:
    four = wrapped("a", (8, 4), ("float32", (2,)), ("uint8", (8, 2)), ("uint8", (2,)))
    eight = wrapped("b", (8, 8), ("int8", (8, 8)), ("float32", (8,)))
    empty = wrapped("c", (0, 4))
    found = survey([four, eight, empty, wrapped("d", (9, 9), ("int8", (9, 9)), type_name="mine.torchao.T")])
    assert said(found) == [
        ("torchao", 8, None, "", 1, 64), ("torchao", 4, None, "", 1, 32), ("torchao", 0, None, "", 1, 0),
    ]  # fmt: skip
    assert said(survey([wrapped("e", (2,))])) == [("torchao", 0, None, "", 1, 2)]
    assert found.weights == 96 and found.entries == {id(four), id(eight), id(empty)}
    both = survey([eight], module("m", TORCHAO))
    assert said(both) == [("torchao", 8, None, "", 2, 96)] and len(both.entries) == 3


# -- whether to look at all -----------------------------------------------------------------------------


def test_a_survey_is_made_where_a_name_or_a_composite_asks_for_it() -> None:
    plain = [entry("a.weight"), entry("a.bias")]
    for layer in (GPTQ, INT8, FP8, BNB4, NVFP4, QUANTO, TORCHAO):
        entries = module("a", layer)
        assert may_be_quantized(entries, "\n".join(str(item.name) for item in entries))
    assert not may_be_quantized(plain, "a.weight\na.bias")
    assert may_be_quantized([*plain, wrapped("c", (1,))], "a.weight\na.bias\nc")
