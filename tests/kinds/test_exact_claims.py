"""What is called exact is right, whatever a module does to deceive and whatever a file holds."""

from __future__ import annotations

import string
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.kinds.classify import classify
from ckpttool.values.checkpoint import (
    EXACT_BASES,
    UNCLASSIFIED,
    Basis,
    Classification,
    Entry,
    OddKey,
    Presence,
    Value,
)
from ckpttool.values.dtypes import BY_NAME
from tests.support.classified import (
    BUFFER,
    PARAMETER,
    UNKNOWN,
    Registers,
    by_name,
    checkpoint,
    entry,
    float_,
    frozen_batch_norm,
    kind_of,
)

# ----------------------------------------------------------------------------- modules made to deceive


def integer_parameter() -> nn.Module:
    return Registers(p={"table": torch.arange(4)})


def parameter_in_buffers() -> nn.Module:
    return Registers(b={"weight": nn.Parameter(float_())})


def parameter_called_running_mean() -> nn.Module:
    return Registers(p={"running_mean": float_(), "running_var": float_(), "num_batches_tracked": float_()})


def buffer_called_weight() -> nn.Module:
    return nn.CrossEntropyLoss(weight=torch.ones(3))


DECEIVERS = [
    integer_parameter,
    parameter_in_buffers,
    parameter_called_running_mean,
    buffer_called_weight,
    frozen_batch_norm,
]


@pytest.mark.parametrize("build", DECEIVERS)
@pytest.mark.parametrize("keep_vars", [False, True])
def test_no_state_dict_makes_an_exact_claim(
    build: Callable[[], nn.Module], keep_vars: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    torch.save(build().state_dict(keep_vars=keep_vars), path)
    source = read_checkpoint(str(path))
    assert source.entries
    assert not any(said.exact for said in classify(source).classifications)


def test_what_a_reader_declares_wins_over_every_rule() -> None:
    declared = Classification(BUFFER, Basis.PICKLED_MODULE)
    entries = [entry("weight", declared=declared), entry("bias"), entry("running_mean", declared=declared)]
    found = by_name(checkpoint(entries))
    assert found["weight"] == declared
    assert found["weight"].exact


def test_what_a_reader_says_is_not_registered_stays_unknown() -> None:
    """A plain tensor attribute that views a parameter, stands among its copies and bears a known name."""
    plain = Classification(UNKNOWN, Basis.NONE, note="plain tensor attribute")
    weight = entry("a.weight", root=("model",), shape=(4, 4))
    attribute = weight._replace(name="a.bias", declared=plain)
    copy = entry("a.bias", root=("ema",), shape=(4, 4))
    said = classify(checkpoint([weight, attribute, copy])).classifications
    assert [item.kind for item in said] == [PARAMETER, UNKNOWN, PARAMETER]
    assert said[1] == plain


def test_a_kind_taken_from_an_exact_one_is_not_exact() -> None:
    declared = Classification(BUFFER, Basis.PICKLED_MODULE)
    entries = [
        entry("a.strange", root=("model",), declared=declared),
        entry("a.strange", root=("ema",)),
    ]
    _, copied = classify(checkpoint(entries)).classifications
    assert (copied.kind, copied.exact) == (BUFFER, False)


def test_in_a_keep_vars_file_the_rest_are_buffers(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(2, 2), nn.Linear(2, 2), Registers(b={"strange": float_()}), nn.BatchNorm1d(2)
    )
    torch.save(model.state_dict(keep_vars=True), tmp_path / "x.pt")
    found = by_name(read_checkpoint(str(tmp_path / "x.pt")))
    assert found["0.weight"] == Classification(PARAMETER, Basis.PICKLED_PARAMETER)
    assert (found["2.strange"].kind, found["2.strange"].basis) == (BUFFER, Basis.PICKLED_PARAMETER)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore::DeprecationWarning")
def test_a_quantized_weight_beside_a_pickled_bias_is_no_buffer(tmp_path: Path) -> None:
    # What torch.ao's quantized Linear saves: packed parameters in a tuple, of which the bias is one.
    weight = torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)
    bias = nn.Parameter(torch.ones(2))
    state = {
        "0.scale": torch.tensor(1.0),
        "0._packed_params._packed_params": (weight, bias),
        "1.weight": weight,
        "1.bias": bias,
    }
    torch.save(state, tmp_path / "x.pt")
    source = read_checkpoint(str(tmp_path / "x.pt"))
    for read, said in zip(source.entries, classify(source).classifications, strict=True):
        if read.value is not None and read.value.dtype is BY_NAME["qint8"]:
            assert (said.kind, said.basis) != (BUFFER, Basis.PICKLED_PARAMETER), read.name
        elif read.requires_grad:
            assert (said.kind, said.basis) == (PARAMETER, Basis.PICKLED_PARAMETER), read.name


def test_one_added_parameter_does_not_make_the_rest_buffers(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    state["added"] = nn.Parameter(float_())
    torch.save(state, tmp_path / "x.pt")
    assert set(kind_of(read_checkpoint(str(tmp_path / "x.pt"))).values()) == {PARAMETER}


# -------------------------------------------------------------------------------------------- hostile

KEYS = st.one_of(
    st.text(alphabet=string.ascii_lowercase + "._0", max_size=20),
    st.sampled_from(
        ["weight", "a.running_mean", "a.running_var", "x_g", "x_v", "x_orig", "...", "", "a.0.0.0"]
    ),
    st.text(max_size=5),
    st.integers(),
    st.builds(OddKey, st.text(max_size=3), st.booleans()),
)


ROOTS = st.lists(st.one_of(KEYS, st.sampled_from(["state", "param_groups", "optimizer"])), max_size=4).map(
    tuple
)


DECLARED = [
    UNCLASSIFIED,
    Classification(PARAMETER, Basis.PICKLED_MODULE),
    Classification(PARAMETER, Basis.PICKLED_PARAMETER),
    Classification(UNKNOWN, Basis.EXPORT, note="constant"),
    Classification(UNKNOWN, Basis.NONE, note="plain tensor attribute"),
]


ENTRIES = st.builds(
    entry,
    KEYS,
    st.sampled_from(sorted(BY_NAME)),
    st.lists(st.integers(0, 3), max_size=5).map(tuple),
    ROOTS,
    declared=st.sampled_from(DECLARED),
)


PLAIN = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=3),
    st.lists(KEYS.filter(lambda k: type(k) is not OddKey)).map(tuple),
)


VALUES = st.builds(
    Value,
    st.one_of(ROOTS, st.tuples(st.just("optimizer"), st.just("param_groups"), st.integers(0, 2))),
    st.sampled_from(["params", "param_names", "buffer_names", "lr"]),
    PLAIN,
)


@given(
    st.lists(ENTRIES, max_size=25),
    st.lists(VALUES, max_size=6),
    st.booleans(),
    st.dictionaries(
        KEYS.filter(lambda k: isinstance(k, str)), st.one_of(st.none(), st.integers()), max_size=5
    ),
)
def test_classify_never_raises_and_keeps_exact_claims(
    entries: list[Entry], values: list[Value], ordered: bool, versions: dict[str, int | None]
) -> None:
    roots = {item.root for item in entries}
    source = checkpoint(
        entries, values=tuple(values), ordered=ordered, module_versions=dict.fromkeys(roots, versions)
    )
    kinds = classify(source)
    assert len(kinds.classifications) == len(entries)
    for item, said in zip(entries, kinds.classifications, strict=True):
        assert (said.basis in EXACT_BASES) == (item.declared.basis in EXACT_BASES)
        assert said.presence is Presence.PRESENT
        if item.declared == UNCLASSIFIED:
            assert (said.kind is UNKNOWN) == (said.basis is Basis.NONE)
        elif item.declared.basis is not Basis.PICKLED_PARAMETER:
            assert said == item.declared
    present = {(item.root, item.name) for item in entries}
    assert not present & {(item.root, item.name) for item in kinds.missing}


def test_a_name_of_a_million_dots_costs_little() -> None:
    names = ["." * 1_000_000 + f"{i}" for i in range(3)] + ["0." * 500_000 + "weight"]
    classify(checkpoint([entry(name) for name in names]))


def test_state_dicts_of_odd_order_are_read_as_they_are() -> None:
    state = OrderedDict([(3, "float32"), ("weight", "float32"), (OddKey("None", True), "int64")])
    kinds = classify(checkpoint([entry(name, dtype) for name, dtype in state.items()]))
    assert [said.kind for said in kinds.classifications][1] is PARAMETER
