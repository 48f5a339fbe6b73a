"""Exported programs: JSON, payloads and nested pickles that lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.cases_code import COMMAND
from tests.hostile.containers import DEFLATED, ZEROS, Member, build_zip, legacy, torch_zip

MIB = 1 << 20
SYSTEM = op.call("posix:system", COMMAND)


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


CASES = tuple(
    Case(f"pt2: {name}", build, error, listed, suffix=".pt2")
    for name, (build, error, listed) in PROGRAMS.items()
)
