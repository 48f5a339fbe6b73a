"""The lines above the table for families of models, on screens of four widths, and in ASCII."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckpttool.api.opened import open_file
from ckpttool.cli import main
from ckpttool.render.inspection_card import iter_shares
from ckpttool.render.inspection_head import iter_head
from ckpttool.render.tables import Line, block, cell_width
from tests.support import model_shapes
from tests.support.goldens import check
from tests.support.model_shapes import write, write_json

FAMILIES: dict[str, Callable[[], model_shapes.Shapes]] = {
    "Llama": model_shapes.llama,
    "Mixtral": lambda: model_shapes.mixtral(8, 512, 1792, 32000),
    "GPT-2": model_shapes.gpt2,
    "BERT": model_shapes.bert,
    "T5": model_shapes.t5,
    "ViT": model_shapes.vit,
    "Swin": model_shapes.swin,
    "ResNet": model_shapes.resnet,
    "MobileNet": lambda: model_shapes.mobilenet(17, 64),
    "UNet": lambda: model_shapes.unet(320),
    "GCN": model_shapes.graph,
    "LoRA": model_shapes.lora,
    "GPTQ": lambda: model_shapes.gptq(8, 1024, 2048, 8000),
}
BESIDE = {
    "Llama": {
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
        "trainer_state": {"global_step": 1500, "epoch": 2.5, "best_metric": 1.25},
    },
    "Mixtral": {"config": {"architectures": ["MixtralForCausalLM"], "num_experts_per_tok": 2}},
    "BERT": {"config": '{"model_type": "bert",'},
    "LoRA": {"adapter_config": {"lora_alpha": 16, "base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}},
}


def lines_above(path: Path, width: int) -> list[Line]:
    opened = open_file(str(path))
    head = iter_head(opened.inspection, width, (), opened.card)
    return [*head, *block(iter_shares(opened.card, width))]


def written(family: str, folder: Path) -> Path:
    write_json(folder, **BESIDE.get(family, {}))
    return write(folder, FAMILIES[family](), "BF16" if family in ("Llama", "Mixtral") else "F32")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_golden(width: int, tmp_path: Path, update_golden: bool) -> None:
    texts = []
    for family in FAMILIES:
        folder = tmp_path / family
        folder.mkdir()
        lines = lines_above(written(family, folder), width)
        assert [line for line in lines if cell_width("".join(span.text for span in line)) > width] == []
        texts += [f"== {family}", *("".join(span.text for span in line).rstrip() for line in lines), ""]
    check(f"card_{width}", "\n".join(texts), update=update_golden)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_is_short(family: str, tmp_path: Path) -> None:
    """The container, two lines of facts, memory and one for a Trainer or for what is not read."""
    lines = lines_above(written(family, tmp_path), 120)
    facts = lines.index(()) if () in lines else len(lines)
    assert facts <= 5 and len(lines) - facts <= 7


def test_bars_are_ascii_where_the_terminal_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import sys

    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    out = Terminal(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["inspect", str(written("Llama", tmp_path))]) == 0
    out.flush()
    text = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "model.layers.*.mlp" in text and "##########" in text and "32 layers x 4096" in text
