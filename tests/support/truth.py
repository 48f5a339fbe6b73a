"""What a module's own registration says of the entries of its state_dict."""

from __future__ import annotations

from torch import nn

from ckpttool.values.checkpoint import Kind


def truth_of(model: nn.Module) -> dict[str, Kind]:
    """The kind of every entry of ``model.state_dict()``."""
    kinds = dict.fromkeys(model.state_dict(), Kind.PERSISTENT_BUFFER)
    return kinds | {name: Kind.PARAMETER for name, _ in model.named_parameters(remove_duplicate=False)}
