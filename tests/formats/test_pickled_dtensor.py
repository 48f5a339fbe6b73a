"""How a DTensor or a ShardedTensor is spread, by what its pickle says."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.pickled.dtensor import describe_shards, describe_spec, local_shards
from ckpttool.pickles.nodes import Call, DictNode, Global
from tests.support.walked import called


def stated(name: str, **attributes: Any) -> Call:
    made = called(name)
    made.states = [DictNode([item for pair in attributes.items() for item in pair])]
    return made


SHARD, REPLICATE = stated("t.Shard", dim=1), called("t.Replicate")


def spec(placements: Any, **mesh: Any) -> Call:
    return stated("t.DTensorSpec", placements=placements, mesh=stated("t.DeviceMesh", **mesh))


@pytest.mark.parametrize(
    ("placement", "text"),
    [
        (SHARD, "Shard(1)"),
        (REPLICATE, "Replicate()"),
        (stated("a.b.Partial", reduce_op="sum"), "Partial(sum)"),
        (stated("t._StridedShard", dim=0, split_factor=2), "_StridedShard(0)"),
        (stated("t.Both", reduce_op="avg", dim=2), "Both(2, avg)"),
        (stated("t.Shard", dim=True), "Shard()"),
        (stated("t.Shard", dim=None), "Shard()"),
        (5, "?"),
        ("Shard", "?"),
        (stated("t." + "x" * 50, dim="y" * 30), "x" * 40 + "(" + "y" * 20 + ")"),
    ],
)
def test_a_placement_in_words(placement: Any, text: str) -> None:
    assert describe_spec(spec((placement,))) == (("placements", (text,)),)
    assert describe_spec(spec([placement, SHARD])) == (("placements", (text, "Shard(1)")),)


def test_without_placements_nothing_is_said() -> None:
    for placements in ((), [], None, "Shard(0)", DictNode(), (SHARD,) * 17):
        assert describe_spec(spec(placements, _rank=1)) == ()
    assert describe_spec(spec((SHARD,) * 16))[0][1] == ("Shard(1)",) * 16
    assert describe_spec(5) == () and describe_spec(called("t.DTensorSpec")) == ()
    assert describe_spec(stated("t.DTensorSpec", placements=(SHARD,))) == (("placements", ("Shard(1)",)),)
    assert describe_spec(stated("t.DTensorSpec", placements=(SHARD,), mesh=5)) == (
        ("placements", ("Shard(1)",)),
    )


def test_what_many_tensors_may_share_is_looked_at_a_little() -> None:
    built_often = spec((SHARD,))
    assert built_often.states is not None
    built_often.states[:0] = [DictNode()] * 63
    assert describe_spec(built_often)
    built_often.states[:0] = [DictNode()]
    assert describe_spec(built_often) == ()
    behind = spec((SHARD,))
    assert behind.states is not None and isinstance(behind.states[0], DictNode)
    behind.states[0].items[:0] = [5, 5] * 63
    assert describe_spec(behind) == (("placements", ("Shard(1)",)),)
    behind.states[0].items[:0] = [5, 5]
    assert describe_spec(behind) == ()


def mesh_of(**mesh: Any) -> Any:
    return dict(describe_spec(spec((SHARD,), **mesh))).get("mesh")


def rebuilt(size: Any) -> Call:
    return called("torch._utils._rebuild_tensor_v2", "storage", 0, size, (1,))


def layout(**attributes: Any) -> Call:
    return stated("t._MeshLayout", **attributes)


AXIS = stated("t.Axis", shape=3)


@pytest.mark.parametrize(
    ("mesh", "sizes"),
    [
        ({"mesh": rebuilt((2, 4))}, (2, 4)),
        ({"mesh": rebuilt([2, 4])}, (2, 4)),
        ({"mesh": rebuilt((2, 0))}, None),
        ({"mesh": rebuilt((2, True))}, None),
        ({"mesh": rebuilt("x")}, None),
        ({"mesh": 5}, None),
        ({"mesh": called("f", 1, 2)}, None),
        ({"mesh": called("f", 1, 2, (3,))}, (3,)),
        ({"mesh": Call("reduce", Global("t", "f", 0), [1, 2, (3,)], 0)}, None),
        ({"_layout": layout(shape=(2, 4))}, (2, 4)),
        ({"_layout": layout(shape=8)}, (8,)),
        ({"_layout": layout(shape=-8)}, None),
        ({"_layout": layout(shape=None)}, None),
        ({"_layout": layout(shape=(2, 4)), "mesh": rebuilt((9,))}, (2, 4)),
        ({"_layout": layout(other=1), "mesh": rebuilt((9,))}, (9,)),
        ({"_layout": layout(axes=(AXIS, stated("t.Axis", shape=(2, 2))))}, (3, 4)),
        ({"_layout": layout(axes=[AXIS]), "mesh": rebuilt((9,))}, (3,)),
        ({"_layout": layout(axes=5, shape=7)}, (7,)),
        ({"_layout": layout(axes=(AXIS,) * 16)}, (3,) * 16),
        ({"_layout": layout(axes=(AXIS,) * 17)}, None),
        ({"_layout": layout(shape=(1,) * 16)}, (1,) * 16),
        ({"_layout": layout(shape=(1,) * 17)}, None),
        ({"_layout": layout(shape=(1 << 16, (1 << 16) - 1))}, (1 << 16, (1 << 16) - 1)),
        ({"_layout": layout(shape=(1 << 16, 1 << 16))}, None),
        ({}, None),
    ],
)
def test_sizes_of_the_mesh_stand_in_one_of_three_places(mesh: Any, sizes: Any) -> None:
    assert mesh_of(**mesh) == sizes


@pytest.mark.parametrize(("rank", "said"), [(0, True), (5, True), (True, False), ("1", False), (None, False)])
def test_the_rank_is_a_number(rank: Any, said: bool) -> None:
    found = describe_spec(spec((SHARD,), _rank=rank, _layout=layout(shape=2)))
    assert found == (("placements", ("Shard(1)",)), ("mesh", (2,)), *([("rank", rank)] if said else []))


def test_only_the_first_attributes_are_looked_at() -> None:
    first = {f"a{at}": at for at in range(61)}
    assert describe_spec(stated("t.S", **first, placements=(SHARD,))) != ()
    assert describe_spec(stated("t.S", **first, a61=1, a62=1, a63=1, placements=(SHARD,))) == ()
    assert describe_spec(stated("t.S", **first, a61=1, a62=1, placements=(SHARD,))) != ()


# -- ShardedTensor ------------------------------------------------------------------------------------------


def sharded(shards: Any = (), ranks: Any = None, placed: Any = None, *more: Any) -> tuple[Any, ...]:
    ranks = stated("t.Ranks", local_rank=1, local_world_size=4) if ranks is None else ranks
    return (list(shards), "metadata", ranks, placed, True, *more)


def test_a_sharded_tensor_says_its_rank_and_the_dimension() -> None:
    rest = (("mesh", (4,)), ("rank", 1))
    chunked = stated("t.ChunkShardingSpec", dim=0)
    assert describe_shards(sharded(placed=chunked)) == (("placements", ("Shard(0)",)), *rest)
    for placed in (
        None,
        stated("t.Enumerable", shards=1),
        stated("t.Spec", dim="x"),
        stated("t.Spec", dim=True),
    ):
        assert describe_shards(sharded(placed=placed)) == (("placements", ("sharded",)), *rest)
    for ranks in (
        5,
        stated("t.Ranks", local_rank=1),
        stated("t.Ranks", local_world_size=4),
        stated("t.Ranks", local_rank=True, local_world_size=4),
        stated("t.Ranks", local_rank=1, local_world_size=0),
        stated("t.Ranks", local_rank=1 << 4000, local_world_size=4),
        stated("t.Ranks", local_rank=1, local_world_size=1 << 32),
    ):
        assert describe_shards(sharded(ranks=ranks)) == ()
    for state in (list(sharded()), sharded()[:4], sharded((), None, None, 6), None):
        assert describe_shards(state) == ()


def test_tensors_of_its_shards_are_those_of_this_rank() -> None:
    one, other = object(), object()
    state = sharded(
        [stated("t.Shard", tensor=one), stated("t.Shard", metadata=1), stated("t.Shard", tensor=other), 5]
    )
    assert [*local_shards(state)] == [one, None, other, None]
    assert [*local_shards(sharded())] == []
    for wrong in (list(state), state[:4], (*state, 1), (tuple(state[0]), *state[1:]), None):
        assert [*local_shards(wrong)] == []
