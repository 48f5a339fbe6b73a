"""The JSON Schemas of the package: of the right version, with the code's own words, and strict."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from ckpttool import cli
from ckpttool.api.schemas import NAMES, schema_text
from ckpttool.findings.globals import Verdict
from ckpttool.values.checkpoint import Basis, Kind, Presence
from ckpttool.values.difference import NameBasis, Status
from ckpttool.values.source import How
from ckpttool.values.verification import LOADS
from tests.support.schemas import problems, validator

Json = dict[str, Any]


def schema(name: str) -> Json:
    found: Json = json.loads(schema_text(name))
    return found


def objects(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield node
        for child in node.values():
            yield from objects(child)
    elif isinstance(node, list):
        for child in node:
            yield from objects(child)


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_is_one_and_shut(name: str) -> None:
    found = schema(name)
    validator(name)  # which checks it against the schema of schemas
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["properties"]["schema"] == {"const": f"ckpttool/{name}/1"}
    for node in objects(found):
        assert node["additionalProperties"] is False
        assert set(node["required"]) <= set(node["properties"])
    used = {ref.rpartition("/")[2] for ref in refs(found)}
    assert used == set(found.get("$defs", {}))


def refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["$ref"]] if "$ref" in node else []
        for child in node.values():
            yield from refs(child)
    elif isinstance(node, list):
        for child in node:
            yield from refs(child)


def test_one_name_means_the_same_in_every_schema() -> None:
    meant: dict[str, Json] = {}
    for name in NAMES:
        for word, body in schema(name).get("$defs", {}).items():
            assert meant.setdefault(word, body) == body, word


def test_words_are_those_of_the_code() -> None:
    inspect, diff, verify = (schema(name)["$defs"] for name in ("inspect", "diff", "verify"))
    for found, expected in (
        (inspect["kind"], [kind.value for kind in Kind]),
        (inspect["presence"], [presence.value for presence in Presence]),
        (inspect["basis"], [basis.value for basis in Basis]),
        (inspect["entry"]["properties"]["source"]["properties"]["how"], list(get_args(How))),
        (diff["status"], [status.value for status in Status]),
        (verify["run"]["properties"]["load"], list(LOADS)),
    ):
        assert found["enum"] == expected
    assert set(inspect["verdict"]["enum"]) == {verdict.value for verdict in Verdict}
    bases = diff["diff_entry"]["properties"]["basis"]["anyOf"][0]["enum"]
    assert bases == [basis.value for basis in NameBasis if basis is not NameBasis.SAME_NAME]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """One of each, as the commands write them."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("documents")
    model = torch.nn.BatchNorm1d(2)
    torch.save({"model": model.state_dict(), "epoch": 3, "odd": torch.nn.ReLU()}, folder / "a.pt")
    torch.save({"model": {**model.state_dict(), "bias": torch.ones(2)}, "epoch": 4}, folder / "b.pt")
    a, b, out = str(folder / "a.pt"), str(folder / "b.pt"), str(folder / "c.safetensors")
    build = "torch.nn:BatchNorm1d", "--model-arg", "num_features=2"
    commands = {
        "inspect": ["inspect", a, "--stats", "--check"],
        "diff": ["diff", a, b, "--root", "model"],
        "convert": ["convert", a, out, "--manifest", f"{out}.json", "--dtype", "bf16"],
        "verify": ["verify", a, "--model", *build, "--device", "cpu", "--load", "copy"],
        "lint": ["lint", *build, "--prove"],
        "digest": ["inspect", a, "--digest"],
        "error": ["inspect", f"{a}.none"],
    }
    found = {}
    for name, words in commands.items():
        with pytest.MonkeyPatch.context() as patch:
            written: list[str] = []
            patch.setattr("sys.stdout.write", written.append)
            patch.setattr("sys.stdout.writelines", written.extend)
            assert cli.main([*words, "--json"]) < 3
        found[name] = json.loads("".join(written))
    found["manifest"] = json.loads(Path(f"{out}.json").read_text())
    return found


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, two items of each list at most."""
    yield path
    if isinstance(node, dict):
        for key, child in node.items():
            yield from places(child, (*path, key))
    elif isinstance(node, list):
        for at, child in enumerate(node[:2]):
            yield from places(child, (*path, at))


def at(document: Json, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


FREE = {"metadata", "aliases", "renamed", "dtypes", "locations", "details", "by_kind", "facts"}
"""Objects whose keys are the file's."""


@pytest.mark.parametrize("name", NAMES)
def test_a_document_is_taken_and_a_wrong_one_refused(name: str, documents: dict[str, Json]) -> None:
    document = documents[name]
    assert problems(document) == []
    required = {id(node): node for node in objects(schema(name))}
    always = {key for node in required.values() for key in node["required"]}
    sometimes = {key for node in required.values() for key in node["properties"]} - always
    tried = 0
    for path in places(document):
        if not path or FREE & set(path[:-1]) or path == ("schema",):
            continue
        last = path[-1]
        above = copy.deepcopy(document)
        holder = at(above, path[:-1])
        value = holder[last]
        if isinstance(last, str) and last not in sometimes:
            del holder[last]
            assert problems(above), f"taken without {path}"
            tried += 1
        if path[-1] not in ("value", "a", "b") or name != "inspect":
            holder[last] = {"no": ["such"]} if not isinstance(value, dict) else "no such"
            assert problems(above) or (name == "diff" and last in ("a", "b")), f"another type taken at {path}"
            tried += 1
        holder[last] = value
        if isinstance(value, dict) and last not in FREE:
            value["no such"] = 1
            assert problems(above), f"an unknown field taken in {path}"
    assert tried >= 8
    assert problems({**document, "no such": 1})


def test_unknown_words_are_refused(documents: dict[str, Json]) -> None:
    for name, field, word in (
        ("inspect", "kind", "weight"),
        ("inspect", "basis", "guess"),
        ("inspect", "presence", "there"),
        ("diff", "status", "moved"),
        ("lint", "kind", "tensor"),
    ):
        wrong = copy.deepcopy(documents[name])
        wrong["entries"][0][field] = word
        assert any(word in problem for problem in problems(wrong))
    for version in ("ckpttool/inspect/2", "other/inspect/1"):
        assert list(validator("inspect").iter_errors({**documents["inspect"], "schema": version}))


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    listed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in listed] == list(NAMES) and all(title for _, title in listed)
    for name in NAMES:
        assert cli.main(["schema", name]) == 0
        assert json.loads(capsys.readouterr().out) == schema(name)
    assert cli.main(["schema", "../diff"]) == 2
    assert "../diff is not one of inspect, diff" in capsys.readouterr().err
