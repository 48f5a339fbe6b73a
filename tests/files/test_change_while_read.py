"""A file that is changed while it is read ends in status 2 and a sentence, never in a result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.cli import main
from ckpttool.values.errors import MalformedCheckpoint
from tests.support.verifying import check_file

STATE = {"weight": torch.arange(40_000.0).reshape(200, 200), "bias": torch.arange(200.0)}
WHAT = r"the file (changed|was written to|was replaced by another|was removed) while it was read[^\n]*"
SAID = re.compile(rf"error: [^\n]*/a\.(pt|safetensors): ({WHAT}|no such file or directory)\n")


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(64))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))


def replace(path: Path) -> None:
    """By another file of the same size and times, as rsync does it."""
    shutil.copy2(path, f"{path}.new")
    os.rename(f"{path}.new", path)


def remove(path: Path) -> None:
    path.unlink()


CHANGES = [grow, shrink, rewrite, replace, remove]
COMMANDS = {
    "inspect": ["inspect", "A"],
    "inspect --stats": ["inspect", "A", "--stats"],
    "inspect --check": ["inspect", "A", "--check"],
    "inspect --digest": ["inspect", "A", "--digest"],
    "diff": ["diff", "A", "B"],
    "diff, other values": ["diff", "A", "C"],
    "convert": ["convert", "A", "OUT"],
    "convert, strided": ["convert", "T", "OUT"],
    "git-textconv": ["git-textconv", "A"],
}


def prepare(folder: Path, command: list[str], suffix: str) -> tuple[Path, list[str]]:
    path = folder / f"a.{suffix}"
    state = {**STATE, "t": STATE["weight"].t()} if "T" in command else STATE
    torch.save(state, folder / "made.pt")
    torch.save({**STATE, "bias": STATE["bias"] + 1}, folder / "C")
    assert main(["convert", str(folder / "made.pt"), str(path), "--quiet"]) == 0
    shutil.copy(path, folder / "B")
    os.utime(path, (1_000_000_000, 1_000_000_000))  # long ago: a write within one tick is not told from none
    names = {"A": path, "T": path, "B": folder / "B", "C": folder / "C", "OUT": folder / "out.pt"}
    return path, [str(names.get(part, part)) for part in command]


def run_with(
    call: str, number: int, act: Callable[[], None], arguments: list[str], patch: pytest.MonkeyPatch
) -> tuple[int, bool]:
    """The status, and whether ``act`` came to pass: before the ``number``-th use of ``os.call``."""
    real = getattr(os, call)
    left = [number]

    def counted(*values: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            act()
        return real(*values)

    with patch.context() as context:
        context.setattr(os, call, counted)
        return main(arguments), left[0] <= 0


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("call", "number", "command"),
    [
        *(("pread", number, "inspect") for number in (1, 2, 3)),  # the header
        *(("preadv", 1, command) for command in COMMANDS),  # the values
    ],
)
def test_a_change_while_header_or_values_are_read_is_noticed(
    tmp_path: Path,
    call: str,
    number: int,
    command: str,
    suffix: str,
    change: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, arguments = prepare(tmp_path, COMMANDS[command], suffix)
    capsys.readouterr()
    status, met = run_with(call, number, lambda: change(path), arguments, monkeypatch)
    said = capsys.readouterr()
    if not met:  # headers only, or a format without checksums
        assert call == "preadv" and status == 0 and command in ("inspect", "inspect --check")
        return
    if command == "git-textconv":  # a textconv that fails ends a whole `git log -p`
        assert status == 0 and re.fullmatch(rf"not readable\t{WHAT}\n", said.out)
        return
    assert status == 2
    assert SAID.fullmatch(said.err), said.err
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("change", [grow, rewrite, replace, remove])
def test_verify_holds_the_file_to_what_it_was(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "a.pt"
    torch.save(STATE, path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    built = []

    def build() -> nn.Module:
        built.append(1)
        if len(built) == 2:  # the first is described before the file is mapped
            change(path)
        return nn.Linear(200, 200)

    with pytest.raises(MalformedCheckpoint, match="while it was read"):
        check_file(path, build)


MODEL = """
import os
import time
from torch import nn
built = []
def build(path, act):
    built.append(1)
    if len(built) == 2:
        if act == "shrink":
            os.truncate(path, 4096)
        elif act == "crash":
            os.kill(os.getpid(), 11)
        else:
            os.kill(os.getppid(), int(act))
            time.sleep(60)  # until it is passed on: the parent may be slow
    return nn.Linear(200, 200)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "status", "said"),
    [
        ("shrink", 2, "the file changed while it was read, expected"),
        ("crash", 2, "error: the process that ran the model crashed (SIGSEGV)\n"),
        (f"{signal.SIGTERM:d}", -signal.SIGTERM, ""),
        (f"{signal.SIGINT:d}", 130, "interrupted\n"),
    ],
)
def test_what_kills_a_verify_becomes_a_sentence(tmp_path: Path, act: str, status: int, said: str) -> None:
    path = tmp_path / "a.pt"
    torch.save(STATE, path)
    (tmp_path / "model.py").write_text(MODEL)
    model = [
        "--model",
        f"{tmp_path}/model.py:build",
        "--model-arg",
        f"path={path}",
        "--model-arg",
        f"act={act}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "ckpttool", "verify", str(path), *model, "--load", "copy"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stderr and not done.stdout
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line]
