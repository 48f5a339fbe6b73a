"""Tensors in classes of their own: what is plain in them is converted, and what stays behind is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ckpttool.cli import main
from ckpttool.findings.weights_only import weights_only_verdict
from ckpttool.formats import read_checkpoint
from ckpttool.values.checkpoint import CompositeTensor
from tests.hostile import pickles as op
from tests.hostile.containers import torch_zip
from tests.support.converting import convert
from tests.support.layouts import TYPED, UNTYPED, facts, flat, loaded, places, saved

CLASS = f"{__name__}.Image"

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")


class Image(torch.Tensor):
    """One plain tensor, as fastai's, MONAI's and torchvision's are."""


class Pair(torch.Tensor):
    """A wrapper around two tensors, as torchao's are."""

    a: torch.Tensor
    b: torch.Tensor

    @staticmethod
    def __new__(cls, a: torch.Tensor, b: torch.Tensor) -> Pair:
        made: Pair = torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype)  # type: ignore[attr-defined]
        made.a, made.b = a, b
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(func)


def document(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["inspect", str(path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("zipped", [True, False])
def test_a_plain_tensor_in_a_class_is_a_tensor(
    tmp_path: Path, zipped: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {str(dtype)[6:]: flat(dtype).view(4, 6)[1:] for dtype in TYPED + (UNTYPED if zipped else [])}
    plain["turned"] = flat(torch.float32).view(4, 6).t()
    plain["tied"], plain["also"] = plain["float32"], plain["float32"][1:]
    parameter = torch.nn.Parameter(flat(torch.float32).as_subclass(Image))
    state = {name: tensor.as_subclass(Image) for name, tensor in plain.items()} | {"parameter": parameter}
    state["float32"].note = "an attribute"  # type: ignore[attr-defined]
    plain["parameter"] = parameter.as_subclass(torch.Tensor)
    path = tmp_path / "a.pt"
    path.write_bytes(saved(state, zipped=zipped))
    again = loaded(path.read_bytes(), weights_only=False)
    assert type(again["turned"]) is Image
    assert weights_only_verdict(read_checkpoint(str(path))) == (False, CLASS)

    entries = {entry["name"]: entry for entry in document(path, capsys)["entries"]}
    for name, tensor in plain.items():
        entry = entries[name]
        assert (entry["subclass"], entry["dtype"]) == (CLASS, str(tensor.dtype)[6:])
        assert (tuple(entry["shape"]), tuple(entry["stride"])) == (tensor.shape, tensor.stride())
    assert main(["inspect", str(path), "--tensor", "turned"]) == 0
    assert CLASS in capsys.readouterr().out

    convert(path, tmp_path / "b.pt")
    back = loaded((tmp_path / "b.pt").read_bytes())
    assert {type(tensor) for tensor in back.values()} == {torch.Tensor, torch.nn.Parameter}
    assert {name: facts(tensor) for name, tensor in back.items()} == {n: facts(t) for n, t in plain.items()}
    assert places(back) == places(again)
    assert main(["convert", str(path), str(tmp_path / "b.safetensors"), "--as-bytes"]) == 0
    told = capsys.readouterr().out
    assert f"without the class {CLASS} and its attributes: {len(plain)} tensors" in told
    assert facts(load_file(tmp_path / "b.safetensors")["turned"]) == facts(plain["turned"])


def test_tensors_among_the_attributes_are_parts_and_are_left_behind_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = flat(torch.float32).as_subclass(Image)
    image.affine = torch.eye(2)  # type: ignore[attr-defined]
    image.meta = {"deep": [torch.ones(3), {"text": "t"}], "shape": (1, 2)}  # type: ignore[attr-defined]
    quantized = torch.quantize_per_tensor(torch.eye(2), 0.5, 1, torch.qint8)
    boxed = quantized.as_subclass(Image)
    boxed.affine = torch.eye(2)  # type: ignore[attr-defined]
    torch.save({"w": image, "q": boxed}, tmp_path / "a.pt")
    value = read_checkpoint(str(tmp_path / "a.pt")).entries[0].value
    assert isinstance(value, CompositeTensor)
    assert [part.name for part in value.parts] == ["data", "affine", "meta.deep.0"]
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]) == 0
    told = capsys.readouterr().out
    assert f"w (2 entries, 28 B): attribute of {CLASS}" in told
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--json", "--force"]) == 0
    dropped = json.loads(capsys.readouterr().out)["dropped"]
    names = {(*item["root"], item["name"]) for item in dropped if item["reason"] == f"attribute of {CLASS}"}
    assert {("w", "affine"), ("w", "meta.deep.0")} <= names
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert facts(back["w"]) == facts(image.as_subclass(torch.Tensor))
    assert facts(back["q"]) == facts(quantized)
    assert main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "c.pt"), "--strict"]) == 2


def test_attributes_that_many_tensors_share_are_looked_through_once(tmp_path: Path) -> None:
    shared = {"list": list(range(50_000)), "nested": [[] for _ in range(1_000)]}
    state = {}
    for number in range(500):
        state[f"w{number}"] = image = torch.zeros(1).as_subclass(Image)
        image.meta = shared  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "a.pt")
    assert len(read_checkpoint(str(tmp_path / "a.pt")).entries) == 500


def test_the_rebuild_function_of_fastai_before_torch_2_is_known(tmp_path: Path) -> None:
    arguments = (op.storage(), 0, (4,), (1,), False, op.call("collections:OrderedDict"))
    image = op.call(
        "fastai.torch_core:_rebuild_from_type",
        op.named("torch._utils:_rebuild_tensor_v2"),
        op.named("fastai.torch_core:TensorImage"),
        arguments,
        {},
    )
    path = tmp_path / "a.pt"
    path.write_bytes(torch_zip(op.dump({"w": image})))
    (entry,) = read_checkpoint(str(path)).entries
    assert (entry.subclass, entry.tensor is not None) == ("fastai.torch_core.TensorImage", True)


@pytest.mark.parametrize("options", [(), ("--as-bytes",)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_only_its_class_can_put_together_is_refused_with_advice_that_can_be_followed(
    tmp_path: Path, suffix: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"pair": Pair(torch.ones(2), torch.zeros(2)), "w": torch.ones(2)}, tmp_path / "a.pt")
    line = ["convert", str(tmp_path / "a.pt"), str(tmp_path / f"b{suffix}"), *options]
    assert main(line) == 2
    told = capsys.readouterr().err
    assert "'pair': subclass tensor" in told
    assert "--as-bytes" not in told
    assert "dequantize()" in told
    assert main([*line, "--drop", "pair"]) == 0


def test_advice_for_sparse_and_quantized_tensors_is_a_pt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"s": torch.eye(2).to_sparse(), "c": torch.ones(2, dtype=torch.complex128)}
    torch.save(state, tmp_path / "a.pt")
    line = ["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]
    assert main(line) == 2
    told = capsys.readouterr().err
    assert "--as-bytes keeps plain tensors" in told
    assert "a .pt can hold sparse_coo tensors" in told
    assert main([*line, "--as-bytes"]) == 2
    assert "--as-bytes keeps" not in capsys.readouterr().err
