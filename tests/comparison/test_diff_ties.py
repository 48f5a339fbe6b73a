"""A name that one side does not store, because the other side says what it is tied to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from ckpttool.cli import main
from ckpttool.values.difference import Status
from tests.support.differing import diff, entry


class Tied(nn.Module):
    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight


def files(folder: Path, model: nn.Module, *, stored: nn.Module | None = None) -> tuple[Path, Path]:
    """As transformers leaves them: a .pt with every name, and a safetensors file with one name of a tie."""
    torch.save(model.state_dict(), folder / "m.pt")
    kept = {name: value for name, value in (stored or model).state_dict().items() if name != "head.weight"}
    save_file(kept, folder / "m.safetensors", {"format": "pt"})
    return folder / "m.pt", folder / "m.safetensors"


def test_what_is_tied_to_an_equal_entry_is_no_difference(tmp_path: Path) -> None:
    full, less = files(tmp_path, Tied())
    for a, b, status, which, code in (
        (less, full, Status.ADDED, "A", "tied-name-added"),
        (full, less, Status.REMOVED, "B", "tied-name-dropped"),
    ):
        found = diff(a, b)
        item = entry(found, "head.weight")
        assert found.equal and (item.status, item.tied_to) == (status, "embed.weight")
        assert item.note == f"tied to embed.weight; not stored on side {which}"
        assert [(it.code, it.severity) for it in found.findings] == [(code, "info")]


def test_the_status_is_0_and_everything_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, less = files(tmp_path, Tied())
    assert main(["diff", str(less), str(full)]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(
        "identical: 4 tensors (4 parameters) · 1 tied name stored in B only\n"
    )
    assert "info: head.weight is tied to embed.weight; not stored on side A [tied-name-added]\n" in err
    assert main(["diff", str(less), str(full), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    (item,) = [it for it in document["entries"] if it["status"] != "equal"]
    assert document["equal"] is True
    assert (item["name"], item["status"], item["tied_to"]) == ("head.weight", "added", "embed.weight")


def test_which_name_of_a_tie_is_stored_does_not_matter(tmp_path: Path) -> None:
    """safetensors.torch.save_model keeps the name that it likes."""
    torch.manual_seed(0)
    model = Tied()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    save_model(model, str(tmp_path / "m.safetensors"))
    kept = {name: value for name, value in model.state_dict().items() if name != "embed.weight"}
    save_file(kept, tmp_path / "other.safetensors")
    for name in ("m.safetensors", "other.safetensors"):
        assert (
            diff(tmp_path / name, tmp_path / "m.pt").equal and diff(tmp_path / "m.pt", tmp_path / name).equal
        )


@pytest.mark.parametrize("change", ["embed.weight", "norm.weight"])
def test_a_tie_to_what_differs_is_a_difference(tmp_path: Path, change: str) -> None:
    stored = Tied()
    full, less = files(tmp_path, Tied(), stored=stored)
    stored.load_state_dict(torch.load(full))
    with torch.no_grad():
        stored.get_parameter(change)[0] += 1
    files_of = {name: value for name, value in stored.state_dict().items() if name != "head.weight"}
    save_file(files_of, less)
    found = diff(less, full)
    assert not found.equal
    assert (entry(found, "head.weight").tied_to is None) is (change == "embed.weight")


def test_equal_bytes_that_are_not_tied_in_the_file_are_a_difference(tmp_path: Path) -> None:
    """Nothing in either file says that a model ties the two."""
    model = Tied(tied=False)
    with torch.no_grad():
        model.head.weight.copy_(model.embed.weight)
    full, less = files(tmp_path, model)
    for a, b in ((less, full), (full, less)):
        found = diff(a, b)
        assert not found.equal and entry(found, "head.weight").tied_to is None


def test_a_tie_to_another_branch_is_a_difference(tmp_path: Path) -> None:
    """What loads the branch does not find the entry in it."""
    shared, other = torch.ones(3), torch.zeros(2)
    both = {
        "model": {"a.weight": other, "b.weight": shared},
        "model_ema": {"a.weight": other, "b.weight": shared},
    }
    torch.save(both, tmp_path / "a.pt")
    torch.save({**both, "model": {"a.weight": other}}, tmp_path / "b.pt")
    assert not diff(tmp_path / "a.pt", tmp_path / "b.pt").equal
    assert not diff(tmp_path / "b.pt", tmp_path / "a.pt").equal
