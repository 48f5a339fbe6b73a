"""What a session of verify announces, moves and saves: its bytes, its steps and its notes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.torch_bridge.verify.stored_state import StoredState
from ckpttool.torch_bridge.verify.verify import VerifyOptions, _move, verify
from ckpttool.values.verification import Plan
from sample_models.same_bytes import save_legacy
from tests.support.verified_models import Plain
from tests.support.verifying import check, check_file, names, source, the_run
from tests.support.work import lines


@pytest.mark.parametrize("loads", [(), ("copy",), ("assign", "to-empty"), ("round-trip",)])
def test_what_will_be_held_and_written_is_announced_in_bytes(loads: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(Plain().state_dict(), path)
    plans: list[Plan] = []
    options = VerifyOptions(("cpu",), loads)
    verify(read_checkpoint(str(path)), (), source(Plain), options, announce=plans.append)
    model = Plain()
    nbytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    [plan] = plans
    assert plan[:3] == (nbytes, os.path.getsize(path), 0)
    assert plan[3] == (nbytes if not loads or "round-trip" in loads else 0)


def test_a_module_that_moves_is_moved_and_one_that_fails_is_said() -> None:
    class Stays(nn.Module):
        def _apply(self, *_arguments: Any, **_options: Any) -> Any:
            raise RuntimeError("no room\nat all")

    model = nn.Linear(2, 2)
    assert _move(model, "cpu") == "" and not model.weight.is_meta
    assert _move(model, "meta") == "" and model.weight.is_meta
    assert _move(Stays(), "cpu") == ""
    said = _move(Stays(), "meta")
    assert said.startswith(".to(meta) fails: ") and "no room" in said and "\n" not in said


def test_what_does_not_load_is_not_saved_again(tmp_path: Path) -> None:
    bad = {name: value for name, value in Plain().state_dict().items() if name != "scale"}
    alone = the_run(check(bad, Plain, tmp_path, load="round-trip"), "round-trip")
    assert (alone.ok, alone.note, names(alone.missing)) == (
        False, "does not load in the first place", ["scale"]
    )  # fmt: skip
    beside = the_run(check(bad, Plain, tmp_path), "round-trip")
    assert (beside.ok, beside.note) == (None, "not tried: there is no rightly loaded model to save")


def test_work_grows_with_extra_states_and_parts_of_names_no_faster_than_they_do(tmp_path: Path) -> None:
    def state(count: int) -> StoredState:
        made: dict[str, Any] = {f"m{at}._extra_state": {"calls": [at, {"n": at}]} for at in range(count)}
        made[f"{'a.' * count}weight"] = torch.ones(2)
        torch.save(made, tmp_path / f"{count}.pt")
        return StoredState(
            read_checkpoint(str(tmp_path / f"{count}.pt")), (), describe_model(Plain(), "here")
        )

    found = state(30).extra
    assert found == {f"m{at}._extra_state": {"calls": [at, {"n": at}]} for at in range(30)}
    small, large = (lines(lambda count=count: state(count)) for count in (100, 400))  # type: ignore[misc]
    assert large < 6 * small


class WithState(nn.Module):
    def get_extra_state(self) -> Any:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"calls": 3}


@pytest.mark.parametrize("count", [1, 3, 5])
def test_what_safetensors_cannot_hold_is_saved_as_a_pt_alone(count: int, tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), *(WithState() for _ in range(count)))

    run = the_run(check(build().state_dict(), build, tmp_path), "round-trip")
    keys = ", ".join(f"{at + 1}._extra_state" for at in range(min(count, 3)))
    assert run.note == f"as .pt only: safetensors holds no {keys}"


class Wide(nn.Module):
    """Tensors that a .pt holds and safetensors does not, beside one that both hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("z", torch.zeros(3, dtype=torch.complex128))
        self.register_buffer("scalar", torch.zeros((), dtype=torch.complex128))
        self.register_buffer("few", torch.zeros(2, 2).to_sparse())


def test_wide_numbers_load_wherever_they_lie_and_are_saved_as_a_pt_alone(
    tmp_path: Path,
) -> None:
    state = {
        **Wide().state_dict(),
        "few": torch.eye(2).to_sparse(),
        "z": torch.ones(3, dtype=torch.complex128),
    }
    save_legacy({name: value for name, value in state.items() if name != "few"}, tmp_path / "old.pt")
    torch.save(state, tmp_path / "new.pt")
    old = check_file(tmp_path / "old.pt", Wide)
    assert names(the_run(old).missing) == ["few"]
    assert not the_run(old).wrong and not the_run(old).errors
    new = check_file(tmp_path / "new.pt", Wide, load="copy,round-trip")
    assert [(run.ok, run.note) for run in new.runs] == [
        (True, ""), (True, "as .pt only: safetensors holds no z, scalar, few")
    ]  # fmt: skip
