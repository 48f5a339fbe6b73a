"""Leaves of an inert tree that are shown as they are: scalars, strings, lists of them, and calls for them.

Of calls exact names only. A numpy scalar's bytes are decoded for the plain number types; a numpy array is
described by its dtype and shape and never built (a forged object array crashes numpy itself).
"""

from __future__ import annotations

from struct import calcsize, unpack

from ckpttool.pickles.nodes import Call, DictNode, Global, Node
from ckpttool.values.checkpoint import Plain, PlainList
from ckpttool.values.words import plural, shorten

SMALL_VALUE = 4  # values of at most as many scalars are not asked whether they are shared
_TEXT_PIECE = 64  # characters that count as one scalar
_MAX_PLAIN_DEPTH = 4  # a list of lists of numbers is one value; deeper ones are containers
_MAX_NESTED_SCALARS = 10_000  # numbers in one nested list
_MAX_FLAT_SCALARS = 12_000_000  # in a flat one: as many as a pickle has opcodes; more only by sharing text

_NUMPY_SCALAR = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
_NUMPY_ARRAY = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
# What protocol 5 calls with the bytes (numpy/core/numeric.py).
_NUMPY_BUFFER = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})
# numpy's type strings -> struct's format letters (numpy/core/numerictypes, struct docs).
_STRUCT_FORMATS = dict(zip("f2 f4 f8 b1 i1 i2 i4 i8 u1 u2 u4 u8".split(), "efd?bhiqBHIQ", strict=True))
# How TorchScript writes a typed container: the value, then its type (torch/jit/_pickle.py).
_TYPE_TAGS = frozenset(
    "restore_type_tag build_intlist build_doublelist build_boollist build_tensorlist".split()
)
MAX_SUMMARY = 120  # characters of a text for people
_MAX_LOOKED_AT = 16  # arguments and states of a call, for its summary; real ones have fewer
_MAX_DIMS = 1024


class PlainReader:
    """Scalars, strings and (nested) lists of them as values.

    Results for nested lists are kept by identity, with their expanded size: lists that share their
    items ("billion laughs") are judged once each, and refused when they would print as too much.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], tuple[Plain, int]] = {}  # by identity and depth
        self.encoded: dict[int, tuple[Plain, bool]] = {}  # by the identity of the text: many may share it

    def read(self, node: Node) -> tuple[Plain, bool]:
        """(value, True) if ``node`` is plain, else (None, False)."""
        plain, size = self.sized(node, 0)
        return plain, size >= 0

    def sized(self, node: Node, depth: int) -> tuple[Plain, int]:
        """(value, number of scalars in it), or (None, -1). Long text counts as several scalars."""
        if node is None or isinstance(node, (bool, int, float)):
            return node, 1
        if isinstance(node, (str, bytes)):
            return node, 1 + len(node) // _TEXT_PIECE
        if isinstance(node, Call):
            untagged = without_type_tag(node)
            if untagged is not node and depth < _MAX_PLAIN_DEPTH:
                return self.sized(untagged, depth + 1)
            return self.of_call(node)
        if not isinstance(node, (list, tuple)) or depth >= _MAX_PLAIN_DEPTH:
            return None, -1
        # By depth, too: what is too deep here may stand higher elsewhere.
        known = self.known.get((id(node), depth))
        if known is None:
            known, nested = self.of_list(node, depth)
            if nested or len(node) > SMALL_VALUE:
                self.known[id(node), depth] = known
        return known

    def of_list(self, node: Node, depth: int) -> tuple[tuple[Plain, int], bool]:
        """``sized`` of a list or tuple, and whether a list stands in it."""
        items, total, nested = [], 0, False
        for item in node:
            plain, size = self.sized(item, depth + 1)
            if size < 0:
                return (None, -1), nested
            items.append(plain)
            total += size
            nested = nested or isinstance(plain, tuple)
            if total > (_MAX_NESTED_SCALARS if nested else _MAX_FLAT_SCALARS):
                return (None, -1), nested
        plain_items: Plain = PlainList(items) if isinstance(node, list) else tuple(items)
        return (plain_items, total), nested

    def of_call(self, node: Call) -> tuple[Plain, int]:
        """``sized`` of a call that stands for a plain value; kept, because it makes a new one."""
        known = self.known.get((id(node), 0))
        if known is None:
            text = encoded_text(node)
            found = self.encoded.get(id(text)) or plain_of_call(node)
            if text is not None:
                self.encoded[id(text)] = found
            plain, is_plain = found
            if not is_plain:
                return None, -1
            known = plain, 1 + len(plain) // _TEXT_PIECE if isinstance(plain, (bytes, tuple)) else 1
            self.known[id(node), 0] = known
        return known


def without_type_tag(call: Call) -> Node:
    """The list or dict inside a type tag of TorchScript, else ``call`` itself."""
    function = call.function
    if not isinstance(function, Global) or function.module != "torch.jit._pickle":
        return call
    if function.name not in _TYPE_TAGS or not isinstance(call.args, tuple) or not call.args:
        return call
    return call.args[0] if isinstance(call.args[0], (list, DictNode)) else call


def plain_of_call(call: Call) -> tuple[Plain, bool]:
    """(value, True) for ``torch.Size``, numpy scalars and bytes of protocol 2, else (None, False)."""
    if call.states or call.items or call.appended:
        return None, False
    name = call.name
    args = call.args if isinstance(call.args, tuple) else ()
    if name == "torch.Size" and isinstance(sizes := call.only_argument, (tuple, list)):
        if len(sizes) <= _MAX_DIMS and all(type(number) is int for number in sizes):
            return tuple(sizes), True
    elif (text := encoded_text(call)) is not None:
        try:
            return text.encode("latin1"), True
        except UnicodeEncodeError:
            return None, False
    elif name == "builtins.bytes" and call.args == ():  # how protocol 2 has empty ones
        return b"", True
    elif name in _NUMPY_SCALAR and len(args) == 2:
        return _numpy_scalar(args[0], args[1])
    return None, False


def encoded_text(call: Call) -> str | None:
    """The text of ``_codecs.encode(text, "latin1")``, whose bytes it stands for; None for any other call."""
    args = call.args
    if call.name != "_codecs.encode" or not isinstance(args, tuple) or args[1:] != ("latin1",):
        return None
    is_changed = call.states or call.items or call.appended
    return args[0] if isinstance(args[0], str) and not is_changed else None


def is_numpy(call: Call) -> bool:
    """Whether a call makes an array, or its type: what it carries are bytes and codes, no attributes."""
    return is_numpy_array(call) or call.name == "numpy.dtype"


def is_numpy_array(call: Call) -> bool:
    """Whether a call makes an array."""
    return call.name in _NUMPY_ARRAY or call.name in _NUMPY_BUFFER


def describe_call(call: Call) -> str:
    """What an object that is not built would hold, in a few words."""
    args = call.args[:_MAX_LOOKED_AT] if isinstance(call.args, tuple) else ()
    if call.name in _NUMPY_ARRAY:
        return _numpy_array(call)
    scalars = [
        repr(argument[:MAX_SUMMARY] if isinstance(argument, (str, bytes)) else argument)
        for argument in args
        if argument is None or isinstance(argument, (str, bytes, float, int))
    ]
    if any(argument != "None" for argument in scalars):
        return shorten(", ".join(scalars), MAX_SUMMARY)
    states = (call.states or [])[:_MAX_LOOKED_AT]
    attributes = sum(len(state.items) // 2 for state in states if isinstance(state, DictNode))
    held = len(call.items or ()) // 2 + len(call.appended or ())
    if held:
        return plural(held, "item")
    return plural(attributes, "attribute") if attributes else ""


def _numpy_scalar(dtype: Node, raw: Node) -> tuple[Plain, bool]:
    """``scalar(dtype("f8"), b"…")`` as a Python number."""
    if isinstance(raw, Call):
        # What encodes to a number has few characters; a long text would be encoded for each use of it.
        text = raw.args[0] if isinstance(raw.args, tuple) and raw.args else None
        raw = plain_of_call(raw)[0] if isinstance(text, str) and len(text) <= MAX_SUMMARY else None
    code, order = _numpy_dtype(dtype)
    letter = _STRUCT_FORMATS.get(code)
    if not isinstance(raw, bytes) or letter is None or len(raw) != calcsize("<" + letter):
        return None, False
    value: Plain = unpack((">" if order == ">" else "<") + letter, raw)[0]
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
