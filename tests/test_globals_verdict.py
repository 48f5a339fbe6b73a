"""Verdicts on globals, against torch's own list."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals

from ckpttool.analysis.globals import (
    ALLOWED_GLOBALS,
    DTENSOR_GLOBALS,
    REGISTERED_GLOBALS,
    Verdict,
    judge_global,
    weights_only_verdict,
)
from ckpttool.checkpoint import Basis, Checkpoint, Classification, Entry, GlobalRef, Kind

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
def test_the_registered_lists_are_those_of_torch() -> None:
    code = (
        "import sys, torch\n"
        "if sys.argv[1:]: import torch.distributed.tensor\n"
        "for g in torch.serialization.get_safe_globals(): print(f'{g.__module__}.{g.__qualname__}')"
    )

    def registered(*args: str) -> set[str]:
        run = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        return set(run.stdout.split())

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
