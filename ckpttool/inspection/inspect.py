"""From a checkpoint, or a model, to everything that the headers tell, in one value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpttool.findings.rules import CARRIED, find_all
from ckpttool.findings.text import Evidence
from ckpttool.inspection.spread import find_spread
from ckpttool.inspection.summary import (
    choose_weights_root,
    count_weights,
    group_tallies,
    summarize,
    tally_rows,
    title_of,
)
from ckpttool.kinds.aliases import find_aliases
from ckpttool.kinds.classify import classify
from ckpttool.kinds.quantized import may_be_quantized
from ckpttool.names.averages import may_be_averaged
from ckpttool.names.prefixes import find_prefixes, is_averaged
from ckpttool.values.checkpoint import Checkpoint, Classification, Entry, Finding, Root
from ckpttool.values.inspection import Inspection, Row

if TYPE_CHECKING:
    from ckpttool.files.local import Sources
    from ckpttool.kinds.source.source_kinds import SourceKinds
    from ckpttool.values.model import ModelSpec
    from ckpttool.values.source import SourceUsed


def source_findings(sources: Sequence[SourceUsed], strict: bool) -> list[Finding]:
    """That nothing names a package, or that no class of those named is the root of the file."""
    if not sources:
        message = "no source was read: neither config.json nor a global names a package that is installed"
        return [Finding("source-auto", "info", "", message)]
    if sources[0].root:
        return []
    named = " or ".join(dict.fromkeys(source.title for source in sources))
    used = "nothing of it is used" if strict else "what it shows of single modules is used"
    message = (
        f"no class of {named} fits this file's root: it is of another package or version, or a model around "
        f"such modules; {used}"
    )
    return [Finding("source-root", "warning", "", message)]


def inspect_checkpoint(
    checkpoint: Checkpoint,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    root: Root | None = None,
    model: ModelSpec | None = None,
    source: SourceKinds | None = None,
    files: Sources | None = None,
) -> Inspection:
    """Classify, count and look for what is odd, in all entries or in those selected.

    Globs apply to an entry's name, its dotted path and the branches above it (``globs``); ``root``
    selects what lies at or below it. Kinds rest on the whole checkpoint; totals, ties and findings
    are those of the selection, except that what the reader found always stays. With a ``model``, the
    kinds of the state_dict that is laid against it are its own; ``source`` is asked about all, and then the
    contents of ``files`` about what is small and still unknown.

    Raises:
        CkptToolError: a glob fits no entry.
    """
    applied = None
    if model is not None:
        from ckpttool.inspection.apply_model import apply_model

        applied = apply_model(checkpoint, model, root)
    entries: Sequence[Entry] = checkpoint.entries
    aliasing = find_aliases(entries)
    if source is not None and files is not None:
        from ckpttool.inspection.contents import classify_asked

        kinds = classify_asked(checkpoint, aliasing.tied_to, source, files)
    else:
        kinds = classify(checkpoint, aliasing.tied_to)
    sources = () if source is None else source.used
    if applied is not None:
        kinds = applied.amend(kinds)
    classifications: Sequence[Classification] = kinds.classifications
    missing = kinds.missing
    if include or exclude or root:
        if include or exclude:
            _refuse_unmatched(checkpoint, (*entries, *missing), root or (), include, exclude)
        chosen = _matching(entries, root or (), include, exclude)
        entries = [entries[position] for position in chosen]
        classifications = [classifications[position] for position in chosen]
        missing = tuple(missing[at] for at in _matching(missing, root or (), include, exclude))
        aliasing = find_aliases(entries)
    rows = tuple(map(Row, entries, classifications, aliasing.tied_to))
    missing_rows = tuple(Row(entry, entry.declared) for entry in missing)
    tallies = tally_rows(rows)
    names: dict[Root, list[str]] = {at: [] for at, tally in tallies.items() if tally.is_state_dict}
    for entry in entries:
        if entry.root in names and isinstance(entry.name, str):
            names[entry.root].append(entry.name)
    prefixes = {at: found for at, those in names.items() if (found := find_prefixes(those))}
    for at, found in prefixes.items():
        tallies[at].averaged = is_averaged(found)
    weights_root = choose_weights_root(checkpoint, tallies) if applied is None else applied.root
    groups = group_tallies(checkpoint, tallies, kinds.optimizers, prefixes)
    summary = summarize(rows, missing_rows, aliasing, tallies)
    text = "\n".join([str(entry.name) for entry in entries])
    weighed = entries if weights_root is None else [entry for entry in entries if entry.root == weights_root]
    survey = None
    if may_be_quantized(weighed, text):
        from ckpttool.kinds.quantized_modules import survey_modules

        survey = survey_modules(weighed)
    averages = [row for row in rows if row.classification.averaged_of] if may_be_averaged(text) else []
    spread = find_spread(rows)
    evidence = Evidence(
        checkpoint,
        rows,
        groups,
        weights_root,
        summary,
        aliasing=aliasing,
        prefixes=prefixes,
        names=text,
        quantized=survey,
        spread=spread,
    )
    return Inspection(
        checkpoint,
        title_of(checkpoint, groups, weights_root, rows, summary),
        rows,
        missing_rows,
        groups,
        weights_root,
        summary,
        (
            *checkpoint.findings,
            *(applied.findings if applied is not None else ()),
            *(source_findings(sources, source.strict) if source is not None else ()),
            *find_all(evidence),
        ),
        None if applied is None else applied.facts,
        count_weights(rows, tallies, weights_root, survey, averages),
        spread,
        sources,
    )


def _refuse_unmatched(
    checkpoint: Checkpoint,
    entries: Sequence[Entry],
    above: Root,
    include: Sequence[str],
    exclude: Sequence[str],
) -> None:
    """Refuse a glob that fits nothing at or below ``above``; of ``exclude`` nothing at all."""
    from ckpttool.names.globs import refuse_unmatched

    places = [entry[:2] for entry in entries]
    below = [place for place in places if place[0][: len(above)] == above]
    refuse_unmatched(include, exclude, below, places, path=checkpoint.path)


def _matching(
    entries: Sequence[Entry], above: Root, include: Sequence[str], exclude: Sequence[str]
) -> list[int]:
    """Positions at or below ``above`` that some ``include`` glob, if any, and no ``exclude`` glob matches."""
    below = [position for position, entry in enumerate(entries) if entry.root[: len(above)] == above]
    if not include and not exclude:
        return below
    from ckpttool.names.globs import make_filter

    is_chosen = make_filter(include, exclude)
    return [position for position in below if is_chosen(*entries[position][:2])]


def inspect_model(spec: ModelSpec, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Inspection:
    """Show a model as a checkpoint is shown: what its state_dict would hold, and what it would not."""
    from ckpttool.findings.model import model_findings
    from ckpttool.inspection.apply_model import model_facts, without_storage

    # Without the versions of modules nothing is guessed to be missing: the model says all there is.
    checkpoint = spec.checkpoint._replace(module_versions={}, findings=tuple(model_findings(spec)))
    found = inspect_checkpoint(checkpoint, include=include, exclude=exclude)
    placed = {id(row.entry): row.entry._replace(value=without_storage(row.entry.value)) for row in found.rows}
    rows = [Row(placed[id(entry)], known, placed.get(id(first))) for entry, known, first in found.rows]
    return found._replace(
        title=spec.checkpoint.layout,
        checkpoint=spec.checkpoint._replace(layout=spec.class_name),
        rows=tuple(rows),
        summary=found.summary._replace(locations=()),
        findings=tuple(finding for finding in found.findings if finding.code != CARRIED),
        model=model_facts(spec),
    )
