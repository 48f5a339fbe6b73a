"""What verify compares number by number, and what it says: against exact fractions and made-up runs."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckpttool.formats import read_checkpoint
from ckpttool.names.match import NameMatch
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.torch_bridge.verify.builds import Poison
from ckpttool.torch_bridge.verify.casts import describe_values, find_loss, number_text
from ckpttool.torch_bridge.verify.fingerprints import compare_fingerprints, parse_reference, reference_text
from ckpttool.torch_bridge.verify.loading import LoadOutcome, parse_load_error
from ckpttool.torch_bridge.verify.placement import find_untied, misplaced, share_memory, tie_groups
from ckpttool.torch_bridge.verify.stored_state import StoredState, _local_metadata, _module_paths, thaw
from ckpttool.torch_bridge.verify.suggestions import suggest
from ckpttool.torch_bridge.verify.verify import is_right
from ckpttool.values.checkpoint import Entry, PlainList
from ckpttool.values.errors import MalformedCheckpoint
from ckpttool.values.verification import Fingerprint, Lossy, Mismatched, Missing, NotRestored, Run, Wrong
from tests.support.inspections import tensor

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTS = [torch.int64, torch.uint64, torch.int32, torch.uint8, torch.int8, torch.bool]
COMPLEX = [torch.complex64, torch.complex128]
EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, 255.0, 256.0, -128.0, -129.0, 2.0**31, 2.0**53, 2.0**53 + 2, 2.0**62,
         2.0**63, -(2.0**63), 2.0**64, 1.5 * 2.0**63, math.nan, math.inf, -math.inf, 1e300]  # fmt: skip


def exact(value: Any) -> Any:
    """A number that compares exactly, NaN and infinities as words; the parts of a complex one apart."""
    if isinstance(value, complex):
        return exact(value.real), exact(value.imag)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value), Fraction(0)
    return Fraction(value), Fraction(0)


def as_pair(value: Any, beside: Any) -> Any:
    return (
        exact(complex(value))
        if isinstance(beside, complex) and not isinstance(value, complex)
        else exact(value)
    )


def made(dtype: torch.dtype, numbers: list[float]) -> torch.Tensor:
    if dtype in INTS:
        info = (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        fitting = [min(max(int(n), info[0]), info[1]) if math.isfinite(n) else 0 for n in numbers]
        return torch.tensor(fitting, dtype=dtype)
    return torch.tensor(numbers, dtype=torch.float64).to(dtype)


@settings(max_examples=200)
@given(
    st.sampled_from([*FLOATS, *INTS, *COMPLEX]),
    st.sampled_from([*FLOATS, *INTS, *COMPLEX]),
    st.lists(st.sampled_from(EDGES) | st.integers(-300, 300).map(float), min_size=1, max_size=6),
    st.lists(st.sampled_from(EDGES), max_size=2),
)
def test_a_loss_is_of_the_numbers_that_differ_exactly(
    before: torch.dtype, after: torch.dtype, numbers: list[float], others: list[float]
) -> None:
    stored, loaded = made(before, numbers), made(after, [*others, *numbers][: len(numbers)])
    pairs = list(zip(stored.tolist(), loaded.tolist(), strict=True))
    differs = [as_pair(a, b) != as_pair(b, a) for a, b in pairs]
    loss = find_loss("w", stored, loaded)
    if not any(differs):
        assert loss is None
        return
    assert loss is not None
    assert (loss.name, loss.changed_numel, loss.position) == ("w", sum(differs), differs.index(True))
    assert (loss.file_dtype, loss.model_dtype) == (str(before)[6:], str(after)[6:])
    assert loss.file_value == number_text(stored[loss.position])


def test_a_loss_beyond_the_first_of_many_blocks_is_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpttool.torch_bridge.verify.casts._CHUNK", 4)
    stored = torch.arange(11.0)
    for places in ([9], [3], [4, 5, 10], [0, 10]):
        loaded = stored.clone()
        loaded[places] += 0.5
        loss = find_loss("w", stored, loaded)
        assert loss is not None
        assert (loss.changed_numel, loss.position) == (len(places), places[0])
        assert (loss.file_value, loss.loaded_value) == (f"{places[0]}", f"{places[0] + 0.5}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_are_written_in_the_fewest_digits_that_give_them_back(dtype: torch.dtype) -> None:
    raw = torch.arange(0, 1 << (8 * dtype.itemsize), 61 if dtype.itemsize == 2 else 1)
    numbers = raw.to(torch.uint16 if dtype.itemsize == 2 else torch.uint8).view(dtype)
    for value in numbers:
        item, text = value.item(), number_text(value)
        if not math.isfinite(item):
            assert text == str(item)
            continue
        assert torch.tensor(float(text), dtype=torch.float64).to(dtype).item() == item
        assert math.copysign(1, float(text)) == math.copysign(1, item)
        digits = text.partition("e")[0].replace(".", "").lstrip("-0")
        if item != int(item) and len(digits) > 1:
            shorter = float(f"{item:.{len(digits) - 1}g}")
            assert torch.tensor(shorter, dtype=torch.float64).to(dtype).item() != item


def test_numbers_of_other_kinds() -> None:
    third = torch.tensor(1 / 3, dtype=torch.float64)
    for number in (0.1 + 0.2, 5e-324, 1.7976931348623157e308, 2.5000000000000004):
        assert float(number_text(torch.tensor(number, dtype=torch.float64))) == number
    values = [
        torch.tensor(number) for number in (7, True, -0.0, 0.0, 2.87, 1e16, 2.0**52, 1 + 2j, 3.0, math.nan)
    ]
    said = ["7", "True", "-0", "0", "2.87", "1e+16", "4503599627370496", "(1+2j)", "3", "nan"]
    assert list(map(number_text, [*values, third])) == [*said, "0.3333333333333333"]


@pytest.mark.parametrize(
    ("tensor_", "said"),
    [
        (torch.ones(2, device="meta"), "no data (meta)"),
        (torch.ones(0), "nothing (empty)"),
        (torch.tensor([True, False, True]), "2 of 3 true"),
        (torch.tensor([math.nan] * 2), "NaN"),
        (torch.tensor([1.0, math.nan, -2.5, math.nan]), "-2.5..1 and 2 NaN"),
        (torch.tensor([3, 3]), "3"),
        (torch.tensor([-3, 2**62]), f"-3..{2**62}"),
        (torch.tensor([3 + 4j, 0]), "0..5"),
        (torch.tensor([1.23456789]), "1.23457"),
        (torch.tensor([-math.inf, 1]), "-inf..1"),
        (torch.arange(6).view(2, 3).t(), "0..5"),
    ],
)
def test_values_in_a_few_words(tensor_: torch.Tensor, said: str) -> None:
    assert describe_values(tensor_) == said


# -- fingerprints -------------------------------------------------------------------------------------------

ONE = Fingerprint("float32", (2, 3), "ab" * 32, "0..5")


def test_a_reference_comes_back_and_every_change_is_told() -> None:
    two = ONE._replace(dtype="int64", shape=())
    for prints in ({}, {"b": ONE}, {'b"\n': ONE, "a": two}):
        text = reference_text('m:"build"', prints)
        assert parse_reference(text.encode(), "r.json") == prints
        assert (
            json.loads(text)["model"] == 'm:"build"' and json.loads(text)["schema"] == "ckpttool/reference/1"
        )
        assert list(json.loads(text)["buffers"]) == sorted(prints)
        assert sum("sha256" in line for line in text.splitlines()) == len(prints)  # one a line
    assert list(compare_fingerprints({"a": ONE}, {"a": ONE._replace(values="other words")})) == []
    for other in (ONE._replace(dtype="half"), ONE._replace(shape=(6,)), ONE._replace(sha256="cd" * 32)):
        assert list(compare_fingerprints({"a": ONE}, {"a": other})) == [
            NotRestored("a", "changed", str(other), "float32 [2, 3] 0..5")
        ]
    assert list(compare_fingerprints({"a": ONE}, {"b": ONE})) == [
        NotRestored("a", "changed", "no such rebuilt buffer in the model", str(ONE)),
        NotRestored("b", "changed", str(ONE), "no such buffer in the reference"),
    ]


@pytest.mark.parametrize("field", ["dtype", "shape", "sha256", "values"])
@pytest.mark.parametrize("value", [None, 3, [1, "a"], [True], {}, "text"])
def test_a_fingerprint_is_complete_or_none(field: str, value: Any) -> None:
    fields = {**ONE._asdict(), field: value}
    data = json.dumps({"schema": "ckpttool/reference/1", "model": "m", "buffers": {"x": fields}}).encode()
    if value == "text" and field != "shape":
        assert parse_reference(data, "r.json")["x"] == ONE._replace(**{field: "text"})
        return
    with pytest.raises(MalformedCheckpoint, match="not complete") as caught:
        parse_reference(data, "r.json")
    assert (caught.value.name, caught.value.path) == ("x", "r.json")


# -- what a load said ---------------------------------------------------------------------------------------


def test_what_load_state_dict_raises_is_taken_apart() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = {**model.state_dict(), "0.weight": torch.ones(4, 5), "0.bias": torch.ones(()), "x": torch.ones(1)}
    del state["1.weight"], state["1.running_var"]
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    found = parse_load_error(str(caught.value))
    assert found.missing == ("1.weight", "1.running_var") and found.unexpected == ("x",)
    assert found.mismatched == (Mismatched("0.weight", (4, 5), (2, 3)), Mismatched("0.bias", (), (2,)))
    assert found.other == () and not found.ok
    more = parse_load_error(f"{caught.value}\n\tWhile copying the parameter named x: no.")
    assert more[:3] == found[:3] and more.other == ("While copying the parameter named x: no.",)
    for message in ("something\n else", "x" * 900):
        assert parse_load_error(message).other == (" ".join(message.split())[:500],)


# -- ties and places ----------------------------------------------------------------------------------------


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        whole = torch.arange(12.0)
        self.a = nn.Parameter(whole[:6])
        self.b = nn.Parameter(whole[4:8])
        self.c = nn.Parameter(whole[8:])
        self.d = nn.Parameter(self.c[:])
        self.register_buffer("e", torch.ones(0))
        self.register_buffer("f", self.e)


def test_ties_are_spans_that_overlap_and_are_lost_one_by_one() -> None:
    model = Shares()
    groups = tie_groups(describe_model(model, "here:build"))
    assert sorted(map(sorted, groups)) == [["a", "b"], ["c", "d"]]
    held = {name: value.detach() for name, value in model.named_parameters()} | dict(model.named_buffers())
    held["d"] = held["c"]
    assert find_untied(groups, held) == []
    copied = {**held, "b": held["b"].clone()}
    assert find_untied(groups, copied) == [group for group in groups if "a" in group]
    assert find_untied(groups, {name: copied[name] for name in "acd"}) == []
    assert find_untied(groups, {**copied, "b": held["b"].to_sparse()}) == []
    assert share_memory(held["a"], held["b"]) and not share_memory(held["a"], copied["b"])
    meta = torch.ones(1, device="meta")
    assert not share_memory(meta, meta) and not share_memory(meta, held["a"])


def test_what_stays_on_meta_is_told_of_builds_that_are_not_normal() -> None:
    model = nn.Linear(2, 2)
    model.table = torch.ones(2, device="meta")
    for load, expected in (("assign", ["table"]), ("to-empty", ["table"]), ("copy", []), ("round-trip", [])):
        assert misplaced(model, "cpu", load) == expected
    assert set(misplaced(model, "meta", "copy")) == {"weight", "bias"}


# -- the file's side ----------------------------------------------------------------------------------------


def test_plain_values_are_what_they_were() -> None:
    deep: Any = PlainList((1, (2, PlainList(((), 3.5))), "x", PlainList(())))
    assert thaw(deep) == [1, (2, [(), 3.5]), "x", []]
    assert (thaw(3), thaw(()), thaw(PlainList(()))) == (3, (), [])
    assert _local_metadata(None, ()) == {}
    extras = ((("a",), PlainList((1,))), (("b", "c"), 2), (("b", "d"), 3), (("a", "e"), 4))
    assert _local_metadata(2, extras) == {"version": 2, "a": {"e": 4}, "b": {"c": 2, "d": 3}}


def test_paths_of_modules_follow_the_names_of_their_entries() -> None:
    moved = {"module.a.b.w": "a.b.w", "module.c.w": "c.w"}
    assert _module_paths(moved) == {"module.a.b": "a.b", "module.a": "a", "module": "", "module.c": "c"}
    added = _module_paths({"a.w": "net.a.w", "b": "net.b"})
    assert (added["a"], added[""]) == ("net.a", "net")
    assert _module_paths({"w": "w", "a.w": "a.w"}) == {}


# -- the verdict and the advice -----------------------------------------------------------------------------

RIGHT = Run("cpu", "copy")
FAULTS: dict[str, Any] = {
    "missing": (Missing("a", "parameter", 4, "random"),), "unexpected": ("x",), "errors": ("no",),
    "mismatched": (Mismatched("a", (1,), (2,)),), "unfilled": ("a",), "wrong": (Wrong("a", "why"),),
    "not_restored": (NotRestored("t", "meta", "a", "b"),), "untied": (("a", "b"),), "unmoved": ("t",),
}  # fmt: skip


def test_every_fault_decides_and_nothing_else_does() -> None:
    assert is_right(RIGHT, False)
    for field, value in FAULTS.items():
        assert not is_right(RIGHT._replace(**{field: value}), True), field
    lossy = RIGHT._replace(lossy=(Lossy("a", "float32", "float16", 1, 0, "1", "2"),))
    assert (is_right(lossy, False), is_right(lossy, True)) == (False, True)
    harmless = RIGHT._replace(missing=(Missing("a", "parameter", 4, "tied"),), cast=("b",), kept=("c",))
    assert is_right(harmless._replace(hooked=("d",), uncompared=("e",), assigned_dtype=("f",)), False)


def command(*options: str) -> str:
    return " ".join(("ckpttool convert", *options))


def advice(run: Run, names: dict[str, str] | None = None, *more: Run) -> list[str]:
    spec = describe_model(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3)), "here:build")
    match = NameMatch(names or {}, 0, "")
    in_file = {name: Entry((), name, tensor(shape)) for name, shape in IN_FILE.items()}
    return list(suggest(spec, in_file, match, (run, *more), command))


IN_FILE: dict[str, tuple[int, ...]] = {"old.weight": (2, 3), "b.bias": (2,), "c.bias": (2,), "x.0.bias": (2,)}


def missing(*names: str, becomes: str = "random") -> tuple[Missing, ...]:
    return tuple(Missing(name, "parameter", 4, becomes) for name in names)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (RIGHT, []),
        (
            RIGHT._replace(missing=missing("0.weight"), unexpected=("old.weight",)),
            [
                "likely renamed (one shape, one ending): old.weight in the file is 0.weight in the model",
                "ckpttool convert --rename ^old\\.weight$=>0.weight renames them",
                "1 missing entry would stay random (0.weight), and strict=False would hide it",
            ],
        ),
        (
            RIGHT._replace(missing=missing("1.weight"), unexpected=("old.weight",)),
            ["1 missing entry would stay random (1.weight), and strict=False would hide it"],
        ),  # another shape
        (
            RIGHT._replace(missing=missing("0.bias"), unexpected=("b.bias", "c.bias")),
            ["1 missing entry would stay random (0.bias), and strict=False would hide it"],
        ),  # either could be it
        (
            RIGHT._replace(missing=missing("0.bias"), unexpected=("b.bias", "x.0.bias")),
            [
                "likely renamed (one shape, one ending): x.0.bias in the file is 0.bias in the model",
                "ckpttool convert --rename ^x\\.0\\.bias$=>0.bias renames them",
                "1 missing entry would stay random (0.bias), and strict=False would hide it",
            ],
        ),
        (
            RIGHT._replace(missing=missing("0.weight", becomes="tied"), unexpected=("old.weight",)),
            [
                "the file leaves out 0.weight, tied to an entry that it has: strict=True raises all the "
                "same; use safetensors.torch.load_model, or strict=False with the model's own tying"
            ],
        ),
        (
            RIGHT._replace(unexpected=("epoch", "lr")),
            [
                "2 unexpected entries without a tensor (epoch, lr): the file is more than a state_dict; "
                "ckpttool convert --weights-only writes the tensors alone"
            ],
        ),
        (
            RIGHT._replace(unfilled=("a", "b")),
            [
                "nothing fills a, b, and strict=True does not say so: look for a "
                "_load_from_state_dict or a hook that leaves names out"
            ],
        ),
        (
            RIGHT._replace(lossy=(Lossy("a", "float32", "float16", 1, 0, "1", "2"),)),
            [
                "load_state_dict casts in silence: declare a as float32 in the model, "
                "or pass --allow-cast if the loss is meant"
            ],
        ),
        (
            RIGHT._replace(untied=(("a", "b"), ("c", "d"))),
            ["copy unties a and b: tie them again after the load (tie_weights() in transformers)"],
        ),
        (
            RIGHT._replace(unmoved=("t",)),
            ["t stays behind: register_buffer(…, persistent=False) moves with the model"],
        ),
    ],
)
def test_advice_fits_what_is_wrong(run: Run, said: list[str]) -> None:
    assert advice(run) == said


def test_names_are_told_by_the_prefix_that_makes_them_equal() -> None:
    taken, put = {"m.a": "a", "m.b": "b", "m.": ""}, {"a": "m.a", "b": "m.b"}
    assert advice(RIGHT, taken)[0].startswith("load_state_dict alone does not take 'm.' off: ")
    assert advice(RIGHT, taken)[0].endswith("--strip-prefix m.")
    assert advice(RIGHT, put)[0].startswith("load_state_dict alone does not put 'm.' before: ")
    mixed = "load_state_dict alone does not match these names: ckpttool convert --strip-prefix auto does"
    for names in ({"m.a": "a", "n.b": "b"}, {"a": "m.a", "b": "n.b"}, {"a": "b"}):
        assert advice(RIGHT, names) == [mixed]
    assert advice(RIGHT, {"a": "a"}) == []


def test_advice_of_a_way_of_loading_is_given_once() -> None:
    left = (NotRestored("t", "garbage", "x", "y"), NotRestored("u", "garbage", "x", "y"))
    runs = [
        Run(device, load, not_restored=left) for device in ("cpu", "cuda") for load in ("to-empty", "assign")
    ]
    said = advice(RIGHT, None, *runs)
    assert len(said) == 2
    assert said[0].startswith("to_empty() leaves garbage in 2 non-persistent buffers (t), ")
    assert said[1].startswith("assign=True leaves 2 non-persistent buffers on meta (t): ")
    one = advice(Run("cpu", "assign", not_restored=left[:1], unmoved=("p",), assigned_dtype=("w",)))
    assert one[0].startswith("assign=True leaves 1 non-persistent buffer on meta (t): ")
    assert one[1].startswith("p is a plain attribute and holds no data after a build on meta: ")
    assert one[2].startswith("assign=True keeps the file's dtype in 1 entry (w), ")


def test_a_load_is_right_only_if_nothing_was_said() -> None:
    assert LoadOutcome().ok
    for field in LoadOutcome._fields:
        assert not LoadOutcome(**{field: ("x",)}).ok


@pytest.mark.parametrize("count", [7, 8, 9, 12])
def test_eight_renames_are_told_and_how_many_more_there_are(count: int) -> None:
    spec = describe_model(
        nn.ModuleDict({f"n{at}": nn.Linear(at + 1, 1) for at in range(count)}), "here:build"
    )
    old = {f"old{at}.weight": Entry((), f"old{at}.weight", tensor((1, at + 1))) for at in range(count)}
    gone = tuple(f"n{at}.weight" for at in range(count))
    run = RIGHT._replace(missing=missing(*gone), unexpected=tuple(old))
    said = [text for text in suggest(spec, old, NameMatch({}, 0, ""), [run], command) if "likely" in text]
    start = "likely renamed (one shape, one ending): "
    assert said[:8] == [
        f"{start}old{at}.weight in the file is n{at}.weight in the model" for at in range(min(count, 8))
    ]
    assert len(said) == min(count, 8) + (count > 8)
    assert count <= 8 or said[8].startswith(f"and {count - 8} more likely rename")


def test_keys_beside_the_tensors_are_foreign_and_no_state(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    state = {**model.state_dict(), "epoch": 3, "cfg": {"a": 1}, "_extra_state": 5, "sub._extra_state": [1, 2]}
    torch.save(state, tmp_path / "a.pt")
    spec = describe_model(model, "here:build")
    stored = StoredState(read_checkpoint(str(tmp_path / "a.pt")), (), spec)
    assert (stored.extra, set(stored.foreign)) == (
        {"_extra_state": 5, "sub._extra_state": [1, 2]}, {"epoch", "cfg"}
    )  # fmt: skip
    given = stored.state_dict()
    assert list(given) == ["weight", "bias", "_extra_state", "sub._extra_state", *stored.foreign]
    assert (given["epoch"], given["cfg"], given["_extra_state"]) == (None, None, 5)
    assert stored.copied_nbytes == 0


def test_poison_is_what_no_model_holds() -> None:
    minus_one, poison = torch.tensor([-1, -1]), Poison()
    assert not poison.survives("x", minus_one)
    for dtype, raw in (
        (torch.int32, 0x5A),
        (torch.uint8, 0x5A),
        (torch.float32, 0xFF),
        (torch.complex64, 0xFF),
    ):
        made = torch.zeros(3, dtype=dtype)
        poison.fill({"x": made})
        assert set(made.view(torch.uint8).tolist()) == {raw}
        assert poison.survives("x", made)
        assert not made.is_floating_point() or made.isnan().all()
