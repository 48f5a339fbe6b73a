"""Every code of lint: found in a module that has the trap, and not in its twin; and no false alarms."""

from __future__ import annotations

import dataclasses
import re
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ckpttool.findings.source.rules import RULES as SOURCE_RULES
from ckpttool.torch_bridge.lint.rules import RULES
from ckpttool.torch_bridge.reference import describe_model
from ckpttool.values.errors import ModelImportFailed, UnsupportedFeature
from ckpttool.values.lint import LintReport
from tests.support.linted import STOCK, found, lint

DOCS = Path(__file__).parents[2] / "docs" / "lint.md"


# ------------------------------------------------------------------------------- the examples of docs/lint.md


class Documented(NamedTuple):
    code: str
    severity: str
    bad: str
    good: str


def documented() -> list[Documented]:
    text = DOCS.read_text("utf-8").partition("## Codes\n")[2].partition("## Codes of source alone\n")[0]
    sections = re.split(r"^### (CKPT\d{3}) (\w+)$", text, flags=re.MULTILINE)
    return [
        Documented(code, severity, *re.findall(r"```python\n(.*?)```", body, re.DOTALL))
        for code, severity, body in zip(sections[1::3], sections[2::3], sections[3::3], strict=True)
    ]


def run_example(code: str) -> LintReport:
    first = re.match(r"# --example-input ([0-9,]+)\n", code)
    inputs = [(tuple(map(int, first[1].split(","))), "float32")] if first else []
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "__name__": "documented"}
    exec(code, namespace)
    return lint(namespace["build"], *inputs)


def test_every_rule_is_documented_with_its_severity_in_order() -> None:
    assert [(rule.code, rule.severity) for rule in RULES] == [
        (item.code, item.severity) for item in documented()
    ]
    assert len({rule.code for rule in RULES}) == len(RULES)
    readme = (DOCS.parent.parent / "README.md").read_text("utf-8")
    codes = {rule.code for rule in (*RULES, *SOURCE_RULES)}
    assert f"{len(codes)} codes, each with" in readme


@pytest.mark.parametrize("item", documented(), ids=lambda item: item.code)
def test_the_bad_example_has_the_trap_and_the_good_one_has_not(item: Documented) -> None:
    bad = run_example(item.bad)
    hits = [finding for finding in bad.findings if finding.code == item.code]
    assert hits
    assert {hit.severity for hit in hits} == {item.severity}
    assert bad.ok is (item.severity == "info" and all(f.severity == "info" for f in bad.findings))
    for hit in hits:
        assert hit.message
        assert hit.fix
        assert "\n" not in hit.message + hit.fix
    good = run_example(item.good)
    assert item.code not in [finding.code for finding in good.findings]
    assert good.ok


# Where a trap cannot come alone, these come with it.
COMPANIONS = {
    "CKPT304": {"CKPT206"},
    "CKPT401": {"CKPT403"},
    "CKPT402": {"CKPT403"},
    "CKPT601": {"CKPT106"},
}


@pytest.mark.parametrize("item", documented(), ids=lambda item: item.code)
def test_the_bad_example_has_that_trap_alone(item: Documented) -> None:
    codes = {finding.code for finding in run_example(item.bad).findings}
    assert codes - COMPANIONS.get(item.code, set()) == {item.code}


# ------------------------------------------------------------------------------------------------ the scan


@dataclasses.dataclass
class Tables:
    sine: torch.Tensor
    name: str = "tables"


Pair = namedtuple("Pair", "left right")


class Holder(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.held = value


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (lambda: torch.ones(2), "held"),
        (lambda: [0, [torch.ones(2)]], "held[1][0]"),
        (lambda: (torch.ones(2),), "held[0]"),
        (lambda: {"a": {3: torch.ones(2)}}, "held['a'][3]"),
        (lambda: Tables(torch.ones(2)), "held.sine"),
        (lambda: Pair(None, torch.ones(2)), "held.right"),
        (lambda: SimpleNamespace(t=torch.ones(2)), "held.t"),
        (lambda: {torch.ones(2)}, "held[0]"),
        (lambda: torch.arange(3), "held"),
        (lambda: torch.ones(0), "held"),
    ],
)
def test_plain_tensors_are_found_wherever_they_are(value: Callable[[], Any], name: str) -> None:
    assert found(lint(lambda: nn.Sequential(Holder(value())))) == [("CKPT101", f"0.{name}")]


def test_containers_that_hold_themselves_end() -> None:
    def build() -> nn.Module:
        loop: list[Any] = [torch.ones(1)]
        loop.append(loop)
        return Holder(loop)

    assert found(lint(build)) == [("CKPT101", "held[0]")]


def test_tensors_of_the_class_are_found() -> None:
    class Classy(nn.Module):
        table = torch.ones(3)

    assert found(lint(Classy)) == [("CKPT101", "table")]


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2], {"a": "b"}, torch.float32, torch.Size([2]), len])
def test_what_is_no_tensor_is_let_pass(value: object) -> None:
    assert found(lint(lambda: Holder(value))) == []


def test_what_is_registered_elsewhere_is_let_pass() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.ReLU()
            self.order = [self.a, self.b, nn.GELU()]
            self.no_decay = {"bias": self.a.bias}

    assert found(lint(Grouped)) == []


def test_an_attribute_that_the_module_moves_itself_is_let_pass() -> None:
    class Moves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(3)

        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            self.scale = fn(self.scale)
            return super()._apply(fn, recurse)

    assert found(lint(Moves)) == []


def test_an_unregistered_module_says_what_is_lost() -> None:
    (finding,) = lint(lambda: Holder([nn.BatchNorm1d(3)])).findings
    assert (finding.code, finding.name) == ("CKPT103", "held[0]")
    assert finding.message.startswith("BatchNorm1d that no module registered: its 2 parameters and 3 buffers")
    assert finding.fix == "use nn.ModuleList or nn.ModuleDict"


def test_messages_of_the_probes_are_what_was_seen() -> None:
    (integers,) = lint(lambda: Holder(torch.arange(3))).findings
    assert 'stays on cpu under .to("meta")' in integers.message
    assert "double" not in integers.message
    (floats,) = lint(lambda: Holder(torch.ones(3, dtype=torch.float16))).findings
    assert "float16 under .double()" in floats.message


# ------------------------------------------------------------------------------------- rules, where they bend


def with_buffer(tensor: Callable[[], torch.Tensor], **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = nn.Module()
        module.register_buffer("b", tensor(), **options)
        return module

    return build


def test_tables_below_a_kibibyte_and_constants_are_not_worth_a_remark() -> None:
    assert found(lint(with_buffer(lambda: torch.arange(127)))) == []
    assert found(lint(with_buffer(lambda: torch.arange(128)))) == [("CKPT201", "b")]
    assert found(lint(with_buffer(lambda: torch.zeros(4096)))) == []


def test_random_numbers_are_random_whoever_seeds_them() -> None:
    def seeded_table() -> torch.Tensor:
        torch.manual_seed(3)
        return torch.randn(512)

    def own_generator() -> torch.Tensor:
        return torch.randn(512, generator=torch.Generator().manual_seed(3))

    assert found(lint(with_buffer(seeded_table))) == []
    # Seeded by the model itself, it comes back with every build.
    assert found(lint(with_buffer(seeded_table, persistent=False))) == []
    assert found(lint(with_buffer(own_generator, persistent=False))) == []
    assert found(lint(with_buffer(lambda: torch.randn(3), persistent=False))) == [("CKPT202", "b")]


def test_a_table_that_a_forward_updates_is_a_state() -> None:
    class Codes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", torch.arange(512.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.codes.add_(1)
            return x

    assert found(lint(Codes)) == [("CKPT201", "codes")]
    assert found(lint(Codes, ((2,), "float32"))) == []


def test_frozen_layers_are_let_pass() -> None:
    assert found(lint(lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).requires_grad_(False))) == []


def test_views_that_use_up_their_storage_together_are_let_pass() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.randn(2, 2048)
            self.register_buffer("first", whole[0])
            self.register_buffer("second", whole[1])

    assert found(lint(Halves)) == []


def test_equal_tables_of_many_layers_share_one_finding_a_piece() -> None:
    class Layer(nn.Module):
        def __init__(self, table: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer("table", table, persistent=False)

    def build() -> nn.Module:
        table = torch.arange(8)
        return nn.ModuleList([Layer(table) for _ in range(3)])

    assert found(lint(build)) == [("CKPT305", "1.table"), ("CKPT305", "2.table")]


def test_a_view_of_a_parameter_in_an_attribute_goes_stale() -> None:
    class Viewing(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.transposed = self.weight.detach().t()

    assert found(lint(Viewing)) == [("CKPT503", "transposed")]


def test_old_style_norms_and_pruning_are_notes_not_alarms() -> None:
    def spectral() -> nn.Module:
        return torch.nn.utils.spectral_norm(nn.Linear(3, 2))

    def pruned() -> nn.Module:
        return prune.random_unstructured(nn.Linear(3, 2), "weight", 0.5)

    for build, renames in ((spectral, [("CKPT403", "")]), (pruned, [])):
        report = lint(build, ((2, 3), "float32"))
        assert found(report) == [("CKPT109", "weight"), *renames]
        assert report.ok


def test_lint_and_inspect_tell_loading_of_its_own_by_one_rule() -> None:
    """What else torch ships may rename keys as well: an observer takes min_vals for min_val."""

    def observed() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), torch.ao.quantization.PerChannelMinMaxObserver())

    for build in (observed, STOCK["weight_norm"], STOCK["LSTM"], STOCK["BatchNorm2d"]):
        told = [own.path for own in describe_model(build(), "m").custom_load]
        assert [name for code, name in found(lint(build)) if code == "CKPT403"] == told
    assert [own.path for own in describe_model(observed(), "m").custom_load] == ["1"]


def test_children_of_a_shared_module_go_without_saying() -> None:
    def build() -> nn.Module:
        block = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
        return nn.ModuleDict({"a": block, "b": block})

    assert found(lint(build)) == [("CKPT302", "b")]


def test_hooks_of_ones_own_are_told_from_those_of_torch() -> None:
    def hook(module: nn.Module, *rest: Any) -> None:
        return None

    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_load_state_dict_pre_hook(hook)
        model.register_state_dict_post_hook(lambda *arguments: None)
        return model

    (finding,) = lint(build).findings
    assert finding.code == "CKPT403"
    assert "a state_dict hook, a load_state_dict pre-hook" in finding.message


def test_a_hook_that_refuses_made_up_values_is_a_note() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("version", torch.tensor(2))

        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            if state[prefix + "version"] != 2:
                raise ValueError("unknown version")
            super()._load_from_state_dict(state, prefix, *rest)

    report = lint(Checked)
    assert found(report) == [("CKPT403", "")]
    assert any("CKPT402 was not checked" in note for note in report.notes)


def test_tensors_that_builds_share_are_not_altered() -> None:
    shared = torch.arange(4.0)
    assert found(lint(with_buffer(lambda: shared))) == []
    assert shared.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_eval_mode_is_used_and_noted_where_train_mode_raises() -> None:
    report = lint(partial(nn.BatchNorm1d, 3), ((1, 3), "float32"))
    assert report.notes == ("the forward raises in train mode with this input, so it ran in eval mode",)


# -------------------------------------------------------------------------------------------- what cannot be


def test_a_forward_that_raises_is_an_error_with_the_users_own_lines() -> None:
    class Raises(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("no such mode")

    with pytest.raises(ModelImportFailed, match=r"forward of here:build .* fails: KeyError") as caught:
        lint(Raises, ((1,), "float32"))
    assert 'raise KeyError("no such mode")' in caught.value.trace


def test_a_state_dict_that_raises_is_an_error() -> None:
    class Raises(nn.Module):
        def state_dict(self, *arguments: Any, **options: Any) -> Any:
            raise RuntimeError("gather first")

    with pytest.raises(
        ModelImportFailed, match=r"taking the state_dict of here:build fails: RuntimeError: gather first"
    ):
        lint(Raises)


def test_one_module_for_all_calls_cannot_be_probed() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ModelImportFailed, match="gives the same module on every call"):
        lint(lambda: model)


def test_torchscript_cannot_be_looked_into() -> None:
    with pytest.raises(UnsupportedFeature, match="TorchScript"):
        lint(lambda: torch.jit.script(nn.Linear(2, 2)))


def test_the_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    lint(partial(nn.Linear, 2, 2), ((1, 2), "float32"))
    assert torch.equal(torch.random.get_rng_state(), before)
