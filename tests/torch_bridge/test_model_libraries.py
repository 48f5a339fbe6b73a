"""Kinds of real architectures: how many entries are what, beside the figures of an earlier count.

Needs `pip install 'ckpttool[kinds]'`. The table of docs/models.md is what these tests measure.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.architectures import LIBRARIES, truth_of
from ckpttool import cli
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.values.checkpoint import Kind

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

Figures = tuple[int, int, int]

# Parameters, persistent buffers, non-persistent buffers: timm 1.0.31, transformers 5.23.0, torch 2.13.0.
TIMM: dict[str, Figures] = {
    "swin_tiny_patch4_window7_224": (173, 0, 17),
    "beit_base_patch16_224": (199, 0, 24),
    "eva02_tiny_patch14_224": (162, 0, 14),
    "levit_128": (208, 192, 14),
}
TRANSFORMERS: dict[str, Figures] = {"LlamaForCausalLM": (21, 0, 2), "BertModel": (39, 0, 2)}


def timm_factory(name: str) -> Callable[[], nn.Module]:
    if importlib.util.find_spec("timm") is None:  # an import would need torchvision already
        pytest.skip("timm is not installed: pip install 'ckpttool[kinds]'")
    # Stands in for torchvision where its compiled part does not load beside this build of torch.
    return next(item.build for item in LIBRARIES["timm"]() if item.name == name)


def transformers_factory(name: str) -> Callable[[], nn.Module]:
    reason = "transformers is not installed: pip install 'ckpttool[kinds]'"
    transformers = pytest.importorskip("transformers", reason=reason)
    config = {"LlamaForCausalLM": "LlamaConfig", "BertModel": "BertConfig"}[name]
    return lambda: getattr(transformers, name)(getattr(transformers, config)(num_hidden_layers=2))


def assert_figures(factory: Callable[[], nn.Module], expected: Figures) -> None:
    module, note = ModelSource("m", factory, {}).build_light()
    assert note == ""
    entries = describe_model(module, "m").checkpoint.entries
    kinds = Counter(entry.declared.kind for entry in entries)
    found = (kinds[Kind.PARAMETER], kinds[Kind.PERSISTENT_BUFFER], kinds[Kind.NON_PERSISTENT_BUFFER])
    # The benchmark reads the same dicts by code of its own.
    truth = truth_of(module)
    assert {str(e.name): e.declared.kind.value for e in entries if e.name in truth.kinds} == truth.kinds
    assert sorted(
        str(entry.name) for entry in entries if entry.declared.kind is Kind.NON_PERSISTENT_BUFFER
    ) == sorted(truth.non_persistent)
    assert found == expected


@pytest.mark.parametrize("name", TIMM)
def test_figures_of_timm(name: str) -> None:
    assert_figures(timm_factory(name), TIMM[name])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_figures_of_transformers(name: str) -> None:
    assert_figures(transformers_factory(name), TRANSFORMERS[name])


def test_torchvision_keeps_in_the_file_what_timm_does_not() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:  # no file: the stand-in of the timm tests
        pytest.skip("torchvision is not installed")
    try:
        from torchvision.models import swin_t
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import beside torch {torch.__version__}: {error}")
    assert_figures(swin_t, (173, 12, 0))


# ---------------------------------------------------------------------------------------- --model hf


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("named", ["model.safetensors", ""])
def test_hf_builds_what_config_json_names(
    llama: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(llama / named), "--model", "hf", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    presences = Counter((entry["kind"], entry["presence"]) for entry in document["entries"])
    assert presences == {("parameter", "present"): 21, ("non_persistent_buffer", "missing"): 2}
    assert document["model"]["class_name"].endswith(".LlamaForCausalLM")
    assert all(entry["exact"] for entry in document["entries"])


def test_hf_runs_no_code_that_lies_beside_the_checkpoint(
    llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    witness = llama / "witness"
    (llama / "modeling_own.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    config = json.loads((llama / "config.json").read_text("utf-8"))
    del config["model_type"]
    config["auto_map"] = {"AutoConfig": "modeling_own.Config", "AutoModel": "modeling_own.Model"}
    (llama / "config.json").write_text(json.dumps(config))
    assert cli.main(["inspect", str(llama / "model.safetensors"), "--model", "hf"]) == 2
    assert "trust_remote_code" in capsys.readouterr().err
    assert not witness.exists()
