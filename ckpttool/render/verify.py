"""The view of ``verify``: the answer, a line per way of loading, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ckpttool.names.fold import fold_rows
from ckpttool.render.json import encode
from ckpttool.render.tables import (
    Cell,
    Column,
    Line,
    Span,
    block,
    fill,
    hang,
    iter_table,
    number_columns,
    times,
)
from ckpttool.render.units import format_percent, join_facts
from ckpttool.render.views import View
from ckpttool.values.checkpoint import UNCLASSIFIED, Entry
from ckpttool.values.inspection import Row
from ckpttool.values.verification import Plan, Run, Verification
from ckpttool.values.words import (
    NAME_LIMIT,
    first_few,
    format_count,
    format_nbytes,
    format_root,
    format_shape,
    plural,
    safe,
)

_MAX_LINES = 12  # of one list on a screen; the rest is counted
_MAX_SENTENCE = 600
_SHORT = 28  # cells of what an entry holds: "would keep its initial value"


class Item(NamedTuple):
    """One entry of a list: what it holds, and what it should."""

    name: str
    found: str = ""
    expected: str = ""


class Problem(NamedTuple):
    """A list of a run: its field in the document, what it means, and whether it is a fault."""

    field: str
    title: str  # "{n}" stands for the number of entries
    items: tuple[Item, ...]


def plan_line(plan: Plan) -> str:
    """What will be held and written, for stderr."""
    facts = [f"model {format_nbytes(plan.model_nbytes)}", f"one copy of it in memory, {_mapped(plan)}"]
    if plan.temporary_nbytes:
        facts.append(f"round-trip writes {format_nbytes(plan.temporary_nbytes)} below {safe(plan.folder)}")
    return join_facts(facts)


def _mapped(plan: Plan) -> str:
    if not plan.copied_nbytes:
        return f"the file ({format_nbytes(plan.file_nbytes)}) is mapped"
    return f"and {format_nbytes(plan.copied_nbytes)} of the file, which cannot be mapped"


def problems(run: Run) -> list[Problem]:
    """Every list of a run that is not empty and says that something is wrong, the gravest first."""
    lost = [item for item in run.missing if item.becomes != "tied"]
    tied = [item.name for item in run.missing if item.becomes == "tied"]
    shapes = [(item.name, *map(format_shape, item[1:])) for item in run.mismatched]
    restored = "{n} not restored" + _although(run)
    found: list[tuple[str, str, Iterable[Iterable[str]]]] = [
        ("missing", "{n} missing from the file", [(item.name, _BECOMES[item.becomes]) for item in lost]),
        ("unexpected", "{n} in the file that the model does not have", _named(run.unexpected)),
        ("mismatched", "{n} of another shape", shapes),
        ("unfilled", "{n} that nothing filled" + _THOUGH, _named(run.unfilled)),
        ("wrong", "{n} not equal to the file", run.wrong),
        ("lossy", "{n} changed by a silent cast", _lossy_items(run)),
        ("not_restored", restored, [(item.name, item.holds, item.expected) for item in run.not_restored]),
        ("untied", "{n} broken: these no longer share memory", _named(map(" = ".join, run.untied))),
        ("unmoved", "{n} left behind", _named(run.unmoved)),
        ("errors", "{n} from load_state_dict", [("", text) for text in run.errors]),
        ("tied", "{n} missing, but filled through a tie", _named(tied)),
        ("uncompared", "{n} that could not be compared by bytes", _named(run.uncompared)),
    ]
    lists = (Problem(field, title, tuple(Item(*item) for item in items)) for field, title, items in found)
    return [problem for problem in lists if problem.items]


_THOUGH = ', though strict=True says "All keys matched"'
_BECOMES = {
    "random": "would stay random",
    "default": "would keep its initial value",
    "rebuilt": "the constructor makes it",
    "unknown": "would stay as it is",
    "tied": "filled through a tie",
}
_NOUNS = {
    "not_restored": "non-persistent buffer",
    "untied": "tie",
    "unmoved": "tensor",
    "errors": "message",
}
_MINOR = frozenset({"tied", "uncompared"})  # worth a line, and no fault


def _named(names: Iterable[str]) -> Iterable[tuple[str]]:
    return [(name,) for name in names]


def _although(run: Run) -> str:
    silent = not (run.missing or run.unexpected or run.mismatched or run.errors)
    return _THOUGH if silent else ""


def _lossy_items(run: Run) -> Iterator[Item]:
    for loss in run.lossy:
        more = f" ({format_count(loss.changed_numel)} values)" if loss.changed_numel > 1 else ""
        yield Item(
            loss.name,
            f"{loss.model_dtype} {loss.loaded_value}",
            f"{loss.file_dtype} {loss.file_value}{more}",
        )


# -- on a terminal ----------------------------------------------------------------------------------


def iter_verification(result: Verification, width: int, *, root_found: bool = False) -> Iterator[Line]:
    """Yield what a person sees: the answer first."""
    yield from fill(answer(result), width, indent=0)
    facts = [f"{safe(result.model, NAME_LIMIT)} is {safe(result.class_name, NAME_LIMIT)}"]
    if result.root:
        how = "found by itself; --root chooses" if root_found else "as asked"
        facts.append(f"weights at {format_root(result.root)} ({how})")
    if result.mapping:
        facts.append(safe(result.mapping, NAME_LIMIT))
    yield from fill([Span(fact, "dim") for fact in facts], width, indent=0)
    yield ()
    yield from _iter_runs(result.runs, width)
    for problem, runs in _gather(result):
        yield ()
        grave = "error" if any(run.decides for run in runs) else "warning"
        style = "info" if problem.field in _MINOR else grave
        where = f"{_where(runs)}: {_title(problem)}"
        yield from _iter_problem(where, problem.items, style, width)
    if result.changed_reference:
        yield ()
        items = tuple(Item(item.name, item.holds, item.expected) for item in result.changed_reference)
        title = f"{plural(len(items), 'rebuilt buffer')} not as in the reference: the configuration changed"
        yield from _iter_problem(title, items, "error", width)
    remarks = [*result.notes, *_random(result), *_run_notes(result.runs)]
    for mark, style, sentences in (("·", "info", remarks), ("→", "good", result.suggestions)):
        yield from block(line for text in sentences for line in _iter_sentence(mark, style, text, width))


def answer(result: Verification) -> list[Span]:
    """The pieces of the first line."""
    deciding = [run for run in result.runs if run.decides]
    devices = ", ".join(dict.fromkeys(run.device for run in deciding))
    if result.ok:
        facts = [Span(f"loads and is right on {devices}", "good")]
        buffers = plural(result.persistent_buffers, "persistent buffer")
        facts.append(Span(f"{plural(result.parameters, 'parameter')}, {buffers} {_how_equal(deciding)}"))
        if result.rebuilt:
            facts.append(Span(f"{plural(len(result.rebuilt), 'non-persistent buffer')} rebuilt"))
        warned = [run.load for run in result.runs if run.ok is False]
        if warned:
            facts.append(Span(f"not with {', '.join(dict.fromkeys(warned))}", "warning"))
        return facts
    bad = [run for run in deciding if not run.ok]
    facts = [
        Span(f"wrong{' on ' + ', '.join(dict.fromkeys(run.device for run in bad)) if bad else ''}", "error")
    ]
    for run in bad[:1]:
        facts += [Span(_title(problem)) for problem in problems(run) if problem.field not in _MINOR]
        if run.note and not problems(run):
            facts.append(Span(safe(run.note, NAME_LIMIT)))
        if run.total and run.matched < run.total:
            share = format_percent(run.matched_nbytes, run.total_nbytes)
            facts.append(Span(f"{run.matched} of {run.total} matched, {share} of the parameters' bytes"))
    if result.changed_reference:
        changed = plural(len(result.changed_reference), "rebuilt buffer")
        facts.append(Span(f"{changed} not as in the reference"))
    return facts


def _how_equal(deciding: Sequence[Run]) -> str:
    cast = max((len(run.cast) + len(run.lossy) for run in deciding), default=0)
    return f"loaded, {format_count(cast)} of them cast" if cast else "equal by bytes"


def _title(problem: Problem) -> str:
    return problem.title.replace("{n}", plural(len(problem.items), _NOUNS.get(problem.field, "entry")))


_COLUMNS = (
    Column("device"),
    Column("load"),
    *number_columns("matched", "missing", "unexpected", "lossy", "not restored"),
    Column("", floor=9),
)


def _iter_runs(runs: Sequence[Run], width: int) -> Iterator[Line]:
    rows = []
    for run in runs:
        lists = (run.missing, run.unexpected, run.lossy, run.not_restored)
        counts = [Cell(format_count(len(items)), "warning" if items else "dim") for items in lists]
        cells = [Cell(f"{run.matched}/{run.total}"), *counts] if run.total else [Cell("–", "dim")] * 5
        rows.append((Cell(run.device), Cell(run.load), *cells, _verdict_cell(run)))
    return iter_table(_COLUMNS, rows, width)


def _verdict_cell(run: Run) -> Cell:
    """The end of a line, short: what the columns before it do not count, or why they do."""
    if run.ok:
        speed = f" · {run.gb_per_second:.1f} GB/s" if run.gb_per_second else ""
        return Cell(f"ok{speed}", "good")
    if run.ok is None or not run.total:
        return Cell("wrong" if run.decides else "skipped", "error" if run.decides else "dim")
    if run.decides:
        return Cell("wrong", "error")
    grave = [problem.field for problem in problems(run) if problem.field not in _MINOR]
    first = _BRIEF.get(grave[0], "wrong") if grave else "wrong"
    return Cell("! on meta" if first == "garbage" and run.load == "assign" else f"! {first}", "warning")


_BRIEF = {"not_restored": "garbage", "untied": "untied", "unmoved": "left behind", "unfilled": "unfilled"}


def _gather(result: Verification) -> Iterator[tuple[Problem, tuple[Run, ...]]]:
    """Each problem once, with all the runs that have exactly this one; deciding runs first."""
    found: dict[Problem, list[Run]] = {}
    for run in sorted(result.runs, key=lambda run: not run.decides):
        for problem in problems(run):
            found.setdefault(problem, []).append(run)
    for problem, runs in found.items():
        yield problem, tuple(runs)


def _where(runs: Sequence[Run]) -> str:
    where = ", ".join(dict.fromkeys(run.load for run in runs))
    devices = dict.fromkeys(run.device for run in runs)
    return where if list(devices) == ["cpu"] else f"{where} on {', '.join(devices)}"


def _iter_problem(title: str, items: Sequence[Item], style: str, width: int) -> Iterator[Line]:
    yield from _iter_sentence("·" if style == "info" else "!", style, title, width)
    folded = _fold(items)
    # A word or a number stays whole and the name gives way; a sentence gives way itself.
    long = any(row[1].width > _SHORT for row in folded)
    columns = (Column("name", floor=24), Column("found", floor=_SHORT if long else None), Column("expected"))
    yield from iter_table(columns, folded[:_MAX_LINES], width, indent=4, head=False)
    if len(folded) > _MAX_LINES:
        left = sum(int(row[0].tail.removeprefix(" ×") or 1) for row in folded[_MAX_LINES:])
        yield (Span(f"    … and {format_count(left)} more: --json lists all", "dim"),)


def _fold(items: Sequence[Item]) -> list[Sequence[Cell]]:
    """Rows of a list: those that differ in indices only, and say the same, share a line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for item in items:
        alike.setdefault(item[1:], []).append(item.name)
    rows: list[Sequence[Cell]] = []
    for (found, expected), names in alike.items():
        for folded in fold_rows([Row(Entry((), name, None), UNCLASSIFIED) for name in names]):
            rows.append(
                (
                    Cell(safe(folded.pattern, NAME_LIMIT), "", times(folded.count)),
                    Cell(safe(found, NAME_LIMIT), "dim" if expected else ""),
                    Cell(f"expected {safe(expected, NAME_LIMIT)}" if expected else "", "dim"),
                )
            )
    return rows


def _random(result: Verification) -> Iterator[str]:
    if result.random:
        why = "random by design, so that nothing can tell whether they are right"
        yield f"{plural(len(result.random), 'non-persistent buffer')} {why}: {first_few(result.random)}"


def _run_notes(runs: Sequence[Run]) -> Iterator[str]:
    notes: dict[str, list[str]] = {}
    for run in runs:
        if run.note:
            notes.setdefault(run.note, []).append(run.load)
    for note, loads in notes.items():
        yield f"{', '.join(dict.fromkeys(loads))}: {note}"
    kept = next((run.kept for run in runs if run.kept), ())
    if kept:
        yield f"{plural(len(kept), 'buffer')} not in the file, and as built: {', '.join(kept[:3])}"
    hooked = next((run.hooked for run in runs if run.hooked), ())
    if hooked:
        how = "filled by the model's own loading code from other names"
        yield f"{format_count(len(hooked))} {how}: {first_few(hooked)}"


def _iter_sentence(mark: str, style: str, text: str, width: int) -> Iterator[Line]:
    return hang(Span(f"  {mark} ", style), safe(text, _MAX_SENTENCE), width)


# -- in a pipe --------------------------------------------------------------------------------------

PIPE_COLUMNS = ("what", "device", "load", "name", "found", "expected")
"""Fields of a line, in this order, with a tab between; ``-`` where there is none. Only ever added to."""


def iter_pipe(result: Verification) -> Iterator[str]:
    """Yield the verdict, then per run a line and one for each item of its lists."""
    said = join_facts(piece.text for piece in answer(result))
    yield _pipe_line("verdict", "", "", "ok" if result.ok else "wrong", said, "")
    for run in result.runs:
        state = "ok" if run.ok else "none" if run.ok is None else "wrong" if run.decides else "warned"
        yield _pipe_line("run", run.device, run.load, state, f"{run.matched}/{run.total}", run.note)
        for problem in problems(run):
            for item in problem.items:
                yield _pipe_line(problem.field, run.device, run.load, *item)
    for changed in result.changed_reference:
        yield _pipe_line("changed_reference", "", "", changed.name, changed.holds, changed.expected)


def _pipe_line(*fields: str) -> str:
    return "\t".join([safe(field) or "-" for field in fields]) + "\n"


def iter_suggestion_lines(result: Verification) -> Iterator[str]:
    """Yield ``hint: sentence`` per suggestion and note, for stderr."""
    for note in result.notes:
        yield f"note: {safe(note, _MAX_SENTENCE)}\n"
    for suggestion in result.suggestions:
        yield f"hint: {safe(suggestion, _MAX_SENTENCE)}\n"


VERIFY_SCHEMA = "ckpttool/verify/1"


def verify_document(result: Verification) -> dict[str, object]:
    """Return the document of one verification."""
    return {
        "schema": VERIFY_SCHEMA,
        "ok": result.ok,
        "path": result.path,
        "model": result.model,
        "class": result.class_name,
        "root": encode(result.root),
        "mapping": result.mapping,
        "allow_cast": result.allow_cast,
        "parameters": result.parameters,
        "persistent_buffers": result.persistent_buffers,
        "rebuilt": list(result.rebuilt),
        "random": list(result.random),
        "changed_reference": encode(result.changed_reference),
        "notes": list(result.notes),
        "runs": [_run_object(run) for run in result.runs],
        "suggestions": list(result.suggestions),
    }


def _run_object(run: Run) -> dict[str, Any]:
    fields: dict[str, Any] = encode(run)
    fields["seconds"] = round(run.seconds, 6)
    if run.gb_per_second is not None:
        fields["gb_per_second"] = round(run.gb_per_second, 3)
    return fields


VERIFICATION = View(
    lambda result, width, found: iter_verification(result, width, root_found=bool(found)),
    lambda result, found: (iter_pipe(result), iter_suggestion_lines(result)),
    verify_document,
)
