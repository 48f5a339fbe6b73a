"""Findings about loading, branches, kinds and values, whole, at one and at more, and their silent twins."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ckpttool.findings.one_rank import find_one_rank
from ckpttool.findings.text import about, name_branch, name_pair, short_name
from ckpttool.inspection.spread import find_spread
from ckpttool.kinds.quantized import Fault, Survey
from ckpttool.values.checkpoint import (
    Basis,
    CompositeTensor,
    Entry,
    Finding,
    GlobalRef,
    Kind,
    Opaque,
    Part,
    Plain,
    Presence,
    Value,
)
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.inspection import Row, Spread
from tests.support.evidence import at, evidence, group, plain, said, view

# ------------------------------------------------------------------------------------------ loading


def of_globals(*refs: GlobalRef, format: str = "torch_zip", **more: Any) -> list[Finding]:
    return said(at("w"), globals=refs, format=format, **more)


def ref(
    path: str, *places: str, called: bool = True, calls: int = 0, arities: tuple[int, ...] = ()
) -> GlobalRef:
    module, _, name = path.partition(":")
    return GlobalRef(module, name, called, places, calls, arities)


REFUSES = "torch.load(weights_only=True) refuses it because of"
FAILS = "torch.load fails on it, weights_only or not, because of"
SYSTEM = "posix.system (starts programs)"


def refused(reason: str) -> Finding:
    return Finding("weights-only-refuses", "warning", "", f"{REFUSES} {reason}")


def test_globals_by_what_they_are() -> None:
    allowed = ref("torch._utils:_rebuild_tensor_v2", arities=(6, 7))
    assert of_globals(allowed) == []
    unknown = ref("my:Net", "$.net")
    assert of_globals(allowed, unknown) == [refused("my.Net; a plain pickle load would call my.Net at $.net")]
    imported = ref("my:Net", called=False)
    assert of_globals(imported) == [refused("my.Net; a plain pickle load would import my.Net")]
    dangerous = Finding("dangerous-globals", "error", "", f"a plain pickle load would call {SYSTEM} at $.x")
    system = ref("posix:system", "$.x")
    assert of_globals(system) == [dangerous, refused("posix.system")]
    assert of_globals(imported, system) == [
        dangerous,
        refused("my.Net, posix.system; a plain pickle load would import my.Net"),
    ]


def test_what_no_load_takes_is_said_once() -> None:
    five = ref("torch._utils:_rebuild_tensor_v2", arities=(5,))
    wrong = "a call of torch._utils._rebuild_tensor_v2 with 5 arguments"
    assert of_globals(five) == [Finding("load-fails", "error", "", f"{FAILS} {wrong}")]
    assert of_globals(obstacles=("a hole",)) == []  # without a pickle nothing is loaded
    both = of_globals(five, obstacles=("a hole", "a crack"))
    assert both == [Finding("load-fails", "error", "", f"{FAILS} a hole, a crack, {wrong}")]
    with_unknown = of_globals(five, ref("my:Net"))
    assert with_unknown == [
        Finding("load-fails", "error", "", f"{FAILS} {wrong}"),
        refused("my.Net; a plain pickle load would call my.Net"),
    ]
    opcodes = of_globals(ref("torch:Size"), rare_opcodes=frozenset([0x30]))
    assert opcodes == [refused("opcode POP, which it does not know")]
    bare = of_globals(ref("torch:Size"), format="pickle")
    assert bare == [refused("the bare pickle, which torch.load does not read")]


def test_a_legacy_file_that_torch_cannot_read_is_an_error_of_its_own() -> None:
    untyped = ref("torch.storage:UntypedStorage")
    hole = "an untyped storage in the pre-1.6 file layout"
    sentence = f"torch.load fails, weights_only or not: it cannot read {hole}; the bytes are all here"
    assert of_globals(untyped, format="torch_legacy") == [Finding("legacy-unreadable", "error", "", sentence)]
    assert of_globals(untyped) == []


@pytest.mark.parametrize("basis", Basis)
def test_archives_of_other_loaders(basis: Basis) -> None:
    script = (
        "TorchScript: torch.jit.load runs the code in it, and its buffers are all saved, whether they were "
        "persistent or not"
    )
    program = "an exported program: torch.export.load unpickles its sample inputs without restriction"
    expected = {
        Basis.TORCHSCRIPT: [Finding("torchscript", "info", "", script)],
        Basis.EXPORT: [Finding("exported-program", "info", "", program)],
    }
    assert said(at("w", basis=basis)) == expected.get(basis, [])


# ------------------------------------------------------------------------------------------ branches


def test_several_state_dicts_of_which_none_is_the_one() -> None:
    def found(*roles: str, root: Any = None) -> list[Finding]:
        groups = [group((role,), role) for role in roles]
        return said(*plain("w"), groups=groups, weights_root=root)

    fact = "{}, none plainly the one: {}; choose with `--root`"
    assert found() == found("weights") == found("weights", "optimizer", "ema", "other") == []
    assert found("weights", "module") == [
        Finding("several-state-dicts", "info", "", fact.format("2 state_dicts", "weights, module"))
    ]
    assert found("weights", "module", root=("weights",)) == []
    assert found("weights", "module", root=()) == []
    [three] = said(*plain("w"), groups=[group((), "weights"), group(("a", 0), "module")], weights_root=None)
    assert three.message == fact.format("2 state_dicts", "the top, a[0]")


def test_an_optimizer_that_is_larger_than_the_weights() -> None:
    def found(*groups: tuple[str, int]) -> list[Finding]:
        made = [group((f"{role}{number}",), role, nbytes) for number, (role, nbytes) in enumerate(groups)]
        return said(*plain("w"), groups=made)

    assert found(("weights", 5), ("optimizer", 5)) == []
    assert found(("weights", 5), ("optimizer", 6)) == [
        Finding(
            "optimizer-outweighs", "info", "",
            "optimizer state (optimizer1) takes 6 bytes, the weights 5 bytes",
        )
    ]  # fmt: skip
    assert found(("weights", 0), ("optimizer", 6)) == found(("ema", 4), ("optimizer", 6)) == []
    assert found(("weights", 1), ("ema", 9), ("other", 9)) == []
    assert [
        item.message for item in found(("weights", 1), ("module", 2), ("optimizer", 2), ("optimizer", 2))
    ] == ["optimizer state (optimizer2, optimizer3) takes 4 bytes, the weights 3 bytes"]
    assert found(("weights", 1), ("module", 2), ("optimizer", 3)) == []


# ------------------------------------------------------------------------------------------ kinds


def test_parameters_of_several_dtypes() -> None:
    half = [at(f"h{number}", view(dtype="float16")) for number in range(4)]
    assert said(*plain("w", 2), half[0]) == [
        Finding(
            "mixed-dtypes", "info", "h0",
            "parameters of several dtypes: 2 float32, 1 float16; float16 is h0",
        )
    ]  # fmt: skip
    assert [item.message for item in said(*plain("w", 5), *half)] == [
        "parameters of several dtypes: 5 float32, 4 float16; float16 are h0, h1, h2 and 1 more"
    ]
    assert [
        item.message for item in said(half[0], half[1], at("b", view(dtype="bfloat16")), *plain("w"))
    ] == ["parameters of several dtypes: 2 float16, 1 bfloat16, 1 float32; float32 is w0"]
    for other in (
        at("x", view(dtype="int8")),
        at("x", view(dtype="complex64")),
        at("x", view(dtype="float16"), Kind.PERSISTENT_BUFFER),
        at("x", view(dtype="float16"), Kind.UNKNOWN),
    ):
        assert said(*plain("w"), other) == []
    whole = CompositeTensor("subclass", "t.T", BY_NAME["float16"], (4,), (Part("inner", view()),))
    assert [item.message for item in said(at("a", whole), *plain("w"))] == [
        "parameters of several dtypes: 1 float16, 1 float32; float32 is w0"
    ]
    assert said(at("a", whole._replace(dtype=None)), at("x", view(dtype="int8")), *plain("w")) == []


CARRIED = "non-persistent: the file carries what a state_dict of the model leaves out"


def test_non_persistent_buffers_that_are_in_the_file() -> None:
    mask = at("mask", kind=Kind.NON_PERSISTENT_BUFFER)
    fact = f"1 entry (mask) is {CARRIED}"
    assert said(mask, at("w")) == [Finding("non-persistent-present", "info", "mask", fact)]
    table = at("table", kind=Kind.NON_PERSISTENT_BUFFER)
    fact = f"2 entries (mask, table) are {CARRIED}"
    assert said(at("w"), mask, table) == [Finding("non-persistent-present", "info", "mask", fact)]
    for presence in (Presence.UNEXPECTED, Presence.MISSING):
        assert said(at("mask", kind=Kind.NON_PERSISTENT_BUFFER, presence=presence)) == []
    assert said(at("b", kind=Kind.PERSISTENT_BUFFER)) == []


@pytest.mark.parametrize(
    ("missing", "sure", "severity", "code", "one", "many"),
    [
        (
            True, True, "error", "quantized-incomplete",
            "1 GPTQ module (a) is without scales: such a module cannot be loaded or computed",
            "2 GPTQ modules (a, b) are without scales: such a module cannot be loaded or computed",
        ),
        (
            True, False, "warning", "quantized-incomplete",
            "1 GPTQ module (a) is without scales: all others of the file have one",
            "2 GPTQ modules (a, b) are without scales: all others of the file have one",
        ),
        (
            False, True, "warning", "quantized-extra",
            "1 GPTQ module (a) holds scales as well, which the scheme does not use",
            "2 GPTQ modules (a, b) hold scales as well, which the scheme does not use",
        ),
        (
            False, False, "warning", "quantized-extra",
            "1 GPTQ module (a) holds scales as well, which the scheme does not use",
            "2 GPTQ modules (a, b) hold scales as well, which the scheme does not use",
        ),
    ],
)  # fmt: skip
def test_quantised_modules_that_lack_a_member_or_have_one_too_many(
    missing: bool, sure: bool, severity: str, code: str, one: str, many: str
) -> None:
    for paths, sentence in ((("a",), one), (("a", "b"), many)):
        survey = Survey((), (Fault("GPTQ", "scales", missing, sure, paths),), 0, frozenset())
        assert said(at("w"), quantized=survey) == [Finding(code, severity, "a", sentence)]
    assert said(at("w"), quantized=Survey((), (), 0, frozenset())) == []


def test_extra_state_is_a_tensor_or_an_object() -> None:
    strict = "extra state: strict loading into a model whose modules have none calls it unexpected"
    one = at("_extra_state", kind=Kind.EXTRA_STATE)
    assert said(one) == [
        Finding("extra-state", "info", "_extra_state", f"1 entry (_extra_state) is {strict}")
    ]
    fact = f"2 entries (_extra_state, a._extra_state) are {strict}"
    two = at("a._extra_state", kind=Kind.EXTRA_STATE)
    assert said(one, two, at("w")) == [Finding("extra-state", "info", "_extra_state", fact)]

    def objects(*leaves: Opaque) -> list[Finding]:
        return said(at("w"), opaque=leaves)

    rest = "safetensors cannot keep {0}, and strict loading misses {0}"
    leaf, other = Opaque((), "_extra_state", "my.Obj"), Opaque(("x",), "a._extra_state", "Fraction")
    assert objects(leaf, Opaque((), "hyper", "my.Obj"), Opaque((), 3, "my.Obj")) == [
        Finding(
            "extra-state-object", "info", "",
            f"1 extra state that no tensor holds: _extra_state (my.Obj); {rest.format('it')}",
        )
    ]  # fmt: skip
    assert objects(leaf, other) == [
        Finding(
            "extra-state-object", "info", "",
            "2 extra states that no tensor holds: _extra_state (my.Obj), a._extra_state (Fraction); "
            f"{rest.format('them')}",
        )
    ]  # fmt: skip
    for name in ("_extra_state.x", "my_extra_state", "", 3):
        assert objects(Opaque((), name, "my.Obj")) == []


def test_values_that_are_no_numbers() -> None:
    def found(*values: Value) -> list[Finding]:
        return said(at("w"), values=values)

    nan = Value(("best",), "loss", math.nan)
    assert found(nan) == [Finding("nan-value", "warning", "", "1 value beside the tensors: best.loss is nan")]
    assert found(Value((), "x", 1.0), nan, Value((), "y", -math.nan)) == [
        Finding("nan-value", "warning", "", "2 values beside the tensors: best.loss is nan, y is nan")
    ]
    assert found(*[Value((), "x", value) for value in (math.inf, 0.0, 3, "nan", None, (math.nan,))]) == []


# ------------------------------------------------------------------------------------------ one rank


def placed(
    name: str, placements: Plain, mesh: Plain, *local: tuple[int, ...], type_name: str = "t.DTensor",
    rank: Plain = 1, tied_to: Entry | None = None, parts: str = "_local_tensor",
) -> Row:  # fmt: skip
    details: Any = (("placements", placements), ("mesh", mesh), ("rank", rank))
    pieces = tuple(Part(f"{parts}{number or ''}", view(size)) for number, size in enumerate(local))
    beside = (Part("ranks", view((9,), "int64")),)
    value = CompositeTensor("subclass", type_name, BY_NAME["float32"], (6, 4), (*pieces, *beside), details)
    return at(name, value, tied_to=tied_to)


REST = (
    "the rest is in the other ranks' files: save with get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True)), or with torch.distributed.checkpoint"
)


def of_ranks(*rows: Row) -> tuple[Spread | None, list[Finding]]:
    spread = find_spread(rows)
    return spread, [item for item in said(*rows, spread=spread) if item.code != "tied"]


def test_one_rank_s_part_of_a_tensor() -> None:
    row = placed("w", ("Shard(0)",), (2,), (3, 4))
    spread, found = of_ranks(row, at("v"))
    assert spread == Spread((row.entry,), 12, 24, (2,), 1)
    assert found == [
        Finding(
            "one-rank", "warning", "w",
            "one rank of 2: 12 of 24 elements of 1 DTensor on a mesh of 2 (rank 1 saved it): "
            f"w (Shard(0): 3×4 of 6×4); {REST}",
        )
    ]  # fmt: skip
    tied = placed("tied", ("Shard(0)",), (2,), (3, 4), tied_to=row.entry)
    more = placed("u", ("Replicate()", "Shard(1)"), (2, 3), (1, 4), (2, 4), (7, 4), parts="_local_shards")
    spread, found = of_ranks(at("v"), more, row, tied)
    assert spread == Spread((more.entry, row.entry), 40 + 12, 48, (2, 3), 1)
    assert [item.message for item in found] == [
        "one rank of 6: 52 of 48 elements of 2 DTensors on a mesh of 2×3 (rank 1 saved it): "
        f"u (Replicate(), Shard(1): 1×4 and 2×4 of 6×4), w (Shard(0): 3×4 of 6×4); {REST}"
    ]
    spread, found = of_ranks(placed("n", ("Shard(0)",), (2,), rank=None, type_name="Sharded"))
    assert spread is not None and (spread.rank, spread.numel) == (None, 0)
    assert [item.message for item in found] == [
        f"one rank of 2: 0 of 24 elements of 1 Sharded on a mesh of 2: n (Shard(0): nothing of 6×4); {REST}"
    ]


@pytest.mark.parametrize(
    ("placements", "mesh", "is_spread"),
    [
        (("Shard(0)",), (2,), True), (("Shard(0)",), (1,), False), (("Replicate()",), (2,), False),
        (("Partial(sum)",), (2,), True), (("Replicate()", "Shard(0)"), (2, 1), False),
        (("Replicate()", "Shard(0)"), (1, 2), True), (("Shard(0)", "Replicate()"), (1, 2), False),
        ((), (), False), (("Shard(0)",), (), False), (None, (2,), False), (("Shard(0)",), None, False),
        ("Shard(0)", (2,), False), (("Shard(0)",), 2, False),
    ],
)  # fmt: skip
def test_a_tensor_is_spread_where_a_dimension_of_the_mesh_splits_it(
    placements: Plain, mesh: Plain, is_spread: bool
) -> None:
    spread, found = of_ranks(placed("w", placements, mesh, (3, 4)))
    assert (spread is not None) is is_spread
    assert bool(found) is is_spread


def test_a_spread_entry_without_parts_is_named_alone() -> None:
    """As a caller of the API may hand it over."""
    plain_ = at("a").entry
    [finding] = find_one_rank(evidence(spread=Spread((plain_,), 1, 2, (2,), None)))
    assert finding.message.endswith(f" on a mesh of 2: a; {REST}")


def test_without_a_spread_nothing_is_said_of_ranks() -> None:
    assert find_spread([]) is None
    assert of_ranks(at("a")) == (None, [])
    bare = CompositeTensor("subclass", "t.T", BY_NAME["float32"], (4,), (Part("inner", view()),))
    assert of_ranks(at("a", bare)) == (None, [])
    assert evidence([at("a")]).spread is None


# ------------------------------------------------------------------------------------------ words


def test_names_as_they_stand_in_sentences() -> None:
    a, b = Entry((), "a", view()), Entry(("x", 0), "b", view())
    number = Entry(("x",), 3, view())
    assert [short_name(item) for item in (a, b, number)] == ["a", "b", "x[3]"]
    assert short_name(Entry((), "n" * 81, None)) == "n" * 80 + "…"
    assert name_pair(b, Entry(("x", 0), "c", view())) == "b = c"
    assert (name_pair(a, b), name_pair(b, a)) == ("a = x[0].b", "x[0].b = a")
    assert (name_branch(()), name_branch(("a", 1))) == ("the top", "a[1]")
    assert list(about("c", "info", [], "odd")) == []
    assert list(about("c", "info", [number, a, number, a], "odd")) == [
        Finding("c", "info", "3", "2 entries (x[3], a) are odd")
    ]
    [both] = about("c", "error", [a, a._replace(name="b")], "odd")
    assert both == Finding("c", "error", "a", "2 entries (a, b) are odd")


def test_evidence_is_searched_by_the_ends_of_names() -> None:
    looked = evidence([at("a.weight"), at(7), at("weight.b"), at("b.bias")])
    assert [item.name for item in looked.ending("weight", "bias")] == ["a.weight", "b.bias"]
    assert looked.ending("7") == looked.ending("nothing") == []
    assert (looked.mentions("nothing", "t.b"), looked.mentions("nothing")) == (True, False)
