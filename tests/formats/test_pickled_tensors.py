"""Rebuild calls by their arguments: what is made of them, what is refused, and what torch would not take."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.formats.pickled import tensors as module
from ckpttool.formats.pickled.arguments import MAX_INT64
from ckpttool.formats.pickled.tensors import StoredTensor
from ckpttool.pickles.nodes import Call, DictNode, PersistentId
from ckpttool.values.checkpoint import CompositeTensor, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint
from tests.hostile import pickles as op
from tests.support.walked import node, obstacles, read, reader, rebuilt, refused

FLOAT = BY_NAME["float32"]


# -- strided ------------------------------------------------------------------------------------------------


def test_three_versions_of_a_strided_tensor() -> None:
    expected = TensorInfo(FLOAT, (2, 3), (3, 1), 5, StorageRef("f", "7", 0, 80, "cuda:1"))
    source = op.storage("7", numel=20, location="cuda:1")
    first = op.call("torch._utils:_rebuild_tensor", source, 5, (2, 3), (3, 1))
    assert read(first) == StoredTensor(expected)
    for flag in (True, False):
        second = op.tensor(source, 5, (2, 3), (3, 1), flag)
        assert read(second) == StoredTensor(expected, flag)
    untyped = op.storage("7", "torch.storage:UntypedStorage", 80, "cuda:1")
    for name in ("float32", "int32"):
        third = op.call(
            "torch._utils:_rebuild_tensor_v3",
            untyped,
            5,
            (2, 3),
            (3, 1),
            True,
            None,
            op.named(f"torch:{name}"),
        )
        assert read(third) == StoredTensor(expected._replace(dtype=BY_NAME[name]), True)
    assert "an untyped storage without a dtype" in refused(op.tensor(untyped))


@pytest.mark.parametrize(
    ("metadata", "bits"),
    [
        (None, (False, False)),
        ({}, (False, False)),
        ({"conj": True}, (True, False)),
        ({"neg": True}, (False, True)),
        ({"conj": True, "neg": True}, (True, True)),
        ({"conj": 1, "neg": "x"}, (False, False)),
        ({5: True, "other": True}, (False, False)),
        (op.ordered({"neg": True}), (False, True)),
        (op.EMPTY_DICT + op.push([1]) + op.NONE + op.SETITEM, (False, False)),
        (7, (False, False)),
    ],
)
def test_the_conj_and_neg_bits_are_in_the_metadata(metadata: Any, bits: tuple[bool, bool]) -> None:
    source = op.storage("0", "torch:ComplexFloatStorage")
    untyped = op.storage("0", "torch.storage:UntypedStorage", 32)
    rest = (0, (4,), (1,), False, None)
    for code in (
        op.tensor(source, *rest, metadata),
        op.call("torch._utils:_rebuild_tensor_v3", untyped, *rest, op.named("torch:complex64"), metadata),
    ):
        found = read(code).tensor
        assert isinstance(found, TensorInfo) and (found.conj, found.neg) == bits


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": -1}, "storage_offset is not a non-negative integer"),
        ({"offset": True}, "storage_offset is not a non-negative integer"),
        ({"offset": 1.0}, "storage_offset is not a non-negative integer"),
        ({"offset": MAX_INT64 + 1}, "storage_offset does not fit in 63 bits"),
        ({"size": (2, 2)}, "2 sizes but 1 stride"),
        ({"stride": ()}, "1 size but 0 strides"),
        ({"source": op.push(5)}, "first argument is not a storage"),
        ({"source": op.tensor()}, "first argument is not a storage"),
    ],
)  # fmt: skip
def test_an_address_that_torch_would_not_write_is_refused(change: Any, words: str) -> None:
    assert f"malformed tensor in the pickle: {words}" in refused(op.tensor(**change)).replace("its ", "")


def test_the_largest_offset_is_taken() -> None:
    found = read(op.tensor(offset=MAX_INT64)).tensor
    assert isinstance(found, TensorInfo) and found.storage_offset == MAX_INT64


@pytest.mark.parametrize(
    ("function", "needs"),
    [
        ("torch._utils:_rebuild_tensor", 4), ("torch._utils:_rebuild_tensor_v2", 5),
        ("torch._utils:_rebuild_meta_tensor_no_storage", 4),
    ],
)  # fmt: skip
def test_arguments_that_are_too_few_or_no_tuple_are_refused(function: str, needs: int) -> None:
    full = {
        "torch._utils:_rebuild_meta_tensor_no_storage": (op.named("torch:float32"), (4,), (1,), False),
    }.get(function, (op.storage(), 0, (4,), (1,), False))
    name = function.partition(":")[2]
    for count in range(needs):
        words = f"malformed {name} in the pickle: {count} argument{'' if count == 1 else 's'}, too few"
        assert words in refused(op.call(function, *full[:count]))
    assert read(op.call(function, *full[:needs])).tensor.shape == (4,)
    whole = op.named(function) + op.push(list(full)) + op.REDUCE
    assert f"malformed {name} in the pickle: its arguments are not a tuple" in refused(whole)


def test_any_other_call_is_no_tensor() -> None:
    for function in (
        "torch._utils:_rebuild_tensor_v4",
        "torch:_rebuild_tensor_v2",
        "os:system",
        "torch._utils:x",
    ):
        assert rebuilt(op.call(function, op.storage(), 0, (4,), (1,), False, None)) is None
    computed = op.call("m:f") + op.push((op.storage(), 0, (4,), (1,), False)) + op.REDUCE
    assert rebuilt(computed) is None


@pytest.mark.parametrize(
    ("dtype", "flag", "words"),
    [
        ("FloatStorage", True, []),
        ("FloatStorage", False, []),
        ("ComplexFloatStorage", True, []),
        ("LongStorage", False, []),
        ("LongStorage", True, ["a tensor of whole numbers that requires a gradient"]),
        ("BoolStorage", True, ["a tensor of whole numbers that requires a gradient"]),
        ("FloatStorage", None, ["a tensor whose requires_grad is neither true nor false"]),
        ("LongStorage", 1, ["a tensor whose requires_grad is neither true nor false"]),
    ],
)
def test_what_torch_would_not_take_of_a_flag_is_an_obstacle(dtype: str, flag: Any, words: list[str]) -> None:
    code = op.tensor(op.storage("0", f"torch:{dtype}"), requires_grad=flag)
    assert obstacles(code) == words
    assert read(code).requires_grad is (flag if type(flag) is bool else None)


# -- storages -----------------------------------------------------------------------------------------------


def test_one_storage_has_one_type_whichever_tensor_asks() -> None:
    tensors = reader()
    rebuilt(op.tensor(op.storage("0", "torch:FloatStorage", 4)), tensors)
    rebuilt(op.tensor(op.storage("0", "torch:FloatStorage", 4)), tensors)
    rebuilt(op.tensor(op.storage("1", "torch:HalfStorage", 4)), tensors)
    with pytest.raises(MalformedCheckpoint, match="a storage is given two types") as caught:
        rebuilt(op.tensor(op.storage("0", "torch:IntStorage", 4)), tensors)
    assert caught.value.name == "0" and tensors.storages == 4
    # An untyped storage is one of bytes.
    both = reader()
    rebuilt(op.tensor(op.storage("0", "torch:ByteStorage", 4)), both)
    untyped = op.storage("0", "torch.storage:UntypedStorage", 4)
    third = op.call(
        "torch._utils:_rebuild_tensor_v3", untyped, 0, (4,), (1,), False, None, op.named("torch:int8")
    )
    assert rebuilt(third, both) is not None


def fixed(nbytes: int) -> Any:
    """A container in which every storage has this length."""
    return lambda claim: StorageRef("f", claim.key, 0, nbytes, claim.location)


def of(nbytes: int, *codes: bytes, **more: Any) -> Any:
    tensors = module.TensorReader(fixed(nbytes), **more)
    for code in codes:
        rebuilt(code, tensors)
    return tensors


@pytest.mark.parametrize("view", [(), (None,), (("v", 0, 4),), (("v", 2, 2),), (("v", 4, 0),)])
def test_a_storage_and_what_is_viewed_of_it_must_be_there(view: Any) -> None:
    code = op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", *view))
    assert of(16, code).obstacles == {}
    assert list(of(20, code).obstacles) == ["a storage of another size than its pickle says"]
    with pytest.raises(MalformedCheckpoint, match="a storage is smaller than its pickle says") as caught:
        of(15, code)
    assert (caught.value.name, caught.value.expected, caught.value.actual) == ("0", "16 bytes", 15)


def test_a_view_of_a_storage_is_an_offset_into_it() -> None:
    view = op.storage("0", "torch:FloatStorage", 9, "cpu", ("v", 2, 3))
    found = read(op.tensor(view, 1, (2,))).tensor
    assert isinstance(found, TensorInfo) and found.storage_offset == 3
    assert found.storage == StorageRef("f", "0", 0, 36, "cpu")


def test_ids_have_the_length_that_the_loader_takes_apart() -> None:
    five, six = op.tensor(), op.tensor(op.storage("1", "torch:FloatStorage", 4, "cpu", None))
    assert obstacles(five, id_length=5) == obstacles(six, id_length=6) == obstacles(five, six) == []
    assert obstacles(six, six, id_length=5) == ["a storage's persistent id of 6 parts instead of 5"]
    assert obstacles(five, id_length=6) == ["a storage's persistent id of 5 parts instead of 6"]
    # Only where it is met first: a loader knows it by then.
    later = op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None))
    assert obstacles(five, later, id_length=5) == []
    larger = op.tensor(op.storage("0", "torch:FloatStorage", 3))
    assert of(16, five, larger).obstacles == {}


def ids(*codes: bytes) -> list[PersistentId]:
    return [node(code) for code in codes]


def test_ids_that_no_tensor_holds_are_asked_for_all_the_same() -> None:
    good, short, module_ = (
        op.storage("1"),
        op.storage("2", numel=5),
        op.push(("module", "a", "b")) + op.BINPERSID,
    )
    text, unknown = op.push("text") + op.BINPERSID, op.push((1, "module")) + op.BINPERSID
    empty, listed = op.push(()) + op.BINPERSID, op.push(["module"]) + op.BINPERSID
    tensors = of(16)
    tensors.check_rest(ids(good, short, module_, good))
    assert list(tensors.obstacles) == ["a storage of another size than its pickle says"]
    for wrong in (text, unknown, empty, listed):
        tensors = of(16)
        tensors.check_rest(ids(wrong))
        assert len(tensors.obstacles) == 1 and "persistent id" in next(iter(tensors.obstacles))
    # What a tensor holds was looked at; as many ids as tensors leave nothing to look for.
    tensors = of(16, op.tensor())
    tensors.check_rest(ids(short))
    assert tensors.obstacles == {}
    tensors.check_rest(ids(op.storage(), op.storage("0", numel=7)))
    assert tensors.obstacles == {}
    tensors.check_rest(ids(op.storage("1"), op.storage("1", numel=7), op.storage("1")))
    assert tensors.obstacles == {}

    def lost(claim: Any) -> StorageRef:
        raise MalformedCheckpoint("there is none", name=claim.key)

    tensors = module.TensorReader(lost)
    tensors.check_rest(ids(good))
    assert list(tensors.obstacles) == ["there is none"]


def test_a_storage_inside_the_pickle_is_read_once() -> None:
    asked = []

    def inside(raw: bytes) -> tuple[StorageRef, Any]:
        asked.append(raw)
        return StorageRef("f", "in", 9, 8, "cuda:3" if raw == b"a" * 200 else None), BY_NAME["int16"]

    tensors = reader(resolve_nested=inside)
    loaded = node(op.call("torch.storage:_load_from_bytes", op.BINBYTES(b"a" * 200)))
    for _ in range(2):
        ref, claim = tensors.storage(loaded)
        assert (ref.key, claim.key, claim.dtype, claim.numel, claim.location) == (
            "in", "in", BY_NAME["int16"], 4, "cuda:3",
        )  # fmt: skip
    assert len(asked) == 1
    nowhere = node(op.call("torch.storage:_load_from_bytes", op.BINBYTES(b"b")))
    assert tensors.storage(nowhere)[1].location == "cpu"
    for wrong in (
        op.call("torch.storage:_load_from_bytes", "text"),
        op.call("torch:_load_from_bytes", op.BINBYTES(b"a")),
        op.call("torch.storage:_load", op.BINBYTES(b"a")),
        op.call("torch.storage:_load_from_bytes", op.BINBYTES(b"a"), 1),
        op.call("m:f") + op.push((op.BINBYTES(b"a"),)) + op.REDUCE,
    ):
        assert "malformed tensor in the pickle: its first argument is not a storage" in refused(
            op.tensor(wrong), resolve_nested=inside
        )
    assert "not a storage" in refused(op.tensor(op.call("torch.storage:_load_from_bytes", op.BINBYTES(b"a"))))


# -- around one tensor --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "more", "flag"),
    [
        ("torch._utils:_rebuild_parameter", (True, None), True),
        ("torch._utils:_rebuild_parameter", (False, None), False),
        ("torch._utils:_rebuild_parameter_with_state", (False, None, {}), False),
        ("torch.nn.parameter:Parameter", (), True),
        ("torch.nn.parameter:Parameter", (False,), False),
        ("torch.nn.parameter:Parameter", (None,), None),
    ],
)
def test_a_parameter_is_its_data(function: str, more: tuple[Any, ...], flag: bool | None) -> None:
    found = read(op.call(function, op.tensor(requires_grad=None), *more))
    assert (found.tensor.shape, found.requires_grad, found.is_parameter) == ((4,), flag, True)
    assert "it is not a tensor" in refused(op.call(function, 5, *more))
    assert "it is not a tensor" in refused(op.call(function, op.call("m:f"), *more))


def test_the_state_of_a_parameter_may_hold_others() -> None:
    function = "torch._utils:_rebuild_parameter_with_state"
    assert read(op.call(function, op.tensor(), True, None)).attributes is None
    assert read(op.call(function, op.tensor(), True, None, 5)).attributes is None
    state = read(op.call(function, op.tensor(), True, None, {"a": 1})).attributes
    assert isinstance(state, DictNode) and state.items == ["a", 1]
    inner = op.call(function, op.tensor(), True, None, {"a": 1})
    both = read(op.call(function, inner, True, None, [2])).attributes
    assert len(both) == 2 and both[0].items == ["a", 1] and both[1] == [2]
    assert read(op.call(function, inner, True, None)).attributes.items == ["a", 1]


def test_tensors_of_other_devices() -> None:
    cpu = op.call(
        "torch._utils:_rebuild_device_tensor_from_cpu_tensor",
        op.tensor(),
        op.named("torch:float32"),
        "xla",
        True,
    )
    assert read(cpu) == StoredTensor(read(op.tensor()).tensor, True)
    for device, details in (("xla:" + "0" * 99, (("device", "xla:" + "0" * 60),)), (5, ())):
        code = op.call(
            "torch._utils:_rebuild_device_tensor_from_numpy", 1, op.named("torch:int8"), device, False
        )
        expected = CompositeTensor("numpy", "torch.Tensor", BY_NAME["int8"], None, (), details)
        assert read(code) == StoredTensor(expected, False)
    meta = op.call(
        "torch._utils:_rebuild_meta_tensor_no_storage", op.named("torch:int8"), (2, 3), (3, 1), False
    )
    assert read(meta) == StoredTensor(TensorInfo(BY_NAME["int8"], (2, 3), (3, 1), 0, None), False)


@pytest.mark.parametrize(
    ("name", "is_parameter"), [("UninitializedParameter", True), ("UninitializedBuffer", False)]
)
def test_what_has_no_shape_yet(name: str, is_parameter: bool) -> None:
    whole = CompositeTensor("uninitialized", f"torch.nn.parameter.{name}", None, None, ())
    for args, flag in (((), None), ((True,), True), ((False,), False), ((1,), None)):
        assert read(op.call(f"torch.nn.parameter:{name}", *args)) == StoredTensor(whole, flag, is_parameter)


def test_a_call_made_by_hand_is_refused_where_its_depth_is() -> None:
    call = node(op.tensor())
    assert isinstance(call, Call)
    with pytest.raises(MalformedCheckpoint) as caught:
        reader().read(call, 17)
    assert caught.value.byte_offset == call.byte_offset
    assert reader().read(call, 16) is not None
