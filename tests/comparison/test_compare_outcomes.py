"""Outcomes without numbers: no bytes, no elements, parts; and that pairs keep their outcomes apart."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpttool.comparison import compare
from ckpttool.comparison.compare import Outcome
from ckpttool.values.checkpoint import CompositeTensor, Part, Tensor
from ckpttool.values.difference import Numbers
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint, UnsupportedFeature
from tests.support.compared import Files, bits_of, check


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def composite(parts: dict[str, Tensor], **fields: Any) -> CompositeTensor:
    made = CompositeTensor(
        "sparse_coo", "t", BY_NAME["float32"], (9,), tuple(map(Part, parts, parts.values()))
    )
    return made._replace(**fields)


def test_every_outcome_without_numbers(files: Files) -> None:
    x, y, empty = files.info(torch.ones(2)), files.info(torch.zeros(2)), files.info(torch.ones(0))
    short, ints = files.info(torch.ones(1)), files.info(torch.ones(2).int())
    bare, none = x._replace(storage=None), empty._replace(storage=None)
    empty_ints = files.info(torch.ones(0).int())
    c = composite
    other = Outcome(False, note="sparse_coo and sparse_coo of other parts or details")
    cases: list[tuple[Tensor, Tensor, Outcome]] = [
        (x, bare, Outcome(False, note="only one has values")),
        (bare, x, Outcome(False, note="only one has values")),
        (bare, bare, Outcome(None, note="no values")),
        (empty, none, Outcome(True)),
        (none, empty_ints, Outcome(False, note="no elements")),
        (x, c({"v": x}), Outcome(False, note="one is made of parts, the other is not")),
        (c({"v": x}), x, Outcome(False, note="one is made of parts, the other is not")),
        (c({"v": x}), c({"v": x}), Outcome(True)),
        (c({"v": x}), c({"v": files.info(torch.ones(2))}), Outcome(True)),
        (c({"v": x, "w": y}), c({"w": y, "v": x}), Outcome(True)),
        (c({"v": x}), c({"w": x}), other),
        (c({"v": x}), c({"v": x, "w": x}), other),
        (c({"v": x}), c({"v": x}, layout="nested"),
         Outcome(False, note="sparse_coo and nested of other parts or details")),
        (c({"v": x}, layout="jagged"), c({"v": x}),
         Outcome(False, note="jagged and sparse_coo of other parts or details")),
        (c({"v": x}), c({"v": x}, details=(("k", 1),)), other),
        (c({"v": x}), c({"v": x}, dtype=None), other),
        (c({"v": x}, coalesced=True), c({"v": x}, coalesced=False), Outcome(True)),
        (c({"v": x}), c({"v": y}), Outcome(False, note="other v")),
        (c({"v": x, "w": x, "u": x}), c({"v": y, "w": x, "u": y}), Outcome(False, note="other v, u")),
        (c({"v": x}), c({"v": short}), Outcome(False, note="v of another dtype or shape")),
        (c({"u": x, "v": x}), c({"u": y, "v": ints}), Outcome(False, note="v of another dtype or shape")),
        (c({"v": x}), c({"v": bare}), Outcome(False, note="no values of v")),
        (c({"v": bare}), c({"v": x}), Outcome(False, note="no values of v")),
        (c({"u": x, "v": bare}), c({"u": y, "v": bare}), Outcome(None, note="no values of v")),
        (c({"v": empty, "w": x}), c({"v": none, "w": y}), Outcome(False, note="other w")),
        (c({"v": empty}), c({"v": none}), Outcome(True)),
        (c({"o": c({"i": x, "j": x})}), c({"o": c({"i": x, "j": y})}), Outcome(False, note="other o.j")),
        (c({"o": c({"i": x, "j": x})}), c({"o": c({"i": x, "k": x})}), other),
    ]  # fmt: skip
    assert files.compare(*[(a, b) for a, b, _ in cases]) == [outcome for _, _, outcome in cases]
    for a, b, outcome in cases:
        assert files.compare((a, b)) == [outcome]


def test_without_numpy_equal_bytes_are_compared_and_numbers_are_refused(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    a, b, other = (files.info(torch.arange(3.0) + by) for by in (0, 0, 1))
    assert files.compare((a, b), (composite({"v": a}), composite({"v": other}))) == [
        Outcome(True), Outcome(False, note="other v")
    ]  # fmt: skip
    with pytest.raises(UnsupportedFeature) as caught:
        files.compare((a, b), (a, other))
    said = "the size of differences without numpy", "install numpy, or ask for --headers"
    assert (caught.value.feature, caught.value.hint) == said


@pytest.mark.parametrize("changed", [0, 1])
def test_a_file_of_a_part_that_changed_is_noticed(files: Files, changed: int) -> None:
    values = [files.info(torch.ones(3)) for _ in "ab"]
    storage = values[changed].storage
    assert storage is not None
    os.utime(storage.file, ns=(1, 1))
    with pytest.raises(MalformedCheckpoint) as caught:
        files.compare((composite({"v": values[0]}), composite({"v": values[1]})))
    assert caught.value.path == storage.file


def test_pairs_do_not_take_each_others_outcome(files: Files) -> None:
    x, y, z = (files.info(torch.full((3,), float(at))) for at in range(3))
    bare, parts = x._replace(storage=None), [composite({"v": one}) for one in (x, y)]
    pairs: list[tuple[Tensor, Tensor]] = [
        (x, y), (bare, bare), (x, files.info(torch.zeros(3))), (parts[0], parts[1]), (x, z), (y, x), (x, y),
    ]  # fmt: skip
    outcomes = files.compare(*pairs)
    assert [outcome.equal for outcome in outcomes] == [False, None, True, False, False, False, False]
    sizes = [outcome.numbers and outcome.numbers.max_abs for outcome in outcomes]
    assert sizes == [1.0, None, None, None, 2.0, 1.0, 1.0]
    assert outcomes[0].numbers == Numbers(
        numel=3, changed=3, finite=3, max_abs=1.0, sum_abs=3.0, delta_squares=3.0, b_squares=3.0
    )
    assert outcomes[5].numbers == Numbers(
        numel=3, changed=3, finite=3, max_abs=1.0, sum_abs=3.0, delta_squares=3.0, a_squares=3.0
    )


@pytest.mark.parametrize("span", [16, 1 << 20])
def test_signs_and_byte_orders_that_one_side_leaves_to_the_reader(
    files: Files, monkeypatch: pytest.MonkeyPatch, span: int
) -> None:
    """The stored bytes are equal and the elements are not, or the other way round."""
    monkeypatch.setattr(compare, "_SPAN_NBYTES", span)
    base = torch.tensor([1 + 2j, 3 - 4j, -5j, 6 + 7j, 8 - 9j])
    plain, conj = files.info(base), files.info(base.conj())
    negated = files.info(base)._replace(neg=True)
    big = plain._replace(storage=plain.storage and plain.storage._replace(big_endian=True))
    swapped = files.info(base.view(torch.uint8).view(-1, 4).flip(1).flatten().view(torch.complex64))
    swapped = swapped._replace(storage=swapped.storage and swapped.storage._replace(big_endian=True))
    same = [(conj, files.info(base.conj())), (negated, files.info(-base)), (swapped, plain), (plain, swapped)]
    same += [(conj, files.info(base.conj().resolve_conj())), (big, big._replace(storage_offset=0))]
    differ = [(plain, conj), (plain, negated), (conj, negated), (plain, big), (big, plain)]
    assert [outcome.equal for outcome in files.compare(*same, *differ)] == [True] * 6 + [False] * 5
    for place in range(len(base)):
        changed = base.conj().resolve_conj().clone()
        changed[place] += 1
        assert files.compare((conj, files.info(changed)))[0].equal is False
    other_big = files.info(base)
    other_big = other_big._replace(storage=other_big.storage and other_big.storage._replace(big_endian=True))
    assert files.compare((big, other_big)) == [Outcome(True)]
    numbers = files.compare((plain, conj))[0].numbers
    check(numbers, base, base.conj().resolve_conj())
    assert torch.equal(bits_of(base), bits_of(base.clone()))
