"""Python's collector rests while a header is read, and is afterwards what it was before."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import ckpttool
from ckpttool import formats
from ckpttool.formats import read_checkpoint
from ckpttool.values.errors import CkptToolError
from sample_models.same_bytes import save_legacy


@pytest.fixture(params=[True, False], ids=["enabled", "disabled"])
def enabled(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the caller has it on."""
    threshold = gc.get_threshold()
    (gc.enable if request.param else gc.disable)()
    yield bool(request.param)
    assert gc.isenabled() is request.param
    assert gc.get_threshold() == threshold
    gc.enable()


@pytest.fixture(params=["a.pt", "a.safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    state = {f"layers.{number}.weight": torch.ones(1) for number in range(1000)}
    path = tmp_path / request.param
    torch.save(state, path) if path.suffix == ".pt" else save_file(state, path)
    return path


def collections(of: Any) -> int:
    """How often cycles are looked for while ``of`` is called."""
    seen: list[str] = []
    gc.collect()
    gc.callbacks.append(lambda phase, _: seen.append(phase) if phase == "start" else None)
    try:
        of()
    finally:
        gc.callbacks.pop()
    return len(seen)


def test_nothing_is_looked_for_while_a_header_is_read(path: Path, enabled: bool) -> None:
    read_checkpoint(str(path))  # what it imports is here
    # One may come as soon as it is enabled again.
    assert collections(lambda: read_checkpoint(str(path))) <= enabled
    opened = ckpttool.open(path)
    assert collections(lambda: len(opened.entries)) <= 5 * enabled


def test_after_an_error_it_is_what_it_was(path: Path, enabled: bool) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CkptToolError):
        ckpttool.open(path)
    with pytest.raises(CkptToolError):
        read_checkpoint(str(path))
    with pytest.raises(FileNotFoundError):
        ckpttool.open(path.with_name("nothing.pt"))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CkptToolError):
        ckpttool.open(path)


def test_after_an_interrupt_it_is_what_it_was(
    path: Path, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        assert not gc.isenabled()
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "validate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ckpttool.open(path)


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_two_threads_that_read_at_once_leave_it_as_it_was(
    path: Path, enabled: bool, monkeypatch: pytest.MonkeyPatch, first_to_end: int
) -> None:
    both_read, ended = threading.Barrier(2, timeout=60), threading.Event()
    real, numbers = formats.validate, dict[int, int]()

    def wait(checkpoint: Any) -> None:
        real(checkpoint)
        both_read.wait()
        if numbers[threading.get_ident()] != first_to_end:
            ended.wait(60)

    def read(number: int) -> None:
        numbers[threading.get_ident()] = number
        read_checkpoint(str(path))
        if number == first_to_end:
            ended.set()

    monkeypatch.setattr(formats, "validate", wait)
    threads = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended.is_set() and gc.isenabled() is enabled


def test_nothing_of_a_pickle_stays_though_nobody_looks_for_cycles(tmp_path: Path) -> None:
    from ckpttool.pickles.nodes import Call

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "a.pt")
    save_legacy(model.state_dict(), tmp_path / "b.pt")
    gc.collect()
    held = sum(type(item) is Call for item in gc.get_objects())  # by whoever read before
    gc.disable()
    try:
        for name in ("a.pt", "b.pt"):
            read = read_checkpoint(str(tmp_path / name))
            assert sum(ref.calls for ref in read.globals) > 4
            assert sum(type(item) is Call for item in gc.get_objects()) == held
    finally:
        gc.enable()
