"""JSON files in the folder of a checkpoint, as data: what config.json and its like say, and contradict.

Only regular files of the folder are read, by the strict parser and up to a number of bytes; no name in them
is followed. The header of the checkpoint wins: what differs from it is a finding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckpttool.values.card import Beside
from ckpttool.values.checkpoint import Finding
from ckpttool.values.errors import CkptToolError
from ckpttool.values.words import cut, format_count, plural

if TYPE_CHECKING:
    from ckpttool.files.local import Sources
    from ckpttool.inspection.structure import Structure
    from ckpttool.inspection.weighed import Weighed
    from ckpttool.values.inspection import Inspection

CONFIG, ADAPTER, TRAINER = "config.json", "adapter_config.json", "trainer_state.json"
GENERATION, QUANTIZE = "generation_config.json", "quantize_config.json"
CONFIGS = (CONFIG, ADAPTER, QUANTIZE)
"""Those that may contradict the header."""

NAMES = (*CONFIGS, GENERATION, TRAINER)

_MOST_NBYTES = {TRAINER: 4 << 20}  # its log_history grows with the run
_MOST_OTHER_NBYTES = 1 << 20
_TRAINER_FILES = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "training_args.bin", TRAINER)
_RANDOM_STATE = r"rng_state(?:_\d+)?\.pth"
_SHARD = r"-\d+-of-(\d+)\.\w+$"
_MOST_NUMBER = 1 << 40

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")
DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
VOCABULARY = ("vocab_size",)
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
KV_HEADS = ("num_key_value_heads",)
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k")
DTYPE = ("dtype", "torch_dtype")


def read_beside(folder: str, names: Iterable[str], sources: Sources) -> Beside:
    """Read those of ``names`` that lie in ``folder``; what cannot be read is said, and does no harm."""
    documents: dict[str, Mapping[str, Any]] = {}
    unread: dict[str, str] = {}
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.lexists(path):
            continue
        try:
            document = _read(folder, name, sources)
        except CkptToolError as error:
            unread[name] = error.what
        except OSError as error:
            unread[name] = error.strerror or "it cannot be opened"
        else:
            if isinstance(document, dict):
                documents[name] = document
            else:
                unread[name] = "it is no JSON object"
    return Beside(documents, unread)


def _read(folder: str, name: str, sources: Sources) -> object:
    from ckpttool.files.folder import resolve_member
    from ckpttool.formats.base import DEFAULT_LIMITS
    from ckpttool.formats.strict_json import parse_json

    try:
        path = resolve_member(folder, name, folder)
    except CkptToolError:
        raise CkptToolError("it is a link that leaves the folder") from None
    most = _MOST_NBYTES.get(name, _MOST_OTHER_NBYTES)
    with sources.reading(path) as source:
        if source.size > most:
            raise CkptToolError(f"it has more than {plural(most, 'byte')}")
        return parse_json(source.read_at(0, source.size), "file", DEFAULT_LIMITS, path)


def list_trainer_files(folder: str) -> tuple[str, ...]:
    """Names of files that transformers' Trainer writes beside weights; none of them is opened."""
    found = [name for name in _TRAINER_FILES if os.path.isfile(os.path.join(folder, name))]
    if not found:
        return ()
    from ckpttool.files.folder import list_folder

    try:
        states = [name for name in list_folder(folder).files if re.fullmatch(_RANDOM_STATE, name)]
    except (CkptToolError, OSError):
        states = []
    return (*found, *states)


def number(document: Mapping[str, Any], names: Iterable[str]) -> tuple[int, str] | None:
    """The first of ``names`` that a document has a sensible count under, and that name."""
    for name in names:
        value = document.get(name)
        if type(value) is int and 0 <= value < _MOST_NUMBER:
            return value, name
    return None


def text(document: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of ``names`` that a document has a text under; "" if it has none."""
    return next((value for name in names if isinstance(value := document.get(name), str)), "")


# ----------------------------------------------------------------------------------------- contradictions


def is_part(inspection: Inspection) -> bool:
    """Whether what is inspected is one shard of several, or a selection: not all that a config speaks of."""
    checkpoint = inspection.checkpoint
    shard = re.search(_SHARD, checkpoint.path) if len(checkpoint.files) < 2 else None
    several = shard is not None and int(shard[1][:9]) > 1
    selected = any(row.entry.root == inspection.weights_root for row in inspection.rows) and (
        sum(row.entry.root == inspection.weights_root for row in inspection.rows)
        < sum(entry.root == inspection.weights_root for entry in checkpoint.entries)
    )
    return several or selected or inspection.spread is not None


def find_contradictions(inspection: Inspection, beside: Beside, weighed: Weighed) -> Iterator[Finding]:
    """Where a config says other layers, sizes, words or dtypes than the header of the checkpoint."""
    structure = weighed.structure
    config, adapter = beside.document(CONFIG), beside.document(ADAPTER)
    if structure.ranks:
        yield from _find_rank(structure, adapter)
    if not structure.architecture:  # an adapter, an optimizer, or who knows what
        return
    part = is_part(inspection)
    for what, said, shown in _counts(config, structure, part):
        if said != shown:
            yield _contradiction(
                f"{CONFIG} says {format_count(said)} {what}, the file has {format_count(shown)}"
            )
    said_dtype = text(config, DTYPE).removeprefix("torch.")
    dtypes = weighed.float_dtypes
    if said_dtype and dtypes and not inspection.weights.quantized and said_dtype not in dtypes:
        most = max(dtypes, key=dtypes.__getitem__)
        yield _contradiction(f"{CONFIG} says {cut(said_dtype)}, the file has {most}", "info")


def _counts(config: Mapping[str, Any], structure: Structure, part: bool) -> Iterator[tuple[str, int, int]]:
    """What is counted, as the config says, and as names and shapes show."""
    towers = structure.towers
    plain = bool(towers) and all(tower.stages == 1 for tower in towers)
    sides = " and " not in structure.architecture  # of two networks a config has one section each
    if plain and sides and not part:
        known = [LAYERS, DECODER_LAYERS] if len(towers) > 1 else [LAYERS]
        for names, tower in zip(known, towers, strict=False):
            said = number(config, names)
            more = number(config, ("num_nextn_predict_layers",))
            if said is not None and tower.layers not in (said[0], said[0] + (more[0] if more else 0)):
                yield "decoder layers" if names is DECODER_LAYERS else "layers", said[0], tower.layers
    if plain and sides and towers[0].hidden is not None and (said := number(config, HIDDEN)) is not None:
        yield f"for {said[1]}", said[0], towers[0].hidden
    if structure.vocabulary is not None and sides and (said := number(config, VOCABULARY)) is not None:
        yield "for vocab_size", said[0], structure.vocabulary
    experts = number(config, EXPERTS)
    if structure.experts and experts is not None and not part:
        yield "experts", experts[0], structure.experts


def _find_rank(structure: Structure, adapter: Mapping[str, Any]) -> Iterator[Finding]:
    said = number(adapter, ("r",))
    if said is not None and not adapter.get("rank_pattern") and said[0] not in structure.ranks:
        shown = ", ".join(map(format_count, structure.ranks[:8]))
        yield _contradiction(f"{ADAPTER} says rank {format_count(said[0])}, the shapes say {shown}")


def _contradiction(fact: str, severity: str = "warning") -> Finding:
    return Finding("config-differs", severity, "", f"{fact}; the file is what counts")
