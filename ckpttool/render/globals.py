"""The view of ``inspect --globals``: what a pickle would import and call if it were unpickled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ckpttool.findings.globals import GlobalVerdict, Verdict
from ckpttool.findings.weights_only import (
    judge_all,
    obstacles,
    plain_load,
    plain_load_fact,
    weights_only_verdict,
)
from ckpttool.render.tables import Cell, Column, Line, Span, fill, iter_table
from ckpttool.values.checkpoint import Checkpoint
from ckpttool.values.words import NAME_LIMIT, format_count, plural, safe

_STYLES = {Verdict.DANGEROUS: "error", Verdict.UNKNOWN: "warning", Verdict.ALLOWED: "good"}
_COLUMNS = (
    Column("verdict"),
    Column("global", floor=24),
    Column("use"),
    Column("why", floor=16, prose=True),
    Column("where", floor=12, optional=1),
)


def weights_only_fact(checkpoint: Checkpoint) -> str:
    """Return ``loads with weights_only=True: yes`` or ``no``; empty where nobody would ask."""
    loads, _ = weights_only_verdict(checkpoint)
    if loads is False and obstacles(checkpoint):
        return "no torch.load takes it"
    return "" if loads is None else f"loads with weights_only=True: {'yes' if loads else 'no'}"


def iter_facts(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield in a sentence each what ``torch.load(weights_only=True)`` and plain pickle would do."""
    fact, (_, why) = weights_only_fact(checkpoint), weights_only_verdict(checkpoint)
    if fact:
        yield f"{fact}, because of {safe(why)}" if why else fact
    if would := plain_load_fact(*plain_load(checkpoint)):
        yield safe(would)


def iter_globals(checkpoint: Checkpoint, width: int) -> Iterator[Line]:
    """Yield the verdicts, the gravest first."""
    verdicts = judge_all(checkpoint)
    if not verdicts:
        yield (Span("nothing would be imported: there is no pickle in it"),)
        return
    counts = Counter(item.verdict for item in verdicts)
    head = [Span(plural(len(verdicts), "global"), "title")]
    head += [
        Span(f"{format_count(counts[verdict])} {verdict.value}", style)
        for verdict, style in _STYLES.items()
        if counts[verdict]
    ]
    yield from fill(head, width, indent=0)
    for fact in iter_facts(checkpoint):
        yield from fill([Span(fact)], width, indent=0)
    yield ()
    rows = [
        (
            Cell(item.verdict.value, _STYLES[item.verdict]),
            Cell(_path(item)),
            Cell(_use(item)),
            Cell(safe(item.reason, NAME_LIMIT)),
            Cell(", ".join(safe(place, NAME_LIMIT) for place in item.ref.places[:3]), "dim"),
        )
        for item in verdicts
    ]
    yield from iter_table(_COLUMNS, rows, width)


def iter_globals_pipe(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield ``verdict, global, called or named, why, places`` per line, with tabs between."""
    for item in judge_all(checkpoint):
        places = ",".join(map(safe, item.ref.places)) or "-"
        fields = (item.verdict.value, _path(item, None), _use(item), safe(item.reason) or "-", places)
        yield "\t".join(fields) + "\n"


def _use(item: GlobalVerdict) -> str:
    """``called``, ``called 3 times``, or ``named``."""
    if not item.ref.called:
        return "named"
    return f"called {item.ref.calls:,} times" if item.ref.calls > 1 else "called"


def _path(item: GlobalVerdict, limit: int | None = NAME_LIMIT) -> str:
    return f"{safe(item.ref.module, limit)}.{safe(item.ref.name, limit)}"
