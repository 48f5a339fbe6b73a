"""What a model and a file say of each other, each sentence as a whole, and what says nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ckpttool.findings.model import (
    Differences,
    missing_findings,
    model_findings,
    names_findings,
    unexpected_findings,
)
from ckpttool.names.match import NameMatch
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    Finding,
    Kind,
    Presence,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.model import CustomLoad, ModelSpec
from tests.support.classified import entry

PARAMETER, BUFFER, TRANSIENT = Kind.PARAMETER, Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER
EXTRA, UNKNOWN = Kind.EXTRA_STATE, Kind.UNKNOWN


def known(
    name: str, kind: Kind = PARAMETER, basis: Basis = Basis.MODULE, dtype: str = "float32", **more: Any
) -> Entry:
    declared = Classification(kind, basis, tied_to=more.pop("tied_to", ""), note=more.pop("note", ""))
    return entry(name, dtype, declared=declared, **more)


def spec(*entries: Entry, none: Sequence[str] = (), own: Sequence[CustomLoad] = ()) -> ModelSpec:
    return ModelSpec(
        Checkpoint("m", "model", "", (), tuple(entries)), "m.Net", "", tuple(none), (), tuple(own)
    )


# ---------------------------------------- entries that both sides have


def compared(*pairs: tuple[Entry, Entry]) -> tuple[list[Classification], list[Finding]]:
    """What is said of entries, and of all together: under the names of the file."""
    differences = Differences()
    kinds = [differences.compare(stored, wanted._replace(name="of the model")) for stored, wanted in pairs]
    return kinds, list(differences.findings())


@pytest.mark.parametrize("kind", [PARAMETER, BUFFER, EXTRA])
@pytest.mark.parametrize("basis", [Basis.NONE, Basis.OPTIMIZER, Basis.PICKLED_MODULE])
def test_equal_entries_take_the_model_s_kind_and_nothing_is_said(kind: Kind, basis: Basis) -> None:
    pair = (known("a", kind if basis is Basis.PICKLED_MODULE else UNKNOWN, basis), known("a", kind))
    assert compared(pair) == ([Classification(kind, Basis.MODULE)], [])


STALE = (
    "stale: in the file, but this version of the model does not save such an entry, and strict loading "
    "refuses; leave out with `--exclude`"
)


def test_a_non_persistent_buffer_is_stale_unless_the_file_itself_says_what_it_is() -> None:
    stale = Classification(
        TRANSIENT, Basis.MODULE, Presence.UNEXPECTED, "stale: this version does not save it"
    )
    present = Classification(TRANSIENT, Basis.MODULE)
    first = (known("a", UNKNOWN, Basis.NONE), known("a", TRANSIENT))
    guessed = (known("b", TRANSIENT, Basis.NAME), known("b", TRANSIENT))
    pickled = (known("c", TRANSIENT, Basis.PICKLED_MODULE), known("c", TRANSIENT))
    parameter = (known("d", UNKNOWN, Basis.NONE), known("d"))
    said = [Finding("stale-buffer", "warning", "a", f"1 entry (a) is {STALE}")]
    assert compared(first) == ([stale], said)
    assert compared(pickled, parameter) == ([present, Classification(PARAMETER, Basis.MODULE)], [])
    said = [Finding("stale-buffer", "warning", "a", f"2 entries (a, b) are {STALE}")]
    assert compared(first, pickled, guessed) == ([stale, present, stale], said)


NOUNS = {PARAMETER: "parameter", BUFFER: "persistent buffer", TRANSIENT: "non-persistent buffer"}


@pytest.mark.parametrize("basis", [Basis.PICKLED_MODULE, Basis.TORCHSCRIPT, Basis.EXPORT, Basis.NAME])
def test_kinds_differ_where_the_file_knows_them(basis: Basis) -> None:
    """Of buffers only a pickled module knows which are persistent."""
    for was, now in itertools.product([*NOUNS, EXTRA, UNKNOWN], [*NOUNS, EXTRA]):
        kinds, said = compared((known("a", was, basis), known("a", now)))
        of_buffers = PARAMETER not in (was, now)
        expected = was is not now and {was, now} <= NOUNS.keys() and basis is not Basis.NAME
        if not expected or (of_buffers and basis is not Basis.PICKLED_MODULE):
            assert not [item for item in said if item.code == "kind-differs"], (was, now)
            continue
        fact = f"of another kind in the model: a was a {NOUNS[was]} and is a {NOUNS[now]}"
        assert said == [Finding("kind-differs", "warning", "a", f"1 entry (a) is {fact}")]
        assert kinds == [Classification(now, Basis.MODULE, note=f"{NOUNS[was]} in the file")]
    pairs = [(known(name, BUFFER, Basis.PICKLED_MODULE), known(name)) for name in "ab"]
    fact = "of another kind in the model: a was a persistent buffer and is a parameter"
    assert compared(*pairs)[1] == [Finding("kind-differs", "warning", "a", f"2 entries (a, b) are {fact}")]


def shaped(name: str, *shape: int) -> Entry:
    return known(name, shape=shape)


def test_shapes_differ_as_load_state_dict_sees_it() -> None:
    def refused(*examples: str, name: str = "a") -> Finding:
        count = "1 entry" if len(examples) == 1 else f"{len(examples)} entries"
        return Finding("shape-differs", "error", name, f"{count} cannot be loaded: {', '.join(examples)}")

    first = "a is [2, 3] in the file and [3, 2] in the model"
    kinds, said = compared((shaped("a", 2, 3), shaped("a", 3, 2)))
    assert said == [refused(first)]
    assert kinds == [Classification(PARAMETER, Basis.MODULE, note="[3, 2] in the model")]
    takes_it = (
        "1 entry (s) is a vector of one value in the file and a scalar in the model: load_state_dict takes "
        "the value"
    )
    pairs = [
        (shaped("a", 2, 3), shaped("a", 3, 2)),
        (shaped("s", 1), shaped("s")),
        (shaped("c"), shaped("c", 1)),
    ]
    assert compared(*pairs)[1] == [
        Finding("shape-differs", "warning", "s", takes_it),
        refused(first, "c is [] in the file and [1] in the model"),
    ]


SHAPES: list[tuple[int, ...]] = [(), (1,), (2,), (0,), (1, 1), (2, 1), (1, 2)]


@pytest.mark.parametrize("stored", SHAPES, ids=str)
def test_another_shape_is_an_error_where_torch_refuses_it(stored: tuple[int, ...]) -> None:
    for wanted in SHAPES:
        module = torch.nn.Module()
        module.register_buffer("a", torch.zeros(wanted))
        try:
            module.load_state_dict({"a": torch.ones(stored)})
            loads = True
        except RuntimeError:
            loads = False
        said = compared((shaped("a", *stored), shaped("a", *wanted)))[1]
        if stored == wanted:
            assert loads and said == []
        elif wanted == () and stored == (2,):
            assert [item.severity for item in said] == ["error"]  # older ones took the first
        else:
            assert [item.severity for item in said] == ["warning" if loads else "error"], wanted


def test_what_has_no_shape_or_no_value_is_not_compared() -> None:
    lazy = CompositeTensor("uninitialized", "x", None, None, ())
    for stored, wanted in itertools.product([lazy, None, shaped("a", 3).value], repeat=2):
        pair = (shaped("a")._replace(value=stored), shaped("a")._replace(value=wanted))
        assert compared(pair) == ([Classification(PARAMETER, Basis.MODULE)], [])


def numbers(dtype: torch.dtype) -> torch.Tensor:
    """All values of a dtype of up to 16 bits, else some that use all its bits."""
    if dtype.is_complex:
        half = numbers(torch.float32)
        return torch.complex(half, half).to(dtype)
    if dtype.itemsize <= 2:
        raw = torch.arange(256 if dtype.itemsize == 1 else 65536)
        return raw.to(torch.uint8 if dtype.itemsize == 1 else torch.uint16).view(dtype)
    if dtype.is_floating_point:
        info = torch.finfo(dtype)
        return torch.tensor([info.max, info.tiny, 1 + info.eps, -info.max], dtype=dtype)
    return torch.tensor([torch.iinfo(dtype).min, torch.iinfo(dtype).max], dtype=dtype)


TORCHS = """
    float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz
    int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex128 complex64
""".split()


@pytest.mark.parametrize("stored", TORCHS)
def test_a_cast_is_no_more_than_a_fact_where_torch_keeps_every_value(stored: str) -> None:
    for wanted in TORCHS:
        said = compared((known("a", dtype=stored), known("a", dtype=wanted)))[1]
        if stored == wanted:
            assert said == []
            continue
        [finding] = said
        fact = f"{stored} in the file and {wanted} in the model: load_state_dict casts without a word"
        before, after = getattr(torch, stored), getattr(torch, wanted)
        one_kind = BY_NAME[stored].kind == BY_NAME[wanted].kind
        eighth = stored.startswith("float8") and after.itemsize == 2
        if finding.severity == "info":
            values = numbers(before)
            back = values.to(after).to(before)
            wide = torch.complex128 if before.is_complex else torch.float64 if one_kind else torch.int64
            same = (
                (back.to(wide) == values.to(wide)) | back.to(wide).isnan()
                if before.is_floating_point
                else (back == values)
            )
            assert one_kind and bool(same.all()) and stored != "bool"
        else:
            assert not one_kind or after.itemsize <= before.itemsize or eighth
            fact += ", and values may change: verify tells which do"
        assert finding == Finding("dtype-differs", finding.severity, "a", f"1 entry (a) is {fact}")


def test_dtypes_that_differ_are_told_by_pair() -> None:
    pairs = [
        (known("a", dtype="float32"), known("a", dtype="float16")),
        (known("b", dtype="float16"), known("b", dtype="float32")),
        (known("c", dtype="float32"), known("c", dtype="float16")),
    ]
    kinds, said = compared(*pairs)
    words = "in the file and {} in the model: load_state_dict casts without a word"
    lossy = words.format("float16") + ", and values may change: verify tells which do"
    assert said == [
        Finding("dtype-differs", "warning", "a", f"2 entries (a, c) are float32 {lossy}"),
        Finding("dtype-differs", "info", "b", f"1 entry (b) is float16 {words.format('float32')}"),
    ]
    assert [kind.note for kind in kinds] == [
        "float16 in the model", "float32 in the model", "float16 in the model"
    ]  # fmt: skip


def test_notes_of_one_entry_stand_together_in_order() -> None:
    stored = known("a", PARAMETER, Basis.TORCHSCRIPT, "float32", shape=(2,))
    wanted = known("a", BUFFER, Basis.MODULE, "float16", shape=(3,))
    [kind], said = compared((stored, wanted))
    note = "parameter in the file; [3] in the model; float16 in the model"
    assert kind == Classification(BUFFER, Basis.MODULE, note=note)
    assert [item.code for item in said] == ["shape-differs", "dtype-differs", "kind-differs"]


# ---------------------------------------- entries that one side has

MISSING = {
    PARAMETER: ("parameter", "it keeps what the constructor draws", "they keep what the constructor draws"),
    BUFFER: (
        "persistent buffer", "it keeps what the constructor sets", "they keep what the constructor sets"
    ),
    EXTRA: ("extra state", "set_extra_state is not called", "set_extra_state is not called"),
    UNKNOWN: ("entry made by a state_dict hook", "nothing happens", "nothing happens"),
}  # fmt: skip
PLURALS = {EXTRA: "extra states", UNKNOWN: "entries made by state_dict hooks"}


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_entry_is_said_by_kind_with_what_becomes_of_it(kind: Kind) -> None:
    noun, one, many = MISSING[kind]
    severity = "warning" if kind is UNKNOWN else "error"
    said = list(missing_findings(spec(), [known("a", kind)]))
    assert said == [
        Finding(
            "missing-entry", severity, "a",
            f"1 {noun} of the model (a) is not in the file: strict loading refuses, and without strict {one}",
        )
    ]  # fmt: skip
    said = list(missing_findings(spec(), [known("a", kind), known("b", kind)]))
    assert said == [
        Finding(
            "missing-entry", severity, "a",
            f"2 {PLURALS.get(kind, f'{noun}s')} of the model (a, b) are not in the file: strict loading "
            f"refuses, and without strict {many}",
        )
    ]  # fmt: skip


OWN = CustomLoad("sub", ("_load_from_state_dict",))
OWN_CODE = "the module loads by code of its own, which may rename: verify tells"


def test_each_reason_to_be_missing_has_its_sentence() -> None:
    assert list(missing_findings(spec(), [])) == []
    assert list(missing_findings(spec(), [known("mask", TRANSIENT)])) == []
    absent = [
        known("mask", TRANSIENT),
        known("head", tied_to="embed", note="tied to embed, which is in the file"),
        known("sub.a"),
        known("bytes.w"),
        known("p"),
        known("tail", tied_to="embed", note="tied to embed, which is in the file"),
        known("subtle"),
        known("b", BUFFER),
    ]
    found = list(
        missing_findings(spec(own=[OWN]), absent, lambda root, name: (root, name) == ((), "bytes.w"))
    )
    rest = "of the model ({}) {} not in the file: strict loading refuses, and without strict"
    assert found == [
        Finding(
            "missing-entry", "error", "p",
            f"2 parameters {rest.format('p, subtle', 'are')} they keep what the constructor draws",
        ),
        Finding(
            "missing-entry", "error", "b",
            f"1 persistent buffer {rest.format('b', 'is')} it keeps what the constructor sets",
        ),
        Finding(
            "missing-tied", "warning", "head",
            "2 entries (head, tail) are missing, but tied to embed, which is in the file: strict=True "
            "refuses, safetensors.torch.load_model and strict=False do not",
        ),
        Finding(
            "missing-entry", "warning", "bytes.w",
            "1 entry (bytes.w) is not seen: perhaps in a module that the file keeps as bytes, which are not "
            "read",
        ),
        Finding("missing-entry", "warning", "sub.a", f"1 entry (sub.a) is not in the file; {OWN_CODE}"),
    ]  # fmt: skip


def test_what_the_model_does_not_take_is_said_by_where_it_lies() -> None:
    of_model = spec(known("a"), none=["slot", "sub.slot"], own=[OWN, CustomLoad("x", ("get_extra_state",))])
    match = NameMatch({"module.slot": "slot"}, 0, "")
    assert list(unexpected_findings(of_model, [], match)) == []
    given = [known(name) for name in ("x.a", "module.slot", "sub.slot", "slot", "other")]
    start = "in the file, and in the model registered as None until something is assigned: strict loading "
    more = f"in the file and not in the model; {OWN_CODE}"
    assert list(unexpected_findings(of_model, given, match)) == [
        Finding(
            "unexpected-entry", "warning", "module.slot",
            f"2 entries (module.slot, slot) are {start}into a fresh model refuses",
        ),
        Finding(
            "unexpected-entry", "warning", "x.a",
            "2 entries (x.a, other) are in the file and not in the model: strict loading refuses; leave out "
            "with `--exclude`",
        ),
        Finding("unexpected-entry", "info", "sub.slot", f"1 entry (sub.slot) is {more}"),
    ]  # fmt: skip
    [whole] = unexpected_findings(spec(own=[CustomLoad("", ("state_dict",))]), [known("a.b")], match)
    assert (whole.severity, whole.message) == ("info", f"1 entry (a.b) is {more}")


# ---------------------------------------- names


def names_said(of_model: ModelSpec, to_model: dict[str, str], matched: int, description: str = "") -> str:
    found = list(names_findings(of_model, NameMatch(to_model, matched, description)))
    return "; ".join(f"{item.code} {item.severity} {item.name!r}: {item.message}" for item in found)


def test_how_names_meet() -> None:
    both = spec(known("a"), known("b"))
    ask = "is it another model, or is there a `--root`?"
    assert names_said(spec(), {"x": "x"}, 0) == (
        "model-names warning '': the model has no parameters and no buffers"
    )
    assert names_said(both, {"a": "a"}, 1) == ""
    assert names_said(both, {}, 0) == (
        f"model-names error '': the file has none of the model's 2 names: a, b; {ask}"
    )
    assert names_said(both, {"x": "x"}, 0) == (
        f"model-names error '': the file's only name is not one of the model's 2: x against a, b; {ask}"
    )
    assert names_said(both, {"x": "x", "y": "y"}, 0) == (
        f"model-names error '': none of the file's 2 names is one of the model's 2: x, y against a, b; {ask}"
    )
    assert names_said(spec(known("a")), {}, 0) == (
        f"model-names error '': the file has none of the model's 1 name: a; {ask}"
    )
    assert names_said(both, {"m.a": "a"}, 1, "'m.' taken off") == (
        "model-names info '': 1 of 1 name matches the model's, with 'm.' taken off"
    )
    assert names_said(both, {"m.a": "a", "m.b": "b", "c": "c"}, 2, "'m.' taken off") == (
        "model-names info '': 2 of 3 names match the model's, with 'm.' taken off"
    )


def test_what_is_worth_knowing_of_a_model_alone() -> None:
    assert list(model_findings(spec(known("a")))) == []
    fate = "no key until something is assigned, and then a fresh model calls that key unexpected"
    differ = "keys in a file may differ from the attributes"
    assert list(model_findings(spec(none=["a.bias"], own=[OWN]))) == [
        Finding("none-slot", "info", "a.bias", f"1 slot registered as None (a.bias): {fate}"),
        Finding(
            "custom-load", "info", "",
            f"1 module saves or loads in its own way: sub (_load_from_state_dict); {differ}",
        ),
    ]  # fmt: skip
    whole = CustomLoad("", ("state_dict", "get_extra_state"), ("state_dict hook",))
    assert list(model_findings(spec(none=["a", "b"], own=[OWN, whole]))) == [
        Finding("none-slot", "info", "a", f"2 slots registered as None (a, b): {fate}"),
        Finding(
            "custom-load", "info", "",
            "2 modules save or load in their own way: sub (_load_from_state_dict), "
            f"the model (state_dict, get_extra_state, state_dict hook); {differ}",
        ),
    ]  # fmt: skip
