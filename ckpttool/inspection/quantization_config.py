"""What a config.json says of the quantised weights beside it: what no shape tells, and whether all agrees.

``quantization_config`` as transformers writes it: ``bits``, ``group_size`` and ``desc_act`` of GPTQ and AWQ;
``config_groups`` of compressed-tensors, each with ``weights.num_bits``, ``group_size`` and ``actorder``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpttool.values.checkpoint import Finding
from ckpttool.values.inspection import Inspection, Quantization

_PLAIN = ("GPTQ", "AWQ")  # the schemes of which the config says it in plain fields, and shapes say it too
_BITS = (2, 3, 4, 8)


def confirm(inspection: Inspection, config: object) -> Inspection:
    """Add what ``config``, a parsed config.json, says of the quantised weights of ``inspection``."""
    said = _mapping(_mapping(config).get("quantization_config"))
    groups = [_mapping(group) for group in _mapping(said.get("config_groups")).values()]
    packed = [_mapping(group.get("weights")) for group in groups]
    orders = [said.get("desc_act"), *(weights.get("actorder") for weights in packed)]
    bits = {number for weights in packed if (number := weights.get("num_bits")) in _BITS}
    only = next(iter(bits)) if len(bits) == 1 else None
    weights = inspection.weights
    quantized = [_told(item, act_order=any(orders), bits=only) for item in weights.quantized]
    more = sum(item.weights for item in quantized) - sum(item.weights for item in weights.quantized)
    named = said.get("bits")
    differing = [
        item for item in quantized if item.scheme in _PLAIN and named in _BITS and item.bits != named
    ]
    findings = inspection.findings
    if differing and len(differing) == len(quantized):
        scheme, shown = differing[0][:2]
        fact = f"config.json says {named} bits, the shapes of the {scheme} modules say {shown}"
        findings += (Finding("quantized-config", "warning", "", fact),)
    counted = weights._replace(quantized=tuple(quantized), weights_numel=weights.weights_numel + more)
    return inspection._replace(weights=counted, findings=findings)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _told(item: Quantization, *, act_order: bool, bits: int | None) -> Quantization:
    """One kind of quantised weight, with what only the config knows."""
    if item.scheme == "compressed-tensors" and bits is not None and bits != item.bits:
        group = None if item.group is None else item.group * item.bits // bits
        item = item._replace(bits=bits, group=group, weights=item.weights * item.bits // bits)
    if act_order and item.scheme in ("GPTQ", "compressed-tensors"):
        item = item._replace(detail=", ".join(filter(None, (item.detail, "act-order"))))
    return item
