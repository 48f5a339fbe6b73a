"""Where torch and safetensors cannot be imported, all but running a model still works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sample_models.same_bytes import save_legacy

BLOCKED = """
import sys
for name in ("torch", "safetensors"):
    sys.modules[name] = None  # an import of it raises ImportError
from ckpttool.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    weight = torch.arange(12.0).reshape(3, 4)
    state = {"a.weight": weight, "a.bias": torch.ones(3), "tied.weight": weight, "t": weight.t()}
    torch.save(state, path / "zip.pt")
    save_legacy(state, path / "legacy.pt")
    torch.save({"model": torch.nn.BatchNorm1d(3)}, path / "module.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path / "script.pt")
    save_file({"a.weight": weight, "a.bias": torch.ones(3)}, path / "st.safetensors")
    return path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "module.pt", "script.pt", "st.safetensors"])
@pytest.mark.parametrize("option", ["--json", "--flat", "--stats", "--check", "--globals", "--digest"])
def test_inspect(folder: Path, name: str, option: str) -> None:
    result = run(folder, "inspect", name, option)
    assert (result.returncode, "Error" in result.stderr) == (0, False), result.stderr
    assert result.stdout or (name, option) == ("st.safetensors", "--globals")  # which has none


def test_convert_there_and_back_and_diff(folder: Path) -> None:
    for source, target, *options in (
        ("zip.pt", "cast.safetensors", "--dtype", "bf16"),
        ("zip.pt", "there.safetensors"),
        ("there.safetensors", "back.pt"),
    ):
        result = run(folder, "convert", source, target, "--force", *options)
        assert result.returncode == 0, result.stderr
    result = run(folder, "diff", "zip.pt", "back.pt", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["equal"]
    assert run(folder, "diff", "zip.pt", "st.safetensors").returncode == 1
    assert run(folder, "git-textconv", "zip.pt").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "zip.pt", "--model", "m:build"],
        ["lint", "m:build"],
        ["inspect", "zip.pt", "--model", "m:build"],
        ["inspect", "m:build"],
        ["convert", "zip.pt", "cast.safetensors", "--dtype", "fp8_e4m3"],
    ],
)
def test_what_needs_torch_says_so_in_one_line(folder: Path, arguments: list[str]) -> None:
    result = run(folder, *arguments)
    assert result.returncode == 2
    assert "torch" in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) <= 2  # and a hint
    assert result.stdout == ""
