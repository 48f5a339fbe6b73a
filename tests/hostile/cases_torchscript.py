"""TorchScript archives: code, constants and nested pickles that lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.hostile import pickles as op
from tests.hostile.case import Case
from tests.hostile.cases_code import COMMAND
from tests.hostile.containers import DEFLATED, ZEROS, Member, build_zip, torch_zip

MIB = 1 << 20
SYSTEM = op.call("posix:system", COMMAND)
CODE = 'class Net(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  w : Tensor\n'
NET = op.with_state(op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ, {"w": op.tensor()})


def script(
    data: bytes = NET,
    code: str | bytes | None = CODE,
    constants: bytes = op.EMPTY_TUPLE,
    more: tuple[Member, ...] = (),
) -> bytes:
    """A TorchScript archive whose ``data.pkl`` and ``constants.pkl`` hold these values."""
    members = [Member("archive/constants.pkl", op.PROTO(2) + constants + op.STOP)]
    if code is not None:
        text = code.encode() if isinstance(code, str) else code
        members.append(Member("archive/code/__torch__/m.py", text))
    return torch_zip(op.PROTO(2) + data + op.STOP, more=(*members, *more))


def _net(**attributes: Any) -> bytes:
    return op.with_state(op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ, attributes)


def _nested_modules(levels: int) -> bytes:
    code = _net(w=op.tensor())
    head = op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ + op.EMPTY_DICT + op.push("m")
    return head * levels + code + (op.SETITEM + op.BUILD) * levels


def _module_laughs() -> bytes:
    code = _net(w=op.tensor()) + op.BINPUT(0)
    for level in range(30):
        code += _net(**{f"m{n}": op.BINGET(level) for n in range(10)}) + op.BINPUT(level + 1)
    return code


def _cyclic_module() -> bytes:
    head = op.named("__torch__.m:Net") + op.EMPTY_TUPLE + op.NEWOBJ + op.BINPUT(0)
    return head + op.EMPTY_DICT + op.push("me") + op.BINGET(0) + op.SETITEM + op.BUILD


def _constants(source: bytes) -> bytes:
    return op.push((op.tensor(source),))


SCRIPTS: dict[str, tuple[Callable[[], bytes], str, tuple[str, ...]]] = {
    # name: (file, part of the refusal, what --globals must list)
    "posix.system in data.pkl": (lambda: script(_net(w=op.tensor(), x=SYSTEM)), "", ("posix.system",)),
    "posix.system in constants.pkl": (lambda: script(constants=op.push((SYSTEM,))), "", ("posix.system",)),
    "posix.system as the top object": (lambda: script(SYSTEM), "", ("posix.system",)),
    "INST of a module": (lambda: script(op.MARK + op.INST("__torch__.m", "Net")), "", ()),
    "a second pickle behind data.pkl": (
        lambda: script(NET + op.STOP + op.PROTO(2) + SYSTEM),
        "",
        ("posix.system",),
    ),
    "a second pickle behind constants.pkl": (
        lambda: script(constants=op.EMPTY_TUPLE + op.STOP + op.PROTO(2) + SYSTEM),
        "",
        ("posix.system",),
    ),
    "__setstate__ with aten::from_file": (
        lambda: script(
            code="class Net(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def __setstate__(self: "
            "__torch__.m.Net,\n    state: Tensor) -> NoneType:\n    _0 = torch.from_file("
            '"hostile-canary", True, 4)\n    return None\n'
        ),
        "",
        (),
    ),
    "Python in the code": (
        lambda: script(code="import os\nos.system('echo fired > hostile-canary')\n" + CODE),
        "",
        (),
    ),
    "code that is not UTF-8": (lambda: script(code=b"\xff\xfe" + CODE.encode()), "", ()),
    "code of NUL and ESC": (lambda: script(code=CODE + "\0\x1b[2J\u202e"), "", ()),
    "code without end of a string": (lambda: script(code=CODE.replace('"w", ]', '"w')), "", ()),
    "lists in a multi-line string": (lambda: script(code='"""\n' + CODE + '"""\n'), "", ()),
    "a class twice": (lambda: script(code=CODE + CODE.replace('"w", ', "")), "", ()),
    "a name in both lists": (
        lambda: script(code=CODE.replace("__buffers__ = []", '__buffers__ = ["w", ]')),
        "",
        (),
    ),
    "a hundred thousand classes": (
        lambda: script(code="".join(f"class C{n}(Module):\n  pass\n" for n in range(100_000)) + CODE),
        "",
        (),
    ),
    "code of one line of 10 MB": (lambda: script(code="class " + "A" * (10 * MIB)), "", ()),
    "code that inflates": (
        lambda: script(code=None, more=(Member("archive/code/__torch__/m.py", b"#" * (40 * MIB), DEFLATED),)),
        "size of member code/__torch__/m.py",
        (),
    ),
    "a module name that leaves its folder": (
        lambda: script(
            op.with_state(op.named("__torch__.../../../etc/passwd:Net") + op.EMPTY_TUPLE + op.NEWOBJ, {})
        ),
        "",
        (),
    ),
    "modules 10,000 deep": (lambda: script(_nested_modules(10_000)), "nesting", ()),
    "modules of ten names, thirty deep": (lambda: script(_module_laughs()), "shared modules", ()),
    "a module that holds itself": (lambda: script(_cyclic_module()), "", ()),
    "an attribute twice": (
        lambda: script(
            op.named("__torch__.m:Net")
            + op.EMPTY_TUPLE
            + op.NEWOBJ
            + op.MARK
            + (op.push("w") + op.tensor()) * 2
            + op.DICT
            + op.BUILD
        ),
        "stands twice",
        (),
    ),
    # Found by coverage: the message wrote the name out, by recursion.
    "an attribute name 100,000 deep": (
        lambda: script(
            op.named("__torch__.m:Net")
            + op.EMPTY_TUPLE
            + op.NEWOBJ
            + op.MARK
            + op.EMPTY_TUPLE
            + op.TUPLE1 * 100_000
            + op.NONE
            + op.DICT
            + op.BUILD
        ),
        "not text",
        (),
    ),
    "an attribute name that is a number": (
        lambda: script(_net() + op.push({7: op.tensor()}) + op.BUILD),
        "",
        (),
    ),
    "an attribute beyond its storage": (
        lambda: script(_net(w=op.tensor(size=(5,)))),
        "beyond its storage",
        (),
    ),
    "a negative stride": (lambda: script(_net(w=op.tensor(stride=(-1,)))), "non-negative", ()),
    "numel that wraps": (
        lambda: script(_net(w=op.tensor(size=(2**62, 4), stride=(0, 0)))),
        "63 bits",
        (),
    ),
    "a constant of a missing storage": (
        lambda: script(constants=_constants(op.storage("5"))),
        "not in the file",
        (),
    ),
    "a constant one byte too short (pt#169570)": (
        lambda: script(
            constants=_constants(op.storage("0")), more=(Member("archive/constants/0", bytes(15)),)
        ),
        "smaller than its pickle says",
        (),
    ),
    "a constant beyond its storage (pt#169570)": (
        lambda: script(
            constants=op.push((op.tensor(op.storage("0"), 3),)),
            more=(Member("archive/constants/0", ZEROS),),
        ),
        "beyond its storage",
        (),
    ),
    "constants.pkl is not a pickle": (lambda: script(constants=b"\xff"), "not a pickle opcode", ()),
    "constants.pkl is cut off": (
        lambda: torch_zip(
            op.PROTO(2) + NET + op.STOP, more=(Member("archive/constants.pkl", op.PROTO(2) + op.MARK),)
        ),
        "cut off",
        (),
    ),
    "constants.pkl is empty": (
        lambda: torch_zip(op.PROTO(2) + NET + op.STOP, more=(Member("archive/constants.pkl", b""),)),
        "cut off",
        (),
    ),
    "constants nested 100,000 deep": (
        lambda: script(constants=op.EMPTY_TUPLE + op.TUPLE1 * 100_000),
        "nesting",
        (),
    ),
    "no data.pkl": (
        lambda: build_zip([Member("archive/constants.pkl", op.dump(()))]),
        "without data.pkl",
        (),
    ),
    "model.json of torch 1.0": (
        lambda: build_zip([Member("archive/model.json", b"{" * 100_000)]),
        "torch 1.0 to 1.3",
        (),
    ),
}


# These take seconds.
HEAVY = ("a hundred thousand classes", "code of one line of 10 MB", "modules of ten names, thirty deep")

CASES = tuple(
    Case(f"torchscript: {name}", build, error, listed, alone=name in HEAVY)
    for name, (build, error, listed) in SCRIPTS.items()
)
