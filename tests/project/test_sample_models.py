"""What each sample model owns, as a table. What its docstring claims is in ``test_sample_model_claims``.

Read `OWNS` as a lesson: three sets for each model. Parameters are trained, persistent buffers are saved and
not trained, non-persistent buffers are neither, and no file can bring them back.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import sample_models
from tests.support.owned import as_bytes, buffer_names, named_tensors


class Owns(NamedTuple):
    """Names, under every name that a tensor has; separated by blanks."""

    parameters: str = ""
    persistent_buffers: str = ""
    non_persistent_buffers: str = ""


OWNS: dict[str, Owns] = {
    "linear_xavier": Owns(
        parameters="weight bias",
    ),
    "batch_norm_by_hand": Owns(
        parameters="weight bias",
        persistent_buffers="running_mean running_var num_batches_tracked",
    ),
    "four_ways_to_register": Owns(
        parameters="weight bias",
        persistent_buffers="mean std",
    ),
    "sinusoidal_positions": Owns(
        parameters="token.weight",
        persistent_buffers="pe",
    ),
    # The twins: the same names on the two sides of the line.
    "conv_parameters": Owns(
        parameters="conv1.weight conv1.bias conv2.weight conv2.bias",
    ),
    "conv_buffers": Owns(
        persistent_buffers="conv1.weight conv1.bias conv2.weight conv2.bias",
    ),
    "only_parameters": Owns(
        parameters="up.weight up.bias norm.weight norm.bias down.weight",
    ),
    "running_mean": Owns(
        persistent_buffers="mean",
        non_persistent_buffers="window",
    ),
    # Tied: one tensor, two names. `parameters()` has it once.
    "tied_embeddings": Owns(
        parameters="embed_tokens.weight lm_head.weight mix.weight mix.bias",
    ),
    # bn2 has no scale and shift (affine=False), bn3 no statistics (track_running_stats=False).
    "batch_norm_stack": Owns(
        parameters="conv1.weight bn1.weight bn1.bias conv2.weight conv3.weight bn3.weight bn3.bias",
        persistent_buffers=(
            "bn1.running_mean bn1.running_var bn1.num_batches_tracked "
            "bn2.running_mean bn2.running_var bn2.num_batches_tracked"
        ),
    ),
    "rotary_decoder": Owns(
        parameters=" ".join(
            [
                "embed_tokens.weight",
                *(
                    f"layers.{index}.{name}.weight"
                    for index in range(3)
                    for name in (
                        "input_layernorm",
                        "self_attn.q_proj",
                        "self_attn.k_proj",
                        "self_attn.v_proj",
                        "self_attn.o_proj",
                        "post_attention_layernorm",
                        "gate_proj",
                        "up_proj",
                        "down_proj",
                    )
                ),
                "norm.weight",
                "lm_head.weight",
            ]
        ),
        non_persistent_buffers=" ".join(
            f"layers.{index}.self_attn.rotary_emb.inv_freq" for index in range(3)
        ),
    ),
    # `bias`, `center` and `last_input` are slots that hold None: no tensor, so no name.
    "none_slots": Owns(
        parameters="weight",
    ),
    # Frozen parameters are parameters.
    "frozen_parameters": Owns(
        parameters="projection backbone.weight backbone.bias head.weight head.bias",
    ),
    # A weight that is a buffer: float8 cannot be trained.
    "low_precision": Owns(
        parameters="stem.weight stem.bias",
        persistent_buffers="quantized.weight quantized.weight_scale gain",
    ),
    "scalar_and_empty": Owns(
        parameters="logit_scale prompts classes",
        persistent_buffers="steps is_fitted no_history phase",
    ),
    # And the key vocabulary._extra_state, which is neither.
    "extra_state": Owns(
        parameters="embedding.weight",
    ),
    # `first.weight` and `second.weight` are computed, so they are no names.
    "weight_norm": Owns(
        parameters=(
            "first.bias first.parametrizations.weight.original0 first.parametrizations.weight.original1 "
            "second.bias second.parametrizations.weight.original"
        ),
        persistent_buffers="second.parametrizations.weight.0._u second.parametrizations.weight.0._v",
    ),
    # `offset`, `gains` and `shift` are missing here. That is the mistake that it shows.
    "unregistered_tensor": Owns(
        parameters="linear.weight linear.bias",
    ),
    "lazy_shapes": Owns(
        parameters="conv.weight conv.bias norm.weight norm.bias head.weight head.bias",
        persistent_buffers="norm.running_mean norm.running_var norm.num_batches_tracked",
    ),
    # One linear layer and one norm, two names each.
    "shared_submodule": Owns(
        parameters=(
            "block.weight block.bias norm.weight norm.bias "
            "again.weight again.bias norm_again.weight norm_again.bias"
        ),
        persistent_buffers=(
            "norm.running_mean norm.running_var norm.num_batches_tracked "
            "norm_again.running_mean norm_again.running_var norm_again.num_batches_tracked"
        ),
    ),
    "buffer_view_of_parameter": Owns(
        parameters="weight",
        persistent_buffers="padding_row",
    ),
    # Block 0 does not shift its windows: its slot `attn_mask` holds None.
    "swin_window_attention": Owns(
        parameters=(
            "patch_embed.weight patch_embed.bias "
            "blocks.0.norm.weight blocks.0.norm.bias blocks.0.attn.relative_position_bias_table "
            "blocks.0.attn.qkv.weight blocks.0.attn.qkv.bias blocks.0.attn.proj.weight "
            "blocks.0.attn.proj.bias "
            "blocks.1.norm.weight blocks.1.norm.bias blocks.1.attn.relative_position_bias_table "
            "blocks.1.attn.qkv.weight blocks.1.attn.qkv.bias blocks.1.attn.proj.weight "
            "blocks.1.attn.proj.bias "
            "head.weight head.bias"
        ),
        non_persistent_buffers=(
            "blocks.0.attn.relative_position_index blocks.1.attn.relative_position_index blocks.1.attn_mask"
        ),
    ),
    "wrapped_names": Owns(
        parameters=(
            "module._orig_mod.mlp.up.weight module._orig_mod.mlp.up.bias "
            "module._orig_mod.mlp.norm.weight module._orig_mod.mlp.norm.bias module._orig_mod.mlp.down.weight"
        ),
        persistent_buffers="module._orig_mod.frontend.mean",
        non_persistent_buffers="module._orig_mod.frontend.window",
    ),
}


every_model = pytest.mark.parametrize("name", sample_models.NAMES)


# A lazy module has neither shapes nor bytes before its first forward; it has a test of its own below.
every_model_with_shapes = pytest.mark.parametrize(
    "name", [name for name in sample_models.NAMES if name != "lazy_shapes"]
)


def parameter_names(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_parameters(remove_duplicate=False)}


# ----------------------------------------------------------------------------------------------- every model


def test_names_is_sorted_and_is_every_model_file() -> None:
    folder = Path(sample_models.__file__).parent
    no_models = {"__init__", "same_bytes", "seeding", "write_demo"}
    assert tuple(sorted({file.stem for file in folder.glob("*.py")} - no_models)) == sample_models.NAMES
    assert set(OWNS) == set(sample_models.NAMES)


def test_load_of_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(KeyError, match=r"no sample model 'resnet'; there are .*conv_buffers"):
        sample_models.load("resnet")


@every_model
def test_owns_exactly_what_the_table_says(name: str) -> None:
    model = sample_models.load(name).build()
    saved = set(model.state_dict())
    assert parameter_names(model) == set(OWNS[name].parameters.split())
    assert buffer_names(model) & saved == set(OWNS[name].persistent_buffers.split())
    assert buffer_names(model) - saved == set(OWNS[name].non_persistent_buffers.split())


@every_model
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_forward_takes_the_example_input(name: str, training: bool) -> None:
    sample = sample_models.load(name)
    model = sample.build().train(training)
    with torch.random.fork_rng(devices=[]):  # a lazy module draws its weights now
        output = model(*sample.example_input())
    assert isinstance(output, Tensor)
    assert output.numel() > 0
    assert output.isfinite().all()


@every_model
def test_docstring_is_more_than_a_title(name: str) -> None:
    doc = sample_models.load(name).__doc__
    assert doc is not None
    title, _, lesson = doc.partition("\n\n")
    assert title.endswith(".")
    assert len(lesson.split()) >= 25


@every_model_with_shapes
def test_two_builds_are_equal_by_bytes_and_leave_the_random_state_alone(name: str) -> None:
    sample = sample_models.load(name)
    before = torch.random.get_rng_state()
    first, second = sample.build(), sample.build()
    assert torch.equal(torch.random.get_rng_state(), before)
    for (key, a), (_, b) in zip(named_tensors(first), named_tensors(second), strict=True):
        assert (key, a.dtype, a.shape, as_bytes(a)) == (key, b.dtype, b.shape, as_bytes(b))


@every_model
def test_builds_on_meta(name: str) -> None:
    with torch.device("meta"):
        model = sample_models.load(name).build()
    assert {tensor.device.type for _, tensor in named_tensors(model)} == {"meta"}


@every_model_with_shapes
def test_its_own_state_dict_loads_strictly(name: str) -> None:
    sample = sample_models.load(name)
    sample.build().load_state_dict(sample.build().state_dict(), strict=True)
