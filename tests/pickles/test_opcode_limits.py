"""Each limit of the pickle machine is met at its number, whatever the opcode that meets it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from ckpttool.pickles.nodes import LOCATED_NBYTES, LocatedBytes
from ckpttool.pickles.tree import parse_pickle
from ckpttool.values.errors import LimitExceeded
from tests.support.parsed import parse

C = b"cm\nC\n"
O = C + b")R"  # noqa: E741 - an object
DATA = b"0123456789" * 13  # 130 bytes

ONE = {
    b"N\x88\x89)K\x01M\x01\0J\0\0\0\0G12345678I1\nL1L\nF1\n": 0, b"]": 1, b"X\0\0\0\0": 1, b"(t": 1,
    b"NN\x86": 1,
    b"N)R": 1, b"NQ": 1, b"\x8c\0": 1, b"C\0": 1, b"C\x80" + DATA[:128]: 1, b"cm\nC\n": 1, b"Nb": 1,
    b"Pa\n": 1, b"(l": 1,
    b"(im\nC\n": 2, b"(No": 1, b"N)\x81": 1, b"N))\x92": 1, b"\x82\x01": 1, b"NNb": 1, O + b"Nb": 3,
    b"U\0S''\nV\n": 0,
}  # fmt: skip


@pytest.mark.parametrize("code", ONE)
@pytest.mark.parametrize("before", [b"", b"]0X\0\0\0\x000"])
def test_the_limit_of_nodes_is_met_at_its_number(code: bytes, before: bytes) -> None:
    """With some made by opcodes of the loop and some by others; the error says the limit."""
    count = ONE[code] + len(before[:1]) * 2
    # What the loop builds and what others do is added up by the others, as is N.
    for code in (b"N" + before + code + end for end in ([b"N."] if before else [b"N.", b".", b""])):
        if code.endswith(b"."):
            parse(code, max_nodes=count)
        if not count:
            continue
        with pytest.raises(LimitExceeded) as caught:
            parse(code, max_nodes=count - 1)
        what = "number of containers, calls, strings or memo entries in a pickle"
        assert (caught.value.what, caught.value.limit, caught.value.actual) == (what, count - 1, None)


@pytest.mark.parametrize(
    "put",
    [lambda i: b"r" + struct.pack("<I", i), lambda i: b"p%d\n" % i, lambda i: b"\x94"],
    ids=["LONG_BINPUT", "PUT", "MEMOIZE"],
)
def test_the_limit_of_memo_entries_is_met_at_its_number(put: Callable[[int], bytes]) -> None:
    code = b"N" + b"".join(map(put, range(5)))
    parse(code + b".", max_nodes=5)
    for behind in (b".", b""):
        with pytest.raises(LimitExceeded) as caught:
            parse(code + behind, max_nodes=4)
        assert caught.value.limit == 4
    # The same entries again take nothing.
    parse(b"N" + 9 * b"r\x01\0\0\0" + b".", max_nodes=1)


def test_what_a_byte_names_in_the_memo_counts_at_the_next_container() -> None:
    code = b"N" + b"".join(b"q" + bytes([index]) for index in range(5))
    parse(code + b".", max_nodes=4)
    for rare in (b"(t", b"N"):
        parse(code + rare + b".", max_nodes=5)
        with pytest.raises(LimitExceeded) as caught:
            parse(code + rare, max_nodes=4)
        assert caught.value.limit == 4


def test_the_limit_of_opcodes_counts_each() -> None:
    assert parse_pickle(b"K\x07.", max_ops=2, max_nodes=0, max_name=0).value == 7  # from the first byte on
    for count in range(1, 5):
        code = (count - 1) * b"N" + b"N."
        assert parse(code, max_ops=count + 1).end == count + 1
        with pytest.raises(LimitExceeded) as caught:
            parse(code, max_ops=count)
        assert (caught.value.what, caught.value.limit) == ("number of opcodes in a pickle", count)


@pytest.mark.parametrize(
    "named", [lambda m, n: f"c{m}\n{n}\n.", lambda m, n: f"(i{m}\n{n}\n.", lambda m, n: f"V{m}\nV{n}\n\x93."]
)
def test_the_limit_of_a_name_holds_for_each_way_to_name(named: Callable[[str, str], str]) -> None:
    for module, name in (("abcde", "f"), ("f", "abcde"), ("abcde", "abcde")):
        code = named(module, name).encode("latin-1")
        assert [*parse(code, max_name=5).globals] == [(module, name)]
        with pytest.raises(LimitExceeded) as caught:
            parse(code, max_name=4)
        assert (caught.value.what, caught.value.limit) == ("length of a global's name", 4)


def test_short_bytes_have_no_place() -> None:
    assert LOCATED_NBYTES == 128
    for code in (b"C%c", b"B%c\0\0\0", b"\x8e%c\0\0\0\0\0\0\0", b"\x96%c\0\0\0\0\0\0\0"):
        for size in (0, 127, 128, 129):
            found: Any = parse(C + b"0" + code % size + DATA[:size] + b".").value
            kind = LocatedBytes if size >= 128 else bytes
            assert (type(found), found) == (kind, DATA[:size])
            if size >= 128:
                assert found.byte_offset == 6 + len(code % 0)
