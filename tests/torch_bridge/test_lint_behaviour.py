"""Where rules of ``lint`` that look at what was done have an end: keys that go, aliases that stay, notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.linted import found, lint
from tests.support.traps import Free, Runs, X

pytestmark = pytest.mark.filterwarnings("ignore")


def said(build: Callable[[], nn.Module], *inputs: Any) -> list[tuple[str, str, str]]:
    return [(item.code, item.name, item.message) for item in lint(build, *inputs).findings]


def gone(what: str) -> str:
    return f'no key of the state_dict any more after {what}: "Missing" in a fresh model'


def new(what: str) -> str:
    return f'a key of the state_dict only after {what}: "Unexpected" in a fresh model'


class Loses(nn.Linear):
    """Drops a buffer, and has another, once it is converted."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.register_buffer("old", torch.ones(1))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._buffers.pop("old", None)
        self.register_buffer("late", torch.ones(1))
        return self


def test_keys_that_come_and_go_with_a_conversion() -> None:
    assert [item for item in said(Loses) if item[0] == "CKPT505"] == [
        ("CKPT505", "late", new(".double()")), ("CKPT505", "old", gone(".double()")),
        ("CKPT505", "late", new('.to("meta")')), ("CKPT505", "old", gone('.to("meta")')),
    ]  # fmt: skip


def test_keys_that_come_with_a_load() -> None:
    class Grows(nn.Linear):
        def _load_from_state_dict(self, *arguments: Any) -> None:
            super()._load_from_state_dict(*arguments)
            self.register_buffer("late", torch.ones(1))

    assert ("CKPT505", "late", new("load_state_dict()")) in said(lambda: Grows(2, 2))


def test_keys_that_go_with_a_forward() -> None:
    def drop(model: Any, x: torch.Tensor) -> None:
        model._buffers.pop("b_once", None)

    def unsave(model: Any, x: torch.Tensor) -> None:
        model.register_buffer("b_once", torch.ones(1), persistent=False)

    for run in (drop, unsave):
        assert said(lambda run=run: Runs(run, b_once=torch.rand(1)), X) == [
            ("CKPT601", "b_once", gone("a forward"))
        ]


def alias(dtype: torch.dtype, kind: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        value = torch.rand(4).to(dtype)
        model: Any = nn.Module()
        if kind == "parameter":
            model.held = nn.Parameter(value, requires_grad=dtype.is_floating_point)
        else:
            model.register_buffer("held", value)
        model.seen = model.held.detach()[1:]
        return model  # type: ignore[no-any-return]

    return build


@pytest.mark.parametrize(
    ("dtype", "kind", "stale"),
    [
        (torch.float32, "parameter", True), (torch.float64, "parameter", False),
        (torch.int64, "parameter", False),
        (torch.float32, "buffer", True), (torch.float64, "buffer", True), (torch.int64, "buffer", True),
    ],
)  # fmt: skip
def test_an_alias_goes_stale_where_a_conversion_to_any_device_makes_another_tensor(
    dtype: torch.dtype, kind: str, stale: bool
) -> None:
    message = (
        "shares memory with held, but only until .to() or .double(): then it is the old tensor, on the old "
    )
    message += "device"
    found_ = [item for item in said(alias(dtype, kind)) if item[0] in ("CKPT503", "CKPT101")]
    assert found_ == [("CKPT503", "seen", message)] * stale


def test_an_alias_that_follows_is_let_pass() -> None:
    class Follows(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.seen = self.weight.detach()

        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            super()._apply(fn, recurse)
            self.seen = self.weight.detach()
            return self

    assert found(lint(Follows)) == []


def test_what_is_expanded_is_told_once_though_it_does_not_load() -> None:
    assert found(lint(lambda: Free(b_ids=torch.rand(3).expand(2, 3)))) == [("CKPT205", "b_ids")]


@pytest.mark.parametrize(
    ("value", "given"),
    [("text", "a str"), (3, "an int"), ([1], "a list"), (None, "a NoneType"), (torch.ones(1), "")],
)
def test_extra_state_that_is_no_tensor_is_told_by_its_type(value: object, given: str) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return value

        def set_extra_state(self, state: Any) -> None:
            pass

    message = f"get_extra_state() gives {given}: safetensors has no place for it, and strict=True misses it"
    expected = [("CKPT404", "_extra_state", message)] if given else []
    assert said(lambda: Extra(2, 2)) == expected


def test_a_text_that_a_hook_adds_is_no_extra_state() -> None:
    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_state_dict_post_hook(lambda module, state, *_: state.update(format="v2"))
        model.register_load_state_dict_pre_hook(lambda module, state, *_: state.pop("format", None))
        return model

    assert found(lint(build)) == [("CKPT403", "")]


def test_loading_of_ones_own_is_told_by_class_and_by_what_it_has() -> None:
    class Own(nn.Linear):
        def get_extra_state(self) -> Any:
            return torch.ones(1)

        def set_extra_state(self, state: Any) -> None:
            pass

        def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
            return super().load_state_dict(*arguments, **options)

    def build() -> nn.Module:
        model = nn.ModuleDict({"own": Own(2, 2)})
        model["own"]._register_state_dict_hook(lambda *_: None)
        return model

    assert said(build) == [
        (
            "CKPT403", "own",
            "Own has load_state_dict, get_extra_state, a state_dict hook: keys in a file may differ from "
            "attributes",
        )
    ]  # fmt: skip


class Modeless(nn.Linear):
    """Does not run under a dispatch mode, and refuses values of the wrong kind."""

    def __init__(self) -> None:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise ValueError("not under a mode")
        super().__init__(2, 2)
        self.register_buffer("version", torch.tensor(2))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        if state[f"{prefix}version"] != 2:
            raise ValueError("unknown version")
        super()._load_from_state_dict(state, prefix, *rest)


NOTES = (
    "no forward was run, so CKPT601-606 were not checked: --example-input SHAPE[:dtype]",
    "the forward raises in train mode with this input, so it ran in eval mode",
    "the constructor does not run under a dispatch mode: CKPT201 and CKPT203 were not checked",
    "its hooks refuse made-up values, so CKPT402 was not checked",
)


def test_what_was_not_checked_is_noted_and_nothing_else() -> None:
    assert lint(Modeless).notes == (NOTES[0], NOTES[2], NOTES[3])
    assert lint(lambda: nn.Linear(2, 2)).notes == NOTES[:1]
    assert lint(lambda: nn.Linear(3, 2), X).notes == ()
    assert lint(lambda: nn.BatchNorm1d(3), ((1, 3), "float32")).notes == NOTES[1:2]
