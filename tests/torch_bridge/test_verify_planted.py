"""One fault at a time, planted into a file or a model of any slots: ``verify`` says that, and nothing else.

What is missing, unexpected or of another shape is what torch's own load_state_dict says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ckpttool.values.verification import Lossy, Mismatched, Missing, NotRestored, Run, Verification, Wrong
from tests.support.planted import Alters, Ignores, Made, Slot, saved_slots, slot_lists, ties
from tests.support.verifying import Build, check, the_run

# A fault is seen in most examples, and each example saves and loads: none is made smaller.
examples = partial(
    settings,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)


def stored_state(slots: Sequence[Slot]) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return dict(Made(slots).state_dict())


def verified(
    state: Mapping[str, Any], build: Build, folder: Path, load: str = "copy", **more: Any
) -> Verification:
    return check(dict(state), build, folder, load=load, **more)


def right(slots: Sequence[Slot], load: str = "copy") -> Run:
    """The run of a file that has all, into a model that takes all."""
    saved = saved_slots(slots)
    nbytes = sum(slot.nbytes for slot in saved if slot.kind == "parameter")
    return Run("cpu", load, True, True, len(saved), len(saved), nbytes, nbytes)


def timeless(run: Run) -> Run:
    """As two runs can be compared; lists are in the order of the model, which is not that of the slots."""
    assert run.seconds > 0
    return run._replace(
        seconds=0.0, not_restored=tuple(sorted(run.not_restored)), untied=tuple(sorted(run.untied))
    )


def without(run: Run, slot: Slot) -> Run:
    """One entry fewer that fits."""
    nbytes = slot.nbytes if slot.kind == "parameter" else 0
    return run._replace(ok=False, matched=run.matched - 1, matched_nbytes=run.matched_nbytes - nbytes)


def becomes(slots: Sequence[Slot], slot: Slot) -> str:
    if any(slot.name in group for group in ties(slots)):
        return "tied"
    if slot.drawn:
        return "random"
    return "default" if slot.kind == "parameter" else "rebuilt"


def said_by_torch(slots: Sequence[Slot], state: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Missing and unexpected keys."""
    found = Made(slots).load_state_dict(dict(state), strict=False)
    return found.missing_keys, found.unexpected_keys


def transient(slots: Sequence[Slot]) -> list[Slot]:
    return [slot for slot in slots if slot.kind == "transient"]


def words_of(slot: Slot) -> str:
    """A constant buffer in a few words."""
    if not math.prod(slot.shape):
        return "nothing (empty)"
    if slot.dtype is torch.bool:
        numel = math.prod(slot.shape)
        return f"{numel if slot.value else 0} of {numel} true"
    return str(slot.value)


@examples(max_examples=12)
@given(slots=slot_lists())
def test_a_file_that_has_all_is_right_in_every_way_of_loading(slots: list[Slot], tmp_path: Path) -> None:
    result = verified(stored_state(slots), partial(Made, slots), tmp_path, "")
    constant = [slot for slot in transient(slots) if not slot.drawn]
    on_meta = [NotRestored(slot.name, "meta", "no data (meta)", words_of(slot)) for slot in constant]
    garbage = [
        NotRestored(slot.name, "garbage", "uninitialised memory", words_of(slot))
        for slot in constant
        if math.prod(slot.shape)
    ]
    runs = {load: right(slots, load)._replace(decides=load == "copy") for load in ("copy", "round-trip")}
    for load, not_restored, untied in (("assign", on_meta, []), ("to-empty", garbage, ties(slots))):
        runs[load] = right(slots, load)._replace(
            decides=False, ok=not (not_restored or untied),
            not_restored=tuple(sorted(not_restored)), untied=tuple(sorted(untied)),
        )  # fmt: skip
    assert {run.load: timeless(run) for run in result.runs} == runs
    assert [run.load for run in result.runs] == ["copy", "assign", "to-empty", "round-trip"]
    assert result[:5] == (
        str(tmp_path / "state.pt"), "test:build", "tests.support.planted.Made", "", ()
    )  # fmt: skip
    assert (result.ok, result.changed_reference, result.root, result.allow_cast) == (True, (), (), False)
    kinds = [slot.kind for slot in slots]
    assert (result.parameters, result.persistent_buffers) == (
        kinds.count("parameter"),
        kinds.count("persistent"),
    )
    assert sorted(result.rebuilt) == sorted(slot.name for slot in constant)
    assert result.random == tuple(sorted(slot.name for slot in transient(slots) if slot.drawn))
    assert dict(result.fingerprints).keys() == set(result.rebuilt)


@examples(max_examples=30)
@given(slots=slot_lists(), at=st.integers(0, 20))
def test_an_entry_that_is_missing_is_said_with_what_becomes_of_it(
    slots: list[Slot], at: int, tmp_path: Path
) -> None:
    saved = saved_slots(slots)
    slot = saved[at % len(saved)]
    state = stored_state(slots)
    del state[slot.name]
    assert said_by_torch(slots, state) == ([slot.name], [])
    fate = becomes(slots, slot)
    kind = "parameter" if slot.kind == "parameter" else "persistent_buffer"
    expected = without(right(slots), slot)._replace(missing=(Missing(slot.name, kind, slot.nbytes, fate),))
    assert timeless(the_run(verified(state, partial(Made, slots), tmp_path))) == expected._replace(
        ok=fate == "tied"
    )


@examples(max_examples=25)
@given(slots=slot_lists(), name=st.sampled_from(["x", "first.x", "a.deep.x", "S0", "s00"]))
def test_an_entry_too_many_is_unexpected(slots: list[Slot], name: str, tmp_path: Path) -> None:
    for more in (name, *(slot.name for slot in slots if slot.kind in ("none", "transient"))):
        state = {**stored_state(slots), more: torch.ones(2)}
        assert said_by_torch(slots, state) == ([], [more])
        found = the_run(verified(state, partial(Made, slots), tmp_path))
        assert timeless(found) == right(slots)._replace(ok=False, unexpected=(more,))


@examples(max_examples=30)
@given(slots=slot_lists(), at=st.integers(0, 20), shape=st.sampled_from([(3, 2, 1), (2, 2), (0, 0), (7, 1)]))
def test_another_shape_is_a_mismatch(
    slots: list[Slot], at: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    saved = saved_slots(slots)
    slot = saved[at % len(saved)]
    state = {**stored_state(slots), slot.name: torch.ones(shape, dtype=slot.dtype)}
    with pytest.raises(RuntimeError, match=f"size mismatch for {slot.name}: "):
        Made(slots).load_state_dict(state)
    expected = without(right(slots), slot)._replace(mismatched=(Mismatched(slot.name, shape, slot.shape),))
    assert timeless(the_run(verified(state, partial(Made, slots), tmp_path))) == expected


def alone(slots: Sequence[Slot], at: int, *dtypes: torch.dtype) -> Slot:
    """A slot with elements that is tied to no other."""
    tied = {name for group in ties(slots) for name in group}
    found = [
        slot
        for slot in saved_slots(slots)
        if slot.name not in tied and math.prod(slot.shape) and slot.dtype in (dtypes or (slot.dtype,))
    ]
    assume(found)
    return found[at % len(found)]


@examples(max_examples=30)
@given(slots=slot_lists(), at=st.integers(0, 20), place=st.integers(0, 5), exact=st.booleans())
def test_a_cast_is_lossy_where_one_value_changes(
    slots: list[Slot], at: int, place: int, exact: bool, tmp_path: Path
) -> None:
    slot = alone(slots, at, torch.float32)
    place %= math.prod(slot.shape)
    wide = torch.full((math.prod(slot.shape),), 2.5, dtype=torch.float64)
    wide[place] = 0.75 if exact else 2.0**24 + 1
    state = {**stored_state(slots), slot.name: wide.reshape(slot.shape)}
    loss = Lossy(slot.name, "float64", "float32", 1, place, "16777217", "16777216")
    found = timeless(the_run(verified(state, partial(Made, slots), tmp_path)))
    if exact:
        assert found == right(slots)._replace(cast=(slot.name,))
        assigned = the_run(verified(state, partial(Made, slots), tmp_path, "assign"), "assign")
        assert (assigned.assigned_dtype, assigned.cast, assigned.lossy) == ((slot.name,), (), ())
        return
    assert found == right(slots)._replace(ok=False, lossy=(loss,))
    allowed = the_run(verified(state, partial(Made, slots), tmp_path, allow_cast=True))
    assert timeless(allowed) == right(slots)._replace(lossy=(loss,))


@examples(max_examples=30)
@given(slots=slot_lists(), at=st.integers(0, 20), place=st.integers(0, 5))
def test_one_value_that_loading_changes_is_wrong(
    slots: list[Slot], at: int, place: int, tmp_path: Path
) -> None:
    slot = alone(slots, at)

    def change(held: dict[str, Tensor]) -> None:
        flat = held[slot.name].view(-1)
        flat[place % len(flat)] = flat[place % len(flat)] == 0

    found = the_run(verified(stored_state(slots), partial(Alters, slots, change), tmp_path))
    reason = "changed by the module's own loading code"
    assert timeless(found) == right(slots)._replace(ok=False, wrong=(Wrong(slot.name, reason),))


@examples(max_examples=30)
@given(slots=slot_lists(), at=st.integers(0, 20))
def test_an_entry_that_loading_leaves_out_is_unfilled(slots: list[Slot], at: int, tmp_path: Path) -> None:
    slot = alone(slots, at)
    found = the_run(verified(stored_state(slots), partial(Ignores, slots, slot.name), tmp_path))
    assert timeless(found) == right(slots)._replace(ok=False, unfilled=(slot.name,))


@examples(max_examples=30)
@given(slots=slot_lists(), at=st.integers(0, 20))
def test_of_two_values_for_one_parameter_the_last_wins(slots: list[Slot], at: int, tmp_path: Path) -> None:
    groups = ties(slots)
    assume(groups)
    group = groups[at % len(groups)]
    model = Made(slots)
    order = [name for name in model.state_dict() if name in group]
    state = stored_state(slots)
    state |= {name: torch.zeros_like(state[name]) for name in group}
    state[order[-1]] = torch.ones_like(state[order[-1]])
    model.load_state_dict(state)
    assert all(bool((model.state_dict()[name] == 1).all()) for name in group)  # torch says nothing of it
    wrong = tuple(
        Wrong(name, f"tied to {order[-1]}, for which the file has another value: the last one loaded won")
        for name in order[:-1]
    )
    found = timeless(the_run(verified(state, partial(Made, slots), tmp_path)))
    assert found == right(slots)._replace(ok=False, wrong=wrong)
