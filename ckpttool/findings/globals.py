"""What the globals of a pickle mean to whoever unpickles it. A description, never "safe".

An ordinary unpickler imports every global and calls many. ``torch.load(weights_only=True)``
refuses all but a fixed list; that list is data here, so that no torch is needed to answer.
Nothing in ckpttool acts on a verdict: its own reader imports none of them.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import NamedTuple

from ckpttool.values.checkpoint import GlobalRef, Word
from ckpttool.values.dtypes import BY_NAME, BY_STORAGE_CLASS


class Verdict(Word):
    """What is known of a global."""

    ALLOWED = "allowed"
    """``torch.load(weights_only=True)`` accepts it."""
    DANGEROUS = "dangerous"
    """Known to run code, or to reach files and network, when an unpickler calls it."""
    UNKNOWN = "unknown"
    """Neither: an unpickler imports its module, which runs that module's code."""


class GlobalVerdict(NamedTuple):
    """A verdict on one global with a short reason, empty for an allowed one."""

    ref: GlobalRef
    verdict: Verdict
    reason: str = ""


_TYPES = {name.removesuffix("Storage"): dtype.kind for name, dtype in BY_STORAGE_CLASS.items()}
_TENSOR_TYPES = [name for name, kind in _TYPES.items() if kind in ("float", "int", "uint")]
_REBUILDS = """
    device_tensor_from_cpu_tensor device_tensor_from_numpy meta_tensor_no_storage nested_tensor parameter
    parameter_with_state qtensor sparse_tensor tensor tensor_v2 tensor_v3 wrapper_subclass
""".split()
_QSCHEMES = """
    per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric
    per_channel_affine_float_qparams
""".split()

ALLOWED_GLOBALS = frozenset(
    (
        *"""
        _codecs.encode builtins.bytearray builtins.complex builtins.set collections.Counter
        collections.OrderedDict torch.Size torch.Tensor torch._tensor._rebuild_from_type_v2 torch.device
        torch.nn.parameter.Parameter torch.serialization._get_layout torch.storage.TypedStorage
        torch.storage.UntypedStorage
        """.split(),
        *(f"torch.{name}" for name, dtype in BY_NAME.items() if dtype.in_torch),
        *(f"torch.{name}" for name in _QSCHEMES),
        *(f"torch._utils._rebuild_{name}" for name in _REBUILDS),
        *(f"torch.{name}Storage" for name in _TYPES),
        *(f"torch.cuda.{name}Storage" for name, kind in _TYPES.items() if kind != "quantized"),
        *(f"{module}.sparse.{name}Tensor" for module in ("torch", "torch.cuda") for name in _TENSOR_TYPES),
        *(
            f"{module}.{name}Tensor"
            for module in ("torch", "torch.cuda")
            for name in (*_TENSOR_TYPES, "Bool")
        ),
    )
)
"""``torch/_weights_only_unpickler.py``, ``_get_allowed_globals()`` of torch 2.13; a test compares."""

REGISTERED_GLOBALS = frozenset(
    """
    torch.distributed._mesh_layout._FlatLayout torch.distributed._mesh_layout._MeshLayout
    torch.nested._internal.nested_tensor.NestedTensor torch.nested._internal.nested_tensor._rebuild_njt
    """.split()
)
"""What ``import torch`` itself passes to ``add_safe_globals`` in 2.13, where distributed is built in."""

DTENSOR_GLOBALS = frozenset(
    f"torch.distributed.{name}"
    for name in """
    device_mesh.DeviceMesh tensor.DTensor tensor._dtensor_spec.DTensorSpec
    tensor._dtensor_spec.ShardOrderEntry tensor._dtensor_spec.TensorMeta tensor.placement_types.Partial
    tensor.placement_types.Replicate tensor.placement_types.Shard tensor.placement_types._StridedShard
    """.split()
)
"""What ``import torch.distributed.tensor`` adds to them."""

_STARTS_PROGRAMS = "starts programs"
_RUNS_CODE = "runs Python code"
_IMPORTS = "imports and calls by name"
_FILES = "reads, writes or deletes files"
_LOADS = "unpickles or loads further code"


def _reason_by_name(names_by_reason: dict[str, str]) -> dict[str, str]:
    return {name: reason for reason, names in names_by_reason.items() for name in names.split()}


_DANGEROUS_MODULES = _reason_by_name(
    {
        _STARTS_PROGRAMS: """
        os posix nt subprocess pty popen2 webbrowser platform pydoc antigravity _posixsubprocess _osx_support
        _aix_support _pyrepl. _winapi asyncio. concurrent.futures. ensurepip. multiprocessing. pip. venv.
        distutils. setuptools. test.support. torch.distributed.elastic. torch.distributed.launcher.
        torch.distributed.run torch.multiprocessing. torch.utils.collect_env torch.utils.cpp_extension
        """,
        _RUNS_CODE: """
        bdb cProfile code codeop doctest pdb profile runpy rlcompleter timeit trace threading _thread tkinter.
        _tkinter _interpreters _xxsubinterpreters idlelib. lib2to3. numpy.f2py. numpy.testing. torch._dynamo.
        torch._inductor. torch.fx. torch.utils.bottleneck.
        """,
        _IMPORTS: """
        imp _imp importlib. pkgutil zipimport modulefinder site unittest.loader _frozen_importlib
        _frozen_importlib_external
        """,
        "calls native code": "ctypes. _ctypes cffi.",
        _LOADS: """
        cloudpickle. dill. fickling. joblib. jsonpickle. marshal pickle _pickle shelve pstats torch.hub
        torch.package. torch.utils._config_module torch.utils.data.datapipes.utils.decoder
        """,
        _FILES: """
        shutil tempfile compileall py_compile zipapp zipfile tarfile mailbox fileinput dbm. _dbm _gdbm
        sqlite3. _sqlite3 winreg _pyio pathlib.Path. pathlib.PosixPath. pathlib.WindowsPath.
        tracemalloc.Snapshot.
        """,
        "reaches the network": """
        aiohttp. asyncore asynchat ftplib http.client http.cookiejar http.server httpx. imaplib
        logging.handlers nntplib poplib requests. smtpd smtplib socket _socket socketserver ssl _ssl
        telnetlib urllib.request
        urllib.robotparser urllib3. websockets. wsgiref. xmlrpc.
        """,
        "reaches every loaded module": "sys",
    }
)
"""Modules all of whose contents count, a dot at the end: and those of the modules inside.

They come from published attacks on scanners, from the pickles that picklescan and fickling are tested with,
and from a rule for the standard library: what takes code, a command, a path to write to or an address is
here. A list like this is never complete: what it lacks is ``unknown``, not harmless.
"""

_RECORDS = frozenset(
    """
    os.PathLike os.stat_result os.statvfs_result os.terminal_size os.times_result os.uname_result
    posix.stat_result posix.terminal_size posix.times_result posix.uname_result
    concurrent.futures.TimeoutError doctest.Example doctest.TestResults http.cookiejar.Cookie
    multiprocessing.context.TimeoutError platform.uname_result socket.AddressFamily socket.SocketKind
    ssl.TLSVersion ssl.VerifyMode subprocess.CalledProcessError subprocess.CompletedProcess tarfile.TarInfo
    torch._dynamo.decorators._DimRange torch.fx.immutable_collections.immutable_dict
    torch.fx.immutable_collections.immutable_list xmlrpc.client.Binary xmlrpc.client.DateTime
    xmlrpc.client.Fault zipfile.ZipInfo
    """.split()
)
"""Classes of such modules that hold values and do nothing: ``unknown``, as any class is."""

_DANGEROUS_NAMES = _reason_by_name(
    {
        _RUNS_CODE: """
        builtins.eval builtins.exec builtins.compile builtins.execfile builtins.breakpoint builtins.help
        cmd.Cmd dataclasses.make_dataclass gettext.c2py logging.config.dictConfig logging.config.fileConfig
        logging.config.listen torch.jit.unsupported_tensor_ops.execWrapper types.CodeType types.FunctionType
        typing.get_type_hints typing.ForwardRef._evaluate pandas.eval pandas.core.computation.eval.eval
        """,
        _IMPORTS: """
        builtins.__import__ builtins.globals builtins.locals builtins.vars torch._utils._import_dotted_name
        unittest.main unittest.TestLoader unittest.TestProgram
        """,
        "reaches any attribute by name": """
        builtins.getattr builtins.setattr builtins.delattr operator.attrgetter operator.methodcaller
        _operator.attrgetter _operator.methodcaller
        """,
        "calls what it is given": """
        builtins.apply builtins.map builtins.filter functools.reduce _functools.reduce itertools.starmap
        itertools.takewhile itertools.dropwhile itertools.filterfalse operator.call _operator.call
        atexit.register signal.signal weakref.finalize sched.scheduler
        """,
        _FILES: """
        builtins.open io.open _io.open io.open_code _io.open_code io.FileIO _io.FileIO codecs.open
        bz2.open bz2.BZ2File gzip.open gzip.GzipFile lzma.open lzma.LZMAFile aifc.open sunau.open wave.open
        wave.Wave_write logging.FileHandler logging.basicConfig numpy.save numpy.savez numpy.savez_compressed
        numpy.savetxt numpy.memmap numpy.lib.npyio.save numpy.lib.npyio.savetxt numpy.lib._npyio_impl.save
        numpy.lib._npyio_impl.savetxt torch.save torch.serialization.save
        xml.etree.ElementTree.ElementTree.write
        """,
        _LOADS: """
        numpy.load numpy.lib.npyio.load pandas.read_pickle torch.jit.load torch.load
        torch.serialization.load torch.storage._load_from_bytes
        """,
        _STARTS_PROGRAMS: "commands.getoutput commands.getstatusoutput uuid._get_command_stdout",
        "reaches the network": "xml.sax.parse syslog.syslog urllib.urlopen urllib2.urlopen",
    }
)

_REACHED_THROUGH = frozenset("os sys subprocess builtins importlib shutil ctypes pickle".split())
"""Modules that are as good as imported where another module did: ``torch.os.system``."""


def judge_global(ref: GlobalRef) -> GlobalVerdict:
    """What is known of one global."""
    module, path = python3_path(ref)
    if path in ALLOWED_GLOBALS or path in REGISTERED_GLOBALS:
        return GlobalVerdict(ref, Verdict.ALLOWED)
    if path in DTENSOR_GLOBALS:
        return GlobalVerdict(ref, Verdict.UNKNOWN, "allowed once torch.distributed.tensor is imported")
    reason = _danger(module, path)
    return GlobalVerdict(ref, Verdict.DANGEROUS if reason else Verdict.UNKNOWN, reason)


def python3_path(ref: GlobalRef) -> tuple[str, str]:
    """Module and dotted path as Python 3 spells them: protocol 2 writes ``__builtin__ set``."""
    module, name = NAME_MAPPING.get(
        (ref.module, ref.name), (IMPORT_MAPPING.get(ref.module, ref.module), ref.name)
    )
    return module, f"{module}.{name}"


def _danger(module: str, path: str) -> str:
    """Why a global is known to be dangerous; empty if it is not."""
    reason = _DANGEROUS_NAMES.get(path) or _DANGEROUS_MODULES.get(module)
    if path in _RECORDS:
        return ""
    if reason:
        return reason
    # A method is what its class is. No entry has more than five parts; a hostile path may have a million.
    parts = path.split(".", 6)[:6]
    classes = [".".join(parts[:count]) for count in range(2, len(parts))]
    if reason := next((_DANGEROUS_NAMES[name] for name in classes if name in _DANGEROUS_NAMES), ""):
        return reason
    parts = path.split(".")
    for part in parts[1:-1]:
        if part in _REACHED_THROUGH:
            return f"reaches {part} through another module"
    outer = [".".join(parts[:count]) + "." for count in range(1, min(len(parts), 6))]
    return next((_DANGEROUS_MODULES[name] for name in outer if name in _DANGEROUS_MODULES), "")
