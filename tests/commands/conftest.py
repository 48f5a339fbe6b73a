"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint, its weights alone, and values of which some are bad."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("files")
    model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(12)], torch.nn.BatchNorm1d(64))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 64)).sum().backward()
    optimizer.step()
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, folder / "run.pt"
    )
    save_file(model.state_dict(), folder / "model.safetensors")
    values = {
        "good": torch.arange(1.0, 5.0),
        "zero": torch.zeros(3),
        "bad": torch.tensor([1.0, float("nan")]),
    }
    save_file(values, folder / "values.safetensors")
    save_file({"good": torch.arange(1.0, 5.0)}, folder / "good.safetensors")
    return folder
