"""What loading a file would do: with ``torch.load(weights_only=True)``, and with plain pickle.

Facts about others, never a verdict on the file: nothing here says that a file is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ckpttool.findings.globals import ALLOWED_GLOBALS, GlobalVerdict, Verdict, judge_global, python3_path
from ckpttool.pickles.nodes import CALLS_RESULT, MANY_DIGITS, MAX_DIGITS, NOT_UTF8, ON_OBJECT
from ckpttool.values.checkpoint import Basis, Checkpoint, parts
from ckpttool.values.words import agree, cut, plural, some

_REFUSED_OPCODES = {
    0x30: "POP", 0x31: "POP_MARK", 0x32: "DUP",
    0x42: "BINBYTES", 0x43: "SHORT_BINBYTES", 0x8E: "BINBYTES8", 0x96: "BYTEARRAY8",
    0x46: "FLOAT", 0x49: "INT", 0x4C: "LONG", 0x8B: "LONG4",
    0x53: "STRING", 0x54: "BINSTRING", 0x56: "UNICODE", 0x8C: "SHORT_BINUNICODE", 0x8D: "BINUNICODE8",
    0x64: "DICT", 0x6C: "LIST", 0x90: "ADDITEMS", 0x91: "FROZENSET",
    0x67: "GET", 0x70: "PUT", 0x94: "MEMOIZE",
    0x50: "PERSID", 0x69: "INST", 0x6F: "OBJ", 0x92: "NEWOBJ_EX", 0x93: "STACK_GLOBAL",
    0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4",
    0x95: "FRAME", 0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip
"""Opcodes that ``torch/_weights_only_unpickler.py`` of torch 2.13 does not know; a test compares."""

_CHANGES = {
    ON_OBJECT | 0x61: "APPEND",
    ON_OBJECT | 0x65: "APPENDS",
    ON_OBJECT | 0x73: "SETITEM",
    ON_OBJECT | 0x75: "SETITEMS",
    ON_OBJECT | 0x62: "BUILD",
}
"""Opcodes that it refuses on an object (CVE-2026-24747 was SETITEM on a tensor)."""

_GRAVEST_FIRST = (Verdict.DANGEROUS, Verdict.UNKNOWN, Verdict.ALLOWED)
_MOST_PLACES = 2  # of one global in a sentence


class PlainLoad(NamedTuple):
    """What ``pickle.load`` would call and import, apart from what ``weights_only=True`` allows as well."""

    calls: tuple[GlobalVerdict, ...]
    imports: tuple[GlobalVerdict, ...]


def judge_all(checkpoint: Checkpoint) -> list[GlobalVerdict]:
    """A verdict on each global, the gravest first."""
    return sorted(map(judge_global, checkpoint.globals), key=lambda item: _GRAVEST_FIRST.index(item.verdict))


def weights_only_verdict(checkpoint: Checkpoint) -> tuple[bool | None, str]:
    """Whether ``torch.load(weights_only=True)`` of torch 2.13 takes the file's pickles, and why not.

    None where that question has no answer: nothing is pickled, or the archive is for another
    loader. The answer is by globals, opcodes and what the reader noted; bytes of tensors are not looked at.
    """
    bases = {entry.declared.basis for entry in checkpoint.entries}
    if Basis.EXPORT in bases:
        return None, "an exported program: torch.export.load reads it"
    if Basis.TORCHSCRIPT in bases or any(_is_torchscript(ref.module) for ref in checkpoint.globals):
        return None, "TorchScript: torch.jit.load reads it"
    if checkpoint.format == "torch_export":
        return None, "an exported program: torch.export.load reads it"
    if not checkpoint.globals and (
        checkpoint.entries or checkpoint.metadata or "safetensors" in checkpoint.format
    ):
        return None, "no pickle in it"
    if refused := _refused(checkpoint):
        return False, some(refused, _name)
    if checkpoint.format == "pickle":
        return False, "the bare pickle, which torch.load does not read"
    if obstacle := legacy_obstacle(checkpoint):
        return False, obstacle
    if found := obstacles(checkpoint):
        return False, some(found)
    opcodes = [_REFUSED_OPCODES[op] for op in sorted(checkpoint.rare_opcodes) if op in _REFUSED_OPCODES]
    if opcodes:
        return False, f"{agree(len(opcodes), 'opcode', 'opcodes')} {some(opcodes)}, which it does not know"
    if NOT_UTF8 in checkpoint.rare_opcodes:
        return False, "a string of Python 2 that is not UTF-8"
    return True, ""


def _refused(checkpoint: Checkpoint) -> list[GlobalVerdict]:
    return [item for item in map(judge_global, checkpoint.globals) if item.verdict is not Verdict.ALLOWED]


def needed_packages(checkpoint: Checkpoint) -> str:
    """``lightning, chemprop (12 globals: --globals)``, where too many globals are refused to name each."""
    refused = _refused(checkpoint)
    if len(refused) <= _FEW:
        return ""
    packages = dict.fromkeys([cut(item.ref.module.partition(".")[0]) for item in refused])
    return f"{some(list(packages))} ({plural(len(refused), 'global')}: --globals)"


def obstacles(checkpoint: Checkpoint) -> list[str]:
    """What no ``torch.load`` takes, weights_only or not; of objects of unknown classes nothing is known."""
    found = list(checkpoint.obstacles)
    known = True
    for ref in checkpoint.globals:
        path = python3_path(ref)[1]
        if path not in ALLOWED_GLOBALS:
            known = False
        elif ref.arities:
            least, most = ARITIES.get(path, (0, _ANY) if path in _CLASSES else (0, -1))
            if most < 0:
                found.append(f"a call of {path}, which is no function")
                continue
            found += [_call_of(path, count) for count in ref.arities if not least <= count <= most]
    if MANY_DIGITS in checkpoint.rare_opcodes:
        found.append(f"an integer of more than {MAX_DIGITS:,} digits")
    if known:
        changes = [name for op, name in _CHANGES.items() if op in checkpoint.rare_opcodes]
        if changes:
            found.append(f"{some(changes)} on an object, where it takes a list or a dict")
        if CALLS_RESULT in checkpoint.rare_opcodes:
            found.append("a call of an object that is no function")
    return found


def _call_of(path: str, count: int) -> str:
    return f"a call of {path} with {plural(count, 'argument') if count >= 0 else 'no tuple of arguments'}"


_FEW = 2  # globals that a sentence names one by one
_ANY = 1 << 30  # arguments that a class may take
_CLASSES = frozenset(
    path
    for path in ALLOWED_GLOBALS
    if path.endswith("Tensor") or path in ("torch.storage.TypedStorage", "torch.storage.UntypedStorage")
)
ARITIES = {
    "builtins.bytearray": (0, 3),
    "builtins.complex": (0, 2),
    "builtins.set": (0, 1),
    "_codecs.encode": (1, 3),
    "collections.Counter": (0, 1),
    "collections.OrderedDict": (0, 1),
    "torch.Size": (0, 1),
    "torch.device": (1, 2),
    "torch.nn.parameter.Parameter": (0, 2),
    "torch.serialization._get_layout": (1, 1),
    "torch._tensor._rebuild_from_type_v2": (4, 4),
    "torch._utils._rebuild_tensor": (4, 4),
    "torch._utils._rebuild_tensor_v2": (6, 7),
    "torch._utils._rebuild_tensor_v3": (7, 8),
    "torch._utils._rebuild_parameter": (3, 3),
    "torch._utils._rebuild_parameter_with_state": (4, 4),
    "torch._utils._rebuild_meta_tensor_no_storage": (4, 4),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": (4, 4),
    "torch._utils._rebuild_device_tensor_from_numpy": (4, 4),
    "torch._utils._rebuild_wrapper_subclass": (8, 8),
    "torch._utils._rebuild_qtensor": (7, 7),
    "torch._utils._rebuild_sparse_tensor": (2, 2),
    "torch._utils._rebuild_nested_tensor": (4, 4),
}
"""How many arguments the functions among the allowed globals take; a test compares."""


def legacy_obstacle(checkpoint: Checkpoint) -> str:
    """What torch.save puts into a file before 1.6 that no torch.load takes out again; "" where there is none.

    ``_legacy_load`` asks an untyped storage for its dtype, which it has not, and rebuilds tensors before
    their bytes are read: a nested one from what was in memory.
    """
    if checkpoint.format != "torch_legacy":
        return ""
    names = {ref.name for ref in checkpoint.globals}
    if "UntypedStorage" in names:
        found = {
            part.dtype.name
            for entry in checkpoint.entries
            for _, part in parts(entry.value)
            if part.dtype.storage is None
        }
        return f"{some(sorted(found)) or 'an untyped storage'} in the pre-1.6 file layout"
    return "a nested tensor in the pre-1.6 file layout" if "_rebuild_nested_tensor" in names else ""


def plain_load(checkpoint: Checkpoint) -> PlainLoad:
    """What an ordinary unpickler would call and import of what is dangerous or not known here."""
    judged = [
        item
        for item in judge_all(checkpoint)
        # Classes of a TorchScript archive are its own: no module of Python has such a name.
        if item.verdict is not Verdict.ALLOWED and not _is_torchscript(item.ref.module)
    ]
    return PlainLoad(
        tuple(item for item in judged if item.ref.called),
        tuple(item for item in judged if not item.ref.called),
    )


def plain_load_fact(calls: Sequence[GlobalVerdict], imports: Sequence[GlobalVerdict]) -> str:
    """``a plain pickle load would call posix.system at $.extra``; empty where there is nothing to say."""
    parts = [f"{verb} {some(items, _use)}" for verb, items in (("call", calls), ("import", imports)) if items]
    return f"a plain pickle load would {' and '.join(parts)}" if parts else ""


def _use(item: GlobalVerdict) -> str:
    """``posix.system (starts programs) at $.extra, $.more and 3 other places``."""
    reason = f" ({item.reason})" if item.reason else ""
    places = [cut(place) for place in item.ref.places[:_MOST_PLACES]]
    if not places:
        return _name(item) + reason
    others = max(item.ref.calls, len(item.ref.places)) - len(places)
    more = f" and {plural(others, 'more place')}" if others > 0 else ""
    return f"{_name(item)}{reason} at {' and '.join(places) if not more else ', '.join(places)}{more}"


def _name(item: GlobalVerdict) -> str:
    return cut(f"{item.ref.module}.{item.ref.name}")


def _is_torchscript(module: str) -> bool:
    return module.partition(".")[0] == "__torch__"
