"""Sharded checkpoints: what save_pretrained writes reads whole; what is wrong between files is said."""

import json
import os
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckpttool.files.local import FileSource, Sources
from ckpttool.formats import folders, read_checkpoint
from ckpttool.formats.base import Limits, Reading
from ckpttool.formats.folders import shards as reader
from ckpttool.formats.folders.shards import is_index
from ckpttool.formats.safetensors import SafetensorsFormat
from ckpttool.values.checkpoint import Checkpoint, Container, Entry, GlobalRef, StorageRef, TensorInfo, Value
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.errors import (
    CkptToolError,
    LimitExceeded,
    MalformedCheckpoint,
    UnknownFormat,
    UnsupportedFeature,
)

LIMITS = Limits()
INDEX = "model.safetensors.index.json"
TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "a.bias": torch.zeros(3),
    "b.weight": torch.ones(2, 2, dtype=torch.float16),
    "c.count": torch.tensor(7),
}


def read_file(source: FileSource, limits: Limits) -> Checkpoint:
    return SafetensorsFormat().read(source, limits)


def read_folder(path: str, limits: Limits, read: Callable[[FileSource, Limits], Checkpoint]) -> Checkpoint:
    with closing(Sources()) as sources:
        return folders.read_folder(path, Reading(limits, sources, read))


def read_index(path: str, limits: Limits, read: Callable[[FileSource, Limits], Checkpoint]) -> Checkpoint:
    with closing(Sources()) as sources, sources.reading(path) as source:
        return reader.read_index(source, Reading(limits, sources, read))


def shard_name(number: int, total: int, stem: str = "model") -> str:
    return f"{stem}-{number:05d}-of-{total:05d}.safetensors"


def write_shards(folder: Path, parts: Iterable[Iterable[str]], **metadata: str) -> dict[str, str]:
    """Write TENSORS in parts, and return the weight_map."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [list(part) for part in parts]
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        name = shard_name(number, len(parts))
        tensors = {key: TENSORS.get(key, torch.zeros(1)) for key in part}
        safetensors.torch.save_file(tensors, folder / name, metadata={"format": "pt", **metadata})
        weight_map |= dict.fromkeys(part, name)
    return weight_map


def save_tensors(path: Path) -> None:
    safetensors.torch.save_file(TENSORS, path, metadata={"format": "pt"})


def write_index(folder: Path, weight_map: object, metadata: object = None, name: str = INDEX) -> str:
    document = (
        {"weight_map": weight_map} if metadata is None else {"metadata": metadata, "weight_map": weight_map}
    )
    (folder / name).write_text(json.dumps(document))
    return str(folder / name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as save_pretrained leaves it: two shards, an index, a configuration."""
    folder = tmp_path / "model"
    weight_map = write_shards(folder, [["a.weight", "a.bias"], ["b.weight", "c.count"]])
    total = sum(tensor.nbytes for tensor in TENSORS.values())
    write_index(folder, weight_map, {"total_size": total})
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def codes(checkpoint: Checkpoint) -> list[tuple[str, str, str]]:
    return [(finding.code, finding.severity, finding.name) for finding in checkpoint.findings]


def refusal(
    path: Path | str, read: Callable[..., Checkpoint] = read_folder, limits: Limits = LIMITS
) -> CkptToolError:
    with pytest.raises(CkptToolError) as caught:
        read(str(path), limits, read_file)
    assert caught.value.path
    assert "\n" not in str(caught.value)
    return caught.value


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


def test_a_missing_shard_is_named(model: Path) -> None:
    (model / shard_name(2, 2)).unlink()
    error = refusal(model)
    assert isinstance(error, MalformedCheckpoint)
    assert error.describe() == "1 of 2 shards missing: model-00002-of-00002.safetensors"
    assert error.hint
    assert refusal(model / INDEX, read_index).describe() == error.describe()


def test_a_link_that_leads_nowhere_is_a_missing_shard(model: Path) -> None:
    (model / shard_name(2, 2)).unlink()
    (model / shard_name(2, 2)).symlink_to("gone.safetensors")
    assert "1 of 2 shards missing" in refusal(model).describe()


def test_a_name_in_no_shard(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, {**weight_map, "lost": shard_name(1, 2)})
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-key-missing", "error", "lost")]
    assert shard_name(1, 2) in checkpoint.findings[0].message


def test_a_name_in_another_shard_than_the_index_says(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, {**weight_map, "a.bias": shard_name(2, 2)})
    assert codes(read_folder(str(model), LIMITS, read_file)) == [("shard-key-elsewhere", "warning", "a.bias")]


def test_a_name_that_the_index_lacks_is_read_and_said(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    del weight_map["a.bias"]
    write_index(model, weight_map)
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-key-unlisted", "warning", "a.bias")]
    assert len(checkpoint.entries) == len(TENSORS)


@pytest.mark.parametrize("said", [1, 2])
def test_a_name_in_two_shards_is_taken_from_the_one_in_the_index(said: int, tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path, [["a.weight", "a.bias"], ["a.weight", "c.count"]])
    write_index(tmp_path, {**weight_map, "a.weight": shard_name(said, 2)})
    checkpoint = read_folder(str(tmp_path), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-key-twice", "error", "a.weight")]
    (entry,) = [entry for entry in checkpoint.entries if entry.name == "a.weight"]
    assert entry.tensor is not None
    assert entry.tensor.storage is not None
    assert Path(entry.tensor.storage.file).name == shard_name(said, 2)


@pytest.mark.parametrize(
    ("total", "ok"), [(52, True), (52.0, True), (53, False), ("52", False), (True, False), (-1, False)]
)
def test_the_declared_total_is_compared(total: object, ok: bool, model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, weight_map, {"total_size": total})
    expected = [] if ok else [("shard-total-size", "warning", "")]
    assert codes(read_folder(str(model), LIMITS, read_file)) == expected


def test_tied_tensors_may_count_once_in_the_total(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00001.bin").write_bytes(b"x")
    storage = StorageRef("f", "0", 0, 8)
    info = TensorInfo(BY_NAME["float32"], (2,), (1,), 0, storage)

    def read_tied(source: FileSource, limits: Limits) -> Checkpoint:
        return Checkpoint(source.name, "torch_zip", "", (), (Entry((), "a", info), Entry((), "b", info)))

    weight_map = dict.fromkeys("ab", "model-00001-of-00001.bin")
    for total, expected in ((8, []), (16, []), (12, ["shard-total-size"])):
        index = write_index(tmp_path, weight_map, {"total_size": total}, "model.bin.index.json")
        assert [f.code for f in read_index(index, LIMITS, read_tied).findings] == expected


def test_a_stray_shard_is_said_and_not_read(model: Path) -> None:
    safetensors.torch.save_file({"old": torch.zeros(1)}, model / shard_name(3, 3))
    safetensors.torch.save_file({"other": torch.zeros(1)}, model / "adapter.safetensors")
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert codes(checkpoint) == [("shard-stray", "warning", ""), ("folder-not-all-read", "info", "")]
    assert shard_name(3, 3) in checkpoint.findings[0].message
    assert "adapter.safetensors" in checkpoint.findings[1].message
    assert len(checkpoint.entries) == len(TENSORS)


def test_many_findings_of_one_code_are_counted(model: Path) -> None:
    weight_map = json.loads((model / INDEX).read_text("utf-8"))["weight_map"]
    write_index(model, weight_map | {f"lost.{i}": shard_name(1, 2) for i in range(500)})
    findings = read_folder(str(model), LIMITS, read_file).findings
    assert len(findings) == 21
    assert "480 more" in findings[-1].message


def test_findings_of_a_shard_say_which(tmp_path: Path) -> None:
    raw = json.dumps({"t": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "more": 1}}).encode()
    (tmp_path / shard_name(1, 1)).write_bytes(struct.pack("<Q", len(raw)) + raw + b"x")
    write_index(tmp_path, {"t": shard_name(1, 1)})
    (_, finding) = read_folder(str(tmp_path), LIMITS, read_file).findings
    assert finding.message.startswith(f"{shard_name(1, 1)}: the header")


def test_a_finding_of_many_shards_is_said_once(tmp_path: Path) -> None:
    for number in range(1, 31):
        safetensors.torch.save_file({f"t{number}": torch.zeros(1)}, tmp_path / shard_name(number, 30))
    (finding, _) = read_folder(str(tmp_path), LIMITS, read_file).findings
    assert finding.code == "safetensors-no-format"
    assert "and 22 more: __metadata__" in finding.message


def test_metadata_that_differs_between_shards_is_said(tmp_path: Path) -> None:
    safetensors.torch.save_file(
        {"a": torch.zeros(1)}, tmp_path / shard_name(1, 2), metadata={"format": "pt", "step": "1"}
    )
    safetensors.torch.save_file(
        {"b": torch.zeros(1)}, tmp_path / shard_name(2, 2), metadata={"format": "pt", "step": "2"}
    )
    write_index(tmp_path, {"a": shard_name(1, 2), "b": shard_name(2, 2)}, {"nested": {"x": [1]}})
    checkpoint = read_folder(str(tmp_path), LIMITS, read_file)
    assert checkpoint.metadata == {"format": "pt", "step": "1", "nested": '{"x": [1]}'}
    assert codes(checkpoint) == [("shard-metadata-differs", "info", "")]


def test_what_torch_shards_hold_beside_tensors_is_kept(tmp_path: Path) -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for name in names:
        (tmp_path / name).write_bytes(b"PK")

    def read_bin(source: FileSource, limits: Limits) -> Checkpoint:
        path = source.name
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


# --------------------------------------------------------------------------------- folders without an index


def fill(folder: Path, *names: str) -> Path:
    """Files of no content and, for a name that ends in a slash, folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
    return folder


def test_shards_without_an_index(model: Path) -> None:
    (model / INDEX).unlink()
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert len(checkpoint.entries) == len(TENSORS)
    assert codes(checkpoint) == [("shard-no-index", "info", "")]


def test_shards_without_an_index_count_from_one_or_from_zero(model: Path) -> None:
    (model / INDEX).unlink()
    (model / shard_name(2, 2)).rename(model / shard_name(0, 2))
    assert len(read_folder(str(model), LIMITS, read_file).entries) == len(TENSORS)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([shard_name(1, 3), shard_name(3, 3)], "1 of 3 shards of model.safetensors missing: number 2"),
        ([shard_name(2, 2)], "1 of 2 shards of model.safetensors missing: number 1"),
        ([shard_name(1, 999_999)], "999998 of 999999 shards of model.safetensors missing: number 2, 3"),
        ([shard_name(3, 2), shard_name(1, 2)], "numbered beyond their total or twice"),
        (["model-1-of-2.safetensors", "model-01-of-2.safetensors"], "numbered beyond their total or twice"),
    ],
)
def test_shards_without_an_index_must_be_complete(names: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(fill(tmp_path / "m", *names)).describe()


def test_two_sets_of_shards_are_not_mixed(tmp_path: Path) -> None:
    error = refusal(fill(tmp_path / "m", shard_name(1, 2), shard_name(2, 2), shard_name(1, 3)))
    assert "a folder of 2 checkpoints" in error.describe()
    assert "(shard, 2 of 2 there)" in error.describe()
    assert "(shard, 1 of 3 there)" in error.describe()


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "run",
        "config.json",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state_0.pth",
        "training_args.bin",
    )
    save_tensors(folder / "adapter_model.safetensors")
    checkpoint = read_folder(str(folder), LIMITS, read_file)
    assert (checkpoint.path, checkpoint.format) == (str(folder / "adapter_model.safetensors"), "safetensors")
    assert codes(checkpoint) == []


def test_what_lies_beside_weights_is_read_where_there_are_none(tmp_path: Path) -> None:
    save_tensors(tmp_path / "optimizer.safetensors")
    assert len(read_folder(str(tmp_path), LIMITS, read_file).entries) == len(TENSORS)


def test_the_file_that_transformers_takes_is_taken_and_the_rest_said(tmp_path: Path) -> None:
    fill(tmp_path, "pytorch_model.bin", "extra.pt")
    save_tensors(tmp_path / "model.safetensors")
    checkpoint = read_folder(str(tmp_path), LIMITS, read_file)
    assert codes(checkpoint) == [("folder-not-all-read", "info", "")]
    assert "extra.pt, pytorch_model.bin; only model.safetensors was read" in checkpoint.findings[0].message


def test_one_model_as_a_file_and_as_shards_is_a_warning(model: Path) -> None:
    save_tensors(model / "model.safetensors")
    checkpoint = read_folder(str(model), LIMITS, read_file)
    assert checkpoint.path == str(model / "model.safetensors")
    assert codes(checkpoint) == [("folder-not-all-read", "warning", "")]
    assert INDEX in checkpoint.findings[0].message


def test_unrelated_checkpoints_are_listed(tmp_path: Path) -> None:
    error = refusal(fill(tmp_path / "runs", *(f"epoch={i}.ckpt" for i in range(12)), "log.txt"))
    assert isinstance(error, UnknownFormat)
    assert "a folder of 12 checkpoints: epoch=0.ckpt, epoch=1.ckpt" in error.describe()
    assert "and 4 more" in error.describe()
    assert "epoch=0.ckpt" in (error.hint or "")


def zero_names(world: int, stage: int) -> list[str]:
    model = (
        [f"zero_pp_rank_{r}_mp_rank_00_model_states.pt" for r in range(world)]
        if stage == 3
        else ["mp_rank_00_model_states.pt"]
    )
    return [*model, *(f"bf16_zero_pp_rank_{r}_mp_rank_00_optim_states.pt" for r in range(world))]


# name -> (what it holds, words of the sentence, words of the hint)
FOLDERS: dict[str, tuple[list[str], str, str]] = {
    "nothing": ([], "without a checkpoint: it holds nothing", "name a checkpoint"),
    "other files": (["a.txt", "b.py"], "it holds a.txt, b.py", "name a checkpoint"),
    "only folders": (
        [".git/", "checkpoint-500/", "checkpoint-900/"],
        "without a checkpoint",
        "/checkpoint-900",
    ),
    "dcp": (
        [".metadata", "__0_0.distcp", "__1_0.distcp"],
        "(DCP): .metadata and 2 .distcp files",
        "dcp_to_torch",
    ),
    "cut dcp": (["__0_0.distcp"], "1 .distcp files without its .metadata", "interrupted"),
    "zero 3": (
        zero_names(8, 3),
        "DeepSpeed ZeRO-3 folder, world size 8: 8 *_model_states.pt",
        "zero_to_fp32.py",
    ),
    "zero 2": (
        zero_names(4, 2),
        "DeepSpeed ZeRO folder, world size 4: 1 *_model",
        "mp_rank_00_model_states.pt holds",
    ),
    "zero 3, rank lost": (zero_names(4, 3)[:-2] + zero_names(4, 3)[-1:], "the file of rank 2 is missing", ""),
    "deepspeed run": (
        ["latest", "global_step10/", "global_step20/"],
        "2 DeepSpeed checkpoints",
        "/global_step20",
    ),
    "fsdp": (["model.rank_0.pth", "model.rank_1.pth"], "each of 2 ranks (FSDP)", "model.rank_0.pth"),
    "verl": (
        ["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"],
        "each of 2 ranks (FSDP)",
        "alone",
    ),
    "llama": (
        ["consolidated.00.pth", "consolidated.01.pth", "params.json"],
        "slices of every tensor in 2",
        "alone",
    ),
    "saved model": (["saved_model.pb", "variables/"], "a TensorFlow SavedModel", "TensorFlow"),
    "tensorflow": (
        ["checkpoint", "m.index", "m.data-00000-of-00001"],
        "a TensorFlow checkpoint",
        "TensorFlow",
    ),
    "diffusers": (
        ["model_index.json", "unet/x.safetensors", "vae/", "scheduler/", "tokenizer/"],
        "a diffusers pipeline of several models: unet, vae",
        "/unet",
    ),
    "hub repository": (
        ["blobs/", "refs/", "snapshots/0a1b/"],
        "Hugging Face cache, of 1 rev",
        "/snapshots/0a1b",
    ),
    "hub": (["models--a--b/", "models--c--d/", "version.txt"], "cache of 2 models", "/models--a--b"),
    "core ml": (["Manifest.json", "Data/"], "Core ML package", ""),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_of_another_kind_is_named_for_what_it_is(case: str, tmp_path: Path) -> None:
    names, found, hint = FOLDERS[case]
    error = refusal(fill(tmp_path / "folder", *names))
    assert isinstance(error, UnknownFormat | UnsupportedFeature)
    assert error.path == str(tmp_path / "folder")
    assert found in error.describe()
    assert hint in (error.hint or "")


@pytest.mark.parametrize("name", ["mp_rank_00_model_states.pt", "consolidated.00.pth", "model.rank_0.pth"])
def test_one_of_its_kind_is_an_ordinary_file(name: str, tmp_path: Path) -> None:
    save_tensors(tmp_path / name)
    assert len(read_folder(str(tmp_path), LIMITS, read_file).entries) == len(TENSORS)


def test_a_huge_folder_is_not_listed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpttool.files.folder._MAX_LISTED", 50)
    fill(tmp_path / "images", *(f"{i}.png" for i in range(51)))
    assert isinstance(refusal(tmp_path / "images"), LimitExceeded)
    (tmp_path / "images" / "0.png").unlink()
    assert "without a checkpoint" in refusal(tmp_path / "images").describe()


def test_a_single_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "real.safetensors")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to("../real.safetensors")
    assert "leaves the folder" in refusal(tmp_path / "m").describe()


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/."])
def test_the_spelling_of_the_folder_is_kept(spelling: str, model: Path) -> None:
    path = spelling.format(model)
    checkpoint = read_folder(path, LIMITS, read_file)
    assert checkpoint.path == path
    assert all("//" not in file.path for file in checkpoint.files)
