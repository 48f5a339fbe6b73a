"""ckpttool: inspect, diff, convert and verify PyTorch checkpoints without running them.

    import ckpttool

    checkpoint = ckpttool.open("run.pt")
    print(checkpoint)                          # what `ckpttool inspect` shows; a table in a notebook
    checkpoint.convert("run.safetensors")

What is below is the Python API, docs/api.md. Each name is imported when it is first used, so that
``import ckpttool`` costs nothing; torch and numpy come only where they are needed.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # true to a type checker, by its name; `typing` takes longer to import than all this

if TYPE_CHECKING:
    from ckpttool.api.checkpoint import Checkpoint, Entry, Global, open, open_model
    from ckpttool.api.convert import convert
    from ckpttool.api.diff import diff
    from ckpttool.api.lazy import LazyTensor
    from ckpttool.api.lint import lint
    from ckpttool.api.results.conversion import Conversion
    from ckpttool.api.results.difference import Diff
    from ckpttool.api.results.lint import LintReport
    from ckpttool.api.results.verification import Verification
    from ckpttool.api.verify import verify
    from ckpttool.values.errors import (
        BadIndex,
        CkptToolError,
        DestinationExists,
        DeviceUnavailable,
        LimitExceeded,
        MalformedCheckpoint,
        ModelImportFailed,
        NoSuchEntry,
        NotEnoughSpace,
        UnknownFormat,
        UnsupportedFeature,
    )

__all__ = [
    "BadIndex",
    "Checkpoint",
    "CkptToolError",
    "Conversion",
    "DestinationExists",
    "DeviceUnavailable",
    "Diff",
    "Entry",
    "Global",
    "LazyTensor",
    "LimitExceeded",
    "LintReport",
    "MalformedCheckpoint",
    "ModelImportFailed",
    "NoSuchEntry",
    "NotEnoughSpace",
    "UnknownFormat",
    "UnsupportedFeature",
    "Verification",
    "convert",
    "diff",
    "lint",
    "open",
    "open_model",
    "verify",
]

_HOMES = {
    **dict.fromkeys(("Checkpoint", "Entry", "Global", "open", "open_model"), "ckpttool.api.checkpoint"),
    "Conversion": "ckpttool.api.results.conversion",
    "Diff": "ckpttool.api.results.difference",
    "LazyTensor": "ckpttool.api.lazy",
    "LintReport": "ckpttool.api.results.lint",
    "Verification": "ckpttool.api.results.verification",
    **{name: f"ckpttool.api.{name}" for name in ("convert", "diff", "lint", "verify")},
}
"""Where each name comes from; those that are not here are errors."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_HOMES.get(name, "ckpttool.values.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
