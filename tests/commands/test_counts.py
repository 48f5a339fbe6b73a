"""What every command says of none, one and two of something is English."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sample_models.same_bytes import save_legacy
from tests.support.counted import FAMILIES, named
from tests.support.goldens import View, type_command
from tests.support.grammar import mistakes

COUNTS = (0, 1, 2)
VIEWS = (View("a terminal", 200), View("a pipe"))
MADE = ("out.pt", "out.safetensors", "shards")


def check(folder: Path, *commands: str) -> None:
    """Type commands, each of which stands alone; hold all that they say to be English."""
    bad = []
    for command in commands:
        for view in VIEWS:
            text = type_command(f"ckpttool {command}", view, folder)
            assert "internal error" not in text, text
            bad += [f"{found}\n{text}" for found in mistakes(text)]
            for made in MADE:
                path = folder / made
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert not bad, "\n".join(bad)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_files(family: str, tmp_path: Path) -> None:
    commands = [f"diff {a}.pt {b}.pt" for a in COUNTS for b in COUNTS]
    for count in COUNTS:
        path = f"{count}.pt"
        torch.save(FAMILIES[family](count), tmp_path / path)
        options = ("", "--stats --fail-on nan,inf,zero,findings", "--check", "--globals", "--digest")
        commands += [f"inspect {path} {option}" for option in options]
        commands += [f"convert {path} out.safetensors", f"convert {path} out.pt", f"git-textconv {path}"]
        commands.append(f"convert {path} shards/ --to safetensors --max-shard-size 8")
    check(tmp_path, *commands)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["tensors", "tied", "values", "trained", "sparse"])
def test_the_old_layout(family: str, tmp_path: Path) -> None:
    for count in COUNTS:
        save_legacy(FAMILIES[family](count), tmp_path / f"{count}.pt")
    check(tmp_path, *[f"inspect {count}.pt" for count in COUNTS], "diff 1.pt 2.pt")


def damaged(folder: Path, count: int) -> Iterator[str]:
    """Names of files with so many bytes too few or too many, and of others with broken headers."""
    torch.save(named(2), folder / "whole.pt")
    save_legacy(named(2), folder / "whole.pth")
    save_file(named(2), folder / "whole.safetensors")
    made: dict[str, bytes] = {}
    for name in ("whole.pt", "whole.pth", "whole.safetensors"):
        whole = (folder / name).read_bytes()
        made |= {f"cut-{name}": whole[: len(whole) - count], f"left-{name}": whole[:count]}
        made[f"more-{name}"] = whole + b"\1" * count
    made |= {"zeros": b"\0" * count, "text": b"x" * count, "pickle": b"\x80\x02](" + b"K\1" * count}
    made["pickles"] = b"\x80\x02N." * (1 + count) + b".."
    tensors = (
        {"dtype": "F32", "shape": [count], "data_offsets": [0, 2]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0] * count},
        {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
    )
    for number, tensor in enumerate(tensors):
        header = json.dumps({"w": tensor}).encode()
        made[f"{number}.safetensors"] = len(header).to_bytes(8, "little") + header + b"\0" * count
    for name, content in made.items():
        (folder / name).write_bytes(content)
        yield name


@pytest.mark.parametrize("count", COUNTS)
def test_damage(count: int, tmp_path: Path) -> None:
    check(tmp_path, *[f"inspect {name}" for name in damaged(tmp_path, count)])


FOLDERS = (
    "{}_0.distcp zero_pp_rank_{}_mp_rank_00_model_states.pt model_{}.pt consolidated.0{}.pth {}.pt".split()
)


@pytest.mark.parametrize("count", COUNTS)
def test_folders(count: int, tmp_path: Path) -> None:
    commands = []
    for present in COUNTS:
        folder, indexed = tmp_path / f"loose{present}", tmp_path / f"indexed{present}"
        folder.mkdir()
        for number in range(present):
            save_file(named(2), folder / f"model-0000{number + 1}-of-0000{max(count, 1)}.safetensors")
        shutil.copytree(folder, indexed)
        places = {f"layer{n}.weight": f"model-0000{n + 1}-of-0000{count}.safetensors" for n in range(count)}
        index = {"metadata": {"total_size": count}, "weight_map": places}
        (indexed / "model.safetensors.index.json").write_text(json.dumps(index))
        commands += [f"inspect {folder.name}", f"inspect {indexed.name}"]
    for form in FOLDERS:
        folder = tmp_path / form.format("x")
        folder.mkdir()
        for number in range(count):
            torch.save({}, folder / form.format(number))
        commands.append(f"inspect {folder.name}")
    check(tmp_path, *commands)


MODEL = """
import torch
from torch import nn


class Own(nn.Linear):
    def _load_from_state_dict(self, *arguments):
        super()._load_from_state_dict(*arguments)


class Net(nn.Module):
    def __init__(self, counts, width, dtype):
        super().__init__()
        for n in range(counts.get("parameters", 0)):
            self.register_parameter(f"p{n}", nn.Parameter(torch.ones(width, dtype=getattr(torch, dtype))))
        for n in range(counts.get("buffers", 0)):
            self.register_buffer(f"b{n}", torch.ones(width))
        for n in range(counts.get("transient", 0)):
            self.register_buffer(f"t{n}", torch.ones(width), persistent=False)
        for n in range(counts.get("strays", 0)):
            setattr(self, f"s{n}", torch.ones(width))
            setattr(self, f"m{n}", [nn.Linear(1, 1, bias=n > 0)])
        for n in range(counts.get("slots", 0)):
            self.register_buffer(f"n{n}", None)
        self.own = nn.ModuleList(Own(1, 1) for _ in range(counts.get("own", 0)))
        self.norms = nn.ModuleList(nn.BatchNorm1d(1) for _ in range(counts.get("norms", 0)))
        self.lazy = nn.ModuleList(nn.LazyLinear(1, bias=n > 0) for n in range(counts.get("lazy", 0)))
        layer = nn.Linear(1, 1, bias=counts.get("shared", 0) > 1)
        self.shared = nn.ModuleList(layer for _ in range(2 * (counts.get("shared", 0) > 0)))


def build(width=2, dtype="float32", **counts):
    return Net({"parameters": 1, **counts}, width, dtype)
"""
KINDS = ("parameters", "buffers", "transient", "strays", "slots", "own", "norms", "lazy", "shared", "width")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_models(kind: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    space: dict[str, Any] = {}
    exec(compile(MODEL, "net.py", "exec"), space)
    commands = []
    for count in COUNTS:
        torch.save(space["build"](**{kind: count}).state_dict(), tmp_path / f"{count}.pt")
        given = f"net.py:build --model-arg {kind}={count}"
        commands += [f"lint {given} --prove", f"inspect {given}", f"diff {count}.pt {given}"]
        commands += [
            f"{verb} {other}.pt --model {given}" for other in COUNTS for verb in ("inspect", "verify")
        ]
    check(tmp_path, *commands)


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_casts_and_references(count: int, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    state = named(count, "p{}", lambda: torch.tensor([0.1, 0.2][: max(count, 1)]))
    torch.save(state, tmp_path / "a.pt")
    given = f"a.pt --model net.py:build --model-arg parameters={count} --model-arg width={max(count, 1)}"
    check(
        tmp_path,
        f"verify {given} --model-arg dtype=float16",
        f"inspect {given} --model-arg dtype=float16",
        "convert a.pt out.safetensors --dtype bf16",
        f"verify {given} --model-arg transient={count} --write-reference ref.json",
        f"verify {given} --model-arg transient={count} --reference ref.json",
    )
