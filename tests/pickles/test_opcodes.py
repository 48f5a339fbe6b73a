"""Each opcode by itself: what it makes, where it lies, what it is cut to, and what it refuses."""

from __future__ import annotations

import pickle
import pickletools
import re
import runpy
import struct
import sys
import warnings
from typing import Any

import pytest

from ckpttool.pickles import opcodes
from ckpttool.pickles.nodes import (
    MANY_DIGITS,
    MAX_DIGITS,
    NOT_UTF8,
    ON_OBJECT,
    BigInt,
    Call,
    DictNode,
    Global,
    LocatedBytes,
    PersistentId,
    PickleCutOff,
    SetNode,
)
from ckpttool.values.errors import MalformedCheckpoint
from tests.hostile import pickles as op
from tests.support.parsed import parse


def shown(node: Any) -> str:
    """A whole tree in a line: each name and call with ``@`` and where it lies, and all that it was given."""
    match node:
        case Global():
            return f"{node.full_name}@{node.byte_offset}"
        case Call():
            whole = f"<{node.op}@{node.byte_offset} {shown(node.function)} {shown(node.args)}"
            parts = {"states": node.states, "appended": node.appended, "items": node.items}
            return whole + "".join(f" {k}={shown(v)}" for k, v in parts.items() if v is not None) + ">"
        case PersistentId():
            return f"pid {shown(node.pid)}"
        case DictNode():
            return f"dict{shown(node.items)}"
        case SetNode():
            return f"{'frozenset' if node.frozen else 'set'}{shown(node.items)}"
        case BigInt():
            return f"{node.nbits} bits"
        case LocatedBytes():
            return f"{len(node)} bytes@{node.byte_offset}"
        case tuple() | list():
            left, right = "()" if isinstance(node, tuple) else "[]"
            return left + ", ".join(map(shown, node)) + "," * (left == "(" and len(node) == 1) + right
    return repr(node)


C = b"cm\nC\n"
O = C + b")R"  # noqa: E741 - an object
D = b"ccollections\nOrderedDict\n)R"
DATA = b"0123456789" * 13  # 130 bytes
BUILT = {
    b"N": "None", b"\x88": "True", b"\x89": "False", b")": "()", b"]": "[]", b"}": "dict[]", b"\x8f": "set[]",
    b"I00\n": "False", b"I01\n": "True", b"I1\n": "1", b"I0\n": "0", b"I-7\n": "-7", b"L5L\n": "5",
    b"L5\n": "5", b"L-12L\n": "-12", b"I001\n": "1", b"I12345\n": "12345",
    b"K\xff": "255", b"M\x01\xff": "65281", b"J\xff\xff\xff\xff": "-1", b"J\x01\x02\x03\x04": "67305985",
    b"\x8a\x00": "0", b"\x8a\x01\xff": "-1", b"\x8a\x02\xff\x00": "255", b"\x8a\x03\x01\x02\x83": "-8191487",
    b"\x8b\x00\x00\x00\x00": "0", b"\x8b\x02\x00\x00\x00\x00\x80": "-32768",
    b"F1.5\n": "1.5", b"F-inf\n": "-inf", b"G\x3f\xf8\x00\x00\x00\x00\x00\x00": "1.5",
    b"S''\n": "''", b'S"a\'b"\n': '"a\'b"', b"S'a\\nb\\d'\n": "'a\\nb\\\\d'",
    b"S'\\x00\\377'\n": "b'\\x00\\xff'",
    b"S'\\xc3\\xa9'\n": "'é'", b"T\x03\x00\x00\x00a\xc3\xa9": "'aé'", b"T\x01\x00\x00\x00\xff": "b'\\xff'",
    b"T\x00\x00\x00\x00": "''", b"U\x00": "''", b"U\x02ab": "'ab'", b"U\x01\xe9": "b'\\xe9'",
    b"V\n": "''", b"Va\\u00e9\xe9\n": "'aéé'", b"V\\U0001f600\n": "'😀'",
    b"X\x00\x00\x00\x00": "''", b"X\x02\x00\x00\x00\xc3\xa9": "'é'", b"\x8c\x03\xed\xa0\x80": "'\\ud800'",
    b"\x8c\x00": "''", b"\x8c\x02ab": "'ab'", b"\x8d\x02" + 7 * b"\0" + b"ab": "'ab'",
    b"X\x03\x00\x00\x00\xed\xa0\x80": "'\\ud800'", b"\x8d\x03" + 7 * b"\0" + b"\xed\xa0\x80": "'\\ud800'",
    b"C\x02a\xff": "b'a\\xff'", b"B\x02\x00\x00\x00ab": "b'ab'", b"\x8e\x02" + 7 * b"\0" + b"ab": "b'ab'",
    b"\x96\x02" + 7 * b"\0" + b"ab": "b'ab'",
    b"C\x80" + DATA[:128]: "128 bytes@4", b"B\x82\x00\x00\x00" + DATA: "130 bytes@7",
    b"\x8e\x82" + 7 * b"\0" + DATA: "130 bytes@11", b"\x96\x82" + 7 * b"\0" + DATA: "130 bytes@11",
    b"C\x7f" + DATA[:127]: repr(DATA[:127]),
    b"(NK\x01t": "(None, 1)", b"(t": "()", b"N\x85": "(None,)", b"NK\x01\x86": "(None, 1)",
    b"NK\x01K\x02\x87": "(None, 1, 2)", b"(NK\x01l": "[None, 1]", b"(l": "[]", b"(NK\x01d": "dict[None, 1]",
    b"(d": "dict[]", b"(NK\x01\x91": "frozenset[None, 1]", b"(\x91": "frozenset[]",
    b"K\x00(K\x01t\x86": "(0, (1,))", b"K\x00(K\x01l\x86": "(0, [1])",
    b"K\x00(K\x01K\x02d\x86": "(0, dict[1, 2])", b"K\x00(K\x01\x91\x86": "(0, frozenset[1])",
    b"(K\x00(K\x01tt": "(0, (1,))",
    b"]Na": "[None]", b"]NaK\x01a": "[None, 1]", b"](NK\x01e": "[None, 1]",
    b"](NK\x01e(K\x02e": "[None, 1, 2]",
    b"](e": "[]", b"](]K\x01ae": "[[1]]",
    b"}NK\x01s": "dict[None, 1]", b"}NK\x01sK\x02K\x03s": "dict[None, 1, 2, 3]",
    b"}(NK\x01u": "dict[None, 1]", b"}(NK\x01K\x02K\x03u(NNu": "dict[None, 1, 2, 3, None, None]",
    b"\x8f(NK\x01\x90": "set[None, 1]", b"\x8f(N\x90(K\x01\x90": "set[None, 1]", b"\x8f(\x90": "set[]",
    b"NK\x010": "None", b"K\x01(0": "1", b"K\x01(NN1": "1", b"K\x012\x86": "(1, 1)", b"K\x01(1": "1",
    b"(K\x01(0t": "(1,)", b"(NK\x010t": "(None,)", b"K\x05(K\x060K\x07": "7",
    b"K\x07p0\n0g0\n": "7", b"K\x07p300\n0g300\n": "7", b"K\x07q\x050Nh\x05\x86": "(None, 7)",
    b"K\x07\x940h\x00": "7", b"K\x07\x94K\x08\x94\x86h\x00h\x01\x87": "((7, 8), 7, 8)",
    b"K\x07r\x00\x01\x00\x000j\x00\x01\x00\x00": "7", b"K\x07\x94K\x08q\x000h\x00\x86": "(7, 8)",
    b"K\x07q\x05K\x08\x94h\x01\x87": "(7, 8, 8)",
    C: "m.C@2", b"\x8c\x01m\x8c\x01C\x93": "m.C@8", b"\x82\xff": "copyreg.extension.255@2",
    b"\x83\x01\x02": "copyreg.extension.513@2", b"\x84\x01\x02\x00\x80": "copyreg.extension.-2147483135@2",
    C + b"NR": "<reduce@8 m.C@2 None>", C + b")R": "<reduce@8 m.C@2 ()>", C + b")\x81": "<newobj@8 m.C@2 ()>",
    C + b"K\x01\x85}\x92": "<newobj_ex@11 m.C@2 ((1,), dict[])>",
    b"(NK\x01im\nC\n": "<inst@6 m.C@6 (None, 1)>",
    b"(im\nC\n": "<inst@3 m.C@3 ()>", b"(" + C + b"o": "<obj@8 m.C@3 ()>",
    b"(" + C + b"NK\x01o": "<obj@11 m.C@3 (None, 1)>",
    b"K\x01(" + C + b"NK\x01o\x86": "(1, <obj@13 m.C@5 (None, 1)>)",
    O + b"Nb": "<reduce@8 m.C@2 () states=[None]>", O + b"NbK\x01b": "<reduce@8 m.C@2 () states=[None, 1]>",
    C + b"Nb": "<build@8 m.C@2 (None,)>", b"NK\x01b": "<build@5 None (1,)>",
    O + b"Na": "<reduce@8 m.C@2 () appended=[None]>",
    O + b"NaK\x01a(NNe": "<reduce@8 m.C@2 () appended=[None, 1, None, None]>",
    O + b"(N\x90(K\x01\x90": "<reduce@8 m.C@2 () appended=[None, 1]>",
    O + b"NK\x01s": "<reduce@8 m.C@2 () items=[None, 1]>",
    O + b"NNs(K\x01K\x02u": "<reduce@8 m.C@2 () items=[None, None, 1, 2]>",
    O + b")RNbNNs": "<reduce@10 <reduce@8 m.C@2 ()> () states=[None] items=[None, None]>",
    O + b")R": "<reduce@10 <reduce@8 m.C@2 ()> ()>", O + b")\x81": "<newobj@10 <reduce@8 m.C@2 ()> ()>",
    b"Pk\n": "pid 'k'", b"P\n": "pid ''", b"NQ": "pid None", b"(NK\x01tQ": "pid (None, 1)",
    b"\x80\x00N": "None", b"\x95\xff\xff\xff\xff\xff\xff\xff\xff(iframe\nC\n": "<inst@12 frame.C@12 ()>",
    b"(NK\x01.": "1",
}  # fmt: skip
"""What is left on the stack when it has run, behind PROTO and its argument."""


@pytest.mark.parametrize("code", BUILT)
def test_an_opcode_makes_this_and_no_more(code: bytes) -> None:
    whole = op.PROTO(4) + code + op.STOP
    assert shown(parse(whole).value) == BUILT[code]
    assert parse(whole + b"behind").end == (whole.index(b".") + 1 if code.endswith(b".") else len(whole))


@pytest.mark.parametrize(
    "code", [code for code in BUILT if not re.search("[me].C|copyreg|pid|build|b'.*xff|xe9'", BUILT[code])]
)
def test_an_opcode_makes_what_cpython_makes_of_it(code: bytes) -> None:
    whole = op.PROTO(4) + code + op.STOP
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that mean themselves
        expected = pickle.loads(whole, encoding="utf-8")
    found = python_of(parse(whole).value)
    assert (found, type(found)) == (expected, bytes if type(expected) is bytearray else type(expected))


def python_of(node: Any) -> Any:
    if isinstance(node, (list, tuple)):
        return type(node)(map(python_of, node))
    if isinstance(node, DictNode):
        return dict(zip(node.items[::2], node.items[1::2], strict=True))
    if isinstance(node, SetNode):
        return (frozenset if node.frozen else set)(node.items)
    return bytes(node) if isinstance(node, bytes) else node


# ---------------------------------------------------------------------------------------------------- cuts

ARGUMENTS = {
    "uint1": b"\x02", "uint2": b"\x02\x00", "uint4": b"\x02\0\0\0", "uint8": b"\x02" + 7 * b"\0",
    "int4": b"\x02\0\0\0", "float8": struct.pack(">d", 2.5), "long1": b"\x02ab", "long4": b"\x02\0\0\0ab",
    "string1": b"\x02ab", "string4": b"\x02\0\0\0ab", "bytes1": b"\x02ab", "bytes4": b"\x02\0\0\0ab",
    "bytes8": b"\x02" + 7 * b"\0" + b"ab", "bytearray8": b"\x02" + 7 * b"\0" + b"ab",
    "unicodestring1": b"\x02ab", "unicodestring4": b"\x02\0\0\0ab",
    "unicodestring8": b"\x02" + 7 * b"\0" + b"ab", "decimalnl_short": b"2\n", "decimalnl_long": b"2L\n",
    "floatnl": b"2.5\n", "stringnl": b"'ab'\n", "stringnl_noescape": b"ab\n",
    "stringnl_noescape_pair": b"m\nC\n", "unicodestringnl": b"ab\n",
}  # fmt: skip
"""A whole argument of each kind that pickletools knows; lengths are 2."""


@pytest.mark.parametrize("before", [b"", b"N0]"])
@pytest.mark.parametrize(
    "opcode", [item for item in pickletools.opcodes if item.arg], ids=lambda item: item.name
)
def test_an_argument_is_cut_at_each_of_its_bytes(opcode: pickletools.OpcodeInfo, before: bytes) -> None:
    assert opcode.arg is not None
    kind, argument = opcode.arg.name, ARGUMENTS[opcode.arg.name]
    start = (
        op.PROTO(4) + b"NN\x942\x94q\x02(" + before
    )  # a memo of three entries, and enough for each to take
    if opcode.name in ("GET", "LONG"):
        argument = b"2\n"
    whole = start + opcode.code.encode("latin-1") + argument
    list(pickletools.genops(whole.replace(start, b"") + b"."))  # it is one
    lies, width = len(start), re.sub(r"\D", "", kind)
    for size in range(len(start) + 1, len(whole)):
        with pytest.raises(PickleCutOff) as caught:
            parse(whole[:size])
        assert (caught.value.name, caught.value.path) == (None, None)
        place = lies + 1  # of what has a width, the argument
        actual = expected = None
        message = "the pickle is cut off"
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            place, message = lies, "the pickle is cut off in a text argument"
        elif opcode.name == "FRAME":
            place = lies + 9
        elif opcode.arg.n < 0 and size >= lies + 1 + int(width):
            place, left = lies, size - lies - 1 - int(width)
            message = "the pickle is cut off in a string"
            if opcode.name != "BINUNICODE":
                message = "a string in a pickle is longer than the pickle"
                expected, actual = "2 bytes", f"{left} left"
        error = caught.value
        assert (error.what, error.byte_offset) == (message, place)
        assert (error.expected, error.actual) == (expected, actual)
    with pytest.raises(PickleCutOff) as caught:  # whole, but the next opcode is missing
        parse(whole)
    assert (caught.value.what, caught.value.byte_offset) == ("the pickle is cut off", len(whole))


# -------------------------------------------------------------------------------------------------- misuse

EMPTY = "a pickle opcode finds its stack empty"
NEVER = "a pickle reads a memo entry that was never written"
UTF8 = "a string in a pickle is not UTF-8"
REFUSED: dict[bytes, tuple[int, str]] = {
    # Of the opcodes of the loop, those that take from nothing at all are placed at their ends.
    b"t.": (1, EMPTY), b"\x86.": (1, EMPTY), b"N\x86.": (1, EMPTY), b"NN(N\x86.": (4, EMPTY),
    b"NN(\x86.": (3, EMPTY),
    b"R.": (1, EMPTY), b")R.": (1, EMPTY), b"N()R.": (3, EMPTY), b"NN(R.": (3, EMPTY), b"Q.": (0, EMPTY),
    b"N(Q.": (2, EMPTY),
    b".": (0, EMPTY), b"N(.": (2, EMPTY), b"q\x00.": (1, EMPTY), b"r\0\0\0\0.": (1, EMPTY),
    b"h\x00.": (1, NEVER), b"Nq\x010h\x00.": (5, NEVER), b"j\0\0\0\0.": (1, NEVER), b"Ng0\n.": (2, NEVER),
    b"Ng-1\n.": (2, NEVER), b"Nq\x01g" + 1234 * b"1" + b"\n.": (4, NEVER),
    # All others at their first byte.
    b"Np0\n0p1\n.": (5, EMPTY), b"p0\n.": (0, EMPTY), b"N0\x94.": (2, EMPTY), b"N00.": (2, EMPTY),
    b"N1.": (1, EMPTY),
    b"2.": (0, EMPTY), b"N(2.": (2, EMPTY), b"N(a.": (2, EMPTY), b"N(Na.": (3, EMPTY), b"](Na.": (3, EMPTY),
    b"Na.": (1, EMPTY),
    b"(e.": (1, EMPTY), b"N](N0e.": (5, ""), b"N((Ne.": (4, EMPTY), b"Ne.": (1, EMPTY),
    b"Nl.": (1, EMPTY), b"Nd.": (1, EMPTY), b"}NNu.": (3, EMPTY), b"}Ns.": (2, EMPTY), b"s.": (0, EMPTY),
    b"}(NNs.": (4, EMPTY),
    b"}(Ns.": (3, EMPTY), b"(NNu.": (3, EMPTY), b"N(\x90.": (0, ""), b"\x90.": (0, EMPTY),
    b"(N\x90.": (2, EMPTY),
    b"N\x91.": (1, EMPTY), b"N\x85\x85(\x85.": (4, EMPTY), b"NN\x87.": (2, EMPTY), b"N(NN\x87.": (4, EMPTY),
    b"N\x93.": (1, EMPTY), b"N(N\x93.": (3, EMPTY), b"b.": (0, EMPTY), b"Nb.": (1, EMPTY),
    b"N(Nb.": (3, EMPTY),
    b"im\nC\n.": (0, EMPTY), b"No.": (1, EMPTY), b"N(o.": (2, EMPTY), b"N\x81.": (1, EMPTY),
    b"N(N\x81.": (3, EMPTY),
    b"NN\x92.": (2, EMPTY), b"N(NN\x92.": (4, EMPTY),
    b"NNa.": (2, "APPENDS in a pickle is applied to a NoneType"),
    b"}Na.": (2, "APPENDS in a pickle is applied to a DictNode"),
    b"K\x05(Ne.": (4, "APPENDS in a pickle is applied to an int"),
    b"\x8f(Ne.": (3, "APPENDS in a pickle is applied to a SetNode"),
    b"]NNs.": (3, "SETITEMS in a pickle is applied to a list"),
    b"N(NNu.": (4, "SETITEMS in a pickle is applied to a NoneType"),
    b"](N\x90.": (3, "ADDITEMS in a pickle is applied to a list"),
    b"(\x91(N\x90.": (4, "ADDITEMS in a pickle is applied to a SetNode"),
    b"(Nd.": (2, "odd number of items for a dict in a pickle"),
    b"(NNNd.": (4, "odd number of items for a dict in a pickle"),
    b"}(Nu.": (3, "odd number of items for SETITEMS in a pickle"),
    b"}(NNNu.": (5, "odd number of items for SETITEMS in a pickle"),
    b"NIx\n.": (1, "not an integer in a pickle"), b"NI\n.": (1, "not an integer in a pickle"),
    b"NLL\n.": (1, "not an integer in a pickle"),
    b"NI5L\n.": (1, "not an integer in a pickle"), b"NL5LL\n.": (1, "not an integer in a pickle"),
    b"NFx\n.": (1, "not a number in a pickle"),
    b"Npx\n.": (1, "not an integer in a pickle"), b"Np-1\n.": (1, "negative or huge memo index in a pickle"),
    b"Np" + 1234 * b"1" + b"\n.": (1, "negative or huge memo index in a pickle"),
    **{b"NS" + text + b"\n.": (1, "the STRING opcode's argument is not quoted")
       for text in (b"", b"'", b'"', b"x", b"xx", b"'x", b"x'", b"'x\"", b"\"x'", b"xabx")},
    b"NS'\\x'\n.": (1, "bad escape in a pickle's string"),
    b"NS'\\'\n.": (1, "bad escape in a pickle's string"),
    b"NX\x01\0\0\0\xff.": (2, UTF8), b"N\x8c\x01\xff.": (2, UTF8), b"NV\\u12\n.": (2, UTF8),
    b"NP\xff\n.": (2, UTF8),
    b"Nc\xff\nC\n.": (2, UTF8), b"Ncm\n\xff\n.": (2, UTF8), b"(im\n\xff\n.": (2, UTF8),
    b"(i\xff\nC\n.": (2, UTF8),
    **{b"N" + pair + b"\x93.": (1 + len(pair), "STACK_GLOBAL in a pickle needs two strings")
       for pair in (b"NU\x01a", b"U\x01aN", b"NN", b"U\x01aC\x01a")},
    b"N\x80\x06.": (1, "unknown pickle protocol"), b"N\x97.": (1, "the pickle needs out-of-band buffers"),
    b"NN\x98.": (2, "the pickle needs out-of-band buffers"), b"N\x00.": (1, "not a pickle opcode"),
}  # fmt: skip
"""What else there is to refuse, with the byte where it stands."""


@pytest.mark.parametrize("behind", [0, 20])
@pytest.mark.parametrize("code", REFUSED)
def test_what_an_opcode_cannot_do_is_placed(code: bytes, behind: int) -> None:
    place, what = REFUSED[code]
    if not what:  # nothing is asked of it
        assert parse(code).end == len(code)
        return
    for start in (b"", b"head"):
        with pytest.raises(MalformedCheckpoint) as caught:
            parse(start + code + behind * b"N", start=len(start))
        assert (caught.value.what, caught.value.byte_offset) == (what, len(start) + place)
        assert type(caught.value) is MalformedCheckpoint
        protocol = what == "unknown pickle protocol"
        byte = "byte 0x00" if what == "not a pickle opcode" else None
        assert (caught.value.expected, caught.value.actual) == (("0 to 5", 6) if protocol else (None, byte))


def test_what_is_missing_behind_the_last_byte_may_still_come() -> None:
    for code in (b"t", b"R", b"\x86", b"q\0"[:1]):
        with pytest.raises(PickleCutOff) as caught:
            parse(code)
        assert (caught.value.what, caught.value.byte_offset) == ("the pickle is cut off", 1)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_refused_pickle_tells_the_globals_before(protocol: int) -> None:
    code = op.PROTO(protocol) + b"ca\nB\n)R" + b"cc\nD\n" + b"(ie\nF\n"
    with pytest.raises(MalformedCheckpoint) as caught:
        parse(code + b"\x00")
    assert caught.value.named == (("a", "B", True), ("c", "D", False), ("e", "F", True))
    with pytest.raises(PickleCutOff) as caught:
        parse(code)
    assert caught.value.named == (("a", "B", True), ("c", "D", False), ("e", "F", True))


# ---------------------------------------------------------------------------------------- what is remembered

CALLS = ON_OBJECT | ord("R")
NOTED: dict[bytes, set[int]] = {
    C + b")Rq\x00h\x00r\x01\0\0\0j\x01\0\0\0((I1\ntQM\x01\x00J\0\0\0\0K\x01X\0\0\0\0"
    b"\x89\x86": {ord("c"), ord("I")},
    O + b"Na": {ord("c"), ord("a"), ON_OBJECT | ord("a"), ord("N")},
    O + b"(Ne": {ord("c"), ord("e"), ON_OBJECT | ord("e"), ord("N")},
    O + b"(e": {ord("c"), ord("e"), ON_OBJECT | ord("e")},
    O + b"NNs": {ord("c"), ord("s"), ON_OBJECT | ord("s"), ord("N")},
    O + b"(NNu": {ord("c"), ord("u"), ON_OBJECT | ord("u"), ord("N")},
    O + b"(N\x90": {ord("c"), 0x90, ord("N")},
    O + b"Nb": {ord("c"), ord("b"), ON_OBJECT | ord("b"), ord("N")},
    C + b"Nb": {ord("c"), ord("b"), ON_OBJECT | ord("b"), ord("N")},
    b"NNb": {ord("b"), ON_OBJECT | ord("b"), ord("N")},
    D + b"NNs": {ord("c"), ord("s"), ord("N")}, D + b"Nb": {ord("c"), ord("b"), ord("N")},
    D + b"(NNu": {ord("c"), ord("u"), ord("N")},
    D + b"Na": {ord("c"), ord("a"), ON_OBJECT | ord("a"), ord("N")},
    b"ccollections\nCounter\n)RNNs": {ord("c"), ord("s"), ord("N")},
    b"]Na": {ord("]"), ord("a"), ord("N")}, b"}NNs": {ord("}"), ord("s"), ord("N")},
    O + b")R": {ord("c"), CALLS}, b"N)R": {ord("N"), CALLS}, b"N)\x81": {ord("N"), 0x81, CALLS},
    O + b")\x81": {ord("c"), 0x81, CALLS}, O + b"))\x92": {ord("c"), 0x92, CALLS},
    b"(" + O + b"o": {ord("c"), ord("o"), CALLS},
    C + b")\x81": {ord("c"), 0x81}, b"(im\nC\n": {ord("i")}, b"(" + C + b"o": {ord("c"), ord("o")},
    b"U\x01\xff": {ord("U"), NOT_UTF8}, b"U\x01a": {ord("U")}, b"S'\\xff'\n": {ord("S"), NOT_UTF8},
    b"T\x01\0\0\0\xff": {ord("T"), NOT_UTF8}, b"C\x01\xff": {ord("C")},
    b"I" + MAX_DIGITS * b"1" + b"\n": {ord("I")},
    b"I" + (MAX_DIGITS + 1) * b"1" + b"\n": {ord("I"), MANY_DIGITS},
    b"L" + MAX_DIGITS * b"1" + b"L\n": {ord("L")},
    b"L" + (MAX_DIGITS + 1) * b"1" + b"L\n": {ord("L"), MANY_DIGITS},
}  # fmt: skip


@pytest.mark.parametrize("code", NOTED)
def test_only_these_opcodes_are_noted(code: bytes) -> None:
    assert parse(code + op.STOP).rare_opcodes == NOTED[code]
    assert parse(op.PROTO(5) + code + op.STOP).rare_opcodes == NOTED[code] | {0x80}


def test_a_global_knows_how_it_is_called() -> None:
    ways: list[tuple[bytes, int]] = [
        (C + b")R", 0), (C + b"N\x85R", 1), (C + b"NR", -1), (C + b")\x81", 0), (C + b"NN\x86\x81", 2),
        (C + b"]\x81", -1),
        (C + b"))\x92", 2), (b"(im\nC\n", 0), (b"(NNNim\nC\n", 3), (b"(" + C + b"No", 1),
        (C + b"NNN\x87R", 3),
    ]  # fmt: skip
    for code, count in ways:
        found = parse(op.PROTO(4) + 6 * (code + b"0") + b"N.").globals["m", "C"]
        assert (found.calls, found.arities, len(found.first_calls), found.located) == (6, (count,), 4, 4)
        assert [call.function for call in found.first_calls] == 4 * [found]
        steps = {
            b.byte_offset - a.byte_offset
            for a, b in zip(found.first_calls, found.first_calls[1:], strict=False)
        }
        assert steps == {len(code) + 1}
    every = b"".join(code + b"0" for code, _ in ways)
    assert parse(op.PROTO(4) + every + every + b"N.").globals["m", "C"].arities == (0, 1, -1, 2, 3)
    assert parse(C + b".").value.arities == ()


def test_the_registry_of_extensions_has_a_thousand_places() -> None:
    code = b"".join(
        op.call("copyreg:add_extension", "m", f"n{number}", number) + op.POP for number in range(1001)
    )
    for asked, name in ((999, "m.n999"), (1000, "copyreg.extension.1000"), (0, "m.n0")):
        tree = parse(op.PROTO(2) + code + op.EXT2(asked) + op.STOP)
        assert tree.value.full_name == name
    listed = (
        b"ccopyreg\nadd_extension\n(Vos\nVsystem\nK\xf1lR0"  # arguments are a tuple, or Python calls nothing
    )
    assert parse(listed + op.EXT1(241) + op.STOP).value.full_name == "copyreg.extension.241"
    register = tree.globals["copyreg", "add_extension"]
    assert (register.calls, register.located, len(register.first_calls)) == (1001, 1000, 1000)


@pytest.mark.parametrize("protocol", range(6))
def test_the_protocol_is_what_is_said_last(protocol: int) -> None:
    assert parse(op.PROTO(5) + op.PROTO(protocol) + b"N.").protocol == protocol
    assert parse(b"N.").protocol == 0
    tree = parse(op.PROTO(protocol) + b"c__builtin__\nset\nccopy_reg\n_reconstructor\n\x86.")
    assert [*tree.globals] == (
        [("builtins", "set"), ("copyreg", "_reconstructor")]
        if protocol < 3
        else [("__builtin__", "set"), ("copy_reg", "_reconstructor")]
    )


def test_persistent_ids_stand_in_their_order() -> None:
    tree = parse(b"(Pa\nNQPb\nU\x01cQ0Pd\nt.")
    assert [item.pid for item in tree.persistent_ids] == ["a", None, "b", "c", "d"]
    assert tree.value == (*tree.persistent_ids[:3], tree.persistent_ids[4])
    assert (tree.base, tree.within) == (0, "the pickle")


def test_what_is_noted_beside_the_opcodes_is_no_opcode() -> None:
    noted = [NOT_UTF8, MANY_DIGITS, *(ON_OBJECT | ord(item.code) for item in pickletools.opcodes)]
    assert len({*range(256), *noted}) == 256 + len(noted)
    assert MAX_DIGITS == sys.int_info.default_max_str_digits
    for code in (b"a", b"b", b"e", b"s", b"u"):
        below = {b"s": b"NN", b"u": b"(", b"e": b"("}.get(code, b"N")
        assert parse(O + below + code + b".").rare_opcodes - {*b"cN"} == {ord(code), 0x100 + ord(code)}


def test_every_opcode_has_its_function_when_the_module_is_loaded() -> None:
    loaded = runpy.run_path(str(opcodes.__file__))["RARE"]
    assert [*loaded] == [*opcodes.RARE] and all(map(callable, loaded.values()))
