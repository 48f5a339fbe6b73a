"""A sentence that counts something says so by ``plural`` and ``agree`` alone, and these are right."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from ckpttool.values.words import agree, indefinite, plural
from tests.support.grammar import mistakes

PACKAGE = Path(__file__).parents[2] / "ckpttool"
COUNTS = (0, 1, 2)
_COUNT = re.compile(r"len\(|sum\(|count|nbytes|numel|number")


@cache
def nodes(*kinds: type[ast.AST]) -> list[tuple[str, Any]]:
    """Every node of the package that is one of ``kinds``, and where it is."""
    return [
        (f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, kinds)
    ]


def counted_nouns() -> set[str]:
    """Every noun that the package counts, for one of it."""
    found = {"byte", "value", "element", "character"}
    for _, node in nodes(ast.Call):
        if getattr(node.func, "id", "") == "plural" and len(node.args) == 2:
            found |= {given.value for given in node.args[1:] if isinstance(given, ast.Constant)}
    return found


def test_a_number_stands_before_its_noun_by_one_function_alone() -> None:
    """``f"{len(names)} names"`` is wrong with one name; ``plural`` is not."""
    nouns = counted_nouns()
    nouns |= {plural(2, noun).partition(" ")[2] for noun in nouns}
    noun = re.compile(f" ({'|'.join(sorted(map(re.escape, nouns), key=len, reverse=True))})" + r"\b")
    bad = []
    for place, node in nodes(ast.JoinedStr):
        pieces = node.values
        for before, value, behind in zip([None, *pieces], pieces, pieces[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(behind, ast.Constant):
                continue
            if not noun.match(str(behind.value)):
                continue
            code = ast.unparse(value.value)
            is_power = isinstance(before, ast.Constant) and str(before.value).endswith("**")
            is_count = value.format_spec is not None or _COUNT.search(code)
            if is_count and not is_power and "plural(" not in code:
                bad.append(f"{place}: {ast.unparse(node)}")
    assert not bad, "\n".join(bad)


def test_words_that_hang_on_a_count_are_chosen_by_one_function_alone() -> None:
    """No ``"s" * (n > 1)`` and no ``"is" if n == 1 else "are"`` beside it."""
    bad = []
    for place, node in nodes(ast.IfExp, ast.BinOp):
        if isinstance(node, ast.IfExp) and isinstance(node.test, ast.Compare):
            words = [item.value for item in (node.body, node.orelse) if isinstance(item, ast.Constant)]
            against = [item.value for item in node.test.comparators if isinstance(item, ast.Constant)]
            is_choice = against == [1] and len(words) == 2 and all(isinstance(word, str) for word in words)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sides = [side.value for side in (node.left, node.right) if isinstance(side, ast.Constant)]
            is_choice = not {"s", "es"}.isdisjoint(sides)
        else:
            continue
        if is_choice and not place.startswith("values/words"):
            bad.append(f"{place}: {ast.unparse(node)}")
    assert not bad, "\n".join(bad)


def test_the_words_of_counts() -> None:
    assert [plural(count, "tensor") for count in COUNTS] == ["0 tensors", "1 tensor", "2 tensors"]
    assert [plural(count, "entry") for count in COUNTS] == ["0 entries", "1 entry", "2 entries"]
    assert [plural(count, "branch") for count in COUNTS] == ["0 branches", "1 branch", "2 branches"]
    assert [plural(count, "key is", "keys are") for count in COUNTS] == [
        "0 keys are",
        "1 key is",
        "2 keys are",
    ]
    assert [agree(count, "is", "are") for count in COUNTS] == ["are", "is", "are"]
    assert list(map(indefinite, ("int", "list", "Odd"))) == ["an int", "a list", "an Odd"]
    for noun in counted_nouns():
        for count in COUNTS:
            assert not mistakes(plural(count, noun)), noun
            wrong = plural(1 - (count == 1), noun).partition(" ")[2]
            assert plural(count, noun) != f"{count} {wrong}"


def test_the_grammar_sees_what_is_wrong() -> None:
    """A check that cannot fail is none."""
    for wrong in (
        "1 tensors", "0 tensor", "2 tensor", "1 data bytes missing", "1 more rows", "all 1 values are zero",
        "1 entry (a) are stale", "2 entries (a, b) is stale", "1 of 3 names match the model's", "gives a int",
        "is an list", "1 of 1 names", "none of the file's 1 name", "12 storage saved on cuda", "x: 0 key is",
    ):  # fmt: skip
        assert mistakes(wrong), wrong
    for right in (
        "1 tensor", "0 tensors", "1 of 3 names matches", "1 of 2 values is NaN", "a uint8", "an OrderedDict",
        "2 of 3 names match", "module.1 names", "0 unknown", "1 missing", "rank 1 holds", "an nn.Module",
        "0 persistent buffers byte-identical", "before 1.6: tensors",
        "1 from names", "an FP8 scale", "1 entry (a, b) is",
    ):  # fmt: skip
        assert not mistakes(right), (right, mistakes(right))
