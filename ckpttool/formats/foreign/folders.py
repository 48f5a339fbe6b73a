"""What a folder is when it is no sharded checkpoint that is read here, and what to do about it.

Judged by the names in it; each recogniser answers with what was found and a hint, or None.
Sources: torch/distributed/checkpoint/filesystem.py (DCP), DeepSpeed 0.19 runtime/engine.py and
utils/zero_to_fp32.py, huggingface_hub's file_download.py (cache), diffusers'
pipelines/pipeline_utils.py, TensorFlow's saved_model/constants.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import TypeAlias

from ckpttool.files.folder import Listing, list_folder
from ckpttool.formats.folders.choice import shorten_list
from ckpttool.values.errors import CkptToolError, UnknownFormat, UnsupportedFeature
from ckpttool.values.words import plural

_ZERO_RANK = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_([0-9]{1,6})_mp_rank_[0-9]+_optim_states\.pt", re.A)
# `model.rank_3.pth` (FSDP examples, dinov2), `model_world_size_8_rank_3.pt` (verl).
_FSDP_RANK = re.compile(r".*[._]rank_?([0-9]{1,6})\.(?:pth|pt|bin)", re.A)
# `consolidated.00.pth` (Llama): slices of every tensor, one file for each GPU.
_CONSOLIDATED = re.compile(r"consolidated\.[0-9]{2}\.pth", re.A)


_Answer: TypeAlias = tuple[str, str | None] | None


def describe_foreign_folder(listing: Listing) -> CkptToolError | None:
    """What the folder is, if it is recognised and not read here; else None."""
    for recognise, kind in _RECOGNISERS:
        answer = recognise(listing)
        if answer is not None:
            return kind(answer[0], path=listing.path, hint=answer[1])
    return None


def describe_empty_folder(listing: Listing) -> CkptToolError:
    """That a folder holds no checkpoint, with what it does hold."""
    held = shorten_list([*(f"{name}/" for name in listing.folders), *listing.files])
    hint = "name a checkpoint, or the folder that it is in"
    if shown := [name for name in listing.folders if not name.startswith(".")]:
        hint = f"name the folder that is meant, such as {listing.at(shown[-1])}"
    found = f"a folder without a checkpoint: it holds {held or 'nothing'}"
    return UnknownFormat(found, path=listing.path, hint=hint)


def _dcp(listing: Listing) -> _Answer:
    count = sum(name.endswith(".distcp") for name in listing.files)
    if count and ".metadata" in listing.files:
        found = f"a torch.distributed checkpoint (DCP): .metadata and {plural(count, '.distcp file')}"
        # Said with its condition: the converter unpickles .metadata.
        hint = "if you trust it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        return found, f"{hint} {shlex.quote(listing.path)} OUT.pt"
    if count:
        found = (
            f"a torch.distributed checkpoint (DCP) of {plural(count, '.distcp file')} without its .metadata"
        )
        hint = ".metadata is written last: the save was interrupted, or the file was left behind by a copy"
        return found, hint
    return None


def _deepspeed(listing: Listing) -> _Answer:
    optimizer = [name for name in listing.files if name.endswith("_optim_states.pt")]
    model = [name for name in listing.files if name.endswith("_model_states.pt")]
    if not optimizer and len(model) < 2:
        return _deepspeed_parent(listing)
    ranks = {int(match[1]) for name in optimizer if (match := _ZERO_RANK.fullmatch(name))}
    missing = sorted(set(range(max(ranks))) - ranks)[:1] if ranks else []
    script = "zero_to_fp32.py, which DeepSpeed writes beside it,"
    if any(name.startswith("zero_pp_rank_") for name in model):
        found, hint = "DeepSpeed ZeRO-3", f"{script} puts the weights together"
    else:
        found, hint = "DeepSpeed ZeRO", f"{script} makes float32 weights"
        if model:
            hint = f"{listing.at(model[0])} holds the weights as the model computed with them; {hint}"
    world = f", world size {max(ranks) + 1}" if ranks else ""
    counts = f"{len(model):,} *_model_states.pt and {len(optimizer):,} *_optim_states.pt"
    gap = f"; the file of rank {missing[0]} is missing" if missing else ""
    return f"a {found} folder{world}: {counts}{gap}", hint


def _deepspeed_parent(listing: Listing) -> _Answer:
    steps = [name for name in listing.folders if name.startswith("global_step")]
    if not steps or "latest" not in listing.files:
        return None
    found = f"a folder of {plural(len(steps), 'DeepSpeed checkpoint')}: {shorten_list(steps)}"
    return found, f"name one of them, such as {listing.at(steps[-1])}"


def _ranks(listing: Listing) -> _Answer:
    ranks = [
        name for name in listing.files if _FSDP_RANK.fullmatch(name) and not name.startswith("rng_state")
    ]
    slices = [name for name in listing.files if _CONSOLIDATED.fullmatch(name)]
    if len(ranks) > 1:
        found = f"one file for each of {plural(len(ranks), 'rank')} (FSDP): {shorten_list(ranks)}"
    elif len(slices) > 1:
        files = plural(len(slices), "file")
        found = f"slices of every tensor in {files} (tensor parallel): {shorten_list(slices)}"
        ranks = slices
    else:
        return None
    return found, f"each reads alone, such as {listing.at(ranks[0])}; what wrote them puts them together"


def _tensorflow(listing: Listing) -> _Answer:
    names = listing.files
    if "saved_model.pb" in names:
        found = "a TensorFlow SavedModel"
    elif any(".data-0" in name for name in names) and any(name.endswith(".index") for name in names):
        found = "a TensorFlow checkpoint"
    else:
        return None
    hint = "tf.train.load_checkpoint reads it, if TensorFlow is at hand"
    return f"{found}, not a PyTorch checkpoint", hint


def _diffusers(listing: Listing) -> _Answer:
    # scheduler, tokenizer and feature_extractor hold settings only.
    settings = (".", "scheduler", "tokenizer", "feature_extractor")
    parts = [name for name in listing.folders if not name.startswith(settings)]
    if not parts or "model_index.json" not in listing.files:
        return None
    found = f"a diffusers pipeline of several models: {shorten_list(parts)}"
    return found, f"name one of them, such as {listing.at('unet' if 'unet' in parts else parts[0])}"


def _hub_cache(listing: Listing) -> _Answer:
    if {"blobs", "snapshots"} <= set(listing.folders):
        revisions = list_folder(listing.at("snapshots"))
        found = f"a repository in the Hugging Face cache, of {plural(len(revisions.folders), 'revision')}"
        last = revisions.folders[-1] if revisions.folders else "REVISION"
        return found, f"name one of them: {revisions.at(last)}"
    if repositories := [name for name in listing.folders if name.startswith("models--")]:
        found = f"a Hugging Face cache of {plural(len(repositories), 'model')}: {shorten_list(repositories)}"
        return found, f"name one of them, such as {listing.at(repositories[0])}"
    return None


def _orbax(listing: Listing) -> _Answer:
    # orbax.checkpoint: _CHECKPOINT_METADATA beside the items, _METADATA and an OCDBT store in each of them.
    names = set(listing.files)
    if names & {"manifest.ocdbt", "_CHECKPOINT_METADATA"} or {"_METADATA", "_sharding"} <= names:
        hint = "orbax.checkpoint reads it; safetensors.flax.save_file writes what is in it for PyTorch"
        return "an Orbax checkpoint (JAX), not a PyTorch checkpoint", hint
    return None


def _core_ml(listing: Listing) -> _Answer:
    if "Manifest.json" in listing.files and "Data" in listing.folders:
        return "a Core ML package (.mlpackage), not a PyTorch checkpoint", None
    return None


_Kind: TypeAlias = type[UnknownFormat] | type[UnsupportedFeature]
_RECOGNISERS: tuple[tuple[Callable[[Listing], _Answer], _Kind], ...] = (
    (_dcp, UnsupportedFeature),
    (_deepspeed, UnsupportedFeature),
    (_ranks, UnsupportedFeature),
    (_tensorflow, UnknownFormat),
    (_diffusers, UnknownFormat),
    (_hub_cache, UnknownFormat),
    (_core_ml, UnknownFormat),
    (_orbax, UnknownFormat),
)
