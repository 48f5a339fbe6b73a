"""Objects that raise in everything: ``lint`` and ``verify`` end in an answer or in one sentence."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from ckpttool.torch_bridge.lint.lint import lint_model
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.values.errors import ModelImportFailed
from tests.support.linted import found, lint, source
from tests.support.verifying import check, the_run

DUNDERS = tuple(
    "__len__ __iter__ __eq__ __hash__ __repr__ __str__ __bool__ __contains__ __getitem__ __getattribute__ "
    "__getattr__ __class__ __dict__ __dir__ __format__ __index__ __deepcopy__ __reduce_ex__ __sizeof__ items "
    "keys values _fields _is_param __name__ __torch_function__ __dataclass_fields__".split()
)
DESCRIPTORS = ("__class__", "__dict__", "_fields", "_is_param", "__name__", "__dataclass_fields__")
RAISED = (NotImplementedError, SystemExit, KeyboardInterrupt)


@dataclasses.dataclass
class Record:
    held: Any = None


class Registry(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        return {"held": torch.ones(2)}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["held"])

    def __len__(self) -> int:
        return 1


BASES: dict[str, tuple[type, tuple[Any, ...]]] = {
    "object": (object, ()),
    "list": (list, ([0],)),
    "tuple": (tuple, ([0],)),
    "dict": (dict, ({"a": 0},)),
    "set": (set, ([0],)),
    "deque": (collections.deque, ([0],)),
    "str": (str, ("text",)),
    "int": (int, (7,)),
    "Mapping": (Registry, ()),
    "namespace": (SimpleNamespace, ()),
    "dataclass": (Record, (0,)),
    "tensor": (torch.Tensor, ([1.0, 2.0],)),
}


def raising(error: type[BaseException], names: tuple[str, ...], base: type = object) -> type:
    """A class of which each of ``names`` raises."""

    def fail(*_arguments: object, **_options: object) -> Any:
        raise error("not for you")

    return type("Hostile", (base,), {name: property(fail) if name in DESCRIPTORS else fail for name in names})


def hostile(base: str, error: type[BaseException], *names: str) -> Any:
    kind, arguments = BASES[base]
    try:
        return raising(error, names, kind)(*arguments)
    except BaseException:  # noqa: BLE001  its constructor asks these already
        asked = {"__getattribute__", "__dict__", "__torch_function__", "__iter__", "__hash__"}
        return raising(error, tuple(set(names) - asked), kind)(*arguments)


class Model(nn.Module):
    """A parameter, a list with a tensor in it, and beside them whatever a place puts where."""

    def __init__(self, value: Any, place: Callable[[nn.Module, Any], object]) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.before = [torch.ones(3)]
        place(self, value)
        self.behind = [torch.ones(3)]

    def forward(self, inputs: torch.Tensor) -> Any:
        return {"out": self.fc(inputs), "more": getattr(self, "output", None)}


def put(name: str, wrap: Callable[[Any], Any] = lambda value: value) -> Callable[[nn.Module, Any], object]:
    return lambda module, value: vars(module).update({name: wrap(value)})


def hashable(value: Any) -> Any:
    try:
        hash(value)
    except BaseException:  # noqa: BLE001
        return None
    return value


PLACES: dict[str, Callable[[nn.Module, Any], object]] = {
    "attribute": put("held"),
    "list": put("held", lambda value: [torch.ones(1), value]),
    "dict": put("held", lambda value: {"a": value}),
    "key": put("held", lambda value: {hashable(value): torch.ones(1)}),
    "set": put("held", lambda value: {hashable(value)}),
    "namespace": put("held", lambda value: SimpleNamespace(value=value)),
    "dataclass": put("held", Record),
    "class": lambda module, value: setattr(type(module), "shared", value),
    "hook": lambda module, value: module._forward_pre_hooks.update({0: value}) if callable(value) else None,
    "save hook": lambda module, value: (
        module._state_dict_hooks.update({0: value}) if callable(value) else None
    ),
    "output": put("output"),
    "slot": lambda module, value: module._buffers.update(odd=value),
    "child": lambda module, value: module._modules.update(odd=value),
}


def endings(build: Callable[[], nn.Module], folder: Path) -> list[str]:
    """What lint and verify say of a model: "" for an answer, else the one sentence."""
    said = []
    for ask in (
        lambda: lint(build),
        lambda: lint(build, ((1, 2), "float32")),
        lambda: lint_model(source(build), proved=True),
        lambda: describe_model(source(build).build(), "here:build"),
        lambda: check(nn.Module.state_dict(Plain()), build, folder),
    ):
        try:
            ask()
        except ModelImportFailed as error:
            assert "\n" not in str(error)
            said.append(str(error))
        else:
            said.append("")
    return said


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.fc(inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("base", BASES)
def test_an_object_that_raises_in_everything_is_only_left_out(
    base: str, error: type[BaseException], tmp_path: Path
) -> None:
    def build() -> nn.Module:
        value = hostile(base, error, *DUNDERS)
        return type("Own", (Model,), {})(value, PLACES["attribute"])  # type: ignore[no-any-return]

    assert endings(build, tmp_path) == [""] * 5
    assert ("CKPT101", "before[0]") in found(lint(build))
    assert ("CKPT101", "behind[0]") in found(lint(build))


HELD = ("attribute", "list", "dict", "key", "set", "namespace", "dataclass", "class")


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("place", PLACES)
def test_no_object_in_no_place_is_an_internal_error(place: str, base: str, tmp_path: Path) -> None:
    for error in RAISED:

        def build(error: type[BaseException] = error) -> nn.Module:
            return type("Own", (Model,), {})(hostile(base, error, *DUNDERS), PLACES[place])  # type: ignore[no-any-return]

        said = endings(build, tmp_path)
        assert place not in HELD or said == [""] * 5, error


@pytest.mark.slow
@pytest.mark.parametrize("name", DUNDERS)
def test_no_single_method_that_raises_stops_the_walk(name: str) -> None:
    def build() -> nn.Module:
        values = [hostile(base, ValueError, name) for base in BASES]
        return Model(values, PLACES["attribute"])

    assert ("CKPT101", "behind[0]") in found(lint(build))


class Irreps(tuple):  # type: ignore[type-arg]
    """As e3nn has it: a tuple whose len is not that of what it holds."""

    def __len__(self) -> int:
        raise NotImplementedError


def test_what_a_container_holds_is_found_whatever_its_class_makes_of_len_and_iter() -> None:
    def build() -> nn.Module:
        model: Any = nn.Module()
        model.irreps = Irreps([torch.ones(2)])
        model.listed = raising(ValueError, ("__iter__", "__len__"), list)([torch.ones(2)])
        model.keyed = raising(ValueError, ("items", "__iter__", "__len__"), dict)({"a": torch.ones(2)})
        return model  # type: ignore[no-any-return]

    assert found(lint(build)) == [
        ("CKPT101", "irreps[0]"), ("CKPT101", "listed[0]"), ("CKPT101", "keyed['a']")
    ]  # fmt: skip


def test_a_mapping_gives_what_comes_before_it_raises_and_an_endless_one_ends() -> None:
    class Breaking(Registry):
        def items(self) -> Any:
            yield "good", torch.ones(2)
            raise SystemExit(3)

    class Endless(Registry):
        def items(self) -> Any:
            while True:
                yield "more", Endless()

    def build() -> nn.Module:
        model: Any = nn.Module()
        model.breaking = Breaking()
        model.endless = Endless()
        model.behind = [torch.ones(2)]
        return model  # type: ignore[no-any-return]

    assert found(lint(build)) == [("CKPT101", "breaking['good']"), ("CKPT101", "behind[0]")]


def test_cycles_depth_and_numbers_without_end_are_walked() -> None:
    def build() -> nn.Module:
        model: Any = nn.Module()
        cycle: list[Any] = [torch.ones(2)]
        cycle.append({"again": cycle})
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        model.cycle, model.deep = cycle, deep
        model.keyed = {10**5000: torch.ones(2), None: torch.ones(2), True: torch.ones(2)}
        return model  # type: ignore[no-any-return]

    names = [name for _, name in found(lint(build))]
    assert names == ["cycle[0]", "keyed[~2^16609 (16610 bits)]", "keyed[NoneType]", "keyed[True]"]


def test_a_mock_is_neither_a_tensor_nor_a_module() -> None:
    def build() -> nn.Module:
        model: Any = nn.Module()
        model.a, model.b = MagicMock(spec=torch.Tensor), [MagicMock(spec=nn.Linear), MagicMock()]
        return model  # type: ignore[no-any-return]

    assert lint(build).findings == ()


class Deaf(torch.Tensor):
    """A tensor that raises whatever is asked of it."""

    @classmethod
    def __torch_function__(cls, *_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("deaf")


def test_a_registered_tensor_that_raises_is_compared_by_its_bytes(tmp_path: Path) -> None:
    class Own(Plain):
        def __init__(self) -> None:
            super().__init__()
            self._buffers["table"] = torch.arange(3.0).as_subclass(Deaf)

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            destination[f"{prefix}table"] = self._buffers["table"]

        def _load_from_state_dict(self, state_dict: Any, prefix: str, *_rest: Any) -> None:
            with torch._C.DisableTorchFunctionSubclass():
                self._buffers["table"].copy_(state_dict[f"{prefix}table"])  # type: ignore[union-attr]

    state = {**Plain().state_dict(), "table": torch.arange(3.0)}
    run = the_run(check(state, Own, tmp_path, load="copy"))
    assert run.ok
    assert run.matched == 3
    wrong = the_run(check({**state, "table": torch.tensor([0, 1, float("nan")])}, Own, tmp_path, load="copy"))
    assert wrong.ok  # it is what the file has


class Wrapper(torch.Tensor):
    """A wrapper without storage, which takes no part in any operation."""

    @staticmethod
    def __new__(cls) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, (2, 3))  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, *_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("no")


def test_a_wrapper_without_a_storage_is_named_and_nothing_else() -> None:
    def build() -> nn.Module:
        model: Any = nn.Linear(2, 2)
        model.wrapped = Wrapper()
        return model  # type: ignore[no-any-return]

    report = lint(build)
    [entry] = [entry for entry in report.entries if entry.name == "wrapped"]
    assert entry.shape == (2, 3)


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize(
    "method", ["named_modules", "modules", "parameters", "children", "__hash__", "named_buffers", "__eq__"]
)
def test_overrides_that_raise_do_not_hide_what_the_model_owns(
    method: str, error: type[BaseException], tmp_path: Path
) -> None:
    def build() -> nn.Module:
        return raising(error, (method,), Plain)()  # type: ignore[no-any-return]

    report = lint_model(source(build), proved=True)
    assert [(entry.name, entry.kind) for entry in report.entries] == [
        ("fc.weight", "parameter"), ("fc.bias", "parameter")
    ]  # fmt: skip
    assert [entry.name for entry in describe_model(build(), "here:build").checkpoint.entries]
    assert the_run(check(Plain().state_dict(), build, tmp_path, load="copy")).ok


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("method", ["state_dict", "load_state_dict", "_apply", "to", "double", "__getattr__"])
def test_methods_that_raise_end_in_a_finding_or_one_sentence(
    method: str, error: type[BaseException], tmp_path: Path
) -> None:
    said = endings(raising(error, (method,), Plain), tmp_path)
    assert all(text == "" or error.__name__ in text for text in said)
    if method == "load_state_dict":
        run = the_run(check(Plain().state_dict(), raising(error, (method,), Plain), tmp_path, load="copy"))
        assert run.errors == ("not for you",)
        assert not run.ok


def test_a_module_that_forgot_super_init_and_one_that_gives_no_mapping_are_said_in_one_sentence() -> None:
    class Forgot(nn.Module):
        def __init__(self) -> None:
            pass

    with pytest.raises(ModelImportFailed, match="object has no attribute '_parameters'"):
        lint(Forgot)
    with pytest.raises(ModelImportFailed, match=r"state_dict\(\) of here:build gives a list, not a mapping"):
        lint(type("Lists", (Plain,), {"state_dict": lambda self, **options: []}))


def test_an_error_that_cannot_say_what_it_is_is_named() -> None:
    def build() -> nn.Module:
        raise raising(KeyError, ("__str__", "__repr__"), ValueError)

    with pytest.raises(ModelImportFailed, match=r"fails: Hostile\nhint: "):
        lint(build)


def test_a_bug_of_ours_stays_an_internal_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ckpttool.names.match._meet", None)
    with pytest.raises(TypeError, match="not callable"):
        check(Plain().state_dict(), Plain, tmp_path)
