"""Pickles and torch zips that are members of another archive, read where they lie.

A STORED member is a range of the outer file, so a zip inside it is read in place and the addresses of
its tensors are absolute. What a loader would merely unpickle (sample inputs, custom objects) is listed
by its globals and never becomes part of the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from ckpttool.files.source import ByteSource, RangeSource
from ckpttool.formats.base import Limits
from ckpttool.formats.pickled.contents import Contents
from ckpttool.formats.pickled.globals import list_globals, merge_globals
from ckpttool.formats.pickled.objects import read_objects
from ckpttool.formats.pickled.stream import MAGIC_NUMBER, PickleStream
from ckpttool.formats.pickled.tensors import TensorReader
from ckpttool.formats.torch_archive import TorchArchive, open_torch_archive
from ckpttool.formats.zip_records import LOCAL_MAGIC, read_archive
from ckpttool.values.checkpoint import Finding, GlobalRef, Record
from ckpttool.values.errors import MalformedCheckpoint, UnsupportedFeature

_LEGACY_PICKLES = 5


def open_member(source: ByteSource, record: Record) -> RangeSource:
    """The bytes of a member as a source of their own.

    Raises:
        UnsupportedFeature: the member is compressed, so that nothing inside it has an address.
    """
    if record.compressed_nbytes is not None:
        raise UnsupportedFeature(
            f"compressed archive {record.name!r} inside an archive",
            hint="save the program again with torch.export.save",
        )
    return RangeSource(source, record.byte_offset - source.base, record.nbytes)


def read_torch_member(source: ByteSource, record: Record, limits: Limits) -> Contents:
    """What ``torch.save`` wrote into a member.

    Raises:
        CkptToolError: malformed, compressed, not a torch zip, or beyond ``limits``.
    """
    view = _open_zip(open_member(source, record), record, limits)
    tree, findings = view.pickle("data.pkl", limits)
    # ``data/0`` exists in every archive: the member's name in front tells them apart.
    tensors = TensorReader(view.resolver(within=f"{record.name}/"))
    return read_objects(tree, tensors, limits, findings=findings)


def list_pickled_globals(
    source: ByteSource, record: Record, limits: Limits
) -> tuple[tuple[GlobalRef, ...], tuple[Finding, ...]]:
    """Globals of a member that a loader unpickles: a torch zip, a legacy file or a bare pickle.

    Beside them: what stands behind the pickle.

    Raises:
        CkptToolError: malformed, compressed, or beyond ``limits``.
    """
    if record.nbytes == 0:
        return (), ()
    member = open_member(source, record)
    if member.read_at(0, min(4, member.size)) == LOCAL_MAGIC:
        tree, findings = _open_zip(member, record, limits).pickle("data.pkl", limits)
        trees = [tree]
    else:
        stream = PickleStream(member, limits)
        trees = [stream.next()]
        if type(trees[0].value) is int and trees[0].value == MAGIC_NUMBER:
            trees += [stream.next() for _ in range(_LEGACY_PICKLES - 1)]
            findings = ()  # storages follow
        else:
            findings = stream.absorb_following(trees[0])
    # A member whose globals stand nowhere in particular is itself their place.
    refs = [ref._replace(places=ref.places or ("",)) for tree in trees for ref in list_globals(tree)]
    return merge_members([(record.name, refs)]), findings


def merge_members(groups: Iterable[tuple[str, Iterable[GlobalRef]]]) -> tuple[GlobalRef, ...]:
    """Globals of several pickles as one list; a place is told apart by the pickle's member in front."""
    placed = [
        ref._replace(places=tuple(": ".join(filter(None, (member, place))) for place in ref.places))
        for member, refs in groups
        for ref in refs
    ]
    return merge_globals([placed], distinct=True)


def _open_zip(member: RangeSource, record: Record, limits: Limits) -> TorchArchive:
    head = member.read_at(0, min(len(LOCAL_MAGIC), member.size))
    if head != LOCAL_MAGIC:
        raise UnsupportedFeature(f"member {record.name!r} that is not a torch zip")
    view = open_torch_archive(member, read_archive(member, limits))
    if "data.pkl" not in view.records:
        raise MalformedCheckpoint("a torch zip without data.pkl", name=record.name)
    return view
