"""What commands show, whole: status and both streams, on terminals of three widths, in a pipe and as JSON.

A golden file holds each view of the same commands; views that are equal stand there once. What a run cannot
repeat is a word in it: how long it took, the version of torch, the folder.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import itertools
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from ckpttool.cli import main
from ckpttool.conversion import execute
from tests.support.folders import standing_in

GOLDEN = Path(__file__).parents[1] / "golden"
TEMPORARY = "tmp"  # `verify` names the folder of temporary files

CAPTIONER = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width, step):
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("positions", step * torch.arange(2 * width), persistent=False)


class Captioner(nn.Module):
    def __init__(self, width=4, depth=3, step=2):
        super().__init__()
        self.embed = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width, step) for _ in range(depth))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 16, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("noise", torch.rand(width), persistent=False)


def build(width=4, depth=3, step=2):
    return Captioner(width, depth, step)
"""

_TAKEN = re.compile(r"(?<= in )\d[\d.]* m?s \([\d.,]+ (?:[KMGTP]i)?B/s\)")
_SECONDS = re.compile(r'(?<="seconds":)( ?)\d[\d.e-]*')
_TORCH = re.compile(r"(?<=\(torch )\d[^ )]*(?=\))")


class View(NamedTuple):
    """Who looks: a terminal of so many columns, or a pipe."""

    name: str
    width: int | None = None
    options: tuple[str, ...] = ()


VIEWS = (
    View("80 columns", 80),
    View("100 columns", 100),
    View("200 columns", 200),
    View("a pipe"),
    View("a pipe, JSON", None, ("--json",)),
)


class Stream(io.StringIO):
    """A stream of UTF-8 that may believe to be a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def type_command(command: str, view: View, folder: Path) -> str:
    """Run ``ckpttool …`` in ``folder``, in this process, as if there were no CUDA; return what is shown."""
    words = [*shlex.split(command), *view.options]
    out, err = (Stream(is_terminal=view.width is not None) for _ in range(2))
    with (
        standing_in(folder),
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.setattr(tempfile, "tempdir", TEMPORARY)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        # How long a conversion took decides where its line is folded.
        patch.setattr(execute, "time", SimpleNamespace(monotonic=itertools.count(step=0.012).__next__))
        patch.delenv("CKPTTOOL_TRACEBACK", raising=False)
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "dumb")  # no progress bars
        if view.width is not None:
            patch.setenv("COLUMNS", str(view.width))
        status = main(words[1:])
    parts = [f"$ {' '.join([command, *view.options])}\n[exit {status}]\n", repeatable(out.getvalue(), folder)]
    if said := repeatable(err.getvalue(), folder):
        parts += ["--- stderr\n", said]
    assert all(part.endswith("\n") for part in parts if part)
    return "".join(parts)


def repeatable(text: str, folder: Path) -> str:
    """``text`` without what differs from run to run, and from machine to machine."""
    text = _TAKEN.sub("TIME (SPEED)", text)
    text = _SECONDS.sub(r"\1SECONDS", text)
    text = _TORCH.sub("VERSION", text)
    return text.replace(f"{folder}/", "FOLDER/")


def show(commands: Sequence[str], prepare: Callable[[Path], None], folder: Path) -> str:
    """Type ``commands`` for each view, in a folder that ``prepare`` fills, and list the files they wrote."""
    shown: dict[str, list[str]] = {}
    written = set()
    for number, view in enumerate(VIEWS):
        place = folder.resolve() / str(number)
        (place / TEMPORARY).mkdir(parents=True)
        prepare(place)
        before = files_in(place)
        text = "\n".join(type_command(command, view, place) for command in commands)
        shown.setdefault(text, []).append(view.name)
        written.add("".join(describe_file(place, name) for name in files_in(place) if name not in before))
    parts = [f"== {', '.join(names)}\n\n{text}" for text, names in shown.items()]
    [listed] = written  # whoever looks, the files are the same
    if listed:
        parts.append(f"== files that are there now\n\n{listed}")
    return "\n".join(parts)


def files_in(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sorted(str(path.relative_to(folder)) for path in found)


def describe_file(folder: Path, name: str) -> str:
    content = (folder / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    text = content.decode() if name.endswith(".json") else ""
    return f"{name}: {len(content):,} bytes, SHA-256 {digest}…\n{text}"


def check(name: str, text: str, *, update: bool) -> None:
    """Compare with a golden file, or write it."""
    path = GOLDEN / f"{name}.txt"
    if update:
        path.write_text(text, "utf-8")
    before = path.read_text("utf-8")
    difference = "\n".join(difflib.unified_diff(before.split("\n"), text.split("\n"), lineterm="", n=1))
    assert text == before, f"{difference}\nlook at it; `pytest --update-golden` takes it over"


def state_dict(source: str = CAPTIONER, name: str = "Captioner", **arguments: Any) -> dict[str, torch.Tensor]:
    """What a model of this source saves, each tensor filled with multiples of 1/64."""
    namespace: dict[str, Any] = {"__name__": "source"}
    exec(source, namespace)
    state: dict[str, torch.Tensor] = namespace[name](**arguments).state_dict()
    for number, tensor in enumerate(state.values()):
        values = torch.arange(tensor.numel()).reshape(tensor.shape)
        tensor.copy_((values + number) / (64 if tensor.is_floating_point() else 1))
    return state
