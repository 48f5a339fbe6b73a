"""The JSON of a .pt2 archive, field by field: what each one says, and the sentence for each that is wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ckpttool.formats.export.schema import (
    TENSOR_CONSTANT,
    Payload,
    Program,
    SharedView,
    TensorMeta,
    parse_payloads,
    parse_program,
    parse_shared_views,
)
from ckpttool.values.checkpoint import Basis, Classification, Kind
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import MalformedCheckpoint

LOST = object()
"""In the place of a value: its field is not there."""


def changed(document: Any, path: str, value: object) -> Any:
    """A copy in which what stands at ``path`` is ``value``."""
    steps = [int(step) if step.isdecimal() else step for step in path.split("/")] if path else []
    if not steps:
        return value
    made = target = copy.deepcopy(document)
    for step in steps[:-1]:
        target = target[step]
    if value is LOST:
        del target[steps[-1]]
    else:
        target[steps[-1]] = value
    return made


def sentence(parse: Any, document: Any) -> str:
    with pytest.raises(MalformedCheckpoint) as caught:
        parse(document)
    return caught.value.describe()


# -- the signature ------------------------------------------------------------------------------------------


def program(*specs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"graph_module": {"signature": {"input_specs": list(specs)}}, "torch_version": "2.13.0", **more}


PROGRAM = program(
    {"user_input": {"arg": {}}},
    {"parameter": {"parameter_name": "w", "arg": {}}},
    {"buffer": {"buffer_name": "b", "persistent": True}},
    {"buffer": {"buffer_name": "n", "persistent": False}},
    {"tensor_constant": {"tensor_constant_name": "c"}},
)


def test_a_signature_gives_each_name_its_kind() -> None:
    found = parse_program(PROGRAM)
    note = "carried by the program, not by a state_dict"
    assert found == Program(
        {
            "w": Classification(Kind.PARAMETER, Basis.EXPORT),
            "b": Classification(Kind.PERSISTENT_BUFFER, Basis.EXPORT),
            "n": Classification(Kind.NON_PERSISTENT_BUFFER, Basis.EXPORT, note=note),
            "c": TENSOR_CONSTANT,
        },
        "2.13.0",
    )
    assert TENSOR_CONSTANT == Classification(
        Kind.UNKNOWN, Basis.EXPORT, note="tensor constant, not registered", registered=False
    )
    old = parse_program(program({"buffer": {"buffer_name": "b"}}))  # torch 2.2: all were saved
    assert old.kinds == {"b": Classification(Kind.PERSISTENT_BUFFER, Basis.EXPORT)}
    odd = parse_program(program({"parameter": {"parameter_name": "w", "persistent": False}}))
    assert odd.kinds == {"w": Classification(Kind.PARAMETER, Basis.EXPORT)}  # only buffers may be otherwise
    assert parse_program(program()) == Program({}, "2.13.0")


@pytest.mark.parametrize(
    ("version", "said"), [("2.4", "2.4"), ("x" * 40, "x" * 32), (None, ""), (2, ""), ("", ""), (["2"], "")]
)
def test_the_version_is_said_if_it_is_a_text(version: object, said: str) -> None:
    assert parse_program(program(torch_version=version)).torch_version == said
    assert parse_program(changed(PROGRAM, "torch_version", LOST)).torch_version == ""


def test_one_name_has_one_kind() -> None:
    one, other = {"parameter": {"parameter_name": "w"}}, {"buffer": {"buffer_name": "w"}}
    assert list(parse_program(program(one, one)).kinds) == ["w"]
    for specs in ((one, other), (other, one), ({**one, **other},)):
        assert sentence(parse_program, program(*specs)) == (
            "the program's signature gives one name two kinds: 'w'"
        )


def bad(what: str, expected: str, actual: str) -> str:
    return f"malformed {what} in the archive's JSON, expected {expected}, got {actual}"


NOTHING = "null"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("", [], bad("exported program", "an object", "an array")),
        ("graph_module", LOST, bad("graph_module", "an object", NOTHING)),
        ("graph_module", 1, bad("graph_module", "an object", "an integer")),
        ("graph_module/signature", "x", bad("signature", "an object", "a string")),
        ("graph_module/signature/input_specs", {}, bad("input_specs", "an array", "an object")),
        ("graph_module/signature/input_specs", LOST, bad("input_specs", "an array", NOTHING)),
        ("graph_module/signature/input_specs/1", 5, bad("input spec", "an object", "an integer")),
        ("graph_module/signature/input_specs/1/parameter", 5, bad("parameter", "an object", "an integer")),
        ("graph_module/signature/input_specs/1/parameter/parameter_name", 5,
         bad("parameter_name", "a string", "an integer")),
        ("graph_module/signature/input_specs/1/parameter/parameter_name", LOST,
         bad("parameter_name", "a string", NOTHING)),
        ("graph_module/signature/input_specs/2/buffer/buffer_name", LOST,
         bad("buffer_name", "a string", NOTHING)),
        ("graph_module/signature/input_specs/2/buffer/persistent", 1,
         bad("persistent", "true or false", "an integer")),
        ("graph_module/signature/input_specs/2/buffer/persistent", None,
         bad("persistent", "true or false", NOTHING)),
        ("graph_module/signature/input_specs/4/tensor_constant", None,
         bad("tensor_constant", "an object", NOTHING)),
    ],
)  # fmt: skip
def test_a_signature_of_other_types_is_refused(path: str, value: object, said: str) -> None:
    assert sentence(parse_program, changed(PROGRAM, path, value)) == said


def test_what_is_not_read_may_be_anything() -> None:
    assert parse_program(changed(PROGRAM, "graph_module/signature/input_specs/0/user_input", 5)).kinds


# -- weights ------------------------------------------------------------------------------------------------


def tensor_meta(sizes: Any = (2, 3), strides: Any = (3, 1), offset: int = 4, **more: Any) -> dict[str, Any]:
    plain = {"dtype": 7, "layout": 7, "device": {"type": "cpu", "index": None}, "requires_grad": False}
    return {
        **plain,
        "sizes": [{"as_int": size} for size in sizes],
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": offset},
        **more,
    }


def payloads(**weights: dict[str, Any]) -> dict[str, Any]:
    return {"config": weights}


def payload(member: str = "weight_0", meta: Any = None, **more: Any) -> dict[str, Any]:
    made = tensor_meta() if meta is None else meta
    return {"path_name": member, "is_param": True, "use_pickle": False, "tensor_meta": made, **more}


META = TensorMeta(BY_NAME["float32"], (2, 3), (3, 1), 4, False, "cpu", "strided")


def test_a_config_gives_each_name_its_member_and_its_layout() -> None:
    document = payloads(
        z=payload(), a=payload("weight_1", tensor_meta((), (), 0), is_param=False, use_pickle=True),
        o=payload("opaque_obj_0", tensor_meta=None), g=payload(meta=tensor_meta(requires_grad=True)),
    )  # fmt: skip
    assert parse_payloads(document) == [
        Payload("z", "weight_0", True, False, META),
        Payload("a", "weight_1", False, True, META._replace(shape=(), stride=(), storage_offset=0)),
        Payload("o", "opaque_obj_0", True, False, None),
        Payload("g", "weight_0", True, False, META._replace(requires_grad=True)),
    ]
    del document["config"]["o"]["tensor_meta"]
    assert parse_payloads(document)[2].meta is None
    assert parse_payloads(payloads()) == []


@pytest.mark.parametrize(
    ("device", "location"),
    [
        ({"type": "cpu"}, "cpu"),
        ({"type": "cuda", "index": 0}, "cuda:0"),
        ({"type": "cuda", "index": 12}, "cuda:12"),
    ],
)
def test_a_device_has_a_number_where_one_is_said(device: dict[str, Any], location: str) -> None:
    (found,) = parse_payloads(payloads(w=payload(meta=tensor_meta(device=device))))
    assert found.meta == META._replace(location=location)


def test_layouts_and_dtypes_are_numbers() -> None:
    """Those of ``Layout`` and ``ScalarType`` in torch's schema, of which a slow test asks torch itself."""
    words = "sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc _mkldnn strided"
    layouts = dict(enumerate(words.split(), 1))
    for number in range(10):
        document = payloads(w=payload(meta=tensor_meta(layout=number)))
        if number in layouts:
            assert parse_payloads(document)[0].meta == META._replace(layout=layouts[number])
        else:
            assert sentence(parse_payloads, document) == bad("layout", "a number of Layout", f"{number}")
    words = (
        "uint8 int8 int16 int32 int64 float16 float32 float64 complex32 complex64 complex128 bool bfloat16"
    )
    dtypes = dict(enumerate(words.split(), 1))
    for number, name in dtypes.items():
        (found,) = parse_payloads(payloads(w=payload(meta=tensor_meta(dtype=number))))
        assert found.meta == META._replace(dtype=BY_NAME[name])
    for number in (0, 14, 1000):
        document = payloads(w=payload(meta=tensor_meta(dtype=number)))
        assert sentence(parse_payloads, document) == bad("dtype", "a number of ScalarType", f"{number}")


@pytest.mark.parametrize(("sizes", "strides"), [(0, 0), (3, 3), (1024, 1024)])
def test_as_many_strides_as_sizes_and_1024_at_most(sizes: int, strides: int) -> None:
    for more_sizes, more_strides in ((0, 0), (1, 0), (0, 1)):
        shape, stride = [1] * (sizes + more_sizes), [1] * (strides + more_strides)
        config = payloads(w=payload(meta=tensor_meta(shape, stride)))
        views = {"w": ["m", shape, stride, 0]}
        if more_sizes == more_strides:
            assert parse_payloads(config)[0].meta == META._replace(shape=tuple(shape), stride=tuple(stride))
            assert parse_shared_views(views) == [SharedView("w", "m", tuple(shape), tuple(stride), 0)]
        else:
            said = bad("tensor", f"as many strides as sizes, {len(shape)}", f"{len(stride)}")
            assert sentence(parse_payloads, config) == sentence(parse_shared_views, views) == said


def test_1025_dimensions_are_too_many() -> None:
    said = bad("tensor", "as many strides as sizes, 1025", "1025")
    many = [1] * 1025
    assert sentence(parse_payloads, payloads(w=payload(meta=tensor_meta(many, many)))) == said
    assert sentence(parse_shared_views, {"w": ["m", many, many, 0]}) == said


META_AT = "config/w/tensor_meta"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("", [], bad("payload config", "an object", "an array")),
        ("config", LOST, bad("config", "an object", NOTHING)),
        ("config/w", "x", bad("payload", "an object", "a string")),
        ("config/w/path_name", 5, bad("path_name", "a string", "an integer")),
        ("config/w/is_param", LOST, bad("is_param", "true or false", NOTHING)),
        ("config/w/is_param", 1, bad("is_param", "true or false", "an integer")),
        ("config/w/use_pickle", "no", bad("use_pickle", "true or false", "a string")),
        (META_AT, [], bad("tensor_meta", "an object", "an array")),
        (f"{META_AT}/dtype", True, bad("dtype", "a non-negative integer", "true or false")),
        (f"{META_AT}/dtype", -1, bad("dtype", "a non-negative integer", "a negative integer")),
        (f"{META_AT}/dtype", LOST, bad("dtype", "a non-negative integer", NOTHING)),
        (f"{META_AT}/layout", "x", bad("layout", "a non-negative integer", "a string")),
        (f"{META_AT}/sizes", {}, bad("sizes", "an array", "an object")),
        (f"{META_AT}/sizes/1", 3, bad("size", "an object", "an integer")),
        (f"{META_AT}/sizes/1/as_int", -3, bad("size", "a non-negative integer", "a negative integer")),
        (f"{META_AT}/sizes/1", {"as_expr": "s0"}, bad("size", "a non-negative integer", NOTHING)),
        (f"{META_AT}/strides", LOST, bad("strides", "an array", NOTHING)),
        (f"{META_AT}/strides/0/as_int", 1.5, bad("stride", "a non-negative integer", "a number")),
        (f"{META_AT}/storage_offset", LOST, bad("storage_offset", "an object", NOTHING)),
        (f"{META_AT}/storage_offset/as_int", True,
         bad("storage_offset", "a non-negative integer", "true or false")),
        (f"{META_AT}/device", None, bad("device", "an object", NOTHING)),
        (f"{META_AT}/device/type", LOST, bad("device type", "a string", NOTHING)),
        (f"{META_AT}/device/index", -1, bad("device index", "a non-negative integer", "a negative integer")),
        (f"{META_AT}/device/index", "0", bad("device index", "a non-negative integer", "a string")),
        (f"{META_AT}/requires_grad", 0, bad("requires_grad", "true or false", "an integer")),
    ],
)  # fmt: skip
def test_a_config_of_other_types_is_refused(path: str, value: object, said: str) -> None:
    assert sentence(parse_payloads, changed(payloads(w=payload()), path, value)) == said


# -- views --------------------------------------------------------------------------------------------------


def test_a_package_gives_each_weight_a_view_of_a_member() -> None:
    document = {"b": ["w0", [2, 3], [3, 1], 4], "a": ["w1", [], [], 0]}
    assert parse_shared_views(document) == [
        SharedView("b", "w0", (2, 3), (3, 1), 4), SharedView("a", "w1", (), (), 0)
    ]  # fmt: skip
    assert parse_shared_views({}) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("", 5, bad("weights config", "an object", "an integer")),
        ("b", {}, bad("weight", "an array", "an object")),
        ("b", ["w0", [], []], bad("weight", "four fields", "3")),
        ("b", ["w0", [], [], 0, 0], bad("weight", "four fields", "5")),
        ("b/0", None, bad("file", "a string", NOTHING)),
        ("b/1", 5, bad("shape", "an array", "an integer")),
        ("b/1/0", -1, bad("shape", "a non-negative integer", "a negative integer")),
        ("b/2", None, bad("stride", "an array", NOTHING)),
        ("b/2/1", True, bad("stride", "a non-negative integer", "true or false")),
        ("b/3", "0", bad("offset", "a non-negative integer", "a string")),
        ("b/3", -1, bad("offset", "a non-negative integer", "a negative integer")),
    ],
)
def test_views_of_other_types_are_refused(path: str, value: object, said: str) -> None:
    assert sentence(parse_shared_views, changed({"b": ["w0", [2, 3], [3, 1], 4]}, path, value)) == said
