"""What the docstring of each sample model claims is so."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from sample_models import (
    batch_norm_by_hand,
    batch_norm_stack,
    buffer_view_of_parameter,
    conv_buffers,
    conv_parameters,
    extra_state,
    lazy_shapes,
    linear_xavier,
    low_precision,
    none_slots,
    rotary_decoder,
    running_mean,
    shared_submodule,
    sinusoidal_positions,
    swin_window_attention,
    tied_embeddings,
    unregistered_tensor,
    weight_norm,
    wrapped_names,
)
from tests.support.owned import as_bytes, buffer_names, named_tensors

# -------------------------------------------------------------------------------- what the docstrings claim


def test_twin_convolutions_save_the_same_and_differ_in_what_can_be_trained() -> None:
    trainable, constant = conv_parameters.build(), conv_buffers.build()
    assert list(trainable.state_dict()) == list(constant.state_dict())
    for name, tensor in trainable.state_dict().items():
        assert as_bytes(tensor) == as_bytes(constant.state_dict()[name])
    assert torch.equal(trainable(*conv_parameters.example_input()), constant(*conv_buffers.example_input()))

    assert len(list(trainable.parameters())) == 4
    assert list(constant.parameters()) == []
    with pytest.raises(ValueError, match="empty parameter list"):
        torch.optim.SGD(constant.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="does not require grad"):
        constant(*conv_buffers.example_input()).sum().backward()
    trainable(*conv_parameters.example_input()).sum().backward()
    assert all(parameter.grad is not None for parameter in trainable.parameters())

    trainable.load_state_dict(constant.state_dict(), strict=True)
    constant.load_state_dict(trainable.state_dict(), strict=True)


def test_xavier_bounds() -> None:
    bound = (6 / (8 + 4)) ** 0.5  # Glorot and Bengio 2010, equation 16
    weight = linear_xavier.build().weight
    assert weight.abs().max() <= bound
    assert weight.abs().max() > bound / 2


def test_batch_norm_by_hand_is_batch_norm() -> None:
    ours, torchs = batch_norm_by_hand.build(), nn.BatchNorm1d(6)
    (x,) = batch_norm_by_hand.example_input()
    for _ in range(3):
        torch.testing.assert_close(ours(x), torchs(x))
    torch.testing.assert_close(dict(ours.state_dict()), dict(torchs.state_dict()))
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x))


def test_the_type_of_a_buffer_proves_nothing() -> None:
    model = batch_norm_by_hand.build()
    assert isinstance(model.running_mean, nn.Buffer)
    model.double()
    assert not isinstance(model.running_mean, nn.Buffer)
    assert "running_mean" in model._buffers


def test_position_table_is_rebuilt_by_its_formula_and_locks_the_length() -> None:
    model = sinusoidal_positions.build()
    assert torch.equal(model.pe[0], sinusoidal_positions.sinusoidal_table(24, 16))
    assert model.pe.dtype == model.token.weight.dtype
    longer = sinusoidal_positions.TokenAndPosition(num_tokens=32, dim=16, max_length=48)
    with pytest.raises(RuntimeError, match="size mismatch for pe"):
        longer.load_state_dict(model.state_dict())


def test_a_running_mean_is_saved_after_it_moved_and_its_window_is_not() -> None:
    model = running_mean.build()
    model(*running_mean.example_input())
    fresh = running_mean.build()
    assert not torch.equal(fresh.mean, model.mean)
    fresh.window.fill_(float("nan"))
    assert str(fresh.load_state_dict(model.state_dict())) == "<All keys matched successfully>"
    assert torch.equal(fresh.mean, model.mean)
    assert fresh.window.isnan().all()


@pytest.mark.parametrize(
    "sample", [rotary_decoder, swin_window_attention], ids=lambda sample: sample.__name__
)
def test_strict_load_after_to_empty_matches_all_keys_and_restores_no_non_persistent_buffer(sample) -> None:
    original = sample.build()
    with torch.device("meta"):
        model = sample.build()
    model.to_empty(device="cpu")
    lost = buffer_names(model) - set(model.state_dict())
    for name, buffer in model.named_buffers():
        if name in lost:
            buffer.fill_(-7)  # stands for whatever was in that memory before
    assert str(model.load_state_dict(original.state_dict())) == "<All keys matched successfully>"
    assert len(lost) == 3
    for name, buffer in model.named_buffers():
        assert buffer.eq(-7).all() == (name in lost)


def test_swin_index_is_within_its_table_and_symmetric() -> None:
    index = swin_window_attention.relative_position_index(4)
    assert (index.min(), index.max()) == (0, 48)
    assert torch.equal(index + index.T, torch.full((16, 16), 48))
    model = swin_window_attention.build()
    assert model.blocks[0].attn_mask is None
    assert model.blocks[1].attn_mask.unique().tolist() == [-100.0, 0.0]


def test_rotary_embedding_depends_on_relative_position_only() -> None:
    rotary = rotary_decoder.RotaryEmbedding(8)
    vector = torch.linspace(-1, 1, 8)
    turned = rotary(vector.expand(1, 1, 6, 8))[0, 0]
    score = turned @ turned.T
    torch.testing.assert_close(score.diagonal(1), score[0, 1].expand(5))
    torch.testing.assert_close(score.diagonal(3), score[0, 3].expand(3))


def test_tied_embeddings_are_one_tensor_until_assign_unties_them() -> None:
    model = tied_embeddings.build()
    assert model.lm_head.weight is model.embed_tokens.weight
    assert len(list(model.parameters())) == 3
    assert len(model.state_dict()) == 4
    separate = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(separate, strict=True, assign=True)
    assert model.lm_head.weight is not model.embed_tokens.weight


def test_batch_norm_metadata_decides_whether_a_missing_counter_is_an_error() -> None:
    state = batch_norm_stack.build().state_dict()
    assert state._metadata["bn1"]["version"] == 2
    without = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    assert not batch_norm_stack.build().load_state_dict(without).missing_keys

    for name in ("bn1.num_batches_tracked", "bn2.num_batches_tracked"):
        del state[name]
    with pytest.raises(RuntimeError, match=r"Missing key.*bn1\.num_batches_tracked"):
        batch_norm_stack.build().load_state_dict(state)


def test_a_filled_slot_is_unexpected_in_a_fresh_model() -> None:
    model = none_slots.build()
    assert set(model.state_dict()) == {"weight"}
    model(*none_slots.example_input())
    assert set(model.state_dict()) == {"weight", "center"}
    assert buffer_names(model) == {"center", "last_input"}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"center"'):
        none_slots.build().load_state_dict(model.state_dict())


def test_float8_has_no_equal_and_bytes_do() -> None:
    model = low_precision.build()
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert dtypes == {
        "stem.weight": torch.bfloat16,
        "stem.bias": torch.bfloat16,
        "quantized.weight": torch.float8_e4m3fn,
        "quantized.weight_scale": torch.float32,
        "gain": torch.float8_e5m2,
    }
    assert model.quantized.weight.float().isfinite().all()
    assert as_bytes(model.quantized.weight) == as_bytes(low_precision.build().quantized.weight)


def test_extra_state_comes_back_and_is_missed() -> None:
    state = extra_state.build().state_dict()
    other = extra_state.EmbeddingByRawId(raw_ids=(1, 2, 3, 5), dim=4)
    other.load_state_dict(state)
    assert list(other.vocabulary.dense_id) == [17, 4, 1999, 23]
    del state["vocabulary._extra_state"]
    with pytest.raises(RuntimeError, match=r"Missing key.*vocabulary\._extra_state"):
        other.load_state_dict(state)


def test_a_parametrized_weight_is_computed_and_owned_by_no_one() -> None:
    model = weight_norm.build()
    owned = {id(tensor) for _, tensor in named_tensors(model)}
    assert id(model.first.weight) not in owned
    torch.testing.assert_close(
        model.first.weight.norm(dim=1, keepdim=True), model.first.parametrizations.weight.original0
    )


def test_forgotten_tensors_are_not_saved_not_moved_and_not_cast() -> None:
    model = unregistered_tensor.build()
    forgotten = [model.offset, *model.gains, model.shift]
    assert all(isinstance(tensor, Tensor) for tensor in forgotten)
    assert [tensor.dtype for tensor in forgotten] == [torch.float32] * 3 + [torch.float16]
    model.double()
    assert model.linear.weight.dtype == torch.float64
    assert [tensor.dtype for tensor in [model.offset, *model.gains, model.shift]] == [torch.float32] * 3 + [
        torch.float16
    ]


def test_a_lazy_model_has_no_shapes_before_its_first_forward() -> None:
    model = lazy_shapes.build()
    assert isinstance(model.conv.weight, nn.UninitializedParameter)
    assert isinstance(model.norm.running_mean, nn.parameter.UninitializedBuffer)
    with torch.random.fork_rng(devices=[]):
        model(*lazy_shapes.example_input())
    assert model.conv.weight.shape == (4, 3, 3, 3)
    assert model.head.weight.shape == (5, 64)


def test_a_shared_module_has_two_names_and_one_tensor() -> None:
    model = shared_submodule.build()
    assert model.again is model.block
    assert len(list(model.parameters())) == 4
    assert len(model.state_dict()) == 14


def test_a_view_of_a_parameter_follows_it_until_a_cast_copies_both() -> None:
    model = buffer_view_of_parameter.build()
    with torch.no_grad():
        model.weight[0] = 5.0
    assert model.padding_row.tolist() == [5.0] * 4

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert loaded["padding_row"].data_ptr() == loaded["weight"].data_ptr()

    model = copy.deepcopy(model).double()
    with torch.no_grad():
        model.weight[0] = 6.0
    assert model.padding_row.tolist() == [5.0] * 4


def test_wrapped_names_fit_the_bare_model_after_the_prefix_is_gone() -> None:
    state = wrapped_names.build().state_dict()
    bare = wrapped_names.CenteredPerceptron()
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*Unexpected key"):
        bare.load_state_dict(state)
    bare.load_state_dict({name.removeprefix("module._orig_mod."): value for name, value in state.items()})
