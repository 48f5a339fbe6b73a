"""Content hashes do not depend on the container, and manifests hold what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckpttool import cli
from ckpttool.elements import digests
from ckpttool.elements.digests import NamedDigest, TensorDigest, digest_set, digest_tensor, manifest_document
from ckpttool.files.tensor_bytes import TensorReader
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import Kind, OddKey
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint
from sample_models.same_bytes import save_legacy


def digest(capsys: pytest.CaptureFixture[str], path: Path, *options: str) -> dict[str, Any]:
    assert cli.main(["inspect", str(path), "--digest", "--json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["schema"] == "ckpttool/digest/1" and found["path"] == str(path)
    return dict(found["digest"])


def save(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(dict(tensors), path)
    return path


def test_a_tensor_is_its_dtype_shape_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "DIGEST_CHUNK_NBYTES", 8)
    data = bytes(range(20))
    expected = hashlib.sha256(b"uint8 [20]\n")
    for start in range(0, 20, 8):
        expected.update(hashlib.sha256(data[start : start + 8]).digest())
    for size in (1, 3, 8, 9, 20):
        made = TensorDigest(BY_NAME["uint8"], (20,))
        for start in range(0, 20, size):
            made.update(memoryview(data[start : start + size]))
        assert made.hexdigest() == expected.hexdigest()


def test_order_container_shards_and_strides_do_not_matter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {
        "b.weight": torch.randn(4, 3),
        "a.weight": torch.randn(3, 4).t(),
        "a.running_mean": torch.ones(2),
    }
    turned = {
        name: tensors[name].t().contiguous().t() if tensors[name].dim() == 2 else tensors[name]
        for name in sorted(tensors)
    }
    shards = tmp_path / "shards"
    shards.mkdir()
    save(shards / "model-00001-of-00002.safetensors", {"b.weight": tensors["b.weight"]})
    rest = {name: tensor for name, tensor in tensors.items() if name != "b.weight"}
    save(shards / "model-00002-of-00002.safetensors", rest)
    nested = tmp_path / "run.pt"
    torch.save({"state_dict": tensors, "epoch": 3}, nested)
    legacy = tmp_path / "legacy.pt"
    save_legacy(tensors, legacy)
    paths = [save(tmp_path / "a.pt", tensors), save(tmp_path / "b.pt", turned),
             save(tmp_path / "c.safetensors", tensors), shards, nested, legacy]  # fmt: skip
    found = [digest(capsys, path) for path in paths]
    assert all(each["all"] == found[0]["all"] for each in found) and found[0]["tensors"] == 3
    assert found[0]["parameter_tensors"] == 2 and found[0]["buffer_tensors"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {**t, "w": t["w"] + 1},
        lambda t: {**t, "w": t["w"].double()},
        lambda t: {**t, "w": t["w"].reshape(3, 2)},
        lambda t: {"v": t["w"], "n": t["n"]},
        lambda t: {"w": t["w"]},
        lambda t: {"w": -t["w"], "n": t["n"]},  # 0.0 becomes -0.0
    ],
)
def test_everything_else_matters(tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any) -> None:
    tensors = {"w": torch.zeros(2, 3), "n": torch.tensor(1)}
    before = digest(capsys, save(tmp_path / "a.pt", tensors))
    assert digest(capsys, save(tmp_path / "b.pt", change(tensors)))["all"] != before["all"]


def test_a_pipe_has_three_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "a.pt", {"w.weight": torch.ones(2), "w.running_mean": torch.ones(2)})
    assert cli.main(["inspect", str(path), "--digest"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[1:] for line in lines] == [["all", "2"], ["parameters", "1"], ["buffers", "1"]]
    assert all(len(line[0]) == 64 for line in lines)


def test_a_selection_has_a_digest_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"x.weight": torch.ones(2), "y.weight": torch.zeros(2)}
    both, one = save(tmp_path / "a.pt", tensors), save(tmp_path / "b.pt", {"x.weight": torch.ones(2)})
    assert digest(capsys, both, "--include", "x.*")["all"] == digest(capsys, one)["all"]
    copies = tmp_path / "c.pt"
    torch.save({"model": tensors, "ema": {"x.weight": torch.ones(2)}}, copies)
    assert digest(capsys, copies, "--root", "ema")["all"] == digest(capsys, one)["all"]


def test_a_petabyte_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(1 << 25, 1 << 25)}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    value = checkpoint.entries[0].value
    assert value is not None
    with TensorReader(checkpoint.files) as reader, pytest.raises(LimitExceeded, match="claims"):
        digest_tensor(reader, value)


NAMED = [
    NamedDigest(("m", 0), "w", Kind.PARAMETER, BY_NAME["float32"], (2, 3), "a" * 64),
    NamedDigest((), OddKey("1.5", True), Kind.UNKNOWN, BY_NAME["int8"], (), "b" * 64),
]


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    named = NAMED
    path.write_text(json.dumps(manifest_document(named)))
    manifest = read_checkpoint(str(path), manifests=True)
    assert [
        (e.root, str(e.name), e.declared.kind, e.value.dtype, e.value.shape) for e in manifest.entries
    ] == [(item.root, str(item.name), item.kind, item.dtype, item.shape) for item in named]
    assert [(*map(str, path),) for path in manifest.digests] == [("m", "0", "w"), ("1.5",)]
    assert list(manifest.digests.values()) == [item.sha256 for item in named]
    assert digest_set(named) == digest_set(named[::-1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("root", None), ("root", [1.5]), ("root", [True]), ("name", None), ("name", []), ("sha256", "a" * 63),
        ("sha256", "g" * 64), ("sha256", 5), ("dtype", "float33"), ("dtype", 5), ("shape", [-1]),
        ("shape", [True]), ("shape", "2"),
    ],
)  # fmt: skip
def test_a_malformed_manifest_is_a_sentence(tmp_path: Path, field: str, value: object) -> None:
    document: dict[str, Any] = manifest_document(NAMED[:1])
    document["entries"][0][field] = value
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document))
    with pytest.raises(MalformedCheckpoint, match="entry 0"):
        read_checkpoint(str(path), manifests=True)


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"schema": "ckpttool/manifest/1"}', "{", '{"schema": "x", "entries": []}']
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(CkptToolError):
        read_checkpoint(str(path), manifests=True)


def test_a_name_twice_or_another_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    document: dict[str, Any] = manifest_document(NAMED[:1])
    for change in ({"entries": document["entries"] * 2}, {"digest": {**document["digest"], "all": "0" * 64}}):
        path.write_text(json.dumps({**document, **change}))
        with pytest.raises(MalformedCheckpoint):
            read_checkpoint(str(path), manifests=True)
