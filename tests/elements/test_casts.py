"""Casts by numpy against torch: every bit of every result, and what is said to be lost."""

import itertools
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ckpttool.elements.casts import CASTABLE, cast_floats
from ckpttool.torch_bridge.tensors import cast_elements
from ckpttool.values.dtypes import BY_NAME

NAMES = ("float64", "float32", "float16", "bfloat16")
PAIRS = [pair for pair in itertools.product(NAMES, NAMES) if pair[0] != pair[1]]
# torch's own NaN in 16 bits depends on the code that the CPU gets.
TORCH_IS_VECTORIZED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def every_pattern(name: str) -> np.ndarray:
    """All bits of a 16-bit dtype; of a wider one all upper halves, with lower ones that matter."""
    upper = np.arange(1 << 16, dtype=np.uint16)
    if name in ("float16", "bfloat16"):
        return upper
    random = np.random.default_rng(0)
    # Ties to even of either 16-bit dtype and their neighbours, no low bits, all of them, and random ones.
    low = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000]
    words = [upper.astype(np.uint32) << 16 | low_bits for low_bits in low]
    words.append(upper.astype(np.uint32) << 16 | random.integers(0, 1 << 16, 1 << 16, np.uint32))
    singles = np.concatenate(words)
    if name == "float32":
        return singles
    # Every float32 as a float64, the same with another last bit, and any other float64.
    with np.errstate(all="ignore"):
        doubles = singles.view(np.float32).astype(np.float64).view(np.uint64)
    halves = singles.astype(np.uint64) << 32
    return np.concatenate([doubles, doubles + 1, doubles - 1, halves | 0xDEADBEEF])


def as_bytes(bits: np.ndarray) -> memoryview:
    return memoryview(bytearray(bits.tobytes()))


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_value_is_cast_as_torch_casts_it(before: str, after: str) -> None:
    source, target = getattr(torch, before), getattr(torch, after)
    bits = every_pattern(before)
    cast, _ = cast_floats(as_bytes(bits), BY_NAME[before], BY_NAME[after])
    ours = np.frombuffer(cast, f"<u{BY_NAME[after].nbytes}")
    values = torch.from_numpy(bits.copy()).view(source)
    theirs_as_numbers = torch.empty(len(bits), dtype=target).copy_(values)
    theirs = theirs_as_numbers.view(getattr(torch, f"int{BY_NAME[after].bits}")).numpy().view(ours.dtype)
    differs, nan = ours != theirs, theirs_as_numbers.isnan().numpy()
    if after == "bfloat16":
        assert (ours[nan] == (0x7FC0 if before == "float16" else 0xFFFF)).all()
    if after in ("bfloat16", "float16") and not TORCH_IS_VECTORIZED:
        assert torch.from_numpy(ours[nan].copy()).view(target).isnan().all()
        differs &= ~nan
    first = differs.argmax()
    assert not differs.any(), (hex(bits[first]), hex(ours[first]), hex(theirs[first]))


@pytest.mark.parametrize(("before", "after"), PAIRS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-7, 1e-40, 1e6, 3e38])
def test_losses_are_what_torch_counts(before: str, after: str, scale: float) -> None:
    random = torch.Generator().manual_seed(0)
    numbers = torch.randn(70_001, generator=random, dtype=torch.float64).mul_(scale)
    for special in ((), (0.0, -0.0), (float("inf"),), (float("-inf"), float("nan"), 0.0)):
        numbers[: len(special)] = torch.tensor(special, dtype=torch.float64)
        data = as_bytes(numbers.to(getattr(torch, before)).view(torch.uint8).numpy())
        _, ours = cast_floats(data, BY_NAME[before], BY_NAME[after])
        assert ours == cast_elements(data, BY_NAME[before], BY_NAME[after])[1]


def test_overflow_and_underflow_are_counted() -> None:
    data = memoryview(bytearray(struct.pack("<6f", 1.0, 65520.0, -1e30, 1e-9, float("inf"), 0.0)))
    cast, loss = cast_floats(data, BY_NAME["float32"], BY_NAME["float16"])
    assert struct.unpack("<6e", cast) == (1.0, float("inf"), float("-inf"), 0.0, float("inf"), 0.0)
    assert loss == (6, 2, 1, 0.0)


def test_no_elements() -> None:
    cast, loss = cast_floats(memoryview(bytearray()), BY_NAME["float32"], BY_NAME["bfloat16"])
    assert (bytes(cast), loss) == (b"", (0, 0, 0, 0.0))


def test_the_list_of_dtypes_is_complete() -> None:
    assert frozenset(NAMES) == CASTABLE


COUNT_FAULTS = """
import resource, sys
from ckpttool.cli import main
status = main(["inspect", sys.argv[1], "--stats", "--quiet"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
sys.exit(status)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_memory_is_kept_from_one_block_to_the_next(tmp_path: Path) -> None:
    def count_faults(nbytes: int) -> int:
        tensors = {str(at): torch.rand(1 << 20) for at in range(nbytes >> 22)}
        save_file(tensors, tmp_path / "a.safetensors")
        command = [sys.executable, "-c", COUNT_FAULTS, str(tmp_path / "a.safetensors")]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        result = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=True)
        return int(result.stdout)

    # Given back after each block, all that is read is faulted in once more: 15,000 pages of 4 KiB.
    assert count_faults(64 << 20) - count_faults(4 << 20) < 5_000
