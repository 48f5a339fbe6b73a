"""Whole pickled modules that differ in plain attributes only: no tensor shows them, and results change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.cli import main
from ckpttool.formats import read_checkpoint


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.Dropout(0.1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def changes(
    folder: Path, capsys: pytest.CaptureFixture[str], a: Any, b: Any, status: int
) -> list[tuple[Any, ...]]:
    for name, made in (("a.pt", a), ("b.pt", b)):
        torch.save(made, folder / name)
    assert main(["diff", str(folder / "a.pt"), str(folder / "b.pt"), "--json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert document["equal"] is (status == 0)
    assert {entry["status"] for entry in document["entries"]} <= {"equal"}
    return [(v["section"], v["root"], v["name"], v["a"], v["b"]) for v in document["values"]]


Change = Callable[[Any], object]
CHANGED: list[tuple[Change, list[str], str, object, object]] = [
    (lambda m: setattr(m[2], "p", 0.5), ["2"], "p", 0.1, 0.5),
    (lambda m: setattr(m[1], "eps", 1e-3), ["1"], "eps", 1e-5, 1e-3),
    (lambda m: setattr(m[1], "momentum", None), ["1"], "momentum", 0.1, None),
    (lambda m: setattr(m[0], "stride", (1, 2)), ["0"], "stride", [2, 2], [1, 2]),
    (lambda m: setattr(m[0], "padding_mode", "reflect"), ["0"], "padding_mode", "zeros", "reflect"),
    (lambda m: m[2].eval(), ["2"], "training", True, False),
    (lambda m: setattr(m, "note", "a"), [], "note", None, "a"),
]


@pytest.mark.parametrize(
    ("change", "root", "name", "before", "after"), CHANGED, ids=[item[2] for item in CHANGED]
)
@pytest.mark.parametrize("inside", [False, True], ids=["top", "in a dict"])
def test_an_attribute_is_another_value(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Change,
    root: list[str],
    name: str,
    before: object,
    after: object,
    inside: bool,
) -> None:
    a, b = model(), model()
    change(b)
    wrap: Callable[[object], object] = (
        (lambda made: {"model": made, "epoch": 1}) if inside else (lambda made: made)
    )
    found = changes(tmp_path, capsys, wrap(a), wrap(b), 1)
    at = ["model"] if inside else []
    # What is compared may be named from the branch on.
    assert [(v[0], v[1] if v[1][:1] != at or not at else v[1][1:], *v[2:]) for v in found] == [
        ("attribute", root, name, before, after)
    ]


def test_equal_modules_are_equal_and_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert changes(tmp_path, capsys, model(), model(), 0) == []


def test_another_class_is_seen_where_no_tensor_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = model(), model()
    b[3] = nn.GELU()
    b.append(nn.Softmax(1))
    found = changes(tmp_path, capsys, a, b, 1)
    assert found == [
        (
            "attribute",
            ["3"],
            "__class__",
            "torch.nn.modules.activation.ReLU",
            "torch.nn.modules.activation.GELU",
        ),
        ("attribute", ["3"], "inplace", False, None),
        ("attribute", ["3"], "approximate", None, "none"),
        ("attribute", ["6"], "__class__", None, "torch.nn.modules.activation.Softmax"),
    ]


def test_the_order_of_the_sides_is_all_that_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = model(), model()
    b[2].p, b[1].eps = 0.3, 1.0
    there = changes(tmp_path, capsys, a, b, 1)
    back = changes(tmp_path, capsys, b, a, 1)
    assert [(*v[:3], v[4], v[3]) for v in there] == back


def test_a_state_dict_has_none_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(model(), tmp_path / "a.pt")
    torch.save(model().state_dict(), tmp_path / "b.pt")
    assert main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]) == 0
    said = capsys.readouterr().err
    plain = len(read_checkpoint(str(tmp_path / "a.pt")).attributes)
    assert f"only in A: {plain} attributes of modules" in said


def test_all_plain_attributes_are_listed_as_the_modules_have_them(tmp_path: Path) -> None:
    """torch is the oracle: whatever is plain in a module's ``__dict__``, registries and hooks apart."""
    made = nn.Sequential(
        nn.Linear(2, 2), nn.TransformerEncoderLayer(8, 2), nn.GRU(3, 4), nn.Upsample(scale_factor=2)
    )
    torch.save(made, tmp_path / "m.pt")
    found: dict[tuple[str, str], object] = {}
    for root, name, value in read_checkpoint(str(tmp_path / "m.pt")).attributes:
        found[".".join(map(str, root)), str(name)] = value
    for path, module in made.named_modules():
        cls = type(module)
        assert found.pop((path, "__class__")) == f"{cls.__module__}.{cls.__qualname__}"
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float, str)) or (isinstance(value, tuple) and value):
                assert found.pop((path, name)) == value, (path, name)
    left = {name for _, name in found}
    assert left <= {"_flat_weights_names", "_all_weights", "bias_k", "bias_v", "size", "align_corners",
                    "activation", "recompute_scale_factor"}  # fmt: skip


def test_long_ones_are_counted_and_many_are_said_not_to_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = nn.Sequential(nn.Linear(2, 2))
    made.vocabulary = [f"word {at}" for at in range(1000)]
    torch.save(made, tmp_path / "m.pt")
    checkpoint = read_checkpoint(str(tmp_path / "m.pt"))
    assert [(item.name, item.summary) for item in checkpoint.opaque] == [("vocabulary", "1,000 items")]
    monkeypatch.setattr("ckpttool.formats.pickled.budget._MAX_MODULE_ATTRIBUTES", 1)
    checkpoint = read_checkpoint(str(tmp_path / "m.pt"))
    assert [finding.code for finding in checkpoint.findings] == ["attributes-unlisted"]
