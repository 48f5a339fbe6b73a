"""The layout before torch 1.6, field by field: what stands where, and the sentence for each that is wrong."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.formats import torch_legacy
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.torch_legacy import read_legacy, resolve_embedded
from ckpttool.formats.zip_records import FETCH_AGAIN
from ckpttool.pickles.nodes import LocatedBytes
from ckpttool.values.checkpoint import Checkpoint, Finding, StorageRef, TensorInfo
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint, UnsupportedFeature
from tests.formats.test_zip_records import Bytes
from tests.hostile import pickles as op
from tests.hostile.containers import legacy

CLASSES = {"FloatStorage": 4, "ByteStorage": 1, "DoubleStorage": 8}


def pickled(*storages: bytes) -> bytes:
    """The third pickle: a list of tensors, one of each of these."""
    body = op.PROTO(2) + op.EMPTY_LIST + op.MARK
    for item in storages:
        body += op.tensor(item, 0, (0,), (1,))
    return body + op.APPENDS + op.STOP


def read(content: bytes, base: int = 0) -> Checkpoint:
    return torch_legacy.read(Look(Bytes(content, base), Limits()))


def refusal(content: bytes) -> Any:
    with pytest.raises(CkptToolError) as caught:
        read(content)
    return caught.value


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(list(CLASSES)), st.integers(0, 5)), max_size=4),
    st.sampled_from([0, 1000]),
    st.binary(max_size=3),
)
def test_each_storage_begins_where_the_one_before_ends(
    storages: list[tuple[str, int]], base: int, tail: bytes
) -> None:
    ids = [
        op.storage(str(at), f"torch:{name}", numel, f"cuda:{at}") for at, (name, numel) in enumerate(storages)
    ]
    blobs = [(numel, bytes([at + 1]) * (numel * CLASSES[name])) for at, (name, numel) in enumerate(storages)]
    content = legacy(pickled(*ids), blobs) + tail
    found = read_legacy(Bytes(content, base), Limits())
    assert list(found.storages) == [str(at) for at in range(len(storages))]
    for at, ref in enumerate(found.storages.values()):
        start = ref.byte_offset - base
        assert content[start : start + ref.nbytes] == blobs[at][1]
        assert content[start - 8 : start] == struct.pack("<q", blobs[at][0])
        assert (ref.location, ref.nbytes) == (f"cuda:{at}", len(blobs[at][1]))
    follow, are = ("1 byte follows", "is") if len(tail) == 1 else (f"{len(tail)} bytes follow", "are")
    assert [(item.code, item.message) for item in found.findings] == (
        [("bytes-after-storages", f"{follow} the last storage and {are} not read")] if tail else []
    )
    read(content)


def test_a_storage_may_be_a_view_of_a_longer_one() -> None:
    view = op.storage("0", "torch:FloatStorage", 6, "cpu", ("1", 2, 3))
    content = legacy(op.PROTO(2) + op.tensor(view, 0, (3,), (1,)) + op.STOP, [(6, bytes(24))])
    (entry,) = read(content).entries
    assert entry.tensor is not None and entry.tensor.storage is not None
    assert (entry.tensor.storage_offset, entry.tensor.storage.nbytes) == (2, 24)


def test_all_that_is_read_of_a_file() -> None:
    """Two tensors of one storage and one of another, at a place inside a file, and what is said of it."""
    half, floats = op.storage("h", "torch:HalfStorage", 3), op.storage("f", "torch:FloatStorage", 6, "cuda:1")
    body = op.PROTO(2) + op.MARK + b"".join(
        op.push(name) + op.tensor(item, at, shape, stride)
        for name, item, at, shape, stride in (
            ("w", floats, 0, (2, 2), (2, 1)), ("b", half, 1, (2,), (1,)), ("v", floats, 5, (), ()),
        )
    ) + op.DICT + op.STOP  # fmt: skip
    content = legacy(body, [(3, bytes(6)), (6, bytes(24))], keys=op.dump(["h", "f"])) + b"!"
    end = 700 + len(content) - 1
    found = read(content, 700)
    f16 = StorageRef("a.zip", "h", end - 24 - 8 - 6, 6, "cpu")
    f32 = StorageRef("a.zip", "f", end - 24, 24, "cuda:1")
    assert (found.path, found.format, found.layout) == ("a.zip", "torch_legacy", "before torch 1.6")
    assert found.files == (Bytes.version,) and found.ordered
    assert [(item.root, item.name, item.tensor) for item in found.entries] == [
        ((), "w", TensorInfo(BY_NAME["float32"], (2, 2), (2, 1), 0, f32)),
        ((), "b", TensorInfo(BY_NAME["float16"], (2,), (1,), 1, f16)),
        ((), "v", TensorInfo(BY_NAME["float32"], (), (), 5, f32)),
    ]
    assert [item for item in found.findings if item.code in ("bytes-after-storages", "legacy-layout")] == [
        Finding("bytes-after-storages", "warning", "", "1 byte follows the last storage and is not read"),
        Finding("legacy-layout", "info", "",
                "pre-1.6 file layout: torch cannot memory-map it and reads the whole file into RAM"),
    ]  # fmt: skip


ONE = pickled(op.storage("0", "torch:FloatStorage", 4))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (legacy(ONE, magic=op.dump(5)), "no torch magic number in the first pickle"),
        (legacy(ONE, magic=op.dump("5")), "no torch magic number in the first pickle"),
        (legacy(ONE, version=op.dump(1002)), "legacy protocol version 1002, only 1001 is known"),
        (legacy(ONE, version=op.dump("1001")), "legacy protocol version is no integer"),
        (legacy(ONE, version=op.dump(1001.0)), "legacy protocol version is no integer, only 1001 is known"),
        (legacy(ONE, version=op.dump(10**39)), f"legacy protocol version 1{'0' * 39}, only 1001 is known"),
        (legacy(ONE, version=op.dump(10**40)), f"legacy protocol version 1{'0' * 39}, only 1001 is known"),
        (legacy(ONE, keys=op.dump(("0",))), "the fifth pickle is not a list of storage keys"),
        (legacy(ONE, keys=op.dump([None])), "the fifth pickle is not a list of storage keys"),
        (legacy(ONE, keys=op.dump(["1"])), "a storage that no tensor names, so its size is unknown"),
        (legacy(ONE, keys=op.dump(["0", "0"]), storages=[(4, bytes(16))] * 2), "of negative size, or twice"),
        (legacy(pickled(op.storage("0", numel=4)), [(-1, b"")]), "of negative size, or twice"),
        (legacy(ONE, [(3, bytes(12))]), "a storage of another size than its pickle says"),
        (legacy(ONE, [(4, bytes(15))]), "the file is cut off in a storage"),
        (legacy(ONE)[:-17], "the file is cut off in a storage"),
        (legacy(ONE, keys=op.dump([]), storages=[]), "a tensor's storage is not in the file"),
    ],
)
def test_each_fault_has_its_words(content: bytes, words: str) -> None:
    error = refusal(content)
    assert words in str(error)
    assert isinstance(error, MalformedCheckpoint | UnsupportedFeature)


def test_a_storage_that_is_wrong_is_placed() -> None:
    good = legacy(ONE)
    start = len(good) - 16
    error = refusal(legacy(ONE, [(3, bytes(12))]))
    assert (error.name, error.byte_offset, error.expected, error.actual) == ("0", start - 8, "4 elements", 3)
    error = refusal(good[:-1])
    assert (error.name, error.byte_offset, error.expected, error.actual, error.hint) == (
        "0", start, "16 bytes", "15 left", FETCH_AGAIN,
    )  # fmt: skip
    error = refusal(good[:-17])
    assert (error.byte_offset, error.expected, error.actual) == (start - 8, "8 bytes", "7 left")
    error = refusal(legacy(ONE, keys=op.dump(["1"])))
    assert (error.name, error.byte_offset) == ("1", start - 8)


def test_a_key_may_be_a_number_and_other_ids_are_no_storages() -> None:
    module = op.push(("module", None, "source", "text")) + op.BINPERSID
    body = op.PROTO(2) + op.MARK + op.tensor(op.storage(7), 0, (4,), (1,)) + module + op.LIST + op.STOP
    found = read_legacy(Bytes(legacy(body, [(4, bytes(16))], keys=op.dump([7]))), Limits())
    assert list(found.storages) == ["7"]
    text = op.PROTO(2) + op.push("storage") + op.BINPERSID + op.STOP
    assert "is text, as pickle protocol 0 writes it" in str(refusal(legacy(text, [])))


@pytest.mark.parametrize(
    "pid",
    [(), ("module",), (5, "storage"), (("storage",),), 5, None, [], ["storage"], op.BINBYTES(b"storage")],
)
def test_an_id_that_is_no_storage_claims_none(pid: Any) -> None:
    """What is no tuple that begins with the word, and no text, is another's, whatever else it holds."""
    other = op.push(pid) + op.BINPERSID + op.POP
    body = op.PROTO(2) + other + op.tensor(op.storage("0"), 0, (4,), (1,)) + other + op.STOP
    found = read_legacy(Bytes(legacy(body, [(4, bytes(16))])), Limits())
    assert list(found.storages) == ["0"] and found.findings == ()


def test_globals_of_all_five_pickles_are_listed() -> None:
    def with_call(name: str) -> bytes:
        return op.PROTO(2) + op.call(f"os:{name}") + op.POP

    content = legacy(
        ONE,
        magic=with_call("a") + op.dump(torch_legacy.MAGIC_NUMBER)[2:],
        version=with_call("b") + op.dump(1001)[2:],
        sys_info=op.PROTO(2) + op.call("os:c") + op.STOP,
        keys=with_call("d") + op.dump(["0"])[2:],
    )
    found = {(item.module, item.name) for item in read(content).globals}
    assert {("os", name) for name in "abcd"} <= found and ("torch", "FloatStorage") in found


def test_the_content_tells_the_layout() -> None:
    for head, known in (
        (legacy(ONE), True), (legacy(ONE, magic=op.LONG(f"{torch_legacy.MAGIC_NUMBER}") + op.STOP), True),
        (op.dump(5), False), (b"", False), (b"x" * 20 + legacy(ONE), False),
    ):  # fmt: skip
        assert torch_legacy.sniff(Look(Bytes(head), Limits())) is known


# -- a file inside a pickle -------------------------------------------------------------------------------


def embedded(content: bytes, at: int = 40) -> tuple[Bytes, LocatedBytes]:
    raw = LocatedBytes(content)
    raw.byte_offset = at
    return Bytes(bytes(at) + content + bytes(9), base=1000), raw


def test_a_storage_inside_a_pickle_has_its_place_in_the_file() -> None:
    body = op.PROTO(2) + op.storage("5", "torch:HalfStorage", 4, "cuda:0") + op.STOP
    content = legacy(body, [(4, bytes(8))], keys=op.dump(["5"]))
    source, raw = embedded(content)
    ref, dtype, globals_ = resolve_embedded(source, raw, Limits())
    assert ref == StorageRef("a.zip", "1040/5", 1040 + len(content) - 8, 8, "cuda:0")
    assert dtype.name == "float16" and [item.name for item in globals_] == ["HalfStorage"]


@pytest.mark.parametrize(
    ("body", "blobs"),
    [
        (op.dump(5), []),
        (op.PROTO(2) + op.storage("0", "torch:UntypedStorage", 8) + op.STOP, [(8, bytes(8))]),
        (op.PROTO(2) + op.storage("0") + op.TUPLE1 + op.STOP, [(4, bytes(16))]),
        (op.PROTO(2) + op.storage("0") + op.POP + op.storage("1") + op.STOP, [(4, bytes(16))]),
    ],
)
def test_what_is_no_typed_storage_is_refused(body: bytes, blobs: list[tuple[int, bytes]]) -> None:
    source, raw = embedded(legacy(body, blobs))
    with pytest.raises(MalformedCheckpoint, match="hold no storage"):
        resolve_embedded(source, raw, Limits())


def test_bytes_that_do_not_know_their_place_have_none() -> None:
    with pytest.raises(UnsupportedFeature, match="re-encoded as text") as caught:
        resolve_embedded(Bytes(b""), b"x", Limits())  # type: ignore[arg-type]
    assert "write it with torch.save" in (caught.value.hint or "")
