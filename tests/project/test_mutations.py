"""The faults that `make mutants` puts into the sources: what they are, and that they have lasting names."""

from __future__ import annotations

import ast
from pathlib import Path

from tools import mutations
from tools.mutants import EQUIVALENT, report
from tools.mutations import Mutant, find_mutants, mutate

SOURCE = '''
def clip(low: int, high: int, values: list[int]) -> list[int]:
    """Not a fault: what only explains."""
    if low > high or not values:
        raise ValueError("no room")
    found = [min(value, high) for value in values[1:] if value >= low]
    return sorted(found, reverse=False)
'''
EXPECTED = {
    "low > high or not values -> True", "low > high or not values -> not values",
    "low > high or not values -> low > high", "low > high -> low >= high", "not values -> values",
    "low -> high", "high -> low", "value >= low -> ", "value >= low -> value > low", "1: -> :",
    "1 -> 2", "min(value, high) -> max(value, high)",
    "False -> True", "return sorted(found, reverse=False) -> return None",
}  # fmt: skip


def faults(source: str) -> list[Mutant]:
    return find_mutants("toy", Path("toy.py"), source, ast.parse(source))


def test_each_fault_is_one_change_that_runs() -> None:
    tree = ast.parse(SOURCE)
    found = find_mutants("toy", Path("toy.py"), SOURCE, tree)
    assert {mutant.change for mutant in found} == EXPECTED
    assert all(mutant.place == "clip" and mutant.function == ("clip", 2) for mutant in found)
    changed = {ast.unparse(mutate(mutant, tree)) for mutant in found}
    assert len(changed) == len(found)
    assert all(compile(text, "toy", "exec") for text in changed)
    assert ast.unparse(tree) == ast.unparse(ast.parse(SOURCE))  # nothing stays behind


def test_a_fault_keeps_its_name_while_its_line_does() -> None:
    before = {mutant.ident for mutant in faults(SOURCE)}
    assert len(before) == len(faults(SOURCE))
    moved = {mutant.ident for mutant in faults(f"import os\n\n{SOURCE}")}
    assert moved == before
    renamed = {mutant.ident for mutant in faults(SOURCE.replace("no room", "no place"))}
    assert renamed == before
    assert not before & {mutant.ident for mutant in faults(SOURCE.replace("def clip", "def cut"))}


def test_a_score_leaves_out_what_is_equivalent() -> None:
    found = faults(SOURCE)[:4]
    verdicts = dict(zip([mutant.ident for mutant in found], ["killed", "survived", "not run"], strict=False))
    assert report(found, verdicts).splitlines()[-1] == "| all | 4 | 1 | 1 | 1 | 1 | 33 % |"


def test_what_is_called_equivalent_has_a_reason() -> None:
    rows = [line.split("\t") for line in EQUIVALENT.read_text("utf-8").splitlines()]
    assert all(len(row) == 4 and all((row[0], row[1], row[3])) for row in rows)
    assert len({row[0] for row in rows}) == len(rows)
    assert {row[1].partition(" ")[0] for row in rows} <= {
        ".".join(path.relative_to(Path(mutations.__file__).parents[1] / "ckpttool").with_suffix("").parts)
        for path in (Path(mutations.__file__).parents[1] / "ckpttool").rglob("*.py")
    }
