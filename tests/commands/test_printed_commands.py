"""Every command that any command prints, in a sentence, a hint or at its end, can be copied and runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ckpttool.values.words import command_line, quote, safe
from tests.hostile.cases import CASES
from tests.support.advice import printed, published, put_back, shell_words, type_in
from tests.support.counted import FAMILIES, Odd
from tests.support.made_files import MADE, write_made

MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)


def build():
    return Net()


def inner():
    return nn.Linear(2, 2)


def outer():
    return nn.ModuleDict({"net": Net()})


def other():
    return nn.ModuleDict({"head": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
"""
VERIFY = ["verify", "model.pth.tar", "--model", "net.py:build"]
ODD_NAMES = [
    "a b.pt",
    "-x.pt",
    "it's.pt",
    'a"b.pt',
    "$HOME `id`.pt",
    "two\nlines.pt",
    "\u202etp.pt",
    "é\tb.pt",
    "*;.pt",
]


def texts(value: Any) -> Iterator[str]:
    """Every string in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for item in value.values() for text in texts(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in texts(item))


def said(folder: Path, words: Iterable[str]) -> set[str]:
    """The commands in what a command prints, for a pipe and as JSON."""
    words = list(words)
    plain, encoded = type_in(folder, words), type_in(folder, [*words, "--json"])
    found = {*printed(plain.out), *printed(plain.err), *printed(encoded.err)}
    if encoded.out.startswith("{"):
        document = json.loads(encoded.out)
        found |= {item["command"] for item in document.pop("next", ())}
        if document["schema"] == "ckpttool/error/1" and (document["hint"] or "").startswith("ckpttool "):
            found.add(document.pop("hint"))  # as the line behind `hint:` is
        found |= {command for text in texts(document) for command in printed(text)}
    return found


def check(folder: Path, commands: Iterable[list[str]], model: str = "net.py:build") -> int:
    """Follow all that is printed, each in the folder as it was; return how many there were."""
    there = set(os.listdir(folder))
    known: set[str] = set()
    for words in commands:
        found = said(folder, words)
        put_back(folder, there)
        for command in found - known:
            program, *typed = shell_words(command)
            assert program == "ckpttool"
            outcome = type_in(folder, [model if word == "MODEL" else word for word in typed])
            unreadable = typed[0] == "verify" and "MODEL" in typed  # what torch cannot hold is no model's
            assert outcome.status in ((0, 1, 2) if unreadable else (0, 1)), (words, command, outcome)
            assert "hint:  ckpttool verify --help" not in outcome.err, (words, command, outcome)
            put_back(folder, there)
        known |= found
    return len(known)


def everything(path: str, other: str) -> Iterator[list[str]]:
    """What may be typed of a file, and of it beside another one; wrong options too."""
    wrong = "--tensor nosuch", "--root nosuch"
    for options in ("", "--stats --fail-on nan,findings", "--check", "--globals", "--digest", *wrong):
        yield ["inspect", path, *options.split()]
    yield from (["diff", *sides] for sides in ((path, other), (other, path)))
    for options in ("", "--root nosuch", "--keep nosuch", "--strict"):
        yield ["convert", path, "out.pt", *options.split()]
    yield from (["convert", path, target] for target in ("out.safetensors", "out", path))
    yield ["convert", path, "shards/", "--max-shard-size", "16"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    weights = {"fc.weight": torch.full((2, 2), torch.nan), "fc.bias": torch.ones(2)}
    torch.save(weights, tmp_path / "nan.pt")
    return tmp_path


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=8), max_size=4))
def test_a_shell_takes_words_for_what_they_are(words: list[str]) -> None:
    """Read by bash itself; on one line, and with nothing in it that hides."""
    try:
        raw = [os.fsencode(word) for word in words]
    except UnicodeEncodeError:  # half a surrogate pair that stands for no byte: no file has such a name
        return
    line = command_line(*words)
    assert safe(line) == line and "`" not in line
    script = f"printf '%s\\0' {line}"
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert out.split(b"\0")[:-1] == [b"ckpttool", *raw]
    assert all(quote(word) == word for word in ("model.pt", "./-x", "a/b_c.safetensors"))


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.filterwarnings("ignore")
def test_of_files_with_odd_names(name: str, folder: Path) -> None:
    torch.save({"module.fc.weight": torch.ones(2, 2), "epoch": 1, "x": Odd(2)}, folder / name)
    typed = f"./{name}"
    assert check(folder, everything(typed, "nan.pt")) >= 3
    assert check(folder, [["verify", typed, "--model", "net.py:build"]]) >= 1
    torch.save({"module.w": torch.ones(2), "n": torch.ones(1)}, folder / name)
    if name.startswith("-"):
        return
    assert check(folder, [["inspect", name]]) >= 1


@pytest.mark.parametrize("model", ["build", "inner", "outer", "other"])
@pytest.mark.filterwarnings("ignore")
def test_of_verify(model: str, folder: Path) -> None:
    space: dict[str, Any] = {}
    exec(compile(MODEL, "net.py", "exec"), space)
    state = space["build"]().state_dict()
    files: dict[str, Any] = {
        "plain": state,
        "wrapped": {f"module.{name}": value for name, value in state.items()},
        "inside": {f"a net.{name}": value for name, value in state.items()},
        "in a branch": {"the model": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
        "with values": {**state, "epoch": 3},
        "with a buffer": {**state, "rotary_emb.inv_freq": torch.ones(4)},
        "with the ids": {**state, "text_model.embeddings.position_ids": torch.arange(77)[None]},
        "renamed": {f"first.{name}" if "fc" in name else name: value for name, value in state.items()},
        "renamed oddly": {name.replace("fc", "l\\1 (0)"): value for name, value in state.items()},
        "half": {name: value.half() for name, value in state.items()},
        "complex": {"fc.weight": torch.ones(2, 2, dtype=torch.complex128), "fc.bias": torch.ones(2)},
        "nothing": {},
    }
    count = 0
    for name, value in files.items():
        torch.save(value, folder / f"{name}.pt")
        given_model = ["--model", f"net.py:{model}"]
        commands = [[verb, f"{name}.pt", *given_model] for verb in ("inspect", "verify")]
        count += check(folder, [*commands, ["diff", f"{name}.pt", f"net.py:{model}"]], f"net.py:{model}")
    assert count >= 8


def test_of_wrong_usage(folder: Path) -> None:
    commands = [
        ["inspect"], ["inspect", "nan.pt", "--bogus"], ["inspect", "net.py:build", "--stats"], ["bogus"],
        ["inspect", "./net.py:build", "--check"], ["convert", "nan.pt"], ["lint"], ["lint", "net.py:nosuch"],
        ["diff", "nan.pt"], ["verify", "nan.pt"],
        ["verify", "nan.pt", "--model", "net.py:build", "--reference", "net.py"],
        ["inspect", "nowhere.pt"], ["inspect", "."],
    ]  # fmt: skip
    assert check(folder, commands) >= 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", MADE)
def test_of_made_files(name: str, legacy: bool, folder: Path) -> None:
    write_made(MADE[name](), folder / "model.pth.tar", legacy=legacy)
    check(folder, [*everything("model.pth.tar", "nan.pt"), VERIFY])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in MADE])
def test_of_files_with_two_of_something(family: str, folder: Path) -> None:
    write_made(FAMILIES[family](2), folder / "model.pth.tar")
    check(folder, [*everything("model.pth.tar", "nan.pt"), VERIFY])


@pytest.mark.filterwarnings("ignore")
def test_of_folders_of_shards(folder: Path) -> None:
    shards = folder / "two shards"
    shards.mkdir()
    save_file({"a": torch.ones(2)}, shards / "model-00001-of-00002.safetensors")
    check(folder, everything("two shards", "nan.pt"))
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert check(folder, everything("two shards", "nan.pt")) >= 1
    save_file({"b": torch.ones(2)}, shards / "model-00002-of-00002.safetensors")
    check(folder, everything("two shards", "nan.pt"))


@pytest.mark.slow
def test_of_demo_files_and_sample_models(demo: Path, folder: Path) -> None:
    place_in = folder / "demo"
    shutil.copytree(demo, place_in)
    shutil.copy(folder / "net.py", place_in)
    count = 0
    for path in sorted(place_in.iterdir()):
        if path.suffix == ".py":
            count += check(place_in, [["lint", f"{path.name}:build"], ["inspect", f"{path.name}:build"]])
        else:
            count += check(
                place_in,
                [*everything(path.name, "base.pt"), ["verify", path.name, "--model", "swin.py:build"]],
            )
    assert count >= 20
    samples = Path(__file__).parents[2] / "sample_models"
    for path in sorted(samples.glob("[a-z]*.py")):
        if "def build" in path.read_text("utf-8"):
            check(samples.parent, [["lint", f"sample_models/{path.name}:build"]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [case.name for case in CASES.values() if not case.alone])
def test_of_hostile_files(name: str, folder: Path) -> None:
    path = Path(CASES[name].build(folder))
    if path.is_file() or path.is_dir():  # else a FIFO or a device, read by nobody
        name = os.path.relpath(path, folder)
        commands = [["inspect", name], ["diff", name, "nan.pt"], ["convert", name, "out.pt"]]
        if type_in(folder, commands[0]).status != 2:  # else no option makes another sentence of it
            commands = [*everything(name, "nan.pt")]
        check(folder, [*commands, ["verify", name, "--model", "net.py:build"]])


@pytest.mark.real
@pytest.mark.slow
def test_of_published_files(real_dir: Path, folder: Path) -> None:
    count = 0
    for own, name in published(real_dir, folder):
        shutil.copy(folder / "net.py", own)
        shutil.copy(folder / "nan.pt", own)
        count += check(own, everything(name, "nan.pt"))
    assert count >= 20


def test_the_check_sees_what_does_not_run(folder: Path) -> None:
    """A check that cannot fail is none."""
    for text in ("see ckpttool convert --rename", "`see` ckpttool verify tells"):
        with pytest.raises(AssertionError, match="not marked"):
            printed(text)
    assert printed("a `ckpttool inspect 'a b'` c\nhint:  ckpttool --help") == [
        "ckpttool inspect 'a b'",
        "ckpttool --help",
    ]
