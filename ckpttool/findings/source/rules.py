"""The table of rules of ``lint --source``: what the classes of modules do, with the line that shows it.

A rule asks of a *family*: a class, its bases and all that derive from it, as far as they were read; what one
of them sets another may register, move or write. docs/lint.md has an example of each code.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ckpttool.kinds.source import torch_classes
from ckpttool.kinds.source.descriptions import exclude
from ckpttool.kinds.source.library import Library, SourceClass

_MOVES = frozenset("_apply to cuda cpu half float double".split())
_FLAGS = {True: "persistent", False: "not persistent"}


class Hit(NamedTuple):
    """What a rule found: the attribute, the line in the file of the class, one sentence, what to write."""

    name: str
    line: int
    message: str
    fix: str


class Register(NamedTuple):
    """One call of ``register_buffer``, or ``nn.Buffer``, with a flag that is written out."""

    method: str
    line: int
    when: list[Any]
    persistent: bool


class Classes:
    """Classes of modules, each with those that it derives from and that derive from it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.modules: list[SourceClass] = []
        self._heirs: dict[str, list[SourceClass]] = {}
        for cls in library.iter_classes():
            lineage = library.lineage(cls)
            if lineage.torch or any(_is_module(base) for item in lineage.classes for base in item.bases):
                self.modules.append(cls)
                for base in lineage.classes[1:]:
                    self._heirs.setdefault(base.dotted, []).append(cls)
        self.touched = {name for summary in library.summaries.values() for name in summary["touched"]}

    def habits(self, cls: SourceClass) -> Mapping[str, Any]:
        """What ``scan`` says of the methods of a class."""
        found: Mapping[str, Any] = self._library.summaries[cls.module]["classes"][cls.name]["habits"]
        return found

    def lineage(self, cls: SourceClass) -> tuple[SourceClass, ...]:
        """The class and its bases, nearest first."""
        return self._library.lineage(cls).classes

    def family(self, cls: SourceClass) -> list[SourceClass]:
        """The class, its bases, and all that derive from it, with theirs."""
        heirs = self._heirs.get(cls.dotted, ())
        every = [*self.lineage(cls), *heirs, *(base for heir in heirs for base in self.lineage(heir))]
        return list({item.dotted: item for item in every}.values())

    def registers(self, cls: SourceClass) -> dict[str, list[Register]]:
        """What a class registers as buffers under names and with flags that are written out, in its order."""
        found: dict[str, list[Register]] = {}
        for method, summary in cls.methods.items():
            for act in summary["acts"]:
                flag: object = None
                if act[0] == "buffer" and act[4][0] == "const":
                    flag = act[4][1]
                elif _registers(act) and torch_classes.is_buffer(act[4][1]):
                    flag = _flag_of(act[4])
                if isinstance(flag, bool) and act[1].isidentifier():
                    found.setdefault(act[1], []).append(Register(method, act[2], act[3], flag))
        return found

    def registered(self, classes: Iterable[SourceClass], but: Container[str] = ()) -> set[str]:
        """The names under which these classes register anything, in other methods than these."""
        return {
            act[1]
            for cls in classes
            for method, summary in cls.methods.items()
            for act in summary["acts"]
            if method not in but and (act[0] in ("buffer", "parameter") or _registers(act))
        }

    def running(self, cls: SourceClass) -> set[str]:
        """Methods that ``forward`` runs, and no constructor."""
        return self.reached(cls, "forward") - self.reached(cls, "__init__")

    def reached(self, cls: SourceClass, start: str) -> set[str]:
        """Methods of the class and its bases that ``start`` runs, by way of ``self``."""
        calls: dict[str, set[str]] = {}
        for item in self.lineage(cls):
            for method, called in self.habits(item)["calls"].items():
                calls.setdefault(method, set()).update(called)
        found: set[str] = set()
        stack = [start] if start in calls else []
        while stack:
            method = stack.pop()
            if method not in found:
                found.add(method)
                stack += calls.get(method, ())
        return found

    def written(self, classes: Iterable[SourceClass]) -> set[str]:
        """Attributes that these classes write outside of what constructs them, or that anybody writes."""
        found = set(self.touched)
        for cls in classes:
            habits = self.habits(cls)
            for method, names in (*habits["written"].items(), *habits["assigned"].items()):
                if method not in habits["methods"]:
                    found.update(names)
        return found


class LintRule(NamedTuple):
    """A trap: its stable code, how bad it is, and how it is found in one class."""

    code: str
    severity: str
    find: Callable[[Classes, SourceClass], Iterable[Hit]]


def find_plain_tensors(classes: Classes, cls: SourceClass) -> Iterator[Hit]:
    """Tensors of ``__init__`` that another method computes with, and that nothing registers or moves."""
    tensors = classes.habits(cls)["tensors"]
    if not tensors:
        return
    family = classes.family(cls)
    if any(not _MOVES.isdisjoint(classes.habits(item)["calls"]) for item in family):
        return
    reads = {name for item in family for name in classes.habits(item)["reads"]}
    moved = {name for item in family for name in classes.habits(item)["moved"]}
    left_out = classes.registered(family) | classes.written(family) | moved
    for name, line in tensors.items():
        if name in reads and name not in left_out:
            message = "tensor attribute, not registered: .to() does not move it, it is not saved"
            fix = f'self.register_buffer("{name}", ..., persistent=False) for a constant, True for a state'
            yield Hit(name, line, message, fix)


def find_rebuilt(classes: Classes, cls: SourceClass) -> Iterator[Hit]:
    """Buffers that the constructor counts out, that nothing writes, and that nobody said are persistent."""
    tables = classes.habits(cls)["tables"]
    if not tables:
        return
    family = classes.family(cls)
    if any(
        "load_state_dict" in called for item in family for called in classes.habits(item)["calls"].values()
    ):
        return  # it may be the first value of what a file brings
    written = classes.written(family)
    for name, line in tables.items():
        if name not in written:
            message = "persistent, and the constructor computes it from its arguments: each file carries it, "
            fix = "register_buffer(..., persistent=False); older files then have an unexpected key to drop"
            yield Hit(name, line, f"{message}and the size is locked", fix)


def find_changed_keys(classes: Classes, cls: SourceClass) -> Iterator[Hit]:
    """Persistent buffers that ``forward`` registers, or fills where ``__init__`` registers None."""
    running = classes.running(cls)
    end = "a checkpoint of a model that has run does not load into a fresh one"
    known = classes.registered(classes.lineage(cls), but=running)
    for name, found in classes.registers(cls).items():
        first = next((item for item in found if item.persistent and item.method in running), None)
        if first is not None and name not in known:
            message = f"{first.method}() registers it, and it is persistent: {end}"
            yield Hit(name, first.line, message, "register it in __init__, or with persistent=False")
    for name, line in classes.habits(cls)["empty"].items():
        filling = [
            method
            for item in classes.lineage(cls)
            for method, names in classes.habits(item)["assigned"].items()
            if method in running and name in names
        ]
        if filling:
            message = f"registered as None, and {filling[0]}() fills it: {end}"
            fix = "persistent=False for a cache, a tensor from the start for a state"
            yield Hit(name, line, message, fix)


def find_parameters_in_forward(classes: Classes, cls: SourceClass) -> Iterator[Hit]:
    """Parameters that ``forward``, or what it calls, makes; where it trains them itself, that is meant."""
    habits = classes.habits(cls)
    if not habits["parameters"]:
        return
    running = classes.running(cls)
    if running.isdisjoint(habits["trains"]):
        for method, line, name in habits["parameters"]:
            if method in running:
                message = (
                    f"Parameter that {method}() makes: an optimizer that was made before does not know it"
                )
                yield Hit(name or method, line, message, "make it in __init__")


def find_two_flags(classes: Classes, cls: SourceClass) -> Iterator[Hit]:
    """Buffers that are registered twice, also by a base, with another flag: the last one counts."""
    registers = classes.registers(cls)
    bases = classes.lineage(cls)[1:] if registers and _runs_bases(cls) else ()
    above = [(f"{base.name}.", classes.registers(base)) for base in bases]
    for name, found in registers.items():
        before = [(owner, item) for owner, named in above for item in named.get(name, ())]
        for item in found:
            for owner, other in before:
                apart = not owner and item.method == other.method and exclude(other.when, item.when)
                if other.persistent is not item.persistent and not apart:
                    message = f"registered twice, {_FLAGS[other.persistent]} in {owner}{other.method}() and "
                    message += f"{_FLAGS[item.persistent]} in {item.method}(): what runs last decides "
                    yield Hit(name, item.line, f"{message}whether it is saved", "register it with one flag")
                    break
            else:
                before.append(("", item))
                continue
            break


RULES: tuple[LintRule, ...] = (
    LintRule("CKPT101", "error", find_plain_tensors),
    LintRule("CKPT201", "info", find_rebuilt),
    LintRule("CKPT209", "warning", find_two_flags),
    LintRule("CKPT601", "warning", find_changed_keys),
    LintRule("CKPT607", "warning", find_parameters_in_forward),
)


def _is_module(base: str) -> bool:
    entry = torch_classes.is_parameter(base) or torch_classes.is_buffer(base)
    return (base.startswith("torch.nn.") and not entry) or base == "torch.jit.ScriptModule"


def _registers(act: list[Any]) -> bool:
    """``self.x = nn.Buffer(…)``, or a Parameter."""
    called = str(act[4][1]) if act[0] == "set" and act[4][0] == "call" else ""
    return torch_classes.is_parameter(called) or torch_classes.is_buffer(called)


def _runs_bases(cls: SourceClass) -> bool:
    """Whether what the bases construct is there."""
    acts = cls.methods["__init__"]["acts"] if "__init__" in cls.methods else None
    return acts is None or any(act[:3] == ["run", "super", "__init__"] for act in acts)


def _flag_of(call: list[Any]) -> object:
    """The flag of ``nn.Buffer(data, persistent=…)``, None where it is not written out."""
    given, words, is_open = call[2]
    flag = words.get("persistent", given[1] if len(given) > 1 else ["const", True])
    return flag[1] if flag[0] == "const" and not is_open else None
