"""Names of a file find the names of a model through wrappers and prefixes, by whole parts."""

import pytest

from ckpttool.names.match import match_names

MODEL = ["stem.conv.weight", "stem.conv.bias", "module_list.0.weight", "head.weight"]


def put(prefix: str) -> list[str]:
    return [prefix + name for name in MODEL]


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module.module._orig_mod.",
        "model.",
        "_forward_module.",
        "base_model.model.",
        "_forward_module.model.",
        "module._orig_mod.model.backbone.",
    ],
)
def test_a_prefix_on_every_name_is_taken_off_and_said(prefix: str) -> None:
    found = match_names(put(prefix), MODEL)
    assert found.to_model == dict(zip(put(prefix), MODEL, strict=True))
    assert found.matched == len(MODEL)
    assert found.description


def test_equal_names_need_no_mapping() -> None:
    found = match_names(MODEL, MODEL)
    assert (found.matched, found.description) == (4, "")


def test_a_prefix_that_the_model_has_is_put_on() -> None:
    found = match_names(MODEL, put("backbone."))
    assert found.to_model["head.weight"] == "backbone.head.weight"
    assert found.matched == 4


def test_a_wrapped_model_takes_a_bare_file_and_one_wrapped_otherwise() -> None:
    assert match_names(MODEL, put("module.")).matched == 4
    assert match_names(put("_orig_mod."), put("module.")).matched == 4


def test_wrappers_in_the_middle_go_as_well() -> None:
    names = ["layers.0._checkpoint_wrapped_module.fc.weight", "layers.1._fsdp_wrapped_module.fc.weight"]
    found = match_names(names, ["layers.0.fc.weight", "layers.1.fc.weight"])
    assert found.matched == 2


def test_only_whole_parts_count() -> None:
    names = ["submodule.weight", "module.weight"]
    assert match_names(names, names).to_model == {name: name for name in names}
    found = match_names(["mymodule.head.weight"], ["head.weight"])
    assert found.to_model == {"mymodule.head.weight": "head.weight"}  # as the path "mymodule.", not "module."


def test_a_mapping_that_makes_two_names_one_is_refused() -> None:
    names = ["module.weight", "weight"]
    found = match_names(names, ["weight", "bias"])
    assert found.to_model == {name: name for name in names}


def test_names_left_over_keep_what_the_mapping_makes_of_them() -> None:
    found = match_names([*put("module."), "module.extra"], MODEL)
    assert found.matched == 4
    assert found.to_model["module.extra"] == "extra"


def test_two_models_with_little_in_common_are_not_forced_together() -> None:
    names = ["blocks.0.norm.weight", "blocks.0.proj.weight", "blocks.0.qkv.weight", "head.weight"]
    found = match_names(names, ["norm.weight", "embed.weight", "layers.0.q.weight", "layers.0.k.weight"])
    assert (found.matched, found.description) == (0, "")
