"""constraints.txt pins all that `make venv` installs, on every Python that is supported."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Only where torch is a CUDA build: each of its releases names the versions that it was built with itself.
OF_TORCH = re.compile(r"^(nvidia-|cuda-|triton$)")


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def declared() -> list[Requirement]:
    """The dependencies and the extras of `make venv`. Python 3.10 has no reader of TOML."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    found = []
    for name in ("dependencies", "dev", "docs"):
        block = re.search(rf"^{name} = \[(.*?)\]\n", text, re.DOTALL | re.MULTILINE)
        assert block is not None, name
        found += re.findall(r'"([^"]+)"', block[1])
    return [Requirement(line) for line in found]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_name_is_pinned_once(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    chosen = [pin for pin in pins() if pin.marker is None or pin.marker.evaluate(environment)]
    assert [str(pin.specifier)[:2] for pin in chosen] == ["=="] * len(chosen)
    counts = Counter(canonicalize_name(pin.name) for pin in chosen)
    assert max(counts.values()) == 1, counts.most_common(3)
    assert {canonicalize_name(need.name) for need in declared()} <= set(counts)


def test_nothing_that_is_installed_is_left_to_chance() -> None:
    """What the pinned packages ask for, on this machine, and what that asks for, is pinned too."""
    pinned = {canonicalize_name(pin.name) for pin in pins()}
    open_names, seen = [canonicalize_name(need.name) for need in declared()], set()
    while open_names:
        name = open_names.pop()
        if name in seen or OF_TORCH.match(name):
            continue
        seen.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # another environment than that of `make venv`: its name must be pinned all the same
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                open_names.append(canonicalize_name(need.name))
    assert seen <= pinned, seen - pinned
