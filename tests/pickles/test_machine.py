"""Errors of the pickle machine stand at the opcode that makes them, and limits are met at their number."""

from __future__ import annotations

import pickletools
from collections.abc import Callable

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
    assert not isinstance(caught.value, PickleCutOff)  # more data would not help
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
    with pytest.raises(PickleCutOff) as caught:
        parse(start + b"a" * 5)
    assert caught.value.byte_offset == len(start) + 5
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


def test_what_is_doubled_stands_twice_and_what_is_popped_does_not() -> None:
    assert parse(op.EMPTY_LIST + op.MARK + op.push(1) + op.DUP + op.APPENDS + op.STOP).value == [1, 1]
    assert parse(op.push(1) + op.push(2) + op.POP + op.STOP).value == 1
    assert parse(op.push(1) + op.MARK + op.push(2) + op.push(3) + op.POP_MARK + op.STOP).value == 1
    assert parse(op.push(1) + op.MARK + op.POP + op.STOP).value == 1


@pytest.mark.parametrize("target", [op.EMPTY_DICT, op.call("collections:OrderedDict"), op.call("m:C")])
def test_items_that_come_in_several_batches_are_all_there(target: bytes) -> None:
    def batch(*values: int) -> bytes:
        return op.MARK + b"".join(map(op.push, values)) + op.SETITEMS

    found = parse(
        op.PROTO(2)
        + target
        + batch(1, 2)
        + batch(3, 4, 5, 6)
        + op.push(7)
        + op.push(8)
        + op.SETITEM
        + op.STOP
    )
    assert found.value.items == [1, 2, 3, 4, 5, 6, 7, 8]
    assert any(code & ON_OBJECT for code in found.rare_opcodes) is (target == op.call("m:C"))


def test_a_state_is_kept_on_a_call_and_makes_one_of_anything_else() -> None:
    made = op.call("m:C")
    found = parse(op.PROTO(2) + made + op.push(1) + op.BUILD + op.push(2) + op.BUILD + op.STOP)
    assert (found.value.name, found.value.states) == ("m.C", [1, 2])
    assert ON_OBJECT | op.BUILD[0] in found.rare_opcodes
    found = parse(op.PROTO(2) + op.call("collections:OrderedDict") + op.push(1) + op.BUILD + op.STOP)
    assert not any(code & ON_OBJECT for code in found.rare_opcodes)
    found = parse(op.PROTO(2) + op.GLOBAL("m", "C") + op.push(1) + op.BUILD + op.STOP)
    assert (found.value.op, found.value.function.full_name, found.value.args) == ("build", "m.C", (1,))
    assert ON_OBJECT | op.BUILD[0] in found.rare_opcodes


@pytest.mark.parametrize(("opcode", "code"), [(op.EXT1, 200), (op.EXT2, 60_000), (op.EXT4, 1 << 30)])
def test_an_extension_is_as_long_as_its_code(opcode: Callable[[int], bytes], code: int) -> None:
    found = parse(op.MARK + opcode(code) + op.push(5) + op.TUPLE + op.STOP).value
    assert (found[0].full_name, found[1]) == (f"copyreg.extension.{code}", 5)


@pytest.mark.parametrize(
    "body",
    [op.call("m:C") + op.push(1) + op.BUILD, op.EMPTY_DICT, op.EMPTY_LIST, op.EMPTY_SET,
     op.MARK + op.TUPLE, op.push(1) + op.TUPLE1, op.push(1) + op.push(2) + op.TUPLE2, op.push("text"),
     op.MARK + op.LIST, op.MARK + op.DICT, op.MARK + op.FROZENSET, op.MARK + op.GLOBAL("m", "C") + op.OBJ,
     op.GLOBAL("m", "C") + op.EMPTY_TUPLE + op.NEWOBJ, op.push(1) + op.BINPERSID,
     op.MARK + op.INST("m", "C"), op.BINUNICODE("text"), op.SHORT_BINUNICODE("text"), op.call("m:C"),
     op.BINUNICODE8("text"), op.BINBYTES(b"data")],
)  # fmt: skip
def test_what_is_built_counts_once_each_time(body: bytes) -> None:
    """The number of nodes that one more of it needs, whatever stood before."""

    def needed(times: int) -> int:
        pickled = op.PROTO(4) + times * (body + op.POP) + op.NONE + op.STOP
        for limit in range(200):
            try:
                parse(pickled, max_nodes=limit)
            except LimitExceeded:
                continue
            return limit
        raise AssertionError("no limit is enough")

    first, second, third = needed(1), needed(2), needed(3)
    assert 1 <= third - second == second - first <= 3


def test_a_memo_has_room_for_more_than_a_byte_can_say() -> None:
    kept = op.push("kept")
    long = op.LONG_BINPUT(70_000)
    for put, get in (
        (op.BINPUT(7), op.BINGET(7)),
        (op.LONG_BINPUT(7), op.LONG_BINGET(7)),
        (op.BINPUT(7), op.LONG_BINGET(7)),
        (long, op.LONG_BINGET(70_000)),
        (long, op.GET("70000")),
        (op.PUT("70000"), op.GET("70000")),
    ):
        pickled = op.PROTO(2) + kept + put + op.POP + op.MARK + get + op.push(5) + get + op.TUPLE + op.STOP
        assert parse(pickled).value == ("kept", 5, "kept")
    for get in (op.BINGET(8), op.LONG_BINGET(8), op.GET("8")):
        with pytest.raises(MalformedCheckpoint, match="a memo entry that was never written"):
            parse(op.PROTO(2) + kept + op.BINPUT(7) + get + op.STOP)


def test_opcodes_beyond_those_of_every_torch_pickle_are_listed() -> None:
    assert parse(op.PROTO(2) + op.push(1) + op.TUPLE1 + op.DUP + op.POP + op.STOP).rare_opcodes >= {
        ord("2"),
        ord("0"),
    }
    assert parse(op.PROTO(4) + op.SHORT_BINUNICODE("a") + op.MEMOIZE + op.STOP).rare_opcodes >= {0x8C, 0x94}
    assert ord("X") not in parse(op.PROTO(2) + op.BINUNICODE("a") + op.STOP).rare_opcodes
    with pytest.raises(MalformedCheckpoint, match="not a pickle opcode") as caught:
        parse(op.NONE + b"\xff" + op.STOP)
    assert (caught.value.byte_offset, caught.value.actual) == (1, "byte 0xff")


@pytest.mark.parametrize(
    "body",
    [op.BINGET(0) + op.EMPTY_TUPLE + op.REDUCE, op.MARK + op.TUPLE, op.push(1) + op.push(2) + op.TUPLE2,
     op.push(1) + op.BINPERSID, op.BINUNICODE("text")],
)  # fmt: skip
def test_none_of_the_opcodes_of_the_loop_builds_without_end(body: bytes) -> None:
    """Nothing stands between them that counts as well."""
    start = op.PROTO(2) + op.GLOBAL("m", "C") + op.BINPUT(0)
    assert parse(start + 20 * body + op.STOP, max_nodes=30).protocol == 2
    with pytest.raises(LimitExceeded) as caught:
        parse(start + 60 * body + op.STOP, max_nodes=30)
    assert caught.value.limit == 30
