"""Every dtype in every layout, saved by torch, converted, and read again by torch and by safetensors.

The one judge is torch: what ckpttool wrote is loaded and compared with the tensors that were saved, so that
no reader, writer or check of ckpttool's own has a say. Where torch cannot write or read back what it wrote,
a test says so, and what ckpttool says of ``torch.load`` is held against that.
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ckpttool.cli import main
from ckpttool.findings.weights_only import weights_only_verdict
from ckpttool.formats import read_checkpoint
from ckpttool.formats.zip_records import FETCH_AGAIN
from ckpttool.values.errors import MalformedCheckpoint
from tests.support.converting import convert
from tests.support.layouts import (
    QUANTIZED,
    SHELLS,
    STRIDED,
    TYPED,
    UNTYPED,
    State,
    complex_views,
    facts,
    flat,
    loaded,
    places,
    quantized,
    saved,
    sparse,
)

GROUPS = {"typed": TYPED, "untyped": UNTYPED}
CONTAINERS = {"zip": True, "legacy": False}
PACKED = ("stepped", "irregular", "views apart", "empty")
"""Layouts whose elements are written packed or apart: the strides are not kept."""

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
every_container = pytest.mark.parametrize("container", CONTAINERS)
every_group = pytest.mark.parametrize("group", GROUPS)


def save(folder: Path, state: State, container: str) -> Path:
    path = folder / "a.pt"
    path.write_bytes(saved(state, zipped=CONTAINERS[container]))
    return path


def same(state: State, back: State) -> None:
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert facts(back[name]) == facts(tensor), name


def torch_reads(path: Path) -> bool:
    """Whether torch.load does, and whether ckpttool said so; weights_only makes no difference here."""
    answers = set()
    for weights_only in (True, False):
        try:
            loaded(path.read_bytes(), weights_only=weights_only)
            answers.add(True)
        except (AttributeError, RuntimeError):
            answers.add(False)
    (answer,) = answers
    said, reason = weights_only_verdict(read_checkpoint(str(path)))
    assert said is answer, reason
    return answer


def to_pt(path: Path, *options: str) -> State:
    """Converted to a ``.pt`` and loaded by torch, mapped or not."""
    convert(path, path.with_name("b.pt"), "--force", *options)
    back: State = loaded(path.with_name("b.pt").read_bytes())
    mapped = torch.load(path.with_name("b.pt"), weights_only=True, mmap=True)
    same(back, mapped)
    return back


def safetensors_has(dtype: torch.dtype, tensor: torch.Tensor, folder: Path) -> bool:
    """Whether save_file takes such a tensor."""
    try:
        save_file({"x": tensor}, folder / "probe")
    except (KeyError, SafetensorError, ValueError, RuntimeError):
        return False
    return True


def check_safetensors(path: Path, state: State) -> None:
    """Converted to safetensors and loaded by the library; ``state`` are plain tensors."""
    result = path.with_name("b.safetensors")
    convert(path, result, "--force", "--as-bytes")
    back = load_file(result)
    with safe_open(result, framework="pt") as opened:
        metadata = opened.metadata()
    assert set(state) <= set(back) | set(metadata)
    for name, tensor in state.items():
        found, plain = back[metadata[name] if name not in back else name], tensor.detach()
        packed = torch.empty(plain.shape, dtype=plain.dtype)
        if safetensors_has(plain.dtype, packed, path.parent):
            assert facts(found) == facts(plain), name
        else:
            assert (found.dtype, facts(found)[-1]) == (torch.uint8, facts(plain)[-1]), name


# ------------------------------------------------------------------------------------------------ strided


@every_container
@every_group
@pytest.mark.parametrize("layout", STRIDED)
def test_every_strided_layout_of_every_dtype(tmp_path: Path, layout: str, group: str, container: str) -> None:
    state = {
        f"{str(dtype)[6:]}.{name}": tensor
        for dtype in GROUPS[group]
        for name, tensor in STRIDED[layout](flat(dtype)).items()
    }
    path = save(tmp_path, state, container)
    assert torch_reads(path) is not (group == "untyped" and container == "legacy")
    back = to_pt(path)
    same(state, back)
    same(state, to_pt(path, "--shared", "duplicate"))
    if layout not in PACKED:
        assert places(back) == places(state)
    check_safetensors(path, state)


@pytest.mark.parametrize("dtype", SHELLS, ids=str)
@every_container
def test_torch_saves_no_shell_dtype(dtype: torch.dtype, container: str) -> None:
    with pytest.raises(KeyError, match="is not recognized"):
        saved({"w": flat(dtype)}, zipped=CONTAINERS[container])


@every_container
def test_complex_views_and_bits(tmp_path: Path, container: str) -> None:
    state = {
        f"{name}{dtype.itemsize}": tensor
        for dtype in (torch.complex64, torch.complex128)
        for name, tensor in complex_views(flat(dtype)).items()
        if name not in ("neg", "real")  # another dtype over the same storage
    }
    state["neg"] = flat(torch.complex64).conj().imag
    state["real"] = flat(torch.complex64).real
    path = save(tmp_path, state, container)
    assert torch_reads(path)
    same(state, to_pt(path))
    check_safetensors(path, state)


@every_container
@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.float8_e4m3fn, torch.uint8),
        (torch.uint8, torch.uint64),
        (torch.uint16, torch.float8_e5m2, torch.complex32),
    ],
    ids=str,
)
@pytest.mark.parametrize("swapped", [False, True])
def test_two_dtypes_over_one_storage(
    tmp_path: Path, dtypes: tuple[torch.dtype, ...], container: str, swapped: bool
) -> None:
    # torch.save lets uint8 and dtypes without a storage class share one, and no others.
    raw = flat(torch.uint8, 64)[8:56]
    views = [raw.view(dtype)[1:-1] for dtype in dtypes]
    state = {f"v{index}": view for index, view in enumerate(reversed(views) if swapped else views)}
    path = save(tmp_path, state, container)
    assert torch_reads(path) is (container == "zip")
    back = to_pt(path)
    same(state, back)
    assert places(back) == places(state)
    check_safetensors(path, state)


@every_container
def test_torch_saves_no_two_typed_dtypes_over_one_storage(container: str) -> None:
    base = flat(torch.float32)
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        saved({"a": base, "b": base.view(torch.int32)}, zipped=CONTAINERS[container])


@every_container
def test_tensors_without_bytes_are_refused_by_name(
    tmp_path: Path, container: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {str(dtype)[6:]: torch.empty(2, 3, dtype=dtype, device="meta") for dtype in TYPED + UNTYPED}
    path = save(tmp_path, state, container)
    assert torch_reads(path)
    read = {str(entry.name): entry for entry in read_checkpoint(str(path)).entries}
    for name, tensor in loaded(path.read_bytes()).items():
        value = read[name].tensor
        assert value is not None
        assert (value.dtype.name, value.shape, value.stride) == (name, tensor.shape, tensor.stride())
    assert main(["convert", str(path), str(tmp_path / "b.pt")]) == 2
    assert "on the meta device" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- parts


@every_container
@every_group
def test_every_sparse_layout(
    tmp_path: Path, group: str, container: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {
        f"{str(dtype)[6:]}.{name}": tensor
        for dtype in GROUPS[group]
        for name, tensor in sparse(flat(dtype)).items()
    }
    path = save(tmp_path, state, container)
    assert torch_reads(path) is not (group == "untyped" and container == "legacy")
    same(state, to_pt(path))
    assert main(["convert", str(path), str(tmp_path / "b.safetensors")]) == 2
    assert "sparse_coo tensor" in capsys.readouterr().err


@every_container
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (2, 3, 4), (1,), (), (0,), (2, 0)], ids=str)
def test_every_quantized_dtype(tmp_path: Path, shape: tuple[int, ...], container: str) -> None:
    state = {
        f"{str(dtype)[6:]}.{name}": tensor
        for dtype in QUANTIZED
        for name, tensor in quantized(dtype, shape).items()
    }
    for (name, tensor), view in itertools.product(list(state.items()), ("t", "rows", "tied")):
        per_tensor = tensor.qscheme() is torch.per_tensor_affine
        if view == "tied":
            state[f"{name}.tied"] = tensor
        elif len(shape) == 2 and shape[1] and per_tensor:
            state[f"{name}.{view}"] = tensor.t() if view == "t" else tensor[1:]
    path = save(tmp_path, state, container)
    assert torch_reads(path)
    same(state, to_pt(path))
    same(state, to_pt(path, "--shared", "duplicate"))


@every_container
def test_nested_tensors(tmp_path: Path, container: str) -> None:
    state: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64):
            parts = [flat(dtype)[:6].view(2, 3).clone(), flat(dtype)[:4].view(2, 2).clone()]
            state[f"{dtype}.rows"] = torch.nested.nested_tensor(parts)
            state[f"{dtype}.turned"] = torch.nested.nested_tensor(parts).transpose(1, 2)
    path = save(tmp_path, state, container)
    if container == "zip":
        assert torch_reads(path)
    else:
        # torch.load rebuilds from memory that nothing was read into: it fails, or gives another tensor.
        assert weights_only_verdict(read_checkpoint(str(path)))[0] is False
    same(state, to_pt(path))


# ------------------------------------------------------------------------------------ advice about torch.load


def test_a_legacy_file_that_torch_cannot_read_names_the_rescue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"w": flat(torch.float8_e4m3fn), "step": flat(torch.uint32)}
    save(tmp_path, state, "legacy")
    assert main(["inspect", "a.pt"]) == 0
    said = capsys.readouterr().err
    assert "torch.load fails, weights_only or not: it cannot read float8_e4m3fn, uint32" in said
    assert "refuses it because of" not in said
    (command,) = [line.partition("ckpttool ")[2] for line in said.splitlines() if "ckpttool convert" in line]
    assert main(command.split()) == 0
    same({"step": state["step"], "w": state["w"]}, dict(sorted(load_file("a.safetensors").items())))
    assert main(["inspect", "a.pt", "--fail-on", "findings", "--quiet"]) == 1


# ---------------------------------------------------------------------- counts of a file before torch 1.6


@pytest.mark.parametrize("by", [-1, 1, 1 << 40])
def test_a_storage_of_another_size_than_its_pickle_says_is_no_broken_download(
    tmp_path: Path, by: int
) -> None:
    content = saved({"w": flat(torch.float32)}, zipped=False)
    count = content.rindex((24).to_bytes(8, "little"))
    changed = content[:count] + (24 + by).to_bytes(8, "little") + content[count + 8 :]
    (tmp_path / "a.pt").write_bytes(changed)
    with pytest.raises(RuntimeError, match="storage has wrong byte size"):
        loaded(changed)
    with pytest.raises(MalformedCheckpoint) as caught:
        read_checkpoint(str(tmp_path / "a.pt"))
    assert "of another size than its pickle says" in caught.value.describe()
    assert "again" not in (caught.value.hint or "")


def test_a_cut_storage_is_said_to_be_one(tmp_path: Path) -> None:
    content = saved({"w": quantized(torch.quint4x2, (4, 4))["tensor"]}, zipped=False)
    (tmp_path / "a.pt").write_bytes(content[:-3])
    with pytest.raises(MalformedCheckpoint) as caught:
        read_checkpoint(str(tmp_path / "a.pt"))
    assert (caught.value.expected, caught.value.actual) == ("8 bytes", "5 left")
    assert caught.value.hint == FETCH_AGAIN
