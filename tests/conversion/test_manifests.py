"""The digests of a manifest are those of the tensors themselves, however they share bytes in the file."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckpttool
from ckpttool.cli import main

# Those that torch saves over an untyped storage: it refuses to save one storage under two types.
DTYPES = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e8m0fnu]


def sha256(tensor: torch.Tensor) -> str:
    """The digest of a plain tensor below 64 MiB, as docs/json.md has it."""
    data = (
        tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if tensor.numel()
        else b""
    )
    whole = hashlib.sha256(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
    if data:
        whole.update(hashlib.sha256(data).digest())
    return whole.hexdigest()


@st.composite
def views_of_one_storage(draw: Any) -> dict[str, torch.Tensor]:
    """Tensors of several dtypes, shapes and strides over the same bytes, many of them all of the bytes."""
    base = torch.frombuffer(bytearray(draw(st.binary(min_size=48, max_size=48))), dtype=torch.uint8)
    state = {}
    for number in range(draw(st.integers(1, 5))):
        dtype = draw(st.sampled_from(DTYPES))
        start = 8 * draw(st.sampled_from([0, 0, 0, 1, 3]))
        flat = base[start : draw(st.sampled_from([48, 48, 40]))].view(dtype)
        rows = draw(st.sampled_from([size for size in (1, 2, 3, 4) if len(flat) % size == 0]))
        shaped = flat.view(rows, -1)
        how = draw(st.sampled_from(["rows", "columns", "flat", "row", "empty"]))
        ways = {"rows": shaped, "columns": shaped.t(), "flat": flat, "row": shaped[-1], "empty": shaped[:0]}
        state[f"t{number}"] = ways[how]
    return state


@settings(max_examples=80)
@given(views_of_one_storage(), st.sampled_from(["b.pt", "b.safetensors", "shards"]), st.booleans())
def test_views_of_one_storage_have_digests_of_their_own(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, torch.Tensor], name: str, check: bool
) -> None:
    folder = tmp_path_factory.mktemp("digests")
    torch.save(state, folder / "a.pt")
    options = ["--max-shard-size", "20B"] if name == "shards" else []
    options += [] if check else ["--no-check"]
    assert main(["convert", str(folder / "a.pt"), str(folder / name), "--quiet", "--manifest",
                 str(folder / "m.json"), *options]) == 0  # fmt: skip
    manifest = json.loads((folder / "m.json").read_text("utf-8"))
    found = {
        entry["name"]: (entry["dtype"], entry["shape"], entry["sha256"]) for entry in manifest["entries"]
    }
    assert found == {
        name: (str(value.dtype).removeprefix("torch."), list(value.shape), sha256(value))
        for name, value in state.items()
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_composites_have_a_digest_that_any_of_their_parts_changes(tmp_path: Path) -> None:
    sparse = torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (4,), check_invariants=True)
    moved = torch.sparse_coo_tensor([[0, 3]], [1.0, 2.0], (4,), check_invariants=True)
    scaled = torch.sparse_coo_tensor([[0, 2]], [1.0, 3.0], (4,), check_invariants=True)
    packed = torch.quantize_per_tensor(torch.arange(4.0), 0.5, 1, torch.qint8)
    wider = torch.quantize_per_tensor(torch.arange(4.0) * 2, 1.0, 1, torch.qint8)  # the same integers
    states = [
        {"s": sparse, "q": packed, "w": torch.ones(2)},
        {"s": moved, "q": packed, "w": torch.ones(2)},
        {"s": scaled, "q": packed, "w": torch.ones(2)},
        {"s": sparse, "q": wider, "w": torch.ones(2)},
    ]
    seen = []
    for number, state in enumerate(states):
        source, target, manifest = (tmp_path / f"{what}{number}" for what in ("a", "b.pt", "m.json"))
        torch.save(state, source)
        assert (
            main(["convert", str(source), str(target), "--to", "pt", "--manifest", str(manifest), "--quiet"])
            == 0
        )
        entries = {entry["name"]: entry for entry in json.loads(manifest.read_text("utf-8"))["entries"]}
        assert entries["s"]["shape"] == [4] and entries["w"]["sha256"] == sha256(torch.ones(2))
        seen.append({name: entry["sha256"] for name, entry in entries.items()})
        # Read again from either file they are the same.
        for path in (source, target):
            assert ckpttool.diff(manifest, path).equal
    assert [found["s"] == seen[0]["s"] for found in seen] == [True, False, False, True]
    assert [found["q"] == seen[0]["q"] for found in seen] == [True, True, True, False]


def test_a_cast_tensor_has_the_digest_of_what_is_written(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    arguments = ["--dtype", "bf16", "--manifest", str(tmp_path / "m.json"), "--quiet"]
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), *arguments]) == 0
    entries = json.loads((tmp_path / "m.json").read_text("utf-8"))["entries"]
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    for entry in entries:
        assert entry["dtype"] == str(written[entry["name"]].dtype).removeprefix("torch.")
        assert entry["sha256"] == sha256(written[entry["name"]])
    assert math.prod(entries[0]["shape"]) == 6
