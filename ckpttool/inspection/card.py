"""What a model is, for the top of the page: facts, each from names, shapes or the JSON beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ckpttool.inspection.beside import (
    ACTIVE,
    ADAPTER,
    CONFIG,
    GENERATION,
    HEADS,
    KV_HEADS,
    TRAINER,
    number,
    text,
)
from ckpttool.inspection.shares import share_out
from ckpttool.inspection.structure import Structure, is_adapter
from ckpttool.inspection.weighed import Weighed, weigh
from ckpttool.values.card import Beside, Card, Fact
from ckpttool.values.errors import redact
from ckpttool.values.inspection import Inspection

TRAIN_NBYTES = 16  # a parameter: float32 of itself, of its gradient and of Adam's two moments
LOADED = "bytes of the weights as stored"
TRAINED = "16 bytes a parameter: float32 master weights, gradients and Adam's two moments; no activations"

_NAMES, _SHAPES, _BOTH = "names", "shapes", "names and shapes"
_MOST_TARGETS = 64
_LONGEST = 200  # characters of a text out of JSON
_GENERATION = "do_sample temperature top_p top_k max_length max_new_tokens".split()


def make_card(inspection: Inspection, beside: Beside | None = None, weighed: Weighed | None = None) -> Card:
    """The card of what was inspected, with what lies ``beside`` it; its weights, if they are ``weighed``."""
    beside, weighed = beside or Beside(), weighed or weigh(inspection)
    structure = weighed.structure
    # An adapter, or what else Trainer writes, is not what the config beside it speaks of.
    is_model = not is_adapter(structure) and bool(
        inspection.weights.parameters or inspection.weights.quantized
    )
    config = beside.document(CONFIG) if is_model else {}
    facts = (
        *_iter_structure(structure, config),
        *_iter_size(inspection, weighed, config),
        *_iter_adapter(structure, beside.document(ADAPTER)),
        *_iter_training(beside),
        *(
            Fact(f"generation_{name}", value, GENERATION)
            for name in (_GENERATION if is_model else ())
            if type(value := beside.document(GENERATION).get(name)) in (bool, int, float)
        ),
        *(Fact("unread", f"{name}: {why[:_LONGEST]}", name) for name, why in beside.unread.items()),
    )
    return Card(facts, share_out(weighed.items))


def _iter_structure(found: Structure, config: Mapping[str, Any]) -> Iterator[Fact]:
    if found.architecture:
        yield Fact("architecture", found.architecture, _BOTH)
    named = config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        yield Fact("class", _said(named[0]), CONFIG)
    if model_type := text(config, ("model_type",)):
        yield Fact("model_type", _said(model_type), CONFIG)
    if found.towers:
        yield Fact("layers", _one(tuple([tower.layers for tower in found.towers])), _NAMES)
        stages = tuple([tower.stages for tower in found.towers])
        if max(stages) > 1:
            yield Fact("stages", _one(stages), _NAMES)
        hidden = tuple([tower.hidden for tower in found.towers])
        if None not in hidden:
            yield Fact("hidden_size", _one(hidden), _SHAPES)
        for name, keys in (("heads", HEADS), ("kv_heads", KV_HEADS)):
            if said := number(config, keys):
                yield Fact(name, said[0], CONFIG)
    if found.vocabulary is not None:
        yield Fact("vocabulary", found.vocabulary, f"shape of {found.embedding}"[:_LONGEST])
    if found.experts:
        yield Fact("experts", found.experts, _BOTH)
        if active := _active(found, config):
            yield Fact("experts_active", active, CONFIG)


def _said(text: str) -> str:
    """A text out of JSON, without what an address may hold besides, and no longer than a line."""
    return redact(text)[:_LONGEST]


def _one(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values


def _active(found: Structure, config: Mapping[str, Any]) -> int | None:
    """The experts that each token goes through, as a config says; None where that cannot be."""
    said = number(config, ACTIVE)
    return said[0] if said is not None and 0 < said[0] <= found.experts else None


def _iter_size(inspection: Inspection, weighed: Weighed, config: Mapping[str, Any]) -> Iterator[Fact]:
    weights, found = inspection.weights, weighed.structure
    total = weights.weights_numel if weights.quantized else weights.parameter_numel
    if total:
        yield Fact("parameters", total, _SHAPES)
    active = _active(found, config)
    if active and not weights.quantized:
        idle = found.expert_numel * (found.experts - active) // found.experts
        yield Fact("active_parameters", total - idle, f"shapes, and {CONFIG} for experts_active")
    dtypes: Counter[str] = Counter()
    for row in inspection.rows:
        value = row.entry.value
        if row.tied_to is None and value is not None and value.dtype is not None:
            dtypes[value.dtype.name] += value.nbytes
    if dtypes:
        yield Fact("dtypes", dict(dtypes.most_common()), "header")
    if weights.quantized:
        yield Fact("quantization", weights.quantized, _BOTH)
        codes = {finding.code for finding in inspection.findings}
        yield Fact("quantization_complete", "quantized-incomplete" not in codes, _NAMES)
    nbytes = sum(item.nbytes for item in weighed.items if not item.tied)
    if nbytes:
        yield Fact("load_nbytes", nbytes, LOADED)
        if not weights.quantized and weights.parameter_numel:
            yield Fact("train_nbytes", TRAIN_NBYTES * weights.parameter_numel, TRAINED)


def _iter_adapter(found: Structure, adapter: Mapping[str, Any]) -> Iterator[Fact]:
    if not found.ranks:
        return
    yield Fact("adapter_rank", _one(found.ranks), _SHAPES)
    alpha = adapter.get("lora_alpha")
    if type(alpha) in (int, float):
        yield Fact("adapter_alpha", alpha, ADAPTER)
    yield Fact("adapter_targets", tuple(sorted(found.targets)[:_MOST_TARGETS]), _NAMES)
    if base := text(adapter, ("base_model_name_or_path",)):
        yield Fact("adapter_base", _said(base), ADAPTER)


def _iter_training(beside: Beside) -> Iterator[Fact]:
    state = beside.document(TRAINER)
    if (step := number(state, ("global_step",))) is not None:
        yield Fact("step", step[0], TRAINER)
    for name in ("epoch", "best_metric"):
        if type(value := state.get(name)) in (int, float):
            yield Fact(name, value, TRAINER)
    if beside.files:
        yield Fact("trainer_files", beside.files, "folder")
