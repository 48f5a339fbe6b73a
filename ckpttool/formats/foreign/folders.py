"""What a folder is when it is no sharded checkpoint that is read here, and what to do about it.

Judged by the names in it. Sources: torch/distributed/checkpoint/filesystem.py (DCP), DeepSpeed
0.19 runtime/engine.py and utils/zero_to_fp32.py, huggingface_hub's file_download.py (cache),
diffusers' pipelines/pipeline_utils.py, TensorFlow's saved_model/constants.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from ckpttool.files.folder import Listing, list_folder
from ckpttool.formats.folders.choice import shorten_list
from ckpttool.values.errors import CkptToolError, UnknownFormat, UnsupportedFeature

_ZERO_RANK = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_([0-9]{1,6})_mp_rank_[0-9]+_optim_states\.pt", re.A)
# `model.rank_3.pth` (FSDP examples, dinov2), `model_world_size_8_rank_3.pt` (verl).
_FSDP_RANK = re.compile(r".*[._]rank_?([0-9]{1,6})\.(?:pth|pt|bin)", re.A)
# `consolidated.00.pth` (Llama): slices of every tensor, one file for each GPU.
_CONSOLIDATED = re.compile(r"consolidated\.[0-9]{2}\.pth", re.A)


def describe_foreign_folder(listing: Listing) -> CkptToolError | None:
    """What the folder is, if it is recognised and not read here; else None."""
    for recognise in _RECOGNISERS:
        error = recognise(listing)
        if error is not None:
            return error
    return None


def describe_empty_folder(listing: Listing) -> CkptToolError:
    """That a folder holds no checkpoint, with what it does hold."""
    held = shorten_list((*(f"{name}/" for name in listing.folders), *listing.files))
    hint = "name a checkpoint, or the folder that it is in"
    if shown := [name for name in listing.folders if not name.startswith(".")]:
        hint = f"name the folder that is meant, such as {listing.at(shown[-1])}"
    return UnknownFormat(
        f"a folder without a checkpoint: it holds {held or 'nothing'}", path=listing.path, hint=hint
    )


def _dcp(listing: Listing) -> CkptToolError | None:
    count = sum(name.endswith(".distcp") for name in listing.files)
    if count and ".metadata" in listing.files:
        return UnsupportedFeature(
            f"a torch.distributed checkpoint (DCP): .metadata and {count} .distcp files",
            path=listing.path,
            # Said with its condition: the converter unpickles .metadata.
            hint="if you trust it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{shlex.quote(listing.path)} OUT.pt",
        )
    if count:
        return UnsupportedFeature(
            f"a torch.distributed checkpoint (DCP) of {count} .distcp files without its .metadata",
            path=listing.path,
            hint=".metadata is written last: the save was interrupted, or the file was left behind by a copy",
        )
    return None


def _deepspeed(listing: Listing) -> CkptToolError | None:
    optimizer = [name for name in listing.files if name.endswith("_optim_states.pt")]
    model = [name for name in listing.files if name.endswith("_model_states.pt")]
    if not optimizer and len(model) < 2:
        return _deepspeed_parent(listing)
    ranks = {int(match[1]) for name in optimizer if (match := _ZERO_RANK.fullmatch(name))}
    missing = sorted(set(range(max(ranks))) - ranks)[:1] if ranks else []
    if any(name.startswith("zero_pp_rank_") for name in model):
        found, hint = (
            "DeepSpeed ZeRO-3",
            "zero_to_fp32.py, which DeepSpeed writes beside it, puts the weights together",
        )
    else:
        found = "DeepSpeed ZeRO"
        hint = "zero_to_fp32.py, which DeepSpeed writes beside it, makes float32 weights"
        if model:
            hint = f"{listing.at(model[0])} holds the weights as the model computed with them; {hint}"
    world = f", world size {max(ranks) + 1}" if ranks else ""
    counts = f"{len(model)} *_model_states.pt and {len(optimizer)} *_optim_states.pt"
    gap = f"; the file of rank {missing[0]} is missing" if missing else ""
    return UnsupportedFeature(
        f"a {found} folder{world}: {counts}{gap}",
        path=listing.path,
        hint=hint,
    )


def _deepspeed_parent(listing: Listing) -> CkptToolError | None:
    steps = [name for name in listing.folders if name.startswith("global_step")]
    if not steps or "latest" not in listing.files:
        return None
    return UnsupportedFeature(
        f"a folder of {len(steps)} DeepSpeed checkpoints: {shorten_list(steps)}",
        path=listing.path,
        hint=f"name one of them, such as {listing.at(steps[-1])}",
    )


def _ranks(listing: Listing) -> CkptToolError | None:
    ranks = [
        name for name in listing.files if _FSDP_RANK.fullmatch(name) and not name.startswith("rng_state")
    ]
    slices = [name for name in listing.files if _CONSOLIDATED.fullmatch(name)]
    if len(ranks) > 1:
        found = f"one file for each of {len(ranks)} ranks (FSDP): {shorten_list(ranks)}"
    elif len(slices) > 1:
        found = f"slices of every tensor in {len(slices)} files (tensor parallel): {shorten_list(slices)}"
        ranks = slices
    else:
        return None
    return UnsupportedFeature(
        found,
        path=listing.path,
        hint=f"each reads alone, such as {listing.at(ranks[0])}; what wrote them puts them together",
    )


def _tensorflow(listing: Listing) -> CkptToolError | None:
    if "saved_model.pb" in listing.files:
        found = "a TensorFlow SavedModel"
    elif any(".data-0" in name for name in listing.files) and any(
        n.endswith(".index") for n in listing.files
    ):
        found = "a TensorFlow checkpoint"
    else:
        return None
    return UnknownFormat(
        f"{found}, not a PyTorch checkpoint",
        path=listing.path,
        hint="tf.train.load_checkpoint reads it, if TensorFlow is at hand",
    )


def _diffusers(listing: Listing) -> CkptToolError | None:
    if "model_index.json" not in listing.files:
        return None
    # scheduler, tokenizer and feature_extractor hold settings only.
    parts = [
        n for n in listing.folders if not n.startswith((".", "scheduler", "tokenizer", "feature_extractor"))
    ]
    if not parts:
        return None
    return UnknownFormat(
        f"a diffusers pipeline of several models: {shorten_list(parts)}",
        path=listing.path,
        hint=f"name one of them, such as {listing.at('unet' if 'unet' in parts else parts[0])}",
    )


def _hub_cache(listing: Listing) -> CkptToolError | None:
    if {"blobs", "snapshots"} <= set(listing.folders):
        revisions = list_folder(listing.at("snapshots"))
        found = f"a repository in the Hugging Face cache, of {len(revisions.folders)} revisions"
        hint = f"name one of them: {revisions.at(revisions.folders[-1] if revisions.folders else 'REVISION')}"
    elif repositories := [name for name in listing.folders if name.startswith("models--")]:
        found = f"a Hugging Face cache of {len(repositories)} models: {shorten_list(repositories)}"
        hint = f"name one of them, such as {listing.at(repositories[0])}"
    else:
        return None
    return UnknownFormat(found, path=listing.path, hint=hint)


def _core_ml(listing: Listing) -> CkptToolError | None:
    if "Manifest.json" in listing.files and "Data" in listing.folders:
        return UnknownFormat("a Core ML package (.mlpackage), not a PyTorch checkpoint", path=listing.path)
    return None


_RECOGNISERS: tuple[Callable[[Listing], CkptToolError | None], ...] = (
    _dcp,
    _deepspeed,
    _ranks,
    _tensorflow,
    _diffusers,
    _hub_cache,
    _core_ml,
)
