"""What a DTensor or a ShardedTensor says of itself: over which devices, and how, it is spread.

- A rank saves its own ``_local_tensor`` and a ``DTensorSpec``, whose ``mesh`` is a ``DeviceMesh``, and whose
  ``placements`` are ``Shard(dim)``, ``_StridedShard``, ``Replicate()`` or ``Partial(op)``, one for each
  dimension of the mesh.
- A mesh MAY have its sizes as a tensor ``mesh`` (to torch 2.8), as ``_layout.shape`` (2.9 on), or as
  ``_layout.axes``, each with a ``shape`` (2.13).
- The rank MAY be in ``_rank``; where in the mesh it is, in ``_coordinate_on_dim``.

- A ``ShardedTensor`` (FSDP1) is pickled by its state: a list of ``Shard``, each with a ``tensor``; the
  metadata; the rank in its group and in the job, and their sizes; the spec, which MAY have a ``dim``; a flag.

Source: ``torch/distributed/tensor/_dtensor_spec.py``, ``placement_types.py``, ``device_mesh.py``,
``_mesh_layout.py``, ``_shard/sharded_tensor/api.py`` of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import prod

from ckpttool.formats.pickled.nodes import attribute_items
from ckpttool.pickles.nodes import Call, Node
from ckpttool.values.checkpoint import Plain

_MOST_DIMS = 16  # of a mesh; more are not told of
_MOST_STEPS = 64  # attributes looked at
_MOST_BITS = 32  # of a rank, and of how many there are
_SHARDED_STATE = 5  # what ``ShardedTensor.__getstate__`` returns


def describe_spec(spec: Node) -> tuple[tuple[str, Plain], ...]:
    """``placements``, ``mesh`` (its sizes) and ``rank``, as far as they are said."""
    attributes = _attributes(spec)
    placements = attributes.get("placements")
    if not isinstance(placements, (tuple, list)) or not 0 < len(placements) <= _MOST_DIMS:
        return ()
    details: list[tuple[str, Plain]] = [("placements", tuple(map(_placement, placements)))]
    mesh = _attributes(attributes.get("mesh"))
    sizes = _mesh_sizes(mesh)
    if sizes and len(sizes) <= _MOST_DIMS and not prod(sizes) >> _MOST_BITS:
        details.append(("mesh", sizes))
    if type(rank := mesh.get("_rank")) is int and not rank >> _MOST_BITS:
        details.append(("rank", rank))
    return tuple(details)


def local_shards(state: Node) -> Iterator[Node]:
    """The tensors of a ShardedTensor that this rank has; none where ``state`` is not that of one."""
    if isinstance(state, tuple) and len(state) == _SHARDED_STATE and isinstance(state[0], list):
        for shard in state[0]:
            yield _attributes(shard).get("tensor")


def describe_shards(state: Node) -> tuple[tuple[str, Plain], ...]:
    """The same of the state of a ShardedTensor: one dimension of ranks, of which each has a part."""
    if not isinstance(state, tuple) or len(state) != _SHARDED_STATE:
        return ()
    ranks, spec = _attributes(state[2]), _attributes(state[3])
    rank, size = ranks.get("local_rank"), _ints(ranks.get("local_world_size"))
    if type(rank) is not int or not size or rank >> _MOST_BITS or prod(size) >> _MOST_BITS:
        return ()
    placed = f"Shard({str(spec['dim'])[:20]})" if type(spec.get("dim")) is int else "sharded"
    return ("placements", (placed,)), ("mesh", size), ("rank", rank)


def _attributes(node: Node) -> dict[str, Node]:
    """The first attributes of an object; none of one that is built very often: many tensors may share it."""
    if not isinstance(node, Call) or len(node.states or ()) > _MOST_STEPS:
        return {}
    return {key: value for key, value in islice(attribute_items(node), _MOST_STEPS) if type(key) is str}


def _placement(node: Node) -> str:
    """``Shard(0)``, ``Replicate()``, ``Partial(sum)``."""
    if not isinstance(node, Call):
        return "?"
    state = _attributes(node)
    arguments = [str(state[key])[:20] for key in ("dim", "reduce_op") if type(state.get(key)) in (int, str)]
    return f"{node.name.rpartition('.')[2][:40]}({', '.join(arguments)})"


def _mesh_sizes(mesh: dict[str, Node]) -> tuple[int, ...]:
    layout = _attributes(mesh.get("_layout"))
    axes = layout.get("axes")
    if isinstance(axes, (tuple, list)):
        return tuple(prod(_ints(_attributes(axis).get("shape"))) for axis in axes[: _MOST_DIMS + 1])
    if "shape" in layout:
        return _ints(layout["shape"])
    tensor = mesh.get("mesh")  # _rebuild_tensor_v2(storage, offset, size, …)
    args = tensor.args if isinstance(tensor, Call) else ()
    return _ints(args[2]) if isinstance(args, tuple) and len(args) > 2 else ()


def _ints(node: Node) -> tuple[int, ...]:
    """Sizes, or one; nothing for what is none."""
    items = node if isinstance(node, (tuple, list)) else (node,)
    sizes = tuple(item for item in items if type(item) is int and item > 0)
    return sizes if len(sizes) == len(items) <= _MOST_DIMS else ()
