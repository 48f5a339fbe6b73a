"""Every finding of ``lint`` as a whole, at one tensor and at more; the rest of a report; and boundaries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from ckpttool.torch_bridge.lint.lint import make_example
from ckpttool.torch_bridge.lint.probes import weigh
from ckpttool.torch_bridge.lint.rules import RULES
from ckpttool.values.lint import LintEntry, LintFinding
from tests.support.linted import found, lint
from tests.support.traps import TRAPS, Anew, Extra, Free, Runs, X

pytestmark = pytest.mark.filterwarnings("ignore")


class Words(NamedTuple):
    """What one code says, with places for what differs."""

    severity: str
    message: str
    fix: str


HOLD = 'self.register_buffer("{1}", ..., persistent=False) for a constant, persistent=True for a state; with '
HOLD += "False existing checkpoints stay loadable"
EACH = "register each as a buffer under a name of its own, and look it up with getattr"
STRAY = 'tensor attribute, not registered: stays on cpu under .to("meta"){0}, is not saved'
GRAD = "plain tensor with a gradient ({0}), not a Parameter: not trained, not saved"
SLOT = "empty {0} slot: no key now, but one as soon as it is assigned, which is then "
SLOT += '"Unexpected" in a fresh model'
ONCE = "the same module as {0} saved under both names, and parameters() lists {1} once"

WORDS = {
    "101": Words("error", STRAY, HOLD),
    "101 held": Words("error", STRAY, EACH),
    "102": Words(
        "error", "Parameter that no module registered: not in parameters(), so not trained, not saved",
        "assign it to the module itself",
    ),
    "102 held": Words(
        "error", "Parameter that no module registered: not in parameters(), so not trained, not saved",
        "use nn.ParameterList or ParameterDict",
    ),
    "103": Words(
        "error", "{0} that no module registered: its {1} are not trained, moved or saved",
        "assign it to the module itself",
    ),
    "103 held": Words(
        "error", "{0} that no module registered: its {1} are not trained, moved or saved",
        "use nn.ModuleList or nn.ModuleDict",
    ),
    "104": Words("error", GRAD, "convert first, then wrap: nn.Parameter(tensor.half())"),
    "105": Words(
        "warning", "nn.Parameter in a buffer: isinstance says Parameter, parameters() leaves it out",
        "assign the Parameter to train it, else register .detach().clone()",
    ),
    "106": Words(
        "info", SLOT, "assign it in __init__ whenever the option is on; leave it None for good otherwise"
    ),
    "107": Words(
        "warning",
        "{0} no shape before the first forward: weights_only=True refuses such a file, safetensors cannot "
        "write one",
        "run one forward on an example before saving, or give the sizes",
    ),
    "108": Words(
        "error", "on the meta device after an ordinary build: it has no data, and .to() raises",
        "compute it outside of torch.device('meta')",
    ),
    "109": Words(
        "info", "computed on each forward from other entries (_g and _v, or _orig); no key of its own",
        "torch.nn.utils.parametrizations does the same, or prune.remove() to bake it",
    ),
    "201": Words(
        "info",
        "persistent, and every build computes the same {0} bytes: each file carries them, and the size is "
        "locked",
        "register_buffer(..., persistent=False); older files then have an unexpected key to drop",
    ),
    "202": Words(
        "warning",
        "not persistent, but random: a fresh build holds other values, and loading does not restore these",
        "persistent=True, or draw it from a generator of fixed seed",
    ),
    "203": Words(
        "info",
        "frozen Parameter that every build computes alike: requires_grad_(True) on the model would train it, "
        "and a state_dict does not say that it was frozen",
        "make it a buffer; the key stays the same",
    ),
    "204": Words(
        "warning", "a view: torch.save writes all {0} bytes of its storage for {1} bytes of entries",
        "register a .clone() of the part that is used",
    ),
    "205": Words(
        "error", "expanded: several elements lie in one place, so load_state_dict raises",
        "expand(...).clone(), or register the small one and expand later",
    ),
    "206": Words(
        "info", "not row-major (stride {0}): safetensors' save_file refuses it",
        ".contiguous() before it is registered",
    ),
    "207": Words(
        "info",
        "batch norm without running statistics: eval() uses those of the batch, too, and files of its twin "
        "with statistics have unexpected keys",
        "track_running_stats=True, unless batch statistics are meant",
    ),
    "208": Words(
        "info", "averages parameters only: {0} as copied",
        "use_buffers=True, or torch.optim.swa_utils.update_bn at the end",
    ),
    "301": Words(
        "info",
        "tied to {0}: two keys in a .pt, one in safetensors; to_empty() and load_state_dict(assign=True) "
        "untie them",
        "tie again after such a load; verify shows whether it held",
    ),
    "302": Words("info", ONCE, "call the one module twice, or deepcopy it if two were meant"),
    "303": Words(
        "warning",
        "lies in the memory of the parameter {0} and changes with it; .to() makes two of them, which drift "
        "apart, and safetensors refuses the pair",
        "register .detach().clone(), or compute it in forward",
    ),
    "304": Words(
        "warning",
        "another Parameter in the memory of {0}: tied on this device only, .to() unties them, and an "
        "optimizer steps twice",
        "assign the same Parameter object to tie them, else .clone()",
    ),
    "305": Words(
        "info",
        "shares memory with the buffer {0}: .to() makes two of them, so an update in place reaches one only",
        "register it once and pass it on, or .clone() it",
    ),
    "401": Words(
        "error",
        "loading its own state_dict into a fresh build fails: RuntimeError: Error(s) in loading state_dict "
        'for Renames: Missing key(s) in state_dict: "weight", "bias". Unexpected key(s) in state_dict: '
        '"new_weight", "new_bias".; what was copied before it stays copied: the model is half written',
        "make the saving side and the loading side agree, for every key",
    ),
    "402": Words(
        "warning",
        '"All keys matched", and yet the tensor in the file is not the one in the model afterwards',
        "look at hooks, set_extra_state and _load_from_state_dict of its module",
    ),
    "403": Words(
        "info", "{0}: keys in a file may differ from attributes",
        "keep both sides in one class, and test an old file against them",
    ),
    "404": Words(
        "info", "get_extra_state() gives {0}: safetensors has no place for it, and strict=True misses it",
        "return a tensor (of bytes, if need be), or keep it beside the weights",
    ),
    "501": Words(
        "error", 'registered, and yet on cpu after .to("meta"): an _apply stops it',
        "call super()._apply(fn) in every override, and return its result",
    ),
    "502": Words(
        "info", "stays {0} under .double(), and so under .half(): an _apply keeps it",
        "nothing, if the precision is meant; it is not visible in the file",
    ),
    "503": Words(
        "warning",
        "shares memory with {0}, but only until .to() or .double(): then it is the old tensor, on the old "
        "device",
        "look the tensor up when it is needed: getattr(self, name)",
    ),
    "504": Words("warning", "{0} fails: {1}", "let _apply and to() pass every function on to the tensors"),
    "505": Words(
        "warning", 'a key of the state_dict only after {0}: "Unexpected" in a fresh model',
        "pass persistent= again where a buffer is registered anew",
    ),
    "601": Words(
        "warning", 'a key of the state_dict only after a forward: "Unexpected" in a fresh model',
        "give the slot its tensor in __init__, or persistent=False",
    ),
    "602": Words(
        "warning",
        "persistent=False until a forward assigned a new nn.Buffer or Parameter to it: now it is saved",
        "assign the plain tensor, which keeps the flag, or nn.Buffer(..., persistent=False)",
    ),
    "603": Words(
        "warning",
        "not persistent, but another value after each forward on the same input: what it learned or counted "
        "is lost with every save",
        "persistent=True, unless it may start again at any time",
    ),
    "604": Words(
        "warning",
        "made by the first forward and kept as a plain attribute: stays on the device and in the dtype of "
        "that forward",
        "register_buffer(name, None, persistent=False) in __init__, then assign",
    ),
    "605": Words(
        "info",
        "kept from the last forward with its gradient history: its activations stay in memory, and "
        "copy.deepcopy(model) raises",
        "store .detach(), or return it",
    ),
    "606": Words(
        "warning",
        "has a gradient history after a forward: each step keeps the graphs of all steps before it",
        "update it under torch.no_grad(), or from .detach()",
    ),
}  # fmt: skip

SAID: dict[str, list[tuple[str, ...]]] = {
    "101 direct": [("101", "scale", ", float32 under .double()", "scale"), ("101", "steps", "", "steps")],
    "101 held": [("101 held", "held[0]", ", float32 under .double()"), ("101 held", "held[1]['a']", "")],
    "102": [("102 held", "held[0]"), ("102", "inner")],
    "102 frozen": [("102 held", "held[0]")],
    "103": [
        ("103 held", "held[0]", "Linear", "2 parameters and 0 buffers"),
        ("103 held", "more[0]", "BatchNorm1d", "2 parameters and 3 buffers"),
    ],
    "103 one": [("103 held", "held[0]", "Linear", "1 parameter and 0 buffers")],
    "103 aside": [("103", "inner", "Linear", "2 parameters and 0 buffers")],
    "104": [("104", "w", "the result of MulBackward0"), ("104", "v", "requires_grad")],
    "105": [("105", "b_mean")],
    "106": [("106", "p", "parameter"), ("106", "b", "persistent buffer")],
    "107": [("107", "0", "weight, bias have"), ("107", "1", "weight has")],
    "108": [("108", "b_table")],
    "109": [("109", "weight"), ("109", "bias")],
    "201 203": [("201", "b_t", "4,096"), ("203", "w")],
    "202": [("202", "t_noise")],
    "204": [("204", "b_head", "16,384", "64")],
    "205 206": [("205", "b_ids"), ("206", "w", "(1, 2)")],
    "207": [("207", "0")],
    "208": [("208", "", "3 buffers stay")],
    "208 none": [],
    "301": [("301", "1.weight", "0.weight"), ("301", "2.weight", "0.weight")],
    "302": [
        ("302", "b", "a: 2 tensors are", "them"),
        ("302", "d", "c: 1 tensor is", "it"),
        ("302", "e", "a: 2 tensors are", "them"),
    ],
    "303": [("303", "x1", "x0")],
    "303 turned": [("303", "x0", "x1")],
    "304": [("304", "x1", "x0")],
    "305": [("305", "x1", "x0"), ("305", "x2", "x1")],
    "401": [("401", ""), ("403", "", "Renames has state_dict")],
    "402": [("402", "bias"), ("403", "", "Drops has _load_from_state_dict")],
    "403": [("403", "", "Linear has a state_dict hook, a load_state_dict pre-hook")],
    "404": [("404", "0._extra_state", "a dict")],
    "501": [("501", "0.weight"), ("501", "0.bias")],
    "502": [("502", "0.weight", "float32"), ("502", "0.bias", "float32")],
    "503": [("503", "turned", "weight")],
    "504": [("504", "", ".double()", "ValueError: single only")],
    "505": [("505", "scale", ".double()"), ("505", "scale", '.to("meta")')],
    "601": [("106", "b_late", "persistent buffer"), ("601", "b_late")],
    "602": [("602", "t_table")],
    "603": [("603", "t_count")],
    "604": [("604", "cache")],
    "605": [("605", "last")],
    "606": [("606", "b_mean")],
}
NO_FORWARD = "no forward was run, so CKPT601-606 were not checked: --example-input SHAPE[:dtype]"


@pytest.mark.parametrize("name", TRAPS)
def test_each_trap_is_said_in_these_words_and_nothing_else_is(name: str) -> None:
    build, runs = TRAPS[name]
    report = lint(build, *([X] if runs else []))
    expected = []
    for key, where, *values in SAID[name]:
        words = WORDS[key]
        said = [text.format(*values) for text in (words.message, words.fix)]
        expected.append(LintFinding(f"CKPT{key[:3]}", words.severity, where, *said))
    assert list(report.findings) == expected
    assert report.notes == (() if runs else (NO_FORWARD,))
    assert report.ok is all(finding.severity == "info" for finding in expected)


def test_every_rule_is_among_the_traps() -> None:
    assert {f"CKPT{key[:3]}" for rows in SAID.values() for key, *_ in rows} == {rule.code for rule in RULES}


# ------------------------------------------------------------------------------------------ boundaries


def head(numel: int, whole: int) -> Callable[[], nn.Module]:
    return lambda: Free(b_head=torch.randn(whole)[:numel])


@pytest.mark.parametrize(
    ("numel", "whole", "is_large"),
    [(44, 300, True), (45, 300, False), (9000, 10000, True), (9001, 10000, False), (300, 300, False)],
)
def test_a_storage_is_large_from_a_kibibyte_and_a_tenth_of_it_on(
    numel: int, whole: int, is_large: bool
) -> None:
    assert found(lint(head(numel, whole))) == [("CKPT204", "b_head")] * is_large


def test_what_is_viewed_twice_alike_counts_once() -> None:
    def build() -> nn.Module:
        whole = torch.randn(600)
        return Free(b_a=whole[:200], b_b=whole[:200], b_c=whole[200:300])

    assert [item for item in found(lint(build)) if item[0] == "CKPT204"] == [("CKPT204", "b_a")]


@pytest.mark.parametrize(
    ("a", "b", "codes"),
    [
        ((0, 4), (4, 8), []), ((0, 4), (3, 8), ["CKPT305"]), ((4, 8), (0, 4), []),
        ((4, 8), (0, 5), ["CKPT305"]),
        ((0, 8), (2, 3), ["CKPT305"]), ((2, 3), (0, 8), ["CKPT305"]), ((0, 8), (0, 8), ["CKPT305"]),
    ],
)  # fmt: skip
def test_memory_is_shared_where_spans_meet(a: tuple[int, int], b: tuple[int, int], codes: list[str]) -> None:
    def build() -> nn.Module:
        whole = torch.randn(8)
        return Free(b_a=whole[slice(*a)], b_b=whole[slice(*b)])

    assert [code for code, _ in found(lint(build))] == codes


def test_the_span_of_a_view_is_up_to_its_last_element() -> None:
    def build() -> nn.Module:
        whole = torch.randn(12)
        return Free(b_a=whole[:6].view(3, 2).t(), b_b=whole[6:].view(2, 3), b_c=whole[11:])

    assert found(lint(build)) == [("CKPT206", "b_a"), ("CKPT305", "b_c")]


def test_a_step_of_zero_along_one_element_puts_nothing_in_one_place() -> None:
    for shape, codes in (((1, 3), []), ((2, 3), ["CKPT205"])):
        build = lambda shape=shape: Free(b_x=torch.rand(3).as_strided(shape, (0, 1)))  # noqa: E731
        assert [code for code, _ in found(lint(build))] == codes


def test_a_later_view_is_told_of_the_one_that_reaches_furthest() -> None:
    def build() -> nn.Module:
        whole = torch.randn(10)
        return Free(b_all=whole, b_a=whole[1:3], b_b=whole[4:6])

    shared = [(item.name, item.message.split()[5]) for item in lint(build).findings]
    assert shared == [("b_a", "b_all:"), ("b_b", "b_all:")]


# ------------------------------------------------------------------------------------------ the rest


def test_entries_are_registered_ones_then_what_is_saved_then_attributes() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(Extra(3, 2), nn.LazyLinear(2, bias=False), Anew())
        model[0].plain = [torch.ones(2, dtype=torch.int8)]
        torch.nn.utils.weight_norm(model[0])
        return model

    parameter, buffer = "parameter", "non_persistent_buffer"
    assert lint(build).entries == (
        LintEntry("0.bias", parameter, "float32", (2,), None),
        LintEntry("0.weight_g", parameter, "float32", (2, 1), None),
        LintEntry("0.weight_v", parameter, "float32", (2, 3), None),
        LintEntry("1.weight", parameter, "float32", None, None),
        LintEntry("2.weight", parameter, "float32", (2, 2), None),
        LintEntry("2.bias", parameter, "float32", (2,), None),
        LintEntry("2.scale", buffer, "float32", (2,), None),
        LintEntry("0._extra_state", "extra_state", None, None, None),
        LintEntry("0.plain[0]", "attribute", "int8", (2,), None),
        LintEntry("0.weight", "computed", "float32", (2, 3), None),
    )
    report = lint(build)
    assert (report.model, report.device, report.loss) == ("here:build", "", "")
    assert report.class_name == "torch.nn.modules.container.Sequential"


def test_a_key_that_a_hook_makes_is_an_entry_of_unknown_kind() -> None:
    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_state_dict_post_hook(
            lambda module, state, prefix, local: state.update(made=torch.ones(3))
        )
        model.register_load_state_dict_pre_hook(lambda module, state, *rest: state.pop("made"))
        return model

    assert lint(build).entries[-1] == LintEntry("made", "unknown", "float32", (3,), None)


@pytest.mark.parametrize(
    "name",
    "float32 float64 float16 bfloat16 float8_e4m3fn complex64 complex128 int64 uint8 int8 bool".split(),
)
def test_examples_are_normal_floats_and_integers_of_every_vocabulary(name: str) -> None:
    make = make_example([((400,), name), ((2, 3), name), ((), "int64")])
    first, second, scalar = make()
    dtype = getattr(torch, name)
    assert (first.dtype, first.shape, second.dtype, second.shape) == (dtype, (400,), dtype, (2, 3))
    assert (scalar.dtype, scalar.shape) == (torch.int64, ())
    assert all(torch.equal(a.view(-1).to(torch.complex64), b.view(-1).to(torch.complex64))
               for a, b in zip(make(), make(), strict=True))  # fmt: skip
    if dtype.is_floating_point or dtype.is_complex:
        wide = first.to(torch.complex128)
        spread = (wide.real.std().item(), wide.imag.std().item())
        expected = (math.sqrt(0.5), math.sqrt(0.5)) if dtype.is_complex else (1.0, 0.0)
        assert spread == pytest.approx(expected, abs=0.1)
        assert abs(wide.mean().item()) < 0.15
    else:
        assert set(first.tolist()) == {0, 1}
    assert torch.equal(
        make_example([((5,), "float32")])()[0], torch.randn(5, generator=torch.Generator().manual_seed(0))
    )


def test_a_loss_weighs_every_element_by_a_number_of_its_own() -> None:
    wanted = torch.ones(3, requires_grad=True), torch.ones(2, dtype=torch.complex64, requires_grad=True)
    beside = torch.ones(4), torch.ones(0, requires_grad=True), "text", None
    loss = weigh({"a": [wanted[0], *beside], "b": (wanted[1],)})
    assert loss is not None
    expected = sum(math.cos(at) for at in (1, 2, 3)) + math.cos(1) + math.cos(3)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    for tensor, size in ((wanted[0], 3), (wanted[1], 4)):
        assert tensor.grad is not None
        real = torch.view_as_real(tensor.grad) if tensor.is_complex() else tensor.grad
        assert torch.allclose(real.reshape(-1), torch.arange(1.0, size + 1).cos())
    assert weigh(beside) is None and weigh(None) is None


def test_a_forward_that_trains_only_in_eval_mode_is_run_there() -> None:
    def run(model: Any, x: torch.Tensor) -> None:
        if model.training:
            raise ValueError("batch of one")
        model.late = torch.ones(2)

    report = lint(lambda: Runs(run), X)
    assert report.notes == ("the forward raises in train mode with this input, so it ran in eval mode",)
    assert found(report) == []
