"""The commands that findings lead to, whole lines, for inspections made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckpttool.findings.next_commands import lossless_container, new_name, next_commands
from ckpttool.values.checkpoint import (
    Basis,
    Checkpoint,
    Classification,
    CompositeTensor,
    Entry,
    FileInfo,
    Finding,
    GlobalRef,
    Kind,
    OddKey,
    Part,
    Presence,
    Value,
)
from ckpttool.values.containers import HELD_LAYOUTS
from ckpttool.values.dtypes import BY_NAME
from ckpttool.values.inspection import Group, Inspection, ModelFacts, Row
from tests.support.inspections import inspection, missing, row, tensor

BUFFER, TRANSIENT = Kind.PERSISTENT_BUFFER, Kind.NON_PERSISTENT_BUFFER
UNEXPECTED = Presence.UNEXPECTED


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(*codes: str) -> tuple[Finding, ...]:
    return tuple(Finding(code, "info", "", "said") for code in codes)


def commands(inspected: Inspection) -> list[tuple[str, str]]:
    return [(item.command, item.why) for item in next_commands(inspected)]


def after(*codes: str, rows: Any = None, **more: Any) -> list[tuple[str, str]]:
    return commands(inspection(rows or [row("a.weight")], findings=found(*codes), **more))


CONVERT = "ckpttool convert run/last.ckpt"
VERIFY = (
    "ckpttool verify run/last.ckpt --model MODEL",
    "loads it into your model and checks every tensor; replace MODEL with yours, e.g. model.py:build",
)
GLOBALS = ("ckpttool inspect run/last.ckpt --globals", "what torch.load would import, and where")

EXPECTED: dict[str, tuple[str, str]] = {
    "weights-only-refuses": ("", "writes the tensors without the objects"),
    "dangerous-globals": ("", "writes the tensors without the objects"),
    "torchscript": ("", "writes the tensors without the code"),
    "exported-program": ("", "writes the tensors without the program"),
    "device-tags": ("", "removes the device tags, so it loads on any machine"),
    "non-contiguous": ("", "packs the tensors"),
    "conj-neg-bit": ("", "writes the values that such bits stand for"),
    "tied": ("", "keeps ties once, and listed"),
    "overlapping-views": ("", "writes views apart"),
    "storage-bloat": ("", "leaves unused bytes behind"),
    "legacy-unreadable": ("", "writes a file that loads"),
    "legacy-layout": ("", "the result can be memory-mapped; converting needs at most 64 MiB"),
    "safetensors-no-format": ("", 'writes "format": "pt"'),
    "unknown-to-safetensors": (" --as-bytes", "keeps such tensors as bytes"),
    "known-buffers": (" --drop-known-buffers", "leaves out what newer libraries rebuild"),
    "extra-state-object": (" --drop '*_extra_state'", "leaves out the extra state"),
    "extra-state": (" --drop '*_extra_state'", "leaves out the extra state"),
    "weight-norm": (
        r" --rename 'parametrizations\.(\w+)\.original0=>\1_g'"
        r" --rename 'parametrizations\.(\w+)\.original1=>\1_v'",
        "gives the names of torch.nn.utils.weight_norm",
    ),
    "adapter": (
        r" --rename 'lora_([AB])\.weight$=>lora_\1.default.weight'",
        "gives the names that a loaded adapter has",
    ),
}
TO_SAFETENSORS_ALONE = {
    "non-contiguous",
    "conj-neg-bit",
    "tied",
    "overlapping-views",
    "unknown-to-safetensors",
}
VERIFIED = """
    batch-norm-no-counter batch-norm-no-statistics dtype-differs shape-differs missing-entry missing-tied
    model-names parametrized
""".split()
SILENT = ["optimizer-outweighs", "nan-value", "mixed-dtypes", "several-state-dicts", "packed-weights", "x"]


@pytest.mark.parametrize("code", EXPECTED)
def test_each_finding_asks_for_its_conversion(code: str) -> None:
    words, why = EXPECTED[code]
    verify = [VERIFY] if code == "weight-norm" else []
    assert after(code) == [(f"{CONVERT} last.safetensors{words}", why), *verify]
    # Two equal names cannot stand in a safetensors file, and a .pt does not do all of this.
    twins = [row("3"), row(3)]
    kept = [] if code in TO_SAFETENSORS_ALONE else [(f"{CONVERT} last.pt{words}", why)]
    assert after(code, rows=twins) == [*kept, *verify]


@pytest.mark.parametrize("code", VERIFIED)
def test_what_only_a_load_tells_is_verified(code: str) -> None:
    assert after(code) == [VERIFY]


@pytest.mark.parametrize("code", SILENT)
def test_what_no_command_helps_with_leads_to_none(code: str) -> None:
    assert after(code) == after() == []


@pytest.mark.parametrize(
    "blocked", ["meta-tensors", "zero3-placeholders", "uninitialized", "shard-key-missing"]
)
def test_what_must_be_mended_first_is_not_converted(blocked: str) -> None:
    refs = (GlobalRef("a", "b", True),)
    assert after(blocked, "dangerous-globals", "tied", "wrapper-prefix", "missing-entry", globals=refs) == [
        GLOBALS
    ]
    assert after(blocked) == []


def test_globals_are_shown_where_there_are_any() -> None:
    refs = (GlobalRef("a", "b", True),)
    first = (f"{CONVERT} last.safetensors", "writes the tensors without the objects")
    for code in ("dangerous-globals", "weights-only-refuses"):
        assert after(code, globals=refs) == [first, GLOBALS]
        assert after(code) == [first]
    assert after("tied", globals=refs) == [(f"{CONVERT} last.safetensors", "keeps ties once, and listed")]
    # Two commands at most.
    assert after("dangerous-globals", "missing-entry", globals=refs) == [first, GLOBALS]
    assert after("missing-entry", "tied", globals=refs)[1:] == [VERIFY]


def test_several_findings_are_one_command_and_each_reason_once() -> None:
    codes = ["extra-state-object", "extra-state", "known-buffers", "tied", "storage-bloat"]
    [(line, why)] = after(*codes)
    assert line == (
        f"{CONVERT} last.safetensors --drop-known-buffers --drop '*_extra_state' --drop '*_extra_state'"
    )
    assert why == (
        "keeps ties once, and listed; leaves unused bytes behind; leaves out what newer libraries rebuild; "
        "leaves out the extra state"
    )


def test_a_model_a_selection_and_what_was_converted_before() -> None:
    rows = [row("a.weight"), row("b.weight")]
    entries = tuple(item.entry for item in rows)
    assert after("tied", rows=rows, files=()) == []
    assert after("tied", rows=rows[:1], entries=entries) == []
    assert after("tied", "missing-entry", rows=rows[:1], entries=entries) == [VERIFY]
    stored = Checkpoint("run/last.ckpt", "safetensors", "", (), entries)
    assert after("tied", rows=rows, stored=stored) == []
    assert after("tied", "storage-bloat", rows=rows, stored=stored) == [
        (f"{CONVERT} last.safetensors", "leaves unused bytes behind")
    ]


ALONE = "writes the weights alone"


def test_weights_among_others_are_written_alone() -> None:
    weights = [row("w", root=("model",))]
    line = (f"{CONVERT} last.safetensors --weights-only", ALONE)
    state = row("m", kind=Kind.OPTIMIZER_STATE, root=("optim",))
    assert after(rows=[*weights, state], weights_root=("model",)) == [line]
    assert after(rows=weights, weights_root=("model",)) == [line]
    assert after("tied", rows=[*weights, state], weights_root=("model",)) == [
        (line[0], f"keeps ties once, and listed; {ALONE}")
    ]
    beside = (Value((), "epoch", 3),)
    assert after(values=beside) == [line]
    assert after(values=(Value(("x",), "epoch", 3),)) == []
    for kind in (BUFFER, TRANSIENT):
        rows = [row("b", kind=kind), row("w", kind=Kind.UNKNOWN)]
        assert [why for _, why in after(rows=rows, values=beside)] == [ALONE]
    assert after(rows=[row("w", kind=Kind.UNKNOWN)], values=beside) == []
    assert after(rows=[row("w", root=("x",))], values=beside) == []
    assert after(values=beside, weights_root=None) == []
    assert after(values=beside, stored=Checkpoint("f", "x", "", (), ())) == []


def composite(layout: str) -> CompositeTensor:
    return CompositeTensor(layout, "t.T", BY_NAME["qint8"], (4, 3), (Part("data", tensor()),))


BLOAT = "storage-bloat"


def target(rows: list[Row], *codes: str, **more: Any) -> str:
    """The container of the one conversion that is proposed, or none."""
    lines = [line for line, _ in after(BLOAT, *codes, rows=rows, **more) if "convert" in line]
    return lines[0].split()[3].rpartition(".")[2] if lines else ""


@pytest.mark.parametrize("layout", [*sorted(HELD_LAYOUTS["pt"]), "subclass", "uninitialized"])
def test_tensors_of_parts_go_into_a_pt_that_can_hold_them(layout: str) -> None:
    rows = [row("a"), row("q", composite(layout))]
    assert target(rows) == ("pt" if layout in HELD_LAYOUTS["pt"] else "")
    elsewhere = [row("a"), row("q", composite(layout), root=("other",), kind=Kind.OPTIMIZER_STATE)]
    assert target(elsewhere) == "safetensors"


def test_names_decide_what_can_hold_them() -> None:
    def of(*names: Any, root: Any = (), weights_root: Any = ()) -> str:
        return target([row(name, root=root) for name in names], weights_root=weights_root)

    assert of("a", "ü", "日") == of("a", 3) == "safetensors"
    assert of("3", 3) == of("__metadata__", "a") == of("a\ud800") == of("\udfff", "a") == "pt"
    odd = OddKey("1.5", True), OddKey("an object", False)
    assert (of("1.5", odd[0]), of("a", odd[0])) == ("pt", "safetensors")
    assert of("an object", odd[1]) == ""
    assert of("a\ue000") == of("a\ud7ff") == "safetensors"
    assert of("3", 3, root=(odd[1],), weights_root=None) == ""
    assert of("3", 3, root=(odd[0],), weights_root=None) == "pt"


def test_dtypes_that_no_pickle_names_go_where_they_are_known() -> None:
    six = row("w", tensor((4, 4), "float6_e2m3fn"))
    assert target([six]) == "safetensors"
    assert target([six, row("__metadata__")]) == ""
    lacking = "unknown-to-safetensors"
    wide = [row("w", tensor(dtype="complex128"))]
    assert (target(wide, lacking), target([six], lacking)) == ("pt", "safetensors")
    assert after(lacking, rows=wide) == [
        (f"{CONVERT} last.safetensors --as-bytes", "keeps such tensors as bytes")
    ]
    # Nothing that a .pt does as well is asked for.
    assert after(lacking, "tied", rows=wide) == [
        (f"{CONVERT} last.safetensors --as-bytes", "keeps ties once, and listed; keeps such tensors as bytes")
    ]


def test_of_a_program_only_the_weights_are_written() -> None:
    for basis in (Basis.TORCHSCRIPT, Basis.EXPORT):
        assert target([row("a", basis=basis)]) == "safetensors"
        assert target([row("3", basis=basis), row(3, basis=basis)]) == ""
        assert target([row("a", basis=basis)], weights_root=None) == ""
        wide = [row("w", tensor(dtype="complex128"), basis=basis)]
        assert target(wide, "unknown-to-safetensors") == "safetensors"
    assert target([row("a")], weights_root=None) == "pt"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a", kind=TRANSIENT)], ""),
        ([row("a", kind=Kind.EXTRA_STATE)], ""),
        ([row("a", presence=UNEXPECTED)], ""),
        ([row("a", kind=BUFFER)], "safetensors"),
        ([row("a", kind=Kind.UNKNOWN)], "safetensors"),
        ([row("a", kind=TRANSIENT), row("b")], "safetensors"),
    ],
)
def test_something_must_be_left_to_write(rows: list[Row], expected: str) -> None:
    assert target(rows) == expected
    twins = [row("3", kind=TRANSIENT), row(3, kind=TRANSIENT)]
    assert target([*rows, *twins]) == (expected and "pt")


def changed(item: Row, **fields: Any) -> Row:
    return item._replace(classification=item.classification._replace(**fields))


def test_what_is_rebuilt_or_beside_the_module_is_not_worth_a_file() -> None:
    rebuilt = changed(row("a", kind=BUFFER), rebuilt_since="4.3")
    assert target([rebuilt]) == ""
    assert target([changed(row("a"), rebuilt_since="4.3")]) == "safetensors"
    beside = row("a")
    declared = Classification(Kind.UNKNOWN, Basis.PICKLED_MODULE, registered=False)
    assert target([beside._replace(entry=beside.entry._replace(declared=declared))]) == ""


def test_an_expanded_tensor_is_not_written_out_beyond_sixteen_times_the_file() -> None:
    file, held = (FileInfo("run/last.ckpt", 300, 0, 0),), tensor((16 * 75,))
    wider = tensor((16 * 75 + 1,))
    for value, expected in ((held, "safetensors"), (wider, "safetensors")):
        assert target([row("a", value)], files=file) == expected  # its storages hold as much
    for value, expected in ((held, "safetensors"), (wider, "")):
        made = inspection([row("a", value)], findings=found(BLOAT), files=file)
        made = made._replace(summary=made.summary._replace(storage_nbytes=299))
        assert ["safetensors" in line for line, _ in commands(made)] == [True] * bool(expected)
        made = made._replace(summary=made.summary._replace(storage_nbytes=301))
        assert len(commands(made)) == 1
    twins = [row("3", wider), row(3, tensor((0,)))]
    made = inspection(twins, findings=found(BLOAT), files=file)
    assert commands(made._replace(summary=made.summary._replace(storage_nbytes=0))) == []


# ------------------------------------------------------------------------------------------ names


OFF = "takes wrappers off the names"


def test_wrappers_are_taken_off_where_the_weights_have_them() -> None:
    line = (f"{CONVERT} last.safetensors --strip-prefix auto", OFF)
    wrapped, bare = [row("module.a"), row("module.b")], [row("a"), row("b")]
    assert after("wrapper-prefix", rows=wrapped) == [line, VERIFY]
    assert after("wrapper-prefix", rows=bare) == [VERIFY]
    assert after("wrapper-prefix", rows=[row("module.a"), row("a")]) == [VERIFY]
    assert after("wrapper-prefix", rows=[row("a"), row("module.s", kind=Kind.OPTIMIZER_STATE)]) == [VERIFY]
    assert after("wrapper-prefix", rows=[row(3), *wrapped]) == [line, VERIFY]
    both = [row("a", root=("x",)), row("module.a", root=("y",))]
    assert after("wrapper-prefix", rows=both, weights_root=None) == [
        (f"{CONVERT} last.pt --strip-prefix auto", OFF)
    ]
    assert after("wrapper-prefix", rows=bare, weights_root=None) == []


def branches(*roles: tuple[str, str, str], root: Any = ("model",), **more: Any) -> list[tuple[str, str]]:
    """What a file with a wrapper's names leads to, of branches (root, role, name of the one entry)."""
    rows = [row(name, root=(at,)) for at, _, name in roles]
    groups = tuple(Group((at,), role, 1, 4, 1, 0, 0, 1) for at, role, _ in roles)
    options = {"rows": rows, "groups": groups, "weights_root": root, **more}
    return [item for item in after("wrapper-prefix", **options) if item != VERIFY]


def test_another_branch_than_the_weights_is_unwrapped_by_a_command_of_its_own() -> None:
    model = ("model", "weights", "a")
    first = (f"{CONVERT} last.safetensors --weights-only", ALONE)
    second = (
        f"{CONVERT} last.safetensors --root ema --strip-prefix auto", "takes wrappers off the names in ema"
    )  # fmt: skip
    for role in ("weights", "ema", "module"):
        assert branches(model, ("ema", role, "module.a")) == [first, second]
    for role in ("other", "optimizer"):
        assert branches(model, ("ema", role, "module.a")) == [first]
    assert branches(model, ("ema", "ema", "a")) == [first]
    two = [("ema", "ema", "module.a"), ("ema2", "ema", "module.a")]
    assert branches(model, *two) == [first]
    wrapped = (f"{CONVERT} last.safetensors --strip-prefix auto --weights-only", f"{OFF}; {ALONE}")
    assert branches(("model", "weights", "module.a"), ("ema", "ema", "module.a")) == [wrapped]
    assert branches(model, ("ema", "ema", "module.a"), root=None)[0][1] == OFF
    entries = (*[row("a").entry] * 3,)
    assert branches(model, ("ema", "ema", "module.a"), entries=entries) == []
    odd = ("a\u202eb", "ema", "module.a")
    assert branches(model, odd) == [first]  # no --root spells it
    shown = (f"{CONVERT} last.safetensors --root '[\"e m\"]' --strip-prefix auto", f'{OFF} in ["e m"]')
    assert branches(model, ("e m", "ema", "module.a")) == [first, shown]


def test_a_branch_that_no_container_holds_is_not_converted() -> None:
    model = ("model", "weights", "a")
    rows = [row("a", root=("model",)), row("module.q", composite("subclass"), root=("ema",))]
    assert [line for line, _ in branches(model, ("ema", "ema", "module.q"), rows=rows)] == [
        f"{CONVERT} last.safetensors --weights-only"
    ]
    rows[1] = row("module.q", composite("quantized"), root=("ema",))
    assert [line for line, _ in branches(model, ("ema", "ema", "module.q"), rows=rows)][1:] == [
        f"{CONVERT} last.pt --root ema --strip-prefix auto"
    ]


def test_what_the_model_does_not_have_is_dropped_by_name_if_it_is_little() -> None:
    why = "leaves out what the model does not have"
    for count in range(5):
        rows = [row("w"), *(row(f"x{at}.b", presence=UNEXPECTED) for at in range(count))]
        words = "".join(f" --drop x{at}.b" for at in range(count))
        expected = [(f"{CONVERT} last.safetensors{words}", why)] if count <= 3 else []
        assert after("unexpected-entry", rows=rows) == [*expected, VERIFY]
    for name in ("a*", "a[0]", "a b", 3.5):
        assert after("unexpected-entry", rows=[row("w"), row(str(name), presence=UNEXPECTED)]) == (
            [(f"{CONVERT} last.safetensors --drop 3.5", why), VERIFY] if name == 3.5 else [VERIFY]
        )


def test_what_the_model_rebuilds_is_dropped_by_its_last_part() -> None:
    why = "leaves out what the model rebuilds"
    for count in range(5):
        rows = [row("w"), *(row(f"{at}.x{at}", kind=TRANSIENT) for at in range(count))]
        words = "".join(f" --drop '*x{at}'" for at in range(count))
        expected = [(f"{CONVERT} last.safetensors{words}", why)] if count <= 3 else []
        assert after("stale-buffer", rows=rows) == [*expected, VERIFY]
    same = [row("w"), *(row(f"{at}.mask", kind=TRANSIENT) for at in range(5))]
    assert after("stale-buffer", rows=same)[0] == (f"{CONVERT} last.safetensors --drop '*mask'", why)
    absent = [row("w"), row("a.mask", kind=TRANSIENT, presence=Presence.MISSING)]
    assert after("stale-buffer", rows=absent)[0] == (f"{CONVERT} last.safetensors", why)
    assert after("stale-buffer", rows=[row("w"), row("a.m k", kind=TRANSIENT)]) == [VERIFY]


# ------------------------------------------------------------------------------------------ verify


def test_verify_is_proposed_where_there_is_something_to_load() -> None:
    assert after(absent=[missing("mask")]) == [VERIFY]
    assert after(absent=[missing("p", kind=Kind.PARAMETER)]) == []
    assert after("missing-entry", weights_root=None) == []
    plain = row("w")
    no_value = plain._replace(entry=plain.entry._replace(value=None))
    transient = Classification(TRANSIENT, Basis.PICKLED_MODULE)
    not_loaded = plain._replace(entry=plain.entry._replace(declared=transient))
    for rows in ([no_value], [not_loaded]):
        assert after("missing-entry", rows=rows) == []
        assert after("missing-entry", rows=[*rows, plain]) == [VERIFY]


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("hf", (), "--model hf"),
        ("net.py:build", (), "--model net.py:build"),
        ("a.b:c.d", ("depth=2", "name=a b"), "--model a.b:c.d --model-arg depth=2 --model-arg 'name=a b'"),
        ("__main__:build", ("x=1",), None),
        ("<lambda>", (), None),
        ("a:<locals>", (), None),
        ("hfx", (), None),
        (":b", (), None),
    ],
)
def test_the_model_is_named_as_it_was(text: str, arguments: tuple[str, ...], expected: str | None) -> None:
    facts = ModelFacts(text, "m.Net", "built on meta", (), (), (), arguments=arguments)
    made = inspection([row("w")], findings=found("missing-entry"))._replace(model=facts)
    line = (
        "ckpttool verify run/last.ckpt " + (expected or ""),
        "loads it into your model and checks every tensor",
    )
    assert commands(made) == [line if expected else VERIFY]


# ------------------------------------------------------------------------------------------ where to


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("run/last.ckpt", "last.safetensors"),
        ("model.pth.tar", "model.safetensors"),
        ("model.PTH", "model.safetensors"),
        ("run.0.5", "run.0.5.safetensors"),
        ("a/model.safetensors.index.json", "model.safetensors"),
        ("-x.pt", "./-x.safetensors"),
        (".pt", ".pt.safetensors"),
        ("/", "converted.safetensors"),
        ("folder/", "folder.safetensors"),
        ("x.index.json.pt", "x.index.json.safetensors"),
    ],
)
def test_the_name_of_what_is_written(path: str, expected: str) -> None:
    assert new_name(path, "safetensors") == expected
    stem = expected.removesuffix(".safetensors")
    taken = [expected, *(f"{stem}.new{number}.safetensors" for number in ("", *range(2, 100)))]
    for number, name in enumerate(taken):
        if number < 4 or number >= 98:
            assert new_name(path, "safetensors") == name
        Path(name).touch()
    assert new_name(path, "safetensors") == f"{stem}.new.safetensors"  # which `convert` then refuses


def test_a_link_to_nothing_is_a_name_that_is_taken() -> None:
    Path("a.pt").symlink_to("nowhere")
    assert new_name("a.bin", "pt") == "a.new.pt"


def test_the_container_that_keeps_everything() -> None:
    def of(*entries: Entry) -> str:
        return lossless_container(entries)

    plain, wide = Entry((), "a", tensor()), Entry((), "b", tensor(dtype="complex128"))
    assert of() == of(plain) == "safetensors"
    assert of(plain, wide) == of(wide) == of(plain, Entry((), "q", composite("quantized"))) == "pt"
    assert of(plain, plain) == of(Entry((), "__metadata__", tensor())) == of(Entry((), "a", None)) == "pt"
