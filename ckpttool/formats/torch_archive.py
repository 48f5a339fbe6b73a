"""A zip seen as torch sees it: its top folder, its pickles and its storages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ckpttool.files.source import ByteSource
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.pickled.arguments import StorageClaim
from ckpttool.formats.pickled.globals import absorb_following, parse_within
from ckpttool.formats.pickled.tensors import StorageResolver
from ckpttool.formats.zip_records import LOCAL_MAGIC, ZipArchive, read_archive, read_record
from ckpttool.pickles.nodes import PickleTree
from ckpttool.values.checkpoint import Finding, Record, StorageRef
from ckpttool.values.errors import CkptToolError, MalformedCheckpoint
from ckpttool.values.words import plural

_MIN_VERSION, _MAX_VERSION = 1, 10  # caffe2/serialize/versions.h
_TEXT_NBYTES = 4096  # version, byteorder and the like are a few bytes


def sniff_records(look: Look) -> dict[str, Record] | None:
    """The members of a zip for ``sniff``: None if the content is no zip, none if it is a damaged one."""
    if not look.head.startswith(LOCAL_MAGIC):
        return None
    try:
        return look.parse(read_archive).records
    except CkptToolError:
        return {}


def has_member(look: Look, *names: str) -> bool:
    """Whether a zip holds one of ``names``, in its top folder or outside; for ``sniff``: never raises."""
    records = sniff_records(look) or {}
    top = next(iter(records), "").partition("/")[0]
    return any(f"{top}/{name}" in records or name in records for name in names)


def is_export(look: Look) -> bool:
    """Whether a zip is what torch.export.load takes, whatever else it holds; for ``sniff``."""
    return has_member(look, "archive_format", "serialized_exported_program.json")


class TorchArchive(NamedTuple):
    """A zip seen as torch sees it: one top folder, and text members that say how to read the rest."""

    source: ByteSource
    records: dict[str, Record]  # by name below the top folder
    top: str
    big_endian: bool
    findings: tuple[Finding, ...]
    obstacles: tuple[str, ...] = ()  # what torch's reader does not take

    def text(self, name: str) -> str | None:
        """A small text member, or None."""
        record = self.records.get(name)
        if record is None:
            return None
        data = read_record(self.source, record, _TEXT_NBYTES, f"member {name}")
        return data.decode("utf-8", "replace").strip()

    def pickle(self, name: str, limits: Limits) -> tuple[PickleTree, tuple[Finding, ...]]:
        """The inert tree of a pickled member, and what stands in it behind the pickle.

        Raises:
            MalformedCheckpoint: the top folder does not hold it, or it is damaged.
            LimitExceeded: it is larger than ``limits`` allow.
        """
        record = self.records.get(name)
        if record is None:
            raise MalformedCheckpoint(
                f"no {name} in the zip's top folder {self.top!r}, where torch looks for it"
            )
        data = read_record(self.source, record, limits.pickle_nbytes, f"member {name}")
        tree = parse_within(limits, data)
        return tree, absorb_following(tree, data[tree.end :], len(data) - tree.end, limits)

    def resolver(self, folders: Sequence[str] = ("data",), within: str = "") -> StorageResolver:
        """Finds a storage's member in one of ``folders``; ``within`` is put in front of its key."""
        records, big_endian = self.records, self.big_endian
        prefixes = tuple(f"{folder}/" for folder in folders)

        def resolve(claim: StorageClaim) -> StorageRef:
            for prefix in prefixes:
                member = prefix + claim.key
                record = records.get(member)
                if record is not None:
                    _, file, offset, nbytes, compressed, _ = record
                    key = within + member
                    return StorageRef(file, key, offset, nbytes, claim.location, big_endian, compressed)
            member = prefixes[0] + claim.key
            if claim.nbytes == 0:
                return StorageRef(self.source.name, within + member, 0, 0, claim.location)
            raise MalformedCheckpoint("a tensor's storage is not in the file", name=member)

        return resolve


def open_torch_archive(source: ByteSource, archive: ZipArchive) -> TorchArchive:
    """The members below the top folder of the first member, as torch's reader takes them.

    Raises:
        MalformedCheckpoint: no top folder, or a byte order that is neither little nor big.
    """
    first = next(iter(archive.records), "")
    top, slash, _ = first.partition("/")
    if not slash:
        raise MalformedCheckpoint("the zip has no top folder, so torch did not write it")
    prefix = top + "/"
    records = {
        name[len(prefix) :]: record for name, record in archive.records.items() if name.startswith(prefix)
    }
    findings = list(archive.findings)
    outside = len(archive.records) - len(records)
    if outside:
        message = (
            f"{plural(outside, 'member lies', 'members lie')} outside the top folder {top!r}: torch 2.13 "
            "refuses such a file, "
            "other readers may see another one in it"
        )
        findings.append(Finding("zip-members-outside", "warning", "", message))
    view = TorchArchive(source, records, top, False, tuple(findings))
    byteorder = view.text("byteorder")
    if byteorder not in (None, "little", "big"):
        raise MalformedCheckpoint("unknown byte order", expected="little or big", actual=repr(byteorder))
    return view._replace(big_endian=byteorder == "big", obstacles=tuple(_obstacles(view, outside)))


def _obstacles(view: TorchArchive, outside: int) -> Iterator[str]:
    """What PyTorchStreamReader (caffe2/serialize/inline_container.cc) of torch 2.13 refuses."""
    if outside:
        yield f"members outside the top folder {view.top!r}"
    try:
        version = view.text("version")
        version = view.text(".data/version") if version is None else version
    except CkptToolError:  # damaged, or far too long
        version = ""
    if version is None:
        yield "a missing member version"
    else:
        number = version.removeprefix("+")
        digits = number[: len(number) - len(number.lstrip("0123456789"))]
        if not digits or not _MIN_VERSION <= int(digits.lstrip("0")[:9] or "0") <= _MAX_VERSION:
            yield "a member version that is none of torch's"
    odd = [name for name in view.records if not name.isascii()]
    if any("\udc80" <= char <= "\udcff" for name in odd for char in name):
        yield "a member whose name is not UTF-8"


def describe_layout(view: TorchArchive) -> str:
    """Which torch releases write these members, for people."""
    if ".format_version" in view.records:
        layout = "torch 2.7 or later"
    elif "byteorder" in view.records:
        layout = "torch 2.1 to 2.6"
    elif any(name.startswith("tensors/") for name in view.records):
        layout = "torch 1.4, experimental"
    else:
        layout = "torch 1.6 to 2.0"
    return layout + (", big-endian" if view.big_endian else "")
