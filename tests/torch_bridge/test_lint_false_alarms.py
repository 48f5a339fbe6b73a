"""``lint`` finds in sample models exactly the traps that they show, and none in torch's own modules."""

from __future__ import annotations

import pytest
from torch import nn

import sample_models
from ckpttool.torch_bridge.lint.lint import lint_model
from tests.support.linted import STOCK, found, lint, source

# ------------------------------------------------------------------------------------------- no false alarms

EXPECTED: dict[str, list[tuple[str, str]]] = {
    "batch_norm_stack": [("CKPT207", "bn3")],
    "buffer_view_of_parameter": [("CKPT303", "padding_row")],
    "extra_state": [("CKPT404", "vocabulary._extra_state")],
    "lazy_shapes": [("CKPT107", "conv"), ("CKPT107", "norm"), ("CKPT107", "head")],
    "none_slots": [("CKPT106", "bias"), ("CKPT106", "center")],
    "shared_submodule": [("CKPT302", "again"), ("CKPT302", "norm_again")],
    "sinusoidal_positions": [("CKPT201", "pe")],
    "tied_embeddings": [("CKPT301", "lm_head.weight")],
    "unregistered_tensor": [
        ("CKPT101", "offset"),
        ("CKPT102", "gains[0]"),
        ("CKPT102", "gains[1]"),
        ("CKPT104", "shift"),
    ],
    "weight_norm": [("CKPT403", "first")],
}


EXPECTED_AFTER_FORWARD = {"none_slots": [("CKPT601", "center")]}
NOT_OK = {"buffer_view_of_parameter", "lazy_shapes", "unregistered_tensor"}


@pytest.mark.parametrize("name", sample_models.NAMES)
def test_sample_models_have_exactly_the_traps_that_they_show(name: str) -> None:
    sample = sample_models.load(name)
    report = lint_model(source(sample.build))
    assert found(report) == EXPECTED.get(name, [])
    assert report.ok is (name not in NOT_OK)
    report = lint_model(source(sample.build), sample.example_input)
    assert found(report) == EXPECTED.get(name, []) + EXPECTED_AFTER_FORWARD.get(name, [])
    assert report.ok is (name not in NOT_OK | EXPECTED_AFTER_FORWARD.keys())


# Renames what files of the older torch.nn.utils.weight_norm hold.
STOCK_NOTES = {"weight_norm": [("CKPT403", "")]}


@pytest.mark.parametrize("name", STOCK)
def test_stock_modules_are_clean(name: str) -> None:
    report = lint(STOCK[name])
    assert found(report) == STOCK_NOTES.get(name, [])
    assert report.ok
    assert all(note.startswith("no forward was run") for note in report.notes)


STOCK_INPUTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "Linear": ((2, 4),),
    "Conv2d": ((2, 3, 5, 5),),
    "BatchNorm2d": ((2, 4, 3, 3),),
    "BatchNorm1d without affine": ((2, 4),),
    "InstanceNorm2d with statistics": ((2, 4, 3, 3),),
    "LayerNorm": ((2, 4),),
    "GroupNorm": ((2, 4),),
    "LSTM": ((5, 2, 3),),
    "GRU": ((5, 2, 3),),
    "MultiheadAttention": ((5, 2, 8),) * 3,
    "Transformer": ((5, 2, 8), (4, 2, 8)),
    "Sequential": ((3, 2),),
    "weight_norm": ((2, 3),),
    "spectral_norm": ((2, 3),),
    "AveragedModel": ((2, 2),),
}


@pytest.mark.parametrize("name", STOCK_INPUTS)
def test_stock_modules_are_clean_after_a_forward(name: str) -> None:
    report = lint(STOCK[name], *[(shape, "float32") for shape in STOCK_INPUTS[name]])
    assert found(report) == STOCK_NOTES.get(name, [])
    assert report.notes == ()


class Functional(nn.Module):
    """As the losses of torchrl: the parameters are registered, the network called with them is not."""

    def __init__(self, *, owned: bool) -> None:
        super().__init__()
        network = nn.Linear(2, 2)
        self.params = nn.ParameterList(network.parameters() if owned else [])
        self.__dict__["network"] = network


def test_a_module_of_tensors_that_are_registered_elsewhere_owns_nothing() -> None:
    assert found(lint(lambda: Functional(owned=True))) == []
    assert found(lint(lambda: Functional(owned=False))) == [("CKPT103", "network")]


def test_a_class_that_lists_its_objects_is_not_held_to_those_of_other_builds() -> None:
    class Counted(nn.Module):
        every: list[nn.Module] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.every.append(self)

    assert found(lint(lambda: nn.Sequential(Counted(), Counted()))) == []
