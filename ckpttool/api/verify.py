"""Whether a checkpoint loads into its model, and the loaded model is right."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ckpttool.api.arguments import choose
from ckpttool.api.models import Arguments, Model
from ckpttool.api.opened import Opened, Path, Source, opened
from ckpttool.values.errors import CkptToolError, bare_names
from ckpttool.values.progress import SILENT, Progress

if TYPE_CHECKING:
    from ckpttool.api.results.verification import Verification
    from ckpttool.values.checkpoint import Checkpoint, Root
    from ckpttool.values.verification import Fingerprint, Load, Plan

_MAX_REFERENCE_NBYTES = 64 << 20  # a fingerprint takes 200 bytes; nobody has 300,000 buffers
_MOST_BRANCHES = 8


@bare_names()
def verify(
    checkpoint: Source,
    model: Model | None = None,
    *,
    model_args: Arguments | None = None,
    devices: Sequence[str] = (),
    loads: Sequence[Load] = (),
    allow_cast: bool = False,
    reference: Path | None = None,
    progress: Progress = SILENT,
    announce: Callable[[Plan], None] = lambda plan: None,
) -> Verification:
    """Load a checkpoint into its model for real, and tell whether the loaded model is right.

    Also where the file is silent: non-persistent buffers are compared with those of a normal build.

    Args:
        checkpoint: what to load; its branch, if it was opened with a ``root``.
        model: as for ``open``; the model that it was opened with, if none is named. **Its code runs.**
        model_args: arguments of the factory.
        devices: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; by default the CPU and what else is here.
        loads: ``"copy"``, ``"assign"``, ``"to-empty"``, ``"round-trip"``; those named decide. By default all
            are tried, and ``copy`` decides.
        allow_cast: values changed by a cast to the model's dtype are fine.
        reference: fingerprints of rebuilt buffers, as ``ckpttool verify --write-reference`` keeps them.
        progress: told of each step.
        announce: called with what is about to be held and written.

    Raises:
        CkptToolError: it cannot be read, or which state_dict is meant is not clear; the model cannot be
            built (``ModelImportFailed``); a device named is not there (``DeviceUnavailable``).
        ValueError: no model is named, or a way of loading is none.

    >>> ckpttool.verify("linear.pt", "sample_models.linear_xavier:build", devices=["cpu"], loads=["copy"]).ok
    True
    """
    from ckpttool.api.models import find_model
    from ckpttool.api.results.verification import Verification
    from ckpttool.values.verification import LOADS

    for load in loads:
        choose(load, LOADS)
    kept = None if reference is None else read_reference(os.fspath(reference))
    source = opened(checkpoint)
    if model is None:
        model, model_args = source.model, source.model_args
    if model is None:
        raise ValueError("no model is named, and the checkpoint was opened without one")
    read = source.file()
    read = read.stored or read  # what a load is given
    root = choose_root(source)
    built = find_model(model, model_args or (), checkpoint_path=source.path)
    from ckpttool.torch_bridge.verify.verify import VerifyOptions, verify

    options = VerifyOptions(tuple(devices), tuple(loads), allow_cast, kept)
    return Verification._make(verify(read, root, built, options, progress, announce))


def choose_root(source: Opened) -> Root:
    """The root of the state_dict to load, as the file has it: the branch that was opened, or the weights'.

    Raises:
        CkptToolError: it cannot be told, or there are no tensors at it.
    """
    from ckpttool.inspection.inspect import inspect_checkpoint
    from ckpttool.values.checkpoint import in_state_dict
    from ckpttool.values.words import format_root, inspect_command

    read = source.read.stored or source.read
    if not any(in_state_dict(entry) and entry.value is not None for entry in read.entries):
        shown = f"{inspect_command(read.path)} shows what is in it"
        raise CkptToolError(_nothing_to_load(read), path=read.path, hint=shown)
    owners = dict.fromkeys(entry.root for entry in read.entries)
    branches = [format_root(root) for root in owners if root][:_MOST_BRANCHES]
    hint = f"--root takes one of: {', '.join(branches)}" if branches else None
    root = source.root
    if root is None:
        root = inspect_checkpoint(read).weights_root
        if root is not None and root in owners:
            return root
        raise CkptToolError("which state_dict to load is not clear", path=read.path, hint=hint)
    if root in owners:
        return root
    # Where it stood before a conversion: the file has no branches any more.
    if source.read.stored is not None and {entry.root for entry in source.read.entries} == {root}:
        return ()
    raise CkptToolError(f"--root {format_root(root)} holds no tensors itself", path=read.path, hint=hint)


def _nothing_to_load(read: Checkpoint) -> str:
    """Why a load would load nothing: what a file without a state_dict's tensors has instead."""
    from ckpttool.values.words import cut, plural, some

    beside: dict[str, list[str]] = {}
    for entry in read.entries:
        noun = "non-persistent buffer" if entry.declared.registered else "plain attribute"
        beside.setdefault(noun, []).append(str(entry.name))
    if not beside:
        return "holds no tensors, so there is nothing to load"
    counted = [f"{plural(len(names), noun)} ({some(names, cut)})" for noun, names in beside.items()]
    return f"holds nothing that load_state_dict takes, only {' and '.join(counted)}"


@bare_names()
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
    return parse_reference(data, path)


@bare_names()
def keep_reference(path: str, result: Verification) -> None:
    """Write the fingerprints of ``result``: there is the old file or the new one, never half of one.

    Raises:
        CkptToolError: another process writes there.
        OSError: as the file system says.
    """
    from ckpttool.files.staging import staged_file
    from ckpttool.torch_bridge.verify.fingerprints import reference_text

    data = reference_text(result.model, result.fingerprints).encode()
    with staged_file(path, len(data)) as fd, open(fd, "wb", closefd=False) as file:
        file.write(data)
