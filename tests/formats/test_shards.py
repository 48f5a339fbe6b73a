"""Sharded checkpoints: what save_pretrained writes reads whole; what is wrong between files is said."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.formats import read_checkpoint
from ckpttool.formats.base import Limits, Look
from ckpttool.formats.folders.shards import is_index
from ckpttool.values.checkpoint import Checkpoint, Container, Entry, GlobalRef, Value
from ckpttool.values.errors import CkptToolError, LimitExceeded, MalformedCheckpoint, UnknownFormat
from tests.support.sharded import (
    INDEX,
    LIMITS,
    TENSORS,
    codes,
    read_file,
    read_folder,
    read_index,
    refusal,
    shard_name,
    two_shards,
    write_index,
    write_shards,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return two_shards(tmp_path)


def test_a_folder_reads_as_its_shards_load(model: Path) -> None:
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert (checkpoint.path, checkpoint.format) == (str(model), "sharded_safetensors")
    assert codes(checkpoint) == []
    assert {entry.name for entry in checkpoint.entries} == set(TENSORS)
    for entry in checkpoint.entries:
        info = entry.tensor
        assert info is not None
        assert info.storage is not None
        assert (f"torch.{info.dtype.name}", info.shape) == (
            str(TENSORS[str(entry.name)].dtype),
            tuple(TENSORS[str(entry.name)].shape),
        )
        content = Path(info.storage.file).read_bytes()
        loaded = torch.frombuffer(
            bytearray(content[info.storage.byte_offset :][: info.nbytes]),
            dtype=TENSORS[str(entry.name)].dtype,
        )
        assert torch.equal(loaded, TENSORS[str(entry.name)].reshape(-1))
    assert [Path(file.path).name for file in checkpoint.files] == [INDEX, shard_name(1, 2), shard_name(2, 2)]
    assert checkpoint.file_nbytes == sum((model / Path(f.path).name).stat().st_size for f in checkpoint.files)
    assert checkpoint.metadata == {"format": "pt", "total_size": "52"}
    assert not checkpoint.ordered


def test_the_index_reads_as_the_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_folder(str(model), LIMITS, read_file)
    assert read_index(str(model / INDEX), LIMITS, read_file)._replace(path=whole.path) == whole
    monkeypatch.chdir(model)
    assert [e.name for e in read_index(INDEX, LIMITS, read_file).entries] == [e.name for e in whole.entries]


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors.index.json",
        "model.safetensors.index.fp16.json",
        "pytorch_model.bin.index.json",
        "anything.safetensors.index.json",
    ],
)
def test_every_spelling_of_an_index_is_found(name: str, model: Path) -> None:
    (model / INDEX).rename(model / name)
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert len(checkpoint.entries) == len(TENSORS)
    assert checkpoint.layout == "2 shards and an index"


def test_an_index_is_known_by_its_content_or_its_name() -> None:
    assert is_index(b' {"metadata": {}, "weight_map": {', "/x/anything")
    assert is_index(b'{"metadata": {"long": "', f"/x/{INDEX}")
    assert not is_index(b'{"model_type": "bert"}', "/x/config.json")
    assert not is_index(b'PK\x03\x04"weight_map"', f"/x/{INDEX}")
    assert not is_index(b"", f"/x/{INDEX}")


def test_what_torch_shards_hold_beside_tensors_is_kept(tmp_path: Path) -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for name in names:
        (tmp_path / name).write_bytes(b"PK")

    def read_bin(look: Look) -> Checkpoint:
        path = look.source.name
        number = names.index(Path(path).name)
        return Checkpoint(
            path,
            "torch_zip",
            "",
            (),
            (Entry((), f"t{number}", None),),
            values=(Value((), f"v{number}", number),),
            containers=(Container((), "collections.OrderedDict", 2),),
            module_versions={(): {f"m{number}": 2}},
            globals=(GlobalRef("torch._utils", "_rebuild_tensor_v2", number == 1, (path,)),),
        )

    checkpoint = read_folder(str(tmp_path), LIMITS, read_bin)
    assert (checkpoint.format, checkpoint.layout, checkpoint.ordered) == (
        "sharded_torch",
        "2 shards without an index",
        True,
    )
    assert [entry.name for entry in checkpoint.entries] == ["t0", "t1"]
    assert [value.name for value in checkpoint.values] == ["v0", "v1"]
    assert checkpoint.containers == (Container((), "collections.OrderedDict", 4),)
    assert checkpoint.module_versions == {(): {"m0": 2, "m1": 2}}
    (called,) = checkpoint.globals
    assert called.called
    assert len(called.places) == 2


def test_shards_of_torch_save_read_as_they_load(tmp_path: Path) -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    parts = [
        {"a.weight": TENSORS["a.weight"]},
        {"b.weight": TENSORS["b.weight"], "c.count": TENSORS["c.count"]},
    ]
    weight_map = {}
    for name, part in zip(names, parts, strict=True):
        torch.save(part, tmp_path / name)
        weight_map |= dict.fromkeys(part, name)
    write_index(tmp_path, weight_map, {"total_size": 40}, "pytorch_model.bin.index.json")
    checkpoint = read_checkpoint(str(tmp_path))
    assert (checkpoint.format, checkpoint.ordered) == ("sharded_torch", True)
    assert codes(checkpoint) == []
    assert [entry.name for entry in checkpoint.entries] == list(weight_map)
    for entry in checkpoint.entries:
        assert entry.tensor is not None
        assert entry.tensor.storage is not None
        name = str(entry.name)
        loaded = torch.load(tmp_path / weight_map[name], weights_only=True)[name]
        content = Path(entry.tensor.storage.file).read_bytes()[entry.tensor.storage.byte_offset :]
        value = torch.frombuffer(bytearray(content[: entry.tensor.nbytes]), dtype=loaded.dtype)
        assert torch.equal(value, loaded.reshape(-1))


def test_a_pointer_in_the_place_of_a_shard_is_named(model: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 4265146304\n"
    (model / shard_name(2, 2)).write_text(pointer)
    with pytest.raises(UnknownFormat, match=r"model-00002-of-00002\.safetensors: git-lfs pointer") as caught:
        read_checkpoint(str(model))
    assert caught.value.hint == f"git lfs pull --include {shard_name(2, 2)}"


# ------------------------------------------------------------------------------------------- hostile indexes


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../model.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "https://example.org/model.safetensors",
        "file:///etc/passwd",
        "model\0.safetensors",
        "n" * 256,
        "ж" * 128,
    ],
)
def test_a_shard_is_a_plain_name(name: str, model: Path) -> None:
    error = refusal(write_index(model, {"a.weight": name}), read_index)
    assert isinstance(error, MalformedCheckpoint)
    assert "not named by a plain file name" in error.what


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"[]", "JSON without a weight_map"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 99\n", "stand for 99"),
        (b"{", "not JSON"),
        (b"{}", "no weight_map"),
        (b'{"weight_map": []}', "weight_map is not an object"),
        (b'{"weight_map": {"a": 1}}', "'a', got an integer"),
        (b'{"weight_map": {"a": ["x"]}}', "'a', got an array"),
        (b'{"weight_map": {}, "metadata": 3}', "metadata of the index is not an object"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "'a' twice"),
        (b'{"weight_map": {"a": "x", "\\u0061": "y"}}', "'a' twice"),
        (b'{"weight_map": {"a": "\\ud800"}}', "lone surrogate"),
        (b'{"weight_map": {}, "weight_map": {}}', "'weight_map' twice"),
        (b'{"weight_map": {"a": NaN}}', "NaN"),
        (b'{"weight_map": {"a": "x"', "not JSON"),
        (b'{"weight_map": ' + b"[" * 100_000, "nesting of the index"),
        (b'{"weight_map": {}, "metadata": {"x": ' + b"9" * 5000 + b"}}", "thousands of digits"),
    ],
)
def test_a_malformed_index_is_refused_with_its_reason(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(content)
    assert expected in refusal(tmp_path / INDEX, read_index).describe()
    assert expected in refusal(tmp_path).describe()


def test_nothing_exceeds_a_limit(model: Path) -> None:
    assert isinstance(refusal(model, limits=Limits(header_nbytes=50)), LimitExceeded)
    assert "names in the index" in refusal(model, limits=Limits(entries=3)).describe()
    write_index(model, {"a.weight": shard_name(1, 2), "b.weight": shard_name(2, 2)})
    assert "tensors in all shards" in refusal(model, limits=Limits(entries=3)).describe()


@pytest.mark.parametrize("inner", ["itself", "another"])
def test_an_index_in_the_place_of_a_shard_is_refused(inner: str, model: Path) -> None:
    target = "loop.safetensors" if inner == "itself" else shard_name(1, 2)
    write_index(model, {"a.weight": "loop.safetensors"})
    write_index(model, {"a.weight": target}, name="loop.safetensors")
    assert "a shard is itself an index" in refusal(model / INDEX, read_index).describe()


def test_an_index_that_names_itself_is_refused(model: Path) -> None:
    write_index(model, {"a.weight": INDEX})
    assert "a shard is itself an index" in refusal(model).describe()


def test_a_shard_that_is_no_regular_file_is_refused_at_once(model: Path) -> None:
    shard = model / shard_name(2, 2)
    shard.unlink()
    shard.mkdir()
    assert "a directory, not a regular file" in str(refusal(model))
    shard.rmdir()
    os.mkfifo(shard)
    start = time.monotonic()
    assert "a FIFO, not a regular file" in str(refusal(model))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("target", ["/etc/passwd", "../elsewhere.safetensors", "../blobs/0123abcd"])
def test_a_link_out_of_the_folder_is_refused(target: str, model: Path) -> None:
    for name in ("elsewhere.safetensors", "blobs/0123abcd"):
        (model.parent / name).parent.mkdir(exist_ok=True)
        (model.parent / name).write_bytes((model / shard_name(2, 2)).read_bytes())
    (model / shard_name(2, 2)).unlink()
    (model / shard_name(2, 2)).symlink_to(target)
    assert "symbolic link that leaves the folder" in refusal(model).describe()
    assert "symbolic link that leaves the folder" in refusal(model / INDEX, read_index).describe()


def test_a_link_within_the_folder_is_followed(model: Path) -> None:
    (model / shard_name(2, 2)).rename(model / "data")
    (model / shard_name(2, 2)).symlink_to("data")
    assert len(read_folder(str(model), LIMITS, read_file).entries) == len(TENSORS)


def cache_of(model: Path, folder: Path, depth: int = 0) -> Path:
    """Lay ``model`` out as the Hugging Face cache does, and return the folder of the revision."""
    repository = folder / "models--org--name"
    inner = repository / "snapshots" / "0a1b" / Path(*["sub"] * depth)
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    inner.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        file.rename(repository / "blobs" / f"{number:040x}")
        (inner / file.name).symlink_to("../" * (2 + depth) + f"blobs/{number:040x}")
    return inner


@pytest.mark.parametrize("depth", [0, 1])
def test_the_links_of_a_hugging_face_cache_are_followed(depth: int, model: Path, tmp_path: Path) -> None:
    inner = cache_of(model, tmp_path / "hub", depth)
    checkpoint = read_folder(str(inner), LIMITS, read_file)
    assert len(checkpoint.entries) == len(TENSORS)
    assert codes(checkpoint) == []
    assert len(read_index(str(inner / INDEX), LIMITS, read_file).entries) == len(TENSORS)


@pytest.mark.parametrize(
    "target", ["../../../secret", "../../blobs/../../secret", "../other/x", "/etc/passwd"]
)
def test_other_links_out_of_a_cache_are_refused(target: str, model: Path, tmp_path: Path) -> None:
    inner = cache_of(model, tmp_path / "hub")
    (tmp_path / "hub" / "secret").write_bytes(b"x")
    (inner / shard_name(2, 2)).unlink()
    (inner / shard_name(2, 2)).symlink_to(target)
    assert "leaves the folder" in refusal(inner).describe()


def test_a_circle_of_links_is_no_traceback(model: Path) -> None:
    (model / shard_name(2, 2)).unlink()
    (model / shard_name(2, 2)).symlink_to(shard_name(2, 2))
    with pytest.raises((CkptToolError, OSError)):
        read_folder(str(model), LIMITS, read_file)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.just(shard_name(1, 2)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a.weight", "x", ""]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["weight_map", "metadata", "x"]), JSON_VALUES), st.data())
def test_any_index_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        write_shards(folder, [["a.weight", "a.bias"], ["b.weight", "c.count"]])
    content = bytearray(json.dumps(document).encode())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / INDEX).write_bytes(content)
    try:
        checkpoint = read_index(str(folder / INDEX), LIMITS, read_file)
    except CkptToolError as error:
        assert error.path
    else:
        assert len({entry[:2] for entry in checkpoint.entries}) == len(checkpoint.entries)
