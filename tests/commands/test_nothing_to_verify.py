"""``verify`` of a file that has nothing to load: one true sentence, status 2, and what to type instead."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.advice import printed, shell_words, type_in

MODEL = """
import torch
from torch import nn


class Attributes(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.table, self.name = 3, torch.ones(2), "x"


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.more = torch.ones(2)


class Plain(nn.Module):
    scale = 3


def build():
    return Attributes()
"""
NONE = "holds no tensors, so there is nothing to load"
BESIDE = "holds nothing that load_state_dict takes, only "


def made(name: str, net: Any) -> Any:
    return {
        "nothing": {}, "values": {"epoch": 3, "lr": 0.1}, "an empty branch": {"state_dict": {}, "epoch": 1},
        "the state_dict of attributes": net.Attributes().state_dict(), "a module without": net.Plain(),
        "a module with attributes": net.Attributes(), "a module with both": net.Buffers(),
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", NONE),
        ("values", NONE),
        ("an empty branch", NONE),
        ("the state_dict of attributes", NONE),
        ("a module without", NONE),
        ("a module with attributes", BESIDE + "1 plain attribute (table)"),
        ("a module with both", BESIDE + "1 non-persistent buffer (mask) and 1 plain attribute (more)"),
    ],
)
@pytest.mark.parametrize("model", ["net.py:build", "torch.nn:Identity"])
def test_a_file_without_anything_to_load(
    name: str, said: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "net", raising=False)
    import net  # type: ignore[import-not-found]

    torch.save(made(name, net), tmp_path / "a.pt")
    monkeypatch.delitem(sys.modules, "net")
    check(tmp_path, "a.pt", said, model)


def check(folder: Path, path: str, said: str, model: str) -> None:
    typed = type_in(folder, ["verify", path, "--model", model])
    hint = f"hint:  `ckpttool inspect {path}` shows what is in it\n"
    assert typed == (2, "", f"error: {path}: {said}\n{hint}")
    (command,) = printed(typed.err)
    assert type_in(folder, shell_words(command)[1:]).status == 0
    document = json.loads(type_in(folder, ["inspect", path, "--model", model, "--json"]).out)
    assert not [item for item in document["next"] if " verify " in item["command"]]


def test_an_empty_safetensors_file(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    check(tmp_path, "a.safetensors", NONE, "torch.nn:Identity")
