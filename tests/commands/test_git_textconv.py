"""``ckpttool git-textconv`` in a real git repository: what `git diff` and `git log -p` show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ckpttool import cli
from tests.support.programs import write_program

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 4265146304\n"


DOCS = Path(__file__).parents[2] / "docs" / "git.md"


class Repository:
    """A git repository that is configured by the lines of docs/git.md, with ``ckpttool`` on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        self.folder.mkdir()
        self.env = {
            **os.environ,
            "PATH": f"{write_program(folder)}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(DOCS.parent.parent),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "somebody@example.org")
        self.git("config", "user.name", "Somebody")
        text = DOCS.read_text("utf-8")
        lines = re.findall(r"^\$ (git config .*|echo .* >> \.gitattributes)$", text, re.MULTILINE)
        assert len(lines) == 3
        for line in lines:
            subprocess.run(["sh", "-c", line], cwd=self.folder, env=self.env, check=True, timeout=60)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            env=self.env,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def changes(self, *arguments: str) -> list[str]:
        lines = self.git(*arguments).splitlines()
        return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_diff_and_log_name_what_changed(repository: Repository) -> None:
    folder = repository.folder
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "model.pt")
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, folder / "w.safetensors")
    repository.commit("first")
    with torch.no_grad():
        model[0].weight += 1
    torch.save({"state_dict": model.state_dict(), "epoch": 5}, folder / "model.pt")
    save_file({"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}, folder / "w.safetensors")
    for text in (repository.changes("diff"), None):
        if text is None:
            repository.commit("second")
            text = repository.changes("log", "-p", "-1", "--format=")
        tensors = sorted(line.split("\t")[1] for line in text if line[1:].startswith("tensor"))
        assert tensors == ["b", "b", "c", "state_dict.0.weight", "state_dict.0.weight"]
        assert "-value\tepoch\t3" in text and "+value\tepoch\t5" in text
        assert not any("0.bias" in line for line in text)


def test_the_same_content_is_no_difference(repository: Repository) -> None:
    folder = repository.folder
    tensors = OrderedDict(x=torch.randn(3, 4), y=torch.zeros(2))
    torch.save(tensors, folder / "model.pt")
    repository.commit("first")
    # Another order, another layout of the zip, other strides: other bytes, the same checkpoint.
    torch.save(OrderedDict(y=tensors["y"], x=tensors["x"].t().contiguous().t()), folder / "model.pt")
    assert repository.git("status", "--porcelain") and repository.changes("diff") == []


def test_a_pointer_is_said_to_be_one(repository: Repository) -> None:
    path = repository.folder / "big.safetensors"
    path.write_text(POINTER.format("1" * 64))
    repository.commit("first")
    path.write_text(POINTER.format("2" * 64))
    old, new = repository.changes("diff")
    assert old.startswith("-not readable\tgit-lfs pointer, not a checkpoint") and "111111" in old
    assert "4,265,146,304" in new and "222222" in new


def test_a_damaged_file_does_not_stop_the_log(repository: Repository) -> None:
    path = repository.folder / "model.pt"
    torch.save({"w": torch.ones(100)}, path)
    whole = path.read_bytes()
    for content in (whole, whole[:-50], b"", b"<html>"):
        path.write_bytes(content)
        repository.commit("next")
    text = repository.git("log", "-p", "--format=%s")
    assert text.count("not readable") >= 3 and "tensor\tw" in text


def test_the_text_is_stable_and_says_nothing_of_the_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = torch.randn(3)
    tensors = {"b": shared, "a": shared, "evil\x1b[31m\n": torch.ones(1), "none": torch.zeros(0)}
    texts = []
    for name in ("one.pt", "two.pt"):
        torch.save(tensors, tmp_path / name)
        assert cli.main(["git-textconv", str(tmp_path / name)]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and str(tmp_path) not in texts[0]
    lines = texts[0].splitlines()
    assert [line.split("\t")[1] for line in lines if line.startswith("tensor")] == [
        "a",
        "b",
        r"evil\x1b[31m\x0a",
        "none",
    ]
    assert "\x1b" not in texts[0] and "tied to b" in texts[0]


def test_what_cannot_be_opened_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["git-textconv", str(tmp_path / "none.pt")]) == 2
    assert "no such file" in capsys.readouterr().err
