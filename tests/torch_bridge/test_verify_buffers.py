"""``verify``: buffers that are not in the file, and what each way of loading leaves in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.torch_bridge.verify.fingerprints import compare_fingerprints, parse_reference, reference_text
from ckpttool.torch_bridge.verify.verify import LOADS
from ckpttool.values.errors import MalformedCheckpoint
from ckpttool.values.verification import NotRestored
from tests.support.verified_models import Plain, Rope, on_devices
from tests.support.verifying import check, complaints, names, the_run

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


def test_what_loading_code_set_is_known_though_its_memory_is_used_again(tmp_path: Path) -> None:
    memory = torch.zeros(2)

    class Loads(nn.Module):
        """The first that is loaded has a table in memory that the next ones clear."""

        first = True

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("table", torch.zeros(2), persistent=False)

        def _load_from_state_dict(self, *arguments: Any) -> None:
            super()._load_from_state_dict(*arguments)
            if Loads.first:
                self.table = memory.fill_(7)
            else:
                memory.zero_()
            Loads.first = False

    result = check(Loads().state_dict(), Loads, tmp_path, load="copy,assign")
    assert the_run(result).not_restored == ()
    assert the_run(result, "assign").not_restored == (NotRestored("table", "meta", "no data (meta)", "7"),)


def test_whatever_memory_holds_it_is_no_bool_that_a_constructor_made(tmp_path: Path) -> None:
    """Of a yes and a no, uninitialised memory and its negation hold one each."""

    class Flags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("yes", torch.tensor([True]), persistent=False)
            self.register_buffer("no", torch.tensor([False]), persistent=False)

    run = the_run(check(Flags().state_dict(), Flags, tmp_path), "to-empty")
    assert run.not_restored == (
        NotRestored("yes", "garbage", "uninitialised memory", "1 of 1 true"),
        NotRestored("no", "garbage", "uninitialised memory", "0 of 1 true"),
    )


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
