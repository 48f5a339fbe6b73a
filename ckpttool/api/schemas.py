"""The JSON Schemas of the documents that commands write, which the package holds beside their writer."""

from __future__ import annotations

import os

NAMES = ("inspect", "diff", "convert", "verify", "lint", "digest", "manifest", "error")
"""Documents that have a schema."""

_FOLDER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "render", "schemas")


def schema_text(name: str) -> str:
    """The JSON Schema (2020-12) of a document.

    Raises:
        OSError: the package has no such file.
    """
    with open(os.path.join(_FOLDER, f"{name}.json"), encoding="utf-8") as file:
        return file.read()


def schema_title(name: str) -> str:
    """What writes such a document."""
    import json

    title: str = json.loads(schema_text(name))["title"]
    return title
