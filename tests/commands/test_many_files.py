"""``inspect`` of several files: a verdict each, the worst status, and none that stops the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ckpttool import cli
from ckpttool.render.verdict import PIPE_COLUMNS
from tests.support.schemas import problems


def rows(out: str) -> list[dict[str, str]]:
    return [dict(zip(PIPE_COLUMNS, line.split("\t"), strict=True)) for line in out.splitlines()]


def test_a_verdict_each_and_the_worst_status(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, none = (str(files / name) for name in ("good.safetensors", "values.safetensors", "none.pt"))
    for paths, options, words, status in (
        ([good, bad], [], ["ok", "ok"], 0),
        ([good, bad], ["--fail-on", "nan"], ["ok", "failed"], 1),
        ([bad, none, good], ["--fail-on", "nan"], ["failed", "unreadable", "ok"], 2),
        ([none, none], [], ["unreadable"] * 2, 2),
    ):
        assert cli.main(["inspect", *paths, *options]) == status
        out, err = capsys.readouterr()
        found = rows(out)
        assert [(row["verdict"], row["path"]) for row in found] == list(zip(words, paths, strict=True))
        assert err.count("error: ") == words.count("unreadable")
        for row in found:
            assert (row["title"] == "-") is (row["verdict"] == "unreadable")
            assert (
                row["verdict"] != "failed" or "'bad'" in row["message"] or row["message"].startswith("bad:")
            )
        assert cli.main(["inspect", *paths, *options, "--quiet"]) == status
        assert capsys.readouterr().out == ""


def test_one_document_a_line_as_of_each_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(files / name) for name in ("run.pt", "none.pt", "values.safetensors")]
    options = ["--json", "--stats", "--fail-on", "nan"]
    alone = []
    for path in paths:
        cli.main(["inspect", path, *options])
        alone.append(json.loads(capsys.readouterr().out))
    assert cli.main(["inspect", *paths, *options]) == 2
    together = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert together == alone
    assert [document["schema"] for document in together] == [
        "ckpttool/inspect/1",
        "ckpttool/error/1",
        "ckpttool/inspect/1",
    ]
    assert not [problem for document in together for problem in problems(document)]


def test_hostile_names_stay_on_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    paths = []
    for name in ("a\nok\tb.pt", "\x1b[2J.pt", "| <img src=x> `x` [x](javascript:1).pt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
        paths.append(str(tmp_path / name))
    assert cli.main(["inspect", *paths]) == 0
    assert [row["verdict"] for row in rows(capsys.readouterr().out)] == ["ok"] * 3
    for form in ("table", "md"):
        assert cli.main(["inspect", *paths, "--format", form]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out and len([line for line in out.splitlines() if line]) == 3
    assert "\n" not in json.dumps(paths[0]) and cli.main(["inspect", *paths, "--json"]) == 0
    assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == paths


def test_what_is_of_one_file_goes_with_one(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(files / "good.safetensors")
    for options in (["--tensor", "good"], ["--digest"], ["--globals"]):
        assert cli.main(["inspect", path, path, *options]) == 2
        assert "go with one" in capsys.readouterr().err


def test_files_are_closed_behind_each(files: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32));"
        "from ckpttool.cli import main; sys.exit(main(['inspect', *sys.argv[1:], '--fail-on', 'inf']))"
    )
    command = [sys.executable, "-c", code, *[str(files / "good.safetensors")] * 100]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("ok\t") == 100
