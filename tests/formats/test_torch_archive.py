"""A zip as torch's reader takes it: its top folder, what stands outside, its byte order and its storages."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
import torch

from ckpttool.formats.base import Limits, Look
from ckpttool.formats.pickled.arguments import StorageClaim
from ckpttool.formats.torch_archive import (
    TorchArchive,
    describe_layout,
    has_member,
    is_export,
    open_torch_archive,
    sniff_records,
)
from ckpttool.formats.zip_records import read_archive
from ckpttool.values.checkpoint import StorageRef
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint
from tests.formats.test_zip_records import Bytes


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def look(content: bytes) -> Look:
    return Look(Bytes(content), Limits())


def opened(base: int = 0, **members: bytes) -> TorchArchive:
    source = Bytes(zipped(**members), base)
    return open_torch_archive(source, read_archive(source, Limits()))


def test_what_is_no_zip_has_no_members_and_what_is_cut_has_none_either() -> None:
    content = zipped(**{"a/data.pkl": b"x"})
    assert list(sniff_records(look(content)) or ()) == ["a/data.pkl"]
    assert sniff_records(look(content[:-30])) == {}
    assert sniff_records(look(b"PK\x03\x04")) == {}
    assert sniff_records(look(b"PK\x05\x06")) is None
    assert sniff_records(look(b"")) is None
    assert sniff_records(look(b"xPK\x03\x04")) is None


@pytest.mark.parametrize(
    ("members", "found"),
    [
        (["top/wanted"], True), (["wanted"], True), (["top/data.pkl", "wanted"], True),
        (["top/data.pkl", "top/wanted"], True), (["top/data.pkl", "other/wanted"], False),
        (["top/data.pkl", "top/deep/wanted"], False), (["top/data.pkl"], False), ([], False),
    ],
)  # fmt: skip
def test_a_member_is_looked_for_in_the_top_folder_and_outside(members: list[str], found: bool) -> None:
    content = zipped(**dict.fromkeys(members, b"x"))
    assert has_member(look(content), "other", "wanted") is found
    assert has_member(look(content), "wanted") is found
    assert has_member(look(content), "other") is False
    assert has_member(look(b"no zip"), "wanted") is False


def test_an_exported_program_is_told_by_either_member() -> None:
    assert is_export(look(zipped(**{"a/archive_format": b"pt2"})))
    assert is_export(look(zipped(**{"serialized_exported_program.json": b"{}"})))
    assert not is_export(look(zipped(**{"a/data.pkl": b""})))


def test_the_folder_of_the_first_member_is_the_archive() -> None:
    view = opened(**{"a/data.pkl": b"1", "a/data/0": b"2", "b/data/1": b"3", "loose": b"4", "ab/x": b"5"})
    assert (view.top, list(view.records)) == ("a", ["data.pkl", "data/0"])
    (finding,) = view.findings
    assert (finding.code, finding.severity, finding.name) == ("zip-members-outside", "warning", "")
    assert finding.message.startswith("3 members lie outside the top folder 'a'")
    assert opened(**{"a/data.pkl": b"1"}).findings == ()
    for members in ({}, {"data.pkl": b"1"}, {"loose": b"1", "a/data.pkl": b"1"}):
        with pytest.raises(MalformedCheckpoint, match="no top folder"):
            opened(**members)


@pytest.mark.parametrize(
    ("text", "big"), [(None, False), (b"little", False), (b"big", True), (b" big\n", True)]
)
def test_the_byte_order_is_said_or_little(text: bytes | None, big: bool) -> None:
    view = opened(
        **{"a/data.pkl": b"1", "a/data/0": b"1234"} | ({} if text is None else {"a/byteorder": text})
    )
    assert view.big_endian is big
    ref = view.resolver()(StorageClaim("0", BY_NAME["float32"], 1, "cpu"))
    assert ref.big_endian is big


@pytest.mark.parametrize("text", [b"", b"Big", b"middle", b"\xff"])
def test_another_byte_order_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedCheckpoint, match="unknown byte order") as caught:
        opened(**{"a/data.pkl": b"1", "a/byteorder": text})
    assert caught.value.expected == "little or big"


def obstacles(members: dict[str, bytes]) -> tuple[str, ...]:
    """What stands against loading a zip of these; the version is held against torch's own reader."""
    content = zipped(**members)
    source = Bytes(content)
    found = open_torch_archive(source, read_archive(source, Limits())).obstacles
    # Releases before 2.13 take members outside.
    if any("version" in words for words in found):
        with pytest.raises((RuntimeError, IndexError, UnicodeDecodeError)):
            torch._C.PyTorchFileReader(io.BytesIO(content))
    elif not found:
        torch._C.PyTorchFileReader(io.BytesIO(content))
    return found


NO_VERSION = "a member version that is none of torch's"


@pytest.mark.parametrize("name", ["a/version", "a/.data/version"])
@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (b"0", False), (b"1", True), (b"3\n", True), (b" 3", True), (b"9", True), (b"10", True),
        (b"11", False), (b"100", False), (b"+3", True), (b"-3", False), (b"x", False), (b"3x", True),
        (b"0x3", False), (b"", False), (b"++3", False), (b"+0", False), (b"000", False),
        (b"0000000003", True), (b"0" * 40 + b"10", True), (b"0" * 40 + b"11", False), (b"9" * 20, False),
        (b"3.5", True), (b"007", True), (b"000000003", True), (b"1000000000", False), (b"9" * 30, False),
        (b"+", False), (b"\xff3", False), ("\u0663".encode(), False), (b"x" * 4097, False),
    ],
)  # fmt: skip
def test_the_version_is_one_that_torch_reads(name: str, text: bytes, taken: bool) -> None:
    members = {"a/data.pkl": b"1", name: text}
    assert obstacles(members) == (() if taken else (NO_VERSION,))
    assert obstacles({**members, "b": b""}) == (
        "members outside the top folder 'a'", *(() if taken else (NO_VERSION,))
    )  # fmt: skip


def test_either_member_says_the_version() -> None:
    assert obstacles({"a/data.pkl": b"1"}) == ("a missing member version",)
    assert obstacles({"a/data.pkl": b"1", "version": b"3"}) == (
        "members outside the top folder 'a'", "a missing member version",
    )  # fmt: skip
    assert obstacles({"a/data.pkl": b"1", "a/.data/version": b"3", "a/other": b"11"}) == ()


def test_a_name_of_a_member_is_utf8() -> None:
    named = {"a/data.pkl": b"1", "a/version": b"3", "a/xy": b"", "a/\u00fcber": b""}
    assert obstacles(named) == ()
    for raw, taken in ((b"\x80", False), (b"\xff", False), (b"\xc3", False), (b"\xc3\xa9", True)):
        content = zipped(**named, **{f"a/{'q' * len(raw)}": b""}).replace(b"q" * len(raw), raw)
        source = Bytes(content)
        found = open_torch_archive(source, read_archive(source, Limits())).obstacles
        assert found == (() if taken else ("a member whose name is not UTF-8",))


def test_a_text_member_is_small() -> None:
    view = opened(**{"a/version": b" 3\n", "a/long": b"x" * 4097, "a/most": b"x" * 4096})
    assert (view.text("version"), view.text("nothing"), len(view.text("most") or "")) == ("3", None, 4096)
    with pytest.raises(LimitExceeded):
        view.text("long")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([".format_version", "byteorder"], "torch 2.7 or later"),
        (["byteorder"], "torch 2.1 to 2.6"),
        (["tensors/0"], "torch 1.4, experimental"),
        (["data/0"], "torch 1.6 to 2.0"),
        ([], "torch 1.6 to 2.0"),
    ],
)
def test_the_layout_is_named_by_what_wrote_it(members: list[str], said: str) -> None:
    view = opened(**{"a/data.pkl": b"1"} | {f"a/{name}": b"little" for name in members})
    assert describe_layout(view) == said
    assert describe_layout(view._replace(big_endian=True)) == f"{said}, big-endian"


def test_a_storage_is_a_member_or_has_no_bytes() -> None:
    view = opened(base=100, **{"a/data.pkl": b"1", "a/data/0": b"1234", "a/tensors/1": b"56"})
    resolve = view.resolver(("data", "tensors"), within="in/")

    def claim(key: str, numel: int) -> StorageClaim:
        return StorageClaim(key, BY_NAME["uint8"], numel, "cuda:1")

    for key, member in (("0", "data/0"), ("1", "tensors/1")):
        record = view.records[member]
        found = resolve(claim(key, 1))
        assert found == StorageRef(
            "a.zip", f"in/{member}", record.byte_offset, record.nbytes, "cuda:1", False, None
        )
    assert resolve(claim("2", 0)) == StorageRef("a.zip", "in/data/2", 0, 0, "cuda:1")
    with pytest.raises(MalformedCheckpoint, match="a tensor's storage is not in the file") as caught:
        resolve(claim("2", 1))
    assert caught.value.name == "data/2"
    with pytest.raises(CkptToolError):
        view.resolver()(claim("1", 1))


def test_the_folders_of_a_storage_are_asked_in_order_and_a_packed_one_is_told() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a/data.pkl", "a/one/0", "a/two/0", "a/two/1"):
            archive.writestr(name, name * 9, zipfile.ZIP_DEFLATED if name.endswith("0") else None)
        archive.writestr("a/byteorder", "big")
    source = Bytes(buffer.getvalue(), 50)
    view = open_torch_archive(source, read_archive(source, Limits()))
    for folders in (("one", "two"), ("two", "one")):
        for key, folder in (("0", folders[0]), ("1", "two")):
            member = f"{folder}/{key}"
            found = view.resolver(folders)(StorageClaim(key, BY_NAME["uint8"], 63, None))
            with zipfile.ZipFile(buffer) as archive:
                info = archive.getinfo(f"a/{member}")
            start = 50 + info.header_offset + 30 + len(info.filename)
            packed = info.compress_size if key == "0" else None
            assert found == StorageRef("a.zip", member, start, 63, None, True, packed)
        with pytest.raises(MalformedCheckpoint) as caught:
            view.resolver(folders)(StorageClaim("2", BY_NAME["uint8"], 63, None))
        assert str(caught.value) == f"a tensor's storage is not in the file: '{folders[0]}/2'"
        empty = view.resolver(folders)(StorageClaim("2", BY_NAME["uint8"], 0, "cpu"))
        assert empty == StorageRef("a.zip", f"{folders[0]}/2", 0, 0, "cpu")


def test_what_lies_outside_is_said_with_what_else_was_found() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a/data.pkl", "b", "a/x"):
            archive.writestr(name, name)
    content = buffer.getvalue().replace(b"a/xa/x", b"a/ya/x", 1)
    source = Bytes(content)
    found = open_torch_archive(source, read_archive(source, Limits()))
    assert list(found.records) == ["data.pkl", "x"] and found.records["x"].nbytes == 3
    assert [(item.code, item.severity, item.name, item.message) for item in found.findings] == [
        ("zip-headers-differ", "warning", "a/x", "1 member has a local header that contradicts the zip's "
         "directory: other readers may see another file"),
        ("zip-members-outside", "warning", "", "1 member lies outside the top folder 'a': torch 2.13 refuses "
         "such a file, other readers may see another one in it"),
    ]  # fmt: skip


def test_a_pickle_is_read_from_its_member_and_within_the_limits() -> None:
    data: Any = b"\x80\x02]q\x00K\x05a."
    view = opened(**{"a/data.pkl": data, "a/more.pkl": data + b"cos\nsystem\n."})
    tree, findings = view.pickle("data.pkl", Limits())
    assert (tree.value, findings) == ([5], ())
    tree, findings = view.pickle("more.pkl", Limits())
    assert tree.value == [5] and len(findings) == 1 and ("os", "system") in tree.globals
    with pytest.raises(MalformedCheckpoint, match=r"no other\.pkl in the zip's top folder 'a'"):
        view.pickle("other.pkl", Limits())
    with pytest.raises(LimitExceeded) as caught:
        view.pickle("data.pkl", Limits(pickle_nbytes=len(data) - 1))
    assert caught.value.what == "size of member data.pkl"
    assert view.pickle("data.pkl", Limits(pickle_nbytes=len(data)))[0].value == [5]
