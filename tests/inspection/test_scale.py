"""Sizes at which whatever grows with the file would be seen. `benchmarks.scale` measures larger ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.scale import make_bytes
from ckpttool.cli import main
from tests.support.peaks import peak_mib

pytestmark = pytest.mark.slow

GIB = 3
TENSORS = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sparse files of 3 GiB."""
    folder = tmp_path_factory.mktemp("large")
    make_bytes(folder, GIB)
    return folder


@pytest.mark.parametrize(
    ("arguments", "limit", "statuses"),
    [
        (("inspect", "m.pt", "--stats"), 128, (0,)),  # numpy, and nothing of the file
        (("inspect", "m.pt", "--check"), 64, (0, 1)),  # the file was written without data: not its checksums
        (("inspect", "m.safetensors", "--digest"), 64, (0,)),
        (("git-textconv", "m.safetensors"), 64, (0,)),
        (("diff", "m.pt", "m.safetensors"), 64, (0,)),
        (("diff", "m.safetensors", "other.safetensors"), 128, (1,)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and isinstance(value[0], str) else None,
)
def test_memory_does_not_grow_with_the_file(
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    limit: int,
    statuses: tuple[int, ...],
) -> None:
    monkeypatch.chdir(large)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert peak_mib(*arguments, statuses=statuses) < limit


def write_many(path: Path) -> None:
    header = {
        f"blocks.{i // 1000}.layers.{i // 10 % 100}.weight_{i % 10}": {
            "dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]
        }
        for i in range(TENSORS)
    }  # fmt: skip
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(range(8)) * TENSORS)


def test_a_hundred_thousand_tensors_go_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, equal in the other container, in memory that is a few kilobytes for each."""
    source, target = tmp_path / "m.safetensors", tmp_path / "m.pt"
    write_many(source)
    assert peak_mib("convert", str(source), str(target), "--quiet") < 768
    assert main(["diff", str(source), str(target), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(target), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert (summary["tensors"], summary["tensor_nbytes"]) == (TENSORS, 8 * TENSORS)
