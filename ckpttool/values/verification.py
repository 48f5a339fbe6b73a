"""What ``verify`` finds, as values without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from ckpttool.values.checkpoint import Root

Load: TypeAlias = Literal["copy", "assign", "to-empty", "round-trip"]
LOADS: tuple[Load, ...] = ("copy", "assign", "to-empty", "round-trip")
"""Ways of loading: a normal build and a copy into it; a build on meta whose tensors are replaced, or
allocated and copied into; and a loaded model saved and loaded again."""
NORMAL_BUILDS: tuple[Load, ...] = ("copy", "round-trip")
"""Those in which the constructor has run for real."""


class Missing(NamedTuple):
    """An entry of the model that the file does not hold.

    ``becomes``: ``random`` (two builds with different seeds differ), ``default`` (they agree, a
    parameter), ``rebuilt`` (they agree, a buffer), ``tied`` (it shares memory with an entry that was
    loaded, and so has its values) or ``unknown``.
    """

    name: str
    kind: str
    nbytes: int
    becomes: str


class Mismatched(NamedTuple):
    """An entry whose shape in the file is not the model's."""

    name: str
    file_shape: tuple[int, ...]
    model_shape: tuple[int, ...]


class Lossy(NamedTuple):
    """An entry whose values changed by the cast that load_state_dict does without a word.

    ``position`` is the first changed element in row-major order; the values are as Python prints them.
    """

    name: str
    file_dtype: str
    model_dtype: str
    changed_numel: int
    position: int
    file_value: str
    loaded_value: str


class NotRestored(NamedTuple):
    """A non-persistent buffer that does not hold what a normal build gives it.

    ``state``: ``meta``, ``garbage`` or ``changed``; ``holds`` and ``expected`` say it in words.
    """

    name: str
    state: str
    holds: str
    expected: str


class Wrong(NamedTuple):
    """An entry that does not hold the file's bytes after the load, and why as far as can be told."""

    name: str
    reason: str


class Run(NamedTuple):
    """One way of loading on one device. ``decides``: it counts for the verdict and the exit status.

    ``matched`` of ``total`` entries of the model's state_dict were in the file with the right
    shape, ``matched_nbytes`` of ``total_nbytes`` by parameter bytes. ``note`` says why a run could
    not be made (then ``ok`` is None) or what else is worth a line.
    """

    device: str
    load: str
    decides: bool = False
    ok: bool | None = None
    matched: int = 0
    total: int = 0
    matched_nbytes: int = 0
    total_nbytes: int = 0
    missing: tuple[Missing, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatched, ...] = ()
    lossy: tuple[Lossy, ...] = ()
    cast: tuple[str, ...] = ()  # dtype changed, values did not
    not_restored: tuple[NotRestored, ...] = ()
    unfilled: tuple[str, ...] = ()  # still poisoned: nothing filled it, and nothing said so
    wrong: tuple[Wrong, ...] = ()
    untied: tuple[tuple[str, ...], ...] = ()
    unmoved: tuple[str, ...] = ()
    seconds: float = 0.0
    gb_per_second: float | None = None  # bytes of the file brought to the device and compared there
    note: str = ""
    hooked: tuple[str, ...] = ()  # not in the file under this name: the model's loading code filled it
    kept: tuple[str, ...] = ()  # buffers that are not in the file and keep what every build gives them
    uncompared: tuple[str, ...] = ()  # subclasses and layouts whose bytes cannot be compared
    assigned_dtype: tuple[str, ...] = ()  # assign=True put the file's dtype in place of the model's
    errors: tuple[str, ...] = ()  # what load_state_dict said besides missing, unexpected and mismatched


class Verification(NamedTuple):
    """The result of ``verify``. ``rebuilt`` and ``random`` count the non-persistent buffers."""

    path: str
    model: str
    class_name: str
    mapping: str  # how names were matched, "" if they are equal
    notes: tuple[str, ...]
    parameters: int
    persistent_buffers: int
    rebuilt: tuple[str, ...]  # non-persistent buffers that two builds agree on
    random: tuple[str, ...]  # those that two builds do not agree on: nothing can tell if they are right
    changed_reference: tuple[NotRestored, ...]  # against --reference
    runs: tuple[Run, ...]
    suggestions: tuple[str, ...]
    root: Root = ()  # of the state_dict in the file
    fingerprints: Mapping[str, Fingerprint] = {}  # of ``rebuilt``, for --write-reference
    allow_cast: bool = False  # values that a cast changed were said to be fine

    @property
    def ok(self) -> bool:
        """True if every run that decides is right."""
        return not self.changed_reference and all(run.ok for run in self.runs if run.decides)


class Plan(NamedTuple):
    """What a verification will hold and write, known before it starts.

    ``model_nbytes`` is one copy of the model. ``copied_nbytes`` are bytes of the file that cannot
    be mapped (compressed, big-endian). ``temporary_nbytes`` are written below ``folder`` and removed.
    """

    model_nbytes: int
    file_nbytes: int
    copied_nbytes: int
    temporary_nbytes: int
    folder: str
    note: str = ""  # e.g. why the model was not built on meta


class Fingerprint(NamedTuple):
    """What one buffer was: ``sha256`` over its elements in row-major order, ``values`` in words."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    values: str

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)} {self.values}"
