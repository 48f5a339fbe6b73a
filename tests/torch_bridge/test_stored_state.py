"""What load_state_dict is given of a file: what torch.load gives, under the names of the model."""

from __future__ import annotations

import fractions
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.torch_bridge.verify.loading import with_metadata
from ckpttool.torch_bridge.verify.stored_state import StoredState
from ckpttool.values.checkpoint import Root
from sample_models.same_bytes import save_legacy

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False, width=32),
    st.text("ab.é", max_size=3),
    st.builds(torch.full, st.just((2,)), st.integers(0, 5)),
)  # fmt: skip
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3),
    ),
    max_leaves=6,
)


def alike(a: Any, b: Any) -> bool:
    """Whether two values are equal, of equal types, down to their tensors."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)


def stored(
    value: Any, path: Path, root: Root = (), model: nn.Module | None = None, *, legacy: bool = False
) -> StoredState:
    for key in reversed(root):
        value = {key: value, "beside": 3, "other": {"w": torch.ones(1), "_extra_state": 5}}
    (save_legacy if legacy else torch.save)(value, path)
    return StoredState(read_checkpoint(str(path)), root, describe_model(model or Net(), "m"))


ROOTS: list[Root] = [(), ("model",), ("a", "state_dict")]


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
@given(extra=NESTED, inner=NESTED, root=st.sampled_from(ROOTS), legacy=st.booleans())
def test_extra_states_are_what_torch_loads_of_them(
    extra: Any, inner: Any, root: Root, legacy: bool, tmp_path: Path
) -> None:
    state: dict[str, Any] = dict(Net().state_dict())
    for name, value in (("fc._extra_state", inner), ("_extra_state", extra)):
        if not isinstance(value, torch.Tensor):
            state[name] = value
    found = stored(state, tmp_path / "a.pt", root, legacy=legacy)
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    for key in root:
        loaded = loaded[key]
    given_ = found.state_dict()
    assert given_.keys() == loaded.keys()
    for name, value in loaded.items():
        assert alike(given_[name], value), (name, given_[name], value)
    assert (found.foreign, found.unbuilt, found.notes, found.copied_nbytes) == ((), frozenset(), (), 0)
    assert found.match.description == ""


def test_versions_and_what_else_modules_say_of_themselves_come_along(tmp_path: Path) -> None:
    state = Net().state_dict()
    metadata: Any = state._metadata  # type: ignore[attr-defined]
    metadata["norm"]["more"] = {"deep": [1, (2, 3)], "x": 4}
    metadata["fc"] = {"assigned": True}
    found = stored(state, tmp_path / "a.pt").state_dict()
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert dict(found._metadata) == dict(loaded._metadata) == dict(metadata)
    assert type(found) is OrderedDict
    bare = stored(dict(state), tmp_path / "b.pt").state_dict()
    assert not hasattr(bare, "_metadata")


@pytest.mark.parametrize(
    ("prefix", "moved"),
    [
        ("module.", {"": "module", "fc": "module.fc", "norm": "module.norm"}),
        (
            "_orig_mod.module.",
            {"": "_orig_mod.module", "fc": "_orig_mod.module.fc", "norm": "_orig_mod.module.norm"},
        ),
    ],
)
def test_names_and_versions_follow_the_model(prefix: str, moved: dict[str, str], tmp_path: Path) -> None:
    wrapped: nn.Module = Net()
    for part in reversed(prefix.rstrip(".").split(".")):
        around = nn.Module()
        around.add_module(part, wrapped)
        wrapped = around
    found = stored(wrapped.state_dict(), tmp_path / "a.pt")
    assert list(found.state_dict()) == list(Net().state_dict())
    versions = {path: local["version"] for path, local in found.metadata.items() if path in moved}
    assert versions == {"": 1, "fc": 1, "norm": 2}
    back = stored(Net().state_dict(), tmp_path / "b.pt", model=wrapped)
    assert list(back.state_dict()) == [f"{prefix}{name}" for name in Net().state_dict()]
    versions = {path: local["version"] for path, local in back.metadata.items()}
    assert versions == {moved[""]: 1, moved["fc"]: 1, moved["norm"]: 2}
    assert {name: str(entry.name) for name, entry in back.by_model_name.items()} == {
        f"{prefix}{name}": name for name in Net().state_dict()
    }


class Odd:
    """What only running the file could make."""


def test_what_is_no_tensor_is_foreign_or_cannot_be_built(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        **Net().state_dict(), "epoch": 3, "cfg": {"a": 1, "t": [2]}, "empty": {},
        "odd": fractions.Fraction(1, 2),
        "fc._extra_state": fractions.Fraction(1, 3), "norm._extra_state": {"x": [fractions.Fraction(1, 4)]},
    }  # fmt: skip
    for root in ROOTS:
        found = stored(state, tmp_path / "a.pt", root)
        assert sorted(found.foreign) == ["cfg", "empty", "epoch", "odd"]
        assert found.unbuilt == {"fc._extra_state", "norm._extra_state"} and found.extra == {}
        rest = (
            "is of type fractions.Fraction: it cannot be built without running the file, and is not checked"
        )
        assert found.notes == (
            f"extra state fc._extra_state {rest}",
            f"extra state norm._extra_state.x.0 {rest}",
        )
        given_ = found.state_dict()
        assert {name for name, value in given_.items() if value is None} == set(found.foreign)
        assert given_.keys() == state.keys() - found.unbuilt


def test_attributes_of_a_pickled_module_are_no_keys(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.pt")
    found = StoredState(
        read_checkpoint(str(tmp_path / "a.pt")), (), describe_model(nn.Sequential(nn.Linear(2, 2)), "m")
    )
    assert (list(found.state_dict()), found.foreign) == (["0.weight", "0.bias"], ())


def test_a_state_dict_has_metadata_of_its_own() -> None:
    versions = {"": {"version": 1}, "a": {}}
    made: Any = with_metadata({"w": 1}, versions)
    assert (dict(made), dict(made._metadata)) == ({"w": 1}, versions)
    made._metadata["a"]["assign_to_params_buffers"] = True
    assert versions == {"": {"version": 1}, "a": {}}
    assert not hasattr(with_metadata({"w": 1}, {}), "_metadata")


def test_names_follow_what_a_state_dict_of_the_model_has(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Module()})
    for name in "tu":
        model["a"].register_buffer(name, torch.ones(1), persistent=False)
    model.w = nn.Parameter(torch.ones(1))
    state = {"t": torch.ones(1), "u": torch.ones(1)}
    assert list(stored(state, tmp_path / "a.pt", model=model).by_model_name) == ["t", "u"]
    model["a"].register_buffer("t", torch.ones(1))
    model["a"].register_buffer("u", torch.ones(1))
    assert list(stored(state, tmp_path / "a.pt", model=model).by_model_name) == ["a.t", "a.u"]
