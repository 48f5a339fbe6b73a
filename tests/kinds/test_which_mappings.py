"""Which mappings of a checkpoint hold a module's entries, and what stands beside them."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.kinds.classify import classify
from ckpttool.values.checkpoint import Basis, Checkpoint, Classification, Entry, Kind, Presence, Value
from tests.support.classified import BUFFER, PARAMETER, UNKNOWN, checkpoint, entry

METRICS = ("metrics",)
MODEL = ("model",)


def kinds(source: Checkpoint) -> dict[Any, Kind]:
    found = classify(source).classifications
    return {(*item.root, item.name): said.kind for item, said in zip(source.entries, found, strict=True)}


def beside(*entries: Entry, **more: Any) -> dict[Any, Kind]:
    """The kinds of these under ``metrics``, beside a state_dict."""
    weights = [entry("a.weight", root=MODEL), entry("a.steps", "int64", (), root=MODEL)]
    found = kinds(checkpoint([*weights, *entries], **more))
    assert (found["model", "a.weight"], found["model", "a.steps"]) == (PARAMETER, BUFFER)
    return {path[1]: kind for path, kind in found.items() if path[0] == "metrics"}


def test_numbers_beside_a_state_dict_are_no_buffers_and_alone_they_are() -> None:
    """An epoch's counts would be buffers by their dtype."""
    counts = entry("seen", "int64", (), root=METRICS)
    assert beside(counts) == {"seen": UNKNOWN}
    assert kinds(checkpoint([counts])) == {("metrics", "seen"): BUFFER}
    assert beside(counts, entry("thing", root=METRICS)) == {"seen": UNKNOWN, "thing": UNKNOWN}


@pytest.mark.parametrize(
    ("name", "is_state_dict"),
    [("a.b", True), ("weight", True), ("running_mean", True), ("thing", False), (7, False)],
)
def test_a_name_that_only_a_module_has_makes_it_one(name: Any, is_state_dict: bool) -> None:
    found = beside(entry("seen", "int64", (), root=METRICS), entry(name, root=METRICS))
    assert (found["seen"] is BUFFER) is is_state_dict


def test_one_declared_entry_makes_it_one() -> None:
    said = Classification(PARAMETER, Basis.PICKLED_PARAMETER)
    found = beside(entry("seen", "int64", (), root=METRICS), entry("thing", root=METRICS, declared=said))
    assert found == {"seen": BUFFER, "thing": PARAMETER}
    nothing = Classification(UNKNOWN, Basis.NONE, note="not registered")
    found = beside(entry("seen", "int64", (), root=METRICS), entry("thing", root=METRICS, declared=nothing))
    assert found == {"seen": UNKNOWN, "thing": UNKNOWN}


def test_metadata_of_a_module_makes_it_one() -> None:
    versions: Any = {METRICS: {"": 1}}
    assert beside(entry("seen", "int64", (), root=METRICS), module_versions=versions) == {"seen": BUFFER}


# -- an optimizer's state ---------------------------------------------------------------------------------


def test_what_stands_under_an_optimizers_state_is_state_unless_the_file_says_more() -> None:
    groups = [Value(("optim", "param_groups", 0), "params", (0,))]
    said = Classification(Kind.EXTRA_STATE, Basis.PICKLED_MODULE)
    state = ("optim", "state", 0)
    found = kinds(
        checkpoint(
            [
                entry("a.weight", root=MODEL),
                entry("exp_avg", root=state),
                entry("b", root=state, declared=said),
                entry("loose", root=("optim", "other", 0)),
            ],
            values=tuple(groups),
        )
    )
    assert found == {
        ("model", "a.weight"): PARAMETER,
        (*state, "exp_avg"): Kind.OPTIMIZER_STATE,
        (*state, "b"): Kind.EXTRA_STATE,
        ("optim", "other", 0, "loose"): UNKNOWN,
    }
    alone = checkpoint([entry("x", root=state)], values=tuple(groups))
    (one,) = classify(alone).classifications
    assert (one.basis, one.note) == (Basis.OPTIMIZER, "state beside param_groups")


# -- DeepSpeed --------------------------------------------------------------------------------------------


def deepspeed(names: Any, *entries: Entry, key: str = "buffer_names") -> dict[Any, Classification]:
    source = checkpoint(entries, values=(Value((), key, names),))
    return {item.name: said for item, said in zip(entries, classify(source).classifications, strict=True)}


def test_deepspeed_names_its_buffers_and_all_else_is_a_parameter() -> None:
    root = ("module",)
    said = Classification(BUFFER, Basis.PICKLED_MODULE)
    plain = [entry(name, root=root) for name in ("a.weight", "a.strange", 5)]
    entries = (*plain, entry("a.known", root=root, declared=said))
    found = deepspeed(("a.strange", 5), *entries)
    assert {name: item.kind for name, item in found.items()} == {
        "a.weight": PARAMETER, "a.strange": BUFFER, "a.known": BUFFER, 5: PARAMETER,
    }  # fmt: skip
    assert found["a.known"] == said
    assert (found["a.strange"].basis, found["a.strange"].note) == (Basis.METADATA, "DeepSpeed buffer_names")
    for other in (
        deepspeed(("a.strange",), *entries, key="param_names"),
        deepspeed("a.strange", *entries),
        deepspeed(("a.strange",), *(item._replace(root=("model",)) for item in entries)),
    ):
        assert other["a.strange"].kind is UNKNOWN


# -- what is missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "names", "missing"),
    [
        ({"": 1, "a.rotary_emb": 1}, ["a.weight"], ["a.rotary_emb.inv_freq"]),
        ({"": 1, "rotary_emb": 1}, ["a.weight"], ["rotary_emb.inv_freq"]),
        ({"": 1, "b.embed_positions": 1}, ["a.weight"], ["b.embed_positions.weights"]),
        ({"": 1, "a.rotary_emb": 1}, ["a.rotary_emb.inv_freq"], []),
        ({"": 1, "a.rotary_emb": 1}, ["a.rotary_emb.other", 5], []),
        ({"": 1, "a.rotary_emb": 1, "a.rotary_emb.child": 1}, ["a.weight"], []),
        ({"": 1, "a.rotary": 1}, ["a.weight"], []),
        ({"": 1, "rotary_emb.a": 1}, ["a.weight"], []),
    ],
)
def test_an_empty_module_of_a_known_name_misses_its_buffer(
    versions: dict[str, int], names: list[Any], missing: list[str]
) -> None:
    source = checkpoint([entry(name, root=MODEL) for name in names], module_versions={MODEL: versions})
    found = classify(source).missing
    assert [(item.root, item.name, item.value) for item in found] == [(MODEL, name, None) for name in missing]
    for item in found:
        assert (item.declared.kind, item.declared.presence, item.declared.basis) == (
            Kind.NON_PERSISTENT_BUFFER, Presence.MISSING, Basis.METADATA,
        )  # fmt: skip
        assert item.declared.note in ("rotary positions", "sinusoidal positions")


def test_what_deepspeed_lists_is_no_weaker_than_a_version() -> None:
    """A norm that looks frozen by its version, in a file whose list of buffers does not have its weight."""
    names = ("n.weight", "n.bias", "n.running_mean", "n.running_var")
    entries = [entry(name, root=("module",)) for name in names]
    versions: Any = {("module",): {"n": 1}}
    plain = classify(checkpoint(entries, module_versions=versions)).classifications
    assert (plain[0].kind, plain[0].basis) == (BUFFER, Basis.METADATA)
    listed = (Value((), "buffer_names", names[2:]),)
    said = classify(checkpoint(entries, module_versions=versions, values=listed)).classifications
    assert [item.kind for item in said] == [PARAMETER, PARAMETER, BUFFER, BUFFER]


def test_ties_may_be_given() -> None:
    """As they were found once for all."""
    one = entry("a.weight", root=MODEL)
    other = one._replace(name="a.strange")
    source = checkpoint([one, other])
    assert [item.kind for item in classify(source).classifications] == [PARAMETER, PARAMETER]
    assert [item.kind for item in classify(source, [None, None]).classifications] == [PARAMETER, UNKNOWN]
