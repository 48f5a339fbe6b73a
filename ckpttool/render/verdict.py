"""The view of one file of several that are inspected: a line with the verdict, or the whole document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ckpttool.inspection.found import Verdict
from ckpttool.render.found import FOUND
from ckpttool.render.inspection import gravest_first, say_finding
from ckpttool.render.tables import Line, Span, cut
from ckpttool.render.views import View
from ckpttool.values.words import NAME_LIMIT, format_nbytes, plural, safe

PIPE_COLUMNS = tuple("verdict path title errors warnings notes message".split())
"""Fields of a line, ``-`` where there is none; ``message`` is the gravest finding, or what is unreadable."""

_STYLES = {"ok": "good", "findings": "warning", "failed": "error", "unreadable": "error"}
_SEVERITIES = ("error", "warning", "info")
_LONGEST_WORD = max(map(len, _STYLES))


def _lines(verdict: Verdict, width: int, options: None) -> Iterable[Line]:
    """``ok  model.pt · state_dict · 4.6 MiB``, with counts of findings, and the gravest."""
    facts = [safe(verdict.path, NAME_LIMIT), *_facts(verdict)]
    start = Span(f"{verdict.word:<{_LONGEST_WORD}}  ", _STYLES[verdict.word])
    yield start, Span(cut(" · ".join(facts), max(width - len(start.text), 20)))
    if verdict.word in ("failed", "findings") and (message := _message(verdict)):
        yield Span(" " * len(start.text)), Span(cut(message, max(width - len(start.text), 20)), "dim")


def _facts(verdict: Verdict) -> Iterator[str]:
    if verdict.found is None:
        yield "cannot be read"
        return
    inspection, counts = verdict.found.inspection, verdict.found.counts
    yield safe(inspection.title, NAME_LIMIT)
    if inspection.checkpoint.files:
        yield format_nbytes(inspection.checkpoint.file_nbytes)
    nouns = zip(_SEVERITIES, ("error", "warning", "note"), strict=True)
    yield from (plural(counts[severity], noun) for severity, noun in nouns if counts[severity])


def _message(verdict: Verdict) -> str:
    """The sentence of the gravest finding."""
    if verdict.found is None:
        return safe(verdict.unreadable)
    first = next(iter(gravest_first(verdict.found.inspection.findings)), None)
    return "" if first is None else say_finding([first.name], first.message)


def _pipe(verdict: Verdict, options: None) -> tuple[Iterable[str], Iterable[str]]:
    title, counts = "-", ["-"] * len(_SEVERITIES)
    if verdict.found is not None:
        title = safe(verdict.found.inspection.title)
        counts = [str(verdict.found.counts[severity]) for severity in _SEVERITIES]
    fields = [verdict.word, safe(verdict.path), title, *counts, _message(verdict) or "-"]
    return ["\t".join(fields) + "\n"], ()


def _document(verdict: Verdict) -> dict[str, Any]:
    return FOUND.document(verdict.found)


VERDICT = View(_lines, _pipe, _document)
