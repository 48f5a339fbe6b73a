"""Verdicts on globals, against torch's own list."""

from __future__ import annotations

import io
import itertools
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import _weights_only_unpickler
from torch._weights_only_unpickler import _get_allowed_globals

from ckpttool.findings.globals import (
    ALLOWED_GLOBALS,
    DTENSOR_GLOBALS,
    REGISTERED_GLOBALS,
    Verdict,
    judge_global,
)
from ckpttool.findings.weights_only import plain_load, plain_load_fact, weights_only_verdict
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Basis, Checkpoint, Classification, Entry, GlobalRef, Kind
from ckpttool.values.errors import MalformedCheckpoint
from sample_models.same_bytes import save_legacy
from tests.hostile import pickles as op
from tests.hostile.containers import legacy, torch_zip
from tests.support.warm import Warm

torch_213 = pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="the list is that of torch 2.13, this is another"
)


def verdict(module: str, name: str) -> Verdict:
    return judge_global(GlobalRef(module, name, True)).verdict


def checkpoint(*globals_: tuple[str, str], entries: tuple[Entry, ...] = (), format: str = "x") -> Checkpoint:
    refs = tuple(GlobalRef(module, name, True) for module, name in globals_)
    return Checkpoint("f", format, "", (), entries, globals=refs)


@torch_213
def test_the_allowed_list_is_that_of_torch() -> None:
    assert set(_get_allowed_globals()) == ALLOWED_GLOBALS


@torch_213
def test_the_registered_lists_are_those_of_torch(warm: Warm) -> None:
    code = (
        "import sys, torch\n"
        "if sys.argv[1:]: import torch.distributed.tensor\n"
        "for g in torch.serialization.get_safe_globals(): print(f'{g.__module__}.{g.__qualname__}')"
    )

    def registered(*args: str) -> set[str]:
        return set(warm.run("-c", code, *args).stdout.split())

    assert registered() == REGISTERED_GLOBALS
    assert registered("dtensor") == REGISTERED_GLOBALS | DTENSOR_GLOBALS


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("__builtin__", "apply"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("runpy", "_run_code"),
        ("pip", "main"),
        ("pip._internal.cli.main", "main"),
        ("importlib", "import_module"),
        ("pkgutil", "resolve_name"),
        ("ctypes", "CDLL"),
        ("ctypes.util", "find_library"),
        ("timeit", "timeit"),
        ("cProfile", "runctx"),
        ("idlelib.run", "Executive.runcode"),
        ("torch.hub", "_load_local"),
        ("torch.fx.graph_module", "_exec_with_source"),
        ("torch", "os.system"),
        ("torch.os", "system"),
        ("torch._utils", "_import_dotted_name"),
        ("types", "FunctionType"),
        ("marshal", "loads"),
        ("numpy.f2py.crackfortran", "getlincoef"),
        ("webbrowser", "open"),
        ("sys", "modules"),
    ],
)
def test_known_ways_to_run_code_are_dangerous(module: str, name: str) -> None:
    found = judge_global(GlobalRef(module, name, True))
    assert found.verdict is Verdict.DANGEROUS
    assert found.reason


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("omegaconf.dictconfig", "DictConfig"),
        ("code.models", "Net"),
        ("test.models", "Net"),
        ("types", "SimpleNamespace"),
        ("uuid", "UUID"),
        ("osmodel", "Net"),
        ("torchx", "Size"),
        ("torch", "float6_e2m3fn"),
        ("", ""),
        ("." * 100_000, "a." * 100_000),
    ],
)
def test_what_is_not_known_is_unknown(module: str, name: str) -> None:
    assert verdict(module, name) is Verdict.UNKNOWN


def test_names_of_python_2_are_mapped_as_torch_does() -> None:
    assert verdict("__builtin__", "set") is Verdict.ALLOWED
    assert verdict("__builtin__", "complex") is Verdict.ALLOWED


def test_no_global_is_both_allowed_and_dangerous() -> None:
    for path in ALLOWED_GLOBALS | REGISTERED_GLOBALS:
        module, _, name = path.rpartition(".")
        assert verdict(module, name) is Verdict.ALLOWED


class Custom:
    pass


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(a=torch.zeros(2)),
        {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.float16, "c": torch.Size([1])},
        {"a": Custom()},
        {"a": torch.zeros(2).to_sparse(), "b": {1, 2}},
        {"a": print},
        torch.device("cpu"),
        {"a": b"bytes", "b": bytearray(b"x")},
        [1, 2.0, "x"],
    ],
)
def test_weights_only_agrees_with_torch(value: object) -> None:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
        loads = True
    except pickle.UnpicklingError:
        loads = False
    archive = torch._C.PyTorchFileReader(io.BytesIO(file.getvalue()))
    seen = []

    class Names(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            seen.append((module, name))
            return super().find_class(module, name)

        def persistent_load(self, pid: object) -> object:
            return torch.storage.TypedStorage(wrap_storage=torch.UntypedStorage(64), dtype=torch.float32)

    Names(io.BytesIO(archive.get_record("data.pkl"))).load()
    answer, reason = weights_only_verdict(checkpoint(*seen))
    assert answer is loads
    assert bool(reason) is not loads


def test_weights_only_names_what_it_refuses() -> None:
    names = [("omegaconf", f"C{i}") for i in range(5)]
    assert weights_only_verdict(checkpoint(*names)) == (
        False,
        "omegaconf.C0, omegaconf.C1, omegaconf.C2 and 2 more",
    )
    answer, _ = weights_only_verdict(checkpoint(("torch.distributed.tensor", "DTensor")))
    assert answer is False


def test_weights_only_is_no_question_for_other_loaders() -> None:
    def entry(basis: Basis) -> Entry:
        return Entry((), "w", None, None, Classification(Kind.PARAMETER, basis))

    assert weights_only_verdict(checkpoint(entries=(entry(Basis.NONE),)))[0] is None
    assert (
        weights_only_verdict(checkpoint(("__torch__.net", "Net"), entries=(entry(Basis.TORCHSCRIPT),)))[0]
        is None
    )
    assert weights_only_verdict(checkpoint(("__torch__", "Net")))[0] is None
    assert weights_only_verdict(checkpoint(("torch", "Size"), entries=(entry(Basis.EXPORT),)))[0] is None


@torch_213
def test_the_refused_opcodes_are_those_of_torch() -> None:
    plain = checkpoint(("torch", "Size"))
    for opcode in pickletools.opcodes:
        code, refused = ord(opcode.code), False
        try:
            _weights_only_unpickler.load(io.BytesIO(bytes([code])))
        except pickle.UnpicklingError as error:
            refused = str(error) == f"Unsupported operand {code}"
        except (EOFError, LookupError, AttributeError, TypeError, ValueError, struct.error):
            pass  # it knows the opcode, and finds nothing to work on
        expected = (False, f"opcode {opcode.name}, which it does not know") if refused else (True, "")
        assert weights_only_verdict(plain._replace(rare_opcodes=frozenset({code}))) == expected


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [{"w": torch.ones(2)}, {"w": torch.ones(2), "n": 2**3000}, [1, "x", None], {"s": {1, 2}}, {"x": b"b"}],
)
def test_weights_only_agrees_with_torch_on_whole_files(
    value: object, protocol: int, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    save = torch.save if zipped else save_legacy
    save(value, path, pickle_protocol=protocol)
    try:
        torch.load(path, weights_only=True)
        loads = True
    except pickle.UnpicklingError:
        loads = False
    answer, reason = weights_only_verdict(read_checkpoint(str(path)))
    assert (answer, bool(reason)) == (loads, not loads)


def test_torch_load_reads_no_bare_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        torch.load(path, weights_only=True)
    assert weights_only_verdict(read_checkpoint(str(path))) == (
        False,
        "the bare pickle, which torch.load does not read",
    )


SYSTEM = op.call("posix:system", "true")


def fact_of(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "f.pt"
    path.write_bytes(content)
    return plain_load_fact(*plain_load(read_checkpoint(str(path))))


def test_the_fact_says_what_a_plain_load_calls_and_where(tmp_path: Path) -> None:
    would = "a plain pickle load would "
    assert fact_of(tmp_path, torch_zip(op.dump({"w": op.tensor()}))) == ""
    assert (
        fact_of(tmp_path, torch_zip(op.dump({"w": op.tensor(), "extra": SYSTEM})))
        == would + "call posix.system (starts programs) at $.extra"
    )
    assert (
        fact_of(tmp_path, torch_zip(op.dump({"a": {"b": [SYSTEM, SYSTEM, SYSTEM]}, "c": op.call("my:F")})))
        == would + "call posix.system (starts programs) at $.a.b.0, $.a.b.1 and 1 more place, my.F at $.c"
    )
    assert (
        fact_of(tmp_path, torch_zip(op.dump({"c": op.call("functools:partial", op.named("os:system"))})))
        == would + "call functools.partial at $.c and import os.system (starts programs) at $.c.args[0]"
    )


def test_the_fact_knows_calls_that_no_value_reaches(tmp_path: Path) -> None:
    popped = op.PROTO(2) + SYSTEM + op.POP + op.push({"x": SYSTEM}) + op.STOP
    place = f"byte {popped.index(op.REDUCE)} of the pickle"
    assert fact_of(tmp_path, torch_zip(popped)).endswith(
        f"call posix.system (starts programs) at {place} and $.x"
    )
    for code in (
        op.dump({"w": op.tensor(hooks=op.ordered([(0, SYSTEM)]))}),  # among a tensor's arguments
        op.PROTO(2) + op.MARK + SYSTEM + op.NONE + op.DICT + op.STOP,  # a key
        op.dump({}) + op.dump({"x": SYSTEM}),  # behind STOP
    ):
        fact = fact_of(tmp_path, torch_zip(code))
        assert (
            f"call posix.system (starts programs) at byte {code.index(op.REDUCE, code.index(b'posix'))} of"
            in fact
        )


def test_the_fact_covers_every_pickle_of_a_legacy_file(tmp_path: Path) -> None:
    weight = op.dump({"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None))})
    content = legacy(weight, sys_info=op.dump({"x": SYSTEM}))
    place = f"byte {content.index(op.REDUCE, content.index(b'posix'))} of the file"
    assert (
        fact_of(tmp_path, content)
        == f"a plain pickle load would call posix.system (starts programs) at {place}"
    )


def test_pickles_behind_a_bare_pickle_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "two.pkl"
    path.write_bytes(op.dump({"n": 1}) + op.dump({"x": SYSTEM}) + op.dump(SYSTEM) + b"\xffrest")
    checkpoint = read_checkpoint(str(path))
    (ref,) = checkpoint.globals
    assert (ref.module, ref.name, ref.called, ref.calls) == ("posix", "system", True, 2)
    content = path.read_bytes()
    first = content.index(op.REDUCE)
    assert ref.places == tuple(
        f"byte {at} of the file" for at in (first, content.index(op.REDUCE, first + 1))
    )
    (finding,) = checkpoint.findings
    assert finding.message == (
        "2 more pickles follow the first: a loader that reads on would unpickle what is there; "
        "5 bytes behind are not read"
    )


def test_bytes_behind_a_legacy_file_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "tail.pt"
    weight = op.dump({"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None))})
    path.write_bytes(legacy(weight) + op.dump(SYSTEM))
    finding, layout = read_checkpoint(str(path)).findings
    assert (finding.code, layout.code) == ("bytes-after-storages", "legacy-layout")


_TARGETS = {
    "tensor": op.tensor(),
    "parameter": op.parameter(),
    "ordered": op.ordered({}),
    "counter": op.call("collections:Counter"),
    "size": op.call("torch:Size", [1, 2]),
    "dtype": op.named("torch:float32"),
    "dict": op.push({}),
    "list": op.push([]),
}
_CHANGES = {
    "APPEND": op.push(0) + op.APPEND,
    "APPENDS": op.MARK + op.push(0) + op.APPENDS,
    "SETITEM": op.push(0) + op.push(1.5) + op.SETITEM,
    "SETITEMS": op.MARK + op.push(0) + op.push(1.5) + op.SETITEMS,
    "BUILD": op.push({"a": 1}) + op.BUILD,
}


@torch_213
def test_weights_only_agrees_with_torch_on_what_may_be_changed(tmp_path: Path) -> None:
    """SETITEM on a tensor wrote beyond its storage (CVE-2026-24747); since then torch refuses it."""
    answers = set()
    for target, change in itertools.product(_TARGETS, _CHANGES):
        path = tmp_path / f"{target}-{change}.pt"
        path.write_bytes(torch_zip(op.dump({"x": _TARGETS[target] + _CHANGES[change]})))
        try:
            torch.load(path, weights_only=True)
            loads = True
        except (pickle.UnpicklingError, TypeError, ValueError, AttributeError) as error:
            if "Can only" not in str(error):
                continue  # torch tried, and the object would not have it
            loads = False
        try:
            found = read_checkpoint(str(path))
        except MalformedCheckpoint:
            assert not loads, (target, change)
            continue
        answer, reason = weights_only_verdict(found)
        assert (answer, bool(reason)) == (loads, not loads), (target, change, reason)
        answers.add((answer, reason))
    assert (False, "SETITEM on an object, where it takes a list or a dict") in answers
    assert len(answers) >= 5
