"""One value or one tensor of a checkpoint: found by its path, and written as a file or into a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from ckpttool.api.arguments import choose
from ckpttool.values.containers import CONTAINERS, FORMS, HELD_LAYOUTS, TEXT_FORMS
from ckpttool.values.errors import BadIndex, CkptToolError, UnsupportedFeature, bare_names, redact
from ckpttool.values.progress import SILENT, Progress
from ckpttool.values.words import plural

if TYPE_CHECKING:
    from ckpttool.api.opened import Opened
    from ckpttool.elements.bits import Number
    from ckpttool.values.checkpoint import Strided
    from ckpttool.values.picked import Picked

_NUMBERS_NBYTES = 1 << 18  # of elements that are Python's numbers at a time: those take ten times as much


def parse_form(text: str | None, out: str | None) -> str:
    """What to write: as it is said, else as the suffix of ``out`` says, else text.

    Raises:
        ValueError: it is none, or the suffix says none.
    """
    if text is not None:
        return choose(text, tuple(FORMS))
    if out is None:
        return "text"
    suffix = os.path.splitext(out)[1].lower()
    for form, suffixes in FORMS.items():
        if suffix in suffixes:
            return form
    known = ", ".join(suffixes[0] for suffixes in FORMS.values())
    raise ValueError(f'cannot tell the format from "{redact(out, (out,))}": use {known}, or --as')


def pick(opened: Opened, name: str, index: str | None = None) -> Picked:
    """What stands at a path of ``opened``: a tensor, or the part of it that ``index`` names, or a value.

    Args:
        opened: the checkpoint.
        name: a tensor's name, or the path of a tensor or a value (``hyper_parameters.lr``).
        index: what stands between the brackets in Python: ``0:4,-1``.

    Raises:
        NoSuchEntry: there is nothing so called.
        BadIndex: the tensor has no such part.
        CkptToolError: there are several, a value has no parts, or a tensor has no elements in the file.
    """
    from ckpttool.elements.bits import decode_numbers
    from ckpttool.elements.digests import check_claim
    from ckpttool.files.indexing import parse_index, select
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.inspection.values import Located, locate
    from ckpttool.values.checkpoint import CompositeTensor
    from ckpttool.values.picked import Picked

    def numbers(part: Strided) -> Iterator[list[Number]]:
        check_claim(part)
        left = part.numel * part.dtype.packed
        with TensorReader(opened.sources) as reader:
            for chunk in reader.iter_chunks(part, chunk_nbytes=_NUMBERS_NBYTES):
                found = decode_numbers(part.dtype, chunk)[:left]  # bits that fill a byte are no number
                left -= len(found)
                yield found

    items = None if index is None else parse_index(index)
    found = locate(opened.inspection, name)
    if isinstance(found, Located):
        if items is not None:
            raise CkptToolError(f"{name!r} is a value: only a tensor has slices", path=opened.path)
        return Picked(None, None, found.value, numbers)
    value = found.entry.value
    if isinstance(value, CompositeTensor):
        value = value.plain or value
    if value is None:
        raise UnsupportedFeature(f"{name!r} is not in the file", path=opened.path)
    if items is None:
        return Picked(found.entry, value, None, numbers)
    if isinstance(value, CompositeTensor):
        what = f"{name!r} is made of parts ({value.layout}): it has no slices"
        raise UnsupportedFeature(what, path=opened.path)
    try:
        return Picked(found.entry, select(value, items), None, numbers)
    except BadIndex as error:
        error.path = opened.path
        raise


def check_form(picked: Picked, form: str) -> None:
    """Refuse what ``form`` cannot hold, before anything is written.

    Raises:
        UnsupportedFeature: it is a value, is made of parts, or has a dtype that numpy lacks.
    """
    from ckpttool.elements.arrays import has_array
    from ckpttool.values.checkpoint import CompositeTensor

    tensor = picked.tensor
    if tensor is None:
        if form not in TEXT_FORMS:
            raise UnsupportedFeature(
                f"{form} is for tensors, and this is a value", hint="--as text, --as json"
            )
    elif isinstance(tensor, CompositeTensor):
        if form not in CONTAINERS:
            whole = "--as pt writes it whole" if tensor.layout in HELD_LAYOUTS["pt"] else None
            raise UnsupportedFeature(f"a tensor made of parts ({tensor.layout}) is no array", hint=whole)
    elif form == "npy" and not (has_array(tensor.dtype) and tensor.dtype.code):
        hint = "--as pt and --as safetensors keep the bits"
        raise UnsupportedFeature(f"numpy has no dtype {tensor.dtype.name}", hint=hint)
    elif form in CONTAINERS and tensor.numel * tensor.dtype.bits % 8:
        raise UnsupportedFeature(
            f"{plural(tensor.numel, 'element')} of {tensor.dtype.name} take no whole number of bytes"
        )


@bare_names()
def write(
    opened: Opened, picked: Picked, out: str, form: str, *, force: bool = False, progress: Progress = SILENT
) -> None:
    """Write a file that appears under its name when it is complete.

    Raises:
        DestinationExists: it is there already, and not ``force``; or it is the checkpoint itself.
        UnsupportedFeature: ``form`` cannot hold it.
        CkptToolError: the checkpoint changed or is damaged; ``NotEnoughSpace``.
        OSError: as the file system says.
    """
    from ckpttool.files.staging import refuse_overwriting, staged_file
    from ckpttool.files.streams import Writer

    if out.endswith("/"):
        raise CkptToolError("this names a folder, and a file is written", path=out)
    refuse_overwriting(out, force=force, sources=opened.read.files)
    check_form(picked, form)
    if form in CONTAINERS:
        _convert(opened, picked, out, form, force=force, progress=progress)
        return
    nbytes = picked.tensor.nbytes if form == "npy" and picked.tensor is not None else 0
    progress.begin("get", nbytes)
    with staged_file(out, nbytes) as fd:
        writer = Writer(fd)
        for piece in _iter_bytes(opened, picked, form):
            writer.append(piece)
            progress.advance(len(piece))
        writer.flush()
    progress.finish()


def send(opened: Opened, picked: Picked, form: str, stream: BinaryIO) -> None:
    """Write what ``write`` would into a stream.

    Raises:
        UnsupportedFeature: ``form`` cannot hold it.
        CkptToolError: the checkpoint changed or is damaged.
        OSError: as the file system says.
    """
    check_form(picked, form)
    if form not in CONTAINERS:
        for piece in _iter_bytes(opened, picked, form):
            stream.write(piece)
        return
    # Checksums that are known at the end stand at the start of such a file.
    from shutil import copyfileobj
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        made = os.path.join(folder, "tensor")
        _convert(opened, picked, made, form)
        with open(made, "rb") as file:
            copyfileobj(file, stream, 1 << 20)


def _iter_bytes(opened: Opened, picked: Picked, form: str) -> Iterator[bytes | memoryview]:
    if form in TEXT_FORMS:
        from ckpttool.render.picked import iter_pieces

        for text in iter_pieces(picked, form):
            yield text.encode("utf-8", "backslashreplace")
        return
    from ckpttool.elements.arrays import npy_header
    from ckpttool.elements.digests import check_claim
    from ckpttool.files.tensor_bytes import TensorReader
    from ckpttool.render.picked import plain_tensor

    tensor = plain_tensor(picked)
    check_claim(tensor)
    yield npy_header(tensor.dtype, tensor.shape)
    with TensorReader(opened.sources) as reader:
        yield from reader.iter_chunks(tensor)


def _convert(
    opened: Opened, picked: Picked, out: str, form: str, *, force: bool = False, progress: Progress = SILENT
) -> None:
    """A checkpoint of this one tensor, with what its file says of it."""
    from ckpttool.api.convert import convert
    from ckpttool.api.opened import Opened
    from ckpttool.values.checkpoint import Checkpoint, Container

    if picked.entry is None:
        return
    entry = picked.entry._replace(root=(), name=str(picked.entry.name), value=picked.tensor)
    read = opened.read
    containers = (Container((), "dict", 1),)
    one = Checkpoint(read.path, read.format, read.layout, read.files, (entry,), containers=containers)
    try:
        convert(Opened(opened.path, one, opened.sources, ()), out, to=form, force=force, progress=progress)
    except UnsupportedFeature as error:
        error.hint = None  # it names options of convert
        raise
