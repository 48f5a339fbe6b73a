"""A .pt2 archive put together by hand: what each member adds to the checkpoint, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ckpttool.formats import export
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.export.schema import TENSOR_CONSTANT
from ckpttool.formats.zip_records import read_archive
from ckpttool.values.checkpoint import (
    UNCLASSIFIED,
    Basis,
    Checkpoint,
    Classification,
    Entry,
    GlobalRef,
    Kind,
    Opaque,
    Record,
    StorageRef,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint, UnsupportedFeature
from tests.formats.test_export_schema_by_hand import payload, payloads, program, tensor_meta
from tests.formats.test_zip_records import Bytes
from tests.hostile import pickles as op
from tests.hostile.containers import Member, build_zip, torch_zip

PARAMETER = Classification(Kind.PARAMETER, Basis.EXPORT)
FLAGGED = Classification(
    Kind.PARAMETER, Basis.PICKLED_PARAMETER, note="saved as a Parameter, not in the signature"
)
SPECS = (
    {"parameter": {"parameter_name": "w"}},
    {"buffer": {"buffer_name": "n", "persistent": False}},
    {"tensor_constant": {"tensor_constant_name": "c"}},
)
FLOATS = bytes(range(40))
SYSTEM = op.PROTO(2) + op.call("os:system", "id") + op.STOP


def look(members: dict[str, Any], base: int = 0, **limits: int) -> Look:
    """The archive; what is no bytes is JSON."""
    made = [
        Member(name, data if isinstance(data, bytes) else json.dumps(data).encode())
        for name, data in members.items()
    ]
    return Look(Bytes(build_zip(made), base), Limits(**limits))


def below(**members: Any) -> dict[str, Any]:
    """Members below the top folder of the newer layout."""
    return {"top/archive_format": b"pt2", "top/archive_version": b"0"} | {
        f"top/{name}": data for name, data in members.items()
    }


def new(weights: Any = None, constants: Any = None, **more: Any) -> dict[str, Any]:
    """One model called m, of these configs."""
    return below(
        **{
            "models/m.json": program(*SPECS),
            "data/weights/m_weights_config.json": payloads(**(weights or {})),
            "data/constants/m_constants_config.json": payloads(**(constants or {})),
            "data/weights/weight_0": FLOATS,
            "data/constants/tensor_0": FLOATS[:8],
            **more,
        }
    )


def read(members: dict[str, Any], **limits: int) -> Checkpoint:
    return export.read(look(members, **limits))


def records(members: dict[str, Any]) -> dict[str, Record]:
    asked = look(members)
    return {name.removeprefix("top/"): item for name, item in asked.parse(read_archive).records.items()}


def refused(members: dict[str, Any], kind: type[CkptToolError] = MalformedCheckpoint, **limits: int) -> str:
    with pytest.raises(kind) as caught:
        read(members, **limits)
    return caught.value.describe()


def stored(members: dict[str, Any], member: str, location: str = "cpu") -> StorageRef:
    item = records(members)[member]
    return StorageRef("a.zip", member, item.byte_offset, item.nbytes, location, False, None)


def view(
    storage: StorageRef | None, shape: Any = (2, 3), stride: Any = (3, 1), offset: int = 4
) -> TensorInfo:
    return TensorInfo(BY_NAME["float32"], tuple(shape), tuple(stride), offset, storage)


# -- one model ----------------------------------------------------------------------------------------------


def test_one_is_known_by_its_format_or_its_program() -> None:
    assert export.sniff(look(new())) and export.sniff(look(old()))
    assert not export.sniff(look({"top/data.pkl": b""}))


def test_all_that_is_told_of_one_model() -> None:
    constant = tensor_meta((2,), (1,), 0, requires_grad=True, device={"type": "cuda", "index": 1})
    members = new(
        {"w": payload(), "flag": payload(), "plain": payload(is_param=False)},
        {"c": payload("tensor_0", constant, is_param=False), "n": payload("tensor_0", constant)},
    )
    found = read(members)
    weight = view(stored(members, "data/weights/weight_0"))
    small = view(stored(members, "data/constants/tensor_0", "cuda:1"), (2,), (1,), 0)
    note = "carried by the program, not by a state_dict"
    assert found.entries == (
        Entry((), "w", weight, False, PARAMETER),
        Entry((), "flag", weight, False, FLAGGED),
        Entry((), "plain", weight, False, UNCLASSIFIED),
        Entry(("constants",), "c", small, True, TENSOR_CONSTANT),
        Entry((), "n", small, True, Classification(Kind.NON_PERSISTENT_BUFFER, Basis.EXPORT, note=note)),
    )  # fmt: skip
    assert (found.path, found.format, found.ordered) == ("a.zip", "torch_export", False)
    assert found.layout == "exported program, torch 2.13.0"
    assert (found.opaque, found.globals, found.findings, found.values) == ((), (), (), ())
    assert list(found.records) == list(look(members).parse(read_archive).records.values())
    assert found.files == (Bytes.version,)


def test_bytes_are_turned_where_the_archive_says_so() -> None:
    members = new({"w": payload()}, byteorder=b"big")
    (entry,) = read(members).entries
    assert entry.tensor is not None
    assert entry.tensor.storage == stored(members, "data/weights/weight_0")._replace(big_endian=True)


@pytest.mark.parametrize(("sizes", "has"), [((2, 3), False), ((0, 3), True), ((2, 0), True), ((), False)])
def test_an_empty_member_is_of_a_fake_tensor_or_of_one_without_elements(sizes: Any, has: bool) -> None:
    meta = tensor_meta(sizes, [1] * len(sizes), 0)
    members = new({"w": payload("weight_1", meta)}, **{"data/weights/weight_1": b""})
    (entry,) = read(members).entries
    storage = stored(members, "data/weights/weight_1") if has else None
    assert entry.value == view(storage, sizes, [1] * len(sizes), 0)


def test_a_tensor_of_another_layout_is_described_and_one_without_one_is_refused() -> None:
    found = read(new({"w": payload(meta=tensor_meta(layout=1))}))
    assert found.opaque == (Opaque((), "w", "torch.Tensor", "layout sparse_coo"),) and found.entries == ()
    assert refused(new({"w": payload(tensor_meta=None)})) == "a tensor has no tensor_meta: 'w'"
    said = "a tensor's member is not in the file: 'data/weights/lost'"
    assert refused(new({"w": payload("lost")})) == said
    assert refused(new(None, {"w": payload("lost")})) == said.replace("weights", "constants")


def test_there_may_be_several_models_or_none() -> None:
    members = new({"w": payload()})
    members |= below(**{
        "models/other.json": program(*SPECS, torch_version=None), "models/readme.txt": b"",
        "data/weights/other_model_param_config.json": payloads(w=payload()),
        "data/constants/other_model_constants_config.json": payloads(c=payload("tensor_0")),
    })  # fmt: skip
    found = read(members)
    assert [(item.root, item.name) for item in found.entries] == [
        (("m",), "w"), (("other",), "w"), (("other", "constants"), "c"),
    ]  # fmt: skip
    assert found.layout == "exported program, torch 2.13.0, exported program, torch 2.4 or older"
    twice = members | {"top/models/other.json": program(*SPECS)}
    assert read(twice).layout == "exported program, torch 2.13.0"
    assert read(below()).layout == "no model" and read(below()).entries == ()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("data/weights/m_weights_config.json", "a member is missing: 'data/weights/m_weights_config.json'"),
        ("data/constants/m_constants_config.json",
         "a member is missing: 'data/constants/m_constants_config.json'"),
    ],
)  # fmt: skip
def test_a_model_has_weights_and_constants(lost: str, said: str) -> None:
    members = new()
    del members[f"top/{lost}"]
    assert refused(members) == said


@pytest.mark.parametrize(
    ("member", "text", "said"),
    [
        ("archive_format", b"pt3", "archive_format 'pt3' of a .pt2 archive"),
        ("archive_version", b"1", "archive_version '1' of a .pt2 archive"),
        ("archive_version", b"", "archive_version '' of a .pt2 archive"),
        ("archive_version", b" 0\n", ""),
        ("archive_version", None, ""),
    ],
)
def test_another_version_is_not_read(member: str, text: bytes | None, said: str) -> None:
    members = new({"w": payload()}) | {f"top/{member}": text}
    if text is None:
        del members[f"top/{member}"]
    if said:
        assert refused(members, UnsupportedFeature) == said
    else:
        assert len(read(members).entries) == 1


def test_an_archive_that_torch_load_would_read_as_well_is_refused() -> None:
    said = "two checkpoints in one archive: torch.load reads this member, torch.export.load a program: "
    for name in ("top/data.pkl", "other/data.pkl"):
        assert refused(new() | {name: op.dump(1)}) == f"{said}{name!r}"
    assert read(new() | {"top/deep/data.pkl": op.dump(1)}).layout


def test_what_the_zip_itself_says_is_passed_on() -> None:
    found = read(new() | {"outside": b""})
    assert [item.code for item in found.findings] == ["zip-members-outside"]


# -- tensors in torch zips ----------------------------------------------------------------------------------


def saved(tree: Any, **storages: bytes) -> bytes:
    return torch_zip(op.dump(tree), {key.strip("_"): data for key, data in storages.items()} or None)


def zipped(weights: bytes, constants: bytes = b"", **more: Any) -> dict[str, Any]:
    """As torch 2.8 has it: a torch zip instead of each config."""
    return below(**{
        "models/m.json": program(*SPECS), "data/weights/m.pt": weights, "data/constants/m.pt": constants,
        **more,
    })  # fmt: skip


def test_a_dict_of_tensors_in_a_zip_has_the_kinds_of_the_signature() -> None:
    tree = {
        "w": op.tensor(),
        "other": op.tensor(),
        5: op.tensor(),
        "deep": {"w": op.tensor()},
        "x": op.call("m:C"),
    }
    members = zipped(saved(tree), saved({"c": op.tensor()}))
    found = read(members)
    assert [(item.root, item.name, item.declared) for item in found.entries[:4]] == [
        ((), "w", PARAMETER), ((), "other", UNCLASSIFIED), ((), 5, UNCLASSIFIED),
        (("deep",), "w", UNCLASSIFIED),
    ]  # fmt: skip
    assert [(item.root, item.name) for item in found.entries[4:]] == [(("constants",), "c")]
    assert [(item.root, item.name, item.type_name) for item in found.opaque] == [((), "x", "m.C")]
    storage = found.entries[0].value.storage  # type: ignore[union-attr]
    assert storage.key == "top/data/weights/m.pt/data/0"  # type: ignore[union-attr]
    content = look(members).source.read_at(0, look(members).source.size)
    zeros = content[storage.byte_offset : storage.byte_offset + 16]  # type: ignore[union-attr]
    assert zeros == bytes(16)
    named = {ref.name: ref for ref in found.globals}
    assert named["_rebuild_tensor_v2"].calls == 5
    assert named["C"] == GlobalRef("m", "C", True, ("data/weights/m.pt: $.x",), 1, (0,))


def test_what_the_signature_does_not_name_is_what_its_pickle_says() -> None:
    behind = torch_zip(op.dump({"p": op.parameter(), "w": op.parameter()}) + SYSTEM)
    found = read(zipped(behind, saved({"a": {"": op.tensor()}})))
    assert [item.declared.basis for item in found.entries] == [
        Basis.PICKLED_PARAMETER, Basis.EXPORT, Basis.NONE,
    ]  # fmt: skip
    assert [item.code for item in found.findings] == ["bytes-after-pickle"]
    deep = payload("weight_1", use_pickle=True)
    (entry,) = read(new({"d": deep}, **{"data/weights/weight_1": saved({"a": {"": op.tensor()}})})).entries
    assert (entry.root, entry.name) == (("d", "a"), "")


def test_several_models_in_zips_have_each_its_root() -> None:
    members = zipped(saved({"w": op.tensor(), "x": op.call("m:C")}))
    members |= below(**{
        "models/o.json": program(), "data/weights/o.pt": saved({"w": op.tensor()}),
        "data/constants/o.pt": b"",
    })  # fmt: skip
    found = read(members)
    assert [(item.root, item.name) for item in found.entries] == [(("m",), "w"), (("o",), "w")]
    assert [(item.root, item.name) for item in found.opaque] == [(("m",), "x")]
    assert [item.declared for item in found.entries] == [PARAMETER, UNCLASSIFIED]


def test_a_tensor_that_is_pickled_by_itself_has_the_name_of_its_weight() -> None:
    weights = {
        "w": payload("weight_1", use_pickle=True), "d": payload("weight_2", use_pickle=True, is_param=False),
        "o": payload("weight_3", use_pickle=True),
    }  # fmt: skip
    members = new(weights, **{
        "data/weights/weight_1": saved(op.tensor()),
        "data/weights/weight_2": saved({"a": op.tensor(), "x": op.call("m:C")}),
        "data/weights/weight_3": saved(op.call("m:D")),
    })  # fmt: skip
    found = read(members)
    assert [(item.root, item.name, item.declared) for item in found.entries] == [
        ((), "w", PARAMETER), (("d",), "a", UNCLASSIFIED),
    ]  # fmt: skip
    assert [(item.root, item.name, item.type_name) for item in found.opaque] == [
        (("d",), "x", "m.C"), ((), "o", "m.D"),
    ]  # fmt: skip


def test_one_member_of_two_names_is_read_once() -> None:
    weights = {name: payload("weight_1", use_pickle=True) for name in ("w", "v")}
    found = read(
        new(weights, **{"data/weights/weight_1": saved(op.with_state(op.tensor(), {"x": op.call("m:C")}))})
    )
    assert [item.name for item in found.entries] == ["w", "v"]
    (c,) = [ref for ref in found.globals if ref.name == "C"]
    assert c.calls == 1


# -- compiled packages --------------------------------------------------------------------------------------


def package(views: Any, **more: Any) -> dict[str, Any]:
    return below(**{
        "data/aotinductor/k/weights_config.json": views, "data/aotinductor/k/code.so": b"12345",
        "data/weights/w0": saved(op.tensor()), **more,
    })  # fmt: skip


def test_a_compiled_package_views_whole_tensors() -> None:
    found = read(package({"b": ["w0", [2], [3], 0], "a": ["w0", [], [], 3]}))
    (b, a) = found.entries
    assert [(item.root, item.name, item.declared) for item in found.entries] == [
        (("aotinductor", "k"), "b", UNCLASSIFIED), (("aotinductor", "k"), "a", UNCLASSIFIED),
    ]  # fmt: skip
    assert b.tensor is not None and a.tensor is not None and b.tensor.storage == a.tensor.storage
    assert b.tensor == view(b.tensor.storage, (2,), (3,), 0) and a.tensor == view(b.tensor.storage, (), (), 3)
    assert found.layout == "AOTInductor package"
    assert found.opaque == (
        Opaque(("aotinductor",), "k/weights_config.json", "file",
               f"{len(json.dumps({'b': ['w0', [2], [3], 0], 'a': ['w0', [], [], 3]}))} bytes"),
        Opaque(("aotinductor",), "k/code.so", "file", "5 bytes"),
    )  # fmt: skip
    both = read(package({}) | new({"w": payload()}))
    assert both.layout == "exported program, torch 2.13.0, AOTInductor package" and len(both.entries) == 1
    bare = package({})
    del bare["top/data/aotinductor/k/weights_config.json"]
    assert read(bare).entries == () and read(bare).layout == "AOTInductor package"


def test_a_view_is_of_one_plain_tensor_that_is_there() -> None:
    assert refused(package({"b": ["lost", [], [], 0]})) == (
        "a tensor's member is not in the file: 'data/weights/lost'"
    )
    said = "a member does not hold one plain tensor: 'data/weights/w1'"
    indices = op.tensor(op.storage("1", "torch:LongStorage", 2), 0, (1, 2), (2, 1))
    layout = op.call("torch.serialization:_get_layout", "torch.sparse_coo")
    parts = (indices, op.tensor(size=(2,)), (9,), False)
    sparse = op.call("torch._utils:_rebuild_sparse_tensor", layout, parts)
    for tree in ([op.tensor(), op.tensor()], {}, 5, sparse):
        more = {"data/weights/w1": saved(tree, _0=bytes(16), _1=bytes(16))}
        assert refused(package({"b": ["w1", [], [], 0]}, **more)) == said


# -- what is only described -------------------------------------------------------------------------------


def test_sample_inputs_are_described_by_their_globals() -> None:
    behind = op.PROTO(2) + op.call("m:After") + op.STOP
    members = new(**{"data/sample_inputs/m.pt": SYSTEM + behind})
    found = read(members)
    assert found.opaque == (
        Opaque(("sample_inputs",), "m", "pickle", f"{len(SYSTEM + behind)} bytes, run by torch.export.load"),
    )
    system, after = found.globals
    assert (system.module, system.name, system.called, system.calls) == ("os", "system", True, 1)
    assert system.places[0].startswith("top/data/sample_inputs/m.pt: byte ")
    assert after.name == "After" and [item.code for item in found.findings] == ["bytes-after-pickle"]
    assert (
        read(new(**{"data/sample_inputs/m.pt": b""})).opaque[0].summary == "0 bytes, run by torch.export.load"
    )
    assert read(new(**{"data/sample_inputs/other.pt": SYSTEM})).globals == ()


def test_an_object_among_the_constants_is_described() -> None:
    members = new(
        None, {"o": payload("obj", use_pickle=True, tensor_meta=None)}, **{"data/constants/obj": SYSTEM}
    )
    found = read(members)
    summary = f"{len(SYSTEM)} bytes, run by torch.export.load"
    assert found.opaque == (Opaque(("constants",), "o", "pickle", summary),) and len(found.globals) == 1


@pytest.mark.parametrize(
    ("folder", "root"),
    [
        ("data/executorch/", ("executorch",)), ("data/mtia/", ("mtia",)), ("extra/", ("extra",)),
        ("xl_model_weights/", ("xl_model_weights",)), ("extra_files/", ("extra_files",)),
        ("data/other/", None), ("other/", None),
    ],
)  # fmt: skip
def test_files_that_a_program_carries_are_listed(folder: str, root: Any) -> None:
    found = read(new(**{f"{folder}a/b.txt": b"x", f"{folder}c": b""}))
    files = [Opaque(root, "a/b.txt", "file", "1 byte"), Opaque(root, "c", "file", "0 bytes")]
    assert list(found.opaque) == (files if root else [])


# -- the older layout -------------------------------------------------------------------------------------


def old(**more: Any) -> dict[str, Any]:
    return {
        "serialized_exported_program.json": program(*SPECS),
        "serialized_state_dict.pt": saved({"w": op.tensor()}),
        **{name.replace("__", "."): data for name, data in more.items()},
    }  # fmt: skip


def test_the_older_layout_has_no_top_folder() -> None:
    found = read(old(
        serialized_constants__pt=saved({"c": op.tensor(), "n": op.tensor()}), version=b"1",
        serialized_example_inputs__pt=SYSTEM, **{"extra_files/a": b"x"},
    ))  # fmt: skip
    assert [(item.root, item.name, item.declared.kind) for item in found.entries] == [
        ((), "w", Kind.PARAMETER), (("constants",), "c", Kind.UNKNOWN), ((), "n", Kind.NON_PERSISTENT_BUFFER),
    ]  # fmt: skip
    assert found.layout == "exported program, torch 2.7 or older" and not found.ordered
    assert [(item.root, item.name, item.type_name) for item in found.opaque] == [
        ((), "serialized_example_inputs.pt", "pickle"), (("extra_files",), "a", "file"),
    ]  # fmt: skip
    assert "system" in {ref.name for ref in found.globals}


def test_the_oldest_names_end_in_json() -> None:
    members = old(serialized_state_dict__json=saved({"v": op.tensor()}))
    assert [item.name for item in read(members).entries] == ["w"]
    del members["serialized_state_dict.pt"]
    assert [item.name for item in read(members).entries] == ["v"]
    del members["serialized_state_dict.json"]
    assert refused(members) == "a member is missing: 'serialized_state_dict.pt'"


# -- limits -----------------------------------------------------------------------------------------------


def test_limits_hold_for_tensors_of_all_models_together_and_for_json() -> None:
    two = saved({"w": op.tensor(), "v": op.tensor()})
    members = zipped(two) | below(**{
        "models/o.json": program(), "data/weights/o.pt": two, "data/constants/o.pt": b"",
    })  # fmt: skip
    assert len(read(members, entries=4).entries) == 4
    with pytest.raises(LimitExceeded) as caught:
        read(members, entries=3)
    assert (caught.value.what, caught.value.limit) == ("number of tensors", 3)
    members = new({name: payload() for name in "abc"})
    longest = max(len(json.dumps(item)) for item in members.values() if not isinstance(item, bytes))
    assert len(read(members, header_nbytes=longest).entries) == 3
    said = refused(members, LimitExceeded, header_nbytes=longest - 1)
    assert said.startswith("size of member data/weights/m_weights_config.json")
