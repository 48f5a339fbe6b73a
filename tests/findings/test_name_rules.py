"""Every finding about names and ``_metadata``, whole, at one entry and at more, and its silent twin."""

from __future__ import annotations

from typing import Any

import pytest

from ckpttool.names.prefixes import AVERAGED, Prefix
from ckpttool.values.checkpoint import CompositeTensor, Finding, Kind, Part, Root, Value
from ckpttool.values.dtypes import BY_NAME
from tests.support.evidence import at, group, plain, said, view

BUFFER = Kind.PERSISTENT_BUFFER

# ------------------------------------------------------------------------------------------ wrappers


def wrapped(*prefixes: Prefix, rows: Any = None, **more: Any) -> list[Finding]:
    return said(*(rows or plain("w")), prefixes={(): prefixes}, **more)


def taken(text: str) -> str:
    return f'`torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(sd, "{text}")`'


BARE = "the bare model has none of it"


@pytest.mark.parametrize(("matched", "total"), [(0, 1), (1, 1), (1, 2), (2, 3), (1, 3), (2, 4)])
def test_a_wrapper_before_more_than_half_of_the_names_is_a_warning(matched: int, total: int) -> None:
    severity = "warning" if matched * 2 > total else "info"
    count = f"{matched} of {total} name{'' if total == 1 else 's'}"
    assert wrapped(Prefix("module.", ("DDP",), matched, total)) == [
        Finding(
            "wrapper-prefix", severity, "",
            f"module. (DDP) is in front of {count}: {BARE}; {taken('module.')}",
        )
    ]  # fmt: skip


def test_wrappers_within_names_are_replaced_and_many_are_told_by_the_first() -> None:
    inner = Prefix("_orig_mod.", ("torch.compile",), 5, 9, inside=True)
    assert wrapped(inner) == [
        Finding(
            "wrapper-prefix", "warning", "",
            f"_orig_mod. (torch.compile) stands inside 5 of 9 names: {BARE}; "
            '`sd = {k.replace("_orig_mod.", ""): v for k, v in sd.items()}`',
        )
    ]  # fmt: skip
    chain = Prefix("a.b.c.d.", ("A", "B", "C", "D"), 9, 9)
    assert [item.message for item in wrapped(chain)] == [
        f"a.b.c.d. (A around B around C) is in front of 9 of 9 names: {BARE}; {taken('a.b.c.d.')}"
    ]
    average = Prefix("module.", (AVERAGED,), 9, 9)
    assert [item.message for item in wrapped(average)] == [
        f"module. ({AVERAGED}) is in front of 9 of 9 names: {BARE}; {taken('module.')}; n_averaged is no "
        "part of it either: `convert --strip-prefix auto` drops it"
    ]
    many = [
        Prefix(f"{letter}.", (letter,), count, 9) for letter, count in zip("abcd", (1, 4, 3, 2), strict=True)
    ]
    assert [item.message.split()[0] for item in wrapped(*many)] == ["b.", "c.", "d."]


def test_one_wrapper_of_several_branches_is_one_finding_that_names_them() -> None:
    found: dict[Root, list[Prefix]] = {
        ("model",): [Prefix("module.", ("DDP",), 3, 4)],
        ("ema",): [Prefix("module.", ("DDP",), 1, 4), Prefix("module.", ("DDP",), 2, 4, inside=True)],
        (): [Prefix("x.", ("X",), 1, 1)],
    }
    messages = [
        f"module. (DDP) is in front of 4 of 8 names{{}}: {BARE}; {taken('module.')}",
        f'module. (DDP) stands inside 2 of 4 names{{}}: {BARE}; `sd = {{{{k.replace("module.", ""): v for k, '
        "v in sd.items()}}`",
        f"x. (X) is in front of 1 of 1 name{{}}: {BARE}; {taken('x.')}",
    ]
    where = [" in model, ema", " in ema", " in the top"]
    for roles in (
        ["weights", "ema"],
        ["module", "weights"],
        ["weights", "weights", "other"],
        ["ema", "module"],
    ):
        groups = [group((role, number), role) for number, role in enumerate(roles)]
        assert [item.message for item in said(*plain("w"), prefixes=found, groups=groups)] == [
            message.format(branch) for message, branch in zip(messages, where, strict=True)
        ]
    for roles in ([], ["weights"], ["ema"], ["module"], ["weights", "optimizer"], ["other", "other"]):
        groups = [group((role, number), role) for number, role in enumerate(roles)]
        found_ = said(*plain("w"), prefixes=found, groups=groups)
        assert [item.message for item in found_] == [message.format("") for message in messages]
        assert [item.severity for item in found_] == ["info", "info", "warning"]


@pytest.mark.parametrize(
    ("names", "silent"),
    [
        (["base_model.model.q.lora_A.weight"], True),
        (["base_model.model.q.boft_R"], True),
        (["base_model.model.q.weight"], False),
        (["base_model.model.q.lora_A.default.weight"], False),
        (["base_model.model.q.base_layer.weight", "base_model.model.q.lora_A.weight"], False),
        (["base_model.model.q.lora_A.default"], False),
        (["base_model.model.q.vera_lambda_d", "x.default\ny"], False),
    ],
)
def test_an_adapter_that_peft_saved_keeps_its_names(names: list[str], silent: bool) -> None:
    prefix = Prefix("base_model.model.", ("PEFT",), 1, 1)
    rows = [*map(at, names), at("z")]
    codes = [item.code for item in wrapped(prefix, rows=rows)]
    assert ("wrapper-prefix" not in codes) is silent
    other = Prefix("module.", ("DDP",), 1, 1)
    assert "wrapper-prefix" in [item.code for item in wrapped(other, rows=rows)]


LIGHTNING = (Value((), "pytorch-lightning_version", "2.0"),)


def test_the_attribute_of_a_lightning_module_is_before_all_names() -> None:
    root = ("state_dict",)
    rows = [at(f"net.{name}", root=root) for name in "ab"]

    def found(*rows: Any, values: Any = LIGHTNING, **more: Any) -> list[Finding]:
        return said(*rows, weights_root=root, values=values, **more)

    ends = f"with net., an attribute of the LightningModule; for the model alone: {taken('net.')}"
    assert found(rows[0]) == [Finding("attribute-prefix", "info", "", f"the only name starts {ends}")]
    assert found(*rows, at("x")) == [Finding("attribute-prefix", "info", "", f"all 2 names start {ends}")]
    assert found(*rows, at(3, root=root)) == [
        Finding("attribute-prefix", "info", "", f"all 3 names start {ends}")
    ]
    for values in ((), (Value(("a",), "pytorch-lightning_version", "2"),), (Value((), "epoch", 3),)):
        assert found(*rows, values=values) == []
    assert found(*rows, at("other.c", root=root)) == []
    assert found(*rows, at("c", root=root)) == []
    assert found(at("c", root=root)) == found() == []
    both = found(*rows, prefixes={root: [Prefix("net.", ("N",), 2, 2)]})
    assert [item.code for item in both] == ["wrapper-prefix"]
    of_another = found(*rows, prefixes={(): [Prefix("net.", ("N",), 2, 2)]})
    assert [item.code for item in of_another] == ["wrapper-prefix", "attribute-prefix"]


# ------------------------------------------------------------------------------------------ batch norms


UNCOUNTED = (
    "without num_batches_tracked beside it: a frozen batch norm, or saved by torch before 0.4.1; "
    "nn.BatchNorm2d then needs load_state_dict(strict=False)"
)


def uncounted(*names: str) -> list[Finding]:
    count = "1 entry" if len(names) == 1 else f"{len(names)} entries"
    verb = "is" if len(names) == 1 else "are"
    fact = f"{count} ({', '.join(names)}) {verb} {UNCOUNTED}"
    return [Finding("batch-norm-no-counter", "info", names[0], fact)] if names else []


@pytest.mark.parametrize("module", ["", "a.", "a.bn1."])
@pytest.mark.parametrize("version", [None, 0, 1, 2, 3, "unsaid", "no versions"])
def test_a_mean_without_a_counter_is_told_where_the_version_wants_one(module: str, version: Any) -> None:
    mean = at(f"{module}running_mean", kind=BUFFER)
    path = module.rstrip(".")
    versions = {} if version == "no versions" else {(): {} if version == "unsaid" else {path: version}}
    expected = uncounted(f"{module}running_mean") if version in (2, "no versions") else []
    assert said(mean, module_versions=versions) == expected
    counter = at(f"{module}num_batches_tracked", view((), "int64"), BUFFER)
    assert said(mean, counter, module_versions=versions) == []
    elsewhere = at(f"{module}num_batches_tracked", view((), "int64"), BUFFER, root=("ema",))
    assert said(mean, elsewhere, module_versions=versions) == expected


def test_each_branch_has_its_own_counters_and_versions() -> None:
    rows = [at("a.running_mean", kind=BUFFER, root=(root,)) for root in "xyz"]
    rows += [
        at("b.running_mean", kind=BUFFER, root=("x",)),
        at("a.my_running_mean", kind=BUFFER, root=("y",)),
    ]
    versions = {("x",): {"a": 1, "b": 2}, ("y",): {"a": 2}}
    found = said(*rows, module_versions=versions)
    assert found == uncounted("b.running_mean", "a.running_mean", "a.running_mean")


def norms(*modules: str, version: int = 2, **more: Any) -> list[Finding]:
    rows = [at(f"{module}.weight") for module in modules]
    return said(*rows, module_versions={(): dict.fromkeys(modules, version)}, **more)


@pytest.mark.parametrize(
    ("module", "is_norm"),
    [
        ("bn", True), ("a.bn1", True), ("a.bn12", True), ("a.x_bn2", True), ("BN", True), ("batchnorm", True),
        ("a.batch_norm", True), ("my_batch_norm_x", True), ("a.BatchNorm2", True),
        ("norm", False), ("abn", False), ("bn_x", False), ("bn.a", False), ("batch.norm", False),
    ],
)  # fmt: skip
def test_a_batch_norm_is_known_by_its_last_part(module: str, is_norm: bool) -> None:
    fact = f"{module} has no running statistics: after strict=False, eval() would use mean 0 and variance 1"
    expected = [Finding("batch-norm-no-statistics", "warning", module, fact)] if is_norm else []
    assert norms(module) == expected
    assert norms(module, version=1) == norms(module, version=3) == []


def test_a_batch_norm_with_statistics_or_without_a_weight_is_let_pass() -> None:
    weight = at("bn1.weight")
    versions = {(): {"bn1": 2, "bn2": 2, "bn3": 2}, ("ema",): {"bn1": 2}}
    statistics = [at(f"bn1.{name}", kind=BUFFER) for name in ("running_mean", "num_batches_tracked")]
    assert said(weight, *statistics, module_versions=versions) == []
    fact = "{} no running statistics: after strict=False, eval() would use mean 0 and variance 1"
    assert said(weight, at("bn2.bias"), module_versions=versions) == [
        Finding("batch-norm-no-statistics", "warning", "bn1", fact.format("bn1 has"))
    ]
    assert said(at("bn2.weight"), weight, module_versions=versions) == [
        Finding("batch-norm-no-statistics", "warning", "bn1", fact.format("bn1, bn2 have"))
    ]


# ------------------------------------------------------------------------------------------ computed weights


PART = (
    "part of a weight that the model computes (weight norm, spectral norm, pruning): a model without that "
    "parametrization has no such names"
)
NORM = (
    "the norm of a weight, as torch.nn.utils.parametrizations.weight_norm names it: a model with the older "
    "torch.nn.utils.weight_norm calls it weight_g"
)


@pytest.mark.parametrize(
    ("name", "is_part"),
    [
        ("weight_g", True), ("a.weight_g", True), ("a.weight_orig", True), ("my_weight_g", False),
        ("a.parametrizations.weight.original", True), ("parametrizations.w.original0", True),
        ("a.parametrizations.weight.x.original", False), ("a.original", False), ("original0", False),
        ("a.parametrizations.weight.original1", False), ("xparametrizations.w.original", False),
        ("weight_v", False), ("a.weight_gx", False),
    ],
)  # fmt: skip
def test_parts_of_a_computed_weight_are_known_by_their_ends(name: str, is_part: bool) -> None:
    expected = [Finding("parametrized", "info", name, f"1 entry ({name}) is {PART}")] if is_part else []
    assert said(at(name), at("b")) == expected


def test_norms_and_parts_are_told_apart_by_the_direction_beside_them() -> None:
    start = "a.parametrizations.weight.original"
    names = [f"{start}0", f"{start}1", "b.weight_g", "c.parametrizations.w.original0", "d.weight_orig"]
    fact = "3 entries (b.weight_g, c.parametrizations.w.original0, d.weight_orig) are"
    assert said(*map(at, names)) == [
        Finding("parametrized", "info", "b.weight_g", f"{fact} {PART}"),
        Finding("weight-norm", "info", f"{start}0", f"1 entry ({start}0) is {NORM}"),
    ]
    two = [f"{path}.parametrizations.w.original{part}" for path in "ab" for part in (0, 1)]
    assert said(*map(at, two)) == [
        Finding("weight-norm", "info", two[0], f"2 entries ({two[0]}, {two[2]}) are {NORM}")
    ]


# ------------------------------------------------------------------------------------------ adapters


def test_lora_weights_without_the_adapter_s_name() -> None:
    fact = "saved without an adapter name: PeftModel.from_pretrained takes it so; load_state_dict wants "
    fact += "lora_A.default.weight"
    assert said(at("q.lora_A.weight")) == [
        Finding("adapter", "info", "q.lora_A.weight", f"LoRA adapter (1 tensor) {fact}")
    ]
    names = ["w", "x.lora_B.weight", "lora_A.weight", "q.lora_A.default.weight", "my_lora_A.weight"]
    assert said(*map(at, names)) == [
        Finding("adapter", "info", "x.lora_B.weight", f"LoRA adapter (2 tensors) {fact}")
    ]
    for name in ("x.lora_B.weight", "my_lora_A.weight", "lora_C.weight", "lora_A.weight.x", 3):
        assert said(at(name)) == [], name


# ------------------------------------------------------------------------------------------ buffers, packing


def test_buffers_that_newer_versions_rebuild() -> None:
    fact = "rebuilt by newer versions of the library, which report a stored copy as unexpected (since 4.3)"
    old = at("a.inv_freq", kind=BUFFER, rebuilt_since="since 4.3")
    assert said(old) == [Finding("known-buffers", "info", "a.inv_freq", f"1 entry (a.inv_freq) is {fact}")]
    other = at("b.position_ids", kind=BUFFER, rebuilt_since="since 5")
    assert said(at("w"), old, other) == [
        Finding("known-buffers", "info", "a.inv_freq", f"2 entries (a.inv_freq, b.position_ids) are {fact}")
    ]
    assert said(at("a.inv_freq", kind=BUFFER)) == []
    assert said(at("a.inv_freq", kind=Kind.UNKNOWN, rebuilt_since="since 4.3")) == []


STORED = "parameter counts are of stored elements, not of weights"
COUNTED = "the first line counts the weights themselves"


class Surveyed:
    """That quantised modules were found, in which nothing is wrong."""

    faults = ()


@pytest.mark.parametrize(
    ("name", "is_packed"),
    [
        ("a.qweight", True), ("a.qzeros", True), ("a.g_idx", True), ("a.weight.absmax", True),
        ("qweight", False),
        ("a.weight.quant_map", True), ("a.SCB", True), ("a.weight.quant_state.bitsandbytes__nf4", True),
        ("a.quant_state", False), ("a.scales", False), ("a.qweight.x", False), ("a.quant_states.x", False),
    ],
)  # fmt: skip
def test_packed_weights_are_known_by_name(name: str, is_packed: bool) -> None:
    for survey, words in ((None, STORED), (Surveyed(), COUNTED)):
        fact = f"1 entry ({name}) is of a packed or quantized weight: {words}"
        expected = [Finding("packed-weights", "info", name, fact)] if is_packed else []
        assert said(at("w"), at(name), quantized=survey) == expected


def test_packed_weights_are_known_by_dtype() -> None:
    four = view((4,), "float4_e2m1fn_x2")
    whole = CompositeTensor("subclass", "t.T", BY_NAME["float4_e2m1fn_x2"], (4,), (Part("inner", view()),))
    alone = [item for item in said(at("a", four), at("b")) if item.code != "mixed-dtypes"]
    assert alone == [
        Finding("packed-weights", "info", "a", f"1 entry (a) is of a packed or quantized weight: {STORED}")
    ]
    rows = [at(3, four), at("b"), at("c", whole), at("d.qweight"), at(4)]
    fact = "of a packed or quantized weight: " + STORED
    found = [item for item in said(*rows) if item.code != "mixed-dtypes"]
    assert found == [Finding("packed-weights", "info", "3", f"3 entries ([3], c, d.qweight) are {fact}")]
