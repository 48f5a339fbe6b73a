"""Source in memory: modules by name, scanned in this process, as a library that tests can ask."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from ckpttool.kinds.source.instances import Instance, Members
from ckpttool.kinds.source.library import Library, SourceClass
from ckpttool.kinds.source.members import Interpreter
from ckpttool.kinds.source.scan import scan_module


class Texts:
    """Modules of the package ``pkg``, by their names below it; "" is the package itself."""

    package = "pkg"

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = {f"pkg.{name}" if name else "pkg": text for name, text in texts.items()}

    def read(self, module: str) -> Mapping[str, Any] | None:
        text = self._texts.get(module)
        if text is None:
            return None
        summary = scan_module(ast.parse(text), text, module, module == "pkg")
        kept: Mapping[str, Any] = json.loads(json.dumps(summary))  # it comes from another process
        return kept

    def locate(self, module: str) -> str | None:
        return f"{module.replace('.', '/')}.py" if module in self._texts else None


def interpret(texts: Mapping[str, str] | str) -> Interpreter:
    """All that ``texts`` say; a text alone is the module ``m``."""
    texts = {"m": texts} if isinstance(texts, str) else texts
    library = Library([Texts(texts)], lambda top: None)
    for name in texts:
        library.read(f"pkg.{name}" if name else "pkg")
    return Interpreter(library)


def members(texts: Mapping[str, str] | str, dotted: str = "pkg.m.C") -> Members:
    """What an instance of the class has that nobody is seen to build."""
    found = interpret(texts)
    cls = found.library.resolve(dotted)
    assert isinstance(cls, SourceClass), dotted
    return found.members(Instance(cls, ()))
