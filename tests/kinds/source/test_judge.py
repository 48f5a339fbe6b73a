"""What classes that fit say of names, and what is said where none is the root of all."""

from __future__ import annotations

import pytest

from ckpttool.kinds.classify import Verdict
from ckpttool.kinds.source.judge import judge_names
from ckpttool.kinds.source.match import Matcher
from ckpttool.values.checkpoint import Basis, Kind, Presence
from tests.support.source_library import interpret

SOURCE = """
import torch
from torch import nn
from torch.nn import Parameter


class Part(nn.Module):
    def __init__(self, learnt):
        super().__init__()
        self.gate = Parameter(torch.rand(1))
        self.register_buffer("mask", torch.rand(1))
        self.register_buffer("cache", torch.rand(1), persistent=False)
        if learnt:
            self.scale = Parameter(torch.rand(1))
        else:
            self.register_buffer("scale", torch.rand(1))


class Net(nn.Module):
    def __init__(self, learnt):
        super().__init__()
        self.parts = nn.ModuleList([Part(learnt), Part(learnt)])
        self.head = nn.Linear(2, 2)
        self.register_buffer("anchors", torch.rand(1))
"""
NAMES = [f"parts.{n}.{leaf}" for n in range(2) for leaf in ("gate", "mask", "scale")]
NAMES += ["head.weight", "head.bias", "anchors"]
KINDS = {"gate": Kind.PARAMETER, "weight": Kind.PARAMETER, "bias": Kind.PARAMETER}


def judge(names: list[str], strict: bool = False) -> tuple[Verdict, dict[str, Kind]]:
    verdict = judge_names(Matcher(interpret(SOURCE)), list(enumerate(names)), [], strict)
    return verdict, {names[position]: said.kind for position, said in verdict.said.items()}


def expected(names: list[str]) -> dict[str, Kind]:
    leaves = {name: name.rpartition(".")[2] for name in names}
    return {
        name: Kind.UNKNOWN if leaf == "scale" else KINDS.get(leaf, Kind.PERSISTENT_BUFFER)
        for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("strict", [False, True])
def test_below_wrappers_all_is_as_at_the_top(prefix: str, strict: bool) -> None:
    names = [prefix + name for name in NAMES]
    verdict, said = judge(names, strict)
    assert verdict.root == "pkg.m.Net" and said == expected(names)
    missing = {name: found.presence for name, found in verdict.missing.items()}
    assert missing == {f"{prefix}parts.{n}.cache": Presence.MISSING for n in range(2)}


def test_what_the_arguments_decide_is_unknown_and_says_where() -> None:
    verdict, _ = judge(NAMES)
    said = verdict.said[NAMES.index("parts.0.scale")]
    assert (said.kind, said.basis) == (Kind.UNKNOWN, Basis.NONE)
    assert said.source is not None and said.source.class_name == "pkg.m.Part"


def test_nothing_is_exact_and_every_claim_has_a_place() -> None:
    verdict, _ = judge(NAMES)
    for said in (*verdict.said.values(), *verdict.missing.values()):
        assert not said.exact and said.source is not None and said.source.how == "class"


def test_in_a_file_of_another_model_strict_says_nothing() -> None:
    names = [*(f"encoder.{name}" for name in NAMES), "other.mystery", "other.weight", "decoder.riddle"]
    verdict, said = judge(names, strict=True)
    assert (verdict.root, said, dict(verdict.missing)) == ("", {}, {})
    verdict, said = judge(names)
    assert not verdict.root and not verdict.missing  # of a root that nobody knows nothing is missing
    assert said["encoder.parts.0.gate"] is Kind.PARAMETER
    assert said["encoder.parts.0.mask"] is Kind.PERSISTENT_BUFFER
    assert "other.mystery" not in said and "decoder.riddle" not in said


def test_an_entry_that_the_class_lacks_takes_the_modules_claims_with_it() -> None:
    """The class is of another version then: what it says of the others is not known to hold."""
    verdict, said = judge([*NAMES, "parts.0.novel"], strict=True)
    assert "parts.0.novel" not in said or said["parts.0.novel"] is Kind.UNKNOWN
    assert not any(name.startswith("parts.0.") for name in verdict.missing)


@pytest.mark.parametrize(
    "names", [[], [""], ["."], ["..."], ["a" * 5000], [".".join("a" * 500)], ["0", "1.2"]]
)
def test_odd_names_are_no_module_of_the_package(names: list[str]) -> None:
    verdict, said = judge(names)
    assert not verdict.root and not verdict.missing and not said
