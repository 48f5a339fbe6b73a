"""What belongs to a branch that is not compared is not compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.differing import diff


def training(*, step_is_tensor: bool = True, **values: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    if not step_is_tensor:
        for of_one in state["state"].values():
            of_one["step"] = 1
    return {"model": model.state_dict(), "optimizer": state, **values}


@pytest.fixture
def save(tmp_path: Path) -> Any:
    def write(name: str, made: dict[str, Any]) -> Path:
        torch.save(made, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("step_is_tensor", [False, True])
def test_values_of_an_optimizer_go_with_its_tensors(save: Any, step_is_tensor: bool) -> None:
    whole = training(step_is_tensor=step_is_tensor, epoch=3, lr=0.1)
    less = {key: value for key, value in whole.items() if key != "optimizer"}
    full, part = save("a.pt", whole), save("b.pt", less)
    for a, b, which in ((full, part, "A"), (part, full, "B")):
        found = diff(a, b)
        assert found.equal and not found.values
        assert any(
            text.startswith(f"only in {which}: ") and "values of optimizer" in text for text in found.left_out
        )


def test_values_at_the_top_still_count(save: Any) -> None:
    whole = training(epoch=3)
    less = {"model": whole["model"], "epoch": 4}
    found = diff(save("a.pt", whole), save("b.pt", less))
    assert [(change.name, change.a, change.b) for change in found.values] == [("epoch", 3, 4)]


def test_options_of_an_optimizer_count_where_both_sides_have_one(save: Any) -> None:
    whole = training(epoch=3)
    other = training(epoch=3)
    other["optimizer"]["param_groups"][0]["lr"] = 0.5
    found = diff(save("a.pt", whole), save("b.pt", other))
    assert [change.name for change in found.values] == ["lr"] and not found.equal


def linear(**values: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return {**nn.Linear(3, 2).state_dict(), **values}


@pytest.mark.parametrize("home", ["model", "net", "module.state_dict", ""])
@pytest.mark.parametrize("other", ["state_dict", "net", ""])
@pytest.mark.parametrize("more", ["", "A", "B", "AB"])
def test_values_around_the_weights_count_wherever_these_stand(
    save: Any, home: str, other: str, more: str
) -> None:
    """Of files that hold one state_dict, or one and a branch beside it."""

    def wrapped(which: str, path: str, made: Any, epoch: int) -> dict[str, Any]:
        for key in reversed(path.split(".") if path else []):
            made = {key: made}
        return {**made, "epoch": epoch, **({"extra": {"m": torch.ones(2)}} if which in more else {})}

    a, same, b = (
        save(f"{number}.pt", wrapped(which, path, linear(), epoch))
        for number, (which, path, epoch) in enumerate((("A", home, 3), ("B", other, 3), ("B", other, 4)))
    )
    said = [f"only in {which}: 1 tensor of extra" for which in more] if len(more) == 1 else []
    assert diff(a, same).equal and list(diff(a, same).left_out) == said
    for first, second, values in ((a, b, (3, 4)), (b, a, (4, 3))):
        found = diff(first, second)
        assert [(change.root, change.name, change.a, change.b) for change in found.values] == [
            ((), "epoch", *values)
        ]
        assert len(found.left_out) == len(said)


@pytest.mark.parametrize("home", ["model", "net"])
@pytest.mark.parametrize("more", [False, True])
def test_modules_at_other_places_are_compared_attribute_by_attribute(
    save: Any, home: str, more: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    beside = {"extra": {"m": torch.ones(2)}} if more else {}
    a = save("a.pt", {"model": model, **beside})
    same = save("b.pt", {home: model, **beside})
    model[1].p = 0.5
    b = save("c.pt", {home: model, **beside})
    assert diff(a, same).equal and diff(same, a).equal
    found = diff(a, b)
    assert [(change.root, change.name, change.a, change.b) for change in found.values] == [
        ((home, "1"), "p", 0.1, 0.5)
    ]
