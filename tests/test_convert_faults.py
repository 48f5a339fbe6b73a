"""Each system call of a conversion fails once, in every way that it can: see ``tests.faults``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ckpttool.cli import main

STATE = {"a": torch.arange(600.0), "b": torch.arange(24).reshape(4, 6).t(), "c": torch.ones(300)}


class Scenario(NamedTuple):
    source: str
    target: str
    options: tuple[str, ...] = ()
    has_old: bool = True
    fewest: int = 150  # faults: what would make the harness blind makes them fewer


SHARDS = ("--max-shard-size", "1KB")
SCENARIOS = {
    "pt over safetensors": Scenario("a.pt", "b.safetensors", ("--force",)),
    "pt to new safetensors, unchecked": Scenario("a.pt", "b.safetensors", ("--no-check",), has_old=False),
    "safetensors over pt": Scenario("a.safetensors", "b.pt", ("--force",)),
    "cast over pt": Scenario("a.pt", "b.pt", ("--force", "--dtype", "bf16")),
    "several blocks": Scenario("big.pt", "b.pt", ("--force",)),
    "shards to one file": Scenario("in", "b.safetensors", ("--force",)),
    "new shards": Scenario("a.pt", "b", SHARDS, has_old=False),
    "shards over shards": Scenario("a.pt", "b", (*SHARDS, "--force")),
    "pt shards over shards, unchecked": Scenario(
        "a.safetensors", "b", (*SHARDS, "--force", "--no-check", "--to", "pt")
    ),
    "one file into a folder": Scenario("a.pt", "b", ("--force",)),
    "with a manifest": Scenario("a.pt", "b.safetensors", ("--force", "--manifest", "OUT/m.json")),
}
FAST = "pt over safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: thousands of runs that sync would wait for a disk for minutes."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ckpttool-faults-") as name:
        yield Path(name)


def convert(*arguments: object) -> None:
    assert main(["convert", *map(str, arguments), "--quiet"]) == 0


def prepare(folder: Path, scenario: Scenario) -> list[str]:
    """Make the source and the old target; the arguments of ``tests.faults``."""
    out = folder / "out"
    out.mkdir()
    options = [option.replace("OUT", str(out)) for option in scenario.options]
    torch.save(STATE, folder / "a.pt")
    if scenario.source == "big.pt":
        torch.save({"a": torch.arange(700_000.0), **STATE}, folder / "big.pt")
    elif scenario.source == "in":
        convert(folder / "a.pt", folder / "in", *SHARDS)
    elif scenario.source != "a.pt":
        convert(folder / "a.pt", folder / scenario.source)
    if scenario.has_old:
        torch.save({name: tensor + 1 for name, tensor in STATE.items()}, folder / "old.pt")
        if scenario.target == "b":
            (out / "b").mkdir()
            (out / "b" / "config.json").write_text("{}")
        plain = [option for option in options if option not in ("--dtype", "bf16")]
        convert(folder / "old.pt", out / scenario.target, *plain)
        assert len(list(out.iterdir())) == 1 + ("--manifest" in options)
    return [str(folder), scenario.source, scenario.target, *options]


@pytest.mark.parametrize(
    "name",
    [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS],
)
def test_whatever_fails_the_target_is_old_or_new(folder: Path, name: str) -> None:
    scenario = SCENARIOS[name]
    arguments = prepare(folder, scenario)
    found = faults(*arguments)
    print(f"{name}: {sum(found['calls'].values())} calls, {found['faults']} faults, {found['killed']} kills")
    assert not found["wrong"]
    assert found["killed"] == found["changes"]
    assert found["faults"] >= scenario.fewest


def faults(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.faults", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
