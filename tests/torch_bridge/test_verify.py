"""The seven steps of ``verify``: each has a model that fails it, and one that passes."""

from __future__ import annotations

import copy
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.verify.fingerprints import compare_fingerprints, parse_reference, reference_text
from ckpttool.torch_bridge.verify.placement import left_on_meta, unmoved
from ckpttool.torch_bridge.verify.verify import LOADS, choose_devices
from ckpttool.values.errors import CkptToolError, DeviceUnavailable, MalformedCheckpoint, ModelImportFailed
from sample_models.same_bytes import save_legacy
from tests.support.verifying import DEVICES, check, check_file, complaints, names, the_run

on_devices = pytest.mark.parametrize("device", DEVICES)


class Plain(nn.Module):
    """A parameter, a persistent buffer and a non-persistent one that the constructor always makes alike."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("scale", torch.rand(4))
        self.register_buffer("table", torch.arange(6.0), persistent=False)


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


# ------------------------------------------------------------------------ 4. buffers that are not in the file


@on_devices
def test_each_way_of_loading_leaves_a_non_persistent_buffer_in_its_own_way(
    device: str, tmp_path: Path
) -> None:
    result = check(Plain().state_dict(), Plain, tmp_path, device=device)
    states = {run.load: [item.state for item in run.not_restored] for run in result.runs}
    assert states == {"copy": [], "assign": ["meta"], "to-empty": ["garbage"], "round-trip": []}
    assert {run.load: run.decides for run in result.runs} == {load: load == "copy" for load in LOADS}
    assert result.ok
    [garbage] = the_run(result, "to-empty").not_restored
    assert (garbage.holds, garbage.expected) == ("uninitialised memory", "0..5")
    for load in ("assign", "to-empty"):
        assert not check(Plain().state_dict(), Plain, tmp_path, device=device, load=load).ok


@on_devices
def test_a_buffer_that_is_saved_survives_every_way(device: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = Plain()
        model.register_buffer("table", torch.arange(6.0), persistent=True)
        return model

    result = check(build().state_dict(), build, tmp_path, device=device, load=",".join(LOADS))
    assert result.ok


def test_a_random_buffer_is_told_from_a_rebuilt_one(tmp_path: Path) -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("noise", torch.randn(8), persistent=False)
            self.register_buffer("window", torch.ones(8), persistent=False)

    result = check(Noise().state_dict(), Noise, tmp_path)
    assert (result.rebuilt, result.random) == (("window",), ("noise",))
    assert names(the_run(result, "to-empty").not_restored) == ["window"]


def test_a_buffer_that_loading_itself_sets_is_no_garbage(tmp_path: Path) -> None:
    class Cached(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("total", torch.zeros(()), persistent=False)

        def _load_from_state_dict(self, *arguments: Any) -> None:
            super()._load_from_state_dict(*arguments)
            self.total = self.weight.detach().sum()

    result = check(nn.Linear(2, 2).state_dict(), Cached, tmp_path, load=",".join(LOADS))
    assert result.ok


def test_a_buffer_that_views_a_parameter_is_what_was_loaded(tmp_path: Path) -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 2))
            self.register_buffer("first", self.weight.detach()[0], persistent=False)

    result = check({"weight": torch.rand(4, 2)}, View, tmp_path)
    assert (the_run(result).ok, complaints(the_run(result))) == (True, {})
    assert names(the_run(result, "assign").not_restored) == ["first"]
    assert the_run(result, "to-empty").untied == (("first", "weight"),)


class Rope(nn.Module):
    def __init__(self, base: float = 1e4) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("inv_freq", base ** -(torch.arange(0, 8, 2) / 8), persistent=False)


def test_fingerprints_show_a_changed_configuration(tmp_path: Path) -> None:
    state = Rope().state_dict()
    first = check(state, Rope, tmp_path, load="copy")
    kept = parse_reference(reference_text("m", first.fingerprints).encode(), "reference.json")
    assert kept == first.fingerprints
    assert check(state, Rope, tmp_path, load="copy", reference=kept).ok
    changed = check(state, lambda: Rope(5e5), tmp_path, load="copy", reference=kept)
    assert not changed.ok
    assert the_run(changed).ok  # each entry of the file loads as before
    [difference] = changed.changed_reference
    assert (difference.name, difference.state) == ("inv_freq", "changed")
    assert "0.001" in difference.expected


def test_a_buffer_that_came_or_went_is_a_change() -> None:
    fingerprint = parse_reference(
        b'{"schema": "ckpttool/reference/1", "buffers": '
        b'{"a": {"dtype": "int64", "shape": [2], "sha256": "00", "values": "0..1"}}}',
        "r",
    )
    assert names(compare_fingerprints(fingerprint, {})) == ["a"]
    assert names(compare_fingerprints({}, fingerprint)) == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"schema": "ckpttool/reference/1"}', "[" * 100_000,
        '{"schema": "ckpttool/reference/1", "buffers": {"a": 1}}',
        '{"schema": "ckpttool/reference/1", "buffers": {"a": '
        '{"dtype": "int64", "shape": [true], "sha256": "", "values": ""}}}',
    ],
)  # fmt: skip
def test_a_reference_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(MalformedCheckpoint):
        parse_reference(text.encode(), "reference.json")


# ---------------------------------------------------------------------------------------- 5. ties and devices


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.embed.weight


@on_devices
def test_two_values_for_one_tied_parameter_are_wrong(device: str, tmp_path: Path) -> None:
    state = {"embed.weight": torch.rand(4, 2), "head.weight": torch.rand(4, 2)}
    result = check(state, Tied, tmp_path, device=device, load="copy")
    [wrong] = the_run(result).wrong
    assert wrong.name == "embed.weight"
    assert "tied to head.weight" in wrong.reason
    assert "the last one loaded won" in wrong.reason


@on_devices
def test_one_value_for_a_tied_parameter_is_right(device: str, tmp_path: Path) -> None:
    result = check(Tied().state_dict(), Tied, tmp_path, device=device)
    assert the_run(result).ok
    assert {run.load: bool(run.untied) for run in result.runs} == {
        "copy": False, "assign": False, "to-empty": True, "round-trip": False,
    }  # fmt: skip
    separate = {key: value.clone() for key, value in Tied().state_dict().items()}
    untied = check(separate, Tied, tmp_path, device=device)
    assert the_run(untied).ok
    assert the_run(untied, "assign").untied == (("embed.weight", "head.weight"),)


def test_a_tie_of_which_safetensors_keeps_one_name_is_filled(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "tied.safetensors"))
    result = check_file(tmp_path / "tied.safetensors", Tied)
    assert result.ok
    [missing] = the_run(result).missing
    assert missing.becomes == "tied"
    assert all(run.hooked == () for run in result.runs)
    assert the_run(result, "assign").ok is False
    assert any("tied to an entry that it has" in text for text in result.suggestions)


class Stray(nn.Module):
    """Plain attributes: a tensor, a list of one, a scalar, and a list with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.offset = torch.ones(2)
        self.cache = [torch.ones(3)]
        self.step = torch.tensor(0.5)
        self.aliases = [self.fc.weight]


def test_tensors_that_do_not_move_are_named() -> None:
    model = Stray().to("meta")
    # The move to meta makes new parameters: what held an old one is stale.
    assert unmoved(model, "meta") == ["offset", "cache[0]", "aliases[0]"]
    assert unmoved(Stray(), "meta")[:2] == ["fc.weight", "fc.bias"]
    assert unmoved(Plain().to("meta"), "meta") == []
    with torch.device("meta"):
        assert left_on_meta(Stray()) == ["offset", "cache[0]", "step"]


def test_old_weight_norm_computes_its_weight_before_each_forward() -> None:
    assert unmoved(torch.nn.utils.weight_norm(nn.Linear(2, 2)).to("meta"), "meta") == []


@pytest.mark.cuda
def test_a_plain_attribute_stays_behind_on_cuda(tmp_path: Path) -> None:
    result = check(nn.Module.state_dict(Stray()), Stray, tmp_path, device="cuda", load="copy")
    assert not result.ok
    assert the_run(result).unmoved == ("offset", "cache[0]")


@pytest.mark.cuda
def test_figures_of_a_run_on_cuda_are_told(tmp_path: Path) -> None:
    result = check(nn.Linear(256, 256).state_dict(), lambda: nn.Linear(256, 256), tmp_path, device="cuda")
    assert result.ok
    assert (the_run(result).gb_per_second or 0) > 0


def test_what_a_build_on_meta_leaves_without_data_is_named(tmp_path: Path) -> None:
    result = check(Stray().state_dict(), Stray, tmp_path)
    assert the_run(result).ok
    assert the_run(result, "to-empty").unmoved == ("offset", "cache[0]", "step", "aliases[0]")


@pytest.mark.parametrize("device", ["tpu9", "meta", "cuda:99", "mps", ""])
def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(device: str) -> None:
    with pytest.raises(DeviceUnavailable):
        choose_devices([device])


# --------------------------------------------------------------------------------------------------- 6. hooks


@on_devices
def test_old_weight_norm_loads_through_torchs_own_hook(device: str, tmp_path: Path) -> None:
    state = torch.nn.utils.weight_norm(nn.Linear(3, 2)).state_dict()
    assert {"weight_g", "weight_v"} <= set(state)
    build = lambda: parametrizations.weight_norm(nn.Linear(3, 2))  # noqa: E731
    result = check(state, build, tmp_path, device=device, load="copy")
    run = the_run(result)
    assert (run.ok, complaints(run)) == (True, {})
    assert set(run.hooked) == {"parametrizations.weight.original0", "parametrizations.weight.original1"}
    assert (run.matched, run.total) == (3, 3)


@pytest.mark.parametrize("with_metadata", [True, False])
def test_batch_norm_without_num_batches_tracked(with_metadata: bool, tmp_path: Path) -> None:
    state = nn.Sequential(nn.BatchNorm1d(3)).state_dict()
    del state["0.num_batches_tracked"]
    given = state if with_metadata else OrderedDict(state.items())
    result = check(given, lambda: nn.Sequential(nn.BatchNorm1d(3)), tmp_path)
    run = the_run(result)
    assert result.ok is not with_metadata
    if with_metadata:  # version 2 of the module must have it: torch says that it is missing
        assert names(run.missing) == ["0.num_batches_tracked"]
        return
    assert (run.kept, complaints(run)) == (("0.num_batches_tracked",), {})
    # After to_empty it is what the memory held, and strict loading is content all the same.
    assert the_run(result, "to-empty").unfilled == ("0.num_batches_tracked",)


def test_assigning_does_not_leak_into_the_next_load(tmp_path: Path) -> None:
    # torch writes assign=True into the _metadata that it is given, so that a second load assigns too.
    result = check(Plain().state_dict(), Plain, tmp_path, load="copy,assign,to-empty")
    again = check(Plain().state_dict(), Plain, tmp_path, load="copy")
    assert the_run(again).ok
    assert [run.load for run in result.runs] == ["copy", "assign", "to-empty"]
    assert names(the_run(result, "to-empty").not_restored) == ["table"]


class Counting(nn.Module):
    """Keeps plain Python state, also a list and a tuple, beside its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.state: Any = None

    def get_extra_state(self) -> Any:
        return {"steps": 3, "words": ["a", "b"], "sizes": (1, 2), "mean": torch.ones(2), "deep": {"x": [0.5]}}

    def set_extra_state(self, state: Any) -> None:
        self.state = state
        assert state["words"] == ["a", "b"]
        assert state["sizes"] == (1, 2)
        assert state["deep"] == {"x": [0.5]}
        assert torch.equal(state["mean"], torch.ones(2))


def test_extra_state_reaches_the_model_as_it_was_saved(tmp_path: Path) -> None:
    result = check(Counting().state_dict(), Counting, tmp_path)
    assert (the_run(result).ok, complaints(the_run(result))) == (True, {})
    assert "_extra_state" in the_run(result, "round-trip").note


def test_extra_state_that_only_running_the_file_could_build_is_not_held_against_it(tmp_path: Path) -> None:
    class Opaque(Counting):
        def get_extra_state(self) -> Any:
            return copy.copy(zipfile.ZipInfo("x"))

        def set_extra_state(self, state: Any) -> None:
            raise AssertionError

    result = check(Opaque().state_dict(), Opaque, tmp_path, load="copy")
    assert result.ok
    assert any("ZipInfo" in note for note in result.notes)


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


# ---------------------------------------------------------------------------------------------------- sources


def _deflate(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item), zipfile.ZIP_DEFLATED)


@on_devices
@pytest.mark.parametrize(
    "container", ["zip", "legacy", "deflate", "safetensors", "whole", "training", "shards"]
)
def test_every_container_loads(container: str, device: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].weight.data = torch.rand(3, 2).t()
    state, path, root = model.state_dict(), tmp_path / "file.pt", ()
    build = lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))  # noqa: E731
    if container == "safetensors":
        path = tmp_path / "file.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    elif container == "shards":
        path = tmp_path
        parts = {"a.safetensors": list(state)[:3], "b.safetensors": list(state)[3:]}
        for file, keys in parts.items():
            save_file({key: state[key].contiguous() for key in keys}, tmp_path / file)
        weight_map = {key: file for file, keys in parts.items() for key in keys}
        (tmp_path / "model.safetensors.index.json").write_text(
            __import__("json").dumps({"metadata": {}, "weight_map": weight_map})
        )
    elif container == "deflate":
        torch.save(state, tmp_path / "plain.pt")
        _deflate(tmp_path / "plain.pt", path)
    elif container == "whole":
        torch.save(model, path)
    elif container == "training":
        torch.save({"epoch": 3, "model": {"state_dict": state}, "lr": 0.1}, path)
        root = ("model", "state_dict")
    else:
        save = torch.save if container == "zip" else save_legacy
        save(state, path)
    result = check_file(path, build, device=device, root=root, load=",".join(LOADS))
    assert result.ok, [complaints(run) for run in result.runs]
    assert all((run.matched, run.total) == (7, 7) for run in result.runs)


def test_ties_of_a_compressed_file_stay_ties(tmp_path: Path) -> None:
    torch.save(Tied().state_dict(), tmp_path / "plain.pt")
    _deflate(tmp_path / "plain.pt", tmp_path / "small.pt")
    assert the_run(check_file(tmp_path / "small.pt", Tied), "assign").ok


def test_a_file_that_changed_since_its_header_is_not_mapped(tmp_path: Path) -> None:
    from ckpttool.torch_bridge.tensors import FileTensors

    path = tmp_path / "state.pt"
    torch.save({"x": torch.rand(4)}, path)
    checkpoint = read_checkpoint(str(path))
    with path.open("r+b") as file:
        file.truncate(64)
    with pytest.raises(MalformedCheckpoint, match="changed"):
        FileTensors(checkpoint).tensor(checkpoint.entries[0])


def test_an_uninitialised_tensor_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(CkptToolError, match="uninitialised tensor of a lazy module"):
        check(nn.LazyLinear(2).state_dict(), lambda: nn.Linear(2, 2), tmp_path)


def test_a_lazy_model_takes_its_shapes_from_the_file(tmp_path: Path) -> None:
    result = check(nn.Linear(3, 2).state_dict(), lambda: nn.LazyLinear(2), tmp_path, load="copy")
    assert (result.ok, complaints(the_run(result))) == (True, {})


def test_a_constructor_that_needs_values_is_built_on_the_cpu_and_said(tmp_path: Path) -> None:
    class Needy(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.norm = float(self.weight.detach().abs().sum().item())

    result = check(nn.Linear(2, 2).state_dict(), Needy, tmp_path)
    assert result.ok
    assert any("does not run on meta" in note for note in result.notes)
    assert [run.ok for run in result.runs] == [True, None, None, True]


def test_a_constructor_that_fails_is_an_error(tmp_path: Path) -> None:
    def build() -> nn.Module:
        raise ValueError("no configuration")

    with pytest.raises(ModelImportFailed, match="no configuration"):
        check(nn.Linear(2, 2).state_dict(), build, tmp_path)


def test_no_room_for_the_round_trip_is_said_and_decides_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckpttool.torch_bridge.verify import loading

    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda _folder: usage)
    result = check(Plain().state_dict(), Plain, tmp_path)
    assert result.ok
    assert the_run(result, "round-trip").ok is None
    assert "bytes free" in the_run(result, "round-trip").note
    assert not check(Plain().state_dict(), Plain, tmp_path, load="round-trip").ok
