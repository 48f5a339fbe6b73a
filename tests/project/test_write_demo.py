"""The demo checkpoints are what their names say, by torch's and safetensors' own word."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sample_models import write_demo
from sample_models.same_bytes import with_exact_weights


def test_a_second_run_writes_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    files = write_demo.write_demo(tmp_path)
    assert len(files) == 25
    for file in files:
        name = file.relative_to(tmp_path)
        assert file.read_bytes() == (demo / name).read_bytes(), name


@pytest.mark.parametrize(
    "name",
    [
        "base.pt",
        "batch_norms_legacy.pth",
        "conv_buffers.pt",
        "conv_parameters.pt",
        "decoder_training.pt",
        "extra_state.pt",
        "linear.pt",
        "low_precision.pt",
        "scalar_and_empty.pt",
        "swin.pt",
        "swin_ddp_compiled.pt",
        "tied.pt",
    ],
)
def test_torch_reads_it_with_weights_only(demo: Path, name: str) -> None:
    assert torch.load(demo / name, weights_only=True)


def test_training_checkpoint_has_two_moments_for_each_parameter(demo: Path) -> None:
    checkpoint = torch.load(demo / "decoder_training.pt", weights_only=True)
    state = checkpoint["optimizer"]["state"]
    assert len(state) == len(checkpoint["model"]) == 21
    for moments, weight in zip(state.values(), checkpoint["model"].values(), strict=True):
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == weight.shape
        assert moments["step"] == 3


def test_whole_module_names_its_class_and_is_refused_by_weights_only(demo: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"sample_models\.batch_norm_stack\.ConvNormStack"):
        torch.load(demo / "batch_norms_whole_module.pt", weights_only=True)


def test_torchscript_gives_what_the_model_gives(demo: Path) -> None:
    scripted = torch.jit.load(demo / "batch_norms_torchscript.pt")
    model = with_exact_weights(write_demo.batch_norm_stack.build()).eval()
    (x,) = write_demo.batch_norm_stack.example_input()
    torch.testing.assert_close(scripted(x), model(x))


def test_legacy_file_is_no_zip(demo: Path) -> None:
    assert (demo / "linear.pt").read_bytes()[:2] == b"PK"
    assert (demo / "batch_norms_legacy.pth").read_bytes()[:2] != b"PK"


def test_shards_hold_what_the_index_says(demo: Path) -> None:
    index = json.loads((demo / "sharded" / "model.safetensors.index.json").read_text("utf-8"))
    found = {}
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(demo / "sharded" / file, framework="pt") as shard:
            found |= {name: (file, shard.get_tensor(name).nbytes) for name in shard.keys()}  # noqa: SIM118
    assert {name: file for name, (file, _) in found.items()} == index["weight_map"]
    assert sum(nbytes for _, nbytes in found.values()) == index["metadata"]["total_size"]


def test_tuning_changed_the_last_layer_and_the_head_only(demo: Path) -> None:
    base = torch.load(demo / "base.pt", weights_only=True)
    with safe_open(demo / "tuned.safetensors", framework="pt") as tuned:
        assert set(tuned.keys()) == set(base)
        changed = {name for name in base if not torch.equal(base[name], tuned.get_tensor(name))}
    assert changed == {name for name in base if name.startswith(("layers.2.", "lm_head."))}


@pytest.mark.parametrize(("name", "parameters"), [("swin.py", 18), ("forgotten.py", 2)])
def test_source_of_a_model_stands_on_its_own(demo: Path, name: str, parameters: int) -> None:
    code = (
        f"import runpy; build = runpy.run_path({name!r})['build']; "
        "import sys; print(len(list(build().parameters())), 'sample_models' in sys.modules)"
    )
    # Isolated: neither the checkout nor the folder is importable.
    run = subprocess.run([sys.executable, "-I", "-c", code], cwd=demo, capture_output=True, text=True)
    assert run.stdout == f"{parameters} False\n", run.stderr


def test_command_without_a_folder_says_how_to_call_it() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "sample_models.write_demo"], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "usage: python -m sample_models.write_demo DIR\n"
