"""One real ``load_state_dict(strict=True)``, and what it said."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from ckpttool.values.verification import Mismatched

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
    except Exception as error:  # noqa: BLE001  hooks and overrides of the user's model may raise anything
        message = str(error) or type(error).__name__
        keys = heard[-1] if heard else None
        return parse_load_error(
            message, tuple(keys.missing_keys) if keys else (), tuple(keys.unexpected_keys) if keys else ()
        )
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


@contextlib.contextmanager
def foreign_streams() -> Iterator[None]:
    """The user's code prints to stderr; its warnings are not this tool's."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def with_metadata(state: dict[str, Any], versions: Mapping[str, Mapping[str, Any]]) -> OrderedDict[str, Any]:
    """A state_dict as torch.load gives it: with ``_metadata``, on which loading depends (batch norm)."""
    ordered: OrderedDict[str, Any] = OrderedDict(state)
    if versions:
        metadata = OrderedDict((path, dict(local)) for path, local in versions.items())
        ordered._metadata = metadata  # type: ignore[attr-defined]
    return ordered
