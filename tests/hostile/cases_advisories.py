"""How other tools were broken: a case for each published advisory that a file can be made of.

Named after the advisory, or after the tool and the year where there were dozens. What a scanner missed must
be listed here; what crashed a loader must be refused.
CVE-2024-5480 and CVE-2024-48063 (torch's distributed RPC) need a network peer, not a file.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.cases_code import ARGS, COMMAND, SYSTEM, beside
from tests.hostile.containers import Member, legacy, torch_zip

FIRED = op.call("posix:system", COMMAND)
SOUND = op.dump({"w": op.tensor()})

# Globals that a denylist did not know, or that a heuristic took for harmless: all must be listed as called.
GADGETS: dict[str, tuple[str, tuple[object, ...]]] = {
    "CVE-2022-45907 (torch.jit.annotations)": (
        "torch.jit.annotations:parse_type_line",
        ("# type: 1", None, 0),
    ),
    "CVE-2025-1716 (pip.main)": ("pip:main", (["install", "x"],)),
    "CVE-2025-10157 (asyncio submodule)": (
        "asyncio.unix_events:_UnixSubprocessTransport._start",
        (1, COMMAND, True),
    ),
    "picklescan 2025 (timeit)": ("timeit:timeit", ("1",)),
    "picklescan 2025 (idlelib)": ("idlelib.pyshell:ModifiedInterpreter.runcode", (1,)),
    "picklescan 2025 (cProfile)": ("cProfile:runctx", ("1", {}, {})),
    "picklescan 2025 (lib2to3)": ("lib2to3.pgen2.grammar:Grammar.loads", (b"N.",)),
    "picklescan 2025 (ensurepip)": ("ensurepip._uninstall:main", ([],)),
    "picklescan 2025 (torch.utils.bottleneck)": (
        "torch.utils.bottleneck.__main__:run_autograd_prof",
        ("1", {}),
    ),
    "picklescan 2025 (torch.utils._config_module)": ("torch.utils._config_module:load_config", (b"N.",)),
    "picklescan 2025 (numpy.f2py getlincoef)": ("numpy.f2py.crackfortran:getlincoef", ("1", {})),
    "picklescan 2026 (pkgutil.resolve_name)": ("pkgutil:resolve_name", ("os:system",)),
    "CVE-2026-22608 and siblings (runpy)": ("runpy:run_path", ("x",)),
    "CVE-2026-22608 and siblings (cProfile)": ("cProfile:run", ("1",)),
    "CVE-2026-22608 (pydoc and ctypes)": ("pydoc:locate", ("ctypes.CDLL",)),
    "CVE-2026-22608 and siblings (importlib)": ("importlib.machinery:SourceFileLoader", ("x", "x")),
    "arXiv 2508.19774 (torch.hub._load_local)": ("torch.hub:_load_local", (".", "model")),
    "arXiv 2508.19774 (dotted global)": ("torch:os.system", (COMMAND,)),
}


def _arguments(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Bytes among the arguments are data here, not opcodes."""
    return tuple(op.BINBYTES(value) if isinstance(value, bytes) else value for value in arguments)


def _tar() -> bytes:
    """The container of torch 0.1: a tar with pickles inside, the path that CVE-2025-32434 came by."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("sys_info", op.dump({})), ("pickle", op.dump(FIRED)), ("storages", op.dump(0))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _tensor_with_item() -> bytes:
    """SETITEM on a tensor: CVE-2026-24747 wrote through it."""
    return op.PROTO(2) + op.push({"w": op.tensor() + op.push(2**40) + op.push(1.5) + op.SETITEM}) + op.STOP


_FLAGS = {"data.pkl": {"flags": 0x20, "local_flags": 0x20}}
_RENAMED = {"data.pkl": {"local_name": "archive/dtat.pkl"}}
_DECOY = (
    op.push("posix")
    + op.BINPUT(0)
    + op.POP
    + op.push("safe")
    + op.BINPUT(0)  # the memo entry is written again: a counter of PUTs sees the first
    + op.POP
    + op.push("posix")
    + op.BINPUT(0)
    + op.POP
    + op.BINGET(0)
    + op.push("system")
    + op.STACK_GLOBAL
    + ARGS
    + op.REDUCE
)
_QUANTIZED = op.call(
    "torch._utils:_rebuild_qtensor",
    op.storage("0", "torch:QInt8Storage", 16),
    0,
    (2, 2),
    (2**40, 1),
    (op.named("torch:per_tensor_affine"), 0.5, 0),
    False,
    op.call("collections:OrderedDict"),
)


def _iter_cases() -> Iterator[Case]:
    listed = ("posix.system",)
    for name, (function, arguments) in GADGETS.items():
        code = beside(op.call(function, *_arguments(arguments)), 3)
        yield Case(f"advisory: {name}", torch_zip(code), globals=(function.replace(":", "."),))
    yield Case("advisory: picklescan#22 (memo decoy)", torch_zip(beside(_DECOY, 4)), globals=listed)
    yield Case(
        "advisory: nullifAI (payload first, then broken)",
        op.PROTO(2) + FIRED + op.POP + b"\xff\xff",
        "not a pickle opcode",
    )
    yield Case(
        "advisory: nullifAI (7z container)",
        b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(24) + op.dump(FIRED),
        "7z",
    )
    for suffix in (".bin", ".txt", ".safetensors", ".png", ""):
        yield Case(
            f"advisory: CVE-2025-1889 and CVE-2025-10155 (suffix {suffix or 'none'})",
            torch_zip(beside(FIRED)),
            globals=listed,
            suffix=suffix,
        )
        yield Case(
            f"advisory: CVE-2025-1889 (bare pickle, suffix {suffix or 'none'})",
            op.dump({"x": FIRED}),
            globals=listed,
            suffix=suffix,
        )
    yield Case(
        "advisory: CVE-2025-1944 (local name differs)",
        torch_zip(beside(FIRED), change=_RENAMED),
        globals=listed,
        finding="zip-headers-differ",
    )
    yield Case(
        "advisory: CVE-2025-1945 (flag bit of a patch)",
        torch_zip(beside(FIRED), change=_FLAGS),
        globals=listed,
    )
    yield Case(
        "advisory: CVE-2025-1945 (flag bit: encrypted)",
        torch_zip(SOUND, change={"data/0": {"flags": 1}}),
        "encrypted",
    )
    yield Case(
        "advisory: CVE-2025-10156 (bad CRC)",
        torch_zip(beside(FIRED), change={"data.pkl": {"crc": 0xBADBAD}}),
        globals=listed,
    )
    yield Case("advisory: CVE-2025-32434 (legacy tar)", _tar(), "tar", suffix=".tar")
    yield Case(
        "advisory: CVE-2025-32434 (TorchScript path)",
        torch_zip(op.dump({"x": FIRED}), more=[Member("archive/constants.pkl", op.dump({"y": FIRED}))]),
        globals=listed,
    )
    yield Case("advisory: CVE-2026-24747 (SETITEM on a tensor)", torch_zip(_tensor_with_item()))
    yield Case(
        "advisory: CVE-2026-24747 (numel beyond the record)",
        torch_zip(op.dump({"w": op.tensor(op.storage(numel=1 << 30), size=(1 << 30,))})),
        "smaller than its pickle says",
    )
    yield Case(
        "advisory: pt#109791 (strides beyond the storage)",
        torch_zip(op.dump({"w": op.tensor(size=(2, 2), stride=(1 << 40, 1))})),
        "beyond its storage",
    )
    yield Case(
        "advisory: pt#181310 (numel * itemsize wraps)",
        torch_zip(op.dump({"w": op.tensor(op.storage(numel=(1 << 62) + 4), size=(4,))})),
        "smaller than its pickle says",
    )
    yield Case(
        "advisory: pt#184652 (stride of a quantized tensor)",
        torch_zip(op.dump({"w": _QUANTIZED})),
        "beyond its storage",
    )
    yield Case(
        "advisory: pt#170085 (storage cast to a larger type)",
        torch_zip(op.dump({"w": op.tensor(op.storage("0", "torch:DoubleStorage", 4))})),
        "smaller than its pickle says",
    )
    yield Case(
        "advisory: CVE-2026-22608 and siblings (POP hides a call)",
        torch_zip(op.PROTO(2) + FIRED + op.POP + op.push({"w": op.tensor()}) + op.STOP),
        globals=listed,
        names=("w",),
    )
    yield Case(
        "advisory: GHSA-mhc9-48gj-9gp3 (REDUCE, then BUILD)",
        torch_zip(beside(FIRED + op.push({"x": 1}) + op.BUILD)),
        globals=listed,
    )
    yield Case(
        "advisory: fickling 0.1.11 (allowed import first)",
        torch_zip(beside(op.call("torch._utils:_rebuild_parameter", op.tensor(), True, FIRED))),
        globals=listed,
    )
    yield Case(
        "advisory: pt#194694 (torch.package)",
        torch_zip(
            beside(op.call("torch.package:PackageImporter", "x")),
            more=[Member("archive/.data/extern_modules", b"os\n"), Member("archive/m.py", b"import os")],
        ),
        globals=("torch.package.PackageImporter",),
    )
    yield Case(
        "advisory: polyglot (pickle in front of a zip)",
        torch_zip(SOUND, prefix=op.dump({"x": FIRED})),
        globals=listed,
        finding="bytes-after-pickle",
    )
    yield Case(
        "advisory: behind STOP of data.pkl",
        torch_zip(SOUND + op.dump(SYSTEM + ARGS + op.REDUCE)),
        globals=listed,
        finding="bytes-after-pickle",
    )
    yield Case(
        "advisory: behind the storages of a legacy file",
        legacy(op.dump({"w": op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None))}))
        + op.dump(FIRED),
        finding="bytes-after-storages",
    )


CASES = tuple(_iter_cases())
