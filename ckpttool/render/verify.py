"""The view of ``verify``: the answer, a line per way of loading, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ckpttool.names.fold import fold_names
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
    """A list of a run: its field in the document, what it means, and its items."""

    field: str
    title: str
    items: tuple[Item, ...]


def iter_plan(plan: Plan, width: int) -> Iterator[Line]:
    """Yield what will be held and written, for stderr."""
    facts = [f"model {format_nbytes(plan.model_nbytes)}", "one copy of it in memory", _mapped(plan)]
    if plan.temporary_nbytes:
        facts.append(f"round-trip writes {format_nbytes(plan.temporary_nbytes)} below {safe(plan.folder)}")
    return fill(map(Span, facts), width, indent=0)


def _mapped(plan: Plan) -> str:
    if not plan.copied_nbytes:
        return f"the file ({format_nbytes(plan.file_nbytes)}) is mapped"
    return f"{format_nbytes(plan.copied_nbytes)} of the file, which cannot be mapped"


def problems(run: Run) -> list[Problem]:
    """Every list of a run that is not empty and says that something is wrong, the gravest first."""
    lost = [item for item in run.missing if item.becomes != "tied"]
    tied = [item.name for item in run.missing if item.becomes == "tied"]
    shapes = [(item.name, *map(format_shape, item[1:])) for item in run.mismatched]
    is_silent = not (run.missing or run.unexpected or run.mismatched or run.errors)
    restored = "not restored" + (_THOUGH if is_silent else "")
    buffers = [(item.name, item.holds, item.expected) for item in run.not_restored]
    found: list[tuple[str, str, str, Iterable[Iterable[str]]]] = [
        ("missing", "entry", "missing from the file", [(item.name, _BECOMES[item.becomes]) for item in lost]),
        ("unexpected", "entry", "in the file that the model does not have", _named(run.unexpected)),
        ("mismatched", "entry", "of another shape", shapes),
        ("unfilled", "entry", "that nothing filled" + _THOUGH, _named(run.unfilled)),
        ("wrong", "entry", "not equal to the file", run.wrong),
        ("lossy", "entry", "changed by a silent cast", _lossy_items(run)),
        ("not_restored", "non-persistent buffer", restored, buffers),
        ("untied", "tie", "broken: these no longer share memory", _named(map(" = ".join, run.untied))),
        ("unmoved", "tensor", "left behind", _named(run.unmoved)),
        ("errors", "message", "from load_state_dict", [("", text) for text in run.errors]),
        ("tied", "entry", "missing, but filled through a tie", _named(tied)),
        ("uncompared", "entry", "that could not be compared by bytes", _named(run.uncompared)),
    ]
    lists = [(field, noun, what, tuple(Item(*row) for row in rows)) for field, noun, what, rows in found]
    return [
        Problem(field, f"{plural(len(items), noun)} {what}", items)
        for field, noun, what, items in lists
        if items
    ]


_THOUGH = ', though strict=True says "All keys matched"'
_BECOMES = {
    "random": "would stay random",
    "default": "would keep its initial value",
    "rebuilt": "the constructor makes it",
    "unknown": "would stay as it is",
    "tied": "filled through a tie",
}
_MINOR = frozenset({"tied", "uncompared"})  # worth a line, and no fault


def _named(names: Iterable[str]) -> Iterable[tuple[str]]:
    return [(name,) for name in names]


def _lossy_items(run: Run) -> Iterator[Item]:
    for name, file_dtype, model_dtype, changed, _, before, after in run.lossy:
        more = f" ({plural(changed, 'value')})" if changed > 1 else ""
        yield Item(name, f"{model_dtype} {after}", f"{file_dtype} {before}{more}")


# -- on a terminal ----------------------------------------------------------------------------------


def iter_verification(result: Verification, width: int, *, root_found: bool = False) -> Iterator[Line]:
    """Yield what a person sees: the answer first."""
    yield from fill(answer(result), width, indent=0)
    facts = [f"{safe(result.model, NAME_LIMIT)} is {safe(result.class_name, NAME_LIMIT)}"]
    if result.root:
        how = "detected; choose another with --root" if root_found else "as asked"
        facts.append(f"weights at {format_root(result.root)} ({how})")
    if result.mapping:
        facts.append(safe(result.mapping, NAME_LIMIT))
    yield from fill([Span(fact, "dim") for fact in facts], width, indent=0)
    yield from block(_iter_runs(result.runs, width))
    for problem, runs in _gather(result).items():
        grave = "error" if any(run.decides for run in runs) else "warning"
        style = "info" if problem.field in _MINOR else grave
        title = f"{_where(runs)}: {problem.title}"
        yield from block(_iter_problem(title, problem.items, style, width))
    if result.changed_reference:
        items = tuple(Item(item.name, item.holds, item.expected) for item in result.changed_reference)
        title = f"{plural(len(items), 'rebuilt buffer')} not as in the reference: the configuration changed"
        yield from block(_iter_problem(title, items, "error", width))
    remarks = [*result.notes, *_random(result), *_run_notes(result.runs)]
    for mark, style, sentences in (("·", "info", remarks), ("→", "good", result.suggestions)):
        yield from block(line for text in sentences for line in _iter_sentence(mark, style, text, width))


def answer(result: Verification) -> list[Span]:
    """The pieces of the first line."""
    deciding = [run for run in result.runs if run.decides]
    if result.ok:
        devices = ", ".join(dict.fromkeys(run.device for run in deciding))
        facts = [Span(f"loads correctly on {devices}", "good")]
        buffers = plural(result.persistent_buffers, "persistent buffer")
        facts.append(Span(f"{plural(result.parameters, 'parameter')}, {buffers} {_how_equal(deciding)}"))
        if result.rebuilt:
            facts.append(Span(f"{plural(len(result.rebuilt), 'non-persistent buffer')} rebuilt"))
        warned = [run.load for run in result.runs if run.ok is False]
        if warned:
            facts.append(Span(f"not with {', '.join(dict.fromkeys(warned))}", "warning"))
        return facts
    bad = [run for run in deciding if not run.ok]
    devices = ", ".join(dict.fromkeys(run.device for run in bad))
    facts = [Span(f"wrong on {devices}" if bad else "wrong", "error")]
    for run in bad[:1]:
        facts += [Span(problem.title) for problem in problems(run) if problem.field not in _MINOR]
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
    return f"loaded, {format_count(cast)} of them cast" if cast else "byte-identical"


# On a narrow terminal counts give way: the sentences below have them again. A verdict is never cut.
_COLUMNS = (
    Column("device"),
    Column("load"),
    *number_columns("matched"),
    *(Column(title, right=True, optional=1) for title in ("missing", "unexpected", "lossy", "not restored")),
    Column(""),
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


def _gather(result: Verification) -> dict[Problem, list[Run]]:
    """Each problem once, with all the runs that have exactly this one; deciding runs first."""
    found: dict[Problem, list[Run]] = {}
    for run in sorted(result.runs, key=lambda run: not run.decides):
        for problem in problems(run):
            found.setdefault(problem, []).append(run)
    return found


def _where(runs: Sequence[Run]) -> str:
    where = ", ".join(dict.fromkeys(run.load for run in runs))
    devices = dict.fromkeys(run.device for run in runs)
    return where if list(devices) == ["cpu"] else f"{where} on {', '.join(devices)}"


def _iter_problem(title: str, items: Sequence[Item], style: str, width: int) -> Iterator[Line]:
    yield from _iter_sentence("·" if style == "info" else "!", style, title, width)
    counts, rows = _fold(items)
    # A word or a number stays whole and the name gives way; a sentence gives way itself.
    long = any(row[1].width > _SHORT for row in rows)
    columns = (Column("name", floor=24), Column("found", floor=_SHORT if long else None), Column("expected"))
    yield from iter_table(columns, rows[:_MAX_LINES], width, indent=4, head=False)
    if left := sum(counts[_MAX_LINES:]):
        yield (Span(f"    … and {format_count(left)} more: --json lists all", "dim"),)


def _fold(items: Sequence[Item]) -> tuple[list[int], list[Sequence[Cell]]]:
    """The items of each row, and the rows: names that differ in indices, and say the same, share one."""
    alike: dict[tuple[str, str], list[str]] = {}
    for item in items:
        alike.setdefault(item[1:], []).append(item.name)
    counts: list[int] = []
    rows: list[Sequence[Cell]] = []
    for (found, expected), names in alike.items():
        for folded in fold_names(names):
            name = Cell(safe(folded.pattern, NAME_LIMIT), "", times(folded.count))
            holds = Cell(safe(found, NAME_LIMIT), "dim" if expected else "")
            should = Cell(f"expected {safe(expected, NAME_LIMIT)}" if expected else "", "dim")
            counts.append(folded.count)
            rows.append((name, holds, should))
    return counts, rows


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


_FIELDS = """
path model class root mapping allow_cast parameters persistent_buffers rebuilt random changed_reference notes
runs suggestions
""".split()
"""Those of the document, as ``docs/json.md`` has them."""


def verify_document(result: Verification) -> dict[str, object]:
    """Return the document of one verification."""
    known = encode(result._replace(runs=tuple(map(_rounded, result.runs))))
    known["class"] = result.class_name
    return {"schema": VERIFY_SCHEMA, "ok": result.ok, **{name: known[name] for name in _FIELDS}}


def _rounded(run: Run) -> Run:
    speed = None if run.gb_per_second is None else round(run.gb_per_second, 3)
    return run._replace(seconds=round(run.seconds, 6), gb_per_second=speed)


VERIFICATION = View(
    lambda result, width, found: iter_verification(result, width, root_found=bool(found)),
    lambda result, found: (iter_pipe(result), iter_suggestion_lines(result)),
    verify_document,
)
