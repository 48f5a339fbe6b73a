"""Plain attributes of objects that are never built: facts that are listed, compared and carried."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import json
import pathlib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint
from ckpttool.formats.carried import expand
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.render.inspection import iter_inspection
from ckpttool.render.views import InspectListing
from tests.support.object_trees import Plain, Settings, Slotted

pytestmark = pytest.mark.filterwarnings("ignore")


class Mode(enum.Enum):
    STEPS = "steps"
    EPOCHS = "epochs"


@dataclasses.dataclass
class Config:
    lr: float
    mode: Mode
    when: datetime.date = datetime.date(2020, 1, 2)


def with_lr(lr: Any) -> dict[str, Any]:
    """The same fact in objects of every build."""
    return {
        "namespace": argparse.Namespace(lr=lr, names=["a", "b"]),
        "nested": argparse.Namespace(optimizer=argparse.Namespace(lr=lr)),
        "in a dict of an object": Plain(config={"optimizer": {"lr": lr}}),
        "in a list of an object": Plain(groups=[{"lr": lr, "w": Plain()}]),
        "dataclass": Config(lr, Mode.STEPS),
        "slots": Slotted(lr, 1),
        "simple": types.SimpleNamespace(lr=lr),
        "dict of a class of its own": Settings(lr=lr),
        "named tuple": Point(lr, 2),
        "defaultdict": Plain(groups=collections.defaultdict(dict, {"a": {"lr": lr}})),
        "object that is all": argparse.Namespace(lr=lr, w=torch.ones(1)),
    }


Point = collections.namedtuple("Point", "x y")


def save(folder: Path, name: str, value: Any) -> str:
    path = folder / name
    torch.save(value, path)
    return str(path)


def values(path: str) -> dict[str, Any]:
    found = expand(read_checkpoint(path)).values
    return {".".join(map(str, (*item.root, item.name))): item.value for item in found}


@pytest.mark.parametrize("case", with_lr(0.0))
def test_files_that_differ_in_an_attribute_are_different(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def file(name: str, lr: float) -> str:
        value = with_lr(lr)[case]
        bare = case == "object that is all"
        return save(tmp_path, name, value if bare else {"model": {"w": torch.ones(2)}, "args": value})

    first, same, other = file("a.pt", 0.25), file("b.pt", 0.25), file("c.pt", 0.5)
    assert main(["diff", first, same]) == 0
    assert "but for plain attributes" in capsys.readouterr().err or case == "named tuple"
    assert main(["diff", first, other, "--json"]) == 1
    (change,) = json.loads(capsys.readouterr().out)["values"]
    if case == "named tuple":
        assert change["section"] == "object" and "0.25" in change["a"] and "0.5" in change["b"]
    else:
        assert (change["section"], change["a"], change["b"]) == ("value", 0.25, 0.5)


def test_enum_members_dates_and_paths_are_compared_by_what_they_are_made_of(tmp_path: Path) -> None:
    base = {"mode": Mode.STEPS, "when": datetime.date(2020, 1, 2), "where": pathlib.PurePosixPath("/a/b")}
    first = save(tmp_path, "a.pt", Plain(**base))
    for key, value in (
        ("mode", Mode.EPOCHS),
        ("when", datetime.date(2020, 1, 3)),
        ("where", pathlib.PurePosixPath("/a/c")),
    ):
        assert main(["diff", first, save(tmp_path, "b.pt", Plain(**{**base, key: value})), "--quiet"]) == 1
    assert main(["diff", first, save(tmp_path, "b.pt", Plain(**base)), "--quiet"]) == 0


def test_what_is_long_is_counted(tmp_path: Path) -> None:
    held = Plain(
        vocabulary={f"w{n}": n for n in range(1000)},
        merges=list(range(1000)),
        text="x" * 10_000,
        short={"a": 1},
        table=np.zeros((3, 4)),
        names={"a", "b"},
    )
    path = save(tmp_path, "a.pt", {"held": held, "w": torch.ones(1)})
    assert values(path) == {"held.short.a": 1}
    found = {str(item.name): (item.type_name, item.summary) for item in read_checkpoint(path).opaque}
    assert found["vocabulary"] == ("dict", "1,000 items")
    assert found["merges"] == ("list", "1,000 items")
    assert found["text"] == ("str", "10,000 characters")
    assert found["names"] == ("set", "2 items")
    assert found["table"][1] == "f8 (3, 4)"


def test_there_is_an_end_to_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = [Plain(**{f"k{n}": n for n in range(100)}) for _ in range(120)]
    path = save(tmp_path, "a.pt", {"many": many, "w": torch.ones(1)})
    assert len(values(path)) == 10_000
    assert main(["inspect", path]) == 0
    assert "2,000 plain attributes of objects are not listed, and not compared" in capsys.readouterr().err


def test_the_first_screen_counts_them(tmp_path: Path) -> None:
    def shown(path: str) -> str:
        inspection = inspect_checkpoint(read_checkpoint(path))
        lines = iter_inspection(inspection, 100, InspectListing(False, False, "file"), [])
        return "\n".join("".join(span.text for span in line) for line in lines)

    args = argparse.Namespace(**{f"k{n}": n for n in range(45)})
    text = shown(save(tmp_path, "a.pt", {"w": torch.ones(1), "args": args}))
    assert "args: argparse.Namespace (45 values)" in text and "k7" not in text
    text = shown(save(tmp_path, "b.pt", args))
    assert "  argparse.Namespace (45 values)" in text and "k7" not in text


def test_a_conversion_keeps_them_where_no_dict_comes_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(lr=0.5, mode=Mode.STEPS, w=torch.ones(3))
    source = save(tmp_path, "a.pt", {"model": {"weight": torch.ones(2)}, "args": args, "epoch": 3})
    kept, bare, back = (str(tmp_path / name) for name in ("b.safetensors", "c.pt", "d.pt"))
    for before, after, more in ((source, kept, ["--root", ""]), (source, bare, []), (kept, back, [])):
        assert main(["convert", before, after, *more, "--json"]) == 0
        dropped = json.loads(capsys.readouterr().out)["dropped"]
        reasons = {item["name"]: item["reason"] for item in dropped}
        where = "is kept" if after == kept else "stays behind"
        what = "an object: described in the file, never built"
        assert reasons["args"] == f"{what}; 1 plain value of it {where}"
        assert reasons["mode"] == "an object: described in the file, never built"
    assert main(["diff", source, kept, "--json"]) == 0
    assert values(kept) == {"args.lr": 0.5, "epoch": 3}
    for path in (bare, back):
        loaded = torch.load(path, weights_only=True)
        assert list(loaded["args"]) == ["w"] and loaded["epoch"] == 3  # a tensor is kept wherever it stands


def test_attributes_of_a_module_stay_out_of_its_state_dict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = torch.nn.Linear(2, 2)
    module.config = {"hidden": {"size": 2}}
    source, target = save(tmp_path, "a.pt", {"model": module, "epoch": 3}), str(tmp_path / "b.pt")
    assert values(source) == {"model.config.hidden.size": 2, "epoch": 3}
    assert main(["convert", source, target, "--json"]) == 0
    reason = "plain attribute of a module: a state_dict has none"
    dropped = json.loads(capsys.readouterr().out)["dropped"]
    assert [(item["root"], item["name"], item["reason"]) for item in dropped] == [
        (["model"], "config", reason)
    ]
    loaded = torch.load(target, weights_only=True)
    torch.nn.Linear(2, 2).load_state_dict(loaded["model"])
    assert loaded["epoch"] == 3


def test_an_optimizer_object_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its state, as in a state_dict, and its groups count their parameters."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    for value in ({"model": model.state_dict(), "optimizer": optimizer}, optimizer):
        path = save(tmp_path, "a.pt", value)
        assert main(["inspect", path, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        kinds = {entry["name"]: entry["kind"] for entry in document["entries"] if "state" in entry["root"]}
        assert kinds == dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), "optimizer_state")
        assert document["summary"]["unknown"] == 0
        lr = [item["value"] for item in document["values"] if item["name"] == "lr"]
        assert 0.5 in lr
