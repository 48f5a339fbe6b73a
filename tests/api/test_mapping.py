"""A checkpoint as a mapping: names, lazy tensors, views of the file, and errors that are KeyErrors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import ckpttool

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        state[name] = (torch.randn(4, 5, 3) * 5).abs().to(dtype)
        state[f"{name}.t"] = state[name].transpose(0, 2)
    state["conj"], state["empty"] = state["complex64"].conj(), torch.empty(0, 3)
    state["expanded"] = torch.arange(5.0).expand(4, 5)
    path = tmp_path_factory.mktemp("mapping") / "state.pt"
    torch.save({"model": state, "epoch": 3, "other": {"epoch.w": torch.ones(1)}}, path)
    return path, state


def test_it_is_a_mapping_of_the_weights(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = saved
    checkpoint = ckpttool.open(path)
    assert (
        list(checkpoint) == list(checkpoint.keys()) == [name for name, _ in checkpoint.items()] == list(state)
    )
    assert len(checkpoint) == len(state) and dict(checkpoint).keys() == state.keys()
    assert "float32" in checkpoint and "model.float32" in checkpoint and "nothing" not in checkpoint
    assert 3 not in checkpoint
    assert {value.name: value.value for value in checkpoint.values} == {"epoch": 3}
    assert checkpoint["other.epoch.w"].shape == (1,)
    tensor = checkpoint["float16.t"]
    assert (tensor.name, tensor.shape, tensor.ndim, tensor.dtype) == ("float16.t", (3, 5, 4), 3, "float16")
    assert tensor.nbytes == 120 and tensor.kind == checkpoint.entry("float16.t").kind and len(tensor) == 3


def test_without_weights_of_one_branch_names_are_paths(tmp_path: Path) -> None:
    torch.save({"a": {"w": torch.ones(2)}, "b": {"w": torch.zeros(2)}}, tmp_path / "two.pt")
    checkpoint = ckpttool.open(tmp_path / "two.pt")
    for name in checkpoint:
        assert name in checkpoint and checkpoint[name].shape == (2,)
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    assert len(ckpttool.open(tmp_path / "none.pt")) == 0 and ckpttool.open(tmp_path / "none.pt")


@given(st.data())
def test_lazy_tensors_are_torchs(saved: tuple[Path, dict[str, torch.Tensor]], data: st.DataObject) -> None:
    path, state = saved
    checkpoint = ckpttool.open(path)
    name = data.draw(st.sampled_from(sorted(state)))
    expected, found = state[name].resolve_conj(), checkpoint[name]
    bound = st.none() | st.integers(-6, 6)
    index = tuple(data.draw(st.lists(st.builds(slice, bound, bound, st.integers(1, 3)), max_size=2)))
    expected, found = expected[index], found[index]
    tensor = found.torch()
    assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
    wide = torch.complex128 if expected.is_complex() else torch.float64
    assert torch.equal(tensor.to(wide), expected.to(wide))
    array = found.numpy()
    assert array.shape == tuple(expected.shape)
    assert np.array_equal(array.astype(complex), expected.to(torch.complex128).numpy())
    assert np.array_equal(np.asarray(found), array)
    if len(found.shape or ()) and len(found):
        assert np.array_equal(np.asarray(found[-1]), array[-1])
        assert len(list(found)) == len(found)


def test_a_view_copies_nothing_and_cannot_be_written(tmp_path: Path) -> None:
    weight = torch.randn(64, 64)
    save_file({"w": weight, "half": weight.bfloat16()}, tmp_path / "w.safetensors")
    checkpoint = ckpttool.open(tmp_path / "w.safetensors")
    view = checkpoint["w"].numpy()
    assert not view.flags.owndata and not view.flags.writeable
    part = checkpoint["w"][::2, 3].numpy()
    assert not part.flags.owndata and np.array_equal(part, weight[::2, 3].numpy())
    with pytest.raises(ValueError):
        view[0, 0] = 1
    assert np.array(checkpoint["w"]).flags.writeable
    assert (
        checkpoint["half"].torch().dtype is torch.bfloat16 and checkpoint["half"].numpy().dtype == np.float32
    )
    del checkpoint
    assert np.array_equal(view, weight.numpy())  # the map outlives what opened it


def test_maps_of_one_file_take_one_descriptor(tmp_path: Path) -> None:
    save_file({f"w{i}": torch.ones(2) for i in range(200)}, tmp_path / "w.safetensors")
    checkpoint = ckpttool.open(tmp_path / "w.safetensors")
    before = len(os.listdir("/dev/fd"))
    arrays = [tensor.numpy() for _, tensor in checkpoint.items()]
    assert len(os.listdir("/dev/fd")) <= before + 2
    del arrays
    assert len(os.listdir("/dev/fd")) <= before + 1


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4)}, tmp_path / "w.safetensors")
    tensor = ckpttool.open(tmp_path / "w.safetensors")["w"]
    save_file({"w": torch.zeros(5)}, tmp_path / "w.safetensors")
    for ask in (tensor.numpy, tensor.torch):
        with pytest.raises(ckpttool.MalformedCheckpoint):
            ask()


def test_errors_are_those_of_python_too(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    checkpoint = ckpttool.open(saved[0])
    for ask in (
        lambda: checkpoint["float23"],
        lambda: checkpoint.entry("float23"),
        lambda: checkpoint.array("float23"),
    ):
        with pytest.raises(KeyError) as failed:
            ask()
        error = failed.value
        assert isinstance(error, ckpttool.NoSuchEntry) and isinstance(error, ckpttool.CkptToolError)
        assert "no tensor is called 'float23'" in str(error) and "float32" in str(error.hint)
        if sys.version_info >= (3, 11):
            assert error.__notes__ == [f"hint: {error.hint}"]
    with pytest.raises(IndexError, match="out of range"):
        checkpoint["float32"][9]
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(checkpoint["float32"])
    with pytest.raises(TypeError, match="without dimensions"):
        len(checkpoint["float32"][0, 0, 0])
    with pytest.raises(ValueError, match="copy"):
        checkpoint["bfloat16"].__array__(copy=False)


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckpttool.files import local

    torch.save({"w": torch.randn(1000, 1000)}, tmp_path / "w.pt")
    checkpoint = ckpttool.open(tmp_path / "w.pt")
    read: list[int] = []
    inner = local._pread_some
    monkeypatch.setattr(local, "_pread_some", lambda fd, to, at: (read.append(len(to)), inner(fd, to, at))[1])
    tensor = checkpoint["w"][4:8, 1:3]
    assert (tensor.shape, repr(tensor), read) == ((4, 2), repr(tensor), [])
    tensor.torch()
    assert sum(read) <= 3 * 4000 + 8  # a gap of 4,000 bytes is read, not jumped over
    assert tensor.nbytes == 32


def test_stats_check_and_progress(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    told: list[tuple[str, int]] = []

    class Told:
        def begin(self, what: str, total: int) -> None:
            told.append((what, total))

        def advance(self, nbytes: int) -> None:
            told.append(("", nbytes))

        def finish(self) -> None:
            pass

    checkpoint = ckpttool.open(saved[0])
    by_name = {str(stats.entry.name): stats for stats in checkpoint.stats(progress=Told())}
    assert by_name["float32"].maximum == saved[1]["float32"].max().item()
    assert checkpoint.check(progress=Told()).ok and checkpoint.digest(progress=Told()).tensors == len(
        saved[1]
    )
    assert {what for what, _ in told if what} == {"values", "checksums", "digest"}


def test_a_repr_is_short_and_harmless(tmp_path: Path) -> None:
    torch.save({"a\x1b[31mb": torch.ones(2, 3)}, tmp_path / "w.pt")
    checkpoint = ckpttool.open(tmp_path / "w.pt")
    (entry,) = checkpoint.entries
    for shown in (repr(entry), repr(checkpoint[str(entry.name)])):
        assert "a\\x1b[31mb" in shown and "\x1b" not in shown and len(shown) < 100 and "2×3" in shown
