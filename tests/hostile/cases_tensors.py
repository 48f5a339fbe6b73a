"""Tensors whose numbers do not hold: each is refused, with the place."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.containers import DEFLATED, legacy, torch_zip

FLOAT = "torch:FloatStorage"


def _in_zip(code: bytes, **fields: object) -> bytes:
    return torch_zip(op.dump({"w": code}), **fields)  # type: ignore[arg-type]


def _storage(**change: object) -> bytes:
    fields = {"key": "0", "cls": FLOAT, "numel": 4, "location": "cpu", **change}
    return op.tensor(op.storage(*fields.values()))


def _quantizer(offset: object = 0, size: object = (4,), stride: object = (1,)) -> bytes:
    quantizer = (op.named("torch:per_tensor_affine"), 0.5, 0)
    source = op.storage("0", "torch:QInt8Storage", 16)
    hooks = op.call("collections:OrderedDict")
    return op.call("torch._utils:_rebuild_qtensor", source, offset, size, stride, quantizer, False, hooks)


_HUGE = op.LONG4(b"\xff" * 41_524 + b"\x00")  # an integer of 100,000 digits

# What follows the tensor's name, and a part of the refusal.
TENSORS: dict[str, tuple[bytes, str]] = {
    "negative size": (op.tensor(size=(-4,)), "non-negative integers"),
    "negative sizes, positive product": (op.tensor(size=(-2, -2), stride=(2, 1)), "non-negative integers"),
    "negative stride": (op.tensor(stride=(-1,)), "non-negative integers"),
    "negative offset": (op.tensor(offset=-1), "storage_offset"),
    "bool size": (op.tensor(size=(True,)), "non-negative integers"),
    "bool stride": (op.tensor(stride=(True,)), "non-negative integers"),
    "bool offset": (op.tensor(offset=False), "storage_offset"),
    "float size": (op.tensor(size=(4.0,)), "non-negative integers"),
    "text size": (op.tensor(size="4"), "not a tuple"),
    "None size": (op.tensor(size=None), "not a tuple"),
    "nested size": (op.tensor(size=((4,),)), "non-negative integers"),
    "size of 100,000 digits": (op.tensor(size=(_HUGE,)), "non-negative integers"),
    "offset of 100,000 digits": (op.tensor(offset=_HUGE), "storage_offset"),
    "size beyond int64": (op.tensor(size=(2**63,), stride=(0,)), "63 bits"),
    "stride beyond int64": (op.tensor(size=(0,), stride=(2**64,)), "63 bits"),
    "offset beyond int64": (op.tensor(offset=2**64, size=(0,)), "63 bits"),
    "numel beyond int64": (op.tensor(size=(2**62, 2**62), stride=(0, 0)), "63 bits"),
    "product that wraps to 0": (op.tensor(size=(2**32, 2**32), stride=(0, 0)), "63 bits"),
    "product that wraps to 4": (op.tensor(size=(2**62 + 1, 4), stride=(0, 1)), "63 bits"),
    "one element too many": (op.tensor(size=(5,)), "beyond its storage"),
    "offset by one": (op.tensor(offset=1), "beyond its storage"),
    "offset beyond": (op.tensor(offset=2**40, size=(1,)), "beyond its storage"),
    "stride beyond": (op.tensor(size=(2, 2), stride=(3, 1)), "beyond its storage"),
    "huge stride": (op.tensor(size=(2, 2), stride=(2**62, 1)), "beyond its storage"),
    "more sizes than strides": (op.tensor(size=(2, 2), stride=(1,)), "2 sizes but 1 stride"),
    "more strides than sizes": (op.tensor(size=(4,), stride=(1, 1)), "1 size but 2 strides"),
    "5,000 dimensions": (op.tensor(size=(1,) * 5000, stride=(1,) * 5000), "not a tuple"),
    "too few arguments": (op.call("torch._utils:_rebuild_tensor_v2", op.storage()), "too few"),
    "no arguments": (op.call("torch._utils:_rebuild_tensor_v2"), "too few"),
    "arguments in a list": (
        op.GLOBAL("torch._utils", "_rebuild_tensor_v2") + op.push([op.storage(), 0]) + op.REDUCE,
        "not a tuple",
    ),
    "storage is a number": (op.tensor(op.push(7)), "not a storage"),
    "storage is a global": (op.tensor(op.named("posix:system")), "not a storage"),
    "storage claims more than the member": (_storage(numel=5), "smaller than its pickle says"),
    "storage of exabytes": (_storage(numel=2**60), "smaller than its pickle says"),
    "storage whose bytes wrap": (_storage(numel=2**62 + 1), "smaller than its pickle says"),
    "storage of negative size": (_storage(numel=-1), "parts of the wrong type"),
    "storage of bool size": (_storage(numel=True), "parts of the wrong type"),
    "storage of 100,000 digits": (_storage(numel=_HUGE), "parts of the wrong type"),
    "storage key is a tuple": (_storage(key=("0",)), "parts of the wrong type"),
    "storage key leaves its folder": (_storage(key="../version"), "not in the file"),
    "missing storage": (_storage(key="1"), "not in the file"),
    "unknown storage class": (_storage(cls="torch:EvilStorage"), "unknown storage class"),
    "storage class of another module": (_storage(cls="posix:FloatStorage"), "storage class"),
    "storage class under a prefix": (_storage(cls="torch.evil:FloatStorage"), "storage class"),
    "storage class is a string": (
        op.tensor(op.push(("storage", "FloatStorage", "0", "cpu", 4)) + op.BINPERSID),
        "storage class",
    ),
    "location is bytes": (_storage(location=op.BINBYTES(b"cpu")), "parts of the wrong type"),
    "persistent id of another kind": (op.tensor(op.push(("module", "x")) + op.BINPERSID), "persistent id"),
    "persistent id is text": (op.tensor(op.push("0") + op.BINPERSID), "persistent id"),
    "untyped storage without a dtype": (_storage(cls="torch.storage:UntypedStorage"), "without a dtype"),
    "unknown dtype": (
        op.call(
            "torch._utils:_rebuild_tensor_v3",
            op.storage(cls="torch.storage:UntypedStorage"),
            0,
            (4,),
            (1,),
            False,
            op.push({}),
            op.named("posix:system"),
        ),
        "dtype",
    ),
    "quantized beyond its storage": (_quantizer(size=(2, 2), stride=(15, 1)), "beyond its storage"),
    "quantized with a huge stride": (_quantizer(size=(2,), stride=(2**61,)), "beyond its storage"),
    "quantized with a negative stride": (_quantizer(stride=(-1,)), "non-negative integers"),
    "sparse of numbers": (
        op.call("torch._utils:_rebuild_sparse_tensor", op.named("torch:sparse_coo"), (1, 2, (3,))),
        "not a tensor",
    ),
    "parameter of a number": (op.parameter(op.push(3)), "not a tensor"),
    "meta with two lengths": (
        op.call(
            "torch._utils:_rebuild_meta_tensor_no_storage", op.named("torch:float32"), (2, 2), (1,), False
        ),
        "2 sizes but 1 stride",
    ),
    "meta beyond int64": (
        op.call(
            "torch._utils:_rebuild_meta_tensor_no_storage",
            op.named("torch:float32"),
            (2**62, 2**62),
            (2**62, 1),
            False,
        ),
        "63 bits",
    ),
}


def _iter_cases() -> Iterator[Case]:
    for name, (code, error) in TENSORS.items():
        yield Case(f"tensor: {name}", _in_zip(code), error)
    two = {"a": op.tensor(op.storage("0", FLOAT)), "b": op.tensor(op.storage("0", "torch:IntStorage"))}
    yield Case("two dtypes of one storage", torch_zip(op.dump(two)), "two types")
    short = {"a": _storage(numel=4), "b": op.tensor(op.storage(numel=2), size=(2,))}
    yield Case("two sizes of one storage", torch_zip(op.dump(short)), names=("a", "b"))
    lie = {"data/0": {"method": DEFLATED, "nbytes": 2**50}}
    claims = op.tensor(op.storage(numel=2**48), size=(2**48,))
    yield Case("petabyte that is deflated", _in_zip(claims, change=lie), "DEFLATE")
    short_member = {"data/0": {"nbytes": 1 << 40, "compressed": 1 << 40}}
    yield Case("member claims a terabyte", _in_zip(claims, change=short_member), "outside the file")
    meta = _storage(location="meta", key="no-such", numel=2**50)
    yield Case("meta location without a member", _in_zip(meta), "not in the file")
    # -- legacy
    old = op.storage("0", FLOAT, 4, "cpu", None)
    sound = op.dump({"w": op.tensor(old)})
    yield Case("legacy: count too large", legacy(sound, [(1 << 40, bytes(16))]), "of another size than")
    yield Case("legacy: count negative", legacy(sound, [(-1, bytes(16))]), "negative size")
    yield Case("legacy: count wraps", legacy(sound, [(2**62 + 4, bytes(16))]), "of another size than")
    yield Case("legacy: count too small", legacy(sound, [(3, bytes(12))]), "of another size than")
    yield Case("legacy: no storages", legacy(sound, []), "not in the file")
    yield Case("legacy: no data", legacy(sound, [(4, b"")]), "cut off in a storage")
    yield Case("legacy: storage that no tensor names", legacy(sound, keys=op.dump(["1"])), "no tensor names")
    yield Case(
        "legacy: storage twice", legacy(sound, [(4, bytes(16))] * 2, keys=op.dump(["0", "0"])), "twice"
    )
    yield Case("legacy: keys are a dict", legacy(sound, keys=op.dump({"0": 1})), "list of storage keys")
    yield Case("legacy: keys are bool", legacy(sound, keys=op.dump([True])), "list of storage keys")
    yield Case("legacy: version 1002", legacy(sound, version=op.dump(1002)), "version 1002")
    yield Case("legacy: version True", legacy(sound, version=op.dump(True)), "no integer")
    nested = op.PROTO(2) + op.EMPTY_TUPLE + op.TUPLE1 * 100_000 + op.STOP
    yield Case("legacy: version is nested", legacy(sound, version=nested), "no integer")
    yield Case("legacy: keys are nested", legacy(sound, keys=nested), "list of storage keys")
    for name, view in {
        "view beyond its root": ("v", 3, 4),
        "view with a negative offset": ("v", -1, 2),
        "view of bool": ("v", False, True),
        "view of text": "v",
    }.items():
        code = op.dump({"w": op.tensor(op.storage("0", FLOAT, 4, "cpu", view))})
        error = {"v": "storage view", ("v", 3, 4): "smaller than its pickle says"}.get(view, "storage view")
        yield Case(f"legacy: {name}", legacy(code), error)


CASES = tuple(_iter_cases())
