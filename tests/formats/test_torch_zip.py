"""torch.save's zip container: which files are one, and all that is told of one."""

from __future__ import annotations

import pytest

from ckpttool.formats import torch_zip as module
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.zip_records import read_archive
from ckpttool.values.checkpoint import Entry, GlobalRef, StorageRef, TensorInfo, Value
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from tests.formats.test_zip_records import Bytes
from tests.hostile import pickles as op
from tests.hostile.containers import Member, build_zip


def look(members: dict[str, bytes], **limits: int) -> Look:
    return Look(Bytes(build_zip([Member(name, data) for name, data in members.items()])), Limits(**limits))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a/data.pkl"], True), (["a/version", "a/data.pkl"], True), (["a/x", "b/data.pkl"], True),
        (["a/b/data.pkl"], True), (["data.pkl"], False), (["a/data.pkl2"], False), (["a/xdata.pkl"], False),
        (["a/constants.pkl", "a/code/x.py"], False),
    ],
)  # fmt: skip
def test_a_zip_with_a_pickle_in_a_folder_is_one(names: list[str], found: bool) -> None:
    assert module.sniff(look(dict.fromkeys(names, b"x"))) is found


def test_a_zip_that_cannot_be_opened_or_is_empty_is_one_and_nothing_else_is() -> None:
    content = build_zip([Member("a/x", b"x")])
    assert not module.sniff(Look(Bytes(content), Limits()))
    assert module.sniff(Look(Bytes(content[:-30]), Limits()))  # read says what is wrong with it
    for other in (b"", b"PK", b"PK\x05\x06" + bytes(18), b"x" + content):
        assert not module.sniff(Look(Bytes(other), Limits()))


@pytest.mark.parametrize("folder", ["data", "tensors"])
def test_all_that_is_told_of_one(folder: str) -> None:
    """Also what torch would not take: members outside, pickles behind, no version."""
    tensor = op.tensor(op.storage("k", numel=2), 1, (1,))
    behind = op.PROTO(2) + op.call("os:system", "id") + op.STOP
    asked = look({
        "top/data.pkl": op.dump({"w": tensor, "epoch": 3}) + behind,
        f"top/{folder}/k": b"12345678", "out": b"",
    })  # fmt: skip
    record = asked.parse(read_archive).records[f"top/{folder}/k"]
    found = module.read(asked)
    storage = StorageRef("a.zip", f"{folder}/k", record.byte_offset, 8, "cpu")
    assert found.entries == (Entry((), "w", TensorInfo(BY_NAME["float32"], (1,), (1,), 1, storage), False),)
    assert found.values == (Value((), "epoch", 3),)
    system = found.globals[-1]
    assert isinstance(system, GlobalRef)
    assert (system.module, system.name, system.called, system.calls) == ("os", "system", True, 1)
    assert [item.code for item in found.findings] == ["zip-members-outside", "bytes-after-pickle"]
    assert found.obstacles == ("members outside the top folder 'top'", "a missing member version")
    assert list(found.records) == list(asked.parse(read_archive).records.values())
    layout = "torch 1.4, experimental" if folder == "tensors" else "torch 1.6 to 2.0"
    assert (found.path, found.format, found.layout) == ("a.zip", "torch_zip", layout)
    assert found.files == (asked.source.version,) and found.ordered


def test_ids_have_five_parts() -> None:
    """The sixth is of the layout before, for which torch's reader of this one has no place."""
    members = {"a/version": b"3", "a/data/0": bytes(16)}
    for more, said in ((), ()), ((None,), ("a storage's persistent id of 6 parts instead of 5",)):
        tensor = op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", *more))
        found = module.read(look({"a/data.pkl": op.dump({"w": tensor}), **members}))
        assert (found.obstacles, len(found.entries)) == (said, 1)


def test_a_tensor_is_looked_for_under_data_first_and_must_be_there() -> None:
    data = op.dump({"w": op.tensor()})
    both = {"a/data.pkl": data, "a/tensors/0": bytes(16), "a/data/0": bytes(16)}
    (entry,) = module.read(look(both)).entries
    assert isinstance(entry.value, TensorInfo) and entry.value.storage is not None
    assert entry.value.storage.key == "data/0"
    with pytest.raises(MalformedCheckpoint, match="a tensor's storage is not in the file"):
        module.read(look({"a/data.pkl": data, "a/0": bytes(16)}))


def test_limits_hold_for_the_pickle_and_what_is_in_it() -> None:
    data = op.dump([1, 2, 3])
    assert len(module.read(look({"a/data.pkl": data}, pickle_nbytes=len(data), entries=4)).values) == 3
    for limits in ({"pickle_nbytes": len(data) - 1}, {"entries": 3}, {"pickle_ops": 3}):
        with pytest.raises(LimitExceeded):
            module.read(look({"a/data.pkl": data}, **limits))
