"""The table of docs/diff.md that says what decides the exit status, row by row."""

from __future__ import annotations

import argparse
import itertools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckpttool
from ckpttool import cli
from ckpttool.api.arguments import IGNORABLE
from ckpttool.comparison.deciding import KIND_WORDS, SECTION_WORDS
from ckpttool.values.errors import CkptToolError

PAGE = Path(__file__).parents[2] / "docs" / "diff.md"
HEAD = "| what differs | status | `--weights-only` | left out by |"

Pair: TypeAlias = tuple[Any, Any]
Make: TypeAlias = Callable[[], Pair]
CASES: dict[str, list[Make]] = {}


def of(row: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        CASES.setdefault(row, []).append(make)
        return make

    return keep


def weights(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(6, 4, generator=generator)
    return {"fc.weight": drawn, "fc.bias": torch.randn(6, generator=generator), **more}


def training(**more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(fc=nn.Linear(4, 6)))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}


class Safe(dict[str, Any]):
    """Tensors for a safetensors file; ``metadata`` is its own."""

    metadata: dict[str, str] | None = None

    def saying(self, **metadata: str) -> Safe:
        self.metadata = metadata
        return self


@of("a value of a weight")
def changed() -> Pair:
    return weights(), weights(**{"fc.bias": torch.ones(6)})


@of("a weight's dtype or shape")
def retyped() -> Pair:
    return weights(), weights(**{"fc.bias": weights()["fc.bias"].bfloat16()})


@of("a weight's dtype or shape")
def reshaped() -> Pair:
    return weights(), weights(**{"fc.bias": torch.ones(7)})


@of("a weight that only one side has")
def added() -> Pair:
    return weights(), weights(**{"head.scale": torch.randn(3)})


@of("a weight's name")
def renamed() -> Pair:
    made = weights()
    return weights(), {"dense.kernel": made.pop("fc.weight"), **made}


@of("a prefix that all names of one side have, or what `--map` renames")
def wrapped() -> Pair:
    return weights(), {f"module.{name}": value for name, value in weights().items()}


@of("a name that is tied to one that both sides have")
def tied() -> Pair:
    made = weights()
    return {**made, "head.weight": made["fc.weight"]}, weights()


@of("strides, order, container, shards, device tags, `format`")
def strided() -> Pair:
    made = weights()
    return made, {"fc.bias": made["fc.bias"], "fc.weight": made["fc.weight"].t().contiguous().t()}


@of("strides, order, container, shards, device tags, `format`")
def contained() -> Pair:
    return weights(), Safe(weights()).saying(format="pt")


class Extra(nn.Linear):
    state: Any = None

    def get_extra_state(self) -> Any:
        return self.state


def _extra(state: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    layer = Extra(2, 2)
    layer.state = state
    return layer.state_dict()


@of("extra state, where both sides have some")
def extra_tensor() -> Pair:
    return _extra(torch.ones(2)), _extra(torch.zeros(2))


@of("extra state, where both sides have some")
def extra_values() -> Pair:
    return _extra({"scale": 1}), _extra({"scale": 2})


@of("tensors of an optimizer, where both sides have one")
def moments() -> Pair:
    other = training()
    other["optimizer"]["state"][0]["exp_avg"] += 1
    return training(), other


@of("tensors of another branch than the weights', where both sides have more than weights")
def averaged() -> Pair:
    return training(ema={"mean": torch.ones(3)}), training(ema={"mean": torch.zeros(3)})


@of("a branch beside the weights, where the other side is nothing but weights")
def bare() -> Pair:
    return training(), {"model": training()["model"]}


@of("a value (epoch, lr) that both sides have")
def epoch() -> Pair:
    return training(epoch=3), training(epoch=4)


@of("a value (epoch, lr) that both sides have")
def epoch_of_bare_weights() -> Pair:
    return training(epoch=3), {"model": training()["model"], "epoch": 4}


@of("a value that only one side has, where both have values")
def one_value_more() -> Pair:
    return training(epoch=3, best=0.5), training(epoch=3)


@of("values, where the other side has none and its weights stand elsewhere")
def no_values() -> Pair:
    return {"model": weights(), "epoch": 3}, weights()


@of("a value that only one side has, beside tensors that are left out")
def beside_a_lost_tensor() -> Pair:
    full = training(epoch=3, best=torch.tensor(0.5), args={"layers": 2})
    return full, {"model": full["model"], "args": {"layers": 2}}


@of("a plain attribute of a pickled module")
def attribute() -> Pair:
    torch.manual_seed(0)
    layers = nn.Linear(2, 2), nn.Linear(2, 2)
    layers[1].load_state_dict(layers[0].state_dict())
    return tuple(nn.Sequential(*pair) for pair in zip(layers, map(nn.Dropout, (0.1, 0.5)), strict=True))  # type: ignore[return-value]


@of("the `_metadata` version of a module that both sides have")
def version() -> Pair:
    made = [nn.BatchNorm1d(2).state_dict() for _ in range(2)]
    made[1]._metadata[""]["version"] = 1  # type: ignore[attr-defined]
    return made[0], made[1]


@of("metadata of safetensors, where both sides have some")
def metadata() -> Pair:
    return Safe(weights()).saying(run="1"), Safe(weights()).saying(run="2")


@of("the type of an object, where both sides have objects")
def objects() -> Pair:
    return (
        {"model": weights(), "args": argparse.Namespace(), "x": argparse.Namespace()},
        {"model": weights(), "args": argparse.ArgumentTypeError(), "x": argparse.Namespace()},
    )


@of("findings")
def finding() -> Pair:
    made = weights()
    return {**made, "head.weight": made["fc.weight"]}, {**weights(), "head.weight": weights()["fc.weight"]}


def rows() -> dict[str, tuple[str, str, str]]:
    lines = PAGE.read_text("utf-8").partition(HEAD)[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {what: (status, alone, word) for what, status, alone, word in cells}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    numbers = itertools.count()

    def written(made: Any) -> Path:
        if isinstance(made, Safe):
            path = tmp_path / f"{next(numbers)}.safetensors"
            save_file(dict(made), path, metadata=made.metadata)
        else:
            path = tmp_path / f"{next(numbers)}.pt"
            torch.save(made, path)
        return path

    return written


def test_every_row_has_a_case() -> None:
    assert list(rows()) == list(CASES)


EACH = [(row, make) for row, cases in CASES.items() for make in cases]


@pytest.mark.parametrize(("row", "make"), EACH, ids=[make.__name__ for _, make in EACH])
def test_the_table_is_right(
    row: str, make: Make, write: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    said, alone, word = rows()[row]
    a, b = map(write, make())

    def status(*options: str) -> int:
        found = {cli.main(["diff", str(x), str(y), "--quiet", *options]) for x, y in ((a, b), (b, a))}
        assert capsys.readouterr() == ("", "")
        (one,) = found  # whichever side is A
        return one

    assert (str(status()), str(status("--weights-only"))) == (said, alone)
    for what in IGNORABLE:
        assert status("--ignore", what) == (0 if word == f"`--ignore {what}`" else int(said)), what
    assert status("--ignore", ",".join(IGNORABLE)) == (0 if word else int(said))


def test_words_of_ignore_are_those_that_sections_and_kinds_have() -> None:
    assert {*KIND_WORDS.values(), *SECTION_WORDS.values()} == set(IGNORABLE)


def test_what_is_ignored_is_counted_and_not_listed(
    write: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = training(epoch=4, lr=1)
    other["optimizer"]["state"][0]["exp_avg"] += 1
    a, b = write(training(epoch=3, lr=2)), write(other)
    words = "--ignore", "values", "--ignore", "optimizer-state,metadata,values"
    assert cli.main(["diff", str(a), str(b), *words]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err == (
        "weights identical: 2 tensors (2 parameters) · ignored: 2 differences in values · "
        "ignored: 1 difference in optimizer-state\n"
    )
    found = ckpttool.diff(a, b, ignore=["values", "optimizer-state", "metadata"])
    assert found.equal and found.weights_equal and found.ok
    assert [tuple(item) for item in found.ignored] == [
        ("values", 2), ("optimizer-state", 1), ("metadata", 0)
    ]  # fmt: skip
    assert [entry.name for entry in found.entries if entry.ignored] == ["exp_avg"]
    assert not ckpttool.diff(a, b, ignore=["values"]).equal


@pytest.mark.parametrize("step_is_tensor", [True, False])
@pytest.mark.parametrize("scalar", [None, 0.5, torch.tensor(0.5)])
def test_what_convert_makes_and_back_has_one_verdict(
    step_is_tensor: bool, scalar: Any, write: Callable[[Any], Path], tmp_path: Path
) -> None:
    """Whether a counter is a tensor or an int is an accident."""
    made = training(epoch=3, args={"layers": 2})
    for state in made["optimizer"]["state"].values():
        state["step"] = state["step"] if step_is_tensor else int(state["step"])
    if scalar is not None:
        made["best"] = scalar
    start, there, back = write(made), tmp_path / "there.safetensors", tmp_path / "back.pt"
    assert cli.main(["convert", str(start), str(there), "--quiet"]) == 0
    assert cli.main(["convert", str(there), str(back), "--quiet"]) == 0
    for one in (there, back):
        for found in (ckpttool.diff(start, one), ckpttool.diff(one, start)):
            assert found.equal and found.weights_equal and not found.values


@pytest.mark.parametrize(
    ("make", "begins"),
    [
        (epoch, "weights identical: 2 tensors (2 parameters) · 1 other value\n"),
        (one_value_more, "weights identical: 2 tensors (2 parameters) · 1 value only in A\n"),
        (moments, "weights identical: 2 tensors (2 parameters) · changed 1 (optimizer)\n"),
        (bare, "weights identical: 2 tensors (2 parameters)\n"),
        (wrapped, "identical: 2 tensors (2 parameters)\n"),
        (changed, "different: identical 1 of 2 "),
        (renamed, "different: identical 1 of 2 "),
    ],
)
def test_the_first_words(
    make: Make, begins: str, write: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(write, make())
    cli.main(["diff", str(a), str(b)])
    assert capsys.readouterr().err.startswith(begins)


def test_a_choice_of_names_says_nothing_of_all_weights(
    write: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = map(write, changed())
    for options in (("--include", "*.weight"), ("--exclude", "*.bias")):
        assert cli.main(["diff", str(a), str(b), *options]) == 0
        assert capsys.readouterr().err.startswith("identical: 1 tensor")
    assert ckpttool.diff(a, b, include=["*.weight"]).weights_equal is None
    assert ckpttool.diff(a, b, headers=True).weights_equal is None


def test_weights_alone_need_to_be_known(
    write: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write(weights()), write(training()["optimizer"])
    assert cli.main(["diff", str(a), str(b), "--weights-only"]) == 2
    assert "cannot tell which branch holds the weights" in capsys.readouterr().err
    with pytest.raises(CkptToolError, match="holds the weights"):
        ckpttool.diff(b, a, weights_only=True)


def test_a_wrong_word_is_one_sentence(
    write: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a = str(write(weights()))
    for text, word in (("vaules", "vaules"), ("values,", ""), ("values,\x1b[31m", "\\x1b[31m")):
        assert cli.main(["diff", a, a, "--ignore", text]) == 2
        out, err = capsys.readouterr()
        assert out == "" and f"{word} is not one of values, attributes" in err and "\x1b" not in err
    with pytest.raises(ValueError, match="vaules is not one of"):
        ckpttool.diff(a, a, ignore=["vaules"])  # type: ignore[list-item]
