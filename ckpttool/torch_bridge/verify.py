"""``verify``: does the checkpoint load, and is the loaded model right, also where the file is silent?

The model is built by the user's factory, poisoned, loaded for real, and compared with the file by
bytes; non-persistent buffers are compared with those of a normal build. Two builds with different
seeds tell what a constructor always makes the same from what it draws at random.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ckpttool.analysis.model_spec import ModelSpec
from ckpttool.analysis.suggestions import suggest
from ckpttool.analysis.verification import Run, Verification
from ckpttool.checkpoint import Checkpoint, Kind, Root
from ckpttool.errors import DeviceUnavailable, ModelImportFailed
from ckpttool.torch_bridge.builds import Builds, build_twice, compare_fingerprints
from ckpttool.torch_bridge.judge import Judge
from ckpttool.torch_bridge.loading import LoadOutcome, Poison, foreign_streams, load_strict
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import describe_model, iter_registered, named_state, non_persistent_names
from ckpttool.torch_bridge.stored_state import StoredState

LOADS = ("copy", "assign", "to-empty", "round-trip")


class Options(NamedTuple):
    """What the user asked for. ``loads`` empty: all four, of which only ``copy`` decides."""

    devices: tuple[str, ...] = ()
    loads: tuple[str, ...] = ()
    allow_cast: bool = False
    reference: Mapping[str, Any] | None = None  # fingerprints of rebuilt buffers


def verify(
    checkpoint: Checkpoint,
    root: Root,
    source: ModelSource,
    options: Options,
    progress: Callable[[str], None] = lambda _doing: None,
) -> Verification:
    """Load the state_dict at ``root`` into the model in every way asked for.

    Raises:
        ModelImportFailed: the factory does not run.
        DeviceUnavailable: a device named in ``options`` is not there.
        CkptToolError: the file's tensors cannot be read as torch tensors.
    """
    devices = choose_devices(options.devices)
    progress("building the model")
    module, note = source.build_light()
    spec = describe_model(module, source.text, note)
    del module
    stored = StoredState(checkpoint, root, spec)
    session = _Session(source, spec, stored, options, progress)
    runs = []
    for device in devices:
        for load in LOADS:
            if not options.loads or load in options.loads:
                progress(f"loading on {device}: {load}")
                runs.append(session.run(device, load))
    builds = session.builds
    rebuilt = tuple(name for name in sorted(builds.transient) if builds.agrees(name))
    kinds = [entry.declared.kind for entry in spec.checkpoint.entries]
    return Verification(
        checkpoint.path,
        source.text,
        spec.class_name,
        stored.match.description,
        tuple(filter(None, (note, *stored.notes))),
        kinds.count(Kind.PARAMETER),
        kinds.count(Kind.PERSISTENT_BUFFER),
        rebuilt,
        tuple(name for name in sorted(builds.transient) if builds.agrees(name) is False),
        tuple(compare_fingerprints(options.reference, builds)) if options.reference is not None else (),
        tuple(runs),
        tuple(suggest(spec, stored.by_model_name(), runs)),
    )


def choose_devices(asked: Sequence[str]) -> tuple[str, ...]:
    """The devices to load on: those asked for, else the CPU and, where there is one, CUDA.

    Raises:
        DeviceUnavailable: one that was asked for is not there (never a silent fall-back to the CPU).
    """
    if not asked:
        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    for text in asked:
        try:
            device = torch.device(text)
        except RuntimeError:
            raise DeviceUnavailable(
                f"{text!r} is not a device", hint="--device cpu, cuda or cuda:1"
            ) from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise DeviceUnavailable(
                f"no CUDA device here (torch {torch.__version__}), but {text} was asked for"
            )
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise DeviceUnavailable(
                f"{text} was asked for, but there are {torch.cuda.device_count()} devices"
            )
        if device.type not in ("cpu", "cuda"):
            raise DeviceUnavailable(f"{text} is not supported", hint="--device cpu, cuda or cuda:1")
    return tuple(asked)


class _Session:
    """The runs over one checkpoint and one model; what a normal build gives is found out once."""

    def __init__(
        self,
        source: ModelSource,
        spec: ModelSpec,
        stored: StoredState,
        options: Options,
        progress: Callable[[str], None],
    ) -> None:
        self.source = source
        self.spec = spec
        self.options = options
        self.progress = progress
        self.state = stored.state_dict()
        self.judge = Judge(spec, stored.by_model_name(), self.state, lambda: self.builds)
        self._builds: Builds | None = None

    @property
    def builds(self) -> Builds:
        """What normal builds give for everything that the file does not; made when first needed."""
        if self._builds is None:
            in_file = self.judge.in_file
            wanted = {str(entry.name) for entry in self.spec.checkpoint.entries} - set(in_file)
            if wanted:
                self.progress("building the model twice, to tell what is rebuilt from what is random")
            self._builds = build_twice(self.source, wanted) if wanted else Builds({}, {}, frozenset())
        return self._builds

    def run(self, device: str, load: str) -> Run:
        """One load on one device; a build that the model does not allow is a note, not an error."""
        decides = load in self.options.loads if self.options.loads else load == "copy"
        started = time.perf_counter()
        try:
            module, outcome, poison, note = self._load(device, load)
        except ModelImportFailed as error:
            return Run(device, load, decides, False if decides else None, 0, 0, 0, 0, note=error.what)
        run = self.judge.judge(module, outcome, poison, device, load)
        ok = outcome.ok and not (
            run.not_restored or run.unfilled or run.wrong or run.untied or run.unmoved
            or (run.lossy and not self.options.allow_cast)
        )  # fmt: skip
        seconds = time.perf_counter() - started
        return run._replace(decides=decides, ok=ok, seconds=seconds, note=note or "; ".join(outcome.other))

    def _load(self, device: str, load: str) -> tuple[nn.Module, LoadOutcome, Poison, str]:
        """Build, poison, load, and bring to the device."""
        poison = Poison()
        if load in ("copy", "round-trip"):
            module = self.source.build()
            for name, tensor in named_state(module).items():
                if isinstance(tensor, torch.Tensor):
                    poison.fill(name, tensor)
            outcome = load_strict(module, self.state)
            if load == "round-trip" and outcome.ok:
                module, outcome = self._round_trip(module)
            note = _move(module, device)
        elif load == "assign":
            module = self.source.build(device="meta")
            outcome = load_strict(module, self.state, assign=True)
            note = ""
            if device != "cpu":
                meta = any(
                    slot.tensor is not None and slot.tensor.is_meta for slot in iter_registered(module)
                )
                note = "stays on cpu: meta tensors cannot be moved" if meta else _move(module, device)
        else:
            module = self.source.build(device="meta")
            with foreign_streams():
                module.to_empty(device=device)
            for name, tensor in {**named_state(module), **non_persistent_names(module)}.items():
                if isinstance(tensor, torch.Tensor):
                    poison.fill(name, tensor)
            outcome = load_strict(module, self.state)
            note = ""
        return module, outcome, poison, note

    def _round_trip(self, module: nn.Module) -> tuple[nn.Module, LoadOutcome]:
        """Save the loaded model as .pt and as .safetensors, load each into a fresh build."""
        import safetensors.torch

        with tempfile.TemporaryDirectory(prefix="ckpttool-verify-") as folder:
            first = Path(folder) / "model.pt"
            torch.save(module.state_dict(), first)
            again = self.source.build(seed=1)
            outcome = load_strict(again, torch.load(first, map_location="cpu", weights_only=True))
            if not outcome.ok:
                return again, outcome
            plain = {
                key: value for key, value in again.state_dict().items() if not isinstance(value, torch.Tensor)
            }
            second = str(Path(folder) / "model.safetensors")
            third = self.source.build(seed=2)
            try:
                if plain:
                    raise ValueError(f"safetensors holds no extra state ({', '.join(plain)})")
                safetensors.torch.save_model(again, second)
                safetensors.torch.load_model(third, second)
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                text = " ".join(str(error).split())[:300]
                return again, LoadOutcome((), (), (), (f"as .safetensors: {text}",))
            return third, outcome


def _move(module: nn.Module, device: str) -> str:
    """``module.to(device)``; what it raises, if it does."""
    if device == "cpu":
        return ""
    try:
        with foreign_streams():
            module.to(device)
    except Exception as error:  # noqa: BLE001  the user's _apply, or the device's memory
        return f".to({device}) fails: {' '.join(str(error).split())[:300]}"
    return ""
