"""The exception tree: everything ckpttool can refuse, as fields rather than text.

    CkptToolError               path, hint
    ├── UnknownFormat           found: what the content looks like instead
    ├── MalformedCheckpoint     what, name, byte_offset, expected, actual
    ├── UnsupportedFeature      feature: legal, recognised, but not read here
    ├── LimitExceeded           what, limit, actual
    ├── ModelImportFailed       trace: tail of the traceback of the user's own code
    ├── DeviceUnavailable       a device that was asked for is not there
    ├── DestinationExists       a target that is there already, or that another run is writing
    ├── NoSuchEntry             a KeyError too: nothing of the checkpoint has that name
    ├── BadIndex                an IndexError too: an index or a slice that a tensor does not have
    └── NotEnoughSpace          needed, available: bytes, known before the first one is written

``OSError`` passes as itself. A difference or an unexpected key is a result, never an
exception. ``str(error)`` is one lower-case sentence; strings from files inside it are made
harmless where they are printed (``values.words.safe``), not here. Secrets in addresses are taken out here,
so that a caller of the API who prints or logs an error shows none either.
"""

import os
import re
import sys
from collections.abc import Iterable
from contextlib import ContextDecorator

# A scheme has an end: without one, every letter of a long word would be looked at from each before it.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://")
_LONGEST_CHAIN = 20  # errors, each raised while another one was handled
_LONGEST_SENTENCE = 4000
_CLOSING = ".,;:)]}>'\""  # of a sentence around an address


TYPED: list[str] = []
"""Arguments of this program that hold an address, for ``redact``."""


def redact(text: str, typed: Iterable[str] = ()) -> str:
    """``text`` with every address as ``scheme://host/path``: no user, no password, no query, no fragment.

    An address goes up to the next blank. ``typed`` are arguments that hold one up to their end, with blanks.
    What is the name of a file that is there stays as it is: ``https:`` may be a folder.
    """
    if "://" not in text:
        return text
    from ckpttool.values.words import safe

    for whole in (*TYPED, *typed):
        found = _ADDRESS.search(whole)
        argument = whole[found.start() :] if found else whole  # of KEY=VALUE, the value
        known = _hidden(argument)
        for spelled in (argument, repr(argument)[1:-1], safe(argument), " ".join(argument.split())):
            text = text.replace(spelled, known)
    return re.sub(_ADDRESS.pattern + r"\S*", lambda found: _hidden(found[0]), text)


def _hidden(text: str) -> str:
    """A text that is an address from the first scheme to its end; closing marks of a sentence stay."""
    found = _ADDRESS.search(text)
    bare = text.rstrip(_CLOSING)
    if found is None or any(map(os.path.lexists, (text, bare, text.rpartition(":")[0]))):
        return text
    rest = bare[found.end() :]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    port = host.rpartition(":")[2]
    # A password may hold marks that have no place in one: then what seems to be the port is none.
    if "@" in host or (":" in host and not port.isdigit()):
        start = len(host) if "@" in host else len(rest)
        rest = rest[rest.rfind("@", 0, start) + 1 :]
        if "@" not in bare:
            rest = rest.partition(":")[0]
    return bare[: found.end()] + re.split("[?#]", rest, maxsplit=1)[0] + text[len(bare) :]


class bare_names(ContextDecorator):
    """Takes the secrets of addresses out of the names of files in an ``OSError``, and in what led to it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for _ in range(_LONGEST_CHAIN):
            if error is None:
                return
            for which in ("filename", "filename2") if isinstance(error, OSError) else ():
                name = getattr(error, which)
                if isinstance(name, str):
                    setattr(error, which, redact(name, (name,)))
            error = error.__cause__ or error.__context__


class CkptToolError(Exception):
    """A checkpoint (or a request about it) that ckpttool answers with one sentence and exit 2."""

    def __init__(self, what: str, *, path: str | None = None, hint: str | None = None) -> None:
        what = redact(what)
        super().__init__(what)
        self.what = what
        self.path = path and redact(path, (path,))
        self.hint = hint and redact(hint)
        if self.hint and sys.version_info >= (3, 11):
            self.add_note(f"hint: {self.hint}")  # what a traceback shows

    def describe(self) -> str:
        """The sentence without the path in front of it."""
        return self.what

    def __str__(self) -> str:
        return f"{self.path}: {self.describe()}" if self.path else self.describe()


def describe(error: CkptToolError | OSError) -> str:
    """What went wrong and where, as one harmless sentence."""
    from ckpttool.values.words import safe

    if isinstance(error, CkptToolError):
        return safe(redact(str(error)), _LONGEST_SENTENCE)
    what = (error.strerror or str(error) or type(error).__name__).lower()
    path = path_of(error)
    return safe(redact(f"{path}: {what}" if path else what))


def path_of(error: CkptToolError | OSError) -> str | None:
    """The file that an error is about, if it says so."""
    if isinstance(error, CkptToolError):
        return error.path
    return None if error.filename is None else redact(os.fsdecode(str(error.filename)))


class UnknownFormat(CkptToolError):
    """The content is not a checkpoint that is read here; ``found`` says what it is instead."""

    def __init__(self, found: str, *, path: str | None = None, hint: str | None = None) -> None:
        super().__init__(found, path=path, hint=hint)
        self.found = found


class MalformedCheckpoint(CkptToolError):
    """The file breaks its own format: what, of which entry, where, expected and actual."""

    def __init__(
        self,
        what: str,
        *,
        name: str | None = None,
        byte_offset: int | None = None,
        expected: object = None,
        actual: object = None,
        path: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, path=path, hint=hint)
        self.name = name
        self.named: tuple[tuple[str, str, bool], ...] = ()  # globals up to there, and whether they are called
        self.byte_offset = byte_offset
        self.expected = expected
        self.actual = actual

    def describe(self) -> str:
        """``what: 'name' at byte N, expected X, got Y`` with the parts that are known."""
        text = self.what
        if self.name is not None:
            text += f": {self.name!r}"
        if self.byte_offset is not None:
            text += f" at byte {self.byte_offset}"
        if self.expected is not None:
            text += f", expected {_number(self.expected)}"
        if self.actual is not None:
            text += f", got {_number(self.actual)}"
        return text


def _number(value: object) -> str:
    return f"{value:,}" if type(value) is int else str(value)


class UnsupportedFeature(CkptToolError):
    """Legal and recognised, but not something this version reads."""

    def __init__(self, feature: str, *, path: str | None = None, hint: str | None = None) -> None:
        super().__init__(feature, path=path, hint=hint)
        self.feature = feature


class LimitExceeded(CkptToolError):
    """A fixed budget (``formats.base.Limits``) would be exceeded; nothing was allocated for it."""

    def __init__(
        self,
        what: str,
        *,
        limit: int,
        actual: int | None = None,
        path: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what, path=path, hint=hint)
        self.limit = limit
        self.actual = actual

    def describe(self) -> str:
        """``what exceeds the limit of N (is M)``."""
        text = f"{self.what} exceeds the limit of {self.limit:,}"
        return text if self.actual is None else f"{text} (is {self.actual:,})"


class ModelImportFailed(CkptToolError):
    """``--model`` could not be imported or built; ``trace`` is the tail of the user's own traceback."""

    def __init__(
        self, what: str, *, trace: str = "", path: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what, path=path, hint=hint)
        self.trace = trace


class DeviceUnavailable(CkptToolError):
    """A device that was asked for by name is not there."""


class DestinationExists(CkptToolError):
    """What was to be written is there already, is a source itself, or is being written by another run."""


class NoSuchEntry(CkptToolError, KeyError):
    """Nothing of the checkpoint has the name that was asked for."""


class BadIndex(CkptToolError, IndexError):
    """An index or a slice that is none, or that the tensor does not have."""


class NotEnoughSpace(CkptToolError):
    """The file system of the target has not the bytes that will be needed; nothing was written."""

    def __init__(self, *, needed: int, available: int, path: str | None = None) -> None:
        super().__init__("not enough space", path=path)
        self.needed = needed
        self.available = available

    def describe(self) -> str:
        """``not enough space: needs N bytes, M are free``."""
        from ckpttool.values.words import plural

        return f"{self.what}: needs {plural(self.needed, 'byte')}, {self.available:,} free"
