"""The table of proofs against what PyTorch promises, and lint as it is run: streams, statuses, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sample_models
from ckpttool import cli
from ckpttool.render.lint import iter_findings_pipe, iter_report, lint_document
from ckpttool.torch_bridge.lint.lint import lint_model, make_example
from ckpttool.torch_bridge.model import ModelSource
from ckpttool.values.lint import LintEntry, LintFinding, LintReport, Proof
from tests.project.test_sample_models import OWNS
from tests.support.verifying import ACCELERATOR
from tests.support.warm import Warm

DOCS = Path(__file__).parents[2] / "docs" / "json.md"


def prove(factory: Callable[..., Any], example: Any = None) -> LintReport:
    return lint_model(ModelSource("here:build", factory, {}), example, proved=True)


def proofs(report: LintReport) -> dict[str, Proof]:
    return {entry.name: entry.proof for entry in report.entries if entry.proof is not None}


# ---------------------------------------------------------------------------------------- what torch promises

# (in_parameters, in_state_dict, moved, restored)
PROMISES = {
    "parameter": (True, True, True, True),
    "persistent_buffer": (False, True, True, True),
    "non_persistent_buffer": (False, False, True, False),
    "attribute": (False, False, False, False),
}
# A view of a parameter is changed by what changes the parameter.
FOLLOWS_A_PARAMETER = {("buffer_view_of_parameter", "padding_row")}


@pytest.mark.parametrize("name", sample_models.NAMES)
def test_each_sample_model_shows_what_torch_promises(name: str) -> None:
    sample = sample_models.load(name)
    report = prove(sample.build)
    kinds = {
        **dict.fromkeys(OWNS[name].parameters.split(), "parameter"),
        **dict.fromkeys(OWNS[name].persistent_buffers.split(), "persistent_buffer"),
        **dict.fromkeys(OWNS[name].non_persistent_buffers.split(), "non_persistent_buffer"),
    }
    registered = {entry.name: entry.kind for entry in report.entries}
    for other in ("attribute", "extra_state"):
        registered = {key: kind for key, kind in registered.items() if kind != other}
    assert registered == kinds
    for entry in report.entries:
        proof = entry.proof
        assert proof is not None
        if entry.kind == "extra_state":
            assert proof == Proof(None, False, True, None, None, None, None)
            continue
        assert (proof.in_parameters, proof.in_state_dict, proof.moved) == PROMISES[entry.kind][:3]
        seen = entry.shape is not None and 0 not in entry.shape
        assert proof.restored is (PROMISES[entry.kind][3] if seen else None)
        trained = (entry.kind == "parameter" and proof.requires_grad) or (
            name,
            entry.name,
        ) in FOLLOWS_A_PARAMETER
        assert proof.changed_by_step is (bool(trained) if seen else None)
        assert proof.changed_by_forward is None


def test_requires_grad_is_the_flag_of_the_tensor() -> None:
    seen = proofs(prove(sample_models.load("frozen_parameters").build))
    assert {name for name, proof in seen.items() if proof.requires_grad} == {"head.weight", "head.bias"}
    seen = proofs(prove(sample_models.load("unregistered_tensor").build))
    assert [seen[name].requires_grad for name in ("offset", "gains[0]", "shift")] == [False, True, True]


# What a forward in training changes, by model: the buffers that learn or count.
LEARNS = {
    "batch_norm_by_hand": {"running_mean", "running_var", "num_batches_tracked"},
    "batch_norm_stack": {
        f"{norm}.{name}"
        for norm in ("bn1", "bn2")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    },
    "lazy_shapes": {"norm.num_batches_tracked"},  # the others have no bytes before it
    "running_mean": {"mean"},
    "shared_submodule": {
        f"{norm}.{name}"
        for norm in ("norm", "norm_again")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    },
    "wrapped_names": {"module._orig_mod.frontend.mean"},
}


@pytest.mark.parametrize("name", sample_models.NAMES)
def test_a_forward_changes_buffers_and_a_step_changes_parameters(name: str) -> None:
    sample = sample_models.load(name)
    report = prove(sample.build, sample.example_input)
    seen = proofs(report)
    assert {key for key, proof in seen.items() if proof.changed_by_forward} == LEARNS.get(name, set())
    stepped = {key for key, proof in seen.items() if proof.changed_by_step}
    parameters = set(OWNS[name].parameters.split())
    assert stepped <= parameters
    if any(seen[key].requires_grad for key in parameters):
        assert report.loss == "forward of the example input"
        # A bias in front of a norm, say, has no gradient; a model where nothing has one proves nothing.
        trainable = {
            key for key in parameters if seen[key].requires_grad and seen[key].changed_by_step is not None
        }
        assert len(stepped) > 0.7 * len(trainable)
    else:
        assert report.loss == ""
        assert any(note.startswith("no step") for note in report.notes)


def test_lazy_parameters_are_proved_once_an_example_gives_them_shapes() -> None:
    sample = sample_models.load("lazy_shapes")
    assert proofs(prove(sample.build))["conv.weight"].restored is None
    proof = proofs(prove(sample.build, sample.example_input))["conv.weight"]
    assert (proof.changed_by_step, proof.moved, proof.restored) == (True, True, True)


def test_the_proof_is_measured_not_recited() -> None:
    class Liar(nn.Module):
        """Registers what it does not move, and does not load what it saves."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))
            self.register_buffer("mean", torch.zeros(3))

        def _apply(self, fn: Any, recurse: bool = True) -> Any:
            return self

        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            state.pop(prefix + "mean")

    seen = proofs(prove(Liar))
    assert seen["weight"] == Proof(True, True, True, None, True, False, False)
    assert seen["mean"] == Proof(False, False, True, None, False, False, False)


def test_a_wrapper_that_renames_keys_does_not_hide_that_they_are_saved() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    report = prove(lambda: checkpoint_wrapper(nn.BatchNorm1d(2)))
    assert all(proof.in_state_dict and proof.restored for proof in proofs(report).values())
    assert len(report.entries) == 5


def test_a_table_that_builds_share_cannot_be_proved_to_come_back() -> None:
    shared = torch.arange(4.0)

    def build() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("shared", shared)
        return model

    seen = proofs(prove(build))
    assert seen["shared"].restored is None
    assert seen["weight"].restored is True


@pytest.mark.cuda
def test_with_a_gpu_the_move_is_to_it() -> None:
    report = prove(sample_models.load("unregistered_tensor").build)
    assert report.device == ACCELERATOR
    seen = proofs(report)
    assert (seen["linear.weight"].moved, seen["offset"].moved, seen["gains[0]"].moved) == (True, False, False)


def test_inputs_have_the_shapes_and_dtypes_asked_for_and_are_equal_on_every_call() -> None:
    example = make_example([((2, 3), "float32"), ((4,), "int64"), ((), "bool"), ((2,), "bfloat16")])
    first, second = example(), example()
    assert [(tuple(t.shape), t.dtype) for t in first] == [
        ((2, 3), torch.float32),
        ((4,), torch.int64),
        ((), torch.bool),
        ((2,), torch.bfloat16),
    ]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert set(first[1].tolist()) <= {0, 1}


# ------------------------------------------------------------------------------------------------ the command


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["lint", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_findings_are_lines_with_tabs_in_a_pipe_and_the_status_is_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = call(capsys, "sample_models.unregistered_tensor:build")
    assert status == 1
    assert err == ""
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["CKPT101", "error", "offset"],
        ["CKPT102", "error", "gains[0]"],
        ["CKPT102", "error", "gains[1]"],
        ["CKPT104", "error", "shift"],
    ]
    assert {len(row) for row in rows} == {5}


@pytest.mark.parametrize("name", ["tied_embeddings", "linear_xavier"])
def test_infos_alone_are_status_zero(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, f"sample_models.{name}:build")
    assert status == 0
    assert all(line.split("\t")[1] == "info" for line in out.splitlines())


def test_with_prove_entries_are_data_and_findings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("sample_models.none_slots:build", "--prove", "--example-input", "4,5")
    status, out, err = call(capsys, *arguments)
    assert status == 1
    assert out == "parameter\tweight\tfloat32\t2x5\tyes\tyes\tyes\tno\tyes\tyes\tyes\n"
    assert "warning: center: a key of the state_dict only after a forward" in err
    assert err.rstrip().endswith("[CKPT601]")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "sample_models.unregistered_tensor:build", "--quiet") == (1, "", "")


def test_model_arguments_reach_the_factory(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "sample_models.rotary_decoder:build", "--model-arg", "num_layers=1", "--json")
    names = [entry["name"] for entry in json.loads(out)["entries"]]
    assert sum(name.endswith("inv_freq") for name in names) == 1


ENTRY = {"name", "kind", "dtype", "shape"}


@pytest.mark.parametrize("flags", [(), ("--prove",)], ids=["plain", "prove"])
def test_the_json_is_the_contract(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "sample_models.unregistered_tensor:build", "--json", *flags)
    assert (status, err) == (1, "")
    document = json.loads(out)
    assert document["schema"] == "ckpttool/lint/1"
    assert document["ok"] is False
    assert document["model"] == "sample_models.unregistered_tensor:build"
    assert document["class"] == "sample_models.unregistered_tensor.ForgottenTensors"
    assert {frozenset(finding) for finding in document["findings"]} == {
        frozenset({"code", "severity", "name", "message", "fix", "file", "line"})
    }
    fields = ENTRY | (set(Proof._fields) if flags else set())
    assert {frozenset(entry) for entry in document["entries"]} == {frozenset(fields)}
    kinds = {entry["name"]: entry["kind"] for entry in document["entries"]}
    assert kinds["linear.weight"] == "parameter"
    assert kinds["gains[0]"] == "attribute"
    documented = DOCS.read_text("utf-8").partition("## lint:")[2]
    for field in (*document, *ENTRY, *Proof._fields, "code", "severity", "message", "fix"):
        assert f"`{field}" in documented


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("2,x", "is not SHAPE"),
        ("", "is not SHAPE"),
        ("-1", "is not SHAPE"),
        ("2:float99", "is not a dtype of torch"),
        ("2:qint8", "is not a dtype of torch"),
    ],
)
def test_bad_examples_are_told(spec: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "sample_models.linear_xavier:build", f"--example-input={spec}")
    assert (status, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize("spec", ["4,8", "4x8", "4,8:float32"])
def test_shapes_can_be_written_in_two_ways(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "sample_models.linear_xavier:build", "--example-input", spec)
    assert (status, err) == (0, "")


def test_a_model_that_raises_is_one_sentence_its_own_lines_and_status_two(tmp_path: Path, warm: Warm) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def build():\n    raise ValueError('no \\x1b[31m config')\n")
    done = warm.run("-m", "ckpttool", "lint", f"{path}:build")
    assert (done.returncode, done.stdout) == (2, "")
    first, *rest = done.stderr.splitlines()
    assert first == f"error: building {path}:build on cpu fails: ValueError: no \\x1b[31m config"
    assert f'  File "{path}", line 2, in build' in rest
    assert rest[-1].startswith("hint:")
    assert "ckpttool" not in "".join(rest[:-1])


def test_what_the_model_prints_is_not_data(tmp_path: Path, warm: Warm) -> None:
    path = tmp_path / "chatty.py"
    path.write_text("from torch import nn\n\ndef build():\n    print('hello')\n    return nn.Linear(2, 2)\n")
    done = warm.run("-m", "ckpttool", "lint", f"{path}:build", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is True
    assert "hello" in done.stderr


def test_without_torch_one_line_says_so(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ckpttool.cli import main\n"
        "sys.exit(main(['lint', 'a:b']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: a model needs torch, which cannot be imported")
    assert done.stderr.splitlines()[1:] == ["hint:  pip install torch"]
    assert "Traceback" not in done.stderr


# --------------------------------------------------------------------------------------------------- the view


def text(report: LintReport, width: int = 100) -> list[str]:
    return ["".join(span.text for span in line).rstrip() for line in iter_report(report, width)]


def test_the_first_line_answers() -> None:
    clean = prove(sample_models.load("linear_xavier").build)
    assert text(clean)[0] == "no trap found · sample_models.linear_xavier.XavierLinear · 2 parameters"
    assert text(prove(sample_models.load("unregistered_tensor").build))[0].startswith("4 errors · ")
    assert text(prove(sample_models.load("tied_embeddings").build))[0].startswith("no trap found · 1 note · ")


def test_findings_of_repeated_layers_share_a_paragraph_and_no_line_is_too_wide() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cos = torch.ones(2)

    lines = text(prove(lambda: nn.Sequential(*[Layer() for _ in range(12)])))
    assert sum(line.startswith("CKPT101") for line in lines) == 1
    assert "CKPT101 error  {0..11}.cos ×12" in lines
    assert max(map(len, lines)) <= 100


def test_folded_proofs_stand_for_equal_ones_only() -> None:
    def build() -> nn.Module:
        layers = [nn.Linear(2, 2) for _ in range(4)]
        layers[3].requires_grad_(False)
        return nn.Sequential(*layers)

    table = [line.split() for line in text(prove(build)) if "weight" in line]
    assert [row[1:3] for row in table] == [["{0..2}.weight", "×3"], ["3.weight", "no"]]


def test_names_of_a_hostile_model_are_escaped_everywhere() -> None:
    finding = LintFinding("CKPT101", "error", "a\x1b[31m\nb", "m\u202e", "f\t")
    report = LintReport(
        "x:y", "a.\x1bB", (finding,), (LintEntry("\x1b]0;t\x07", "attribute", "float32", (1,)),)
    )
    for shown in ("\n".join(text(report)), "".join(iter_findings_pipe(report))):
        assert not set("\x1b\x07\u202e") & set(shown)
    assert "".join(iter_findings_pipe(report)).count("\n") == 1
    assert lint_document(report)["findings"] == [finding._asdict()]
