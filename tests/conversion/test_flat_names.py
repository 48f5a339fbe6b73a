"""Names and headers of a safetensors file: each tensor once under its flat name, or a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ckpttool.cli import main
from ckpttool.conversion import safetensors
from ckpttool.formats.base import Limits

keys = st.sampled_from(["a", "b", "a.b", "b.", ".b", "", 0, "0"])
trees = st.recursive(
    st.just(None), lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3), max_leaves=6
).filter(bool)


def fill(tree: Any, values: Iterator[int]) -> Any:
    """The tree with another tensor at each leaf."""
    if tree is None:
        return torch.tensor([next(values)])
    return {key: fill(inner, values) for key, inner in tree.items()}


def flat(tree: Any, path: tuple[object, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        yield ".".join(map(str, path)), tree
    else:
        for key, inner in tree.items():
            yield from flat(inner, (*path, key))


@settings(max_examples=60)
@given(trees)
def test_every_tensor_has_a_flat_name_of_its_own_or_none_is_written(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    folder = tmp_path_factory.mktemp("flat")
    filled = fill(tree, iter(range(100)))
    torch.save(filled, folder / "a.pt")
    expected = list(flat(filled))
    target = folder / "b.safetensors"
    status = main(["convert", str(folder / "a.pt"), str(target), "--root", "", "--quiet"])
    if max(Counter(name for name, _ in expected).values()) > 1:
        assert status == 2 and not target.exists()
        return
    assert status == 0
    found = load_file(target)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in expected
    }
    header = target.read_bytes()[8:].partition(b"}}")[0] + b"}}"
    pairs = json.loads(header, object_pairs_hook=lambda found: [name for name, _ in found])
    assert max(Counter(pairs).values()) == 1


def test_two_branches_that_meet_in_one_flat_name_are_named(tmp_path: Path, capsys: Any) -> None:
    torch.save({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}, tmp_path / "a.pt")
    arguments = [str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--root", ""]
    assert main(["convert", *arguments]) == 2
    assert "two tensors would both be called 'a.b'" in capsys.readouterr().err


@settings(max_examples=60)
@given(st.text(st.characters(codec=None), min_size=1, max_size=3))
def test_any_text_is_a_name_and_what_is_none_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """Pickles hold lone surrogates, UTF-8 does not."""
    folder = tmp_path_factory.mktemp("names")
    torch.save({name: torch.ones(2)}, folder / "a.pt")
    status = main(["convert", str(folder / "a.pt"), str(folder / "b.safetensors"), "--quiet"])
    if any(0xD800 <= ord(letter) < 0xE000 for letter in name):
        assert status == 2
    else:
        assert status == 0
        assert list(load_file(folder / "b.safetensors")) == [name]


@pytest.mark.parametrize(
    ("name", "words"),
    [("a\ud800", "cannot hold the name 'a\\ud800': it is not Unicode text"), ("__metadata__", "reserves")],
)
def test_a_name_that_no_header_can_hold_is_a_sentence(
    name: str, words: str, tmp_path: Path, capsys: Any
) -> None:
    torch.save({name: torch.ones(2)}, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said and str(tmp_path / "a.pt") in said
    assert not (tmp_path / "b.safetensors").exists()
    # A .pt has no such limit, and another name is a way out.
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--quiet"]) == 0
    assert list(torch.load(tmp_path / "b.pt", weights_only=True)) == [name]
    rename = ["--rename", ".+=>plain", "--quiet"]
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), *rename]) == 0
    assert list(load_file(tmp_path / "b.safetensors")) == ["plain"]


def test_a_header_is_as_long_as_readers_accept_and_no_longer(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Limits().header_nbytes == safetensors.MAX_HEADER_NBYTES  # what is written can be read
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    arguments = ["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]
    assert main([*arguments, "--quiet"]) == 0
    nbytes = int.from_bytes((tmp_path / "b.safetensors").read_bytes()[:8], "little")
    monkeypatch.setattr(safetensors, "MAX_HEADER_NBYTES", nbytes)
    assert main([*arguments, "--quiet", "--force"]) == 0
    monkeypatch.setattr(safetensors, "MAX_HEADER_NBYTES", nbytes - 1)
    capsys.readouterr()
    assert main([*arguments, "--force"]) == 2
    said = capsys.readouterr().err
    assert "length of the safetensors header" in said and f"{nbytes}" in said
