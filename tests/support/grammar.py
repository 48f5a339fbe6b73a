"""What is wrong with a sentence that counts something: its noun, its verb, its article."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NOUNS = """
argument array attribute branch buffer byte character checkpoint chunk device difference element entry error
file finding function global group item key member model module name note pair parameter part pickle place
rank rename row shape shard size state state_dict storage stride tensor tie time value view warning weight
""".split()
_MANY = [re.sub("rys$", "ries", re.sub("chs$", "ches", f"{noun}s")) for noun in _NOUNS]
_VERBS = "are is, were was, have has, hold holds, follow follows, lie lies, belong belongs, match matches"
_MANY_DO, _ONE_DOES = zip(*(pair.split() for pair in _VERBS.split(",")), strict=True)

# Words that may stand between a number and its noun, and those of a subject.
_LITTLE = "of in to and the or by at are is with without from behind beside".split()
_BETWEEN = rf"(?:(?!(?:{'|'.join([*_LITTLE, *_NOUNS])}) )[a-zA-Z_*.-]+ ){{0,2}}"
_SUBJECT = rf"{_BETWEEN}\w+(?: \([^()]*\))?"
_FREE = r"(?<![\d.,:×=+/^*-])(?<!\d )"  # what is before a number that is one by itself
_SEVERAL = r"(?:0|[2-9]|[1-9][\d,]*\d)"
_BEGIN = r"(?:^|[:;,·] )"
_ONE_SAYS = (
    "uniform",
    "unit",
    "unique",
    "union",
    "universal",
    "user",
    "utf",
    "util",
    "use",
    "one",
    "once",
    "uint",
)
_LETTERS = "LF|HT|FP|nn|ndarray|SGD|MoE|LSTM|HF|[mnfslrxFHLMNRSX]"  # spelled, and so begun with a vowel

_RULES = tuple(
    re.compile(rule, re.MULTILINE)
    for rule in (
        rf"{_FREE}\b1 {_BETWEEN}({'|'.join(_MANY)})\b",
        rf"{_FREE}\b{_SEVERAL} {_BETWEEN}({'|'.join(_NOUNS)})\b(?!['’.-]\w| (?:{'|'.join(_MANY)})\b)",
        rf"{_BEGIN}{_FREE}\b1 (?:of [\d,]+ )?{_SUBJECT} ({'|'.join(_MANY_DO)})\b",
        rf"{_BEGIN}{_FREE}\b{_SEVERAL} (?:of [\d,]+ )?{_SUBJECT} ({'|'.join(_ONE_DOES)})\b",
        rf"\ba (?!{'|'.join(_ONE_SAYS)})([aeiouAEIOU]\w+)",
        rf"\b[Aa]n (?!hour|honest|(?:{_LETTERS})\b|[A-Z]{{2}})([bcdfghjklmnpqrstvwxyz]\w*)",
        r"\b(?:all|none of the|each of|both) (?:file's )?[01] \w+",
    )
)


def mistakes(text: str) -> list[str]:
    """The places of ``text`` that are no English, each with a little of what is around it."""
    return list(_iter_mistakes(text))


def _iter_mistakes(text: str) -> Iterator[str]:
    for rule in _RULES:
        for found in rule.finditer(text):
            yield text[max(0, found.start() - 20) : found.end() + 30].replace("\n", "⏎")
