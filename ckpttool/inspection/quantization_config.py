"""What a config.json says of the quantised weights beside it: what no shape tells, and whether all agrees.

``quantization_config`` as transformers writes it: ``bits``, ``group_size`` and ``desc_act`` of GPTQ and AWQ;
``config_groups`` of compressed-tensors, each with ``weights.num_bits``, ``group_size`` and ``actorder``;
``quant_config.weight_quant_params.nbits`` of HQQ; ``weights`` of quanto, as ``int4``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpttool.inspection.beside import CONFIG, QUANTIZE
from ckpttool.kinds.quantized_modules import survey_modules
from ckpttool.values.card import Beside
from ckpttool.values.checkpoint import Finding
from ckpttool.values.inspection import Inspection, Quantization

_PLAIN = ("GPTQ", "AWQ")  # the schemes of which the config says it in plain fields, and shapes say it too
_BITS = range(1, 9)


def confirm(inspection: Inspection, beside: Beside) -> Inspection:
    """Add what config.json, or quantize_config.json of AutoGPTQ, says of the quantised weights."""
    said, name = _mapping(beside.document(CONFIG).get("quantization_config")), CONFIG
    if not said:
        said, name = beside.document(QUANTIZE), QUANTIZE
    groups = [_mapping(group) for group in _mapping(said.get("config_groups")).values()]
    packed = [_mapping(group.get("weights")) for group in groups]
    orders = [said.get("desc_act"), *(weights.get("actorder") for weights in packed)]
    quantized, more = inspection.weights.quantized, 0
    bits = _told_bits(said, packed)
    if bits is not None and any(item.bits is None for item in quantized):
        root = inspection.weights_root
        entries = [row.entry for row in inspection.rows if root is None or row.entry.root == root]
        survey = survey_modules(entries, bits)
        if survey is not None:
            more = survey.weights - sum(item.weights or 0 for item in quantized)
            quantized = survey.quantizations
    quantized = tuple([_ordered(item) for item in quantized] if any(orders) else quantized)
    named = said.get("bits")
    known = type(named) is int and named in _BITS
    differing = [item for item in quantized if known and item.scheme in _PLAIN and item.bits != named]
    findings = inspection.findings
    if differing and len(differing) == len(quantized) and differing[0].bits is not None:
        scheme, shown = differing[0][:2]
        fact = f"{name} says {named} bits, the shapes of the {scheme} modules say {shown}"
        findings += (Finding("quantized-config", "warning", "", fact),)
    weights = inspection.weights
    counted = weights._replace(quantized=quantized, weights_numel=weights.weights_numel + more)
    return inspection._replace(weights=counted, findings=findings)


def _told_bits(said: Mapping[str, Any], packed: list[Mapping[str, Any]]) -> int | None:
    """The one number of bits that a config says; None if it says none or several."""
    hqq = _mapping(_mapping(said.get("quant_config")).get("weight_quant_params"))
    quanto = said.get("weights")
    told = [said.get("bits"), hqq.get("nbits"), *(weights.get("num_bits") for weights in packed)]
    if isinstance(quanto, str) and quanto.startswith("int") and quanto[3:].isdecimal():
        told.append(int(quanto[3:6]))
    bits = {number for number in told if type(number) is int and number in _BITS}
    return bits.pop() if len(bits) == 1 else None


def _ordered(item: Quantization) -> Quantization:
    """One kind of quantised weight, whose columns were reordered as only the config knows."""
    if item.scheme in ("GPTQ", "compressed-tensors"):
        return item._replace(detail=", ".join(filter(None, (item.detail, "act-order"))))
    return item


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
