"""A small package with a model, and what its source can say of the model's entries."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

HEAD = """
import torch
from torch import nn
from torch.nn import Parameter
"""


class Package(NamedTuple):
    """Files by their path, and the expression that builds the model of them (``pkg.model.Net()``).

    The kinds that the source shows are those of the built model, but for some names, separated by spaces:

    - ``unknown``: the source must not decide, as it declares both kinds, or no class that fits has the name;
    - ``open``: what is said must not be wrong, and may be nothing (computed names or types); ``*`` is all;
    - ``beyond``: nothing is promised: code that runs changed the entry, or a later version did;
    - ``possible``: buffers that are not persistent, where the source does not show whether they are there:
      not to be called missing for sure, whether or not the built model has them;
    - ``unseen``: buffers of the model that are not persistent, and need not be named.

    ``named`` are the packages that the user names. ``fits``: a class of them is the root of the file (None:
    if the reader sees it). ``claims``: something may come from their source. ``read``: the files that are
    read, where they are not those that wrote the file.
    """

    name: str
    files: dict[str, str]
    root: str
    unknown: str = ""
    open: str = ""
    beyond: str = ""
    possible: str = ""
    unseen: str = ""
    named: tuple[str, ...] = ("pkg",)
    fits: bool | None = True
    claims: bool = True
    read: dict[str, str] | None = None


def clean(text: str) -> str:
    """Lines as they stand in a file, from a text that is indented with the code around it."""
    return textwrap.dedent(text).lstrip("\n")


def module(text: str) -> str:
    """A file that imports torch, nn and Parameter before ``text``."""
    return HEAD.lstrip("\n") + "\n\n" + clean(text)


def package(name: str, root: str, files: dict[str, str], **more: object) -> Package:
    """A package of several files, each as it stands."""
    made = {path: clean(text) for path, text in files.items()}
    if isinstance(read := more.get("read"), dict):
        more["read"] = {path: clean(text) for path, text in read.items()}
    return Package(name, made, root, **more)  # type: ignore[arg-type]


def one(name: str, text: str, root: str = "pkg.model.Net()", **more: object) -> Package:
    """A package ``pkg`` with one file, ``model.py``, which imports torch, nn and Parameter first."""
    files = {"pkg/__init__.py": "", "pkg/model.py": module(text)}
    return Package(name, files, root, **more)  # type: ignore[arg-type]


def net(name: str, lines: str, before: str = "", after: str = "", **more: object) -> Package:
    """A package with one class, ``Net(size=3, flag=True)``: ``lines`` stand in its ``__init__``.

    ``before`` stands before the class, ``after`` in it, behind ``__init__``.
    """
    text = "class Net(nn.Module):\n    def __init__(self, size=3, flag=True):\n        super().__init__()\n"
    text += textwrap.indent(clean(lines), " " * 8)
    if after:
        text += "\n" + textwrap.indent(clean(after), " " * 4)
    return one(name, f"{clean(before)}\n\n{text}" if before else text, **more)
