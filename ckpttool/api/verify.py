"""Which state_dict is verified against a model, and against which fingerprints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.values.checkpoint import Checkpoint, Root
    from ckpttool.values.verification import Fingerprint

_MAX_REFERENCE_NBYTES = 64 << 20  # a fingerprint takes 200 bytes; nobody has 300,000 buffers
_MOST_BRANCHES = 8


def choose_root(checkpoint: Checkpoint, asked: str | Root | None) -> tuple[Root, bool]:
    """The root of the state_dict, and whether it was found rather than given.

    Raises:
        CkptToolError: it cannot be told, or there are no tensors at it.
    """
    from ckpttool.values.words import format_root

    owners = dict.fromkeys(entry.root for entry in checkpoint.entries)
    branches = [format_root(root) for root in owners if root][:_MOST_BRANCHES]
    hint = f"--root takes one of: {', '.join(branches)}" if branches else None
    if asked is not None:
        from ckpttool.formats.carried import expand
        from ckpttool.names.roots import resolve_root

        shown = expand(checkpoint)
        root = resolve_root(shown, asked)
        if shown is not checkpoint and {entry.root for entry in shown.entries} == {root}:
            return (
                (),
                False,
            )  # where it stood before a conversion
        if root not in owners:
            text = asked if isinstance(asked, str) else format_root(asked)
            raise CkptToolError(f"--root {text} holds no tensors itself", path=checkpoint.path, hint=hint)
        return root, False
    from ckpttool.inspection.inspect import inspect_checkpoint

    weights = inspect_checkpoint(checkpoint).weights_root
    if weights is None or weights not in owners:
        what = "no tensors to load" if not owners else "which state_dict to load is not clear"
        raise CkptToolError(what, path=checkpoint.path, hint=hint)
    return weights, True


def read_reference(path: str) -> dict[str, Fingerprint]:
    """Fingerprints that ``verify --write-reference`` kept.

    Raises:
        CkptToolError: the file is not that.
        OSError: it cannot be read.
    """
    from ckpttool.files.local import open_source
    from ckpttool.torch_bridge.verify.fingerprints import parse_reference

    with open_source(path) as source:
        data = source.read_at(0, min(source.size, _MAX_REFERENCE_NBYTES))
    return parse_reference(data.decode("utf-8", "replace"), path)
