"""What a child of these tests makes of source, in place of the scanner."""

from __future__ import annotations

import ast


def scan(tree: ast.Module, text: str, module: str, is_package: bool) -> dict[str, object]:
    """The classes of a file, and what it was called."""
    classes = {node.name: node.lineno for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return {"classes": classes, "module": module, "is_package": is_package, "length": len(text)}
