"""Class headers in the source text of a TorchScript archive: which attributes are registered.

torch prints every class in one form (``torch/csrc/jit/serialization/python_print.cpp``)::

    class Linear(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = []
      weight : Tensor

Only that exact form is believed. torch's own parser also takes the lists further down, in strings of
several lines or twice; text that holds such a thing is not from torch's printer and decides nothing.
Nothing is evaluated: a list is split at its commas.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from ckpttool.formats.base import Limits
from ckpttool.formats.torch_archive import TorchArchive
from ckpttool.formats.zip_records import read_record
from ckpttool.pickles.nodes import Global
from ckpttool.values.errors import LimitExceeded

_CLASS = re.compile(r"^class (\w+)(?:\((\w+)\))?:\n", re.MULTILINE)
_PARAMETERS = "  __parameters__ = ["
_BUFFERS = "  __buffers__ = ["
# Each could hide a class header, or make one out of other text. The printer writes none of them:
# it escapes quotes and newlines inside strings, and knows no line continuation.
_NOT_PRINTED = ('"""', "'''", "\\\n", "\r", "\f")


class ClassHeader(NamedTuple):
    """What the text says of a class. A list is None where it is absent or not to be believed.

    ``is_module``: an ``nn.Module``, whose attributes a state_dict walks. ``restores_itself``: it has a
    ``__setstate__``, so its pickled state is not its attributes.
    """

    is_module: bool
    restores_itself: bool
    parameters: frozenset[str] | None
    buffers: frozenset[str] | None


def parse_class_headers(text: str) -> dict[str, ClassHeader]:
    """The classes of one source file by name; a class that is defined twice is left out."""
    if any(mark in text for mark in _NOT_PRINTED):
        return {}
    matches = list(_CLASS.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    count = Counter(match[1] for match in matches)
    return {
        match[1]: _parse_class(match[2] == "Module", text[match.end() : end])
        for match, end in zip(matches, ends, strict=False)
        if count[match[1]] == 1
    }


def _parse_class(is_module: bool, body: str) -> ClassHeader:
    """The two lists at the top of a class's body; either is dropped if the body names it again."""
    first, _, rest = body.partition("\n")
    parameters = _parse_list(first, _PARAMETERS)
    second = rest.partition("\n")[0] if parameters is not None else first
    buffers = _parse_list(second, _BUFFERS)
    return ClassHeader(
        is_module,
        "\n  def __setstate__(" in body,
        parameters if body.count("__parameters__") == 1 else None,
        buffers if body.count("__buffers__") == 1 else None,
    )


def _parse_list(line: str, start: str) -> frozenset[str] | None:
    """``start`` + ``"a", "b", ]`` as names, or None if the line is anything else."""
    if not line.startswith(start) or not line.endswith("]"):
        return None
    body = line[len(start) : -1].strip().removesuffix(",")
    if not body:
        return frozenset()
    if len(body) < 2 or body[0] != '"' or body[-1] != '"':
        return None
    names = body[1:-1].split('", "')
    if any('"' in name or "\\" in name for name in names):
        return None
    return frozenset(names)


class ClassHeaders:
    """Headers of the classes that a pickle names; each file is read once, when first asked for."""

    def __init__(self, archive: TorchArchive, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._files: dict[str, dict[str, ClassHeader]] = {}
        self._nbytes = 0

    def find(self, cls: Global) -> ClassHeader | None:
        """The header of ``__torch__.a.b.Name`` out of ``code/__torch__/a/b.py``; None without such text.

        Raises:
            LimitExceeded: one file, or all files together, are larger than ``Limits`` allow.
            MalformedCheckpoint: the file's compressed data is damaged.
        """
        headers = self._files.get(cls.module)
        if headers is None:
            headers = self._files[cls.module] = self._read(f"code/{cls.module.replace('.', '/')}.py")
        return headers.get(cls.name)

    def _read(self, member: str) -> dict[str, ClassHeader]:
        record = self._archive.records.get(member)
        if record is None:
            return {}
        # Members are small or inflate from little: without a sum, a thousand of them would be a bomb.
        self._nbytes += record.nbytes
        if self._nbytes > self._limits.pickle_nbytes:
            raise LimitExceeded(
                "size of the TorchScript code", limit=self._limits.pickle_nbytes, actual=self._nbytes
            )
        data = read_record(self._archive.source, record, self._limits.code_nbytes, f"member {member}")
        return parse_class_headers(data.decode("utf-8", "replace"))
