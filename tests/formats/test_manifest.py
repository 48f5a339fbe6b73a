"""A manifest as a checkpoint without bytes: what it gives, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ckpttool.elements.digests import NamedDigest, manifest_document
from ckpttool.formats.base import Limits
from ckpttool.formats.manifest import is_manifest, read_manifest
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    Kind,
    OddKey,
    TensorInfo,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint
from tests.formats.test_zip_records import Bytes

NAMED = [
    NamedDigest(("m", 0), "w", Kind.PARAMETER, BY_NAME["float32"], (2, 0, 3), "a" * 64),
    NamedDigest((), OddKey("1.5", False), Kind.UNKNOWN, None, (4,), "0123456789abcdef" * 4),
    NamedDigest((), 7, Kind.OPTIMIZER_STATE, BY_NAME["int8"], None, "c" * 64),
    NamedDigest(("m",), "w", Kind.PERSISTENT_BUFFER, BY_NAME["bool"], (), "d" * 64),
]


def read(document: Any, **limits: int) -> Checkpoint:
    return read_manifest(Bytes(json.dumps(document).encode()), Limits(**limits))


def refused(document: Any) -> str:
    with pytest.raises(MalformedCheckpoint) as caught:
        read(document)
    return caught.value.describe()


def changed(field: str, value: object) -> Any:
    document: Any = manifest_document(NAMED[1:2])
    document["entries"][0][field] = value
    document["digest"] = None
    return document


def test_all_that_a_manifest_gives() -> None:
    found = read(manifest_document(NAMED))

    def entry(item: NamedDigest, value: Any) -> Entry:
        return Entry(item.root, item.name, value, None, Classification(item.kind, Basis.NONE))

    values = [
        TensorInfo(BY_NAME["float32"], (2, 0, 3), (3, 3, 1), 0, None),
        CompositeTensor("made of parts", "", None, (4,), ()),
        CompositeTensor("made of parts", "", BY_NAME["int8"], None, ()),
        TensorInfo(BY_NAME["bool"], (), (), 0, None),
    ]
    assert found == Checkpoint(
        "a.zip", "manifest", "", (), tuple(map(entry, NAMED, values)), ordered=False,
        digests={(*item.root, item.name): item.sha256 for item in NAMED},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", ["a"] * 64), ("sha256", "a" * 65), ("sha256", "A" * 64), ("sha256", None), ("root", {}),
        ("root", [{"key": 5}]), ("root", ["a", None]), ("name", {"keys": "x"}), ("name", True), ("name", 1.5),
        ("dtype", ""), ("dtype", False), ("dtype", []), ("shape", [2, -1]), ("shape", [2.0]),
        ("shape", {}), ("shape", 0),
    ],
)  # fmt: skip
def test_an_entry_of_other_types_is_refused(field: str, value: object) -> None:
    assert refused(changed(field, value)) == "entry 0 of the manifest is malformed"


@pytest.mark.parametrize(
    ("field", "value"),
    [("shape", []), ("shape", [0]), ("dtype", None), ("root", []), ("name", 0), ("kind", 5)],
)
def test_what_may_be_there_is_read(field: str, value: object) -> None:
    (entry,) = read(changed(field, value)).entries
    assert entry.declared.kind is Kind.UNKNOWN


def test_a_manifest_is_whole() -> None:
    document: Any = manifest_document(NAMED)
    for entries in ({}, None, "x"):
        assert refused({**document, "entries": entries}) == "the manifest has no list of entries"
    for other in ([], {**document, "schema": "x"}, {"entries": []}):
        assert refused(other) == "not a manifest, expected schema ckpttool/manifest/1"
    twice = [*document["entries"], document["entries"][0]]
    assert refused({**document, "entries": twice}) == "a name stands twice in the manifest"
    assert refused({**document, "entries": [5]}) == "entry 0 of the manifest is malformed"
    assert refused({**document, "entries": [*document["entries"], 5]}).startswith("entry 4 ")


def test_its_digest_is_that_of_its_entries_where_it_has_one() -> None:
    document: Any = manifest_document(NAMED)
    said = "the manifest is not what was written: its digest is not that of its entries"
    found = document["digest"]["all"]
    for claimed in ("0" * 64, None, 5, "x" * 65):
        assert refused({**document, "digest": {"all": claimed}}) == (
            f"{said}, expected {str(claimed)[:64]}, got {found}"
        )
    for digest in (None, {}, 5, {"parameters": "0"}):
        assert len(read({**document, "digest": digest}).entries) == 4


def test_so_long_and_no_longer() -> None:
    document = manifest_document(NAMED)
    length = len(json.dumps(document))
    assert read(document, header_nbytes=length).entries
    source = Bytes(json.dumps(document).encode())
    with pytest.raises(LimitExceeded) as caught:
        read_manifest(source, Limits(header_nbytes=length - 1))
    assert source.reads == []
    assert (caught.value.what, caught.value.limit, caught.value.actual) == (
        "length of the manifest", length - 1, length,
    )  # fmt: skip
    with pytest.raises(CkptToolError):
        read_manifest(Bytes(b"{"), Limits())


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b'{"schema": "ckpttool/manifest/1"', True), (b' \n\t\r{"schema": "ckpttool/manifest/1"', True),
        (b'["ckpttool/manifest/1"', False), (b'{"schema": "ckpttool/manifest"', False), (b"", False),
        (b'x{"schema": "ckpttool/manifest/1"', False),
    ],
)  # fmt: skip
def test_a_manifest_is_known_by_its_schema(head: bytes, found: bool) -> None:
    assert is_manifest(head) is found
