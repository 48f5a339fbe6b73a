"""Devices by the name of whatever accelerator is here: with stand-ins for torch's own answers."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ckpttool.torch_bridge import accelerator as here
from ckpttool.torch_bridge.verify.verify import choose_devices
from ckpttool.values.errors import DeviceUnavailable


def stand_in(kind: str, devices: int = 1, **more: Any) -> Any:
    """What ``torch.accelerator`` says on a machine with devices of that type."""
    return SimpleNamespace(
        is_available=lambda: devices > 0,
        current_accelerator=lambda: torch.device(kind),
        device_count=lambda: devices,
        **more,
    )


@pytest.mark.parametrize("kind", ["mps", "xpu", "cuda", "hpu"])
def test_what_is_here_is_taken_by_its_name(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_api", stand_in(kind))
    assert choose_devices(()) == ("cpu", kind)
    assert choose_devices((kind, f"{kind}:0", "cpu")) == (kind, f"{kind}:0", "cpu")
    with pytest.raises(DeviceUnavailable, match="there is 1 device"):
        choose_devices((f"{kind}:1",))


@pytest.mark.parametrize("kind", here.KNOWN)
def test_what_is_not_here_is_said_by_its_name(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_api", stand_in("cuda", devices=0))
    assert choose_devices(()) == ("cpu",)
    with pytest.raises(DeviceUnavailable, match=f"no {kind.upper()} device here") as caught:
        choose_devices((f"{kind}:1",))
    assert caught.value.hint == "--device cpu checks the rest"


def test_an_index_is_that_of_the_current_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("current_device_idx", "current_device_index"):  # torch 2.6, and later
        monkeypatch.setattr(here, "_api", stand_in("xpu", 3, **{name: lambda: 2}))
        assert here.indexed(torch.device("xpu")) == torch.device("xpu:2")
        assert here.indexed(torch.device("xpu:1")) == torch.device("xpu:1")
        assert here.indexed(torch.device("meta")) == torch.device("meta")


def test_before_torch_2_6_it_is_cuda_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_api", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (here.accelerator(), here.count()) == (None, torch.cuda.device_count())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert here.accelerator() == "cuda"
    assert here.indexed(torch.device("cuda")) == torch.device("cuda:1")


def test_where_no_memory_can_be_pinned_nothing_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.pinned(8, torch.device("cpu")) is None
    monkeypatch.setattr(here, "_api", stand_in("mps"))
    monkeypatch.setattr(here, "pinned", here.pinned)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("cannot pin")))
        assert here.pinned(8, torch.device("mps")) is None


@pytest.mark.parametrize("kind", [None, "cuda"])
def test_generators_are_put_back(kind: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "accelerator", lambda: kind)
    monkeypatch.setattr(here, "count", lambda: 0)
    before = torch.random.get_rng_state()
    with here.seeded(3):
        first = torch.rand(2)
    with here.seeded(3):
        assert torch.equal(first, torch.rand(2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_generator_of_mps_is_put_back_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(here, "accelerator", lambda: "mps")
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "before")
    monkeypatch.setattr(torch.mps, "set_rng_state", kept.append)
    with pytest.raises(ValueError, match="inside"), here.seeded(3):
        raise ValueError("inside")
    assert kept == ["before"]


@pytest.mark.parametrize(
    ("kind", "devices", "named"),
    [("mps", [], "mps"), ("xpu", [0, 1], "xpu"), ("cuda", [0, 1], "cuda"), (None, [0, 1], "cuda")],
)
def test_the_generators_of_every_device_are_kept_where_they_take_an_index(
    kind: str | None, devices: list[int], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked: list[Any] = []

    def fork(devices: Any, *, device_type: str) -> Any:
        forked.append((list(devices), device_type))
        return contextlib.nullcontext()

    monkeypatch.setattr(here, "accelerator", lambda: kind)
    monkeypatch.setattr(here, "count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", fork)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: None)
    monkeypatch.setattr(torch, "manual_seed", forked.append)
    with here.seeded(5):
        pass
    assert forked == [(devices, named), 5]


def test_what_waits_and_what_is_counted_asks_the_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    stream = SimpleNamespace(record_event=lambda: "event")
    more = {"synchronize": waited.append, "current_stream": lambda device: stream}
    monkeypatch.setattr(here, "_api", stand_in("xpu", 3, **more))
    here.synchronize(torch.device("xpu:1"))
    here.synchronize(torch.device("cpu"))
    assert (waited, here.count(), here.record_event(torch.device("xpu"))) == (
        [torch.device("xpu:1")],
        3,
        "event",
    )
    monkeypatch.setattr(here, "_api", None)
    for name, value in (
        ("synchronize", waited.append),
        ("device_count", lambda: 4),
        ("is_available", lambda: True),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    here.synchronize(torch.device("cuda:0"))
    assert (waited[1:], here.count(), here.record_event(torch.device("cuda"))) == (
        [torch.device("cuda:0")], 4, "event"
    )  # fmt: skip


def test_memory_is_pinned_for_the_device_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def empty(nbytes: int, **options: Any) -> str:
        asked.append((nbytes, options))
        return "pinned"

    monkeypatch.setattr(here, "_api", stand_in("cuda"))
    monkeypatch.setattr(torch, "empty", empty)
    assert here.pinned(8, torch.device("cuda:0")) == "pinned"
    assert asked == [(8, {"dtype": torch.uint8, "pin_memory": True})]
    assert here.pinned(8, torch.device("cpu")) is None
    assert len(asked) == 1
