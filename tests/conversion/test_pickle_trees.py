"""The pickle of a ``.pt`` means, node by node, what torch.save wrote of the same objects."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpttool.conversion.shards import lay_out_file
from tests.support.converting import plan_of
from tests.support.layouts import QUANTIZED, TYPED, UNTYPED, flat, quantized, saved, sparse
from tests.support.pickle_trees import pickle_of, tree_of

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")


def theirs(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return tree_of(archive.read("archive/data.pkl"))


def ours(folder: Path, content: bytes, **options: Any) -> Any:
    (folder / "a.pt").write_bytes(content)
    (layout,) = lay_out_file(plan_of(folder / "a.pt", "pt", **options), "b.pt")
    return tree_of(pickle_of(layout))


def check(folder: Path, state: Any) -> None:
    content = saved(state, zipped=True)
    assert ours(folder, content) == theirs(content)


WHOLE = {
    "packed": lambda base: base.view(2, 3, 4),
    "transposed": lambda base: base.view(4, 6).t(),
    "channels_last": lambda base: base.view(1, 3, 4, 2).permute(0, 3, 1, 2),
    "expanded": lambda base: base.expand(2, 24),
    "windows": lambda base: base.unfold(0, 6, 2),
    "scalar": lambda base: flat(base.dtype, 1)[0],
    "empty": lambda base: torch.empty(0, 3, dtype=base.dtype),
}
"""Views that reach over all of their storage."""


@pytest.mark.parametrize("dtypes", [TYPED, UNTYPED], ids=["typed", "untyped"])
def test_strided_tensors_of_every_dtype(tmp_path: Path, dtypes: list[torch.dtype]) -> None:
    state = {f"{dtype}.{name}": make(flat(dtype)) for dtype in dtypes for name, make in WHOLE.items()}
    for dtype in dtypes:
        base = flat(dtype)
        state |= {f"{dtype}.{name}": base[at:] for name, at in (("all", 0), ("tail", 5), ("last", 23))}
        state |= {f"{dtype}.tied": base, f"{dtype}.parameter": torch.nn.Parameter(flat(dtype), False)}
    check(tmp_path, state)


def test_gradients_parameters_and_views_with_flags(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    for dtype in (torch.float32, torch.complex64, torch.complex128):
        base = flat(dtype)  # beside which the flags stay: alone its numbers would be written
        state |= {f"{dtype}": base, f"{dtype} neg": torch._neg_view(base)}
        if dtype.is_complex:
            state |= {f"{dtype} conj": base.conj(), f"{dtype} both": torch._neg_view(base.conj())}
    state |= {
        "grad": torch.ones(2, requires_grad=True),
        "no grad": torch.ones(2),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "frozen": torch.nn.Parameter(torch.ones(3), False),
    }
    check(tmp_path, state)
    check(tmp_path, state["grad"])  # bare
    check(tmp_path, [state["parameter"], (state["frozen"], state["no grad"])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.complex128], ids=str)
def test_sparse_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    check(tmp_path, {name: tensor for name, tensor in sparse(flat(dtype)).items() if name != "coo"})


def test_nested_and_quantized_tensors(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state: dict[str, Any] = {
            "nested": torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
        }
    for dtype in QUANTIZED:
        for name, tensor in quantized(dtype, (4, 6)).items():
            state[f"{dtype}.{name}"] = tensor
    check(tmp_path, state)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=2) | st.integers(-300, 300), VALUES, max_size=4))
def test_values_around_a_tensor(tmp_path_factory: pytest.TempPathFactory, values: dict[Any, Any]) -> None:
    values["w"] = torch.ones(2)
    content = saved(values, zipped=True)
    assert ours(tmp_path_factory.mktemp("values"), content) == theirs(content)


def test_state_dicts_and_the_facts_of_their_modules(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2)), torch.nn.BatchNorm1d(2))
    bare: Any = OrderedDict(w=torch.ones(2))
    bare._metadata = OrderedDict({"": {}, "a": {"version": 2}, "b": {"version": 0, "assign": True}})
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}, 1: {"step": 3}},
        "param_groups": [{"lr": 0.1, "betas": (0.5, 0.75), "params": [0, 1]}, {"lr": 0.2, "params": []}],
    }
    check(tmp_path, {"model": module.state_dict(), "other": bare, "optimizer": optimizer})
    check(tmp_path, bare)
    check(tmp_path, {"dtype": torch.float16, "also": [torch.int8, torch.float16], "w": torch.ones(1)})


def test_keys_of_every_plain_type(tmp_path: Path) -> None:
    keys = [1.5, None, True, (1, "x", (b"k", None)), b"k", -7, 1 << 40, "", float("inf"), ()]
    check(tmp_path, {"model": {"w": torch.ones(2)}, "keys": {key: at for at, key in enumerate(keys)}})
    check(tmp_path, {key: torch.tensor(at) for at, key in enumerate(keys)})


def test_more_than_a_byte_of_things_to_remember(tmp_path: Path) -> None:
    check(tmp_path, {f"t{number}": torch.tensor(number) for number in range(200)})
    shared = torch.arange(400.0)
    check(tmp_path, {f"t{number}": shared[number:] for number in range(300)})
