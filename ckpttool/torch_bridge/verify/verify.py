"""``verify``: does the checkpoint load, and is the loaded model right, also where the file is silent?

The model is built by the user's factory, poisoned, loaded for real, and compared with the file by
bytes; non-persistent buffers are compared with those of a normal build. Two builds with different
seeds tell what a constructor always makes the same from what it draws at random.

One model at a time is in memory; the file is mapped. So the second build comes first and goes, and
the order of the runs is not that of the report: the model that ``copy`` loads is what ``round-trip``
saves.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from ckpttool.files.local import check_path
from ckpttool.findings.model import PERHAPS_UNREAD
from ckpttool.findings.next_commands import lossless_container, new_name
from ckpttool.torch_bridge.accelerator import KNOWN, accelerator, count
from ckpttool.torch_bridge.door import foreign_code, foreign_streams, looking_into, one_line, pass_on
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import describe_model, iter_filled, named_state, non_persistent_names
from ckpttool.torch_bridge.verify.builds import Builds, Poison
from ckpttool.torch_bridge.verify.fingerprints import compare_fingerprints
from ckpttool.torch_bridge.verify.judge import Judge
from ckpttool.torch_bridge.verify.loading import Loaded, LoadOutcome, load_strict, round_trip
from ckpttool.torch_bridge.verify.stored_state import StoredState
from ckpttool.torch_bridge.verify.suggestions import suggest
from ckpttool.values.checkpoint import Checkpoint, Kind, Root
from ckpttool.values.errors import DeviceUnavailable, ModelImportFailed
from ckpttool.values.model import ModelSpec
from ckpttool.values.progress import SILENT, Progress
from ckpttool.values.verification import LOADS, NORMAL_BUILDS, Fingerprint, Plan, Run, Verification
from ckpttool.values.words import agree, command_line, first_few, format_root, plural, typed

_ORDER = ("copy", "round-trip", "assign", "to-empty")


class VerifyOptions(NamedTuple):
    """What the user asked for. ``loads`` empty: all four, of which only ``copy`` decides."""

    devices: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    allow_cast: bool = False
    reference: Mapping[str, Fingerprint] | None = None  # of rebuilt buffers, as they were


def verify(
    checkpoint: Checkpoint,
    root: Root,
    source: ModelSource,
    options: VerifyOptions,
    progress: Progress = SILENT,
    announce: Callable[[Plan], None] = lambda plan: None,
) -> Verification:
    """Load the state_dict at ``root`` into the model in every way asked for.

    ``announce`` is told what will be held, once, before anything large is held or written.

    Raises:
        ModelImportFailed: the factory does not run.
        DeviceUnavailable: a device named in ``options`` is not there.
        CkptToolError: the file's tensors cannot be read as torch tensors, or a file changed meanwhile.
    """
    devices = choose_devices(options.devices)
    with looking_into(source.text):
        return _verify(checkpoint, root, source, options, devices, progress, announce)


def _unread(checkpoint: Checkpoint, root: Root, runs: Sequence[Run]) -> str:
    """What to say of missing entries that are perhaps in the file, where it keeps modules as bytes."""
    missing = dict.fromkeys(item.name for run in runs for item in run.missing)
    unread = [name for name in missing if checkpoint.may_be_unread(root, name)]
    if not unread:
        return ""
    return f"{plural(len(unread), 'missing entry')} ({first_few(unread)}): {PERHAPS_UNREAD}"


def _verify(
    checkpoint: Checkpoint,
    root: Root,
    source: ModelSource,
    options: VerifyOptions,
    devices: Sequence[str],
    progress: Progress,
    announce: Callable[[Plan], None],
) -> Verification:
    module, note = source.build_light()
    spec = describe_model(module, source.text, note)
    del module
    stored = StoredState(checkpoint, root, spec)
    session = _Session(source, spec, stored, options, progress)
    announce(session.plan(note))
    runs = session.run_all(devices)
    progress.finish()
    for file in checkpoint.files:
        check_path(file)
    now = session.builds.fingerprints()

    def convert(*options: str) -> str:
        target = new_name(checkpoint.path, lossless_container(stored.entries))
        where = ("--root", format_root(root)) if root else ()
        return f"`{command_line('convert', typed(checkpoint.path), target, *options, *where)}`"

    kinds = [entry.declared.kind for entry in spec.checkpoint.entries]
    return Verification(
        checkpoint.path,
        source.text,
        spec.class_name,
        stored.match.description,
        tuple(filter(None, (note, *stored.notes, _unread(checkpoint, root, runs)))),
        kinds.count(Kind.PARAMETER),
        kinds.count(Kind.PERSISTENT_BUFFER),
        tuple(now),
        tuple(name for name in sorted(session.builds.transient) if session.builds.agrees(name) is False),
        tuple(compare_fingerprints(options.reference, now)) if options.reference is not None else (),
        tuple(runs),
        tuple(suggest(spec, stored.by_model_name, stored.match, runs, convert)),
        root,
        now,
        options.allow_cast,
    )


def choose_devices(asked: Sequence[str]) -> tuple[str, ...]:
    """The devices to load on: those asked for, else the CPU and, where there is one, the accelerator.

    Raises:
        DeviceUnavailable: one that was asked for is not there (never a silent fall-back to the CPU).
    """
    here = accelerator()
    if not asked:
        return ("cpu", here) if here else ("cpu",)
    hint = "--device cpu, cuda or cuda:1"
    for text in asked:
        try:
            device = torch.device(text)
        except RuntimeError:
            raise DeviceUnavailable(f"{text!r} is not a device", hint=hint) from None
        if device.type not in ("cpu", here, *KNOWN):
            raise DeviceUnavailable(f"{text} is not supported", hint=hint)
        if device.type not in ("cpu", here):
            none = f"no {device.type.upper()} device here (torch {torch.__version__})"
            raise DeviceUnavailable(f"{none}, but {text} was asked for", hint="--device cpu checks the rest")
        if device.type == here and (device.index or 0) >= count():
            raise DeviceUnavailable(f"{text} was asked for, but there {_are(count())}")
    return tuple(dict.fromkeys(asked))


def _are(devices: int) -> str:
    return f"{agree(devices, 'is', 'are')} {plural(devices, 'device')}"


class _Session:
    """The runs over one checkpoint and one model; what normal builds give is found out once."""

    def __init__(
        self,
        source: ModelSource,
        spec: ModelSpec,
        stored: StoredState,
        options: VerifyOptions,
        progress: Progress,
    ) -> None:
        self.source = source
        self.stored = stored
        self.options = options
        self.progress = progress
        self.loads = options.loads or LOADS
        self.state = stored.state_dict()
        entries = spec.checkpoint.entries
        self.builds = Builds(frozenset(str(entry.name) for entry in entries) - frozenset(self.state))
        storages = [entry.tensor.storage for entry in entries if entry.tensor is not None]
        self.model_nbytes = sum({ref.key: ref.nbytes for ref in storages if ref is not None}.values())
        self.judge = Judge(spec, stored.by_model_name, self.state, self.builds)
        self._held: list[nn.Module] = []  # what `copy` loaded, for `round-trip` to save
        self._total = 0
        self._is_begun = False

    def plan(self, note: str) -> Plan:
        """What will be held and written."""
        return Plan(
            self.model_nbytes,
            self.stored.checkpoint.file_nbytes,
            self.stored.copied_nbytes,
            self.model_nbytes if "round-trip" in self.loads else 0,
            tempfile.gettempdir(),
            note,
        )

    def run_all(self, devices: Sequence[str]) -> list[Run]:
        """Every way of loading on every device, in the order of the report."""
        self._total = len(devices) * len(self.loads) + 1
        self._watch_builds()
        found: dict[tuple[str, str], Run] = {}
        for device in devices:
            for load in (load for load in _ORDER if load in self.loads):
                self._step(f"{load} on {device}")
                found[device, load] = self._run(device, load)
            self._held.clear()
        return [found[device, load] for device in devices for load in LOADS if load in self.loads]

    def _watch_builds(self) -> None:
        """See what normal builds give, if there is anything that the file does not."""
        if not self.builds.wanted:
            return
        self._step("building the model to see what the file does not hold")
        self.builds.watch(self.source.build(seed=1))
        if not set(NORMAL_BUILDS) & set(self.loads):
            self.builds.watch(self.source.build(seed=0))

    def _step(self, doing: str) -> None:
        if self._is_begun:
            self.progress.advance(1, doing)
        else:
            self.progress.begin(doing, self._total)
        self._is_begun = True

    def _run(self, device: str, load: str) -> Run:
        """One load on one device; a build on meta that the model does not allow is a note, not an error."""
        decides = load in (self.options.loads or ("copy",))
        not_made = Run(device, load, decides, False if decides else None)
        started = time.perf_counter()
        try:
            loaded = self._load(device, load)
        except ModelImportFailed as error:
            if load in NORMAL_BUILDS:
                raise
            return not_made._replace(note=error.what)
        module = loaded.module
        if module is None:
            return not_made._replace(note="; ".join(loaded.outcome.other))
        run = self.judge.judge(module, loaded.outcome, loaded.poison, device, load)
        if load == "copy" and "round-trip" in self.loads and is_right(run, allow_cast=True):
            self._held.append(module)
        return run._replace(
            decides=decides,
            ok=is_right(run, self.options.allow_cast),
            seconds=time.perf_counter() - started,
            note=loaded.note,
        )

    def _load(self, device: str, load: str) -> Loaded:
        """Build, poison, load, and bring to the device."""
        if load == "copy":
            return self._load_copy(device)
        if load == "round-trip":
            return self._load_round_trip(device)
        module = self.source.build(device="meta")
        if load == "assign":
            return self._load_assign(device, module)
        with foreign_code(f".to_empty({device})"):
            module.to_empty(device=device)
        poison = self._poison({**named_state(module), **non_persistent_names(module)})
        return Loaded(module, self._load_strict(module), poison=poison)

    def _load_copy(self, device: str) -> Loaded:
        module = self.source.build()
        self.builds.watch(module)
        poison, note = self._poison(named_state(module)), ""
        outcome = self._load_strict(module)
        if outcome.other:
            # The model's own loading code may look at what it holds, and raise over what no model does.
            del module
            module = self.source.build()
            if not (again := self._load_strict(module)).other:
                outcome, poison = again, Poison()
                note = "loaded into a build without poison: its own loading code reads what the model holds"
        return Loaded(module, outcome, "; ".join(filter(None, (note, _move(module, device)))), poison)

    def _load_round_trip(self, device: str) -> Loaded:
        poison = Poison()
        if not self._held:
            if "copy" in self.loads:
                said = "not tried: there is no rightly loaded model to save"
                return Loaded(None, LoadOutcome(other=(said,)))
            module, outcome, _, poison = first = self._load_copy(device)
            if module is None or not outcome.ok:
                return first._replace(note="does not load in the first place")
            self._held.append(module)
            del module, first
        trip = round_trip(self._held, lambda seed: self.source.build(seed=seed), self.model_nbytes)
        notes = (trip.note, "" if trip.module is None else _move(trip.module, device))
        return trip._replace(note="; ".join(filter(None, notes)), poison=poison)

    def _load_assign(self, device: str, module: nn.Module) -> Loaded:
        outcome = self._load_strict(module, assign=True)
        on_meta = any(slot.tensor.is_meta for slot in iter_filled(module))
        if device != "cpu" and on_meta:
            return Loaded(module, outcome, "stays on cpu: meta tensors cannot be moved")
        return Loaded(module, outcome, _move(module, device))

    def _poison(self, tensors: Mapping[str, object]) -> Poison:
        poison = Poison()
        poison.fill(tensors, {**self.builds.expected, **self.state})
        return poison

    def _load_strict(self, module: nn.Module, *, assign: bool = False) -> LoadOutcome:
        """Load for real; extra state that only running the file could build is not held against it."""
        outcome = load_strict(module, self.state, assign=assign)
        missing = tuple(name for name in outcome.missing if name not in self.stored.unbuilt)
        return outcome._replace(missing=missing)


def is_right(run: Run, allow_cast: bool) -> bool:
    """Whether the loaded model holds what it should.

    A name that strict loading misses is no fault where its tensor was loaded under the name it is
    tied to: safetensors files leave one of the two out.
    """
    untied_missing = [item for item in run.missing if item.becomes != "tied"]
    return not (
        untied_missing or run.unexpected or run.mismatched or run.errors
        or run.not_restored or run.unfilled or run.wrong or run.untied or run.unmoved
        or (run.lossy and not allow_cast)
    )  # fmt: skip


def _move(module: nn.Module, device: str) -> str:
    """``module.to(device)``; what it raises, if it does."""
    if device == "cpu":
        return ""
    try:
        with foreign_streams():
            module.to(device)
    except BaseException as error:  # noqa: BLE001  the user's _apply, or the device's memory
        pass_on(error)
        return f".to({device}) fails: {one_line(error)}"
    return ""
