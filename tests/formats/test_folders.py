"""A folder: which of its files are taken, and what is said of the others."""

from pathlib import Path

import pytest
import safetensors.torch

from ckpttool.values.errors import LimitExceeded, UnknownFormat, UnsupportedFeature
from tests.support.sharded import (
    INDEX,
    LIMITS,
    TENSORS,
    codes,
    read_file,
    read_folder,
    refusal,
    shard_name,
    two_shards,
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return two_shards(tmp_path)


def save_tensors(path: Path) -> None:
    safetensors.torch.save_file(TENSORS, path, metadata={"format": "pt"})


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
        ([shard_name(1, 999_999)], "999,998 of 999,999 shards of model.safetensors missing: number 2, 3"),
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
    "cut dcp": (["__0_0.distcp"], "1 .distcp file without its .metadata", "interrupted"),
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
    "orbax": (["_CHECKPOINT_METADATA", "params/"], "an Orbax checkpoint (JAX)", "orbax.checkpoint"),
    "orbax item": (["_METADATA", "manifest.ocdbt", "d/"], "an Orbax checkpoint (JAX)", "orbax.checkpoint"),
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
