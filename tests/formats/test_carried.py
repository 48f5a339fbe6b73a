"""What a header carries for us is anybody's text: it comes back exactly, or it is left out and named."""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

import ckpttool
from ckpttool.cli import main
from ckpttool.findings.next_commands import next_commands
from ckpttool.formats import read_checkpoint
from ckpttool.formats.carried import PREFIX, carry_order, carry_values, encode_plain, expand
from ckpttool.values.checkpoint import (
    Checkpoint,
    Entry,
    OddKey,
    Plain,
    PlainList,
    StorageRef,
    TensorInfo,
    Value,
)
from ckpttool.values.dtypes import BY_NAME

KEYS = ("root", "values", "module_versions", "order", "paths", "lists", "parameters", "as_bytes", "objects")

plains = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.lists(inner, max_size=3).map(PlainList),
    max_leaves=8,
)


def identical(a: Plain, b: Plain) -> bool:
    """Equal with types, NaN and signs of zero."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@given(plains, st.lists(st.text() | st.integers() | st.just(OddKey("1.5", True)), min_size=1, max_size=3))
def test_values_come_back_as_they_were(value: Plain, path: list[Any]) -> None:
    text = carry_values([Value(tuple(path[:-1]), path[-1], value)])
    assert text.isascii()
    empty = Checkpoint("x", "safetensors", "", (), (), metadata={PREFIX + "values": text})
    (back,) = expand(empty).values
    assert (*back.root, back.name) == tuple(path)
    assert identical(back.value, value), (back.value, value)
    json.dumps(encode_plain(value), allow_nan=False)


@given(st.lists(st.text(), unique=True))
def test_order_is_a_permutation_of_the_sorted_names(names: list[str]) -> None:
    order = json.loads(carry_order(names)) or range(len(names))
    assert [sorted(names)[position] for position in order] == names


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=3) | st.sampled_from(["a", "b", "F32"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2) | st.just("tuple"), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(KEYS), json_values.map(json.dumps) | st.text(max_size=5), min_size=1))
def test_forged_keys_never_break_a_conversion(tmp_path_factory: pytest.TempPathFactory, forged: Any) -> None:
    folder = tmp_path_factory.mktemp("forged")
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    save_file(state, folder / "a.safetensors", metadata={PREFIX + key: text for key, text in forged.items()})
    checkpoint = expand(read_checkpoint(str(folder / "a.safetensors")))
    assert len(checkpoint.entries) == 2
    for target in ("b.pt", "c.safetensors"):
        status = main(
            ["convert", str(folder / "a.safetensors"), str(folder / target), "--quiet", "--root", ""]
        )
        assert status in (0, 2)
    if (folder / "b.pt").exists():
        torch.load(folder / "b.pt", weights_only=True)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"a":' * 3000, "not json", "NaN"])
def test_text_that_breaks_parsers_is_left_out(text: str) -> None:
    metadata = {PREFIX + key: text for key in KEYS}
    back = expand(Checkpoint("x", "safetensors", "", (), (), metadata=metadata))
    assert not back.values and not back.entries
    assert {finding.code for finding in back.findings} == {"carried-malformed"}


def test_odd_keys_come_back_and_others_are_refused(tmp_path: Path) -> None:
    odd = {1.5: 1, None: 2, True: 3, (1, "x"): 4, b"k": 5}
    torch.save({"odd": odd, "model": {"a.weight": torch.ones(2)}}, tmp_path / "a.pt")
    for name in ("b.safetensors", "c.pt"):
        source = "a.pt" if name == "b.safetensors" else "b.safetensors"
        assert main(["convert", str(tmp_path / source), str(tmp_path / name), "--quiet"]) == 0
    assert torch.load(tmp_path / "c.pt", weights_only=True)["odd"] == odd


@pytest.mark.parametrize("keys", ['["opt",{"key":"1.5"}]', '["opt","a"]', '["opt",-1]', '["opt",99999999]'])
def test_a_list_without_places_becomes_a_dict(keys: str, tmp_path: Path) -> None:
    """A foreign header may call anything a list: no tensor gets another name by that."""
    metadata = {"ckpttool.paths": f'{{"w":{keys}}}', "ckpttool.lists": '[[["opt"],"list"]]'}
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata)
    assert main(["convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pt"), "--quiet"]) == 0
    before, after = (expand(read_checkpoint(str(tmp_path / name))) for name in ("a.safetensors", "b.pt"))
    assert [(e.root, e.name) for e in before.entries] == [(e.root, e.name) for e in after.entries]
    assert list(torch.load(tmp_path / "b.pt", weights_only=True)) == ["opt"]


def test_a_pickled_module_becomes_a_bare_state_dict(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    torch.save({"model": model, "epoch": 3}, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--quiet"]) == 0
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert list(back["model"]) == list(model.state_dict()) and back["epoch"] == 3


def test_a_written_pickle_names_nothing_that_runs(tmp_path: Path) -> None:
    state = {
        "a": torch.ones(2, dtype=torch.bfloat16),
        "b": torch.ones(2, dtype=torch.uint16),
        "c": torch.nn.Parameter(torch.ones(2)),
        "os\nsystem": torch.ones(1),
        "raw": b"cos\nsystem\n(S'true'\ntR.",
        "dtype": torch.float16,
    }
    torch.save(state, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--quiet"]) == 0
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        opcodes = list(pickletools.genops(archive.read("archive/data.pkl")))
    assert {opcode.name for opcode, _, _ in opcodes}.isdisjoint(
        {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "NEWOBJ"}
    )
    assert {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"} == {
        "_codecs encode",
        "collections OrderedDict",
        "torch BFloat16Storage",
        "torch FloatStorage",
        "torch float16",
        "torch uint16",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch.storage UntypedStorage",
    }
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back["raw"] == state["raw"] and back["dtype"] is torch.float16


def converted(tmp_path: Path) -> tuple[Path, Path]:
    """A training checkpoint with a tie and names that say nothing, and what ``convert`` made of it."""
    embed = torch.nn.Parameter(torch.arange(8.0).reshape(4, 2))
    state = OrderedDict(
        {
            "embed.weight": embed,
            "fc.zorp": torch.nn.Parameter(torch.ones(2)),
            "norm.frozz": torch.zeros(3),
            "head.weight": embed,
        }
    )
    state._metadata = {"": {"version": 1}, "embed": {"version": 1}}  # type: ignore[attr-defined]
    torch.save({"model": state, "epoch": 3}, tmp_path / "a.pt")
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"), "--quiet"]) == 0
    return tmp_path / "a.pt", tmp_path / "b.safetensors"


def test_inspect_puts_back_what_was_carried(tmp_path: Path) -> None:
    """The file alone says of each entry what its source said, and what ``diff`` says of it."""
    before, after = map(ckpttool.open, converted(tmp_path))
    facts = [[(e.root, e.name, e.kind, e.basis, e.tied_to) for e in each.entries] for each in (before, after)]
    assert facts[0] == facts[1]
    assert [(v.root, v.name, v.value) for v in after.values] == [((), "epoch", 3)]
    assert {entry.kind for entry in ckpttool.diff(before, after).entries} == {e.kind for e in after.entries}
    assert not [key for key in after.metadata if key.startswith(PREFIX)]
    assert before.digest() == after.digest() == ckpttool.open(after.path, root="model").digest()
    assert list(load_file(after.path)) == ["embed.weight", "fc.zorp", "norm.frozz"]


def test_what_was_converted_is_not_sent_to_be_converted_again(tmp_path: Path) -> None:
    _, after = converted(tmp_path)
    opened = ckpttool.open(after)
    assert [item.command for item in next_commands(opened.inspection) if " convert " in item.command] == []
    (tied,) = [finding for finding in opened.findings if finding.code == "tied"]
    assert "load_file does not" in tied.message


def test_a_load_is_given_the_file_and_not_what_was_put_back(tmp_path: Path) -> None:
    """A tied name that only metadata knows is missing from a strict load, whatever ``inspect`` shows."""
    _, after = converted(tmp_path)

    def build() -> torch.nn.Module:
        model = torch.nn.Module()
        model.embed, model.head = torch.nn.Embedding(4, 2), torch.nn.Linear(2, 4, bias=False)
        model.head.weight = model.embed.weight
        model.fc, model.norm = torch.nn.Module(), torch.nn.Module()
        model.fc.zorp = torch.nn.Parameter(torch.zeros(2))
        model.norm.register_buffer("frozz", torch.zeros(3))
        return model

    opened = ckpttool.open(after, model=build)
    assert {entry.name: entry.kind for entry in opened.entries}["norm.frozz"] == "persistent_buffer"
    assert "missing-tied" in {finding.code for finding in opened.findings}
    for root in (None, "model"):
        verified = ckpttool.open(after, root=root).verify(build, devices=["cpu"], loads=["copy"])
        assert [item.name for item in verified.runs[0].missing] == ["head.weight"]


def test_two_tensors_that_would_get_one_path_stay_where_they_are() -> None:
    """Forged: nothing that was written here says so. The rest is put back all the same."""
    info = TensorInfo(BY_NAME["float32"], (2,), (1,), 0, StorageRef("x", "0", 0, 8))
    entries = tuple(Entry((), name, info) for name in "abc")
    metadata = {"also": "a", PREFIX + "values": carry_values([Value((), "epoch", 3)])}
    for paths, same in (({"b": ["n", "a"]}, True), ({"b": ["a"]}, False), ({"a": ["x"], "c": ["x"]}, False)):
        source = Checkpoint(
            "x", "safetensors", "", (), entries, metadata={**metadata, PREFIX + "paths": json.dumps(paths)}
        )
        found = expand(source)
        assert [(item.root, item.name) for item in found.values] == [((), "epoch")]
        if same:
            places = [(*item.root, item.name) for item in found.entries]
            assert places == [("a",), ("n", "a"), ("c",), ("also",)]
            assert found.findings == () and found.put_back == {((), "also")}
        else:
            assert found.entries == entries and found.put_back == frozenset()
            assert [(item.code, item.severity, item.message) for item in found.findings] == [
                ("carried-malformed", "warning",
                 f"__metadata__ {PREFIX}paths cannot be used: two tensors would get the same path"),
            ]  # fmt: skip
