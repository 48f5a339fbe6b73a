"""What to do about a load that is not right: likely renames, known moves of buffers, exact fixes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

from ckpttool.kinds.known_names import load_name_table, shape_code
from ckpttool.names.match import NameMatch
from ckpttool.values.checkpoint import UNCLASSIFIED, Entry, Kind
from ckpttool.values.model import ModelSpec
from ckpttool.values.verification import NORMAL_BUILDS, Run
from ckpttool.values.words import agree, first_few, plural

_MAX_RENAMES = 8
_MAX_COMPARED = 5000  # missing names that are looked at; beyond, another model is meant


def suggest(
    spec: ModelSpec,
    in_file: Mapping[str, Entry],
    match: NameMatch,
    runs: Sequence[Run],
    convert: Callable[..., str],
) -> Iterator[str]:
    """Sentences, the most useful first; ``in_file`` are the file's entries under the model's names.

    ``convert`` makes the command that converts the file with these options.
    """
    first = next((run for run in runs if run.load == "copy"), runs[0])
    in_model = {str(entry.name): entry for entry in spec.checkpoint.entries}
    missing = [item.name for item in first.missing if item.becomes != "tied"]
    yield from _names(match, convert)
    yield from _renames(in_model, in_file, missing, first.unexpected, match, convert)
    yield from _unexpected(in_model, in_file, first, convert)
    yield from _missing(in_model, first)
    if first.lossy:
        example = first.lossy[0]
        yield (
            f"load_state_dict casts in silence: declare {example.name} as {example.file_dtype} in the model, "
            "or pass --allow-cast if the loss is meant"
        )
    if first.unfilled:
        yield (
            f"nothing fills {first_few(first.unfilled)}, and strict=True does not say so: look for a "
            "_load_from_state_dict or a hook that leaves names out"
        )
    # Once, where the same buffers are left on each device.
    yield from dict.fromkeys(sentence for run in runs for sentence in _fix_for_run(run))


def _names(match: NameMatch, convert: Callable[..., str]) -> Iterator[str]:
    """How to get names that load_state_dict itself takes: it knows nothing of the mapping used here."""
    changed = [(old, new) for old, new in match.to_model.items() if old != new]
    if not changed:
        return
    old, new = changed[0]
    if old.endswith(new) and all(o == old[: -len(new)] + n for o, n in changed):
        prefix = old[: -len(new)]
        yield (
            f"load_state_dict alone does not take {prefix!r} off: {{k.removeprefix({prefix!r}): v for k, v "
            f"in state.items()}}, or {convert('--strip-prefix', prefix)}"
        )
    elif new.endswith(old) and all(n == new[: -len(old)] + o for o, n in changed):
        prefix = new[: -len(old)]
        yield (
            f"load_state_dict alone does not put {prefix!r} before: {{{prefix!r} + k: v for k, v in "
            f"state.items()}}, or {convert('--add-prefix', prefix)}"
        )
    else:
        yield f"load_state_dict alone does not match these names: {convert('--strip-prefix', 'auto')} does"


def _renames(
    in_model: Mapping[str, Entry],
    in_file: Mapping[str, Entry],
    missing: Sequence[str],
    unexpected: Sequence[str],
    match: NameMatch,
    convert: Callable[..., str],
) -> Iterator[str]:
    """Pairs of a missing and an unexpected name with one shape and the longest common end, if unique."""
    candidates: dict[tuple[tuple[int, ...] | None, str], list[str]] = defaultdict(list)
    for name in unexpected:
        shape = _shape(in_file.get(name))
        if shape is not None:
            candidates[shape, name.rpartition(".")[2]].append(name)
    found: list[tuple[str, str]] = []
    compared = 0
    for name in missing[:_MAX_COMPARED]:
        others = candidates.get((_shape(in_model.get(name)), name.rpartition(".")[2]), [])
        compared += len(others)
        if not others or compared > _MAX_COMPARED * 20:
            continue
        scored = sorted(((_common_end(name, other), other) for other in others), reverse=True)
        if len(scored) == 1 or scored[1][0] < scored[0][0]:
            found.append((scored[0][1], name))
    targets = Counter(old for old, _ in found)
    found = [(old, new) for old, new in found if targets[old] == 1]
    for old, new in found[:_MAX_RENAMES]:
        yield f"likely renamed (one shape, one ending): {old} in the file is {new} in the model"
    if len(found) > _MAX_RENAMES:
        yield f"and {plural(len(found) - _MAX_RENAMES, 'more likely rename')}"
    elif found and not any("=>" in old for old, _ in found) and _as_they_are(match):
        renames = [f"^{re.escape(old)}$=>" + new.replace("\\", r"\\") for old, new in found]
        yield f"{convert(*(word for text in renames for word in ('--rename', text)))} renames them"


def _as_they_are(match: NameMatch) -> bool:
    """Whether the file's names are the model's without any rule."""
    return all(old == new for old, new in match.to_model.items())


def _shape(entry: Entry | None) -> tuple[int, ...] | None:
    return None if entry is None else entry.shape


def _common_end(a: str, b: str) -> int:
    """How many whole parts two names share at their ends."""
    pairs = zip(reversed(a.split(".")), reversed(b.split(".")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _unexpected(
    in_model: Mapping[str, Entry], in_file: Mapping[str, Entry], run: Run, convert: Callable[..., str]
) -> Iterator[str]:
    """What stands in the file and is no entry of the model's state_dict."""
    ours = [name for name in run.unexpected if name in in_model]
    carried = [name for name in ours if in_model[name].declared.kind is Kind.NON_PERSISTENT_BUFFER]
    if carried:
        yield (
            f"{_listed('unexpected', carried, in_file)}: non-persistent buffers of the model, which rebuilds "
            "them; another version saved them, and they are safe to drop"
        )
    there = in_file.keys() - carried
    others = [name for name in run.unexpected if name in there]
    known = [name for name in others if _history(name, in_file)]
    if known:
        yield (
            f"{_listed('unexpected', known, in_file)}: versions of the library differ on this buffer; "
            f"{convert('--drop-known-buffers')} leaves it out"
        )
    foreign = [name for name in run.unexpected if name not in in_file]
    if foreign:
        yield (
            f"{_entries(len(foreign), 'unexpected ')} without a tensor ({first_few(foreign)}): the file is "
            f"more than a state_dict; {convert('--weights-only')} writes the tensors alone"
        )


_FATES = {
    "rebuilt": "{listed}: the same in every build; strict=False keeps what the constructor made",
    "random": "{counted} would stay random ({names}), and strict=False would hide it",
    "default": "{counted} would keep the initial value ({names}), and strict=False would hide that it is not "
    "trained",
    "tied": "the file leaves out {names}, tied to an entry that it has: strict=True raises all the same; use "
    "safetensors.torch.load_model, or strict=False with the model's own tying",
}


def _missing(in_model: Mapping[str, Entry], run: Run) -> Iterator[str]:
    """What the model has and the file does not, by what would become of it."""
    for becomes, sentence in _FATES.items():
        names = [item.name for item in run.missing if item.becomes == becomes]
        if names:
            yield sentence.format(
                listed=_listed("missing", names, in_model),
                counted=_entries(len(names), "missing "),
                names=first_few(names),
            )


def _listed(which: str, names: Sequence[str], entries: Mapping[str, Entry]) -> str:
    """``2 missing entries (a, b; what is known of a)``."""
    return f"{_entries(len(names), f'{which} ')} ({first_few(names)}{_history(names[0], entries)})"


def _history(name: str, entries: Mapping[str, Entry]) -> str:
    """What the table knows about a name: library and versions."""
    path, _, leaf = name.rpartition(".")
    parts = [part for part in path.split(".") if not part.isdigit()]
    shape = _shape(entries.get(name))
    known = load_name_table().find(leaf, parts[-1] if parts else "", shape_code(shape or ()))
    found = known or UNCLASSIFIED
    tells = found.kind is Kind.PERSISTENT_BUFFER and any(map(str.isdigit, found.note))
    return f"; {found.note}" if tells else ""


def _entries(count: int, which: str) -> str:
    return plural(count, f"{which}entry")


def _fix_for_run(run: Run) -> Iterator[str]:
    """How to get right what one way of loading leaves wrong."""
    if run.not_restored:
        count, example = len(run.not_restored), run.not_restored[0].name
        buffers, them = plural(count, "non-persistent buffer"), agree(count, "it", "them")
        if run.load == "assign":
            yield (
                f"assign=True leaves {buffers} on meta ({example}): build the model on the CPU, or "
                f"run the constructor code that creates {them} after the load"
            )
        else:
            yield (
                f'to_empty() leaves garbage in {buffers} ({example}), and strict=True says "All keys '
                'matched": build the model normally, or run the constructor code that creates '
                f"{them} after the load"
            )
    if run.untied:
        tied = " and ".join(run.untied[0])
        yield f"{run.load} unties {tied}: tie them again after the load (tie_weights() in transformers)"
    if run.unmoved and run.load in NORMAL_BUILDS:
        left = f"{first_few(run.unmoved)} {agree(len(run.unmoved), 'stays', 'stay')} behind"
        yield f"{left}: register_buffer(…, persistent=False) moves with the model"
    elif run.unmoved:
        several = "are plain attributes and hold"
        attributes = agree(len(run.unmoved), "is a plain attribute and holds", several)
        yield (
            f"{first_few(run.unmoved)} {attributes} no data after a build on meta: "
            "register_buffer(…), or build the model normally"
        )
    if run.assigned_dtype:
        yield (
            f"assign=True keeps the file's dtype in {_entries(len(run.assigned_dtype), '')} "
            f"({first_few(run.assigned_dtype)}), not the one that the model declares: cast after the load"
        )
