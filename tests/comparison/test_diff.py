"""``diff_sides`` over files of torch and safetensors: statuses, alignment, findings, what surrounds."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from ckpttool.comparison.diff import Request, diff_sides
from ckpttool.comparison.surroundings import same_plain
from ckpttool.elements.sums import Tolerance
from ckpttool.names.roots import resolve_root
from ckpttool.values.checkpoint import Kind, Plain
from ckpttool.values.difference import Diff, NameBasis, Status
from tests.support.differing import Save, diff, entry, side


def counts(found: Diff) -> dict[str, int]:
    return {status.value: count for status, count in found.counts.items() if count}


def codes(found: Diff) -> set[str]:
    return {finding.code for finding in found.findings}


def state(**tensors: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(tensors)


# ------------------------------------------------------------------------------------------- statuses


def test_every_status(save: Save) -> None:
    same, moved = torch.arange(6.0), torch.tensor([3.0, 4.0])
    a = save({"same": same, "changed": torch.ones(2), "gone": torch.ones(9), "old.name": moved,
              "dtype": torch.ones(4), "shape": torch.ones(2, 2)})  # fmt: skip
    b = save({"same": same, "changed": torch.ones(2) * 2, "new": torch.ones(5, 5), "other.title": moved,
              "dtype": torch.ones(4).half(), "shape": torch.ones(4)})  # fmt: skip
    found = diff(a, b)
    assert counts(found) == dict.fromkeys(
        ("equal", "changed", "added", "removed", "renamed", "dtype", "shape"), 1
    )
    assert not found.equal
    renamed = entry(found, "other.title")
    assert renamed.renamed_from == ((), "old.name") and renamed.basis is NameBasis.CONTENT
    assert entry(found, "dtype").note == "the same values"
    numbers = entry(found, "changed").numbers
    assert numbers is not None and (numbers.max_abs, numbers.rel_l2, numbers.share) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("first", [".pt", ".safetensors", ".pth"])
@pytest.mark.parametrize("second", [".pt", ".safetensors", ".pth"])
def test_containers_do_not_matter(save: Save, first: str, second: str) -> None:
    tensors = {"a.weight": torch.randn(3, 4), "a.count": torch.tensor(3), "e": torch.zeros(0, 8)}
    found = diff(save(tensors, first), save(tensors, second))
    assert found.equal and counts(found) == {"equal": 3}


def test_parameters_and_buffers_apart(save: Save) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    a = save(model.state_dict())
    model(torch.randn(8, 3))
    b = save(model.state_dict())
    assert counts(diff(a, b)) == {"equal": 4, "changed": 3}
    only_parameters = diff(a, b, only="parameters")
    assert only_parameters.equal and counts(only_parameters) == {"equal": 4}
    assert counts(diff(a, b, only="buffers")) == {"changed": 3}
    assert {item.kind for item in diff(a, b, only="buffers").entries} == {Kind.PERSISTENT_BUFFER}


def test_what_one_container_knows_of_kinds_counts_for_both(save: Save) -> None:
    tensors = {"m.weight": torch.ones(2), "m.strange": torch.ones(2), "m.running_mean": torch.ones(2)}
    model = nn.Module()
    model.m = nn.Module()
    model.m.weight = nn.Parameter(torch.ones(2))
    model.m.register_buffer("strange", torch.ones(2))
    pickled = save(model.__dict__["_modules"]["m"])
    assert entry(
        diff(pickled, save({k[2:]: v for k, v in tensors.items()}, ".safetensors")), "strange"
    ).kind is (Kind.PERSISTENT_BUFFER)


def test_globs_choose(save: Save) -> None:
    a = save({"x.w": torch.ones(1), "x.b": torch.ones(1), "y.w": torch.ones(1)})
    b = save({"x.w": torch.zeros(1), "x.b": torch.ones(1), "y.w": torch.zeros(1)})
    assert counts(diff(a, b, include=("x.*",))) == {"equal": 1, "changed": 1}
    assert diff(a, b, exclude=("*.w",)).equal


def test_tolerance_is_its_own_count(save: Save) -> None:
    a = save({"near": torch.tensor([1.0, 2.0]), "far": torch.tensor([1.0]), "same": torch.ones(1)})
    b = save({"near": torch.tensor([1.0, 2.001]), "far": torch.tensor([2.0]), "same": torch.ones(1)})
    assert counts(diff(a, b)) == {"changed": 2, "equal": 1}
    tolerant = diff(a, b, tolerance=Tolerance(rtol=1e-2))
    assert counts(tolerant) == {"changed": 1, "equal": 1, "within_tolerance": 1}
    assert not tolerant.equal
    assert diff(a, b, tolerance=Tolerance(atol=2.0)).equal


def test_structure_alone_reads_no_tensor(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    a = save({"x": torch.ones(4), "y": torch.ones(2)})
    b = save({"x": torch.zeros(4), "y": torch.ones(3)})
    monkeypatch.setattr("os.preadv", None)
    found = diff(a, b, structure_only=True)
    assert counts(found) == {"equal": 1, "shape": 1} and found.structure_only


# ------------------------------------------------------------------------------------------ alignment


def test_wrapped_names_are_the_same_and_it_is_said(save: Save) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    plain = save(model.state_dict())
    wrapped = save({f"module._orig_mod.{name}": value for name, value in model.state_dict().items()})
    for a, b in ((plain, wrapped), (wrapped, plain)):
        found = diff(a, b)
        assert found.equal and len(found.aligned) == 1 and "wrapper prefixes" in found.aligned[0]
        assert {item.basis for item in found.entries} == {NameBasis.PREFIX}
        strict = diff(a, b, align=False)
        assert counts(strict) == {"added": 4, "removed": 4}


def test_renames_with_other_values_go_by_shape_and_ending(save: Save) -> None:
    a = save({"enc.proj.weight": torch.randn(3, 5), "enc.proj.bias": torch.randn(3)})
    b = save({"body.proj.weight": torch.randn(3, 5), "body.proj.bias": torch.randn(3)})
    found = diff(a, b)
    # A prefix that only one side has is not it: neither is a part of the other.
    assert counts(found) == {"changed": 2}
    assert {item.basis for item in found.entries} <= {NameBasis.SUFFIX, NameBasis.PREFIX}
    assert entry(found, "body.proj.bias").renamed_from == ((), "enc.proj.bias")


def test_swapped_contents_are_renames(save: Save) -> None:
    x, y, z = torch.randn(3), torch.randn(3), torch.randn(3)
    found = diff(save({"x": x, "y": y, "z": z}), save({"x": y, "y": x, "z": z + 1}))
    assert counts(found) == {"renamed": 2, "changed": 1}
    assert entry(found, "x").renamed_from == ((), "y")


def test_one_changed_element_each_needs_no_digest(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {f"layers.{place}.weight": torch.randn(100, 100) for place in range(4)}
    tuned = {name: value.clone() for name, value in base.items()}
    for value in tuned.values():
        value[25, 1] += 1  # not where a sample is taken
    a, b = save(base), save(tuned)
    monkeypatch.setattr("ckpttool.comparison.contents.digest_tensor", pytest.fail)
    assert counts(diff(a, b)) == {"changed": 4}


def test_a_permuted_tensor_has_changed(save: Save) -> None:
    values = torch.randn(100)
    assert counts(diff(save({"w": values}), save({"w": values.flip(0)}))) == {"changed": 1}


def test_renames_are_found_whatever_the_strides(save: Save) -> None:
    values = torch.randn(40, 30)
    a = save({"old.title": values, "k": torch.ones(1), "flat": values[:, 3]})
    b = save({"other": values.t().contiguous().t(), "k": torch.ones(1), "name": values[:, 3].clone()})
    found = diff(a, b)
    assert counts(found) == {"renamed": 2, "equal": 1}
    assert entry(found, "other").renamed_from == ((), "old.title")


# ---------------------------------------------------------------------------------------- what surrounds


def test_values_versions_and_metadata(save: Save) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    old = model.state_dict()
    old._metadata["1"]["version"] = 1  # type: ignore[attr-defined]
    a = save({"state_dict": old, "epoch": 3, "lr": 0.1, "nan": math.nan, "gone": "x", "betas": (0.9, 0.99)})
    b = save(
        {"state_dict": model.state_dict(), "epoch": 5, "lr": 0.1, "nan": math.nan, "betas": (0.9, 0.999)}
    )
    found = diff(a, b)
    assert {(c.section, str(c.name), c.status.value, c.a, c.b) for c in found.values} == {
        ("value", "epoch", "changed", 3, 5),
        ("value", "gone", "removed", "x", None),
        ("value", "betas", "changed", (0.9, 0.99), (0.9, 0.999)),
        ("version", "1", "changed", 1, 2),
    }
    assert not found.equal and set(counts(found)) == {"equal"}
    x = save({"w": torch.ones(1)}, ".safetensors", metadata={"format": "pt", "step": "1"})
    y = save({"w": torch.ones(1)}, ".safetensors", metadata={"step": "2"})
    assert [(c.section, c.name, c.a, c.b) for c in diff(x, y).values] == [("metadata", "step", "1", "2")]


def test_bool_is_not_int_and_a_list_may_be_a_tuple(save: Save) -> None:
    weights = {"w": torch.ones(1)}
    a = save({"state_dict": weights, "flag": True, "items": [1, 2]})
    b = save({"state_dict": weights, "flag": 1, "items": (1, 2)})
    assert [change.name for change in diff(a, b).values] == ["flag"]


def test_weights_alone_are_compared_with_the_weights(save: Save) -> None:
    model = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    full = save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1})
    bare = save(model.state_dict(), ".safetensors")
    for a, b, which in ((full, bare, "A"), (bare, full, "B")):
        found = diff(a, b)
        assert found.equal and counts(found) == {"equal": 2}
        assert any(text.startswith(f"only in {which}:") and "optimizer" in text for text in found.left_out)
    assert counts(diff(full, full)) == {"equal": 8}


def test_values_at_the_same_place_are_compared_even_if_a_branch_is_missing(save: Save) -> None:
    weights, moments = {"w.weight": torch.ones(2)}, {"exp_avg": {"x": torch.ones(2)}}
    full = save({"state_dict": weights, "optimizer": moments, "epoch": 3})
    found = diff(full, save({"state_dict": weights, "epoch": 4}))
    assert [(change.name, change.a, change.b) for change in found.values] == [("epoch", 3, 4)]
    assert found.left_out == ("only in A: 1 tensor of optimizer",)
    assert diff(full, save({"state_dict": weights, "epoch": 3})).equal


def test_two_copies_in_one_file(save: Save) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = {name: value.clone() for name, value in model.state_dict().items()}
    ema["1.running_mean"] += 1
    path = save({"state_dict": model.state_dict(), "ema": ema})
    one = side(path)
    roots = {
        f"root_{which}": resolve_root(one.checkpoint, text)
        for which, text in (("a", "state_dict"), ("b", "ema"))
    }
    found = diff_sides(one, one, Request(**roots))
    assert counts(found) == {"equal": 6, "changed": 1}
    assert [item.name for item in found.entries if item.status is Status.CHANGED] == ["1.running_mean"]


def test_opaque_objects_are_not_compared_and_it_is_said(save: Save) -> None:
    class_of = {"w": torch.ones(1)}
    a = save({"state_dict": class_of, "cfg": nn.Identity()})
    b = save({"state_dict": class_of, "cfg": nn.Identity()})
    found = diff(a, b)
    assert found.equal


# -------------------------------------------------------------------------------------------- findings


def test_a_buffer_that_was_cast_is_a_finding(save: Save) -> None:
    model = nn.BatchNorm1d(4)
    a = save(model.state_dict())
    b = save(model.half().state_dict())
    found = diff(a, b)
    (finding,) = [f for f in found.findings if f.code == "buffer-dtype"]
    assert finding.severity == "warning" and "running_mean" in finding.message
    assert "buffer-dtype" not in codes(diff(a, b, only="parameters"))


def test_a_lost_tie_is_a_finding(save: Save) -> None:
    shared = torch.ones(3, 2)
    tied = save(state(embed=shared, head=shared, x=torch.ones(1)))
    untied = save(state(embed=shared, head=shared.clone(), x=torch.ones(1)))
    dropped = save(state(embed=shared, x=torch.ones(1)))
    assert codes(diff(tied, untied)) == {"lost-tie"} and diff(tied, untied).equal
    assert codes(diff(untied, tied)) == {"new-tie"}
    reordered = save(state(x=torch.ones(1), head=shared, embed=shared))
    assert not diff(tied, reordered).findings
    found = diff(tied, dropped)
    assert codes(found) == {"tied-name-dropped"} and counts(found) == {"equal": 2, "removed": 1}


def test_an_alias_in_the_metadata_is_the_tie(save: Save) -> None:
    shared = torch.ones(3, 2)
    tied = save(state(embed=shared, head=shared))
    listed = save({"embed": shared}, ".safetensors", metadata={"head": "embed", "format": "pt"})
    for a, b in ((tied, listed), (listed, tied)):
        assert diff(a, b).equal and not diff(a, b).findings


def test_a_non_persistent_buffer_that_came_or_went(save: Save) -> None:
    tensors = {"embeddings.word_embeddings.weight": torch.ones(4, 4)}
    old = save({**tensors, "embeddings.position_ids": torch.arange(8)[None]})
    new = save(tensors)
    assert "non-persistent-left" in codes(diff(old, new))
    assert "non-persistent-entered" in codes(diff(new, old))


class Transient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(2, 2)
        self.register_buffer("table", torch.ones(2), persistent=False)


def test_a_state_dict_has_no_non_persistent_buffers_by_design(save: Save) -> None:
    module = Transient()
    whole, bare = save(module), save(module.state_dict())
    for a, b, which in ((whole, bare, "A"), (bare, whole, "B")):
        found = diff(a, b)
        assert found.equal and not found.findings
        assert f"only in {which}: 1 non-persistent buffer, which no state_dict holds" in found.left_out
    assert counts(diff(whole, whole)) == {"equal": 3}
    stale = save({**module.state_dict(), "table": torch.zeros(2)})
    assert counts(diff(whole, stale)) == {"equal": 2, "changed": 1}


def test_statistics_that_moved_alone(save: Save) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    a = save(model.state_dict())
    model(torch.randn(8, 3))
    b = save(model.state_dict())
    assert "batch-norm-moved" in codes(diff(a, b))
    with torch.no_grad():
        model[1].weight += 1
    assert "batch-norm-moved" not in codes(diff(a, save(model.state_dict())))


def test_what_became_nan_is_an_error(save: Save) -> None:
    a, b = save({"w": torch.ones(4)}), save({"w": torch.tensor([1.0, math.nan, math.inf, 1.0])})
    found = {finding.code: finding.severity for finding in diff(a, b).findings}
    assert found == {"nan-appeared": "error", "inf-appeared": "warning"}
    assert not diff(b, b).findings


# ------------------------------------------------------------------------------------------- bad input


def test_nan_everywhere_zero_elements_and_scalars(save: Save) -> None:
    made = {"nan": torch.full((5,), math.nan), "none": torch.zeros(0, 3), "one": torch.tensor(4)}
    a, b = save(made), save({name: value.clone() for name, value in made.items()}, ".safetensors")
    assert diff(a, b).equal
    c = save({**made, "none": torch.zeros(0, 3).half(), "one": torch.tensor(5)})
    assert counts(diff(a, c)) == {"equal": 1, "dtype": 1, "changed": 1}


@pytest.mark.slow
def test_a_hundred_thousand_against_three(save: Save) -> None:
    one = torch.ones(1)
    many = save({f"layer.{place}.weight": one for place in range(100_000)})
    few = save({"a": torch.ones(2), "layer.5.weight": torch.ones(1), "c": torch.ones(3)})
    assert counts(diff(many, few)) == {"equal": 1, "removed": 99_999, "added": 2}
    assert counts(diff(few, many)) == {"equal": 1, "removed": 2, "added": 99_999}


def test_lists_that_stand_for_more_than_they_are() -> None:
    def nest() -> Plain:
        value: Plain = (1.0, math.nan)
        for _ in range(60):
            value = (value, value)
        return value

    assert same_plain(nest(), nest())
    assert not same_plain(nest(), (nest(), 1))
