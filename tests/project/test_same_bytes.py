"""What tests and demo read is the same wherever and however often it is written, and is what torch writes."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sample_models.batch_norm_stack import build
from sample_models.same_bytes import save_legacy, save_scripted, with_exact_weights

ROOT = Path(__file__).parents[2]


def fixed_addresses() -> list[str]:
    """What runs a program with another layout of addresses than it has by itself, where that is allowed."""
    command = ["setarch", "-R"]
    if shutil.which("setarch") and not subprocess.run([*command, "true"], capture_output=True).returncode:
        return command
    return []  # then the two layouts are two random ones


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """On machines that differ in addresses, hash seed, folder, threads, vector instructions and clock."""
    unlike = {
        "PYTHONHASHSEED": "1",
        "OMP_NUM_THREADS": "1",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "TZ": "Pacific/Kiritimati",
        "COLUMNS": "40",
    }
    other = {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "4", "TZ": "UTC"}
    written = []
    for command, environment, name in ((fixed_addresses(), unlike, "one"), ([], other, "größe 2")):
        (tmp_path / name).mkdir()
        run = subprocess.run(
            [*command, sys.executable, "-m", "tests.support.written", str(tmp_path / name)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            cwd=tmp_path / name,
            stdout=subprocess.PIPE,
            check=True,
        )
        written.append(json.loads(run.stdout))
    one, two = written
    assert len(one) > 900
    assert {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)} == set()


def states() -> dict[str, Any]:
    weight = torch.arange(12.0).reshape(3, 4)
    tied = {"w": weight, "same": weight, "view": weight[1:, ::2], "n": torch.tensor(3), "e": torch.zeros(0)}
    return {
        "ties": tied,
        "nothing": {},
        "many": {f"w{number}": torch.full((2,), number) for number in range(12)},
        "parameters": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict(),
        "a module": nn.Linear(2, 3),
        "nested": {"model": tied, "step": 3, "again": [weight, b"bytes", {1, 2}]},
    }


def without_keys(content: bytes) -> tuple[list[Any], list[str], int]:
    """Of a legacy file: the opcodes without names of storages, the names, how many bytes are behind them."""
    stream, opcodes, keys = io.BytesIO(content), [], []
    for _ in range(5):
        for opcode, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str) and re.fullmatch(r"\d{9,}", argument):
                keys.append(argument)
                argument = "KEY"
            elif isinstance(argument, str) and argument.endswith("linear.py"):
                argument = os.path.basename(argument)
            opcodes.append((opcode.name, argument))
    return opcodes, keys, len(stream.read())


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("name", states())
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_legacy_files_are_those_of_torch_but_for_the_keys(name: str, protocol: int) -> None:
    state, ours, theirs = states()[name], io.BytesIO(), io.BytesIO()
    save_legacy(state, ours, pickle_protocol=protocol)
    torch.save(state, theirs, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    opcodes, keys, rest = without_keys(ours.getvalue())
    their_opcodes, their_keys, their_rest = without_keys(theirs.getvalue())
    if protocol < 4:  # frames say how long they are
        assert opcodes == their_opcodes
    assert rest == their_rest
    # First each storage where a tensor lies in it, and last the list of all, in the order of their bytes.
    met, their_met = list(dict.fromkeys(keys)), list(dict.fromkeys(their_keys))
    named, listed = keys[: len(keys) - len(met)], keys[len(keys) - len(met) :]
    assert [met.index(key) for key in named] == [their_met.index(key) for key in their_keys[: len(named)]]
    assert listed == met == sorted(met)
    ours.seek(0)
    theirs.seek(0)
    loaded, expected = torch.load(ours, weights_only=False), torch.load(theirs, weights_only=False)
    assert pickle.dumps(flat(loaded)) == pickle.dumps(flat(expected))


def flat(value: Any) -> list[Any]:
    """The numbers in a value, with where they lie in their storage."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, torch.Tensor):
        return [value.tolist(), value.stride(), value.storage_offset(), value.untyped_storage().nbytes()]
    if isinstance(value, dict):
        return [(key, flat(item)) for key, item in value.items()]
    return [flat(item) for item in value] if isinstance(value, list) else [value]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_file_is_that_of_torch_but_for_debug_records(tmp_path: Path) -> None:
    save_scripted(build, tmp_path / "ours.pt")
    model = with_exact_weights(build()).eval()
    torch.jit.save(torch.jit.script(model), str(tmp_path / "theirs.pt"))
    names = []
    for name in ("ours.pt", "theirs.pt"):
        reader = torch._C.PyTorchFileReader(str(tmp_path / name))
        # A class that this process has scripted before is written as conv/___torch_mangle_3.py.
        records = {re.sub(r"/___torch_mangle_\d+", "", record) for record in reader.get_all_records()}
        names.append(records)
        loaded = torch.jit.load(tmp_path / name)
        assert {key: value.tolist() for key, value in loaded.state_dict().items()} == {
            key: value.tolist() for key, value in model.state_dict().items()
        }
    assert names[0] == {name for name in names[1] if not name.endswith(".debug_pkl")}


def test_exact_weights_keep_constants_ties_signs_and_dtypes() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8).bfloat16())
    model.register_buffer("positive", torch.rand(9) + 1)
    model[0].register_parameter("again", model[0].weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = with_exact_weights(model).state_dict()
    assert model[0].again is model[0].weight
    assert (after["positive"] > 0).all()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name], after[name]) == (name.startswith("1."))
        if not name.startswith("1."):
            assert 0 < after[name].abs().max() <= 1 / 8
            assert torch.equal(after[name].float() * 2**15, (after[name].float() * 2**15).round())


def test_tests_write_no_legacy_file_by_other_means() -> None:
    spelled = "_use_new_zipfile_" + "serialization"
    found = {path.name for path in (ROOT / "tests").rglob("*.py") if spelled in path.read_text("utf-8")}
    assert found == {"test_same_bytes.py", "layouts.py"}  # where it is the oracle
