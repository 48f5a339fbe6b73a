"""`--source` of `inspect` and `diff`: what they print, how they end, and what they have not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpttool.cli import main
from tests.support.sourced import BLOCKS, BUFFERS, MARK, MASKS, STEPS, write_source, write_tiny

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CKPTTOOL_NO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    assert not list(tmp_path.rglob(MARK))


def rows(text: str) -> dict[str, tuple[str, str, str]]:
    """Kind, presence and basis of every entry, of what is printed in a pipe."""
    fields = [line.split("\t") for line in text.splitlines()]
    return {row[3]: (row[0], row[1], row[7]) for row in fields}


def test_a_pipe_has_a_line_for_each_entry(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "net.safetensors", "--source", "./tiny"]) == 0
    shown = rows(capsys.readouterr().out)
    assert {name for name, row in shown.items() if row[0] == "persistent_buffer"} == BUFFERS
    assert {name for name, row in shown.items() if row[1] == "missing"} == STEPS
    assert {name for name, row in shown.items() if row[1] == "possible"} == MASKS
    assert all(row[2] == "source" for name, row in shown.items() if name != "extra")
    assert shown["extra"] == ("unknown", "present", "none")


def test_the_document_and_the_pipe_agree(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("./tiny", "./other", "auto"):
        assert main(["inspect", "net.pt", "--source", source]) == 0
        shown = rows(capsys.readouterr().out)
        assert main(["inspect", "net.pt", "--source", source, "--json"]) == 0
        entries = json.loads(capsys.readouterr().out)["entries"]
        assert shown == {
            entry["name"]: (entry["kind"], entry["presence"], entry["basis"]) for entry in entries
        }


def test_a_possible_buffer_is_no_missing_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No status, total or finding counts what may not be there at all."""
    assert main(["inspect", "net.safetensors", "--source", "./tiny", "--fail-on", "findings"]) == 0
    capsys.readouterr()
    assert main(["inspect", "net.safetensors", "--source", "./tiny", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["summary"]["missing"] == len(STEPS) and document["findings"] == []


def test_the_wrong_package_is_a_finding_that_may_fail(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "net.safetensors", "--source", "./other", "--fail-on", "findings"]) == 1
    assert "[source-root]" in capsys.readouterr().err
    assert main(["inspect", "net.safetensors", "--source", "auto", "--fail-on", "findings"]) == 0
    assert "[source-auto]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["inspect", "net.pt", "--source", "tiny"], "hint:  for the folder write ./tiny"),
        (["inspect", "net.pt", "--source", "nosuch"], "no package 'nosuch' is installed"),
        (["inspect", "net.pt", "--source", "./tiny:Nett"], "no class Nett is in the source of tiny"),
        (["inspect", "net.pt", "--source", "./none.py"], "no such folder or .py file"),
        (["inspect", "net.pt", "--source", "a\x1b[31mb"], r"\x1b"),
        (["inspect", "net.pt", "--source", "./tiny", "--source", "./a\u202eb"], r"\u202e"),
        (["inspect", "tiny/blocks.py:Net", "--source", "./tiny"], "a model is not a file"),
        (["diff", "net.pt", "net.safetensors", "--source", "./none.py"], "no such folder or .py file"),
        (["diff", "net.pt", "net.safetensors", "--source", "./tiny:Nett"], "no class Nett"),
    ],
)
def test_errors(here: Path, command: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and "\x1b" not in err and "\u202e" not in err
    lines = err.splitlines()
    assert lines[0].startswith("error: ") and all(line.startswith(("hint:", " ")) for line in lines[1:])
    assert "Traceback" not in err


def test_diff_has_the_kinds_of_inspect(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "net.pt", "--source", "./tiny", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    kinds = {entry["name"]: entry["kind"] for entry in entries if entry["presence"] == "present"}
    for sides in (("net.pt", "net.safetensors"), ("net.safetensors", "net.pt"), ("net.pt", "net.pt")):
        assert main(["diff", *sides, "--source", "./tiny", "--json"]) == 0
        entries = json.loads(capsys.readouterr().out)["entries"]
        assert {entry["name"]: entry["kind"] for entry in entries} == kinds
    assert (
        main(["diff", "net.pt", "net.safetensors", "--source", "./tiny", "--only", "buffers", "--json"]) == 0
    )
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)["entries"]} == BUFFERS


LOOK = """
import sys
from ckpttool.cli import main
status = main(sys.argv[1:])
seen = {name.partition(".")[0] for name in sys.modules} & {"torch", "numpy", "tiny", "sure", "safetensors"}
print(status, *sorted(seen), file=sys.stderr)
"""


@pytest.mark.parametrize("path", ["net.safetensors", "net.pt"])
def test_the_package_is_not_imported_and_torch_not_either(here: Path, path: str) -> None:
    write_source(here, {"sure/__init__.py": BLOCKS.replace("if causal:", "if True:")})
    for command in (
        ["inspect", path, "--source", "./sure"],
        ["inspect", path, "--source", "sure/__init__.py:Net", "--json"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", LOOK, *command],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr.splitlines()[-1] == "0", done.stderr


def test_the_second_run_reads_the_cache_and_says_the_same(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (here / "tiny").rglob("*.py"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    found = []
    for _ in range(2):
        assert main(["inspect", "net.pt", "--source", "./tiny", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    [first], [second] = found[0].pop("sources"), found[1].pop("sources")
    assert found[0] == found[1]
    assert (first["cached"], second["cached"]) == (0, 2)
    assert {**first, "cached": 0, "parsed_ms": 0} == {**second, "cached": 0, "parsed_ms": 0}
