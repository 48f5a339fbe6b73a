"""Errors of the pickle machine stand at the opcode that makes them, and limits are met at their number."""

from __future__ import annotations

import pickletools

import pytest

from ckpttool.pickles.nodes import MAX_INT_NBYTES, ON_OBJECT, BigInt, PickleCutOff
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from tests.hostile import pickles as op
from tests.support.parsed import parse

PREFIXES = [b"", op.PROTO(2), op.PROTO(4) + op.NONE + op.POP, op.PROTO(2) + op.MARK]


@pytest.mark.parametrize("prefix", PREFIXES, ids=range(len(PREFIXES)))
@pytest.mark.parametrize(
    "opcode",
    [op.REDUCE, op.BUILD, op.NEWOBJ, op.NEWOBJ_EX, op.STACK_GLOBAL, op.TUPLE1, op.TUPLE2, op.TUPLE3,
     op.APPEND, op.SETITEM, op.BINPERSID, op.STOP, op.POP_MARK * 2, op.TUPLE * 2, op.LIST * 2, op.DICT * 2,
     op.OBJ, op.ADDITEMS, op.APPENDS, op.SETITEMS],
)  # fmt: skip
def test_an_opcode_that_finds_too_little_is_placed(prefix: bytes, opcode: bytes) -> None:
    with pytest.raises(MalformedCheckpoint) as caught:
        parse(prefix + opcode + 9 * op.STOP)
    # Of two the first may be at fault, or find the mark and leave nothing to the second. The fast ones are
    # placed where they end.
    assert len(prefix) <= (caught.value.byte_offset or 0) <= len(prefix) + len(opcode)
    if "stack" in str(caught.value):
        assert "a pickle opcode finds its stack empty" in str(caught.value)


def opcode_of(code: str) -> pickletools.OpcodeInfo:
    return pickletools.code2op[code]


@pytest.mark.parametrize("before", [b"", op.PROTO(2) + op.NONE])
@pytest.mark.parametrize(
    ("code", "width"),
    [("X", 4), ("B", 4), ("T", 4), ("\x8c", 1), ("C", 1), ("U", 1), ("\x8d", 8), ("\x8e", 8), ("\x8a", 1),
     ("\x8b", 4), ("\x96", 8)],
)  # fmt: skip
def test_a_string_is_whole_or_the_pickle_is_cut(before: bytes, code: str, width: int) -> None:
    assert opcode_of(code).arg is not None
    start, given = before + code.encode("latin-1") + (5).to_bytes(width, "little"), 3
    with pytest.raises(PickleCutOff) as caught:
        parse(start + b"a" * given)
    assert caught.value.byte_offset == len(before)
    if caught.value.expected is not None:
        assert "a string in a pickle is longer than the pickle" in str(caught.value)
        assert (caught.value.expected, caught.value.actual) == ("5 bytes", f"{given} left")
    parse(start + b"a" * 5 + op.STOP)


@pytest.mark.parametrize("code", [b"T", b"\x8b"])
def test_a_length_below_zero_is_none(code: bytes) -> None:
    with pytest.raises(MalformedCheckpoint) as caught:
        parse(op.NONE + code + b"\xfe\xff\xff\xff" + b"aaaa" + op.STOP)
    assert (caught.value.byte_offset, caught.value.expected) == (1, "-2 bytes")


@pytest.mark.parametrize("code", [b"I", b"F", b"L", b"S", b"V", b"c", b"i", b"g", b"p", b"P"])
def test_a_text_argument_ends_with_its_line(code: bytes) -> None:
    with pytest.raises(PickleCutOff) as caught:
        parse(op.PROTO(0) + op.NONE + code + b"12")
    assert caught.value.byte_offset == 3


def test_globals_of_a_name_have_a_length() -> None:
    for module, name in (("m" * 9, "n"), ("m", "n" * 9)):
        assert parse(op.GLOBAL(module, name) + op.STOP, max_name=9).value.full_name == f"{module}.{name}"
        with pytest.raises(LimitExceeded) as caught:
            parse(op.GLOBAL(module, name) + op.STOP, max_name=8)
        assert (caught.value.what, caught.value.limit) == ("length of a global's name", 8)


def test_an_integer_of_4096_bits_is_one_and_a_longer_one_is_its_size() -> None:
    def integer(nbytes: int) -> object:
        return parse(
            b"\x8b" + nbytes.to_bytes(4, "little") + b"\xff" * (nbytes - 1) + b"\x7f" + op.STOP
        ).value

    assert integer(MAX_INT_NBYTES) == (1 << (8 * MAX_INT_NBYTES - 1)) - 1
    found = integer(MAX_INT_NBYTES + 1)
    assert isinstance(found, BigInt) and abs(found.nbits - 8 * (MAX_INT_NBYTES + 1)) < 8
    assert MAX_INT_NBYTES * 8 == 4096


def test_an_opcode_that_changes_an_object_is_told_from_one_that_fills_a_container() -> None:
    made = op.GLOBAL("m", "C") + op.EMPTY_TUPLE + op.REDUCE
    for opcode, filled, plain in (
        (op.APPEND, op.NONE, op.EMPTY_LIST),
        (op.SETITEM, op.NONE + op.NONE, op.EMPTY_DICT),
    ):
        on_object = parse(op.PROTO(2) + made + filled + opcode + op.STOP).rare_opcodes
        on_plain = parse(op.PROTO(2) + plain + filled + opcode + op.STOP).rare_opcodes
        assert ON_OBJECT | opcode[0] in on_object
        assert not any(code & ON_OBJECT for code in on_plain)


def test_only_some_places_of_a_global_are_kept_and_all_are_counted() -> None:
    call = op.GLOBAL("m", "C") + op.EMPTY_TUPLE + op.REDUCE + op.POP
    found = parse(op.PROTO(2) + 7 * call + op.NONE + op.STOP).globals["m", "C"]
    assert (found.calls, len(found.first_calls)) == (7, 4)
    places = [2 + number * len(call) + len(call) - 2 for number in range(4)]
    assert [item.byte_offset for item in found.first_calls] == places
    instance = op.MARK + op.INST("m", "C") + op.POP
    found = parse(op.PROTO(2) + 7 * instance + op.NONE + op.STOP).globals["m", "C"]
    assert (found.calls, len(found.first_calls)) == (7, 4)
