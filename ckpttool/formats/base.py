"""What every format shares: the first look at a file, how much may be read, and the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, cast

from ckpttool.values.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.files.folder import Listing
    from ckpttool.files.local import Sources
    from ckpttool.files.source import ByteSource
    from ckpttool.values.checkpoint import Checkpoint

_HEAD_NBYTES = 4096
_Parsed = TypeVar("_Parsed")
_Item = TypeVar("_Item")


class Limits(NamedTuple):
    """Fixed budgets for hostile input; all are far above any real checkpoint seen.

    The product of the pickle budgets bounds memory: each op adds at most one stack slot, each
    node at most a few hundred bytes.
    """

    header_nbytes: int = 100_000_000  # safetensors header (the library's own cap) and index JSON
    pickle_nbytes: int = 128 << 20  # data.pkl after inflation; 20,000 tensors take 2.5 MiB
    pickle_ops: int = 12_000_000  # 20,000 tensors take 0.9 million
    pickle_nodes: int = 2_000_000  # containers and calls; 20,000 tensors take 0.1 million
    depth: int = 512  # nesting of containers
    entries: int = 500_000  # tensors, values and opaque leaves
    name_nbytes: int = 1 << 20  # one key
    records: int = 500_000  # members of a zip
    code_nbytes: int = 16 << 20  # one source or JSON member of an archive after inflation


DEFAULT_LIMITS = Limits()


class Look:
    """A file whose format is asked for: its first 4096 bytes at most, and what a sniff had to parse of it."""

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        self.head = source.read_at(0, min(_HEAD_NBYTES, source.size))
        self._parsed: dict[object, object] = {}

    def parse(self, parse: Callable[[ByteSource, Limits], _Parsed]) -> _Parsed:
        """What ``parse`` makes of the file, worked out once; what it could not read it refuses each time.

        Raises:
            CkptToolError: as ``parse`` says.
        """
        if parse not in self._parsed:
            try:
                self._parsed[parse] = parse(self.source, self.limits)
            except CkptToolError as error:
                self._parsed[parse] = error
        found = self._parsed[parse]
        if isinstance(found, CkptToolError):
            raise found
        return cast(_Parsed, found)


def first_repeated(items: Iterable[_Item], key: Callable[[_Item], object]) -> _Item:
    """The first of ``items`` whose ``key`` is that of an earlier one; for who knows that there is one."""
    seen: set[object] = set()
    for item in items:
        found = key(item)
        if found in seen:
            return item
        seen.add(found)
    raise ValueError("no two are equal")


class Format(Protocol):
    """The module of a format that is one file. Reading returns addresses, never tensor bytes."""

    def sniff(self, look: Look) -> bool:
        """Whether the content is this format.

        Cheap, and never raises for bad content: a damaged file of this format is still this
        format.
        """

    def read(self, look: Look) -> Checkpoint:
        """Read the header bytes only.

        Raises:
            CkptToolError: malformed, unsupported or beyond the limits.
        """


class Reading(NamedTuple):
    """How the files of a folder are read: within ``limits``, held open in ``sources``.

    ``read_file`` makes a checkpoint of one file that is one itself, and proves its addresses.
    """

    limits: Limits
    sources: Sources
    read_file: Callable[[Look], Checkpoint]


class FolderFormat(Protocol):
    """The module of a format that is a folder. ``proves_files``: ``read_file`` proves each of its files."""

    proves_files: bool

    def sniff(self, listing: Listing) -> bool:
        """Whether a folder with these names is this format; opens nothing."""

    def read(self, listing: Listing, reading: Reading) -> Checkpoint:
        """Read the header bytes of its files only.

        Raises:
            CkptToolError: malformed, unsupported or beyond the limits.
        """
