"""Every document that a test makes, held to the JSON Schema that the package ships for it."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ckpttool.api.schemas import NAMES, schema_text
from ckpttool.render import json as render_json

_MOST_ITEMS = 300  # of each list in a document: the others are of the same writer
_PREFIX = "ckpttool/"


@functools.cache
def validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = json.loads(schema_text(name))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def problems(document: Mapping[str, Any]) -> list[str]:
    """What in a document its schema does not allow."""
    name = document["schema"].removeprefix(_PREFIX).partition("/")[0]
    assert name in NAMES, f"{document['schema']} has no schema: see docs/json.md"
    cut = {key: value[:_MOST_ITEMS] if isinstance(value, list) else value for key, value in document.items()}
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(cut)]


def check(text: str) -> None:
    """Hold a document as it was written to its schema."""
    document = json.loads(text)
    if document.get("format") == "toy":  # a container of the tests
        document["format"] = "pt"
    if document["schema"].startswith(_PREFIX):
        found = problems(document)
        assert not found, f"{document['schema']} does not match its schema: {found[:3]}"


def check_every_document() -> None:
    """From here on, each document that this process writes is held to its schema."""
    if importlib.util.find_spec("jsonschema") is None:  # as on a machine that only has what torch needs
        return
    real = render_json.dump

    def dump(document: Mapping[str, object]) -> Iterator[str]:
        pieces = list(real(document))
        check("".join(pieces))
        return iter(pieces)

    render_json.dump = dump
