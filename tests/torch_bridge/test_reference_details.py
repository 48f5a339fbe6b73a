"""Of a live model: one tensor in several slots under names of wrappers, paths, errors, whole specs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ckpttool.torch_bridge import reference
from ckpttool.torch_bridge.reference import (
    Registered,
    class_name,
    describe_model,
    is_extra_state,
    iter_custom_load,
    iter_filled,
    iter_modules,
    iter_registered,
    join,
    module_name,
    named_state,
    non_persistent_names,
    save_buffers,
    slots_by,
)
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import ModelImportFailed, UnsupportedFeature
from ckpttool.values.model import CustomLoad, ModelSpec
from tests.support.linted import source

pytestmark = pytest.mark.filterwarnings("ignore")

PARAMETER, BUFFER, TRANSIENT = Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER
F32 = BY_NAME["float32"]


def test_a_whole_spec_from_the_first_entry_to_the_last() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.register_buffer("part", self.fc.weight.detach()[1:])
            self.register_buffer("mask", torch.ones(4, dtype=torch.int8), persistent=False)
            self.register_buffer("later", None)
            self.lazy = nn.LazyLinear(1, bias=False)
            self.register_buffer("turned", torch.zeros(2, 5, dtype=torch.complex64).t().conj())

        def get_extra_state(self) -> Any:
            return {"a": 1}

    def info(
        shape: tuple[int, ...], stride: tuple[int, ...], number: int, nbytes: int, **more: Any
    ) -> TensorInfo:
        storage = StorageRef("<model>", str(number), 0, nbytes, "meta")
        dtype = BY_NAME[more.pop("dtype", "float32")]
        return TensorInfo(dtype, shape, stride, more.pop("offset", 0), storage, **more)

    def entry(name: str, value: Any, requires_grad: bool | None, kind: Kind) -> Entry:
        return Entry((), name, value, requires_grad, Classification(kind, Basis.MODULE))

    lazy = CompositeTensor("uninitialized", "torch.nn.parameter.UninitializedParameter", None, None, ())
    entries = (
        entry("part", info((1, 3), (3, 1), 0, 24, offset=3), False, BUFFER),
        entry("turned", info((5, 2), (1, 5), 1, 80, dtype="complex64", conj=True), False, BUFFER),
        entry("_extra_state", None, None, Kind.EXTRA_STATE),
        entry("fc.weight", info((2, 3), (3, 1), 0, 24), True, PARAMETER),
        entry("fc.bias", info((2,), (1,), 2, 8), True, PARAMETER),
        entry("lazy.weight", lazy, True, PARAMETER),
        entry("mask", info((4,), (1,), 3, 4, dtype="int8"), False, TRANSIENT),
    )
    spec = describe_model(Net(), "net.py:Net", "a note")
    name = f"{__name__}.test_a_whole_spec_from_the_first_entry_to_the_last.<locals>.Net"
    assert spec == ModelSpec(
        Checkpoint(
            "net.py:Net", "model", "Net", (), entries,
            module_versions={(): {"": 1, "fc": 1, "lazy": 1}},
        ),
        name, "a note", ("later", "lazy.bias"), ("lazy.weight",), (CustomLoad("", ("get_extra_state",)),),
    )  # fmt: skip
    assert (class_name(Net()), class_name(nn.Linear(1, 1))) == (name, "torch.nn.modules.linear.Linear")


def renamed(model: nn.Module, **names: str) -> nn.Module:
    """The model, whose state_dict calls some entries otherwise."""

    def rename(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        for old, new in names.items():
            state[new] = state.pop(old.replace("__", "."))

    model._register_state_dict_hook(rename)
    return model


def declared(model: nn.Module) -> dict[str, tuple[Kind, Basis, str]]:
    entries = describe_model(model, "m").checkpoint.entries
    return {str(item.name): (item.declared.kind, item.declared.basis, item.declared.note) for item in entries}


def test_of_two_slots_of_one_memory_the_object_itself_tells() -> None:
    model = nn.ModuleDict({"a": nn.Module(), "b": nn.Module()})
    model["a"].w = nn.Parameter(torch.ones(2))
    model["b"].register_buffer("w", model["a"].w.detach())
    found = declared(renamed(model, a__w="x.w", b__w="y.w"))
    assert found == {
        "x.w": (PARAMETER, Basis.MODULE, ""), "y.w": (BUFFER, Basis.MODULE, "")
    }  # fmt: skip


def test_of_one_object_in_slots_of_two_kinds_the_leaf_tells() -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(2))
    model.register_buffer("copy", model.w)
    assert declared(renamed(model, w="x.w", copy="x.copy")) == {
        "x.w": (PARAMETER, Basis.MODULE, ""), "x.copy": (BUFFER, Basis.MODULE, "")
    }  # fmt: skip
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(2))
    model.register_buffer("copy", model.w)
    unsure = (Kind.UNKNOWN, Basis.NONE, "one tensor, registered as parameter and as buffer")
    assert declared(renamed(model, w="x.other"))["x.other"] == unsure
    transient = nn.Module()
    transient.w = nn.Parameter(torch.ones(2))
    transient.register_buffer("copy", transient.w, persistent=False)
    assert declared(renamed(transient, w="x.copy"))["x.copy"] == (PARAMETER, Basis.MODULE, "")


def test_what_a_hook_makes_is_of_no_kind_and_a_detached_one_is_known_by_its_memory() -> None:
    model = nn.Linear(2, 2)

    def hook(module: Any, state: Any, prefix: str, metadata: Any) -> None:
        state["made"] = torch.ones(1)
        state["text"] = "v2"
        state["sparse"] = torch.eye(2).to_sparse()
        state["seen"] = state.pop("weight").detach()

    model._register_state_dict_hook(hook)
    made = (Kind.UNKNOWN, Basis.NONE, "made by a state_dict hook")
    assert declared(model) == {
        "bias": (PARAMETER, Basis.MODULE, ""), "made": made, "text": made, "sparse": made,
        "seen": (PARAMETER, Basis.MODULE, ""),
    }  # fmt: skip


def test_offsets_of_packed_elements_are_in_bytes() -> None:
    model = nn.Module()
    whole = torch._empty_affine_quantized((8,), scale=1.0, zero_point=0, dtype=torch.quint4x2)
    model.register_buffer("q", whole[2:])
    [entry] = describe_model(model, "m").checkpoint.entries
    assert entry.tensor is not None and (entry.tensor.storage_offset, entry.tensor.shape) == (4, (6,))


def test_tensors_of_other_layouts_are_named_by_them() -> None:
    model = nn.Module()
    for name in ("coo", "csr", "csc"):
        model.register_buffer(
            name, getattr(torch.eye(3), f"to_sparse_{name}" if name != "coo" else "to_sparse")()
        )
    model.register_buffer("nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    values = {entry.name: entry.value for entry in describe_model(model, "m").checkpoint.entries}
    sparse = {
        name: CompositeTensor(f"sparse_{name}", "Tensor", F32, (3, 3), ()) for name in ("coo", "csr", "csc")
    }
    assert values == {**sparse, "nested": CompositeTensor("nested", "Tensor", F32, None, ())}


def test_a_dtype_that_is_newer_than_the_table_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "parse_torch_name", lambda name: None)
    with pytest.raises(UnsupportedFeature, match=r"^torch\.float32 is not a dtype known here$"):
        describe_model(nn.Linear(2, 2), "m")
    assert describe_model(nn.LazyLinear(2), "m").lazy_names == ("weight", "bias")


def test_paths_of_modules_once_and_under_each_name() -> None:
    inner, model = nn.Linear(1, 1), nn.Sequential(nn.Sequential(), nn.Sequential())
    model[0].add_module("x", inner)
    model[1].add_module("y", inner)
    model[1].add_module("none", None)
    model[1]._modules["odd"] = 3  # type: ignore[assignment]
    once = ["", "0", "0.x", "1"]
    assert [path for path, _ in iter_modules(model)] == once
    assert [path for path, _ in iter_modules(model, every_path=True)] == [*once, "1.y"]
    inner.add_module("back", model)
    assert [path for path, _ in iter_modules(model)] == once
    assert [path for path, _ in iter_modules(model, every_path=True)] == [*once, "1.y"]
    del inner._modules["back"]
    slots = [(slot.full_name, slot.kind) for slot in iter_registered(model)]
    names = ["0.x.weight", "0.x.bias", "1.y.weight", "1.y.bias"]
    assert slots == [(name, PARAMETER) for name in names]
    assert (join("", "a"), join("a.b", "c")) == ("a", "a.b.c")


def test_slots_that_are_empty_are_listed_and_hold_nothing() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.register_buffer("t", None, persistent=False)
    model._buffers["odd"] = 3  # type: ignore[assignment]
    assert [slot[:3] for slot in iter_registered(model)] == [
        ("", "weight", PARAMETER), ("", "bias", PARAMETER), ("", "t", TRANSIENT), ("", "odd", BUFFER)
    ]  # fmt: skip
    assert [slot.name for slot in iter_filled(model)] == ["weight"]
    with pytest.raises(ValueError, match=r"the slot a\.b is empty"):
        _ = Registered("a", "b", PARAMETER, None).tensor
    groups = slots_by(lambda slot: slot.kind, iter_registered(model))
    assert {kind: [slot.name for slot in those] for kind, those in groups.items()} == {
        PARAMETER: ["weight", "bias"], TRANSIENT: ["t"], BUFFER: ["odd"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "is_one"),
    [
        ("_extra_state", True),
        ("a._extra_state", True),
        ("my_extra_state", False),
        ("_extra_state.a", False),
        (3, False),
    ],
)
def test_extra_state_is_known_by_the_last_part(key: object, is_one: bool) -> None:
    assert is_extra_state(key) is is_one


def test_a_class_without_a_module_is_of_an_unknown_one() -> None:
    odd = type("Odd", (), {})
    odd.__module__ = 3  # type: ignore[assignment]
    assert (module_name(odd), module_name(nn.Linear)) == ("?", "torch.nn.modules.linear")


def test_a_state_dict_is_a_mapping_with_or_without_arguments() -> None:
    class Own(nn.Linear):
        def __init__(self, given: Any) -> None:
            super().__init__(2, 2)
            self.__dict__["given"] = given

        def state_dict(self) -> Any:  # type: ignore[override]
            return self.given

    assert named_state(Own({"a": 1})) == {"a": 1}
    for given, said in (([1], "a list"), (None, "a NoneType"), (iter(()), "a tuple_iterator")):
        with pytest.raises(ModelImportFailed) as caught:
            named_state(Own(given), "net.py:build")
        assert caught.value.what == f"state_dict() of net.py:build gives {said}, not a mapping"
        with pytest.raises(ModelImportFailed, match=r"^state_dict\(\) of the model gives"):
            named_state(Own(given))

    class Fails(nn.Linear):
        def state_dict(self, **_options: Any) -> Any:  # type: ignore[override]
            raise ValueError("not now")

    with pytest.raises(
        ModelImportFailed, match=r"^taking the state_dict of m fails: ValueError: not now\nhint: "
    ):
        named_state(Fails(1, 1), "m")
    kept = named_state(nn.Linear(2, 2))
    assert kept["weight"].requires_grad  # the module's own objects


def test_one_buffer_in_several_transient_slots_has_each_of_their_names() -> None:
    table, model = torch.arange(3.0), nn.ModuleDict({name: nn.Module() for name in "abc"})
    for name in "ab":
        model[name].register_buffer("t", table, persistent=False)
    model["c"].register_buffer("t", table.clone(), persistent=False)
    found = non_persistent_names(model)
    assert list(found) == ["a.t", "b.t", "c.t"] and all(torch.equal(value, table) for value in found.values())
    assert non_persistent_names(nn.Linear(2, 2)) == {}

    def rename(module: Any, state: Any, prefix: str, metadata: Any) -> None:
        for key in list(state):
            state[f"w.{key}"] = state.pop(key)

    model._register_state_dict_hook(rename)
    assert set(non_persistent_names(model)) == {"w.a.t", "w.b.t", "w.c.t"}
    assert all(module._non_persistent_buffers_set == {"t"} for module in model.values())


def test_loading_of_its_own_is_told_by_method_and_by_hook() -> None:
    class Own(nn.Linear):
        def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
            return super().load_state_dict(*arguments, **options)

        def _save_to_state_dict(self, *arguments: Any) -> None:
            super()._save_to_state_dict(*arguments)

        _load_from_state_dict = nn.Linear._load_from_state_dict

    hooked = nn.Linear(1, 1)
    hooked.register_state_dict_pre_hook(lambda *_: None)
    hooked._register_state_dict_hook(lambda *_: None)
    hooked.register_load_state_dict_pre_hook(lambda *_: None)
    hooked.register_load_state_dict_post_hook(lambda *_: None)
    model = nn.ModuleDict(
        {"own": Own(1, 1), "plain": nn.BatchNorm1d(2), "hooked": hooked, "lazy": nn.LazyLinear(2)}
    )
    assert list(iter_custom_load(iter_modules(model))) == [
        CustomLoad("own", ("load_state_dict", "_save_to_state_dict")),
        CustomLoad(
            "hooked", (),
            (
                "state_dict pre-hook", "state_dict hook", "load_state_dict pre-hook",
                "load_state_dict post-hook",
            ),
        ),
    ]  # fmt: skip


def test_buffers_are_saved_by_name_as_a_build_makes_them(tmp_path: Any) -> None:
    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
            model.register_buffer(name, torch.full((2,), value).requires_grad_(), persistent=False)
        return model

    path = str(tmp_path / "buffers.pt")
    save_buffers(source(build), ["a", "c", "weight", "nothing"], path)
    saved = torch.load(path)
    assert {name: value.tolist() for name, value in saved.items()} == {"a": [1, 1], "c": [3, 3]}
    assert not saved["a"].requires_grad
