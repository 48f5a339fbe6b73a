"""Sides without bytes: manifests, whose digests stand for them, and models, which have a structure alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.comparison import diff as diff_module
from ckpttool.comparison.diff import Request, diff_sides
from ckpttool.elements.digests import digest_tensor
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.values.checkpoint import Kind, OddKey, Root, Value
from ckpttool.values.difference import Diff, NameBasis, Side, Status
from tests.support.inspections import tensor
from tests.support.sides import Two
from tests.support.sides import entry_of as entry

ones, zeros = torch.ones, torch.zeros


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def manifest(two: Two, which: int, **other: str) -> Side:
    """A side that has digests of its rows in the place of bytes."""
    one = two.sides()[which]
    with TensorReader(two.files[which].files) as reader:
        digests: dict[Root, str] = {
            (*item.entry.root, item.entry.name): digest_tensor(reader, item.entry.value)
            for item in one.rows
            if item.entry.value is not None and item.entry.name not in other
        }
    digests |= {(name,): digest for name, digest in other.items() if digest}
    return one._replace(checkpoint=one.checkpoint._replace(files=(), digests=digests))


def test_digests_stand_for_bytes_on_either_side(two: Two) -> None:
    same = two.both("same", torch.arange(3.0), torch.arange(3.0))
    changed = two.both("changed", ones(2), zeros(2))
    renamed = two.add(0, "old", torch.arange(6.0)), two.add(1, "fresh.x", torch.arange(6.0))
    cast = two.both("cast", ones(2), ones(2).half())
    reshaped = two.both("shape", ones(2), ones(3))
    odd = two.both("none", None, None)
    key = OddKey("2.5", True)
    inner = two.both(key, ones(5), ones(5), root=("in",))
    swapped = [two.both(name, ones(4) * x, ones(4) * y) for name, x, y in (("x", 1, 2), ("y", 2, 1))]
    expected = [
        entry(*same, Status.EQUAL),
        entry(*changed, Status.CHANGED),
        entry(*renamed, Status.RENAMED, basis=NameBasis.CONTENT),
        entry(*cast, Status.DTYPE),
        entry(*reshaped, Status.SHAPE),
        entry(*odd, Status.EQUAL),
        entry(*inner, Status.EQUAL),
        entry(swapped[1][0], swapped[0][1], Status.RENAMED, basis=NameBasis.CONTENT),
        entry(swapped[0][0], swapped[1][1], Status.RENAMED, basis=NameBasis.CONTENT),
    ]
    a, b = two.sides()
    for first, second in ((manifest(two, 0), b), (a, manifest(two, 1)), (manifest(two, 0), manifest(two, 1))):
        found = diff_sides(first, second, Request())
        assert found == Diff(first, second, tuple(expected), (), (),
                             left_out=("1 tensor without values in either file",))  # fmt: skip
    lacks = manifest(two, 1, same="", changed="0" * 64)
    found = diff_sides(a, lacks, Request(align=False))
    statuses = {item.name: item.status for item in found.entries}
    assert statuses["same"] is statuses["changed"] is Status.CHANGED  # one side cannot tell
    found = diff_sides(lacks, a, Request(align=False))
    assert {item.name for item in found.entries if item.status is Status.CHANGED} >= {"same", "changed"}


def test_equal_digests_are_one_tensor_whatever_its_kind(two: Two) -> None:
    """Whether it is all one value is not known."""
    pair = two.add(0, "bias", zeros(3)), two.add(1, "mean", zeros(3), kind=Kind.PERSISTENT_BUFFER)
    (found,) = diff_sides(manifest(two, 0), two.sides()[1], Request()).entries
    expected = entry(*pair, Status.RENAMED, basis=NameBasis.CONTENT)
    assert found == expected._replace(kind=Kind.PARAMETER)


def test_tensors_of_one_side_are_read_once_for_digests(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    value = two.files[0].info(ones(3))
    for name in "xy":
        two.add(0, name, value)
        two.add(1, name, ones(3))
    two.both("meta", tensor()._replace(storage=None), tensor()._replace(storage=None))
    other = manifest_of = two.sides()[1]
    other = other._replace(
        checkpoint=manifest_of.checkpoint._replace(files=(), digests={("x",): "d", ("y",): "d"})
    )
    digested: list[Any] = []
    monkeypatch.setattr(diff_module, "digest_tensor", lambda reader, one: digested.append(one) or "d")
    found = diff_sides(two.sides()[0], other, Request())
    assert digested == [value] and [item.status for item in found.entries] == [Status.EQUAL] * 3
    assert found.left_out == ("1 tensor without values in either file",)


@pytest.mark.parametrize("asked", [True, False])
def test_the_structure_alone(two: Two, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    pairs = [
        two.both("same", ones(2), zeros(2)),
        two.both("cast", ones(2), ones(2).half()),
        two.both("shape", ones(2), ones(1)),
        two.both("none", None, None),
    ]
    renamed = two.add(0, "p.q.r", ones(3, 3)), two.add(1, "s.q.r", ones(3, 3))
    monkeypatch.setattr(TensorReader, "read_into", lambda *_: pytest.fail("read"))
    a, b = two.sides(values=(Value((), "epoch", 1),))
    if not asked:  # a model
        b = b._replace(checkpoint=b.checkpoint._replace(files=(), values=(Value((), "epoch", 2),)))
    statuses = Status.EQUAL, Status.DTYPE, Status.SHAPE, Status.EQUAL
    expected = [entry(*pair, status) for pair, status in zip(pairs, statuses, strict=True)]
    expected.append(entry(*renamed, Status.RENAMED, basis=NameBasis.SUFFIX))
    for first, second in ((a, b), (b, a)):
        found = diff_sides(first, second, Request(structure_only=asked))
        assert (found.structure_only, found.left_out) == (True, ())
        assert len(found.values) == (not asked)
        if first is a:
            assert found.entries == tuple(expected)


def test_a_model_beside_a_manifest_has_no_values_either(two: Two) -> None:
    two.both("w", ones(2), ones(2))
    bare = [one._replace(checkpoint=one.checkpoint._replace(files=())) for one in two.sides()]
    for sides in ((bare[0], manifest(two, 1)), (manifest(two, 0), bare[1]), bare):
        assert diff_sides(*sides, Request()).structure_only is True
    assert diff_sides(manifest(two, 0), manifest(two, 1), Request()).structure_only is False
