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


def test_of_mappings_that_bring_as_many_together_the_first_is_taken() -> None:
    found = match_names(["m.x", "n.y"], ["x", "y"])
    assert (found.matched, found.to_model) == (1, {"m.x": "x", "n.y": "n.y"})
    # One that brings no more together than the names as they are do is none.
    assert match_names(["m.x", "y", "z"], ["x", "y", "m.x"]).description == ""


def test_what_was_done_is_said_in_order() -> None:
    inside = [f"{head}._orig_mod.{rest}" for head, _, rest in (name.partition(".") for name in MODEL)]
    said = "wrapper prefixes taken off 4 of 4 names of the file"
    assert match_names(inside, MODEL).description == said
    off = match_names([f"net.{name}" for name in inside], MODEL).description
    assert off == f"{said}, 'net.' taken off the file's names"
    on = match_names(inside, put("net.")).description
    assert on == f"{said}, 'net.' put before the file's names"
    assert match_names(put("model."), MODEL).description == "'model.' taken off the file's names"


@pytest.mark.parametrize(("others", "tried"), [(3, True), (4, False)])
def test_a_path_that_fewer_than_a_quarter_of_the_names_have_is_not_tried(others: int, tried: bool) -> None:
    found = match_names(["p.x", *(f"o{at}" for at in range(others))], ["x"])
    assert found.matched == int(tried)


@pytest.mark.parametrize(("depth", "found"), [(4, 1), (5, 0)])
def test_a_path_has_four_parts_at_most(depth: int, found: int) -> None:
    path = ".".join("abcde"[:depth])
    assert match_names([f"{path}.x"], ["x"]).matched == found


def test_each_path_that_a_quarter_of_the_names_have_is_tried() -> None:
    """Four of four parts are the most that there can be."""
    names = [".".join(parts) for parts in ("abcdx", "efghy", "ijklz", "mnopw")]
    for name in names:
        for length in range(1, 5):
            rest = name.split(".", length)[length]
            assert match_names(names, [rest]).to_model[name] == rest
            path = name.removesuffix(rest)
            assert match_names([rest], names).to_model == {rest: path + rest}


@pytest.mark.parametrize(("known", "file"), [(5, 5), (4, 9), (9, 4), (5, 9), (9, 5)])
@pytest.mark.parametrize("matched", [1, 2, 3])
def test_half_of_the_fewer_names_must_come_together(known: int, file: int, matched: int) -> None:
    common = [f"c{at}" for at in range(matched)]
    names = [f"m.{name}" for name in (*common, *(f"f{at}" for at in range(file - matched)))]
    model = [*common, *(f"k{at}" for at in range(known - matched))]
    result = match_names(names, model)
    enough = matched * 2 >= min(known, file)
    assert result.matched == (matched if enough else 0)
    assert (result.to_model["m.c0"] == "c0") is enough
