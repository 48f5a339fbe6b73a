"""Valid files of every kind, small, to be mutated. All by hand: what makes them needs no torch.

``tests/hostile/test_fuzz.py`` proves that each of them reads.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from tests.hostile import pickles as op
from tests.hostile.containers import DEFLATED, ZEROS, Member, build_zip, legacy, safetensors, torch_zip
from tests.hostile.mutations import pack_folder

_HOOKS = op.call("collections:OrderedDict")
_DEVICE = {"type": "cpu", "index": None}


def _layout(name: str) -> bytes:
    return op.call("torch.serialization:_get_layout", f"torch.{name}")


def _quantized(quantizer: tuple[Any, ...]) -> bytes:
    source = op.storage("6", "torch:QInt8Storage", 4)
    return op.call("torch._utils:_rebuild_qtensor", source, 0, (4,), (1,), quantizer, False, _HOOKS)


def _state_dict() -> bytes:
    """Parameters, buffers, a tie, a view, versions and extra state, as a module has them."""
    weight = op.tensor(size=(2, 2), stride=(2, 1))
    entries = {
        "lin.weight": weight + op.BINPUT(20),
        "lin.bias": op.tensor(op.storage(), 2, (2,), (1,)),
        "head.weight": op.BINGET(20),
        "bn.weight": op.tensor(size=(1,)),
        "bn.running_mean": op.tensor(size=(1,)),
        "bn.num_batches_tracked": op.tensor(op.storage("1", "torch:LongStorage", 1), 0, (), ()),
        "extra._extra_state": {"a": 1},
    }
    versions = {"": {"version": 1}, "lin": {"version": 1}, "bn": {"version": 2, "note": "x"}}
    return op.PROTO(2) + op.ordered(entries, versions) + op.STOP


def _training(*more: tuple[Any, Any]) -> bytes:
    """Weights, an optimizer with its groups, and plain values."""
    model = op.ordered({"w": op.tensor(), "b": op.tensor(size=(1,))}, {"": {"version": 1}})
    adam = {"step": 3, "exp_avg": op.tensor(), "exp_avg_sq": op.tensor()}
    group = {"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "params": [0, 1]}
    values = {
        "state_dict": model,
        "optimizer": {"state": {0: adam, 1: dict(adam)}, "param_groups": [group]},
        "epoch": 3,
        ("a", 1): {True: "odd keys", 1.5: None},
        "history": [1, 2.5, "x", [None, True]],
    }
    return op.dump({**values, **dict(more)})


_OBJECTS = (
    ("args", op.with_state(op.named("argparse:Namespace") + op.EMPTY_TUPLE + op.NEWOBJ, {"lr": 0.1})),
    (
        "numpy",
        op.call(
            "numpy._core.multiarray:scalar",
            op.with_state(op.call("numpy:dtype", "f8", False, True), (3, "<", None, None, None, -1, -1, 0)),
            op.BINBYTES(bytes(8)),
        ),
    ),
)


_FLOAT32 = op.named("torch:float32")
_DEVICE_CALL = op.call("torch:device", "cpu")
_SCALES = op.tensor(op.storage("3", "torch:DoubleStorage", 4))
_ZERO_POINTS = op.tensor(op.storage("7", "torch:LongStorage", 4))
_INDICES = op.tensor(op.storage("4", "torch:LongStorage", 2), 0, (1, 2), (2, 1))
_ROWS = op.tensor(op.storage("4", "torch:LongStorage", 2), 0, (2,), (1,))


def _tensors() -> bytes:
    """One of every way to rebuild a tensor that ``weights_only`` lets pass."""
    untyped = op.storage("2", "torch.storage:UntypedStorage", 16)
    per_channel = (op.named("torch:per_channel_affine"), _SCALES, _ZERO_POINTS, 0)
    sparse = (_INDICES, op.tensor(size=(2,)), (3,), True)
    return op.dump(
        {
            "v1": op.call("torch._utils:_rebuild_tensor", op.storage(), 0, (2,), (1,)),
            "v2 conj": op.tensor(
                op.storage("5", "torch:ComplexFloatStorage", 2), 0, (2,), (1,), False, _HOOKS, {"conj": True}
            ),
            "v2 transposed": op.tensor(op.storage(), 0, (2, 2), (1, 2)),
            "v2 expanded": op.tensor(op.storage(), 0, (1000, 4), (0, 1)),
            "v3": op.call(
                "torch._utils:_rebuild_tensor_v3",
                untyped,
                0,
                (4,),
                (1,),
                False,
                _HOOKS,
                _FLOAT32,
                {"neg": True},
            ),
            "parameter": op.parameter(),
            "empty": op.tensor(size=(0, 3), stride=(3, 1)),
            "qint8": _quantized((op.named("torch:per_tensor_affine"), 0.5, 0)),
            "qint8 by channel": _quantized(per_channel),
            "sparse": op.call("torch._utils:_rebuild_sparse_tensor", _layout("sparse_coo"), sparse),
            "size": op.call("torch:Size", [2, 3]),
            "device": _DEVICE_CALL,
        }
    )


def _more_tensors() -> bytes:
    """Those that only a plain load rebuilds."""
    compressed = (_ROWS, _ROWS, op.tensor(size=(1,)), (1, 2))
    return op.dump(
        {
            "with state": op.call(
                "torch._utils:_rebuild_parameter_with_state", op.tensor(), True, _HOOKS, {"note": "x"}
            ),
            "meta": op.call("torch._utils:_rebuild_meta_tensor_no_storage", _FLOAT32, (2,), (1,), False),
            "lazy": op.call("torch.nn.parameter:UninitializedParameter", True),
            "csr": op.call("torch._utils:_rebuild_sparse_tensor", _layout("sparse_csr"), compressed),
            "nested": op.call("torch._utils:_rebuild_nested_tensor", op.tensor(), _INDICES, _INDICES, _ROWS),
            "from cpu": op.call(
                "torch._utils:_rebuild_device_tensor_from_cpu_tensor", op.tensor(), _FLOAT32, "cuda:0", False
            ),
            "subclass": op.call(
                "torch._tensor:_rebuild_from_type_v2",
                op.named("torch._utils:_rebuild_tensor_v2"),
                op.named("my.module:Tensor"),
                (op.storage(), 0, (4,), (1,), False, _HOOKS),
                {"scale": op.tensor()},
            ),
            "wrapper": op.call(
                "torch._utils:_rebuild_wrapper_subclass",
                op.named("my.module:Wrapper"),
                _FLOAT32,
                (4,),
                (1,),
                0,
                _layout("strided"),
                _DEVICE_CALL,
                False,
            ),
        }
    )


_STORAGES = {
    "0": ZEROS,
    "1": bytes(8),
    "2": bytes(range(16)),
    "3": bytes(32),
    "4": bytes(16),
    "5": bytes(16),
    "6": bytes(4),
    "7": bytes(32),
}


def _module() -> bytes:
    """A whole pickled module."""
    inner = op.module("my.net:Block", parameters={"w": op.parameter()}, buffers={"b": None, "c": op.tensor()})
    return op.PROTO(2) + op.module("my.net:Net", modules={"block": inner}, non_persistent=["c"]) + op.STOP


def _without_views(pickled: bytes) -> bytes:
    """The sixth item that a persistent id has in a legacy file: None."""
    return re.sub(rb"(cpuJ.{4})tQ", rb"\1NtQ", pickled, flags=re.DOTALL)


def _protocol_4() -> bytes:
    """Frames, memo by MEMOIZE, globals by STACK_GLOBAL."""
    code = op.EMPTY_DICT + op.MEMOIZE + op.MARK + op.SHORT_BINUNICODE("a") + op.MEMOIZE
    code += op.SHORT_BINUNICODE("collections") + op.SHORT_BINUNICODE("OrderedDict") + op.STACK_GLOBAL
    code += op.EMPTY_TUPLE + op.REDUCE + op.MEMOIZE + op.SHORT_BINUNICODE("b") + op.EMPTY_SET + op.MARK
    code += op.push(1) + op.BINBYTES(b"x") + op.ADDITEMS + op.SETITEMS + op.STOP
    return op.PROTO(4) + op.FRAME(len(code)) + code


def _pickled_tensor() -> bytes:
    """``pickle.dump`` of a tensor: a legacy file inside a pickle."""
    inside = legacy(op.PROTO(2) + op.storage() + op.STOP)
    stored = op.call("torch.storage:_load_from_bytes", op.BINBYTES(inside))
    return op.dump({"w": op.tensor(stored), "n": 1}, 4)


def _torchscript() -> bytes:
    """A scripted module with a submodule, a list and a constant."""
    net = op.named("__torch__:Net") + op.EMPTY_TUPLE + op.NEWOBJ
    inner = op.named("__torch__:Linear") + op.EMPTY_TUPLE + op.NEWOBJ
    state = {
        "training": True,
        "weight": op.tensor(requires_grad=True),
        "buffer": op.tensor(op.storage("1", "torch:LongStorage", 1), 0, (1,), (1,)),
        "inner": op.with_state(inner, {"weight": op.tensor(), "training": False}),
        "sizes": op.call("torch.jit._pickle:build_intlist", [1, 2]),
        "named": op.call("torch.jit._pickle:restore_type_tag", {"a": op.tensor()}, "Dict[str, Tensor]"),
    }
    code = (
        'class Net(Module):\n  __parameters__ = ["weight", ]\n  __buffers__ = ["buffer", ]\n'
        "  weight : Tensor\n  buffer : Tensor\n  inner : __torch__.Linear\n"
        "  def forward(self: __torch__.Net, x: Tensor) -> Tensor:\n    return x\n"
        'class Linear(Module):\n  __parameters__ = ["weight", ]\n  __buffers__ = []\n  weight : Tensor\n'
    )
    return build_zip(
        [
            Member("m/data.pkl", op.PROTO(2) + op.with_state(net, state) + op.STOP),
            Member("m/data/0", ZEROS),
            Member("m/data/1", bytes(8)),
            Member("m/code/__torch__.py", code.encode(), DEFLATED),
            Member("m/code/__torch__.py.debug_pkl", op.dump(())),
            Member("m/constants.pkl", op.dump((op.tensor(op.storage("0", numel=2), 0, (2,), (1,)),))),
            Member("m/constants/0", bytes(8)),
            Member("m/version", b"3\n"),
            Member("m/byteorder", b"little"),
        ]
    )


def _ints(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


def _meta(*sizes: int, dtype: int = 7) -> dict[str, Any]:
    strides = _ints(*(1 for _ in sizes))
    return {
        "dtype": dtype,
        "sizes": _ints(*sizes),
        "requires_grad": True,
        "device": _DEVICE,
        "strides": strides,
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def _payload(member: str, meta: object, *, is_param: bool, use_pickle: bool = False) -> dict[str, object]:
    return {"path_name": member, "is_param": is_param, "use_pickle": use_pickle, "tensor_meta": meta}


def _program() -> bytes:
    spec = {"arg": {"name": "p"}}
    inputs = [
        {"parameter": {**spec, "parameter_name": "w"}},
        {"buffer": {**spec, "buffer_name": "b", "persistent": True}},
        {"buffer": {**spec, "buffer_name": "mask", "persistent": False}},
        {"tensor_constant": {**spec, "tensor_constant_name": "c"}},
        {"user_input": {"arg": {"as_tensor": {"name": "x"}}}},
    ]
    signature = {"input_specs": inputs, "output_specs": []}
    graph = {"graph": {"inputs": [], "outputs": [], "nodes": []}, "signature": signature}
    return json.dumps(
        {"graph_module": graph, "opset_version": {"aten": 10}, "torch_version": "2.13.0"}
    ).encode()


def _export() -> bytes:
    """A ``.pt2`` of torch 2.9 and later: raw and pickled weights, constants, sample inputs, AOTInductor."""
    weights = {
        "w": _payload("weight_0", _meta(4), is_param=True),
        "b": _payload("weight_1", _meta(1, dtype=5), is_param=False),
        "pickled": _payload("weight_2", _meta(4), is_param=True, use_pickle=True),
    }
    constants = {
        "mask": _payload("tensor_0", _meta(2), is_param=False),
        "c": _payload("tensor_1", _meta(2), is_param=False),
        "object": _payload("custom_obj_0", None, is_param=False, use_pickle=True),
    }
    tensor = torch_zip(op.PROTO(2) + op.tensor() + op.STOP)
    files = {
        "data/weights/weight_0": ZEROS,
        "data/weights/weight_1": bytes(8),
        "data/weights/weight_2": tensor,
        "data/weights/model_weights_config.json": json.dumps({"config": weights}).encode(),
        "data/constants/tensor_0": bytes(8),
        "data/constants/tensor_1": bytes(8),
        "data/constants/custom_obj_0": op.dump(op.call("my.module:Thing", 1)),
        "data/constants/model_constants_config.json": json.dumps({"config": constants}).encode(),
        "models/model.json": _program(),
        "data/sample_inputs/model.pt": torch_zip(op.dump(((op.tensor(),), {}))),
        "data/aotinductor/model/weights_config.json": json.dumps({"k": ["weight_2", [2], [1], 1]}).encode(),
        "extra/note.txt": b"hello",
        "archive_format": b"pt2",
        "archive_version": b"0",
        ".data/version": b"3\n",
        "byteorder": b"little",
    }
    return build_zip([Member(f"model/{name}", content) for name, content in files.items()])


def _old_export() -> bytes:
    """A ``.pt2`` of torch 2.1 to 2.7: torch zips beside the JSON."""
    files = {
        "version": b"5.3",
        "serialized_exported_program.json": _program(),
        "serialized_state_dict.pt": torch_zip(
            op.dump({"w": op.parameter(), "b": op.tensor(size=(1,)), "pickled": op.tensor()})
        ),
        "serialized_constants.pt": torch_zip(op.dump({"mask": op.tensor(), "c": op.tensor()})),
        "serialized_example_inputs.pt": torch_zip(op.dump(((op.tensor(),), {}))),
    }
    return build_zip([Member(name, content) for name, content in files.items()])


def _safetensors(names: Mapping[str, str], **metadata: str) -> bytes:
    """Tensors of 4 elements, by name and dtype."""
    width = {"F32": 4, "I64": 8, "BF16": 2, "U8": 1, "BOOL": 1}
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, dtype in names.items():
        nbytes = 4 * width[dtype]
        header[name] = {"dtype": dtype, "shape": [2, 2], "data_offsets": [at, at + nbytes]}
        at += nbytes
    return safetensors(header, bytes(range(at)))


def _folder(suffix: str, *, with_index: bool = True) -> bytes:
    """Two shards, and the index that names them."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    first, second = (f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2))
    if suffix == "safetensors":
        shards = [_safetensors({"a.weight": "F32"}, format="pt"), _safetensors({"b.weight": "F32"})]
    else:
        shards = [torch_zip(op.dump({f"{name}.weight": op.tensor()})) for name in "ab"]
    index = {"metadata": {"total_size": 32}, "weight_map": {"a.weight": first, "b.weight": second}}
    files = {first: shards[0], second: shards[1]}
    if with_index:
        files[f"{stem}.{suffix}.index.json"] = json.dumps(index).encode()
    return pack_folder(files)


@functools.cache
def seeds() -> dict[str, tuple[bytes, ...]]:
    """Valid files by kind."""
    deflated = {"data.pkl": {"method": DEFLATED}, "data/0": {"method": DEFLATED}}
    carried = {
        "format": "pt",
        "tied": "a.weight",
        "note": "[red]\x1b[2J",
        "ckpttool.root": '["model","state_dict"]',
        "ckpttool.values": '[[["n"],3],[["x"],{"tuple":[1,{"float":"nan"}]}],[["raw"],{"bytes":"00ff"}]]',
        "ckpttool.module_versions": '[[["model","state_dict"],{"":{"version":1},"bn":{"version":2}}]]',
        "ckpttool.order": "[2,0,1,3,4]",
        "ckpttool.paths": '{"b":["opt",0,{"key":"1.5"}]}',
        "ckpttool.lists": '[[["opt"],"tuple"]]',
        "ckpttool.parameters": '["a.weight"]',
        "ckpttool.as_bytes": '{"c":{"dtype":"float32","shape":[1]}}',
    }
    return {
        "zip": (
            torch_zip(_state_dict(), _STORAGES),
            torch_zip(_training(), change=deflated),
            torch_zip(_training(*_OBJECTS), byteorder=None, change={"data/0": {"zip64": True, "crc": 0}}),
            torch_zip(_tensors(), _STORAGES, more=[Member("archive/.format_version", b"1")]),
            torch_zip(_more_tensors(), _STORAGES),
            torch_zip(_module(), byteorder="big", zip64_end=True),
        ),
        "legacy": (
            legacy(_without_views(_state_dict()), ((4, ZEROS), (1, bytes(8)))),
            legacy(_without_views(_training())),
            legacy(_without_views(_module())),
            legacy(
                op.dump(
                    {"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", ("1", 1, 3)), size=(2,))}
                )
            ),
        ),
        "pickle": (
            op.dump({"epoch": 3, "names": ["a", "b"], "nested": {"x": (1, 2.5, None)}}),
            _protocol_4(),
            _pickled_tensor(),
            op.dump(op.call("my.module:Thing", 1, {"x": op.MARK + op.INST("a", "b")})),
        ),
        "torchscript": (_torchscript(),),
        "export": (_export(), _old_export()),
        "safetensors": (
            _safetensors({"a.weight": "F32", "b": "I64", "mask": "BOOL", "c": "U8"}, **carried),
            _safetensors({"a": "BF16", "b": "U8"}),
            safetensors({"e": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}),
        ),
        "folder": (_folder("safetensors"), _folder("bin"), _folder("safetensors", with_index=False)),
    }
