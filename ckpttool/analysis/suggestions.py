"""What to do about a load that is not right: likely renames, known moves of buffers, exact fixes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ckpttool.analysis.model_spec import ModelSpec
from ckpttool.analysis.verification import Run
from ckpttool.checkpoint import Entry, Kind

_MAX_RENAMES = 8


def suggest(spec: ModelSpec, in_file: Mapping[str, Entry], runs: Sequence[Run]) -> Iterator[str]:
    """Sentences, the most useful first; ``in_file`` are the file's entries under the model's names."""
    first = next((run for run in runs if run.load == "copy"), runs[0] if runs else None)
    if first is None:
        return
    missing = [item.name for item in first.missing]
    yield from _renames(spec, in_file, missing, first.unexpected)
    yield from _known_buffers(spec, first, missing)
    if first.lossy:
        example = first.lossy[0]
        yield (
            f"load_state_dict casts in silence: declare {example.name} as {example.file_dtype} in the model, "
            "or pass --allow-cast if the loss is meant"
        )
    for run in runs:
        yield from _fix_for_buffers(run)
        if run.untied:
            tied = " and ".join(run.untied[0])
            yield f"{run.load}: tie {tied} again after the load (tie_weights() in transformers)"


def _renames(
    spec: ModelSpec, in_file: Mapping[str, Entry], missing: Sequence[str], unexpected: Sequence[str]
) -> Iterator[str]:
    """Pairs of a missing and an unexpected name with one shape and the longest common end, if unique."""
    shapes = {str(entry.name): _shape(entry) for entry in spec.checkpoint.entries}
    candidates: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in unexpected:
        entry = in_file.get(name)
        shape = _shape(entry) if entry is not None else None
        if shape is not None:
            candidates[shape].append(name)
    found: list[tuple[str, str]] = []
    for name in missing:
        shape = shapes.get(name)
        if shape is None or shape not in candidates:
            continue
        scored = sorted(((_common_end(name, other), other) for other in candidates[shape]), reverse=True)
        best = scored[0][0]
        unique = len(scored) == 1 or scored[1][0] < best
        if unique and best > 0:
            found.append((scored[0][1], name))
    targets = [old for old, _ in found]
    found = [(old, new) for old, new in found if targets.count(old) == 1]
    for old, new in found[:_MAX_RENAMES]:
        yield f"likely renamed (one shape, one ending): {old} in the file is {new} in the model"
    if len(found) > _MAX_RENAMES:
        yield f"and {len(found) - _MAX_RENAMES} more likely renames"


def _shape(entry: Entry) -> tuple[int, ...] | None:
    return entry.value.shape if entry.value is not None else None


def _common_end(a: str, b: str) -> int:
    """How many whole parts two names share at their ends."""
    count = 0
    for left, right in zip(reversed(a.split(".")), reversed(b.split(".")), strict=False):
        if left != right:
            break
        count += 1
    return count


def _known_buffers(spec: ModelSpec, run: Run, missing: Sequence[str]) -> Iterator[str]:
    """Buffers that a library moved in or out of the file between versions."""
    kinds = {str(entry.name): entry.declared.kind for entry in spec.checkpoint.entries}
    carried = [name for name in run.unexpected if kinds.get(name) is Kind.NON_PERSISTENT_BUFFER]
    if carried:
        yield (
            f"{len(carried)} unexpected entries ({_some(carried)}) are non-persistent buffers of this "
            "model: an older version saved them, and they are safe to drop"
        )
    buffers = [item.name for item in run.missing if item.becomes == "rebuilt"]
    if buffers:
        yield (
            f"{len(buffers)} missing buffers ({_some(buffers)}) are the same in every build: another version "
            "did not save them, and strict=False keeps what the constructor made"
        )
    lost = [item.name for item in run.missing if item.becomes == "random"]
    if lost:
        yield f"{len(lost)} missing entries would stay random ({_some(lost)}): strict=False would hide it"


def _some(names: Sequence[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _fix_for_buffers(run: Run) -> Iterator[str]:
    """How to get non-persistent buffers right in the ways of loading that leave them out."""
    if not run.not_restored:
        return
    count, example = len(run.not_restored), run.not_restored[0]
    if run.load == "assign":
        yield (
            f"assign=True leaves {count} non-persistent buffers on meta ({example.name}): build the model "
            "on the CPU, or run the lines that register them again after the load"
        )
    elif run.load == "to-empty":
        yield (
            f"to_empty() leaves garbage in {count} non-persistent buffers ({example.name}) although "
            'strict=True says "All keys matched": build the model normally, or run the lines that '
            "register them again"
        )
    else:
        yield (
            f"{count} non-persistent buffers ({example.name}) are not what the constructor makes: "
            "check the model's loading code"
        )
