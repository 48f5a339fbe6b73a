"""Pickles and torch zips in another archive: where their tensors lie, and what globals they have."""

from __future__ import annotations

import pytest

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled_members import (
    list_pickled_globals,
    merge_members,
    open_member,
    read_torch_member,
)
from ckpttool.formats.zip_records import read_archive
from ckpttool.values.checkpoint import GlobalRef, Record
from ckpttool.values.errors import MalformedCheckpoint, UnsupportedFeature
from tests.formats.test_zip_records import Bytes
from tests.hostile import pickles as op
from tests.hostile.containers import DEFLATED, Member, build_zip, legacy, torch_zip

SYSTEM = op.PROTO(2) + op.call("os:system", "id") + op.STOP


def member(data: bytes, base: int = 0, method: int = 0) -> tuple[Bytes, Record]:
    source = Bytes(build_zip([Member("in", b"xyz"), Member("top/m", data, method)]), base)
    return source, read_archive(source, Limits()).records["top/m"]


@pytest.mark.parametrize("base", [0, 1000])
def test_a_member_is_read_where_it_lies(base: int) -> None:
    source, record = member(b"0123456789", base)
    inside = open_member(source, record)
    assert (inside.read_at(0, 10), inside.size, inside.base) == (b"0123456789", 10, record.byte_offset)
    with pytest.raises(UnsupportedFeature) as caught:
        open_member(*member(b"0" * 100, base, DEFLATED))
    assert caught.value.describe() == "compressed archive 'top/m' inside an archive"
    assert caught.value.hint == "save the program again with torch.export.save"
    source, record = member(torch_zip(op.dump({"w": op.tensor()})), base)
    (entry,) = read_torch_member(source, record, Limits()).entries
    storage = entry.value.storage  # type: ignore[union-attr]
    assert storage.key == "top/m/data/0"  # type: ignore[union-attr]
    at = storage.byte_offset - base  # type: ignore[union-attr]
    assert source.data[at : at + 16] == bytes(16) and record.byte_offset < storage.byte_offset  # type: ignore[union-attr]


def test_what_stands_behind_the_pickle_of_a_member_is_told() -> None:
    found = read_torch_member(*member(torch_zip(op.dump({"w": op.tensor()}) + SYSTEM)), Limits())
    assert [item.code for item in found.findings] == ["bytes-after-pickle"] and len(found.entries) == 1


def test_what_is_no_torch_zip_is_refused() -> None:
    for data in (b"", b"PK\x03", op.dump(1)):
        with pytest.raises(UnsupportedFeature) as caught:
            read_torch_member(*member(data), Limits())
        assert caught.value.describe() == "member 'top/m' that is not a torch zip"
    with pytest.raises(MalformedCheckpoint) as refusal:
        read_torch_member(*member(build_zip([Member("a/x", b"")])), Limits())
    assert refusal.value.describe() == "a torch zip without data.pkl: 'top/m'"


def listed(data: bytes) -> tuple[list[tuple[str, int]], list[str], list[str]]:
    """Names and calls of the globals of a member, their places without bytes' numbers, and the findings."""
    refs, findings = list_pickled_globals(*member(data), Limits())
    places = [place.rstrip("0123456789") for ref in refs for place in ref.places]
    return [(ref.name, ref.calls) for ref in refs], places, [item.code for item in findings]


def test_globals_of_a_pickle_a_zip_and_a_legacy_file_are_listed() -> None:
    assert list_pickled_globals(*member(b""), Limits()) == ((), ())
    where = "top/m: byte "
    refs, places, findings = listed(SYSTEM)
    assert (refs, [place[: len(where)] for place in places], findings) == ([("system", 1)], [where], [])
    assert listed(SYSTEM + b"x")[2] == ["bytes-after-pickle"]
    # Named and called nowhere: its place is the member.
    assert listed(op.PROTO(2) + op.named("m:f") + op.STOP) == ([("f", 0)], ["top/m"], [])
    assert listed(torch_zip(SYSTEM))[0] == [("system", 1)]
    assert listed(torch_zip(SYSTEM + SYSTEM))[2] == ["bytes-after-pickle"]
    body = op.PROTO(2) + op.call("m:Main") + op.STOP
    keys = op.PROTO(2) + op.call("m:Keys") + op.STOP
    refs, _, findings = listed(legacy(body, keys=keys))
    assert (refs, findings) == ([("Main", 1), ("Keys", 1)], [])
    assert listed(op.dump(5) + SYSTEM)[2] == ["bytes-after-pickle"]


def test_globals_of_members_are_one_list_with_the_member_before_each_place() -> None:
    def ref(name: str, *places: str, calls: int = 1) -> GlobalRef:
        return GlobalRef("m", name, True, places, calls)

    groups = [("a", [ref("f", "x", "")]), ("", [ref("f", "y")]), ("b", [ref("g"), ref("f", "", "")])]
    assert merge_members(groups) == (ref("f", "a: x", "a", "y", "b", calls=3), ref("g"))
    assert merge_members([("a", [ref("f", "x", "x")]), ("a", [ref("f", "x")])]) == (
        ref("f", "a: x", calls=2),
    )
    assert merge_members([]) == ()
