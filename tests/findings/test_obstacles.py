"""What of a pickle no load takes, what plain loads would do, and what each global is, in whole answers."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.findings.globals import (
    _DANGEROUS_MODULES,
    _DANGEROUS_NAMES,
    _RECORDS,
    ALLOWED_GLOBALS,
    DTENSOR_GLOBALS,
    REGISTERED_GLOBALS,
    GlobalVerdict,
    Verdict,
    judge_global,
)
from ckpttool.findings.weights_only import (
    _CHANGES,
    ARITIES,
    PlainLoad,
    judge_all,
    legacy_obstacle,
    obstacles,
    plain_load,
    plain_load_fact,
    weights_only_verdict,
)
from ckpttool.pickles.nodes import CALLS_RESULT, MANY_DIGITS, NOT_UTF8
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    GlobalRef,
    Kind,
    Part,
)
from tests.support.inspections import tensor


def ref(
    path: str, *arities: int, called: bool = True, places: tuple[str, ...] = (), calls: int = 0
) -> GlobalRef:
    module, _, name = path.rpartition(".")
    return GlobalRef(module, name, called, places, calls, arities)


def of(*refs: GlobalRef, format: str = "torch_zip", **more: Any) -> Checkpoint:
    return Checkpoint("f", format, "", (), more.pop("entries", ()), globals=refs, **more)


def call(path: str, count: int) -> str:
    said = "no tuple of arguments" if count < 0 else f"{count} argument{'' if count == 1 else 's'}"
    return f"a call of {path} with {said}"


CLASSES = {path for path in ALLOWED_GLOBALS if path.endswith("Tensor")}
CLASSES |= {"torch.storage.TypedStorage", "torch.storage.UntypedStorage"}


@pytest.mark.parametrize("path", sorted(ALLOWED_GLOBALS))
def test_a_function_is_called_with_as_many_arguments_as_it_takes(path: str) -> None:
    least, most = ARITIES.get(path, (0, 1000))
    for count in {-1, 0, least - 1, least, most, most + 1, 50}:
        found = obstacles(of(ref(path, count)))
        if path in ARITIES:
            assert found == ([] if least <= count <= most else [call(path, count)]), count
        elif path in CLASSES:
            assert found == ([] if count >= 0 else [call(path, count)])
        else:
            assert found == [f"a call of {path}, which is no function"]
    assert obstacles(of(ref(path))) == []
    several = obstacles(of(ref(path, 99, least, 98), ref("torch.Size", 2)))
    here = [call(path, 99), call(path, 98)] if path in ARITIES else []
    if path not in ARITIES and path not in CLASSES:
        here = [f"a call of {path}, which is no function"]
    assert several == [*here, call("torch.Size", 2)]


SIGNATURES = """
    builtins.bytearray 0 3, builtins.complex 0 2, builtins.set 0 1, _codecs.encode 1 3,
    collections.Counter 0 1, collections.OrderedDict 0 1, torch.Size 0 1, torch.device 1 2,
    torch.nn.parameter.Parameter 0 2, torch.serialization._get_layout 1 1,
    torch._tensor._rebuild_from_type_v2 4 4, torch._utils._rebuild_tensor 4 4,
    torch._utils._rebuild_tensor_v2 6 7, torch._utils._rebuild_tensor_v3 7 8,
    torch._utils._rebuild_parameter 3 3, torch._utils._rebuild_parameter_with_state 4 4,
    torch._utils._rebuild_meta_tensor_no_storage 4 4, torch._utils._rebuild_qtensor 7 7,
    torch._utils._rebuild_device_tensor_from_cpu_tensor 4 4, torch._utils._rebuild_sparse_tensor 2
    2, torch._utils._rebuild_device_tensor_from_numpy 4 4, torch._utils._rebuild_wrapper_subclass 8
    8, torch._utils._rebuild_nested_tensor 4 4
"""


def test_functions_take_so_many_arguments_and_no_other_number() -> None:
    """Some do not tell their signature; of those that do, another test asks torch."""
    told = {path: (int(least), int(most)) for path, least, most in map(str.split, SIGNATURES.split(","))}
    assert told.keys() == ARITIES.keys()
    for path, (least, most) in told.items():
        taken = [count for count in range(-1, 12) if not obstacles(of(ref(path, count)))]
        assert taken == list(range(least, most + 1)), path


DIGITS = "an integer of more than 4,300 digits"
RESULT = "a call of an object that is no function"


def test_opcodes_that_no_load_takes_are_told_where_every_class_is_known() -> None:
    known, unknown = ref("torch.Size", 1), ref("my.Net", 9)
    for op, name in _CHANGES.items():
        rare = frozenset([op])
        assert obstacles(of(known, rare_opcodes=rare)) == [
            f"{name} on an object, where it takes a list or a dict"
        ]
        assert obstacles(of(known, unknown, rare_opcodes=rare)) == []
        assert obstacles(of(ref("my.Net"), rare_opcodes=rare)) == []
    every = frozenset([*_CHANGES, CALLS_RESULT, MANY_DIGITS])
    assert obstacles(of(known, rare_opcodes=every, obstacles=("a hole",))) == [
        "a hole", DIGITS, "APPEND, APPENDS, SETITEM and 2 more on an object, where it takes a list or a dict",
        RESULT,
    ]  # fmt: skip
    assert obstacles(of(known, unknown, rare_opcodes=every)) == [DIGITS]
    assert obstacles(of(known, rare_opcodes=frozenset([CALLS_RESULT]))) == [RESULT]
    assert obstacles(of()) == []


# ------------------------------------------------------------------------------------------ weights_only


def entry(basis: Basis = Basis.NONE, value: Any = None) -> Entry:
    return Entry((), "w", tensor() if value is None else value, None, Classification(Kind.PARAMETER, basis))


def test_whose_question_it_is() -> None:
    script, program = (
        "TorchScript: torch.jit.load reads it",
        "an exported program: torch.export.load reads it",
    )
    size, none = ref("torch.Size"), "no pickle in it"
    answers: list[tuple[Checkpoint, tuple[bool | None, str]]] = [
        (of(size, entries=(entry(Basis.EXPORT),)), (None, program)),
        (of(size, entries=(entry(), entry(Basis.TORCHSCRIPT))), (None, script)),
        (of(size, entries=(entry(Basis.TORCHSCRIPT), entry(Basis.EXPORT))), (None, program)),
        (of(size, ref("__torch__.net.Net")), (None, script)),
        (of(size, ref("__torch__.Net")), (None, script)),
        (of(size, format="torch_export"), (None, program)),
        (of(entries=(entry(),)), (None, none)),
        (of(metadata={"a": "b"}), (None, none)),
        (of(format="safetensors"), (None, none)),
        (of(format="sharded safetensors"), (None, none)),
        (of(), (True, "")),
        (of(size), (True, "")),
        (of(size, entries=(entry(),)), (True, "")),
        (of(ref("x__torch__.Net")), (False, "x__torch__.Net")),
        (of(size, format="pickle"), (False, "the bare pickle, which torch.load does not read")),
        (of(ref("torch.Size", 7)), (False, call("torch.Size", 7))),
        (of(size, rare_opcodes=frozenset([0x30])), (False, "opcode POP, which it does not know")),
        (of(size, rare_opcodes=frozenset([0x32, 0x30])), (False, "opcodes POP, DUP, which it does not know")),
        (of(size, rare_opcodes=frozenset([NOT_UTF8])), (False, "a string of Python 2 that is not UTF-8")),
        (of(size, rare_opcodes=frozenset([NOT_UTF8, 0x30])), (False, "opcode POP, which it does not know")),
        (of(size, rare_opcodes=frozenset([0x7D])), (True, "")),
    ]
    for checkpoint, answer in answers:
        assert weights_only_verdict(checkpoint) == answer


def test_the_gravest_reason_is_the_one_that_is_said() -> None:
    refs = [ref("my.A"), ref("torch.Size", 7), ref("my.B"), ref("os.system"), ref("my.C")]
    everything = of(*refs, format="pickle", rare_opcodes=frozenset([0x30]), obstacles=("x",))
    assert weights_only_verdict(everything) == (False, "my.A, my.B, os.system and 1 more")
    assert weights_only_verdict(of(ref("__builtin__.eval"))) == (False, "__builtin__.eval")


def test_what_a_legacy_file_holds_that_no_load_takes_out() -> None:
    untyped, nested = ref("torch.storage.UntypedStorage"), ref("torch._utils._rebuild_nested_tensor")
    assert legacy_obstacle(of(untyped, nested)) == ""
    old = "in the pre-1.6 file layout"
    assert legacy_obstacle(of(ref("torch.Size"), format="torch_legacy")) == ""
    assert legacy_obstacle(of(nested, format="torch_legacy")) == f"a nested tensor {old}"
    assert legacy_obstacle(of(nested, untyped, format="torch_legacy")) == f"an untyped storage {old}"
    wide = [entry(value=tensor(dtype=dtype)) for dtype in ("uint64", "float32", "complex32", "uint16")]
    packed = entry(
        value=CompositeTensor("subclass", "t", None, None, (Part("a", tensor(dtype="float8_e5m2")),))
    )
    found = legacy_obstacle(of(untyped, format="torch_legacy", entries=(*wide, packed)))
    assert found == f"complex32, float8_e5m2, uint16 and 1 more {old}"
    assert weights_only_verdict(of(untyped, format="torch_legacy", entries=(wide[0],))) == (
        False, f"uint64 {old}"
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ plain loads


def test_what_a_plain_load_calls_and_imports_the_gravest_first() -> None:
    refs = [
        ref("my.A"), ref("torch.Size"), ref("my.B", called=False), ref("os.system"), ref("__torch__.X"),
        ref("os.popen", called=False), ref("my.C"),
    ]  # fmt: skip
    order = [item.ref.name for item in judge_all(of(*refs))]
    assert order == ["system", "popen", "A", "B", "X", "C", "Size"]
    calls, imports = plain_load(of(*refs))
    assert [item.ref.name for item in calls] == ["system", "A", "C"]
    assert [item.ref.name for item in imports] == ["popen", "B"]
    assert plain_load(of(refs[1], refs[4])) == PlainLoad((), ())
    assert plain_load_fact(calls, imports) == (
        "a plain pickle load would call os.system (starts programs), my.A, my.C and import os.popen (starts "
        "programs), my.B"
    )
    assert plain_load_fact(calls[:1], ()) == "a plain pickle load would call os.system (starts programs)"
    assert plain_load_fact((), imports[1:]) == "a plain pickle load would import my.B"
    assert plain_load_fact((), ()) == ""


@pytest.mark.parametrize(
    ("places", "calls", "said"),
    [
        ((), 0, ""), ((), 5, ""),
        (("$.a",), 0, " at $.a"), (("$.a",), 1, " at $.a"), (("$.a",), 2, " at $.a and 1 more place"),
        (("$.a", "$.b"), 2, " at $.a and $.b"), (("$.a", "$.b"), 0, " at $.a and $.b"),
        (("$.a", "$.b"), 3, " at $.a, $.b and 1 more place"),
        (("$.a", "$.b"), 4, " at $.a, $.b and 2 more places"),
        (("$.a", "$.b", "$.c"), 0, " at $.a, $.b and 1 more place"),
        (("$.a", "$.b", "$.c"), 9, " at $.a, $.b and 7 more places"),
    ],
)  # fmt: skip
def test_places_are_named_and_counted(places: tuple[str, ...], calls: int, said: str) -> None:
    used = GlobalVerdict(ref("my.F", places=places, calls=calls), Verdict.UNKNOWN)
    assert plain_load_fact([used], ()) == f"a plain pickle load would call my.F{said}"


def test_long_names_and_places_are_cut() -> None:
    used = GlobalVerdict(ref(f"m.{'x' * 100}", places=("$" * 100,)), Verdict.UNKNOWN, "why")
    assert plain_load_fact([used], ()) == (
        f"a plain pickle load would call m.{'x' * 78}… (why) at {'$' * 80}…"
    )


# ------------------------------------------------------------------------------------------ globals


def judged(path: str) -> tuple[Verdict, str]:
    found = judge_global(ref(path))
    assert found.ref == ref(path)
    return found.verdict, found.reason


@pytest.mark.parametrize("module", _DANGEROUS_MODULES)
def test_a_module_is_dangerous_with_its_inner_ones_if_it_says_so(module: str) -> None:
    """Unless a more exact row says what one of its names does."""
    reason, bare = _DANGEROUS_MODULES[module], module.rstrip(".")
    assert judged(f"{bare}.Name") == (Verdict.DANGEROUS, reason)
    inner = judged(f"{bare}.inner.Name")
    if module.endswith("."):
        assert inner == (Verdict.DANGEROUS, reason)
    else:
        outer = [f"{bare.rpartition('.')[0]}.", f"{bare}."]
        told = bare in {"os", "sys", "subprocess", "importlib", "shutil", "ctypes", "pickle"}
        assert (inner[0] is Verdict.UNKNOWN) or told or any(text in _DANGEROUS_MODULES for text in outer)
    assert judged(f"{bare}x.Name")[1] != reason or "." in bare
    assert judged(f"x{bare}.Name") == (Verdict.UNKNOWN, "")


@pytest.mark.parametrize("path", _DANGEROUS_NAMES)
def test_a_name_is_dangerous_with_its_methods(path: str) -> None:
    reason = _DANGEROUS_NAMES[path]
    assert judged(path) == (Verdict.DANGEROUS, reason)
    assert judged(f"{path}.method") == (Verdict.DANGEROUS, reason)
    assert judged(f"{path}.a.b.c") == (Verdict.DANGEROUS, reason)


def test_what_holds_values_in_such_modules_is_unknown_and_dtensors_are_told() -> None:
    assert {judged(path) for path in _RECORDS} == {(Verdict.UNKNOWN, "")}
    assert judged("multiprocessing.TimeoutError") == (Verdict.UNKNOWN, "")  # as Python 2 calls one of them
    once = "allowed once torch.distributed.tensor is imported"
    assert {judged(path) for path in DTENSOR_GLOBALS} == {(Verdict.UNKNOWN, once)}
    assert {judged(path) for path in ALLOWED_GLOBALS | REGISTERED_GLOBALS} == {(Verdict.ALLOWED, "")}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("torch.os.system", "reaches os through another module"),
        ("a.b.c.d.sys.modules", "reaches sys through another module"),
        ("a.builtins.eval", "reaches builtins through another module"),
        ("a.os", ""), ("a.osx.system", ""), ("a.b.io.open", ""),
        ("a.b.c.d.e.f.g.h.pickle.loads", "reaches pickle through another module"),
    ],
)  # fmt: skip
def test_modules_are_reached_through_others(path: str, reason: str) -> None:
    assert judged(path) == (Verdict.DANGEROUS if reason else Verdict.UNKNOWN, reason)
