"""Calls that stand for plain Python and numpy values: read as values, or described in a few words.

Exact names only. A numpy scalar's bytes are decoded for the plain number types; a numpy array is
described by its dtype and shape and never built (a forged object array crashes numpy itself).
"""

from __future__ import annotations

from struct import calcsize, unpack

from ckpttool.pickles.nodes import Call, DictNode, Global, Node
from ckpttool.values.checkpoint import Plain
from ckpttool.values.words import shorten

_NUMPY_SCALAR = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
_NUMPY_ARRAY = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
# numpy's type strings -> struct's format letters (numpy/core/numerictypes, struct docs).
_STRUCT_FORMATS = {
    "f2": "e", "f4": "f", "f8": "d", "b1": "?",
    "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
}  # fmt: skip
# How TorchScript writes a typed container: the value, then its type (torch/jit/_pickle.py).
_TYPE_TAGS = frozenset(
    {"restore_type_tag", "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"}
)
MAX_SUMMARY = 120  # characters of a text for people
_MAX_LOOKED_AT = 16  # arguments and states of a call, for its summary; real ones have fewer
_MAX_DIMS = 1024


def without_type_tag(call: Call) -> Node:
    """The list or dict inside a type tag of TorchScript, else ``call`` itself."""
    function = call.function
    if not isinstance(function, Global) or function.module != "torch.jit._pickle":
        return call
    if function.name not in _TYPE_TAGS or not isinstance(call.args, tuple) or not call.args:
        return call
    return call.args[0] if isinstance(call.args[0], (list, DictNode)) else call


def plain_of_call(call: Call) -> tuple[Plain, bool]:
    """(value, True) for ``torch.Size``, numpy scalars and bytes of Python 2, else (None, False)."""
    if call.states or call.items or call.appended:
        return None, False
    name = call.name
    args = call.args if isinstance(call.args, tuple) else ()
    if name == "torch.Size" and len(args) == 1 and isinstance(args[0], (tuple, list)):
        if len(args[0]) <= _MAX_DIMS and all(type(number) is int for number in args[0]):
            return tuple(args[0]), True
    elif name == "_codecs.encode" and len(args) == 2 and args[1] == "latin1" and isinstance(args[0], str):
        try:
            return args[0].encode("latin1"), True
        except UnicodeEncodeError:
            return None, False
    elif name in _NUMPY_SCALAR and len(args) == 2:
        return _numpy_scalar(args[0], args[1])
    return None, False


def describe_call(call: Call) -> str:
    """What an object that is not built would hold, in a few words."""
    args = call.args[:_MAX_LOOKED_AT] if isinstance(call.args, tuple) else ()
    if call.name in _NUMPY_ARRAY:
        return _numpy_array(call)
    scalars = [
        repr(argument[:MAX_SUMMARY] if isinstance(argument, str) else argument)
        for argument in args
        if isinstance(argument, (str, float)) or type(argument) is int
    ]
    if scalars:
        return shorten(", ".join(scalars), MAX_SUMMARY)
    states = (call.states or [])[:_MAX_LOOKED_AT]
    attributes = sum(len(state.items) // 2 for state in states if isinstance(state, DictNode))
    held = len(call.items or ()) // 2 + len(call.appended or ())
    if held:
        return f"{held} items"
    return f"{attributes} attributes" if attributes else ""


def _numpy_scalar(dtype: Node, raw: Node) -> tuple[Plain, bool]:
    """``scalar(dtype("f8"), b"…")`` as a Python number."""
    if isinstance(raw, Call) and not _is_short_text(raw.args):
        return None, False
    plain, is_bytes = plain_of_call(raw) if isinstance(raw, Call) else (raw, isinstance(raw, bytes))
    code, order = _numpy_dtype(dtype)
    letter = _STRUCT_FORMATS.get(code)
    if not is_bytes or not isinstance(plain, bytes) or letter is None or len(plain) != calcsize("<" + letter):
        return None, False
    value: Plain = unpack((">" if order == ">" else "<") + letter, plain)[0]
    return value, True


def _numpy_dtype(node: Node) -> tuple[str, str]:
    """(code, byte order) of the call ``numpy.dtype("f8", False, True)`` with its state."""
    if not isinstance(node, Call) or node.name != "numpy.dtype":
        return "", ""
    if not isinstance(node.args, tuple) or not node.args:
        return "", ""
    code = node.args[0] if isinstance(node.args[0], str) else ""
    for state in (node.states or [])[:_MAX_LOOKED_AT]:
        if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
            return code, state[1]
    return code, "|"


def _numpy_array(call: Call) -> str:
    """``float64 (3, 4)`` from the state ``(1, shape, dtype, fortran, data)`` of an array."""
    for state in (call.states or [])[:_MAX_LOOKED_AT]:
        if isinstance(state, tuple) and len(state) >= 4 and isinstance(state[1], tuple):
            shape = ", ".join(str(n) for n in state[1][:_MAX_LOOKED_AT] if type(n) is int)
            dtype = _numpy_dtype(state[2])[0][:MAX_SUMMARY] or "object"
            return shorten(f"{dtype} ({shape})", MAX_SUMMARY)
    return ""


def _is_short_text(args: Node) -> bool:
    # What encodes to a number has few characters; a long text would be encoded for each use of it.
    first = args[0] if isinstance(args, tuple) and args else None
    return isinstance(first, str) and len(first) <= MAX_SUMMARY
