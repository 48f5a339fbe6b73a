"""A negative twin for each "is compared": one wrong value in any part of any kind of tensor is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ckpttool.torch_bridge.reference import describe_model
from ckpttool.torch_bridge.verify.against_file import Comparison, DeviceComparer
from ckpttool.torch_bridge.verify.builds import Poison
from ckpttool.values.checkpoint import CompositeTensor
from ckpttool.values.verification import Run
from tests.support.verifying import check, complaints, names, the_run

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*quantize.* deprecated",
    "ignore:Sparse invariant checks",
    "ignore:Sparse .* tensor support",
    "ignore:The PyTorch API of nested",
)

DENSE = torch.tensor([[0.0, 2, 0, 0], [1, 0, 0, 3], [0, 0, 0, 0], [0, 4, 5, 0]])
OTHER = DENSE.clone().index_put_((torch.tensor(3), torch.tensor(1)), torch.tensor(7.0))
# The values in their order, at another place in their row, and in their column.
MOVED = DENSE.clone()
MOVED[0] = torch.tensor([0.0, 0, 2, 0])
SUNK = DENSE.clone()
SUNK[1, 0], SUNK[2, 0] = 0, 1

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse_coo": Tensor.to_sparse,
    "sparse_csr": Tensor.to_sparse_csr,
    "sparse_csc": Tensor.to_sparse_csc,
    "sparse_bsr": lambda dense: dense.to_sparse_bsr((2, 2)),
    "sparse_bsc": lambda dense: dense.to_sparse_bsc((2, 2)),
}


class Held(nn.Module):
    """One buffer, which a load takes over as it is, or as ``taken`` makes it."""

    def __init__(self, value: Tensor, taken: Callable[[Tensor], Tensor] = lambda stored: stored) -> None:
        super().__init__()
        self.register_buffer("x", value)
        self.taken = taken

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *_rest: Any) -> None:
        self._buffers["x"] = self.taken(state_dict[f"{prefix}x"])


def copied(stored: Tensor, kept: Tensor, folder: Path) -> Run:
    """The run of a model that keeps ``kept`` where the file has ``stored``."""
    return the_run(check({"x": stored}, lambda: Held(torch.zeros(1), lambda _: kept), folder, load="copy"))


def reasons(run: Run) -> list[tuple[str, str]]:
    return [(item.name, item.reason) for item in run.wrong]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sparse_tensor_is_compared_by_each_of_its_parts(layout: str, tmp_path: Path) -> None:
    make = LAYOUTS[layout]
    right = copied(make(DENSE), make(DENSE.clone()), tmp_path)
    assert (right.ok, complaints(right)) == (True, {})
    # Another value, another place for the same one, and one value more.
    for wrong in (OTHER, MOVED, SUNK, DENSE + torch.eye(4)[[3, 0, 0, 0]] * 9):
        run = copied(make(DENSE), make(wrong), tmp_path)
        assert not run.ok
        assert reasons(run) == [("x", f"its {layout} parts are not the file's")]


def test_what_is_coalesced_otherwise_is_equal(tmp_path: Path) -> None:
    places = torch.tensor([[0, 0, 1]])
    stored = torch.sparse_coo_tensor(places, torch.tensor([1.0, 2, 5]), (3,))
    assert copied(stored, torch.sparse_coo_tensor([[1, 0]], [5.0, 3], (3,)), tmp_path).ok
    assert not copied(stored, torch.sparse_coo_tensor([[1, 0]], [5.0, 4], (3,)), tmp_path).ok


def test_a_tensor_that_is_one_of_the_parts_is_not_all_of_them(tmp_path: Path) -> None:
    places = torch.tensor([[0, 1], [1, 0]])
    stored = torch.sparse_coo_tensor(places, torch.tensor([1, 2]), (2, 2))
    assert names(copied(stored, places.clone(), tmp_path).wrong) == ["x"]


def by_tensor(values: list[float], scale: float = 0.5, zero: int = 3) -> Tensor:
    return torch.quantize_per_tensor(torch.tensor(values), scale, zero, torch.qint8)


def by_channel(scale: float = 0.5, zero: int = 1, axis: int = 0, first: float = 1.0) -> Tensor:
    values = torch.tensor([[first, 2.0], [3.0, 4.0]])
    return torch.quantize_per_channel(
        values, torch.tensor([scale, 0.5]), torch.tensor([zero, 0]), axis, torch.qint8
    )


def again_with(scale: float, zero: int) -> Tensor:
    """The integers of the plain case, which mean other numbers."""
    return torch._make_per_tensor_quantized_tensor(by_tensor([1.0, 2]).int_repr(), scale, zero)


def channels_of(scales: list[float], zeros: list[int], axis: int) -> Tensor:
    integers = by_channel().int_repr()
    made = torch._make_per_channel_quantized_tensor
    return made(integers, torch.tensor(scales, dtype=torch.float64), torch.tensor(zeros), axis)


PLAIN, CHANNELS = partial(by_tensor, [1.0, 2]), partial(channels_of, [0.5, 0.5], [1, 0], 0)


@pytest.mark.parametrize(
    ("stored", "wrong"),
    [
        (PLAIN, partial(by_tensor, [1.0, 2.5])),
        (PLAIN, partial(again_with, 0.25, 3)),
        (PLAIN, partial(again_with, 0.5, 4)),
        (by_channel, partial(by_channel, first=2.0)),
        (CHANNELS, partial(channels_of, [0.25, 0.5], [1, 0], 0)),
        (CHANNELS, partial(channels_of, [0.5, 0.5], [1, 2], 0)),
        (CHANNELS, partial(channels_of, [0.5, 0.5], [1, 0], 1)),
        (by_channel, PLAIN),
    ],
    ids=["value", "scale", "zero point", "channel", "channel's scale", "channel's zero", "axis", "scheme"],
)
def test_a_quantized_tensor_is_compared_with_its_quantizer(
    stored: Callable[[], Tensor], wrong: Callable[[], Tensor], tmp_path: Path
) -> None:
    assert copied(stored(), stored(), tmp_path).ok
    run = copied(stored(), wrong(), tmp_path)
    assert reasons(run) == [("x", "its quantized parts are not the file's")]


@pytest.mark.parametrize("layout", [*LAYOUTS, "quantized"])
def test_a_dense_tensor_in_its_place_is_not_equal(layout: str, tmp_path: Path) -> None:
    make = LAYOUTS.get(layout, lambda dense: by_tensor([1.0, 2]))
    assert names(copied(make(DENSE), DENSE.clone(), tmp_path).wrong) == ["x"]
    assert names(copied(DENSE, make(DENSE), tmp_path).wrong) == ["x"]


def test_what_is_not_taken_apart_is_said_to_be_uncompared(tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    run = copied(DENSE, nested, tmp_path)
    assert run.uncompared == ("x",)
    assert not run.wrong


# ------------------------------------------------------------------------------------------ poison


class Ignores(nn.Module):
    """Never loads its buffer, which holds ``first``."""

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.register_buffer("x", first)

    def _load_from_state_dict(self, *_arguments: Any) -> None:
        pass


def ways(value: Tensor) -> dict[str, Tensor]:
    """One value as every kind of view that poison has to write through."""
    square = value.reshape(2, 2)
    found = {
        "contiguous": square.clone(),
        "transposed": square.clone().t().contiguous().t(),
        "offset": torch.stack([square, square])[1],
        "strided": torch.stack([square, square], dim=-1)[..., 0],
    }
    if value.is_complex():
        found["conj"] = square.conj().resolve_conj().conj()
        found["conj transposed"] = square.conj().resolve_conj().t().contiguous().t().conj()
        found["neg"] = torch._neg_view((-square).resolve_neg())
    return found


VALUES = [
    torch.tensor([True, False, True, True]),
    torch.tensor([False] * 4),
    torch.tensor([1 + 2j, 0, -1j, 4]),
    torch.tensor([1.0, 2, 3, 4]),
    torch.tensor([1, 2, 3, 4], dtype=torch.int16),
    torch.tensor([1.0, 2, 3, 4]).bfloat16(),
]
VIEWS = [(f"{value.dtype} {way}", view) for value in VALUES for way, view in ways(value).items()]


@pytest.mark.parametrize("first", [view for _, view in VIEWS], ids=[name for name, _ in VIEWS])
def test_a_tensor_that_nothing_loads_is_caught_though_it_began_as_what_the_file_has(
    first: Tensor, tmp_path: Path
) -> None:
    state = {"x": first.resolve_conj().resolve_neg().contiguous()}
    run = the_run(check(state, lambda: Ignores(_again(first)), tmp_path, load="copy"))
    assert (run.unfilled, run.ok) == (("x",), False)
    assert the_run(check(state, lambda: Held(_again(first)), tmp_path, load="copy")).ok


def _again(view: Tensor) -> Tensor:
    """The same kind of view of memory of its own."""
    if view.is_neg():
        return torch._neg_view((-view).resolve_neg())
    if view.is_conj():
        return _again(view.conj()).conj()
    whole = torch.empty(16, dtype=view.dtype)
    return torch.as_strided(whole, view.shape, view.stride(), view.storage_offset()).copy_(view)


@settings(max_examples=60)
@given(
    st.sampled_from([torch.float32, torch.float16, torch.int32, torch.uint8, torch.int64, torch.complex64]),
    st.integers(0, 5),
    st.binary(min_size=48, max_size=48),
)
def test_only_what_is_poison_from_end_to_end_survives(dtype: torch.dtype, place: int, data: bytes) -> None:
    poison, tensor = Poison(), torch.zeros(6, dtype=dtype)
    poison.fill({"x": tensor})
    assert poison.survives("x", tensor)
    raw = bytearray(tensor.numpy().tobytes())
    at = place * tensor.element_size()
    drawn = data[: tensor.element_size()]
    unchanged = bytes(raw[at : at + len(drawn)]) == drawn
    raw[at : at + len(drawn)] = drawn
    changed = torch.frombuffer(raw, dtype=dtype)
    assert poison.survives("x", changed) is unchanged


def test_one_byte_of_poison_among_values_is_no_survivor() -> None:
    tensor = torch.tensor([1, 255, 3], dtype=torch.uint8).view(torch.uint8)
    assert not Poison().survives("x", tensor)
    assert not Poison().survives("x", torch.tensor([1.0, float("nan")]))
    assert not Poison().survives("x", torch.tensor([0x5A, 1], dtype=torch.uint8))


# ------------------------------------------------------------ where a tensor is after a load


def compare(loaded: Tensor, stored: Tensor, *, filled: bool = True, device: str = "cpu") -> Comparison:
    poison = Poison()
    if not filled:
        poison.fill({"x": loaded}, {"x": stored})
    comparison = Comparison({"x": loaded}, {"x": stored}, poison, device)
    comparison.run(["x"])
    return comparison


def test_a_tensor_on_meta_or_without_a_shape_was_not_loaded() -> None:
    meta = compare(torch.ones(2, device="meta"), torch.ones(2))
    assert meta.wrong == {"x": "still on meta: no data was loaded"}
    lazy = nn.LazyLinear(2).weight
    assert compare(lazy, torch.ones(2)).wrong == {"x": "still uninitialised: no data was loaded"}


def test_other_shapes_are_equal_only_where_both_are_one_element() -> None:
    assert not compare(torch.ones(()), torch.ones(1)).wrong
    assert "x" in compare(torch.ones(()), torch.zeros(1)).wrong
    assert "x" in compare(torch.ones(2, 1), torch.ones(2)).wrong
    assert "x" in compare(torch.ones(1), torch.ones(2)).wrong


def test_a_silent_cast_is_right_lossy_or_of_nothing() -> None:
    assert compare(torch.ones(2).half(), torch.ones(2)).cast == ["x"]
    [lossy] = compare(torch.tensor([1.0, 0.1]).half(), torch.tensor([1.0, 0.1])).lossy
    assert (lossy.name, lossy.changed_numel, lossy.position) == ("x", 1, 1)
    unfilled = compare(torch.zeros(2).half(), torch.ones(2), filled=False)
    assert (unfilled.unfilled, unfilled.lossy, unfilled.cast) == (["x"], [], [])


@pytest.mark.parametrize("filled", [True, False])
def test_what_is_on_a_device_is_compared_there(filled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[str] = []
    plain = DeviceComparer.submit

    def submit(self: DeviceComparer, name: str, loaded: Tensor, expected: Tensor) -> None:
        submitted.append(name)
        plain(self, name, loaded, expected)

    monkeypatch.setattr(DeviceComparer, "submit", submit)
    monkeypatch.setattr("ckpttool.torch_bridge.verify.against_file.CHUNK_NBYTES", 16)
    stored = torch.arange(50.0)
    for wrong in (False, True):
        loaded = stored.clone()
        if not filled:
            Poison().fill({"x": loaded})
        elif wrong:
            loaded[37] = -1  # in the last but one of many chunks
        comparison = Comparison({"x": loaded}, {"x": stored}, Poison(), "cpu")
        comparison._comparer = DeviceComparer(torch.device("cpu"))
        comparison.run(["x"])
        assert comparison.unfilled == ([] if filled else ["x"])
        assert list(comparison.wrong) == (["x"] if filled and wrong else [])
        assert (comparison.gb_per_second or 0) > 0
    assert submitted == ["x", "x"]


@pytest.mark.parametrize("there", [True, False])
def test_what_stayed_behind_is_compared_where_it_is(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[str] = []
    monkeypatch.setattr(DeviceComparer, "submit", lambda self, name, *_: submitted.append(name))
    for loaded, wrong in ((torch.ones(2), []), (torch.zeros(2), ["x"])):
        comparison = Comparison({"x": loaded}, {"x": torch.ones(2)}, Poison(), "cpu")
        comparison._comparer = DeviceComparer(torch.device("cpu"))
        comparison._device = torch.device("cpu" if there else "meta")
        comparison.run(["x"])
        assert list(comparison.wrong) == ([] if there else wrong)
        assert comparison.gb_per_second is None  # nothing was brought over
    assert submitted == ["x", "x"] * there


def test_a_comparer_is_made_where_there_is_a_device() -> None:
    assert Comparison({}, {}, Poison(), "cpu")._comparer is None
    made = Comparison({}, {}, Poison(), "meta")._comparer
    assert isinstance(made, DeviceComparer) and made.device == torch.device("meta")


def test_a_wrapper_is_named_by_its_class() -> None:
    class TwoHalves(Tensor):
        @staticmethod
        def __new__(cls, values: Tensor) -> Any:
            made: Any = torch.Tensor._make_wrapper_subclass(cls, values.shape)  # type: ignore[attr-defined]
            made.values_held = values
            return made

        def __tensor_flatten__(self) -> Any:
            return ["values_held"], None

        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return cls(args[0].values_held.detach())

    [entry] = describe_model(Held(TwoHalves(torch.ones(2))), "here:build").checkpoint.entries
    assert isinstance(entry.value, CompositeTensor)
    assert (entry.value.layout, entry.value.type_name) == ("subclass", "TwoHalves")
