"""Tensors of classes of their own, quantized, sparse and nested ones: their parts, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.pickled import tensors as module
from ckpttool.pickles.nodes import DictNode
from ckpttool.values.checkpoint import CompositeTensor, PlainList
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import LimitExceeded
from tests.hostile import pickles as op
from tests.support.walked import composite, node, obstacles, read, reader, rebuilt, refused, shapes, sized

FLOAT = BY_NAME["float32"]


# -- subclasses ---------------------------------------------------------------------------------------------

FROM_TYPE = "torch._tensor:_rebuild_from_type_v2"


def subclass(cls: str, state: Any, inner: bytes | None = None) -> bytes:
    function = "torch._utils:_rebuild_tensor_v2"
    args = (op.storage(), 0, (4,), (1,), False, None)
    if inner is not None:
        function, args = "torch._utils:_rebuild_wrapper_subclass", ()
    given = op.push(args) if inner is None else inner
    return op.call(FROM_TYPE, op.named(function), op.named(cls), given, state)


WRAPPED = op.push((op.named("m:Two"), op.named("torch:bfloat16"), (8, 2), (2, 1), 0, None, "cpu", True))


def test_a_subclass_without_tensors_is_a_tensor_of_that_class() -> None:
    for state in (None, {}, {"a": 1}, ({"a": [2]}, None), (None, {"b": 3})):
        found = read(subclass("m:Mine", state))
        assert (found.tensor.shape, found.subclass, found.is_parameter) == ((4,), "m.Mine", False)
    for cls in ("torch:Tensor", "torch._tensor:Tensor"):
        found = read(subclass(cls, {"a": sized(2)}))
        assert (found.tensor.shape, found.subclass, found.is_parameter) == ((4,), "", False)
        assert isinstance(found.attributes, DictNode) and found.attributes.items[0] == "a"
    found = read(subclass("torch.nn.parameter:Parameter", {"a": 1}))
    assert (found.subclass, found.is_parameter, found.attributes.items) == ("", True, ["a", 1])


@pytest.mark.parametrize(
    ("state", "is_parameter"),
    [
        ({"_is_param": True}, True),
        (({"_is_param": True}, None), True),
        ({"a": 1, "_is_param": True}, True),
        ({"_is_param": 1}, False),
        ({"_is_param": False}, False),
        ({"other": True}, False),
        ({5: True}, False),
        ((), False),
        (None, False),
        ((None, {"_is_param": True}), True),  # torch._utils._set_obj_state sets slots alike
        (op.ordered({"_is_param": True}), True),
    ],
)
def test_a_parameter_of_a_class_of_its_own_says_so(state: Any, is_parameter: bool) -> None:
    assert read(subclass("m:Mine", state)).is_parameter is is_parameter


def test_tensors_among_the_attributes_are_parts() -> None:
    state = (
        {"a": sized(2), "deep": {"b": [sized(3), 5, (sized(5),)]}, "o": op.ordered({"c": sized(6)})},
        {"s": sized(7)},
    )
    found = composite(subclass("m:Mine", state))
    assert (found.layout, found.type_name, found.dtype, found.shape) == ("subclass", "m.Mine", FLOAT, (4,))
    assert shapes(found) == {
        "data": (4,), "a": (2,), "deep.b.0": (3,), "deep.b.2.0": (5,), "o.c": (6,), "s": (7,),
    }  # fmt: skip
    assert list(shapes(found)) == ["data", "a", "deep.b.0", "deep.b.2.0", "o.c", "s"]
    outer = composite(subclass("m:Two", {"a": sized(2)}, WRAPPED))
    assert (outer.type_name, outer.dtype, outer.shape, shapes(outer)) == (
        "m.Two", BY_NAME["bfloat16"], (8, 2), {"a": (2,)},
    )  # fmt: skip
    assert outer.details == ()
    long = composite(subclass("m:Mine", {"x" * 200: {"y" * 200: sized(2)}}))
    assert [len(part.name) for part in long.parts] == [4, 256]


def test_what_else_may_hold_tensors_is_handed_on() -> None:
    held = op.call("m:Held", sized(9))
    found = read(subclass("m:Mine", {"a": held, "b": sized(2), "c": op.call("builtins:set", [1])}))
    assert isinstance(found.attributes, list)
    assert [item.name for item in found.attributes] == ["m.Held", "builtins.set"]
    inner = op.call("torch._utils:_rebuild_parameter_with_state", sized(2), True, None, {"more": 1})
    found = read(subclass("m:Mine", {"a": inner}))
    assert isinstance(found.attributes, DictNode) and found.attributes.items == ["more", 1]
    assert shapes(found.tensor) == {"data": (4,), "a": (2,)}  # type: ignore[arg-type]


def test_a_state_that_many_share_is_looked_through_once() -> None:
    tensors = reader()
    barren = DictNode(["a", [1, 2, 3]])
    call = node(subclass("m:Mine", None))
    for _ in range(5):
        call.args = (*call.args[:3], barren)
        assert tensors.read(call).subclass == "m.Mine"  # type: ignore[union-attr]
    assert tensors.dims == 5 * 2 + 1 + 3
    shared = [node(sized(2))]
    twice = DictNode(["a", shared, "b", shared])
    call.args = (*call.args[:3], twice)
    found = tensors.read(call)
    assert found is not None and [part.name for part in found.tensor.parts] == ["data", "a.0"]  # type: ignore[union-attr]


@pytest.mark.parametrize("module_", ["torch._tensor:_rebuild_from_type", "torch.tensor:_rebuild_from_type",
                                     "fastai.torch_core:_rebuild_from_type"])  # fmt: skip
def test_older_names_of_it_mean_the_same(module_: str) -> None:
    args = (op.storage(), 0, (4,), (1,), False, None)
    code = op.call(
        module_, op.named("torch._utils:_rebuild_tensor_v2"), op.named("m:Mine"), op.push(args), {}
    )
    assert read(code).subclass == "m.Mine"


def test_what_is_no_class_or_no_rebuild_is_refused_or_left() -> None:
    args = op.push((op.storage(), 0, (4,), (1,), False, None))
    v2 = op.named("torch._utils:_rebuild_tensor_v2")
    for code in (
        op.call(FROM_TYPE, v2, "m.Mine", args, {}),
        op.call(FROM_TYPE, "f", op.named("m:Mine"), args, {}),
    ):
        assert "_rebuild_from_type in the pickle: its function or type is not a global" in refused(code)
    assert rebuilt(op.call(FROM_TYPE, op.named("m:f"), op.named("m:Mine"), args, {})) is None
    wrapper = op.call(
        "torch._utils:_rebuild_wrapper_subclass", "m.Two", op.named("torch:int8"), (2,), (1,), 0, 0, 0, False
    )
    assert "_rebuild_wrapper_subclass in the pickle: its class is not a global" in refused(wrapper)


def test_rebuilds_within_rebuilds_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def nested(depth: int) -> bytes:
        code = op.tensor()
        for _ in range(depth):
            code = op.call("torch._utils:_rebuild_parameter", code, True, None)
        return code

    assert read(nested(16)).is_parameter
    assert "nested too deeply" in refused(nested(17))
    deep: Any = sized(2)
    for _ in range(16):
        deep = {
            "a": op.call(
                FROM_TYPE,
                op.named("torch._utils:_rebuild_tensor_v2"),
                op.named("m:M"),
                op.push((op.storage(), 0, (4,), (1,), False, None)),
                deep if isinstance(deep, dict) else {},
            )
        }
    assert "nested too deeply" in refused(subclass("m:Mine", {"x": subclass("m:M", deep)}))
    monkeypatch.setattr(module, "_MAX_ALL_PARTS", 3)
    tensors = reader()
    for _ in range(3):
        rebuilt(nested(1), tensors)
    rebuilt(nested(0), tensors)
    with pytest.raises(LimitExceeded, match="number of parts of tensors"):
        rebuilt(nested(1), tensors)


def test_each_level_of_a_rebuild_counts_once() -> None:
    def in_states(depth: int) -> bytes:
        code = subclass("m:Mine", {})
        for _ in range(depth):
            code = subclass("m:Mine", {"a": code})
        return code

    def in_arguments(depth: int) -> bytes:
        function, given = (
            op.named("torch._utils:_rebuild_tensor_v2"),
            op.push((op.storage(), 0, (4,), (1,), False, None)),
        )
        for _ in range(depth):
            given = op.push((function, op.named("m:Mine"), given, {}))
            function = op.named(FROM_TYPE)
        return op.call(FROM_TYPE, function, op.named("m:Mine"), given, {})

    for nest in (in_states, in_arguments):
        assert rebuilt(nest(15)) is not None
        assert "nested too deeply" in refused(nest(16))


# -- what is spread over ranks ----------------------------------------------------------------------------

SPREAD = op.with_state(
    op.call("t:DTensorSpec"),
    {"placements": (op.with_state(op.call("t:Shard"), {"dim": 0}),), "mesh": op.call("t:DeviceMesh")},
)


@pytest.mark.parametrize("module", ["_tensor.api", "tensor._api", "tensor"])
@pytest.mark.parametrize("slots", [False, True])
def test_a_dtensor_says_how_it_is_spread(slots: bool, module: str) -> None:
    attributes = {"_local_tensor": sized(3), 5: 6, "_spec": SPREAD, "other": 1}
    state = (None, attributes) if slots else attributes
    found = composite(subclass(f"torch.distributed.{module}:DTensor", state, WRAPPED))
    assert found.type_name == f"torch.distributed.{module}.DTensor"
    assert shapes(found) == {"_local_tensor": (3,)}
    assert found.details == (("placements", ("Shard(0)",)),)
    for other in (
        subclass("m:Two", state, WRAPPED),
        subclass("m:DTensor", state, WRAPPED),  # of some other library: nothing is known of its attributes
        subclass("torch.distributed.tensor:DTensor", {"_local_tensor": sized(3), "spec": SPREAD}, WRAPPED),
        subclass("torch.distributed.tensor:DTensor", {"_local_tensor": sized(3)}, WRAPPED),
    ):
        assert composite(other).details == ()


def shards(*tensors: bytes, rank: Any = 1) -> tuple[Any, ...]:
    held = [op.with_state(op.call("t:Shard"), {"tensor": tensor}) for tensor in tensors]
    ranks = op.with_state(op.call("t:Ranks"), {"local_rank": rank, "local_world_size": 4})
    return held, op.call("t:Metadata"), ranks, op.with_state(op.call("t:Spec"), {"dim": 0}), True


@pytest.mark.parametrize("module", ["_sharded_tensor", "_shard.sharded_tensor"])
def test_a_sharded_tensor_has_the_shards_of_this_rank(module: str) -> None:
    sharded = f"torch.distributed.{module}.api:ShardedTensor"
    for tensors in ((sized(2), sized(3)), (sized(2),), ()):
        found = read(subclass(sharded, shards(*tensors), WRAPPED))
        whole = found.tensor
        assert isinstance(whole, CompositeTensor) and whole.type_name == sharded.replace(":", ".")
        assert whole.details == (("placements", ("Shard(0)",)), ("mesh", (4,)), ("rank", 1))
        assert (whole.shape, whole.dtype) == ((8, 2), BY_NAME["bfloat16"])
        assert shapes(whole) == {f"_local_shards.{at}": (at + 2,) for at in range(len(tensors))}
        assert len(found.attributes) == (4 if tensors else 5)
    # What is no tensor leaves the whole without parts, and all of its state to be walked.
    found = read(subclass(sharded, shards(sized(2), op.call("m:f")), WRAPPED))
    assert isinstance(found.tensor, CompositeTensor) and found.tensor.parts == found.tensor.details == ()
    assert len(found.attributes) == 5
    assert composite(subclass("m:Other", {"a": sized(2)}, WRAPPED)).details == ()
    found = read(subclass("m:ShardedTensor", shards(sized(2)), WRAPPED))  # of some other library
    assert isinstance(found.tensor, CompositeTensor) and found.tensor.parts == found.tensor.details == ()
    assert len(found.attributes) == 4
    plain = read(subclass(sharded, {"a": sized(2)}))
    assert shapes(plain.tensor) == {"data": (4,), "a": (2,)}  # type: ignore[arg-type]


def test_dimensions_of_all_tensors_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ALL_DIMS", 8)
    tensors = reader()
    for _ in range(2):
        rebuilt(sized(2, 2), tensors)
    rebuilt(op.tensor(size=(), stride=()), tensors)
    with pytest.raises(LimitExceeded, match="number of dimensions"):
        rebuilt(sized(2), tensors)


# -- layouts ------------------------------------------------------------------------------------------------


def quantized(*quantizer: Any, size: tuple[int, ...] = (2, 3), whole: Any = None) -> bytes:
    storage = op.storage("q", "torch:QInt8Storage", 6)
    given = tuple(quantizer) if whole is None else whole
    return op.call("torch._utils:_rebuild_qtensor", storage, 0, size, (3, 1), given, True, None)


PER_TENSOR, PER_CHANNEL = op.named("torch:per_tensor_affine"), op.named("torch:per_channel_affine")


def test_a_quantizer_has_numbers_lists_or_tensors() -> None:
    found = composite(quantized(PER_TENSOR, 0.5, 3))
    assert (found.layout, found.type_name, found.dtype, found.shape) == (
        "quantized", "torch.per_tensor_affine", BY_NAME["qint8"], (2, 3),
    )  # fmt: skip
    assert found.details == (("qscheme", "torch.per_tensor_affine"), ("scale", 0.5), ("zero_point", 3))
    assert shapes(found) == {"int_repr": (2, 3)} and read(quantized(PER_TENSOR, 0.5, 3)).requires_grad is True
    found = composite(quantized(PER_CHANNEL, sized(2), sized(3), 1, "beyond"))
    assert shapes(found) == {"int_repr": (2, 3), "scale": (2,), "zero_point": (3,)}
    assert found.details == (("qscheme", "torch.per_channel_affine"), ("axis", 1))
    found = composite(quantized(PER_CHANNEL, [0.1, 0.2], [1, 2], 0))
    assert found.details[1:] == (("scale", (0.1, 0.2)), ("zero_point", (1, 2)), ("axis", 0))
    assert type(found.details[1][1]) is PlainList


@pytest.mark.parametrize(
    ("quantizer", "words"),
    [
        ((), "its quantizer has no scheme"),
        (("per_tensor", 0.5, 3), "its quantizer has no scheme"),
        ((PER_TENSOR,), "its quantizer has no scale or no zero point"),
        ((PER_TENSOR, 0.5), "its quantizer has no scale or no zero point"),
        ((PER_TENSOR, None, 3), "its quantizer's scale is neither a number nor a tensor"),
        ((PER_TENSOR, 0.5, "x"), "its quantizer's zero_point is neither a number nor a tensor"),
        ((PER_TENSOR, 0.5, 3, True), "its quantizer's axis is neither a number nor a tensor"),
        ((PER_TENSOR, op.call("m:f"), 3), "a tensor inside a tensor in the pickle: it is not a tensor"),
        ((PER_CHANNEL, [0.1] * 4, 3), "its quantizer has no number for each channel"),
        ((PER_CHANNEL, [0.1, "x"], 3), "its quantizer has no number for each channel"),
        ((PER_CHANNEL, [0.1, True], 3), "its quantizer has no number for each channel"),
    ],
)
def test_any_other_quantizer_is_refused(quantizer: tuple[Any, ...], words: str) -> None:
    assert words in refused(quantized(*quantizer))
    assert "its quantizer has no scheme" in refused(quantized(whole=[PER_TENSOR, 0.5, 3]))


def test_numbers_of_all_quantizers_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ALL_NUMBERS", 4)
    tensors = reader()
    rebuilt(quantized(PER_CHANNEL, [0.1, 0.2], [1, 2], 0), tensors)
    with pytest.raises(LimitExceeded, match="number of scales"):
        rebuilt(quantized(PER_CHANNEL, [0.1, 0.2], 1, 0), tensors)


def sparse(layout: str, *data: Any, function: str = "_rebuild_sparse_tensor") -> bytes:
    made = op.call("torch.serialization:_get_layout", f"torch.{layout}")
    return op.call(f"torch._utils:{function}", made, data)


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("sparse_coo", ("indices", "values")),
        ("sparse_csr", ("crow_indices", "col_indices", "values")),
        ("sparse_bsr", ("crow_indices", "col_indices", "values")),
        ("sparse_csc", ("ccol_indices", "row_indices", "values")),
        ("sparse_bsc", ("ccol_indices", "row_indices", "values")),
    ],
)
def test_each_sparse_layout_names_its_parts(layout: str, names: tuple[str, ...]) -> None:
    parts = [sized(at + 2) for at in range(len(names) - 1)]
    values = op.tensor(op.storage("v", "torch:HalfStorage", 64), size=(7,))
    for function in ("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor"):
        found = composite(sparse(layout, *parts, values, (30, 40), function=function))
        assert (found.layout, found.dtype, found.shape, found.coalesced) == (
            layout,
            BY_NAME["float16"],
            (30, 40),
            None,
        )
        assert shapes(found) == {name: (at + 2,) for at, name in enumerate(names[:-1])} | {"values": (7,)}
    short = sparse(layout, *parts, values)
    assert "malformed" in refused(short)


@pytest.mark.parametrize(
    ("more", "coalesced", "count"),
    [
        ((), None, 0),
        ((True,), True, 0),
        ((False,), False, 0),
        ((None,), None, 0),
        ((1,), None, 1),
        (("x",), None, 1),
    ],
)
def test_a_coo_tensor_says_whether_it_is_coalesced(
    more: tuple[Any, ...], coalesced: bool | None, count: int
) -> None:
    code = sparse("sparse_coo", sized(2), sized(3), (9,), *more)
    assert composite(code).coalesced is coalesced
    assert len(obstacles(code)) == count
    compressed = sparse("sparse_csr", sized(2), sized(3), sized(5), (9,), True)
    assert composite(compressed).coalesced is None and obstacles(compressed) == []


def test_data_of_a_sparse_tensor_that_is_no_tuple_is_refused() -> None:
    for data in ([sized(2), sized(3), (9,)], (sized(2), sized(3)), 5):
        code = op.call("torch._utils:_rebuild_sparse_tensor", op.named("torch:sparse_coo"), data)
        assert "its data is not a tuple of tensors and a size" in refused(code)
    assert "it is not a tensor" in refused(sparse("sparse_coo", sized(2), 5, (9,)))
    assert "it is not a tensor" in refused(sparse("sparse_coo", op.call("m:f"), sized(2), (9,)))


def test_a_nested_tensor_has_four_parts() -> None:
    parts = [op.tensor(op.storage("b", "torch:HalfStorage", 64), size=(9,)), sized(2), sized(3), sized(5)]
    found = composite(op.call("torch._utils:_rebuild_nested_tensor", *parts))
    assert (found.layout, found.dtype, found.shape) == ("nested", BY_NAME["float16"], None)
    assert shapes(found) == {"buffer": (9,), "sizes": (2,), "strides": (3,), "storage_offsets": (5,)}
    assert "it is not a tensor" in refused(op.call("torch._utils:_rebuild_nested_tensor", *parts[:3], 5))


def test_offsets_of_packed_elements_are_those_of_their_bytes() -> None:
    storage = op.storage("q", "torch:QUInt4x2Storage", 8)
    code = op.call(
        "torch._utils:_rebuild_qtensor", storage, 3, (2, 3), (3, 1), (PER_TENSOR, 0.5, 3), False, None
    )
    part = composite(code).parts[0].value
    packed = BY_NAME["quint4x2"]
    assert packed.per_offset == 2 and part.dtype is packed
    assert part.storage_offset == 3 * 2  # type: ignore[union-attr]
