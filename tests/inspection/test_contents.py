"""Buffers known by their contents, in files that were trained; and files that say nothing, or lie."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from ckpttool.files.local import Sources
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.inspection import contents
from ckpttool.inspection.contents import judge_contents, looks_trained
from ckpttool.kinds.classify import classify
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Chunk,
    ChunkedTensor,
    Classification,
    Entry,
    Kind,
    Root,
)
from ckpttool.values.errors import MalformedCheckpoint
from sample_models.same_bytes import save_legacy
from tests.support.learnt import iter_learnt

ODD = "wobble"  # a name that no table has
LINE = torch.linspace(0.1, 3, 40)
KERNEL = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])) / 16
FOUND = {ODD: "evenly spaced values"}
MOVED = {"norm.weight": torch.tensor([1.0, 1.1]), "norm.bias": torch.zeros(2)}


class Net(nn.Module):
    """A norm, a parameter and a buffer whose names tell nothing, and one whose name does."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm(8)
        self.wibble = nn.Parameter(torch.randn(8))
        self.register_buffer(ODD, LINE.clone())
        self.register_buffer("inv_freq", LINE.clone())


def judged(checkpoint: Checkpoint, roots: set[Root]) -> dict[int, Classification]:
    sources = Sources(checkpoint.files)
    kinds = classify(checkpoint).classifications
    found = judge_contents(checkpoint, kinds, roots, sources)
    sources.close()
    assert all((kinds[at].kind, kinds[at].basis) == (Kind.UNKNOWN, Basis.NONE) for at in found)
    buffer = (Kind.PERSISTENT_BUFFER, Basis.CONTENTS, False)
    assert all((one.kind, one.basis, one.exact) == buffer for one in found.values())
    return found


def said(path: Path, *roots: Root) -> dict[object, str]:
    """What contents say of the entries below ``roots`` (without any: at the top), by their names."""
    checkpoint = read_checkpoint(str(path))
    found = judged(checkpoint, set(roots or [()]))
    return {checkpoint.entries[at].name: one.note for at, one in found.items()}


def saved(folder: Path, value: object, **how: Any) -> Path:
    path = folder / "a.pt"
    torch.save(value, path, **how)
    return path


def trained(**values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**MOVED, **values}


def test_a_computed_buffer_of_a_trained_file(tmp_path: Path) -> None:
    net = Net()
    with torch.no_grad():
        net.norm.weight += 0.1 * torch.randn(8)
    state = net.state_dict()
    assert said(saved(tmp_path, state)) == FOUND
    save_legacy(state, tmp_path / "legacy.pt")
    assert said(tmp_path / "legacy.pt") == FOUND
    save_file(state, tmp_path / "a.safetensors")
    assert said(tmp_path / "a.safetensors") == FOUND
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert said(saved(tmp_path, {name: value.to(dtype) for name, value in state.items()})) == FOUND
    assert said(saved(tmp_path, {"model": state}), ("model",)) == FOUND
    assert said(saved(tmp_path, {"model": state}), ()) == {}


@pytest.mark.parametrize("member", ["weight", "bias"])
@pytest.mark.parametrize(
    "norm", [nn.LayerNorm, nn.BatchNorm1d, nn.RMSNorm, lambda size: nn.GroupNorm(2, size)]
)
def test_a_file_looks_trained_where_a_norm_moved(
    norm: Callable[[int], nn.Module], member: str, tmp_path: Path
) -> None:
    net = Net(norm)
    assert said(saved(tmp_path, net.state_dict())) == {}
    moved = getattr(net.norm, member, None)
    if moved is not None:
        with torch.no_grad():
            moved[3] += 0.5
        assert said(saved(tmp_path, net.state_dict())) == FOUND


def test_what_is_no_norm_shows_no_training(tmp_path: Path) -> None:
    random = torch.randn(8)
    for others in (
        {"fc.weight": torch.randn(8, 8), "fc.bias": random},
        {"a.weight": torch.ones(8), "a.bias": torch.randn(4)},
        {"a.weight": torch.ones(8), "a.bias": random, "a.scale": random},
        {"a.bias": random},
        {"a.weight": torch.randn(())},
        {"a.weight": torch.ones(8), "a.running_mean": random, "a.running_var": random},
        {"a.weight": torch.arange(8), "a.bias": torch.arange(8)},
        {"a.weight": torch.randn(1 << 15)},  # not looked at: 128 KiB
    ):  # fmt: skip
        assert said(saved(tmp_path, {**others, ODD: LINE})) == {}


def test_a_norm_whose_weights_are_no_parameters_shows_no_training(tmp_path: Path) -> None:
    """A frozen batch norm has its numbers from elsewhere, in a model that is as it was made."""
    frozen = {f"bn.{name}": torch.rand(8) for name in ("weight", "bias", "running_mean", "running_var")}
    save_file({**frozen, ODD: LINE}, tmp_path / "a.safetensors")
    assert said(tmp_path / "a.safetensors") == {}


def training(folder: Path, *, steps: int = 1, **progress: Any) -> Path:
    """A checkpoint of a model without norms, after ``steps`` of Adam."""
    net = nn.Linear(8, 8)
    net.register_buffer(ODD, LINE.clone())
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(steps):
        net(torch.randn(2, 8)).sum().backward()
        optimizer.step()
    return saved(folder, {"model": net.state_dict(), "optimizer": optimizer.state_dict(), **progress})


def test_a_file_looks_trained_where_it_and_its_optimizer_count_steps(tmp_path: Path) -> None:
    for progress in ({"epoch": 1}, {"global_step": 10, "epoch": 0}, {"step": 0.5}, {"iteration": 7}):
        assert said(training(tmp_path, **progress), ("model",)) == FOUND
        assert said(training(tmp_path, steps=0, **progress), ("model",)) == {}
    for none in (
        {},
        {"epoch": 0},
        {"epoch": "1"},
        {"epoch": True},
        {"epoch": None},
        {"other": 3},
        {"a": {"epoch": 3}},
    ):
        assert said(training(tmp_path, **none), ("model",)) == {}


def test_an_optimizer_counts_its_steps_in_tensors_or_numbers(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    for step, found in ((torch.tensor(3.0), True), (3, True), (torch.tensor(0.0), False), (0, False),
                        (torch.ones(2), False), (torch.tensor(1.0, device="meta"), False)):  # fmt: skip
        state = {"step": step, "exp_avg": torch.zeros(2, 2)}
        group = {"params": [0, 1], "lr": 0.1}
        optimizer = {"state": {0: state}, "param_groups": [group]}
        whole = {"epoch": 2, "model": {**net.state_dict(), ODD: LINE}, "optimizer": optimizer}
        assert (said(saved(tmp_path, whole), ("model",)) == FOUND) is found, step


def test_only_what_all_else_leaves_unknown_is_judged(tmp_path: Path) -> None:
    path = saved(
        tmp_path, trained(**{ODD: LINE, "a.inv_freq": LINE + 1, "b.weight": LINE + 2, "c.mask": LINE > 1})
    )
    assert said(path) == FOUND
    checkpoint = read_checkpoint(str(path))
    named = [Classification(Kind.PARAMETER, Basis.NAME)] * len(checkpoint.entries)
    assert judge_contents(checkpoint, named, {()}, Sources(checkpoint.files)) == {}
    loose = Classification(Kind.UNKNOWN, Basis.NONE, note="plain tensor attribute", registered=False)
    entries = tuple([entry._replace(declared=loose) for entry in checkpoint.entries])
    assert judged(checkpoint._replace(entries=entries), {()}) == {}


def counted_reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is read whole from here on."""
    reads: list[Any] = []
    read = TensorReader.read

    def counted(self: TensorReader, info: Any, **how: Any) -> bytearray:
        reads.append(info)
        return read(self, info, **how)

    monkeypatch.setattr(TensorReader, "read", counted)
    return reads


def test_names_of_one_tensor_are_judged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = LINE.clone()
    path = saved(tmp_path, trained(wobble=line, wabble=line))
    reads = counted_reads(monkeypatch)
    assert set(said(path)) == {"wobble", "wabble"} and len(reads) == 2  # with that of the norm


def test_what_a_view_repeats_is_judged_once(tmp_path: Path) -> None:
    """A learnt vector in the place of a matrix is as symmetric as its strides make it."""
    learnt = torch.randn(31)
    for view in (
        learnt.unfold(0, 16, 1), learnt[:1].expand(40), learnt[:3].expand(8, 3),
        learnt[:6, None].expand(6, 6), learnt.softmax(0).expand(9, 1, 31),
    ):  # fmt: skip
        assert said(saved(tmp_path, trained(wobble=view))) == {}
    assert said(saved(tmp_path, trained(wobble=LINE.expand(8, 40)))) == FOUND
    assert said(saved(tmp_path, trained(wobble=LINE.expand(10**6, 40)))) == FOUND
    assert said(saved(tmp_path, trained(wobble=torch.arange(80.0).reshape(40, 2).T.contiguous().T / 7))) == {}
    assert set(said(saved(tmp_path, trained(wobble=torch.linspace(0, 1, 400)[::7])))) == {ODD}
    depthwise = KERNEL.expand(6, 1, 3, 3)
    assert said(saved(tmp_path, trained(wobble=depthwise))) == {ODD: "non-negative, with a sum of 1"}


def test_what_has_no_bytes_or_no_elements_says_nothing(tmp_path: Path) -> None:
    odd = {"m": LINE.to("meta"), "e": LINE[:0], "s": torch.tensor(3.0), "q": LINE.to_sparse()}
    assert said(saved(tmp_path, {**trained(**{ODD: LINE}), **odd})) == FOUND
    assert said(saved(tmp_path, {"norm.weight": torch.ones(2, device="meta"), ODD: LINE})) == {}


def deflated(path: Path) -> Path:
    """The same zip with its members compressed."""
    other = path.with_name("deflated.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return other


def test_compressed_storages_are_read_as_far_as_is_little(tmp_path: Path) -> None:
    """All that is before an element must be inflated: of a bomb, for each norm and each step."""
    near, far = torch.cat([torch.zeros(1 << 17), LINE]), torch.cat([torch.zeros(1 << 18), LINE])
    path = deflated(saved(tmp_path, trained(wobble=LINE, wabble=near[-40:], wubble=far[-40:])))
    assert set(said(path)) == {"wobble", "wabble"}
    assert said(deflated(saved(tmp_path, {"norm.weight": far[-40:], ODD: LINE}))) == {}
    assert said(deflated(saved(tmp_path, {"norm.weight": near[-40:], ODD: LINE}))) == FOUND
    for step, found in ((near[-1], FOUND), (far[-1], {})):
        optimizer = {"state": {0: {"step": step}}, "param_groups": [{"params": [0]}]}
        whole = {"epoch": 2, "model": {"fc.weight": torch.ones(2, 2), ODD: LINE}, "optimizer": optimizer}
        assert said(deflated(saved(tmp_path, whole)), ("model",)) == found


def in_chunks(path: Path, cuts: list[int]) -> Checkpoint:
    """``LINE`` under the name of ODD as chunks of the one that the file has."""
    checkpoint = read_checkpoint(str(path))
    whole = next(entry.tensor for entry in checkpoint.entries if entry.name == ODD)
    assert whole is not None
    ends = [*cuts[1:], whole.numel]
    chunks = [
        Chunk((low,), whole._replace(shape=(high - low,), storage_offset=whole.storage_offset + low))
        for low, high in zip(cuts, ends, strict=True)
    ]
    odd = Entry((), ODD, ChunkedTensor(whole.dtype, whole.shape, tuple(chunks)))
    entries = [odd if entry.name == ODD else entry for entry in checkpoint.entries]
    return checkpoint._replace(entries=tuple(entries))


def test_a_tensor_in_chunks_is_judged_whole(tmp_path: Path) -> None:
    path = saved(tmp_path, trained(wobble=LINE))
    for cuts in ([0], [0, 7], [0, 1, 2, 39]):
        (one,) = judged(in_chunks(path, cuts), {()}).values()
        assert one.note == "evenly spaced values"


def test_what_is_read_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"wobble{at}": torch.linspace(0, at + 1, 1000) for at in range(20)}
    path = saved(tmp_path, trained(**many))
    assert len(said(path)) == 20
    monkeypatch.setattr(contents, "_MOST_READ_NBYTES", 5 * 4000)
    assert list(said(path)) == [f"wobble{at}" for at in range(5)]
    monkeypatch.undo()
    for count, width, found in (
        (40, 4000, FOUND),
        (200, 2000, {}),
    ):  # with what lies between, 320 KiB and 1.6 MB
        far = torch.zeros(count, width)
        far[:, 0] = torch.linspace(0.1, 3, count)
        assert said(saved(tmp_path, trained(wobble=far[:, 0]))) == found


def test_few_norms_are_read_and_none_if_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = counted_reads(monkeypatch)
    norms = {f"n{at}.{name}": torch.ones(8) for at in range(100) for name in ("weight", "bias")}
    assert said(saved(tmp_path, norms)) == {} and not reads
    assert said(saved(tmp_path, {**norms, ODD: LINE})) == {} and len(reads) == 32
    reads.clear()
    norms["n0.weight"] = torch.rand(8)
    assert said(saved(tmp_path, {**norms, ODD: LINE})) == FOUND and len(reads) == 2


def test_a_file_that_changed_is_no_evidence(tmp_path: Path) -> None:
    path = saved(tmp_path, trained(wobble=LINE))
    checkpoint = read_checkpoint(str(path))
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(MalformedCheckpoint):
        judged(checkpoint, {()})


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_trained_file_of_learnt_tensors_has_no_such_buffers(tmp_path: Path, seed: int) -> None:
    learnt = {f"wobble{at}": values for at, (_, values) in enumerate(iter_learnt(seed, 100))}
    path = saved(tmp_path, trained(**learnt))
    checkpoint = read_checkpoint(str(path))
    with TensorReader(checkpoint.files) as reader:
        assert looks_trained(checkpoint, classify(checkpoint).classifications, {()}, reader)
    assert said(path) == {}
