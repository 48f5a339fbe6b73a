"""What the tests of comparison share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.differing import Save


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a value into a file of the suffix's container."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from safetensors.torch import save_file

    from sample_models.same_bytes import save_legacy

    def write(value: Any, suffix: str = ".pt", **options: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}{suffix}"
        if suffix == ".safetensors":
            save_file(value, path, **options)
        elif suffix == ".pth":
            save_legacy(value, path, **options)
        else:
            torch.save(value, path, **options)
        return path

    return write
