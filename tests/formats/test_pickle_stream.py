"""Pickles whose lengths are not written: how much of the file is read for them, and what follows them."""

from __future__ import annotations

import pytest
import torch

from ckpttool.formats.base import Limits
from ckpttool.formats.pickled import stream as module
from ckpttool.formats.pickled.stream import MAGIC_NUMBER, PickleStream
from ckpttool.pickles.nodes import PickleCutOff
from ckpttool.values.checkpoint import Finding
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from tests.formats.test_zip_records import Bytes
from tests.hostile import pickles as op

MIB = 1 << 20


def sizes(source: Bytes) -> list[int]:
    """How many bytes were read at a time, always from the front: places in the trees count from there."""
    assert {offset for offset, _ in source.reads} <= {0}
    return [nbytes for _, nbytes in source.reads]


def test_one_pickle_after_the_other_is_told_with_its_place() -> None:
    pickles = [op.dump(at, at) for at in (0, 2, 4)]
    source = Bytes(b"".join(pickles), base=100)
    stream, end = PickleStream(source, Limits()), 0
    assert stream.position == 0
    for at, data in zip((0, 2, 4), pickles, strict=True):
        tree, end = stream.next(), end + len(data)
        assert (tree.value, tree.protocol, tree.end, stream.position) == (at, at, end, end)
        assert (tree.base, tree.within) == (100, "the file")
    assert sizes(source) == [source.size]
    with pytest.raises(MalformedCheckpoint):
        stream.next()
    assert stream.position == end


def test_the_window_grows_eightfold_while_a_pickle_needs_it_and_stays_as_it_is() -> None:
    long, short = op.dump("x" * (9 * MIB)), op.dump(7)
    source = Bytes(long + short)
    stream = PickleStream(source, Limits())
    assert len(stream.next().value) == 9 * MIB and stream.position == len(long)
    assert stream.next().value == 7
    assert sizes(source) == [MIB, 8 * MIB, source.size]
    source = Bytes(short + long + short)
    stream = PickleStream(source, Limits())
    assert [type(stream.next().value) for _ in range(3)] == [int, str, int]
    assert sizes(source) == [MIB, 8 * MIB, source.size]


@pytest.mark.parametrize(("more", "reads"), [(-1, 2), (0, 1), (1, 1)])
def test_what_ends_with_the_window_needs_no_other(
    more: int, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"".join(op.dump(at) for at in range(3))
    monkeypatch.setattr(module, "_FIRST_WINDOW", len(content) + more)
    source = Bytes(content + bytes(99))
    stream = PickleStream(source, Limits())
    assert [stream.next().value for _ in range(3)] == [0, 1, 2]
    assert len(sizes(source)) == reads


def test_a_pickle_may_reach_as_far_as_the_limit_and_no_further() -> None:
    content = op.dump("x" * 1000)
    for behind in (b"", b"more"):
        source = Bytes(content + behind)
        assert len(PickleStream(source, Limits(pickle_nbytes=len(content))).next().value) == 1000
        assert sizes(source) == [len(content)]
    source = Bytes(content)
    with pytest.raises(LimitExceeded) as caught:
        PickleStream(source, Limits(pickle_nbytes=len(content) - 1)).next()
    assert (caught.value.what, caught.value.limit) == ("size of a pickle", len(content) - 1)
    assert sizes(source) == [len(content) - 1]
    large = op.dump("x" * (3 * MIB))
    source = Bytes(large)
    with pytest.raises(LimitExceeded):
        PickleStream(source, Limits(pickle_nbytes=2 * MIB)).next()
    assert sizes(source) == [MIB, 2 * MIB]


@pytest.mark.parametrize("left", [1, 2, 8, 500])
def test_one_that_the_file_cuts_off_is_damaged_and_not_too_long(left: int) -> None:
    content = op.dump("x" * 1000)[:-left]
    for limits in (Limits(), Limits(pickle_nbytes=len(content))):
        source = Bytes(content)
        with pytest.raises(PickleCutOff):
            PickleStream(source, limits).next()
        assert sizes(source) == [len(content)]


def test_a_damaged_one_is_not_looked_for_further_on() -> None:
    source = Bytes(op.PROTO(2) + b"\xff" + bytes(3 * MIB))
    with pytest.raises(MalformedCheckpoint) as caught:
        PickleStream(source, Limits()).next()
    assert not isinstance(caught.value, PickleCutOff) and sizes(source) == [MIB]


# -- what follows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pickles", [1, 2])
@pytest.mark.parametrize("left", [0, 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1])
def test_so_many_bytes_behind_the_last_one_are_searched(pickles: int, left: int) -> None:
    source = Bytes(op.dump(1) * pickles + b"\xff" * left)
    stream = PickleStream(source, Limits())
    for _ in range(pickles):
        tree = stream.next()
    found = stream.absorb_following(tree)
    assert source.reads[-1] == (len(op.dump(1)) * pickles, min(left, 16 * MIB))
    bytes_follow = "1 byte follows the first pickle and is" if left == 1 else (
        f"{left:,} bytes follow the first pickle and are"
    )  # fmt: skip
    said = Finding("bytes-after-pickle", "warning", "", f"{bytes_follow} not read")
    assert found == ((said,) if left else ())


def test_pickles_that_nobody_asked_for_are_found_and_named() -> None:
    behind = op.PROTO(2) + op.call("os:system") + op.STOP
    stream = PickleStream(Bytes(op.dump(1) + behind + b"\xff"), Limits())
    tree = stream.next()
    (finding,) = stream.absorb_following(tree)
    assert finding.message == (
        "1 more pickle follows the first: a loader that reads on would unpickle what is there; "
        "1 byte behind is not read"
    )
    (call,) = tree.globals["os", "system"].first_calls
    assert (tree.base, call.byte_offset) == (0, len(op.dump(1)) + behind.index(op.REDUCE))


def test_the_magic_number_is_that_of_torch() -> None:
    assert torch.serialization.MAGIC_NUMBER == MAGIC_NUMBER
