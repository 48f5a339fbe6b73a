"""The table of names: what is looked up before what, and that every row of it is found."""

from __future__ import annotations

import pytest

from ckpttool.kinds import known_names_table as data
from ckpttool.kinds.known_names import RULES, NameTable, load_name_table, shape_code
from ckpttool.values.checkpoint import Basis, Kind

SHAPES = {"": (3, 5, 7), "n": (9,), "2 x n": (2, 9), "1 x 1 x n x n": (1, 1, 4, 4)}
"""A shape for each that the table can ask for."""


def test_every_name_of_the_table_is_found_with_its_note() -> None:
    table = NameTable()
    for kind, rules in RULES.items():
        for rule in rules:
            for name in rule.names.split():
                module, _, leaf = name.rpartition(".")
                said = table.find(leaf, module or "any", shape_code(SHAPES[rule.shape]))
                assert said is not None and said.kind is kind, name
                assert said.basis is (Basis.NONE if kind is Kind.UNKNOWN else Basis.NAME)
                assert (said.note, said.rebuilt_since) == (rule.note, rule.note if rule.rebuilt else "")
            for ending in rule.endings.split():
                said = table.find(f"zz{ending}", "any", 3)
                assert said is not None and (said.kind, said.note) == (kind, rule.note), ending
    assert table.missing["rotary_emb"].names == "inv_freq"
    assert set(table.missing) == {name for rule in data.MISSING for name in rule.modules.split()}
    assert table.of_torch == load_name_table().find("bias_hh_l0", "", 1)


@pytest.mark.parametrize(
    ("leaf", "module", "shape", "kind"),
    [
        # A shape before none, a module before none, the name as it stands before the one without its number.
        ("bias", "attn", (1, 1, 8, 8), Kind.PERSISTENT_BUFFER),
        ("bias", "attn", (1, 1, 8, 9), Kind.PARAMETER),
        ("freqs", "any", (9,), Kind.PERSISTENT_BUFFER),
        ("freqs", "any", (9, 9), Kind.UNKNOWN),
        ("positional_embedding", "any", (2, 9), Kind.PERSISTENT_BUFFER),
        ("positional_embedding", "encoder", (3, 9), Kind.UNKNOWN),
        ("positional_embedding", "any", (3, 9), Kind.PARAMETER),
        ("filter", "upsample", (3,), Kind.PERSISTENT_BUFFER),
        ("filter", "other", (3,), Kind.UNKNOWN),
        ("beta", "act_fn", (), Kind.PERSISTENT_BUFFER),
        ("beta", "norm", (), Kind.PARAMETER),
        ("gamma_1", "any", (4,), Kind.PARAMETER),
        ("gamma12", "any", (4,), Kind.PARAMETER),
        ("weight_ih_l10", "any", (4, 4), Kind.PARAMETER),
        ("latents_1d", "any", (4, 4), Kind.PARAMETER),
        ("posterior_mean_coef2", "any", (4,), Kind.PERSISTENT_BUFFER),
        # Of endings the longest wins; names are tried before all of them.
        ("my_scaling_factor", "any", (4,), Kind.PERSISTENT_BUFFER),
        ("latent_scaling_factor", "any", (4,), Kind.PARAMETER),
        ("up_proj_scales", "any", (4,), Kind.PARAMETER),
        ("e_bias", "any", (4,), Kind.PARAMETER),
    ],
)
def test_what_is_more_specific_comes_first(
    leaf: str, module: str, shape: tuple[int, ...], kind: Kind
) -> None:
    said = load_name_table().find(leaf, module, shape_code(shape))
    assert said is not None and said.kind is kind


@pytest.mark.parametrize("leaf", ["thing", "_my_weight", "_proj", "123", "_", "", "Weight", "scal"])
def test_what_is_not_listed_is_not_found(leaf: str) -> None:
    assert load_name_table().find(leaf, "any", 2) is None


@pytest.mark.parametrize(
    ("shape", "like", "unlike"),
    [
        (
            (1, 1, 2, 2),
            (1, 1, 9, 9),
            [(1, 1, 1, 1), (1, 2, 3, 3), (2, 1, 3, 3), (1, 1, 2, 3), (1, 3, 3), (1, 1, 1, 3, 3)],
        ),
        ((2, 3), (2, 2), [(3, 2), (2,), (2, 3, 3), (1, 3)]),
        ((0,), (0, 0), [(0, 3), (3, 0), ()]),
        ((0, 3), (3, 3, 0), [(0, 0), (3,)]),
    ],
)
def test_shapes_that_give_a_kind_away_have_a_code(
    shape: tuple[int, ...], like: tuple[int, ...], unlike: list[tuple[int, ...]]
) -> None:
    assert shape_code(shape) == shape_code(like) and shape_code(shape) != len(shape)
    for other in unlike:
        assert shape_code(other) != shape_code(shape), other


def test_any_other_shape_is_its_number_of_dimensions() -> None:
    for ndim in range(7):
        assert shape_code((3,) * ndim) == ndim
    assert [shape_code(shape) for shape in ((1, 1, 1, 1), (1, 1, 4, 5), (1, 2), (2, 2, 2))] == [4, 4, 2, 3]
