"""One word for each evidence: the same in the column, in `inspect --help` and in the glossary."""

from __future__ import annotations

import re

import pytest

from ckpttool.cli import main
from ckpttool.render.kinds import basis_name
from ckpttool.values.checkpoint import EXACT_BASES, Basis
from tests.support.documents import read_page

GLOSSARY = re.findall(
    r"^\| `([^`]+)` \|", read_page("docs/glossary.md").partition("## Evidence")[2], re.MULTILINE
)


def test_the_glossary_has_each_word_of_the_column_in_the_order_of_strength() -> None:
    words = [word for word in GLOSSARY if word != "FILE:LINE"]
    assert words == [basis_name(basis) for basis in Basis]


def test_the_help_has_each_word_in_the_same_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--help"]) == 0
    legend = " ".join(
        capsys.readouterr().out.partition("The column evidence")[2].partition("Arguments:")[0].split()
    )
    exact, _, inferred = legend.partition("Inferred:")
    for basis in Basis:
        word = basis_name(basis).removesuffix(" (exact)")
        if basis not in (Basis.SOURCE, Basis.NONE):
            assert word in (exact if basis in EXACT_BASES else inferred)
    assert "FILE:LINE or torch.nn" in inferred and "A dash: unknown" in inferred
