"""Folding numbers inside parts, and by module: what belongs to one block is not folded with another's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckpttool.names.fold import fold_names, fold_rows
from tests.names.test_fold import assert_lossless, patterns, row

LINEAR = (("weight", (4, 4)), ("bias", (4,)))
NORM = (("weight", (4,)), ("bias", (4,)), ("running_mean", (4,)))
LAYER_NORM = (("weight", (4,)), ("bias", (4,)))


def folded_by_module(*modules: tuple[tuple[str, tuple[int, ...]], ...]) -> list[tuple[str, int]]:
    rows = [row(f"{at}.{leaf}", shape) for at, module in enumerate(modules) for leaf, shape in module]
    folded = fold_rows(rows, by_module=True)
    assert_lossless(rows, folded)
    return [(item.pattern, item.count) for item in folded]


def test_numbers_between_underscores_are_indices() -> None:
    assert patterns([row(f"{at}_convolution.w") for at in range(5)]) == [("{0..4}_convolution.w", 5)]
    rows = [row(f"{at}_conv._w3j_{left}_1_2") for at in range(2) for left in (1, 2)]
    assert patterns(rows) == [("{0..1}_conv._w3j_{1..2}_1_2", 4)]
    assert [count for _, count in patterns([row("conv1.w"), row("conv2.w")])] == [1, 1]
    assert [count for _, count in patterns([row("a_01.w"), row("a_02.w")])] == [1, 1]
    assert [count for _, count in patterns([row("a.1.w"), row("a_2.w")])] == [1, 1]


def test_a_bias_of_a_norm_is_not_folded_with_that_of_a_linear_layer() -> None:
    for norm in (NORM, LAYER_NORM):
        found = folded_by_module(LINEAR, norm, LINEAR, norm)
        assert ("{0,2}.bias", 2) in found and ("{1,3}.bias", 2) in found
    # Without asking for it they are: those who fold names of a few have no modules to look at.
    assert patterns([row("0.bias", (4,)), row("1.bias", (4,)), row("0.weight", (4, 4))])[0] == (
        "{0..1}.bias",
        2,
    )


def test_equal_modules_fold_whole_and_names_of_no_module_as_ever() -> None:
    assert folded_by_module(LINEAR, LINEAR) == [("{0..1}.weight", 2), ("{0..1}.bias", 2)]
    rows = [row("step", (), ("state", at)) for at in range(3)]
    rows += [row("extra", (), ("state", 0))]
    assert [item.count for item in fold_rows(rows, by_module=True)] == [3, 1]


parts = st.sampled_from(["0", "1", "2", "10", "_1_", "a_0_1", "1_b", "w_01", "{", "w", "", "_", "0_0"])


@given(st.lists(st.lists(parts, min_size=1, max_size=4).map(".".join), max_size=30))
def test_names_with_numbers_inside_parts_come_back(names: list[str]) -> None:
    rows = [row(name) for name in names]
    assert_lossless(rows, fold_rows(rows))
    assert_lossless(rows, fold_rows(rows, by_module=True))
    assert sum(item.count for item in fold_names(names)) == len(names)
