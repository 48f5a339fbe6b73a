"""Numbers as they are learnt, or as weights begin and may have been left; of any shape, and as any float."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

Rng = np.random.Generator
Shape = tuple[int, ...]
Made = Callable[[Rng, Shape], Any]

_FLOATS = "float32 float64 bfloat16 float16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz".split()
_OFTEN = ["float32"] * 5 + ["bfloat16"] * 4 + ["float16"] * 3


def shape_of(rng: Rng) -> Shape:
    """A shape of at least 4 elements, half of them of one dimension."""
    square = int(rng.integers(2, 9))
    return [
        (int(rng.choice([4, 5, 6, 7, 8, 9, 10, 12, 16, 17, 32, 64, 100, 256])),),
        (1, int(rng.integers(4, 33)), 1),
        (int(rng.integers(4, 20)),),
        (square, square),
        (int(rng.integers(1, 9)), int(rng.integers(4, 17))),
        (int(rng.integers(1, 5)), 1, *(int(rng.choice([2, 3, 5, 7])),) * 2),
    ][rng.integers(0, 6)]


def normal(rng: Rng, shape: Shape) -> Any:
    return rng.normal(0, rng.choice([1e-3, 0.02, 0.1, 1, 10]), shape)


def uniform(rng: Rng, shape: Shape) -> Any:
    """As weights and biases of Linear and of convolutions begin."""
    return rng.uniform(-1, 1, shape) / np.sqrt(rng.choice([1, 4, 16, 64, 1024]))


def near_one(rng: Rng, shape: Shape) -> Any:
    return 1 + normal(rng, shape) * rng.choice([0.1, 1])


def near_zero(rng: Rng, shape: Shape) -> Any:
    return normal(rng, shape) * rng.choice([1e-4, 1e-2])


def descended(rng: Rng, shape: Shape) -> Any:
    """A constant after some steps of SGD."""
    values = np.full(shape, rng.choice([1, 0, 0.5, 0.1, 2, -1, 0.25, 1e-2]), np.float32)
    for _ in range(int(rng.integers(1, 20))):
        step = rng.choice([1e-1, 1e-2, 1e-3]) * rng.choice([1, 0.1])
        values -= (step * rng.normal(0, 1, shape)).astype(np.float32)
    return values


def adapted(rng: Rng, shape: Shape) -> Any:
    """A constant after some steps of Adam, each of which is about the learning rate."""
    values = np.full(shape, rng.choice([1, 0, 0.5, 0.1, 2, -1]), np.float32)
    rate = np.float32(rng.choice([1e-2, 1e-3]))
    for _ in range(int(rng.integers(1, 100))):
        values -= rate * rng.normal(0, 0.6, shape).clip(-1, 1).astype(np.float32)
    return values


def sparse(rng: Rng, shape: Shape) -> Any:
    """What a ReLU leaves, of any size of sum."""
    return np.maximum(rng.normal(rng.choice([0, -1, 0.5]), 1, shape), 0) / rng.choice([1, 3, np.prod(shape)])


def pruned(rng: Rng, shape: Shape) -> Any:
    return normal(rng, shape) * (rng.random(shape) < rng.choice([0.1, 0.3, 0.5, 0.9]))


def pruned_near_one(rng: Rng, shape: Shape) -> Any:
    values = 1 + rng.normal(0, rng.choice([0.03, 0.1, 0.3]), shape)
    return values * (rng.random(shape) < rng.choice([0.1, 0.5, 0.9]))


def pruned_rows(rng: Rng, shape: Shape) -> Any:
    values = normal(rng, shape)
    values[rng.random(shape[0]) < 0.5] = 0
    return values


def one_hot(rng: Rng, shape: Shape) -> Any:
    """An identity, a 1 somewhere in each row, or a single one."""
    values = np.zeros(shape)
    rows = values.reshape(shape[0], -1)
    places = (np.arange(min(rows.shape)), rng.integers(0, rows.shape[1], shape[0]))[rng.integers(0, 2)]
    if rng.random() < 0.3:
        rows.reshape(-1)[rng.integers(0, rows.size)] = 1
    else:
        rows[np.arange(len(places)), places] = 1
    return values


def scaled_one_hot(rng: Rng, shape: Shape) -> Any:
    return one_hot(rng, shape) * rng.choice([0.5, -0.5, 2, rng.random()]) + rng.choice(
        [0, 0, 1, rng.random()]
    )


def untouched_norm(rng: Rng, shape: Shape) -> Any:
    return np.full(shape, float(rng.integers(0, 2)))


def quantized(rng: Rng, shape: Shape) -> Any:
    """Multiples of a step, as many as 2, 3, 4, 5 or 8 bits have."""
    levels = rng.choice([1, 3, 7, 15, 127])
    values = normal(rng, shape)
    values = values / max(1, np.abs(values).max() * 1.01)
    step = np.abs(values).max() / levels or 1
    return np.round(values / step) * rng.choice([step, step, 2.0**-4, 2.0**-7])


def positive(rng: Rng, shape: Shape) -> Any:
    return np.exp(normal(rng, shape).clip(-20, 20))


def near_sum_of_one(rng: Rng, shape: Shape) -> Any:
    values = np.exp(rng.normal(0, 1, shape))
    return values / values.sum() * (1 + rng.normal(0, rng.choice([0.1, 0.03, 0.01])))


def moved_line(rng: Rng, shape: Shape) -> Any:
    """Frequencies and centers that were evenly spaced, before they were learnt."""
    line = np.linspace(rng.choice([0, 1, -1, 0.01]), rng.choice([10, 2.0, 5, 100]), int(np.prod(shape)))
    return (line + rng.normal(0, 0.02, line.size) * np.abs(line).max()).reshape(shape)


def moved_series(rng: Rng, shape: Shape) -> Any:
    size = int(np.prod(shape))
    return (10000 ** (-np.arange(size) / size) * np.exp(rng.normal(0, 0.03, size))).reshape(shape)


def moved_symmetric(rng: Rng, shape: Shape) -> Any:
    values = normal(rng, shape)
    if len(shape) == 2 and shape[0] == shape[1]:
        values = (values + values.T) / 2 + np.abs(values).max() * rng.normal(0, 0.03, shape)
    return values


def ascending(rng: Rng, shape: Shape) -> Any:
    return np.sort(normal(rng, shape).reshape(-1)).reshape(shape)


def large(rng: Rng, shape: Shape) -> Any:
    return normal(rng, shape) * rng.choice([1e3, 1e5])


def of_two(rng: Rng, shape: Shape) -> Any:
    return rng.choice(normal(rng, (2,)), shape)


def of_all_sizes(rng: Rng, shape: Shape) -> Any:
    return normal(rng, shape) * np.exp(rng.normal(0, 4, shape))


LEARNT: tuple[Made, ...] = (
    normal, uniform, near_one, near_zero, descended, adapted, sparse, pruned, pruned_near_one, pruned_rows,
    one_hot, scaled_one_hot, untouched_norm, quantized, positive, near_sum_of_one, moved_line, moved_series,
    moved_symmetric, ascending, large, of_two, of_all_sizes,
)  # fmt: skip

# In 8 bits what was learnt may still be what it was: no numbers can tell.
_BY_WIDE_FLOATS_ONLY = (moved_symmetric,)


def iter_learnt(seed: int, count: int) -> Iterator[tuple[str, torch.Tensor]]:
    """``count`` tensors, each with what to call it: how it was made, and what it was cast to."""
    rng = np.random.default_rng(seed)
    casts = [*_OFTEN, *_FLOATS, "bfloat16 float32", "bfloat16 float32", "float32 float64"]
    while count:
        make, cast = LEARNT[rng.integers(0, len(LEARNT))], casts[rng.integers(0, len(casts))]
        if cast.startswith("float8") and make in _BY_WIDE_FLOATS_ONLY:
            continue
        values = torch.from_numpy(np.array(make(rng, shape_of(rng)), np.float32))
        if cast.startswith("float8") and rng.random() < 0.7:  # scaled to what it can hold, as weights are
            values = values * (448 / values.abs().max().clamp(min=1e-9))
        for name in cast.split():
            values = values.to(getattr(torch, name))
        count -= 1
        yield f"{make.__name__} {cast}", values
