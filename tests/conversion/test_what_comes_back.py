"""What stands around the tensors comes back as it was; what is about other files stays behind."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from ckpttool.cli import main
from tests.conversion.test_round_trip import state_dicts, ties
from tests.support.converting import convert
from tests.support.sharded import two_shards

mappings = st.sampled_from([dict, OrderedDict])
leaves = st.sampled_from(["tensor", "tensor", 3, "text", [1, 2], (1.5, None)])


@st.composite
def nested(draw: Any, depth: int = 3) -> Any:
    """Mappings of both kinds with tensors, values, both or nothing in them."""
    made = draw(mappings)()
    for number in range(draw(st.integers(0, 3))):
        inner = draw(st.booleans()) and depth > 0
        leaf = draw(nested(depth - 1)) if inner else draw(leaves)
        made[f"k{number}"] = torch.tensor([float(number)]) if leaf == "tensor" else leaf
    return made


def kinds_of(value: Any) -> Any:
    """The types of all mappings, and plain values."""
    if isinstance(value, dict):
        return type(value).__name__, {key: kinds_of(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def has_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_tensor, value.values()))
    return isinstance(value, torch.Tensor)


@settings(max_examples=60)
@given(nested().filter(has_tensor))
def test_each_mapping_comes_back_as_what_it_was(tmp_path_factory: pytest.TempPathFactory, made: Any) -> None:
    folder = tmp_path_factory.mktemp("mappings")
    torch.save(made, folder / "a.pt")
    convert(folder / "a.pt", folder / "b.safetensors", "--root", "")
    convert(folder / "b.safetensors", folder / "c.pt")
    assert kinds_of(torch.load(folder / "c.pt", weights_only=True)) == kinds_of(made)


@pytest.mark.parametrize("root", [(), ("--root", "")], ids=["", "all"])
@pytest.mark.parametrize(
    "steps", [["b.pt"], ["b.safetensors", "c.pt"], ["b.safetensors", "c.safetensors", "d.pt"]]
)
def test_what_is_empty_comes_back_empty(tmp_path: Path, steps: list[str], root: tuple[str, ...]) -> None:
    # As of SGD without momentum, and of any optimizer before its first step.
    fresh = {"state": {}, "param_groups": [{"lr": 0.5, "params": [0, 1]}]}
    empty: Any = {"a": {}, "b": [], "c": (), "d": OrderedDict(), "e": set(), "f": {"g": [{}, [set()]]}, 3: {}}
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": fresh, "empty": empty}, tmp_path / "a.pt")
    for before, after in itertools.pairwise(["a.pt", *steps]):
        convert(tmp_path / before, tmp_path / after, "--strict", *root)
    back = torch.load(tmp_path / steps[-1], weights_only=True)
    assert (back["empty"], type(back["empty"]["d"])) == (empty, OrderedDict)
    assert back["optimizer"] == fresh


@pytest.mark.parametrize("steps", [["b.pt"], ["b.safetensors", "c.pt"]], ids=str)
def test_a_tensor_with_an_empty_name_is_no_bare_tensor(tmp_path: Path, steps: list[str]) -> None:
    one = torch.arange(3.0)
    for made in (
        one,
        {"": one},
        OrderedDict({"": one}),
        {"a": 1, "": one},
        {"a": {"": one}},
        [one],
        {"": [one]},
    ):
        torch.save(made, tmp_path / "a.pt")
        for before, after in itertools.pairwise(["a.pt", *steps]):
            convert(tmp_path / before, tmp_path / after, "--force", "--root", "")
        back = torch.load(tmp_path / steps[-1], weights_only=True)
        assert (type(back), repr(kinds_of(back))) == (type(made), repr(kinds_of(made)))


def test_what_is_empty_and_left_out_stays_out(tmp_path: Path) -> None:
    weights = {"w": torch.ones(2)}
    tree = {"model": dict(weights), "ema": {"w": torch.ones(2), "e": {}}, "a": {}, "b": {"c": {}, "d": [{}]}}
    torch.save(tree, tmp_path / "a.pt")
    for options, expected in (
        (("--drop", "b.d", "--drop", "ema"), {"model": weights, "a": {}, "b": {"c": {}}}),
        (("--root", "", "--drop", "a", "--drop", "b.*", "--drop", "ema"), {"model": weights}),
        (("--root", "model"), weights),
        (("--root", "ema"), {**weights, "e": {}}),
        (("--weights-only",), weights),
    ):
        for name in ("b.pt", "b.safetensors"):
            convert(tmp_path / "a.pt", tmp_path / name, "--force", *options)
            convert(tmp_path / name, tmp_path / "c.pt", "--force")
            back = torch.load(tmp_path / "c.pt", weights_only=True)
            assert kinds_of(back) == kinds_of(expected), (options, name)


@settings(max_examples=40)
@given(state_dicts())
def test_ties_are_listed_for_a_pt_as_well(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    folder = tmp_path_factory.mktemp("aliases")
    torch.save(state, folder / "a.pt")
    loaded = torch.load(folder / "a.pt", weights_only=True)
    for name, options in (("b.pt", ()), ("c.safetensors", ()), ("d.pt", ("--shared", "duplicate"))):
        target = folder / name
        report = folder / f"{name}.json"
        with report.open("w") as file, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", file)
            assert main(["convert", str(folder / "a.pt"), str(target), "--json", *options]) == 0
        expected = {} if options else dict(ties(loaded))
        assert json.loads(report.read_text("utf-8"))["aliases"] == expected


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return {key: text for key, text in found.items() if not key.startswith("ckpttool.")}


def test_the_total_of_an_index_is_about_its_shards_and_one_of_a_file_is_its_own(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"total_size": "mine", "x": "y"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert metadata(tmp_path / "b.safetensors") == {"total_size": "mine", "x": "y", "format": "pt"}
    convert(two_shards(tmp_path), tmp_path / "c.safetensors")
    assert metadata(tmp_path / "c.safetensors") == {"format": "pt"}
    convert(tmp_path / "a.safetensors", tmp_path / "shards", "--max-shard-size", "1B", "--to", "safetensors")
    convert(tmp_path / "shards", tmp_path / "d.safetensors")
    assert metadata(tmp_path / "d.safetensors")["x"] == "y"


def test_a_pt_names_the_strings_that_it_has_no_place_for(tmp_path: Path, capsys: Any) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", {"total_size": "8", "x": "y", "format": "pt"})
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in document["dropped"]] == ["x"]
    arguments = [str(tmp_path / "a.safetensors"), str(tmp_path / "c.pt"), "--metadata", "k=v"]
    assert main(["convert", *arguments]) == 2
    assert "--metadata needs a safetensors destination" in capsys.readouterr().err
