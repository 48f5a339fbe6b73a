"""TorchScript archives and exported programs: code, constants, JSON and nested pickles that lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.cases_code import COMMAND
from tests.hostile.containers import DEFLATED, ZEROS, Member, build_zip, legacy, torch_zip

MIB = 1 << 20
SYSTEM = op.call("posix:system", COMMAND)
CODE = 'class Net(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  w : Tensor\n'
NET = op.with_state(op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ, {"w": op.tensor()})


# -- TorchScript ------------------------------------------------------------------------------------


def script(
    data: bytes = NET,
    code: str | bytes | None = CODE,
    constants: bytes = op.EMPTY_TUPLE,
    more: tuple[Member, ...] = (),
) -> bytes:
    """A TorchScript archive whose ``data.pkl`` and ``constants.pkl`` hold these values."""
    members = [Member("archive/constants.pkl", op.PROTO(2) + constants + op.STOP)]
    if code is not None:
        text = code.encode() if isinstance(code, str) else code
        members.append(Member("archive/code/__torch__/m.py", text))
    return torch_zip(op.PROTO(2) + data + op.STOP, more=(*members, *more))


def _net(**attributes: Any) -> bytes:
    return op.with_state(op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ, attributes)


def _nested_modules(levels: int) -> bytes:
    code = _net(w=op.tensor())
    head = op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ + op.EMPTY_DICT + op.push("m")
    return head * levels + code + (op.SETITEM + op.BUILD) * levels


def _module_laughs() -> bytes:
    code = _net(w=op.tensor()) + op.BINPUT(0)
    for level in range(30):
        code += _net(**{f"m{n}": op.BINGET(level) for n in range(10)}) + op.BINPUT(level + 1)
    return code


def _cyclic_module() -> bytes:
    head = op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ + op.BINPUT(0)
    return head + op.EMPTY_DICT + op.push("me") + op.BINGET(0) + op.SETITEM + op.BUILD


def _constants(source: bytes) -> bytes:
    return op.push((op.tensor(source),))


SCRIPTS: dict[str, tuple[Callable[[], bytes], str, tuple[str, ...]]] = {
    # name: (file, part of the refusal, what --globals must list)
    "posix.system in data.pkl": (lambda: script(_net(w=op.tensor(), x=SYSTEM)), "", ("posix.system",)),
    "posix.system in constants.pkl": (lambda: script(constants=op.push((SYSTEM,))), "", ("posix.system",)),
    "posix.system as the top object": (lambda: script(SYSTEM), "", ("posix.system",)),
    "INST of a module": (lambda: script(op.MARK + op.INST("__torch__.m", "Net")), "", ()),
    "a second pickle behind data.pkl": (
        lambda: script(NET + op.STOP + op.PROTO(2) + SYSTEM),
        "",
        ("posix.system",),
    ),
    "a second pickle behind constants.pkl": (
        lambda: script(constants=op.EMPTY_TUPLE + op.STOP + op.PROTO(2) + SYSTEM),
        "",
        ("posix.system",),
    ),
    "__setstate__ with aten::from_file": (
        lambda: script(
            code="class Net(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def __setstate__(self: "
            "__torch__.m.Net,\n    state: Tensor) -> NoneType:\n    _0 = torch.from_file("
            '"hostile-canary", True, 4)\n    return None\n'
        ),
        "",
        (),
    ),
    "Python in the code": (
        lambda: script(code="import os\nos.system('echo fired > hostile-canary')\n" + CODE),
        "",
        (),
    ),
    "code that is not UTF-8": (lambda: script(code=b"\xff\xfe" + CODE.encode()), "", ()),
    "code of NUL and ESC": (lambda: script(code=CODE + "\0\x1b[2J\u202e"), "", ()),
    "code without end of a string": (lambda: script(code=CODE.replace('"w", ]', '"w')), "", ()),
    "lists in a multi-line string": (lambda: script(code='"""\n' + CODE + '"""\n'), "", ()),
    "a class twice": (lambda: script(code=CODE + CODE.replace('"w", ', "")), "", ()),
    "a name in both lists": (
        lambda: script(code=CODE.replace("__buffers__ = []", '__buffers__ = ["w", ]')),
        "",
        (),
    ),
    "a hundred thousand classes": (
        lambda: script(code="".join(f"class C{n}(Module):\n  pass\n" for n in range(100_000)) + CODE),
        "",
        (),
    ),
    "code of one line of 10 MB": (lambda: script(code="class " + "A" * (10 * MIB)), "", ()),
    "code that inflates": (
        lambda: script(code=None, more=(Member("archive/code/__torch__/m.py", b"#" * (40 * MIB), DEFLATED),)),
        "size of member code/__torch__/m.py",
        (),
    ),
    "a module name that leaves its folder": (
        lambda: script(
            op.with_state(op.named("__torch__.../../../etc/passwd:Net") + op.EMPTY_TUPLE + op.NEWOBJ, {})
        ),
        "",
        (),
    ),
    "modules 10,000 deep": (lambda: script(_nested_modules(10_000)), "nesting", ()),
    "modules of ten names, thirty deep": (lambda: script(_module_laughs()), "shared modules", ()),
    "a module that holds itself": (lambda: script(_cyclic_module()), "", ()),
    "an attribute twice": (
        lambda: script(
            op.named("__torch__.m:Net")
            + op.EMPTY_TUPLE
            + op.NEWOBJ
            + op.MARK
            + (op.push("w") + op.tensor()) * 2
            + op.DICT
            + op.BUILD
        ),
        "stands twice",
        (),
    ),
    # Found by coverage: the message wrote the name out, by recursion.
    "an attribute name 100,000 deep": (
        lambda: script(
            op.named("__torch__.m:Net")
            + op.EMPTY_TUPLE
            + op.NEWOBJ
            + op.MARK
            + op.EMPTY_TUPLE
            + op.TUPLE1 * 100_000
            + op.NONE
            + op.DICT
            + op.BUILD
        ),
        "not text",
        (),
    ),
    "an attribute name that is a number": (
        lambda: script(_net() + op.push({7: op.tensor()}) + op.BUILD),
        "",
        (),
    ),
    "an attribute beyond its storage": (
        lambda: script(_net(w=op.tensor(size=(5,)))),
        "beyond its storage",
        (),
    ),
    "a negative stride": (lambda: script(_net(w=op.tensor(stride=(-1,)))), "non-negative", ()),
    "numel that wraps": (
        lambda: script(_net(w=op.tensor(size=(2**62, 4), stride=(0, 0)))),
        "63 bits",
        (),
    ),
    "a constant of a missing storage": (
        lambda: script(constants=_constants(op.storage("5"))),
        "not in the file",
        (),
    ),
    "a constant one byte too short (pt#169570)": (
        lambda: script(
            constants=_constants(op.storage("0")), more=(Member("archive/constants/0", bytes(15)),)
        ),
        "smaller than its pickle says",
        (),
    ),
    "a constant beyond its storage (pt#169570)": (
        lambda: script(
            constants=op.push((op.tensor(op.storage("0"), 3),)),
            more=(Member("archive/constants/0", ZEROS),),
        ),
        "beyond its storage",
        (),
    ),
    "constants.pkl is not a pickle": (lambda: script(constants=b"\xff"), "not a pickle opcode", ()),
    "constants.pkl is cut off": (
        lambda: torch_zip(
            op.PROTO(2) + NET + op.STOP, more=(Member("archive/constants.pkl", op.PROTO(2) + op.MARK),)
        ),
        "cut off",
        (),
    ),
    "constants.pkl is empty": (
        lambda: torch_zip(op.PROTO(2) + NET + op.STOP, more=(Member("archive/constants.pkl", b""),)),
        "cut off",
        (),
    ),
    "constants nested 100,000 deep": (
        lambda: script(constants=op.EMPTY_TUPLE + op.TUPLE1 * 100_000),
        "nesting",
        (),
    ),
    "no data.pkl": (
        lambda: build_zip([Member("archive/constants.pkl", op.dump(()))]),
        "without data.pkl",
        (),
    ),
    "model.json of torch 1.0": (
        lambda: build_zip([Member("archive/model.json", b"{" * 100_000)]),
        "torch 1.0 to 1.3",
        (),
    ),
}


# -- exported programs ----------------------------------------------------------------------------


def _meta(**change: Any) -> dict[str, Any]:
    ints = {"sizes": [4], "strides": [1]}
    for field in ints:
        ints[field] = [{"as_int": number} for number in change.pop(field, ints[field])]
    offset = change.pop("storage_offset", 0)
    return {
        "dtype": 7,
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "storage_offset": {"as_int": offset},
        "layout": 7,
        **ints,
        **change,
    }


def _payload(path: str = "weight_0", **change: Any) -> dict[str, Any]:
    return {
        "path_name": path,
        "is_param": True,
        "use_pickle": change.pop("use_pickle", False),
        "tensor_meta": change.pop("tensor_meta", None) or _meta(**change),
    }


def _program(specs: object = None) -> dict[str, Any]:
    if specs is None:
        specs = [{"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}}]
    return {"graph_module": {"signature": {"input_specs": specs}}, "torch_version": "2.13.0"}


def exported(
    *,
    program: object = None,
    weights: object = None,
    constants: object = None,
    data: bytes | None = ZEROS,
    sample_inputs: bytes | None = None,
    more: tuple[Member, ...] = (),
    format: bytes = b"pt2",
    version: bytes = b"0",
) -> bytes:
    """A ``.pt2`` of one weight; any document may be given as raw bytes."""

    def text(document: object) -> bytes:
        return document if isinstance(document, bytes) else json.dumps(document).encode()

    members = {
        "archive_format": format,
        "archive_version": version,
        "byteorder": b"little",
        "models/model.json": text(_program() if program is None else program),
        "data/weights/model_weights_config.json": text(
            {"config": {"w": _payload()}} if weights is None else weights
        ),
        "data/constants/model_constants_config.json": text(
            {"config": {}} if constants is None else constants
        ),
    }
    if data is not None:
        members["data/weights/weight_0"] = data
    if sample_inputs is not None:
        members["data/sample_inputs/model.pt"] = sample_inputs
    return build_zip([*(Member(f"archive/{name}", raw) for name, raw in members.items()), *more])


def _weight(**change: Any) -> bytes:
    return exported(weights={"config": {"w": _payload(**change)}})


def _pickled(member: bytes) -> bytes:
    """A weight that is a torch zip, as tensor subclasses are."""
    return exported(weights={"config": {"w": _payload(use_pickle=True)}}, data=member)


def _custom(member: bytes) -> bytes:
    """A custom object among the constants, which torch.export.load unpickles."""
    payload = {"path_name": "custom_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    return exported(
        constants={"config": {"obj": payload}}, more=(Member("archive/data/constants/custom_obj_0", member),)
    )


_EVIL = op.dump({"x": SYSTEM})
_DEEP = b"[" * 100_000 + b"]" * 100_000

PROGRAMS: dict[str, tuple[Callable[[], bytes], str, tuple[str, ...]]] = {
    # torch.export.load unpickles these without restriction: pytorch issue 153410.
    "sample inputs, bare pickle (pt#153410)": (lambda: exported(sample_inputs=_EVIL), "", ("posix.system",)),
    "sample inputs, torch zip (pt#153410)": (
        lambda: exported(sample_inputs=torch_zip(_EVIL)),
        "",
        ("posix.system",),
    ),
    "sample inputs, legacy (pt#153410)": (
        lambda: exported(sample_inputs=legacy(_EVIL, [])),
        "",
        ("posix.system",),
    ),
    "sample inputs, sys_info of a legacy file": (
        lambda: exported(sample_inputs=legacy(op.dump({}), [], sys_info=_EVIL)),
        "",
        ("posix.system",),
    ),
    "sample inputs, a second pickle": (
        lambda: exported(sample_inputs=op.dump(()) + _EVIL),
        "",
        ("posix.system",),
    ),
    "weights with use_pickle (pt#153410)": (
        lambda: _pickled(torch_zip(op.PROTO(2) + SYSTEM + op.POP + op.tensor() + op.STOP)),
        "",
        ("posix.system",),
    ),
    "a custom object": (lambda: _custom(_EVIL), "", ("posix.system",)),
    "a custom object in a torch zip": (lambda: _custom(torch_zip(_EVIL)), "", ("posix.system",)),
    "weights.pt of torch 2.8": (
        lambda: exported(
            weights={"config": {}},
            more=(
                Member("archive/data/weights/model.pt", torch_zip(op.dump({"w": op.tensor(), "x": SYSTEM}))),
            ),
        ),
        "",
        ("posix.system",),
    ),
    "old layout, example inputs": (
        lambda: build_zip(
            [
                Member("serialized_exported_program.json", json.dumps(_program()).encode()),
                Member("serialized_state_dict.pt", torch_zip(op.dump({"w": op.tensor()}))),
                Member("serialized_example_inputs.pt", torch_zip(_EVIL)),
            ]
        ),
        "",
        ("posix.system",),
    ),
    "sample inputs that are no pickle": (lambda: exported(sample_inputs=b"\xff" * 40), "*", ()),
    "sample inputs cut off": (lambda: exported(sample_inputs=_EVIL[:-4]), "cut off", ()),
    "sample inputs that claim a zip": (lambda: exported(sample_inputs=b"PK\x03\x04" + bytes(60)), "*", ()),
    "a weight of another zip in a zip in a zip": (
        lambda: _pickled(build_zip([Member("a/data.pkl", torch_zip(torch_zip(_EVIL)))])),
        "*",
        (),
    ),
    "schema nested 100,000 deep": (lambda: exported(program=_DEEP), "nesting", ()),
    "schema of empty arrays": (
        lambda: exported(program=b"[" + b"[]," * 10_000_000 + b"[]]"),
        "number of values",
        (),
    ),
    "schema that refers to itself": (
        lambda: exported(program=_program([{"$ref": "#"}, {"parameter": {"$ref": "#/0"}}])),
        "parameter_name",
        (),
    ),
    "schema with a key twice": (lambda: exported(program=b'{"a":1,"a":2}'), "twice", ()),
    "schema of NaN": (lambda: exported(program=b'{"torch_version":NaN}'), "*", ()),
    "schema that is a number": (lambda: exported(program=b"7"), "exported program", ()),
    "schema not UTF-8": (lambda: exported(program=b'{"\xff":1}'), "UTF-8", ()),
    "schema of text": (lambda: exported(program=b"hello"), "*", ()),
    "schema is empty": (lambda: exported(program=b""), "*", ()),
    "schema: one name, two kinds": (
        lambda: exported(
            program=_program([{"parameter": {"parameter_name": "w"}}, {"buffer": {"buffer_name": "w"}}])
        ),
        "two kinds",
        (),
    ),
    "schema: persistent is a string": (
        lambda: exported(program=_program([{"buffer": {"buffer_name": "w", "persistent": "yes"}}])),
        "persistent",
        (),
    ),
    "schema: a name of ESC": (
        lambda: exported(
            program=_program([{"parameter": {"parameter_name": "\x1b[2JEVIL\u202e"}}]),
            weights={"config": {"\x1b[2JEVIL\u202e": _payload()}},
        ),
        "",
        (),
    ),
    "schema: version of ESC": (
        lambda: exported(program={**_program(), "torch_version": "\x1b]0;EVIL\x07\nerror: x"}),
        "",
        (),
    ),
    "a model's name of ESC": (
        lambda: exported(more=(Member("archive/models/\x1b[2J.json", b"{}"),)),
        "graph_module",
        (),
    ),
    "a model's name that leaves its folder": (
        lambda: exported(
            more=(
                Member("archive/models/../../x.json", json.dumps(_program()).encode()),
                Member("archive/data/weights/../../x_weights_config.json", b'{"config":{}}'),
                Member("archive/data/constants/../../x_constants_config.json", b'{"config":{}}'),
            )
        ),
        "",
        (),
    ),
    "archive_format of ESC": (lambda: exported(format=b"\x1b[2J"), "archive_format", ()),
    "archive_version 99": (lambda: exported(version=b"99"), "archive_version", ()),
    "weights config is missing": (
        lambda: exported(more=(Member("archive/models/x.json", json.dumps(_program()).encode()),)),
        "a member is missing",
        (),
    ),
    "weights config is a list": (lambda: exported(weights=[]), "payload config", ()),
    "path_name leaves its folder": (lambda: _weight(path="../../../etc/passwd"), "not in the file", ()),
    "path_name is absolute": (lambda: _weight(path="/etc/passwd"), "not in the file", ()),
    "path_name is a number": (
        lambda: exported(weights={"config": {"w": {**_payload(), "path_name": 7}}}),
        "path_name",
        (),
    ),
    "use_pickle is a number": (
        lambda: exported(weights={"config": {"w": {**_payload(), "use_pickle": 1}}}),
        "use_pickle",
        (),
    ),
    "sizes beyond the member": (lambda: _weight(sizes=[5]), "beyond its storage", ()),
    "an offset beyond the member": (lambda: _weight(storage_offset=1), "beyond its storage", ()),
    "a negative size": (lambda: _weight(sizes=[-4]), "negative", ()),
    "a size that is true": (
        lambda: _weight(tensor_meta={**_meta(), "sizes": [{"as_int": True}]}),
        "integer",
        (),
    ),
    "a size that is a symbol": (
        lambda: _weight(tensor_meta={**_meta(), "sizes": [{"as_expr": {"expr_str": "__import__('os')"}}]}),
        "integer",
        (),
    ),
    "sizes whose product wraps": (lambda: _weight(sizes=[2**62, 4], strides=[0, 0]), "63 bits", ()),
    "a size of 100,000 digits": (
        lambda: exported(
            weights=json.dumps({"config": {"w": _payload()}})
            .replace('{"as_int": 4}', '{"as_int": ' + "9" * 100_000 + "}")
            .encode()
        ),
        "digits",
        (),
    ),
    "more sizes than strides": (lambda: _weight(sizes=[2, 2]), "strides", ()),
    "a dtype of 99": (lambda: _weight(dtype=99), "dtype", ()),
    "a layout of 99": (lambda: _weight(layout=99), "layout", ()),
    "a device of ESC": (lambda: _weight(device={"type": "\x1b[2J\x9b", "index": 0}), "", ()),
    "a weight in a compressed zip": (
        lambda: exported(
            weights={"config": {"w": _payload("weight_9", use_pickle=True)}},
            more=(Member("archive/data/weights/weight_9", torch_zip(op.dump({})), DEFLATED),),
        ),
        "compressed archive",
        (),
    ),
    "model.json that inflates": (
        lambda: build_zip(
            [
                Member("archive/archive_format", b"pt2"),
                Member("archive/models/model.json", b" " * (110 * MIB), DEFLATED),
            ]
        ),
        "size of member models/model.json",
        (),
    ),
    "aotinductor config of numbers": (
        lambda: exported(
            more=(Member("archive/data/aotinductor/m/weights_config.json", b'{"w":[1,2,3,4]}'),)
        ),
        "malformed",
        (),
    ),
    "aotinductor view beyond its tensor": (
        lambda: exported(
            more=(
                Member("archive/data/aotinductor/m/weights_config.json", b'{"w":["x",[99],[1],0]}'),
                Member("archive/data/weights/x", torch_zip(op.PROTO(2) + op.tensor() + op.STOP)),
            )
        ),
        "beyond its storage",
        (),
    ),
    "aotinductor library": (
        lambda: exported(more=(Member("archive/data/aotinductor/m/\x1b[2J.so", b"\x7fELF" + bytes(60)),)),
        "",
        (),
    ),
}


# These take seconds.
HEAVY = ("a hundred thousand classes", "code of one line of 10 MB", "modules of ten names, thirty deep")


def _iter_cases() -> Iterator[Case]:
    for name, (build, error, listed) in SCRIPTS.items():
        yield Case(f"torchscript: {name}", build, error, listed, alone=name in HEAVY)
    for name, (build, error, listed) in PROGRAMS.items():
        yield Case(f"pt2: {name}", build, error, listed, suffix=".pt2")


CASES = tuple(_iter_cases())
