"""Pickles that run code in whoever unpickles them: every opcode that imports or calls, in every container.

None of them may be refused for it, nor run: the file reads, its tensor is there, and what it would call is
listed.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.containers import legacy, torch_zip

COMMAND = "echo fired > hostile-canary"
SYSTEM = op.GLOBAL("posix", "system")
WEIGHT = op.push("w") + op.tensor()


def beside(evil: bytes, protocol: int = 2) -> bytes:
    """A pickle of ``{"w": tensor, "x": evil}``."""
    head = op.PROTO(protocol) if protocol > 1 else b""
    return head + op.MARK + WEIGHT + op.push("x") + evil + op.DICT + op.STOP


def popped(evil: bytes) -> bytes:
    """A pickle that runs ``evil``, drops its result, and holds only a tensor."""
    return op.PROTO(2) + evil + op.POP + op.MARK + WEIGHT + op.DICT + op.STOP


RUNS = op.push(COMMAND)
ARGS = RUNS + op.TUPLE1

# How an unpickler can be made to call posix.system("…").
BY_OPCODE: dict[str, bytes] = {
    "GLOBAL and REDUCE": SYSTEM + ARGS + op.REDUCE,
    "STACK_GLOBAL": op.push("posix") + op.push("system") + op.STACK_GLOBAL + ARGS + op.REDUCE,
    "STACK_GLOBAL from memo": op.push("posix")
    + op.LONG_BINPUT(7)
    + op.POP
    + op.push("system")
    + op.MEMOIZE
    + op.POP
    + op.LONG_BINGET(7)
    + op.BINGET(1)
    + op.STACK_GLOBAL
    + ARGS
    + op.REDUCE,
    "STACK_GLOBAL of text lines": op.UNICODE("posix")
    + op.UNICODE("system")
    + op.STACK_GLOBAL
    + ARGS
    + op.REDUCE,
    "INST": op.MARK + RUNS + op.INST("posix", "system"),
    "OBJ": op.MARK + SYSTEM + RUNS + op.OBJ,
    "NEWOBJ": SYSTEM + ARGS + op.NEWOBJ,
    "NEWOBJ_EX": SYSTEM + ARGS + op.push({}) + op.NEWOBJ_EX,
    "REDUCE of a DUP": SYSTEM + op.DUP + ARGS + op.REDUCE + op.POP,
    "args as a list": SYSTEM + op.push([COMMAND]) + op.REDUCE,
    "through functools.partial": op.call("functools:partial", SYSTEM, COMMAND) + op.EMPTY_TUPLE + op.REDUCE,
    "through map": op.call("builtins:list", op.call("builtins:map", SYSTEM, [COMMAND])),
    "inside a key": op.MARK + SYSTEM + ARGS + op.REDUCE + op.push(1) + op.DICT,
    "inside a set": op.MARK + SYSTEM + ARGS + op.REDUCE + op.FROZENSET,
    "deep in lists": op.push([[[[[[SYSTEM + ARGS + op.REDUCE]]]]]]),
    "as BUILD's state of a class": SYSTEM + op.push({"__call__": 1}) + op.BUILD + ARGS + op.REDUCE,
}
# Other ways to run code: what must be listed.
GADGETS: dict[str, tuple[bytes, str]] = {
    "EXT1": (op.EXT1(1) + ARGS + op.REDUCE, "copyreg.extension.1"),
    "EXT2": (op.EXT2(300) + ARGS + op.REDUCE, "copyreg.extension.300"),
    "EXT4": (op.EXT4(70_000) + ARGS + op.REDUCE, "copyreg.extension.70000"),
    "BUILD with __setstate__": (op.with_state(op.call("canary_module:Bomb"), COMMAND), "canary_module.Bomb"),
    "BUILD with slots": (
        op.with_state(op.call("canary_module:Bomb"), (None, {"x": 1})),
        "canary_module.Bomb",
    ),
    "import alone": (op.named("canary_module:anything"), "canary_module.anything"),
    "eval": (op.call("builtins:eval", "__import__('os').system('true')"), "builtins.eval"),
    "exec of Python 2": (op.call("__builtin__:exec", "1"), "builtins.exec"),
    "compile": (op.call("builtins:compile", "1", "x", "eval"), "builtins.compile"),
    "__import__": (op.call("builtins:__import__", "canary_module"), "builtins.__import__"),
    "dotted name": (op.call("torch:os.system", COMMAND), "torch.os.system"),
    "getattr": (
        op.call("builtins:getattr", op.named("torch:storage"), "_load_from_bytes"),
        "builtins.getattr",
    ),
    "subprocess": (op.call("subprocess:Popen", [COMMAND]), "subprocess.Popen"),
    "pip": (op.call("pip:main", ["install", "x"]), "pip.main"),
    "runpy": (op.call("runpy:run_path", "x"), "runpy.run_path"),
    "pickle in a pickle": (
        op.call("pickle:loads", op.BINBYTES(op.PROTO(2) + SYSTEM + ARGS + op.REDUCE + op.STOP)),
        "pickle.loads",
    ),
    "marshalled function": (
        op.call("types:FunctionType", op.call("marshal:loads", op.BINBYTES(b"\xe3")), {}),
        "marshal.loads",
    ),
    "torch.load": (op.call("torch.serialization:load", "x"), "torch.serialization.load"),
    "torch.hub": (op.call("torch.hub:load", "owner/repo", "model"), "torch.hub.load"),
    "torch.hub local": (op.call("torch.hub:_load_local", ".", "model"), "torch.hub._load_local"),
    "torch.jit": (op.call("torch.jit:load", "x.pt"), "torch.jit.load"),
    "torch.fx": (
        op.call("torch.fx.graph_module:_exec_with_source", "1", {}),
        "torch.fx.graph_module._exec_with_source",
    ),
    "reduce_graph_module": (
        op.call("torch.fx.graph_module:reduce_graph_module", {"_code": "1"}, "import os"),
        "torch.fx.graph_module.reduce_graph_module",
    ),
    "numpy.load": (op.call("numpy:load", "x", None, True), "numpy.load"),
    "pkgutil": (op.call("pkgutil:resolve_name", "os:system"), "pkgutil.resolve_name"),
    "_load_from_bytes": (
        op.call("torch.storage:_load_from_bytes", op.BINBYTES(legacy(beside(SYSTEM + ARGS + op.REDUCE)))),
        "torch.storage._load_from_bytes",
    ),
    "OrderedDict of calls": (
        op.call("collections:OrderedDict", [["a", SYSTEM + ARGS + op.REDUCE]]),
        "posix.system",
    ),
    "defaultdict with a factory": (op.call("collections:defaultdict", SYSTEM), "posix.system"),
    "backward hooks": (
        op.tensor(hooks=op.ordered([(0, SYSTEM + ARGS + op.REDUCE)])),
        "posix.system",
    ),
    "requires_grad": (op.tensor(requires_grad=SYSTEM + ARGS + op.REDUCE), "posix.system"),
    "from_type with a function": (
        op.call(
            "torch._tensor:_rebuild_from_type_v2", SYSTEM, op.named("torch:Tensor"), (COMMAND,), op.push({})
        ),
        "posix.system",
    ),
    "from_type with a state": (
        op.call(
            "torch._tensor:_rebuild_from_type_v2",
            op.named("torch._utils:_rebuild_tensor_v2"),
            op.named("canary_module:Bomb"),
            (op.storage(), 0, (4,), (1,), False, op.call("collections:OrderedDict")),
            op.push({"x": SYSTEM + ARGS + op.REDUCE}),
        ),
        "posix.system",
    ),
    "a layout": (
        op.call("torch.serialization:_get_layout", "canary_module.x"),
        "torch.serialization._get_layout",
    ),
    "a module's hooks": (
        op.module(_forward_hooks=op.ordered([(0, SYSTEM + ARGS + op.REDUCE)])),
        "posix.system",
    ),
    "a module's class": (
        op.module("canary_module:Net", parameters={"p": op.parameter()}),
        "canary_module.Net",
    ),
    "a storage class": (op.storage(cls="canary_module:FloatStorage"), "canary_module.FloatStorage"),
    "a persistent id that is a call": (SYSTEM + ARGS + op.REDUCE + op.BINPERSID, "posix.system"),
    "__reduce__ to a lambda's code": (op.call("types:CodeType", 0), "types.CodeType"),
    "nn.Module of Python's socket": (
        op.call("socket:create_connection", ("127.0.0.1", 9)),
        "socket.create_connection",
    ),
    "ctypes": (op.call("ctypes:CDLL", "libc.so.6"), "ctypes.CDLL"),
    "write a file": (op.call("builtins:open", "hostile-canary", "w"), "builtins.open"),
}


def _iter_cases() -> Iterator[Case]:
    listed = ("posix.system",)
    for name, evil in BY_OPCODE.items():
        yield Case(f"zip: {name}", torch_zip(beside(evil)), globals=listed)
    for name, (evil, wanted) in GADGETS.items():
        yield Case(f"gadget: {name}", torch_zip(beside(evil)), globals=(wanted,))
    evil = BY_OPCODE["GLOBAL and REDUCE"]
    for protocol in range(6):
        code = beside(BY_OPCODE["INST"] if protocol < 2 else evil, protocol)
        yield Case(f"zip, protocol {protocol}", torch_zip(code), globals=listed)
        bare = op.PROTO(protocol) * (protocol > 1) + op.MARK + op.push("x") + evil + op.DICT + op.STOP
        yield Case(f"bare, protocol {protocol}", bare, globals=listed)
    yield Case("popped call", torch_zip(popped(evil)), globals=listed, names=("w",))
    dropped = op.MARK + evil + op.POP_MARK
    yield Case("popped to the mark", torch_zip(popped(dropped + op.NONE)), globals=listed)
    put_away = evil + op.BINPUT(9)
    yield Case("left in the memo", torch_zip(popped(put_away)), globals=listed)
    yield Case("bare call alone", op.PROTO(2) + evil + op.STOP, globals=listed)
    yield Case(
        "a second pickle behind",
        op.dump({"n": 1}) + op.PROTO(2) + evil + op.STOP,
        globals=listed,
        finding="bytes-after-pickle",
    )
    # A pickle that breaks after its payload: an unpickler has run it by then, and scanners once gave up.
    yield Case("payload, then broken", torch_zip(op.PROTO(2) + evil + b"\xff"), "not a pickle opcode")
    yield Case("PERSID in a zip", torch_zip(beside(op.PERSID("posix.system"))), names=("w",))
    inside = legacy(
        op.PROTO(2) + op.storage("0", "torch:FloatStorage", 4, "cpu", None) + op.STOP,
        sys_info=op.dump({"x": evil}),
    )
    embedded = op.call("torch.storage:_load_from_bytes", op.BINBYTES(inside))
    yield Case("in a pickled storage", op.dump({"w": op.tensor(embedded)}, 3), globals=listed, names=("w",))
    weight = op.push("w") + op.tensor(op.storage("0", "torch:FloatStorage", 4, "cpu", None))
    sound = op.PROTO(2) + op.MARK + weight + op.DICT + op.STOP
    yield Case(
        "legacy, object",
        legacy(op.PROTO(2) + op.MARK + weight + op.push("x") + evil + op.DICT + op.STOP),
        globals=listed,
        names=("w",),
    )
    first = op.LONG1((0x1950A86A20F9469CFC6C).to_bytes(10, "little"))
    yield Case(
        "legacy, magic", legacy(sound, magic=op.PROTO(2) + first + evil + op.POP + op.STOP), globals=listed
    )
    yield Case(
        "legacy, version",
        legacy(sound, version=op.PROTO(2) + op.push(1001) + evil + op.POP + op.STOP),
        globals=listed,
    )
    yield Case("legacy, sys_info", legacy(sound, sys_info=op.dump({"x": evil})), globals=listed)
    yield Case(
        "legacy, keys",
        legacy(sound, keys=op.PROTO(2) + op.push(["0"]) + evil + op.POP + op.STOP),
        globals=listed,
    )
    yield Case(
        "legacy, keys are a call", legacy(sound, keys=op.PROTO(2) + evil + op.STOP), "list of storage keys"
    )


CASES = tuple(_iter_cases())
