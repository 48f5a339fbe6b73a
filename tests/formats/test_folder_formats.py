"""A folder format is one file and one line: tensors in chunks go through every command as any other."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import ckpttool
from ckpttool.api.opened import open_file
from ckpttool.cli import main
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import folders
from ckpttool.values.checkpoint import ChunkedTensor
from ckpttool.values.errors import LimitExceeded
from tests.support.toy_folder import INDEX, write_toy

CUTS = {
    "rows.weight": [[3, 4]],
    "columns.weight": [[], [2, 5]],
    "grid.weight": [[1, 4], [3]],
    "cube": [[2], [], [1, 3]],
    "halves": [[], [3]],
    "wide": [[], [1]],
    "counts": [[4]],
    "flags": [[2], [1]],
    "empty": [[1]],
}


@pytest.fixture(autouse=True)
def toy_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "FOLDER_FORMATS", ("tests.support.toy_folder", *folders.FOLDER_FORMATS))


def make_state() -> dict[str, torch.Tensor]:
    return {
        "rows.weight": torch.arange(42.0).reshape(6, 7) - 20,
        "columns.weight": torch.arange(42.0).reshape(6, 7) / 4,
        "grid.weight": torch.arange(42.0).reshape(7, 6),
        "cube": torch.arange(60, dtype=torch.int32).reshape(3, 5, 4),
        "halves": torch.arange(24.0).reshape(4, 6).bfloat16(),
        "wide": torch.arange(12.0).reshape(4, 3).to(torch.complex64),
        "counts": torch.arange(9),
        "flags": (torch.arange(12).reshape(4, 3) % 2).bool(),
        "empty": torch.zeros(3, 0),
        "scalar": torch.tensor(7.5),
    }


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return make_state()


@pytest.fixture
def toy(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    write_toy(tmp_path / "toy", state, CUTS)
    return tmp_path / "toy"


@pytest.fixture
def twin(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, tmp_path / "twin.safetensors")
    return tmp_path / "twin.safetensors"


def document(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main([*arguments, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


def test_inspect_shows_what_a_file_would_and_where_the_chunks_lie(
    toy: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, whole = (document(["inspect", str(path), "--stats"], capsys) for path in (toy, twin))
    by_name = {entry["name"]: entry for entry in whole["entries"]}
    assert found["format"] == "toy" and len(found["files"]) == 3
    for entry in found["entries"]:
        other = by_name[entry["name"]]
        for field in ("dtype", "shape", "numel", "nbytes", "kind", "stats"):
            assert entry[field] == other[field], entry["name"]
        assert (entry["stride"], entry["byte_offset"]) == (None, None)
        assert sum(math.prod(chunk["shape"]) for chunk in entry["chunks"]) == entry["numel"]
    assert found["summary"]["tensor_nbytes"] == whole["summary"]["tensor_nbytes"]
    assert main(["inspect", str(toy), "--tensor", "grid.weight", "--first", "8"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"made of +6 chunks in 2 files", shown)
    assert "[1:4, 0:3]" in shown and "0.0  1.0  2.0  3.0  4.0  5.0  6.0  7.0" in shown


def test_equal_contents_have_equal_digests_and_no_difference(toy: Path, twin: Path) -> None:
    assert ckpttool.open(toy).digest() == ckpttool.open(twin).digest()
    for a, b in ((toy, twin), (twin, toy), (toy, toy)):
        diff = ckpttool.diff(a, b)
        assert diff.equal and {entry.status for entry in diff.entries} == {"equal"}


def test_diff_tells_one_changed_value_and_a_renamed_tensor(
    toy: Path, tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    changed = {name: tensor.clone() for name, tensor in state.items()}
    changed["columns.weight"][5, 6] += 2
    changed["grid.moved"] = changed.pop("grid.weight")
    save_file(changed, tmp_path / "changed.safetensors")
    for a, b in ((toy, tmp_path / "changed.safetensors"), (tmp_path / "changed.safetensors", toy)):
        diff = ckpttool.diff(a, b)
        told = {entry.status: entry for entry in diff.entries if entry.status != "equal"}
        assert told.keys() == {"changed", "renamed"}
        numbers = told["changed"].numbers
        assert numbers is not None and (numbers.max_abs, numbers.changed) == (2.0, 1)


@pytest.mark.parametrize("name", ["out.safetensors", "out.pt"])
def test_convert_writes_what_was_put_in(
    toy: Path, tmp_path: Path, name: str, state: dict[str, torch.Tensor]
) -> None:
    conversion = ckpttool.convert(toy, tmp_path / name)
    target = tmp_path / name
    loaded = load_file(target) if name.endswith("s") else torch.load(target, weights_only=True)
    assert loaded.keys() == state.keys()
    for key, tensor in state.items():
        assert loaded[key].dtype is tensor.dtype and loaded[key].shape == tensor.shape
        assert loaded[key].tolist() == tensor.tolist()
    methods = {str(t.name): conversion.plan.pieces[t.value.piece].method for t in conversion.plan.tensors}  # type: ignore[union-attr]
    assert methods["rows.weight"] == methods["counts"] == "copied"  # whole rows lie as they are
    assert methods["columns.weight"] == methods["grid.weight"] == "gathered"


def test_convert_casts_shards_and_writes_a_manifest(
    toy: Path, twin: Path, tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    manifest = tmp_path / "m.json"
    ckpttool.convert(toy, tmp_path / "cast", dtype="bf16", keep_dtype=["wide"], max_shard_size=200)
    ckpttool.convert(toy, tmp_path / "b.safetensors", manifest=manifest)
    loaded: dict[str, torch.Tensor] = {}
    for shard in (tmp_path / "cast").glob("*.safetensors"):
        loaded |= load_file(shard)
    assert torch.equal(loaded["grid.weight"], state["grid.weight"].bfloat16())
    assert ckpttool.diff(manifest, twin).equal


def test_the_api_gives_tensors_and_verify_loads_them(toy: Path, state: dict[str, torch.Tensor]) -> None:
    opened = ckpttool.open(toy)
    for name, tensor in state.items():
        assert torch.equal(opened.tensor(name), tensor)
        if tensor.dtype is not torch.bfloat16:
            assert (opened.array(name) == tensor.numpy()).all()

    def build() -> torch.nn.Module:
        model = torch.nn.Module()
        for name, tensor in make_state().items():
            owner, _, leaf = name.rpartition(".")
            if owner and not hasattr(model, owner):
                model.add_module(owner, torch.nn.Module())
            (getattr(model, owner) if owner else model).register_buffer(leaf, torch.zeros_like(tensor))
        return model

    assert opened.verify(build, devices=["cpu"]).ok


def test_git_textconv_is_that_of_a_file(toy: Path, twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for path in (toy, twin):
        assert main(["git-textconv", str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        shown.append([line for line in lines if line.startswith(("digest", "tensor"))])
    assert shown[0] == shown[1]


# ------------------------------------------------------------------------------------------ what is refused


def spoil(toy: Path, change: Any) -> None:
    index = json.loads((toy / INDEX).read_text())
    change(index)
    (toy / INDEX).write_text(json.dumps(index))


def overlap(index: Any) -> None:
    chunks = index["rows.weight"][2]
    chunks[0], chunks[1] = chunks[1], [*chunks[1][:1], *chunks[0][1:]]


def hole(index: Any) -> None:
    index["columns.weight"][2].pop()


def reach_beyond(index: Any) -> None:
    index["grid.weight"][2][0][0] = [5, 4]


def lie_about_size(index: Any) -> None:
    index["cube"][1] = [3, 5, 5]


def lie_about_dimensions(index: Any) -> None:
    index["counts"][2][0][0] = [0, 0]


def leave_the_file(index: Any) -> None:
    index["counts"][2][0][3] += 1 << 20


def leave_the_storage(index: Any) -> None:
    index["counts"][2][0][4] -= 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (overlap, "overlap"),
        (hole, "do not add up"),
        (reach_beyond, "reach beyond its shape"),
        (lie_about_size, "do not add up"),
        (lie_about_dimensions, "number of dimensions"),
        (leave_the_file, "lies outside its file"),
        (leave_the_storage, "beyond its storage"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_chunks_that_do_not_make_up_the_tensor_are_refused(
    toy: Path, change: Any, said: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(toy, change)
    target = [str(tmp_path / "out.pt")] if command == "convert" else []
    assert main([command, str(toy), *target]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out and len(shown.err.splitlines()) <= 2
    assert not list(tmp_path.glob("out*"))


def test_more_chunks_than_anybody_writes_are_refused_soon(tmp_path: Path) -> None:
    tensor = torch.arange(70_000.0)
    write_toy(tmp_path / "toy", {"a": tensor[:4]}, {"a": [[1, 2, 3]]})

    def many(index: Any) -> None:
        index["a"] = ["uint8", [70_000], [[[n], [1], "0.bin", 4, 1] for n in range(70_000)]]

    spoil(tmp_path / "toy", many)
    with pytest.raises(LimitExceeded, match="chunks"):
        open_file(tmp_path / "toy")


# --------------------------------------------------------------------------------------------- any cuts


@st.composite
def tensors_in_pieces(draw: st.DrawFn) -> tuple[torch.Tensor, list[list[int]], int]:
    shape = draw(st.lists(st.integers(0, 6), max_size=4))
    dtype = draw(st.sampled_from([torch.uint8, torch.int16, torch.float32, torch.int64, torch.complex128]))
    cuts = [sorted(draw(st.sets(st.integers(1, size - 1)))) if size > 1 else [] for size in shape]
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    return tensor, cuts, draw(st.integers(1, 64))


@settings(max_examples=150)
@given(tensors_in_pieces())
def test_any_cuts_give_the_elements_in_order(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[torch.Tensor, list[list[int]], int]
) -> None:
    tensor, cuts, chunk_nbytes = case
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder, {"a": tensor}, {"a": cuts})
    opened = open_file(folder)
    (entry,) = opened.read.entries
    assert isinstance(entry.value, ChunkedTensor)
    with TensorReader(opened.sources) as reader:
        data = b"".join(map(bytes, reader.iter_chunks(entry.value, chunk_nbytes=chunk_nbytes)))
    opened.sources.close()
    assert data == bytes(tensor.reshape(-1).view(torch.uint8).tolist() if tensor.numel() else b"")
