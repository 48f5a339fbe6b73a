"""Averaged copies among names: how much is looked at."""

from __future__ import annotations

import itertools

from ckpttool.names.averages import find_averages
from tests.support.work import lines, seconds


def test_work_is_linear_in_names() -> None:
    def work(layers: int) -> int:
        names = [f"model.layers.{at}.weight" for at in range(layers)]
        names += [f"model_ema.layers{at}weight" for at in range(layers)]
        names += ["model_ema.decay", "model_ema.num_updates"]
        shapes = [(2,)] * len(names)
        (average,) = find_averages(names, shapes)
        assert len(average.copies) == layers
        return lines(lambda: find_averages(names, shapes))

    assert work(400) < 2.3 * work(200)


def test_many_prefixes_cost_no_more_than_their_names() -> None:
    def work(prefixes: int) -> int:
        names = [f"ema{at}_ema.{leaf}.weight" for at in range(prefixes) for leaf in range(20)]
        assert find_averages(names, [(2,)] * len(names)) == []
        return lines(lambda: find_averages(names, [(2,)] * len(names)))

    assert work(80) < 2.3 * work(40)


def test_parts_of_a_name_cost_no_more_than_its_length() -> None:
    """A name of a megabyte, and names that wrappers alone tell apart."""
    wrappers = ["module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"]
    alike = [".".join([*chain, "w"]) for chain in itertools.product(wrappers, repeat=6)]
    cases = (
        ["ema.w", "a." * 500_000 + "w"],
        ["ema.w", "module." * 100_000 + "w"],
        ["ema.decay", "ema.num_updates", "ema.aw", "a." * 500_000 + "w"],
        [*alike, *(f"ema.{name}" for name in alike)],
    )

    def find() -> None:
        for names in cases:
            (average,) = find_averages(names, [(2,)] * len(names))
            assert set(average.copies.values()) <= {names.index(names[-1])}

    assert seconds(find) < 4
