"""What holds for the difference of any two checkpoints."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ckpttool.values.checkpoint import Kind
from ckpttool.values.difference import Status
from tests.support.differing import diff, entry

# ------------------------------------------------------------------------------------------ properties

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (2, 3), (0, 4)])


@st.composite
def checkpoints(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    made = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        shape, dtype, seed = draw(SHAPES), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 3))
        generator = torch.Generator().manual_seed(seed)
        made[name] = (torch.randn(shape, generator=generator) * 9).to(dtype)
    return made


@given(checkpoints())
@settings(max_examples=40)
def test_nothing_differs_from_itself(tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("x")
    torch.save(made, folder / "a.pt")
    save_file(made, folder / "b.safetensors")
    for first, second in (("a.pt", "a.pt"), ("a.pt", "b.safetensors"), ("b.safetensors", "a.pt")):
        found = diff(folder / first, folder / second)
        assert found.equal and not found.findings
        assert {item.status for item in found.entries} <= {Status.EQUAL}
        assert len(found.entries) == len(made)


MIRROR = {Status.ADDED: Status.REMOVED, Status.REMOVED: Status.ADDED}


@given(checkpoints(), checkpoints())
@settings(max_examples=60)
def test_the_other_way_round_is_the_mirror(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, Any], second: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("x")
    torch.save(first, folder / "a.pt")
    torch.save(second, folder / "b.pt")
    there, back = diff(folder / "a.pt", folder / "b.pt"), diff(folder / "b.pt", folder / "a.pt")
    assert there.equal == back.equal
    assert Counter(item.status for item in there.entries) == Counter(
        MIRROR.get(item.status, item.status) for item in back.entries
    )
    strict, mirrored = (
        diff(folder / a, folder / b, align=False) for a, b in (("a.pt", "b.pt"), ("b.pt", "a.pt"))
    )
    by_name = {item.name: item for item in mirrored.entries}
    assert len(by_name) == len(strict.entries) == len(first.keys() | second.keys())
    for item in strict.entries:
        other = by_name[item.name]
        assert MIRROR.get(item.status, item.status) is other.status
        if item.numbers is None or other.numbers is None:
            assert item.numbers is other.numbers
            continue
        assert item.numbers.max_abs == other.numbers.max_abs and item.numbers.changed == other.numbers.changed
        assert item.numbers.nan_appeared == other.numbers.nan_gone


@given(checkpoints(), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_a_permutation_of_names_is_renames_only(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any], random: Any
) -> None:
    # Equal contents may be exchanged for each other unseen.
    distinct = {name: torch.full((3,), float(place)) for place, name in enumerate(made)}
    names = list(distinct)
    random.shuffle(names)
    shuffled = dict(zip(names, distinct.values(), strict=True))
    folder = tmp_path_factory.mktemp("x")
    torch.save(distinct, folder / "a.pt")
    torch.save(shuffled, folder / "b.pt")
    found = diff(folder / "a.pt", folder / "b.pt")
    assert {item.status for item in found.entries} <= {Status.EQUAL, Status.RENAMED}
    assert len(found.entries) == len(distinct)
    for item in found.entries:
        old = item.renamed_from[1] if item.renamed_from else item.name
        assert torch.equal(distinct[str(old)], shuffled[str(item.name)])


@given(checkpoints(), NAMES)
@settings(max_examples=40)
def test_new_names_are_renames_only(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any], word: str
) -> None:
    folder = tmp_path_factory.mktemp("x")
    torch.save(made, folder / "a.pt")
    torch.save(
        {f"{word}/{place}/{name[::-1]}": made[name] for place, name in enumerate(made)}, folder / "b.pt"
    )
    found = diff(folder / "a.pt", folder / "b.pt")
    kinds = {
        kind.kind
        for kind in (*(r.classification for r in found.a.rows), *(r.classification for r in found.b.rows))
    }
    if kinds <= {Kind.UNKNOWN, Kind.PARAMETER}:  # names alone may make a buffer of one and not of the other
        assert {item.status for item in found.entries} <= {Status.RENAMED, Status.EQUAL}


@given(st.data())
@settings(max_examples=40)
def test_one_flipped_byte_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    made = {name: value for name, value in data.draw(checkpoints()).items() if value.numel()}
    if not made:
        return
    name = data.draw(st.sampled_from(sorted(made)))
    flipped = {key: value.clone() for key, value in made.items()}
    raw = flipped[name].reshape(-1).view(torch.uint8)
    raw[data.draw(st.integers(0, raw.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("x")
    save_file(made, folder / "a.safetensors")
    torch.save(flipped, folder / "b.pt")
    found = diff(folder / "a.safetensors", folder / "b.pt")
    assert [item.name for item in found.entries if item.status is not Status.EQUAL] == [name]
    changed = entry(found, name)
    assert changed.status is Status.CHANGED and changed.numbers is not None and changed.numbers.changed == 1
