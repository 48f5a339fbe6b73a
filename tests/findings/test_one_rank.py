"""State_dicts of DTensors and ShardedTensors, as one rank of a job saves them.

torch makes them without any other process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard as LocalShard
from torch.distributed._shard.sharded_tensor import ShardedTensor, ShardedTensorMetadata
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties
from torch.distributed._shard.sharding_spec import ChunkShardingSpec
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from ckpttool.formats import read_checkpoint
from ckpttool.inspection.inspect import inspect_checkpoint
from ckpttool.render.inspection import iter_inspection
from ckpttool.render.views import InspectListing
from ckpttool.values.checkpoint import CompositeTensor, Finding
from ckpttool.values.inspection import Inspection

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="torch is built without distributed"),
    pytest.mark.filterwarnings("ignore:Please use DTensor instead"),
]


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Iterator[int]:
    """Be the last rank of a job of so many, whose collectives do nothing."""
    world = getattr(request, "param", 2)
    dist.init_process_group("fake", store=FakeStore(), rank=world - 1, world_size=world)
    yield world
    dist.destroy_process_group()


def inspected(value: object, path: Path) -> tuple[Inspection, dict[str, Finding]]:
    torch.save(value, path)
    inspection = inspect_checkpoint(read_checkpoint(str(path)))
    return inspection, {finding.code: finding for finding in inspection.findings}


def shown(inspection: Inspection) -> str:
    lines = iter_inspection(inspection, 200, InspectListing())
    return "\n".join("".join(span.text for span in line) for line in lines)


def spread(mesh: Any, *placements: Placement, shape: tuple[int, ...] = (6, 4)) -> DTensor:
    return distribute_tensor(torch.ones(shape), mesh, placements)


@pytest.mark.parametrize("ranks", [2, 3, 8], indirect=True)
def test_a_shard_is_said_to_be_one(ranks: int, tmp_path: Path) -> None:
    mesh = init_device_mesh("cpu", (ranks,))
    state = {"w": spread(mesh, Shard(0)), "v": spread(mesh, Shard(1)), "b": spread(mesh, Replicate())}
    inspection, findings = inspected(state, tmp_path / "x.pt")
    here = sum(state[name].to_local().numel() for name in "wv")
    finding = findings["one-rank"]
    assert finding.severity == "warning"
    assert finding.message.startswith(f"one rank of {ranks}: {here} of 48 elements of 2 DTensors")
    assert f"on a mesh of {ranks} (rank {ranks - 1} saved it)" in finding.message
    assert f"w (Shard(0): {state['w'].to_local().shape[0]}×4 of 6×4)" in finding.message
    assert f"one rank of {ranks}: {here} of 48 elements" in shown(inspection)
    for row in (row for row in inspection.rows if not row.entry.root):
        value, tensor = row.entry.value, state[str(row.entry.name)]
        assert isinstance(value, CompositeTensor)
        details = dict(value.details)
        assert details["mesh"] == tuple(tensor.device_mesh.shape)
        assert [str(p) for p in details["placements"]] == [  # type: ignore[union-attr]
            {"S": f"Shard({getattr(p, 'dim', '')})", "R": "Replicate()"}[str(p)[0]] for p in tensor.placements
        ]


@pytest.mark.parametrize("ranks", [4], indirect=True)
def test_a_mesh_of_two_dimensions_and_sums(ranks: int, tmp_path: Path) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    _, findings = inspected({"w": spread(mesh, Replicate(), Shard(1))}, tmp_path / "x.pt")
    assert "one rank of 4: 12 of 24 elements of 1 DTensor on a mesh of 2×2" in findings["one-rank"].message
    assert "w (Replicate(), Shard(1): 6×2 of 6×4)" in findings["one-rank"].message
    flat = init_device_mesh("cpu", (4,))
    addend = DTensor.from_local(torch.ones(3), flat, [Partial()])
    _, findings = inspected({"w": addend}, tmp_path / "y.pt")
    assert "w (Partial(sum): 3 of 3)" in findings["one-rank"].message


@pytest.mark.parametrize("ranks", [1, 2], indirect=True)
def test_what_is_whole_is_not_said_to_be_a_part(ranks: int, tmp_path: Path) -> None:
    mesh = init_device_mesh("cpu", (ranks,))
    placement = Shard(0) if ranks == 1 else Replicate()
    _, findings = inspected({"w": spread(mesh, placement)}, tmp_path / "x.pt")
    assert "one-rank" not in findings
    _, findings = inspected({"w": torch.ones(3)}, tmp_path / "y.pt")
    assert "one-rank" not in findings


def test_the_mesh_is_no_entry_of_the_checkpoint(tmp_path: Path) -> None:
    """A mesh has its ranks in a tensor: below each DTensor, below the mesh that it is cut from, and alone."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    try:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        state = {
            "w": spread(mesh, Shard(0), Shard(1)),
            "part": spread(mesh["tp"], Shard(0)),
            "bias": torch.nn.Parameter(spread(mesh, Replicate(), Shard(0))),
            "mesh": mesh,
            "spec": spread(mesh, Replicate(), Replicate())._spec,
        }
        inspection, findings = inspected(state, tmp_path / "x.pt")
    finally:
        dist.destroy_process_group()
    assert [row.entry.name for row in inspection.rows] == ["w", "part", "bias"]
    assert {item.name for item in inspection.checkpoint.opaque} >= {"mesh", "spec"}
    assert findings.keys() <= {"one-rank", "weights-only-refuses", "storage-bloat"}


def sharded(rows: int, columns: int, ranks: int, *, here: bool = True) -> ShardedTensor:
    """What the last of ``ranks`` has of rows that are cut as by torch.chunk; nothing if not ``here``."""
    chunk = -(-rows // ranks)
    places = [
        ShardMetadata([start, 0], [min(chunk, rows - start), columns], f"rank:{rank}/cpu")
        for rank, start in enumerate(range(0, rows, chunk))
    ]
    properties = TensorProperties(dtype=torch.float32)
    whole = ShardedTensorMetadata(places, torch.Size([rows, columns]), properties)
    mine = [LocalShard(torch.ones(places[-1].shard_sizes), places[-1])] if here else []
    spec = ChunkShardingSpec(0, [f"rank:{rank}/cpu" for rank in range(ranks)])
    return ShardedTensor._init_from_local_shards_and_global_metadata(mine, whole, sharding_spec=spec)


@pytest.mark.parametrize("ranks", [2, 3], indirect=True)
def test_a_sharded_tensor_of_fsdp1_is_said_to_be_one_rank_s_part(ranks: int, tmp_path: Path) -> None:
    state = {"w": sharded(7, 4, ranks), "v": sharded(ranks, 2, ranks), "plain": torch.ones(3)}
    inspection, findings = inspected(state, tmp_path / "x.pt")
    local = {name: state[name].local_shards()[0].tensor for name in "wv"}
    here, whole = sum(tensor.numel() for tensor in local.values()), 28 + 2 * ranks
    message = findings["one-rank"].message
    assert message.startswith(f"one rank of {ranks}: {here} of {whole} elements of 2 ShardedTensors")
    assert f"(rank {ranks - 1} saved it)" in message
    assert f"w (Shard(0): {local['w'].shape[0]}×4 of 7×4)" in message
    assert [row.entry.name for row in inspection.rows] == ["w", "v", "plain"]
    for row in inspection.rows[:2]:
        value = row.entry.value
        assert isinstance(value, CompositeTensor)
        tensor = local[str(row.entry.name)]
        assert (value.shape, value.nbytes) == (tuple(state[str(row.entry.name)].size()), tensor.nbytes)


def test_a_rank_without_a_shard_has_nothing_of_it(tmp_path: Path) -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=2, world_size=3)
    try:
        _, findings = inspected({"w": sharded(2, 4, 3, here=False)}, tmp_path / "x.pt")
    finally:
        dist.destroy_process_group()
    assert "one rank of 3: 0 of 8 elements of 1 ShardedTensor" in findings["one-rank"].message
    assert "w (Shard(0): nothing of 2×4)" in findings["one-rank"].message
