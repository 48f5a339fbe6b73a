"""What ``ckpttool`` does, as functions. None of them prints; each calls what its command calls.

A path names a file and nothing else: unlike on the command line, a string like ``net.py:build`` in the
place of a path is not run. Code runs only where it is handed over as ``model``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

from ckpttool.api.models import Arguments, Model
from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
    import torch

    from ckpttool.api.checkpoint import Checkpoint
    from ckpttool.api.results import Conversion, Diff, LintReport, Verification
    from ckpttool.values import checkpoint as contents
    from ckpttool.values.checkpoint import Root
    from ckpttool.values.difference import Side
    from ckpttool.values.verification import Load

Path: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = Union[Path, "Checkpoint"]
"""What can be read: a path, or what ``open`` gave for one."""


def open(
    path: Path,
    *,
    root: str | Root | None = None,
    model: Model | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read the headers of a checkpoint: what is in it, of which kind, and what is odd. Nothing in it runs.

    Args:
        path: a file, or a folder of shards.
        root: one branch only, as ``inspect`` shows it (``"model.state_dict"``) or as entries have it
            (``("model", "state_dict")``). ``convert``, ``diff`` and ``verify`` take this branch then.
        model: what to read exact kinds from: a factory (a class, or a function that returns the module),
            ``"package.module:factory"``, ``"path/to/file.py:factory"``, or ``"hf"`` (config.json beside the
            checkpoint). **Its code runs**, on meta where it can.
        model_args: arguments of the factory.

    Raises:
        CkptToolError: it cannot be read (``UnknownFormat``, ``MalformedCheckpoint``, ``UnsupportedFeature``,
            ``LimitExceeded``), has no such branch, or the model cannot be built (``ModelImportFailed``).
        OSError: as the file system says.

    >>> checkpoint = ckpttool.open("linear.pt")
    >>> checkpoint.entry("weight").shape  # (out_features, in_features)
    (4, 8)
    """
    from ckpttool.api.checkpoint import Checkpoint
    from ckpttool.api.opened import inspect_file
    from ckpttool.names.roots import resolve_root

    arguments = model_args or {}
    inspection = inspect_file(os.fspath(path), root=root, model=model, model_args=arguments)
    branch = None if root is None else resolve_root(inspection.checkpoint, root)
    return Checkpoint(inspection, model=model, model_args=arguments, root=branch)


def open_model(model: Model, *, model_args: Mapping[str, Any] | None = None) -> Checkpoint:
    """A model as a checkpoint: what its state_dict would hold, and the buffers that it would not.

    It has no bytes: it can be looked at and be a side of ``diff``.

    Args:
        model: as for ``open``. **Its code runs.**
        model_args: arguments of the factory.

    Raises:
        ModelImportFailed: it cannot be imported or built.

    >>> model = ckpttool.open_model("sample_models.conv_buffers:build")
    >>> {str(entry.kind) for entry in model.entries}
    {'persistent_buffer'}
    """
    from ckpttool.api.checkpoint import Checkpoint
    from ckpttool.api.models import read_model
    from ckpttool.inspection.inspect import inspect_model

    arguments = model_args or {}
    spec = read_model(model, arguments)
    return Checkpoint(inspect_model(spec), model=model, model_args=arguments, spec=spec)


def diff(
    a: Source,
    b: Source,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    only: Literal["parameters", "buffers"] | None = None,
    align: bool = True,
    rename: Sequence[str] = (),
    atol: float = 0.0,
    rtol: float = 0.0,
    ulp: int | None = None,
    headers: bool = False,
) -> Diff:
    """Compare two checkpoints of any formats: bytes first, then numbers where bytes differ.

    Args:
        a: the first side; its branch, if it was opened with a ``root``. Also a manifest of ``convert``.
        b: the second side.
        include: globs; only entries with such a name.
        exclude: globs; no entries with such a name.
        only: parameters, or buffers.
        align: bring names together that differ by a prefix, or were renamed.
        rename: ``REGEX=>REPL`` for the names of ``a``, as ``--map``.
        atol: absolute difference that counts as none.
        rtol: difference relative to the larger value.
        ulp: values at most so many representable ones apart count as equal.
        headers: names, dtypes and shapes only; no tensor is read.

    Raises:
        CkptToolError: a side cannot be read, changed meanwhile, or ``rename`` makes names collide.
        OSError: as the file system says.

    >>> ckpttool.diff("linear.pt", "linear.pt").equal
    True
    """
    from ckpttool.api.arguments import choose
    from ckpttool.api.diff import KINDS, make_request
    from ckpttool.api.results import Diff
    from ckpttool.comparison.diff import diff_sides

    if only is not None:
        choose(only, KINDS)
    side_a, side_b = _side_of(a), _side_of(b)
    request = make_request(
        (side_a, side_b), (_root_of(a), _root_of(b)), (include, exclude), rename, (atol, rtol, ulp)
    )._replace(only=only, align=align, structure_only=headers)
    return Diff._make(diff_sides(side_a, side_b, request))


def convert(
    source: Source,
    destination: Path,
    *,
    to: Literal["safetensors", "pt"] | None = None,
    max_shard_size: int | str | None = None,
    prefer_ema: bool = False,
    weights_only: bool = False,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    drop_known_buffers: bool = False,
    add_known_buffers: bool = False,
    non_persistent: bool = False,
    shared: Literal["alias", "duplicate", "fail"] = "alias",
    as_bytes: bool = False,
    strip_prefix: str | None = None,
    add_prefix: str = "",
    rename: Sequence[str] = (),
    dtype: str | torch.dtype | None = None,
    keep_dtype: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    manifest: Path | None = None,
    strict: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
) -> Conversion:
    """Write a checkpoint in another container, with the same bytes wherever that is possible.

    The destination appears under its name when it is complete and was read back. The source is not written
    to. Kinds are the model's where ``source`` was opened with one.

    Args:
        source: what to convert; its branch, if it was opened with a ``root``.
        destination: a file whose suffix says the format, or a folder (it exists, or ends with ``/``).
        to: the format, whatever the suffix.
        max_shard_size: bytes of a shard, as an int or as ``"5GB"``; the destination is a folder then.
        prefer_ema: the averaged weights, if there are any.
        weights_only: the weights' tensors only: no epoch, no optimizer.
        keep: globs; only such tensors.
        drop: globs; nothing so called.
        drop_known_buffers: no buffers that today's libraries rebuild themselves.
        add_known_buffers: also the buffers that only the model of ``source`` has.
        non_persistent: of a pickled module also what its state_dict leaves out.
        shared: what becomes of tied tensors: kept once and listed, written apart, or refused.
        as_bytes: keep as raw bytes what the format has no dtype for.
        strip_prefix: off the names; ``"auto"`` is what wrappers put there.
        add_prefix: before every name.
        rename: ``REGEX=>REPL``, as ``re.sub`` has it, in order.
        dtype: cast parameters to it: ``"bf16"``, ``"float16"``, ``torch.bfloat16`` …
        keep_dtype: globs of what is never cast.
        metadata: further keys of a safetensors header.
        manifest: where to write digests of every tensor as JSON.
        strict: refuse to leave anything behind that ``drop`` does not name.
        dry_run: plan and write nothing.
        force: replace the destination if it is there.
        check: read back what was written, and compare.

    Raises:
        CkptToolError: it cannot be read or written (``DestinationExists``, ``NotEnoughSpace`` …).
        ValueError: an argument means nothing: a suffix, a size, a dtype.
        OSError: as the file system says.

    >>> conversion = ckpttool.convert("linear.pt", "linear_bf16.safetensors", dtype="bf16", force=True)
    >>> [(cast.name, cast.before.name, cast.after.name) for cast in conversion.cast]
    [('weight', 'float32', 'bfloat16'), ('bias', 'float32', 'bfloat16')]
    """
    from ckpttool.api import arguments as values
    from ckpttool.api.convert import Writing, prepared
    from ckpttool.api.results import Conversion
    from ckpttool.values.conversion import Options

    if add_known_buffers and drop_known_buffers:
        raise ValueError("add_known_buffers contradicts drop_known_buffers")
    target = os.fspath(destination)
    limit = values.parse_size(str(max_shard_size)) if max_shard_size is not None else None
    container, is_folder = values.parse_target(target, to, sharded=limit is not None)
    options = Options(
        container,
        keep=tuple(keep),
        drop=tuple(drop),
        weights_only=weights_only,
        prefer_ema=prefer_ema,
        shared=values.choose(shared, values.SHARED_WAYS),
        as_bytes=as_bytes,
        strip_prefix=strip_prefix,
        add_prefix=add_prefix,
        renames=tuple(rename),
        drop_known_buffers=drop_known_buffers,
        non_persistent=non_persistent or add_known_buffers,
        dtype=None if dtype is None else values.parse_dtype(str(dtype)),
        keep_dtype=tuple(keep_dtype),
        metadata=tuple(values.check_metadata(*item) for item in (metadata or {}).items()),
        sharded=limit is not None,
    )
    opened = _opened(source)
    if add_known_buffers and opened.model is None:
        raise ValueError("add_known_buffers needs a source that was opened with a model")
    writing = Writing(
        is_folder,
        limit,
        force,
        strict,
        check,
        None if manifest is None else os.fspath(manifest),
        opened.model,
        opened.model_args,
        add_known_buffers,
    )
    with prepared(_file_of(opened), target, options, writing, opened.root) as ready:
        return Conversion._make(ready.without_writing() if dry_run else ready.run())


def verify(
    checkpoint: Source,
    model: Model | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
    devices: Sequence[str] = (),
    loads: Sequence[Load] = (),
    allow_cast: bool = False,
    reference: Path | None = None,
) -> Verification:
    """Load a checkpoint into its model for real, and tell whether the loaded model is right.

    Also where the file is silent: non-persistent buffers are compared with those of a normal build.

    Args:
        checkpoint: what to load; its branch, if it was opened with a ``root``.
        model: as for ``open``; the model that it was opened with, if none is named. **Its code runs.**
        model_args: arguments of the factory.
        devices: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; by default the CPU, and CUDA if there is any.
        loads: ``"copy"``, ``"assign"``, ``"to-empty"``, ``"round-trip"``; those named decide. By default all
            are tried, and ``copy`` decides.
        allow_cast: values changed by a cast to the model's dtype are fine.
        reference: fingerprints of rebuilt buffers, as ``ckpttool verify --write-reference`` keeps them.

    Raises:
        CkptToolError: it cannot be read, or which state_dict is meant is not clear; the model cannot be
            built (``ModelImportFailed``); a device named is not there (``DeviceUnavailable``).
        ValueError: no model is named, or a way of loading is none.

    >>> ckpttool.verify("linear.pt", "sample_models.linear_xavier:build", devices=["cpu"], loads=["copy"]).ok
    True
    """
    from ckpttool.api.arguments import choose
    from ckpttool.api.models import find_model
    from ckpttool.api.results import Verification
    from ckpttool.api.verify import choose_root, read_reference
    from ckpttool.values.verification import LOADS

    for load in loads:
        choose(load, LOADS)
    kept = None if reference is None else read_reference(os.fspath(reference))
    opened = _opened(checkpoint)
    arguments: Arguments = model_args or {}
    if model is None:
        model, arguments = opened.model, opened.model_args
    if model is None:
        raise ValueError("no model is named, and the checkpoint was opened without one")
    read = _file_of(opened)
    read = read.stored or read  # what a load is given
    root, _ = choose_root(read, opened.root)
    source = find_model(model, arguments, checkpoint_path=read.path)
    from ckpttool.torch_bridge.verify.verify import Options, verify

    options = Options(tuple(devices), tuple(loads), allow_cast, kept)
    return Verification._make(verify(read, root, source, options))


def lint(
    model: Model,
    *,
    model_args: Mapping[str, Any] | None = None,
    example_inputs: Sequence[tuple[tuple[int, ...], str]] = (),
    prove: bool = False,
) -> LintReport:
    """Find the traps of Parameter and Buffer in a model; no checkpoint is needed.

    Args:
        model: as for ``open``. **Its code runs**: it is built several times, cast, moved, saved and loaded.
        model_args: arguments of the factory.
        example_inputs: shape and dtype of each argument of ``forward``, ``((2, 16), "int64")``; with them
            ``forward`` runs.
        prove: what happens to each tensor: trained, moved, saved, restored.

    Raises:
        ModelImportFailed: it cannot be imported or built, or its ``forward`` raises.
        UnsupportedFeature: it is TorchScript, whose modules cannot be looked into.
        ValueError: a dtype is not one of torch's.

    >>> [finding.name for finding in ckpttool.lint("sample_models.unregistered_tensor:build").findings]
    ['offset', 'gains[0]', 'gains[1]', 'shift']
    """
    from ckpttool.api.arguments import parse_input_dtype
    from ckpttool.api.models import find_model
    from ckpttool.api.results import LintReport

    specs = [(tuple(shape), parse_input_dtype(str(dtype))) for shape, dtype in example_inputs]
    source = find_model(model, model_args or {})
    from ckpttool.torch_bridge.lint.lint import lint_model, make_example

    return LintReport._make(lint_model(source, make_example(specs) if specs else None, proved=prove))


def _opened(source: Source) -> Checkpoint:
    from ckpttool.api.checkpoint import Checkpoint

    return source if isinstance(source, Checkpoint) else open(source)


def _file_of(opened: Checkpoint) -> contents.Checkpoint:
    """What was read, whole: a model has nothing to convert and nothing to load."""
    if opened.spec is not None:
        raise CkptToolError(
            "a model is not a file", path=opened.path, hint="save its state_dict, and open that"
        )
    return opened.inspection.checkpoint


def _side_of(source: Source) -> Side:
    from ckpttool.api.checkpoint import Checkpoint
    from ckpttool.api.diff import read_file_side
    from ckpttool.comparison.sides import make_declared_side, make_side

    if not isinstance(source, Checkpoint):
        return read_file_side(os.fspath(source))
    if source.spec is not None:
        return make_declared_side(source.spec.checkpoint, source.path)
    return make_side(source.inspection.checkpoint, source.path)


def _root_of(source: Source) -> Root | None:
    from ckpttool.api.checkpoint import Checkpoint

    return source.root if isinstance(source, Checkpoint) else None
