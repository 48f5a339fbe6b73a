"""``ckpttool inspect``: what is in a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ckpttool.commands.model_source import names_model, read_model
from ckpttool.errors import CkptToolError

if TYPE_CHECKING:
    from ckpttool.analysis.inspection import Inspection, Row
    from ckpttool.check import CheckReport
    from ckpttool.checkpoint import Finding
    from ckpttool.float_bits import Number
    from ckpttool.stats import EntryStats

EXAMPLES = (
    "ckpttool inspect model.safetensors",
    "ckpttool inspect last.ckpt --root state_dict --stats --fail-on nan,inf",
    "ckpttool inspect model.pt --model net.py:build --model-arg depth=12",
)

_FAIL_ON_VALUES = ("nan", "inf", "zero")
_FAIL_ON = (*_FAIL_ON_VALUES, "findings")
_SORTS = ("file", "name", "size")
_MOST_SUGGESTED = 3


class _Found(NamedTuple):
    """An inspection with what was read of the tensors' bytes: statistics by row, first values of one."""

    inspection: Inspection
    stats: Sequence[Sequence[EntryStats]] | None = None
    first_values: Sequence[Number] | None = None
    check: CheckReport | None = None


def command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="A file, a folder of shards, or a model: package.module:factory, FILE.py:factory.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="M",
            help="Exact kinds from a model: package.module:factory, FILE.py:factory, or hf. Runs its code.",
        ),
    ] = None,
    model_arg: Annotated[
        list[str] | None,
        typer.Option("--model-arg", metavar="KEY=VALUE", help="An argument of the factory. May be repeated."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only; the status answers.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="Every entry of every branch, unfolded.")] = False,
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="KEY.PATH", help="One branch only, such as model.state_dict."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="Only entries with such a name. May be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="No entries with such a name. May be repeated."),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="ORDER", help="Order of the table: file, name or size.")
    ] = "file",
    tensor: Annotated[
        str | None, typer.Option("--tensor", metavar="NAME", help="One entry in full, with its first values.")
    ] = None,
    values: Annotated[
        str, typer.Option("--values", metavar="N", help="How many values --tensor shows.")
    ] = "16",
    stats: Annotated[
        bool, typer.Option("--stats", help="Read the values: range, mean, zeros, NaN, infinities.")
    ] = False,
    fail_on: Annotated[
        str | None,
        typer.Option(
            "--fail-on",
            metavar="WHAT,...",
            help="Exit 1 if there is any nan, inf, zero (a tensor of nothing else; these read the values), "
            "or findings.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Verify the checksums of a zip; exit 1 if one does not match.")
    ] = False,
    digest: Annotated[
        bool,
        typer.Option(
            "--digest", help="Hash the weights' content, whatever the container, instead of entries."
        ),
    ] = False,
    show_globals: Annotated[
        bool, typer.Option("--globals", help="What an unpickler would import and call, instead of entries.")
    ] = False,
) -> int:
    """Show what is in a checkpoint: every tensor with its kind, and on what evidence.

    Reads headers and runs nothing that is in the file. On a terminal, entries that differ only in
    their indices share a line; in a pipe every entry has a line of its own, with tabs between its
    fields. Only --stats, --fail-on, --check and --tensor read the tensors themselves.

    With --model, kinds are the model's own, and entries that are missing or unexpected are listed.
    """
    if sort not in _SORTS:
        raise typer.BadParameter(f"{sort} is not one of {', '.join(_SORTS)}", param_hint="--sort")
    asked, count = _parse_fail_on(fail_on), _parse_count(values)
    selection = _Selection(root, include or (), exclude or ())
    if names_model(path):
        reads = stats or check or show_globals or any(what in _FAIL_ON_VALUES for what in asked)
        found = _Found(_inspect_model(path, model, model_arg or (), selection, reads_file=reads))
    else:
        found = _Found(_inspect(path, selection, model, model_arg or ()))
    if tensor is not None:
        found = _pick(found.inspection, tensor, count)
    if stats or any(what in _FAIL_ON_VALUES for what in asked):
        found = _with_stats(found, asked, quiet=quiet)
    if check:
        found = _with_check(found, quiet=quiet)
    if digest:
        _write_digest(found.inspection, json=json, quiet=quiet)
    elif json:
        _write_json(found)
    elif not quiet and show_globals:
        _write_globals(found.inspection)
    elif not quiet:
        table = (flat, root is not None, sort)
        _write_text(found, table, one=tensor is not None, show_stats=stats)
    return int(_fails(found, asked))


def _parse_fail_on(text: str | None) -> tuple[str, ...]:
    asked = tuple(text.split(",")) if text is not None else ()
    for what in asked:
        if what not in _FAIL_ON:
            message = f"{what} is not one of {', '.join(_FAIL_ON)}"
            raise typer.BadParameter(message, param_hint="--fail-on")
    return asked


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise typer.BadParameter(f"{text} is not a count", param_hint="--values")
    return int(text)


class _Selection(NamedTuple):
    root: str | None
    include: Sequence[str]
    exclude: Sequence[str]


def _inspect(path: str, selection: _Selection, model: str | None, arguments: Sequence[str]) -> Inspection:
    from ckpttool.analysis.inspect import inspect_checkpoint
    from ckpttool.analysis.roots import resolve_root
    from ckpttool.formats import read_checkpoint

    if arguments and model is None:
        raise typer.BadParameter("it goes with --model", param_hint="--model-arg")
    checkpoint = read_checkpoint(path)
    root, include, exclude = selection
    branch = None if root is None else resolve_root(checkpoint, root)
    # Before a model runs it is known that the file can be read.
    spec = None if model is None else read_model(model, arguments, checkpoint_path=path)
    return inspect_checkpoint(checkpoint, include=include, exclude=exclude, root=branch, model=spec)


def _inspect_model(
    text: str, model: str | None, arguments: Sequence[str], selection: _Selection, *, reads_file: bool
) -> Inspection:
    from ckpttool.analysis.inspect_model import inspect_model

    if model is not None or selection.root is not None or reads_file:
        raise CkptToolError(
            "a model is not a file: --model, --root, --stats, --check, --globals and --fail-on nan,inf,zero "
            "do not go with it",
            path=text,
            hint=f"ckpttool inspect {text}",
        )
    return inspect_model(read_model(text, arguments), include=selection.include, exclude=selection.exclude)


def _pick(inspection: Inspection, name: str, count: int) -> _Found:
    """The one row that is called ``name``, with its first ``count`` values."""
    from ckpttool.checkpoint import Presence, TensorInfo
    from ckpttool.tensor_bytes import TensorReader, first_values

    row = _find_row(inspection, name)
    value = row.entry.value
    numbers: Sequence[Number] | None = None
    if isinstance(value, TensorInfo) and value.storage is not None and count:
        with TensorReader(inspection.checkpoint.files) as reader:
            numbers = first_values(reader, value, count)
    missing = row.classification.presence is Presence.MISSING
    one = inspection._replace(rows=() if missing else (row,), missing=(row,) if missing else ())
    return _Found(one, first_values=numbers)


def _find_row(inspection: Inspection, name: str) -> Row:
    """The row with this name or path, as it is or as it is shown; the weights' own goes first."""
    from ckpttool.render.units import format_name, format_path

    rows = (*inspection.rows, *inspection.missing)
    found = []
    for row in rows:
        entry = row.entry
        if name == entry.name or name in (
            format_name(entry.name, None),
            format_path(entry.root, entry.name, None),
        ):
            found.append(row)
    if len(found) > 1:
        found = [row for row in found if row.entry.root == inspection.weights_root] or found
    if len(found) == 1:
        return found[0]
    if found:
        paths = [format_path(row.entry.root, row.entry.name) for row in found[:_MOST_SUGGESTED]]
        what = f"{name!r} names {len(found)} tensors"
        raise CkptToolError(what, path=inspection.checkpoint.path, hint=f"say which: {', '.join(paths)}")
    import difflib

    names = [str(row.entry.name) for row in rows]
    close = difflib.get_close_matches(name[:200], names, _MOST_SUGGESTED) if len(names) <= 20_000 else []
    hint = f"did you mean {', '.join(close)}" if close else "ckpttool inspect CKPT --flat lists every name"
    raise CkptToolError(f"no tensor is called {name!r}", path=inspection.checkpoint.path, hint=hint)


def _with_stats(found: _Found, asked: Sequence[str], *, quiet: bool) -> _Found:
    """Read every value of the rows once."""
    from ckpttool.render.progress import Progress
    from ckpttool.stats import iter_stats, iter_value_findings
    from ckpttool.tensor_bytes import TensorReader

    inspection = found.inspection
    entries = [row.entry for row in inspection.rows]
    positions = {id(entry): position for position, entry in enumerate(entries)}
    by_row: list[list[EntryStats]] = [[] for _ in entries]
    findings: list[Finding] = []
    total = inspection.summary.tensor_nbytes
    with (
        TensorReader(inspection.checkpoint.files) as reader,
        Progress("values", total, quiet=quiet) as progress,
    ):
        for item in iter_stats(entries, reader):
            by_row[positions[id(item.entry)]].append(item)
            if item.tied_to is None:
                findings += iter_value_findings(item, asked)
                progress.add(item.entry.value.nbytes if item.entry.value is not None else 0)
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, stats=by_row)


def _with_check(found: _Found, *, quiet: bool) -> _Found:
    """Verify every checksum; what does not match becomes a finding."""
    from ckpttool.check import iter_checks, summarize
    from ckpttool.checkpoint import Finding
    from ckpttool.render.progress import Progress

    inspection = found.inspection
    records = inspection.checkpoint.records
    results = []
    with Progress("checksums", sum(record.nbytes for record in records), quiet=quiet) as progress:
        for result in iter_checks(inspection.checkpoint):
            results.append(result)
            progress.add(result.nbytes)
    report = summarize(results)
    findings = []
    for bad in report.bad:
        holds = f" (holds {', '.join(str(entry.name) for entry in bad.entries[:3])})" if bad.entries else ""
        findings.append(Finding("checksum", "error", bad.name, bad.message + holds))
    inspection = inspection._replace(findings=(*inspection.findings, *findings))
    return found._replace(inspection=inspection, check=report)


def _write_digest(inspection: Inspection, *, json: bool, quiet: bool) -> None:
    """Digests of the weights, or of the branch or entries that were asked for."""
    from ckpttool.analysis.sides import digest_scope
    from ckpttool.contents import digest_rows
    from ckpttool.digests import digest_set
    from ckpttool.render.progress import Progress

    checkpoint = inspection.checkpoint
    with Progress("digest", inspection.summary.tensor_nbytes, quiet=quiet) as progress:
        digests = digest_set(digest_rows(digest_scope(inspection), checkpoint.files, progress.add))
    if json:
        from ckpttool.render.json import dump

        fields = {"schema": "ckpttool/digest/1", "path": checkpoint.path, "digest": digests._asdict()}
        sys.stdout.writelines(dump(fields))
    elif not quiet:
        for name, value, count in (
            ("all", digests.all, digests.tensors),
            ("parameters", digests.parameters, digests.parameter_tensors),
            ("buffers", digests.buffers, digests.buffer_tensors),
        ):
            sys.stdout.write(f"{value}\t{name}\t{count}\n")


def _write_json(found: _Found) -> None:
    from ckpttool.render.json import dump, inspect_document

    extra: dict[int, dict[str, Any]] = {}
    if found.stats is not None:
        from ckpttool.render.stats import stats_object

        extra = {
            position: {"stats": [stats_object(item) for item in items]}
            for position, items in enumerate(found.stats)
        }
    if found.first_values is not None:
        from ckpttool.render.json import numbers

        extra.setdefault(0, {})["first_values"] = numbers(found.first_values)
    document = inspect_document(found.inspection, extra)
    if found.check is not None:
        from ckpttool.render.check import check_object

        document["check"] = check_object(found.check)
    sys.stdout.writelines(dump(document))


def _write_globals(inspection: Inspection) -> None:
    from ckpttool.render.console import Screen
    from ckpttool.render.globals import iter_globals, iter_globals_pipe

    screen = Screen(sys.stdout)
    if screen.is_terminal:
        screen.write_lines(iter_globals(inspection.checkpoint, screen.width))
    else:
        sys.stdout.writelines(iter_globals_pipe(inspection.checkpoint))


def _write_text(found: _Found, table: tuple[bool, bool, str], *, one: bool, show_stats: bool) -> None:
    from ckpttool.render.console import Screen

    screen = Screen(sys.stdout)
    inspection = found.inspection
    stats = found.stats if show_stats or one else None
    if one:
        from ckpttool.render.tensor import iter_tensor

        row = (*inspection.rows, *inspection.missing)[0]
        items = stats[0] if stats else ()
        screen.write_lines(iter_tensor(row, screen.width, found.first_values, items))
    elif screen.is_terminal:
        from ckpttool.render.globals import weights_only_fact
        from ckpttool.render.inspection import iter_inspection
        from ckpttool.render.inspection_table import Table

        facts = [weights_only_fact(inspection.checkpoint), *_check_facts(found)]
        screen.write_lines(iter_inspection(inspection, screen.width, Table(*table), facts, stats))
    else:
        _write_pipe(inspection, stats, _check_facts(found))


def _check_facts(found: _Found) -> list[str]:
    if found.check is None:
        return []
    from ckpttool.render.check import check_fact

    return [check_fact(found.check)]


def _write_pipe(
    inspection: Inspection, stats: Sequence[Sequence[EntryStats]] | None, facts: Sequence[str]
) -> None:
    from ckpttool.render.inspection import iter_finding_lines, iter_pipe

    extra: list[list[str]] = []
    if stats is not None:
        from ckpttool.render.stats import stats_fields

        extra = [stats_fields(items) for items in stats]
    sys.stdout.writelines(iter_pipe(inspection, extra))
    sys.stdout.flush()  # the findings come after what they are about, also where both streams are one
    sys.stderr.writelines(iter_finding_lines(inspection.findings))
    sys.stderr.writelines(f"{fact}\n" for fact in facts)


def _fails(found: _Found, asked: Sequence[str]) -> bool:
    """Whether something was found that the user asked to fail on."""
    if found.check is not None and not found.check.ok:
        return True
    codes = {f"value_{what}" for what in asked if what in _FAIL_ON_VALUES}
    for finding in found.inspection.findings:
        if finding.code in codes and finding.severity == "error":
            return True
        if finding.severity != "info" and "findings" in asked:
            return True
    return False
