"""Equal weights on every build, and a global random state that is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a fixed CPU random stream inside the block; the caller's stream continues after it.

    `torch.manual_seed` would also seed every CUDA device, so the CPU generator is seeded alone.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
