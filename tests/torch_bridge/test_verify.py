"""The seven steps of ``verify``: each has a model that fails it, and one that passes."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ckpttool.torch_bridge.verify.verify import LOADS
from tests.support.verified_models import Plain, Rope, on_devices
from tests.support.verifying import check, complaints, names, the_run

# ----------------------------------------------------------------------------- 1. nothing survives the poison


class Forgetful(nn.Linear):
    """Takes ``bias`` out of what it is given, and says nothing."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}bias", None)
        missing = rest[2]
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if f"{prefix}bias" in missing:
            missing.remove(f"{prefix}bias")


@on_devices
def test_an_entry_that_the_model_ignores_in_silence_is_caught(device: str, tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    # torch itself is content.
    assert str(Forgetful(3, 2).load_state_dict(state)) == "<All keys matched successfully>"
    result = check(state, lambda: Forgetful(3, 2), tmp_path, device=device, load="copy")
    assert not result.ok
    assert complaints(the_run(result)) == {"unfilled": ("bias",)}
    assert any("nothing fills bias" in text for text in result.suggestions)


@on_devices
def test_a_model_that_takes_everything_is_right(device: str, tmp_path: Path) -> None:
    result = check(Plain().state_dict(), Plain, tmp_path, device=device, load="copy,round-trip")
    assert result.ok
    assert [complaints(run) for run in result.runs] == [{}, {}]
    assert (the_run(result).matched, the_run(result).total) == (3, 3)
    assert (result.parameters, result.persistent_buffers, result.rebuilt) == (2, 1, ("table",))


class Flag(nn.Module):
    """A bool that loading leaves out: half of all poisons of a bool would hide it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ready", torch.tensor([False, False]))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict[f"{prefix}ready"] = self.ready


@pytest.mark.parametrize("stored", [[True, True], [True, False], [False, True]])
def test_an_ignored_bool_is_caught_whatever_the_file_holds(stored: list[bool], tmp_path: Path) -> None:
    result = check({"ready": torch.tensor(stored)}, Flag, tmp_path, load="copy")
    assert the_run(result).unfilled == ("ready",)


def test_strided_and_expanded_tensors_do_not_stop_the_poison(tmp_path: Path) -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 6).t())
            self.register_buffer("wide", torch.rand(1).expand(5))

    result = check({"weight": torch.rand(6, 4), "wide": torch.rand(5)}, Strided, tmp_path, load="copy")
    run = the_run(result)
    assert not names(run.wrong) or names(run.wrong) == ["wide"]
    assert any("wide" in text for text in run.errors)  # torch cannot write it, and says so


# ---------------------------------------------------------------------- 2. strict loading, and what it raises


@on_devices
def test_missing_unexpected_and_mismatched_are_told_apart(device: str, tmp_path: Path) -> None:
    state = Plain().state_dict()
    state["other.weight"] = torch.zeros(2)
    state["fc.weight"] = torch.zeros(2, 4)
    del state["scale"], state["fc.bias"]
    run = the_run(check(state, Plain, tmp_path, device=device, load="copy"))
    assert run.ok is False
    assert {item.name: item.becomes for item in run.missing} == {"fc.bias": "random", "scale": "random"}
    assert [item.kind for item in run.missing] == ["persistent_buffer", "parameter"]
    assert run.unexpected == ("other.weight",)
    assert [tuple(item) for item in run.mismatched] == [("fc.weight", (2, 4), (2, 3))]
    assert (run.matched, run.total) == (0, 3)
    assert (run.matched_nbytes, run.total_nbytes) == (0, 4 * (6 + 2))
    assert not run.errors


def test_what_becomes_of_a_missing_entry(tmp_path: Path) -> None:
    state = nn.BatchNorm1d(3).state_dict()
    run = the_run(check(OrderedDict(bias=state["bias"]), lambda: nn.BatchNorm1d(3), tmp_path, load="copy"))
    becomes = {item.name: item.becomes for item in run.missing}
    assert becomes == {"weight": "default", "running_mean": "rebuilt", "running_var": "rebuilt"}


ODD = ['a", "b', "comma, space", 'quote"', "line\nbreak", 'stop"; ', "ünï‮code", " "]


@pytest.mark.parametrize("names_", [ODD, ODD[:1], ODD[3:4]])
def test_names_with_quotes_and_commas_come_through(names_: list[str], tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in names_:
                self.register_parameter(name, nn.Parameter(torch.rand(2)))

    extra = [f"{name}_x" for name in names_]
    run = the_run(check({name: torch.rand(2) for name in extra}, Odd, tmp_path, load="copy"))
    assert names(run.missing) == names_
    assert list(run.unexpected) == extra
    assert not run.errors
    shapes = the_run(check({name: torch.rand(3) for name in names_}, Odd, tmp_path, load="copy"))
    assert names(shapes.mismatched) == names_


def test_what_a_hook_raises_is_said(tmp_path: Path) -> None:
    class Refusing(nn.Linear):
        def _load_from_state_dict(self, *_: Any) -> None:
            raise KeyError("no such thing")

    run = the_run(check(nn.Linear(1, 1).state_dict(), lambda: Refusing(1, 1), tmp_path, load="copy"))
    assert run.ok is False
    assert run.errors == ("'no such thing'",)


def test_keys_without_a_tensor_are_unexpected_as_torch_says(tmp_path: Path) -> None:
    state = {**nn.Linear(2, 2).state_dict(), "epoch": 3, "note": {"lr": 0.1}}
    with pytest.raises(RuntimeError, match="epoch"):
        nn.Linear(2, 2).load_state_dict(state)
    result = check(state, lambda: nn.Linear(2, 2), tmp_path, load="copy")
    assert the_run(result).unexpected == ("epoch", "note")
    assert any("without a tensor" in text for text in result.suggestions)


# ------------------------------------------------------------------------------------------ 3. equal by bytes

_BITS: dict[torch.dtype, tuple[torch.dtype, list[int]]] = {
    torch.float32: (torch.int32, [0x7FC00001, 0x7F800001 - 2**32 + 2**32, -(2**31), 0x3F800000]),
    torch.float16: (torch.int16, [0x7E01, 0x7E02, -(2**15), 0x3C00]),
    torch.bfloat16: (torch.int16, [0x7FC1, 0x7FC2, -(2**15), 0x3F80]),
    torch.float8_e4m3fn: (torch.int8, [0x7F, -1, -128, 0x38]),
    torch.float8_e5m2: (torch.int8, [0x7D, 0x7E, -128, 0x3C]),
}


def special(dtype: torch.dtype) -> Tensor:
    """NaNs with payloads, -0.0 and 1."""
    integers, bits = _BITS[dtype]
    return torch.tensor(bits, dtype=integers).view(dtype)


class Holder(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32, size: int = 4) -> None:
        super().__init__()
        self.register_buffer("x", torch.zeros(size, dtype=dtype))


@on_devices
@pytest.mark.parametrize("dtype", list(_BITS), ids=str)
def test_nan_payloads_and_negative_zeros_are_equal_to_themselves(
    dtype: torch.dtype, device: str, tmp_path: Path
) -> None:
    result = check({"x": special(dtype)}, lambda: Holder(dtype), tmp_path, device=device)
    assert {run.load: (run.ok, complaints(run)) for run in result.runs} == {
        load: (True, {}) for load in LOADS
    }


class Zeroing(Holder):
    """Adds 0.0 to what it loads, which turns -0.0 into 0.0: equal numbers, other bytes."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict[f"{prefix}x"] = state_dict[f"{prefix}x"] + 0.0
        super()._load_from_state_dict(state_dict, prefix, *rest)


@on_devices
def test_a_changed_bit_is_wrong_though_the_numbers_are_equal(device: str, tmp_path: Path) -> None:
    stored = torch.tensor([-0.0, 1.0, 2.0, 3.0])
    result = check({"x": stored}, Zeroing, tmp_path, device=device, load="copy")
    [wrong] = the_run(result).wrong
    assert wrong.name == "x"
    assert "the module's own loading code" in wrong.reason


LOSSES = [
    (torch.tensor([1.0, 2.87]), torch.int64, 1, "2.87", "2"),
    (torch.tensor([1.0, 1e6]), torch.float16, 1, "1000000", "inf"),
    (torch.tensor([1.0, 1 + 2j]), torch.float32, 1, "(1+2j)", "1"),
    (torch.tensor([1, 2**53 + 1]), torch.float64, 1, "9007199254740993", "9007199254740992"),
    (torch.tensor([1, 2**24 + 1]), torch.float32, 1, "16777217", "16777216"),
    (torch.tensor([1.0, float("nan")]), torch.int32, 1, "nan", None),
    (torch.tensor([1, 300]), torch.uint8, 1, "300", "44"),
    (torch.tensor([0, 2**63 + 1], dtype=torch.uint64), torch.int64, 1, str(2**63 + 1), str(1 - 2**63)),
    (torch.tensor([1.0, 1e-50], dtype=torch.float64), torch.float32, 1, "1e-50", "0"),
    (torch.tensor([1.0, 0.1], dtype=torch.float64), torch.float32, 1, "0.1", "0.1"),
    (torch.tensor([0.0, 0.5]), torch.bool, 1, "0.5", "True"),
]  # fmt: skip


@on_devices
@pytest.mark.parametrize(("stored", "dtype", "position", "old", "new"), LOSSES, ids=lambda v: str(v)[:24])
def test_a_silent_cast_that_loses_values_is_wrong(
    stored: Tensor, dtype: torch.dtype, position: int, old: str, new: str | None, device: str, tmp_path: Path
) -> None:
    build = lambda: Holder(dtype, 2)  # noqa: E731
    result = check({"x": stored}, build, tmp_path, device=device, load="copy")
    [loss] = the_run(result).lossy
    assert not result.ok
    assert (loss.name, loss.position, loss.changed_numel) == ("x", position, 1)
    assert (loss.file_dtype, loss.model_dtype) == (str(stored.dtype)[6:], str(dtype)[6:])
    assert loss.file_value == old
    assert new is None or loss.loaded_value == new
    allowed = check({"x": stored}, build, tmp_path, device=device, load="copy", allow_cast=True)
    assert allowed.ok
    assert names(the_run(allowed).lossy) == ["x"]


LOSSLESS = [
    (torch.tensor([1.5, float("nan"), float("inf"), -0.0], dtype=torch.bfloat16), torch.float32),
    (torch.tensor([1.0, -3.0]), torch.int64),
    (torch.tensor([True, False]), torch.float32),
    (torch.tensor([1, 2**53]), torch.float64),
    (torch.tensor([1.0, 2.0]), torch.complex64),
    (torch.tensor([1 + 0j, 2 + 0j]), torch.float32),
    (torch.tensor([2.0**63, 0.0], dtype=torch.float64), torch.uint64),
    (torch.tensor([0.5, 448.0]).to(torch.float8_e4m3fn), torch.float32),
]


@pytest.mark.parametrize(("stored", "dtype"), LOSSLESS, ids=lambda v: str(v)[:40])
def test_a_cast_that_keeps_every_value_is_fine(stored: Tensor, dtype: torch.dtype, tmp_path: Path) -> None:
    result = check({"x": stored}, lambda: Holder(dtype, len(stored)), tmp_path, load="copy")
    assert result.ok
    assert the_run(result).cast == ("x",)


def test_a_scalar_saved_with_shape_1_is_equal(tmp_path: Path) -> None:
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("x", torch.tensor(0))

    assert check({"x": torch.tensor([7])}, Scalar, tmp_path, load="copy").ok


def test_sparse_and_quantized_values_are_compared_by_their_parts(tmp_path: Path) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("x", torch.zeros(3, 3).to_sparse())

    stored = torch.tensor([[0.0, float("nan"), 0], [1, 0, 0], [0, 0, 2]]).to_sparse()
    run = the_run(check({"x": stored}, Sparse, tmp_path, load="copy"))
    assert (run.ok, complaints(run)) == (True, {})


# --------------------------------------------------------------------------------------------- 7. suggestions


def test_a_prefix_is_taken_off_and_said(tmp_path: Path) -> None:
    state = {f"module._orig_mod.{name}": value for name, value in Plain().state_dict().items()}
    result = check(state, Plain, tmp_path, load="copy")
    assert result.ok
    assert "wrapper prefixes taken off 3 of 3 names" in result.mapping
    assert any("k.removeprefix('module._orig_mod.')" in text for text in result.suggestions)
    assert not any(
        "removeprefix" in text for text in check(Plain().state_dict(), Plain, tmp_path).suggestions
    )


def test_metadata_follows_the_names(tmp_path: Path) -> None:
    wrapped = nn.Module()
    wrapped.module = nn.BatchNorm1d(3)
    state = wrapped.state_dict()
    del state["module.num_batches_tracked"]
    # The version that says "must be there" belongs to "module", which is the model itself here.
    run = the_run(check(state, lambda: nn.BatchNorm1d(3), tmp_path, load="copy"))
    assert names(run.missing) == ["num_batches_tracked"]


def test_a_likely_rename_is_suggested(tmp_path: Path) -> None:
    class New(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(2, 2)
            self.projection = nn.Linear(2, 5)

    state = New().state_dict()
    state["proj_out.weight"] = state.pop("projection.weight")
    suggestions = check(state, New, tmp_path, load="copy").suggestions
    assert any(
        "proj_out.weight in the file is projection.weight in the model" in text for text in suggestions
    )
    assert any("would stay random (projection.weight)" in text for text in suggestions)


def test_a_buffer_that_a_library_saved_once_is_named(tmp_path: Path) -> None:
    state = {**Rope().state_dict(), "inv_freq": torch.ones(4)}
    result = check(state, Rope, tmp_path, load="copy")
    assert the_run(result).unexpected == ("inv_freq",)
    [hint] = [text for text in result.suggestions if "inv_freq" in text]
    assert "non-persistent" in hint
    assert "4.3" in hint  # the version, from the table


def test_assign_keeps_the_files_dtype_and_that_is_said(tmp_path: Path) -> None:
    state = nn.Linear(2, 2).to(torch.bfloat16).state_dict()
    result = check(state, lambda: nn.Linear(2, 2), tmp_path)
    assert result.ok
    assert the_run(result).cast == ("weight", "bias")
    assert the_run(result, "assign").assigned_dtype == ("weight", "bias")
    assert any("keeps the file's dtype" in text for text in result.suggestions)
