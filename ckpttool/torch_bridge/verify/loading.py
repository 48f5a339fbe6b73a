"""Real loads with ``strict=True``, and what they said: one, or one of each file that a model is saved as."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ckpttool.torch_bridge.door import foreign_streams, one_line, pass_on, text_of, what_it_raised
from ckpttool.torch_bridge.tensors import is_plain, is_tensor
from ckpttool.torch_bridge.verify.builds import Poison
from ckpttool.values.dtypes import parse_torch_name
from ckpttool.values.verification import Mismatched
from ckpttool.values.words import plural

# The sentences of torch/nn/modules/module.py (load_state_dict, _load_from_state_dict), torch 2.5 to 2.13,
# and of copies of them with "where the shape is … in current model".
_HEADER = re.compile(r"\AError\(s\) in loading state_dict for [^\n]*:\s*")
_MISSING = re.compile(r'Missing key\(s\) in state_dict: "(.*?)"\. ?$', re.MULTILINE | re.DOTALL)
_UNEXPECTED = re.compile(r'Unexpected key\(s\) in state_dict: "(.*?)"\. ?$', re.MULTILINE | re.DOTALL)
_SHAPE = r"(?:torch\.Size\()?[\[(]?([0-9, ]*)[\])]*"
_MISMATCH = re.compile(
    rf"size mismatch for (.+?): copying a param(?:eter)? with shape {_SHAPE}(?: from checkpoint)?, "
    rf"(?:where )?the shape (?:in current model )?is {_SHAPE}(?: in current model)?\.",
    re.DOTALL,
)
_MAX_TEXT = 500
_SPARE_NBYTES = 16 << 20  # left free for headers, and for others


class LoadOutcome(NamedTuple):
    """What the load said. ``other`` are messages that are none of the three usual ones."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatched, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether torch was content."""
        return not (self.missing or self.unexpected or self.mismatched or self.other)


class Loaded(NamedTuple):
    """What a way of loading gives: the module (None if there is none), and what loading said.

    ``note`` is what else is worth a line, ``poison`` what was put into the module before.
    """

    module: nn.Module | None
    outcome: LoadOutcome
    note: str = ""
    poison: Poison = Poison()


def load_strict(module: nn.Module, state: Mapping[str, Any], *, assign: bool = False) -> LoadOutcome:
    """Call ``module.load_state_dict(state, strict=True)`` and take apart what it raises."""
    # load_state_dict(assign=True) writes "assign_to_params_buffers" into the _metadata it is given,
    # and every later load of that state_dict assigns as well (torch 2.13): each load gets its own.
    fresh = with_metadata(dict(state), getattr(state, "_metadata", {}))
    # The message joins names that may themselves hold quotes and commas; a hook gets the lists as they are.
    heard: list[Any] = []
    register: Any = module.register_load_state_dict_post_hook
    hook = register(lambda _module, keys: heard.append(keys))
    try:
        with foreign_streams():
            module.load_state_dict(fresh, strict=True, assign=assign)
    except BaseException as error:  # noqa: BLE001  hooks and overrides of the user's model may raise anything
        pass_on(error)
        message = text_of(error) or type(error).__name__
        lists = (heard[-1].missing_keys, heard[-1].unexpected_keys) if heard else ((), ())
        return parse_load_error(message, *map(tuple, lists))
    finally:
        hook.remove()
    return LoadOutcome()


def parse_load_error(
    message: str, missing: tuple[str, ...] = (), unexpected: tuple[str, ...] = ()
) -> LoadOutcome:
    """Lists out of the text of a RuntimeError of load_state_dict; those that are known are not guessed."""
    missing = missing or _quoted(_MISSING.search(message))
    unexpected = unexpected or _quoted(_UNEXPECTED.search(message))
    rest = message
    for label, names in (("Missing", missing), ("Unexpected", unexpected)):
        if names:
            listed = ", ".join([f'"{name}"' for name in names])
            rest = rest.replace(f"{label} key(s) in state_dict: {listed}.", "", 1)
    mismatched = tuple(
        Mismatched(found[1], _numbers(found[2]), _numbers(found[3])) for found in _MISMATCH.finditer(rest)
    )
    if not (missing or unexpected or mismatched):
        return LoadOutcome(other=(" ".join(message.split())[:_MAX_TEXT],))
    rest = _HEADER.sub("", _MISMATCH.sub("", rest))
    other = tuple(line.strip()[:_MAX_TEXT] for line in rest.splitlines() if line.strip())
    return LoadOutcome(missing, unexpected, mismatched, other)


def _quoted(found: re.Match[str] | None) -> tuple[str, ...]:
    return tuple(found[1].split('", "')) if found else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.replace(",", " ").split())


def with_metadata(state: dict[str, Any], versions: Mapping[str, Mapping[str, Any]]) -> OrderedDict[str, Any]:
    """A state_dict as torch.load gives it: with ``_metadata``, on which loading depends (batch norm)."""
    ordered: OrderedDict[str, Any] = OrderedDict(state)
    if versions:
        metadata = OrderedDict((path, dict(local)) for path, local in versions.items())
        ordered._metadata = metadata  # type: ignore[attr-defined]
    return ordered


def round_trip(held: list[nn.Module], build: Callable[[int], nn.Module], nbytes: int) -> Loaded:
    """Save the one module in ``held`` as .pt, what that gives as .safetensors, and load each again.

    The module is taken out of ``held``: one at a time is in memory. ``build`` makes a fresh one from
    a seed; ``nbytes`` is the size of its state_dict.
    """
    with tempfile.TemporaryDirectory(prefix="ckpttool-verify-") as folder:
        free = shutil.disk_usage(folder).free
        if free < nbytes + _SPARE_NBYTES:
            said = f"{tempfile.gettempdir()} has {plural(free, 'byte')} free, {nbytes:,} needed: set TMPDIR"
            return Loaded(None, LoadOutcome(other=(said,)))
        try:
            return _through_both(held, build, Path(folder))
        except BaseException as error:  # noqa: BLE001  savers and loaders raise what they like
            pass_on(error)
            return Loaded(None, LoadOutcome(other=(what_it_raised(error),)))


def _through_both(held: list[nn.Module], build: Callable[[int], nn.Module], folder: Path) -> Loaded:
    import safetensors.torch

    first, second = folder / "model.pt", str(folder / "model.safetensors")
    with foreign_streams():
        torch.save(held.pop().state_dict(), first)
    again = build(1)
    saved = torch.load(first, map_location="cpu", weights_only=True, mmap=True)
    outcome = load_strict(again, saved)
    del saved
    os.unlink(first)
    if not outcome.ok:
        return Loaded(again, outcome)
    beyond = [key for key, value in again.state_dict().items() if not _has_tag(value)]
    if beyond:
        return Loaded(again, outcome, f"as .pt only: safetensors holds no {', '.join(beyond[:3])}")
    with foreign_streams():
        safetensors.torch.save_model(again, second)
    del again
    third: Any = build(2)
    try:
        safetensors.torch.load_model(third, second)
    except RuntimeError as error:
        return Loaded(third, LoadOutcome(other=(f"as .safetensors: {one_line(error)}",)))
    return Loaded(third, outcome)


def _has_tag(value: object) -> bool:
    """Whether safetensors has a name for what this is: a strided tensor of one of its dtypes."""
    dtype = parse_torch_name(str(value.dtype)) if is_tensor(value) and is_plain(value) else None
    return dtype is not None and dtype.safetensors is not None
