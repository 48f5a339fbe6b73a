"""The inert pickle machine against CPython's: same values, same globals, never a call."""

import contextlib
import io
import os
import pickle
import pickletools
import time
import zipfile
from collections import OrderedDict
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.pickles.nodes import (
    BigInt,
    Call,
    DictNode,
    Global,
    PersistentId,
    PickleCutOff,
    PickleTree,
    SetNode,
    iter_items,
)
from ckpttool.values.errors import LimitExceeded, MalformedCheckpoint
from tests.hostile import pickles as op
from tests.hostile.mutate_pickle import mutate_pickle
from tests.support.parsed import parse

PROTOCOLS = range(6)


def to_python(node: Any) -> Any:
    """The object that a tree of plain data stands for."""
    if isinstance(node, (list, tuple)):
        return type(node)(to_python(item) for item in node)
    if isinstance(node, DictNode):
        return {to_python(key): to_python(value) for key, value in iter_items(node.items)}
    if isinstance(node, SetNode):
        return (frozenset if node.frozen else set)(to_python(item) for item in node.items)
    if isinstance(node, Call):
        assert isinstance(node.function, Global)
        make = {
            "builtins.set": set,
            "builtins.frozenset": frozenset,
            "builtins.bytes": bytes,
            "builtins.bytearray": bytearray,
            "_codecs.encode": str.encode,
            "builtins.complex": complex,
        }[node.function.full_name]
        return make(*to_python(node.args))
    return bytes(node) if isinstance(node, bytes) else node


# ----------------------------------------------------------------------------- against the real machine

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)


keys = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")) | st.binary()


plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=30,
)


@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    tree = parse(data)
    assert to_python(tree.value) == value
    assert (tree.end, tree.protocol) == (len(data), protocol if protocol >= 2 else 0)


@given(plain, st.sampled_from(PROTOCOLS), st.binary(max_size=20))
def test_opcodes_are_as_long_as_pickletools_says(value: Any, protocol: int, behind: bytes) -> None:
    data = pickle.dumps(value, protocol)
    ops = list(pickletools.genops(data))
    # Were one argument read too short or too long, the count of opcodes or the end would differ.
    tree = parse(b"before" + data + behind, start=6, max_ops=len(ops))
    assert tree.end == 6 + ops[-1][2] + 1
    if len(ops) > 1:
        with pytest.raises(LimitExceeded):
            parse(data, max_ops=len(ops) - 1)
    offsets = [position + 6 for opcode, _, position in ops if opcode.name in ("GLOBAL", "STACK_GLOBAL")]
    assert {node.byte_offset for node in tree.globals.values()} <= set(offsets)
    assert bool(tree.globals) == bool(offsets)


class Stub:
    """Takes whatever an unpickler does to an object."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> "Stub":
        return Stub()

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


class Spy(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """CPython's own machine in Python, with every import replaced by ``Stub`` and written down."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)
        super().__init__(self.file)
        self.found: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

        if self.proto < 3:
            if (module, name) in NAME_MAPPING:
                module, name = NAME_MAPPING[module, name]
            else:
                module = IMPORT_MAPPING.get(module, module)
        self.found.add((module, name))
        return Stub

    def persistent_load(self, pid: Any) -> Any:
        return object()


class Example:
    def __init__(self) -> None:
        self.items = {"a": (1, 2.5, None), 3: [True, b"x"]}


def torch_pickle(value: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


CORPUS = [
    *(pickle.dumps([Example(), {1, 2}, os.path.join, OrderedDict(a=1)], n) for n in PROTOCOLS),
    *(torch_pickle({"w": torch.ones(2), "m": torch.nn.Linear(1, 1).state_dict()}, n) for n in (2, 4)),
    b"(i__builtin__\nset\n(I1\nlp0\n0g0\n(c__builtin__\nlist\nI3\noa.",
    b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00xtR0K\x01.",
]


@settings(max_examples=1500)
@given(st.data())
def test_a_damaged_pickle_hides_no_global_from_us(data: st.DataObject) -> None:
    """Where CPython's machine gets through, ours saw every import that it made, or refused the file."""
    original = data.draw(st.sampled_from(CORPUS))
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        piece = data.draw(
            st.sampled_from([b"0", b"1", b"2", b"(", b"t", b"R", b")", b"N", b"u", b""]) | st.binary()
        )
        damaged[position : position + data.draw(st.integers(0, 3))] = piece
        if not damaged:
            damaged += b"."
    try:
        tree = parse(bytes(damaged))
    except (MalformedCheckpoint, LimitExceeded):
        return
    spy = Spy(bytes(damaged))
    try:
        spy.load()
    except Exception:  # noqa: BLE001 - whatever CPython makes of it; what it imported before counts
        pass
    else:
        assert spy.file.tell() >= tree.end
    assert spy.found <= set(tree.globals)


@settings(max_examples=800)
@given(rnd=st.randoms(use_true_random=False))
def test_what_cpython_reads_is_read_here(rnd: Random) -> None:
    """A pickle that is refused here, and runs elsewhere, would hide what it runs."""
    data = rnd.choice(CORPUS)
    for _ in range(rnd.choice((1, 1, 2, 3))):
        data = mutate_pickle(data, rnd, rnd.choice(CORPUS))
    spy = Spy(data)
    try:
        spy.load()
    except Exception:  # noqa: BLE001 - whatever CPython makes of it
        return
    with contextlib.suppress(LimitExceeded):
        assert spy.found <= set(parse(data).globals)


@given(st.binary(max_size=200))
def test_random_bytes_give_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(MalformedCheckpoint, LimitExceeded):
        parse(data)


def test_every_opcode_of_pickletools_is_known() -> None:
    for opcode in pickletools.opcodes:
        try:
            parse(opcode.code.encode("latin-1") + b"\x00" * 40)
        except MalformedCheckpoint as error:
            # The zeros behind the argument are no opcodes; the one before it must be.
            assert error.what != "not a pickle opcode" or error.byte_offset, opcode.name
    known = {opcode.code.encode("latin-1")[0] for opcode in pickletools.opcodes}
    for byte in set(range(256)) - known:
        with pytest.raises(MalformedCheckpoint, match="not a pickle opcode"):
            parse(bytes([byte]) + b"\x00" * 40)


# ------------------------------------------------------------------------------------ calls and globals


def names(tree: PickleTree) -> dict[str, bool]:
    return {node.full_name: node.calls > 0 for node in tree.globals.values()}


@pytest.mark.parametrize(
    "pickled",
    [
        b"cposix\nsystem\n(S'x'\ntR0N.",  # POP
        b"(cposix\nsystem\n(S'x'\ntR1N.",  # POP_MARK
        b"(iposix\nsystem\n0N.",  # INST
        b"((cposix\nsystem\nS'x'\no0N.",  # OBJ below an open MARK
        b"\x80\x02cposix\nsystem\n)\x810N.",  # NEWOBJ
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93)}\x920N.",  # STACK_GLOBAL, NEWOBJ_EX
        b"\x80\x02N(cposix\nsystem\nS'x'\no0.",
    ],
)
def test_a_popped_call_is_listed(pickled: bytes) -> None:
    if pickled.startswith(b"(("):
        pickled = pickled.replace(b"0N.", b"1N.")
    tree = parse(pickled)
    assert tree.value is None
    assert names(tree) == {"posix.system": True}


def test_a_global_that_nothing_calls_says_so() -> None:
    assert names(parse(b"cposix\nsystem\n0N.")) == {"posix.system": False}


def test_a_call_of_a_call_keeps_both() -> None:
    tree = parse(b"c__builtin__\ngetattr\n(cposix\nposix\nS'system'\ntR(S'x'\ntR.")
    assert isinstance(tree.value, Call)
    assert isinstance(tree.value.function, Call)
    assert names(tree) == {"builtins.getattr": True, "posix.posix": False}


@pytest.mark.parametrize(
    ("argument", "code"), [(b"\x82\x07", 7), (b"\x83\x00\x01", 256), (b"\x84\x00\x00\x01\x00", 65536)]
)
def test_the_extension_registry_is_a_global_of_its_own(argument: bytes, code: int) -> None:
    tree = parse(b"\x80\x02" + argument + b")R.")
    assert names(tree) == {f"copyreg.extension.{code}": True}


@pytest.mark.parametrize("decoys", [0, 20])
def test_a_code_that_the_pickle_registers_is_the_global_it_stands_for(decoys: int) -> None:
    """As in Python: what ``copyreg.add_extension`` was told first."""
    code = op.PROTO(2)
    for number in range(decoys):
        code += op.call("copyreg:add_extension", "a", f"b{number}", number + 1) + op.POP
    for name in ("system", "popen"):
        code += op.call("copyreg:add_extension", "os", name, 241) + op.POP
    tree = parse(code + op.EXT1(241) + op.push(("true",)) + op.REDUCE + op.STOP)
    assert names(tree) == {"copyreg.add_extension": True, "os.system": True}
    assert "copyreg.extension.242" in names(parse(code + op.EXT1(242) + op.STOP))


@pytest.mark.parametrize("wrong", [(5, "a", 241), ("os", 5, 241), ("os", "a", True), ("os", "a")])
def test_what_registers_no_name_for_a_code_is_passed_over(wrong: tuple[Any, ...]) -> None:
    code = op.PROTO(2) + op.call("copyreg:add_extension", *wrong) + op.POP
    assert "copyreg.extension.241" in names(parse(code + op.EXT1(241) + op.STOP))
    assert "copyreg.extension.1" in names(parse(code + op.EXT1(1) + op.STOP))
    code += op.call("copyreg:add_extension", "os", "system", 241) + op.POP
    assert "os.system" in names(parse(code + op.EXT1(241) + op.STOP))


def test_each_way_to_make_an_object_is_a_call_with_its_arguments() -> None:
    cases = {
        b"(I1\nI2\niM\nC\n.": ("inst", (1, 2)),
        b"(cM\nC\nI1\nI2\no.": ("obj", (1, 2)),
        b"cM\nC\n(I1\nI2\ntR.": ("reduce", (1, 2)),
        b"cM\nC\n(I1\nI2\nt\x81.": ("newobj", (1, 2)),
    }
    for pickled, (way, args) in cases.items():
        call = parse(pickled).value
        assert (call.op, call.args, call.function.full_name) == (way, args, "M.C")
    call = parse(b"cM\nC\n(I1\nt}\x8c\x01kI2\ns\x92.").value
    args, kwargs = call.args
    assert (call.op, args, to_python(kwargs)) == ("newobj_ex", (1,), {"k": 2})


def test_state_and_items_of_an_object_are_kept() -> None:
    call = parse(b"cM\nC\n)R(I1\nI2\nuI3\na(I4\nI5\ne}b(I6\n\x90.").value
    assert (call.items, call.appended) == ([1, 2], [3, 4, 5, 6])
    assert [to_python(state) for state in call.states] == [{}]


def test_build_on_a_class_is_kept_in_sight() -> None:
    tree = parse(b"cM\nC\n}X\x01\x00\x00\x00aI1\nsb.")
    assert isinstance(tree.value, Call)
    assert (tree.value.op, tree.value.function.full_name) == ("build", "M.C")


@pytest.mark.parametrize("pickled", [b"Pkey-1\n.", b"S'key-1'\nQ."])
def test_persistent_ids_are_nodes(pickled: bytes) -> None:
    tree = parse(pickled)
    assert isinstance(tree.value, PersistentId)
    assert tree.value.pid == "key-1"
    assert tree.persistent_ids == [tree.value]


@pytest.mark.parametrize(
    ("written", "meant", "protocol"),
    [
        ("__builtin__ eval", "builtins.eval", 2),
        ("copy_reg _reconstructor", "copyreg._reconstructor", 2),
        ("__builtin__ xrange", "builtins.range", 1),
        ("UserDict UserDict", "collections.UserDict", 2),
        ("__builtin__ eval", "__builtin__.eval", 3),
    ],
)
def test_names_of_python_2_mean_what_the_unpickler_makes_of_them(
    written: str, meant: str, protocol: int
) -> None:
    module, name = written.split()
    head = bytes([0x80, protocol]) if protocol >= 2 else b""
    assert names(parse(head + f"c{module}\n{name}\n.".encode())) == {meant: False}


def test_one_node_for_a_global_that_is_named_twice() -> None:
    first, second = parse(b"(cM\nC\ncM\nC\nt.").value
    assert first is second


# -------------------------------------------------------------------------------------------------- values


def test_huge_integers_are_sizes() -> None:
    for value in (2**5000, -(2**100_000)):
        node = parse(pickle.dumps(value, 2)).value
        assert isinstance(node, BigInt)
        assert abs(node.nbits - value.bit_length()) <= 8
    # In text: 1,233 digits are a number, more are as many bits as so many nines have.
    for digits in (1, 1232, 1233, 1234, 4000, 100_000):
        text = b"9" * digits
        for code in (b"I" + text + b"\n.", b"L" + text + b"L\n."):
            found = parse(code).value
            if digits <= 1233:
                assert found == 10**digits - 1
            else:
                assert isinstance(found, BigInt)
                assert found.nbits == digits * 3322 // 1000
                assert abs(found.nbits / (digits * 3.3219281) - 1) < 1e-3
    text = b"L" + b"9" * 2_000_000 + b"L\n."
    started = time.perf_counter()
    assert isinstance(parse(text).value, BigInt)
    assert time.perf_counter() - started < 2
    assert parse(pickle.dumps(2**4000, 2)).value == 2**4000


def test_shared_objects_stay_shared_and_cycles_close() -> None:
    inner: list[Any] = [1]
    outer: list[Any] = [inner, inner]
    outer.append(outer)
    tree = parse(pickle.dumps(outer, 2))
    assert tree.value[0] is tree.value[1]
    assert tree.value[2] is tree.value


def test_strings_of_python_2_are_text_where_they_are_utf_8() -> None:
    assert parse(b"(S'a\\xc3\\xa9'\nS'\\xff'\nU\x02\xc3\xa9T\x01\x00\x00\x00\xfft.").value == (
        "aé",
        b"\xff",
        "é",
        b"\xff",
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_know_where_they_lie(protocol: int) -> None:
    data = pickle.dumps(b"0123456789" * 40, protocol)
    node = parse(data).value
    if protocol >= 3:
        assert data[node.byte_offset : node.byte_offset + len(node)] == node == b"0123456789" * 40


# ------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_cut_anywhere_is_malformed(protocol: int) -> None:
    data = torch_pickle({"w": torch.ones(2), "n": {"lr": 0.1, "big": 2**80, "t": (1, None)}}, protocol)
    parse(data)
    for size in range(len(data)):
        with pytest.raises(MalformedCheckpoint):
            parse(data[:size])


@given(plain, st.sampled_from(PROTOCOLS), st.floats(0, 1, exclude_max=True))
def test_a_prefix_asks_for_more(value: Any, protocol: int, part: float) -> None:
    data = pickle.dumps(value, protocol)
    with pytest.raises(PickleCutOff):
        parse(data[: int(len(data) * part)])


@pytest.mark.parametrize(
    "pickled",
    [
        b".", b"0.", b"1.", b"2.", b"R.", b"NR.", b"(NR.", b"(R.", b"t.", b"\x85.", b"\x86.", b"N\x86.",
        b"N(N\x86t.", b"N(\x85t.", b"NN(N\x87t.", b"a.", b"]a.", b"e.", b"]e.", b"](e0.", b"s.", b"}s.",
        b"}Ns.", b"u.", b"}u.", b"b.", b"Nb.", b"o.", b"(o.", b"\x81.", b"N\x81.", b"\x92.", b"NN\x92.",
        b"\x93.",
        b"Q.", b"(Q.", b"q\x00.", b"r\x00\x00\x00\x00.", b"p0\n.", b"\x94.", b"\x90.", b"\x8f\x90.", b"i.",
        b"h\x00.", b"j\x00\x00\x00\x00.", b"g0\n.", b"g-1\n.", b"Np-1\n.", b"Npx\n.",
        b"g99999999999999999999\n.",
        b"K\x01K\x02\x93.", b"(K\x01d.", b"}(K\x01u.", b"N(K\x01K\x02u.", b"K\x01K\x02a.", b"\x91.",
        b"cM\nC\n", b"cM\n", b"c\xff\nC\n.", b"Sx\n.", b"S'\n.", b"S'\\x'\n.", b"Ix\n.", b"Fx\n.", b"Lx\n.",
        b"X\x02\x00\x00\x00\xff\xff.", b"X\xff\xff\xff\xff.", b"\x8d" + b"\xff" * 8 + b".", b"V\\u12\n.",
        b"T\xff\xff\xff\xff.", b"B\xff\xff\xff\xff.", b"\x8e" + b"\xff" * 8, b"\x96" + b"\xff" * 8,
        b"\x8b\xff\xff\xff\xff.", b"\x8b\xff\xff\xff\x7f.", b"\x80\x06.", b"\x97.", b"\x98.", b"N(.",
    ],
)  # fmt: skip
def test_misuse_is_malformed(pickled: bytes) -> None:
    with pytest.raises(MalformedCheckpoint) as caught:
        parse(pickled)
    assert caught.value.byte_offset is not None
    assert 0 <= caught.value.byte_offset <= len(pickled)


@pytest.mark.parametrize("pickled", [b"(N.", b"(\x80\x02}.", b"N(K\x01.", b"K\x01(K\x02(K\x03."])
def test_a_mark_may_be_left_open(pickled: bytes) -> None:
    assert to_python(parse(pickled).value) == pickle.loads(pickled)


@pytest.mark.parametrize("pickled", [b"N(u.", b"K\x01(e.", b"\x80\x04)(\x90.", b"\x80\x04](u."])
def test_nothing_may_be_put_into_anything(pickled: bytes) -> None:
    assert to_python(parse(pickled).value) == pickle.loads(pickled)


@pytest.mark.parametrize("pair", [("N", "b"), ("a", "N"), ("N", "N"), ("K5", "b"), ("a", "K5")])
def test_a_global_from_the_stack_has_two_strings(pair: tuple[str, str]) -> None:
    codes = {"N": op.NONE, "K5": b"K\x05"}
    code = b"".join(codes.get(text) or op.SHORT_BINUNICODE(text) for text in pair)
    with pytest.raises(MalformedCheckpoint, match="STACK_GLOBAL in a pickle needs two strings"):
        parse(op.PROTO(4) + code + op.STACK_GLOBAL + op.STOP)


def test_the_only_argument_of_a_call_and_the_items_of_nothing() -> None:
    for args in ((), (5, 6), [5], "x", None):
        assert Call("reduce", "f", args, 0).only_argument is None
    for only in (5, None, "x", (1, 2)):
        assert Call("reduce", "f", (only,), 0).only_argument == only
    assert list(iter_items(None)) == list(iter_items([])) == []
    assert list(iter_items(["a", 1, "b", 2])) == [("a", 1), ("b", 2)]
