"""Everything that a comparison says: which entries in which order, what is left out, in which words."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import ckpttool
from ckpttool.values.difference import Diff, NameBasis, Status
from tests.support.converting import convert
from tests.support.differing import Save, diff

ones = torch.ones


def weights(by: float = 0) -> dict[str, torch.Tensor]:
    return {"a.weight": ones(4, 3) + by, "a.bias": ones(4) + by}


def lines(found: Diff) -> list[tuple[Any, ...]]:
    return [(item.root, item.name, item.status.value) for item in found.entries]


def under(root: tuple[str, ...], status: str) -> list[tuple[Any, ...]]:
    return [(root, "a.weight", status), (root, "a.bias", status)]


def changes(found: Diff) -> list[tuple[Any, ...]]:
    return [(item.section, item.root, item.name, item.status.value, item.a, item.b) for item in found.values]


# -- which branch is laid beside which ------------------------------------------------------------------


def test_what_only_a_training_checkpoint_has_is_counted_by_branch(save: Save) -> None:
    full = save({
        "state_dict": weights(),
        "optimizer": {"state": {0: {"m": ones(4, 3)}, 1: {"m": ones(4)}}, "lr": 0.1, "betas": [1, 2]},
        "x1": {"t": ones(1)}, "x2": {"t": ones(2)}, "deep": {"er": {"v": 3}}, "epoch": 1,
    })  # fmt: skip
    many = save({"state_dict": weights(), **{f"x{at}": {"t": ones(at)} for at in range(1, 8)}, "t": ones(9)})
    bare = save(weights())
    said = "2 tensors of optimizer, 1 tensor of x1, 1 tensor of x2", "2 values of optimizer", "2 plain values"
    said_many = ", ".join(f"1 tensor of x{at}" for at in range(1, 5)) + ", 4 more branches"
    for path, what in ((full, said), (many, (said_many,))):
        there, back = diff(path, bare), diff(bare, path)
        only_a, only_b = (tuple(f"only in {which}: {text}" for text in what) for which in "AB")
        assert (lines(there), there.left_out) == (under((), "equal"), only_a)
        assert (lines(back), back.left_out) == (under(("state_dict",), "equal"), only_b)
        assert there.equal and back.equal and not there.values and not back.values


def test_weights_at_other_places_are_laid_upon_each_other_and_the_rest_stays(save: Save) -> None:
    a = save({"model": weights(), "opt": {"m": ones(2)}, "lr": 1})
    b = save({"state_dict": weights(1), "opt": {"m": ones(2)}, "lr": 2})
    found = diff(a, b)
    assert lines(found) == [*under(("state_dict",), "changed"), (("opt",), "m", "equal")]
    assert changes(found) == [("value", (), "lr", "changed", 1, 2)]
    assert found.left_out == ()


BOTH = {"model": weights(), "ema": weights(1)}


@pytest.mark.parametrize(
    ("other", "place"),
    [
        ({"model": weights(), "ema": weights(1), "k": 2}, ("ema",)),  # the branch of that name
        ({"state_dict": weights(1), "other": {"x": ones(1)}}, ("state_dict",)),  # else the weights
        (weights(1), ()),
        ({"one": weights(1), "two": {"x": ones(1)}, "a.weight": ones(4, 3) + 1, "a.bias": ones(4) + 1}, ()),
    ],
)
def test_one_branch_is_compared_with_its_counterpart(save: Save, other: Any, place: tuple[str, ...]) -> None:
    a, b = save(BOTH), save(other)
    found = diff(a, b, root_a=("ema",))
    assert set(under(place, "equal")) <= set(lines(found)) and not found.values
    back = diff(b, a, root_b=("ema",))
    assert set(under(("ema",), "equal")) <= set(lines(back))
    assert found.left_out == back.left_out == ()
    elsewhere = diff(a, a, root_a=("ema",), root_b=("model",))
    assert lines(elsewhere) == under(("model",), "changed")
    assert diff(a, a, root_a=(), root_b=()).equal and len(lines(diff(a, a, root_a=()))) == 4


def test_other_branches_stay_at_their_places_where_the_weights_are_moved(save: Save) -> None:
    a = save({"model": weights(), "state": {"m": ones(2)}})
    b = save({"net": weights(), "state": {"m": ones(2)}, "model_ema": weights(2)})
    found = diff(a, b)
    assert (("state",), "m", "equal") in lines(found)
    assert [line for line in lines(found) if line[0] == ("net",)] == under(("net",), "equal")


def test_values_of_a_branch_that_one_side_lacks_are_counted(save: Save) -> None:
    whole = {"model": weights(), "optim": {"m": ones(1), "lr": 1, "groups": [{"b": 2}]}, "epoch": 1}
    a, b = save(whole), save({"model": weights(), "epoch": 1})
    assert diff(a, b).left_out == ("only in A: 1 tensor of optim", "only in A: 2 values of optim")
    assert diff(b, a).left_out == ("only in B: 1 tensor of optim", "only in B: 2 values of optim")
    assert diff(a, b).equal and diff(b, a).equal


def test_entries_stand_in_the_order_of_b_and_removed_ones_where_they_stood_in_a(save: Save) -> None:
    a = OrderedDict(r1=ones(1, 2), x=ones(2), r2=ones(1, 3), r3=ones(1, 4), y=ones(3), r4=ones(1, 5))
    b = OrderedDict(y=ones(3), n1=ones(2, 2), x=ones(2), n2=ones(2, 3))
    found = diff(save(a), save(b))
    assert [item.name for item in found.entries] == ["r1", "y", "r4", "n1", "x", "r2", "r3", "n2"]
    for item in found.entries:
        kept = Status.EQUAL if item.name in "xy" else Status.ADDED
        assert item.status is (Status.REMOVED if str(item.name)[0] == "r" else kept)


# -- which name is which ----------------------------------------------------------------------------------


def test_equal_contents_are_paired_in_order_where_no_name_is_nearer(save: Save) -> None:
    a = {f"old{at}": ones(3) * 2 for at in range(3)}
    b = {f"new{at}": ones(3) * 2 for at in range(3)}
    found = diff(save({**a, "k": ones(1)}), save({**b, "k": ones(1)}))
    renamed = {item.name: item.renamed_from for item in found.entries if item.status is Status.RENAMED}
    assert renamed == {f"new{at}": ((), f"old{at}") for at in range(3)}
    assert all(item.basis is NameBasis.CONTENT for item in found.entries if item.name != "k")


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(6.0),
        torch.cat([torch.zeros(4000), ones(1)]),
        torch.cat([torch.zeros(2000), ones(1), torch.zeros(2000)]),
        ones(6) * 3,
        torch.zeros(6),
        torch.zeros(4000),
    ],
)
def test_a_parameter_is_taken_for_a_buffer_only_where_the_content_says_much(
    save: Save, value: torch.Tensor
) -> None:
    """Zeros and ones are what many an untrained tensor is."""
    module = torch.nn.Module()
    module.was = torch.nn.Parameter(value)
    other = torch.nn.Module()
    other.register_buffer("now", value.clone())
    found = diff(save(module), save(other))
    says_little = len(set(value.tolist())) == 1
    assert [item.status.value for item in found.entries] == (
        ["removed", "added"] if says_little else ["renamed"]
    )


def test_kinds_that_are_not_sure_hide_no_entry(save: Save) -> None:
    module = torch.nn.Linear(2, 2)
    module.register_buffer("cache", ones(2), persistent=False)
    bare = {name: value for name, value in module.state_dict().items() if name != "bias"}
    found = diff(save(module), save(bare))
    assert [(item.name, item.status.value) for item in found.entries] == [
        ("weight", "equal"), ("bias", "removed")
    ]  # fmt: skip
    assert "only in A: 1 non-persistent buffer, which no state_dict holds" in found.left_out


# -- findings -----------------------------------------------------------------------------------------------


def said(found: Diff) -> list[tuple[str, str, str]]:
    return [(item.code, item.severity, item.name) for item in found.findings]


def messages(found: Diff) -> list[str]:
    return [item.message for item in found.findings]


def test_a_tie_that_one_file_lists_is_told_by_both_names(save: Save) -> None:
    shared = ones(3, 2)
    both, one = (
        save({"e": shared, "h": shared, "h2": shared, "x": ones(1)}),
        save({"e": shared, "x": ones(1)}),
    )
    dropped, added = diff(both, one), diff(one, both)
    for found, status, side in ((dropped, Status.REMOVED, "B"), (added, Status.ADDED, "A")):
        tied = [item for item in found.entries if item.status is status]
        assert [(item.name, item.tied_to, item.note) for item in tied] == [
            (name, "e", f"tied to e; not stored on side {side}") for name in ("h", "h2")
        ]
    assert said(dropped) == [("tied-name-dropped", "info", "")]
    assert messages(dropped) == [
        "2 removed names are tied to names that B keeps: a model that ties them finds everything in B (h, h2)"
    ]
    assert messages(added) == ["2 names are tied to names that both sides have; not stored on side A (h, h2)"]
    two = save({"e": shared, "h": shared, "x": ones(1)})
    assert said(diff(one, two)) == [("tied-name-added", "info", "h")]
    assert messages(diff(one, two)) == ["h is tied to e; not stored on side A"]
    turned = save(
        {"h": shared, "e": shared, "x": ones(1)}
    )  # here e is the one that is tied to an earlier name
    assert said(diff(turned, one)) == [("tied-name-dropped", "info", "h")]
    other = save({"e": shared + 1, "x": ones(1)})
    assert messages(diff(two, other)) == [
        "is tied to a name that B keeps: a model that ties the two finds everything in B"
    ]
    assert [item.tied_to for item in diff(two, other).entries if item.name == "h"] == [None]


def test_ties_that_are_lost_or_new_are_told_once_and_by_name(save: Save) -> None:
    shared = ones(3, 2)
    tied = save({"e": shared, "h": shared, "h2": shared})
    apart = save({"e": shared.clone(), "h": shared.clone(), "h2": shared.clone()})
    half = save({"e": shared, "h": shared, "h2": shared.clone()})
    assert said(diff(tied, apart)) == [("lost-tie", "warning", "")]
    assert messages(diff(tied, apart))[0].endswith("(h, h2)")
    assert said(diff(tied, half)) == [("lost-tie", "warning", "h2")]
    assert said(diff(half, tied)) == [("new-tie", "info", "h2")]
    assert said(diff(half, half)) == said(diff(tied, tied)) == []


def test_statistics_move_alone_only_where_the_weights_stayed(save: Save) -> None:
    def norm(by: float, moved: float, name: str = "n") -> dict[str, torch.Tensor]:
        values = {"weight": by, "bias": 0, "running_mean": moved, "running_var": moved}
        return {f"{name}.{leaf}": ones(2) + value for leaf, value in values.items()}

    a = save(norm(0, 0))
    assert said(diff(a, save(norm(0, 1)))) == [("batch-norm-moved", "warning", "n.running_mean")]
    assert said(diff(a, save(norm(1, 1)))) == said(diff(a, save(norm(1, 0)))) == []
    lone = {"running_mean": ones(2)}
    assert said(diff(save(lone), save({"running_mean": ones(2) + 1}))) == []
    two = diff(save({**norm(0, 0), **norm(0, 0, "m")}), save({**norm(0, 1), **norm(0, 1, "m")}))
    assert said(two) == [("batch-norm-moved", "warning", "")]
    assert messages(two)[0].endswith("(n.running_mean, m.running_mean)")


def test_a_long_name_is_cut_in_the_middle(save: Save) -> None:
    names = ["a" * 41 + "-" + "b" * 39, "c" * 80]
    a = {name: ones(2) for name in names}
    nan = {name: torch.tensor([1.0, float("nan")]) for name in names}
    (message,) = messages(diff(save(a), save(nan)))
    assert message.endswith(f"({'a' * 40}…{'b' * 39}, {'c' * 80})")
    assert message.startswith("2 tensors hold values that became NaN; ")


# -- what surrounds ---------------------------------------------------------------------------------------


def test_values_and_objects_that_came_went_or_changed(save: Save) -> None:
    model, half, space = weights(), torch.float16, argparse.Namespace
    both = "2 opaque objects (args: argparse.Namespace, dt: torch.dtype), but for plain attributes"
    cases: list[tuple[dict[str, Any], dict[str, Any], list[tuple[Any, ...]], tuple[str, ...]]] = [
        ({"args": space(lr=1), "e": 1}, {"e": 1, "new": 2},
         [("value", ("args",), "lr", "removed", 1, None), ("value", (), "new", "added", None, 2)],
         ("only in A: 1 opaque object",)),
        ({"e": 1}, {"args": space(lr=1), "e": 1},
         [("value", ("args",), "lr", "added", None, 1)], ("only in B: 1 opaque object",)),
        ({"args": space(lr=1), "dt": half}, {"args": space(lr=2), "dt": half},
         [("value", ("args",), "lr", "changed", 1, 2)], (both,)),
        ({"dt": half, "r": torch.int8}, {"dt": torch.float32, "q": torch.int8},
         [("object", (), "dt", "changed", "torch.dtype torch.float16", "torch.dtype torch.float32"),
          ("object", (), "r", "removed", "torch.dtype torch.int8", None),
          ("object", (), "q", "added", None, "torch.dtype torch.int8")], ()),
        ({}, {"lr": 1}, [("value", (), "lr", "added", None, 1)], ()),
        ({"lr": 1, "q": [2]}, {"q": [2]}, [("value", (), "lr", "removed", 1, None)], ()),
        ({"lr": 1, "q": [2]}, {"lr": 1, "q": [2]}, [], ()),
    ]  # fmt: skip
    for a, b, changed, left_out in cases:
        found = diff(save({"m": model, **a}), save({"m": model, **b}))
        assert (changes(found), found.left_out, found.equal) == (changed, left_out, not changed)


@pytest.mark.parametrize(("count", "said"), [(1, "1 plain value"), (2, "2 plain values")])
def test_values_that_the_other_side_may_not_hold_are_counted(save: Save, count: int, said: str) -> None:
    values = {f"e{n}": n for n in range(count)}
    assert diff(save({**weights(), **values}), save(weights())).left_out == (f"only in A: {said}",)


def test_versions_of_modules_that_both_name_are_compared(save: Save) -> None:
    def versioned(**versions: int) -> OrderedDict[str, Any]:
        made: Any = OrderedDict(weights())
        made._metadata = OrderedDict({name: {"version": number} for name, number in versions.items()})
        return made

    a, b = save(versioned(x=1, y=2, z=1)), save(versioned(x=1, y=3, q=9))
    bare, old = save(weights()), save(versioned(x=1, y=1))
    assert changes(diff(a, b)) == [("version", (), "y", "changed", 2, 3)]
    assert changes(diff(b, a)) == [("version", (), "y", "changed", 3, 2)]
    for first, second, which in ((a, bare, "A"), (bare, a, "B")):
        found = diff(first, second)
        assert found.equal and found.left_out == (
            f"only in {which}: _metadata, with 1 module above version 1",
        )
    assert diff(old, bare).left_out == diff(bare, old).left_out == ()


# -- notes ------------------------------------------------------------------------------------------------


def test_a_cast_that_only_rounds_is_called_so(save: Save) -> None:
    fine = torch.tensor([1.0, 1.1, 3e-5])
    a = save({"same": ones(3), "rounded": fine, "other": fine})
    b = save({"same": ones(3).half(), "rounded": fine.bfloat16(), "other": fine.bfloat16() * 2})
    for first, second in ((a, b), (b, a)):
        notes = {item.name: item.note for item in diff(first, second).entries}
        assert notes == {"same": "the same values", "rounded": "rounded, nothing else", "other": ""}


def test_a_buffer_that_the_library_rebuilds_now_is_noted_with_the_version(save: Save) -> None:
    kept = {"embeddings.word_embeddings.weight": ones(4, 4)}
    old, new = save({**kept, "embeddings.position_ids": torch.arange(8)[None]}), save(kept)
    for found in (diff(old, new), diff(new, old)):
        (gone,) = [item for item in found.entries if item.name == "embeddings.position_ids"]
        row = gone.a or gone.b
        assert row is not None and row.classification.rebuilt_since
        assert gone.note == row.classification.rebuilt_since


def test_a_manifest_tells_renames_by_its_digests(save: Save, tmp_path: Path) -> None:
    source, manifest = save({"x.w": ones(3) * 2, "x.b": ones(2), "k": ones(1)}), tmp_path / "m.json"
    renamed = save({"y.q": ones(3) * 2, "x.b": ones(2), "k": ones(1)})
    convert(source, tmp_path / "copy.safetensors", "--manifest", manifest)
    for found, name, old in (
        (ckpttool.diff(manifest, renamed), "y.q", "x.w"), (ckpttool.diff(renamed, manifest), "x.w", "y.q")
    ):  # fmt: skip
        (item,) = [one for one in found.entries if one.status is not Status.EQUAL]
        assert (item.name, item.status, item.renamed_from) == (name, Status.RENAMED, ((), old))
